# bench/__main__.py: python -m bench
"""python -m bench: nutproxy, nutcracker, haproxy and a bare echo server, side by side in one run.

    python -m bench                                the core rows in three placements; 15 minutes
    python -m bench --all                          also all other rows in one; 35 minutes
    python -m bench --list                         list the rows with a description
    python -m bench --only redis-get-p16           one row; several: ID,ID or 'redis-get*'
    python -m bench --placement own,shared         these placements (bench/placement.py); or all
    python -m bench --coalesce                     nutproxy with and without `coalesce`; 30 minutes
    python -m bench --memory                       resident memory in five cases (bench/memory.py)

predixy is included if it is on PATH. Tables go to standard output. A complete run has at least five
rounds and all placements. It also writes bench/results/ and the figures in README and
docs/performance.md (bench/figures.py). Any other run writes files only to the directory of
--output. The report explains how it is measured (bench/report.py); bench/rows.py has the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import functools
import math
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nutproxy
from bench import figures, measure, memory, peers, placement, report, tracers
from bench.peers import CHECKOUT, PEERS, TWEMPROXIES, Ground, Peer
from bench.placement import Placement
from bench.progress import Progress
from bench.ratios import BASE, Results
from bench.rows import COALESCE, COUNTS, LOAD, PARTIALS, ROWS, Count, Partial, Row
from bench.tracers import Counts

RESULTS = Path(__file__).parent / "results"
DEFAULT_PEERS = ["nutproxy", "nutcracker", "haproxy", "echo"]
TRACED_PEERS = ("nutproxy", "nutcracker")
# Of the rows in open loop.
PARTIAL_PEERS = ("nutproxy", "nutproxy-off", "nutcracker")
COALESCE_PEERS = ["nutproxy", "nutproxy-off", "nutcracker", "redis"]
LEAST_ROUNDS_TO_WRITE = 5
TURNS = 2  # runs of a peer in each round: one in each order of the peers
PARTIAL_SECONDS = 0.8  # of load in each round of an open-loop row

# About how long one row of one peer takes in a round, how much each start of a load adds, and how
# long one count takes. Only for the first estimate of a run's duration.
CELL_SECONDS, START_SECONDS, COUNT_SECONDS = 0.9, 0.05, 3.0


@dataclass(frozen=True)
class Selection:
    """The contents of one report."""

    stem: str  # of its file names
    rows: list[Row]
    partials: list[Partial]
    counts: list[Count]
    placements: list[Placement]

    @property
    def cpu_file(self) -> str:
        return {"latest": "cpu.svg", "long": "long.svg"}.get(self.stem, "")


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    allow_many_files()
    if options.list:
        named = [(row.id, row.title) for row in ROWS]
        named += [(one.id, one.title) for one in PARTIALS]
        named += [(one.id, one.title) for one in COUNTS]
        named += [(case.id, case.title) for case in memory.CASES]
        width = max(len(id) for id, _ in named)
        print("\n".join(f"{id:{width}}  {title}" for id, title in named))
    elif options.memory:
        cases = [case for case in memory.CASES if chosen(case.id, options.only)]
        everything = not options.only and options.churn == memory.CHURN
        results = memory.measure_all(options.peers, cases, options.churn, machine())
        print(memory.markdown(results))
        if output := options.output or (RESULTS if everything else None):
            memory.write(results, output)
    else:
        benchmark(options)
    if options.complete and not options.list:
        figures.update(RESULTS)


def benchmark(options: argparse.Namespace) -> None:
    selected = selections(options)
    for one in selected:
        # A missing program should end the run now, not after 20 minutes.
        for name in programs(one):
            peers.program(name)
    output = options.output or (RESULTS if options.complete else None)
    for one in selected:
        results = measured(options, one)
        print(report.markdown(results))
        if output:
            report.write(results, output, one.stem, one.cpu_file)


def selections(options: argparse.Namespace) -> list[Selection]:
    names = options.placement
    everywhere = [placement.placement(name) for name in names or default_placements()]
    partials = [one for one in PARTIALS if BASE in options.peers]
    if options.coalesce:
        rows = [row for row in COALESCE if chosen(row.id, options.only)]
        partials = [one for one in partials if chosen(one.id, options.only)]
        return [Selection("coalesce", rows, partials, [], everywhere)]
    if options.only:
        partials = [one for one in partials if chosen(one.id, options.only)]
        bases = {one.of for one in partials}
        rows = [row for row in ROWS if chosen(row.id, options.only) or row.id in bases]
        counts = [count for count in COUNTS if chosen(count.id, options.only)]
        return [Selection("latest", rows, partials, counts, everywhere)]
    found = [Selection("latest", [r for r in ROWS if r.core], partials, COUNTS, everywhere)]
    if options.all:
        once = everywhere if names else [placement.placement("free")]
        found.append(Selection("long", [r for r in ROWS if not r.core], [], [], once))
    return found


def default_placements() -> Sequence[str]:
    """With a single processor there is only one placement."""
    return placement.NAMES if len(placement.usable()) > 1 else ("free",)


def programs(selection: Selection) -> Iterator[str]:
    yield from (row.tool for row in selection.rows if row.tool != LOAD)
    for count in selection.counts:
        yield from tracers.PROGRAMS[count.kind]


def measured(options: argparse.Namespace, selection: Selection) -> Results:
    results = Results(machine(), options.peers, turns=TURNS)
    traced = sum(len(served(name, selection.counts)) for name in traceable(options.peers))
    partial = sum(name in PARTIAL_PEERS for name in options.peers)
    times = len(selection.placements) * options.rounds
    cells = [(name, row) for name in options.peers for row in selection.rows]
    closed = times * sum(peers.serves(name, row) for name, row in cells)
    opened = times * len(selection.partials) * partial
    steps = (closed + opened) * TURNS
    seconds = (closed * CELL_SECONDS + opened * PARTIAL_SECONDS) * options.scale
    seconds += steps * START_SECONDS + traced * COUNT_SECONDS
    print(
        f"{len(selection.rows)} rows, {len(selection.partials)} at partial load,"
        f" {len(selection.counts)} counts; {len(options.peers)} peers, {options.rounds} rounds,"
        f" {len(selection.placements)} placements: about {max(round(seconds / 60), 1)} minutes",
        file=sys.stderr,
    )
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nutproxy-bench-")))
        progress = Progress(steps + traced)
        stack.callback(progress.close)
        if selection.rows:
            for place in selection.placements:
                measure_placement(results, options, selection, place, directory, progress)
        if selection.counts:
            rows = [count.row for count in selection.counts]
            with ground(directory, rows, placement.placement("shared")) as prepared:
                count_all(results, options.peers, selection.counts, prepared, progress)
    return results


@contextlib.contextmanager
def ground(directory: Path, rows: Sequence[Row], place: Placement) -> Iterator[Ground]:
    with peers.backends(directory, rows, place.servers) as servers:
        yield Ground(directory, rows, servers, place)


def measure_placement(
    results: Results,
    options: argparse.Namespace,
    selection: Selection,
    place: Placement,
    directory: Path,
    progress: Progress,
) -> None:
    results.placements[place.name] = str(place)
    results.samples[place.name] = {}
    every = [*selection.rows, *(one.row for one in selection.partials)]
    with contextlib.ExitStack() as stack:
        prepared = stack.enter_context(ground(directory, every, place))
        started = [stack.enter_context(peers.peer(name, prepared)) for name in options.peers]
        running = [peer for peer in started if peer is not None]
        rows = [scaled(row, options.scale) for row in selection.rows]
        measure_rounds(results, running, rows, options.rounds, directory, progress)
        offered = [
            one.at(capacity(results, place.name, one), PARTIAL_SECONDS * options.scale / TURNS)
            for one in selection.partials
        ]
        results.rates[place.name] = {row.id: row.rate for row in offered}
        compared = [peer for peer in running if peer.name in PARTIAL_PEERS]
        measure_rounds(results, compared, offered, options.rounds, directory, progress)


def scaled(row: Row, scale: float) -> Row:
    """The row with the requests of one run."""
    return dataclasses.replace(row, requests=max(1, int(row.requests * scale / TURNS)))


def capacity(results: Results, place: str, partial: Partial) -> float:
    """The requests per second of nutcracker."""
    samples = results.row(place, partial.of)[BASE]
    found = statistics.median(sample.load.requests_per_second for sample in samples)
    if math.isinf(found):
        raise SystemExit(f"{partial.of}: the runs are too short to measure a rate; raise --scale")
    return found


def measure_rounds(
    results: Results,
    running: list[Peer],
    rows: list[Row],
    rounds: int,
    directory: Path,
    progress: Progress,
) -> None:
    for row in rows:
        for peer in able(running, row):
            measure.check(peer, row)
            # A warm-up, which is not measured: buffers grow and connections are opened.
            measure.run(peer, row, max(1, row.requests // 5), directory)
    for number in range(1, rounds + 1):
        # Each round begins with another peer.
        running = running[1:] + running[:1]
        for row in rows:
            there = able(running, row)
            for peer in [*there, *reversed(there)]:
                sample = measure.run(peer, row, row.requests, directory)
                by_peer = results.samples[peer.placement.name].setdefault(row.id, {})
                by_peer.setdefault(peer.name, []).append(sample)
                progress.step(
                    f"{peer.placement.name:7} round {number}/{rounds}  {row.id:24}{peer.name:12}"
                    f"{sample.load.requests_per_second:>11,.0f}/s {sample.cpu:10.2f} us"
                )


def able(running: list[Peer], row: Row) -> list[Peer]:
    return [peer for peer in running if row.id in peer.ports]


def traceable(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in TRACED_PEERS]


def served(name: str, counts: Sequence[Count]) -> list[Count]:
    return [count for count in counts if peers.serves(name, count.row)]


def count_all(
    results: Results,
    names: Sequence[str],
    counts: list[Count],
    prepared: Ground,
    progress: Progress,
) -> None:
    def done(name: str, count: Count, found: Counts) -> None:
        results.counts.setdefault(count.id, {})[name] = found
        progress.step(f"{count.id:32}{name:12}{sum(found.values()):10,.2f} per request")

    for name in traceable(names):
        mine = served(name, counts)
        by_calls = [count for count in mine if count.kind == "calls"]
        by_instructions = [count for count in mine if count.kind == "instructions"]
        try:
            if by_calls:
                with peers.peer(name, prepared) as peer:
                    assert peer is not None
                    for one in by_calls:
                        measure.check(peer, one.row)
                        done(name, one, tracers.calls(peer, one, prepared.directory))
            if by_instructions:
                tally = functools.partial(done, name)
                tracers.instructions(name, prepared, by_instructions, tally)
        except tracers.NotPermitted as reason:
            # Keep the results of the rest of the run.
            progress.step(f"not everything could be counted: {reason}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Side by side with nutcracker. See bench/__main__.py."
    )
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument("--all", action="store_true", help="also measure the other rows")
    parser.add_argument(
        "--only", type=words, default=[], metavar="ID[,ID]", help="only these rows, or patterns"
    )
    parser.add_argument(
        "--placement",
        type=words,
        action="extend",
        metavar="NAME[,NAME]",
        help=f"{', '.join(placement.NAMES)}, or all (the default, except for the rows of --all)",
    )
    parser.add_argument("--rounds", type=positive, default=5, help="rounds (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the requests of a row")
    parser.add_argument(
        "--peers",
        type=words,
        default=None,
        help=f"{','.join(PEERS)} ({','.join(DEFAULT_PEERS)}, and predixy if it is on PATH)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write tables and charts here")
    parser.add_argument(
        "--coalesce", action="store_true", help="nutproxy with and without `coalesce`"
    )
    parser.add_argument("--memory", action="store_true", help="resident memory instead of CPU")
    parser.add_argument(
        "--churn", type=positive, default=memory.CHURN, help="connections of memory-churn (1000000)"
    )
    options = parser.parse_args(argv)
    options.complete = is_complete(options)
    options.peers = options.peers or default_peers(options)
    known = list(TWEMPROXIES) if options.memory else PEERS
    if unknown := set(options.peers) - set(known):
        parser.error(f"unknown peer: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.scale <= 0:
        parser.error("--scale must be above 0")
    check_placements(parser, options)
    check_rows(parser, options)
    return options


def default_peers(options: argparse.Namespace) -> list[str]:
    if options.memory:
        return list(TRACED_PEERS)
    names = COALESCE_PEERS if options.coalesce else DEFAULT_PEERS
    optional = [name for name in ("predixy",) if shutil.which(name)]
    return [*names[:-1], *optional, names[-1]]


def is_complete(options: argparse.Namespace) -> bool:
    """Whether nothing is left out. Documents quote only the figures of complete runs."""
    if options.only or options.peers or options.output:
        return False
    if options.memory:
        return bool(options.churn == memory.CHURN)
    enough = options.rounds >= LEAST_ROUNDS_TO_WRITE and options.scale >= 1.0
    return enough and options.placement in (None, ["all"]) and len(placement.usable()) > 1


def check_placements(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.placement is None:
        return
    if unknown := set(options.placement) - {*placement.NAMES, "all"}:
        names = ", ".join((*placement.NAMES, "all"))
        parser.error(f"unknown placement: {', '.join(sorted(unknown))}; there are {names}")
    if "all" in options.placement:
        options.placement = list(placement.NAMES)
    if len(placement.usable()) == 1 and set(options.placement) != {"free"}:
        parser.error("with one processor there is only the placement free")
    options.placement = list(dict.fromkeys(options.placement))


def check_rows(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    rows = [row.id for row in ROWS] + [one.id for one in PARTIALS] + [one.id for one in COUNTS]
    cases = [case.id for case in memory.CASES]
    ids, others = (cases, rows) if options.memory else (rows, cases)
    for pattern in options.only:
        if not fnmatch.filter(ids, pattern):
            if fnmatch.filter(others, pattern):
                wrong = "without" if options.memory else "with"
                parser.error(f"{pattern!r} is measured {wrong} --memory")
            parser.error(f"no row {pattern!r}; there are {', '.join(ids)}")
        if BASE not in options.peers and pattern in {one.id for one in PARTIALS}:
            parser.error(
                f"{pattern!r} is a share of {BASE}'s capacity: it has to be one of --peers"
            )


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def chosen(id: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch.fnmatchcase(id, pattern) for pattern in only)


def allow_many_files() -> None:
    """Raises the limit for 800 clients on both sides of a proxy. Child processes inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def machine() -> dict[str, str]:
    """What a reader must know to repeat the run."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    found = {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        # An algorithm that paces packets with timers, such as bbr, needs more processor time.
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
        "nutproxy": f"{nutproxy.__version__}, commit {commit()}",
        "nutcracker": version("nutcracker", "-V"),
        "haproxy": version("haproxy", "-v"),
        "redis": version("redis-server", "--version"),
        "memcached": version("memcached", "-V"),
    }
    if shutil.which("predixy"):
        found["predixy"] = version("predixy", "-v")
    return found


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty=, with changes that are not committed"]
    answer = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def version(name: str, option: str) -> str:
    if shutil.which(name) is None:
        return "not installed"
    answer = subprocess.run([name, option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", answer.stdout + answer.stderr)
    return found[0] if found else "unknown"


if __name__ == "__main__":
    main()
