from libc.stdint cimport int64_t, uint64_t

from nutproxy.conn cimport Conn, parse_t
from nutproxy.pool cimport ServerPool
from nutproxy.proto.table cimport Row

cdef enum ReplyMode:
    REPLY_ON = 0
    REPLY_OFF
    REPLY_SKIP              # the next command's reply is not sent

cdef class ClientConn(Conn):
    cdef readonly ServerPool pool
    cdef readonly uint64_t id
    cdef public int resp               # the protocol version that it speaks: 2 or 3
    cdef readonly int states           # proto.commands.State: what keeps commands from the servers
    cdef readonly dict refusals        # by State: the refused command, and its error; None before one
    cdef int mode                      # ReplyMode
    cdef bint paused                   # over a bound: not read until replies have left
    cdef public bint waiting           # a command must be answered before the next is looked at
    cdef public bint barrier           # protocol switched: the queue must drain before the next
    cdef bint broken                   # closed by us: what it sent is no request
    cdef readonly bint lingering                # all is sent: what still comes is dropped
    cdef uint64_t drain_end            # in a drain: requests that begin behind it are not taken
    cdef parse_t protocol              # and what parses those before it
    cdef Row* row                      # its last command
    cdef int64_t last                  # when that came, milliseconds of the loop's clock
    cdef int64_t local_turn            # when it last had a command answered by us: the turn's time
    cdef unsigned int local_count      # and how many in that turn
    cdef readonly double created       # monotonic seconds
    cdef str peer_text                 # its address, once somebody has asked; None before
    cdef str local_text
    cdef public str name
    cdef public str lib_name
    cdef public str lib_ver
    cdef public bint no_evict
    cdef public bint no_touch

    cdef void breaks(self) noexcept
    cdef void check_bounds(self) noexcept
    cdef int give_up(self, const char* text) except -1
    cdef int linger(self) except -1
    cdef int drained(self) except -1
