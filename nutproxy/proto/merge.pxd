from nutproxy.msg.message cimport Msg

cdef int merge_keys(Msg* parent) except -1
cdef int merge_sum(Msg* parent) except -1
cdef int merge_min(Msg* parent) except -1
cdef int merge_and(Msg* parent) except -1
cdef int merge_all(Msg* parent) except -1
cdef int merge_one(Msg* parent) except -1
cdef int merge_concat(Msg* parent) except -1
cdef int merge_by_size(Msg* parent) except -1
cdef int merge_report(Msg* parent) except -1
cdef int merge_query(Msg* parent) except -1
cdef int put_text(Msg* parent, bytes text) except -1
# The size in bytes of the element that starts here, which must be complete.
cdef size_t element_size(const char* data, size_t length) noexcept
cdef bint put_failure(Msg* parent) except -1
cdef int unexpected_of(Msg* parent, unsigned int index) except -1
