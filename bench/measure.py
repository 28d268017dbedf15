# bench/measure.py: measures one run
"""One run of a load generator against one peer: throughput, latencies and CPU time.

The CPU time is the time in nanoseconds that the kernel has charged to the threads of the proxy
during the run. It includes system calls, but not the load generator or the servers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench import placement
from bench.peers import HOST, Peer, compiled, exchange, program
from bench.rows import LOAD, SPACE, Row, reply, request, without_unique_values


@dataclass(frozen=True)
class Load:
    """The results of the load generator. Latencies are in milliseconds."""

    requests_per_second: float
    p50: float
    p99: float
    p99_9: float | None  # not reported by redis-benchmark
    max: float
    requests: int = 0


@dataclass(frozen=True)
class Sample:
    """The results of one run."""

    load: Load
    cpu: float  # of the proxy, in microseconds per request
    user: float  # the part of `cpu` that is user time
    events: float | None = None  # per turn of nutproxy's loop
    waited: float | None = None  # the part of the time in which nutproxy's turns rested

    @property
    def percent(self) -> float:
        """CPU time in percent of one processor during the run."""
        return self.cpu * self.load.requests_per_second / 1e4


def check(peer: Peer, row: Row) -> None:
    """Ends the run if a reply is wrong: a proxy that sends errors is fast."""
    expected = reply(row)
    received = exchange(peer.ports[row.id], request(row), len(expected))
    if row.binary:
        received = without_unique_values(received)
    if received != expected:
        raise SystemExit(f"{peer.name}, {row.id}: unexpected reply {received[:100]!r}")


def run(peer: Peer, row: Row, requests: int, directory: Path) -> Sample:
    """Runs the load once. Raises SystemExit if the load generator or the proxy fails."""
    pid = peer.pid
    before = loop_counters(peer)
    began = time.monotonic()
    threads, (user, system) = thread_time(pid), process_time(pid)
    load = generate(peer, row, requests, directory)
    used = thread_time(pid) - threads
    user_after, system_after = process_time(pid)
    user, system = user_after - user, system_after - system
    share = user / (user + system) if user + system else 0.0
    cpu = used / load.requests / 1e3
    if before is None:
        return Sample(load, cpu, user=cpu * share)
    took = time.monotonic() - began
    turns, events, waited = (
        after - earlier for after, earlier in zip(loop_counters(peer) or (), before, strict=True)
    )
    return Sample(load, cpu, cpu * share, events / turns, waited / 1e6 / took)


def loop_counters(peer: Peer) -> tuple[int, int, int] | None:
    """nutproxy's turns, events, and microseconds of rest since its start."""
    if not peer.stats_port:
        return None
    with socket.create_connection((HOST, peer.stats_port)) as connection:
        connection.shutdown(socket.SHUT_WR)
        text = b"".join(iter(functools.partial(connection.recv, 1 << 16), b""))
    found = json.loads(text)
    return found["turns"], found["events"], found["waited_usec"]


def generate(peer: Peer, row: Row, requests: int, directory: Path) -> Load:
    command = load_command if row.tool == LOAD else redis_benchmark_command
    words = command(peer.ports[row.id], row, requests, directory)
    with placement.on(peer.placement.load):
        answer = subprocess.run(words, capture_output=True, text=True, check=False)
    output = answer.stdout + answer.stderr
    if answer.returncode != 0 or "Error from server" in output:
        raise SystemExit(f"{row.id}: {row.tool} and {peer.name}: {output[-2000:]}")
    if row.tool == LOAD:
        return parse_load(answer.stdout)
    return dataclasses.replace(parse_redis_benchmark(answer.stdout), requests=requests)


def redis_benchmark_command(port: int, row: Row, requests: int, directory: Path) -> list[str]:
    many = "M" if row.keys > 1 else ""
    pair = [f"__rand_int__:v{row.size}", *["x" * row.size] * row.is_set]
    return [
        *(program("redis-benchmark"), "--csv", "-h", HOST, "-p", str(port)),
        *("-n", str(requests), "-r", str(SPACE[row.size])),
        *("-c", str(row.clients), "-P", str(row.pipeline)),
        *(many + ("SET" if row.is_set else "GET"), *pair * row.keys),
    ]


def load_command(port: int, row: Row, requests: int, directory: Path) -> list[str]:
    amount = ["--seconds", str(requests), "--changing", row.changing]
    protocol = "binary" if row.binary else row.protocol
    return [
        *(compiled(directory, "load"), "--port", str(port), "--protocol", protocol),
        *("--command", "set" if row.is_set else "get"),
        *("--size", str(row.size), "--keys", str(row.keys), "--space", str(SPACE[row.size])),
        *("--pipeline", str(row.pipeline)),
        *(amount if row.changing else ["--requests", str(requests), "--clients", str(row.clients)]),
        *(["--rate", str(row.rate)] if row.rate else []),
        *(["--reconnect"] if row.reconnect else []),
    ]


def parse_redis_benchmark(output: str) -> Load:
    """The last line is "test","rps" and the avg, min, p50, p95, p99 and max of the latencies. The
    name of the test is the whole command, which may be long."""
    found = re.search(r'",' + ",".join([r'"([\d.]+|inf)"'] * 7) + r"\s*$", output)
    if found is None:
        raise SystemExit(f"redis-benchmark printed no result: {output[-200:]!r}")
    rps, _, _, p50, _, p99, most = map(float, found.groups())
    return Load(rps, p50, p99, None, most)


def parse_load(output: str) -> Load:
    result = json.loads(output)
    latency = {name: value / 1e3 for name, value in result["latency_us"].items()}
    return Load(result["requests_per_second"], **latency, requests=result["requests"])


def thread_time(pid: int) -> int:
    """utime+stime of all threads in nanoseconds. /proc/PID/stat has only ticks of 10 ms."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def process_time(pid: int) -> tuple[int, int]:
    """utime and stime in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])
