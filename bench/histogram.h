/* Latencies in a log-linear histogram: every power of two is cut into 64 buckets of equal width, so
 * that a percentile is at most 1/64 (1.6 %) off, whatever the range, and a value costs one increment.
 *
 *     0 .. 127        a bucket each
 *     128 .. 255      64 buckets of 2
 *     256 .. 511      64 buckets of 4      and so on, to 2^63
 *
 * The greatest value is kept exactly. Included once, by load.c; tests compile it alone.
 */
#include <stdint.h>

#define HALF 64
#define BUCKETS (HALF * 59)

struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t total;
    uint64_t max;
};

unsigned histogram_bucket(uint64_t value) {
    if (value < 2 * HALF) return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - 6;
    return shift * HALF + (unsigned)(value >> shift);
}

/* The greatest value of a bucket: a percentile is never told as less than it was. */
uint64_t histogram_upper(unsigned bucket) {
    if (bucket < 2 * HALF) return bucket;
    unsigned shift = bucket / HALF - 1;
    return ((uint64_t)(bucket - shift * HALF + 1) << shift) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t value) {
    histogram->counts[histogram_bucket(value)]++;
    histogram->total++;
    if (value > histogram->max) histogram->max = value;
}

/* The value that `percent` of all values do not exceed; 0 when there is none. */
uint64_t histogram_percentile(const struct histogram *histogram, double percent) {
    double exact = (double)histogram->total * percent / 100.0;
    uint64_t rank = (uint64_t)exact, seen = 0;
    if ((double)rank < exact || rank == 0) rank++;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram->counts[bucket];
        if (seen >= rank) {
            uint64_t upper = histogram_upper(bucket);
            return upper < histogram->max ? upper : histogram->max;
        }
    }
    return histogram->max;
}
