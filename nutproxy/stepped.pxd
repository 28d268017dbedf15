from libc.stdint cimport int64_t

from nutproxy.conn cimport Conn
from nutproxy.core cimport Worker
from nutproxy.io.coalesce cimport Coalescer
from nutproxy.io.event cimport Poller
from nutproxy.io.reactor cimport Reactor
from nutproxy.msg.message cimport Body, Msg, MsgQueue


cdef class SteppedPoller(Poller):
    cdef readonly int found            # events of the last wait

    cdef int wait(self, int timeout) except -1

cdef class ConstantCoalescer(Coalescer):
    cdef void decide(self) noexcept

cdef class SteppedReactor(Reactor):
    cdef public int64_t clock          # milliseconds

    cdef void tick(self) noexcept

cdef class SteppedWorker(Worker):
    cdef bint waits                    # the last turn would have waited for events

    cdef int timeout(self) except -2
