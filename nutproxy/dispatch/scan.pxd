from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

cdef int send_sized(ClientConn client, Row* row, const char* data, size_t length, list members,
                    uint32_t flags) except -1
cdef int scan(ClientConn client, Row* row, char* data, Parser* parser, uint32_t flags) except -1
