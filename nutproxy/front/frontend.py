# nutproxy/front/frontend.py: what the clients of one listener share
"""A Frontend is one side of a pool in the configuration file: its address, its clients, and what
they may do. The other side is the Route (route.py) that its requests go to: a ServerPool.

    Listener ──> ClientConn ──> Frontend.clients      password, deny_commands, limits, figures
                     └──────── request ─────────────> Frontend.route
"""

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.nutproxy.front.frontend import CHECKED, DENIED
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.io.wheel import Wheel
from cython.cimports.nutproxy.pool import ServerPool
from cython.cimports.nutproxy.proto.binary import binary_parse_first
from cython.cimports.nutproxy.proto.table import CustomRows
from cython.cimports.nutproxy.stats.board import Board
from cython.cimports.nutproxy.stats.slab import (
    POOL_CLIENT_ACCEPTED,
    POOL_CLIENT_BLOCKED,
    POOL_CLIENT_CONNECTIONS,
    POOL_CLIENT_EOF,
    POOL_CLIENT_ERR,
    POOL_CLIENT_REJECTED,
    POOL_CLIENT_REQUEST_BYTES,
    POOL_CLIENT_REQUESTS,
    POOL_CLIENT_RESPONSE_BYTES,
    POOL_FORWARD_ERROR,
    POOL_TRACKING_CLIENTS,
)

from nutproxy.front.scripts import Scripts
from nutproxy.front.users import Users
from nutproxy.proto.commands import NAMES_DATABASE, custom

# Later than any timeout of CLIENT PAUSE that somebody waits for, in milliseconds.
PAUSED_MAX = cython.declare(cython.longlong, 1 << 60)
# Clients whose delayed requests are dispatched in one turn: a millisecond.
UNPAUSED_PER_TURN = 128


@cython.cclass
class ClientRoom:
    def __init__(self, limit: int):
        self.limit = limit


@cython.cclass
class Unpausing(Job):
    def __init__(self, frontend: Frontend):
        self.frontend = frontend
        self.clients = [*frontend.clients.values()]

    def portion(self):
        """In the order in which the clients came. A pause that begins meanwhile stops it."""
        for client in self.clients[:UNPAUSED_PER_TURN]:
            if self.frontend.paused_until < 0 and client.fd >= 0:
                client.pause(False)
        del self.clients[:UNPAUSED_PER_TURN]
        return len(self.clients) > 0


