# nutproxy/stats/report.py: the statistics as JSON
"""twemproxy's JSON, to the byte where twemproxy has a counter, made from a slab.

    {"service":"nutcracker", "source":…, "version":…, "uptime":…, "timestamp":…,
     "total_connections":…, "curr_connections":…,
     "<pool>": {"client_eof":…, …, "<server>": {"server_eof":…, …, "latency": {…}},"<server>": …

twemproxy's collectors decide where our own figures can stand. They take every object at the top
level for a pool, every object in a pool for a server, and numbers for counters; several convert
every other value to a number, and fail. So nothing of ours is at the top level, our numbers follow
twemproxy's in pools and servers, and `latency`, which is not a number, is in the servers, where no
collector looks for objects. `service` is twemproxy's, because some collectors check it; `version`
is ours.

The constant parts (names, punctuation) are laid out once, as texts with cells between them. A
report copies the cells of each worker between two of its turns, so its figures are consistent, and
adds them up. It delays no worker, however many servers there are and however often it is requested.
"""

import json
import socket
import time

import cython
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.nutproxy.stats.slab import LATENCY_BUCKETS

from nutproxy import __version__
from nutproxy.stats import slab as module
from nutproxy.stats.slab import latency_bounds
from nutproxy.stats.table import GLOBAL, POOL, SERVER, TABLE, shown_names

for section, rows in TABLE.items():
    prefix = f"{section}_".upper()
    named = {name: cell for name, cell in vars(module).items() if name.startswith(prefix)}
    if named != {f"{prefix}{row.name.upper()}": cell for cell, row in enumerate(rows)}:
        raise ImportError(f"nutproxy.stats: the {section} rows of slab.pxd and table.py differ")

# Upper limits of the bytes of a number and of a histogram.
NUMBER_SIZE = 20
HISTOGRAM_SIZE = 128 + LATENCY_BUCKETS * (2 * NUMBER_SIZE + 5)

bounds = cython.declare(cython.longlong[LATENCY_BUCKETS])
for number, bound in enumerate(latency_bounds()):
    bounds[number] = bound


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_number(to: cython.p_char, value: cython.ulonglong) -> cython.p_char:
    digits: cython.char[20]
    count: cython.int = 0
    while True:
        digits[count] = 48 + value % 10
        value //= 10
        count += 1
        if value == 0:
            break
    while count:
        count -= 1
        to[0] = digits[count]
        to += 1
    return to


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_text(
    to: cython.p_char, text: cython.p_const_char, length: cython.size_t
) -> cython.p_char:
    memcpy(to, text, length)
    return to + length


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def write_histogram(to: cython.p_char, cells: cython.pointer(uint64_t)) -> cython.p_char:
    """Write the count, the sum, and the buckets that are not empty, each by its upper bound."""
    total: cython.ulonglong = 0
    index: cython.int
    first: cython.bint = True
    for index in range(LATENCY_BUCKETS):
        total += cells[1 + index]
    to = write_text(to, b'{"count":', 9)
    to = write_number(to, total)
    to = write_text(to, b', "sum":', 8)
    to = write_number(to, cells[0])
    to = write_text(to, b', "buckets": {', 14)
    for index in range(LATENCY_BUCKETS):
        if cells[1 + index] == 0:
            continue
        if not first:
            to = write_text(to, b", ", 2)
        first = False
        to = write_text(to, b'"', 1)
        to = write_text(to, b"inf", 3) if bounds[index] < 0 else write_number(to, bounds[index])
        to = write_text(to, b'":', 2)
        to = write_number(to, cells[1 + index])
    return write_text(to, b"}}", 2)


def quoted(name: str) -> str:
    """A name as twemproxy writes it, but with characters escaped that would break the JSON."""
    return json.dumps(name, ensure_ascii=False)


