from libc.stdint cimport int64_t

from nutproxy.conn cimport Conn, ConnList, Reactor


cdef class WakeConn(Conn):
    cdef object sock
    cdef object callback               # called with the bytes that were received


cdef class Worker:
    cdef readonly Reactor reactor
    cdef readonly list pools
    cdef readonly list proxies
    cdef readonly WakeConn waker
    # Limit on the clients of all pools without client_connections together; 0 for no limit.
    cdef public size_t max_clients
    cdef bint stopped
    cdef bint unfreed                  # messages wait to be freed in the next turns
    cdef int64_t due                   # when the first timer or deadline expires
    cdef int64_t judge_from            # no timer or deadline runs before this time
    cdef readonly bint draining
    cdef readonly int64_t drain_began  # milliseconds of the loop's clock
    cdef readonly double started       # monotonic seconds
    cdef readonly str config_file
    cdef readonly str version
    cdef readonly int pid

    cdef int turn(self) except -1
    cdef int judge(self) except -1
    cdef void paused(self, int64_t waited, int count) noexcept
    cdef int flush(self, ConnList* conns) except -1
    cdef int timeout(self)
    cdef int check_drained(self) except -1
