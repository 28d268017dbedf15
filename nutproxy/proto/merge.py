# nutproxy/proto/merge.py: merges several replies into one
"""Makes the reply to a command that was sent in parts, by the response policy of its row.

The replies to the parts have passed the parser and came from connections with the client's protocol
version, so their elements are used unchanged. Small elements are copied into one buffer. A large
one is sent from where it was received: it is a piece of the reply. If a part failed, the reply is
its error. The error of a server is passed through, and if other parts may have changed data, the
text says so. Every merge is linear in the number of bytes.
"""

from random import randrange

import cython
import hiredis
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcmp
from cython.cimports.nutproxy.msg.message import (
    MSG_ERROR,
    MSG_PIECES,
    Join,
    msg_copy,
)
from cython.cimports.nutproxy.msg.parse import PARSE_OK, Parser, parser_reset
from cython.cimports.nutproxy.msg.pieces import (
    Builder,
    builder_begin,
    builder_end,
    builder_put,
    builder_undo,
)
from cython.cimports.nutproxy.proto.redis import (
    put_length,
    read_integer,
    read_length,
    redis_parse_rsp,
    short_bulk,
)
from cython.cimports.nutproxy.proto.row import Row

from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS
from nutproxy.proto.reports import REPORTS

# Lines of all servers' replies that are merged as Python objects: 20 to 30 ms.
REPORT_LINES = 20000

UNDECODABLE = errors.ERRORS["reply_form"].text.decode()
# By row number: the function that merges decoded replies, or None.
reports: list = [REPORTS.get(command.response_policy) for command in COMMANDS.values()]
ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def size_here(data: cython.p_const_char, length: cython.size_t) -> cython.size_t:
    """As element_size, for the loops of this module: they call it for each key."""
    parser: Parser
    value: cython.longlong
    pos: cython.size_t = short_bulk(data, length)
    if pos:
        return pos
    if data[0] == b"$":
        value = read_length(data, cython.address(pos))
        return pos if value < 0 else pos + value + 2
    parser_reset(cython.address(parser))
    if redis_parse_rsp(cython.address(parser), cython.NULL, data, length) != PARSE_OK:
        return length
    return parser.pos


def element_size(data, length):
    return size_here(data, length)


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
    """Use the error of one part as the reply. `written` says that other parts may have
    changed data."""
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    text: bytes = failed.rsp.data[: failed.rsp.length]
    if written and text[:1] == b"-":
        text = errors.add(text, "other_keys" if row.specs > 0 else "other_servers", row.name)
    return put_text(parent, text)


@cython.cfunc
@cython.exceptval(-1, check=False)
def unexpected(parent: cython.pointer(Msg)) -> cython.int:
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    return put_text(parent, errors.error("part_form", row.name))


def unexpected_of(parent, index):
    """Like `unexpected`, for the reply of a known part. Names the server if all servers were
    sent the same request."""
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    servers: list
    if parent.join.extra is cython.NULL:
        return unexpected(parent)
    servers = cython.cast(list, parent.join.extra)
    text = errors.cause("form", row.name.decode())
    return put_text(parent, servers[index].error_reply(text))


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_number(parent: cython.pointer(Msg), value: cython.longlong) -> cython.int:
    return put_text(parent, b":%d\r\n" % value)


@cython.cfunc
@cython.exceptval(check=False)
def not_busy(part: cython.pointer(Msg)) -> cython.bint:
    """Whether this error says that no script is running. The error of a server on which one runs is
    preferred to it."""
    return part.rsp.length > 9 and memcmp(part.rsp.data, b"-NOTBUSY ", 9) == 0


def put_failure(parent):
    """If a part has failed, its error is the reply. Returns whether one has."""
    join: cython.pointer(Join) = parent.join
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    failed: cython.pointer(Msg) = cython.NULL
    good: cython.bint = False
    part: cython.pointer(Msg)
    index: cython.uint
    for index in range(join.count):
        part = join.parts[index]
        if not part.flags & MSG_ERROR:
            good = True
        elif failed is cython.NULL or not_busy(failed):
            failed = part
    if failed is cython.NULL:
        return False
    put_error(parent, failed, row.partial and good)
    return True


def merge_all(parent):
    """all_succeeded: an error if there is one, else the first reply."""
    part: cython.pointer(Msg)
    if put_failure(parent):
        return 0
    part = parent.join.parts[0]
    return put_text(parent, part.rsp.data[: part.rsp.length])


def merge_one(parent):
    """one_succeeded: the first reply that is not an error."""
    join: cython.pointer(Join) = parent.join
    part: cython.pointer(Msg)
    index: cython.uint
    for index in range(join.count):
        part = join.parts[index]
        if not part.flags & MSG_ERROR:
            return put_text(parent, part.rsp.data[: part.rsp.length])
    put_failure(parent)
    return 0


def merge_keys(parent):
    """MGET: the elements of all parts in the order of the keys."""
    join: cython.pointer(Join) = parent.join
    part: cython.pointer(Msg)
    builder: Builder
    size: cython.size_t = 32
    at: cython.size_t
    index: cython.uint
    number: cython.uint
    elements: cython.longlong = 0
    cursors: cython.pointer(cython.size_t)
    if put_failure(parent):
        return 0
    cursors = cython.cast(
        cython.pointer(cython.size_t), malloc(join.count * cython.sizeof(cython.size_t))
    )
    if cursors is cython.NULL:
        raise MemoryError
    try:
        for index in range(join.count):
            part = join.parts[index]
            cursors[index] = 0
            if part.rsp.data[0] != b"*":
                return unexpected(parent)
            elements += read_length(part.rsp.data, cython.address(cursors[index]))
            size += part.rsp.length
        if elements != join.nkeys:
            return unexpected(parent)
        builder_begin(cython.address(builder), parent, cython.address(parent.rsp), size)
        builder.at = put_length(builder.buffer, b"*", join.nkeys)
        for index in range(join.nkeys):
            number = join.sequence[index]
            part = join.parts[number]
            at = cursors[number]
            if at >= part.rsp.length:
                # The total number of elements is right, but this part has too few.
                builder_undo(cython.address(builder))
                return unexpected(parent)
            size = size_here(part.rsp.data + at, part.rsp.length - at)
            builder_put(cython.address(builder), cython.address(part.rsp), at, size)
            cursors[number] = at + size
        return builder_end(cython.address(builder), MSG_PIECES)
    finally:
        free(cursors)


