# nutproxy/io/reactor.py: what a worker waits for
"""The clock, the poller, the timers, and the lists of descriptors that have something to do.

    list            who is in it                               the turn (core.py) calls
    ready           may have more input, or may be read again  recv, at the start of the next turn
    flush_servers   has something to write                     send, at the end of this turn
    flush_clients   the same, after the servers
    closed_conns    was closed in this turn                    nothing: it is released at the end

A `Pollable` is a descriptor in the loop: a connection, a listening socket, the inbox. The reactor
knows no more of it than a few flags and these handlers:

    recv        read from the socket
    recv_next   may it be read now? Then `recv` sees an error of the socket, after the bytes before
                it. NULL: the error ends it at once
    send        write what is queued
    close       end it

`scratch` is the buffer of every recv; `out` and `iov` are those of every gathered write. They are
shared because nothing stays in them from one connection to the next.

A connection that is closed in the middle of a turn stays in `closed_conns` until the turn ends.
Events that were already fetched for it then find a closed connection and not freed memory.
"""

import logging

import cython
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.nutproxy.csys import (
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    SO_ERROR,
    SOL_SOCKET,
    close,
    getsockopt,
    socklen_t,
)
from cython.cimports.nutproxy.io.clock import clock_usec
from cython.cimports.nutproxy.io.coalesce import Coalescer
from cython.cimports.nutproxy.io.event import Poller
from cython.cimports.nutproxy.io.jobs import Jobs
from cython.cimports.nutproxy.io.timer import WaitQueue
from cython.cimports.nutproxy.stats.slab import GLOBAL_CURR_CONNECTIONS, Slab

log = logging.getLogger("nutproxy")


@cython.cfunc
@cython.exceptval(-1, check=False)
def list_reserve(items: cython.pointer(PollList), count: cython.size_t) -> cython.int:
    """Make room for `count` entries. Raises MemoryError."""
    room: cython.size_t = items.room if items.room else 64
    grown: cython.pointer(cython.p_void)
    if count <= items.room:
        return 0
    while room < count:
        room *= 2
    grown = cython.cast(
        cython.pointer(cython.p_void),
        realloc(items.items, room * cython.sizeof(cython.p_void)),
    )
    if grown is cython.NULL:
        raise MemoryError
    items.items = grown
    items.room = room
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def list_append(items: cython.pointer(PollList), conn: cython.p_void) -> cython.void:
    """Append without a check: `Reactor.reserve` has made room."""
    items.items[items.count] = conn
    items.count += 1


@cython.cfunc
@cython.exceptval(check=False)
def list_sweep(items: cython.pointer(PollList)) -> cython.void:
    """Drop the connections that have been closed."""
    index: cython.size_t
    kept: cython.size_t = 0
    for index in range(items.count):
        if cython.cast(Pollable, items.items[index]).fd >= 0:
            items.items[kept] = items.items[index]
            kept += 1
    items.count = kept


@cython.cclass
class Reactor:
    """State that the connections of one worker share: clock, poller, buffers, and the lists of
    connections with work to do. `mbuf_size` is the receive chunk in bytes; counters are in `slab`.
    `coalesce` is the limit of the rest before a poll in microseconds (coalesce.py); 0: no rest.
    """

    def __cinit__(self, mbuf_size: cython.size_t, slab: Slab, coalesce: int = 0):
        self.slab = slab
        self.stats = slab.row(0)
        self.mbuf_size = mbuf_size
        self.scratch = cython.cast(cython.p_char, malloc(mbuf_size + TAIL_SMALL))
        self.out = cython.cast(cython.p_char, malloc(OUT_SIZE))
        if self.scratch is cython.NULL or self.out is cython.NULL:
            raise MemoryError
        self.poller = Poller()
        self.timers = WaitQueue()
        self.coalescer = Coalescer(coalesce, slab)
        self.jobs = Jobs()
        self.replies = Jobs()
        self.conns = set()
        self.reserve()
        self.tick()

    def __dealloc__(self):
        free(self.scratch)
        free(self.out)
        free(self.ready.items)
        free(self.ready_before.items)
        free(self.flush_servers.items)
        free(self.flush_clients.items)

    def tick(self):
        """Read the clock. Called once a turn."""
        self.seen = self.now
        self.now_usec = clock_usec()
        self.now = self.now_usec // 1000

    def reserve(self):
        """Make room in the lists for one more connection, so that mark_ready and mark_flush never
        fail: a reply that is not flushed would never leave. A connection is in each list once, but
        twice in a flush list while `Worker.flush` walks it. The inbox is not in `conns`."""
        count: cython.size_t = 2 * (len(self.conns) + self.closed_count + 2)
        list_reserve(cython.address(self.ready), count)
        list_reserve(cython.address(self.ready_before), count)
        list_reserve(cython.address(self.flush_servers), count)
        list_reserve(cython.address(self.flush_clients), count)
        return 0

    def open(self, conn, fd):
        """Add `conn` to the loop with the non-blocking descriptor `fd`. The connection owns `fd`
        from now on, even if this raises."""
        conn.fd = fd
        conn.number = fd
        conn.open_count += 1
        # These were set for the connection's previous socket.
        conn.hup = conn.eof = False
        self.reserve()
        self.conns.add(conn)
        self.stats[GLOBAL_CURR_CONNECTIONS] = len(self.conns)
        self.poller.add(fd, cython.cast(cython.p_void, conn))
        return 0

    def sweep(self):
        """At the end of a turn: release the connections that were closed in it."""
        conn: Pollable
        if self.closed_conns is None:
            return
        list_sweep(cython.address(self.ready))
        list_sweep(cython.address(self.flush_servers))
        list_sweep(cython.address(self.flush_clients))
        while self.closed_conns is not None:
            conn = self.closed_conns
            self.closed_conns = conn.closed_before
            conn.closed_before = None
        self.closed_count = 0


