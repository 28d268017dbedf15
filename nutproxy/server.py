# nutproxy/server.py: one server of a pool
"""The connections to one server, and what is known of its health.

    conn_for ─> [slot 0] [slot 1] …      a client keeps to one slot, so its requests stay in order

Slots exist once for each protocol version that clients speak (RESP2, RESP3).

**Health.** A server is up, down, or ejected.

    up ──── cannot be reached, fails a handshake, ──> down ──── failures reach ──> ejected
            or is silent for a whole timeout            │       server_failure_limit     │
    ^                                                   │       (auto_eject_hosts)       │
    └───────── a probe connects, shakes hands, PINGs ───┴────────────────────────────────┘

While it is down, requests for it fail at once with the cause; no client request is used to find out
whether it is back, a probe is: with a growing back-off, and every `server_retry_timeout` once it is
ejected. A reply on an old connection also ends "down", for a server that was stopped and continues.

A connection that is refused while others of the same server are in use (maxclients) concerns its
slot alone: requests of that slot fail for a second, then it is tried again.

A failure counts only when what failed had begun after the last counted failure, so that one event
is counted once, however many connections and requests it takes with it.
"""

import logging
import os
import socket
import time

import cython
import hiredis
from cython.cimports.libc.errno import ECONNRESET, ENOMEM, ETIMEDOUT
from cython.cimports.nutproxy.conn import Loop
from cython.cimports.nutproxy.server_conn import SERVER_CLOSED, SERVER_READY, ServerConn, idle
from cython.cimports.nutproxy.stats.slab import (
    GLOBAL_TOTAL_CONNECTIONS,
    SERVER_REQUESTS,
    SERVER_REQUESTS_TIMEDOUT,
    SERVER_RESPONSES,
    SERVER_SERVER_DOWN,
    SERVER_SERVER_EJECTED,
    SERVER_SERVER_EJECTED_AT,
    SERVER_SERVER_PROBES,
    SERVER_SERVER_TIMEDOUT,
)

from nutproxy.server_conn import NOPROTO, NOT_NEEDED, TIMED_OUT

log = logging.getLogger("nutproxy")

# Milliseconds until a server that is down is probed: at first, and at most.
BACKOFF_MIN = 100
BACKOFF_MAX = 1000
# The least that is meant by a server_retry_timeout: 0 must not keep the processor busy.
RETRY_MIN = 10
# Milliseconds for connect and handshake where the pool has no timeout.
HANDSHAKE_LIMIT = 10000


