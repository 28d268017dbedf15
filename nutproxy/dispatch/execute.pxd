from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.proto.row cimport Row

cdef int execute(ClientConn client, Row* row, uint32_t flags) except -1
