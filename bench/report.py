# bench/report.py: writes the results as tables and charts
"""The report of a run: bench/results/latest.md and its charts, and bench/results/long.md for the
rows outside of the core. bench/ratios.py defines ratio, spread and range."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench import chart
from bench.measure import Sample
from bench.ratios import (
    BASE,
    FLOOR,
    LIMIT,
    MARK,
    Range,
    Results,
    Value,
    faults,
    processor_time,
    spread,
)
from bench.rows import COUNTS, PARTIALS, ROWS, Partial, Row

NOTES = f"""\
The measure is **CPU**: user and system time of all threads of the proxy, divided by the requests.
Absolute times depend on the machine and on what else it does, so the proxies take turns and each is
compared with {BASE}. In a round, each row is run on all proxies there and back: A B C, C B A. A
ratio is the median of the rounds' ratios. Its spread, in brackets, is the difference between the
greatest and the least of them, in percent of the median. **A ratio whose spread is over {LIMIT:.0%}
has the mark {MARK}: it did not repeat.**

What a request costs also depends on which processes share a processor, so the core rows are
measured in three placements, and the figure to quote is the range over them.

nutproxy and nutcracker have two servers behind them with the keys spread over both (`-s1` and
`-s8`: one and eight). nutcracker runs with `-v 4`, because at its default of 5 it looks up the
client's address for every request, and with its default buffers. haproxy (`mode tcp`, one thread)
does not know keys: it deals the client connections to the servers in turn, each of which has all
keys, so it relays and does not shard. predixy, where it is installed, has the Redis rows of two
servers. The echo server has no server behind it: it counts requests and sends fixed replies, the
floor for anything that replies to a client. Redis' GET, SET, MGET and MSET are sent by
redis-benchmark, the rest by bench/load.c, which checks every reply.

