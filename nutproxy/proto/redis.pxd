from libc.stdint cimport int64_t

from nutproxy.conn cimport Conn
from nutproxy.msg.parse cimport Parser

cdef enum RequestState:
    REQ_START = 0           # nothing but the first byte says what this is
    REQ_LENGTH              # the length line of an argument
    REQ_BULK                # an argument's bytes
    REQ_LINE                # an inline command

cdef enum ReplyState:
    RSP_START = 0
    RSP_ELEMENT             # the first byte of an element
    RSP_BULK                # a bulk's bytes

cdef int redis_parse_req(Conn conn, Parser* parser, const char* data, size_t length) noexcept
cdef int redis_parse_rsp(Conn conn, Parser* parser, const char* data, size_t length) noexcept
cdef int parser_arg(Parser* parser, size_t offset, size_t length) noexcept
cdef size_t put_length(char* target, char kind, int64_t value) noexcept
cdef int64_t read_length(const char* data, size_t* pos) noexcept

cdef class Framer:
    cdef Conn conn
    cdef Parser parser
    cdef bint requests
    cdef bytes buffer
