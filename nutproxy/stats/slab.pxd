from libc.stdint cimport int64_t, uint32_t, uint64_t

from nutproxy.csys cimport __builtin_clzll

# The cells of a row, with the names of table.py and in its order; report.py checks that.

cpdef enum:
    GLOBAL_TOTAL_CONNECTIONS
    GLOBAL_CURR_CONNECTIONS
    GLOBAL_TURNS
    GLOBAL_EVENTS
    GLOBAL_WAITS
    GLOBAL_WAITED_USEC

# At the end of the global row, and not shown.
cdef enum:
    SLAB_BEAT = 6           # even while the worker waits, odd in a turn
    SLAB_ASKED              # how often a reader has asked for figures of one moment
    SLAB_GIVEN              # what of that the worker has done
    SLAB_CELLS              # of the global row

cpdef enum:
    POOL_CLIENT_EOF
    POOL_CLIENT_ERR
    POOL_CLIENT_CONNECTIONS
    POOL_SERVER_EJECTS
    POOL_FORWARD_ERROR
    POOL_FRAGMENTS
    POOL_CLIENT_ACCEPTED
    POOL_CLIENT_REJECTED
    POOL_CLIENT_REQUESTS
    POOL_CLIENT_REQUEST_BYTES
    POOL_CLIENT_RESPONSE_BYTES
    POOL_CLIENT_PROTOCOL_ERRORS
    POOL_REFUSED_REQUESTS
    POOL_NO_LIVE_SERVER
    POOL_UNREAD_REPLIES_DROPPED
    POOL_CLIENT_BLOCKED
    POOL_SUBSCRIPTIONS
    POOL_MESSAGES_DELIVERED
    POOL_SLOW_SUBSCRIBERS
    POOL_TRACKING_CLIENTS
    POOL_TRACKED_KEYS
    POOL_INVALIDATIONS
    POOL_TRACKING_OVERFLOWS

cpdef enum:
    SERVER_SERVER_EOF
    SERVER_SERVER_ERR
    SERVER_SERVER_TIMEDOUT
    SERVER_SERVER_CONNECTIONS
    SERVER_SERVER_EJECTED_AT
    SERVER_REQUESTS
    SERVER_REQUEST_BYTES
    SERVER_RESPONSES
    SERVER_RESPONSE_BYTES
    SERVER_IN_QUEUE
    SERVER_IN_QUEUE_BYTES
    SERVER_OUT_QUEUE
    SERVER_OUT_QUEUE_BYTES
    SERVER_REQUESTS_TIMEDOUT
    SERVER_REQUESTS_LOST
    SERVER_REQUESTS_RETRIED
    SERVER_REQUESTS_UNAVAILABLE
    SERVER_REQUESTS_OVERFLOWED
    SERVER_RESPONSES_ERROR
    SERVER_RESPONSES_DROPPED
    SERVER_SERVER_PROTOCOL_ERRORS
    SERVER_SERVER_PROBES
    SERVER_SERVER_DOWN
    SERVER_SERVER_EJECTED
    SERVER_SERVER_REFUSALS
    SERVER_MESSAGES
    SERVER_SUBSCRIPTION_GAPS
    SERVER_LATENCY          # the sum in microseconds; the buckets' cells follow

cdef enum:
    LATENCY_STEPS = 8       # buckets per octave
    LATENCY_BUCKETS = 200   # the last one is for everything above 125 s

cdef uint64_t* mapped(int fd) except NULL

cdef class Slab:
    cdef uint64_t* cells
    cdef uint64_t* given               # a copy of the cells, made between two turns; or NULL
    cdef readonly size_t size          # bytes that are in use
    cdef readonly object rows          # Rows: whose the rows are
    cdef int fd                        # the memory
    cdef int given_fd                  # that of the copy, or -1

    cdef uint64_t* row(self, size_t cell) noexcept
    cdef public list others            # Slab: of the other workers
    cdef uint64_t total(self, uint64_t* cell) noexcept
    cdef void give(self) noexcept
    cdef void settled(self, uint64_t* to) noexcept nogil

cdef inline uint32_t latency_bucket(uint64_t usec) noexcept nogil:
    """The bucket of a latency. Exact up to 15 us, then eight equal steps from each power of two to
    the next."""
    cdef uint32_t shift, bucket
    if usec < 2 * LATENCY_STEPS:
        return <uint32_t> usec
    shift = 60 - __builtin_clzll(usec)
    bucket = shift * LATENCY_STEPS + <uint32_t> (usec >> shift)
    return bucket if bucket < LATENCY_BUCKETS else LATENCY_BUCKETS - 1

cdef inline void latency_record(uint64_t* row, int64_t usec) noexcept nogil:
    row[SERVER_LATENCY] += usec
    row[SERVER_LATENCY + 1 + latency_bucket(usec)] += 1
