# nutproxy/dispatch/redis.py: routes Redis requests
"""The recv_done of the client role. It puts a parsed request into the queues of servers.

    redis_recv_done ── row of the command table ── arity, AUTH, deny_commands
         │
         ├─ FORWARD   one key, or several on one server ───────────────> forward
         ├─ SPLIT     a part for each server that holds keys ──────────> forward, …  ┐
         ├─ ALL       a part for each live server ─────────────────────> forward, …  ├─> merged
         ├─ ADMIN     the same, if the pool allows it                                ┘
         ├─ ANY       no key: any live server ─────────────────────────> forward
         ├─ CURSOR    the server that its cursor names ────────────────> scan
         ├─ ONE       no key: the only server of the pool ─────────────> forward
         ├─ LOCAL     nutproxy.local; a Query makes the reply from those of servers;
         │            Steps make it in several turns
         ├─ SESSION   stateful.py: transactions, whose commands are queued; commands that wait
         └─ UNSUPPORTED, denied, unknown, wrong arity ─────────────────> an error reply

There is one function for each behaviour, and none for single commands. A request is copied out of
the receive buffer only when it is forwarded.

Only errors and LOCAL commands other than a plain PING use Python objects.
"""

import logging

import cython
import hiredis
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdlib import free
from cython.cimports.nutproxy.back.profile import Profile
from cython.cimports.nutproxy.dispatch.blocking import block, unblock
from cython.cimports.nutproxy.dispatch.forward import (
    answer,
    answer_constant,
    ask,
    forward_key,
    forward_one,
    later,
    send_all,
    spare_others,
)
from cython.cimports.nutproxy.dispatch.groups import ANY_GROUP, common_group
from cython.cimports.nutproxy.dispatch.keys import (
    KEY_MAX,
    KEYS_MAX,
    find_option,
    measure_keys,
)
from cython.cimports.nutproxy.dispatch.layout import AS_IT_IS, LAID_OUT, TOGETHER, lay_out
from cython.cimports.nutproxy.dispatch.scan import scan, send_sized
from cython.cimports.nutproxy.dispatch.scripts import load_script, promises_no_writes, run_script
from cython.cimports.nutproxy.dispatch.split import Layout, split
from cython.cimports.nutproxy.dispatch.stateful import session_command
from cython.cimports.nutproxy.dispatch.tracking import start_tracking
from cython.cimports.nutproxy.dispatch.transaction import abandon, queue_command
from cython.cimports.nutproxy.dispatch.words import first_words, too_long, words_of
from cython.cimports.nutproxy.front.client import REPLY_ON, REPLY_SKIP, ClientConn
from cython.cimports.nutproxy.front.frontend import DENIED, Frontend
from cython.cimports.nutproxy.front.subscriptions import Subscriptions
from cython.cimports.nutproxy.msg.message import (
    MSG_ASIDE,
    MSG_NOREPLY,
    MSG_SHUTDOWN,
)
from cython.cimports.nutproxy.msg.parse import PARSE_OK, Arg, Limits, Parser, parser_reset
from cython.cimports.nutproxy.proto.redis import redis_parse_req
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.proto.table import (
    ADMIN,
    ANY,
    CHANNEL,
    CURSOR,
    FORWARD,
    LOCAL,
    OP_EXEC,
    OP_PUBSUB,
    SESSION,
    SPLIT,
    STATE_AUTH,
    STATE_MULTI,
    STATE_PAUSE,
    STATE_SUBSCRIBED,
    STATE_SUBSCRIPTION,
    STATE_TRANSACTION,
    UNSUPPORTED,
    row_find,
    row_find_sub,
    same_word,
)
from cython.cimports.nutproxy.route import NO_GROUP, Route
from cython.cimports.nutproxy.stats.slab import POOL_CLIENT_PROTOCOL_ERRORS, POOL_CLIENT_REQUESTS

from nutproxy.builtin import HANDLERS, Query, Steps, Track, Unblock
from nutproxy.builtin.databases import refusal
from nutproxy.builtin.resp import OK
from nutproxy.builtin.transaction import abort, not_carried_out, refused
from nutproxy.front.strangers import tell_broken, tell_inline, tell_stranger
from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS
from nutproxy.proto.merge import decode
from nutproxy.proto.redis import split_inline
from nutproxy.proto.table import names

