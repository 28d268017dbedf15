from libc.stdint cimport int64_t, uint64_t

from nutproxy.conn cimport Conn
from nutproxy.back.health cimport Machine
from nutproxy.back.profile cimport Profile
from nutproxy.msg.message cimport MSG_REQ_PIECES
from nutproxy.msg.protocol cimport Protocol, fits_t
from nutproxy.io.reactor cimport Reactor
from nutproxy.io.timer cimport Timer

cdef enum:
    NO_SLOT = -1

# The states of a server connection.
cdef enum LinkState:
    LINK_WAITING          # will connect later; requests wait in it
    LINK_RESOLVING        # the host name is being looked up; no descriptor yet
    LINK_CONNECTING
    LINK_HANDSHAKE        # AUTH, HELLO, SELECT, PING were sent; waits for their replies
    LINK_READY            # requests may be written
    LINK_CLOSED

cdef class Upstream:
    cdef readonly Reactor reactor
    cdef readonly object pool          # ServerPool
    cdef readonly Protocol protocol
    cdef readonly Machine health
    # Copies of its state, for the data path:
    cdef readonly bint down            # requests fail unless a probe finds it up soon
    cdef readonly bint ejected         # down, and out of the ring
    cdef readonly bint doubted         # down or slow, until the next reply
    cdef bint has_replied              # since the last failure of which `health` knows
    cdef public bint no_resp3          # too old for HELLO
    cdef readonly bytes error          # the error reply to requests while it is down
    cdef uint64_t* stats               # its row in the slab

    cdef Link link_for(self, uint64_t client, Profile profile)
    cdef bint link_left(self, Link link) noexcept

cdef class Link(Conn):
    cdef readonly Upstream server
    cdef fits_t fits                   # the protocol's
    cdef readonly Profile profile      # the state that its handshake brings it into
    cdef readonly int slot             # in its profile's lanes; NO_SLOT if it is not shared
    cdef bint aside                    # for commands that a busy server must get at once
    cdef readonly int state
    cdef readonly int64_t begun        # when the connect began; -1 before
    cdef int64_t waiting_since         # when it began to wait for a sign of life
    cdef list addresses                # to try next if the current one cannot be reached
    cdef list steps                    # names of the handshake steps whose replies are due
    cdef Timer connect_timer                 # for connect and handshake together
    cdef str last_words                # a protocol error, after which the server will close
    cdef uint64_t last_words_at        # recv_bytes when it was received
    cdef readonly str cause            # why it ends, if errno does not tell
    cdef size_t max_reply              # longer replies are dropped
    cdef int timed_out                 # requests that timed out since the last reply
    cdef int64_t timed_out_since       # when the first of them was queued

    cdef int64_t silence(self) noexcept
    cdef bint awaited(self) noexcept

cdef inline bint begun(Conn conn) noexcept:
    """Has the first request been written in part?"""
    return conn.sent > 0 or (
        conn.imsg_q.head is not NULL
        and conn.imsg_q.head.flags & MSG_REQ_PIECES
        and conn.imsg_q.head.pieces.sent > 0
    )

cdef inline bint idle(Conn conn) noexcept:
    """No request to write and no reply due."""
    return conn.imsg_q.head is NULL and conn.omsg_q.head is NULL
