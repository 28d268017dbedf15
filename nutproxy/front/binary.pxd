from nutproxy.front.client cimport ClientConn

# The first byte of a Memcached client has come: take the protocol that it belongs to.
cdef int choose_protocol(object client, char first) except -1
