# nutproxy/dispatch/scripts.py: scripts and functions that a server has lost
"""EVALSHA and FCALL, whose script or library a server may have lost; what loads and forgets these.

A server that was down when a client loaded a script lacks it, and so does one that was restarted.
If it replies NOSCRIPT, or "Function not found", what clients have loaded (front/scripts.py) is sent
to it in front of the same request, once more:

    EVALSHA sha 1 k  ─> -NOSCRIPT
    SCRIPT LOAD text ─> (nobody waits for the reply)
    EVALSHA sha 1 k  ─> the reply

Requests that the client has sent meanwhile are carried out before the repeated one. In a
transaction nothing is repeated: the error is the reply to that command.
"""

import re

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memcmp
from cython.cimports.nutproxy.dispatch.forward import forward_one, parent_of, send_all
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.msg.message import (
    MSG_DONE,
    MSG_ERROR,
    MSG_RETRIED,
    Body,
    Msg,
    msg_copy,
    msg_get,
    msg_put,
    msg_share,
    msg_view,
)
from cython.cimports.nutproxy.msg.parse import PARSE_OK, Arg, Limits, Parser, parser_reset
from cython.cimports.nutproxy.msg.response import join_part_done, nobody, part_owner
from cython.cimports.nutproxy.proto.redis import redis_parse_req
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.proto.table import (
    OP_FORGET_FUNCTIONS,
    OP_FORGET_SCRIPTS,
    OP_LOAD_FUNCTION,
    OP_LOAD_SCRIPT,
    OP_RUN_FUNCTION,
    OP_RUN_SCRIPT,
    OP_RUN_TEXT,
)
from cython.cimports.nutproxy.route import Route

# The flags in the first line of a script: #!lua flags=no-writes,allow-stale
FLAGS = re.compile(rb"#!\S+[^\n]*?\sflags=(\S*)")
# Bytes of it that are looked at.
LINE_MAX = 1024


@cython.cfunc
def argument(
    data: cython.p_const_char, parser: cython.pointer(Parser), index: cython.uint
) -> bytes:
    """An argument; b"" if there is none."""
    arg: cython.pointer(Arg)
    if index >= parser.argc:
        return b""
    arg = cython.address(parser.argv[index])
    return PyBytes_FromStringAndSize(data + arg.offset, cython.cast(cython.Py_ssize_t, arg.length))


def load_script(client, row, data, parser, flags):
    """A command for all servers that loads or forgets."""
    frontend: Frontend = client.frontend
    members: list = frontend.route.members()
    msg: cython.pointer(Msg)
    if row.operation == OP_LOAD_SCRIPT:
        frontend.scripts.keep_script(argument(data, parser, 2))
    elif row.operation == OP_FORGET_SCRIPTS:
        frontend.scripts.forget_scripts()
    elif row.operation == OP_FORGET_FUNCTIONS and row.arity == 3:
        # FUNCTION DELETE
        frontend.scripts.forget_library(argument(data, parser, 2))
    elif row.operation == OP_FORGET_FUNCTIONS:
        frontend.scripts.forget_libraries()
    if len(members) == 1 and row.operation != OP_LOAD_FUNCTION:
        return forward_one(client, row, data, parser.pos, members[0].index, flags)
    send_all(client, row, data, parser.pos, members, row.finish, None, flags, 0)
    if row.operation == OP_LOAD_FUNCTION:
        msg = client.omsg_q.tail
        # The library is kept if the servers accept it. Without memory for it, it is not.
        if (
            not msg.flags & MSG_DONE
            and msg.join is not cython.NULL
            and msg_copy(msg, cython.address(msg.req), data, parser.pos) == 0
        ):
            msg.join.part_done = library_part_done
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def library_part_done(msg: cython.pointer(Msg), part: cython.pointer(Msg)) -> cython.void:
    """A server has replied to FUNCTION LOAD."""
    index: cython.uint
    accepted: cython.bint = msg.join.ndone + 1 == msg.join.count and msg.client is not cython.NULL
    for index in range(msg.join.count):
        accepted = accepted and not msg.join.parts[index].flags & MSG_ERROR
    if accepted:
        keep_library(cython.cast(ClientConn, msg.client), msg)
    join_part_done(msg, part)


@cython.cfunc
@cython.exceptval(check=False)
def keep_library(client: ClientConn, msg: cython.pointer(Msg)) -> cython.void:
    words: list = words_of(cython.address(msg.req))
    if words:
        # FUNCTION LOAD [REPLACE] code
        client.frontend.scripts.keep_library(words[len(words) - 1])


@cython.cfunc
def words_of(body: cython.pointer(Body)) -> list:
    """The words of a request that has been parsed before; no more than four."""
    parser: Parser
    limits: Limits
    index: cython.uint
    words: list = []
    parser.argv = cython.NULL
    parser.argv_room = 0
    parser_reset(cython.address(parser))
    limits.args = limits.bulk = limits.bulk_later = limits.request = cython.cast(
        cython.longlong, 1 << 62
    )
    try:
        if (
            redis_parse_req(cython.address(parser), cython.address(limits), body.data, body.length)
            == PARSE_OK
        ):
            for index in range(min(parser.argc, 4)):
                words.append(argument(body.data, cython.address(parser), index))
    finally:
        free(parser.argv)
    return words


