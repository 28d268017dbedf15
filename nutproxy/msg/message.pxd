from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

# The state of a message, and how its reply is handled.
cdef enum MsgFlag:
    MSG_DONE = 1            # its reply is complete: the client's queue may send it
    MSG_ERROR = 2           # its reply is an error: merging needs to know that of a part
    MSG_NOREPLY = 4         # the client wants no reply (CLIENT REPLY OFF or SKIP, noreply, q)
    MSG_WRITTEN = 8         # completely written to a server: waits for its reply
    MSG_RETRIED = 16        # has been moved to a new connection once
    MSG_CANCELLED = 32      # answered before it was written: the server's queue skips it
    MSG_TIMED = 64          # is in a deadline queue
    MSG_SHUTDOWN = 128      # SHUTDOWN: a server that closes the connection has obeyed
    MSG_QUIET = 512         # meta flag q: the reply is left out if it is one that q leaves out
    MSG_MISS = 1024         # on_dead_server: miss: if the server fails, the reply is a miss
    MSG_ANSWERED = 2048     # its reply came before all of it was written: no other is due
    MSG_FAILED = 4096       # no server has answered it, or a part of it
    MSG_REWORD = 8192       # a Memcached line that is rewritten in its plain form for the server
    MSG_ASIDE = 16384       # goes over a separate connection, because its server may be busy
    MSG_PIECES = 32768      # its reply is in `pieces`; rsp.length is their sum
    MSG_REQ_PIECES = 65536  # its request is in `pieces`; req.length is their sum
    MSG_BATCH = 131072      # MULTI, commands and EXEC: `replies` replies are due, the last one counts.
                            # Until then, MSG_ERROR says that one was an error: the first is in `rsp`
    MSG_BATCH_BEGUN = 262144    # the reply to MULTI has come
    MSG_UNGUARDED = 524288  # it was an error
    MSG_SEQUENCE = 1048576  # a batch without MULTI: its first error is the reply
    MSG_PUSH = 2097152      # a message of a subscription, in its client's queue only

# Bytes for small messages inside the message itself: the request first, its reply after it.
cdef enum:
    MSG_INLINE = 224

# A heap block that several bodies share. The last one frees it.
cdef struct Buffer:
    uint32_t refs
    size_t size
    char* data

cdef struct Body:
    char* data
    size_t length
    Buffer* buffer          # NULL: data is inside the message, or constant. BODY_OWN: data is a
                            # heap block that this body must free. Else data is in this buffer

# The bodies of a request or reply that has several. Each is dropped when it has been written.
cdef struct Pieces:
    Body* bodies
    uint32_t count
    uint32_t sent           # how many have been written

cdef struct Msg             # (forward)

# Who waits for a message: a client, or the command that it is a part of. `size` is in bytes.
cdef struct Owner:
    void (*answered)(Msg* msg, size_t size) noexcept    # its reply is complete; servers sent `size`
    void (*arrived)(Msg* msg, size_t size) noexcept     # so much of its reply has come, in parts
    bint (*refuses)(Msg* msg, size_t size) noexcept     # is a reply of this size to be dropped?
    bytes (*refusal)(Msg* msg, size_t size)             # the error reply instead; None without memory

# A command that was sent in parts, and how its reply is made from theirs. Owned by its message.
cdef struct Join:
    void (*part_done)(Msg* msg, Msg* part) noexcept     # a part has its reply
    int (*finish)(Msg* msg) except -1                   # all have: make the reply of `msg`
    Msg** parts
    uint32_t count
    uint32_t ndone
    size_t arrived          # bytes of the replies so far
    size_t max_arrived      # a reply that exceeds this together with them is dropped; 0: no limit
    uint32_t* sequence      # by key: the number of the part that has it; empty if that is not needed
    uint32_t nkeys
    int protover                # the protocol version that the reply is built in
    void* extra             # a reference: for merge_query, a function; else the list of the
                            # servers, if all of them got the same command

ctypedef int (*finish_t)(Msg* msg) except -1

