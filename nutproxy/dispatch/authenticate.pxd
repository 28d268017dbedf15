from nutproxy.msg.parse cimport Parser

# The recv_done of Memcached clients of a pool with `users` that have not authenticated yet.
cdef int text_authenticate(object conn, char* data, Parser* parser) except -1
cdef int binary_authenticate(object conn, char* data, Parser* parser) except -1
