from libc.stdint cimport uint32_t

from nutproxy.msg.message cimport Msg
from nutproxy.route cimport Route

# In Transaction.order and Join.sequence:
cdef enum:
    MERGED = 0x80000000u               # the command was split; with the place of its message
    LOCAL_PART = 0xffffffffu           # nutproxy handles the command itself

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
    cdef list local                    # those that nutproxy handles: (row number, operation, arguments or reply)
    cdef object asking                 # what it subscribes to: an Asking, or None
    cdef int database                  # the last one that was selected; -1 for none

    cdef Batch batch_of(self, int group, bint split)
    cdef int note(self, uint32_t part) except -1
    cdef int keep(self, Msg* msg) except -1

# May the groups of its commands have changed since MULTI?
cdef bint moved(Transaction transaction, Route route) noexcept
# The group that the batch goes to.
cdef int batch_group(Route route, Batch batch) except -2
# Give the batch to this message.
cdef int seal(Msg* msg, Batch batch) except -1
