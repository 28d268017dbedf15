from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Parser, parse_t

ctypedef int (*miss_t)(Msg* msg) except -1
ctypedef bint (*too_new_t)(Msg* msg) noexcept
ctypedef bint (*fits_t)(Msg* msg, const char* data, Parser* parser) noexcept
# The client role's recv_done and recv_error (conn.pxd): a ClientConn is passed.
ctypedef int (*dispatch_t)(object client, char* data, Parser* parser) except -1
ctypedef int (*refuse_t)(object client, Parser* parser) except -1
ctypedef int (*choose_t)(object client, char first) except -1

cdef class Protocol:
    cdef readonly str name             # Redis or Memcached
    cdef public object handshake       # makes the handshake of a server: see handshake.py
    cdef public tuple commands         # their names, in the order of the rows
    cdef readonly tuple other          # the other protocol, and its value of `redis`

    # Requests.
    cdef parse_t parse_request
    cdef dispatch_t dispatch           # a request is complete
    cdef dispatch_t authenticate       # the same for clients that have to do that; NULL for Redis
    cdef dispatch_t dispatch_large     # the same for LARGE_MIN bytes and more; or NULL
    cdef refuse_t refuse               # the input is not a request, or is ended with parser.error
    cdef choose_t choose               # a new client's first byte has come; or NULL

    # Replies.
    cdef parse_t parse_reply
    cdef fits_t fits                   # can it be the reply to this request? NULL: always
    cdef too_new_t too_new             # would an old server misread this request? NULL: there is none
    cdef miss_t miss                   # gives a request the reply of a server without the key; or NULL
    cdef bint kind_byte                # its first byte tells its kind: the rest of a line can be dropped
    cdef bint reads_on                 # a server reads the rest of a request that it has refused

    # Error replies, from proto/error_table.py; complete unless said otherwise.
    cdef readonly object error         # error(key, *words): makes one
    cdef readonly bytes memory_error
    cdef const char* out_of_memory     # the same
    cdef const char* internal_error
    cdef tuple kept                    # keeps the texts alive
    cdef readonly bytes too_many_clients         # to a client beyond the limit on clients
    cdef const char* stalled           # for `refuse`: an unfinished request that does not go on
    cdef const char* too_much          # for `refuse`: unfinished requests that are too large

cdef inline Protocol protocol_of(Msg* msg):
    """The protocol of a message that has a row. Every row begins with a pointer to its protocol."""
    return <Protocol> (<void**> msg.row)[0]
