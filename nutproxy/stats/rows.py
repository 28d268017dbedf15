# nutproxy/stats/rows.py: which row of the counters belongs to which pool or server
"""The memory of the counters (slab.py) is a table of rows. A Rows says whose they are, and never
changes. The process that owns the memory makes it and hands it to the others:

    Rows.of(pools) ──> rows ── rows.after(other pools) ──> rows ── rows.released() ──> rows
                                     │
           the same name             keeps its row, with its counters
           a name that has gone      its row is left: a worker may still have requests for it
           released                  no worker has any more: the counters stay until the row is
                                     given to another name, the oldest first; then they begin at 0

Rows never move, so pointers to them stay valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nutproxy.stats.slab import cells_of

# The names of a pool and of a server; "" for the pool itself.
Owner = tuple[str, str]


def owners(pools: Iterable[Any]) -> list[Owner]:
    """All that these PoolConfigs need rows for, in the order in which the statistics show them."""
    return [
        owner
        for pool in pools
        for owner in ((pool.name, ""), *((pool.name, server.name) for server in pool.servers))
    ]


def section(owner: Owner) -> str:
    return "server" if owner[1] else "pool"


@dataclass(frozen=True)
class Rows:
    """The first cells of rows, by owner: those in use, those that have been left and that workers
    may still use, and those that are free. `end` is the number of cells that the memory needs."""

    used: Mapping[Owner, int]
    end: int
    left: Mapping[Owner, int] = field(default_factory=dict)
    free: Mapping[Owner, int] = field(default_factory=dict)

    @staticmethod
    def of(pools: Iterable[Any]) -> Rows:
        """The rows of these pools in memory that is new."""
        return Rows({}, cells_of("global")).after(pools)

    def after(self, pools: Iterable[Any]) -> Rows:
        """The rows when the configuration has these pools."""
        wanted = owners(pools)
        names = set(wanted)
        known = {**self.free, **self.left, **self.used}
        left = {
            owner: cell for owner, cell in {**self.left, **self.used}.items() if owner not in names
        }
        free = {owner: cell for owner, cell in self.free.items() if owner not in names}
        used = {}
        end = self.end
        for owner in wanted:
            cell = known.get(owner)
            if cell is None:
                oldest = next((each for each in free if section(each) == section(owner)), None)
                if oldest is not None:
                    cell = free.pop(oldest)
                else:
                    cell = end
                    end += cells_of(section(owner))
            used[owner] = cell
        return Rows(used, end, left, free)

    def released(self) -> Rows:
        """The rows when no worker uses those that have been left any more."""
        return Rows(self.used, self.end, {}, {**self.free, **self.left})

    def begins(self, before: Rows) -> list[tuple[str, int]]:
        """The sections and first cells of the rows that had another owner in `before`: their
        counters must be set to 0."""
        known = {**before.free, **before.left, **before.used}
        taken = {cell: owner for owner, cell in known.items()}
        return [
            (section(owner), cell)
            for owner, cell in self.used.items()
            if cell in taken and taken[cell] != owner
        ]

    def all(self) -> list[tuple[str, int]]:
        """The sections and first cells of all rows."""
        rows = {**self.free, **self.left, **self.used}
        return [("global", 0), *((section(owner), cell) for owner, cell in rows.items())]

    def pool(self, name: str) -> int:
        """The first cell of the row of a pool."""
        return self.used[name, ""]

    def server(self, pool: str, name: str) -> int:
        return self.used[pool, name]

    def pack(self) -> list[list[object]]:
        """What a worker needs to know, as JSON can write it."""
        return [[self.end], *([*owner, cell] for owner, cell in self.used.items())]

    @staticmethod
    def unpack(packed: list[Any]) -> Rows:
        [[end], *used] = packed
        return Rows({(pool, server): cell for pool, server, cell in used}, end)
