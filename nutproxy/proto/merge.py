# nutproxy/proto/merge.py: merges several replies into one
"""Makes the reply to a command that was sent in parts, by the response policy of its row.

The replies of the fragments have passed the parser and came from connections with the client's
protocol version, so their elements are used unchanged. Small elements are copied into one buffer. A
large one is sent from where it was received (`piece_behind`). If a fragment failed, the reply is
its error. The error of a server is passed through, and if other fragments may have changed data,
the text says so. Every merge is linear in the number of bytes.
"""

import cython
import hiredis
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcmp, memcpy
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.msg.message import (
    MERGE_AND,
    MERGE_CONCAT,
    MERGE_FIRST,
    MERGE_KEYS,
    MERGE_MIN,
    MERGE_ONE,
    MERGE_QUERY,
    MERGE_REPORT,
    MERGE_SUM,
    MSG_DONE,
    MSG_ERROR,
    MSG_NOREPLY,
    MSG_PIECE,
    Split,
    msg_constant,
    msg_copy,
    msg_get,
    msg_put,
    msg_reserve,
)
from cython.cimports.nutproxy.msg.parse import PARSE_OK, Parser, parser_reset
from cython.cimports.nutproxy.proto.redis import (
    put_length,
    read_integer,
    read_length,
    redis_parse_rsp,
    short_bulk,
)
from cython.cimports.nutproxy.proto.table import Row

from nutproxy.proto.commands import COMMANDS
from nutproxy.proto.reports import REPORTS

# Elements of at least this size are not copied. Below it, a copy costs less than another message.
PIECE_MIN = cython.declare(cython.size_t, 65536)

UNEXPECTED = b"-ERR a server's reply to a part of '%s' does not have the expected form\r\n"
UNDECODABLE = "ERR a server's reply does not have the expected form"
# By row number: the function that merges decoded replies, or None.
reports: list = [REPORTS.get(command.response_policy) for command in COMMANDS.values()]
ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


@cython.cfunc
@cython.exceptval(check=False)
def element_size(data: cython.p_const_char, length: cython.size_t) -> cython.size_t:
    """The size in bytes of the element that starts here, which must be complete."""
    parser: Parser
    value: cython.longlong
    pos: cython.size_t = short_bulk(data, length)
    if pos:
        return pos
    if data[0] == b"$":
        value = read_length(data, cython.address(pos))
        return pos if value < 0 else pos + value + 2
    parser_reset(cython.address(parser))
    if redis_parse_rsp(None, cython.address(parser), data, length) != PARSE_OK:
        return length
    return parser.pos


def put_text(parent, text):
    if (
        msg_copy(
            parent, cython.address(parent.rsp), cython.cast(cython.p_const_char, text), len(text)
        )
        < 0
    ):
        raise MemoryError
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_error(
    parent: cython.pointer(Msg), failed: cython.pointer(Msg), written: cython.bint
) -> cython.int:
    """Use the error of one fragment as the reply. `written` says that other fragments may have
    changed data."""
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    text: bytes = failed.rsp.data[: failed.rsp.length]
    if written and text[:1] == b"-":
        others: bytes = b"other servers may have executed this '%s'"
        if row.specs > 0:
            others = b"other keys of this '%s' may have been changed"
        text = text[: len(text) - 2] + b"; " + others % row.name + b"\r\n"
    return put_text(parent, text)


@cython.cfunc
@cython.exceptval(-1, check=False)
def unexpected(parent: cython.pointer(Msg)) -> cython.int:
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    return put_text(parent, UNEXPECTED % row.name)


@cython.cfunc
@cython.exceptval(-1, check=False)
def unexpected_of(parent: cython.pointer(Msg), index: cython.uint) -> cython.int:
    """Like `unexpected`, for the reply of a known fragment. Names the server if all servers were
    sent the same request."""
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    servers: list
    if parent.split.extra is cython.NULL:
        return unexpected(parent)
    servers = cython.cast(list, parent.split.extra)
    text = f"its reply to '{row.name.decode()}' does not have the expected form"
    return put_text(parent, servers[index].error_reply(text))


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_number(parent: cython.pointer(Msg), value: cython.longlong) -> cython.int:
    return put_text(parent, b":%d\r\n" % value)


