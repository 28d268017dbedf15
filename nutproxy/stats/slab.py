# nutproxy/stats/slab.py: the memory of the counters
"""A block of shared memory with 64-bit cells, in rows:

    [ global ] [ pool 0 ] [ server 0.0 ] [ server 0.1 ] … [ pool 1 ] [ server 1.0 ] …

The enums in slab.pxd name the cells of a row. Pools and servers hold pointers to their rows, so
counting is a single instruction: `stats[POOL_CLIENT_EOF] += 1`. It needs no call, lock or Python.

Only the worker writes. Any process that has the descriptor and knows the pools can map the memory
and read it at any time, since each cell is written in one store.

A latency histogram is a sum followed by LATENCY_BUCKETS cells, eight per octave. A percentile
read from it is off by 12.5 % at most, from 1 us to 125 s.
"""

import os

import cython
from cython.cimports.nutproxy.csys import (
    MAP_FAILED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from nutproxy.stats.table import TABLE

# Rows start on a cache line, so that the counters of a pool and of a server never share one.
LINE = 64 // cython.sizeof(cython.ulonglong)


def cells_of(section: str) -> int:
    """The number of cells of a row, rounded up to whole cache lines."""
    cells = len(TABLE[section]) + (LATENCY_BUCKETS if section == "server" else 0)
    return -(-cells // LINE) * LINE


def places(configs) -> tuple[list[int], list[list[int]], int]:
    """The first cell of each pool's and each server's row, and the total number of cells."""
    pools, servers = [], []
    end = cells_of("global")
    for config in configs:
        pools.append(end)
        end += cells_of("pool")
        count = len(config.servers)
        servers.append([end + number * cells_of("server") for number in range(count)])
        end += count * cells_of("server")
    return pools, servers, end


def slab_memory(configs) -> int:
    """Creates zeroed shared memory for the Slab of these pools, and returns its descriptor."""
    fd = os.memfd_create("nutproxy-stats")
    os.ftruncate(fd, places(configs)[2] * cython.sizeof(cython.ulonglong))
    return fd


def latency_bounds() -> list[int]:
    """The upper bound of each bucket in microseconds. The last one has none: -1."""
    bounds = list(range(2 * LATENCY_STEPS))
    while len(bounds) < LATENCY_BUCKETS:
        octave, step = divmod(len(bounds), LATENCY_STEPS)
        bounds.append(((LATENCY_STEPS + step + 1) << (octave - 1)) - 1)
    bounds[LATENCY_BUCKETS - 1] = -1
    return bounds


def bucket_of(microseconds: int) -> int:
    return latency_bucket(microseconds)


@cython.cclass
class Slab:
    """Maps the memory that slab_memory(configs) returned as `fd`: rows for these PoolConfigs and
    their servers, in that order. The descriptor may be closed afterwards. Raises OSError."""

    def __init__(self, configs, fd: cython.int):
        address: cython.p_void
        self.pools, self.servers, count = places(configs)
        self.size = count * cython.sizeof(cython.ulonglong)
        address = mmap(cython.NULL, self.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if address == MAP_FAILED:
            raise OSError(f"cannot map {self.size} bytes of shared memory for the statistics")
        self.cells = cython.cast(cython.pointer(uint64_t), address)

    def __dealloc__(self):
        if self.cells is not cython.NULL:
            munmap(self.cells, self.size)

    def row(self, cell):
        """The row that starts at this cell."""
        return self.cells + cell

    def read(self, cell: cython.size_t) -> int:
        """The value of a cell."""
        if cell * cython.sizeof(cython.ulonglong) >= self.size:
            raise IndexError(f"the statistics have no cell {cell}")
        return self.cells[cell]
