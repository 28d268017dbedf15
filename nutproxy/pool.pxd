from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from nutproxy.conn cimport Reactor
from nutproxy.hashkit.router cimport Router
from nutproxy.msg.deadline cimport DeadlineQueue
from nutproxy.msg.protocol cimport Protocol
from nutproxy.back.server cimport Server
from nutproxy.io.timer cimport Timer


cdef class ServerPool:
    cdef readonly Reactor reactor
    cdef readonly object config        # PoolConfig
    cdef readonly Protocol protocol
    cdef readonly object worker        # Worker
    cdef readonly str name
    cdef readonly int index            # among the pools
    cdef readonly dict client_conns    # its open clients by id, in ascending order
    cdef readonly object chores        # deque of jobs that are done in steps, one step a turn
    cdef readonly list servers         # Server, in the ring's order
    cdef readonly Router router
    cdef set suspects                  # servers on which a request timed out, see watch
    cdef Timer watch_timer
    cdef int connects                  # connects in the turn `connects_turn`
    cdef int64_t connects_turn
    cdef bint ring_stale               # servers left or returned after the last rebuild began
    cdef bint ring_building            # a rebuild is in progress
    cdef int64_t ring_turn             # the turn of the last immediate rebuild, by its clock
    cdef Timer ring_timer              # for the next portion of a rebuild, or None
    cdef readonly object resolve       # resolve(host, port, callback), off the loop
    cdef public object server_version  # the version in a server's reply to HELLO, None before
    cdef public bint knows_hello       # a server has answered HELLO
    cdef readonly bytes redis_auth
    cdef readonly int redis_db
    cdef readonly bint any_route       # distribution random: any server can have any key
    cdef bint admin_commands
    cdef bint miss                     # on_dead_server: miss
    cdef uint8_t* denied               # by row number
    cdef uint32_t* scratch             # per server, for splitting
    cdef DeadlineQueue deadlines
    cdef int64_t timeout               # milliseconds, 0 without
    cdef size_t max_requests
    cdef size_t max_pending
    cdef size_t max_queue
    cdef readonly size_t max_reply     # bytes of one reply of a server
    cdef size_t max_unfinished         # limit on the bytes of incomplete requests
    cdef size_t unfinished             # bytes of the incomplete requests of all its clients
    cdef readonly int64_t request_timeout  # milliseconds without input until one ends; or 0
    cdef uint64_t* stats               # its row in the slab

    cdef Server route(self, const char* key, size_t length)
    cdef Server any_server(self)
    cdef int64_t next_deadline(self) noexcept
    cdef int expire(self) except -1