cdef struct Msg:
    Msg* client_next        # in the client's omsg_q
    Msg* server_next        # in a server connection's imsg_q or omsg_q
    Msg* timeout_prev       # in its pool's deadline queue
    Msg* timeout_next
    const Owner* owner
    void* client            # for its owner: the client that waits; NULL once it has gone
    void* server            # the server connection whose queue it is in, or NULL
    void* row               # the command's row in the protocol's table; NULL for a reply of our own
    Msg* parent             # the command that this is a part of, or NULL
    Join* join              # set on a command that was sent in parts
    Pieces* pieces          # NULL without MSG_PIECES and MSG_REQ_PIECES. Never both: a command in
                            # parts has no request of its own
    int64_t start           # when it was queued, microseconds of the loop's clock
    int64_t deadline
    size_t charge           # its bytes in Conn.pending of its client
    size_t queued           # its bytes in the queue counters of its server: its length, or what
                            # its pieces keep in memory; 0 before
    uint32_t refs           # held by the client's queue or the parent, and by the server's queue
    uint32_t flags
    uint32_t hash           # of its key, as its route has computed it; 0 if that was not needed
    uint32_t key_at         # where its key is in `req`; 0 if it has none, or several, or not as it is
    uint32_t key_length
    uint32_t replies        # with MSG_BATCH
    Body req
    Body rsp
    uint32_t room           # bytes of inline space in use
    uint32_t opaque         # of a request in Memcached's binary protocol, as its client has sent it
    char inline_[MSG_INLINE]

# A place in a queue of replies: a message, and one of its pieces.
cdef struct Cursor:
    Msg* msg
    uint32_t piece

# A FIFO of messages, linked through one of the next pointers.
cdef struct MsgQueue:
    Msg* head
    Msg* tail
    size_t count

cdef Msg* msg_get() noexcept
cdef void msg_put(Msg* msg) noexcept
cdef char* msg_reserve(Msg* msg, Body* body, size_t length) noexcept
cdef int msg_copy(Msg* msg, Body* body, const char* data, size_t length) noexcept
cdef void msg_constant(Msg* msg, Body* body, const char* data, size_t length) noexcept
cdef void msg_take(Msg* msg, Body* body, char* data, size_t length) noexcept
cdef void msg_drop(Body* body) noexcept
cdef void heap_free(char* data, size_t length) noexcept
cdef bint msg_share(Body* body) noexcept
cdef void msg_view(Body* body, Body* shared, char* data, size_t length) noexcept
cdef void pieces_free(Msg* msg) noexcept
cdef Join* join_get(Msg* msg, uint32_t count, uint32_t nkeys) noexcept
cdef int messages_setup() noexcept
cdef void heap_freed(size_t size) noexcept
cdef int messages_trim() noexcept
cdef bint messages_turn(int64_t now) noexcept
cdef bint freed_enough() noexcept

cdef inline bint msg_awaited(Msg* msg) noexcept:
    """Is a client, or a command that it is a part of, still waiting for its reply?"""
    return not msg.flags & MSG_DONE and (msg.client is not NULL or msg.parent is not NULL)

cdef inline void client_append(MsgQueue* queue, Msg* msg) noexcept:
    msg.client_next = NULL
    if queue.tail is NULL:
        queue.head = msg
    else:
        queue.tail.client_next = msg
    queue.tail = msg
    queue.count += 1

cdef inline void client_insert(MsgQueue* queue, Msg* after, Msg* msg) noexcept:
    """Put a message into the queue after this one of it; NULL: at its head."""
    if after is queue.tail:
        client_append(queue, msg)
        return
    if after is NULL:
        msg.client_next = queue.head
        queue.head = msg
    else:
        msg.client_next = after.client_next
        after.client_next = msg
    queue.count += 1

cdef inline Msg* client_pop(MsgQueue* queue) noexcept:
    cdef Msg* msg = queue.head
    queue.head = msg.client_next
    if queue.head is NULL:
        queue.tail = NULL
    queue.count -= 1
    return msg

cdef inline void server_append(MsgQueue* queue, Msg* msg) noexcept:
    msg.server_next = NULL
    if queue.tail is NULL:
        queue.head = msg
    else:
        queue.tail.server_next = msg
    queue.tail = msg
    queue.count += 1

cdef inline Msg* server_pop(MsgQueue* queue) noexcept:
    cdef Msg* msg = queue.head
    queue.head = msg.server_next
    if queue.head is NULL:
        queue.tail = NULL
    queue.count -= 1
    return msg
