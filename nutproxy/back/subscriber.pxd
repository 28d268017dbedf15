from libc.stdint cimport int64_t

from nutproxy.back.link cimport Link, LinkUser
from nutproxy.back.server cimport Server
from nutproxy.io.timer cimport Timer

cdef class Subscriber                  # (forward)
cdef class Asked                       # (forward)

# Who a Subscriber works for. It calls these. The kinds are those of proto/table.pxd.
cdef class Audience:
    # A message: `data` is its whole frame, in which `name` is the channel or pattern that it is for.
    cdef int message(self, Subscriber subscriber, int kind, const char* name, size_t length,
                     const char* data, size_t size) except -1
    # The server has confirmed a subscription.
    cdef int confirmed(self, Subscriber subscriber, int kind, bytes name) except -1
    # It has refused some, which are forgotten. `text` is its error.
    cdef int refused(self, Subscriber subscriber, int kind, list names, bytes text) except -1
    # The link has ended, or none could be opened. The subscriptions will be made anew. `gap`: there
    # were some, so messages are lost.
    cdef int lost(self, Subscriber subscriber, bytes text, bint gap) except -1
    # This command has all its replies, or its link has ended.
    cdef int settled(self, Asked asked) except -1

# A command on the link whose replies are due.
cdef class Asked:
    cdef bytes word                    # as in its replies
    cdef int kind
    cdef list names
    cdef Py_ssize_t done               # how many are confirmed

cdef class Subscriber(LinkUser):
    cdef readonly Server server
    cdef Audience audience
    cdef readonly Link link            # None while there is none
    cdef list names                    # by kind: a dict, by name: None before the command is sent,
                                       # the Asked until it is confirmed, then True
    cdef list fresh                    # by kind: a dict of names that are to be subscribed
    cdef list stale                    # by kind: the same, to be unsubscribed, with the value in `names`
    cdef list leaving                  # by kind: names whose end is not confirmed: their Asked
    cdef object asked                  # a deque of Asked: what is due on the link
    cdef list backlog                  # names to be subscribed on a new link: (kind, list of names)
    cdef public bint paused            # the audience takes no message now
    cdef bint ended                    # it is not used any more
    cdef int64_t delay                 # before the next try to open a link
    cdef Timer retry

    # Subscribe to this, or not any more. Commands are sent by `flush`.
    cdef int want(self, int kind, bytes name) except -1
    cdef int unwant(self, int kind, bytes name) except -1
    cdef int flush(self) except -1
    # Has the server confirmed it?
    cdef bint has(self, int kind, bytes name) except -1
    # Does the server count this link as a receiver?
    cdef bint counts(self, int kind, bytes name) except -1
    cdef bint is_empty(self) except -1
    # Go on after `paused`.
    cdef void resume(self) noexcept
    # It is not used any more.
    cdef int end(self) except -1
    # Several times a minute.
    cdef int tidy(self) except -1

    cdef int open(self) except -1
    cdef int send(self, bytes word, int kind, list names) except -1
    cdef int send_backlog(self) except -1
    cdef int reply(self, object reply) except -1
    cdef Asked next_asked(self)
