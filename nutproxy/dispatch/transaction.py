# nutproxy/dispatch/transaction.py: MULTI, EXEC, DISCARD, WATCH and UNWATCH
"""A transaction is queued in nutproxy, and sent to its server at EXEC as one message.

    MULTI      +OK          Batch: *1 $5 MULTI
    SET a 1    +QUEUED             *3 $3 SET $1 a $1 1
    INCR b     +QUEUED             *2 $4 INCR $1 b
    EXEC       (waits)             *1 $4 EXEC            ─> the shared link of the client's slot

Nothing comes between the commands of one message, so the server carries them out as one. It sends a
reply to each; back/link.py counts them, and the last one is the reply to EXEC. A message is moved,
cancelled or lost as a whole. So nothing is done of a transaction that does not reach its server,
and DISCARD, or a client that leaves, costs the server nothing.

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

import logging

import cython
import hiredis
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import free, realloc
from cython.cimports.libc.string import memcpy, strlen
from cython.cimports.nutproxy.back.link import LINK_HANDSHAKE, LINK_READY, Link
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.dispatch.forward import (
    answer,
    answer_constant,
    parent_of,
    queue_held,
)
from cython.cimports.nutproxy.dispatch.groups import ANY_GROUP, common_group, needs_one_server
from cython.cimports.nutproxy.dispatch.layout import LAID_OUT, REFUSED, lay_out
from cython.cimports.nutproxy.dispatch.pubsub import asking_of, carry_out
from cython.cimports.nutproxy.dispatch.split import Layout, split_parts
from cython.cimports.nutproxy.dispatch.words import words_of
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import DENIED, Frontend
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.front.subscriptions import Asking
from cython.cimports.nutproxy.msg.message import (
    MSG_BATCH,
    MSG_DONE,
    MSG_ERROR,
    MSG_PIECES,
    Join,
    Msg,
    msg_constant,
    msg_copy,
    msg_drop,
    msg_get,
    msg_put,
    msg_reserve,
    msg_take,
)
from cython.cimports.nutproxy.msg.parse import Parser
from cython.cimports.nutproxy.msg.response import msg_done, msg_error
from cython.cimports.nutproxy.proto.merge import element_size
from cython.cimports.nutproxy.proto.redis import put_length, read_length
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
from cython.cimports.nutproxy.stats.slab import POOL_REFUSED_REQUESTS

from nutproxy.builtin import HANDLERS
from nutproxy.builtin.databases import enter_database, number_of, refusal, too_many_profiles
from nutproxy.builtin.transaction import abort
from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS
from nutproxy.proto.table import names

log = logging.getLogger("nutproxy")

MULTI = cython.declare(cython.p_const_char, b"*1\r\n$5\r\nMULTI\r\n")
EXEC = cython.declare(cython.p_const_char, b"*1\r\n$4\r\nEXEC\r\n")
UNWATCH = cython.declare(cython.p_const_char, b"*1\r\n$7\r\nUNWATCH\r\n")
# In Transaction.order and Join.sequence: nutproxy handles the command itself.
LOCAL_PART = cython.declare(cython.uint, 0xFFFFFFFF)
# The same, with the place of its message: the command was split.
MERGED = cython.declare(cython.uint, 0x80000000)
# Commands of a transaction whose replies are put together: a few milliseconds.
TOGETHER_MAX = cython.declare(cython.uint, 65536)
# Bytes of a new batch: a few small commands.
BATCH_ROOM = cython.declare(cython.size_t, 512)
# Local commands of a transaction. They are carried out in one turn.
LOCAL_MAX = 64
# Their replies need servers or several turns, or their effect is not on this connection alone.
NOT_QUEUED = frozenset(
    {
        *("client kill", "client list", "client pause", "client reply", "client unblock"),
        *("client unpause", "hello", "info", "script debug"),
        *("pubsub channels", "pubsub numpat", "pubsub numsub"),
        *("pubsub shardchannels", "pubsub shardnumsub"),
    }
)

handlers: list = [
    HANDLERS[command.handler] if command.handler else None for command in COMMANDS.values()
]
# By row number: what a SESSION command does, or 0.
operations: list = [int(command.operation) for command in COMMANDS.values()]
INTERNAL_ERROR = errors.REDIS_REPLIES["internal"]


@cython.final
@cython.freelist(64)
@cython.cclass
class Batch:
    """The commands that go to one server."""

    def __cinit__(self, group: cython.int):
        self.group = group
        self.append(MULTI, strlen(MULTI))

    def __dealloc__(self):
        free(self.data)

    def append(self, data, length):
        grown: cython.p_char
        room: cython.size_t
        if self.length + length > self.room:
            room = max(BATCH_ROOM, 2 * self.room, self.length + length)
            grown = cython.cast(cython.p_char, realloc(self.data, room))
            if grown is cython.NULL:
                raise MemoryError
            self.data = grown
            self.room = room
        memcpy(self.data + self.length, data, length)
        self.length += length
        return 0


@cython.final
@cython.freelist(64)
@cython.cclass
class Transaction:
    """Described in transaction.pxd."""

    def __cinit__(self, version: cython.uint):
        self.version = version
        self.batches = []
        self.database = -1

    def __dealloc__(self):
        index: cython.uint
        for index in range(self.nmerged):
            msg_put(self.merged[index])
        free(self.merged)
        free(self.order)

    @property
    def size(self) -> int:
        return self.count

    def batch_of(self, group, split):
        """The batch for this group; None if it would be another server's."""
        batch: Batch
        for batch in self.batches:
            if batch.group == group or group == ANY_GROUP:
                return batch
            if batch.group == ANY_GROUP:
                batch.group = group
                return batch
        if self.batches and not split:
            return None
        batch = Batch(group)
        self.batches.append(batch)
        return batch

    def note(self, part):
        """The next command is in this batch, or LOCAL_PART."""
        grown: cython.pointer(uint32_t)
        room: cython.uint
        if self.count == self.order_room:
            room = max(16, 2 * self.order_room)
            grown = cython.cast(
                cython.pointer(uint32_t), realloc(self.order, room * cython.sizeof(uint32_t))
            )
            if grown is cython.NULL:
                raise MemoryError
            self.order = grown
            self.order_room = room
        self.order[self.count] = part
        self.count += 1
        return 0

    def keep(self, msg):
        """The next command has been split. Takes over its message."""
        grown: cython.pointer(cython.pointer(Msg))
        room: cython.uint
        if self.nmerged == self.merged_room:
            room = max(4, 2 * self.merged_room)
            grown = cython.cast(
                cython.pointer(cython.pointer(Msg)),
                realloc(self.merged, room * cython.sizeof(cython.pointer(Msg))),
            )
            if grown is cython.NULL:
                msg_put(msg)
                raise MemoryError
            self.merged = grown
            self.merged_room = room
        self.merged[self.nmerged] = msg
        self.nmerged += 1
        return self.note(MERGED | (self.nmerged - 1))


