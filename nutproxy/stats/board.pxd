from libc.stdint cimport uint64_t

cdef enum:
    BOARD_IDS = 0               # how many ids of clients have been taken
    BOARD_TOTALS = 8            # the clients of each pool follow
    COUNT_BITS = 40             # of a cell; above them is the number of resets

cdef class Board:
    cdef uint64_t* cells
    cdef size_t size                   # bytes
    cdef size_t width                  # cells of a worker's row
    cdef readonly int pools
    cdef readonly int workers
    cdef readonly int own              # the number of this worker
    cdef uint64_t next_id
    cdef uint64_t last_id

    cdef uint64_t* row(self, int worker) noexcept
    cdef uint64_t client_id(self) noexcept
    cdef int least(self, int pool) noexcept
    cdef uint64_t epoch(self, int pool) noexcept
    cdef uint64_t come(self, int worker, int pool) noexcept
    cdef void leave(self, int worker, int pool, uint64_t epoch) noexcept
    cdef uint64_t total(self, int pool) noexcept
