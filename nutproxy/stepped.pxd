from libc.stdint cimport int64_t

from nutproxy.conn cimport Conn
from nutproxy.core cimport Worker
from nutproxy.io.coalesce cimport Coalescer, Counted
from nutproxy.io.event cimport Poller
from nutproxy.io.reactor cimport Reactor
from nutproxy.msg.message cimport Body, Msg, MsgQueue


cdef class SteppedPoller(Poller):
    cdef readonly int found            # events of the last wait

    cdef int wait(self, int timeout) except -1

cdef class SharedPoller(Poller):
    cdef int wait(self, int timeout) except -1

cdef class ConstantCoalescer(Coalescer):
    cdef void decide(self) noexcept

cdef class AlternatingCoalescer(Coalescer):
    cdef readonly list phases          # (on, microseconds, replies, events, turns, processor time)
    cdef bint on
    cdef bint settled                  # the first part of the phase is over
    cdef int64_t phase_began
    cdef int64_t used_before
    cdef Counted phase_before

    cpdef void observe(self, int64_t now, Counted counted, int64_t used) noexcept
    cdef void next_phase(self, int64_t now, Counted counted) noexcept

cdef class SteppedReactor(Reactor):
    cdef public int64_t clock          # milliseconds

    cdef void tick(self) noexcept

cdef class SteppedWorker(Worker):
    cdef bint waits                    # the last turn would have waited for events

    cdef int timeout(self) except -2
