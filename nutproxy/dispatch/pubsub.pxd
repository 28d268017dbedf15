from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.front.subscriptions cimport Asking
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.row cimport Row

cdef int subscribe(ClientConn client, Row* row, char* data, Parser* parser,
                   uint32_t flags) except -1
cdef int unsubscribe(ClientConn client, Row* row, char* data, Parser* parser,
                     uint32_t flags) except -1
cdef int publish(ClientConn client, Row* row, char* data, Parser* parser,
                 uint32_t flags) except -1
# What a transaction has to subscribe to, from (operation, argv) of its commands; None: nothing.
cdef Asking asking_of(ClientConn client, list queued)
# Carry out one of them. Returns its reply.
cdef bytes carry_out(Asking asking, ClientConn client, int operation, list argv)
