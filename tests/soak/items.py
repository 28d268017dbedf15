# tests/soak/items.py: every element that was pushed is accounted for
"""Items with a name of their own are pushed to queues, and taken from them by commands that wait.

    Producer ── RPUSH, XADD ──> queue ──> Popper   BLPOP
                                          Mover    BLMOVE to its own list, then LREM
                                          Reader   XREADGROUP, then XACK

Meanwhile clients end at any moment, and servers are killed or stopped, if the caller does so. The
servers keep all that they have replied to (appendfsync always). At the end `account` asks them
where each item is:

- It is in one place only: taken once, or still in the server.
- An item that a Mover or a Reader has not finished is still in the list of that Mover, or pending.
- An item that a Popper was to get is lost only if a client or a server has ended at that moment,
  after the push was sent. This is the same with a direct connection: the server has sent the
  element already. So each lost item needs such an end, which explains no other one.
"""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import hiredis

from tests.servers import HOST, RedisServer, pipeline, wait_until
from tests.soak.clients import Report

# Each queue and all that belongs to it has one hash tag.
QUEUES = 6
# Clients of each kind that take items; clients that push.
TAKERS, PRODUCERS = 12, 4
# Seconds between two pushes of a producer, at most. Seconds after which a client ends, at most.
PUSH, LIFE = 0.004, 0.6
AOF = ("--appendonly", "yes", "--appendfsync", "always")
# Replies that say that the command was never sent.
NOT_SENT = ("Connection refused", "LOADING ")


class Lost(Exception):
    """An item that is nowhere, or in two places."""


@dataclass
class Item:
    name: bytes
    queue: bytes
    sent: float
    pushed: bool = False  # whether the reply to the push has come
    taken: int = 0  # how often a client has got it
    tried: bool = False  # LREM or XACK has been sent
    done: bool = False  # and has been answered


class Line(asyncio.Protocol):
    """A connection with one request at a time. It ends at random, and is followed by another."""

    KIND = ""

    def __init__(self, works: "Works", number: int) -> None:
        self.works = works
        self.number = number
        self.random = works.random
        self.awaited: tuple[Any, ...] = ()
        self.opened = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader()
        self.opened += 1
        self.life = self.works.loop.call_later(self.random.random() * LIFE, self.end)
        self.go_on()

    def say(self, *words: Any) -> None:
        self.awaited = words
        self.works.requests += 1
        self.transport.write(hiredis.pack_command(words))

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            words, self.awaited = self.awaited, ()
            if not words:
                raise Lost(f"{reply!r} without a request")
            if isinstance(reply, hiredis.ReplyError):
                self.works.errors[str(reply).partition(" ")[0]] += 1
                self.failed(words, str(reply))
                self.later(0.02)
            else:
                self.answered(words, reply)

    def later(self, most: float) -> None:
        self.works.loop.call_later(self.random.random() * most, self.go_on_if_open)

    def go_on_if_open(self) -> None:
        if not self.awaited and not self.transport.is_closing():
            self.go_on()

    def end(self) -> None:
        """As if its process were killed: what it has not read is lost."""
        self.life.cancel()
        if self.random.random() < 0.3:
            # With bytes of a further request behind.
            self.transport.write(b"*2\r\n$3\r\nGE")
        if self.random.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def connection_lost(self, why: Exception | None) -> None:
        self.life.cancel()
        words, self.awaited = self.awaited, ()
        if words:
            self.failed(words, "closed")
        self.works.ended += 1
        self.works.left(self)

    def go_on(self) -> None:
        """Send the next request."""
        raise NotImplementedError

    def answered(self, words: tuple[Any, ...], reply: Any) -> None:
        raise NotImplementedError

    def failed(self, words: tuple[Any, ...], why: str) -> None:
        """An error, or the connection has ended before the reply."""


class Producer(Line):
    def go_on(self) -> None:
        kind = self.random.choice(("pop", "move", "read"))
        queue = b"{q%d}:%b" % (self.random.randrange(QUEUES), kind.encode())
        item = self.works.item(queue)
        if kind == "read":
            self.say("XADD", queue, "*", "name", item.name)
        else:
            self.say("RPUSH", queue, item.name)

    def answered(self, words: tuple[Any, ...], reply: Any) -> None:
        self.works.items[words[-1]].pushed = True
        self.later(PUSH)


