cdef class Profile:
    cdef readonly int index            # its place in the table, and in Server.lanes
    cdef readonly tuple key            # the whole state
    cdef readonly int protover         # the protocol version: 2 or 3

cdef class Profiles:
    cdef readonly list rows            # Profile, by index
    cdef readonly Profile default      # the state of a new client: RESP2
    cdef dict by_key

    cpdef Profile of(self, int protover)
