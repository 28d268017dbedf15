# nutproxy/back/link.py: the role of a server connection
"""Writes requests and pairs the replies with them.

    WAITING ─> RESOLVING ─> CONNECTING ─> HANDSHAKE ─> READY ─> CLOSED
    the server    names are    connect()     AUTH, HELLO 3, SELECT, PING; memcached: version.
    is down: a    looked up                  Requests wait in imsg_q until all have succeeded
    probe asks    off the loop

server.py decides what the replies to the handshake mean, and what the end of a connection says
about the server. The server holds its connections, and they know it as an `Upstream`. link.pxd
declares all that one may ask of the other.

**What happens to requests when a connection ends.** A request that has been written, even in part,
fails with the cause and is never sent again. A request that has not been written moves to a new
connection, once, if this one was ready: it may have died unnoticed.
"""

import logging
import os
import socket

import cython
from cython.cimports.libc.errno import ECONNRESET, EPIPE, ETIMEDOUT
from cython.cimports.libc.string import memcmp
from cython.cimports.nutproxy.back.profile import Profile
from cython.cimports.nutproxy.conn import (
    Conn,
    conn_recv,
    conn_send,
    parser_discard,
    recv_done_t,
)
from cython.cimports.nutproxy.csys import SO_ERROR, SOL_SOCKET, close, getsockopt, iovec, socklen_t
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.io.reactor import close_t, recv_next_t, recv_t, send_t
from cython.cimports.nutproxy.io.transport import transport_end, transport_write
from cython.cimports.nutproxy.msg.deadline import deadline_remove
from cython.cimports.nutproxy.msg.message import (
    MSG_ANSWERED,
    MSG_BATCH,
    MSG_BATCH_BEGUN,
    MSG_CANCELLED,
    MSG_DONE,
    MSG_ERROR,
    MSG_REQ_PIECES,
    MSG_RETRIED,
    MSG_SEQUENCE,
    MSG_SHUTDOWN,
    MSG_UNGUARDED,
    MSG_WRITTEN,
    Body,
    Cursor,
    Msg,
    freed_enough,
    msg_awaited,
    msg_constant,
    msg_copy,
    msg_drop,
    msg_put,
    server_append,
    server_pop,
)
from cython.cimports.nutproxy.msg.parse import Parser
from cython.cimports.nutproxy.msg.pieces import piece_first, piece_next, pieces_written
from cython.cimports.nutproxy.msg.response import msg_done, msg_error, msg_fail, part_room
from cython.cimports.nutproxy.stats.slab import (
    SERVER_IN_QUEUE,
    SERVER_IN_QUEUE_BYTES,
    SERVER_OUT_QUEUE,
    SERVER_OUT_QUEUE_BYTES,
    SERVER_REQUESTS_LOST,
    SERVER_REQUESTS_RETRIED,
    SERVER_REQUESTS_UNAVAILABLE,
    SERVER_RESPONSE_BYTES,
    SERVER_RESPONSES,
    SERVER_RESPONSES_DROPPED,
    SERVER_RESPONSES_ERROR,
    SERVER_SERVER_CONNECTIONS,
    SERVER_SERVER_EOF,
    SERVER_SERVER_ERR,
    SERVER_SERVER_PROTOCOL_ERRORS,
    SERVER_SERVER_REFUSALS,
    SERVER_SERVER_TIMEDOUT,
    latency_record,
)

from nutproxy.back.handshake import UNASKED
from nutproxy.io.sockets import keep_alive, tcp_options
from nutproxy.proto import errors

log = logging.getLogger("nutproxy")

# The reply to a RESP3 client when the server is too old for HELLO.
NOPROTO = errors.REDIS_REPLIES["noproto"]
# Longest line of text in a reply, in bytes. Those of Redis are short; scripts can return any.
LINE_MAX = cython.declare(cython.size_t, 16 << 20)
# Longest reply to a step of the handshake, in bytes: it becomes Python objects.
HANDSHAKE_MAX = cython.declare(cython.size_t, 65536)
# The part of a server's error that is a cause, in bytes: every request that fails repeats it.
QUOTED = 500
# A reply up to this size is always kept: an error would be hardly smaller, and the reply may
# confirm a write.
REPLY_SMALL = cython.declare(cython.size_t, 512)
# Requests of an ended connection that are answered in one turn: 4 ms.
SETTLED_PER_TURN = cython.declare(cython.int, 8192)
# The cause of an end that says nothing about the server.
NOT_NEEDED = "not needed"
TIMED_OUT = os.strerror(ETIMEDOUT)
# Causes that are made in advance: memory may have run out when they are needed.
REPLY_LENGTH = errors.cause("reply_length")
NEEDS_META = errors.cause("needs_meta")
HANDSHAKE_LENGTH = errors.cause("handshake_length")
INTERNAL_ERROR = errors.cause("internal")


