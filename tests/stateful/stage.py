# tests/stateful/stage.py: holds a conversation twice, and compares what the clients get
"""stage.hold(turns, pool) -> None, or the first Difference

    a turn ──> Redis: everything that it sends to any client
           ──> nutproxy: the same number of replies is awaited from it

Redis has only one thread. When it has answered two PINGs on another connection, one after the
other, it has carried out all that was sent before them, and written the replies. So it is known
what it sends, to whom, and that it sends nothing more.
"""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hiredis

from tests.integration.conftest import pool
from tests.servers import HOST, NutproxyServer, RedisServer, connect
from tests.stateful import messages
from tests.stateful.conversation import Command, Turn, blocks, listens

KEY = re.compile(rb"\$\d+\r\n(?:\{t\})?k\d\r\n")
# The elements of an array of keys.
KEYS = re.compile(rb"(?:%b)+" % KEY.pattern)
BLOCKED = re.compile(rb" flags=\w*b")
ID = re.compile(rb"\$2\r\nid\r\n:\d+\r\n")
CLOSED = b"(closed)"
# Seconds without the replies that Redis has sent; the same while a conversation is shortened.
PATIENCE, SHORT_PATIENCE = 10, 2
# Bytes that Redis reads at a time.
REDIS_READ = 16000


# A client, and what it was to get and has got.
Found = tuple[int, list[bytes], list[bytes]]


@dataclass
class Difference:
    """At this turn, this client got other replies."""

    turns: list[Turn]
    at: int
    actor: int
    expected: list[bytes]
    found: list[bytes]

    def __str__(self) -> str:
        lines = []
        for number, turn in enumerate(self.turns[: self.at + 1]):
            words = " | ".join(shown(command) for command in turn.commands)
            cut = f"   (cut at {', '.join(f'{cut:.3f}' for cut in turn.cuts)})" if turn.cuts else ""
            lines.append(f"{number:3} client {turn.actor}: {words}{cut}")
        lines.append(f"    then client {self.actor} gets")
        lines.append(f"    from Redis:    {b' '.join(self.expected)!r}")
        lines.append(f"    from nutproxy: {b' '.join(self.found)!r}")
        return "\n".join(lines)


def shown(command: Command) -> str:
    if isinstance(command, bytes):
        return f"(inline) {command!r}"
    return " ".join(
        word.decode() if word.isalnum() else repr(word)[1:] if len(word) < 80 else f"<{len(word)}>"
        for word in command
    )


class Actor:
    """One client's connection."""

    def __init__(self, address: int) -> None:
        self.socket = connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.closed = False
        self.frames: list[bytes] = []
        self.subscriptions = messages.Subscriptions()

    @property
    def name(self) -> bytes:
        """Its address in CLIENT LIST."""
        return b"addr=%s:%d " % (HOST.encode(), self.socket.getsockname()[1])

    def receive(self, patience: float) -> bool:
        """Receive something, for so many seconds. Returns whether anything has come."""
        self.socket.settimeout(patience)
        try:
            data = self.socket.recv(1 << 18)
        except (BlockingIOError, TimeoutError):
            return False
        except ConnectionResetError:
            data = b""
        if data:
            frames, self.rest = messages.split(self.rest + data)
            self.frames += frames
        elif not self.closed:
            self.closed = True
            self.frames.append(CLOSED)
        return bool(data)

    def take(self) -> list[bytes]:
        frames, self.frames = self.frames, []
        return frames

    def write(self, data: bytes) -> None:
        # Whoever has closed gets no more.
        self.socket.settimeout(PATIENCE)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)


class Control:
    """Another connection."""

    def __init__(self, address: int | Path) -> None:
        self.socket = connect(address)
        self.reader = hiredis.Reader()

    def ask(self, *commands: tuple[str, ...]) -> list[object]:
        self.socket.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        replies: list[object] = []
        while len(replies) < len(commands):
            self.reader.feed(self.socket.recv(65536))
            while (reply := self.reader.gets()) is not False:
                replies.append(reply)
        return replies


