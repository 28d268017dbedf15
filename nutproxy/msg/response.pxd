from nutproxy.msg.message cimport Msg, Owner

cdef Owner part_owner
# Of a message to whose reply nobody listens.
cdef Owner nobody

cdef size_t part_room(Msg* part) noexcept
cdef void msg_done(Msg* msg) noexcept
cdef void msg_fail(Msg* msg, bytes text) noexcept
cdef void msg_error(Msg* msg, bytes text) noexcept
cdef void join_part_done(Msg* msg, Msg* part) noexcept
