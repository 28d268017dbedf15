from nutproxy.msg.protocol cimport Protocol

cdef Protocol redis_protocol
cdef Protocol memcache_protocol
cdef Protocol binary_protocol      # of clients; their servers speak text
