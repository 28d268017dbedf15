# nutproxy/conn.py: connections
"""A connection is a socket, two queues, and the handlers that its role sets.

    client c 7                                            server s 9
    omsg_q: [GET a*] [GET b ] [GET a ]                    imsg_q: [GET a ]
            done     waits    waits                       omsg_q: [GET b ]
              │                                                      │
              └─ sent when the head is done, in this order           └─ the next reply is this one's

    client c 8                                            server s 11
    omsg_q: [SET x ] [PING*]                              imsg_q: -
            waits    done, but not yet its turn           omsg_q: [SET x ]

A client's omsg_q holds its requests in the order in which they arrived, whichever server they went
to. Replies leave it from the front. A server's imsg_q holds the requests to be written. Once
written, they move to its omsg_q and wait there for their replies, which come in the same order.

Roles and protocols are known only to these handlers. The loop calls the first four, which every
`Pollable` has. The rest are called from here and by the other side's role:

    recv        read from the socket              conn_recv; accept for a listener
    recv_next   may this connection be read now?  false under back-pressure
    send        write what is queued              conn_send; while connecting: finish that
    close       the connection ends
    parse       find the end of the next message  the protocol's parser
    recv_done   a message is complete             client: dispatch it; server: pair it
    recv_large  a large message is complete       client: look at it more closely
    recv_part   part of a large message is there  client: count it; server: drop it if too long
    recv_kept   the start of a message was kept   server: is a reply due at all?
    recv_error  the input is not a message        client: error reply, close; server: close
    recv_other  the protocol is not known yet     client: its first byte decides
    send_next   the body to write after this one
    send_done   the first message has been written
    active      keep it after the peer has closed its side?
    enqueue_inq, dequeue_inq, enqueue_outq, dequeue_outq

**Input.** An idle connection owns no buffer. Bytes are received into the loop's single scratch
buffer and parsed there. The rest of a partial message is kept in `tail`. A short tail is copied
back in front of the next bytes in the scratch. A long tail, or the start of a message whose size is
known, becomes a buffer that further bytes are received into directly. The message takes over this
buffer when it is complete, so a large value is not copied. Each byte is parsed once, wherever the
input is split.

**Output.** Each connection makes one gathered write a turn. Small bodies are copied side by side,
large ones are written from where they are. Write interest is requested only after a short write.
"""

import cython
from cython.cimports.libc.errno import EAGAIN, EINTR, ENOMEM, errno
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.libc.string import memcpy, memmove
from cython.cimports.nutproxy.csys import iovec
from cython.cimports.nutproxy.io.reactor import IOV_MAX, OUT_SIZE, TAIL_SMALL, Pollable, Reactor
from cython.cimports.nutproxy.io.transport import transport_read, transport_write
from cython.cimports.nutproxy.msg.message import heap_free, heap_freed, msg_copy, msg_take
from cython.cimports.nutproxy.msg.parse import (
    PARSE_AGAIN,
    PARSE_ERROR,
    PARSE_OK,
    PARSE_OTHER,
    PARSE_SWALLOW,
    Parser,
    parser_reset,
)

# Bytes of a large message that one recv takes: a limit for one turn, and few system calls.
LARGE_RECV = cython.declare(cython.size_t, 256 << 10)
# Gathered writes that one connection may make in one turn before it lets the others go on.
SENDS_PER_TURN = cython.declare(cython.int, 4)
# A stream never has this many bytes.
NEVER_ENDS = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)
# Approximate heap bytes of a connection.
CONN_SIZE = cython.declare(cython.size_t, 1024)
# The parser of all connections that have no partial message: a process runs one loop. Only its
# argument table outlives a recv; it is freed when it has room for more than ARGV_KEEP arguments.
shared_parser = cython.declare(Parser)
ARGV_KEEP = cython.declare(cython.uint, 4096)


