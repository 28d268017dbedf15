# bench/__main__.py: python -m bench
"""python -m bench: nutproxy, nutcracker, haproxy and a bare echo server, side by side in one run.

For each round, for each row, each peer in turn: what the machine does besides hits all of them. The
numbers are medians over the rounds. The tables go to standard output and to bench/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nutproxy
from bench import measure, peers
from bench.measure import ROWS, Row, Sample
from bench.peers import PLANS, Peer

RESULTS = Path(__file__).parent / "results"
DEFAULT_PEERS = ["nutproxy", "nutcracker", "haproxy", "echo"]
TRACED_PEERS = ("nutproxy", "nutcracker")
TRACED_ROWS = [
    Row("GET, 1 client", ROWS[0].command, "one", 1, 5_000, clients=1),
    Row("GET, 50 clients", ROWS[0].command, "one", 1, 20_000),
    Row("GET, 50 clients, pipeline 16", ROWS[0].command, "one", 16, 100_000),
]

NOTES = """\
Load: redis-benchmark, 50 clients, values of 3 bytes, 10,000 random keys. nutproxy and nutcracker
have one Redis server behind GET and SET and two behind MGET; haproxy (`mode tcp`, one thread) has
one behind each. The echo server has none: it counts the requests it receives and sends fixed
replies, the floor for anything that answers a client. nutcracker runs with `-v 4`, because at its
default of 5 it looks up the client's address for every request, and with its default buffers. CPU
is user and system time of all threads of the proxy. The load runs on one processor, proxies and
servers on another, so that a proxy always has requests waiting, as it has at its capacity; left to
the scheduler, the same proxy costs 6 or 9 us a request, as it happens to be placed.
"""


@dataclass
class Results:
    """Everything measured so far; samples by row, then by peer, in order of the rounds."""

    machine: dict[str, str]
    peers: list[str]
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    system_calls: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def main() -> None:
    options = arguments()
    rows = [row for row in ROWS if row.name.startswith(options.only)]
    results = Results(machine(), options.peers)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nutproxy-bench-")))
        servers = stack.enter_context(peers.redis_servers(directory, measure.KEYS))
        running = [
            stack.enter_context(peers.peer(name, directory, servers)) for name in options.peers
        ]
        measure_rounds(results, running, rows, options.rounds, options.scale)
        trace(results, running, directory)
    report = markdown(results)
    print(report)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.md").write_text(report)
    (RESULTS / "latest.json").write_text(json.dumps(dataclasses.asdict(results), indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="See bench/__main__.py.")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the requests of each row")
    parser.add_argument("--only", default="", metavar="ROW", help="rows whose name begins so")
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=DEFAULT_PEERS,
        help=f"of {','.join(PLANS)} ({','.join(DEFAULT_PEERS)})",
    )
    options = parser.parse_args()
    if unknown := set(options.peers) - set(PLANS):
        parser.error(f"unknown peer: {', '.join(sorted(unknown))}")
    if not any(row.name.startswith(options.only) for row in ROWS):
        parser.error(f"no such row; there are: {'; '.join(row.name for row in ROWS)}")
    return options


def measure_rounds(
    results: Results, running: list[Peer], rows: list[Row], rounds: int, scale: float
) -> None:
    for row in rows:
        results.samples[row.name] = {peer.name: [] for peer in running}
        for peer in running:
            measure.check(peer, row)
            # Not counted: buffers grow and connections are opened.
            measure.run(peer, row, max(1000, int(row.requests * scale) // 10))
    for number in range(1, rounds + 1):
        # Whoever comes first in one round comes last in another.
        running = running[1:] + running[:1]
        for row in rows:
            for peer in running:
                sample = measure.run(peer, row, max(1000, int(row.requests * scale)))
                results.samples[row.name][peer.name].append(sample)
                progress(
                    f"round {number}/{rounds}  {row.name:18}{peer.name:16}"
                    f"{sample.requests_per_second:>10,.0f}/s {sample.cpu_microseconds:8.2f} us"
                )


def trace(results: Results, running: Iterable[Peer], directory: Path) -> None:
    for row in TRACED_ROWS:
        for peer in running:
            if peer.name not in TRACED_PEERS:
                continue
            calls = measure.system_calls(peer, row, row.requests, directory / "strace")
            if calls is None:
                progress("strace may not attach here: no system calls are counted")
                return
            results.system_calls.setdefault(row.name, {})[peer.name] = calls
            progress(f"strace  {row.name:30}{peer.name:16}{sum(calls.values()):6.2f} calls")


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def markdown(results: Results) -> str:
    rounds = max(len(s) for row in results.samples.values() for s in row.values())
    parts = [
        "# Benchmark\n",
        "\n".join(f"- {name}: {text}" for name, text in results.machine.items()),
        f"\n{NOTES}",
        f"## CPU time of the proxy per request, in microseconds (median of {rounds})\n",
        table(results, lambda sample: sample.cpu_microseconds, "{:.2f}", ratios=True),
        f"\n## Throughput, requests per second (median of {rounds})\n",
        table(results, lambda sample: sample.requests_per_second, "{:,.0f}"),
        f"\n## 99th percentile of latency, in milliseconds (median of {rounds})\n",
        table(results, lambda sample: sample.p99_milliseconds, "{:.2f}"),
    ]
    if results.system_calls:
        parts += ["\n## System calls of the proxy per request (`strace -c -f`)\n"]
        parts += [system_call_table(results)]
        parts += ["\nTracing slows the proxy down, so that more requests are waiting at each turn."]
    return "\n".join(parts) + "\n"


def table(
    results: Results, value: Callable[[Sample], float], form: str, ratios: bool = False
) -> str:
    """A line per row, a column per peer; with ratios, nutproxy's to nutcracker and to the floor."""
    compared = [
        name for name in ("nutcracker", "echo") if ratios and {name, "nutproxy"} <= {*results.peers}
    ]
    head = ["request", *results.peers, *(f"nutproxy / {name}" for name in compared)]
    lines = []
    for row, by_peer in results.samples.items():
        median = {name: statistics.median(map(value, s)) for name, s in by_peer.items()}
        cells = [row, *(form.format(median[name]) for name in results.peers)]
        cells += [f"{median['nutproxy'] / median[name]:.2f}" for name in compared]
        lines.append(cells)
    return markdown_table(head, lines)


