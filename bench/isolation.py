# bench/isolation.py: python -m bench.isolation
"""Measures the latency of a client while the proxy has other hard work:

- One of four servers is stopped. The client sends requests to the other three, alternately with and
  without the stopped server.
- New clients connect as fast as they can. Reports the connects per second and the latency.
- Thousands of clients are connected, and another client sends a command that the proxy answers
  itself. Reports the latency of a PING that is sent directly after it.

The client waits for each reply before it sends the next request. Every reply is checked.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import multiprocessing.sharedctypes
import resource
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.peers import (
    HOST,
    PATIENCE,
    free_port,
    nutproxy_command,
    redis_command,
    running,
    twemproxy_pool,
)
from bench.placement import placement
from bench.report import table
from nutproxy.hashkit.router import Router

SERVERS = 4
PING, PONG = b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"
LOCAL = {
    "PING": PING,
    "INFO": b"*1\r\n$4\r\nINFO\r\n",
    "CLIENT LIST": b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n",
    "COMMAND": b"*1\r\n$7\r\nCOMMAND\r\n",
    "COMMAND DOCS": b"*2\r\n$7\r\nCOMMAND\r\n$4\r\nDOCS\r\n",
}


def get(key: bytes) -> bytes:
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def latency(connection: socket.socket, request: bytes, expected: bytes) -> float:
    """The milliseconds until the reply has arrived."""
    begun = time.perf_counter()
    connection.sendall(request)
    received = connection.recv(4096)
    while len(received) < len(expected) and (part := connection.recv(4096)):
        received += part
    if received != expected:
        raise SystemExit(f"{received[:100]!r} instead of {expected!r}")
    return (time.perf_counter() - begun) * 1e3


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


@contextlib.contextmanager
def scene(directory: Path) -> Iterator[tuple[int, list[bytes], Callable[[int], None]]]:
    """nutproxy with four servers, all on one processor. Yields its port, a key of each server, and
    a function that sends a signal to the last server. The scheduler places this process."""
    shared = placement("shared")
    with contextlib.ExitStack() as stack:
        processes = {}
        for _ in range(SERVERS):
            port = free_port()
            log = directory / f"redis-{port}.log"
            server = running(redis_command(port), port, log, shared.servers)
            processes[port] = stack.enter_context(server)
        port = free_port()
        file = directory / "isolation.yml"
        file.write_text(twemproxy_pool("alpha", port, "redis", list(processes)))
        log = directory / "nutproxy.log"
        stack.enter_context(running(nutproxy_command(file), port, log, shared.proxy))
        names = [(f"s{number}".encode(), 1) for number in range(1, SERVERS + 1)]
        router = Router("fnv1a_64", "ketama", None, names)
        keys: dict[int, bytes] = {}
        number = 0
        while len(keys) < SERVERS:
            key = b"%d:key" % number
            keys.setdefault(router.explain(key).server, key)
            number += 1
        last = list(processes.values())[-1]
        yield port, [keys[index] for index in range(SERVERS)], last.send_signal


def stopped_server(directory: Path, rounds: int, requests: int) -> list[list[str]]:
    """p50 and p99 of requests to the other three servers as medians of the rounds, and the ratio of
    p99."""
    measured: dict[str, list[list[float]]] = {"undisturbed": [], "one of four stopped": []}
    with scene(directory) as (port, [*keys, lost], send_signal), connect(port) as client:
        for _ in range(rounds):
            for samples in measured.values():
                with contextlib.ExitStack() as stack:
                    if samples is measured["one of four stopped"]:
                        send_signal(signal.SIGSTOP)
                        stack.callback(send_signal, signal.SIGCONT)
                        for _ in range(50):
                            waiting = stack.enter_context(connect(port))
                            waiting.sendall(get(lost) * 100)
                    samples.append(
                        [
                            latency(client, get(keys[number % len(keys)]), b"$-1\r\n")
                            for number in range(requests)
                        ]
                    )
    rows = [["requests to the other three", "p50 ms", "p99 ms"]]
    for name, samples in measured.items():
        p50, p99 = (
            statistics.median(percentile(each, share) for each in samples) for share in (0.5, 0.99)
        )
        rows.append([name, f"{p50:.3f}", f"{p99:.3f}"])
    ratio = float(rows[2][2]) / float(rows[1][2])
    return [*rows, ["ratio of p99", "", f"{ratio:.2f}"]]


def storm(
    port: int, seconds: float, counted: multiprocessing.sharedctypes.Synchronized[int]
) -> None:
    """For `seconds`: connect, send a request, read the reply and close, again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with connect(port) as connection:
            latency(connection, PING, PONG)
        counted.value += 1


def connect_storm(directory: Path, seconds: float) -> list[list[str]]:
    quiet, meanwhile = [], []
    with scene(directory) as (port, [key, *_], _), connect(port) as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            quiet.append(latency(client, get(key), b"$-1\r\n"))
        counts = [multiprocessing.Value("L", 0) for _ in range(2)]
        crowd = [
            multiprocessing.Process(target=storm, args=(port, seconds, each)) for each in counts
        ]
        begun = time.monotonic()
        for process in crowd:
            process.start()
        while any(process.is_alive() for process in crowd):
            meanwhile.append(latency(client, get(key), b"$-1\r\n"))
        took = time.monotonic() - begun
        for process in crowd:
            process.join()
    rate = sum(each.value for each in counts) / took
    rows = [["new clients", "connects a second", "p50 ms", "p99 ms"]]
    for name, values, count in (("none", quiet, "0"), ("two processes", meanwhile, f"{rate:.0f}")):
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        rows.append([name, count, f"{p50:.3f}", f"{p99:.3f}"])
    return rows


def stalls(directory: Path, clients: int, times: int) -> list[list[str]]:
    """How long a PING takes that is sent directly after a command of another client."""
    limit = clients + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), hard))
    rows = [[f"PING after, {clients} clients connected", "median ms", "longest ms"]]
    with scene(directory) as (port, _, _), contextlib.ExitStack() as stack:
        for _ in range(clients):
            latency(stack.enter_context(connect(port)), PING, PONG)
        for name, request in LOCAL.items():
            values = []
            for _ in range(times):
                with connect(port) as asking, connect(port) as other:
                    latency(asking, PING, PONG)
                    latency(other, PING, PONG)
                    asking.sendall(request)
                    values.append(latency(other, PING, PONG))
                    asking.shutdown(socket.SHUT_WR)
                    while asking.recv(1 << 20):
                        pass
            rows.append([name, f"{statistics.median(values):.2f}", f"{max(values):.2f}"])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.isolation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="with a stopped server (5)")
    parser.add_argument("--requests", type=int, default=10_000, help="in each round (10000)")
    parser.add_argument("--seconds", type=float, default=5, help="with new clients (5)")
    parser.add_argument("--clients", type=int, default=5000, help="connected clients (5000)")
    parser.add_argument("--times", type=int, default=20, help="how often to send a command (20)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nutproxy-isolation-") as name:
        directory = Path(name)
        for rows in (
            stopped_server(directory, given.rounds, given.requests),
            connect_storm(directory, given.seconds),
            stalls(directory, given.clients, given.times),
        ):
            print(table(rows[0], rows[1:]))
            print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