@cython.cclass
class Conn(Pollable):
    """The part of a connection that all roles share. A role sets its handlers before it calls
    `Reactor.open`."""

    def __cinit__(self):
        self.read_end = NEVER_ENDS

    def __dealloc__(self):
        self.drop_tail()
        heap_freed(CONN_SIZE)

    def drop_tail(self):
        if self.tail is not cython.NULL:
            heap_free(self.tail, self.tail_size)
            self.tail = cython.NULL
            self.tail_length = 0
            self.tail_size = 0
            if self.counted:
                self.count(0)
        if self.partial is not cython.NULL:
            free(self.partial.argv)
            free(self.partial)
            self.partial = cython.NULL

    def count(self, length):
        """Count `length` bytes of an incomplete message in the pool's sum."""
        self.unfinished.bytes += length - self.counted
        self.counted = length

    def grow_tail(self, need):
        """Make the tail buffer at least `need` bytes large; -1 when memory has run out."""
        grown: cython.p_char
        if self.tail_size >= need:
            return 0
        grown = cython.cast(cython.p_char, realloc(self.tail, need))
        if grown is cython.NULL:
            return -1
        self.tail = grown
        self.tail_size = need
        if self.unfinished is not cython.NULL:
            self.unfinished.some = True
        return 0

    def keep_tail(self, data, length, parser):
        """Keep the unparsed start of a message, with its parser. `data` may lie in the tail itself.
        -1 when memory has run out."""
        reactor: Reactor = self.reactor
        size: cython.size_t = length
        before: cython.p_char
        before_size: cython.size_t
        grown: cython.int
        if self.partial is cython.NULL:
            self.partial = cython.cast(cython.pointer(Parser), malloc(cython.sizeof(Parser)))
            if self.partial is cython.NULL:
                return -1
            # The argument table moves too; the shared parser allocates a new one when needed.
            self.partial[0] = parser[0]
            parser.argv = cython.NULL
            parser.argv_room = 0
        if self.discarding:
            # A tail is needed, because the parser goes with it, but not one of the announced size.
            size = length + reactor.mbuf_size if length > TAIL_SMALL else TAIL_SMALL
        elif parser.need > reactor.mbuf_size or length > TAIL_SMALL:
            # Further bytes are received directly after these: into a block of the announced size,
            # or, if the size is unknown, into one that doubles, so that copying stays linear.
            size = parser.need if parser.need > length else length + reactor.mbuf_size
            if self.tail_size and size > self.tail_size:
                size = max(size, self.tail_size * 2)
        if data == self.tail:
            if self.grow_tail(size) < 0:
                return -1
        elif (
            self.tail is not cython.NULL
            and data > self.tail
            and data < self.tail + self.tail_size
            and self.tail_size <= 2 * (size + reactor.mbuf_size)
        ):
            memmove(self.tail, data, length)
            if self.grow_tail(size) < 0:
                return -1
        else:
            # From the scratch; or the tail's block is far larger than these bytes need.
            before = self.tail
            before_size = self.tail_size
            self.tail = cython.NULL
            self.tail_size = 0
            grown = self.grow_tail(size)
            if grown == 0:
                memcpy(self.tail, data, length)
            heap_free(before, before_size)
            if grown < 0:
                return -1
        self.tail_length = length
        return 0

    def body_receive(self, msg, body, data, length):
        """Give a message its bytes from the receive buffer: the buffer itself if it holds only this
        message, else a copy. -1 when memory has run out."""
        if self.block == data:
            msg_take(msg, body, self.block, length)
            self.block = cython.NULL
            return 0
        return msg_copy(msg, body, data, length)

    def shut(self):
        """Close the descriptor and leave the reactor. The role empties the queues."""
        self.drop_tail()
        Pollable.shut(self)


def conn_recv(conn):
    """Make one bounded recv and handle every message that is complete. Nothing is written yet."""
    reactor: Reactor = conn.reactor
    parser: cython.pointer(Parser)
    data: cython.p_char
    have: cython.size_t
    room: cython.size_t
    count: cython.Py_ssize_t

    if conn.fd < 0 or not conn.recv_next(conn):
        return 0
    if conn.tail is cython.NULL:
        parser = cython.address(shared_parser)
        parser_reset(parser)
        data = reactor.scratch
        have = 0
        room = reactor.mbuf_size
    else:
        parser = conn.partial
        have = conn.tail_length
        if conn.tail_size > TAIL_SMALL:
            data = conn.tail
            room = conn.tail_size - have
            if parser.need > have:
                # Never read past the end of the announced bulk: later bytes belong in the scratch.
                room = min(room, parser.need - have, LARGE_RECV)
            else:
                # Then the bytes after the end of the message fit into the scratch.
                room = min(room, reactor.mbuf_size)
        else:
            data = reactor.scratch
            memcpy(data, conn.tail, have)
            room = reactor.mbuf_size

    if conn.unparsed:
        conn.unparsed = False
        conn.mark_ready()
    else:
        count = transport_read(conn, data + have, room)
        if count < 0:
            if errno == EAGAIN:
                return 0
            if errno == EINTR:
                conn.mark_ready()
                return 0
            conn.err = errno
            return conn.close(conn)
        if count == 0:
            conn.eof = True
            if not conn.active(conn):
                return conn.close(conn)
            return 0
        conn.recv_bytes += count
        conn.last_recv = reactor.now
        have += count
        if cython.cast(cython.size_t, count) == room or conn.hup:
            conn.mark_ready()
    return conn_parse(conn, parser, data, have)


