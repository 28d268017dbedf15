/* Latencies in a log-linear histogram. Every power of two is divided into 64 buckets of equal width,
 * so the error of a percentile is at most 1/64 (1.6 %), and a new value costs one increment.
 *
 *     0 .. 127        a bucket each
 *     128 .. 255      64 buckets of 2
 *     256 .. 511      64 buckets of 4      and so on, to 2^63
 *
 * The maximum is exact. load.c includes this file, and tests compile it alone.
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

/* The highest value of a bucket, so that a reported percentile is never too low. */
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

/* The value that `percent` of all values do not exceed, or 0 if there are no values. */
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
