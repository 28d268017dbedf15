from libc.stdint cimport int64_t

# A client, as those that know what it has read refer to it.
cdef class Reader:
    cdef object client                 # None: what it had read does not count any more

# What CLIENT TRACKING has set for a client.
cdef class Tracked:
    cdef readonly bint bcast
    cdef readonly bint optin
    cdef readonly bint optout
    cdef readonly bint noloop
    cdef public bint caching           # CLIENT CACHING: for the next command, or transaction
    cdef readonly int64_t redirect     # the id of the client that gets its invalidations; 0: itself
    cdef public bint broken            # that one has gone
    cdef readonly list prefixes        # with bcast: of the keys that it wants to know of, sorted
    cdef Reader reader                 # without bcast
    cdef list queued                   # keys that are read in its transaction; None: no transaction
    cdef dict writes                   # with noloop: its writes in flight: their Msg*, and the key
