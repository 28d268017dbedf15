# nutproxy/core.py: the loop
"""The Worker, and the loop that drives everything in it.

docs/architecture.md follows one GET through it, file by file.

One turn:

    1. run the timers and request deadlines that had expired one turn ago: replies that had arrived
       by then have been read
    2. read connections that still had input last turn, or may be read again; go on with jobs that
       are done in portions
    3. wait for events until the next timer or deadline, or not at all if step 2 left work. While
       much is in flight, rest first, so that there are more of them (io/coalesce.py)
    4. handle each event: error first, then read, then write
    5. flush connections with queued output: servers first, then clients
    6. release connections that were closed

Messages of the master arrive in an inbox and are read like all other input.

An exception in a connection's handler ends that connection and never the reactor. Python's cyclic
garbage collector is off while the loop runs: messages are not Python objects, and connections leave
no reference cycles.
"""

import gc
import logging
import os
import time
from typing import NamedTuple

import cython
from cython.cimports.libc.string import memmove
from cython.cimports.nutproxy.dispatch.authenticate import binary_authenticate, text_authenticate
from cython.cimports.nutproxy.dispatch.binary import binary_recv_done, binary_recv_error
from cython.cimports.nutproxy.dispatch.memcache import memcache_recv_done, memcache_recv_error
from cython.cimports.nutproxy.dispatch.redis import (
    redis_recv_done,
    redis_recv_error,
    redis_recv_large,
)
from cython.cimports.nutproxy.front.binary import choose_protocol
from cython.cimports.nutproxy.front.frontend import ClientRoom, Frontend
from cython.cimports.nutproxy.front.listener import Listener
from cython.cimports.nutproxy.front.subscriptions import Subscriptions
from cython.cimports.nutproxy.front.tracking import Tracking
from cython.cimports.nutproxy.io.clock import processor_usec
from cython.cimports.nutproxy.io.inbox import Inbox
from cython.cimports.nutproxy.io.jobs import Steps
from cython.cimports.nutproxy.io.reactor import (
    Pollable,
    PollList,
    Reactor,
    end_faulty,
    handle_events,
)
from cython.cimports.nutproxy.janitor import Janitor
from cython.cimports.nutproxy.msg.message import messages_setup, messages_turn
from cython.cimports.nutproxy.msg.protocol import dispatch_t, refuse_t
from cython.cimports.nutproxy.pool import ServerPool
from cython.cimports.nutproxy.proto.protocols import (
    binary_protocol,
    memcache_protocol,
    redis_protocol,
)
from cython.cimports.nutproxy.stats.board import Board
from cython.cimports.nutproxy.stats.slab import (
    GLOBAL_EVENTS,
    GLOBAL_TURNS,
    SLAB_ASKED,
    SLAB_BEAT,
    SLAB_GIVEN,
    Slab,
)

from nutproxy import __version__
from nutproxy.back.handshake import MemcacheHandshake, RedisHandshake
from nutproxy.log import NOTICE
from nutproxy.stats.board import PLACES_MIN, board_memory

log = logging.getLogger("nutproxy")

# What the roles add to the protocols.
redis_protocol.handshake = RedisHandshake
redis_protocol.dispatch = cython.cast(dispatch_t, redis_recv_done)
redis_protocol.dispatch_large = cython.cast(dispatch_t, redis_recv_large)
redis_protocol.refuse = cython.cast(refuse_t, redis_recv_error)
memcache_protocol.handshake = MemcacheHandshake
memcache_protocol.dispatch = cython.cast(dispatch_t, memcache_recv_done)
memcache_protocol.refuse = cython.cast(refuse_t, memcache_recv_error)
memcache_protocol.choose = choose_protocol
binary_protocol.dispatch = cython.cast(dispatch_t, binary_recv_done)
memcache_protocol.authenticate = cython.cast(dispatch_t, text_authenticate)
binary_protocol.authenticate = cython.cast(dispatch_t, binary_authenticate)
binary_protocol.refuse = cython.cast(refuse_t, binary_recv_error)

