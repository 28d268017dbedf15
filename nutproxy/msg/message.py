# nutproxy/msg/message.py: one request and its reply
"""Messages and their owners.

A Msg is a request from the moment it has been parsed until its reply has been sent:

                     client_next                        server_next
    client.omsg_q ─> Msg ─> Msg ─> Msg     server.imsg_q ─> Msg     (to be written)
                                           server.omsg_q ─> Msg     (waits for its reply)

It is in its client's queue, which keeps replies in order, and at the same time in one queue of a
server connection. Each of the two holds a reference, and releasing the last one frees the message.
When a client leaves, it releases its reference early. The server's queue keeps the message, so that
the reply that still comes is paired with its own request and no other.

A command for several servers is a parent in the client's queue. Its parts are in the servers'
queues, and the parent holds them until their replies have been merged.

Bytes: a body is inside the message if there is room, else in a heap block of its own (possibly the
block that it was received into), or it is a constant. If other bodies need bytes of a block, they
share it as a Buffer: the parts of a command that is sent to every server, and the pieces of a large
request or reply (pieces.py). The last one frees it. A request keeps its bytes until its reply has
come.

A message is never passed from one worker to another, so nothing here is locked. Freed messages are
kept in a free list.

After a burst all memory is returned, and no turn of the loop takes long over it. A turn frees as
many bytes as it takes for new messages, and about FREE_PER_TURN more. Further messages wait in a
list for the next turns (`messages_turn`), which therefore does not grow under a steady load. The
heap returns its pages each time enough has been freed, so there are never many to return at once.
"""

import cython
from cython.cimports.cpython.object import PyObject
from cython.cimports.cpython.ref import Py_XDECREF
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.nutproxy.csys import (
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    MADV_DONTNEED,
    madvise,
    mallinfo2,
    malloc_trim,
    mallopt,
)

# No buffer: it says that a body has a heap block of its own.
BODY_OWN = cython.declare(cython.pointer(Buffer), cython.cast(cython.pointer(Buffer), 1))

free_list = cython.declare(cython.pointer(Msg), cython.NULL)
free_count = cython.declare(cython.size_t, 0)
live_count = cython.declare(cython.size_t, 0)
freed_bytes = cython.declare(cython.size_t, 0)
# Messages that wait to be freed in a later turn.
dead_list = cython.declare(cython.pointer(Msg), cython.NULL)
# What freed_bytes may reach in this turn. Outside of a loop there is no limit.
NO_LIMIT = cython.declare(cython.size_t, 1 << 62)
free_until = cython.declare(cython.size_t, 1 << 62)
# What freed_bytes was when the heap was last looked at.
looked_at = cython.declare(cython.size_t, 0)
# When the heap last returned pages: in milliseconds, and what freed_bytes was.
trimmed_at = cython.declare(cython.longlong, 0)
trimmed = cython.declare(cython.size_t, 0)

# Messages kept for reuse: twice as many as 50 clients with pipelines of 16 have in flight.
FREE_MAX = cython.declare(cython.size_t, 2048)
# Bytes freed before the heap is asked to return pages to the system: once a second, and within a
# burst if the heap has TRIM_FREE free bytes. Returning 64 MB takes 4 ms.
TRIM_AFTER = cython.declare(cython.size_t, 4 << 20)
TRIM_AT_ONCE = cython.declare(cython.size_t, 32 << 20)
TRIM_FREE = cython.declare(cython.size_t, 64 << 20)
# Milliseconds between two such requests, unless messages wait to be freed.
TRIM_APART = cython.declare(cython.longlong, 100)
# Bytes freed in a turn: 3 ms if the messages are small. Larger blocks are freed piece by piece.
FREE_PER_TURN = cython.declare(cython.size_t, 16 << 20)
PAGE = cython.declare(cython.size_t, 4096)
# In bytes. Blocks smaller than HEAP_BLOCK come from the heap and not from mmap, and up to HEAP_KEEP
# of freed memory stays at its end. By default malloc returns the pages of every value of 1 MB and
# requests them again, and the system clears them each time.
HEAP_BLOCK = cython.declare(cython.int, 32 << 20)
HEAP_KEEP = cython.declare(cython.int, 64 << 20)


def msg_get():
    """An empty message with one reference, or NULL when memory has run out."""
    global free_list, free_count, live_count, free_until
    msg: cython.pointer(Msg) = free_list
    if msg is not cython.NULL:
        free_list = msg.client_next
        free_count -= 1
    else:
        msg = cython.cast(cython.pointer(Msg), malloc(cython.sizeof(Msg)))
        if msg is cython.NULL:
            return cython.NULL
        free_until += cython.sizeof(Msg)
    # All but the inline bytes, which are written before they are read.
    memset(msg, 0, cython.sizeof(Msg) - MSG_INLINE)
    msg.refs = 1
    live_count += 1
    return msg


