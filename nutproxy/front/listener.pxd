from nutproxy.conn cimport Conn
from nutproxy.front.client cimport ClientConn
from nutproxy.front.frontend cimport Frontend


cdef class Listener(Conn):
    cdef readonly Frontend frontend
    cdef object sock                   # the Python socket that owns the descriptor
    cdef readonly str address
    cdef object pause_timer            # the timer that ends a pause in accepting, or None

    cdef object hand_over              # called with a worker, a pool, a descriptor and an epoch

    cdef int add_client(self, int fd) except -1
    cdef ClientConn take(self, int fd)
