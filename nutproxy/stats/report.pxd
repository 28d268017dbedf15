from libc.stdint cimport uint8_t, uint64_t

from nutproxy.stats.slab cimport Slab

# A piece of the report: a text and the cell, or the histogram, that is written after it.
cdef struct Piece:
    const char* text
    size_t length
    size_t cell
    bint histogram

cdef class Report:
    cdef list slabs                    # Slab, of each worker
    cdef uint64_t* sums                # the cells of all slabs together
    cdef uint8_t* greatest             # by cell: it is not a sum, but the greatest value
    cdef size_t cells
    cdef list texts                    # own the bytes that the pieces point to
    cdef Piece* pieces
    cdef size_t count
    cdef size_t bound                  # upper limit of the bytes that the pieces need
    cdef uint64_t* copy                # of one slab's cells, taken at one moment
    cdef str source
    cdef double started                # monotonic seconds

    cdef char* write(self, char* to) noexcept nogil
    cdef void add(self) noexcept nogil