def msg_put(msg):
    """Release one reference; the last one frees the message, its bytes and its parts."""
    global dead_list
    msg.refs -= 1
    if msg.refs > 0:
        return
    # freed_enough, without the call.
    if freed_bytes >= free_until and msg.join is cython.NULL:
        msg.client_next = dead_list
        dead_list = msg
    else:
        msg_free(msg)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def msg_free(msg: cython.pointer(Msg)) -> cython.void:
    global free_list, free_count, live_count, freed_bytes
    msg_drop(cython.address(msg.req))
    msg_drop(cython.address(msg.rsp))
    if msg.join is not cython.NULL:
        join_free(msg.join)
    if msg.pieces is not cython.NULL:
        pieces_free(msg)
    live_count -= 1
    if free_count < FREE_MAX:
        msg.client_next = free_list
        free_list = msg
        free_count += 1
    else:
        freed_bytes += cython.sizeof(Msg)
        free(msg)


def msg_reserve(msg, body, length):
    """Make room for a body of `length` bytes; NULL when memory has run out. Its old bytes are
    dropped."""
    global free_until
    msg_drop(body)
    if length <= MSG_INLINE - msg.room:
        body.data = cython.address(msg.inline_[0]) + msg.room
        msg.room += length
    else:
        body.data = cython.cast(cython.p_char, malloc(length))
        if body.data is cython.NULL:
            return cython.NULL
        body.buffer = BODY_OWN
        free_until += length
    body.length = length
    return body.data


def msg_copy(msg, body, data, length):
    """Set a body to a copy of these bytes; -1 when memory has run out."""
    target: cython.p_char = msg_reserve(msg, body, length)
    if target is cython.NULL:
        return -1
    memcpy(target, data, length)
    return 0


def msg_constant(msg, body, data, length):
    """Set a body to constant bytes, which must outlive every message."""
    msg_drop(body)
    body.data = cython.cast(cython.p_char, data)
    body.length = length


def msg_take(msg, body, data, length):
    """Set a body to this heap block, which the message owns from now on."""
    global free_until
    msg_drop(body)
    body.data = data
    body.length = length
    body.buffer = BODY_OWN
    # A larger block was received in many turns.
    free_until += min(length, FREE_PER_TURN)


def msg_drop(body):
    """Free the bytes of a body and empty it: for example a request's, once its reply has come."""
    if body.buffer is not cython.NULL:
        if body.buffer == BODY_OWN:
            heap_free(body.data, body.length)
        else:
            buffer_put(body.buffer)
    body.data = cython.NULL
    body.length = 0
    body.buffer = cython.NULL


def heap_free(data, length):
    """Free a block of `length` bytes, or NULL, and count it: `messages_trim` returns its pages. The
    system needs 0.1 ms for each MB of a large block, so that one is left to later turns."""
    global freed_bytes
    if data is cython.NULL:
        return
    if length > 2 * FREE_PER_TURN and free_until < NO_LIMIT and free_later(data, length):
        return
    freed_bytes += length
    free(data)


@cython.cfunc
@cython.exceptval(check=False)
def free_later(data: cython.p_char, length: cython.size_t) -> cython.bint:
    """Put the block on the list of messages to be freed. False without memory for that."""
    global dead_list
    holder: cython.pointer(Msg) = msg_get()
    if holder is cython.NULL:
        return False
    holder.refs = 0
    holder.rsp.data = data
    holder.rsp.length = length
    holder.rsp.buffer = BODY_OWN
    holder.client_next = dead_list
    dead_list = holder
    return True


def msg_share(body):
    """Let other bodies point into the block of this one. False when memory has run out."""
    buffer: cython.pointer(Buffer)
    if body.buffer != BODY_OWN:
        return True
    buffer = cython.cast(cython.pointer(Buffer), malloc(cython.sizeof(Buffer)))
    if buffer is cython.NULL:
        return False
    buffer.refs = 1
    buffer.size = body.length
    buffer.data = body.data
    body.buffer = buffer
    return True


def msg_view(body, shared, data, length):
    """Set a body to bytes of a shared one, or of a constant."""
    msg_drop(body)
    body.data = data
    body.length = length
    body.buffer = shared.buffer
    if body.buffer is not cython.NULL:
        body.buffer.refs += 1


