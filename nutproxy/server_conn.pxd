from libc.stdint cimport int64_t, uint64_t

from nutproxy.conn cimport Conn, Loop
from nutproxy.timer cimport Timer

# Where a server connection is in its life.
cdef enum ServerState:
    SERVER_WAITING          # it is not the time to connect yet; requests wait
    SERVER_RESOLVING        # its name is looked up; no descriptor yet
    SERVER_CONNECTING
    SERVER_HANDSHAKE        # AUTH, HELLO, SELECT, PING: their replies are due
    SERVER_READY            # requests may be written
    SERVER_CLOSED

cdef class Endpoint:
    cdef readonly Loop loop
    cdef readonly object pool          # ServerPool
    cdef readonly bint memcache        # speaks memcached's protocol, not Redis'
    cdef readonly bint down            # requests fail at once; a probe will find out
    cdef readonly bint ejected         # and it is not in the ring
    cdef readonly bint doubted         # down, or slow: the next reply says that it is not
    cdef readonly bint no_resp3        # too old for HELLO
    cdef readonly bytes error          # what a request is answered while it is down
    cdef readonly int failures
    cdef uint64_t* stats               # its row

    cdef ServerConn conn_for(self, uint64_t client, int resp)
    cdef bint leave(self, ServerConn conn) noexcept

cdef class ServerConn(Conn):
    cdef readonly Endpoint server
    cdef readonly int resp             # the protocol version that it speaks: 2 or 3
    cdef bint aside                    # for commands that are for a busy server; has no slot
    cdef readonly int slot             # which of its server's connections of this version
    cdef readonly int state
    cdef readonly int64_t begun        # when the connect began; -1 while it has not
    cdef int64_t waiting_since         # when it began to wait for replies
    cdef list addresses                # to be tried when this one cannot be reached
    cdef list steps                    # handshake replies that are due, by name
    cdef Timer limit                   # on connect and handshake together
    cdef str last_words                # an error with which a server says that it will close
    cdef uint64_t last_words_at        # recv_bytes with it
    cdef readonly str cause            # why it ends, where errno does not say
    cdef size_t max_reply              # a longer reply is dropped
    cdef int timed_out                 # requests that have, since the last reply
    cdef int64_t timed_out_since       # when the first of them had come

    cdef int64_t silence(self) noexcept
    cdef bint awaited(self) noexcept

cdef inline bint idle(Conn conn) noexcept:
    """Nothing to write, nothing due."""
    return conn.imsg_q.head is NULL and conn.omsg_q.head is NULL
