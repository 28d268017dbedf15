from libc.stdint cimport int64_t, uint8_t, uint64_t

from nutproxy.conn cimport Unfinished
from nutproxy.io.jobs cimport Job
from nutproxy.io.reactor cimport Reactor
from nutproxy.io.wheel cimport Wheel
from nutproxy.msg.parse cimport parse_t
from nutproxy.msg.protocol cimport Protocol
from nutproxy.pool cimport ServerPool
from nutproxy.proto.table cimport CustomRows
from nutproxy.route cimport Route
from nutproxy.stats.board cimport Board

cdef class Frontend                    # (forward)

# The clients of all frontends without client_connections. They share the descriptors that are left.
cdef class ClientRoom:
    cdef public size_t limit           # 0 for none
    cdef readonly size_t used

# Lets the clients go on after a pause.
cdef class Unpausing(Job):
    cdef Frontend frontend
    cdef list clients

# What happens to a command before it is dispatched.
cdef enum Verdict:
    PASSES = 0
    DENIED
    CHECKED                            # it names databases: are they those of the pool?

cdef class Frontend:
    cdef readonly Reactor reactor
    cdef readonly object config        # PoolConfig
    cdef readonly object process       # facts about the process, for INFO and the like
    cdef readonly str name
    cdef readonly Protocol protocol
    cdef readonly ServerPool pool      # the servers of its requests, for INFO and the like
    cdef readonly Route route          # who gets its requests
    cdef public object subscriptions   # its clients' Subscriptions; None: Memcached has none
    cdef public object tracking        # what they have read: Tracking; None for Memcached
    cdef readonly dict clients         # ClientConn by id, in ascending order
    cdef readonly object scripts       # what its clients have loaded into the servers: Scripts
    cdef readonly bytes redis_auth
    cdef bint admin_commands
    cdef bint split_transactions       # transactions: split
    cdef bint miss                     # on_dead_server: miss
    cdef parse_t parse_first           # the parser of a new client
    cdef bint only_binary              # protocol: binary
    cdef bint only_text                # protocol: ascii
    cdef readonly object users         # Users of a Memcached pool
    cdef uint8_t* verdicts             # by row number: see Verdict
    cdef size_t max_requests           # a client's requests in flight
    cdef size_t max_pending            # bytes of a client's requests and replies
    cdef size_t max_merged_reply       # bytes of all servers' replies to one command for all
    cdef size_t max_unfinished         # bytes of the incomplete requests of all clients
    cdef Unfinished unfinished
    cdef size_t max_clients            # client_connections; 0 if it is not set
    cdef ClientRoom room               # what holds then
    cdef public object colleagues      # called with the pool, a Question and a callback
    cdef readonly Board board          # how many clients the workers have
    cdef readonly int place            # of its clients on the board
    cdef uint64_t epoch                # of the counts of this worker
    cdef readonly int64_t request_timeout  # milliseconds without input until a request is ended; or 0
    cdef CustomRows custom             # custom_commands, or None
    cdef uint64_t max_blocked          # clients that may wait in servers at once
    cdef readonly int64_t paused_until     # milliseconds of the loop's clock; -1: no CLIENT PAUSE
    cdef bint pauses_all               # else only commands that write
    cdef int postponed                 # clients with a request that it delays
    cdef Wheel waits                   # the deadlines of those that do
    cdef uint64_t* stats               # its row in the slab

    cdef uint64_t figure(self, size_t cell) noexcept