@cython.cfunc
@cython.exceptval(check=False)
def buffer_put(buffer: cython.pointer(Buffer)) -> cython.void:
    buffer.refs -= 1
    if buffer.refs == 0:
        heap_free(buffer.data, buffer.size)
        free(buffer)


def pieces_free(msg):
    """Drop the pieces of a message that have not been written."""
    index: cython.uint
    for index in range(msg.pieces.sent, msg.pieces.count):
        msg_drop(cython.address(msg.pieces.bodies[index]))
    free(msg.pieces.bodies)
    free(msg.pieces)
    msg.pieces = cython.NULL
    msg.flags &= ~(MSG_PIECES | MSG_REQ_PIECES)


def join_get(msg, count, nkeys):
    """Give a message `count` parts, which have no bytes yet, and room for the sequence of its keys.
    NULL when memory has run out: the caller then releases the message."""
    join: cython.pointer(Join)
    head: cython.size_t = cython.sizeof(Join) + count * cython.sizeof(cython.pointer(Msg))
    index: cython.uint
    join = cython.cast(cython.pointer(Join), calloc(1, head + nkeys * cython.sizeof(cython.uint)))
    if join is cython.NULL:
        return cython.NULL
    msg.join = join
    join.parts = cython.cast(
        cython.pointer(cython.pointer(Msg)),
        cython.cast(cython.p_char, join) + cython.sizeof(Join),
    )
    join.sequence = cython.cast(cython.pointer(uint32_t), cython.cast(cython.p_char, join) + head)
    join.count = count
    join.nkeys = nkeys
    for index in range(count):
        join.parts[index] = msg_get()
        if join.parts[index] is cython.NULL:
            return cython.NULL
        join.parts[index].parent = msg
        join.parts[index].row = msg.row
    return join


@cython.cfunc
@cython.exceptval(check=False)
def join_free(join: cython.pointer(Join)) -> cython.void:
    index: cython.uint
    for index in range(join.count):
        if join.parts[index] is not cython.NULL:
            join.parts[index].parent = cython.NULL
            msg_put(join.parts[index])
    Py_XDECREF(cython.cast(cython.pointer(PyObject), join.extra))
    free(join)


def messages_setup():
    """Configure malloc, once per process: pages are returned by `messages_trim` and not by every
    `free`."""
    mallopt(M_MMAP_THRESHOLD, HEAP_BLOCK)
    return mallopt(M_TRIM_THRESHOLD, HEAP_KEEP)


def heap_freed(size):
    """Count `size` bytes that another module has freed."""
    global freed_bytes
    freed_bytes += size


def freed_enough():
    """Has this turn freed as much as it should? Then leave the rest to the next one."""
    return freed_bytes >= free_until


def messages_turn(now):
    """At the end of a turn: free waiting messages, and return pages of the heap if there are many.
    Returns whether more messages wait. `now` is in milliseconds."""
    global dead_list, free_until, looked_at, trimmed_at, trimmed
    msg: cython.pointer(Msg)
    free_until = freed_bytes + FREE_PER_TURN
    while dead_list is not cython.NULL and freed_bytes < free_until:
        msg = dead_list
        if shrink(cython.address(msg.req)) or shrink(cython.address(msg.rsp)):
            break
        dead_list = msg.client_next
        msg_free(msg)
    if freed_bytes - looked_at >= TRIM_AT_ONCE and (
        dead_list is not cython.NULL or now - trimmed_at >= TRIM_APART
    ):
        looked_at = freed_bytes
        if mallinfo2().fordblks >= TRIM_FREE:
            trimmed_at = now
            trimmed = freed_bytes
            malloc_trim(0)
    free_until = freed_bytes + FREE_PER_TURN
    return dead_list is not cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def shrink(body: cython.pointer(Body)) -> cython.bint:
    """Return the last pages of a large block before it is freed. Returns False once it is small."""
    end: cython.size_t
    start: cython.size_t
    if body.buffer != BODY_OWN or body.length <= 2 * FREE_PER_TURN:
        return False
    end = (cython.cast(cython.size_t, body.data) + body.length) & ~(PAGE - 1)
    start = end - FREE_PER_TURN
    madvise(cython.cast(cython.p_void, start), FREE_PER_TURN, MADV_DONTNEED)
    body.length = start - cython.cast(cython.size_t, body.data)
    return True


def messages_trim():
    """Once a second: return free pages of the heap to the system after a burst. Returns 1 if that
    was tried."""
    global trimmed
    if freed_bytes - trimmed < TRIM_AFTER:
        return 0
    trimmed = freed_bytes
    malloc_trim(0)
    return 1


def live_messages() -> int:
    """The number of messages in use: zero when nothing is in flight."""
    return live_count
