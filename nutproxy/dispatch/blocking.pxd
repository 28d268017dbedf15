from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

# A command that waits. Its timeout is argument `at`, or where its row says if that is 0.
cdef int block(ClientConn client, Row* row, char* data, Parser* parser, uint32_t at,
               uint32_t flags) except -1
cdef int wait_for_replicas(ClientConn client, Row* row, char* data, Parser* parser,
                           uint32_t flags) except -1
