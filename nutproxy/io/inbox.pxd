from nutproxy.io.reactor cimport Pollable


cdef class Inbox(Pollable):
    cdef object sock                   # the Python socket that owns the descriptor
    cdef object read                   # called when there is something to read
    cdef object write                  # called when there is room again
