from libc.stdint cimport int64_t

from nutproxy.msg.parse cimport Limits, Parser

cdef enum:
    ARGS_MAX = 1048576      # arguments of one command, as in Redis before 7.0: a table of 16 MB

cdef enum RequestState:
    REQ_START = 0           # the first byte decides the kind of request
    REQ_LENGTH              # the length line of an argument
    REQ_BULK                # an argument's bytes
    REQ_LINE                # an inline command

cdef enum ReplyState:
    RSP_START = 0
    RSP_ELEMENT             # the first byte of an element
    RSP_BULK                # a bulk's bytes

cdef int redis_parse_req(Parser* parser, const Limits* limits, const char* data,
                         size_t length) noexcept
cdef int redis_parse_rsp(Parser* parser, const Limits* limits, const char* data,
                         size_t length) noexcept
cdef int parser_arg(Parser* parser, size_t offset, size_t length) noexcept
cdef size_t put_length(char* target, char kind, int64_t value) noexcept
cdef bint read_integer(const char* data, long long* value) noexcept
cdef int64_t read_length(const char* data, size_t* pos) noexcept

cdef inline size_t short_bulk(const char* data, size_t left) noexcept:
    """The total size of the bulk string below 100 bytes, or of the null, that starts here. Returns
    0 for anything else and if it is incomplete. Most arguments and elements take this path."""
    cdef unsigned int tens, ones
    cdef size_t size
    if left < 5 or data[0] != c'$':
        return 0
    tens = <unsigned char> data[1] - <unsigned int> 48
    if data[2] == c'\r':
        if tens > 9 or data[3] != c'\n':
            return 0
        size = 6 + tens
    else:
        ones = <unsigned char> data[2] - <unsigned int> 48
        if data[3] != c'\r' or data[4] != c'\n':
            return 0
        if data[1] == c'-' and ones == 1:
            return 5
        if tens == 0 or tens > 9 or ones > 9:
            return 0
        size = 7 + tens * 10 + ones
    if size > left or data[size - 2] != c'\r' or data[size - 1] != c'\n':
        return 0
    return size
