from libc.stdint cimport uint64_t

from nutproxy.back.invalidations cimport Listener, Listening
from nutproxy.back.server cimport Server
from nutproxy.front.client cimport ClientConn
from nutproxy.front.frontend cimport Frontend
from nutproxy.front.notice cimport Notice
from nutproxy.front.read_keys cimport ReadKeys
from nutproxy.front.tracked cimport Tracked
from nutproxy.io.jobs cimport Job
from nutproxy.io.reactor cimport Reactor
from nutproxy.io.timer cimport Timer
from nutproxy.msg.message cimport Body, Msg
from nutproxy.pool cimport ServerPool

cdef class Tracking                    # (forward)

# A CLIENT TRACKING ON that waits until the servers report changes.
cdef class Starting:
    cdef object asked                  # a Track
    cdef Msg* msg                      # in its client's queue
    cdef set missing                   # Listeners that are neither ready nor have failed
    cdef Timer timer                   # or None

cdef class Tracking(Listening):
    cdef Frontend frontend
    cdef ServerPool pool
    cdef Reactor reactor
    cdef uint64_t* stats               # the pool's row
    cdef ReadKeys read_keys
    cdef size_t max_unread             # bytes that a client may have unread
    cdef dict readers                  # clients without bcast: ClientConn: None
    cdef dict casters                  # with it
    cdef list listeners                # two dicts, without and with bcast: Listener, by Server
    cdef list flushed                  # two turns in which clients were told to forget everything
    cdef dict starting                 # ClientConn: Starting
    cdef dict slow                     # clients that will be closed
    cdef size_t spreading              # Spread jobs

    # CLIENT TRACKING ON, whose message is first in its client's queue.
    cdef int start(self, ClientConn client, Starting starting) except -1
    cdef int confirm(self, ClientConn client, Starting starting) except -1
    # A request that reads these keys has been queued. `held`: it goes over a link of its own.
    cdef int read(self, ClientConn client, list keys, bint held) except -1
    # The client, which has sent NOLOOP, overwrites this key.
    cdef int writes(self, ClientConn client, bytes key) except -1
    cdef int tell(self, ClientConn client, Notice notice, int where) except -1
    cdef int push(self, ClientConn client, Body* body, int where) except -1
    cdef int deliver(self, ClientConn client, Tracked tracked, Notice notice) except -1
    cdef int cast(self, ClientConn client, list keys, dict made) except -1
    cdef int forget(self, ClientConn client) except -1
    cdef int tell_all(self, list clients, Notice notice) except -1

# A change that is told to many clients, some in each turn. The Listeners are not read meanwhile.
cdef class Spread(Job):
    cdef Tracking tracking
    cdef list clients                  # those that are left
    cdef Notice notice
    cdef dict made                     # with bcast: see Tracking.cast
    cdef bint later                    # it goes on in later turns

# Closes clients that do not read.
cdef class EndSlow(Job):
    cdef Tracking tracking
