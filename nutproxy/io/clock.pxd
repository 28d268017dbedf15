# nutproxy/io/clock.pxd: clocks that are read at once. The loop's own clock is Reactor.now.

from libc.stdint cimport int64_t

from nutproxy.csys cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec


cdef inline int64_t usec_of(int clock) noexcept:
    cdef timespec time
    clock_gettime(clock, &time)
    return <int64_t> time.tv_sec * 1000000 + time.tv_nsec // 1000


cdef inline int64_t clock_usec() noexcept:
    return usec_of(CLOCK_MONOTONIC)


# The processor time of this thread. A system call.
cdef inline int64_t processor_usec() noexcept:
    return usec_of(CLOCK_THREAD_CPUTIME_ID)