# MULTI, DISCARD
# ---------------------------------------------------------------------------------------------


def multi(client, flags):
    if client.states & STATE_MULTI:
        return complain(client, errors.error("nested_multi"), flags)
    client.need_session().multi = Transaction(client.frontend.route.version)
    client.session.writes = False
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


@cython.cfunc
@cython.exceptval(-1, check=False)
def complain(client: ClientConn, text: bytes, flags: uint32_t) -> cython.int:
    """An error that does not make the transaction fail."""
    client.stats[POOL_REFUSED_REQUESTS] += 1
    return answer(client, text, flags, False)


def abandon(client):
    """The client's transaction ends, if there is one, and nothing of it is carried out."""
    if client.states & STATE_MULTI:
        client.end_multi()
    end_watch(client)
    return 0


# The commands
# -------------------------------------------------------------------------------------------------


def queue_command(client, row, data, parser, flags):
    """A command in a transaction. An error here makes EXEC fail."""
    frontend: Frontend = client.frontend
    route: Route = frontend.route
    group: cython.int = ANY_GROUP
    text: bytes = objection(client, row, data, parser)
    if text:
        return answer(client, text, flags, True)
    client.session.writes |= row.writes
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
    transaction.local.append((row.number, own))
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


# EXEC
# -------------------------------------------------------------------------------------------------


