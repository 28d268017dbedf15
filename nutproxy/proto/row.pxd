# nutproxy/proto/row.pxd: a row of the command table, as the data path reads it

from libc.stdint cimport uint32_t

from nutproxy.msg.message cimport finish_t

cdef enum:
    ROW_NAME = 40
    ROW_SPECS = 3
    ROW_OPTIONS = 6

# One of Redis' key specifications: where the keys begin, and how to find the others.
cdef struct Spec:
    bint keyword            # begins after a keyword, else at a fixed position
    int pos                 # the position, or where the search for the keyword starts
    bint keynum             # an argument gives the number of keys, else the keys are a range
    int lastkey             # range: the last key, counted from the end when negative
    int step
    int limit               # range: only the first 1/limit of the remaining arguments
    int keynumidx           # keynum: position of the number, relative to the beginning
    int firstkey            # keynum: position of the first key, relative to the beginning
    bint skip_empty         # an empty argument is not a key; the keys are elsewhere
    bint last               # keyword: if it is repeated, the last one counts
    char word[16]

# An option whose values must not be mistaken for a keyword.
cdef struct Option:
    int values              # how many arguments follow it as its values
    bint pattern            # the value is a SORT pattern that forms names of keys
    char word[16]

cdef struct Row:
    void* protocol          # redis_protocol: see msg/protocol.pxd
    int number              # index in the table
    int arity               # words including the command; a minimum when negative
    int behaviour
    int operation           # Operation, for SESSION
    bint immediate          # is not queued in a transaction
    bint no_multi           # Redis refuses it in one
    finish_t finish         # how the replies to the parts are merged; NULL: there are no parts.
                            # In a pool of several servers a command without keys is then refused
    bint repeats            # split: the arguments before or after the keys go into every part
    bint by_key             # the reply has an element for each key, in their order
    int key                 # position of the only key; 0 when specs must be evaluated
    int specs               # -1: the command has no keys
    int refused_in          # bit mask of the States in which it is refused
    int opens               # the State that its refusal opens, or 0
    bint container          # has subcommands
    bint open               # has subcommands without a row: they use the container's
    bint sized              # the servers are asked for DBSIZE too, for merge_by_size
    bint partial            # its parts change data; the error reply says that some may be applied
    bint shutdown           # a closed server connection means success
    uint32_t max_args       # a longer request is refused
    size_t max_bytes
    bint patterns           # has options that are patterns
    bint aside              # allowed while the server is busy with a script
    char option[16]         # the command waits with this option, whose value is the timeout
    size_t length
    char name[ROW_NAME]
    Spec spec[ROW_SPECS]
    int noptions
    Option options[ROW_OPTIONS]
    bint writes             # CLIENT PAUSE WRITE delays it
    bint reads              # has keys, and may be among those that a server tracks
    int timeout_at          # the argument with the timeout, from the end if negative; 0: see `option`
    bint timeout_msec       # it is in milliseconds, not in seconds
