from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Limits, Parser
from nutproxy.proto.memcache cimport Command

cdef enum:
    HEADER = 24             # bytes
    MAGIC_REQUEST = 0x80
    MAGIC_RESPONSE = 0x81
    OPCODES = 256           # as many as a byte has; few are known
    LINE_ROOM = 512         # the longest line of text that a request becomes, with a key of 250 bytes

# In the order of binary_commands.Form.
cdef enum BinaryForm:
    BIN_GET = 0
    BIN_GAT
    BIN_TOUCH
    BIN_STORE
    BIN_DELETE
    BIN_COUNT
    BIN_FLUSH
    BIN_LOCAL
    BIN_SASL

cdef enum:
    OP_DELETE = 0x04
    OP_INCREMENT = 0x05
    OP_QUIT = 0x07
    OP_NOOP = 0x0a
    OP_VERSION = 0x0b
    OP_GETQ = 0x09
    OP_GETKQ = 0x0d
    OP_STAT = 0x10
    OP_SASL_LIST = 0x20
    OP_SASL_AUTH = 0x21

# binary_commands.Status
cdef enum:
    STATUS_OK = 0x00
    STATUS_NOT_FOUND = 0x01
    STATUS_EXISTS = 0x02
    STATUS_TOO_LARGE = 0x03
    STATUS_INVALID = 0x04
    STATUS_NOT_STORED = 0x05
    STATUS_NOT_A_NUMBER = 0x06
    STATUS_AUTH = 0x20
    STATUS_UNKNOWN = 0x81
    STATUS_NO_MEMORY = 0x82
    STATUS_NOT_SUPPORTED = 0x83
    STATUS_INTERNAL = 0x84
    STATUS_TEMPORARY = 0x86

# What a request with this opcode looks like.
cdef struct Shape:
    bint known
    int form
    int extras              # its length
    int other_extras        # another one, or the same
    bint needs_key
    bint no_key
    bint value
    bint quiet
    bint keyed
    int denied              # the number of the text command that deny_commands names; -1: none
    int loud                # the opcode without `quiet`
    char mode               # of ms and ma: S, E, R, A, P, I, D

# The row of a message that was a binary request: that of the text command which is sent for it.
cdef struct BinaryRow:
    Command command
    int opcode

cdef Shape[OPCODES] shapes
cdef BinaryRow[OPCODES] as_text     # gets and gats, and what is not meta
cdef BinaryRow[OPCODES] as_meta

cdef void binary_rows_belong_to(void* protocol) noexcept
cdef int binary_parse_first(Parser* parser, const Limits* limits, const char* data,
                            size_t length) noexcept
cdef int binary_parse_req(Parser* parser, const Limits* limits, const char* data,
                          size_t length) noexcept
cdef bint is_text_key(const char* key, size_t length) noexcept
cdef size_t base64_encode(const char* data, size_t length, char* target) noexcept
cdef size_t put_number(char* target, uint64_t number) noexcept

cdef inline uint32_t load16(const char* data) noexcept:
    return (<uint8_t> data[0] << 8) | <uint8_t> data[1]

cdef inline uint32_t load32(const char* data) noexcept:
    return (load16(data) << 16) | load16(data + 2)

cdef inline uint64_t load64(const char* data) noexcept:
    return (<uint64_t> load32(data) << 32) | load32(data + 4)

cdef inline void store32(char* target, uint32_t number) noexcept:
    target[0] = <char> (number >> 24)
    target[1] = <char> (number >> 16)
    target[2] = <char> (number >> 8)
    target[3] = <char> number

cdef inline void store64(char* target, uint64_t number) noexcept:
    store32(target, <uint32_t> (number >> 32))
    store32(target + 4, <uint32_t> number)

cdef inline void put_header(char* target, int opcode, size_t key, size_t extras, int status,
                            size_t body, uint32_t opaque, uint64_t cas) noexcept:
    """Write the header of a response. `body` is the length of extras, key and value together."""
    target[0] = <char> MAGIC_RESPONSE
    target[1] = <char> opcode
    target[2] = 0
    target[3] = <char> key
    target[4] = <char> extras
    target[5] = 0
    target[6] = 0
    target[7] = <char> status
    store32(target + 8, <uint32_t> body)
    store32(target + 12, opaque)
    store64(target + 16, cas)
