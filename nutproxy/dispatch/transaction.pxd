from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.message cimport Msg
from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

# The commands of a transaction that go to one server.
cdef class Batch:
    cdef int group                     # ANY_GROUP while none of them has a key
    cdef uint32_t count
    cdef char* data                    # MULTI, and these commands
    cdef size_t length
    cdef size_t room

    cdef int append(self, const char* data, size_t length) except -1

# The commands of a client between MULTI and EXEC.
cdef class Transaction:
    cdef list batches                  # Batch, by server
    cdef uint32_t version              # the route's, at MULTI
    cdef uint32_t count                # commands
    # By command: the number of its batch, or LOCAL_PART, or MERGED and a place in `merged`.
    cdef uint32_t* order
    cdef uint32_t order_room
    cdef Msg** merged                  # commands that were split; the parts have batches as `hash`
    cdef uint32_t nmerged
    cdef uint32_t merged_room
    cdef list local                    # those that nutproxy handles: (row number, arguments or reply)
    cdef object asking                 # what it subscribes to: an Asking, or None
    cdef int database                  # the last one that was selected; -1 for none

    cdef Batch batch_of(self, int group, bint split)
    cdef int note(self, uint32_t part) except -1
    cdef int keep(self, Msg* msg) except -1

cdef int seal(Msg* msg, Batch batch) except -1
cdef int multi(ClientConn client, uint32_t flags) except -1
cdef int execute(ClientConn client, Row* row, uint32_t flags) except -1
cdef int discard(ClientConn client, uint32_t flags) except -1
cdef int abandon(ClientConn client) except -1
cdef int watch(ClientConn client, Row* row, char* data, Parser* parser, uint32_t flags) except -1
cdef int unwatch(ClientConn client, uint32_t flags) except -1
cdef int queue_command(ClientConn client, Row* row, char* data, Parser* parser,
                       uint32_t flags) except -1
