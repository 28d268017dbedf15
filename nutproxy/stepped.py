# nutproxy/stepped.py: a worker that a test drives by hand
"""A Worker whose turns never wait and whose clock stands still, and functions that look into it.

    worker.step()                 one turn
    worker.reactor.clock += 50    time passes; 100 ms and more in one turn are a pause
    rest_always(worker, 100)      a Worker of the usual kind, with a constant rest (io/coalesce.py)
    alternate(worker, 100)        the same, with and without a rest in turn (bench/alternate.py)
    share(worker)                 a Worker of the usual kind, in a thread of the test's process
    check(worker)                 every queue, sum and reference count is right
    queued(conn)                  the messages in the queues of a connection

For tests only. The worker's own loop is unchanged by it: these are subclasses of its classes.
"""

import cython
from cython.cimports.nutproxy.back.link import LINK_HANDSHAKE, Link
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.core import Worker
from cython.cimports.nutproxy.csys import epoll_wait
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.io.clock import processor_usec
from cython.cimports.nutproxy.io.coalesce import Coalescer
from cython.cimports.nutproxy.io.event import Poller
from cython.cimports.nutproxy.io.reactor import Reactor
from cython.cimports.nutproxy.janitor import Janitor
from cython.cimports.nutproxy.msg.message import (
    MSG_ANSWERED,
    MSG_CANCELLED,
    MSG_DONE,
    MSG_ERROR,
    MSG_FAILED,
    MSG_PIECES,
    MSG_REQ_PIECES,
    MSG_RETRIED,
    MSG_TIMED,
    MSG_WRITTEN,
    Body,
    Msg,
    MsgQueue,
)
from cython.cimports.nutproxy.pool import ServerPool
from cython.cimports.nutproxy.stats.slab import (
    SERVER_IN_QUEUE,
    SERVER_IN_QUEUE_BYTES,
    SERVER_OUT_QUEUE,
    SERVER_OUT_QUEUE_BYTES,
    Slab,
)

# Where the clock begins, in milliseconds.
START = 1_000_000

# Of an AlternatingCoalescer, in microseconds.
PHASE = cython.declare(cython.longlong, 60000)
SETTLING = cython.declare(cython.longlong, 20000)

FLAGS = {
    "done": MSG_DONE,
    "error": MSG_ERROR,
    "written": MSG_WRITTEN,
    "retried": MSG_RETRIED,
    "cancelled": MSG_CANCELLED,
    "timed": MSG_TIMED,
    "answered": MSG_ANSWERED,
    "failed": MSG_FAILED,
    "pieces": MSG_PIECES,
    "request in pieces": MSG_REQ_PIECES,
}


@cython.cclass
class SteppedPoller(Poller):
    def wait(self, timeout):
        self.found = Poller.wait(self, 0)
        return self.found


@cython.cclass
class SharedPoller(Poller):
    """Lets other threads of the process run while it waits."""

    def wait(self, timeout):
        count: cython.int
        with cython.nogil:
            count = epoll_wait(self.ep, self.events, self.nevents, timeout)
        return max(count, 0)


def share(worker: Worker) -> None:
    """Let a new Worker run in a thread of a process that has others."""
    worker.reactor.poller = SharedPoller()


@cython.cclass
class ConstantCoalescer(Coalescer):
    """The gap is always the limit, whatever is in flight."""

    def decide(self):
        self.gap = self.limit


@cython.cclass
class AlternatingCoalescer(Coalescer):
    """Turns rest as usual for PHASE microseconds, then none does for as long, and so on. What
    happens in a phase, without its beginning, is in `phases`."""

    def __init__(self, limit: int, slab: Slab):
        Coalescer.__init__(self, limit, slab)
        self.phases = []

    def observe(self, now, counted, used):
        Coalescer.observe(self, now, counted, used)
        if not self.on:
            self.gap = 0
        if not self.settled and now - self.phase_began >= SETTLING:
            self.settled = True
            self.phase_began = now
            self.phase_before = counted
            self.used_before = processor_usec()
        elif self.settled and now - self.phase_began >= PHASE:
            self.next_phase(now, counted)

    def next_phase(self, now, counted):
        self.phases.append(
            (
                bool(self.on),
                now - self.phase_began,
                counted.replies - self.phase_before.replies,
                counted.events - self.phase_before.events,
                counted.turns - self.phase_before.turns,
                processor_usec() - self.used_before,
            )
        )
        self.on = not self.on
        self.settled = False
        self.phase_began = now


def alternate(worker: Worker, usec: int) -> AlternatingCoalescer:
    """Let a Worker that does not run yet rest in every other phase, for at most `usec`."""
    made = AlternatingCoalescer(usec, worker.reactor.slab)
    worker.reactor.coalescer = made
    return made


def rest_always(worker: Worker, usec: int) -> None:
    """Leave `usec` microseconds between the polls of a Worker that does not run yet."""
    worker.reactor.coalescer = ConstantCoalescer(usec, worker.reactor.slab)


