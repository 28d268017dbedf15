from nutproxy.msg.message cimport Body, Msg

# Some keys have changed, or everything may have.
cdef class Notice:
    cdef list keys                     # None: everything
    cdef bytes raw                     # the whole frame, if it is another one; or None
    cdef Msg* holder                   # has its frames: in RESP2 as its request, in RESP3 as its reply

    # The frame; NULL when memory has run out.
    cdef Body* frame(self, int protover) noexcept