@cython.cfunc
def line_of(data: cython.p_char, parser: cython.pointer(Parser)) -> str:
    """The start of an error reply, or of the first line of another reply, to be quoted in an
    error."""
    text: str = data[: min(parser.pos, QUOTED)].decode(errors="replace")
    return text.partition("\r\n")[0].removeprefix("-").rstrip()


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def half_written(conn: Conn) -> cython.bint:
    """Has the first request been written in part?"""
    head: cython.pointer(Msg) = conn.imsg_q.head
    return conn.sent > 0 or (
        head is not cython.NULL and head.flags & MSG_REQ_PIECES and head.pieces.sent > 0
    )


@cython.cfunc
@cython.exceptval(check=False)
def server_recv_next(conn: Conn) -> cython.bint:
    return True


@cython.cfunc
@cython.exceptval(check=False)
def server_active(conn: Conn) -> cython.bint:
    """False: a server that has closed its side sends no more replies."""
    return False


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_recv_done(conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """Pair a reply with its request. Pushes are dropped: no connection subscribes to anything."""
    self: Link = cython.cast(Link, conn)
    server: Upstream = self.server
    if parser.kind == b">":
        return 0
    if conn.omsg_q.head is cython.NULL:
        # An error while a request is being written is the reply to it. memcached then reads the
        # rest of the request and drops it; Redis closes the connection.
        if half_written(conn) and conn.imsg_q.head.flags & MSG_BATCH:
            if conn.imsg_q.head.replies > 1:
                return batch_reply(self, conn.imsg_q.head, data, parser)
            server.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
            self.cause = UNASKED
        elif half_written(conn) and parser.kind == b"-":
            if server.protocol.reads_on and not conn.imsg_q.head.flags & MSG_ANSWERED:
                conn.imsg_q.head.flags |= MSG_ANSWERED
                conn.imsg_q.head.refs += 1
                server.has_replied = True
                count_reply(self, conn.imsg_q.head, data, parser)
                receive(conn, conn.imsg_q.head, data, parser)
                return 0
            self.stats[SERVER_SERVER_REFUSALS] += 1
            self.cause = refusal_of(line_of(data, parser))
        else:
            server.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
            self.cause = UNASKED
        return conn.close(conn)
    if self.fits is not cython.NULL and not self.fits(conn.omsg_q.head, data, parser):
        server.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
        self.cause = errors.cause("unsuited", line_of(data, parser)[:100])
        return conn.close(conn)
    server.has_replied = True
    count_reply(self, conn.omsg_q.head, data, parser)
    receive(conn, conn.dequeue_outq(conn), data, parser)
    # After the pairing: `link_replied` may close this link.
    if server.wants_replies:
        server.link_replied(self)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def receive(
    conn: Conn, msg: cython.pointer(Msg), data: cython.p_char, parser: cython.pointer(Parser)
) -> cython.void:
    """The reply to this request has come. Takes over one reference to the request."""
    if msg_awaited(msg):
        if parser.kind == b"-" or parser.kind == b"!":
            msg.flags |= MSG_ERROR
        if parser.pos > REPLY_SMALL and msg.owner.refuses(msg, parser.pos):
            msg_error(msg, msg.owner.refusal(msg, parser.pos))
        elif conn.body_receive(msg, cython.address(msg.rsp), data, parser.pos) < 0:
            msg_fail(msg, None)
        else:
            msg_done(msg)
    else:
        deadline_remove(msg)
    msg_put(msg)


# A recv_done.
@cython.cfunc
@cython.exceptval(-1, check=False)
def special_recv_done(
    conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)
) -> cython.int:
    """A reply on a link with transactions in flight, or on one that is not shared."""
    self: Link = cython.cast(Link, conn)
    text: bytes = None
    head: cython.pointer(Msg) = conn.omsg_q.head
    if self.batches and parser.kind != b">" and head.flags & MSG_BATCH:
        if head.replies > 1:
            return batch_reply(self, head, data, parser)
        self.batches -= 1
        self.recv_done = usual_recv_done(self)
        if head.flags & MSG_ERROR and msg_awaited(head):
            text = batch_error(self, head)
            head.flags &= ~MSG_ERROR
            data = text
            parser.kind = b"-"
            parser.pos = len(text)
    server_recv_done(conn, data, parser)
    if conn.fd >= 0 and idle(self):
        if self.aside:
            self.drop()
        elif self.returning:
            self.server.give_back(self)
    return 0


