from nutproxy.msg.message cimport Msg
from nutproxy.msg.parse cimport Parser

cdef bint is_meta(Msg* msg) noexcept
cdef bint memcache_fits(Msg* msg, const char* data, Parser* parser) noexcept
