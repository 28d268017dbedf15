from libc.stdint cimport int64_t, uint32_t, uint64_t

from nutproxy.back.profile cimport Profile
from nutproxy.conn cimport Conn
from nutproxy.io.jobs cimport Job
from nutproxy.msg.protocol cimport Protocol
from nutproxy.front.frontend cimport Frontend
from nutproxy.front.session cimport Session, done_t, run_t
from nutproxy.msg.message cimport Body, Msg, Owner
from nutproxy.proto.row cimport Row

# builtin.interface.ReplyMode
cdef enum:
    REPLY_ON = 0
    REPLY_OFF = 1
    REPLY_SKIP = 2

# Where ClientConn.push puts a message.
cdef enum:
    PUSH_NOW                # before the first reply that is not made yet
    PUSH_AFTER              # after all replies but that of a command that is held back, or waits
    PUSH_LAST               # after all replies

cdef class ClientConn(Conn):
    cdef readonly Frontend frontend
    cdef readonly Protocol protocol
    cdef readonly uint64_t id
    cdef readonly Profile profile      # which server connections it shares
    cdef readonly Session session      # None unless it uses more than single requests
    cdef readonly int states           # proto.commands.State: why commands do not go to servers
    cdef readonly dict refusals        # by State: the refused command, and its error; None before one
    cdef uint32_t opaque               # of its newest request, in Memcached's binary protocol
    cdef public int reply_mode         # CLIENT REPLY: is its next command answered?
    cdef bint paused                   # at a limit: not read until replies have left
    cdef public bint waiting           # a command must be answered before the next one is parsed
    cdef public bint barrier           # protocol switched: the queue must be empty before the next
    cdef bint broken                   # closed by nutproxy because its input is not a request
    cdef readonly bint draining        # nutproxy is shutting down
    cdef readonly bint lingering       # all replies are sent: further input is dropped
    cdef Row* row                      # its last command
    cdef int64_t last_request          # when that came, milliseconds of the loop's clock
    cdef int64_t local_turn            # the last turn in which nutproxy answered a command itself
    cdef unsigned int local_count      # how many it answered in that turn
    cdef readonly double created       # monotonic seconds
    cdef str peer_text                 # its address, cached; None before the first use
    cdef str local_text
    cdef public str name
    cdef public str lib_name
    cdef public str lib_ver
    cdef public bint no_evict
    cdef public bint no_touch

    # It may get messages of subscriptions from now on.
    cdef void begin_pushes(self) noexcept
    # Queue a view of a message, and count it with `charge` bytes. NULL: nothing is sent, but its turn
    # is noted. Returns the client's own message, or NULL when memory has run out.
    cdef Msg* push(self, Body* body, size_t charge, int where) noexcept

    cpdef bint adopt(self, int protover, int database)
    # From now on its requests go over tracked links, or not any more; see `adopt`.
    cdef bint track(self, bint tracked) except -1
    # Put a message of this client, which is in its queue, off until it is first there, and call
    # `run` then. `done` is called when it has its reply. Its next request waits for `resume`.
    cdef int hold(self, Msg* msg, run_t run, done_t done) except -1
    cdef int run_held(self) except -1
    cdef Session need_session(self)
    # A command of its transaction was refused: EXEC will fail, so the others are forgotten.
    cdef void doom(self) noexcept
    cdef void end_multi(self) noexcept
    # Its command `msg` waits in a server, until `deadline` (milliseconds of the loop's clock) or, with
    # -1, for ever. Until `end_wait` nothing is read, and its end is noticed at once.
    cdef int begin_wait(self, Msg* msg, int64_t deadline) except -1
    # The client has closed its sending side: its server may reply once more, or not.
    cdef int finish_wait(self) except -1
    cdef void end_wait(self) noexcept
    # Keep this request, with these flags, until the end of CLIENT PAUSE or of session.settling.
    cdef int postpone(self, const char* data, size_t length, unsigned int flags) except -1
    # Send nothing in this turn, because the replies that are there can leave together with the one
    # to this message, which is in the queue and submitted.
    cdef void send_with(self, Msg* msg) noexcept
    # RESET: nothing that it has begun goes on.
    cpdef void end_session(self)
    cpdef void resume(self) noexcept
    cdef void breaks(self) noexcept
    cdef void check_bounds(self) noexcept
    cdef int give_up(self, const char* text) except -1
    cdef int linger(self) except -1
    cdef int close_if_drained(self) except -1

cdef Owner client_owner
cdef void client_enqueue(Conn conn, Msg* msg) noexcept

# End the clients that have begun a request and sent nothing for too long.
cdef int end_unfinished(Frontend frontend) except -1

cdef class LetGo(Job):
    cdef ClientConn client
