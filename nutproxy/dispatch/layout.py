# nutproxy/dispatch/layout.py: where the keys and their values are in a Redis request
"""The Layout of a request that is split by the servers of its keys (split.py)."""

import cython
from cython.cimports.libc.string import memcpy
from cython.cimports.nutproxy.dispatch.forward import answer
from cython.cimports.nutproxy.dispatch.keys import find_keys, release_keys
from cython.cimports.nutproxy.dispatch.layout import AS_IT_IS, LAID_OUT, REFUSED, TOGETHER
from cython.cimports.nutproxy.dispatch.split import Layout
from cython.cimports.nutproxy.dispatch.words import too_long
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.proto.redis import put_length
from cython.cimports.nutproxy.proto.row import Option, Row
from cython.cimports.nutproxy.proto.table import option_at
from cython.cimports.nutproxy.route import Route

from nutproxy.proto import errors
from nutproxy.proto.table import names

# Maximum bytes that are repeated in every part of a request.
TAIL_MAX = cython.declare(cython.size_t, 4096)


def lay_out(client, row, data, parser, layout, flags):
    """A key and its values are adjacent."""
    name: cython.pointer(Arg) = cython.address(parser.argv[0])
    layout.start = 0
    layout.step = row.spec[0].step
    if row.repeats:
        return lay_out_repeating(client, row, data, parser, layout, flags)
    layout.first = 1
    layout.nkeys = (parser.argc - 1) // layout.step
    if layout.nkeys * layout.step != parser.argc - 1:
        answer(client, errors.wrong_arity(names[row.number]), flags, True)
        return REFUSED
    if parser.argc > row.max_args and client.frontend.route.ngroups > 1:
        too_long(client, row, parser, flags)
        return REFUSED
    layout.put_head = put_name
    # put_length writes at most 23 bytes.
    layout.head = 23 + name_end(name) - name_start(name)
    layout.tail = b""
    layout.tail_size = 0
    set_ranges(layout, row)
    return LAID_OUT


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def set_ranges(layout: cython.pointer(Layout), row: cython.pointer(Row)) -> cython.void:
    """Set what all commands have in common. A range has the length lines of its arguments, and the
    CR LF after each."""
    layout.lead = 0
    layout.trail = 2
    layout.limit = 0
    layout.finish = row.finish
    layout.ordered = row.by_key
    layout.kept = layout.rewritten = False
    layout.part_flags = 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def lay_out_repeating(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    layout: cython.pointer(Layout),
    flags: cython.uint,
) -> cython.int:
    """MSETEX and JSON.MGET: each part gets the arguments after the keys, and a number of keys.

    The request is not split if an option after the keys may be a condition on all of them, or if
    too much would be repeated. Then all keys must be on one server."""
    route: Route = client.frontend.route
    name: cython.pointer(Arg) = cython.address(parser.argv[0])
    count: cython.int = 0
    first: cython.uint = 0
    after: cython.uint
    last: cython.pointer(Arg)
    keys: cython.pointer(cython.uint) = find_keys(row, data, parser, cython.address(count))
    if keys is cython.NULL:
        raise MemoryError
    if count > 0:
        first = keys[0]
    release_keys(keys)
    after = first + count * layout.step
    if count <= 0 or after > parser.argc:
        # The server says what is wrong.
        return AS_IT_IS
    last = cython.address(parser.argv[after - 1])
    layout.tail = data + last.offset + last.length + 2
    layout.tail_size = parser.pos - (last.offset + last.length + 2)
    if layout.tail_size > TAIL_MAX or (
        row.spec[0].keynum and not only_options(row, data, parser, after)
    ):
        return TOGETHER
    if route.ngroups > 1 and parser.argc > row.max_args:
        too_long(client, row, parser, flags)
        return REFUSED
    layout.first = first
    layout.nkeys = count
    layout.put_head = put_counted
    layout.head = 3 * 23 + name_end(name) - name_start(name)
    set_ranges(layout, row)
    return LAID_OUT


@cython.cfunc
@cython.exceptval(check=False)
def only_options(
    row: cython.pointer(Row),
    data: cython.p_const_char,
    parser: cython.pointer(Parser),
    index: cython.uint,
) -> cython.bint:
    """Whether the arguments from `index` on are options of the row and their values."""
    option: cython.pointer(Option)
    while index < parser.argc:
        option = option_at(row, parser, data, index)
        if option is cython.NULL:
            return False
        index += 1 + option.values
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def name_start(name: cython.pointer(cython.const[Arg])) -> cython.size_t:
    """The start of the length line of the command's name. It has no leading zeros."""
    size: cython.size_t = 4
    length: cython.size_t = name.length
    while length > 9:
        length //= 10
        size += 1
    return name.offset - size


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def name_end(name: cython.pointer(cython.const[Arg])) -> cython.size_t:
    """The position after its CR LF."""
    return name.offset + name.length + 2


@cython.cfunc
@cython.exceptval(check=False)
def put_name(
    target: cython.p_char,
    data: cython.p_const_char,
    parser: cython.pointer(cython.const[Parser]),
    layout: cython.pointer(cython.const[Layout]),
    keys: cython.size_t,
) -> cython.size_t:
    """Write the number of arguments, and the command's name with its length line."""
    start: cython.size_t = name_start(parser.argv)
    length: cython.size_t = name_end(parser.argv) - start
    size: cython.size_t = put_length(target, b"*", 1 + keys * layout.step)
    memcpy(target + size, data + start, length)
    return size + length


@cython.cfunc
@cython.exceptval(check=False)
def put_counted(
    target: cython.p_char,
    data: cython.p_const_char,
    parser: cython.pointer(cython.const[Parser]),
    layout: cython.pointer(cython.const[Layout]),
    keys: cython.size_t,
) -> cython.size_t:
    """Write the same for a command with arguments before or after the keys. The only argument that
    may come before them is their number."""
    start: cython.size_t = name_start(parser.argv)
    length: cython.size_t = name_end(parser.argv) - start
    others: cython.size_t = (layout.nkeys - keys) * layout.step
    digits: cython.size_t = 1
    rest: cython.size_t = keys
    size: cython.size_t = put_length(target, b"*", parser.argc - others)
    memcpy(target + size, data + start, length)
    size += length
    if layout.first == 2:
        while rest > 9:
            rest //= 10
            digits += 1
        size += put_length(target + size, b"$", digits)
        # A line like that of a length, which begins with the LF of the line before.
        size += put_length(target + size - 1, b"\n", keys) - 1
    return size
