from libc.stdint cimport int64_t, uint64_t

from nutproxy.back.profile cimport Profile
from nutproxy.conn cimport Conn
from nutproxy.io.jobs cimport Job
from nutproxy.io.reactor cimport Reactor
from nutproxy.io.timer cimport Timer
from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Parser
from nutproxy.msg.protocol cimport Protocol, fits_t

cdef enum:
    NO_SLOT = -1

# The states of a server connection.
cdef enum LinkState:
    LINK_WAITING          # will connect later; requests wait in it
    LINK_RESOLVING        # the host name is being looked up; no descriptor yet
    LINK_CONNECTING
    LINK_HANDSHAKE        # AUTH, HELLO, SELECT, PING were sent; waits for their replies
    LINK_READY            # requests may be written
    LINK_CLOSED

cdef class Link                       # (forward)

cdef class Upstream:
    cdef readonly Reactor reactor
    cdef readonly object pool          # ServerPool: its `config` and `max_reply`
    cdef readonly Protocol protocol
    cdef uint64_t* stats               # its row in the slab
    cdef readonly bint stopping        # the proxy is shutting down
    cdef readonly bint retired         # no member of the pool any more: links close when idle
    cdef readonly bint down            # requests fail unless a probe finds it up soon
    cdef readonly bint ejected         # down, and out of the ring
    cdef readonly bint wants_replies   # it is slow, down or retired: `link_replied` is called
    cdef readonly bytes error          # the error reply to requests while it is down
    cdef bint has_replied              # set by links at each complete reply
    cdef public bint no_resp3          # too old for HELLO
    cdef public bint old               # would misread some requests: see Protocol.too_new

    # The link for requests of this client; it is opened if necessary. None if there is none now:
    # `refusal` is then the error reply for the client.
    cdef Link link_for(self, uint64_t client, Profile profile)
    # The names of the steps of a handshake, and their bytes.
    cdef tuple handshake(self, Link link)
    # What is wrong with the reply to a step of this link's handshake, or None.
    cdef str judge(self, Link link, str step, bytes data)
    # The last step has succeeded: requests can be sent. May end the link.
    cdef int link_ready(self, Link link) except -1
    # A complete reply was received while the server `wants_replies`. May end the link.
    cdef int link_replied(self, Link link) except -1
    # It has ended: no more requests are put into it. Returns whether it was the probe. Allocates no
    # memory.
    cdef bint link_left(self, Link link) noexcept
    # A link for one client alone, which may be connecting still. None if there is none: `refusal`.
    cdef Link borrow(self, Profile profile)
    # Bring a borrowed link, which is ready and idle, into another state. May end it.
    cdef int change(self, Link link, Profile profile) except -1
    # Its user does not need it any more. It is given to others once it is idle.
    cdef int give_back(self, Link link) except -1
    # What its end says about the server, before its requests are answered or moved. `waited`: a
    # reply was due.
    cdef int link_closed(self, Link link, bint was_ready, bint waited, bint probe) except -1
    # All its requests have been answered or moved. Allocates no memory.
    cdef int link_settled(self) except -1
    # The error reply for clients with this cause; None when memory has run out.
    cpdef bytes error_reply(self, str cause)

# The user of a link that carries something else than requests and their replies.
cdef class LinkUser:
    # The link is ready.
    cdef int link_opened(self, Link link) except -1
    # It has ended. `text` is the error reply; None when memory has run out.
    cdef int link_ended(self, Link link, bytes text) except -1
    # Something complete was received.
    cdef int received(self, Link link, char* data, Parser* parser) except -1
    # May it be read now?
    cdef bint listens(self) noexcept

cdef class Link(Conn):
    cdef readonly Upstream server
    cdef readonly Profile profile      # the state that its handshake brings it into
    cdef readonly Profile before       # the state that it had before; None for a new link
    cdef readonly int slot             # in its profile's lanes; NO_SLOT if it is not shared
    cdef public int64_t server_id      # its CLIENT ID on the server; 0 if that is not known
    cdef readonly bint aside           # for commands that a busy server must get at once
    cdef readonly int state            # LinkState
    cdef readonly int64_t connect_began    # when it began to connect; -1 before
    cdef readonly str cause            # why it ends, if errno does not tell
    cdef public int64_t redirect       # tracked: who gets its invalidations, or 0: see invalidations.py
    cdef public bint unfit             # the server is up, but refuses the state of its profile
    cdef readonly int timed_out        # requests that timed out since the last reply

    # Its life, as the server directs it.
    # Call `then` after so many milliseconds, unless it is ready by then, and not what was set
    # before. None: end it.
    cdef int arm(self, int64_t delay, object then) except -1
    # Connect to an Address of the configuration. `resolve` is the pool's.
    cdef int connect(self, object address, object resolve) except -1
    # End it with this cause.
    cdef int abort(self, str cause) except -1
    # End it because it is not needed, which says nothing about the server.
    cdef int drop(self) except -1

    # Bring it, which is borrowed, ready and idle, into this state. Requests wait meanwhile.
    cdef int change(self, Profile profile) except -1
    # All that it receives is for this user, from now on.
    cdef int serve(self, LinkUser user) except -1

    # Its user sends nothing more. After the requests in its queues, the server is told so.
    cdef int finish(self) except -1
    # Call `give_back` when it is idle.
    cdef void return_when_idle(self) noexcept
    # It is given back, and others may use it.
    cdef void returned(self) noexcept

    # Its requests. They are queued with enqueue_inq and mark_flush.
    # Take over the requests of a link that has written none.
    cdef void take_requests(self, Link old) noexcept
    # A request in its queues is not wanted any more: do not send it, unless a part is out.
    cdef void cancel(self, Msg* msg) noexcept
    # A request that was queued at `start` has timed out. Returns whether it is the first in a row.
    cdef bint note_timeout(self, int64_t start) noexcept
    # For how long requests have timed out in a row.
    cdef int64_t timeouts_last(self) noexcept
    # For how long the server has owed a sign of life.
    cdef int64_t silence(self) noexcept
    # Is a client still waiting for the reply to one of its requests?
    cdef bint awaited(self) noexcept
    # The number of unanswered requests whose clients have gone.
    cdef int orphans(self) noexcept
    # Is it in its handshake, or past it, with no request?
    cdef bint unused(self) noexcept

    # Private to link.py.
    cdef fits_t fits                   # the protocol's
    cdef size_t max_reply              # longer replies are dropped
    cdef list addresses                # to try next if the current one cannot be reached
    cdef list steps                    # names of the handshake steps whose replies are due
    cdef int batches                   # transactions whose replies are due
    cdef bint returning                # its user does not need it any more
    cdef readonly bint finishing       # its user sends nothing more
    cdef LinkUser user                 # receives everything; None: replies to requests come
    cdef Timer connect_timer           # the one that `arm` has set
    cdef int64_t waiting_since         # when it began to wait for a sign of life
    cdef int64_t timed_out_since       # when the first of the requests that timed out was queued
    cdef str last_words                # a protocol error, after which the server will close
    cdef uint64_t last_words_at        # recv_bytes when it was received

cdef inline bint idle(Link link) noexcept:
    """No request to write and no reply due."""
    return link.imsg_q.head is NULL and link.omsg_q.head is NULL

cdef class Settling(Job):
    cdef Link link
    cdef bytes text