@cython.cfunc
@cython.exceptval(check=False)
def not_busy(frag: cython.pointer(Msg)) -> cython.bint:
    """Whether this error says that no script is running. The error of a server on which one runs is
    preferred to it."""
    return frag.rsp.length > 9 and memcmp(frag.rsp.data, b"-NOTBUSY ", 9) == 0


def redis_merge(parent):
    """Build the reply of a command whose fragments are all done. Raises MemoryError."""
    split: cython.pointer(Split) = parent.split
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    failed: cython.pointer(Msg) = cython.NULL
    good: cython.pointer(Msg) = cython.NULL
    frag: cython.pointer(Msg)
    index: cython.uint

    if split.merge == MERGE_QUERY:
        return merge_query(parent)
    for index in range(split.nfrag):
        frag = split.frags[index]
        if not frag.flags & MSG_ERROR:
            if good is cython.NULL:
                good = frag
        elif failed is cython.NULL or not_busy(failed):
            failed = frag
    if split.merge == MERGE_ONE and good is not cython.NULL:
        return put_text(parent, good.rsp.data[: good.rsp.length])
    if failed is not cython.NULL:
        return put_error(parent, failed, row.partial and good is not cython.NULL)
    if split.merge == MERGE_KEYS:
        return merge_keys(parent)
    if split.merge == MERGE_SUM or split.merge == MERGE_MIN:
        return merge_numbers(parent)
    if split.merge == MERGE_AND:
        return merge_and(parent)
    if split.merge == MERGE_CONCAT:
        return merge_concat(parent)
    if split.merge == MERGE_FIRST:
        return merge_first(parent)
    if split.merge == MERGE_REPORT:
        return merge_report(parent)
    return put_text(parent, good.rsp.data[: good.rsp.length])


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_keys(parent: cython.pointer(Msg)) -> cython.int:
    """MGET: the elements of all fragments in the order of the keys."""
    split: cython.pointer(Split) = parent.split
    frag: cython.pointer(Msg)
    pieces: Pieces
    size: cython.size_t = 32
    at: cython.size_t
    index: cython.uint
    part: cython.uint
    elements: cython.longlong = 0
    cursors: cython.pointer(cython.size_t) = cython.cast(
        cython.pointer(cython.size_t), malloc(split.nfrag * cython.sizeof(cython.size_t))
    )
    if cursors is cython.NULL:
        raise MemoryError
    try:
        for index in range(split.nfrag):
            frag = split.frags[index]
            cursors[index] = 0
            if frag.rsp.data[0] != b"*":
                return unexpected(parent)
            elements += read_length(frag.rsp.data, cython.address(cursors[index]))
            size += frag.rsp.length
        if elements != split.nkeys:
            return unexpected(parent)
        pieces_begin(cython.address(pieces), parent, size)
        pieces.at = put_length(pieces.target, b"*", split.nkeys)
        for index in range(split.nkeys):
            part = split.sequence[index]
            frag = split.frags[part]
            at = cursors[part]
            if at >= frag.rsp.length:
                # The total number of elements is right, but this fragment has too few.
                pieces_undo(cython.address(pieces))
                return unexpected(parent)
            size = element_size(frag.rsp.data + at, frag.rsp.length - at)
            pieces_put(cython.address(pieces), frag.rsp.data + at, size)
            cursors[part] = at + size
        return pieces_end(cython.address(pieces))
    finally:
        free(cursors)


# A reply in pieces
# -------------------------------------------------------------------------------


def pieces_begin(pieces, parent, room):
    """Begin a reply of at most `room` bytes, made of elements from fragments.

    The buffer is large enough for all elements, but only small ones are written to it. The system
    allocates the pages of a large block when they are first written, so the rest costs nothing."""
    pieces.parent = parent
    pieces.last = parent
    pieces.at = pieces.cut = 0
    pieces.target = msg_reserve(parent, cython.address(parent.rsp), room)
    if pieces.target is cython.NULL:
        raise MemoryError
    return 0


