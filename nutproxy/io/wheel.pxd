from libc.stdint cimport int64_t

from nutproxy.io.timer cimport Timer, WaitQueue

cdef class Wheel:
    cdef WaitQueue timers
    cdef dict slots                    # by number: the items, with their deadlines
    cdef Timer timer                   # for the first slot, or None

    # Call `item.expire_wait()` soon after the deadline, in milliseconds of the loop's clock. Returns
    # the slot; `item.wait_moved(slot)` is called when the item gets another one.
    cdef int64_t add(self, int64_t now, int64_t deadline, object item) except -1
    cdef void remove(self, int64_t slot, object item) noexcept
    cdef int turn_to(self, int64_t slot) except -1
