from libc.stdint cimport uint64_t

from nutproxy.stats.slab cimport Slab

# A piece of the report: a text, and what is written behind it.
cdef struct Piece:
    const char* text
    size_t length
    size_t cell
    bint histogram

cdef class Report:
    cdef Slab slab
    cdef list texts                    # what the pieces point into
    cdef Piece* pieces
    cdef size_t count
    cdef size_t bound                  # bytes that they need at most
    cdef uint64_t* copy                # of the slab, as it was at one moment
    cdef str source
    cdef double started                # monotonic seconds

    cdef char* write(self, char* to) noexcept nogil
