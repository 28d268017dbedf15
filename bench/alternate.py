# bench/alternate.py: python -m bench.alternate
"""Requests a second and processor time with `coalesce` and without it, of one process.

    python -m bench.alternate                     all rows, three placements; 7 minutes
    python -m bench.alternate --only redis-get --placement own --seconds 20

Two processes differ by more than `coalesce` changes: in where their memory lies, and in what the
machine did meanwhile. So a single one rests as usual for 60 ms, then not at all for 60 ms, and so
on, under a load that goes on. A pair of such phases gives a ratio; the table has the geometric mean
of all and its standard error. The first 20 ms of a phase do not count.

The load is that of the row, but for --seconds (10) and always from bench/load.c.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import measure, peers, placement
from bench.placement import Placement
from bench.report import table
from bench.rows import COALESCE, LOAD, Row

LIMIT = 100  # microseconds, as `coalesce: auto`
ROWS = [row for row in COALESCE if not row.changing]
Phase = tuple[bool, int, int, int, int, int]  # see AlternatingCoalescer in nutproxy/stepped.pxd


def serve(file: str, found: str) -> int:
    """nutproxy with alternating phases, which are in the file `found` when it has ended."""
    from nutproxy import cli
    from nutproxy.master import workers

    code = f"from bench.alternate import work; work({found!r})"
    workers.COMMAND[:] = [sys.executable, "-c", code]
    return cli.main(["-c", file, "-s", "0"])


def work(found: str) -> None:
    """Its worker."""
    from nutproxy import core, stepped, worker

    def made(*arguments: Any) -> core.Worker:
        one = core.Worker(*arguments)
        coalescer = stepped.alternate(one, LIMIT)
        atexit.register(lambda: Path(found).write_text(json.dumps(coalescer.phases)))
        return one

    worker.Worker = made  # type: ignore[attr-defined,assignment]
    sys.exit(worker.main(int(sys.argv[1])))


@contextlib.contextmanager
def proxy(row: Row, place: Placement, directory: Path, found: Path) -> Iterator[int]:
    """The port of such a nutproxy. Its phases are in `found` after the block."""
    with peers.backends(directory, [row], place.servers) as servers:
        ground = peers.Ground(directory, [row], servers, place)
        port = peers.free_port()
        file = directory / "alternate.yml"
        members = peers.members(ground, row.pool)
        file.write_text(peers.twemproxy_pool(row.pool, port, row.protocol, members))
        command = [sys.executable, "-m", "bench.alternate", "--serve", str(file), str(found)]
        with peers.running(command, port, directory / "alternate.log", place.proxy):
            yield port


def phases(row: Row, place: Placement, seconds: float) -> list[Phase]:
    with tempfile.TemporaryDirectory(prefix="nutproxy-bench-") as name:
        directory = Path(name)
        found = directory / "phases.json"
        load = peers.compiled(directory, "load")
        with proxy(row, place, directory, found) as port:
            words = measure.load_command(port, row, 1, directory)[1:]
            at = words.index("--requests")
            words[at : at + 2] = ["--seconds", str(seconds)]
            with placement.on(place.load):
                subprocess.run([load, *words], check=True, stdout=subprocess.DEVNULL)
        # Without requests there is nothing to compare: before the load, and after it.
        read = [tuple(each) for each in json.loads(found.read_text())]
        return [each for each in read if each[2] > 0]


def ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """The geometric mean of with / without, and its standard error. The arithmetic mean of ratios
    of two noisy figures is above 1 even if both are alike."""
    values = [math.log(one / other) for one, other in pairs]
    mean = math.exp(statistics.fmean(values))
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return f"{mean:.2f} ± {mean * error:.2f}"


def cells(row: Row, found: Sequence[Phase]) -> list[str]:
    pairs = [(one, other) for one, other in itertools.pairwise(found) if one[0] and not other[0]]
    without = [other for _, other in pairs]
    rate = statistics.fmean(replies / span * 1e6 for _, span, replies, *_ in without)
    cost = statistics.fmean(used / replies for _, _, replies, _, _, used in without)
    events = [
        statistics.fmean(each[3] / each[4] for each in side)
        for side in (without, [one for one, _ in pairs])
    ]
    return [
        f"`{row.id}`",
        str(len(pairs)),
        f"{rate:,.0f}",
        f"{cost:.2f}",
        f"{events[0]:.1f}, {events[1]:.1f}",
        ratio([(one[2] / one[1], other[2] / other[1]) for one, other in pairs]),
        ratio([(one[5] / one[2], other[5] / other[2]) for one, other in pairs]),
    ]


HEAD = ["row", "pairs", "replies/s without", "CPU without, us", "events", "replies/s", "CPU"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.alternate")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument("--placement", type=lambda text: text.split(","), default=placement.NAMES)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(*options.serve)
    rows = [dataclasses.replace(row, tool=LOAD) for row in ROWS]
    for name in options.placement:
        lines = []
        for row in rows:
            if not options.only or row.id in options.only:
                lines.append(cells(row, phases(row, placement.placement(name), options.seconds)))
                print(" ".join(lines[-1]), file=sys.stderr)
        print(f"Placement `{name}`:\n\n{table(HEAD, lines)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