@cython.cclass
class Pollable:
    """A descriptor in the loop. A role sets its handlers before it calls `Reactor.open`. The log
    names it by the `letter` of its role and its descriptor."""

    letter = "?"
    after_fault = "the connection is closed"

    def __cinit__(self):
        self.fd = -1
        self.number = -1

    def __str__(self) -> str:
        return f"{self.letter} {self.number}"

    @property
    def about(self) -> dict:
        """The fields of a log line about it (see log.py)."""
        return {"conn": str(self)}

    def mark_ready(self):
        """Call `recv` again in the next turn: there may be more input, or it may be read again."""
        if not self.in_ready and self.fd >= 0:
            self.in_ready = True
            list_append(cython.address(self.reactor.ready), cython.cast(cython.p_void, self))

    def mark_flush(self):
        """Call `send` at the end of this turn."""
        if not self.in_flush and self.fd >= 0:
            self.in_flush = True
            list_append(self.flush_list, cython.cast(cython.p_void, self))

    def shut(self):
        """Close the descriptor and leave the reactor. Allocates no memory. A server connection may
        have no socket at this point: its last address failed."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        elif self not in self.reactor.conns:
            return
        self.reactor.conns.discard(self)
        self.reactor.stats[GLOBAL_CURR_CONNECTIONS] = len(self.reactor.conns)
        self.closed_before = self.reactor.closed_conns
        self.reactor.closed_conns = self
        self.reactor.closed_count += 1


def handle_events(conn, events):
    """Handle the events of one connection: error first, then read, then write. If the connection
    can be read, the error is left to `recv`, which returns the bytes before it first. They may be
    replies, or the reason for the error."""
    length: socklen_t = cython.sizeof(cython.int)
    err: cython.int = 0
    sockets: cython.uint = conn.open_count
    if conn.fd < 0:
        return 0
    if events & EPOLLERR and not (
        events & EPOLLIN and conn.recv_next is not cython.NULL and conn.recv_next(conn)
    ):
        getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, cython.address(err), cython.address(length))
        if err:
            conn.err = err
            return conn.close(conn)
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP):
        if events & (EPOLLRDHUP | EPOLLHUP):
            # The edge is reported once: read until recv returns the end, even after a short read.
            conn.hup = True
        conn.recv(conn)
        if conn.fd < 0 or conn.open_count != sockets:
            # It was closed or went on to its next address: the events belong to the old socket.
            return 0
    if events & EPOLLOUT and conn.blocked:
        conn.blocked = False
        conn.reactor.poller.del_out(conn.fd, cython.cast(cython.p_void, conn))
        conn.mark_flush()
    return 0


def end_faulty(conn):
    """A handler of this connection has raised an exception: log it and close the connection.
    `close` empties the queues even if it raises as well."""
    whose = getattr(conn, "server", None) or getattr(conn, "frontend", None) or "nutproxy"
    log.exception("%s of %s: internal error, %s", conn, whose, conn.after_fault)
    try:
        conn.close(conn)
    except Exception:
        log.exception("internal error while closing the connection")
        conn.shut()
    return 0