def system_call_table(results: Results) -> str:
    lines = []
    for row, by_peer in results.system_calls.items():
        for name, calls in by_peer.items():
            ordered = sorted(calls.items(), key=lambda item: -item[1])
            # Below a hundredth it belongs to connecting, not to a request.
            detail = ", ".join(f"{call} {count:.2f}" for call, count in ordered if count >= 0.01)
            lines.append([row, name, f"{sum(calls.values()):.2f}", detail])
    return markdown_table(["request", "proxy", "all", "by name"], lines)


def markdown_table(head: list[str], lines: list[list[str]]) -> str:
    ruler = ["---"] + ["---:" if lines and is_number(cell) else "---" for cell in lines[0][1:]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ruler, *lines))


def is_number(cell: str) -> bool:
    return re.fullmatch(r"[\d.,]+", cell) is not None


def machine() -> dict[str, str]:
    """What one has to know to repeat it."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "nutproxy": nutproxy.__version__,
        "nutcracker": version("nutcracker", "-V"),
        "haproxy": version("haproxy", "-v"),
        "redis": version("redis-server", "--version"),
    }


def version(name: str, option: str) -> str:
    answer = subprocess.run(
        [peers.program(name), option], capture_output=True, text=True, check=False
    )
    found = re.search(r"\d+\.\d+\.\d+", answer.stdout + answer.stderr)
    return found[0] if found else "unknown"


if __name__ == "__main__":
    main()
