# The distributions: uint32 hash -> server index; see ring.py.

from libc.stdint cimport uint32_t, uint64_t

cimport cython

cdef class Ring:
    cdef list names              # bytes, in index order
    cdef readonly int nserver
    cdef readonly int nlive
    cdef uint32_t* weights       # one per server
    cdef bint* live              # one per server; read by rebuild only
    cdef int dispatch(self, uint32_t hash) noexcept
    cdef void rebuild(self) noexcept
    cdef uint64_t live_weight(self) noexcept

@cython.final
cdef class Ketama(Ring):
    cdef uint64_t* continuum     # sorted points: value in the high half, server index in the low
    cdef size_t ncontinuum
    cdef uint32_t* starts        # by the first bits of a hash: the first point not below them
    cdef int shift               # the hash's other bits
    cdef void index_points(self) noexcept
    cdef size_t find(self, uint32_t hash) noexcept
    cdef uint32_t share(self, int index, uint64_t live_weight) noexcept
    cdef void add_points(self, int index, uint32_t npoint) noexcept

@cython.final
cdef class Modula(Ring):
    cdef uint64_t* ends          # one per server: the slot after its last one
    cdef uint64_t nslot

@cython.final
cdef class Random(Ring):
    cdef int* choices            # the nlive indexes to draw from
    cdef uint32_t state          # never 0

cdef int compare_points(const void* left, const void* right) noexcept nogil
