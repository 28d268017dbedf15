# nutproxy/pool.py: a pool of servers
"""Finds the server of a key, and ends requests that have waited for too long.

    key ─> Router (hash_tag, hash, distribution) ─> Server ─> connection of the client's slot

The ring holds the servers that are not ejected. It is rebuilt when a server is ejected or returns.
A small ring is rebuilt at once, but only once a turn. A large one is rebuilt in portions, with
other work in between. The old ring stays in use until the new one is ready, and requests for an
ejected server get an error until then.
"""

import logging
from collections import deque

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.nutproxy.back.link import Link, begun
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.hashkit.router import Router
from cython.cimports.nutproxy.msg.deadline import deadline_first, deadlines_init
from cython.cimports.nutproxy.msg.message import (
    MSG_CANCELLED,
    MSG_WRITTEN,
    Msg,
    freed_enough,
)
from cython.cimports.nutproxy.msg.response import msg_fail
from cython.cimports.nutproxy.stats.slab import (
    POOL_CLIENT_ACCEPTED,
    POOL_CLIENT_CONNECTIONS,
    POOL_CLIENT_EOF,
    POOL_CLIENT_ERR,
    POOL_CLIENT_REJECTED,
    POOL_CLIENT_REQUEST_BYTES,
    POOL_CLIENT_REQUESTS,
    POOL_CLIENT_RESPONSE_BYTES,
    POOL_FORWARD_ERROR,
    POOL_SERVER_EJECTS,
)

from nutproxy.back.link import TIMED_OUT
from nutproxy.proto.protocols import PROTOCOLS

log = logging.getLogger("nutproxy")

# Longest reply of a server, in bytes, unless twice the largest value is more.
REPLY_MAX = 1 << 30
# Expired requests that are answered in one turn: 5 ms.
EXPIRED_PER_TURN = cython.declare(cython.int, 4096)
# Connects of a pool in one turn (one takes 0.1 ms), and the milliseconds until the next as many.
CONNECTS_PER_TURN = 64
CONNECTS_APART = 8
# A ring of up to this many servers is rebuilt at once, in less than a millisecond.
RING_SMALL = 32
# Ring points computed in one turn: about a millisecond.
RING_PORTION = 6400