@cython.cfunc
@cython.exceptval(-1, check=False)
def conn_parse(
    conn: Conn, parser: cython.pointer(Parser), data: cython.p_char, have: cython.size_t
) -> cython.int:
    """Pass every complete message to recv_done and keep the rest. `data` is the scratch, or the
    tail itself if that is a large one."""
    start: cython.size_t = 0
    stop: cython.size_t = have
    size: cython.size_t
    result: cython.int

    if conn.bounded:
        start = conn_swallow(conn, have)
        stop = conn_stop(conn, have)
    while start < stop:
        result = conn.parse(parser, cython.address(conn.limits), data + start, have - start)
        if result == PARSE_AGAIN:
            break
        if result == PARSE_ERROR:
            conn.recv_error(conn, parser)
            if conn.fd >= 0:
                conn.drop_tail()
            return 0
        # Read now: closing the connection frees its parser.
        size = parser.pos
        if result == PARSE_OK:
            if (
                size >= TAKE_MIN
                and start == 0
                and data == conn.tail
                and have - size <= conn.reactor.mbuf_size
            ):
                conn_hand_over(conn, parser, data, have)
                data = conn.reactor.scratch
                have -= size
                stop -= min(size, stop)
                size = 0
            else:
                conn.recv_done(conn, data + start, parser)
        elif result == PARSE_SWALLOW:
            conn.bounded = True
            conn.swallow = parser.rest
            conn.recv_done(conn, data + start, parser)
            size += conn_swallow(conn, have - start - size)
        elif result == PARSE_OTHER:
            conn.recv_other(conn, data[start])
        start += size
        if conn.fd < 0:
            return 0
        parser = next_parser(conn, parser)
        if not conn.recv_next(conn):
            # Back-pressure: the rest of the input is parsed once recv_next allows it.
            conn.unparsed = start < have
            break
    if start == have or conn.closing:
        conn.drop_tail()
        return 0
    if start >= stop:
        # A message that begins here came too late.
        conn.closing = True
        conn.drop_tail()
        return 0
    return conn_keep(conn, parser, data + start, have - start)


@cython.cfunc
@cython.exceptval(-1, check=False)
def conn_hand_over(
    conn: Conn, parser: cython.pointer(Parser), data: cython.p_char, have: cython.size_t
) -> cython.int:
    """The first message in the tail is complete and may keep the block, so the bytes after it move
    to the scratch first. After an announced bulk there are none."""
    size: cython.size_t = conn.tail_size
    memcpy(conn.reactor.scratch, data + parser.pos, have - parser.pos)
    conn.block = data
    conn.tail = cython.NULL
    conn.tail_size = 0
    if conn.counted:
        conn.count(0)
    try:
        if parser.pos >= LARGE_MIN and conn.recv_large is not cython.NULL:
            conn.recv_large(conn, data, parser)
        else:
            conn.recv_done(conn, data, parser)
    finally:
        heap_free(conn.block, size)
        conn.block = cython.NULL
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def next_parser(conn: Conn, parser: cython.pointer(Parser)) -> cython.pointer(Parser):
    """After a message: the shared parser, reset. That of a partial message is freed."""
    if parser == conn.partial:
        free(parser.argv)
        free(parser)
        conn.partial = cython.NULL
        parser = cython.address(shared_parser)
    parser_reset(parser)
    if parser.argv_room > ARGV_KEEP:
        free(parser.argv)
        parser.argv = cython.NULL
        parser.argv_room = 0
    return parser


@cython.cfunc
@cython.exceptval(-1, check=False)
def conn_keep(
    conn: Conn, parser: cython.pointer(Parser), data: cython.p_char, length: cython.size_t
) -> cython.int:
    """Keep the start of a message, except what the role drops of a large one."""
    dropped: cython.size_t
    if conn.recv_part is not cython.NULL and (
        length > TAIL_SMALL
        or parser.need > conn.reactor.mbuf_size
        or conn.discarding
        or conn.counted
    ):
        dropped = conn.recv_part(conn, data, length, parser)
        if conn.fd < 0 or conn.closing:
            conn.drop_tail()
            return 0
        data += dropped
        length -= dropped
    if conn.keep_tail(data, length, parser) < 0:
        conn.err = ENOMEM
        raise MemoryError
    if conn.recv_kept is not cython.NULL:
        return conn.recv_kept(conn)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def conn_swallow(conn: Conn, length: cython.size_t) -> cython.size_t:
    """How many of the next `length` bytes of input belong to a message that was refused."""
    count: cython.size_t = min(conn.swallow, length)
    conn.swallow -= count
    return count


