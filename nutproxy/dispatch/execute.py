# nutproxy/dispatch/execute.py: EXEC
"""A transaction is sent to its servers.

    for one server                    send_one   ─> the shared link, and its reply is that to EXEC
    for several, or with commands     send_parts ─> the shared links; dispatch/exec_reply.py
      of nutproxy's own                             puts the replies together
    with SELECT, or after WATCH       send_parts ─> a link of its own

If it subscribes, servers first confirm the subscriptions.
"""

import cython
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.nutproxy.back.link import LINK_READY, Link
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.dispatch.batch import Batch, Transaction, batch_group, moved, seal
from cython.cimports.nutproxy.dispatch.exec_reply import assembled, put_together
from cython.cimports.nutproxy.dispatch.forward import answer, parent_of, queue_held
from cython.cimports.nutproxy.dispatch.pubsub import asking_of
from cython.cimports.nutproxy.dispatch.watch import end_watch, follow, watch_moved
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.front.subscriptions import Asking
from cython.cimports.nutproxy.msg.message import Msg, msg_copy, msg_get, msg_put
from cython.cimports.nutproxy.msg.response import msg_done, msg_error
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.proto.table import STATE_MULTI, STATE_TRANSACTION
from cython.cimports.nutproxy.route import Route

from nutproxy.builtin.transaction import abort
from nutproxy.proto import errors


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
        queued = [(operation, own) for _, operation, own in transaction.local]
        transaction.asking = asking_of(client, queued)
    if session.watching is None and transaction.database < 0:
        if not transaction.batches:
            if transaction.asking is not None:
                return hold_assembled(client, row, transaction, flags)
            text = assembled(client, transaction, cython.address(flags))
            return answer(client, text, flags, False)
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
@cython.exceptval(-1, check=False)
def send_one(
    client: ClientConn, row: cython.pointer(Row), transaction: Transaction, flags: uint32_t
) -> cython.int:
    """All commands are for one server: its reply is that to EXEC."""
    route: Route = client.frontend.route
    group: cython.int = batch_group(route, transaction.batches[0])
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
    route.submit(msg, group, client.id, client.profile)
    if client.session.alone:
        client.send_with(msg)
    return 0


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
    run_parts(client, msg)
    if session.alone:
        client.send_with(msg)
    return 0


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
            batch_group(route, transaction.batches[index]),
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
    text: bytes = assembled(client, asking.extra, cython.address(msg.flags))
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
        group: cython.int = batch_group(route, transaction.batches[0])
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
