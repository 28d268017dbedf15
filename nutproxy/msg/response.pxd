from nutproxy.conn cimport Conn
from nutproxy.msg.message cimport Body, Msg
from nutproxy.msg.parse cimport Parser

cdef void deadline_append(Msg* queue, Msg* msg) noexcept
cdef void deadline_remove(Msg* msg) noexcept
cdef void msg_done(Msg* msg) noexcept
cdef void msg_fail(Msg* msg, bytes text) noexcept
cdef void rsp_receive(Conn conn, Msg* msg, char* data, Parser* parser) noexcept
cdef void rsp_recv_done(Conn conn, char* data, Parser* parser) noexcept
cdef Body* rsp_send_next(Conn conn, Msg** cursor) noexcept
cdef int rsp_send_done(Conn conn) except -1
cdef void rsp_enqueue(Conn conn, Msg* msg) noexcept
cdef Msg* rsp_dequeue(Conn conn) noexcept
