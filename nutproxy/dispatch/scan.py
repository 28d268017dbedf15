# nutproxy/dispatch/scan.py: SCAN and RANDOMKEY over the servers of a pool
"""One scan visits the servers one after the other. The client's cursor carries all that is known of
it; nutproxy keeps nothing.

    client's cursor     server's cursor << 16 | place       0 at the beginning and at the end

    SCAN 0           ──> first place p: SCAN 0    ──> page, cursor 40   ──> page, 40 << 16 | p
    SCAN 40<<16|p    ──> place p:       SCAN 40   ──> page, cursor 0    ──> page,  0 << 16 | q
    SCAN 0<<16|q     ──> next place q:  SCAN 0    ──> page, cursor 0    ──> page, 0 if q is the last

A place is a number that belongs to the name of a server (members.py). So a cursor means the same
server in every nutproxy with this pool, and after other servers have been added, removed or
ejected. Places are visited in ascending order, so every scan ends. A server that is down or ejected
is not skipped: its error is the reply, and the client may send the same cursor again. The cursor of
a server that has been removed from the pool is refused.

The place is in the low bits. So cursors stay below 2^53, where clients that hold them as
floating-point numbers are exact, as long as the server's table has at most 2^37 buckets. A server's
cursor of 2^47 or more is refused, so no cursor is above 2^63 - 1.

Only the cursor is read and replaced, in the request and in the reply. The server checks the other
arguments, and a large page is sent from where it was received.

RANDOMKEY asks every live server for a key and for its number of keys, in this order of the parts:

    DBSIZE of s1 … sn, RANDOMKEY of s1 … sn    ──> merge_by_size draws one of the keys
"""

import cython
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.nutproxy.dispatch.forward import answer, parent_of
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.msg.message import (
    MSG_PIECES,
    Msg,
    msg_constant,
    msg_copy,
    msg_put,
    msg_reserve,
)
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.msg.pieces import (
    Builder,
    builder_begin,
    builder_end,
    builder_put,
)
from cython.cimports.nutproxy.proto.merge import put_failure, put_text, unexpected_of
from cython.cimports.nutproxy.proto.redis import put_length, read_length
from cython.cimports.nutproxy.route import Route

from nutproxy.proto import errors

PLACE_BITS = cython.declare(cython.int, 16)
# Cursors of a server must be below this one, so that those of clients are below 2^63.
CURSOR_END = cython.declare(uint64_t, 1 << 47)
# A number with at most this many digits is below 2^64.
DIGITS = cython.declare(cython.size_t, 19)
# The most bytes of a cursor in a request or a reply: its length line, 20 digits, the line end.
CURSOR_SIZE = cython.declare(cython.longlong, 32)


def scan(client, row, data, parser, flags):
    """Send a SCAN to the server that its cursor names."""
    frontend: Frontend = client.frontend
    route: Route = frontend.route
    cursor: uint64_t = 0
    place: uint32_t
    # What is not a cursor of ours is sent on as it is: the server refuses it, or takes it for 0, as
    # Redis does with `+0`.
    read_cursor(data, cython.address(parser.argv[1]), cython.address(cursor))
    place = cursor & ((1 << PLACE_BITS) - 1) if cursor else route.place_after(0)
    member = route.member_at(place)
    if member is None:
        text: bytes = errors.error("scan_member", b"%d" % cursor, frontend.name.encode())
        return answer(client, text, flags, True)
    extra = [member, place, route.place_after(place)]
    msg: cython.pointer(Msg) = parent_of(client, row, 1, 0, merge_page, flags)
    Py_INCREF(extra)
    msg.join.extra = cython.cast(cython.p_void, extra)
    if put_request(msg.join.parts[0], data, parser, cursor) < 0:
        msg_put(msg)
        raise MemoryError
    msg.charge = msg.join.parts[0].req.length
    client.enqueue_outq(client, msg)
    return route.submit(msg.join.parts[0], member.index, client.id, client.profile)