@cython.cclass
class ServerPool:
    """A pool as configured. `resolve(host, port, callback)` looks up names without blocking."""

    def __init__(self, reactor: Reactor, worker, index: cython.int, config, resolve):
        self.reactor = reactor
        self.index = index
        self.stats = reactor.slab.row(reactor.slab.pools[index])
        self.worker = worker
        self.config = config
        self.protocol = PROTOCOLS[config.redis]
        self.resolve = resolve
        self.name = config.name
        self.client_conns = {}
        self.chores = deque()
        self.redis_auth = config.redis_auth
        self.redis_db = config.redis_db
        self.timeout = config.timeout or 0
        self.admin_commands = config.admin_commands
        self.any_route = config.distribution == "random"
        self.miss = config.on_dead_server == "miss"
        self.max_requests = config.client_max_requests
        self.max_pending = config.client_max_pending
        self.max_queue = config.server_max_queue
        self.max_reply = max(REPLY_MAX, 2 * config.proto_max_bulk_len)
        self.max_unfinished = config.client_query_buffer_limit
        self.request_timeout = config.client_request_timeout or 0
        self.servers = [
            Server(reactor, self, server, index) for index, server in enumerate(config.servers)
        ]
        self.router = Router(
            config.hash,
            config.distribution,
            config.hash_tag,
            [(server.name.encode(), server.weight) for server in config.servers],
        )
        numbers = {name: number for number, name in enumerate(self.protocol.commands)}
        self.denied = cython.cast(cython.pointer(uint8_t), calloc(len(numbers), 1))
        self.scratch = cython.cast(
            cython.pointer(uint32_t), calloc(len(self.servers), cython.sizeof(uint32_t))
        )
        deadlines_init(cython.address(self.deadlines))
        if self.denied is cython.NULL or self.scratch is cython.NULL:
            raise MemoryError
        for name in config.deny_commands:
            for row, number in numbers.items():
                # Denying a container command denies its subcommands.
                if row == name or row.startswith(name + " "):
                    self.denied[number] = 1
        self.suspects = set()

    def __str__(self) -> str:
        return f"pool '{self.name}'"

    @property
    def about(self) -> dict:
        """The fields of a log line about this pool (see log.py)."""
        return {"pool": self.name}

    def __dealloc__(self):
        free(self.denied)
        free(self.scratch)

    def route(self, key, length):
        """The server of a key, None if no server is live."""
        index: cython.int = self.router.route(
            cython.cast(cython.pointer(cython.uchar), key), length
        )
        if index < 0:
            return None
        return cython.cast(Server, self.servers[index])

    def any_server(self):
        """The server for a request without a key: that of the key `placeholder`, as in twemproxy,
        or, if that is down, the first that is not. None if no server is live."""
        server: Server = self.route(b"placeholder", 11)
        other: Server
        if server is None or not server.down:
            return server
        for other in self.servers:
            if not other.down:
                return other
        return server

    def live_servers(self) -> list:
        """The servers that are not ejected, in the ring's order."""
        server: Server
        live = []
        for server in self.servers:
            if not server.ejected:
                live.append(server)
        return live

    def dead_reply(self) -> bytes:
        """The error reply when every server is ejected."""
        return self.protocol.error("no_live_server", self.name.encode())

    def next_deadline(self):
        """When the next request expires, in milliseconds of the loop's clock; -1 if none waits."""
        msg: cython.pointer(Msg) = deadline_first(cython.address(self.deadlines))
        return -1 if msg is cython.NULL else msg.deadline

    def expire(self):
        """Fail the requests whose deadline has passed. Others on their connection keep waiting."""
        msg: cython.pointer(Msg)
        conn: Link
        server: Server
        start: cython.longlong
        text: bytes
        # What is left expires in the next turn.
        for _ in range(EXPIRED_PER_TURN):
            if freed_enough():
                return 0
            msg = deadline_first(cython.address(self.deadlines))
            if msg is cython.NULL or msg.deadline > self.reactor.seen:
                return 0
            conn = cython.cast(Link, msg.server)
            server = cython.cast(Server, conn.server)
            text = server.error_reply(TIMED_OUT)
            if msg == conn.imsg_q.head and begun(conn):
                pass
            elif not msg.flags & MSG_WRITTEN:
                # Not a byte of it has been written: it will not be sent.
                msg.flags |= MSG_CANCELLED
            start = msg.start // 1000
            msg_fail(msg, text)
            server.request_timed_out(conn, start)
        return 0

    def connect_delay(self) -> int:
        """The milliseconds to wait before one more connect. Spreads them out, so that hundreds of
        servers that go or return at once do not block the loop."""
        if self.connects_turn != self.reactor.now_usec:
            self.connects_turn = self.reactor.now_usec
            self.connects = 0
        self.connects += 1
        return (self.connects - 1) // CONNECTS_PER_TURN * CONNECTS_APART

    def watch(self, server: Server) -> None:
        """Watch a server on which a request has timed out: the connection may be dead."""
        self.suspects.add(server)
        if self.watch_timer is None:
            self.watch_timer = self.reactor.timers.schedule(
                self.reactor.now + max(self.timeout // 2, 10), self.watch_silence
            )

    def watch_silence(self) -> None:
        """Look for dead connections of the watched servers, twice per timeout. Servers without
        timeouts cost nothing, however many there are."""
        self.watch_timer = None
        for server in self.suspects.copy():
            self.suspects.discard(server)
            if server.close_silent():
                self.watch(server)

    def update_ring(self) -> None:
        """Rebuild the ring, now or soon, after servers have left or returned."""
        self.ring_stale = True
        if self.ring_timer is not None:
            return
        if len(self.servers) <= RING_SMALL and self.ring_turn != self.reactor.now_usec:
            self.ring_turn = self.reactor.now_usec
            self.router.set_live(self.live_flags())
            self.ring_stale = False
        else:
            self.rebuild_soon()

    def rebuild_soon(self) -> None:
        self.ring_timer = self.reactor.timers.schedule(self.reactor.now, self.rebuild_portion)

    def rebuild_portion(self) -> None:
        """Build one portion of the new ring. If servers leave or return meanwhile, the ring is
        finished first and then built again, so it becomes ready however often they do."""
        self.ring_timer = None
        try:
            if not self.ring_building:
                self.router.begin(self.live_flags())
                self.ring_stale = False
            self.ring_building = self.router.build(RING_PORTION)
        finally:
            self.keep_rebuilding()

    def keep_rebuilding(self) -> None:
        """Schedule the next portion, unless the ring is ready or one is scheduled already."""
        if (self.ring_building or self.ring_stale) and self.ring_timer is None:
            self.rebuild_soon()

    def live_flags(self) -> list[bool]:
        """For each server, in index order, whether the ring holds it."""
        return [not server.ejected for server in self.servers]

    def ejected(self, server: Server) -> None:
        self.stats[POOL_SERVER_EJECTS] += 1
        self.update_ring()

    def returned(self, server: Server) -> None:
        self.update_ring()

    def preconnect(self) -> None:
        for server in self.servers:
            server.preconnect()

    def keep_probing(self) -> None:
        """Resume ring rebuilds and probes that stopped because memory had run out."""
        self.keep_rebuilding()
        for server in self.servers:
            server.keep_probing()

    def check_unfinished(self) -> None:
        """End the clients that have left a request incomplete for too long."""
        if self.request_timeout:
            for client in list(self.client_conns.values()):
                client.check_unfinished()

    def largest_unfinished(self):
        """The client with the most bytes in an incomplete request."""
        return max(self.client_conns.values(), key=lambda client: client.unfinished_bytes)

    def client_came(self, client) -> None:
        self.client_conns[client.id] = client
        self.stats[POOL_CLIENT_ACCEPTED] += 1
        self.stats[POOL_CLIENT_CONNECTIONS] = len(self.client_conns)

    def client_left(self, client, eof: bool) -> None:
        """`eof`: the client closed the connection, or sent QUIT."""
        self.client_conns.pop(client.id, None)
        self.stats[POOL_CLIENT_EOF if eof else POOL_CLIENT_ERR] += 1
        self.stats[POOL_CLIENT_CONNECTIONS] = len(self.client_conns)

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 for a unix socket."""
        return self.config.listen.port if self.config.listen.family == "tcp" else 0

    @property
    def curr_connections(self) -> int:
        return self.stats[POOL_CLIENT_CONNECTIONS]

    @property
    def total_connections(self) -> int:
        return self.stats[POOL_CLIENT_ACCEPTED]

    @property
    def rejected_connections(self) -> int:
        return self.stats[POOL_CLIENT_REJECTED]

    @property
    def total_requests(self) -> int:
        return self.stats[POOL_CLIENT_REQUESTS]

    @property
    def total_net_in(self) -> int:
        return self.stats[POOL_CLIENT_REQUEST_BYTES]

    @property
    def total_net_out(self) -> int:
        return self.stats[POOL_CLIENT_RESPONSE_BYTES]

    @property
    def forward_errors(self) -> int:
        return self.stats[POOL_FORWARD_ERROR]

    @property
    def server_ejects(self) -> int:
        return self.stats[POOL_SERVER_EJECTS]

    def clients(self) -> list:
        """This pool's client connections, oldest first."""
        return list(self.client_conns.values())

    def client_of(self, id: int | None):
        """The client with this id; None if there is none."""
        return self.client_conns.get(id)

    def close(self) -> None:
        for server in self.servers:
            server.close()
