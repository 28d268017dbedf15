from nutproxy.msg.message cimport Msg

# A reply under construction. Small elements are copied to a buffer; large ones stay where they are.
cdef struct Pieces:
    Msg* parent
    Msg* last               # its last piece; the parent itself while there is none
    char* target            # the buffer, parent.rsp
    size_t at               # bytes written to the buffer
    size_t cut              # bytes of the buffer that already belong to a piece

cdef int redis_merge(Msg* parent) except -1
cdef int merge_query(Msg* parent) except -1
cdef int put_text(Msg* parent, bytes text) except -1
cdef int pieces_begin(Pieces* pieces, Msg* parent, size_t room) except -1
cdef int pieces_put(Pieces* pieces, const char* data, size_t size) except -1
cdef int pieces_end(Pieces* pieces) except -1
cdef void pieces_undo(Pieces* pieces) noexcept
cdef Msg* piece_behind(Msg* msg, char* data, size_t length) except NULL
