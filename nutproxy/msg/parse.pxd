# nutproxy/msg/parse.pxd: what a protocol's parser keeps while a message is only partly there.
#
# All offsets count from the first byte of the message, wherever its bytes lie, so a message may move
# from the receive scratch to a buffer of its own between two calls. `pos` only grows: bytes before it
# are never looked at again, and bytes between `pos` and `scan` have been searched for a line end.

from libc.stdint cimport int64_t, uint32_t

cdef enum ParseResult:
    PARSE_OK = 0            # a whole message: it ends at pos
    PARSE_AGAIN             # more bytes are needed
    PARSE_SKIP              # bytes up to pos mean nothing (an empty line): drop them
    PARSE_ERROR             # broken framing: error says why

cdef struct Arg:
    size_t offset           # of its first byte, behind the length line
    size_t length

cdef struct Parser:
    int state
    size_t pos
    size_t scan
    size_t need             # the message is at least this long; 0 while unknown
    int64_t rest            # request: arguments to come; reply: elements to come
    int64_t length          # of the bulk that is being received
    Arg* argv               # requests: the arguments so far
    uint32_t argc
    uint32_t argv_room
    char kind               # replies: what they are; memcached requests: the command
    bint line               # request came as an inline command
    uint32_t flags          # memcached requests: flags for their message
    const char* error       # what is wrong, in the protocol's words; memcached: the reply to it
    char error_char         # the byte that error's %c stands for

cdef inline void parser_reset(Parser* parser) noexcept:
    parser.state = 0
    parser.pos = 0
    parser.scan = 0
    parser.need = 0
    parser.rest = 0
    parser.length = 0
    parser.argc = 0
    parser.kind = 0
    parser.line = False
    parser.flags = 0
    parser.error = NULL
