from libc.stdint cimport int64_t

from nutproxy.back.health cimport Machine
from nutproxy.back.link cimport Link, Upstream
from nutproxy.back.profile cimport Profile, Profiles
from nutproxy.io.jobs cimport Job
from nutproxy.io.timer cimport Timer

cdef extern from "Python.h":
    # Borrowed, unchecked: link_for is called for every request.
    void* list_item "PyList_GET_ITEM" (void* items, Py_ssize_t index) noexcept
    Py_ssize_t list_size "PyList_GET_SIZE" (void* items) noexcept

# Ends the links that were borrowed when their server went down.
cdef class EndLent(Job):
    cdef list links
    cdef str cause

cdef class Server(Upstream):
    cdef readonly object member        # the Member of the pool's newest View
    cdef readonly str name
    cdef readonly Machine health       # `down` and `ejected` are copies of its state
    cdef public int64_t redirect_id    # the CLIENT ID to which its tracked links redirect, or 0
    cdef public str version            # memcached's, from the handshake; "" before
    cdef readonly int index            # its place in the pool's list, which the ring counts by
    cdef readonly int connections
    cdef readonly Profiles profiles    # the pool's
    cdef readonly list lanes           # by profile, then by slot: a Link or None
    cdef dict asides                   # by Profile: Link
    cdef readonly set lent             # the links that have been borrowed
    cdef set greeting                  # those of them that connect
    cdef object lend_queue             # those that will, a deque
    cdef readonly dict resting         # by Profile: idle links that can be borrowed
    cdef size_t open_links             # those whose requests are not all answered
    cdef public bint no_password       # the log says already that it needs no password
    cdef bint has_resp3                # with preconnect: it has accepted HELLO 3
    cdef Timer reconnect_timer         # opens missing connections with preconnect, or None
    cdef readonly bytes refusal        # why link_for returned no connection: an error reply
    cdef dict refusals                 # by profile and slot: when it may be tried again
    cdef Timer probe_timer             # for health.probe_at, or None
    cdef Link probing                  # the probe in progress, or None
    cdef Link spare                    # an answered probe whose slot has a silent connection

    cdef Link aside_for(self, Profile profile)
    cdef int request_timed_out(self, Link link, int64_t start) except -1
    cdef bint replies_since(self) noexcept
    cdef int carry_out(self, int todo, str cause=*) except -1
    cdef int follow_probe_at(self) except -1
    cdef Link missing_link(self, Profile profile, int slot)
