# nutproxy/stats/board.py: what the workers know of each other
"""Shared memory that all workers map: how many clients each has, and whether it serves.

    [ ids ] [ total of pool 0, 1, … ]              client_connections is a limit of the total
    [ ready ] [ pid ] [ clients of pool 0, 1, … ]  worker 0, 1, …: who accepts a client gives it
                                                   to the one with the fewest of that pool

A client is counted before it is handed over, so that those who accept at the same moment choose
different workers. Choosing needs no lock, since every addition is atomic.

When a worker has died, the master resets its row, and with it the clients that were on their way.
So the upper bits of a count say how often it was reset (its epoch): a client that comes with an old
epoch is counted again, and one that leaves with an old epoch is not taken off.
"""

import os

import cython
from cython.cimports.nutproxy.csys import (
    MAP_FAILED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    atomic_add,
    atomic_load,
    atomic_replace,
    atomic_swap,
    mmap,
    munmap,
)

# Room for pools: some may be added while nutproxy runs.
PLACES_MIN = 64
# In a worker's row, before them: whether it serves, and its pid.
CLIENTS = cython.declare(cython.int, 2)
LINE = 64 // cython.sizeof(cython.ulonglong)
# Ids that a worker takes at once. They are consecutive, because server connections are shared out
# by them.
IDS = cython.declare(cython.ulonglong, 256)


def width_of(pools: int) -> int:
    """The cells of a worker's row, in whole cache lines."""
    return -(-(CLIENTS + pools) // LINE) * LINE


def size_of(pools: int, workers: int) -> int:
    totals = -(-pools // LINE) * LINE
    return (BOARD_TOTALS + totals + workers * width_of(pools)) * cython.sizeof(cython.ulonglong)


def board_memory(pools: int, workers: int) -> int:
    """Creates zeroed shared memory for a Board, and returns its descriptor."""
    fd = os.memfd_create("nutproxy-board")
    os.ftruncate(fd, size_of(pools, workers))
    return fd


@cython.cclass
class Board:
    """Maps the memory that board_memory(pools, workers) returned as `fd`, for the worker `own`. The
    descriptor may be closed afterwards. Raises OSError."""

    def __init__(self, pools: int, workers: int, own: int, fd: cython.int):
        address: cython.p_void
        self.pools = pools
        self.workers = workers
        self.own = own
        self.width = width_of(pools)
        self.size = size_of(pools, workers)
        address = mmap(cython.NULL, self.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if address == MAP_FAILED:
            raise OSError(f"cannot map {self.size} bytes of shared memory for counts of clients")
        self.cells = cython.cast(cython.pointer(uint64_t), address)

    def __dealloc__(self):
        if self.cells is not cython.NULL:
            munmap(self.cells, self.size)

    def row(self, worker):
        end: cython.size_t = self.size // cython.sizeof(uint64_t)
        return self.cells + end - (self.workers - worker) * self.width

    def client_id(self):
        """An id that no other client of nutproxy has."""
        if self.next_id == self.last_id:
            self.last_id = atomic_add(self.cells + BOARD_IDS, IDS)
            self.next_id = self.last_id - IDS
        self.next_id += 1
        return self.next_id

    def least(self, pool):
        """The worker with the fewest clients of a pool. This one, if it has no more than others, or
        if no other serves."""
        worker: cython.int
        count: cython.ulonglong
        found: cython.int = self.own
        fewest: cython.ulonglong = count_of(self.row(self.own) + CLIENTS + pool)
        for worker in range(self.workers):
            count = count_of(self.row(worker) + CLIENTS + pool)
            if count < fewest and atomic_load(self.row(worker)):
                found = worker
                fewest = count
        return found

    def epoch(self, pool):
        """The epoch of this worker's clients."""
        return atomic_load(self.row(self.own) + CLIENTS + pool) >> COUNT_BITS

    def come(self, worker, pool):
        """Count one more client. Returns the epoch, for `leave`."""
        atomic_add(self.cells + BOARD_TOTALS + pool, 1)
        return atomic_add(self.row(worker) + CLIENTS + pool, 1) >> COUNT_BITS

    def leave(self, worker, pool, epoch):
        """Count one client less, unless the row was reset since it came."""
        cell: cython.pointer(uint64_t) = self.row(worker) + CLIENTS + pool
        found: cython.ulonglong = atomic_load(cell)
        while found >> COUNT_BITS == epoch:
            if atomic_replace(cell, found, found - 1):
                atomic_add(self.cells + BOARD_TOTALS + pool, cython.cast(uint64_t, -1))
                return
            found = atomic_load(cell)

    def total(self, pool):
        return atomic_load(self.cells + BOARD_TOTALS + pool)

    def count(self, worker: cython.int, pool: cython.int) -> int:
        """The clients of a pool that a worker has."""
        return count_of(self.row(worker) + CLIENTS + pool)

    def set_ready(self, worker: cython.int, ready: bool) -> None:
        """Whether others hand over clients to a worker."""
        atomic_swap(self.row(worker), 1 if ready else 0)

    def set_pid(self, worker: cython.int, pid: cython.int) -> None:
        """A process has been started for a worker."""
        atomic_swap(self.row(worker) + 1, pid)

    def pid(self, worker: cython.int) -> int:
        """The process of a worker; 0 if there is none."""
        return atomic_load(self.row(worker) + 1)

    def reset(self, worker: cython.int) -> None:
        """The worker has ended, and its clients with it."""
        pool: cython.int
        cell: cython.pointer(uint64_t)
        epoch: cython.ulonglong
        found: cython.ulonglong
        self.set_ready(worker, False)
        self.set_pid(worker, 0)
        for pool in range(self.pools):
            cell = self.row(worker) + CLIENTS + pool
            epoch = (atomic_load(cell) >> COUNT_BITS) + 1
            found = atomic_swap(cell, epoch << COUNT_BITS)
            atomic_add(self.cells + BOARD_TOTALS + pool, cython.cast(uint64_t, -count_in(found)))


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def count_in(cell: cython.ulonglong) -> cython.ulonglong:
    return cell & ((cython.cast(cython.ulonglong, 1) << COUNT_BITS) - 1)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def count_of(cell: cython.pointer(uint64_t)) -> cython.ulonglong:
    return count_in(atomic_load(cell))
