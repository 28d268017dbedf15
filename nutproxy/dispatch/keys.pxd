from libc.stdint cimport uint32_t

from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row
from nutproxy.proto.table cimport CustomRows
from nutproxy.route cimport Route

cdef enum:
    # Maximum bytes of a key that is hashed: 1 to 2 ms.
    KEY_MAX = 1048576
    # Maximum bytes of all keys of a request, which are hashed and copied in one turn: 20 ms. Enough
    # for the largest number of keys that is split, with 64 bytes each.
    KEYS_MAX = 16777216

# The row of a request; NULL if it is unknown.
cdef Row* row_of(CustomRows custom, const char* data, Parser* parser) noexcept
cdef uint32_t* find_keys(Row* row, const char* data, Parser* parser, int* count) noexcept
cdef void release_keys(uint32_t* keys) noexcept
cdef void measure_keys(CustomRows custom, const char* data, Parser* parser, size_t* longest,
                       size_t* total) noexcept
cdef bytes stray_pattern(Route route, Row* row, char* data, Parser* parser, int group)
cdef uint32_t find_option(Row* row, const char* data, Parser* parser) noexcept