@cython.cfunc
@cython.exceptval(check=False)
def conn_stop(conn: Conn, have: cython.size_t) -> cython.size_t:
    """The place in the last `have` bytes of input from which on messages are ignored."""
    late: cython.ulonglong
    if conn.recv_bytes <= conn.read_end:
        return have
    late = conn.recv_bytes - conn.read_end
    return have - late if late < have else 0


def parser_discard(parser, data, length, text):
    """Drop the received bytes of a message that is not kept. Returns how many of the `length` bytes
    in `data` to drop; the parser continues after them. With `text`, only the first byte of a line
    matters while its end is being searched for."""
    dropped: cython.size_t = parser.pos
    if parser.need > length:
        # In a bulk. Its last two bytes stay: the parser checks them.
        dropped = min(length, parser.need - 2)
        parser.need -= dropped
        parser.scan = 0
    elif text and parser.scan > parser.pos + 1:
        dropped = parser.scan - 1
        data[dropped] = data[parser.pos]
        parser.need = 0
        parser.scan = 1
    else:
        parser.need = 0
        parser.scan -= min(parser.scan, dropped)
    parser.pos = 0
    return dropped


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def gather(conn: Conn) -> Gathered:
    """Collect what is queued for one write into Reactor.iov, and the small bodies side by side into
    Reactor.out. A body that is not in it, or only from `sent` on, is left for the next write."""
    found: Gathered
    body: cython.pointer(Body)
    cursor: Cursor
    length: cython.size_t
    base: cython.p_char
    skip: cython.size_t = conn.sent
    packed: cython.size_t = 0
    joined: cython.bint = False
    piece: cython.pointer(iovec) = cython.address(conn.reactor.iov[0])

    cursor.msg = cython.NULL
    found.bodies = found.pieces = found.total = 0
    while found.pieces < IOV_MAX and found.total < SEND_MAX:
        body = conn.send_next(conn, cython.address(cursor))
        if body is cython.NULL:
            break
        found.bodies += 1
        length = body.length - skip
        base = body.data + skip
        skip = 0
        if length == 0:
            continue
        if length <= OUT_SMALL:
            if packed + length > OUT_SIZE:
                found.bodies -= 1
                break
            memcpy(conn.reactor.out + packed, base, length)
            if joined:
                piece[found.pieces - 1].iov_len += length
            else:
                piece[found.pieces].iov_base = conn.reactor.out + packed
                piece[found.pieces].iov_len = length
                found.pieces += 1
                joined = True
            packed += length
        else:
            piece[found.pieces].iov_base = base
            piece[found.pieces].iov_len = length
            found.pieces += 1
            joined = False
        found.total += length
    return found


@cython.cfunc
@cython.inline
@cython.exceptval(-1, check=False)
def conn_sent(conn: Conn, count: cython.size_t, bodies: cython.size_t) -> cython.int:
    """The socket has taken `count` bytes of the first `bodies` bodies: call send_done for each that
    is written completely."""
    body: cython.pointer(Body)
    cursor: Cursor
    length: cython.size_t
    while bodies > 0:
        cursor.msg = cython.NULL
        body = conn.send_next(conn, cython.address(cursor))
        length = body.length - conn.sent
        if count < length:
            conn.sent += count
            break
        count -= length
        conn.sent = 0
        conn.send_done(conn)
        bodies -= 1
    return 0


def conn_send(conn):
    """Write what is queued: one gathered write, and more only while the socket takes all of it."""
    reactor: Reactor = conn.reactor
    found: Gathered
    count: cython.Py_ssize_t

    if conn.fd < 0 or conn.blocked:
        return 0
    for _ in range(SENDS_PER_TURN):
        found = gather(conn)
        if found.bodies == 0:
            break
        count = transport_write(conn, cython.address(reactor.iov[0]), found.pieces)
        if count < 0:
            if errno == EINTR:
                continue
            if errno != EAGAIN:
                conn.err = errno
                return conn.close(conn)
            count = 0
        conn.send_bytes += count
        conn.last_send = reactor.now
        conn_sent(conn, count, found.bodies)
        if conn.fd < 0:
            return 0
        if cython.cast(cython.size_t, count) < found.total:
            conn.blocked = True
            reactor.poller.add_out(conn.fd, cython.cast(cython.p_void, conn))
            return 0
    else:
        conn.mark_flush()
        return 0
    if (conn.eof or conn.closing) and not conn.active(conn):
        return conn.close(conn)
    return 0
