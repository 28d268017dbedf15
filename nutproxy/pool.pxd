from libc.stdint cimport int64_t, uint64_t

from nutproxy.hashkit.ring cimport Ring
from nutproxy.hashkit.router cimport Router
from nutproxy.msg.deadline cimport DeadlineQueue
from nutproxy.msg.message cimport Msg
from nutproxy.msg.protocol cimport Protocol
from nutproxy.back.profile cimport Profiles
from nutproxy.back.server cimport Server
from nutproxy.io.jobs cimport Job
from nutproxy.io.reactor cimport Reactor
from nutproxy.route cimport Route


cdef class RingJob                     # (forward)
cdef class ViewJob                     # (forward)

cdef class ServerPool(Route):
    cdef readonly Reactor reactor
    cdef readonly object config        # PoolConfig
    cdef readonly Protocol protocol
    cdef readonly list servers         # Server, in the ring's order
    cdef dict places                   # by place, ascending: index in `servers` (members.places_of)
    cdef list order                    # the places
    cdef readonly list on_regroup      # functions to be called when keys may have got other groups
    cdef public object tracker         # its clients' Tracking (front/tracking.py), or None
    cdef readonly list leaving         # removed servers that still have connections
    cdef readonly Profiles profiles    # the states that server connections are in
    cdef readonly Router router
    cdef readonly set suspects         # servers on which a request timed out: see close_silent
    cdef int connects                  # connects in the turn `connects_turn`
    cdef int64_t connects_turn
    cdef bint ring_stale               # servers left or returned after the last rebuild began
    cdef bint ring_building            # a rebuild is in progress
    cdef int64_t ring_turn             # the turn of the last immediate rebuild, by its clock
    cdef RingJob ring_job              # builds the next ring, or None
    cdef object next_view              # the newest View, until it is in force; or None
    cdef ViewJob view_job              # applies it, or None
    cdef list departing                # of `leaving`: not retired yet, the next one last
    cdef list arriving                 # new servers that have not been preconnected yet
    cdef readonly object resolve       # resolve(host, port, callback), off the loop
    cdef public object server_version  # the version in a server's reply to HELLO, None before
    cdef public bint knows_hello       # a server has answered HELLO
    cdef readonly int redis_db
    cdef readonly int databases        # how many clients may select, besides redis_db
    cdef DeadlineQueue deadlines
    cdef int64_t timeout               # milliseconds, 0 without
    cdef size_t max_queue
    cdef readonly size_t max_reply     # bytes of one reply of a server
    cdef uint64_t* stats               # its row in the slab

    cdef bint overflows(self, Msg* msg, size_t queued) noexcept
    cdef int64_t next_deadline(self) noexcept
    cdef int expire(self) except -1
    cdef bint rebuild_portion(self) except -1

# Builds a large ring.
cdef class RingJob(Job):
    cdef ServerPool pool

# Applies a View.
cdef class ViewJob(Job):
    cdef ServerPool pool
    cdef object view                   # None between two of them
    cdef dict old                      # by place_of: the servers when it began
    cdef list servers                  # those of the View, as far as they are made
    cdef list made                     # the new ones of them
    cdef list live                     # for each server, whether `ring` holds it
    cdef Ring ring                     # theirs, which is being built; None before
    cdef bint go_on(self) except -1
    cdef bint build(self) except -1
