# nutproxy/msg/parse.pxd: the state of a parser while a message is incomplete.
#
# All offsets count from the first byte of the message, so the message may move from the receive
# scratch to another buffer between two calls. `pos` only grows: bytes before it are never parsed
# again, and bytes between `pos` and `scan` have been searched for the end of a line.

from libc.stdint cimport int64_t, uint32_t

cdef enum ParseResult:
    PARSE_OK = 0            # a whole message: it ends at pos
    PARSE_AGAIN             # more bytes are needed
    PARSE_SKIP              # bytes up to pos have no meaning (an empty line): drop them
    PARSE_SWALLOW           # a whole message, which is refused: drop the `rest` bytes after it too
    PARSE_ERROR             # broken framing: error says why
    PARSE_OTHER             # the connection's protocol is not known yet: nothing has been parsed

# The limits of a request parser. Before AUTH, those of Redis requests are lower.
cdef struct Limits:
    int64_t args            # arguments of a command
    int64_t bulk            # bytes of an argument or of a value
    int64_t bulk_later      # what `bulk` becomes after AUTH
    size_t request          # bytes of a whole request

cdef struct Arg:
    size_t offset           # of its first byte, after the length line
    size_t length

cdef struct Parser:
    int state
    size_t pos
    size_t scan
    size_t need             # the message is at least this long; 0 while unknown
    int64_t rest            # requests: arguments to come; replies: elements to come;
                            # PARSE_SWALLOW: bytes to drop
    int64_t length          # of the bulk that is being received
    Arg* argv               # requests: the arguments so far
    uint32_t argc
    uint32_t argv_room
    char kind               # replies: their type; Memcached requests: the command
    bint line               # the request is an inline command
    uint32_t flags          # Memcached requests: flags for their message
    const char* error       # Redis: the text of the error; Memcached: the whole error reply
    char error_char         # the byte for the %c in error

# Parses `length` bytes, all that has arrived of a message and of those after it. A parser of replies
# has no limits of its own and ignores them.
ctypedef int (*parse_t)(Parser* parser, const Limits* limits, const char* data,
                        size_t length) noexcept

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
