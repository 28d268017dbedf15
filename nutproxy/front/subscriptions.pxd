from libc.stdint cimport int64_t, uint64_t

from nutproxy.back.server cimport Server
from nutproxy.back.subscriber cimport Asked, Audience, Subscriber
from nutproxy.front.client cimport ClientConn
from nutproxy.front.session cimport run_t
from nutproxy.io.jobs cimport Job
from nutproxy.io.reactor cimport Reactor
from nutproxy.io.timer cimport Timer
from nutproxy.msg.message cimport Msg
from nutproxy.pool cimport ServerPool

cdef class Subscriptions               # (forward)
cdef class Moving                      # (forward)

# A channel, pattern or shard channel that a client has subscribed to.
cdef class Topic:
    cdef readonly int kind
    cdef readonly bytes name
    cdef readonly dict clients         # ClientConn: None, in the order of their subscriptions
    cdef Subscriber home               # None: it is subscribed to on every server
    cdef int64_t turn                  # the last one in which a message was delivered
    cdef dict askers                   # commands that wait for it: Asking: None

# A SUBSCRIBE that waits for servers, or all those of a transaction.
cdef class Asking(Job):
    cdef Subscriptions subscriptions
    cdef ClientConn client
    cdef list pairs                    # (kind, name)
    cdef list topics                   # of the pairs that have been asked for
    cdef set missing                   # (Subscriber, kind, name) that are not confirmed
    cdef Msg* msg                      # of the command, in its client's queue
    cdef run_t then                    # called when all is confirmed or refused; NULL: make the reply
    cdef object extra                  # for `then`
    cdef Py_ssize_t carried_out        # with `then`: how many of the topics the client has got
    cdef bytes error                   # why it is refused, or None
    cdef Timer timer

cdef class Subscriptions(Audience):
    cdef readonly ServerPool pool
    cdef readonly Reactor reactor
    cdef uint64_t* stats               # the pool's row
    cdef size_t max_unread             # bytes of messages that a client may have unread, and of its
                                       # subscriptions
    cdef size_t max_subscriptions
    cdef bint closes                   # subscribe_gap: close
    cdef list topics                   # by kind: a dict, Topic by name
    cdef readonly dict subscribers     # by Server
    cdef dict touched                  # those that have something to send: Subscriber: None
    cdef set askings                   # those that wait
    cdef dict settlings                # a list of Counting for each Asked that they wait for
    cdef unsigned int version          # the pool's, when the topics were on the right servers
    cdef Moving moving                 # moves them, or None
    cdef int64_t turn                  # the turn that `spent` is about
    cdef size_t spent                  # the work for messages in it

    cdef bint is_empty(self) noexcept
    # Ask servers for the topics of a command.
    cdef int ask(self, Asking asking) except -1
    # Subscribe the client to some of them, which are confirmed. Returns the confirmations.
    cdef bytes admit(self, Asking asking, Py_ssize_t start, Py_ssize_t stop)
    # The command is done, or its client has gone.
    cdef int forget(self, Asking asking) except -1
    # End subscriptions, and return the confirmations. `names` None: all of this kind.
    cdef bytes unsubscribe(self, ClientConn client, int kind, list names)
    # Has a request for the number of receivers to wait for this group, or with -1 for all? If so, the
    # caller postpones it, and it is dispatched again later. `name` None: it is about all names.
    cdef bint is_unsettled(self, ClientConn client, int kind, bytes name, int group) except -1
    # By how much the number of receivers that the server says is too small.
    cdef int error_of(self, int kind, bytes name, int group) except? -1
    cdef int ask_some(self, Asking asking) except -1
    cdef Server server_of(self, int kind, bytes name)
    cdef Topic topic_of(self, int kind, bytes name)
    cdef Subscriber subscriber_of(self, Server server)
    cdef int want(self, Subscriber subscriber, Topic topic) except -1
    cdef int unwant(self, Subscriber subscriber, Topic topic) except -1
    cdef int release(self, Topic topic) except -1
    cdef int flush(self) except -1
    cdef int settle(self, Asking asking) except -1
    cdef int fail(self, Asking asking, bytes text) except -1
    cdef int end_one(self, ClientConn client, Topic topic) except -1
    cdef int move(self, Topic topic) except -1
    cdef bint afford(self, Topic topic) except -1
    cdef void new_turn(self) noexcept
    cdef int deliver(self, ClientConn client, Topic topic, Msg* holder) except -1
    cdef int deliver_later(self, Subscriber subscriber, Topic topic, Msg* holder) except -1

# A request for a number of receivers that waits until subscriptions are confirmed, or their ends.
cdef class Counting(Job):
    cdef ClientConn client
    cdef set missing                   # Asked
    cdef Timer timer                   # after which it waits no longer, or None

# A message that is delivered in several turns. The link that it came on is not read meanwhile.
cdef class FanOut(Job):
    cdef Subscriptions subscriptions
    cdef Subscriber subscriber
    cdef Topic topic
    cdef list clients
    cdef Py_ssize_t at
    cdef Msg* holder

    cdef bint go_on(self) except -1

# The end of a client's subscriptions, if there are many.
cdef class Parting(Job):
    cdef Subscriptions subscriptions
    cdef ClientConn client
    cdef list topics

# Keys have got other groups: topics move to their servers.
cdef class Moving(Job):
    cdef Subscriptions subscriptions
    cdef list topics                   # those to be looked at, the next one last; None before
    cdef unsigned int version          # the pool's, when it began

# Closes the clients that have lost messages.
cdef class Closing(Job):
    cdef list clients