log = logging.getLogger("nutproxy")

# By row number: the local handler, or None.
handlers: list = [
    HANDLERS[command.handler] if command.handler else None for command in COMMANDS.values()
]
# Above the length and the number of the arguments of any inline command.
INLINE_BOUND = cython.declare(cython.longlong, 2147483647)
# The reply when a local handler raises an exception. The log has the details.
INTERNAL_ERROR = errors.REDIS_REPLIES["internal"]
UNBALANCED_QUOTES = cython.declare(cython.p_const_char, errors.PROTOCOL_ERRORS["unbalanced_quotes"])


def redis_recv_done(conn, data, parser):
    """Called for a complete request: `data` up to parser.pos, with its arguments in parser.argv."""
    client: ClientConn = cython.cast(ClientConn, conn)
    frontend: Frontend = client.frontend
    row: cython.pointer(Row)
    container: cython.pointer(Row)
    name: cython.pointer(Arg)
    flags: cython.uint

    if parser.line:
        return inline_command(client, data, parser)
    client.stats[POOL_CLIENT_REQUESTS] += 1
    client.last_request = client.reactor.now
    flags = reply_flags(client)
    name = cython.address(parser.argv[0])
    row = row_find(data + name.offset, name.length)
    if row is not cython.NULL and row.container and parser.argc > 1:
        container = row
        name = cython.address(parser.argv[1])
        row = row_find_sub(container, data + name.offset, name.length)
        if row is cython.NULL:
            if not container.open:
                return answer(
                    client, errors.unknown_subcommand(first_words(data, parser)), flags, True
                )
            row = container
    if row is cython.NULL:
        if frontend.custom is not None:
            row = frontend.custom.find(data + name.offset, name.length)
        if row is cython.NULL:
            return unknown(client, data, parser, flags)
    client.row = row
    if (row.arity > 0 and parser.argc != cython.cast(cython.uint, row.arity)) or (
        row.arity < 0 and parser.argc < cython.cast(cython.uint, -row.arity)
    ):
        return wrong_arity(client, row, flags)
    if client.states:
        if refusing(client, row):
            return refuse_in_state(client, row, refusing(client, row), flags)
        if client.states & STATE_PAUSE and delayed(client, row, data, parser):
            return client.postpone(data, parser.pos, flags)
        if client.states & STATE_MULTI and not row.immediate:
            return queue_command(client, row, data, parser, flags)
    if frontend.verdicts[row.number]:
        if frontend.verdicts[row.number] == DENIED:
            return refuse(
                client, row, data, parser, flags, errors.denied(names[row.number], frontend.name)
            )
        # 16 words of 32 bytes are enough for COPY.
        text: bytes = refusal(client, names[row.number], words_of(data, parser, 16, 32))
        if text:
            return answer(client, text, flags, True)

    if row.behaviour == FORWARD:
        return forward_keys(client, row, data, parser, flags)
    if row.behaviour == SPLIT:
        return split_keys(client, row, data, parser, flags)
    if row.behaviour == LOCAL:
        return local_command(client, row, data, parser, flags)
    if row.behaviour == ANY or (row.behaviour == CURSOR and frontend.route.ngroups == 1):
        return forward_one(client, row, data, parser.pos, frontend.route.any_group(), flags)
    if row.behaviour == ADMIN and not frontend.admin_commands:
        return answer(client, errors.needs_admin(names[row.number], frontend.name), flags, True)
    if row.behaviour == SESSION:
        return session_command(client, row, data, parser, flags)
    if row.behaviour == UNSUPPORTED:
        return refuse(client, row, data, parser, flags, errors.not_supported(names[row.number]))
    if parser.argc > row.max_args or parser.pos > row.max_bytes:
        return too_long(client, row, parser, flags)
    if row.behaviour == CURSOR:
        return scan(client, row, data, parser, flags)
    if row.specs > 0:
        return forward_keys(client, row, data, parser, flags)
    if row.finish is cython.NULL:
        return to_only_server(client, row, data, parser, flags)
    return to_live_servers(client, row, data, parser, flags)


