from libc.stdint cimport uint32_t

from nutproxy.msg.parse cimport Arg, Limits, Parser

# In the order of memcache_commands.Kind.
cdef enum CommandKind:
    GET = 0
    GAT
    STORE
    KEY
    META
    META_STORE
    ALL
    LOCAL
    UNSUPPORTED

# In the order of memcache_commands.Reply, which does not include errors.
cdef enum ReplyForm:
    REPLY_NONE = 0
    REPLY_VALUES
    REPLY_STATS
    REPLY_NUMBER
    REPLY_STORED
    REPLY_NOT_STORED
    REPLY_EXISTS
    REPLY_NOT_FOUND
    REPLY_DELETED
    REPLY_TOUCHED
    REPLY_OK
    REPLY_RESET
    REPLY_VERSION
    REPLY_VA
    REPLY_HD
    REPLY_EN
    REPLY_NS
    REPLY_EX
    REPLY_NF
    REPLY_ME
    REPLY_ERROR = 45        # '-', the same value as for a Redis error

cdef enum RequestState:
    MC_LINE = 0             # the command line
    MC_DATA                 # its data block

cdef enum ReplyState:
    MC_REPLY = 0            # a line
    MC_VALUE                # the data of a value; further lines follow
    MC_LAST_VALUE           # the data of a value that ends the reply

cdef enum:
    COMMAND_NAME = 16

cdef struct Command:
    void* protocol          # memcache_protocol: see msg/protocol.pxd
    int number              # index in the table
    int kind
    uint32_t min_words
    uint32_t max_words      # 0: no limit
    bint noreply
    uint32_t replies        # bit mask: the forms of reply that it can get
    uint32_t quiet          # bit mask: the forms that the flag q suppresses
    size_t length
    char name[COMMAND_NAME]

cdef Command* commands               # the table

cdef void commands_belong_to(void* protocol) noexcept
cdef int memcache_parse_req(Parser* parser, const Limits* limits, const char* data,
                            size_t length) noexcept
cdef int memcache_parse_rsp(Parser* parser, const Limits* limits, const char* data,
                            size_t length) noexcept
cdef Command* command_of(Parser* parser) noexcept
cdef int command_find(const char* name, size_t length) noexcept
cdef bint is_word(const char* data, Arg* arg, const char* word, size_t length) noexcept
cdef bint value_line(const char* line, size_t length, size_t* key, size_t* size) noexcept
cdef bint value_numbers(const char* line, size_t start, size_t length, size_t* size) noexcept
cdef size_t base64_decode(const char* data, size_t length, char* target) noexcept
