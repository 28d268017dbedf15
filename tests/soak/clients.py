# tests/soak/clients.py: connections that send pipelines, disconnect and come back
"""A process with many clients.

    main ──"go"────> every client connects and keeps requests in flight
         ──"drain"─> every client waits for its outstanding replies and closes;  ──Report──> main
         ──"end"───> the process ends

The first wrong reply is reported at once and ends the process.
"""

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import hiredis

from tests.servers import HOST
from tests.soak.binary import BinaryTraffic
from tests.soak.checks import Traffic, Wrong
from tests.soak.memcache import MemcacheTraffic
from tests.soak.messages import BOARD
from tests.soak.pubsub import SubscriberTraffic, last_messages
from tests.soak.redis import RedisTraffic

TRAFFICS: dict[str, type[Traffic]] = {
    "redis": RedisTraffic,
    "memcached": MemcacheTraffic,
    "binary": BinaryTraffic,
    "subscriber": SubscriberTraffic,
}
# How many requests a pipeline has.
DEPTHS = (1, 1, 1, 2, 3, 5, 8, 16, 30, 60, 100, 300)
# After how many of a thousand pipelines the client disconnects, or shuts down its sending side.
VANISH, HALF_CLOSE = 8, 3


@dataclass
class Report:
    requests: int = 0
    checked: int = 0
    vanished: int = 0
    messages: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    # When subscribers have lost messages: the pool, the number of the server, and the times.
    holes: list[tuple[str, int, float, float]] = field(default_factory=list)
    items: str = ""
    wrong: str = ""

    def add(self, other: "Report") -> None:
        self.requests += other.requests
        self.checked += other.checked
        self.vanished += other.vanished
        self.messages += other.messages
        self.errors += other.errors
        self.holes += other.holes
        self.items = other.items or self.items
        self.wrong = self.wrong or other.wrong


class ClientConnection(asyncio.Protocol):
    """One connection of a client. `expected` has the entries in the order of their requests."""

    transport: asyncio.Transport

    def __init__(self, crowd: "Crowd", traffic: Traffic) -> None:
        self.crowd = crowd
        self.traffic = traffic
        self.random = traffic.random
        self.replies = traffic.reader()
        self.expected: deque[tuple[Any, ...]] = deque()
        self.low = 0  # the next pipeline is sent when no more than this are expected
        self.leaving = False
        self.pause: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.crowd.connections.add(self)
        self.traffic.greeting()
        self.send(0)
        self.go_on()

    def send(self, depth: int) -> None:
        count, data, entries = self.traffic.pipeline(depth)
        self.expected += entries
        self.crowd.report.requests += count
        self.transport.write(data)

    def go_on(self) -> None:
        """Send the next pipeline, or close."""
        if self.crowd.draining or self.leaving:
            if not self.expected and not self.leaving and self.traffic.is_finished():
                self.leaving = True
                self.transport.close()
            return
        if self.pause is not None:
            return
        choice = self.random.randrange(1000)
        self.send(self.random.choice(DEPTHS))
        if choice < VANISH:
            self.vanish()
        elif choice < VANISH + HALF_CLOSE and not any(map(self.traffic.waits, self.expected)):
            self.leaving = True
            self.transport.write_eof()
        self.low = self.random.randrange(len(self.expected) + 1) if self.expected else 0
        if seconds := self.traffic.pause():
            self.pause = asyncio.get_running_loop().call_later(seconds, self.rested)
        elif not self.expected:
            # No request of the pipeline has a reply.
            asyncio.get_running_loop().call_soon(self.go_on)

    def rested(self) -> None:
        self.pause = None
        if len(self.expected) <= self.low:
            self.go_on()

    def vanish(self) -> None:
        """Disconnect in the middle of a request and with outstanding replies, by RST or FIN."""
        self.leaving = True
        self.expected.clear()
        self.crowd.report.vanished += 1
        self.transport.write(self.traffic.part())
        if self.random.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        replies, expected, traffic = self.replies, self.expected, self.traffic
        errors = self.crowd.report.errors
        passes_over, takes, nothing = traffic.passes_over, traffic.takes, traffic.NOTHING
        checked = 0
        replies.feed(data)
        while (reply := replies.gets()) is not nothing:
            entry = None
            try:
                if takes is not None and takes(reply):
                    continue
                while True:
                    if not expected:
                        raise Wrong("a reply without a request")
                    entry = expected.popleft()
                    if passes_over is None or not passes_over(entry, reply):
                        break
                kind = entry[0](entry, reply)
            except (Wrong, ValueError, TypeError, IndexError, KeyError) as why:
                return self.crowd.wrong(traffic, f"{why!r}", entry, reply)
            if kind is traffic.MORE:
                expected.appendleft(entry)
            elif kind is not None:
                errors[kind] += 1
            checked += 1
        self.crowd.report.checked += checked
        if len(expected) <= self.low:
            self.go_on()
        return None

    def connection_lost(self, why: Exception | None) -> None:
        self.crowd.connections.discard(self)
        if self.pause is not None:
            self.pause.cancel()
        if not self.leaving or self.expected:
            due = self.expected[0] if self.expected else None
            self.crowd.wrong(self.traffic, f"closed by the proxy ({why})", due, None)
        else:
            self.crowd.left(self.traffic)


