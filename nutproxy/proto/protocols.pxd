from nutproxy.msg.protocol cimport Protocol

cdef Protocol redis_protocol
cdef Protocol memcached_protocol
