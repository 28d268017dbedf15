from nutproxy.conn cimport Conn
from nutproxy.pool cimport ServerPool


cdef class ProxyConn(Conn):
    cdef readonly ServerPool pool
    cdef object sock                   # the Python socket that owns the descriptor
    cdef size_t most                   # clients at once, 0 without a limit
    cdef readonly str address
    cdef object again                  # a timer, while there are no descriptors to accept with
