# nutproxy/dispatch/groups.py: the group of a request whose keys must be together
"""Finds the one group that holds all keys of a request, or refuses it."""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.nutproxy.dispatch.forward import answer
from cython.cimports.nutproxy.dispatch.keys import find_keys, release_keys, stray_pattern
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.route import Route

from nutproxy.proto import errors


def needs_one_server(row, route):
    """Whether this request has no keys, replies that cannot be merged, and several servers."""
    return row.specs <= 0 and row.finish is cython.NULL and route.ngroups > 1


def common_group(client, row, data, parser, flags, group):
    """Set `group` to that of all keys of the request: NO_GROUP if no server is live, ANY_GROUP if
    it has no keys. Returns 1 if the request has been refused, because they are on different
    servers, else 0."""
    count: cython.int = 0
    keys: cython.pointer(cython.uint) = find_keys(row, data, parser, cython.address(count))
    if keys is cython.NULL:
        raise MemoryError
    try:
        if count <= 0:
            group[0] = ANY_GROUP
            return 0
        return group_of_keys(client, row, data, parser, flags, keys, count, group)
    finally:
        release_keys(keys)


@cython.cfunc
@cython.exceptval(-1, check=False)
def group_of_keys(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: uint32_t,
    keys: cython.pointer(cython.uint),
    count: cython.uint,
    group: cython.p_int,
) -> cython.int:
    frontend: Frontend = client.frontend
    route: Route = frontend.route
    hash: uint32_t = 0
    option: bytes
    text: bytes
    name: bytes = row.name
    arg: cython.pointer(Arg) = cython.address(parser.argv[keys[0]])
    group[0] = route.group_of(data + arg.offset, arg.length, cython.address(hash))
    if group[0] < 0 or route.ngroups == 1 or route.anywhere:
        return 0
    if count > 1 and not route.holds(group[0], data, parser.argv, keys, count):
        text = errors.crossslot(name.decode(), frontend.name, frontend.config.hash_tag)
        answer(client, text, flags, True)
        return 1
    if row.patterns:
        option = stray_pattern(route, row, data, parser, group[0])
        if option is not None:
            text = errors.sort_pattern(option, frontend.name, frontend.config.hash_tag)
            answer(client, text, flags, True)
            return 1
    return 0
