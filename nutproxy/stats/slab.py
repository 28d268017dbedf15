# nutproxy/stats/slab.py: the memory of the counters
"""A block of shared memory with 64-bit cells, in rows:

    [ global ] [ a pool ] [ a server ] [ a server ] … [ a pool ] [ a server ] …

The enums in slab.pxd name the cells of a row. Pools and servers hold pointers to their rows, so
counting is a single instruction: `stats[POOL_CLIENT_EOF] += 1`. It needs no call, lock or Python.

Only the worker writes. Any process that has the descriptor can map the memory and read it at any
time, since each cell is written in one store. Whose a row is, says a Rows (rows.py).

The memory grows when pools or servers are added, and nothing in it ever moves: every process maps
WINDOW bytes, of which there are as many as the memory has.

For figures that fit together a reader calls `settled`: while the worker waits, they are in the
cells. One that is always busy copies them to a second memory at the end of a turn (`give`).

A latency histogram is a sum followed by LATENCY_BUCKETS cells, eight per octave. A percentile
read from it is off by 12.5 % at most, from 1 us to 125 s.
"""

import os

import cython
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.nutproxy.csys import (
    CLOCK_MONOTONIC,
    MAP_FAILED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    atomic_add,
    atomic_load,
    atomic_swap,
    clock_nanosleep,
    close,
    mmap,
    munmap,
    timespec,
)

from nutproxy.stats.table import TABLE

# Bytes of address space: room for half a million servers.
WINDOW = cython.declare(cython.size_t, 1 << 30)
# How often `settled` looks for the end of a turn, and nanoseconds between two looks.
TRIES = cython.declare(cython.int, 200)
PAUSE_NSEC = cython.declare(cython.long, 50000)
CELL = cython.sizeof(cython.ulonglong)
# Rows start on a cache line, so that the counters of a pool and of a server never share one.
LINE = 64 // CELL


def cells_of(section: str) -> int:
    """The number of cells of a row, rounded up to whole cache lines."""
    cells = SLAB_CELLS if section == "global" else len(TABLE[section])
    if section == "server":
        cells += LATENCY_BUCKETS
    return -(-cells // LINE) * LINE


def slab_memory(rows) -> int:
    """Creates zeroed shared memory for the Slab of these Rows, and returns its descriptor."""
    fd = os.memfd_create("nutproxy-stats")
    os.ftruncate(fd, rows.end * CELL)
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


def mapped(fd):
    """WINDOW bytes of a shared memory. Raises OSError."""
    address: cython.p_void = mmap(cython.NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if address == MAP_FAILED:
        raise OSError(f"cannot map {WINDOW} bytes of shared memory for the statistics")
    return cython.cast(cython.pointer(uint64_t), address)


@cython.cclass
class Slab:
    """Maps the memory that slab_memory(rows) returned as `fd`, and as `given` that of the copy that
    `give` makes. The descriptors may be closed afterwards. Raises OSError."""

    def __init__(self, rows, fd: cython.int, given: cython.int = -1):
        self.fd = self.given_fd = -1
        self.others = []
        self.cells = mapped(fd)
        self.fd = os.dup(fd)
        if given >= 0:
            self.given = mapped(given)
            self.given_fd = os.dup(given)
        self.use(rows)

    def __dealloc__(self):
        if self.cells is not cython.NULL:
            munmap(self.cells, WINDOW)
        if self.given is not cython.NULL:
            munmap(self.given, WINDOW)
        if self.fd >= 0:
            close(self.fd)
        if self.given_fd >= 0:
            close(self.given_fd)

    def use(self, rows) -> None:
        """These Rows are in force from now on. Raises OSError if the memory does not have them."""
        size = rows.end * CELL
        if size > min(os.fstat(self.fd).st_size, WINDOW):
            raise OSError(f"the statistics need {size} bytes of shared memory")
        self.rows = rows
        self.size = size

    def grow(self, rows) -> None:
        """Make the memory large enough for these Rows, which will be in force, and set the counters
        to 0 of those that had another owner. For the process that owns the memory; the others `use`
        them afterwards. Raises OSError."""
        size = rows.end * CELL
        if size > os.fstat(self.fd).st_size:
            os.ftruncate(self.fd, size)
            if self.given_fd >= 0:
                os.ftruncate(self.given_fd, size)
        for section, cell in rows.begins(self.rows):
            memset(self.cells + cython.cast(cython.size_t, cell), 0, cells_of(section) * CELL)
        self.use(rows)

    def row(self, cell):
        """The row that starts at this cell."""
        return self.cells + cell

    def total(self, cell):
        """The sum of a cell of this slab and of those of the other workers."""
        other: Slab
        sum: cython.ulonglong = cell[0]
        for other in self.others:
            sum += other.cells[cell - self.cells]
        return sum

    def give(self):
        """A reader has asked. Called by the worker between two turns."""
        asked: cython.ulonglong = atomic_load(self.cells + SLAB_ASKED)
        if self.given is not cython.NULL:
            memcpy(self.given, self.cells, self.size)
        atomic_swap(self.cells + SLAB_GIVEN, asked)

    def settled(self, to):
        """Copy all cells to `to`, of a moment between two turns of the worker. A turn that takes
        longer than all tries is not waited for."""
        span: timespec
        beat: cython.ulonglong
        asked: cython.ulonglong = atomic_add(self.cells + SLAB_ASKED, 1)
        span.tv_sec = 0
        span.tv_nsec = PAUSE_NSEC
        for _ in range(TRIES):
            beat = atomic_load(self.cells + SLAB_BEAT)
            if beat & 1 == 0:
                memcpy(to, self.cells, self.size)
                if beat == atomic_load(self.cells + SLAB_BEAT):
                    return
            if self.given is not cython.NULL and atomic_load(self.cells + SLAB_GIVEN) == asked:
                memcpy(to, self.given, self.size)
                return
            clock_nanosleep(CLOCK_MONOTONIC, 0, cython.address(span), cython.NULL)
        memcpy(to, self.cells, self.size)

    def beat(self) -> int:
        """A number that changes in every turn of the worker."""
        return atomic_load(self.cells + SLAB_BEAT)

    def forget(self) -> None:
        """The worker has ended, and with it what its gauges counted."""
        if atomic_load(self.cells + SLAB_BEAT) & 1:
            self.cells[SLAB_BEAT] += 1
        for section, cell in self.rows.all():
            for number, counter in enumerate(TABLE[section]):
                if counter.kind in ("gauge", "state"):
                    self.cells[cython.cast(cython.size_t, cell + number)] = 0

    def read(self, cell: cython.size_t) -> int:
        """The value of a cell."""
        if cell * CELL >= self.size:
            raise IndexError(f"the statistics have no cell {cell}")
        return self.cells[cell]
