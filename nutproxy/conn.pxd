from libc.stdint cimport int64_t, uint64_t

from nutproxy.io.reactor cimport Pollable
from nutproxy.msg.message cimport Body, Cursor, Msg, MsgQueue
from nutproxy.msg.parse cimport Limits, Parser, parse_t

ctypedef int (*recv_done_t)(Conn conn, char* data, Parser* parser) except -1
ctypedef int (*recv_kept_t)(Conn conn) except -1
ctypedef int (*recv_error_t)(Conn conn, Parser* parser) except -1
ctypedef int (*recv_other_t)(Conn conn, char first) except -1
ctypedef size_t (*recv_part_t)(Conn conn, char* data, size_t length, Parser* parser) except? 0
ctypedef Body* (*send_next_t)(Conn conn, Cursor* cursor) noexcept
ctypedef int (*send_done_t)(Conn conn) except -1
ctypedef bint (*active_t)(Conn conn) noexcept
ctypedef void (*enqueue_t)(Conn conn, Msg* msg) noexcept
ctypedef Msg* (*dequeue_t)(Conn conn) noexcept

cdef enum:
    LARGE_MIN = 1048576     # messages from this size on go to recv_large
    TAKE_MIN = 8192         # messages from this size on keep the block they were received into
    OUT_SMALL = 2048        # bodies up to this size are copied side by side into Reactor.out
    SEND_MAX = 1048576      # a gathered write takes no more bodies once it has this many bytes

# What one gathered write has.
cdef struct Gathered:
    size_t bodies
    size_t pieces           # of Reactor.iov
    size_t total            # bytes

# The incomplete requests of many clients.
cdef struct Unfinished:
    size_t bytes                       # their sum, as far as they are counted
    bint some                          # there may be one

cdef class Conn(Pollable):
    cdef MsgQueue imsg_q
    cdef MsgQueue omsg_q

    cdef parse_t parse
    cdef recv_done_t recv_done
    cdef recv_done_t recv_large        # recv_done for messages of LARGE_MIN and more; or NULL
    cdef recv_part_t recv_part         # or NULL
    cdef recv_kept_t recv_kept         # NULL if a message may start at any time
    cdef recv_error_t recv_error
    cdef recv_other_t recv_other       # NULL for a parser that never returns PARSE_OTHER
    cdef send_next_t send_next
    cdef send_done_t send_done
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
    cdef char* block                   # heap block of the message in recv_done, which may take it
    cdef char* tail                    # unparsed bytes of a partial message
    cdef size_t tail_length
    cdef size_t tail_size
    cdef Parser* partial               # the parser of the partial message
    cdef size_t counted                # bytes of the tail that are counted in `unfinished`
    cdef Unfinished* unfinished        # of all clients of the pool; NULL for others
    cdef bint discarding               # the message is too long: its bytes are dropped as they come
    cdef size_t sent                   # bytes of the first message to send that are already out
    cdef bint unparsed                 # the tail may hold whole messages: parse before receiving
    cdef public bint closing           # nothing more is read; closed when all replies are out
    cdef uint64_t* stats               # row of its pool (clients) or of its server
    cdef int64_t last_recv             # when it last sent a byte, milliseconds of the loop's clock
    cdef int64_t last_send             # when it was last written to, or that was tried
    cdef readonly uint64_t recv_bytes
    cdef readonly uint64_t send_bytes

    cdef void drop_tail(self) noexcept
    cdef void count(self, size_t length) noexcept
    cdef int keep_tail(self, char* data, size_t length, Parser* parser) noexcept
    cdef int grow_tail(self, size_t need) noexcept
    cdef int body_receive(self, Msg* msg, Body* body, char* data, size_t length) noexcept
    cdef void shut(self) noexcept

cdef int conn_recv(Conn conn) except -1
cdef size_t parser_discard(Parser* parser, char* data, size_t length, bint text) noexcept
cdef int conn_send(Conn conn) except -1
