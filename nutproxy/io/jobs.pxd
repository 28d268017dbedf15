cdef class Job:
    cdef readonly object conn          # is closed if a portion raises; None: that is only logged

    cdef bint portion(self) except -1

cdef class Steps(Job):
    cdef object steps
    cdef object done

cdef class Jobs:
    cdef public object waiting         # deque of Job; tests let it fail
    cdef readonly size_t count

    cdef int add(self, Job job) except -1
    cdef Job first(self)
    cdef int next(self, bint more) except -1