class Taker(Line):
    def __init__(self, works: "Works", number: int) -> None:
        super().__init__(works, number)
        self.queue = b"{q%d}:%b" % (number % QUEUES, self.KIND.encode())
        # Lasts longer than its connections.
        self.name = b"{q%d}:own:%d" % (number % QUEUES, number)

    def wait(self) -> str:
        """How long it waits, in seconds. A short wait may end when an element comes."""
        return self.random.choice(("0", "0", "0.03"))

    def got(self, name: bytes) -> Item:
        item = self.works.items[name]
        item.taken += 1
        if item.taken > 1:
            raise Lost(f"{name!r} was taken twice")
        if item.queue != self.queue:
            raise Lost(f"{name!r} is of another queue")
        return item


class Popper(Taker):
    KIND = "pop"

    def go_on(self) -> None:
        self.say("BLPOP", self.queue, self.wait())

    def answered(self, words: tuple[Any, ...], reply: Any) -> None:
        if reply is not None:
            self.got(reply[1])
        self.go_on()

    def failed(self, words: tuple[Any, ...], why: str) -> None:
        if not any(text in why for text in NOT_SENT):
            self.works.ends.setdefault(self.queue, []).append(time.monotonic())


class Finisher(Taker):
    """Takes an item and says later that it is done. If that fails, it is tried again."""

    item: Item | None = None
    id: bytes = b""
    again = False

    def go_on(self) -> None:
        if self.item is None:
            self.say(*self.take())
        else:
            self.item.tried = True
            self.say(*self.finish())

    def take(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def finish(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def taken(self, reply: Any) -> None:
        raise NotImplementedError

    def answered(self, words: tuple[Any, ...], reply: Any) -> None:
        if self.item is None:
            if reply is not None:
                self.taken(reply)
            self.go_on()
            return
        if reply != 1 and not (self.again and reply == 0):
            raise Lost(f"{self.item.name!r} was not there any more: {words} {reply!r}")
        self.item.done = True
        self.item, self.again = None, False
        self.go_on()

    def failed(self, words: tuple[Any, ...], why: str) -> None:
        self.again = self.item is not None

    def end(self) -> None:
        # Whether it says that it is done is left to chance: the next one does not know the item.
        super().end()
        if self.random.random() < 0.5:
            self.item, self.again = None, False


class Mover(Finisher):
    KIND = "move"

    def take(self) -> tuple[Any, ...]:
        return "BLMOVE", self.queue, self.name, "LEFT", "RIGHT", self.wait()

    def finish(self) -> tuple[Any, ...]:
        assert self.item is not None
        return "LREM", self.name, "1", self.item.name

    def taken(self, reply: Any) -> None:
        self.item = self.got(reply)


class Reader(Finisher):
    KIND = "read"

    def take(self) -> tuple[Any, ...]:
        wait = int(1000 * float(self.wait()))
        words = "XREADGROUP", "GROUP", "g", self.name, "COUNT", "1", "BLOCK", wait
        return *words, "STREAMS", self.queue, ">"

    def finish(self) -> tuple[Any, ...]:
        return "XACK", self.queue, "g", self.id

    def taken(self, reply: Any) -> None:
        [[_, [[self.id, [_, name]]]]] = reply
        self.item = self.got(name)


class Works:
    """All clients of a run."""

    def __init__(self, port: int, servers: list[Path], seed: str) -> None:
        self.port = port
        self.servers = servers  # their unix sockets
        self.random = random.Random(seed)
        self.items: dict[bytes, Item] = {}
        # By queue: when a BLPOP has ended without its reply.
        self.ends: dict[bytes, list[float]] = {}
        self.errors: Counter[str] = Counter()
        self.requests = self.ended = self.lost = 0
        self.open: set[Line] = set()
        self.closing = False
        self.fault: BaseException | None = None

    def item(self, queue: bytes) -> Item:
        name = b"i%d" % len(self.items)
        made = self.items[name] = Item(name, queue, time.monotonic())
        return made

    def prepare(self) -> None:
        """The groups of the streams. All servers work."""
        for number in range(QUEUES):
            key = b"{q%d}:read" % number
            [reply] = pipeline(self.port, [("XGROUP", "CREATE", key, "g", "0", "MKSTREAM")])
            if reply != b"OK" and not str(reply).startswith("BUSYGROUP"):
                raise Lost(f"no group: {reply}")

    async def run(self, seconds: float) -> None:
        self.begin()
        await self.pause(seconds)
        await self.stop()

    def begin(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self.caught)
        self.closing = False
        lines: list[Line] = [Producer(self, number) for number in range(PRODUCERS)]
        for kind in (Popper, Mover, Reader):
            lines += [kind(self, number) for number in range(TAKERS)]
        for line in lines:
            self.connect(line)

    async def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.fault is None:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End all clients, wherever they are. Raises what was wrong."""
        self.closing = True
        while self.open:
            for line in list(self.open):
                if hasattr(line, "transport") and not line.transport.is_closing():
                    line.end()
            await asyncio.sleep(0.01)
        if self.fault is not None:
            raise self.fault

    def caught(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.fault = self.fault or context.get("exception") or Lost(context["message"])

    def connect(self, line: Line) -> None:
        self.open.add(line)
        self.loop.create_task(self.loop.create_connection(lambda: line, HOST, self.port))

    def left(self, line: Line) -> None:
        self.open.discard(line)
        if not self.closing:
            self.connect(line)

    # At the end

    def account(self) -> None:
        """All servers work, and all clients have gone. Raises Lost."""
        wait_until(lambda: not self.blocked(), "no client that waits in a server")
        self.lost = 0
        places = self.places()
        lost: dict[bytes, list[float]] = {}
        for item in self.items.values():
            there = places[item.name]
            kind = item.queue.rpartition(b":")[2]
            if there > 1:
                raise Lost(f"{item} is in {there} places")
            if kind == b"pop":
                if there and item.taken:
                    raise Lost(f"{item} was taken, and is there again")
                if item.pushed and not item.taken and not there:
                    lost.setdefault(item.queue, []).append(item.sent)
            elif item.done:
                if there:
                    raise Lost(f"{item} is done, and is there again")
            elif not there and not item.tried and (item.pushed or item.taken):
                raise Lost(f"{item} is nowhere")
        for queue, times in lost.items():
            self.lost += len(times)
            unexplained(queue, times, self.ends.get(queue, []))

    def blocked(self) -> int:
        """In servers, and in nutproxy: a command may be on its way when its client has gone."""
        found = 0
        for address in (self.port, *self.servers):
            [info] = pipeline(address, [("INFO", "clients")])
            found += int(info.partition(b"blocked_clients:")[2].split(b"\r")[0])
        return found

    def places(self) -> Counter[bytes]:
        """In how many places the servers have each item."""
        found: Counter[bytes] = Counter()
        for server in self.servers:
            [keys] = pipeline(server, [("KEYS", "*")])
            for key in keys:
                if not key.endswith(b":read"):
                    [names] = pipeline(server, [("LRANGE", key, "0", "-1")])
                    found.update(names)
                    continue
                entries, pending, [group] = pipeline(
                    server,
                    [
                        ("XRANGE", key, "-", "+"),
                        ("XPENDING", key, "g", "-", "+", "1000000"),
                        ("XINFO", "GROUPS", key),
                    ],
                )
                waits = {id for id, *_ in pending}
                last = stamp(group[group.index(b"last-delivered-id") + 1])
                found.update(name for id, [_, name] in entries if id in waits or stamp(id) > last)
        return found

    def closing_line(self) -> str:
        states = Counter(
            "done" if item.done else "taken" if item.taken else "left"
            for item in self.items.values()
            if item.pushed
        )
        return (
            f"{len(self.items)} items, {sum(states.values())} pushed, {states['done']} done, "
            f"{states['taken']} taken, {states['left']} neither, {self.lost} lost like with Redis, "
            f"{self.ended} clients ended"
        )


def stamp(id: bytes) -> tuple[int, ...]:
    return tuple(map(int, id.split(b"-")))


def unexplained(queue: bytes, lost: list[float], ends: list[float]) -> None:
    """Raises Lost unless there is an end of a BLPOP for each lost item, after it was sent."""
    ends = sorted(ends)
    for sent in sorted(lost, reverse=True):
        if not ends or ends.pop() < sent:
            raise Lost(f"{len(lost)} items of {queue.decode()} are lost, which no end explains")


def run_items(main: Connection, port: int, servers: list[Path], seed: str) -> None:
    """The main function of a process of the soak, with the orders that clients.py describes."""

    async def live() -> None:
        works = Works(port, servers, seed)
        works.prepare()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def order() -> None:
            word = main.recv()
            if word == "go":
                works.begin()
            elif word == "drain":
                tasks.append(loop.create_task(drain()))
            else:
                ended.set()

        async def drain() -> None:
            report = Report(requests=works.requests)
            works.requests = 0
            try:
                await works.stop()
                works.account()
            except Exception as why:
                report.wrong = f"{why!r}"
            report.items = works.closing_line()
            main.send(report)

        tasks: list[asyncio.Task[None]] = []
        loop.add_reader(main.fileno(), order)
        await ended.wait()

    asyncio.run(live())


def durable(*arguments: str) -> RedisServer:
    """A server that has what it has replied to, when it is back."""
    return RedisServer(*AOF, *arguments)
