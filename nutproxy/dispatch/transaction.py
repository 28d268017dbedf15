# nutproxy/dispatch/transaction.py: MULTI, EXEC, DISCARD, WATCH and UNWATCH
"""A transaction is queued in nutproxy, and sent to its server at EXEC as one message.

    MULTI      +OK          Batch: *1 $5 MULTI
    SET a 1    +QUEUED             *3 $3 SET $1 a $1 1
    INCR b     +QUEUED             *2 $4 INCR $1 b
    EXEC       (waits)             *1 $4 EXEC            ─> the shared link of the client's slot

Nothing comes between the commands of one message, so the server carries them out as one. It sends a
reply to each; back/link.py counts them, and the last one is the reply to EXEC. A message is moved,
cancelled or lost as a whole. So nothing is done of a transaction that does not reach its server,
and DISCARD, or a client that leaves, costs the server nothing. If the client sends all of it at
once, all replies leave in one write (ClientConn.send_with).

The promise `+QUEUED` is nutproxy's: it checks name, arity, rights and keys. What only the server
can know (its memory is full, it is a replica, …) is the reason in the reply to EXEC.

**Several servers.** A transaction has the server of its first key, and refuses other keys. With
`transactions: split` there is a batch for each server, and the replies are put together in the
order of the commands. If a server fails, the replies of its commands are its error.

**WATCH** needs a link of its own (front/session.py), on which EXEC is sent, too. The commands in
between go over the shared link as usual. So WATCH and EXEC wait until all earlier commands have
been answered. If that link ends, EXEC fails.

**Commands that nutproxy handles itself** are carried out when the servers' replies have come, and
their replies are put into their places. SELECT is sent to the server as well, over a link of its
own, so that the commands after it are carried out in that database.
"""

import cython
import hiredis
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.nutproxy.dispatch.batch import LOCAL_PART, Batch, Transaction, moved
from cython.cimports.nutproxy.dispatch.forward import answer, answer_constant
from cython.cimports.nutproxy.dispatch.groups import ANY_GROUP, common_group, needs_one_server
from cython.cimports.nutproxy.dispatch.layout import LAID_OUT, REFUSED, lay_out
from cython.cimports.nutproxy.dispatch.scripts import promises_no_writes
from cython.cimports.nutproxy.dispatch.split import Layout, split_parts
from cython.cimports.nutproxy.dispatch.watch import complain, end_watch, watch_moved
from cython.cimports.nutproxy.dispatch.words import words_of
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import DENIED, Frontend
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.msg.message import Msg, msg_drop
from cython.cimports.nutproxy.msg.parse import Parser
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.proto.table import (
    ADMIN,
    ALL,
    CURSOR,
    LOCAL,
    ONE,
    OP_SUBSCRIBE,
    OP_SUNSUBSCRIBE,
    SPLIT,
    STATE_MULTI,
    STATE_TRANSACTION,
    UNSUPPORTED,
)
from cython.cimports.nutproxy.route import NO_GROUP, Route

from nutproxy.builtin.databases import number_of, refusal, too_many_profiles
from nutproxy.proto import errors
from nutproxy.proto.table import names

# Commands of a transaction whose replies are put together: a few milliseconds.
TOGETHER_MAX = cython.declare(cython.uint, 65536)
# Local commands of a transaction. They are carried out in one turn.
LOCAL_MAX = 64
# Their replies need servers or several turns, or their effect is not on this connection alone.
NOT_QUEUED = frozenset(
    {
        *("client kill", "client list", "client reply", "client unblock"),
        *("hello", "info", "script debug"),
        *("client caching", "client tracking"),
        *("pubsub channels", "pubsub numpat", "pubsub numsub"),
        *("pubsub shardchannels", "pubsub shardnumsub"),
    }
)


# MULTI, DISCARD
# ---------------------------------------------------------------------------------------------


def multi(client, flags):
    if client.states & STATE_MULTI:
        return complain(client, errors.error("nested_multi"), flags)
    client.need_session().multi = Transaction(client.frontend.route.version)
    client.session.writes = False
    client.session.alone = client.omsg_q.head is cython.NULL
    client.states |= STATE_MULTI
    return answer_constant(client, b"+OK\r\n", 5, flags)


def discard(client, flags):
    if client.states & STATE_TRANSACTION:
        # MULTI itself was refused.
        client.leave(STATE_TRANSACTION)
    elif not client.states & STATE_MULTI:
        return answer(client, errors.error("discard_without_multi"), flags, True)
    else:
        abandon(client)
    return answer_constant(client, b"+OK\r\n", 5, flags)


def abandon(client):
    if client.states & STATE_MULTI:
        client.end_multi()
    end_watch(client)
    return 0