def merge_sum(parent):
    """agg_sum."""
    return merge_numbers(parent, True)


def merge_min(parent):
    """agg_min."""
    return merge_numbers(parent, False)


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_numbers(parent: cython.pointer(Msg), add: cython.bint) -> cython.int:
    join: cython.pointer(Join) = parent.join
    total: cython.longlong = 0
    value: cython.longlong = 0
    index: cython.uint
    if put_failure(parent):
        return 0
    for index in range(join.count):
        if not read_integer(join.parts[index].rsp.data, cython.address(value)):
            return unexpected_of(parent, index)
        if add:
            total += value
        elif index == 0 or value < total:
            total = value
    return put_number(parent, total)


@cython.cfunc
def texts(parent: cython.pointer(Msg)) -> list:
    """The raw replies to the parts."""
    join: cython.pointer(Join) = parent.join
    index: cython.uint
    replies: list = []
    for index in range(join.count):
        replies.append(join.parts[index].rsp.data[: join.parts[index].rsp.length])
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


def merge_and(parent):
    """agg_logical_and: an element of SCRIPT EXISTS is 1 if it is 1 on every server."""
    replies: list
    if put_failure(parent):
        return 0
    replies = decode(texts(parent))
    for index, reply in enumerate(replies):
        if not isinstance(reply, list) or len(reply) != len(replies[0]):
            return unexpected_of(parent, index)
    return put_numbers(parent, [int(all(column)) for column in zip(*replies, strict=True)])


def merge_concat(parent):
    """No response policy: one array of all elements (KEYS). Sets are merged into a set."""
    join: cython.pointer(Join) = parent.join
    part: cython.pointer(Msg)
    builder: Builder
    size: cython.size_t = 32
    pos: cython.size_t
    index: cython.uint
    elements: cython.longlong = 0
    kind: cython.char = join.parts[0].rsp.data[0]
    if put_failure(parent):
        return 0
    if kind == b"+":
        # ACL LOG RESET.
        return put_text(parent, join.parts[0].rsp.data[: join.parts[0].rsp.length])
    for index in range(join.count):
        part = join.parts[index]
        if part.rsp.data[0] != kind or (kind != b"*" and kind != b"~"):
            return unexpected_of(parent, index)
        pos = 0
        elements += max(0, read_length(part.rsp.data, cython.address(pos)))
        size += part.rsp.length
    builder_begin(cython.address(builder), parent, cython.address(parent.rsp), size)
    builder.at = put_length(builder.buffer, kind, elements)
    for index in range(join.count):
        part = join.parts[index]
        pos = 0
        read_length(part.rsp.data, cython.address(pos))
        builder_put(cython.address(builder), cython.address(part.rsp), pos, part.rsp.length - pos)
    return builder_end(cython.address(builder), MSG_PIECES)


def merge_by_size(parent):
    """RANDOMKEY: each key of the pool with the same probability. The first half of the parts are
    the sizes of the servers, the second half a key of each, or null."""
    join: cython.pointer(Join) = parent.join
    count: cython.uint = join.count // 2
    part: cython.pointer(Msg) = join.parts[count]
    size: cython.longlong = 0
    total: cython.longlong = 0
    index: cython.uint
    builder: Builder
    if put_failure(parent):
        return 0
    for index in range(count):
        if not read_integer(join.parts[index].rsp.data, cython.address(size)) or size < 0:
            return unexpected_of(parent, index)
        if is_null(join.parts[count + index]):
            continue
        # Its key may be newer than its size.
        size = max(size, 1)
        total += size
        # Each server replaces those before it with the probability of its share of the keys so far.
        if randrange(total) < size:
            part = join.parts[count + index]
    builder_begin(cython.address(builder), parent, cython.address(parent.rsp), part.rsp.length)
    builder_put(cython.address(builder), cython.address(part.rsp), 0, part.rsp.length)
    return builder_end(cython.address(builder), MSG_PIECES)


@cython.cfunc
@cython.exceptval(check=False)
def is_null(part: cython.pointer(Msg)) -> cython.bint:
    return part.rsp.data[0] == b"_" or (part.rsp.data[0] == b"$" and part.rsp.data[1] == b"-")


def merge_report(parent):
    """Reports of servers about themselves, merged by the functions in reports.py."""
    join: cython.pointer(Join) = parent.join
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), parent.row)
    servers: list = cython.cast(list, join.extra)
    names: list = [server.name for server in servers]
    lines: cython.Py_ssize_t = 0
    if put_failure(parent):
        return 0
    replies = texts(parent)
    for reply in replies:
        lines += reply.count(b"\r\n")
    if lines > REPORT_LINES:
        return put_text(parent, errors.report_too_long(row.name.decode(), lines, REPORT_LINES))
    try:
        reply = reports[row.number](decode(replies), names, join.protover)
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
    return put_text(parent, cython.cast(object, parent.join.extra)(replies))