class Crowd:
    """The clients of this process."""

    def __init__(self, main: Connection, traffics: list[Traffic], ports: dict[str, int]) -> None:
        self.main = main
        self.traffics = traffics
        self.ports = ports
        self.report = Report()
        self.connections: set[ClientConnection] = set()
        self.draining = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.ended = asyncio.Event()
        self.tells = 0

    def order(self) -> None:
        """Carry out the next order of the main process."""
        word = self.main.recv()
        if word == "go":
            self.draining = False
            for traffic in self.traffics:
                self.connect(traffic)
        elif word == "drain":
            self.draining = True
            for connection in list(self.connections):
                connection.go_on()
            for pool in {one.pool for one in self.traffics if isinstance(one, SubscriberTraffic)}:
                self.begin(self.tell(pool))
            self.done()
        else:
            self.ended.set()

    def connect(self, traffic: Traffic) -> None:
        """A client has one connection at a time. Servers may still be busy with its last one."""
        loop = asyncio.get_running_loop()
        port = self.ports[traffic.pool]
        self.begin(
            loop.create_connection(lambda: ClientConnection(self, traffic), HOST, port), traffic
        )

    def begin(self, work: Coroutine[Any, Any, Any], traffic: Traffic | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(lambda task: self.ended_task(traffic, task))

    def ended_task(self, traffic: Traffic | None, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.wrong(traffic, f"no connection: {task.exception()!r}", None, None)
        self.done()

    async def tell(self, pool: str) -> None:
        """Publish to all channels of a pool until all its subscribers have got what they wait for:
        the last server may be back only now."""
        reader, writer = await asyncio.open_connection(HOST, self.ports[pool])
        self.tells += 1
        while any(one.traffic.pool == pool and one.traffic.takes for one in self.connections):
            messages = last_messages(pool, self.tells)
            writer.write(b"".join(command for _, command in messages))
            replies = hiredis.Reader()
            for one, _ in messages:
                while (reply := replies.gets()) is False:
                    if not (data := await reader.read(65536)):
                        raise ConnectionError("closed instead of a reply")
                    replies.feed(data)
                one.end(type(reply) is int)
            await asyncio.sleep(0.02)
        writer.close()

    def left(self, traffic: Traffic) -> None:
        if self.draining:
            self.done()
        else:
            self.connect(traffic)

    def done(self) -> None:
        """Send the report when all clients have their replies and are closed."""
        if self.draining and not self.connections and not self.tasks:
            for traffic in self.traffics:
                self.report.holes += traffic.holes
                self.report.messages += traffic.messages
                traffic.holes, traffic.messages = [], 0
            self.report.wrong = self.report.wrong or BOARD.check_late()
            self.main.send(self.report)
            self.report = Report()

    def wrong(self, traffic: Traffic | None, why: str, entry: Any, reply: Any) -> None:
        if not self.report.wrong:
            request = "-" if entry is None else shown(entry[1])
            who = f"client {traffic.number} of pool {traffic.pool}" if traffic else "last messages"
            self.report.wrong = (
                f"{who}: {why}\n"
                f"  request {entry[2] if entry else '-'}: {request}\n  reply: {shown(reply)}"
            )
            self.main.send(self.report)
            self.ended.set()

    def unanswered(self) -> str:
        """The clients that still wait for replies."""
        return "\n".join(
            f"client {one.traffic.number} of pool {one.traffic.pool}: no reply to "
            f"{len(one.expected)} requests, the first: {shown(one.expected[0][1])}"
            for one in self.connections
            if one.expected
        )


def shown(words: Any) -> str:
    text = repr(words)
    return text if len(text) < 1000 else f"{text[:700]} … {text[-300:]}"


def run_clients(
    main: Connection, clients: list[tuple[str, int]], ports: dict[str, int], seed: int
) -> None:
    """The main function of the process. `clients` has the protocol and the number of each."""
    traffics = [TRAFFICS[protocol](number, seed) for protocol, number in clients]

    async def live() -> None:
        crowd = Crowd(main, traffics, ports)
        asyncio.get_running_loop().add_reader(main.fileno(), crowd.order)
        await crowd.ended.wait()

    asyncio.run(live())
