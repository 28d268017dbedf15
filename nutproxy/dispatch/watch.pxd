from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.front.session cimport Session
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row
from nutproxy.route cimport Route

cdef int watch(ClientConn client, Row* row, char* data, Parser* parser, uint32_t flags) except -1
cdef int unwatch(ClientConn client, uint32_t flags) except -1
# The client watches no key any more: its link is given back when it has replied to UNWATCH.
cdef int end_watch(ClientConn client) except -1
# Let the link of WATCH, which is idle, have the state of its client, who may have sent SELECT or
# HELLO meanwhile. The keys are still watched. Returns 0 if it has ended.
cdef int follow(ClientConn client) except -1
# May the keys that are watched be on another server now, or another server's be in their group? If
# there is only one, a link that is open is a link to it.
cdef bint watch_moved(Session session, Route route) noexcept
# An error that does not make the transaction fail.
cdef int complain(ClientConn client, bytes text, uint32_t flags) except -1
