from nutproxy.conn cimport Conn
from nutproxy.msg.message cimport Body, Msg

cdef Body* req_send_next(Conn conn, Msg** cursor) noexcept
cdef int req_send_done(Conn conn) except -1
cdef void req_enqueue_inq(Conn conn, Msg* msg) noexcept
cdef Msg* req_dequeue_inq(Conn conn) noexcept
cdef void req_enqueue_outq(Conn conn, Msg* msg) noexcept
cdef Msg* req_dequeue_outq(Conn conn) noexcept
