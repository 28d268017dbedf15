from libc.stdint cimport int64_t

# All times are in milliseconds. Named, because Cython leaks the values of an enum without a name.
cpdef enum Milliseconds:
    # From one connect to the next probe of a server that is down, however many requests there are.
    DEMAND_GAP = 10
    # For which a request waits for a probe that gets no reply.
    DEMAND_WAIT = 20
    # A server without a sign of life for this long, and for two timeouts, is down.
    GONE_AFTER = 5000
    # Until a server that is down is probed: the first delay, and the largest.
    BACKOFF_MIN = 100
    BACKOFF_MAX = 1000
    # The smallest server_retry_timeout that is used: 0 must not keep the processor busy.
    RETRY_MIN = 10

cpdef enum Health:
    UP
    SLOW            # no sign of life for a timeout; its requests keep waiting
    DOWN            # nothing is written to it before a probe has found it up
    EJECTED         # down, and out of the ring

# What an event asks the machine's owner to do. The owner carries it out in this order.
cpdef enum Action:
    EJECT = 1       # tell that it is ejected, take it out of the ring, fail its connections
    TELL_SLOW = 2
    TELL_DOWN = 4
    REFUSE = 8      # from now on requests fail with the cause, and so do those that wait for a probe
    TELL_CALM = 16  # it was slow, and has given a sign of life
    DROP_PROBE = 32 # the probe in progress is not needed any more
    TELL_RETURNED = 64
    TELL_REPLIED = 128
    REJOIN = 256    # put it back into the ring
    RESUME = 512    # connect; send the requests that waited for a probe
    PROBE = 1024    # connect in order to find out whether it is up
    HOLD = 2048     # the request may wait for the next probe

cdef class Machine:
    cdef readonly Health state
    cdef readonly bint stopped         # by `stop` or `retire`: no event matters any more
    cdef readonly bint probing         # a probe is in progress
    cdef readonly int failures         # counted since the last reply or ejection
    cdef readonly int failure_limit    # as many eject it; 0 means never
    cdef readonly int64_t retry_timeout
    cdef readonly int64_t gone_after   # slow for so long is down
    cdef readonly int64_t last_failure # when the last counted failure was noticed; -1 before
    cdef readonly int64_t slow_since   # the last sign of life before it was slow, if it ever was
    cdef readonly int64_t backoff      # until the next probe, unless it is ejected
    cdef readonly int64_t tried        # when the last connect began
    cdef readonly int64_t probe_began  # when the last probe began
    cdef readonly int64_t probe_at     # when the next probe is due; -1 if none is

    cpdef int reply(self) noexcept
    cpdef int connected(self) noexcept
    cpdef int failed(self, int64_t began, int64_t now, bint replied) noexcept
    cpdef int connect_failed(self, int64_t began, int64_t now, bint replied,
                             bint timed_out) noexcept
    cpdef int silence(self, int64_t since, int64_t now, bint probe) noexcept
    cpdef int request(self, int64_t now) noexcept
    cpdef int connecting(self, int64_t now) noexcept
    cpdef int probe_due(self, int64_t now, int64_t delay) noexcept
    cpdef int probe_started(self, int64_t now) noexcept
    cpdef int probe_ended(self) noexcept
    cpdef int probe_answered(self) noexcept
    cpdef int tidy(self, int64_t now) noexcept
    cpdef int retire(self) noexcept
    cpdef int stop(self) noexcept

    cdef int recover(self, int how) noexcept
    cdef int count(self, int64_t began, int64_t now, bint replied) noexcept
    cdef int suspect(self, int64_t since, int64_t now) noexcept
    cdef int fall(self, Health state, int64_t now) noexcept
