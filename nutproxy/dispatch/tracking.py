# nutproxy/dispatch/tracking.py: the requests of clients with client-side caching
"""CLIENT TRACKING ON, and what a client with tracking reads (front/tracking.py).

    tracked_recv_done ── keys of a command that reads ── redis_recv_done ── Tracking.read

Such a client has another recv_done, so the requests of all others cost nothing more. The keys are
found before the request is dispatched, and noted after that: it is in its client's queue then. The
keys of a transaction are noted at EXEC.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.string import memcmp
from cython.cimports.nutproxy.conn import Conn, recv_done_t
from cython.cimports.nutproxy.dispatch.forward import queue_held
from cython.cimports.nutproxy.dispatch.keys import find_keys, release_keys, row_of
from cython.cimports.nutproxy.front.client import ClientConn, client_owner
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.front.tracked import Tracked
from cython.cimports.nutproxy.front.tracking import Starting, Tracking
from cython.cimports.nutproxy.msg.message import MSG_DONE, MSG_ERROR, MSG_FAILED, Msg, Owner
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.proto.table import OP_EXEC, STATE_MULTI

# Keys of one request that are looked at: one more than Tracking.read notes.
KEYS_MAX = cython.declare(cython.int, 8193)
# Commands that replace the value of their only key, or delete it. SET does so without an option
# that is a condition.
REPLACE = (b"getset", b"psetex", b"setex", b"del", b"unlink")
NO_CONDITION = (b"ex", b"px", b"exat", b"pxat", b"keepttl")


def start_tracking(client, row, asked, flags):
    """It is carried out when all earlier requests have their replies."""
    msg: cython.pointer(Msg) = queue_held(client, row, b"", 0, flags)
    starting: Starting = Starting(asked)
    starting.msg = msg
    client.need_session().starting = starting
    return client.hold(msg, run_start, done_start)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_start(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    tracking: Tracking = client.frontend.tracking
    return tracking.start(client, client.session.starting)


@cython.cfunc
@cython.exceptval(check=False)
def done_start(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    client: ClientConn = cython.cast(ClientConn, conn)
    if client.session.tracked is not None:
        client.recv_done = tracked_recv_done
    client.resume()


# A recv_done.
@cython.cfunc
@cython.exceptval(-1, check=False)
def tracked_recv_done(
    conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)
) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    tracked: Tracked = session.tracked
    dispatch: recv_done_t = cython.cast(recv_done_t, client.protocol.dispatch)
    row: cython.pointer(Row)
    keys: list = None
    written: bytes = None
    if parser.line:
        # It comes back as an array.
        return dispatch(conn, data, parser)
    row = row_of(client.frontend.custom, data, parser)
    if row is not cython.NULL:
        if row.operation == OP_EXEC:
            keys = tracked.queued
        elif row.reads and wants(tracked):
            keys = keys_of(row, data, parser)
        elif tracked.noloop and not tracked.bcast:
            written = replaced(row, data, parser)
    dispatch(conn, data, parser)
    if conn.fd < 0 or session.tracked is not tracked:
        return 0
    if session.postponed is not None:
        # CLIENT PAUSE: it comes again.
        return 0
    if client.states & STATE_MULTI:
        if keys:
            queue(tracked, keys)
        if session.doomed:
            tracked.queued = None
        return 0
    tracked.queued = None
    if row is cython.NULL or memcmp(row.name, b"client", 6) != 0:
        tracked.caching = False
    if keys:
        tracking: Tracking = client.frontend.tracking
        return tracking.read(client, keys, client.waiting)
    if written is not None:
        return note_write(client, written)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def wants(tracked: Tracked) -> cython.bint:
    """Does the client want to know when what it reads now changes?"""
    if tracked.optin:
        return tracked.caching
    return not (tracked.optout and tracked.caching)


@cython.cfunc
def keys_of(
    row: cython.pointer(Row), data: cython.p_const_char, parser: cython.pointer(Parser)
) -> list:
    """The keys of a request, but not more than KEYS_MAX."""
    count: cython.int = 0
    index: cython.int
    arg: cython.pointer(Arg)
    found: list = []
    keys: cython.pointer(cython.uint) = find_keys(row, data, parser, cython.address(count))
    if keys is cython.NULL:
        raise MemoryError
    try:
        for index in range(min(count, KEYS_MAX)):
            arg = cython.address(parser.argv[keys[index]])
            found.append(
                PyBytes_FromStringAndSize(
                    data + arg.offset, cython.cast(cython.Py_ssize_t, arg.length)
                )
            )
    finally:
        release_keys(keys)
    return found


@cython.cfunc
@cython.exceptval(-1, check=False)
def queue(tracked: Tracked, keys: list) -> cython.int:
    """These keys are read in the client's transaction."""
    if tracked.queued is None:
        tracked.queued = []
    if len(tracked.queued) < KEYS_MAX:
        tracked.queued += keys
    return 0


# NOLOOP
# -------------------------------------------------------------------------------------------------


@cython.cfunc
def replaced(
    row: cython.pointer(Row), data: cython.p_const_char, parser: cython.pointer(Parser)
) -> bytes:
    """The key whose value this command replaces, whatever it was; None if it does not do so."""
    name: bytes = row.name
    arg: cython.pointer(Arg) = cython.address(parser.argv[min(parser.argc - 1, 1)])
    if name != b"set" and (name not in REPLACE or parser.argc > 4):
        return None
    if name in (b"del", b"unlink") and parser.argc != 2:
        return None
    if name == b"set" and not is_plain(data, parser):
        return None
    return PyBytes_FromStringAndSize(data + arg.offset, cython.cast(cython.Py_ssize_t, arg.length))


@cython.cfunc
@cython.exceptval(-1)
def is_plain(data: cython.p_const_char, parser: cython.pointer(Parser)) -> cython.bint:
    """Has SET no option that is a condition?"""
    index: cython.uint = 3
    arg: cython.pointer(Arg)
    while index < parser.argc:
        arg = cython.address(parser.argv[index])
        word: bytes = data[
            arg.offset : arg.offset + min(arg.length, cython.cast(cython.size_t, 8))
        ].lower()
        if word not in NO_CONDITION:
            return False
        index += 1 if word == b"keepttl" else 2
    return True


@cython.cfunc
@cython.exceptval(-1, check=False)
def note_write(client: ClientConn, key: bytes) -> cython.int:
    """The request that has just been dispatched replaces this key."""
    tracked: Tracked = client.session.tracked
    tracking: Tracking = client.frontend.tracking
    msg: cython.pointer(Msg) = client.omsg_q.tail
    if (
        msg is cython.NULL
        or msg.flags & MSG_DONE
        or msg.join is not cython.NULL
        or msg.owner != cython.address(client_owner)
        or client.waiting
    ):
        return 0
    msg.owner = cython.address(write_owner)
    tracked.writes[cython.cast(cython.size_t, msg)] = key
    return tracking.writes(client, key)


@cython.cfunc
@cython.exceptval(check=False)
def write_answered(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    client: ClientConn
    key: object = None
    if msg.client is cython.NULL:
        return
    client = cython.cast(ClientConn, msg.client)
    if client.session.tracked is not None:
        key = client.session.tracked.writes.pop(cython.cast(cython.size_t, msg), None)
    client_owner.answered(msg, size)
    if key is not None and msg.flags & (MSG_ERROR | MSG_FAILED):
        client.frontend.tracking.write_failed(client, key)


write_owner = cython.declare(Owner)
write_owner.answered = write_answered
write_owner.arrived = client_owner.arrived
write_owner.refuses = client_owner.refuses
write_owner.refusal = client_owner.refusal
