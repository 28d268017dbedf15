from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

cdef int multi(ClientConn client, uint32_t flags) except -1
cdef int discard(ClientConn client, uint32_t flags) except -1
# The client's transaction ends, if there is one, and nothing of it is carried out.
cdef int abandon(ClientConn client) except -1
# A command in a transaction. An error here makes EXEC fail.
cdef int queue_command(ClientConn client, Row* row, char* data, Parser* parser,
                       uint32_t flags) except -1
