from libc.stdint cimport int64_t

from nutproxy.back.link cimport Link, LinkUser
from nutproxy.back.server cimport Server
from nutproxy.io.timer cimport Timer

cdef class Listener                    # (forward)

# Who a Listener works for. It calls these.
cdef class Listening:
    # It is ready: the server's changes come from now on.
    cdef int listener_ready(self, Listener listener) except -1
    # It is not, or not any more. `text` is the error reply; None when memory has run out. `gap`: it
    # was ready, so changes are lost.
    cdef int listener_lost(self, Listener listener, bytes text, bint gap) except -1
    # These keys have changed. None: forget everything.
    cdef int changed(self, Listener listener, list keys) except -1
    # Is a change delivered still, so that the next one must wait?
    cdef bint is_busy(self) noexcept

# Receives the invalidations of a server.
cdef class Listener(LinkUser):
    cdef readonly Server server
    cdef readonly bint bcast           # those of all keys; else those that tracked links redirect
    cdef Listening audience
    cdef readonly bint ready
    cdef readonly bytes refusal        # why it is not; None before it was tried
    cdef Link link                     # None while there is none
    cdef Timer retry
    cdef int64_t delay                 # milliseconds before the next try
    cdef bint ended                    # it is not used any more

    # Open its link, unless it has one. `now`: do not wait for the next try.
    cdef int open(self, bint now) except -1
    cdef int end(self) except -1
    # May be read again: the audience is not busy any more.
    cdef void resume(self) noexcept
    cdef int answered(self, const char* data, size_t length) except -1
    cdef int fail(self, bytes text) except -1

# Tell the server that what is read on this link is to be reported to `redirect_id`. What is queued on
# it later is read after that.
cdef int redirect_lane(Link link) except -1
