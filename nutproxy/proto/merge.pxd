from libc.stdint cimport uint32_t

from libc.string cimport memcpy

from nutproxy.msg.message cimport MSG_NOREPLY, Body, Msg

# Elements of at least this size are not copied. Below it, a copy costs less than a piece.
cdef enum:
    PIECE_MIN = 65536

# A reply under construction. Small elements are copied to a buffer; large ones stay where they are.
cdef struct Pieces:
    Msg* parent             # its rsp is the buffer
    char* buffer
    size_t at               # bytes written to the buffer
    size_t cut              # bytes of the buffer that already belong to a piece
    Body* bodies            # the pieces so far
    uint32_t count
    uint32_t room

cdef int merge_keys(Msg* parent) except -1
cdef int merge_sum(Msg* parent) except -1
cdef int merge_min(Msg* parent) except -1
cdef int merge_and(Msg* parent) except -1
cdef int merge_all(Msg* parent) except -1
cdef int merge_one(Msg* parent) except -1
cdef int merge_concat(Msg* parent) except -1
cdef int merge_first(Msg* parent) except -1
cdef int merge_report(Msg* parent) except -1
cdef int merge_query(Msg* parent) except -1
cdef int put_text(Msg* parent, bytes text) except -1
cdef int pieces_begin(Pieces* pieces, Msg* parent, size_t room) except -1
cdef int put_large(Pieces* pieces, Body* source, size_t start, size_t size) except -1
cdef int pieces_end(Pieces* pieces) except -1
cdef void pieces_undo(Pieces* pieces) noexcept

cdef inline void pieces_copy(Pieces* pieces, const char* data, size_t size) noexcept:
    """Add these bytes, of which there is a copy then."""
    memcpy(pieces.buffer + pieces.at, data, size)
    pieces.at += size

cdef inline int pieces_put(Pieces* pieces, Body* source, size_t start, size_t size) except -1:
    """Add the next element, from `start` in the body of a part's reply. It is copied if it is
    small, and otherwise sent from where it is."""
    if size >= PIECE_MIN and not pieces.parent.flags & MSG_NOREPLY:
        return put_large(pieces, source, start, size)
    pieces_copy(pieces, source.data + start, size)
    return 0
