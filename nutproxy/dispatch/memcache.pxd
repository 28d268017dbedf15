from nutproxy.conn cimport Conn
from nutproxy.msg.parse cimport Parser

cdef int memcache_recv_done(Conn conn, char* data, Parser* parser) except -1
cdef int memcache_recv_error(Conn conn, Parser* parser) except -1