# The commands
# -------------------------------------------------------------------------------------------------


def queue_command(client, row, data, parser, flags):
    frontend: Frontend = client.frontend
    route: Route = frontend.route
    group: cython.int = ANY_GROUP
    text: bytes = objection(client, row, data, parser)
    if text:
        return answer(client, text, flags, True)
    if row.writes and not client.session.writes:
        client.session.writes = not promises_no_writes(client, row, data, parser)
    if client.session.doomed:
        pass
    elif is_local(row):
        return queue_local(client, row, data, parser, flags)
    elif frontend.verdicts[row.number]:
        text = refusal(client, names[row.number], words_of(data, parser, 16, 32))
        if text:
            # As in Redis, EXEC has the error in place of its reply.
            return queue_own(client, row, text, parser.pos, flags)
    if for_all_servers(row) and route.ngroups > 1:
        name: bytes = names[row.number].upper().encode()
        return answer(client, errors.error("all_in_transaction", name), flags, True)
    if row.behaviour == SPLIT and splits(client):
        return queue_split(client, row, data, parser, flags)
    if row.specs > 0 and common_group(client, row, data, parser, flags, cython.address(group)):
        return 0
    if group == NO_GROUP:
        return answer(client, errors.error("no_live_server", frontend.name.encode()), flags, True)
    if route.anywhere or route.ngroups == 1:
        group = ANY_GROUP
    if client.session.doomed:
        return answer_constant(client, b"+QUEUED\r\n", 9, flags)
    return queue_for(client, group, data, parser.pos, flags)


@cython.cfunc
@cython.exceptval(check=False)
def is_local(row: cython.pointer(Row)) -> cython.bint:
    """Is it handled by nutproxy itself?"""
    return row.behaviour == LOCAL or OP_SUBSCRIBE <= row.operation <= OP_SUNSUBSCRIBE


