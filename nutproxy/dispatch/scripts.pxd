from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

cdef int run_script(ClientConn client, Row* row, char* data, Parser* parser, int group,
                    uint32_t flags) except -1
cdef int load_script(ClientConn client, Row* row, char* data, Parser* parser,
                     uint32_t flags) except -1
# Is this a script whose first line says that it writes nothing?
cdef bint promises_no_writes(ClientConn client, Row* row, const char* data, Parser* parser) except -1
