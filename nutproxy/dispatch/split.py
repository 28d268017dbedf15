# nutproxy/dispatch/split.py: a request with keys on several servers
"""Sends a request in parts, one for each server that holds some of its keys.

    MSET a 1 b 2 c 3                      head          ranges of the keys        tail
      a and c are on s1:  s1   *5 $4 MSET     | $1 a $1 1 | $1 c $1 3 |
      b is on s2:         s2   *3 $4 MSET     | $1 b $1 2 |

    get a b c             s1   get            |  a        |  c        |   \\r\\n
                          s2   get            |  b        |               \\r\\n

A part repeats one range of the request for each of its keys, in their order. The `Layout` of the
protocol says where the ranges are, and what is written before and after them.

There are three linear passes over the keys, none of which uses Python objects:

    group   the route gives each key a number: keys with one number may share a message
    plan    number the parts, in the order of their first keys, and add up their sizes
    fill    copy the ranges

If one server holds all keys, the request is forwarded whole.
"""

import cython
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.nutproxy.dispatch.forward import forward_key, forward_one, parent_of
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.msg.message import (
    MSG_REQ_PIECES,
    Msg,
    msg_copy,
    msg_drop,
    msg_put,
    msg_take,
)
from cython.cimports.nutproxy.msg.parse import Arg
from cython.cimports.nutproxy.msg.pieces import (
    PIECE_MIN,
    Builder,
    builder_begin,
    builder_copy,
    builder_end,
    builder_undo,
    put_large,
)
from cython.cimports.nutproxy.route import NO_GROUP, Route

# Parts of a request of at least this size share its large values. It has a block of its own.
SHARE_MIN = cython.declare(cython.size_t, 1 << 20)
NO_LIMIT = cython.declare(cython.size_t, cython.cast(cython.size_t, -1) >> 1)

# By group: the number of its newest part, or 0. All are 0 between two requests.
newest = cython.declare(cython.pointer(cython.uint), cython.NULL)
newest_room = cython.declare(cython.uint, 0)


def split(client, row, data, parser, layout, flags):
    """Send a request with at least one key, which is `data` up to parser.pos, to the servers of its
    keys."""
    route: Route = client.frontend.route
    first: cython.pointer(Arg) = cython.address(parser.argv[layout.first])
    nkeys: cython.uint = layout.nkeys
    length: cython.size_t = parser.pos - layout.start
    fits: cython.bint = not layout.rewritten and (layout.limit == 0 or length <= layout.limit)
    one: Split
    if fits and (nkeys == 1 or route.ngroups == 1):
        return forward_key(
            client, row, data + layout.start, length, data + first.offset, first.length, flags
        )
    memset(cython.address(one), 0, cython.sizeof(Split))
    one.layout = layout
    one.data = data
    one.parser = parser
    one.nkeys = nkeys
    one.large = NO_LIMIT
    if parser.pos >= SHARE_MIN and client.block == data:
        one.large = PIECE_MIN
    try:
        make_room(cython.address(one), route.ngroups)
        if route.group(data, first, layout.step, nkeys, one.groups):
            if layout.rewritten:
                return send_nowhere(client, row, cython.address(one), flags)
            return forward_one(client, row, data + layout.start, length, NO_GROUP, flags)
        plan(cython.address(one))
        if fits and one.count == 1:
            return forward_one(
                client,
                row,
                data + layout.start,
                length,
                one.plans[1].group,
                flags,
            )
        return send_split(client, row, cython.address(one), flags)
    finally:
        release(cython.address(one))


def split_parts(client, row, data, parser, layout):
    """Make the command of a request, and its parts, of which each has its group as `hash`. Nothing
    is sent or queued. NULL: one group has all keys; `layout.group` is set to it."""
    route: Route = client.frontend.route
    first: cython.pointer(Arg) = cython.address(parser.argv[layout.first])
    msg: cython.pointer(Msg) = cython.NULL
    index: cython.uint
    one: Split
    memset(cython.address(one), 0, cython.sizeof(Split))
    one.layout = layout
    one.data = data
    one.parser = parser
    one.nkeys = layout.nkeys
    one.large = NO_LIMIT
    try:
        make_room(cython.address(one), route.ngroups)
        layout.group = NO_GROUP
        if route.group(data, first, layout.step, one.nkeys, one.groups):
            return cython.NULL
        plan(cython.address(one))
        layout.group = one.plans[1].group
        if one.count == 1:
            return cython.NULL
        begin(client, row, cython.address(one), 0)
        fill(cython.address(one))
        msg = one.msg
        one.msg = cython.NULL
        for index in range(msg.join.count):
            msg.join.parts[index].hash = one.plans[index + 1].group
        return msg
    finally:
        release(cython.address(one))