@cython.cfunc
@cython.exceptval(check=False)
def splits(client: ClientConn) -> cython.bint:
    """May its transaction go to several servers?"""
    frontend: Frontend = client.frontend
    return (
        frontend.split_transactions
        and frontend.route.ngroups > 1
        and client.session.watching is None
        and not client.session.doomed
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def queue_split(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: uint32_t,
) -> cython.int:
    """MGET, MSET, DEL, …: each server gets the command with its own keys."""
    session: Session = client.session
    transaction: Transaction = session.multi
    layout: Layout
    batch: Batch
    msg: cython.pointer(Msg)
    part: cython.pointer(Msg)
    index: cython.uint
    length: cython.size_t = 0
    group: cython.int = ANY_GROUP
    found: cython.int = lay_out(client, row, data, parser, cython.address(layout), flags)
    if found == REFUSED:
        return 0
    if found != LAID_OUT:
        if common_group(client, row, data, parser, flags, cython.address(group)):
            return 0
        return queue_for(client, group, data, parser.pos, flags)
    msg = split_parts(client, row, data, parser, cython.address(layout))
    if msg is cython.NULL:
        if layout.group < 0:
            name: bytes = client.frontend.name.encode()
            return answer(client, errors.error("no_live_server", name), flags, True)
        return queue_for(client, layout.group, data, parser.pos, flags)
    transaction.keep(msg)
    for index in range(msg.join.count):
        length += msg.join.parts[index].req.length
    if not has_room(client, length, flags):
        return 0
    for index in range(msg.join.count):
        part = msg.join.parts[index]
        batch = transaction.batch_of(part.hash, True)
        batch.append(part.req.data, part.req.length)
        batch.count += 1
        msg_drop(cython.address(part.req))
        part.hash = transaction.batches.index(batch)
    session.queued += length
    client.pending += length
    return answer_constant(client, b"+QUEUED\r\n", 9, flags)


@cython.cfunc
@cython.exceptval(check=False)
def for_all_servers(row: cython.pointer(Row)) -> cython.bint:
    if row.specs > 0:
        return False
    return row.behaviour == ALL or row.behaviour == ADMIN or row.behaviour == CURSOR


@cython.cfunc
@cython.exceptval(-1, check=False)
def queue_for(
    client: ClientConn,
    group: cython.int,
    data: cython.p_const_char,
    length: cython.size_t,
    flags: uint32_t,
) -> cython.int:
    """Put a command into the batch of its server."""
    frontend: Frontend = client.frontend
    session: Session = client.session
    transaction: Transaction = session.multi
    batch: Batch = None
    if session.watching is None or group == ANY_GROUP or group == session.group:
        batch = transaction.batch_of(
            group, frontend.split_transactions and session.watching is None
        )
    if batch is None:
        if moved(transaction, frontend.route) or (
            session.watching is not None and watch_moved(session, frontend.route)
        ):
            return answer(client, errors.error("transaction_moved"), flags, True)
        text = errors.transaction_servers(frontend.name, frontend.config.hash_tag)
        return answer(client, text, flags, True)
    if not has_room(client, length, flags):
        return 0
    batch.append(data, length)
    batch.count += 1
    transaction.note(transaction.batches.index(batch) if len(transaction.batches) > 1 else 0)
    session.queued += length
    client.pending += length
    return answer_constant(client, b"+QUEUED\r\n", 9, flags)


@cython.cfunc
@cython.exceptval(-1, check=False)
def has_room(client: ClientConn, length: cython.size_t, flags: uint32_t) -> cython.int:
    """Is there room for a command of this length? If not, it is refused. Half of
    client_max_pending: nutproxy reads from a client again when no more than that is pending."""
    frontend: Frontend = client.frontend
    transaction: Transaction = client.session.multi
    most: cython.size_t = frontend.max_pending // 2
    # The replies will be put together in one turn.
    together: cython.bint = frontend.split_transactions or transaction.local is not None
    if together and transaction.count >= TOGETHER_MAX:
        answer(client, errors.error("transaction_commands", b"%d" % TOGETHER_MAX), flags, True)
        return 0
    if client.session.queued + length <= most:
        return 1
    answer(client, errors.error("transaction_size", b"%d" % most), flags, True)
    return 0


@cython.cfunc
def objection(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_const_char,
    parser: cython.pointer(Parser),
) -> bytes:
    """Why this command is refused in a transaction; b"" if it is not."""
    frontend: Frontend = client.frontend
    name: str = names[row.number]
    if frontend.verdicts[row.number] == DENIED:
        return errors.denied(name, frontend.name)
    if row.no_multi:
        return errors.error("no_multi")
    if row.behaviour == UNSUPPORTED:
        return errors.not_supported(name)
    if row.behaviour == ADMIN and not frontend.admin_commands:
        return errors.needs_admin(name, frontend.name)
    if (row.behaviour == ONE or row.behaviour == ADMIN) and needs_one_server(row, frontend.route):
        return errors.one_server(name, frontend.name, frontend.route.ngroups)
    if row.behaviour == LOCAL and name in NOT_QUEUED:
        return errors.error("not_queued", name.upper().encode())
    if parser.argc > row.max_args or parser.pos > row.max_bytes:
        return errors.too_long(name, parser.pos, row.max_bytes)
    return b""


@cython.cfunc
@cython.exceptval(-1, check=False)
def queue_local(
    client: ClientConn,
    row: cython.pointer(Row),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: uint32_t,
) -> cython.int:
    """A command that nutproxy handles itself, at EXEC."""
    transaction: Transaction = client.session.multi
    argv: list = words_of(data, parser, parser.argc, parser.pos)
    if names[row.number] == "select":
        number = number_of(client.pool, argv[1])
        changes: cython.bint = number != client.profile.database or transaction.database >= 0
        if number is not None and changes:
            return queue_select(client, number, data, parser, flags)
    return queue_own(client, row, argv, parser.pos, flags)


@cython.cfunc
@cython.exceptval(-1, check=False)
def queue_own(
    client: ClientConn,
    row: cython.pointer(Row),
    own: object,
    length: cython.size_t,
    flags: uint32_t,
) -> cython.int:
    """A command that needs no server. `own` has its arguments, or its reply."""
    session: Session = client.session
    transaction: Transaction = session.multi
    if transaction.local is None:
        transaction.local = []
    if len(transaction.local) >= LOCAL_MAX:
        text = errors.error("local_in_transaction", b"%d" % LOCAL_MAX)
        return answer(client, text, flags, True)
    if not has_room(client, length, flags):
        return 0
    transaction.local.append((row.number, row.operation, own))
    transaction.note(LOCAL_PART)
    session.queued += length
    client.pending += length
    return answer_constant(client, b"+QUEUED\r\n", 9, flags)


@cython.cfunc
@cython.exceptval(-1, check=False)
def queue_select(
    client: ClientConn,
    number: object,
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: uint32_t,
) -> cython.int:
    """SELECT of another database, which the server carries out. `number` is its own number."""
    frontend: Frontend = client.frontend
    transaction: Transaction = client.session.multi
    request: bytes
    if frontend.split_transactions and frontend.route.ngroups > 1:
        return answer(client, errors.error("not_queued", b"SELECT"), flags, True)
    if client.frontend.pool.profiles.of(client.profile.protover, number) is None:
        return answer(client, too_many_profiles(client.pool), flags, True)
    request = hiredis.pack_command((b"SELECT", b"%d" % number))
    transaction.database = number
    return queue_for(client, ANY_GROUP, request, len(request), flags)