def redis_recv_large(conn, data, parser):
    """Called instead of redis_recv_done for a request of a megabyte or more. Refuses keys that are
    too long to hash, each or together."""
    client: ClientConn = cython.cast(ClientConn, conn)
    longest: cython.size_t = 0
    total: cython.size_t = 0
    text: bytes
    if not parser.line and client.frontend.route.ngroups > 1:
        measure_keys(
            client.frontend.custom, data, parser, cython.address(longest), cython.address(total)
        )
        if longest > KEY_MAX or total > KEYS_MAX:
            text = errors.key_too_long(longest, KEY_MAX)
            if longest <= KEY_MAX:
                text = errors.keys_too_long(total, KEYS_MAX)
            client.stats[POOL_CLIENT_REQUESTS] += 1
            client.last_request = client.reactor.now
            return answer(client, text, reply_flags(client), True)
    return conn.recv_done(conn, data, parser)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def reply_flags(client: ClientConn) -> cython.uint:
    """MSG_NOREPLY if CLIENT REPLY suppresses the reply to this request, else 0."""
    if client.reply_mode == REPLY_ON:
        return 0
    if client.reply_mode == REPLY_SKIP:
        client.reply_mode = REPLY_ON
    return MSG_NOREPLY


def redis_recv_error(conn, parser):
    """Called for malformed framing. Queue Redis' error; the connection is closed after the
    outstanding replies."""
    client: ClientConn = cython.cast(ClientConn, conn)
    char: cython.char = parser.error_char
    text: bytes = parser.error
    if b"%c" in text:
        # An error must be one line.
        if char == b"\r" or char == b"\n":
            char = b" "
        text = text.replace(b"%c", PyBytes_FromStringAndSize(cython.address(char), 1))
    client.breaks()
    tell_broken(client, text)
    return answer(client, errors.protocol_error(text), reply_flags(client), False)


# Replies made by the proxy
# -------------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(-1, check=False)
def unknown(
    client: ClientConn, data: cython.p_char, parser: cython.pointer(Parser), flags: cython.uint
) -> cython.int:
    """An unknown command. For an HTTP request the connection is closed, as in Redis: a browser may
    have been tricked into sending it, and its body could contain commands."""
    name: cython.pointer(Arg) = cython.address(parser.argv[0])
    if same_word(data + name.offset, name.length, b"post") or same_word(
        data + name.offset, name.length, b"host:"
    ):
        client.stats[POOL_CLIENT_PROTOCOL_ERRORS] += 1
        tell_stranger(client, "http")
        return client.close(client)
    return answer(client, errors.unknown_command(first_words(data, parser)), flags, True)


@cython.cfunc
@cython.exceptval(-1, check=False)
def wrong_arity(client: ClientConn, row: cython.pointer(Row), flags: cython.uint) -> cython.int:
    """Refuse a request for its number of arguments. As in Redis, such an EXEC still ends the
    transaction."""
    text: bytes = errors.wrong_arity(names[row.number])
    if row.operation == OP_EXEC:
        text = end_transaction(client, text)
    return answer(client, text, flags, True)


@cython.cfunc
def end_transaction(client: ClientConn, text: bytes) -> bytes:
    """EXEC itself was refused: the reply to it."""
    abandon(client)
    return abort(client, text)


@cython.cfunc
@cython.exceptval(check=False)
def refusing(client: ClientConn, row: cython.pointer(Row)) -> cython.int:
    """The states of the client because of which this command is refused, or 0."""
    states: cython.int = client.states & row.refused_in
    if client.profile.protover == 3:
        # In RESP3, Redis accepts every command on a connection with subscriptions.
        states &= ~(STATE_SUBSCRIPTION | STATE_SUBSCRIBED)
    return states


@cython.cfunc
@cython.exceptval(-1, check=False)
def refuse_in_state(
    client: ClientConn, row: cython.pointer(Row), states: cython.int, flags: cython.uint
) -> cython.int:
    text: bytes = not_carried_out(client, names[row.number], states)
    if row.operation == OP_EXEC and states & (STATE_AUTH | STATE_SUBSCRIBED):
        # As in Redis, the error is about the transaction, whether there is one or not.
        text = end_transaction(client, text)
    return answer(client, text, flags, True)


