from libc.stdint cimport int64_t


cdef class Timer:
    cdef readonly int64_t expires      # milliseconds of the loop's clock
    cdef readonly bint cancelled
    cdef readonly object callback      # called without arguments

    cpdef cancel(self)

cdef class WaitQueue:
    cdef list heap
    cdef int64_t serial
    cdef int64_t first                 # when the next timer expires, or -1; read without an object

    cpdef Timer schedule(self, int64_t expires, object callback)
    cdef int64_t next_expiry(self) noexcept
    cdef int run(self, int64_t now) except -1
