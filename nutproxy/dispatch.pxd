from nutproxy.client cimport ClientConn
from nutproxy.conn cimport Conn
from nutproxy.msg.message cimport Merge, Msg
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.table cimport Row
from nutproxy.server cimport Server

cdef int req_recv_done(Conn conn, char* data, Parser* parser) except -1
cdef int req_recv_error(Conn conn, Parser* parser) except -1
