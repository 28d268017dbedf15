from nutproxy.msg.parse cimport Limits, Parser, parse_t
from nutproxy.msg.protocol cimport Protocol

cdef class Framer:
    cdef Protocol protocol
    cdef Parser parser
    cdef Limits limits
    cdef bint requests
    cdef bytes buffer
    cdef size_t swallow                # bytes to drop before the next message

    cdef size_t drop(self, size_t length) noexcept
    cdef object message(self, const char* data)
