from libc.stdint cimport int64_t

from nutproxy.back.link cimport Link
from nutproxy.conn cimport Conn
from nutproxy.front.tracked cimport Tracked
from nutproxy.msg.message cimport Msg

# A held command is first in its client's queue.
ctypedef int (*run_t)(Conn client, Msg* msg) except -1
# A command has its reply.
ctypedef void (*done_t)(Conn client, Msg* msg) noexcept

cdef class Session:
    cdef Msg* held                     # waits until it is first in the client's queue; or NULL
    cdef run_t run                     # called then
    cdef done_t done                   # called when the message of `hold` has its reply
    cdef Link link                     # borrowed for the command that is being carried out, or None
    cdef list links                    # the same for WAIT: one for each server; or None
    cdef Msg* waiting                  # the command that waits in its server, or NULL
    cdef int64_t slot                  # its deadline in Frontend.waits, or -1
    cdef int target                    # the group that it goes to,
    cdef unsigned int version          # found in this version of the route
    cdef unsigned int waits            # how many commands have waited
    cdef bint ended                    # the client has sent its end meanwhile
    cdef bint writes                   # its transaction has a command that writes
    cdef bytes postponed               # a request that CLIENT PAUSE or `settling` delays, or None
    cdef object settling               # what a request for a number of receivers waits for, see
                                       # subscriptions.py; or None
    cdef bint settled                  # it has waited
    cdef bint watched                  # keepalive has been set: its host cannot vanish unnoticed
    cdef Link watching                 # borrowed from WATCH to EXEC, or None
    cdef int group                     # the server that has it,
    cdef unsigned int since            # found in this version of the route
    cdef bint alone                    # when MULTI came, no other reply was owed
    cdef Msg* awaited                  # the message of ClientConn.send_with, or NULL
    cdef object multi                  # a Transaction (dispatch/batch.py), or None
    cdef bint doomed                   # a command of the transaction was refused: EXEC fails
    cdef size_t queued                 # bytes of its commands
    cdef readonly list topics          # by kind of subscription: a dict of Topic by name; or None
    cdef object asking                 # a SUBSCRIBE that waits for servers: see subscriptions.py
    cdef bint parting                  # more of them are to be ended: it has left, or sent RESET
    cdef size_t named                  # the bytes that its subscriptions take
    cdef readonly Tracked tracked      # what CLIENT TRACKING has set; None: it is off
    cdef dict due                      # with REDIRECT: see Tracking.tell; or None
    cdef object starting               # CLIENT TRACKING ON that waits for servers: see tracking.py
    cdef size_t pushed                 # bytes of messages in the client's queue
    cdef Msg* last_push                # the last of them before the first reply that is not done, or NULL

    # The links on which its command waits.
    cdef list borrowed(self)
    cdef void leave(self) noexcept
