from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row
from nutproxy.route cimport Route

# The group of a request that has no keys, and so none of its own.
cdef enum:
    ANY_GROUP = -3

cdef bint needs_one_server(Row* row, Route route) noexcept
cdef int common_group(ClientConn client, Row* row, char* data, Parser* parser, uint32_t flags,
                      int* group) except -1
