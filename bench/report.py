# bench/report.py: what was measured, as tables, charts and JSON
"""Medians over the rounds, their spread, and ratios of medians.

A peer's spread is the distance between its least and its greatest round, in percent of the median:
a difference between two peers that is smaller than their spreads means nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import chart
from bench.measure import Sample
from bench.rows import COUNTS, ROWS, Row

BASE, FLOOR = "nutcracker", "echo"  # what ratios are to

NOTES = """\
Every round runs every row, and every row all proxies in turn: what the machine does besides hits
all of them. The measure is **CPU**: user and system time of all threads of the proxy, divided by
the requests. The load runs on one processor, proxies and servers on another, so that a proxy always
has requests waiting, as it has at its capacity; left to the scheduler, the same proxy costs 6 or 9
us a request, as it happens to be placed.

nutproxy and nutcracker have one server behind them, `mget`, `mset` and `memcache-get-100` two,
`-s8` eight. nutcracker runs with `-v 4`, because at its default of 5 it looks up the client's
address for every request, and with its default buffers. haproxy (`mode tcp`, one thread) does not
know keys and has the rows of one server. The echo server has none: it counts requests and sends
fixed replies, the floor for anything that answers a client. Redis' GET, SET, MGET and MSET are sent
by redis-benchmark, the rest by bench/load.c, which checks every reply.

A row's name says what differs from 50 clients that wait for each reply and values of 3 bytes:
`-c800` clients, `-p16` a pipeline of 16, `-1k` and `-1m` the size of a value, `mget-100` the number
of keys, `-connect` a new connection for each request, `-open` 20,000 requests a second whether or
not those before have been answered. `python -m bench --list` spells each of them out.
"""


@dataclass
class Results:
    """Everything measured so far: samples by row and peer, in order of the rounds; counts by row
    and peer, per request."""

    machine: dict[str, str]
    peers: list[str]
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    counts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return max((len(s) for row in self.samples.values() for s in row.values()), default=0)


def median(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    return statistics.median(map(value, samples))


def spread(values: Sequence[float]) -> float:
    """From the least to the greatest, as a part of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def cpu(sample: Sample) -> float:
    return sample.cpu


def ratio(by_peer: dict[str, list[Sample]], one: str, other: str) -> float | None:
    """Of the medians of their CPU time; None if one of them was not measured."""
    if one not in by_peer or other not in by_peer:
        return None
    base = median(by_peer[other], cpu)
    return median(by_peer[one], cpu) / base if base else None


# Tables.


def markdown(results: Results) -> str:
    parts = ["# Benchmark\n"]
    parts += [f"- {name}: {text}" for name, text in results.machine.items()]
    parts += [f"\n{NOTES}"]
    measured = [row for row in ROWS if row.id in results.samples]
    for group in dict.fromkeys(row.group for row in measured):
        rows = [row for row in measured if row.group == group]
        parts += [
            f"## {group}\n",
            f"CPU of the proxy per request in microseconds: median of {results.rounds}, and spread"
            " (greatest less least, in percent of the median).\n",
            cpu_table(results, rows),
            "\nRequests per second / p50 / p99 of latency in milliseconds, medians.\n",
            load_table(results, rows),
            "",
        ]
    if opened := [row for row in measured if row.rate]:
        parts += ["## Latency at a fixed rate\n"]
        parts += ["From the time at which a request was due: p50 / p99 / p99.9 / greatest, ms.\n"]
        parts += [latency_table(results, opened), ""]
    for kind, text in (
        ("calls", "System calls of the proxy per request (`strace -c -f`)"),
        ("instructions", "Instructions per request, 1 client (`valgrind --tool=callgrind`)"),
    ):
        counted = {c.id for c in COUNTS if c.kind == kind} & results.counts.keys()
        if counted:
            parts += [f"## {text}\n", count_table(results, counted), ""]
    return "\n".join(parts)


def cpu_table(results: Results, rows: Iterable[Row]) -> str:
    peers = [name for name in results.peers if any(name in results.samples[r.id] for r in rows)]
    compared = [n for n in (BASE, FLOOR) if {n, "nutproxy"} <= {*peers}]
    lines = []
    for row in rows:
        by_peer = results.samples[row.id]
        cells = []
        for name in peers:
            values = [sample.cpu for sample in by_peer.get(name, ())]
            form = "{:.2f} ({:.0%})"
            cells.append(form.format(statistics.median(values), spread(values)) if values else "")
        ratios = [ratio(by_peer, "nutproxy", name) for name in compared]
        lines.append([f"`{row.id}`", *cells, *(f"**{r:.2f}**" if r else "" for r in ratios)])
    return table(["row", *peers, *(f"nutproxy / {name}" for name in compared)], lines)


