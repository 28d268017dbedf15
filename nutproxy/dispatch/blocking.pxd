from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

# A command that waits. Its timeout is argument `at`, or where its row says if that is 0.
cdef int block(ClientConn client, Row* row, char* data, Parser* parser, uint32_t at,
               uint32_t flags) except -1
cdef int wait_for_replicas(ClientConn client, Row* row, char* data, Parser* parser,
                           uint32_t flags) except -1
# CLIENT UNBLOCK of `target`, which waits.
cdef int unblock(ClientConn client, Row* row, ClientConn target, bint with_error,
                 uint32_t flags) except -1

# A CLIENT UNBLOCK in progress.
cdef class Unblocking:
    cdef ClientConn target
    cdef Msg* msg                      # the command that it waits for, and which wait that is
    cdef unsigned int number
    cdef bint with_error
    cdef list servers                  # by part: the server, and the link's id there
    cdef int tries                     # how often a server may still be asked again

    cdef bint waits(self) noexcept
    cdef int end_wait(self) except -1
