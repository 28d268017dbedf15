# The whole way from a key to a server index; see router.py.

from libc.stdint cimport uint32_t

from nutproxy.hashkit.hashes cimport hash_four_t, hash_t
from nutproxy.hashkit.ring cimport Ring

cdef class Router:
    cdef readonly Ring ring          # ServerPool replaces it for other servers
    cdef hash_t hash_function
    cdef hash_four_t four_function   # NULL if the hash has none
    cdef bint tagged
    cdef unsigned char tag_open
    cdef unsigned char tag_close
    cdef int route(self, const unsigned char* key, size_t length, uint32_t* hash) except? -2
    cdef uint32_t hash(self, const unsigned char* key, size_t length) except? 0xFFFFFFFF
    cdef int hash_four(self, const unsigned char** keys, size_t* lengths,
                       uint32_t* hashes) except -1
    cdef bint has_tag(self, const char* key, size_t length) noexcept
    cdef const unsigned char* hashed_part(self, const unsigned char* key, size_t* length) noexcept
    cdef Ring ring_of(self, list servers)
