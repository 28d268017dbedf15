from nutproxy.csys cimport epoll_event


cdef class Poller:
    cdef int ep
    cdef epoll_event* events
    cdef int nevents                   # capacity of events

    cdef int control(self, int op, int fd, unsigned int interest, void* data) except -1
    cdef int add(self, int fd, void* data) except -1
    cdef int add_out(self, int fd, void* data) except -1
    cdef int del_out(self, int fd, void* data) except -1
    cdef int wait(self, int timeout) except -1
