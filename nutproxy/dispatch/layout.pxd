from libc.stdint cimport uint32_t

from nutproxy.dispatch.split cimport Layout
from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

cdef enum Found:
    LAID_OUT = 0            # the layout is set
    TOGETHER                # is not split: all keys must be on one server
    AS_IT_IS                # cannot be split: a server says what is wrong with it
    REFUSED                 # has been answered with an error

# How a request with keys on several servers is split.
cdef int lay_out(ClientConn client, Row* row, char* data, Parser* parser, Layout* layout,
                 uint32_t flags) except -1
