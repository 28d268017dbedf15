# nutproxy/dispatch/blocking.py: commands that wait in a server
"""BLPOP, BLMOVE, XREAD with BLOCK and the like; WAIT and WAITAOF.

    BLPOP q 5 ── keys on one server? ── held back until all earlier replies have been sent
                                            │
                  a link is borrowed  <─────┘     nothing else of the client is read
                  BLPOP q 5 ──> server ──> its reply, or the end of the client

Such a command blocks its connection, so it is sent over a link of its own (front/session.py), which
is given back after the reply. The server keeps the time. The pool's `timeout` is added to it: if
there is no reply by then, the server is dead. A command that waits for ever has no deadline; the
end of the connection, or keepalive, tells that its server has gone.

**The end of a client.** An element that the server pops for a client that has gone is lost. So as
soon as the client has closed its connection, or only its sending side, the link's sending side is
closed: before anything that others send later is read. The server does what it does with a client
of its own: it replies if the command need not wait, and else ends the connection without a reply.

**CLIENT UNBLOCK** is sent to the server, over the shared link of the client that sends it. So the
server decides whether an element comes first, and the waiting client gets what its server replies.

**WAIT** asks how many replicas have the writes of its connection. The client's writes went over
shared links, so every live server is asked over a borrowed link, after the replies to all earlier
requests of the client. A server compares its replicas with the place in its stream of writes where
the connection made the last one. So the link first makes one that changes nothing: SWAPDB 0 0. Its
place is after those of the client, and of all others. The reply is the smallest number.
"""

import math

import cython
import hiredis
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.nutproxy.back.link import Link
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.dispatch.forward import (
    answer_constant,
    forward_one,
    parent_of,
    queue_held,
)
from cython.cimports.nutproxy.dispatch.groups import ANY_GROUP, common_group
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.msg.message import (
    MSG_BATCH,
    MSG_DONE,
    MSG_FAILED,
    MSG_SEQUENCE,
    Join,
    Msg,
    join_get,
    msg_copy,
    msg_drop,
    msg_get,
    msg_put,
)
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.msg.response import join_part_done, msg_error, part_owner
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.route import NO_GROUP, Route
from cython.cimports.nutproxy.stats.slab import POOL_CLIENT_BLOCKED

from nutproxy.back.link import NOT_NEEDED
from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS
from nutproxy.proto.merge import decode

names: list = list(COMMANDS)

SWAPDB: bytes = hiredis.pack_command((b"SWAPDB", b"0", b"0"))
# A command that has been written is read by its server before the next few requests are.
TRIES = 100
# The bytes of the longest WAIT or WAITAOF that can be one, and more.
LONGEST_WAIT = 256
# The result of `timeout_of` for a command that waits for ever.
FOREVER = cython.declare(cython.longlong, -1)
# Milliseconds. A longer wait has no deadline: its server has the timeout, and keepalive watches.
LONGEST = 1 << 50


def block(client, row, data, parser, at, flags):
    route: Route = client.frontend.route
    session: Session = client.need_session()
    msg: cython.pointer(Msg)
    group: cython.int = 0
    if common_group(client, row, data, parser, flags, cython.address(group)):
        return 0
    session.target = group
    session.version = route.version
    session.slot = timeout_of(row, data, parser, at)
    msg = queue_held(client, row, data, parser.pos, flags)
    return client.hold(msg, run_block, done_block)


