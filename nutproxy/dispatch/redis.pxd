from nutproxy.conn cimport Conn
from nutproxy.msg.parse cimport Parser

cdef int redis_recv_done(Conn conn, char* data, Parser* parser) except -1
cdef int redis_recv_large(Conn conn, char* data, Parser* parser) except -1
cdef int redis_recv_error(Conn conn, Parser* parser) except -1