def execute(client, row, flags):
    session: Session = client.session
    transaction: Transaction
    text: bytes
    if client.states & STATE_TRANSACTION:
        # MULTI itself was refused.
        return answer(client, abort(client, client.refusals[STATE_TRANSACTION][1]), flags, True)
    if not client.states & STATE_MULTI:
        return answer(client, errors.error("exec_without_multi"), flags, True)
    transaction = session.multi
    text = errors.error("execabort_before") if session.doomed else why_not(client, transaction)
    client.end_multi()
    if text is not None:
        end_watch(client)
        return answer(client, text, flags, True)
    if transaction.local is not None:
        queued = [(operations[number], argv) for number, argv in transaction.local]
        transaction.asking = asking_of(client, queued)
    if session.watching is None and transaction.database < 0:
        if not transaction.batches:
            if transaction.asking is not None:
                return hold_assembled(client, row, transaction, flags)
            return answer(client, assembled(client, transaction), flags, False)
        if transaction.local is None and len(transaction.batches) == 1:
            return send_one(client, row, transaction, flags)
    return send_parts(client, row, transaction, flags)


@cython.cfunc
def why_not(client: ClientConn, transaction: Transaction) -> bytes:
    """The error if EXEC fails without asking a server, or None."""
    session: Session = client.session
    route: Route = client.frontend.route
    if session.watching is not None and session.watching.state != LINK_READY:
        return errors.error("watch_lost")
    if session.watching is not None and watch_moved(session, route):
        return errors.error("transaction_moved")
    if moved(transaction, route):
        return errors.error("transaction_moved")
    return None


@cython.cfunc
@cython.exceptval(check=False)
def watch_moved(session: Session, route: Route) -> cython.bint:
    """May the keys that are watched be on another server now, or another server's be in their
    group? If there is only one, a link that is open is a link to it."""
    return session.since != route.version and route.ngroups > 1


@cython.cfunc
@cython.exceptval(check=False)
def moved(transaction: Transaction, route: Route) -> cython.bint:
    """May the groups of its commands have changed since MULTI?"""
    batch: Batch
    if transaction.version != route.version:
        for batch in transaction.batches:
            if batch.group != ANY_GROUP:
                return True
    return False


def seal(msg, batch):
    """Give the batch to this message."""
    batch.append(EXEC, strlen(EXEC))
    msg_take(msg, cython.address(msg.req), batch.data, batch.length)
    msg.flags |= MSG_BATCH
    # MULTI, the commands, and EXEC.
    msg.replies = batch.count + 2
    batch.data = cython.NULL
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def send_one(
    client: ClientConn, row: cython.pointer(Row), transaction: Transaction, flags: uint32_t
) -> cython.int:
    """All commands are for one server: its reply is that to EXEC."""
    route: Route = client.frontend.route
    group: cython.int = group_of(route, transaction.batches[0])
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    msg.row = row
    msg.flags = flags
    try:
        seal(msg, transaction.batches[0])
    except MemoryError:
        msg_put(msg)
        raise
    msg.charge = msg.req.length
    client.enqueue_outq(client, msg)
    return route.submit(msg, group, client.id, client.profile)