@cython.cfunc
@cython.exceptval(-2)
def timeout_of(
    row: cython.pointer(Row),
    data: cython.p_const_char,
    parser: cython.pointer(Parser),
    at: cython.uint,
) -> cython.longlong:
    """How many milliseconds the server lets this command wait. FOREVER also if the argument is not
    a number: the server refuses it at once."""
    index: cython.longlong = row.timeout_at
    arg: cython.pointer(Arg)
    value: object
    if at:
        index = at
    elif index < 0:
        index += parser.argc
    if index >= parser.argc:
        return FOREVER
    arg = cython.address(parser.argv[index])
    if arg.length > 64:
        return FOREVER
    try:
        value = float(data[arg.offset : arg.offset + arg.length])
    except ValueError:
        return FOREVER
    if not row.timeout_msec:
        value *= 1000
    return math.ceil(value) if 0 < value < LONGEST else FOREVER


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_block(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    """It is the turn of the command."""
    client: ClientConn = cython.cast(ClientConn, conn)
    frontend: Frontend = client.frontend
    session: Session = client.session
    route: Route = frontend.route
    row: cython.pointer(Row) = cython.cast(cython.pointer(Row), msg.row)
    group: cython.int = session.target
    wait: cython.longlong = session.slot
    if group == ANY_GROUP:
        group = route.any_group()
    elif route.ngroups > 1 and session.version != route.version:
        name: bytes = names[row.number].upper().encode()
        msg_error(msg, errors.error("wait_moved", frontend.name.encode(), name))
        return 0
    if full(frontend, msg):
        return 0
    session.link = route.borrow(msg, group, client.profile)
    if session.link is None:
        return 0
    client.begin_wait(msg, deadline_of(client, wait))
    route.submit_to(session.link, msg, False)
    return end_if_ended(client)


@cython.cfunc
@cython.exceptval(-1, check=False)
def end_if_ended(client: ClientConn) -> cython.int:
    """The command has been submitted. A client that has sent its end before cannot wait, nor one of
    a proxy that shuts down."""
    if client.session.waiting is not cython.NULL and (client.hup or client.draining):
        return client.finish_wait()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def full(frontend: Frontend, msg: cython.pointer(Msg)) -> cython.int:
    """1 if so many clients wait that this command has been refused, else 0."""
    if frontend.stats[POOL_CLIENT_BLOCKED] < frontend.max_blocked:
        return 0
    limit: bytes = b"%d" % frontend.max_blocked
    msg_error(msg, errors.error("max_blocked", frontend.name.encode(), limit))
    return 1


@cython.cfunc
@cython.exceptval(check=False)
def deadline_of(client: ClientConn, wait: cython.longlong) -> cython.longlong:
    """When a command that waits for so long must have its reply, or FOREVER."""
    frontend: Frontend = client.frontend
    if wait < 0 or not frontend.pool.timeout:
        return FOREVER
    return client.reactor.now + wait + frontend.pool.timeout


@cython.cfunc
@cython.exceptval(check=False)
def done_block(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    """It has its reply."""
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    link: Link
    links: list = session.borrowed()
    silent: cython.bint = session.ended and (msg.flags & MSG_FAILED) != 0
    if session.waiting is not cython.NULL:
        client.end_wait()
    session.link = session.links = None
    for link in links:
        silent = silent and link.cause == NOT_NEEDED
        link.server.give_back(link)
    if silent:
        # At the client's end, the server has ended the connection without a reply.
        msg_drop(cython.address(msg.rsp))
        client.closing = True
    client.resume()


# WAIT
# --------------------------------------------------------------------------------------------------


def wait_for_replicas(client, row, data, parser, flags):
    session: Session = client.need_session()
    msg: cython.pointer(Msg)
    if parser.pos > LONGEST_WAIT:
        # No number is that long, so a server refuses it. It is not worth a copy for each of them.
        return forward_one(client, row, data, parser.pos, client.frontend.route.any_group(), flags)
    session.slot = timeout_of(row, data, parser, 0)
    msg = queue_held(client, row, data, parser.pos, flags)
    return client.hold(msg, run_wait, done_block)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_wait(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    """Ask every live server. All replies to the client's earlier requests have been sent."""
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    route: Route = client.frontend.route
    members: list = route.members()
    wait: cython.longlong = session.slot
    link: Link
    part: cython.pointer(Msg)
    index: cython.uint
    request: bytes = SWAPDB + msg.req.data[: msg.req.length]
    if full(client.frontend, msg):
        return 0
    if not members:
        return route.submit(msg, NO_GROUP, client.id, client.profile)
    make_parts(client, msg, len(members), request)
    session.links = []
    client.begin_wait(msg, deadline_of(client, wait))
    for index in range(msg.join.count):
        part = msg.join.parts[index]
        link = route.borrow(part, members[index].index, client.profile)
        if link is not None:
            session.links.append(link)
            route.submit_to(link, part, False)
    return end_if_ended(client)


@cython.cfunc
@cython.exceptval(-1, check=False)
def make_parts(
    client: ClientConn,
    msg: cython.pointer(Msg),
    count: cython.uint,
    request: bytes,
) -> cython.int:
    """Give the command its parts, which are all this request."""
    join: cython.pointer(Join) = join_get(msg, count, 0)
    part: cython.pointer(Msg)
    index: cython.uint
    if join is cython.NULL:
        raise MemoryError
    join.part_done = join_part_done
    join.finish = finish_wait
    join.protover = client.profile.protover
    for index in range(count):
        part = join.parts[index]
        part.owner = cython.address(part_owner)
        part.flags |= MSG_BATCH | MSG_SEQUENCE
        part.replies = 2
        if msg_copy(part, cython.address(part.req), request, len(request)) < 0:
            raise MemoryError
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def finish_wait(msg: cython.pointer(Msg)) -> cython.int:
    """The reply to WAIT: the smallest of each number, or an error."""
    replies: list = []
    index: cython.uint
    text: bytes = b""
    for index in range(msg.join.count):
        replies.append(msg.join.parts[index].rsp.data[: msg.join.parts[index].rsp.length])
    text = replies[0] if len(replies) == 1 else least(replies)
    if msg_copy(msg, cython.address(msg.rsp), text, len(text)) < 0:
        raise MemoryError
    return 0


@cython.cfunc
def least(replies: list) -> bytes:
    values: list = decode(replies)
    for index, value in enumerate(values):
        if isinstance(value, hiredis.ReplyError):
            return replies[index]
    if isinstance(values[0], int):
        return b":%d\r\n" % min(values)
    columns = list(zip(*values, strict=True))
    return b"*%d\r\n" % len(columns) + b"".join([b":%d\r\n" % min(each) for each in columns])


# CLIENT UNBLOCK
# ----------------------------------------------------------------------------------------


@cython.cclass
class Unblocking:
    """The extra of the command's Join."""

    def __init__(self, target: ClientConn, with_error: cython.bint):
        session: Session = target.session
        self.target = target
        self.msg = session.waiting
        self.number = session.waits
        self.with_error = with_error
        self.servers = []
        self.tries = TRIES

    def waits(self):
        """Does it still wait for the same command?"""
        session: Session = self.target.session
        return session.waiting == self.msg and session.waits == self.number

    def end_wait(self):
        """Reply to the command here, and close its links: the server has not got it yet, or cannot
        unblock a connection."""
        session: Session = self.target.session
        msg: cython.pointer(Msg) = self.msg
        links: list = session.borrowed()
        link: Link
        text: bytes = errors.error("unblocked")
        index: cython.uint
        if not self.with_error:
            text = b"_\r\n" if self.target.profile.protover == 3 else b"*-1\r\n"
        session.link = session.links = None
        if msg.join is cython.NULL:
            msg_error(msg, text)
        else:
            for index in range(msg.join.count):
                msg.join.parts[index].flags |= MSG_DONE
            if not self.with_error:
                text = b":0\r\n"
            msg_copy(msg, cython.address(msg.rsp), text, len(text))
            msg.flags |= MSG_DONE
            msg.owner.answered(msg, msg.join.arrived)
        for link in links:
            link.drop()
        return 0


def unblock(client, row, target, with_error, flags):
    route: Route = client.frontend.route
    todo: Unblocking = Unblocking(target, with_error)
    link: Link
    msg: cython.pointer(Msg)
    index: cython.uint
    waits: Session = target.session
    links: list = waits.borrowed()
    members: list = route.members()
    for link in links:
        if link.server_id == 0 or link.omsg_q.head is cython.NULL or link.server not in members:
            todo.end_wait()
            return answer_constant(client, b":1\r\n", 4, flags)
    msg = parent_of(client, row, len(links), 0, finish_unblock, flags)
    Py_INCREF(todo)
    msg.join.extra = cython.cast(cython.p_void, todo)
    msg.join.part_done = unblock_part_done
    for link in links:
        todo.servers.append((link.server, link.server_id))
    client.enqueue_outq(client, msg)
    for index in range(msg.join.count):
        ask_to_unblock(client, msg, index)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def ask_to_unblock(client: ClientConn, msg: cython.pointer(Msg), index: cython.uint) -> cython.int:
    """Send this part of the command to its server."""
    todo: Unblocking = cython.cast(Unblocking, msg.join.extra)
    part: cython.pointer(Msg) = msg.join.parts[index]
    server, number = todo.servers[index]
    reason = b"ERROR" if todo.with_error else b"TIMEOUT"
    request: bytes = hiredis.pack_command((b"CLIENT", b"UNBLOCK", b"%d" % number, reason))
    if msg_copy(part, cython.address(part.req), request, len(request)) < 0:
        raise MemoryError
    return client.frontend.route.submit(part, server.index, client.id, client.profile)


@cython.cfunc
@cython.exceptval(check=False)
def unblock_part_done(msg: cython.pointer(Msg), part: cython.pointer(Msg)) -> cython.void:
    """A server has replied. If nothing waits there yet, although the command has been written, the
    command is still on its way, on another connection: ask again."""
    todo: Unblocking = cython.cast(Unblocking, msg.join.extra)
    index: cython.uint = 0
    again: cython.pointer(Msg) = cython.NULL
    while msg.join.parts[index] != part:
        index += 1
    if (
        msg.client is not cython.NULL
        and todo.waits()
        and todo.tries > 0
        and part.rsp.data[0] == b":"
        and part.rsp.data[1] == b"0"
    ):
        again = msg_get()
    if again is cython.NULL:
        join_part_done(msg, part)
        return
    todo.tries -= 1
    again.parent = msg
    again.row = msg.row
    again.owner = part.owner
    part.parent = cython.NULL
    msg_put(part)
    msg.join.parts[index] = again
    ask_to_unblock(cython.cast(ClientConn, msg.client), msg, index)


@cython.cfunc
@cython.exceptval(-1, check=False)
def finish_unblock(msg: cython.pointer(Msg)) -> cython.int:
    """1 if a server has unblocked the client, or if that was done here because a server cannot."""
    todo: Unblocking = cython.cast(Unblocking, msg.join.extra)
    index: cython.uint
    part: cython.pointer(Msg)
    reply: bytes = b":0\r\n"
    able: cython.bint = True
    for index in range(msg.join.count):
        part = msg.join.parts[index]
        able = able and part.rsp.data[0] == b":"
        if part.rsp.data[0] == b":" and part.rsp.data[1] == b"1":
            reply = b":1\r\n"
    if not able and todo.waits():
        todo.end_wait()
        reply = b":1\r\n"
    if msg_copy(msg, cython.address(msg.rsp), reply, 4) < 0:
        raise MemoryError
    return 0