@cython.cclass
class Server(Endpoint):
    """One server of a pool. `config` is a ServerConfig, `index` its place in the ring's order."""

    def __init__(self, loop: Loop, pool, config, index: cython.int):
        self.loop = loop
        self.pool = pool
        self.config = config
        self.name = config.name
        self.memcache = not pool.config.redis
        self.index = index
        self.stats = loop.slab.row(loop.slab.servers[pool.index][index])
        self.connections = pool.config.server_connections
        self.conns2 = [None] * self.connections
        self.conns3 = [None] * self.connections
        self.refusals = {}
        self.version = ""
        self.backoff = BACKOFF_MIN
        self.last_failure = -1

    @property
    def address(self) -> str:
        return str(self.config.address)

    @property
    def requests(self) -> int:
        return self.stats[SERVER_REQUESTS]

    @property
    def responses(self) -> int:
        return self.stats[SERVER_RESPONSES]

    def __str__(self) -> str:
        return f"server '{self.name}' of pool '{self.pool.name}'"

    @property
    def about(self) -> dict:
        """What a line of the log about it is about (see log.py)."""
        return {**self.pool.about, "server": self.name}

    def error_reply(self, cause: str) -> bytes | None:
        """The error that a client is told, None where there is no memory for one. A server that is
        loading keeps Redis' own error code, which clients know how to wait for."""
        code = "-ERR"
        try:
            if self.memcache:
                code = "SERVER_ERROR"
            elif cause.startswith("LOADING "):
                code, cause = f"-{cause}".split(" ", 1)
            return f"{code} {self}: {cause}\r\n".encode()
        except MemoryError:
            return None

    def conn_for(self, client, resp):
        slot: cython.int = client % self.connections
        conns: list = self.conns3 if resp == 3 else self.conns2
        if self.down:
            self.refusal = self.error
            return None
        if resp == 3 and self.no_resp3:
            self.refusal = NOPROTO
            return None
        conn = cython.cast(ServerConn, conns[slot])
        if conn is None:
            return self.open_slot(resp, slot)
        return conn

    def open_slot(self, resp: int, slot: int):
        """Connect for this slot, unless it was refused a moment ago."""
        until, refusal = self.refusals.get((resp, slot), (0, b""))
        if self.loop.now < until:
            self.refusal = refusal
            return None
        return self.connect(resp, slot, False)

    def connect(self, resp: int, slot: int, probe: bool):
        """Open a connection. None if that failed at once."""
        conn = ServerConn(self, resp, slot)
        address = self.config.address
        self.loop.stats[GLOBAL_TOTAL_CONNECTIONS] += 1
        # Before it has its place: one that never ends must not be in it.
        conn.limit = self.loop.timers.schedule(
            self.loop.now + (self.pool.config.timeout or HANDSHAKE_LIMIT), conn.expire
        )
        if probe:
            self.stats[SERVER_SERVER_PROBES] += 1
            self.probing = conn
        else:
            (self.conns3 if resp == 3 else self.conns2)[slot] = conn
        if address.family == "unix":
            conn.start([(socket.AF_UNIX, address.path)])
        else:
            self.pool.resolve(address.host, address.port, conn.resolved)
        return None if conn.state == SERVER_CLOSED else conn

    def handshake(self, resp: int) -> tuple[list[str], bytes]:
        """The steps on a new connection, in order, and their bytes. The PING finds out whether the
        server is ready: one that loads its data, or wants a password, is not."""
        if self.memcache:
            return ["version"], b"version\r\n"
        commands = []
        if self.pool.config.redis_auth:
            commands.append((b"AUTH", self.pool.config.redis_auth))
        if resp == 3:
            commands.append((b"HELLO", b"3"))
        if self.pool.config.redis_db:
            commands.append((b"SELECT", str(self.pool.config.redis_db).encode()))
        commands.append((b"PING",))
        steps = [command[0].decode() for command in commands]
        return steps, b"".join([hiredis.pack_command(command) for command in commands])

    def judge(self, step: str, reply: object) -> str | None:
        """What a handshake's reply means: None is well, else why the connection is of no use."""
        refused = isinstance(reply, hiredis.ReplyError)
        text = str(reply)
        if not step:
            return text if refused else "the server sent a reply that nobody had asked for"
        if not refused:
            version = reply.get(b"version") if isinstance(reply, dict) else None
            if step == "HELLO" and isinstance(version, bytes):
                self.pool.server_version = version.decode(errors="replace") or None
            return None
        if text.startswith(("ERR max number of clients", "DENIED")):
            return text
        if step == "HELLO":
            self.no_resp3 = text.startswith(("ERR unknown command", "NOPROTO"))
            return f"HELLO 3 failed: {text}"
        if step == "AUTH":
            return f"redis_auth failed: {text}"
        if step == "SELECT":
            return f"redis_db {self.pool.config.redis_db} failed: {text}"
        if text.startswith("LOADING "):
            return text
        if text.startswith("NOAUTH"):
            return f"redis_auth is not set, but the server wants it: {text}"
        # MISCONF, BUSY, NOPERM and their like: it is there and answers.
        return None

    def judge_version(self, step: str, reply: str) -> str | None:
        """The same for memcached's: one that has too many clients, or wants to be authenticated,
        says so in the place of its version."""
        if step and reply.startswith("VERSION"):
            self.version = reply.removeprefix("VERSION").strip()
            return None
        if reply.startswith(("ERROR", "CLIENT_ERROR", "SERVER_ERROR")):
            return reply
        return "the server sent a reply that nobody had asked for"

    def ready(self, conn: ServerConn) -> None:
        """The handshake has gone well: requests may flow."""
        old: ServerConn
        # It may have been upgraded since its last connection.
        self.no_resp3 = False
        if conn is self.probing:
            self.probing = None
            stuck = self.silent_conns(self.grace())
            for old in self.open_conns():
                # Nothing proves that one without requests has outlived what happened.
                if old.state == SERVER_READY and idle(old):
                    old.drop()
            if self.conns2[conn.slot] is not None and self.conns2[conn.slot] not in stuck:
                # It has begun to answer meanwhile: two are one too many.
                conn.drop()
            else:
                self.conns2[conn.slot] = conn
            self.set_up("has returned")
            for old in stuck:
                old.fail(TIMED_OUT)
            return
        log.info("%s %s: connected, RESP%d", conn, self, conn.resp)
        if self.down and not self.ejected:
            self.set_up("has returned")
        conn.mark_flush()

    def open_conns(self) -> list:
        return [conn for conn in self.conns2 + self.conns3 if conn is not None]

    def silent_conns(self, limit: int) -> list:
        """The connections on which a reply has been due for `limit` ms without a byte."""
        conn: ServerConn
        silent = []
        for conn in self.open_conns():
            if conn.silence() >= limit:
                silent.append(conn)
        return silent

    def grace(self) -> int:
        """Milliseconds of silence that make a connection suspect: the pool's timeout."""
        return self.pool.config.timeout or HANDSHAKE_LIMIT

    def leave(self, conn):
        conns: list = self.conns3 if conn.resp == 3 else self.conns2
        if conns[conn.slot] is conn:
            conns[conn.slot] = None
        if conn is not self.probing:
            return False
        self.probing = None
        return True

    def closed(self, conn: ServerConn, was_ready: bool, waited: bool, probe: bool) -> None:
        """A connection has ended. What it tells about the server depends on what it was doing."""
        if conn.cause == NOT_NEEDED:
            return
        if conn.resp == 3 and self.no_resp3 and not was_ready:
            # It is up, only too old for this protocol version.
            log.warning("%s %s: %s", conn, self, conn.cause)
            return
        if was_ready:
            # An idle connection that ends is nothing to tell of, unless something was wrong.
            log.log(
                logging.WARNING if waited or conn.cause != self.ended() else logging.INFO,
                "%s %s at %s: connection closed: %s",
                conn,
                self,
                self.address,
                conn.cause if conn.err or conn.cause != self.ended() else "by the server",
            )
            # Memory that runs out here says nothing about the server.
            if waited and conn.err != ENOMEM:
                self.failed(self.loop.now - conn.silence(), conn.cause)
            if self.pool.config.preconnect and not self.down:
                # A server that closes what it has just accepted would do so again at once.
                young = self.loop.now - conn.begun < BACKOFF_MAX
                self.loop.timers.schedule(
                    self.loop.now + (BACKOFF_MIN if young else 0), self.preconnect
                )
            return
        if not probe and self.serves():
            # It takes no more connections (maxclients), but those that it has are in use.
            log.warning(
                "%s %s at %s: no further connection: %s", conn, self, self.address, conn.cause
            )
            self.refusal = self.error_reply(conn.cause)
            self.refusals[conn.resp, conn.slot] = (self.loop.now + BACKOFF_MAX, self.refusal)
            return
        if probe:
            log.info("%s at %s: probe failed: %s", self, self.address, conn.cause)
        self.failed(conn.begun, conn.cause)
        self.set_down(conn.cause)

    def serves(self) -> bool:
        """Is there a connection that requests flow over?"""
        conn: ServerConn
        for conn in self.open_conns():
            if conn.state == SERVER_READY and conn.silence() < self.grace():
                return True
        return False

    @staticmethod
    def ended() -> str:
        """The cause of a connection that the server has closed without a word."""
        return os.strerror(ECONNRESET)

    def preconnect(self) -> None:
        """Open every connection that is missing."""
        for slot in range(self.connections):
            if not self.down and self.conns2[slot] is None:
                self.open_slot(2, slot)

    def failed(self, begun: int, cause: str) -> None:
        """Count a failure of what had begun at `begun` (milliseconds of the loop's clock), unless
        it belongs to a failure that has been counted."""
        if begun <= self.last_failure:
            return
        self.last_failure = self.loop.now
        self.failures += 1
        if (
            self.pool.config.auto_eject_hosts
            and not self.ejected
            and self.failures >= self.pool.config.server_failure_limit
        ):
            self.eject(cause)

    def eject(self, cause: str) -> None:
        self.ejected = True
        self.stats[SERVER_SERVER_EJECTED] = 1
        self.stats[SERVER_SERVER_EJECTED_AT] = time.time_ns() // 1000
        self.failures = 0
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        log.warning(
            "%s ejected for at least %d ms: %s", self, self.pool.config.server_retry_timeout, cause
        )
        self.set_down(cause)
        self.pool.ejected(self)
        for conn in self.open_conns():
            conn.fail(cause)

    def set_down(self, cause: str) -> None:
        """Requests fail at once from now on; arm the next probe."""
        self.error = self.refusal = self.error_reply(cause)
        if not self.down:
            self.down = True
            self.stats[SERVER_SERVER_DOWN] = 1
            self.backoff = BACKOFF_MIN
            log.warning("%s is down: %s (%s)", self, cause, self.address)
        elif self.retry is not None or self.probing is not None:
            # The next probe is on its way: what fails beside it does not put it off.
            return
        delay = self.backoff
        if self.ejected:
            delay = max(self.pool.config.server_retry_timeout, RETRY_MIN)
        self.backoff = min(self.backoff * 2, BACKOFF_MAX)
        self.probe_in(delay)

    def probe_in(self, delay: int) -> None:
        if self.retry is not None:
            self.retry.cancel()
        self.retry = self.loop.timers.schedule(self.loop.now + delay, self.probe)

    def keep_probing(self) -> None:
        """Arm the next probe of a server that is down and has none: memory had run out when it was
        to be armed."""
        if self.down and self.retry is None and self.probing is None:
            self.probe_in(self.backoff)

    def probe(self) -> None:
        """Ask whether it is back, on a connection of its own."""
        self.retry = None
        if self.down and self.probing is None:
            self.connect(2, 0, True)

    def set_up(self, how: str) -> None:
        self.down = False
        self.stats[SERVER_SERVER_DOWN] = 0
        self.failures = 0
        self.refusals.clear()
        self.error = None
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.probing is not None:
            # An older connection was faster.
            self.probing.drop()
        log.warning("%s %s", self, how)
        if self.ejected:
            self.ejected = False
            self.stats[SERVER_SERVER_EJECTED] = 0
            self.pool.returned(self)
        if self.pool.config.preconnect:
            self.preconnect()

    def request_timed_out(self, conn, start):
        """A request has waited for its whole timeout. If its connection has been silent for as
        long, the server is suspect: others need not wait to find out, a probe does."""
        self.stats[SERVER_REQUESTS_TIMEDOUT] += 1
        if not conn.timed_out:
            conn.timed_out = True
            self.stats[SERVER_SERVER_TIMEDOUT] += 1
        if conn.silence() < self.grace():
            return 0
        self.failed(start, TIMED_OUT)
        if not self.down:
            self.set_down(TIMED_OUT)
            self.probe_in(0)
        return 0

    def close_silent(self) -> None:
        """A connection that has been silent for two timeouts is dead, whatever TCP says."""
        conn: ServerConn
        for conn in self.silent_conns(2 * self.grace()):
            conn.err = ETIMEDOUT
            conn.close(conn)

    def orphans(self) -> int:
        """Requests whose clients have gone and that are still to be written or answered."""
        return sum([conn.orphans() for conn in self.open_conns()])

    def close(self) -> None:
        """The proxy ends: nothing is connected again."""
        conn: ServerConn
        self.down = True
        self.error = self.error_reply("nutproxy stops")
        if self.retry is not None:
            self.retry.cancel()
        conns = self.open_conns()
        if self.probing is not None:
            conns.append(self.probing)
        for conn in conns:
            conn.drop()
