# tests/soak/run.py: runs a soak from its start to its result
"""Two rounds of load and chaos. At the end of a round all servers work again, every client gets its
outstanding replies and closes, and the proxy must be idle: no client, no request in a queue, and
requests to all servers succeed. The resident size after the second round is compared with that
after the first.
"""

import contextlib
import multiprocessing
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import hiredis

from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.servers import (
    DEADLINE,
    MemcachedServer,
    NutproxyServer,
    RedisServer,
    pipeline,
    proxy_connections,
    wait_until,
)
from tests.soak.chaos import Chaos, killed, killed_while_stopped, slowed, stopped, unrest
from tests.soak.checks import POOLS, SERVERS, keys_everywhere
from tests.soak.clients import Report, run_clients
from tests.soak.items import durable, run_items
from tests.soak.redis import DATABASES

CLIENTS = 64  # of each protocol
# After how many clients of Memcached's text protocol one of its binary protocol follows.
BINARY_EVERY = 2
# After how many clients one that subscribes follows.
SUBSCRIBERS_EVERY = 4
PROCESSES = 2
# Servers with the items.
KEEPING = 3
ROUNDS = 2
# How much the resident size may grow in the second round. Fragmentation of the heap varies, but a
# leak of one message in a hundred exceeds this by far within a minute.
GROWTH = 6 << 20
# Seconds without a change of the resident size. nutproxy frees memory at most once a second.
REST = 2.5

PROTOCOLS = ("redis", "memcached")
# Pools of the same servers: one without a timeout, one with a short timeout that ejects servers,
# and one with several connections to each server.
OPTIONS = {
    "plain": {},
    "hasty": {
        "timeout": 300,
        "auto_eject_hosts": "true",
        "server_retry_timeout": 400,
        "server_failure_limit": 2,
    },
    "wide": {"timeout": 1000, "server_connections": 3},
}


class Failed(Exception):
    """Why the run has failed."""


# Seconds between two looks at the statistics.
WATCH = 0.1