def promises_no_writes(client, row, data, parser):
    arg: cython.pointer(Arg) = cython.address(parser.argv[1])
    text: bytes
    found: object
    if row.operation != OP_RUN_TEXT and row.operation != OP_RUN_SCRIPT:
        return False
    text = data[arg.offset : arg.offset + min(arg.length, cython.cast(cython.size_t, LINE_MAX))]
    if row.operation == OP_RUN_SCRIPT:
        text = client.frontend.scripts.by_sha.get(text.lower(), b"")
    found = FLAGS.match(text, 0, LINE_MAX)
    return found is not None and b"no-writes" in found[1].split(b",")


def run_script(client, row, data, parser, group, flags):
    """Run a script or a function on the servers of its keys, and once more if the server does not
    have it."""
    frontend: Frontend = client.frontend
    msg: cython.pointer(Msg)
    if row.operation == OP_RUN_TEXT:
        frontend.scripts.keep_script(argument(data, parser, 1))
    if row.operation == OP_RUN_TEXT or not frontend.scripts.count or group < 0:
        return forward_one(client, row, data, parser.pos, group, flags)
    extra = [frontend, group]
    msg = parent_of(client, row, 1, 0, pass_on, flags)
    Py_INCREF(extra)
    msg.join.extra = cython.cast(cython.p_void, extra)
    msg.join.part_done = script_part_done
    if (
        msg_copy(msg, cython.address(msg.req), data, parser.pos) < 0
        or not msg_share(cython.address(msg.req))
        or give_request(msg, msg.join.parts[0]) < 0
    ):
        msg_put(msg)
        raise MemoryError
    msg.charge = parser.pos
    client.enqueue_outq(client, msg)
    return frontend.route.submit(msg.join.parts[0], group, client.id, client.profile)


@cython.cfunc
@cython.exceptval(check=False)
def give_request(msg: cython.pointer(Msg), part: cython.pointer(Msg)) -> cython.int:
    """Give the part the request of its command; -1 without memory."""
    body: cython.pointer(Body) = cython.address(msg.req)
    if body.buffer is cython.NULL:
        return msg_copy(part, cython.address(part.req), body.data, body.length)
    msg_view(cython.address(part.req), body, body.data, body.length)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def begins(
    part: cython.pointer(Msg), text: cython.p_const_char, length: cython.size_t
) -> cython.bint:
    return part.rsp.length >= length and memcmp(part.rsp.data, text, length) == 0


@cython.cfunc
@cython.exceptval(check=False)
def script_part_done(msg: cython.pointer(Msg), part: cython.pointer(Msg)) -> cython.void:
    """The server has replied."""
    if (
        part.flags & MSG_ERROR
        and not msg.flags & MSG_RETRIED
        and msg.client is not cython.NULL
        and (begins(part, b"-NOSCRIPT ", 10) or begins(part, b"-ERR Function not found", 23))
        and repeat(msg)
    ):
        return
    join_part_done(msg, part)


@cython.cfunc
@cython.exceptval(check=False)
def repeat(msg: cython.pointer(Msg)) -> cython.bint:
    """Load what the server lacks, and send the request once more. False if it is not known, or
    memory has run out."""
    client: ClientConn = cython.cast(ClientConn, msg.client)
    frontend, group = cython.cast(list, msg.join.extra)
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), msg.row)
    words: list = words_of(cython.address(msg.req))
    loads: list = []
    part: cython.pointer(Msg)
    if row.operation == OP_RUN_FUNCTION:
        loads = frontend.scripts.functions()
    elif len(words) > 1:
        loads = frontend.scripts.script(words[1])
    part = msg_get()
    if not loads or part is cython.NULL or give_request(msg, part) < 0:
        if part is not cython.NULL:
            msg_put(part)
        return False
    part.owner = cython.address(part_owner)
    part.parent = msg
    part.row = row
    msg.join.parts[0].parent = cython.NULL
    msg_put(msg.join.parts[0])
    msg.join.parts[0] = part
    msg.flags |= MSG_RETRIED
    for request in loads:
        send_unasked(client, row, request, group)
    client.frontend.route.submit(part, group, client.id, client.profile)
    return True


@cython.cfunc
@cython.exceptval(-1, check=False)
def send_unasked(
    client: ClientConn, row: cython.pointer(Row), request: bytes, group: cython.int
) -> cython.int:
    """Send a request to whose reply nobody listens."""
    route: Route = client.frontend.route
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        return 0
    msg.owner = cython.address(nobody)
    msg.row = row
    if msg_copy(msg, cython.address(msg.req), request, len(request)) == 0:
        route.submit(msg, group, client.id, client.profile)
    msg_put(msg)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def pass_on(msg: cython.pointer(Msg)) -> cython.int:
    """The reply is that of the only part."""
    body: cython.pointer(Body) = cython.address(msg.join.parts[0].rsp)
    if body.buffer is cython.NULL:
        if msg_copy(msg, cython.address(msg.rsp), body.data, body.length) < 0:
            raise MemoryError
        return 0
    msg.rsp = body[0]
    body.data = cython.NULL
    body.buffer = cython.NULL
    body.length = 0
    return 0