def load_table(results: Results, rows: Iterable[Row]) -> str:
    def cell(samples: Sequence[Sample]) -> str:
        rate = median(samples, lambda sample: sample.load.requests_per_second)
        p50 = median(samples, lambda sample: sample.load.p50)
        p99 = median(samples, lambda sample: sample.load.p99)
        return f"{rate:,.0f} / {p50:.2f} / {p99:.2f}"

    return per_peer_table(results, rows, cell)


def latency_table(results: Results, rows: Iterable[Row]) -> str:
    def cell(samples: Sequence[Sample]) -> str:
        names = ("p50", "p99", "p99_9", "max")
        values = [statistics.median(getattr(s.load, name) for s in samples) for name in names]
        return " / ".join(f"{value:.2f}" for value in values)

    return per_peer_table(results, rows, cell)


def per_peer_table(
    results: Results, rows: Iterable[Row], cell: Callable[[Sequence[Sample]], str]
) -> str:
    rows = list(rows)
    peers = [name for name in results.peers if any(name in results.samples[r.id] for r in rows)]
    lines = []
    for row in rows:
        samples = [results.samples[row.id].get(name) for name in peers]
        lines.append([f"`{row.id}`", *(cell(s) if s else "" for s in samples)])
    return table(["row", *peers], lines)


def count_table(results: Results, ids: Iterable[str]) -> str:
    lines = []
    for name in (count.id for count in COUNTS if count.id in ids):
        totals = {peer: sum(counts.values()) for peer, counts in results.counts[name].items()}
        for peer, counts in results.counts[name].items():
            ordered = sorted(counts.items(), key=lambda item: -item[1])
            detail = ", ".join(f"{call} {value:.2f}" for call, value in ordered)
            total = totals[peer]
            base = totals.get(BASE)
            lines.append(
                [
                    f"`{name}`",
                    peer,
                    f"{total:,.2f}" if len(counts) > 1 else f"{total:,.0f}",
                    f"{total / base:.2f}" if base else "",
                    detail if len(counts) > 1 else "",
                ]
            )
    if not any(line[-1] for line in lines):
        return table(["row", "proxy", "all", f"/ {BASE}"], [line[:-1] for line in lines])
    return table(["row", "proxy", "all", f"/ {BASE}", "by name"], lines)


def table(head: list[str], lines: list[list[str]]) -> str:
    columns = [[line[number] for line in lines] for number in range(len(head))]
    ruler = ["---:" if any(map(is_number, column)) else "---" for column in columns]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ruler, *lines))


def is_number(cell: str) -> bool:
    """Figures, also several of them in a cell."""
    return re.fullmatch(r"[\d.,/ %*()]*\d[\d.,/ %*()]*", cell) is not None


# Charts.


def charts(results: Results) -> dict[str, str]:
    """SVG documents by file name, relative to nutcracker; a chart without rows is left out."""
    found: dict[str, str] = {}
    for file, title, values in (
        ("cpu.svg", "CPU time of the proxy per request", relative_cpu(results)),
        ("counts.svg", "System calls and instructions per request", relative_counts(results)),
    ):
        if values:
            peers = [n for n in results.peers if any(n in row for row in values.values())]
            groups = [(row, [ratios.get(n) for n in peers]) for row, ratios in values.items()]
            title = f"{title}, {BASE} = 1 (less is better)"
            found[file] = chart.bars(title, BASE, peers, groups)
    return found


Relative = dict[str, dict[str, float]]  # to nutcracker, which is left out itself; by row and peer


def relative_cpu(results: Results) -> Relative:
    found: Relative = {}
    for row in (row.id for row in ROWS if row.main and row.id in results.samples):
        by_peer = results.samples[row]
        ratios = {name: ratio(by_peer, name, BASE) for name in by_peer if name != BASE}
        if known := {name: value for name, value in ratios.items() if value is not None}:
            found[row] = known
    return found


def relative_counts(results: Results) -> Relative:
    found: Relative = {}
    for id in (count.id for count in COUNTS if BASE in results.counts.get(count.id, {})):
        totals = {name: sum(counts.values()) for name, counts in results.counts[id].items()}
        base = totals.pop(BASE)
        if totals and base:
            found[id] = {name: total / base for name, total in totals.items()}
    return found


# Files.


def summary(results: Results) -> dict[str, Any]:
    """Medians, spreads and ratios by row, for whoever reads the JSON file."""
    found: dict[str, Any] = {}
    for row, by_peer in results.samples.items():
        found[row] = {
            name: {
                "cpu": median(samples, cpu),
                "spread": spread([sample.cpu for sample in samples]),
                "to_nutcracker": ratio(by_peer, name, BASE),
                "to_floor": ratio(by_peer, name, FLOOR),
            }
            for name, samples in by_peer.items()
        }
    return found


def write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "latest.md").write_text(markdown(results))
    content = {**dataclasses.asdict(results), "summary": summary(results)}
    (directory / "latest.json").write_text(json.dumps(content, indent=1) + "\n")
    for name, image in charts(results).items():
        (directory / name).write_text(image)
