from nutproxy.msg.message cimport Msg

cdef int redis_merge(Msg* parent) except -1
