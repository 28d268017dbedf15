# bench/__main__.py: python -m bench
"""python -m bench: nutproxy, nutcracker, haproxy and a bare echo server, side by side in one run.

    python -m bench                                all rows, five rounds; about 25 minutes
    python -m bench --list                         the rows, and what each of them is
    python -m bench --only redis-get-p16           one row; several: ID,ID or 'redis-get*'
    python -m bench --memory                       resident memory in five cases (bench/memory.py)

Tables go to standard output. A run of everything, of five rounds or more, also writes
bench/results/; any other writes only where --output says. How it is measured is told by the report
itself (bench/report.py), what is measured by bench/rows.py.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import os
import platform
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nutproxy
from bench import measure, memory, peers, report, tracers
from bench.peers import CHECKOUT, PEERS, TWEMPROXIES, Ground, Peer
from bench.progress import Progress
from bench.report import Results
from bench.rows import COUNTS, LOAD, ROWS, Count, Row
from bench.tracers import Counts

RESULTS = Path(__file__).parent / "results"
DEFAULT_PEERS = ["nutproxy", "nutcracker", "haproxy", "echo"]
TRACED_PEERS = ("nutproxy", "nutcracker")


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    allow_many_files()
    if options.list:
        named = [(row.id, row.title) for row in ROWS] + [(one.id, one.title) for one in COUNTS]
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
        complete = not options.only and options.peers == DEFAULT_PEERS
        everything = complete and options.rounds >= 5 and options.scale == 1.0
        benchmark(options, options.output or (RESULTS if everything else None))


def benchmark(options: argparse.Namespace, output: Path | None) -> None:
    rows = [row for row in ROWS if chosen(row.id, options.only)]
    counts = [count for count in COUNTS if chosen(count.id, options.only)]
    for program in [row.tool for row in rows if row.tool != LOAD] + [
        program for count in counts for program in tracers.PROGRAMS[count.kind]
    ]:
        peers.program(program)  # rather now than after 20 minutes
    results = Results(machine(), options.peers)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nutproxy-bench-")))
        every = [*rows, *(count.row for count in counts)]
        servers = stack.enter_context(peers.backends(directory, every))
        started = [
            stack.enter_context(peers.peer(name, Ground(directory, every, servers)))
            for name in options.peers
        ]
        running = [peer for peer in started if peer is not None]
        cells = sum(row.id in peer.ports for row in rows for peer in running)
        traced = sum(peer.name in TRACED_PEERS for peer in running)
        progress = Progress(cells * options.rounds + traced * len(counts))
        stack.callback(progress.close)
        if rows:
            measure_rounds(results, running, rows, options, directory, progress)
        count_all(results, running, counts, Ground(directory, every, servers), progress)
    print(report.markdown(results))
    if output:
        report.write(results, output)


def measure_rounds(
    results: Results,
    running: list[Peer],
    rows: list[Row],
    options: argparse.Namespace,
    directory: Path,
    progress: Progress,
) -> None:
    def requests(row: Row) -> int:
        return max(1, int(row.requests * options.scale))

    for row in rows:
        results.samples[row.id] = {peer.name: [] for peer in running if row.id in peer.ports}
        for peer in able(running, row):
            measure.check(peer, row)
            # Not counted: buffers grow and connections are opened.
            measure.run(peer, row, max(1, requests(row) // 10), directory)
    for number in range(1, options.rounds + 1):
        # Whoever comes first in one round comes last in another.
        running = running[1:] + running[:1]
        for row in rows:
            for peer in able(running, row):
                sample = measure.run(peer, row, requests(row), directory)
                results.samples[row.id][peer.name].append(sample)
                progress.step(
                    f"round {number}/{options.rounds}  {row.id:20}{peer.name:12}"
                    f"{sample.load.requests_per_second:>11,.0f}/s {sample.cpu:10.2f} us"
                )


def able(running: list[Peer], row: Row) -> Iterator[Peer]:
    return (peer for peer in running if row.id in peer.ports)


def count_all(
    results: Results,
    running: list[Peer],
    counts: list[Count],
    ground: Ground,
    progress: Progress,
) -> None:
    def done(name: str, count: Count, found: Counts) -> None:
        results.counts.setdefault(count.id, {})[name] = found
        progress.step(f"{count.id:32}{name:12}{sum(found.values()):10,.2f} a request")

    by_calls = [count for count in counts if count.kind == "calls"]
    by_instructions = [count for count in counts if count.kind == "instructions"]
    for peer in running:
        if peer.name not in TRACED_PEERS:
            continue
        try:
            for one in by_calls:
                done(peer.name, one, tracers.calls(peer, one, ground.directory))
            if by_instructions:
                tally = functools.partial(done, peer.name)
                tracers.instructions(peer.name, ground, by_instructions, tally)
        except tracers.NotPermitted as reason:
            # The rest of the run was not in vain.
            progress.step(f"not everything could be counted: {reason}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Side by side with nutcracker. See bench/__main__.py."
    )
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument(
        "--only", type=words, default=[], metavar="ID[,ID]", help="these rows, or patterns of them"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="the median of so many (5)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the requests of each row")
    parser.add_argument(
        "--peers",
        type=words,
        default=None,
        help=f"of {','.join(PEERS)} ({','.join(DEFAULT_PEERS)})",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where tables and charts go")
    parser.add_argument("--memory", action="store_true", help="resident memory instead of CPU")
    parser.add_argument(
        "--churn", type=positive, default=memory.CHURN, help="connections of that case (1000000)"
    )
    options = parser.parse_args(argv)
    options.peers = options.peers or (list(TRACED_PEERS) if options.memory else DEFAULT_PEERS)
    known = list(TWEMPROXIES) if options.memory else PEERS
    if unknown := set(options.peers) - set(known):
        parser.error(f"unknown peer: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    rows = [row.id for row in ROWS] + [count.id for count in COUNTS]
    cases = [case.id for case in memory.CASES]
    ids, others = (cases, rows) if options.memory else (rows, cases)
    for pattern in options.only:
        if not fnmatch.filter(ids, pattern):
            if fnmatch.filter(others, pattern):
                wrong = "without" if options.memory else "with"
                parser.error(f"{pattern!r} is measured {wrong} --memory")
            parser.error(f"no row {pattern!r}; there are {', '.join(ids)}")
    if options.scale <= 0:
        parser.error("--scale must be above 0")
    return options


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def chosen(id: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch.fnmatchcase(id, pattern) for pattern in only)


def allow_many_files() -> None:
    """For 800 clients on both sides of a proxy; what is started here inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def machine() -> dict[str, str]:
    """What one has to know to repeat it."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        # What paces its packets by timers (bbr) is dearer than what does not.
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
        "nutproxy": f"{nutproxy.__version__}, commit {commit()}",
        "nutcracker": version("nutcracker", "-V"),
        "haproxy": version("haproxy", "-v"),
        "redis": version("redis-server", "--version"),
        "memcached": version("memcached", "-V"),
    }


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
