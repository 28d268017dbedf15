# bench/placement.py: which process runs on which processor
"""The three placements, and how a process is started on its processors.

    shared   load | proxy, servers       the proxy competes with its servers for one processor
    free     the scheduler decides
    own      load, servers | proxy       the proxy has a processor to itself

The cost of a request depends on which processes share a processor. This determines how many
requests a proxy finds in each turn of its loop, and whether `send` wakes a process on the same
processor. A single placement says little about a proxy, so the report has the range over all three.

With three or more processors, `own` also gives the servers their own processor. The processors are
on different cores if there are enough cores. `free` uses all processors.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ("shared", "free", "own")


@dataclass(frozen=True)
class Placement:
    """The processors of the proxy, of the servers and of the load generator."""

    name: str
    proxy: frozenset[int]
    servers: frozenset[int]
    load: frozenset[int]

    def __str__(self) -> str:
        if self.proxy == self.servers == self.load:
            return f"left to the scheduler, on {named(self.proxy)}"
        if self.proxy == self.servers:
            return f"proxy and servers on {named(self.proxy)}, load on {named(self.load)}"
        if self.servers == self.load:
            return f"proxy on {named(self.proxy)}, servers and load on {named(self.load)}"
        parts = (("proxy", self.proxy), ("servers", self.servers), ("load", self.load))
        return ", ".join(f"{who} on {named(where)}" for who, where in parts)


def named(processors: frozenset[int]) -> str:
    """`processor 1`, `processors 0-3, 8`."""
    runs: list[list[int]] = []
    for number in sorted(processors):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"processor{'s' if len(processors) > 1 else ''} {text}"


def placement(name: str, processors: Sequence[int] | None = None) -> Placement:
    """`processors` may be used, the best ones first. With a single processor all three placements
    are the same."""
    chosen = list(processors or usable())
    load, proxy = (chosen * 2)[:2]
    every = frozenset(usable() if processors is None else processors)
    one, other = frozenset({proxy}), frozenset({load})
    return {
        "shared": Placement(name, one, one, other),
        "free": Placement(name, every, every, every),
        "own": Placement(name, one, frozenset(chosen[2:3]) or other, other),
    }[name]


def usable() -> list[int]:
    """The processors that this process may use: first one of each core, then their siblings."""
    cores: dict[str, list[int]] = {}
    for number in sorted(os.sched_getaffinity(0)):
        topology = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        core = topology.read_text() if topology.exists() else str(number)
        cores.setdefault(core, []).append(number)
    depth = max(map(len, cores.values()))
    return [core[level] for level in range(depth) for core in cores.values() if level < len(core)]


@contextlib.contextmanager
def on(processors: frozenset[int]) -> Iterator[None]:
    """Processes that are started in the block run on these processors from the beginning."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
