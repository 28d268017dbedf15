# bench/measure.py: one run, measured
"""One run of the load generator against one peer: throughput, CPU time, system calls.

redis-benchmark makes the load; the CPU time is what the kernel has charged to the threads of the
proxy meanwhile, so it includes the system calls and nothing of the load generator or the servers.
"""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.peers import HOST, PATIENCE, Peer, call, pinned, program

KEYS = 10_000
KEY = "key:__rand_int__"
VALUE = "xxx"


@dataclass(frozen=True)
class Row:
    """A kind of load: the command, how it is sent, and how many requests make a measurement."""

    name: str
    command: list[str]
    pool: str
    pipeline: int
    requests: int
    clients: int = 50


@dataclass(frozen=True)
class Sample:
    """What one run gave."""

    requests_per_second: float
    cpu_microseconds: float  # of the proxy, per request
    user_microseconds: float  # the part of it that is not the kernel's
    p99_milliseconds: float


ROWS = [
    Row("GET", ["GET", KEY], "one", 1, 100_000),
    Row("GET, pipeline 16", ["GET", KEY], "one", 16, 1_500_000),
    Row("SET", ["SET", KEY, VALUE], "one", 1, 100_000),
    Row("SET, pipeline 16", ["SET", KEY, VALUE], "one", 16, 1_500_000),
    Row("MGET of 100 keys", ["MGET", *[KEY] * 100], "two", 1, 30_000),
]

EXPECTED = {"GET": b"xxx", "SET": b"OK", "MGET": [b"xxx"] * 100}


def check(peer: Peer, row: Row) -> None:
    """A proxy that answers with errors is fast; it must not be measured."""
    words = [f"key:{n:012}" if word == KEY else word for n, word in enumerate(row.command)]
    reply = call(peer.ports[row.pool], *words)
    if reply != EXPECTED[row.command[0]]:
        raise SystemExit(f"{peer.name} answered {row.name} with {reply!r}")


def run(peer: Peer, row: Row, requests: int) -> Sample:
    """The load, once; raises SystemExit when the load generator or the proxy fails."""
    threads, (user, system) = thread_time(peer.process.pid), process_time(peer.process.pid)
    answer = subprocess.run(
        load(peer, row, requests, "--csv"), capture_output=True, text=True, check=False
    )
    used = thread_time(peer.process.pid) - threads
    user_after, system_after = process_time(peer.process.pid)
    user, system = user_after - user, system_after - system
    if answer.returncode != 0 or "Error from server" in answer.stdout + answer.stderr:
        raise SystemExit(f"redis-benchmark and {peer.name}: {answer.stdout}{answer.stderr}")
    result = list(csv.DictReader(answer.stdout.splitlines()))[-1]
    share = user / (user + system) if user + system else 0.0
    return Sample(
        requests_per_second=float(result["rps"]),
        cpu_microseconds=used / requests / 1e3,
        user_microseconds=used * share / requests / 1e3,
        p99_milliseconds=float(result["p99_latency_ms"]),
    )


def load(peer: Peer, row: Row, requests: int, *options: str) -> list[str]:
    words = ["-h", HOST, "-p", str(peer.ports[row.pool]), "-n", str(requests), "-r", str(KEYS)]
    words += ["-c", str(row.clients), "-P", str(row.pipeline), *options]
    return pinned([program("redis-benchmark"), *words, *row.command], load=True)


def thread_time(pid: int) -> int:
    """utime+stime of all threads in nanoseconds; /proc/PID/stat has them in ticks of 10 ms."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def process_time(pid: int) -> tuple[int, int]:
    """utime and stime in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


def system_calls(peer: Peer, row: Row, requests: int, file: Path) -> dict[str, float] | None:
    """Calls per request by name, as strace counts them; None where tracing is not permitted."""
    command = [program("strace"), "-c", "-f", "-qq", "-o", str(file), "-p", str(peer.process.pid)]
    strace = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while not is_traced(peer.process.pid):
            if strace.poll() is not None or time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        subprocess.run(load(peer, row, requests, "-q"), capture_output=True, check=True)
    finally:
        # It writes its table when it is interrupted, and lets the proxy go on.
        strace.send_signal(signal.SIGINT)
        strace.wait()
    return {name: calls / requests for name, calls in parse_strace(file.read_text()).items()}


def is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def parse_strace(table: str) -> dict[str, int]:
    """The calls column of `strace -c`: % time, seconds, usecs/call, calls, [errors,] name."""
    row = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)
    return {name: int(calls) for calls, name in row.findall(table) if name != "total"}