@cython.cfunc
@cython.exceptval(-1, check=False)
def delayed(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_const_char,
    parser: cython.pointer(Parser),
) -> cython.int:
    """1 if CLIENT PAUSE delays this command."""
    if client.frontend.pauses_all:
        return True
    if row.writes:
        return not promises_no_writes(client, row, data, parser)
    return row.operation == OP_EXEC and client.states & STATE_MULTI != 0 and client.session.writes


@cython.cfunc
@cython.exceptval(-1, check=False)
def refuse(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
    text: bytes,
) -> cython.int:
    """Refuse a command because of its row. This may open a State, in which further commands are
    refused, and EXEC ends a transaction."""
    if row.opens:
        refused(client, names[row.number], words_of(data, parser, 3, 32), text)
    elif client.states & (STATE_TRANSACTION | STATE_MULTI) and row.operation == OP_EXEC:
        text = end_transaction(client, text)
    return answer(client, text, flags, True)


@cython.cfunc
@cython.exceptval(-1, check=False)
def inline_command(
    client: ClientConn, data: cython.p_char, parser: cython.pointer(Parser)
) -> cython.int:
    """Convert an inline command to a RESP array and handle that. Servers never receive inline
    commands."""
    words = split_inline(data[: parser.pos].rstrip(b"\r\n"))
    array: bytes
    again: Parser
    limits: Limits
    result: cython.int
    if words is None:
        parser.error = UNBALANCED_QUOTES
        return redis_recv_error(client, parser)
    if not words:
        return 0
    tell_inline(client, words)
    array = hiredis.pack_command(tuple(words))
    again.argv = cython.NULL
    again.argv_room = 0
    parser_reset(cython.address(again))
    # The request is now in the array, not in the receive buffer.
    free(client.block)
    client.block = cython.NULL
    # The limits before AUTH are for announced sizes. This line is complete and short.
    limits.args = limits.bulk = limits.bulk_later = limits.request = INLINE_BOUND
    try:
        result = redis_parse_req(cython.address(again), cython.address(limits), array, len(array))
        if result != PARSE_OK:
            return redis_recv_error(client, cython.address(again))
        return client.recv_done(client, array, cython.address(again))
    finally:
        free(again.argv)


