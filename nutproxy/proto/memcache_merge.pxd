from nutproxy.msg.message cimport Msg

cdef int memcache_merge(Msg* parent) except -1
cdef void memcache_miss(Msg* msg) noexcept