@cython.cclass
class SteppedReactor(Reactor):
    def __init__(self, mbuf_size: cython.size_t, slab: Slab):
        self.poller = SteppedPoller()
        self.clock = START
        self.tick()
        self.tick()

    def tick(self):
        self.seen = self.now
        self.now = self.clock
        self.now_usec = self.clock * 1000


@cython.cclass
class SteppedWorker(Worker):
    def __init__(self, mbuf_size: int, config_file: str, slab: Slab):
        Worker.__init__(self, mbuf_size, config_file, slab)
        self.reactor = SteppedReactor(mbuf_size, slab)
        self.janitor = Janitor(self.reactor, self.pools, self.frontends)

    def timeout(self):
        self.waits = Worker.timeout(self) != 0
        return 0

    def step(self) -> bool:
        """Run one turn, unless the Worker is stopped. Returns whether it, or the next one, has
        something to do."""
        reactor: Reactor = self.reactor
        if self.stopped:
            return False
        self.turn()
        return (
            not self.waits
            or cython.cast(SteppedPoller, reactor.poller).found > 0
            or reactor.now != reactor.seen
            or reactor.ready.count + reactor.flush_servers.count + reactor.flush_clients.count > 0
        )

    def free(self) -> None:
        """Break the cycle of Worker, pools and servers, after `close`. What is not freed then is
        part of another cycle, or is held by the caller."""
        pool: ServerPool
        if self.stopped:
            # They will never run. Some hold connections.
            self.reactor.timers.heap.clear()
            self.reactor.jobs.waiting.clear()
            self.reactor.replies.waiting.clear()
        self.listeners.clear()
        self.frontends.clear()
        for pool in self.pools:
            pool.servers.clear()
            pool.leaving.clear()
        self.pools.clear()


def running(worker: Worker) -> bool:
    return not worker.stopped


@cython.cfunc
def address_of(msg: cython.pointer(Msg)) -> object:
    return cython.cast(cython.size_t, msg)


@cython.cfunc
def body_of(body: cython.pointer(Body)) -> dict:
    """`owner` is None if the bytes are inside the message or constant, or "own"; else the number of
    bodies that share the block, and where that is."""
    buffer: cython.size_t = cython.cast(cython.size_t, body.buffer)
    owner: object = None
    if buffer == 1:
        owner = "own"
    elif buffer:
        owner = (body.buffer.refs, buffer)
    return {"length": body.length, "at": cython.cast(cython.size_t, body.data), "owner": owner}


@cython.cfunc
def msg_of(msg: cython.pointer(Msg)) -> dict:
    index: cython.uint
    pieces: list = []
    parts: list = []
    if msg.join is not cython.NULL:
        parts = [msg_of(msg.join.parts[index]) for index in range(msg.join.count)]
    if msg.pieces is not cython.NULL:
        for index in range(msg.pieces.sent, msg.pieces.count):
            pieces.append(body_of(cython.address(msg.pieces.bodies[index])))
    return {
        "address": address_of(msg),
        "refs": msg.refs,
        "hash": msg.hash,
        "key": (msg.key_at, msg.key_length),
        "flags": {name for name, flag in FLAGS.items() if msg.flags & flag},
        "req": body_of(cython.address(msg.req)),
        "rsp": body_of(cython.address(msg.rsp)),
        "parts": parts,
        "pieces": pieces,
        "awaited": msg.client is not cython.NULL or msg.parent is not cython.NULL,
    }


def queued(conn: Conn) -> tuple:
    """The messages in imsg_q and in omsg_q, in order, as dicts."""
    msg: cython.pointer(Msg)
    waiting: list = []
    written: list = []
    msg = conn.imsg_q.head
    while msg is not cython.NULL:
        waiting.append(msg_of(msg))
        msg = msg.server_next
    msg = conn.omsg_q.head
    while msg is not cython.NULL:
        written.append(msg_of(msg))
        msg = msg.client_next if isinstance(conn, ClientConn) else msg.server_next
    return waiting, written


def state(conn: Conn) -> dict:
    """What only C sees of a connection."""
    return {
        "pending": conn.pending,
        "unsent": conn.unsent,
        "sent": conn.sent,
        "blocked": bool(conn.blocked),
        "tail": conn.tail_size,
        "swallow": conn.swallow,
        "paused": bool(isinstance(conn, ClientConn) and cython.cast(ClientConn, conn).paused),
    }


def links(server: Server) -> list:
    """Every connection that the server holds, in whatever state."""
    return server.links()


# Checks
# --------------------------------------------------------------------------------


def wrong(what: str, *values) -> None:
    # Not `assert`: the release build has none.
    raise AssertionError(f"{what}: {values}")


