from libc.stdint cimport int64_t, uint64_t

# What the loop has counted since the start; `reply_usec` is the sum of what the replies took.
cdef struct Counted:
    uint64_t turns
    uint64_t events
    uint64_t replies
    uint64_t reply_usec

cdef class Coalescer:
    cdef readonly int64_t limit        # microseconds, the greatest `gap`; 0: no turn rests
    cdef readonly int64_t gap          # microseconds from one poll to the next, at least; or 0
    cdef int64_t decide_at             # microseconds of the loop's clock: when to decide again
    cdef int64_t since                 # and when it has decided last
    cdef Counted before                # then
    cdef int64_t rested                # microseconds since then
    # Recent averages.
    cdef readonly double event_rate    # events per microsecond
    cdef readonly double fullness      # events per turn
    cdef readonly double latency       # microseconds from a request to its reply, without our rest
    cdef readonly double in_flight     # requests that servers have
    cdef readonly double busy          # processor time per time
    cdef int64_t used                  # processor time in microseconds at `since`, or -1
    cdef bint told                     # the log says that turns rest
    cdef uint64_t* stats               # the slab's global row

    cpdef void rest(self, int64_t polled) noexcept
    cdef bint weighs(self) noexcept
    cpdef void observe(self, int64_t now, Counted counted, int64_t used) noexcept
    cdef void decide(self) noexcept
