from libc.stdint cimport int64_t, uint32_t, uint64_t

from nutproxy.csys cimport iovec
from nutproxy.io.coalesce cimport Coalescer, Counted
from nutproxy.io.event cimport Poller
from nutproxy.io.jobs cimport Jobs
from nutproxy.io.timer cimport WaitQueue
from nutproxy.stats.slab cimport Slab

ctypedef int (*recv_t)(Pollable conn) except -1
ctypedef bint (*recv_next_t)(Pollable conn) noexcept
ctypedef int (*send_t)(Pollable conn) except -1
ctypedef int (*close_t)(Pollable conn) except -1

cdef enum:
    TAIL_SMALL = 4096       # room in the scratch for the bytes before those of one recv
    IOV_MAX = 256           # pieces of one gathered write
    OUT_SIZE = 65536        # size of Reactor.out, where small bodies are gathered

# In order of arrival. Borrowed: Reactor.conns and Reactor.closed_conns keep them alive.
cdef struct PollList:
    void** items
    size_t count
    size_t room

cdef class Reactor:
    cdef readonly Poller poller
    cdef readonly WaitQueue timers
    cdef readonly Coalescer coalescer
    cdef Counted counted
    cdef readonly Jobs jobs            # the loop's own
    cdef readonly Jobs replies         # replies to clients that are made in steps
    cdef readonly int64_t now          # milliseconds, monotonic; read once a turn
    cdef readonly int64_t seen         # `now` of the turn before: input up to then has been read
    cdef readonly int64_t now_usec     # `now` in microseconds
    cdef readonly Slab slab
    cdef uint64_t* stats               # the slab's global row
    cdef readonly size_t mbuf_size
    cdef char* scratch                 # mbuf_size + TAIL_SMALL bytes, for one recv
    cdef char* out                     # for one gathered write, like iov
    cdef iovec iov[IOV_MAX]
    cdef PollList ready                # still have input: read first in the next turn
    cdef PollList ready_before
    cdef PollList flush_servers
    cdef PollList flush_clients
    cdef readonly set conns            # every open listener, client and server connection
    cdef Pollable closed_conns         # closed in this turn, kept until it ends: a list, last first
    cdef size_t closed_count
    cdef readonly size_t handshakes    # connections to servers that are in their handshake

    cdef void tick(self) noexcept
    cdef int reserve(self) except -1
    cdef int open(self, Pollable conn, int fd) except -1
    cdef void sweep(self) noexcept

cdef class Pollable:
    cdef readonly Reactor reactor
    cdef readonly int fd               # -1 once closed
    cdef readonly int number           # its descriptor, kept after the close: its name in the log

    cdef recv_t recv
    cdef recv_next_t recv_next
    cdef send_t send
    cdef close_t close

    cdef Pollable closed_before        # next in the list Reactor.closed_conns
    cdef PollList* flush_list          # Reactor.flush_servers or Reactor.flush_clients
    cdef bint in_ready
    cdef bint in_flush
    cdef bint blocked                  # the socket buffer is full: wait for EPOLLOUT
    cdef bint hup                      # the poller reported that the peer sends no more
    cdef unsigned int open_count       # sockets it has had: a server's has one for each address
    cdef readonly bint eof             # recv has returned the end of input
    cdef readonly int err              # errno that ends the connection

    cdef void mark_ready(self) noexcept
    cdef void mark_flush(self) noexcept
    cdef void shut(self) noexcept

cdef int end_faulty(Pollable conn) except -1
cdef int handle_events(Pollable conn, uint32_t events) except -1
