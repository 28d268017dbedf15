from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn
from nutproxy.io.jobs cimport Job
from nutproxy.msg.message cimport Msg, finish_t

cdef int answer(ClientConn client, bytes text, uint32_t flags, bint error) except -1
cdef int answer_constant(ClientConn client, const char* text, size_t length,
                         uint32_t flags) except -1
cdef Msg* queue_held(ClientConn client, void* row, char* data, size_t length,
                     uint32_t flags) except NULL
cdef int forward_one(ClientConn client, void* row, char* data, size_t length, int group,
                     uint32_t flags) except -1
cdef int forward_key(ClientConn client, void* row, char* data, size_t length, const char* key,
                     size_t key_length, uint32_t flags) except -1
cdef Msg* parent_of(ClientConn client, void* row, uint32_t count, uint32_t nkeys, finish_t finish,
                    uint32_t flags) except NULL
cdef int send_all(ClientConn client, void* row, const char* data, size_t length, list members,
                  finish_t finish, object extra, uint32_t flags, uint32_t part_flags) except -1
cdef int ask(ClientConn client, void* row, bytes request, list members, object finish,
             bytes failure, uint32_t flags) except -1
cdef int later(ClientConn client, object steps, uint32_t flags, bytes failure) except -1
cdef int spare_others(ClientConn client) except -1

cdef class ReplySteps(Job):
    cdef object answers                # of the other workers, for the next step
    cdef object steps                  # None: only the client's next request waits
    cdef uint32_t flags
    cdef bytes failure
