# The whole way from a key to a server index; see router.py.

from nutproxy.hashkit.hashes cimport hash_t
from nutproxy.hashkit.ring cimport Ring

cdef class Router:
    cdef readonly Ring ring
    cdef hash_t hash_function
    cdef bint tagged
    cdef unsigned char tag_open
    cdef unsigned char tag_close
    cdef int route(self, const unsigned char* key, size_t length) except? -2
    cdef const unsigned char* hashed_part(self, const unsigned char* key, size_t* length) noexcept
