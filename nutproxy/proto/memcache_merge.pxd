from nutproxy.msg.message cimport Msg

cdef int memcache_values(Msg* parent) except -1
cdef int memcache_all(Msg* parent) except -1
cdef int memcache_miss(Msg* msg) except -1
