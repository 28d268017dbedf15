# nutproxy/msg/deadline.pxd: requests in the order of their deadlines
#
# All requests of a pool have the same timeout, so they expire in the order in which they were
# queued: a circular list, linked through the messages, with no search and no timer for each.

from libc.stdint cimport int64_t

from nutproxy.msg.message cimport MSG_TIMED, Msg

# It borrows its messages: they are removed before they are released. It must not move.
cdef struct DeadlineQueue:
    Msg head                # not a request; the list begins and ends with it

cdef inline void deadlines_init(DeadlineQueue* queue) noexcept:
    queue.head.timeout_next = &queue.head
    queue.head.timeout_prev = &queue.head

cdef inline void deadline_append(DeadlineQueue* queue, Msg* msg, int64_t deadline) noexcept:
    """`deadline` is in milliseconds of the loop's clock, and not before the last message's."""
    cdef Msg* head = &queue.head
    msg.deadline = deadline
    msg.timeout_prev = head.timeout_prev
    msg.timeout_next = head
    head.timeout_prev.timeout_next = msg
    head.timeout_prev = msg
    msg.flags |= MSG_TIMED

cdef inline void deadline_remove(Msg* msg) noexcept:
    """Remove a message from the queue in which it is, if it is in one."""
    if msg.flags & MSG_TIMED:
        msg.timeout_prev.timeout_next = msg.timeout_next
        msg.timeout_next.timeout_prev = msg.timeout_prev
        msg.flags &= ~MSG_TIMED

cdef inline Msg* deadline_first(DeadlineQueue* queue) noexcept:
    """The message that expires next, or NULL."""
    if queue.head.timeout_next == &queue.head:
        return NULL
    return queue.head.timeout_next