class Gaps:
    """When nutproxy has counted that subscriptions were interrupted."""

    def __init__(self, proxy: NutproxyServer) -> None:
        self.proxy = proxy
        # The counts, and the times before and after they were read.
        self.read: list[tuple[float, float, dict[tuple[str, int], int]]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        # When nutproxy has ended, its clients say so.
        with contextlib.suppress(OSError, ValueError):
            while not self.over.wait(WATCH):
                self.look()

    def look(self) -> None:
        before = time.monotonic()
        stats = self.proxy.stats()
        counts = {
            (f"redis-{name}", number): stats[f"redis-{name}"][f"s{number}"]["subscription_gaps"]
            for name in POOLS
            for number in range(1, SERVERS + 1)
        }
        self.read.append((before, time.monotonic(), counts))

    def __enter__(self) -> "Gaps":
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def check(self, holes: list[tuple[str, int, float, float]]) -> None:
        """Each loss of messages is one that nutproxy has counted. Raises Failed."""
        self.look()
        for name, server, start, end in holes:
            before = [counts[name, server] for _, at, counts in self.read if at < start]
            after = [counts[name, server] for at, _, counts in self.read if at > end]
            if after[0] == max(before, default=0):
                raise Failed(f"messages of s{server} of {name} were lost, but no gap was counted")


@dataclass
class Soak:
    """The settings of a run and its result."""

    seconds: float
    protocols: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    workers: int = 1
    seed: int = 1
    measures: bool = True  # whether the resident size is checked; sanitizers increase it
    report: Report = field(default_factory=Report)
    events: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Raises Failed if a check fails."""
        with contextlib.ExitStack() as stack:
            troubles, configs, redis, keeping = [], [], [], []
            for protocol in self.protocols:
                servers = [stack.enter_context(start(protocol)) for _ in range(SERVERS)]
                if protocol == "redis":
                    redis = servers
                configs += [pool_config(protocol, name, servers) for name in POOLS]
                for half in 0, 1:
                    seed = f"{self.seed} {protocol} {half}"
                    troubles.append(Chaos(servers[half::2], seed))
            if redis:
                # For items.py. Nothing else happens to them, so that items are not lost.
                keeping = [stack.enter_context(durable()) for _ in range(KEEPING)]
                configs.append(pool("items", keeping, timeout=1000))
                events = killed, killed_while_stopped, stopped, slowed
                troubles.append(Chaos(keeping, f"{self.seed} items", events))
            configs.insert(0, f"global:\n  workers: {self.workers}\n")
            proxy = stack.enter_context(NutproxyServer("".join(configs), *self.arguments))
            crowds = stack.enter_context(self.crowds(proxy, keeping))
            gaps = stack.enter_context(Gaps(proxy)) if redis else None
            try:
                for _ in range(ROUNDS):
                    self.round(proxy, crowds, troubles, redis)
                if gaps is not None:
                    gaps.check(self.report.holes)
            finally:
                for chaos in troubles:
                    self.events += chaos.events
            if "Traceback" in proxy.log():
                raise Failed(f"nutproxy's log has a traceback:\n{proxy.output[-5000:]}")
        if self.measures and self.sizes[-1] > self.sizes[0] + GROWTH:
            raise Failed(f"nutproxy has grown by more than {GROWTH >> 20} MB")

    @contextlib.contextmanager
    def crowds(
        self, proxy: NutproxyServer, keeping: list[RedisServer]
    ) -> Iterator[list[Connection]]:
        """Starts the processes of the clients. Yields the connections to them."""
        context = multiprocessing.get_context("spawn")
        everybody = []
        for number in range(CLIENTS):
            everybody += [(protocol, number) for protocol in self.protocols]
            if "redis" in self.protocols and number % SUBSCRIBERS_EVERY == 0:
                everybody.append(("subscriber", number // SUBSCRIBERS_EVERY))
            if "memcached" in self.protocols and number % BINARY_EVERY == 0:
                # No other client of its pool has this number.
                everybody.append(("binary", CLIENTS + number // BINARY_EVERY))
        ours, processes = [], []
        try:
            # Consecutive numbers have different pools and versions of the protocol.
            works: list[tuple[Any, ...]] = [
                (
                    run_clients,
                    everybody[index * len(everybody) // PROCESSES :][: len(everybody) // PROCESSES],
                    proxy.ports,
                    self.seed,
                )
                for index in range(PROCESSES)
            ]
            if keeping:
                paths = [server.unix_path for server in keeping]
                works.append((run_items, proxy.ports["items"], paths, str(self.seed)))
            for target, *arguments in works:
                here, there = context.Pipe()
                process = context.Process(target=target, args=(there, *arguments))
                process.start()
                there.close()
                ours.append(here)
                processes.append(process)
            yield ours
        finally:
            for here in ours:
                with contextlib.suppress(OSError):
                    here.send("end")
            for process in processes:
                process.join(DEADLINE)
                process.kill()
                process.join()

    def round(
        self,
        proxy: NutproxyServer,
        crowds: list[Connection],
        troubles: list[Chaos],
        redis: list[RedisServer],
    ) -> None:
        for crowd in crowds:
            crowd.send("go")
        end = time.monotonic() + self.seconds / ROUNDS
        with unrest(troubles):
            # A report before the end is that of an error.
            if ready := wait(crowds, end - time.monotonic()):
                self.heard(proxy, ready)
        for crowd in crowds:
            crowd.send("drain")
        waiting = list(crowds)
        while waiting:
            ready = wait(waiting, DEADLINE)
            if not ready:
                raise Failed("clients without a reply although all servers work")
            self.heard(proxy, ready)
            waiting = [crowd for crowd in waiting if crowd not in ready]
        self.settle(proxy, redis)

    def heard(self, proxy: NutproxyServer, ready: list[Connection]) -> None:
        for crowd in ready:
            try:
                self.report.add(crowd.recv())
            except EOFError:
                raise Failed("a client process has died") from None
        if self.report.wrong:
            # All its clients notice its end, maybe before it can be asked for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert proxy.process is not None
                proxy.process.wait(1)
            if not proxy.running():
                raise Failed(f"nutproxy has died:\n{proxy.output[-5000:]}")
            # An exception in a handler closes its client.
            trace = proxy.output.partition("Traceback")[2][:3000]
            raise Failed(f"{self.report.wrong}\n{trace}")

    def settle(self, proxy: NutproxyServer, servers: list[RedisServer]) -> None:
        """Wait until all servers are used again and the proxy is idle. Then measure its size."""
        for protocol in self.protocols:
            for name in POOLS:
                serves = serves_redis if protocol == "redis" else serves_memcached
                port = proxy.ports[f"{protocol}-{name}"]
                wait_until(lambda: serves(port), f"service of {protocol}-{name}")  # noqa: B023
        wait_until(lambda: not left_over(proxy), "empty queues")
        if "redis" in self.protocols:
            # Links that were borrowed are kept for a while.
            wait_until(lambda: not leaked(proxy, servers), "no link that is not shared")
            wait_until(lambda: not subscribed(proxy, servers), "no subscription")
        for name, stats in proxy.stats().items():
            if isinstance(stats, dict) and name in proxy.ports:
                check_counters(name, stats)
        self.sizes.append(size_at_rest(proxy))

    def closing_line(self, verdict: str) -> str:
        report = self.report
        errors = ", ".join(f"{kind} {count}" for kind, count in report.errors.most_common())
        events = ", ".join(f"{name} {count}" for name, count in self.events.most_common())
        sizes = " -> ".join(f"{size / (1 << 20):.1f}" for size in self.sizes) or "-"
        return (
            f"soak {'+'.join(self.protocols)} {' '.join(self.arguments) or '(default -m)'}"
            f", workers: {self.workers}: "
            f"{self.seconds:.0f} s, {report.requests} requests, {report.checked} replies checked, "
            f"{report.vanished} clients vanished; {report.messages} messages, "
            f"{len(report.holes)} times some were lost; {report.items or 'no items'}; "
            f"errors: {errors or 'none'}; "
            f"servers: {events or 'no failures'}; RSS {sizes} MB; seed {self.seed}: {verdict}"
        )


def start(protocol: str) -> RedisServer | MemcachedServer:
    if protocol == "redis":
        return RedisServer("--enable-debug-command", "yes", "--maxmemory-policy", "noeviction")
    return MemcachedServer("-I", "8m", "-m", "256")


def pool_config(protocol: str, name: str, servers: list[RedisServer | MemcachedServer]) -> str:
    options = dict(OPTIONS[name])
    if protocol == "redis":
        return pool(f"redis-{name}", servers, **options)
    if name == "hasty":
        options["on_dead_server"] = "miss"
    return mc_pool(f"memcached-{name}", servers, **options)


def serves_redis(port: int) -> bool:
    with Client(port) as client:
        for key in keys_everywhere():
            client.pipeline(("SET", key, key), ("GET", key), ("DEL", key))
            replies = client.replies(3)
            if any(isinstance(reply, hiredis.ReplyError) for reply in replies):
                return False
            if replies != [b"OK", key, 1]:
                raise Failed(f"{replies} instead of a value that was just set")
    return True


def serves_memcached(port: int) -> bool:
    with MemcacheClient(port) as client:
        for key in keys_everywhere():
            client.send(b"set %s 0 0 1" % key, b"v")
            client.send(b"get " + key)
            replies = client.replies(2)
            if any(reply.startswith(b"SERVER_ERROR") for reply in replies):
                return False
            if replies != [b"STORED\r\n", b"VALUE %s 0 1\r\nv\r\nEND\r\n" % key]:
                raise Failed(f"{replies} instead of a value that was just set")
    return True


def left_over(proxy: NutproxyServer) -> bool:
    """Whether there is a client or a request in a queue."""
    for stats in proxy.stats().values():
        if not isinstance(stats, dict) or "client_connections" not in stats:
            continue
        queues = [
            server[name]
            for server in stats.values()
            if isinstance(server, dict)
            for name in ("in_queue", "in_queue_bytes", "out_queue", "out_queue_bytes")
            if name in server
        ]
        if any(queues) or stats["client_connections"]:
            return True
    return False


def leaked(proxy: NutproxyServer, servers: list[RedisServer]) -> bool:
    """Whether a server has more connections of the proxy than those that clients share: for each
    worker, protocol version and database as many as `server_connections`. Or another number than
    the statistics say."""
    stats = proxy.stats()
    workers = len(proxy.worker_pids)
    for number, server in enumerate(servers, start=1):
        count = 0
        for name, options in OPTIONS.items():
            open_now = stats[f"redis-{name}"][f"s{number}"]["server_connections"]
            most = workers * 2 * DATABASES * int(options.get("server_connections", 1))
            if open_now > most:
                return True
            count += open_now
        if count != len(proxy_connections(server)):
            return True
    return False


def subscribed(proxy: NutproxyServer, servers: list[RedisServer]) -> bool:
    """Whether a subscription is left, although all clients have gone."""
    if any(proxy.stats()[f"redis-{name}"]["subscriptions"] for name in POOLS):
        return True
    asked = [("PUBSUB", "CHANNELS"), ("PUBSUB", "SHARDCHANNELS"), ("PUBSUB", "NUMPAT")]
    return any(pipeline(server.unix_path, asked) != [[], [], 0] for server in servers)


def check_counters(name: str, stats: dict[str, object]) -> None:
    """Neither these clients nor real servers break the protocol, so no error may be counted."""
    if stats["client_protocol_errors"]:
        raise Failed(f"{name}: client_protocol_errors {stats['client_protocol_errors']}")
    for server, row in stats.items():
        if isinstance(row, dict) and row.get("server_protocol_errors"):
            raise Failed(f"{name}, {server}: server_protocol_errors {row}")


def size_at_rest(proxy: NutproxyServer) -> int:
    """The resident size when it has stopped changing: nutproxy frees memory with a delay."""
    sizes = [resident(proxy)]
    since = time.monotonic()

    def rests() -> bool:
        nonlocal since
        if resident(proxy) != sizes[-1]:
            sizes.append(resident(proxy))
            since = time.monotonic()
        return time.monotonic() - since > REST

    wait_until(rests, "a resident size that stays the same")
    return sizes[-1]


def resident(proxy: NutproxyServer) -> int:
    """Of all workers, in bytes."""
    found = 0
    for pid in proxy.worker_pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                found += int(line.split()[1]) * 1024
    if not found:
        raise Failed(f"nutproxy has died:\n{proxy.output[-5000:]}")
    return found
