from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

cdef list words_of(const char* data, Parser* parser, uint32_t count, size_t length)
cdef list first_words(const char* data, Parser* parser)
cdef int too_long(ClientConn client, Row* row, Parser* parser, uint32_t flags) except -1