def pieces_put(pieces, data, size):
    """Add the next element. It is copied if it is small, and otherwise sent from where it is."""
    if size >= PIECE_MIN and not pieces.parent.flags & MSG_NOREPLY:
        return put_large(pieces, data, size)
    memcpy(pieces.target + pieces.at, data, size)
    pieces.at += size
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_large(
    pieces: cython.pointer(Pieces), data: cython.p_const_char, size: cython.size_t
) -> cython.int:
    """Add an element without copying it."""
    parent: cython.pointer(Msg) = pieces.parent
    try:
        if pieces.last == parent:
            parent.rsp.length = pieces.at
        else:
            pieces.last = piece_behind(
                pieces.last, pieces.target + pieces.cut, pieces.at - pieces.cut
            )
        pieces.last = piece_behind(pieces.last, cython.cast(cython.p_char, data), size)
    except MemoryError:
        pieces_undo(pieces)
        raise
    pieces.cut = pieces.at
    return 0


def pieces_end(pieces):
    """Complete the reply. Its pieces point into the buffer and into the fragments. The last piece
    owns both, because it is sent last."""
    parent: cython.pointer(Msg) = pieces.parent
    last: cython.pointer(Msg)
    if pieces.last == parent:
        parent.rsp.length = pieces.at
        return 0
    try:
        last = piece_behind(pieces.last, pieces.target + pieces.cut, pieces.at - pieces.cut)
    except MemoryError:
        pieces_undo(pieces)
        raise
    last.req = parent.rsp
    last.split = parent.split
    parent.rsp.heap = False
    parent.split = cython.NULL
    return 0


def pieces_undo(pieces):
    """Remove the pieces after the parent."""
    parent: cython.pointer(Msg) = pieces.parent
    piece: cython.pointer(Msg)
    client: Conn
    while pieces.last != parent:
        client = cython.cast(Conn, parent.client)
        piece = parent.client_next
        parent.client_next = piece.client_next
        if client.omsg_q.tail == piece:
            client.omsg_q.tail = parent
        client.omsg_q.count -= 1
        client.pieces -= 1
        client.pending -= piece.held
        client.unsent -= piece.held
        if piece == pieces.last:
            pieces.last = parent
        msg_put(piece)
    parent.flags &= ~MSG_PIECE


def piece_behind(msg, data, length):
    """Add the next piece of a reply, as a completed message after `msg` in its client's queue."""
    client: Conn = cython.cast(Conn, msg.client)
    piece: cython.pointer(Msg) = msg_get()
    if piece is cython.NULL:
        raise MemoryError
    msg_constant(piece, cython.address(piece.rsp), data, length)
    piece.flags = MSG_DONE
    piece.client = msg.client
    piece.held = length
    client.pending += length
    client.unsent += length
    piece.client_next = msg.client_next
    msg.client_next = piece
    # The last piece represents the request: it counts as answered when that piece is written.
    msg.flags |= MSG_PIECE
    client.pieces += 1
    if client.omsg_q.tail == msg:
        client.omsg_q.tail = piece
    client.omsg_q.count += 1
    return piece


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_numbers(parent: cython.pointer(Msg)) -> cython.int:
    """agg_sum, agg_min."""
    split: cython.pointer(Split) = parent.split
    total: cython.longlong = 0
    value: cython.longlong = 0
    index: cython.uint
    for index in range(split.nfrag):
        if not read_integer(split.frags[index].rsp.data, cython.address(value)):
            return unexpected_of(parent, index)
        if split.merge == MERGE_SUM:
            total += value
        elif index == 0 or value < total:
            total = value
    return put_number(parent, total)


@cython.cfunc
def texts(parent: cython.pointer(Msg)) -> list:
    """The raw replies of the fragments."""
    split: cython.pointer(Split) = parent.split
    index: cython.uint
    replies: list = []
    for index in range(split.nfrag):
        replies.append(split.frags[index].rsp.data[: split.frags[index].rsp.length])
    return replies


