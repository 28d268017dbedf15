from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from nutproxy.msg.message cimport MSG_NOREPLY, Body, Cursor, Msg, MsgFlag

# Elements of at least this size are not copied. Below it, a copy costs less than a piece.
cdef enum:
    PIECE_MIN = 65536

# A request or a reply under construction.
cdef struct Builder:
    Msg* msg
    Body* small             # msg.req or msg.rsp: small elements are copied to its buffer
    char* buffer
    size_t at               # bytes written to the buffer
    size_t cut              # bytes of the buffer that already belong to a piece
    Body* bodies            # the pieces so far
    uint32_t count
    uint32_t room

cdef int builder_begin(Builder* builder, Msg* msg, Body* small, size_t room) except -1
cdef int put_large(Builder* builder, Body* source, size_t start, size_t size) except -1
cdef int builder_end(Builder* builder, MsgFlag flag) except -1
cdef void builder_undo(Builder* builder) noexcept
cdef size_t pieces_written(Msg* msg) noexcept

cdef inline void builder_copy(Builder* builder, const char* data, size_t size) noexcept:
    """Add a copy of these bytes."""
    memcpy(builder.buffer + builder.at, data, size)
    builder.at += size

cdef inline int builder_put(Builder* builder, Body* source, size_t start, size_t size) except -1:
    """Add `size` bytes of another body, from `start`. They are copied if they are few; otherwise
    both bodies share them. Raises MemoryError, after which the builder is empty."""
    if size >= PIECE_MIN and not builder.msg.flags & MSG_NOREPLY:
        return put_large(builder, source, start, size)
    builder_copy(builder, source.data + start, size)
    return 0

cdef inline Body* piece_first(Msg* msg, Cursor* cursor) noexcept:
    """The first piece that has not been written."""
    cursor.piece = msg.pieces.sent
    return &msg.pieces.bodies[cursor.piece]

cdef inline Body* piece_next(Msg* msg, Cursor* cursor) noexcept:
    """The piece after the one at the cursor, or NULL."""
    if cursor.piece + 1 == msg.pieces.count:
        return NULL
    cursor.piece += 1
    return &msg.pieces.bodies[cursor.piece]
