# tests/soak/chaos.py: makes servers fail
"""There are two threads, each with half of the servers, so up to two servers fail at the same time.

A slow server is simulated without privileges and without a network namespace: it is stopped and
continued every few milliseconds, or Redis sleeps (DEBUG SLEEP).
"""

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable

import hiredis

from tests.servers import MemcachedServer, RedisServer, connect, pipeline


class Chaos:
    """May be started and stopped repeatedly. After `stop` all servers work. `choices` are what can
    happen, if that is not everything."""

    def __init__(
        self,
        servers: list[RedisServer] | list[MemcachedServer],
        seed: str,
        choices: "tuple[Event, ...]" = (),
    ) -> None:
        self.servers = servers
        self.choices = choices
        self.random = random.Random(seed)
        self.events: Counter[str] = Counter()
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        self.fault: BaseException | None = None

    def start(self) -> None:
        self.over.clear()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def stop(self) -> None:
        """Raises the exception that has ended the thread, for example if a server did not start."""
        self.over.set()
        if self.thread is not None:
            self.thread.join()
        if self.fault is not None:
            raise self.fault

    def run(self) -> None:
        try:
            while not self.over.wait(self.random.uniform(0.05, 0.5)):
                server = self.random.choice(self.servers)
                more = REDIS_EVENTS if isinstance(server, RedisServer) else ()
                event = self.random.choice(self.choices or EVENTS + more)
                event(self, server)
                self.events[event.__name__] += 1
        except BaseException as fault:
            self.fault = fault

    def pause(self, least: float, most: float) -> None:
        self.over.wait(self.random.uniform(least, most))


Server = RedisServer | MemcachedServer


def killed(chaos: Chaos, server: Server) -> None:
    server.kill()
    chaos.pause(0.05, 1.0)
    server.restart()


def restarted(chaos: Chaos, server: Server) -> None:
    server.restart()


def stopped(chaos: Chaos, server: Server) -> None:
    server.stop()
    chaos.pause(0.05, 1.5)
    server.cont()


def killed_while_stopped(chaos: Chaos, server: Server) -> None:
    server.stop()
    chaos.pause(0.05, 0.7)
    server.restart()


def slowed(chaos: Chaos, server: Server) -> None:
    for _ in range(40):
        server.stop()
        chaos.over.wait(0.01)
        server.cont()
        if chaos.over.wait(0.002):
            break


def flushed(chaos: Chaos, server: Server) -> None:
    if isinstance(server, RedisServer):
        told(server, ("FLUSHALL",))
        return
    with connect(server.port) as connection:
        connection.sendall(b"flush_all\r\n")
        connection.recv(100)


def asleep(chaos: Chaos, server: Server) -> None:
    told(server, ("DEBUG", "SLEEP", f"{chaos.random.uniform(0.05, 0.6):.3f}"))


def full(chaos: Chaos, server: Server) -> None:
    told(server, ("CONFIG", "SET", "maxmemory", "1"))
    chaos.pause(0.05, 0.5)
    told(server, ("CONFIG", "SET", "maxmemory", "0"))


def disconnected(chaos: Chaos, server: Server) -> None:
    told(server, ("CLIENT", "KILL", "TYPE", "normal"))


def deafened(chaos: Chaos, server: Server) -> None:
    """Its messages reach nobody until the connections are open again."""
    told(server, ("CLIENT", "KILL", "TYPE", "pubsub"))


def told(server: Server, command: tuple[str, ...]) -> None:
    [reply] = pipeline(server.port, [command])
    if isinstance(reply, hiredis.ReplyError):
        raise reply


Event = Callable[[Chaos, Server], None]
EVENTS: tuple[Event, ...] = (
    killed,
    restarted,
    stopped,
    killed_while_stopped,
    slowed,
    flushed,
)
REDIS_EVENTS: tuple[Event, ...] = (asleep, full, disconnected, deafened)


@contextlib.contextmanager
def unrest(troubles: list[Chaos]):  # type: ignore[no-untyped-def]
    """Run all of them during the block."""
    for chaos in troubles:
        chaos.start()
    try:
        yield
    finally:
        for chaos in troubles:
            chaos.stop()