def check(worker: Worker) -> int:
    """Every queue, sum and reference count agrees with the messages that the connections hold.
    Returns the number of these messages: no other may be live."""
    client: ClientConn
    server: Server
    pool: ServerPool
    holders: dict = {}
    server: Server
    rows: dict = {}
    timed: int = 0
    shaking: int = 0
    link: Link
    for client in worker.clients():
        check_client(client, holders)
    for pool in worker.pools:
        for server in pool.servers + pool.leaving:
            # One that leaves may have the same row as the one that replaces it.
            counts = rows.setdefault(cython.cast(cython.size_t, server.stats), [0, 0, 0, 0])
            count_queues(server, holders, counts)
        for server in pool.servers + pool.leaving:
            check_gauges(server, rows[cython.cast(cython.size_t, server.stats)])
    for pool in worker.pools:
        timed += check_deadlines(pool, holders)
        for server in pool.servers + pool.leaving:
            for link in links(server):
                shaking += link.state == LINK_HANDSHAKE
    if shaking != worker.reactor.handshakes:
        wrong("the number of handshakes", shaking, worker.reactor.handshakes)
    for address, (refs, flags, expected) in holders.items():
        if refs != expected:
            wrong("references of a message", hex(address), refs, expected)
        timed -= bool(flags & MSG_TIMED)
    if timed:
        wrong("deadlines that no message has, or the reverse", timed)
    return len(holders)


@cython.cfunc
@cython.exceptval(-1)
def hold(msg: cython.pointer(Msg), holders: dict) -> cython.int:
    """Note one holder of this message."""
    index: cython.uint
    known: object = holders.get(address_of(msg))
    holders[address_of(msg)] = (msg.refs, msg.flags, 1 if known is None else known[2] + 1)
    if known is None and msg.join is not cython.NULL:
        for index in range(msg.join.count):
            if msg.join.parts[index].parent != msg:
                wrong("a part does not know its parent")
            hold(msg.join.parts[index], holders)
    return 0


@cython.cfunc
@cython.exceptval(-1)
def check_client(client: ClientConn, holders: dict) -> cython.int:
    msg: cython.pointer(Msg) = client.omsg_q.head
    last: cython.pointer(Msg) = cython.NULL
    count: cython.size_t = 0
    held: cython.size_t = 0
    unsent: cython.size_t = 0
    while msg is not cython.NULL:
        hold(msg, holders)
        if msg.client != cython.cast(cython.p_void, client):
            wrong("a message in the queue of a client that is not its own")
        if msg.flags & MSG_DONE:
            unsent += msg.charge
        elif msg.join is not cython.NULL:
            unsent += msg.join.arrived
        held += msg.charge
        count += 1
        last = msg
        msg = msg.client_next
    if count != client.omsg_q.count or last != client.omsg_q.tail:
        wrong("the queue of a client", count, client.omsg_q.count)
    if client.session is not None:
        held += client.session.queued
    if client.pending != held or client.unsent != unsent:
        wrong("bytes of a client", client.pending, held, client.unsent, unsent)
    if client.imsg_q.head is not cython.NULL:
        wrong("the imsg_q of a client is not empty")
    return 0


@cython.cfunc
@cython.exceptval(-1)
def count_queues(server: Server, holders: dict, counts: list) -> cython.int:
    conn: Link
    for conn in links(server):
        check_queue(conn, cython.address(conn.imsg_q), holders, counts, 0)
        check_queue(conn, cython.address(conn.omsg_q), holders, counts, 2)
        if conn.sent > 0 and conn.imsg_q.head is cython.NULL:
            wrong("bytes of no request have been written", conn.sent)
    return 0


@cython.cfunc
@cython.exceptval(-1)
def check_gauges(server: Server, counts: list) -> cython.int:
    gauges = [
        server.stats[SERVER_IN_QUEUE],
        server.stats[SERVER_IN_QUEUE_BYTES],
        server.stats[SERVER_OUT_QUEUE],
        server.stats[SERVER_OUT_QUEUE_BYTES],
    ]
    if counts != gauges:
        wrong("the queue gauges of a server", counts, gauges)
    return 0


@cython.cfunc
@cython.exceptval(-1)
def check_queue(
    conn: Link,
    queue: cython.pointer(MsgQueue),
    holders: dict,
    counts: list,
    first: cython.int,
) -> cython.int:
    msg: cython.pointer(Msg) = queue.head
    last: cython.pointer(Msg) = cython.NULL
    count: cython.size_t = 0
    while msg is not cython.NULL:
        hold(msg, holders)
        if msg.server != cython.cast(cython.p_void, conn):
            wrong("a message in the queue of a server connection that is not its own")
        counts[first + 1] += msg.queued
        count += 1
        last = msg
        msg = msg.server_next
    if count != queue.count or last != queue.tail:
        wrong("the queue of a server connection", count, queue.count)
    counts[first] += count
    return 0


@cython.cfunc
@cython.exceptval(-1)
def check_deadlines(pool: ServerPool, holders: dict) -> cython.int:
    """Returns the number of messages that have a deadline."""
    msg: cython.pointer(Msg) = pool.deadlines.head.timeout_next
    before: cython.longlong = 0
    count: cython.int = 0
    while msg != cython.address(pool.deadlines.head):
        if address_of(msg) not in holders or not msg.flags & MSG_TIMED:
            wrong("a deadline of a message that nobody holds")
        if msg.deadline < before or msg.timeout_next.timeout_prev != msg:
            wrong("the order of the deadlines")
        before = msg.deadline
        count += 1
        msg = msg.timeout_next
    return count
