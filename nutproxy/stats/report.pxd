from libc.stdint cimport uint64_t

from nutproxy.stats.slab cimport Slab

# A piece of the report: a text and the cell, or the histogram, that is written after it.
cdef struct Piece:
    const char* text
    size_t length
    size_t cell
    bint histogram

cdef class Report:
    cdef Slab slab
    cdef list texts                    # own the bytes that the pieces point to
    cdef Piece* pieces
    cdef size_t count
    cdef size_t bound                  # upper limit of the bytes that the pieces need
    cdef uint64_t* copy                # of the slab's cells, taken at one moment
    cdef size_t size                   # its bytes
    cdef str source
    cdef double started                # monotonic seconds

    cdef char* write(self, char* to) noexcept nogil