@cython.cfunc
@cython.exceptval(-1, check=False)
def send_nowhere(
    client: ClientConn, row: cython.p_void, one: cython.pointer(Split), flags: cython.uint
) -> cython.int:
    """No server is live: make one part, which fails."""
    memset(one.groups, 0, one.nkeys * cython.sizeof(cython.uint))
    plan(one)
    one.plans[1].group = cython.cast(cython.uint, NO_GROUP)
    return send_split(client, row, one, flags)


@cython.cfunc
@cython.exceptval(-1, check=False)
def send_split(
    client: ClientConn, row: cython.p_void, one: cython.pointer(Split), flags: cython.uint
) -> cython.int:
    """Make the parts that are planned, and send them."""
    route: Route = client.frontend.route
    index: cython.uint
    msg: cython.pointer(Msg)
    if one.large == PIECE_MIN:
        leave_out_large(one)
    begin(client, row, one, flags)
    fill(one)
    msg = one.msg
    if one.large == PIECE_MIN and not one.layout.kept:
        # The parts keep the block.
        msg_drop(cython.address(msg.req))
    one.msg = cython.NULL
    client.enqueue_outq(client, msg)
    # If all of them fail at once, the command may be complete after the last.
    for index in range(msg.join.count):
        route.submit(msg.join.parts[index], one.plans[index + 1].group, client.id, client.profile)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def make_room(one: cython.pointer(Split), ngroups: cython.uint) -> cython.int:
    """Allocate what the passes write."""
    global newest, newest_room
    most: cython.size_t = one.nkeys
    grown: cython.pointer(cython.uint)
    if one.layout.limit == 0:
        most = min(most, ngroups)
    if newest_room < ngroups:
        grown = cython.cast(
            cython.pointer(cython.uint), realloc(newest, ngroups * cython.sizeof(cython.uint))
        )
        if grown is cython.NULL:
            raise MemoryError
        memset(grown + newest_room, 0, (ngroups - newest_room) * cython.sizeof(cython.uint))
        newest = grown
        newest_room = ngroups
    # One block, as a malloc and its free cost as much as several keys.
    one.plans = cython.cast(
        cython.pointer(Plan),
        malloc(
            (1 + most) * cython.sizeof(Plan)
            + most * cython.sizeof(Builder)
            + one.nkeys * cython.sizeof(cython.uint)
        ),
    )
    if one.plans is cython.NULL:
        raise MemoryError
    one.builders = cython.cast(cython.pointer(Builder), one.plans + 1 + most)
    one.groups = cython.cast(cython.pointer(cython.uint), one.builders + most)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def release(one: cython.pointer(Split)) -> cython.void:
    index: cython.uint
    if one.msg is not cython.NULL:
        # Memory has run out.
        for index in range(one.begun):
            builder_undo(cython.address(one.builders[index]))
        msg_put(one.msg)
    free(one.plans)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def before_keys(one: cython.pointer(Split)) -> cython.size_t:
    """The end of what precedes the range of the first key."""
    arg: cython.pointer(cython.const[Arg])
    arg = cython.address(one.parser.argv[one.layout.first - 1])
    return arg.offset + arg.length + one.layout.trail


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def range_end(
    layout: cython.pointer(Layout), key: cython.pointer(cython.const[Arg])
) -> cython.size_t:
    last: cython.pointer(cython.const[Arg]) = key + (layout.step - 1)
    return last.offset + last.length + layout.trail