# A recv_done.
@cython.cfunc
@cython.exceptval(-1, check=False)
def user_recv_done(conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """What comes is for the user of the link."""
    self: Link = cython.cast(Link, conn)
    return self.user.received(self, data, parser)


@cython.cfunc
@cython.exceptval(check=False)
def user_recv_next(conn: Conn) -> cython.bint:
    self: Link = cython.cast(Link, conn)
    return self.state != LINK_READY or self.user is None or self.user.listens()


@cython.cfunc
@cython.exceptval(check=False)
def usual_recv_done(self: Link) -> recv_done_t:
    """Its recv_done when it is ready."""
    if self.user is not None:
        return user_recv_done
    if self.aside or self.returning or self.batches:
        return special_recv_done
    return server_recv_done


@cython.cfunc
@cython.exceptval(-1, check=False)
def batch_reply(
    self: Link,
    msg: cython.pointer(Msg),
    data: cython.p_const_char,
    parser: cython.pointer(Parser),
) -> cython.int:
    """A reply to one of the commands of a transaction, the last of which is EXEC. The first error
    is kept: it is why EXEC fails."""
    msg.replies -= 1
    self.server.has_replied = True
    if parser.kind == b"-" and msg_awaited(msg) and not msg.flags & MSG_ERROR:
        msg.flags |= MSG_ERROR
        if not msg.flags & MSG_BATCH_BEGUN:
            msg.flags |= MSG_UNGUARDED
        # Without memory, the cause is empty.
        msg_copy(msg, cython.address(msg.rsp), data, min(parser.pos, QUOTED))
    msg.flags |= MSG_BATCH_BEGUN
    return 0


@cython.cfunc
def batch_error(self: Link, msg: cython.pointer(Msg)) -> bytes:
    """The reply to EXEC, or to the last command of a sequence, when the server has refused a
    command before it. The first refusal is in `rsp`."""
    cause: bytes = msg.rsp.data[: msg.rsp.length].partition(b"\r\n")[0]
    msg_drop(cython.address(msg.rsp))
    if msg.flags & MSG_SEQUENCE:
        return cause + b"\r\n"
    if not msg.flags & MSG_UNGUARDED:
        return errors.execabort(cause + b"\r\n")
    text: str = cause.decode(errors="replace").removeprefix("-")
    log.warning("%s %s refuses MULTI: %s", self, self.server, text)
    return self.server.error_reply(errors.cause("multi_refused", text))


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_recv_kept(conn: Conn) -> cython.int:
    """The start of a reply. If no reply is due, the connection is closed, because the rest could be
    paired with the next request. A push may come at any time, and a server may send an error before
    it has received the whole request."""
    self: Link = cython.cast(Link, conn)
    if self.state != LINK_READY or conn.omsg_q.head is not cython.NULL or half_written(conn):
        return 0
    if conn.tail[0] == b">":
        return 0
    self.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
    self.cause = UNASKED
    return conn.close(conn)


def refusal_of(error: str) -> str:
    """The cause when a server ends the connection because of a request, with the server's error."""
    too_long = error.endswith("invalid bulk length")
    return errors.cause("refused_length" if too_long else "refused", error)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def count_reply(
    self: Link,
    msg: cython.pointer(Msg),
    data: cython.p_char,
    parser: cython.pointer(Parser),
) -> cython.void:
    """Count the reply to this request."""
    stats: cython.pointer(uint64_t) = self.stats
    self.timed_out = 0
    if not msg_awaited(msg):
        stats[SERVER_RESPONSES_DROPPED] += 1
        return
    stats[SERVER_RESPONSES] += 1
    stats[SERVER_RESPONSE_BYTES] += parser.pos
    if parser.kind == b"-" or parser.kind == b"!":
        stats[SERVER_RESPONSES_ERROR] += 1
        if parser.pos > 20 and memcmp(data, b"-ERR Protocol error:", 20) == 0:
            note_last_words(self, data, parser)
    took: cython.longlong = self.reactor.now_usec - msg.start
    self.reactor.counted.replies += 1
    self.reactor.counted.reply_usec += took
    latency_record(stats, took)


@cython.cfunc
@cython.exceptval(check=False)
def note_last_words(self: Link, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.void:
    """Redis sends this error before it closes a connection, but a script may return it too. If the
    connection ends right after it, the error is the cause."""
    try:
        self.last_words = line_of(data, parser)
        self.last_words_at = self.recv_bytes
    except MemoryError:
        self.last_words = None


@cython.cfunc
@cython.exceptval(0)
def server_recv_part(
    conn: Conn, data: cython.p_char, length: cython.size_t, parser: cython.pointer(Parser)
) -> cython.size_t:
    """Part of a reply. A reply that is too long is received to its end, because others follow it,
    but its bytes are dropped. Returns how many bytes to drop now."""
    self: Link = cython.cast(Link, conn)
    limit: cython.size_t = self.max_reply if self.state == LINK_READY else HANDSHAKE_MAX
    if conn.omsg_q.head is not cython.NULL and data[0] != b">":
        limit = min(limit, part_room(conn.omsg_q.head))
    if not conn.discarding:
        if max(length, parser.need) <= limit and parser.scan <= parser.pos + LINE_MAX:
            return 0
        if self.state != LINK_READY:
            self.cause = HANDSHAKE_LENGTH
            conn.close(conn)
            return 0
        # A client can have its own limit exceeded as often as it likes.
        if limit == self.max_reply:
            log.warning(
                "%s %s: a reply is dropped: it is longer than %d bytes, or one of its lines"
                " than %d",
                *(self, self.server, limit, LINE_MAX),
            )
        conn.discarding = True
        conn.recv_done = server_discarded
    return parser_discard(parser, data, length, self.server.protocol.kind_byte)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_discarded(conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """The end of a reply that was dropped: its request gets an error."""
    self: Link = cython.cast(Link, conn)
    msg: cython.pointer(Msg) = conn.omsg_q.head
    text: bytes
    if msg is not cython.NULL and part_room(msg) < self.max_reply:
        text = msg.owner.refusal(msg, self.max_reply)
    else:
        text = self.server.error_reply(REPLY_LENGTH)
    if text is None:
        text = self.server.protocol.memory_error
    conn.discarding = False
    conn.recv_done = usual_recv_done(self)
    if parser.kind != b">":
        parser.kind = b"-"
        parser.pos = len(text)
    return conn.recv_done(conn, text, parser)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_recv_error(conn: Conn, parser: cython.pointer(Parser)) -> cython.int:
    self: Link = cython.cast(Link, conn)
    text: bytes = parser.error
    conn.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
    self.cause = errors.cause("malformed", text.decode())
    if self.state != LINK_READY:
        # Memcached is the default, and `redis: true` is easy to forget.
        other, key = self.server.protocol.other
        self.cause = errors.cause("wrong_protocol", text.decode(), other, key)
    return conn.close(conn)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_handshake(conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """The reply to the next step of the handshake. Or an error that the server sends unasked
    (maxclients, protected mode), possibly before the end of the connect has been noticed."""
    self: Link = cython.cast(Link, conn)
    server: Upstream = self.server
    if parser.kind == b">":
        return 0
    step = self.steps.pop(0) if self.steps else ""
    refusal = server.judge(self, step, data[: parser.pos])
    if refusal is not None:
        self.cause = refusal[:QUOTED]
        return conn.close(conn)
    if not self.steps:
        become_ready(self)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def become_ready(self: Link) -> cython.int:
    """The handshake is complete: requests can be sent."""
    self.state = LINK_READY
    self.reactor.handshakes -= 1
    self.recv_done = usual_recv_done(self)
    self.send = cython.cast(send_t, old_server_send if self.server.old else server_send)
    self.waiting_since = self.reactor.now
    self.connect_timer.cancel()
    self.server.link_ready(self)
    if self.user is not None:
        self.user.link_opened(self)
    self.mark_flush()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def old_server_send(conn: Conn) -> cython.int:
    """The send of a link to an old server: requests that it would misread get an error."""
    self: Link = cython.cast(Link, conn)
    msg: cython.pointer(Msg) = conn.imsg_q.head
    while msg is not cython.NULL:
        if not msg.flags & (MSG_CANCELLED | MSG_DONE) and self.server.protocol.too_new(msg):
            self.cancel(msg)
            msg_error(msg, self.server.error_reply(NEEDS_META))
        msg = msg.server_next
    return server_send(conn)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_no_send(conn: Conn) -> cython.int:
    """Write nothing: requests wait for the end of the handshake."""
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_connected(conn: Conn) -> cython.int:
    """The socket has become writable: the connect has succeeded or failed."""
    self: Link = cython.cast(Link, conn)
    err: cython.int = 0
    length: socklen_t = cython.sizeof(cython.int)
    getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, cython.address(err), cython.address(length))
    if err:
        conn.err = err
        return conn.close(conn)
    conn.stats[SERVER_SERVER_CONNECTIONS] += 1
    return begin_handshake(self)


@cython.cfunc
@cython.exceptval(-1, check=False)
def begin_handshake(self: Link) -> cython.int:
    conn: Conn = self
    payload: bytes
    piece: iovec
    self.state = LINK_HANDSHAKE
    conn.reactor.handshakes += 1
    self.waiting_since = conn.reactor.now
    conn.recv_done = server_handshake
    conn.send = cython.cast(send_t, server_no_send)
    self.steps, payload = self.server.handshake(self)
    if not self.steps:
        return become_ready(self)
    # An idle socket takes these few bytes at once, unless it is broken.
    piece.iov_base = cython.cast(cython.p_char, payload)
    piece.iov_len = len(payload)
    if transport_write(conn, cython.address(piece), 1) != len(payload):
        conn.err = ECONNRESET
        return conn.close(conn)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def server_send_next(conn: Conn, cursor: cython.pointer(Cursor)) -> cython.pointer(Body):
    msg: cython.pointer(Msg) = cursor.msg
    body: cython.pointer(Body)
    if msg is cython.NULL:
        msg = conn.imsg_q.head
    else:
        if msg.flags & MSG_REQ_PIECES:
            body = piece_next(msg, cursor)
            if body is not cython.NULL:
                return body
        msg = msg.server_next
    if msg is cython.NULL:
        return cython.NULL
    cursor.msg = msg
    if msg.flags & MSG_REQ_PIECES:
        return piece_first(msg, cursor)
    return cython.address(msg.req)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_send_done(conn: Conn) -> cython.int:
    """The head of imsg_q has been written: it now waits for its reply. A request that was cancelled
    before its first byte was written had no bytes left, so it has been skipped and leaves here. So
    does one that the server answered before it had all of it."""
    msg: cython.pointer(Msg) = conn.imsg_q.head
    if conn.omsg_q.head is cython.NULL:
        cython.cast(Link, conn).waiting_since = conn.reactor.now
    if msg.flags & MSG_REQ_PIECES and pieces_written(msg):
        return 0
    server_dequeue_inq(conn)
    if msg.flags & (MSG_CANCELLED | MSG_ANSWERED | MSG_BATCH):
        if not msg.flags & MSG_BATCH:
            msg_put(msg)
            return 0
        if msg.flags & MSG_CANCELLED:
            msg_put(msg)
            return 0
        cython.cast(Link, conn).batches += 1
        conn.recv_done = special_recv_done
    msg.flags |= MSG_WRITTEN
    server_enqueue_outq(conn, msg)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def finishing_send_done(conn: Conn) -> cython.int:
    """The send_done of a link whose user has ended."""
    server_send_done(conn)
    if conn.imsg_q.head is cython.NULL:
        return end_sending(cython.cast(Link, conn))
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def end_sending(self: Link) -> cython.int:
    """The server may reply once more before it closes the connection. Its end is no failure."""
    self.cause = NOT_NEEDED
    transport_end(self)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_send(conn: Conn) -> cython.int:
    """Write requests. While no reply is due, it is a sign of life if the socket takes bytes."""
    self: Link = cython.cast(Link, conn)
    before: cython.ulonglong = conn.send_bytes
    result: cython.int = conn_send(conn)
    if conn.omsg_q.head is cython.NULL:
        if conn.send_bytes != before:
            self.waiting_since = conn.reactor.now
        if self.server.retired and conn.fd >= 0 and idle(self):
            # What was left needed no reply any more.
            return self.drop()
    return result


@cython.cfunc
@cython.exceptval(check=False)
def server_enqueue_inq(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    self: Link = cython.cast(Link, conn)
    if self.state == LINK_READY and idle(self):
        self.waiting_since = conn.reactor.now
    if msg.queued == 0:
        msg.queued = msg.req.length
    conn.stats[SERVER_IN_QUEUE] += 1
    conn.stats[SERVER_IN_QUEUE_BYTES] += msg.queued
    msg.server = cython.cast(cython.p_void, conn)
    server_append(cython.address(conn.imsg_q), msg)


@cython.cfunc
@cython.exceptval(check=False)
def server_dequeue_inq(conn: Conn) -> cython.pointer(Msg):
    msg: cython.pointer(Msg) = server_pop(cython.address(conn.imsg_q))
    msg.server = cython.NULL
    conn.stats[SERVER_IN_QUEUE] -= 1
    conn.stats[SERVER_IN_QUEUE_BYTES] -= msg.queued
    return msg


@cython.cfunc
@cython.exceptval(check=False)
def server_enqueue_outq(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    conn.stats[SERVER_OUT_QUEUE] += 1
    conn.stats[SERVER_OUT_QUEUE_BYTES] += msg.queued
    msg.server = cython.cast(cython.p_void, conn)
    server_append(cython.address(conn.omsg_q), msg)


@cython.cfunc
@cython.exceptval(check=False)
def server_dequeue_outq(conn: Conn) -> cython.pointer(Msg):
    msg: cython.pointer(Msg) = server_pop(cython.address(conn.omsg_q))
    msg.server = cython.NULL
    conn.stats[SERVER_OUT_QUEUE] -= 1
    conn.stats[SERVER_OUT_QUEUE_BYTES] -= msg.queued
    return msg


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_close(conn: Conn) -> cython.int:
    """End the connection: report it to the server, and answer or move its requests. Whatever fails
    meanwhile, every request is answered or moved, and released."""
    self: Link = cython.cast(Link, conn)
    server: Upstream = self.server
    was_ready: cython.bint = self.state == LINK_READY
    waited: cython.bint = conn.omsg_q.head is not cython.NULL or half_written(conn)
    text: bytes

    if self.state == LINK_CLOSED:
        return 0
    if self.state == LINK_CONNECTING and self.cause is None and self.addresses:
        self.start(self.addresses)
        return 0
    if self.state == LINK_HANDSHAKE or was_ready:
        conn.stats[SERVER_SERVER_CONNECTIONS] -= 1
    if self.state == LINK_HANDSHAKE:
        conn.reactor.handshakes -= 1
    self.state = LINK_CLOSED
    if self.connect_timer is not None:
        self.connect_timer.cancel()
    conn.shut()
    text = tell_end(self, was_ready, waited, server.link_left(self))

    if half_written(conn):
        # The head was written in part.
        conn.sent = 0
        settle(server, conn.dequeue_inq(conn), text, SERVER_REQUESTS_LOST)
    if was_ready and self.slot != NO_SLOT and not server.ejected:
        move_requests(self, text)
    settle_queues(self, text)
    if self.user is not None:
        tell_user(self, text)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def tell_user(self: Link, text: bytes | None) -> cython.void:
    user: LinkUser = self.user
    self.user = None
    try:
        user.link_ended(self, text)
    except Exception:
        log.exception("%s %s: internal error at the end of the connection", self, self.server)


@cython.cfunc
@cython.exceptval(-1, check=False)
def settle_queues(self: Link, text: bytes | None) -> cython.int:
    """Answer the requests left in the queues: as a Job, if there are many."""
    if not self.server.stopping and settle_some(self, text, False):
        try:
            self.reactor.jobs.add(Settling(self, text))
            return 0
        except MemoryError:
            pass
    while settle_some(self, text, True):
        pass
    return self.server.link_settled()


@cython.cclass
class Settling(Job):
    """Answers the requests of a link that has ended. `text` is the error reply."""

    def __init__(self, link: Link, text):
        self.link = link
        self.text = text

    def portion(self):
        if settle_some(self.link, self.text, False):
            return True
        self.link.server.link_settled()
        return False


@cython.cfunc
@cython.exceptval(check=False)
def settle_some(self: Link, text: bytes | None, whole: cython.bint) -> cython.bint:
    """Answer SETTLED_PER_TURN of them, or fewer if they are large and `whole` is not set. Returns
    whether more are left."""
    server: Upstream = self.server
    msg: cython.pointer(Msg)
    for _ in range(SETTLED_PER_TURN):
        if not whole and freed_enough():
            break
        if self.omsg_q.head is not cython.NULL:
            msg = self.dequeue_outq(self)
            if msg.flags & MSG_SHUTDOWN and not msg.flags & MSG_DONE:
                msg_constant(msg, cython.address(msg.rsp), b"+OK\r\n", 5)
                msg_done(msg)
            settle(server, msg, text, SERVER_REQUESTS_LOST)
        elif self.imsg_q.head is not cython.NULL:
            settle_unwritten(self, text)
        else:
            return False
    return self.omsg_q.head is not cython.NULL or self.imsg_q.head is not cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def settle_unwritten(self: Link, text: bytes | None) -> cython.void:
    """Answer the first request of imsg_q, which cannot be moved."""
    server: Upstream = self.server
    settle(
        server,
        self.dequeue_inq(self),
        server.error if server.down else text,
        SERVER_REQUESTS_UNAVAILABLE,
    )


@cython.cfunc
@cython.exceptval(check=False)
def move_requests(self: Link, text: bytes | None) -> cython.void:
    """Move unwritten requests to another connection, if there is one; each moves only once. All of
    them move in this turn, so that later requests of the same clients cannot overtake them."""
    server: Upstream = self.server
    other: Link
    msg: cython.pointer(Msg)
    while self.imsg_q.head is not cython.NULL and not server.ejected:
        msg = self.imsg_q.head
        if msg.flags & (MSG_CANCELLED | MSG_DONE):
            msg_put(self.dequeue_inq(self))
            continue
        if msg.flags & MSG_RETRIED:
            settle_unwritten(self, text)
            continue
        other = next_link(self)
        if other is None:
            return
        self.dequeue_inq(self)
        msg.flags |= MSG_RETRIED
        server.stats[SERVER_REQUESTS_RETRIED] += 1
        other.enqueue_inq(other, msg)
        other.mark_flush()


@cython.cfunc
def tell_end(self: Link, was_ready: cython.bint, waited: cython.bint, probe: cython.bint) -> bytes:
    """Report to the server how the connection ended. Returns the error reply for clients; None when
    memory has run out."""
    server: Upstream = self.server
    text: bytes = None
    try:
        if (
            self.cause is None
            and self.last_words is not None
            and self.last_words_at == self.recv_bytes
        ):
            self.stats[SERVER_SERVER_REFUSALS] += 1
            self.cause = refusal_of(self.last_words)
        if self.cause is None:
            # EPIPE is a reset that was noticed while writing.
            self.cause = os.strerror(ECONNRESET if self.err in (0, EPIPE) else self.err)
        count_end(self)
        text = server.error_reply(self.cause)
        if self.profile.protover == 3 and server.no_resp3 and not was_ready:
            text = NOPROTO
        server.link_closed(self, was_ready, waited, probe)
    except Exception:
        log.exception("%s %s: internal error at the end of the connection", self, server)
    return text


@cython.cfunc
def next_link(self: Link) -> Link:
    """The connection that takes over the unwritten requests; None if there is none."""
    try:
        return self.server.link_for(self.slot, self.profile)
    except Exception:
        log.exception("%s %s: internal error, its requests are not moved", self, self.server)
        return None


@cython.cfunc
@cython.exceptval(check=False)
def count_end(self: Link) -> cython.void:
    """Count the end of a connection by its cause. A timeout has been counted already if requests
    timed out."""
    if self.cause == NOT_NEEDED or self.connect_began < 0:
        return
    if self.eof:
        self.stats[SERVER_SERVER_EOF] += 1
    elif self.cause != TIMED_OUT:
        self.stats[SERVER_SERVER_ERR] += 1
    elif not self.timed_out:
        self.stats[SERVER_SERVER_TIMEDOUT] += 1


@cython.cfunc
@cython.exceptval(check=False)
def settle(
    server: Upstream, msg: cython.pointer(Msg), text: bytes | None, counter: cython.int
) -> cython.void:
    """Fail a request that its server will not answer, unless it is done, and release it."""
    if not msg.flags & MSG_DONE:
        server.stats[counter] += 1
        msg_fail(msg, text)
    msg_put(msg)


@cython.cclass
class Upstream:
    """The server as its links see it. link.pxd says what each method is for, and server.py what it
    does. `about` has the fields of a log line, as in every class that logs."""

    def link_for(self, client, profile):
        raise NotImplementedError

    def handshake(self, link):
        raise NotImplementedError

    def borrow(self, profile):
        raise NotImplementedError

    def change(self, link, profile):
        raise NotImplementedError

    def give_back(self, link):
        raise NotImplementedError

    def judge(self, link, step, data):
        raise NotImplementedError

    def link_ready(self, link):
        raise NotImplementedError

    def link_replied(self, link):
        raise NotImplementedError

    def link_left(self, link):
        raise NotImplementedError

    def link_closed(self, link, was_ready, waited, probe):
        raise NotImplementedError

    def link_settled(self):
        raise NotImplementedError

    def error_reply(self, cause):
        raise NotImplementedError


@cython.cclass
class LinkUser:
    """The methods are described in link.pxd."""

    def link_opened(self, link):
        raise NotImplementedError

    def link_ended(self, link, text):
        raise NotImplementedError

    def received(self, link, data, parser):
        raise NotImplementedError

    def listens(self):
        return True


@cython.final
@cython.cclass
class Link(Conn):
    """A connection to a server, in the state of `profile`. Clients with that profile and that slot
    share it. A link without a slot, NO_SLOT, belongs to its user; `aside` makes it one for commands
    that a busy server must get at once, which closes after its last reply."""

    letter = "s"

    def __init__(
        self, server: Upstream, profile: Profile, slot: cython.int, aside: cython.bint = False
    ):
        self.reactor = server.reactor
        self.server = server
        self.stats = server.stats
        self.profile = profile
        self.slot = slot
        self.aside = aside
        self.connect_began = -1
        self.waiting_since = self.reactor.now
        self.state = LINK_WAITING
        self.flush_list = cython.address(self.reactor.flush_servers)
        self.recv = cython.cast(recv_t, conn_recv)
        self.recv_next = cython.cast(recv_next_t, server_recv_next)
        self.parse = server.protocol.parse_reply
        self.fits = server.protocol.fits
        self.recv_done = server_handshake
        self.recv_part = server_recv_part
        self.max_reply = server.pool.max_reply
        self.recv_kept = server_recv_kept
        self.recv_error = server_recv_error
        self.send = cython.cast(send_t, server_connected)
        self.send_next = server_send_next
        self.send_done = server_send_done
        self.close = cython.cast(close_t, server_close)
        self.active = server_active
        self.enqueue_inq = server_enqueue_inq
        self.dequeue_inq = server_dequeue_inq
        self.enqueue_outq = server_enqueue_outq
        self.dequeue_outq = server_dequeue_outq

    @property
    def about(self) -> dict:
        return {"conn": str(self), **self.server.about}

    def arm(self, delay, then):
        before = self.connect_timer
        if then is None:
            then = self.expire
        self.connect_timer = self.reactor.timers.schedule(self.reactor.now + delay, then)
        if before is not None:
            before.cancel()
        return 0

    def connect(self, address, resolve):
        self.state = LINK_RESOLVING
        self.connect_began = self.reactor.now
        if address.family == "unix":
            self.start([(socket.AF_UNIX, address.path)])
        else:
            resolve(address.host, address.port, self.resolved)
        return 0

    def change(self, profile):
        self.before = self.profile
        self.profile = profile
        return begin_handshake(self)

    def serve(self, user):
        self.user = user
        self.recv_next = cython.cast(recv_next_t, user_recv_next)
        self.recv_kept = cython.NULL
        if self.state == LINK_READY:
            self.recv_done = user_recv_done
            return user.link_opened(self)
        return 0

    def finish(self):
        self.finishing = True
        if self.state == LINK_READY and self.imsg_q.head is cython.NULL:
            return end_sending(self)
        self.send_done = finishing_send_done
        return 0

    def return_when_idle(self):
        self.returning = True
        self.recv_done = special_recv_done

    def returned(self):
        self.returning = False
        self.recv_done = usual_recv_done(self)

    def take_requests(self, old):
        while old.imsg_q.head is not cython.NULL:
            self.enqueue_inq(self, old.dequeue_inq(old))

    def cancel(self, msg):
        if not msg.flags & MSG_WRITTEN and not (msg == self.imsg_q.head and half_written(self)):
            msg.flags |= MSG_CANCELLED

    def note_timeout(self, start):
        self.timed_out += 1
        if self.timed_out > 1:
            return False
        self.timed_out_since = start
        return True

    def timeouts_last(self):
        return self.reactor.now - max(self.timed_out_since, self.waiting_since)

    def unused(self):
        return self.steps is not None and idle(self)

    def silence(self):
        """A sign of life is a byte of a reply or, while no reply is due, room to write more of a
        request. In milliseconds."""
        if self.state == LINK_READY and idle(self):
            return 0
        return self.reactor.now - max(self.waiting_since, self.last_recv)

    def awaited(self):
        msg: cython.pointer(Msg)
        for head in (True, False):
            msg = self.imsg_q.head if head else self.omsg_q.head
            while msg is not cython.NULL:
                if msg_awaited(msg):
                    return True
                msg = msg.server_next
        return False

    def orphans(self):
        msg: cython.pointer(Msg)
        count: cython.int = 0
        for head in (True, False):
            msg = self.imsg_q.head if head else self.omsg_q.head
            while msg is not cython.NULL:
                if (
                    (msg.client is cython.NULL or cython.cast(Conn, msg.client).fd < 0)
                    and msg.parent is cython.NULL
                    and not msg.flags & MSG_DONE
                ):
                    count += 1
                msg = msg.server_next
        return count

    def resolved(self, answer: object) -> None:
        """The result of the lookup: (family, address) pairs, or an OSError."""
        if self.state != LINK_RESOLVING:
            return
        if isinstance(answer, OSError):
            self.abort(errors.cause("host", answer.strerror or answer))
            return
        self.start(answer)

    def start(self, addresses: list) -> None:
        """Start to connect to the first address that does not fail at once. The others are tried if
        it cannot be reached: `localhost` has two, and a server may listen on only one of them."""
        cause: str = ""
        try:
            self.addresses = list(addresses)
            while self.addresses:
                if self.fd >= 0:
                    close(self.fd)
                    self.fd = -1
                    self.err = 0
                family, address = self.addresses.pop(0)
                try:
                    self.open(family, address)
                except OSError as error:
                    cause = error.strerror or str(error)
                else:
                    return
        except Exception:
            log.exception("%s %s: internal error while connecting", self, self.server)
            cause = INTERNAL_ERROR
        self.abort(cause)

    def open(self, family: int, address: object) -> None:
        sock = socket.socket(
            family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            if family != socket.AF_UNIX:
                tcp_options(sock, self.server.pool.config)
                if self.slot == NO_SLOT:
                    # Its user may wait for ever.
                    keep_alive(sock.fileno(), self.server.pool.config)
            sock.connect(address)
        except BlockingIOError:
            # EAGAIN on a unix socket means that the backlog is full: it will not connect later.
            if family == socket.AF_UNIX:
                sock.close()
                raise
        except OSError:
            sock.close()
            raise
        self.state = LINK_CONNECTING
        self.blocked = True
        self.reactor.open(self, sock.detach())
        self.reactor.poller.add_out(self.fd, cython.cast(cython.p_void, self))

    def abort(self, cause):
        self.cause = cause
        return server_close(self)

    def expire(self) -> None:
        self.abort(TIMED_OUT)

    def drop(self):
        self.cause = NOT_NEEDED
        return server_close(self)