def decode(replies: list) -> list:
    """Replies as Python objects. Errors become hiredis.ReplyError objects, including blob errors,
    which are put on one line. So do valid replies that hiredis cannot represent, such as a map
    whose key is an array, or text that a script returns as a big number."""
    found: list = []
    for reply in replies:
        if reply[:1] == b"!":
            text = reply[reply.index(b"\r\n") + 2 : len(reply) - 2]
            reply = b"-%b\r\n" % text.translate(ONE_LINE)
        reader = hiredis.Reader()
        reader.feed(reply)
        try:
            value = reader.gets()
            while reader.has_data():
                # The first value was an attribute of the reply.
                value = reader.gets()
            found.append(value)
        except (hiredis.HiredisError, TypeError, ValueError):
            found.append(hiredis.ReplyError(UNDECODABLE))
    return found


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_numbers(parent: cython.pointer(Msg), numbers: list) -> cython.int:
    return put_text(
        parent, b"*%d\r\n" % len(numbers) + b"".join([b":%d\r\n" % number for number in numbers])
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_and(parent: cython.pointer(Msg)) -> cython.int:
    """agg_logical_and: an element of SCRIPT EXISTS is 1 if it is 1 on every server."""
    replies: list = decode(texts(parent))
    for index, reply in enumerate(replies):
        if not isinstance(reply, list) or len(reply) != len(replies[0]):
            return unexpected_of(parent, index)
    return put_numbers(parent, [int(all(column)) for column in zip(*replies, strict=True)])


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_concat(parent: cython.pointer(Msg)) -> cython.int:
    """No response policy: one array of all elements (KEYS). Sets are merged into a set."""
    split: cython.pointer(Split) = parent.split
    frag: cython.pointer(Msg)
    target: cython.p_char
    size: cython.size_t = 32
    pos: cython.size_t
    at: cython.size_t
    index: cython.uint
    elements: cython.longlong = 0
    kind: cython.char = split.frags[0].rsp.data[0]
    if kind == b"+":
        # ACL LOG RESET.
        return put_text(parent, split.frags[0].rsp.data[: split.frags[0].rsp.length])
    for index in range(split.nfrag):
        frag = split.frags[index]
        if frag.rsp.data[0] != kind or (kind != b"*" and kind != b"~"):
            return unexpected_of(parent, index)
        pos = 0
        elements += max(0, read_length(frag.rsp.data, cython.address(pos)))
        size += frag.rsp.length
    target = msg_reserve(parent, cython.address(parent.rsp), size)
    if target is cython.NULL:
        raise MemoryError
    at = put_length(target, kind, elements)
    for index in range(split.nfrag):
        frag = split.frags[index]
        pos = 0
        read_length(frag.rsp.data, cython.address(pos))
        memcpy(target + at, frag.rsp.data + pos, frag.rsp.length - pos)
        at += frag.rsp.length - pos
    parent.rsp.length = at
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_first(parent: cython.pointer(Msg)) -> cython.int:
    """RANDOMKEY: the first reply that is not null, if there is one."""
    split: cython.pointer(Split) = parent.split
    frag: cython.pointer(Msg) = split.frags[0]
    index: cython.uint
    for index in range(split.nfrag):
        frag = split.frags[index]
        if frag.rsp.data[0] != b"_" and not (frag.rsp.data[0] == b"$" and frag.rsp.data[1] == b"-"):
            break
    return put_text(parent, frag.rsp.data[: frag.rsp.length])


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_report(parent: cython.pointer(Msg)) -> cython.int:
    """Reports of servers about themselves, merged by the functions in reports.py."""
    split: cython.pointer(Split) = parent.split
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    servers: list = cython.cast(list, split.extra)
    names: list = [server.name for server in servers]
    try:
        reply = reports[row.number](decode(texts(parent)), names, split.resp)
    except (TypeError, ValueError, LookupError, AttributeError):
        return unexpected(parent)
    return put_text(parent, reply)


def merge_query(parent):
    """Let the local handler that asked the servers make the reply. If there is not enough memory
    for their replies, it gets None, because its client waits for a reply in any case."""
    try:
        replies = texts(parent)
    except MemoryError:
        replies = None
    return put_text(parent, cython.cast(object, parent.split.extra)(replies))
