from libc.stdint cimport int64_t

from nutproxy.front.frontend cimport ClientRoom
from nutproxy.io.reactor cimport PollList, Reactor
from nutproxy.janitor cimport Janitor
from nutproxy.stats.board cimport Board


cdef class Worker:
    cdef readonly Reactor reactor
    cdef readonly list pools
    cdef readonly list frontends
    cdef readonly list listeners
    cdef readonly Janitor janitor
    cdef readonly ClientRoom client_room
    cdef readonly Board board
    cdef readonly object process       # Process
    cdef readonly list inboxes         # Inbox: the control channel and the like
    cdef bint stopped
    cdef bint unfreed                  # messages wait to be freed in the next turns
    cdef int64_t due                   # when the first timer or deadline expires
    cdef int64_t judge_from            # no timer or deadline runs before this time
    cdef readonly bint draining
    cdef readonly int64_t drain_began  # milliseconds of the loop's clock

    cdef int turn(self) except -1
    cdef int judge(self) except -1
    cdef void paused(self, int64_t waited, int count) noexcept
    cdef int flush(self, PollList* conns) except -1
    cdef int timeout(self) except -2
    cdef void observe(self) noexcept
    cpdef bint may_rest(self, int wait) noexcept
    cdef int check_drained(self) except -1