@cython.cclass
class Frontend:
    """The clients' side of `config`. `process` has `started` (monotonic seconds), `config_file`,
    `version` and `pid`. `place` is the column of its clients on the board."""

    def __init__(self, config, pool: ServerPool, room: ClientRoom, process, board: Board, place):
        self.reactor = pool.reactor
        self.config = config
        self.process = process
        self.name = config.name
        self.pool = pool
        self.route = pool
        self.protocol = pool.protocol
        self.stats = pool.stats
        self.clients = {}
        self.scripts = Scripts()
        self.redis_auth = config.redis_auth
        self.admin_commands = config.admin_commands
        self.split_transactions = config.transactions == "split"
        self.miss = config.on_dead_server == "miss"
        self.only_binary = config.protocol == "binary"
        self.parse_first = self.protocol.parse_request
        self.only_text = config.protocol == "ascii"
        self.users = Users(config.users)
        if not config.redis:
            self.parse_first = binary_parse_first
        self.max_requests = config.client_max_requests
        self.max_pending = config.client_max_pending
        self.max_merged_reply = config.max_merged_reply
        self.max_unfinished = config.client_query_buffer_limit
        self.max_clients = config.client_connections
        self.room = room
        self.board = board
        self.place = place
        self.epoch = board.epoch(place)
        self.request_timeout = config.client_request_timeout or 0
        self.max_blocked = config.max_blocked
        self.paused_until = -1
        self.waits = Wheel(self.reactor.timers)
        numbers = {name: number for number, name in enumerate(self.protocol.commands)}
        if config.custom_commands:
            customs = [custom(command.name, command.row) for command in config.custom_commands]
            self.custom = CustomRows(customs)
            for number, command in enumerate(customs, start=self.custom.first):
                numbers[command.name] = number
        self.verdicts = cython.cast(cython.pointer(uint8_t), calloc(1 + max(numbers.values()), 1))
        if self.verdicts is cython.NULL:
            raise MemoryError
        for name in config.deny_commands:
            for row, number in numbers.items():
                # Denying a container command denies its subcommands.
                if row == name or row.startswith(name + " "):
                    self.verdicts[number] = DENIED
        for name in NAMES_DATABASE & numbers.keys():
            if not self.verdicts[numbers[name]]:
                self.verdicts[numbers[name]] = CHECKED

    def __dealloc__(self):
        free(self.verdicts)

    def __str__(self) -> str:
        return f"pool '{self.name}'"

    @property
    def about(self) -> dict:
        """The fields of a log line about this frontend (see log.py)."""
        return {"pool": self.name}

    def is_full(self) -> bool:
        """Are there too many clients, with the last one that was counted?"""
        return self.max_clients != 0 and self.board.total(self.place) > self.max_clients

    def refusal(self) -> str | None:
        """Why this worker refuses another client, that has been counted; None if it is accepted."""
        room: ClientRoom = self.room
        if self.is_full():
            return f"client_connections ({self.max_clients}) are in use"
        if not self.max_clients and room.limit and room.used >= room.limit:
            # The other descriptors are reserved for server connections.
            return f"no more than {room.limit} clients fit in the limit on open files"
        return None

    def uncount(self) -> None:
        """A client that was counted for this worker has left, or was refused."""
        self.board.leave(self.board.own, self.place, self.epoch)

    def client_came(self, client) -> None:
        self.clients[client.id] = client
        if self.paused_until >= 0:
            client.pause(True)
        if not self.max_clients:
            self.room.used += 1
        self.stats[POOL_CLIENT_ACCEPTED] += 1
        self.stats[POOL_CLIENT_CONNECTIONS] = len(self.clients)

    def client_left(self, client, eof: bool) -> None:
        """`eof`: the client closed the connection, or sent QUIT."""
        if self.clients.pop(client.id, None) is not None:
            self.uncount()
            if not self.max_clients:
                self.room.used -= 1
        self.stats[POOL_CLIENT_EOF if eof else POOL_CLIENT_ERR] += 1
        self.stats[POOL_CLIENT_CONNECTIONS] = len(self.clients)

    @property
    def pids(self) -> list:
        """The process that is started, and the workers."""
        found: list = [self.process.pid]
        for worker in range(self.board.workers):
            pid = self.board.pid(worker)
            if pid:
                found.append(pid)
        return found

    @property
    def alone(self) -> bool:
        """nutproxy has no other worker."""
        return self.board.workers == 1

    def ask(self, question, callback) -> None:
        """Ask the other workers (builtin/interface.py). `callback` gets their answers, as bytes."""
        self.colleagues(self.name, question, callback)

    def pause(self, milliseconds: int, every: bool) -> None:
        """CLIENT PAUSE: delay the requests of all clients, or with `every` unset those that write.
        During a pause, a further one can only make it longer and stricter."""
        begins: cython.bint = self.paused_until < 0
        until: cython.longlong = min(self.reactor.now + milliseconds, PAUSED_MAX)
        self.pauses_all = every or (not begins and self.pauses_all)
        if until > self.paused_until:
            self.paused_until = until
            self.reactor.timers.schedule(until, self.pause_ends)
        if begins:
            for client in self.clients.values():
                client.pause(True)

    def pause_ends(self) -> None:
        """A timer: the pause may have become longer, or may have ended before."""
        if 0 <= self.paused_until <= self.reactor.now:
            self.unpause()

    def unpause(self) -> None:
        if self.paused_until >= 0:
            self.paused_until = -1
            self.reactor.jobs.add(Unpausing(self))

    def largest_unfinished(self):
        """The client with the most bytes in an incomplete request."""
        return max(self.clients.values(), key=lambda client: client.unfinished_bytes)

    # Figures, for the handlers in builtin/
    # ---------------------------------------------------------------------------------

    def figure(self, cell):
        """A figure of all workers together."""
        return self.reactor.slab.total(self.stats + cell)

    @property
    def tracking_clients(self) -> int:
        return self.figure(POOL_TRACKING_CLIENTS)

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 for a unix socket."""
        return self.config.listen.port if self.config.listen.family == "tcp" else 0

    @property
    def curr_connections(self) -> int:
        return self.figure(POOL_CLIENT_CONNECTIONS)

    @property
    def blocked_clients(self) -> int:
        """Those that wait in servers, and, as in Redis, those that a pause delays."""
        return self.figure(POOL_CLIENT_BLOCKED) + self.postponed

    @property
    def total_connections(self) -> int:
        return self.figure(POOL_CLIENT_ACCEPTED)

    @property
    def rejected_connections(self) -> int:
        return self.figure(POOL_CLIENT_REJECTED)

    @property
    def total_requests(self) -> int:
        return self.figure(POOL_CLIENT_REQUESTS)

    @property
    def total_net_in(self) -> int:
        return self.figure(POOL_CLIENT_REQUEST_BYTES)

    @property
    def total_net_out(self) -> int:
        return self.figure(POOL_CLIENT_RESPONSE_BYTES)

    @property
    def forward_errors(self) -> int:
        return self.figure(POOL_FORWARD_ERROR)
