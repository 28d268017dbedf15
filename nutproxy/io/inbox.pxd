from nutproxy.io.reactor cimport Pollable


cdef class Inbox(Pollable):
    cdef object sock                   # the Python socket that owns the descriptor
    cdef object callback               # called with the bytes that were received
