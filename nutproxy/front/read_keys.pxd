from libc.stdint cimport int64_t, uint64_t

from nutproxy.front.tracked cimport Reader
from nutproxy.io.jobs cimport Job

cdef class ReadKeys:
    cdef readonly size_t entries
    cdef size_t limit                  # maximum entries: max_tracked_keys
    cdef uint64_t* stats               # the pool's row
    cdef list dicts                    # by key a Reader, or a dict of them; None before `prepare`
    cdef size_t at                     # the dict from which the next entry is dropped
    cdef bint garbage                  # there may be void entries
    cdef bint sweeping                 # they are removed now

    # The first client begins: make room.
    cdef int prepare(self) except -1
    # A client has read this key. True: there is one entry too many now.
    cdef bint note(self, Reader reader, bytes key) except -1
    # A client does not have this key any more.
    cdef int remove(self, Reader reader, bytes key) except -1
    # Remove a key. Returns the clients that have read it.
    cdef list take(self, bytes key)
    # The key of which the entries are to be dropped.
    cdef bytes next_to_drop(self)
    # Once a second: is a Sweep needed?
    cdef bint begins_sweep(self) noexcept
    cdef int sweep(self, size_t at) except -1
    cdef int counted(self, int64_t change) except -1

# Removes void entries.
cdef class Sweep(Job):
    cdef ReadKeys read_keys
    cdef size_t at                     # the next dict
