# bench/figures.py: python -m bench.figures
"""Writes the figures in documents from bench/results/*.json, so no figure is typed by hand.

Figures are in blocks between two comments:

    <!-- figures: NAME -->
    this text is replaced
    <!-- end -->

BLOCKS has a function for each NAME. A complete run of the benchmark rewrites the blocks. A test
fails if a document differs from the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import memory
from bench.measure import Sample
from bench.peers import CHECKOUT
from bench.ratios import BASE, FLOOR, LIMIT, MARK, Range, Results, between, faults, spread
from bench.report import fell_short, processor, table
from bench.rows import MEGA, PARTIALS

DOCUMENTS = ("README.md", "docs/performance.md")
SHORT = "‡"
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Aim:
    """The aims for a row, as ratios to nutcracker and to the floor."""

    row: str
    name: str
    base: float | None = None
    floor: float | None = None
    in_readme: bool = True


AIMS = [
    Aim("redis-get", "Redis GET", 0.75, 1.30),
    Aim("redis-set", "Redis SET", 0.75, 1.30),
    Aim("redis-get-p16", "Redis GET, pipelines of 16", 0.50),
    Aim("redis-set-p16", "Redis SET, pipelines of 16", 0.50),
    Aim("redis-get-c800-p100", "Redis GET, 800 clients, pipelines of 100", 0.25, in_readme=False),
    Aim("redis-mget-100", "Redis MGET of 100 keys", 0.40),
    Aim("redis-mget-10000", "Redis MGET of 10,000 keys", 0.10, in_readme=False),
    Aim("redis-get-1m", "Redis GET of 1 MB", 0.60),
    Aim("redis-set-1m", "Redis SET of 1 MB", 0.60, in_readme=False),
    Aim("redis-connect", "Redis GET, a connection each"),
    Aim("memcache-get", "Memcached get", 0.75, 1.30),
    Aim("memcache-set", "Memcached set", 0.75, 1.30),
    Aim("memcache-get-p16", "Memcached get, pipelines of 16"),
]

# The aims for system calls per request.
CALLS = [
    ("calls-redis-get-c1", "a Redis GET of a lone client", 6.0),
    ("calls-redis-get", "a Redis GET, 50 clients", 2.3),
    ("calls-redis-get-p16", "a Redis GET, 50 clients, pipelines of 16", None),
    ("calls-memcache-get", "a Memcached get, 50 clients", None),
    ("calls-redis-connect", "a Redis GET on a connection of its own", None),
]


def sources(directory: Path) -> list[Results]:
    """The results of the core rows and, if they have been measured, those of the other rows."""
    files = (directory / f"{stem}.json" for stem in ("latest", "long"))
    return [Results.read(file) for file in files if file.exists()]


def found(results: Sequence[Results], row: str, other: str = BASE) -> Range | None:
    return next((one for each in results if (one := each.range(row, "nutproxy", other))), None)


def joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# The blocks.


def readme(directory: Path) -> str:
    latest = Results.read(directory / "latest.json")
    shown = [(aim.name, found([latest], aim.row)) for aim in AIMS if aim.in_readme]
    lines = [[name, str(one)] for name, one in shown if one]
    return joined(
        table(["Two servers", "nutproxy's processor time, nutcracker = 1"], lines),
        faults(shown),
        partial(directory, ["redis"]),
    )


def setup(directory: Path) -> str:
    latest = Results.read(directory / "latest.json")
    machine = latest.machine
    lines = [f"- `{name}`: {text}" for name, text in latest.placements.items()]
    return joined(
        f"The last run: {latest.rounds} rounds on {machine['processor']}, {machine['system']}, load"
        f" average {machine['load average at the start']} at the start; nutproxy"
        f" {machine['nutproxy']}, nutcracker {machine['nutcracker']}.",
        "\n".join(lines),
    )


def aims(directory: Path) -> str:
    results = sources(directory)
    lines: list[list[str]] = []
    absent: list[str] = []
    ranges: list[tuple[str, Range | None]] = []
    for aim in AIMS:
        base, floor = (found(results, aim.row, other) for other in (BASE, FLOOR))
        if base is None:
            absent.append(aim.name)
            continue
        ranges += [(aim.name, base), (f"{aim.name}, to the floor", floor)]
        limits = ["" if limit is None else f"{limit:.2f}" for limit in (aim.base, aim.floor)]
        verdict = judged([(aim.base, base), (aim.floor, floor)])
        lines.append([aim.name, limits[0], str(base), limits[1], str(floor or ""), verdict])
    head = ["row", f"of {BASE}: aim", "measured", "of the floor: aim", "measured", ""]
    left_out = f"Not measured in the last run: {', '.join(absent)} (`python -m bench --all`)."
    return joined(table(head, lines), faults(ranges), left_out if absent else "")


def judged(pairs: Sequence[tuple[float | None, Range | None]]) -> str:
    """Whether the aims are met in all placements, in some, or in none. Undecided if a figure did
    not repeat."""
    aimed = [(limit, one) for limit, one in pairs if limit is not None and one is not None]
    if not aimed:
        return ""
    if any(one.fault for _, one in aimed):
        return "undecided"
    if all(one.high <= limit for limit, one in aimed):
        return "met"
    return "missed" if any(one.low > limit for limit, one in aimed) else "met in part"


def partial(directory: Path, protocols: Sequence[str] = ("redis", "memcache")) -> str:
    """Processor time and latency at partial load, as ranges over the placements."""
    latest = Results.read(directory / "latest.json")
    lines = []
    for one in PARTIALS:
        if one.id in latest.measured and one.row.protocol in protocols:
            cells = [operated(latest, one.id, name) for name in ("nutproxy", BASE)]
            name = "Redis GET" if one.row.protocol == "redis" else "Memcached get"
            lines.append([f"{name}, {one.percent} %", *cells])
    head = [f"Load, part of {BASE}'s capacity", "nutproxy: processor, p99", f"{BASE}: the same"]
    printed = "".join(cell for line in lines for cell in line)
    uneven = f"{MARK} Did not repeat: the spread of the rounds is over {LIMIT:.0%}."
    short = f"{SHORT} In at least one placement the machine did not keep up with the load."
    return joined(
        table(head, lines) if lines else "",
        uneven if MARK in printed else "",
        short if SHORT in printed else "",
    )


def operated(results: Results, row: str, peer: str) -> str:
    """Processor time and p99 of one proxy, with marks if they are doubtful."""

    def over(value: Callable[[Sample], float], form: str) -> str:
        medians = results.medians(row, peer, value).values()
        return between(min(medians), max(medians), form)

    samples = [results.row(place, row)[peer] for place in results.placements]
    reached = results.medians(row, peer, lambda sample: sample.load.requests_per_second)
    uneven = any(spread(results.by_round(each)) > LIMIT for each in samples)
    late = any(fell_short(rate, results.rates[place][row]) for place, rate in reached.items())
    percent = over(processor, "{:.0f}") + f" %{' ' + MARK if uneven else ''}"
    return f"{percent}, {over(lambda s: s.load.p99, '{:.2f}')} ms{' ' + SHORT if late else ''}"


def counts(directory: Path) -> str:
    latest = Results.read(directory / "latest.json")
    lines = []
    for id, name, aim in CALLS:
        ours, theirs = latest.total(id, "nutproxy"), latest.total(id, BASE)
        if ours is not None and theirs is not None:
            verdict = "" if aim is None else "met" if round(ours, 2) <= aim else "missed"
            limit = "" if aim is None else f"{aim:.1f}"
            lines.append([name, f"{ours:.2f}", f"{theirs:.2f}", limit, verdict])
    return table(["system calls for", "nutproxy", BASE, "aim", ""], lines) if lines else ""


def steps(directory: Path) -> str:
    """How the cost of an MGET grows with the number of its keys."""
    for results in sources(directory):
        few, many = (
            results.medians(f"redis-mget-{keys}", "nutproxy", lambda sample: sample.cpu)
            for keys in (1_000, 10_000)
        )
        if times := [many[place] / few[place] for place in few.keys() & many.keys()]:
            grown = between(min(times), max(times), "{:.1f}")
            return f"Ten times the keys of an MGET (1,000 to 10,000) cost {grown} times as much."
    return ""


def kept(directory: Path) -> str:
    """The table of resident memory."""
    measured = json.loads((directory / "memory.json").read_text())["measured"]
    lines, notes = [], []
    for case in (case for case in memory.CASES if case.id in measured):
        ours, theirs = (memory.Measured(**measured[case.id][name]) for name in ("nutproxy", BASE))
        cells = [f"{above(ours, name)} ({above(theirs, name)})" for name in ("peak", "after")]
        lines.append([case.title, *cells, case.must])
        if ours.note:
            notes.append(f"- {case.title}: {ours.note}.")
    head = ["case", "peak", "after", "aim"]
    return joined(table(head, lines), "\n".join(notes))


def above(measured: memory.Measured, name: str) -> str:
    return f"{(getattr(measured, name) - measured.idle) / MEGA:.1f}"


BLOCKS: dict[str, Callable[[Path], str]] = {
    "readme": readme,
    "setup": setup,
    "aims": aims,
    "partial": partial,
    "counts": counts,
    "steps": steps,
    "memory": kept,
}


def rewritten(text: str, directory: Path) -> str:
    """The document with new contents in its blocks."""

    def block(match: re.Match[str]) -> str:
        content = BLOCKS[match[2]](directory)
        return f"{match[1]}\n{content}\n\n{match[3]}" if content else f"{match[1]}{match[3]}"

    return BLOCK.sub(block, text)


def update(directory: Path, root: Path = CHECKOUT) -> None:
    for name in DOCUMENTS:
        file = root / name
        file.write_text(rewritten(file.read_text(), directory))


if __name__ == "__main__":
    update(Path(__file__).parent / "results")