A row's name says what differs from 50 clients that wait for each reply and values of 3 bytes:
`-c800` clients, `-p16` a pipeline of 16, `-1k` and `-1m` the size of a value, `mget-100` the number
of keys, `-connect` a new connection for each request, `-open` 20,000 requests a second whether or
not those before have been answered. `python -m bench --list` spells each of them out.
"""


# Tables.


def markdown(results: Results) -> str:
    parts = ["# Benchmark\n"]
    parts += [f"- {name}: {text}" for name, text in results.machine.items()]
    parts += [f"- placement `{name}`: {text}" for name, text in results.placements.items()]
    parts += [f"\n{NOTES}"]
    measured = [row for row in ROWS if row.id in results.measured]
    if "nutproxy" in results.peers and BASE in results.peers and measured:
        parts += [f"## Processor time of nutproxy, of that of {BASE}\n"]
        parts += [placement_table(results, measured), ""]
    others = [name for name in results.peers if name not in ("nutproxy", BASE)]
    if others and BASE in results.peers and measured:
        parts += [f"## Processor time of the others, of that of {BASE}\n"]
        parts += [others_table(results, measured, others), ""]
    if partial := [one for one in PARTIALS if one.id in results.measured]:
        parts += ["## At partial load\n", PARTIAL_NOTE, partial_table(results, partial), ""]
    if {"nutproxy", OFF} <= {*results.peers}:
        parts += ["## With and without `coalesce`\n", COALESCE_NOTE]
        parts += per_placement(results, [*measured, *(one.row for one in partial)], coalesce_table)
    for group in dict.fromkeys(row.group for row in measured):
        rows = [row for row in measured if row.group == group]
        parts += [
            f"## {group}\n",
            f"CPU of the proxy per request in microseconds: median of {results.rounds} rounds, and"
            " spread.\n",
            *per_placement(results, rows, cpu_table),
            "Requests per second / p50 / p99 of latency in milliseconds, medians of all runs.\n",
            *per_placement(results, rows, load_table),
        ]
    if opened := [row for row in measured if row.rate]:
        parts += ["## Latency at a fixed rate\n"]
        parts += ["From the time at which a request was due: p50 / p99 / p99.9 / greatest, ms.\n"]
        parts += per_placement(results, opened, latency_table)
    for kind, text in (
        ("calls", "System calls of the proxy per request (`strace -c -f`)"),
        ("instructions", "Instructions per request, 1 client (`valgrind --tool=callgrind`)"),
    ):
        counted = {c.id for c in COUNTS if c.kind == kind} & results.counts.keys()
        if counted:
            parts += [f"## {text}\n", count_table(results, counted), ""]
    return "\n".join(parts)


PARTIAL_NOTE = f"""\
Open loop: requests are due at 20, 50 and 80 % of the rate at which {BASE} answered the same row in
closed loop, in this run and placement, whether or not those before have been answered. Processor
time of the proxy in percent of one processor (spread over the rounds), then p50 / p99 of latency in
milliseconds from the time at which a request was due. Where less was answered than was due, the
machine could not keep up, and the rate that was reached is given.
"""


OFF = "nutproxy-off"
COALESCE_NOTE = f"""\
nutproxy as it is, divided by nutproxy with `coalesce: off` ({OFF}), and its requests a second
divided by those of the others: medians of the rounds' ratios, spread in brackets. Events are those
of a turn of the loop, without `coalesce` and with it. Rest is the part of the time in which turns
waited for more of them.
"""


def coalesce_table(results: Results, rows: list[Row], placement: str) -> str:
    others = [name for name in results.peers if name not in ("nutproxy", OFF)]
    lines = []
    for row in rows:

        def of(other: str, value: Value, row: Row = row) -> str:
            found = results.ratio(placement, row.id, "nutproxy", other, value)
            return str(found) if found else ""

        by_peer = results.row(placement, row.id)
        events = [
            statistics.median(sample.events or 0 for sample in by_peer[name])
            for name in (OFF, "nutproxy")
        ]
        rest = statistics.median(sample.waited or 0 for sample in by_peer["nutproxy"])
        lines.append(
            [
                f"`{row.id}`",
                f"{events[0]:.1f}, {events[1]:.1f}",
                f"{rest:.0%}",
                *(of(OFF, value) for value in (processor_time, rate, p50, p99, slowest)),
                *(of(name, rate) for name in others),
            ]
        )
    head = ["row", "events", "rest", "CPU", "requests/s", "p50", "p99", "greatest"]
    return table([*head, *(f"requests/s, {name}" for name in others)], lines)


def rate(sample: Sample) -> float:
    return sample.load.requests_per_second


def p50(sample: Sample) -> float:
    return sample.load.p50


def p99(sample: Sample) -> float:
    return sample.load.p99


def slowest(sample: Sample) -> float:
    return sample.load.max


def placement_table(results: Results, rows: Iterable[Row]) -> str:
    several = len(results.placements) > 1
    lines = []
    ranges: list[tuple[str, Range | None]] = []
    for row in rows:
        found = results.range(row.id, "nutproxy")
        ranges.append((f"`{row.id}`", found))
        if found:
            cells = [found.ratios.get(name) for name in results.placements]
            figures = [str(ratio) if ratio else "" for ratio in cells]
            lines.append([f"`{row.id}`", *figures, *[f"**{found}**"] * several])
    text = table(["row", *results.placements, *["range"] * several], lines)
    return "\n\n".join(part for part in (text, faults(ranges)) if part)


def others_table(results: Results, rows: Iterable[Row], peers: Sequence[str]) -> str:
    lines = []
    ranges: list[tuple[str, Range | None]] = []
    for row in rows:
        found = {name: results.range(row.id, name) for name in peers}
        ranges += [(f"`{row.id}` {name}", one) for name, one in found.items()]
        lines.append([f"`{row.id}`", *(str(one) if one else "" for one in found.values())])
    text = table(["row", *peers], lines)
    return "\n\n".join(part for part in (text, faults(ranges)) if part)


def partial_table(results: Results, partials: Iterable[Partial]) -> str:
    peers = ("nutproxy", BASE)
    lines = []
    ranges: list[tuple[str, Range | None]] = []
    for one in partials:
        found = results.range(one.id, *peers)
        ranges.append((f"`{one.id}`", found))
        for name in results.placements:
            samples = [results.row(name, one.id).get(peer) for peer in peers]
            rate = results.rates.get(name, {}).get(one.id, 0)
            cells = [partial_cell(results, each, rate) if each else "" for each in samples]
            ratio = found.ratios.get(name) if found else None
            lines.append([f"`{one.id}`", name, f"{rate:,}", *cells, str(ratio) if ratio else ""])
    head = ["row", "placement", "due a second", *peers, f"CPU, nutproxy / {BASE}"]
    text = table(head, lines)
    return "\n\n".join(part for part in (text, faults(ranges)) if part)


def partial_cell(results: Results, samples: Sequence[Sample], rate: int) -> str:
    percent, p50, p99 = (
        statistics.median(map(value, samples))
        for value in (processor, lambda s: s.load.p50, lambda s: s.load.p99)
    )
    uneven = spread(results.by_round(samples))
    reached = statistics.median(sample.load.requests_per_second for sample in samples)
    short = f" (only {reached:,.0f}/s)" if fell_short(reached, rate) else ""
    return f"{percent:.1f} % ({uneven:.0%}), {p50:.2f} / {p99:.2f}{short}"


def fell_short(reached: float, rate: int) -> bool:
    return reached < 0.95 * rate


def processor(sample: Sample) -> float:
    return sample.percent


def per_placement(
    results: Results, rows: list[Row], content: Callable[[Results, list[Row], str], str]
) -> list[str]:
    parts = []
    for name in results.placements:
        if measured := [row for row in rows if results.row(name, row.id)]:
            parts += [f"Placement `{name}`:\n", content(results, measured, name), ""]
    return parts


def cpu_table(results: Results, rows: list[Row], placement: str) -> str:
    peers = of_rows(results, rows, placement)
    compared = [n for n in (BASE, FLOOR) if {n, "nutproxy"} <= {*peers}]
    lines = []
    for row in rows:
        by_peer = results.row(placement, row.id)
        cells = []
        for name in peers:
            values = results.by_round(by_peer.get(name, ()))
            form = "{:.2f} ({:.0%})"
            cells.append(form.format(statistics.median(values), spread(values)) if values else "")
        ratios = [results.ratio(placement, row.id, "nutproxy", name) for name in compared]
        lines.append([f"`{row.id}`", *cells, *(str(r) if r else "" for r in ratios)])
    return table(["row", *peers, *(f"nutproxy / {name}" for name in compared)], lines)


def load_table(results: Results, rows: list[Row], placement: str) -> str:
    def cell(samples: Sequence[Sample]) -> str:
        rate = statistics.median(sample.load.requests_per_second for sample in samples)
        p50 = statistics.median(sample.load.p50 for sample in samples)
        p99 = statistics.median(sample.load.p99 for sample in samples)
        return f"{rate:,.0f} / {p50:.2f} / {p99:.2f}"

    return per_peer_table(results, rows, placement, cell)


def latency_table(results: Results, rows: list[Row], placement: str) -> str:
    def cell(samples: Sequence[Sample]) -> str:
        names = ("p50", "p99", "p99_9", "max")
        values = [statistics.median(getattr(s.load, name) for s in samples) for name in names]
        return " / ".join(f"{value:.2f}" for value in values)

    return per_peer_table(results, rows, placement, cell)


def per_peer_table(
    results: Results,
    rows: list[Row],
    placement: str,
    cell: Callable[[Sequence[Sample]], str],
) -> str:
    peers = of_rows(results, rows, placement)
    lines = []
    for row in rows:
        samples = [results.row(placement, row.id).get(name) for name in peers]
        lines.append([f"`{row.id}`", *(cell(s) if s else "" for s in samples)])
    return table(["row", *peers], lines)


def of_rows(results: Results, rows: list[Row], placement: str) -> list[str]:
    return [n for n in results.peers if any(n in results.row(placement, row.id) for row in rows)]


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
    """Whether a cell has one or more figures and nothing else."""
    return re.fullmatch(rf"[-\d.,/ %*(){MARK}]*\d[-\d.,/ %*(){MARK}]*", cell) is not None


# Charts.


def charts(results: Results, cpu_file: str) -> dict[str, str]:
    """SVG documents by file name. Values are relative to nutcracker. Empty charts are left out."""
    found: dict[str, str] = {}
    for file, title, values in (
        (cpu_file, "CPU time of the proxy per request", relative_cpu(results)),
        ("counts.svg", "System calls and instructions per request", relative_counts(results)),
    ):
        if values and file:
            peers = [n for n in results.peers if any(n in row for row in values.values())]
            groups = [(row, [bars.get(n) for n in peers]) for row, bars in values.items()]
            title = f"{title}, {BASE} = 1 (less is better)"
            note = notes(results) if file == cpu_file else []
            found[file] = chart.bars(title, BASE, peers, groups, note)
    return found


def notes(results: Results) -> list[str]:
    marked = f"{MARK} did not repeat: the rounds of a placement differ by more than {LIMIT:.0%}"
    if len(results.placements) > 1:
        names = ", ".join(results.placements)
        return [f"from the least to the greatest of the placements {names}", marked]
    return [f"placement {next(iter(results.placements))}", marked]


Relative = dict[str, dict[str, chart.Bar]]  # relative to nutcracker, which has no bar


def relative_cpu(results: Results) -> Relative:
    found: Relative = {}
    core = len(results.placements) > 1
    for row in (row for row in ROWS if row.id in results.measured):
        if row.core if core else row.main or row.core:
            ranges = {name: results.range(row.id, name) for name in results.peers if name != BASE}
            found[row.id] = {
                name: chart.Bar(one.low, one.high, str(one), bool(one.fault))
                for name, one in ranges.items()
                if one is not None
            }
    return {row: bars for row, bars in found.items() if bars}


def relative_counts(results: Results) -> Relative:
    found: Relative = {}
    for id in (count.id for count in COUNTS):
        base = results.total(id, BASE)
        totals = {name: results.total(id, name) for name in results.counts.get(id, {})}
        if base:
            found[id] = {
                name: chart.Bar(total / base, total / base, f"{total / base:.2f}")
                for name, total in totals.items()
                if name != BASE and total is not None
            }
    return {id: bars for id, bars in found.items() if bars}


# Files.


def write(results: Results, directory: Path, stem: str, cpu_file: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{stem}.md").write_text(markdown(results))
    (directory / f"{stem}.json").write_text(results.to_json())
    for name, image in charts(results, cpu_file).items():
        (directory / name).write_text(image)
