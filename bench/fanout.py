# bench/fanout.py: one publisher, many subscribers
"""Processor time of a delivered message, of nutproxy and of a Redis directly.

    python -m bench.fanout [subscribers]

The publisher sends messages of 100 bytes, one at a time or 100 at a time, and waits until all
subscribers have them. Both take turns; the medians are printed, and the smallest and largest
values.
"""

import contextlib
import resource
import selectors
import statistics
import sys

from bench.measure import thread_time
from bench.peers import serving
from tests.client import request
from tests.integration.conftest import pool
from tests.scripted import bulk
from tests.servers import NutproxyServer, RedisServer, connect

ROUNDS = 5
MESSAGES = 300
PUBLISH = request("PUBLISH", "c", b"x" * 100)
MESSAGE = b"*3\r\n" + b"".join(map(bulk, (b"message", b"c", b"x" * 100)))


def cost(port: int, pid: int, subscribers: int, at_a_time: int) -> float:
    """Microseconds of a delivered message."""
    size = len(MESSAGE) * subscribers
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(subscribers):
            connection = stack.enter_context(connect(port))
            connection.sendall(request("SUBSCRIBE", "c"))
            connection.recv(1000)
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        publisher = stack.enter_context(connect(port))
        before = thread_time(pid)
        for _ in range(MESSAGES // at_a_time):
            publisher.sendall(PUBLISH * at_a_time)
            replies = received = 0
            while received < size * at_a_time:
                for key, _ in selector.select():
                    received += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]
            while replies < at_a_time:
                replies += publisher.recv(1 << 16).count(b"\n")
        return (thread_time(pid) - before) / 1e3 / subscribers / MESSAGES


def main() -> None:
    subscribers = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        RedisServer() as redis,
        NutproxyServer(pool("one", [redis])) as nutproxy,  # type: ignore[no-untyped-call]
    ):
        for at_a_time in (1, 100):
            costs: dict[str, list[float]] = {"redis": [], "nutproxy": []}
            for _ in range(ROUNDS):
                for name, server in (("redis", redis), ("nutproxy", nutproxy)):
                    pid = serving(server.pid)
                    costs[name].append(cost(server.port, pid, subscribers, at_a_time))
            for name, found in costs.items():
                print(
                    f"{at_a_time} at a time, {subscribers} subscribers, {name}:"
                    f" {statistics.median(found):.2f} us ({min(found):.2f} to {max(found):.2f})"
                )


main()
