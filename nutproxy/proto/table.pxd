from libc.stdint cimport uint32_t

from nutproxy.msg.message cimport Merge
from nutproxy.msg.parse cimport Arg, Parser

# What the proxy does with a command. The order is that of proto.commands.Behaviour.
cdef enum Behaviour:
    FORWARD = 0
    SPLIT
    ALL
    ANY
    LOCAL
    ADMIN
    UNSUPPORTED

# What keeps a client's commands from being carried out: proto.commands.State.
cdef enum State:
    STATE_AUTH = 1
    STATE_TRANSACTION = 2
    STATE_SUBSCRIPTION = 8

cdef enum:
    ROW_NAME = 40
    ROW_SPECS = 3
    ROW_OPTIONS = 4

# One of Redis' key specifications: where keys begin, and how to find the rest of them.
cdef struct Spec:
    bint keyword            # begins behind a keyword, else at a fixed position
    int pos                 # begin: the position, or where the search for the keyword starts
    bint keynum             # the number of keys is an argument, else a range
    int lastkey             # range: last key, from the end when negative
    int step
    int limit               # range: only the first 1/limit of what is left
    int keynumidx           # keynum: where the number stands, from the beginning
    int firstkey            # keynum: where the first key stands
    bint skip_empty         # an empty argument here says that the keys are elsewhere
    bint last               # keyword: of several, the last counts
    char word[16]

# An option whose values must not be taken for a keyword.
cdef struct Option:
    int values              # arguments after it that belong to it
    bint pattern            # the value is a pattern of SORT, which forms names of keys
    char word[16]

cdef struct Row:
    int number              # its place in the table
    int arity               # command words included; at least so many when negative
    int behaviour
    Merge merge
    int key                 # the only key stands here; 0 when specs must be evaluated
    int specs               # -1: the command has no keys
    int refused_in             # refused in these States
    int opens               # the State that its refusal opens, or 0
    bint container          # has subcommands
    bint open               # ... and some that are not in the table: the container's row is theirs
    bint partial            # its parts change data: an error says so
    bint shutdown           # a server that closes the connection has done as it was told
    uint32_t max_args       # a longer request is refused
    size_t max_bytes
    bint patterns           # has options that are patterns
    bint aside              # is for a server that is busy with a script
    char option[16]         # refused with this option
    size_t length
    char name[ROW_NAME]
    Spec spec[ROW_SPECS]
    int noptions
    Option options[ROW_OPTIONS]

cdef Row* row_find(const char* name, size_t length) noexcept
cdef Row* row_find_sub(Row* row, const char* name, size_t length) noexcept
cdef int row_keys(Row* row, Parser* parser, const char* data, uint32_t* keys,
                  uint32_t room) noexcept
cdef Option* option_at(Row* row, Parser* parser, const char* data, long long index) noexcept
cdef bint same_word(const char* data, size_t length, const char* word) noexcept