class Stage:
    """One Redis, and nutproxy with the pools."""

    def __init__(
        self, direct: RedisServer, shards: list[RedisServer], proxy: NutproxyServer
    ) -> None:
        self.direct = direct.port
        self.patience = PATIENCE
        self.proxy = proxy
        self.redis = Control(direct.unix_path)
        self.shards = [Control(shard.unix_path) for shard in shards]
        self.pools = {name: Control(port) for name, port in proxy.ports.items()}

    def hold(self, turns: list[Turn], pool: str) -> Difference | None:
        for control in (self.redis, self.pools[pool]):
            control.ask(("FLUSHALL",), ("SCRIPT", "FLUSH"))
        count = 1 + max((turn.actor for turn in turns), default=0)
        with contextlib.ExitStack() as stack:
            mine, theirs = (
                [stack.enter_context(opened(port)) for _ in range(count)]
                for port in (self.direct, self.proxy.ports[pool])
            )
            waiting: set[int] = set()
            waits, hears = blocks(turns), listens(turns)
            for number, turn in enumerate(turns):
                # A client that waits says nothing.
                if turn.actor in waiting:
                    continue
                found = self.turn(turn, mine, theirs, pool != "one")
                if waits and found is None:
                    waiting = self.waiting(mine)
                    found = self.others_wait(turn.actor, len(waiting))
                if hears and found is None:
                    found = self.others_hear(turn.actor, pool)
                if found is not None:
                    return Difference(turns, number, *found)
            for actor in set(range(count)) - waiting:
                # Its end shows whether something more has come.
                found = self.turn(Turn(actor, [[(b"QUIT",)]]), mine, theirs, pool != "one")
                if found is not None:
                    return Difference([*turns, Turn(actor, [[(b"QUIT",)]])], len(turns), *found)
            for one in (*mine, *theirs):
                # Redis does not close a client whose reply to QUIT is suppressed.
                one.socket.close()
            if waiting and (found := self.others_wait(min(waiting), 0)) is not None:
                return Difference(turns, len(turns), *found)
            if hears and (found := self.others_hear(0, pool)) is not None:
                return Difference(turns, len(turns), *found)
        return None

    def waiting(self, mine: list[Actor]) -> set[int]:
        """The clients that wait in Redis."""
        [clients] = self.redis.ask(("CLIENT", "LIST"))
        assert isinstance(clients, bytes)
        lines = [line for line in clients.splitlines() if BLOCKED.search(line)]
        return {
            number
            for number, actor in enumerate(mine)
            if not actor.closed and any(actor.name in line for line in lines)
        }

    def others_wait(self, actor: int, count: int) -> Found | None:
        """Wait until so many clients wait in the servers of nutproxy."""
        end = time.monotonic() + self.patience
        while True:
            found = 0
            for shard in self.shards:
                [text] = shard.ask(("INFO", "clients"))
                assert isinstance(text, bytes)
                found += int(text.partition(b"blocked_clients:")[2].split(b"\r")[0])
            if found == count:
                return None
            if time.monotonic() > end:
                return actor, [b"(%d wait)" % count], [b"(%d wait)" % found]

    def others_hear(self, actor: int, pool: str) -> Found | None:
        """Wait until the servers of nutproxy have the subscriptions that Redis has."""
        asked = [("PUBSUB", "CHANNELS"), ("PUBSUB", "SHARDCHANNELS"), ("PUBSUB", "NUMPAT")]
        shards = self.shards[:1] if pool == "one" else self.shards[1:]
        end = time.monotonic() + self.patience
        while True:
            channels, sharded, patterns = self.redis.ask(*asked)
            each = [shard.ask(*asked) for shard in shards]
            expected = [sorted(channels), sorted(sharded), {patterns}]
            found = [
                sorted(name for names, _, _ in each for name in names),
                sorted(name for _, names, _ in each for name in names),
                {count for _, _, count in each},
            ]
            if found == expected:
                # Nutproxy gets what the servers have said before this.
                self.pools[pool].ask(("PING",))
                return None
            if time.monotonic() > end:
                return actor, [b"(%r)" % expected], [b"(%r)" % found]

    def turn(
        self, turn: Turn, mine: list[Actor], theirs: list[Actor], several: bool
    ) -> Found | None:
        writes = turn.writes()
        data = b"".join(writes)
        mine[turn.actor].write(data)
        for _ in range(2 + len(data) // REDIS_READ):
            self.redis.ask(("PING",))
        for data in writes:
            theirs[turn.actor].write(data)
            if len(writes) > 1:
                # So long that each piece is read by itself, most of the time.
                self.redis.ask(("PING",))
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            while not one.closed and one.receive(0):
                pass
            expected = one.take()
            while len(other.frames) < len(expected) and not other.closed:
                if not other.receive(self.patience):
                    break
            found = other.take()
            if found != expected and alike(found, several) != alike(expected, several):
                return number, expected, found
            if stray := other.subscriptions.wrong(found):
                return number, [b"(no message before or after its subscription)"], [stray]
        return None


def alike(frames: list[bytes], several: bool) -> tuple[bytes, list[bytes]]:
    """The replies without what may differ, and the messages."""
    replies, found = messages.parted(frames, several)
    data = messages.in_order(b"".join(replies))
    return KEYS.sub(in_order, ID.sub(b"id", data)), found


def in_order(keys: re.Match[bytes]) -> bytes:
    return b"".join(sorted(KEY.findall(keys[0])))


@contextlib.contextmanager
def opened(port: int) -> Iterator[Actor]:
    actor = Actor(port)
    try:
        yield actor
    finally:
        actor.socket.close()


@contextlib.contextmanager
def staged(*arguments: str) -> Iterator[Stage]:
    """The servers, and nutproxy with these arguments."""
    with contextlib.ExitStack() as stack:
        direct, *shards = [stack.enter_context(RedisServer()) for _ in range(5)]
        config = pool("one", shards[:1]) + pool("three", shards[1:])
        proxy = stack.enter_context(NutproxyServer(config, *arguments))
        yield Stage(direct, shards, proxy)