@cython.cfunc
@cython.exceptval(-1, check=False)
def local_command(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """Run a command that the proxy handles itself."""
    mode: cython.int = client.reply_mode
    profile: Profile = client.profile
    if (
        parser.argc == 1
        and same_word(row.name, row.length, b"ping")
        and not client.states & STATE_SUBSCRIBED
    ):
        return answer_constant(client, b"+PONG\r\n", 7, flags)
    if parser.argc > row.max_args or parser.pos > row.max_bytes:
        return too_long(client, row, parser, flags)
    if row.operation == OP_PUBSUB:
        subscriptions: Subscriptions = client.frontend.subscriptions
        if subscriptions.is_unsettled(client, CHANNEL, None, -1):
            return client.postpone(data, parser.pos, flags)
    try:
        reply = handlers[row.number](client, words_of(data, parser, parser.argc, parser.pos))
    except Exception:
        log.exception("%s: '%s' failed", client, names[row.number])
        reply = INTERNAL_ERROR
    client.barrier = client.profile is not profile
    if isinstance(reply, Query):
        query(client, row, reply, flags)
        return spare_others(client)
    if isinstance(reply, Unblock):
        return unblock(client, row, reply.client, reply.with_error, flags)
    if isinstance(reply, Track):
        return start_tracking(client, row, reply, flags)
    if isinstance(reply, Steps):
        return later(client, reply.steps, flags, INTERNAL_ERROR)
    if (
        flags
        and client.reply_mode == REPLY_ON
        and (mode != REPLY_ON or (reply == OK and same_word(row.name, row.length, b"client reply")))
    ):
        # CLIENT REPLY ON is itself answered, and so is RESET unless it follows SKIP.
        flags = 0
    if reply:
        answer(client, reply, flags, reply[0] == 45)
    return spare_others(client)


@cython.cfunc
@cython.exceptval(-1, check=False)
def query(
    client: ClientConn, row: cython.pointer(Row), asked: object, flags: cython.uint
) -> cython.int:
    """Send a local handler's request to the servers."""

    def finish(replies):
        profile: Profile = client.profile
        reply = asked.finish(decode(replies))
        client.barrier = client.profile is not profile
        return reply

    route: Route = client.frontend.route
    members: list = route.members()
    if asked.scope == "any":
        if not members:
            return forward_one(client, row, b"", 0, NO_GROUP, flags)
        group: cython.int = route.any_group()
        members = [member for member in members if member.index == group] or members[:1]
    request = hiredis.pack_command(tuple(asked.argv))
    return ask(client, row, request, members, finish, INTERNAL_ERROR, flags)


@cython.cfunc
@cython.exceptval(check=False)
def part_flags(
    row: cython.pointer(Row), data: cython.p_const_char, parser: cython.pointer(Parser)
) -> cython.uint:
    """The flags of the parts of a command for all servers.

    A command that a busy server accepts gets MSG_ASIDE, so that it overtakes waiting requests.
    SHUTDOWN gets it only with NOSAVE, the form that a busy Redis obeys."""
    flags: cython.uint = MSG_ASIDE if row.aside else 0
    index: cython.uint
    arg: cython.pointer(Arg)
    if not row.shutdown:
        return flags
    for index in range(1, parser.argc):
        arg = cython.address(parser.argv[index])
        if same_word(data + arg.offset, arg.length, b"nosave"):
            return flags | MSG_SHUTDOWN
    return MSG_SHUTDOWN


# To one server
# -------------------------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(-1, check=False)
def forward_keys(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """Forward a command whose keys must all be on one server."""
    route: Route = client.frontend.route
    arg: cython.pointer(Arg)
    group: cython.int = 0
    if row.key:
        arg = cython.address(parser.argv[row.key])
        return forward_key(client, row, data, parser.pos, data + arg.offset, arg.length, flags)
    if row.option[0]:
        option: cython.uint = find_option(row, data, parser)
        if option:
            return block(client, row, data, parser, option + 1, flags)
    if common_group(client, row, data, parser, flags, cython.address(group)):
        return 0
    if group == ANY_GROUP:
        group = route.any_group()
    if row.operation:
        return run_script(client, row, data, parser, group, flags)
    return forward_one(client, row, data, parser.pos, group, flags)


@cython.cfunc
@cython.exceptval(-1, check=False)
def to_only_server(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """Forward a command without keys whose replies cannot be merged. A pool of several servers
    refuses it."""
    route: Route = client.frontend.route
    if route.ngroups > 1:
        text = errors.one_server(names[row.number], client.frontend.name, route.ngroups)
        return answer(client, text, flags, True)
    return forward_one(client, row, data, parser.pos, route.any_group(), flags)


# To several servers
# --------------------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(-1, check=False)
def to_live_servers(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """Send the request to all live servers. If there is only one, its reply needs no merge."""
    if row.operation:
        return load_script(client, row, data, parser, flags)
    parts: cython.uint = part_flags(row, data, parser)
    members: list = client.frontend.route.members()
    if len(members) == 1:
        return forward_one(client, row, data, parser.pos, members[0].index, flags | parts)
    if row.sized and members:
        return send_sized(client, row, data, parser.pos, members, flags)
    return send_all(client, row, data, parser.pos, members, row.finish, None, flags, parts)


@cython.cfunc
@cython.exceptval(-1, check=False)
def split_keys(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """MGET, MSET, DEL, …: a part for each server that holds keys."""
    layout: Layout
    found: cython.int = lay_out(client, row, data, parser, cython.address(layout), flags)
    if found == LAID_OUT:
        return split(client, row, data, parser, cython.address(layout), flags)
    if found == TOGETHER:
        return forward_keys(client, row, data, parser, flags)
    if found == AS_IT_IS:
        return forward_one(client, row, data, parser.pos, client.frontend.route.any_group(), flags)
    return 0
