from nutproxy.msg.message cimport Msg

cdef bint values_fit(Msg* msg, const char* data, size_t length) noexcept
