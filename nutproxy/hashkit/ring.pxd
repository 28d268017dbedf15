# The distributions: uint32 hash -> server index; see ring.py.

from libc.stdint cimport uint32_t, uint64_t

cimport cython

cdef class Ring:
    cdef list names              # bytes, in index order
    cdef readonly int nserver
    cdef readonly int nlive
    cdef uint32_t* weights       # one per server
    cdef bint* live              # one per server; read only while the ring is rebuilt
    cdef int dispatch(self, uint32_t hash) noexcept
    cdef int dispatch_all(self, uint32_t* hashes, size_t count) noexcept
    cdef int begin(self, list live) except -1
    cdef void prepare(self) noexcept
    cdef bint build(self, size_t npoint) noexcept
    cdef uint64_t live_weight(self) noexcept

@cython.final
cdef class Ketama(Ring):
    cdef uint64_t* continuum     # sorted points: value in the high half, server index in the low
    cdef size_t ncontinuum
    cdef uint32_t* starts        # by the first bits of a hash: the first point not below them
    cdef int shift               # how many other bits the hash has
    cdef uint64_t* made          # the points of the next continuum so far
    cdef size_t nmade
    cdef uint64_t* sorted        # the output of a pass of the sort
    cdef uint32_t* made_starts   # the index of the next continuum
    cdef size_t nstart           # entries of that index so far
    cdef size_t next_place       # the point from which the next entry is searched
    cdef int next_server         # the server whose points are made next
    cdef int next_pass           # the next pass of the sort
    cdef uint64_t weight         # of all live servers
    cdef void sort_by(self, int shift) noexcept
    cdef bint index_points(self, size_t count) noexcept
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