# If a turn takes this many milliseconds longer than the poller's timeout, the process was stopped
# meanwhile (SIGSTOP, a suspended virtual machine), or the machine is very busy.
PAUSE_SLACK = cython.declare(cython.longlong, 20)
# Later than anything.
NEVER = cython.declare(cython.longlong, 1 << 62)
# Turns shorter than this many milliseconds are not checked for a pause.
PAUSE_MIN = cython.declare(cython.longlong, 100)
# Minimum and maximum of the extra milliseconds that servers get after a pause.
PAUSE_GRACE_MIN = cython.declare(cython.longlong, 50)
PAUSE_GRACE_MAX = cython.declare(cython.longlong, 1000)


class Process(NamedTuple):
    """Facts about nutproxy, for INFO and the like. Clients see the master and its workers as one
    server."""

    config_file: str
    version: str
    pid: int
    started: float  # monotonic seconds


def lone_board() -> Board:
    """The Board of a worker that has no others."""
    memory = board_memory(PLACES_MIN, 1)
    try:
        return Board(PLACES_MIN, 1, 0, memory)
    finally:
        os.close(memory)


@cython.cclass
class Worker:
    """Its reactor, its pools and their listeners. `mbuf_size` is in bytes, `coalesce` in
    microseconds. `slab` has the rows of the pools that will be added. `pid` and `started`
    (monotonic seconds) are the master's, `board` is shared with other workers."""

    def __init__(
        self,
        mbuf_size: int,
        config_file: str,
        slab: Slab,
        coalesce: int = 0,
        pid: int = 0,
        started: float = 0.0,
        board: Board = None,
    ):
        self.reactor = Reactor(mbuf_size, slab, coalesce)
        self.pools = []
        self.frontends = []
        self.listeners = []
        self.janitor = Janitor(self.reactor, self.pools, self.frontends)
        self.client_room = ClientRoom(0)
        self.board = board or lone_board()
        self.inboxes = []
        self.process = Process(
            config_file, __version__, pid or os.getpid(), started or time.monotonic()
        )

    def add_pool(self, config, sock, resolve, hand_over=None) -> None:
        """Add the pool, the frontend and the listener of a PoolConfig. `resolve(host, port,
        callback)` must not block, nor must `hand_over` (see Listener)."""
        pool = ServerPool(self.reactor, config, resolve)
        place = len(self.pools)
        frontend = Frontend(config, pool, self.client_room, self.process, self.board, place)
        if config.redis:
            frontend.subscriptions = Subscriptions(pool)
            frontend.tracking = pool.tracker = Tracking(frontend)
        self.pools.append(pool)
        self.frontends.append(frontend)
        self.listeners.append(Listener(frontend, sock, hand_over))

    def carry_out(self, steps, done) -> None:
        """Do the items of a generator in portions, and call `done` with what it returns."""
        self.reactor.jobs.add(Steps(steps, done))

    def listener_of(self, pool: int) -> Listener:
        [listener] = [each for each in self.listeners if each.frontend.place == pool]
        return listener

    def adopt(self, pool: int, fd: int, epoch: int) -> None:
        """Serve a client that another worker has accepted."""
        client = self.listener_of(pool).adopt(fd, epoch)
        if client is not None and self.draining:
            client.drain()

    def lose(self, pool: int, epoch: int) -> None:
        """Such a client was lost on its way."""
        self.listener_of(pool).lose(epoch)

    def listen_to(self, sock, read, write=None) -> Inbox:
        """Call `read()` in the loop when `sock` can be read, and `write()` when there is room again
        after `await_room` of the Inbox. It takes over `sock`."""
        inbox = Inbox(self.reactor, sock, read, write)
        self.inboxes.append(inbox)
        return inbox

    def run(self) -> None:
        """Serve until `stop` is called."""
        core_loop(self)

    def stop(self) -> None:
        """Leave the loop at the end of this turn."""
        self.stopped = True

    def drain(self, limit: int) -> None:
        """Accept no more clients, finish the requests that have arrived, and close each client
        after its last reply. Leave the loop when that is done, or after `limit` milliseconds."""
        listener: Listener
        # Scheduled first: the drain must end even if something below fails.
        self.reactor.timers.schedule(self.reactor.now + limit, self.cut)
        self.draining = True
        self.drain_began = self.reactor.now
        for listener in self.listeners:
            listener.drain()
        for client in self.clients():
            try:
                client.drain()
            except Exception:
                end_faulty(client)

    def clients(self) -> list:
        return [client for frontend in self.frontends for client in frontend.clients.values()]

    def orphans(self) -> int:
        """The number of requests in flight whose clients have gone. They are still carried out."""
        servers = [server for pool in self.pools for server in pool.servers + pool.leaving]
        return sum([server.orphans() for server in servers])

    def check_drained(self):
        """Leave the loop if there is nothing left to wait for."""
        if self.clients() or self.orphans():
            return 0
        if not self.stopped:
            self.end_drain()
        return 0

    def end_drain(self) -> None:
        """Leave the loop: nothing is in flight."""
        log.log(
            NOTICE, "drained in %d ms, nothing was cut off", self.reactor.now - self.drain_began
        )
        self.stop()

    def cut(self) -> None:
        """Leave the loop, and log how many clients and requests are cut off."""
        if self.stopped:
            # Several signals arrived at once.
            return
        requests = self.orphans()
        clients = 0
        for client in self.clients():
            # A lingering client has had its last reply.
            if not client.lingering:
                clients += 1
                requests += client.owed
        if not clients and not requests:
            self.end_drain()
            return
        log.warning(
            "drain ended after %d ms: clients cut off: %d, requests cut off: %d",
            self.reactor.now - self.drain_began,
            clients,
            requests,
        )
        self.stop()

    def timeout(self):
        """The poller's timeout in milliseconds. Sets `due` to the next timer or deadline."""
        reactor: Reactor = self.reactor
        pool: ServerPool
        expires: cython.longlong
        first: cython.longlong
        first = reactor.timers.next_expiry()
        for pool in self.pools:
            expires = pool.next_deadline()
            if expires >= 0 and (first < 0 or expires < first):
                first = expires
        if first < 0:
            first = NEVER
        elif first < self.judge_from:
            first = self.judge_from
        self.due = first
        if self.stopped:
            return 0
        if (
            reactor.ready.count
            or reactor.flush_servers.count
            or reactor.flush_clients.count
            or reactor.jobs.count
            or reactor.replies.count
            or self.unfreed
        ):
            # There is input to read, output to flush or memory to free already.
            return 0
        if first == NEVER:
            return -1
        return min(max(first - reactor.now, 0), 60000)

    def may_rest(self, wait):
        """May this turn, whose poll may take `wait` milliseconds, rest before it? Not if a timer
        or deadline is due by then, nor in a drain or while a connection to a server begins."""
        return (
            (wait < 0 or (wait - 1) * 1000 >= self.reactor.coalescer.limit)
            and not self.draining
            and not self.reactor.handshakes
        )

    def observe(self):
        """Once in a millisecond or less often: how long may turns rest?"""
        reactor: Reactor = self.reactor
        reactor.counted.turns = reactor.stats[GLOBAL_TURNS]
        reactor.counted.events = reactor.stats[GLOBAL_EVENTS]
        used: cython.longlong = processor_usec() if reactor.coalescer.weighs() else -1
        reactor.coalescer.observe(reactor.now_usec, reactor.counted, used)

    def paused(self, waited, count):
        """Called after a long turn. If it took longer than the poller's timeout, nutproxy was not
        running. Servers are not at fault for that, so they get extra time before deadlines run."""
        reactor: Reactor = self.reactor
        over: cython.longlong = reactor.now - reactor.seen - waited
        if waited >= 0 and (over > PAUSE_SLACK or (count > 0 and over >= 0)):
            self.judge_from = reactor.now + min(max(over, PAUSE_GRACE_MIN), PAUSE_GRACE_MAX)
            self.due = max(self.due, self.judge_from)

    def flush(self, conns):
        """Call the send handler of every connection that has something queued."""
        conn: Pollable
        index: cython.size_t
        # Connections added meanwhile wait for the next turn: one that has more to write than one
        # turn allows, or a server connection that takes over the requests of a closed one.
        count: cython.size_t = conns.count
        for index in range(count):
            conn = cython.cast(Pollable, conns.items[index])
            conn.in_flush = False
            if conn.fd >= 0 and not conn.blocked:
                try:
                    conn.send(conn)
                except Exception:
                    end_faulty(conn)
        conns.count -= count
        memmove(conns.items, conns.items + count, conns.count * cython.sizeof(cython.p_void))
        return 0

    def judge(self):
        """Run expired timers and deadlines. Replies that came before them have been read."""
        pool: ServerPool
        self.reactor.timers.run(self.reactor.seen)
        for pool in self.pools:
            if pool.timeout:
                try:
                    pool.expire()
                except Exception:
                    log.exception("%s: a request that timed out could not be answered", pool)
        return self.janitor.watch()

    def turn(self):
        reactor: Reactor = self.reactor
        conn: Pollable
        again: PollList
        index: cython.size_t
        count: cython.int
        wait: cython.int
        events: cython.uint

        if reactor.seen >= self.due:
            self.judge()

        again = reactor.ready_before
        reactor.ready_before = reactor.ready
        reactor.ready = again
        for index in range(reactor.ready_before.count):
            conn = cython.cast(Pollable, reactor.ready_before.items[index])
            conn.in_ready = False
            if conn.fd >= 0:
                try:
                    conn.recv(conn)
                except Exception:
                    end_faulty(conn)
        reactor.ready_before.count = 0

        if reactor.jobs.count or reactor.replies.count:
            self.janitor.work()
        if self.draining:
            # Before the wait: a timer may have ended the last client.
            self.check_drained()
        wait = self.timeout()
        if reactor.coalescer.gap and wait and self.may_rest(wait):
            reactor.coalescer.rest(reactor.now_usec)
        if reactor.stats[SLAB_ASKED] != reactor.stats[SLAB_GIVEN]:
            reactor.slab.give()
        reactor.stats[SLAB_BEAT] = (reactor.stats[SLAB_BEAT] | 1) + 1
        count = reactor.poller.wait(wait)
        reactor.stats[SLAB_BEAT] |= 1
        reactor.tick()
        reactor.stats[GLOBAL_TURNS] += 1
        reactor.stats[GLOBAL_EVENTS] += count
        if reactor.now_usec >= reactor.coalescer.decide_at:
            self.observe()
        if reactor.now - reactor.seen >= PAUSE_MIN:
            self.paused(wait, count)
        for index in range(cython.cast(cython.size_t, count)):
            conn = cython.cast(Pollable, reactor.poller.events[index].data.ptr)
            events = reactor.poller.events[index].events
            try:
                handle_events(conn, events)
            except Exception:
                end_faulty(conn)

        if reactor.flush_servers.count:
            self.flush(cython.address(reactor.flush_servers))
        if reactor.flush_clients.count:
            self.flush(cython.address(reactor.flush_clients))
        reactor.sweep()
        self.unfreed = messages_turn(reactor.now)
        return 0

    def close(self) -> None:
        """Close every listener, client and server connection."""
        listener: Listener
        conn: Pollable
        inbox: Inbox
        for listener in self.listeners:
            listener.end()
        for pool in self.pools:
            pool.close()
        for conn in list(self.reactor.conns):
            conn.close(conn)
            if conn.fd >= 0:
                # A client that lingers after the first close.
                conn.close(conn)
        for inbox in self.inboxes:
            inbox.close(inbox)
        self.reactor.sweep()


def core_loop(worker: Worker) -> None:
    """Run turns until the worker is stopped."""
    collected = gc.isenabled()
    gc.disable()
    messages_setup()
    worker.reactor.coalescer.prepare()
    try:
        worker.janitor.tidy()
        for pool in worker.pools:
            if pool.config.preconnect:
                pool.preconnect()
        while not worker.stopped:
            worker.turn()
    finally:
        worker.reactor.stats[SLAB_BEAT] = (worker.reactor.stats[SLAB_BEAT] | 1) + 1
        if collected:
            gc.enable()