@cython.cfunc
@cython.exceptval(check=False)
def plan(one: cython.pointer(Split)) -> cython.void:
    """Number the parts, and add up their sizes and their keys."""
    # Local variables, so that the compiler can keep them in registers.
    layout: Layout = one.layout[0]
    groups: cython.pointer(cython.uint) = one.groups
    plans: cython.pointer(Plan) = one.plans
    numbers: cython.pointer(cython.uint) = newest
    limit: cython.size_t = layout.limit or NO_LIMIT
    key: cython.pointer(cython.const[Arg]) = cython.address(one.parser.argv[layout.first])
    end: cython.size_t = before_keys(one)
    start: cython.size_t
    count: cython.uint = 0
    index: cython.uint
    number: cython.uint
    size: cython.size_t
    # It has no room, so that the first key of a group gets a new part.
    plans[0].size = limit
    for index in range(one.nkeys):
        start = key.offset - layout.lead if layout.lead else end
        end = range_end(cython.address(layout), key)
        number = numbers[groups[index]]
        size = plans[number].size + (end - start)
        if size > limit:
            count += 1
            number = count
            plans[number].group = groups[index]
            plans[number].keys = 0
            size = layout.head + layout.tail_size + (end - start)
            numbers[groups[index]] = number
        plans[number].size = size
        plans[number].keys += 1
        groups[index] = number - 1
        key += layout.step
    for index in range(1, count + 1):
        numbers[plans[index].group] = 0
    one.count = count


@cython.cfunc
@cython.exceptval(check=False)
def leave_out_large(one: cython.pointer(Split)) -> cython.void:
    """Take the ranges that are shared from the sizes of the parts: only the others are copied."""
    layout: Layout = one.layout[0]
    key: cython.pointer(cython.const[Arg]) = cython.address(one.parser.argv[layout.first])
    end: cython.size_t = before_keys(one)
    start: cython.size_t
    index: cython.uint
    for index in range(one.nkeys):
        start = key.offset - layout.lead if layout.lead else end
        end = range_end(cython.address(layout), key)
        if end - start >= PIECE_MIN:
            one.plans[one.groups[index] + 1].size -= end - start
        key += layout.step


@cython.cfunc
@cython.exceptval(-1, check=False)
def begin(
    client: ClientConn,
    row: cython.p_void,
    one: cython.pointer(Split),
    flags: cython.uint,
) -> cython.int:
    """Make the message of the command, and give it what it keeps of the request."""
    layout: cython.pointer(cython.const[Layout]) = one.layout
    msg: cython.pointer(Msg) = parent_of(
        client, row, one.count, one.nkeys if layout.ordered else 0, layout.finish, flags
    )
    one.msg = msg
    if layout.ordered:
        memcpy(msg.join.sequence, one.groups, one.nkeys * cython.sizeof(cython.uint))
    if one.large == PIECE_MIN:
        msg_take(msg, cython.address(msg.req), client.block, one.parser.pos)
        client.block = cython.NULL
    elif (
        layout.kept
        and msg_copy(
            msg,
            cython.address(msg.req),
            one.data + layout.start,
            one.parser.pos - layout.start,
        )
        < 0
    ):
        raise MemoryError
    msg.charge = one.parser.pos * (2 if layout.kept else 1) + one.count * layout.tail_size
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def fill(one: cython.pointer(Split)) -> cython.int:
    """Make the requests of the parts."""
    layout: Layout = one.layout[0]
    data: cython.p_const_char = one.data
    groups: cython.pointer(cython.uint) = one.groups
    large: cython.size_t = one.large
    key: cython.pointer(cython.const[Arg]) = cython.address(one.parser.argv[layout.first])
    end: cython.size_t = before_keys(one)
    start: cython.size_t
    builders: cython.pointer(Builder) = one.builders
    builder: cython.pointer(Builder)
    part: cython.pointer(Msg)
    index: cython.uint
    for index in range(one.count):
        builder = cython.address(builders[index])
        part = one.msg.join.parts[index]
        part.flags |= layout.part_flags
        one.begun = index + 1
        builder_begin(builder, part, cython.address(part.req), one.plans[index + 1].size)
        builder.at = layout.put_head(
            builder.buffer, data, one.parser, one.layout, one.plans[index + 1].keys
        )
    for index in range(one.nkeys):
        start = key.offset - layout.lead if layout.lead else end
        end = range_end(cython.address(layout), key)
        builder = cython.address(builders[groups[index]])
        if end - start < large:
            builder_copy(builder, data + start, end - start)
        else:
            put_large(builder, cython.address(one.msg.req), start, end - start)
        key += layout.step
    for index in range(one.count):
        builder = cython.address(builders[index])
        part = builder.msg
        builder_copy(builder, layout.tail, layout.tail_size)
        builder_end(builder, MSG_REQ_PIECES)
        if part.flags & MSG_REQ_PIECES:
            # However small its pieces are, they keep the whole block.
            part.queued = one.parser.pos
        # The pieces belong to the part now.
        builder.bodies = cython.NULL
        builder.count = 0
    return 0
