from nutproxy.io.jobs cimport Jobs
from nutproxy.io.reactor cimport Reactor


cdef class Janitor:
    cdef Reactor reactor
    cdef list pools
    cdef list frontends
    cdef set watched                   # pools with a timer for `look`

    cdef int work(self) except -1
    cdef int portions(self, Jobs jobs) except -1
    cdef int watch(self) except -1
