from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from nutproxy.csys cimport iovec
from nutproxy.io.event cimport Poller
from nutproxy.msg.message cimport Body, Cursor, Msg, MsgQueue
from nutproxy.msg.parse cimport Limits, Parser, parse_t
from nutproxy.stats.slab cimport Slab
from nutproxy.io.jobs cimport Jobs
from nutproxy.io.timer cimport WaitQueue

ctypedef int (*recv_t)(Conn conn) except -1
ctypedef bint (*recv_next_t)(Conn conn) noexcept
ctypedef int (*recv_done_t)(Conn conn, char* data, Parser* parser) except -1
ctypedef int (*recv_kept_t)(Conn conn) except -1
ctypedef int (*recv_error_t)(Conn conn, Parser* parser) except -1
ctypedef size_t (*recv_part_t)(Conn conn, char* data, size_t length, Parser* parser) except? 0
ctypedef int (*send_t)(Conn conn) except -1
ctypedef Body* (*send_next_t)(Conn conn, Cursor* cursor) noexcept
ctypedef int (*send_done_t)(Conn conn) except -1
ctypedef int (*close_t)(Conn conn) except -1
ctypedef bint (*active_t)(Conn conn) noexcept
ctypedef void (*enqueue_t)(Conn conn, Msg* msg) noexcept
ctypedef Msg* (*dequeue_t)(Conn conn) noexcept

cdef enum:
    TAIL_SMALL = 4096       # up to this many unparsed bytes are copied back into the scratch
    LARGE_MIN = 1048576     # messages from this size on go to recv_large
    TAKE_MIN = 8192         # messages from this size on keep the block they were received into
    IOV_MAX = 256           # pieces of one gathered write
    OUT_SIZE = 65536        # size of Reactor.out, where small bodies are gathered
    OUT_SMALL = 2048        # bodies up to this size are small
    SEND_MAX = 1048576      # a gathered write takes no more bodies once it has this many bytes

# Connections, in order of arrival. Borrowed: Reactor.conns and Reactor.closed_conns keep them alive.
cdef struct ConnList:
    void** items
    size_t count
    size_t room

cdef class Reactor:
    cdef readonly Poller poller
    cdef readonly WaitQueue timers
    cdef readonly Jobs jobs
    cdef readonly int64_t now          # milliseconds, monotonic; read once a turn
    cdef readonly int64_t seen         # `now` of the turn before: input up to then has been read
    cdef readonly int64_t now_usec     # `now` in microseconds
    cdef readonly Slab slab
    cdef uint64_t* stats               # the slab's global row
    cdef readonly size_t mbuf_size
    cdef char* scratch                 # mbuf_size + TAIL_SMALL bytes
    cdef char* out
    cdef iovec iov[IOV_MAX]
    cdef Parser parser                 # shared by connections that have no partial message
    cdef char* block                   # heap block of the message in recv_done, which may take it
    cdef ConnList ready                # still have input: read first in the next turn
    cdef ConnList ready_before
    cdef ConnList flush_servers
    cdef ConnList flush_clients
    cdef readonly set conns            # every open listener, client and server connection
    cdef Conn closed_conns                 # closed in this turn, kept until it ends: a list, last first
    cdef size_t closed_count

    cdef void tick(self) noexcept
    cdef int body_receive(self, Msg* msg, Body* body, char* data, size_t length) noexcept
    cdef int reserve(self) except -1
    cdef int open(self, Conn conn, int fd) except -1
    cdef void sweep(self) noexcept

cdef class Conn:
    cdef readonly Reactor reactor
    cdef readonly int fd               # -1 once closed
    cdef readonly int number           # its descriptor, kept after the close: its name in the log
    cdef MsgQueue imsg_q
    cdef MsgQueue omsg_q

    cdef recv_t recv
    cdef recv_next_t recv_next
    cdef parse_t parse
    cdef recv_done_t recv_done
    cdef recv_done_t recv_large        # recv_done for messages of LARGE_MIN and more; or NULL
    cdef recv_part_t recv_part         # or NULL
    cdef recv_kept_t recv_kept         # NULL if a message may start at any time
    cdef recv_error_t recv_error
    cdef send_t send
    cdef send_next_t send_next
    cdef send_done_t send_done
    cdef close_t close
    cdef active_t active
    cdef enqueue_t enqueue_inq
    cdef dequeue_t dequeue_inq
    cdef enqueue_t enqueue_outq
    cdef dequeue_t dequeue_outq

    cdef Limits limits                 # for the request parser
    cdef bint bounded                  # `swallow` or `read_end` has been set
    cdef size_t swallow                # bytes of input to drop before the next message
    cdef uint64_t read_end             # messages that begin at this byte of input, or later, are
                                       # ignored
    cdef size_t pending                # bytes of requests and replies in omsg_q
    cdef size_t unsent                 # bytes of replies that have been received and not sent
    cdef size_t unsent_max             # while `unsent` is above it, large replies are dropped
    cdef size_t expected               # estimated bytes of a reply that has not been received
    cdef Conn closed_before            # next in the list Reactor.closed_conns
    cdef ConnList* flush_list          # Reactor.flush_servers or Reactor.flush_clients
    cdef char* tail                    # unparsed bytes of a partial message
    cdef size_t tail_length
    cdef size_t tail_size
    cdef Parser* partial               # the parser of the partial message
    cdef size_t counted                # bytes of the tail that are counted in `unfinished`
    cdef size_t* unfinished            # clients only: the sum for all clients of the pool
    cdef bint discarding               # the message is too long: its bytes are dropped as they come
    cdef size_t sent                   # bytes of the first message to send that are already out
    cdef bint unparsed                   # the tail may hold whole messages: parse before receiving
    cdef bint in_ready
    cdef bint in_flush
    cdef bint blocked                  # the socket buffer is full: wait for EPOLLOUT
    cdef bint hup                      # the poller reported that the peer sends no more
    cdef unsigned int open_count        # sockets it has had: a server's has one for each address
    cdef readonly bint eof             # recv has returned the end of input
    cdef public bint closing           # nothing more is read; closed when all replies are out
    cdef readonly int err              # errno that ends the connection
    cdef uint64_t* stats               # row of its pool (clients) or of its server
    cdef int64_t last_recv               # when it last sent a byte, milliseconds of the loop's clock
    cdef int64_t last_send                # when it was last written to, or that was tried
    cdef readonly uint64_t recv_bytes
    cdef readonly uint64_t send_bytes

    cdef void mark_ready(self) noexcept
    cdef void mark_flush(self) noexcept
    cdef void drop_tail(self) noexcept
    cdef void count(self, size_t length) noexcept
    cdef int keep_tail(self, char* data, size_t length, Parser* parser) noexcept
    cdef int grow_tail(self, size_t need) noexcept
    cdef void shut(self) noexcept

cdef int conn_recv(Conn conn) except -1
cdef size_t parser_discard(Parser* parser, char* data, size_t length, bint text) noexcept
cdef int conn_send(Conn conn) except -1
cdef int conn_faulty(Conn conn) except -1
cdef int conn_events(Conn conn, uint32_t events) except -1