def send_sized(client, row, data, length, members, flags):
    """Send the same request to these members, and before it DBSIZE: merge_by_size."""
    route: Route = client.frontend.route
    count: cython.uint = len(members)
    extra: list = members + members
    msg: cython.pointer(Msg) = parent_of(client, row, 2 * count, 0, row.finish, flags)
    part: cython.pointer(Msg)
    index: cython.uint
    Py_INCREF(extra)
    msg.join.extra = cython.cast(cython.p_void, extra)
    msg.join.max_arrived = client.frontend.max_merged_reply
    for index in range(count):
        part = msg.join.parts[index]
        msg_constant(part, cython.address(part.req), b"*1\r\n$6\r\nDBSIZE\r\n", 16)
        part = msg.join.parts[count + index]
        if msg_copy(part, cython.address(part.req), data, length) < 0:
            msg_put(msg)
            raise MemoryError
    msg.charge = count * (16 + length)
    client.enqueue_outq(client, msg)
    for index in range(2 * count):
        route.submit(msg.join.parts[index], extra[index].index, client.id, client.profile)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def read_cursor(
    data: cython.p_const_char, arg: cython.pointer(Arg), cursor: cython.pointer(uint64_t)
) -> cython.bint:
    """Read a cursor. Returns False, and reads nothing, if it is not a number below 10^19."""
    value: uint64_t = 0
    digits: cython.size_t = 0
    digit: cython.int
    at: cython.size_t
    for at in range(arg.offset, arg.offset + arg.length):
        digit = data[at] - 48
        if digit < 0 or digit > 9:
            return False
        value = value * 10 + digit
        digits += value > 0
        if digits > DIGITS:
            return False
    cursor[0] = value
    return arg.length > 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_request(
    part: cython.pointer(Msg),
    data: cython.p_const_char,
    parser: cython.pointer(Parser),
    cursor: uint64_t,
) -> cython.int:
    """Give `part` the client's request, with the server's cursor in it."""
    name: cython.pointer(Arg) = cython.address(parser.argv[0])
    arg: cython.pointer(Arg) = cython.address(parser.argv[1])
    # The length line of the cursor begins after the name, and the next argument after the cursor.
    start: cython.size_t = name.offset + name.length + 2
    end: cython.size_t = arg.offset + arg.length + 2
    target: cython.p_char
    at: cython.size_t = start
    target = msg_reserve(part, cython.address(part.req), parser.pos + CURSOR_SIZE)
    if target is cython.NULL:
        return -1
    memcpy(target, data, start)
    if cursor == 0:
        memcpy(target + start, data + start, end - start)
        at = end
    else:
        at += put_cursor(target + start, cursor >> PLACE_BITS)
    memcpy(target + at, data + end, parser.pos - end)
    part.req.length = at + parser.pos - end
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def put_cursor(target: cython.p_char, cursor: uint64_t) -> cython.size_t:
    """Write a cursor as a bulk string. Returns its size, at most CURSOR_SIZE."""
    digits: cython.char[23]
    # `:` and the line end are not digits.
    count: cython.size_t = put_length(digits, b":", cursor) - 3
    size: cython.size_t = put_length(target, b"$", count)
    memcpy(target + size, digits + 1, count + 2)
    return size + count + 2


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_page(parent: cython.pointer(Msg)) -> cython.int:
    """Make the client's page of the server's: replace the cursor."""
    part: cython.pointer(Msg) = parent.join.parts[0]
    page: cython.p_char = part.rsp.data
    builder: Builder
    arg: Arg
    at: cython.size_t = 0
    length: cython.longlong
    cursor: uint64_t = CURSOR_END
    member, place, after = cython.cast(list, parent.join.extra)
    if put_failure(parent):
        return 0
    if page[0] != b"*" or read_length(page, cython.address(at)) != 2 or page[at] != b"$":
        return unexpected_of(parent, 0)
    length = read_length(page, cython.address(at))
    if length < 1 or length > CURSOR_SIZE:
        return unexpected_of(parent, 0)
    arg.offset = at
    arg.length = length
    if not read_cursor(page, cython.address(arg), cython.address(cursor)) or cursor >= CURSOR_END:
        text: bytes = errors.error("scan_large", page[at : at + length], member.name.encode())
        return put_text(parent, text)
    cursor = cursor << PLACE_BITS | cython.cast(uint32_t, place) if cursor else after
    at += length + 2
    builder_begin(
        cython.address(builder), parent, cython.address(parent.rsp), part.rsp.length + CURSOR_SIZE
    )
    builder.at = put_length(builder.buffer, b"*", 2)
    builder.at += put_cursor(builder.buffer + builder.at, cursor)
    builder_put(cython.address(builder), cython.address(part.rsp), at, part.rsp.length - at)
    return builder_end(cython.address(builder), MSG_PIECES)