@cython.cfunc
@cython.exceptval(-1, check=False)
def send_parts(
    client: ClientConn, row: cython.pointer(Row), transaction: Transaction, flags: uint32_t
) -> cython.int:
    """The reply is put together from those of the servers and of nutproxy; or EXEC needs a link of
    its own."""
    session: Session = client.session
    msg: cython.pointer(Msg)
    part: cython.pointer(Msg)
    index: cython.uint
    if not transaction.batches:
        # The server has to say whether a key that is watched has changed.
        transaction.batches.append(Batch(session.group))
    msg = parent_of(client, row, len(transaction.batches), transaction.count, put_together, flags)
    Py_INCREF(transaction)
    msg.join.extra = cython.cast(cython.p_void, transaction)
    if transaction.count:
        memcpy(msg.join.sequence, transaction.order, transaction.count * cython.sizeof(uint32_t))
    try:
        for index in range(msg.join.count):
            part = msg.join.parts[index]
            seal(part, transaction.batches[index])
            msg.charge += part.req.length
    except MemoryError:
        msg_put(msg)
        raise
    client.enqueue_outq(client, msg)
    if transaction.asking is not None:
        return client.hold(msg, ask_first, done_parts)
    if session.watching is not None or transaction.database >= 0:
        return client.hold(msg, run_alone, done_parts)
    if transaction.local is not None:
        # Commands after EXEC must not overtake its own.
        return client.hold(msg, run_parts, done_parts)
    return run_parts(client, msg)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_parts(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    """Send the batches over shared links."""
    client: ClientConn = cython.cast(ClientConn, conn)
    route: Route = client.frontend.route
    transaction: Transaction = cython.cast(Transaction, msg.join.extra)
    index: cython.uint
    if moved(transaction, route):
        for index in range(msg.join.count):
            msg_error(msg.join.parts[index], errors.error("transaction_moved"))
        return 0
    for index in range(msg.join.count):
        route.submit(
            msg.join.parts[index],
            group_of(route, transaction.batches[index]),
            client.id,
            client.profile,
        )
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def ask_first(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    """Subscribe at the servers before the commands are carried out."""
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    transaction: Transaction = cython.cast(Transaction, msg.join.extra)
    asking: Asking = transaction.asking
    asking.msg = msg
    asking.then = run_parts
    if session.watching is not None or transaction.database >= 0:
        asking.then = run_alone
    session.asking = asking
    return asking.subscriptions.ask(asking)


@cython.cfunc
@cython.exceptval(-1, check=False)
def hold_assembled(
    client: ClientConn, row: cython.pointer(Row), transaction: Transaction, flags: uint32_t
) -> cython.int:
    """The transaction needs no server, but it subscribes."""
    msg: cython.pointer(Msg) = queue_held(client, row, b"", 0, flags)
    asking: Asking = transaction.asking
    asking.msg = msg
    asking.then = run_assembled
    asking.extra = transaction
    client.session.asking = asking
    return client.hold(msg, ask_assembled, done_assembled)


@cython.cfunc
@cython.exceptval(-1, check=False)
def ask_assembled(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    asking: Asking = cython.cast(ClientConn, conn).session.asking
    return asking.subscriptions.ask(asking)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_assembled(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    asking: Asking = client.session.asking
    text: bytes = assembled(client, asking.extra)
    if (
        msg_copy(msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text))
        < 0
    ):
        raise MemoryError
    msg_done(msg)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def done_assembled(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    client: ClientConn = cython.cast(ClientConn, conn)
    asking: Asking = client.session.asking
    asking.subscriptions.forget(asking)
    client.resume()


@cython.cfunc
@cython.exceptval(-2, check=False)
def group_of(route: Route, batch: Batch) -> cython.int:
    return route.any_group() if batch.group == ANY_GROUP else batch.group


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_alone(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    """Send the only batch over a link of its own: that of WATCH, or one for SELECT."""
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    route: Route = client.frontend.route
    transaction: Transaction = cython.cast(Transaction, msg.join.extra)
    part: cython.pointer(Msg) = msg.join.parts[0]
    if session.watching is not None:
        if not follow(client):
            msg_error(part, errors.error("watch_lost"))
            return 0
        session.link = session.watching
        session.watching = None
    elif moved(transaction, route):
        msg_error(part, errors.error("transaction_moved"))
        return 0
    else:
        group: cython.int = group_of(route, transaction.batches[0])
        session.link = route.borrow(part, group, client.profile)
    if session.link is None:
        return 0
    return route.submit_to(session.link, part, True)


@cython.cfunc
@cython.exceptval(check=False)
def done_parts(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    """EXEC has its reply. EXEC has ended the watch, but SELECT has changed the link."""
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    link: Link = session.link
    transaction: Transaction = cython.cast(Transaction, msg.join.extra)
    session.link = None
    session.watching = None
    if transaction.asking is not None:
        asking: Asking = transaction.asking
        asking.subscriptions.forget(asking)
    if link is not None:
        if transaction.database >= 0:
            link.drop()
        else:
            link.server.give_back(link)
    client.resume()


# The reply to EXEC
# -------------------------------------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_together(msg: cython.pointer(Msg)) -> cython.int:
    """Make the reply to EXEC from the replies of the batches and of nutproxy's own commands. The
    `finish` of the command."""
    join: cython.pointer(Join) = msg.join
    transaction: Transaction = cython.cast(Transaction, join.extra)
    first: cython.pointer(Msg) = join.parts[0]
    own: list = []
    whole: cython.bint = is_whole(first, transaction.batches[0])
    if join.count == 1 and not (whole and (transaction.local or transaction.nmerged)):
        # All replies are the server's, or it has carried out nothing.
        if msg_copy(msg, cython.address(msg.rsp), first.rsp.data, first.rsp.length) < 0:
            raise MemoryError
        if whole and transaction.database >= 0 and msg.client is not cython.NULL:
            enter_database(cython.cast(ClientConn, msg.client), transaction.database)
        return 0
    if msg.client is not cython.NULL:
        client: ClientConn = cython.cast(ClientConn, msg.client)
        # Before the databases that the server has selected: SELECT of the one that the client had.
        own = local_replies(client, transaction)
        if transaction.database >= 0:
            enter_database(client, transaction.database)
        put_elements(msg, transaction, own)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def is_whole(part: cython.pointer(Msg), batch: Batch) -> cython.bint:
    """Is its reply an array with an element for each command?"""
    pos: cython.size_t = 0
    return part.rsp.data[0] == b"*" and (
        read_length(part.rsp.data, cython.address(pos)) == batch.count
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_elements(msg: cython.pointer(Msg), transaction: Transaction, own: list) -> cython.int:
    """Put the elements into the order of the commands. For a batch that failed, its error stands in
    for the replies of each of its commands."""
    join: cython.pointer(Join) = msg.join
    reply: bytes
    index: cython.uint
    size: cython.size_t = 32
    at: cython.size_t
    target: cython.p_char
    for reply in own:
        size += len(reply)
    # Once to find the size, and to merge what was split.
    begin_elements(msg, transaction)
    for index in range(join.nkeys):
        size += put_element(msg, transaction, join.sequence[index], cython.NULL)
    target = msg_reserve(msg, cython.address(msg.rsp), size)
    if target is cython.NULL:
        raise MemoryError
    begin_elements(msg, transaction)
    at = put_length(target, b"*", join.nkeys)
    own_replies = iter(own)
    for index in range(join.nkeys):
        if join.sequence[index] == LOCAL_PART:
            reply = next(own_replies)
            memcpy(target + at, cython.cast(cython.p_const_char, reply), len(reply))
            at += len(reply)
        else:
            at += put_element(msg, transaction, join.sequence[index], target + at)
    msg.rsp.length = at
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def begin_elements(msg: cython.pointer(Msg), transaction: Transaction) -> cython.int:
    """Set `key_at` of each batch to where its first element is; 0 for one that failed."""
    join: cython.pointer(Join) = msg.join
    index: cython.uint
    at: cython.size_t
    for index in range(join.count):
        at = 0
        if is_whole(join.parts[index], transaction.batches[index]):
            read_length(join.parts[index].rsp.data, cython.address(at))
        join.parts[index].key_at = cython.cast(uint32_t, at)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def next_element(
    part: cython.pointer(Msg), length: cython.pointer(cython.size_t)
) -> cython.p_const_char:
    """The next reply of this batch. Sets its length."""
    start: cython.p_const_char = part.rsp.data
    length[0] = part.rsp.length
    if part.key_at:
        start += part.key_at
        length[0] = element_size(start, part.rsp.length - part.key_at)
        part.key_at += cython.cast(uint32_t, length[0])
    return start


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_element(
    msg: cython.pointer(Msg), transaction: Transaction, place: uint32_t, target: cython.p_char
) -> cython.Py_ssize_t:
    """Write the reply to the next command, if `target` is given. Returns its length; that of
    nutproxy's own counts as 0."""
    merged: cython.pointer(Msg)
    length: cython.size_t = 0
    start: cython.p_const_char
    index: cython.uint
    if place == LOCAL_PART:
        return 0
    if not place & MERGED:
        start = next_element(msg.join.parts[place], cython.address(length))
        if target is not cython.NULL:
            memcpy(target, start, length)
        return length
    merged = transaction.merged[place & ~MERGED]
    if target is cython.NULL:
        merge_parts(msg, merged)
        return merged.rsp.length
    for index in range(merged.join.count):
        next_element(msg.join.parts[merged.join.parts[index].hash], cython.address(length))
    if not merged.flags & MSG_PIECES:
        memcpy(target, merged.rsp.data, merged.rsp.length)
        return merged.rsp.length
    length = 0
    for index in range(merged.pieces.count):
        memcpy(
            target + length, merged.pieces.bodies[index].data, merged.pieces.bodies[index].length
        )
        length += merged.pieces.bodies[index].length
    return length


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_parts(msg: cython.pointer(Msg), merged: cython.pointer(Msg)) -> cython.int:
    """Merge the replies to the parts of a command that was split, as outside of a transaction."""
    part: cython.pointer(Msg)
    start: cython.p_const_char
    length: cython.size_t = 0
    index: cython.uint
    for index in range(merged.join.count):
        part = merged.join.parts[index]
        start = next_element(msg.join.parts[part.hash], cython.address(length))
        if start[0] == b"-" or start[0] == b"!":
            part.flags |= MSG_ERROR
        if msg_copy(part, cython.address(part.rsp), start, length) < 0:
            raise MemoryError
    return merged.join.finish(merged)


@cython.cfunc
def local_replies(client: ClientConn, transaction: Transaction) -> list:
    """Carry out nutproxy's own commands of a transaction."""
    replies: list = []
    for number, own in transaction.local or ():
        if isinstance(own, bytes):
            replies.append(own)
            continue
        try:
            if OP_SUBSCRIBE <= operations[number] <= OP_SUNSUBSCRIBE:
                reply = carry_out(transaction.asking, client, operations[number], own)
            else:
                reply = handlers[number](client, own)
        except Exception:
            log.exception("%s: '%s' failed", client, names[number])
            reply = INTERNAL_ERROR
        replies.append(reply)
    return replies


@cython.cfunc
def assembled(client: ClientConn, transaction: Transaction) -> bytes:
    """The reply to EXEC of a transaction that needs no server."""
    replies: list = local_replies(client, transaction)
    return b"*%d\r\n" % len(replies) + b"".join(replies)


# WATCH and UNWATCH
# -------------------------------------------------------------------------------------------------


def watch(client, row, data, parser, flags):
    session: Session = client.need_session()
    frontend: Frontend = client.frontend
    msg: cython.pointer(Msg)
    group: cython.int = 0
    if client.states & STATE_MULTI:
        return complain(client, errors.error("watch_in_multi"), flags)
    if common_group(client, row, data, parser, flags, cython.address(group)):
        return 0
    if session.watching is None:
        session.since = frontend.route.version
    elif watch_moved(session, frontend.route):
        return answer(client, errors.error("watch_lost"), flags, True)
    elif group != session.group:
        text: bytes = errors.transaction_servers(frontend.name, frontend.config.hash_tag)
        return answer(client, text, flags, True)
    msg = queue_held(client, row, data, parser.pos, flags)
    session.group = group
    return client.hold(msg, run_watch, done_watch)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_watch(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    route: Route = client.frontend.route
    group: cython.int
    if watch_moved(session, route):
        # While it was held back.
        msg_error(msg, errors.error("watch_lost"))
        return 0
    if session.watching is None:
        # With the only server, the group may be one of several before.
        group = 0 if route.ngroups == 1 and session.group > 0 else session.group
        session.watching = route.borrow(msg, group, client.profile)
        if session.watching is None:
            return 0
    elif not follow(client):
        msg_error(msg, errors.error("watch_lost"))
        return 0
    return route.submit_to(session.watching, msg, True)


@cython.cfunc
@cython.exceptval(-1, check=False)
def follow(client: ClientConn) -> cython.int:
    """Let the link of WATCH, which is idle, have the state of its client, who may have sent SELECT
    or HELLO meanwhile. The keys are still watched. Returns 0 if it has ended."""
    link: Link = client.session.watching
    if link.state == LINK_READY and link.profile is not client.profile:
        link.server.change(link, client.profile)
    return link.state == LINK_READY or link.state == LINK_HANDSHAKE


@cython.cfunc
@cython.exceptval(check=False)
def done_watch(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    cython.cast(ClientConn, conn).resume()


def unwatch(client, flags):
    end_watch(client)
    return answer_constant(client, b"+OK\r\n", 5, flags)


@cython.cfunc
@cython.exceptval(-1, check=False)
def end_watch(client: ClientConn) -> cython.int:
    """The client watches no key any more: its link is given back when it has replied to UNWATCH."""
    session: Session = client.session
    link: Link
    msg: cython.pointer(Msg)
    if session is None or session.watching is None:
        return 0
    link = session.watching
    session.watching = None
    if link.state != LINK_READY:
        return link.drop()
    msg = msg_get()
    if msg is cython.NULL:
        return link.drop()
    # Nobody waits for its reply.
    msg.flags = MSG_DONE
    msg_constant(msg, cython.address(msg.req), UNWATCH, strlen(UNWATCH))
    client.frontend.route.submit_to(link, msg, False)
    msg_put(msg)
    return link.server.give_back(link)
