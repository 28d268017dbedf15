from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.msg.message cimport Msg, finish_t
from nutproxy.msg.parse cimport Parser
from nutproxy.msg.pieces cimport Builder

cdef struct Layout          # (forward)

# Writes the beginning of a part with this number of keys. Returns its size.
ctypedef size_t (*put_head_t)(char* target, const char* data, const Parser* parser,
                              const Layout* layout, size_t keys) noexcept

# Where the keys of a request are, and what a part is made of. The range of a key begins where the
# one before it ends, but at most `lead` bytes before its first argument. It ends `trail` bytes
# after its last one.
cdef struct Layout:
    size_t start            # where the request begins: bytes before that are not forwarded
    uint32_t first          # the argument that is the first key
    uint32_t step           # the arguments of a key: itself and its values
    uint32_t nkeys
    size_t lead
    size_t trail
    put_head_t put_head
    size_t head             # maximum bytes that it writes
    const char* tail        # the end of each part
    size_t tail_size
    size_t limit            # maximum bytes of a part: a server may get several. 0: no limit
    finish_t finish         # how the replies are merged
    bint ordered            # the merge needs to know which part has which key
    bint kept               # the merge reads the keys from the request
    bint rewritten          # the parts have another form than the request, which is never sent whole
    uint32_t part_flags
    int group               # split_parts sets it

# One part before it is made.
cdef struct Plan:
    uint32_t group
    uint32_t keys
    size_t size             # bytes that are copied to it

# A request that is being split.
cdef struct Split:
    const Layout* layout
    const char* data
    const Parser* parser
    size_t large            # a range of this size is not copied: the parts share the request's block
    uint32_t nkeys
    Plan* plans             # from 1 on. The builders and the groups are in the same block
    Builder* builders       # of the parts' requests
    uint32_t* groups        # by key: its group, later the number of its part
    uint32_t count          # of the parts
    uint32_t begun          # of the builders
    Msg* msg                # the command, until it is in the client's queue

cdef int split(ClientConn client, void* row, char* data, Parser* parser, const Layout* layout,
               uint32_t flags) except -1
cdef Msg* split_parts(ClientConn client, void* row, char* data, Parser* parser,
                      Layout* layout) except? NULL
