from nutproxy.msg.message cimport Msg

cdef int memcache_merge(Msg* parent) except -1
cdef int memcache_miss(Msg* msg) except -1
