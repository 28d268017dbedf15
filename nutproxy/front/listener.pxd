from nutproxy.conn cimport Conn
from nutproxy.pool cimport ServerPool


cdef class Listener(Conn):
    cdef readonly ServerPool pool
    cdef object sock                   # the Python socket that owns the descriptor
    cdef size_t most                   # client_connections, 0 if it is not set
    cdef readonly str address
    cdef object pause_timer                # the timer that ends a pause in accepting, or None

    cdef int add_client(self, int fd) except -1
    cdef size_t unlimited_clients(self) noexcept
