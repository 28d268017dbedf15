from libc.string cimport memcmp

from nutproxy.msg.message cimport Msg
from nutproxy.proto.memcache cimport Command

cdef inline bint value_fits(Msg* msg, const char* data, size_t key) noexcept:
    """Fast path for a request with a single key and a reply with a single value. `key` is the
    length of the key in the reply. If this returns False, values_fit decides."""
    cdef size_t start = (<Command*> msg.row).length + 1
    return (
        msg.req.length == start + key + 2
        and msg.req.data[start - 1] == c' '
        and memcmp(msg.req.data + start, data + 6, key) == 0
    )

cdef bint values_fit(Msg* msg, const char* data, size_t length) noexcept
