cdef class Profile:
    cdef readonly int index            # its place in the table, and in Server.lanes
    cdef readonly tuple key            # the whole state
    cdef readonly int protover         # the protocol version: 2 or 3
    cdef readonly int database         # the number on the servers
    cdef readonly bint tracked         # the servers note what is read on its links: invalidations.py
    cdef public int clients            # those that have it now

cdef class Profiles:
    cdef readonly list rows            # Profile, by index
    cdef readonly Profile default      # the state of a new client: RESP2, the pool's database
    cdef readonly int limit            # maximum rows
    cdef dict by_key
    cdef object vacate                 # the pool's: see Profiles

    # The profile of this state; None if there is no room for one more.
    cpdef Profile of(self, int protover, int database, bint tracked=*)
