from libc.string cimport memcmp

from nutproxy.msg.message cimport Msg
from nutproxy.proto.memcache cimport Command

cdef inline bint value_fits(Msg* msg, const char* data, size_t key) noexcept:
    """Is the only value of a reply, whose key has so many bytes, the one of a request for a single
    key, spelt as clients do? If not, values_fit decides."""
    cdef size_t start = (<Command*> msg.row).length + 1
    return (
        msg.req.length == start + key + 2
        and msg.req.data[start - 1] == c' '
        and memcmp(msg.req.data + start, data + 6, key) == 0
    )

cdef bint values_fit(Msg* msg, const char* data, size_t length) noexcept
