from nutproxy.msg.message cimport Msg

cdef int redis_merge(Msg* parent) except -1
cdef Msg* piece_behind(Msg* msg, char* data, size_t length) except NULL
