from libc.stdint cimport uint32_t

from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Option, Row

# What the proxy does with a command, in the order of proto.commands.Behaviour.
cdef enum Behaviour:
    FORWARD = 0
    SPLIT
    ALL
    ANY
    LOCAL
    ADMIN
    UNSUPPORTED
    SESSION
    CURSOR
    ONE

# proto.commands.Operation
cdef enum Operation:
    OP_NONE = 0
    OP_MULTI
    OP_EXEC
    OP_DISCARD
    OP_WATCH
    OP_UNWATCH
    OP_BLOCK
    OP_WAIT
    OP_SUBSCRIBE = 20
    OP_PSUBSCRIBE
    OP_SSUBSCRIBE
    OP_UNSUBSCRIBE
    OP_PUNSUBSCRIBE
    OP_SUNSUBSCRIBE
    OP_PUBLISH
    OP_SPUBLISH
    OP_PUBSUB
    OP_RUN_TEXT = 40
    OP_RUN_SCRIPT = 41
    OP_RUN_FUNCTION = 42
    OP_LOAD_SCRIPT = 43
    OP_LOAD_FUNCTION = 44
    OP_FORGET_SCRIPTS = 45
    OP_FORGET_FUNCTIONS = 46

# What a client can subscribe to.
cdef enum SubscriptionKind:
    CHANNEL = 0
    PATTERN
    SHARD                   # a shard channel
    KINDS

# States of a client in which commands are refused. The values are those of proto.commands.State.
cdef enum State:
    STATE_AUTH = 1
    STATE_TRANSACTION = 2
    STATE_SUBSCRIPTION = 8
    STATE_MULTI = 64
    STATE_PAUSE = 128
    STATE_SUBSCRIBED = 256

# The rows of commands that one pool has in addition: its custom_commands.
cdef class CustomRows:
    cdef Row* rows
    cdef int count
    cdef readonly int first            # the number of the first row

    # The row of a command, or NULL if it is unknown here, too.
    cdef Row* find(self, const char* name, size_t length) noexcept

cdef void rows_belong_to(void* protocol) noexcept
cdef Row* row_find(const char* name, size_t length) noexcept
cdef Row* row_find_sub(Row* row, const char* name, size_t length) noexcept
cdef int row_keys(Row* row, Parser* parser, const char* data, uint32_t* keys,
                  uint32_t room) noexcept
cdef Option* option_at(Row* row, Parser* parser, const char* data, long long index) noexcept
cdef bint same_word(const char* data, size_t length, const char* word) noexcept