def layout(pools, rows):
    """Yields the pieces: a text, the cell after it, and whether a histogram begins there."""
    glue = ""
    for number, row in enumerate(GLOBAL):
        yield f'{glue}"{row.name}":', number, False
        glue = ", "
    pool_names = shown_names("pool", [pool.name for pool in pools])
    for pool, shown in zip(pools, pool_names, strict=True):
        glue = f"{glue}{quoted(shown)}: {{"
        for number, row in enumerate(POOL):
            yield f'{glue}"{row.name}":', rows.pool(pool.name) + number, False
            glue = ", "
        names = shown_names("server", [server.name for server in pool.servers])
        for name, server in zip(names, pool.servers, strict=True):
            cell = rows.server(pool.name, server.name)
            glue = f"{glue}{quoted(name)}: {{"
            for number, row in enumerate(SERVER):
                histogram = row.kind == "histogram"
                # An object's name is followed by a space, a number's is not.
                colon = ": " if histogram else ":"
                yield f'{glue}"{row.name}"{colon}', cell + number, histogram
                glue = ", "
            glue = "},"
        glue = "}},"


@cython.cclass
class Report:
    """The statistics in `slabs`, one of each worker, for `pools`, the PoolConfigs that their Rows
    are for. Only one thread at a time may call `make`."""

    def __init__(self, slabs: list, pools):
        piece: cython.pointer(Piece)
        text: bytes
        slab: Slab = slabs[0]
        self.slabs = slabs
        self.cells = slab.size // cython.sizeof(cython.ulonglong)
        self.source = quoted(socket.gethostname())
        self.started = time.monotonic()
        pieces = list(layout(pools, slab.rows))
        self.texts = [part[0].encode() for part in pieces]
        self.pieces = cython.cast(cython.pointer(Piece), calloc(len(pieces), cython.sizeof(Piece)))
        self.copy = cython.cast(cython.pointer(uint64_t), malloc(slab.size))
        self.sums = cython.cast(cython.pointer(uint64_t), malloc(slab.size))
        self.greatest = cython.cast(cython.pointer(uint8_t), calloc(self.cells, 1))
        if (
            self.pieces is cython.NULL
            or self.copy is cython.NULL
            or self.sums is cython.NULL
            or self.greatest is cython.NULL
        ):
            raise MemoryError
        for section, first in slab.rows.all():
            if section == "server":
                for number, row in enumerate(SERVER):
                    self.greatest[first + number] = row.kind in ("timestamp", "state")
        for text, (_, cell, histogram) in zip(self.texts, pieces, strict=True):
            piece = self.pieces + self.count
            piece.text = text
            piece.length = len(text)
            piece.cell = cell
            piece.histogram = histogram
            self.count += 1
            self.bound += piece.length + (HISTOGRAM_SIZE if histogram else NUMBER_SIZE)

    def __dealloc__(self):
        free(self.pieces)
        free(self.copy)
        free(self.sums)
        free(self.greatest)

    def write(self, to):
        index: cython.size_t
        piece: cython.pointer(Piece)
        for index in range(self.count):
            piece = self.pieces + index
            to = write_text(to, piece.text, piece.length)
            if piece.histogram:
                to = write_histogram(to, self.sums + piece.cell)
            else:
                to = write_number(to, self.sums[piece.cell])
        return to

    def add(self):
        """Add `copy` to the sums."""
        index: cython.size_t
        for index in range(self.cells):
            if not self.greatest[index]:
                self.sums[index] += self.copy[index]
            elif self.sums[index] < self.copy[index]:
                self.sums[index] = self.copy[index]

    def make(self) -> bytes:
        """The JSON with the current figures, and a line feed."""
        head: bytes = (
            f'{{"service":"nutcracker", "source":{self.source}, "version":"{__version__}",'
            f' "uptime":{int(time.monotonic() - self.started)}, "timestamp":{int(time.time())}, '
        ).encode()
        length: cython.size_t = len(head)
        buffer: cython.p_char = cython.cast(cython.p_char, malloc(length + self.bound + 4))
        end: cython.p_char
        slab: Slab
        if buffer is cython.NULL:
            raise MemoryError
        try:
            end = write_text(buffer, head, length)
            memset(self.sums, 0, self.cells * cython.sizeof(uint64_t))
            for slab in self.slabs:
                with cython.nogil:
                    slab.settled(self.copy)
                    self.add()
            with cython.nogil:
                end = write_text(self.write(end), b"}}}\n", 4)
            return buffer[: end - buffer]
        finally:
            free(buffer)
