from libc.stdint cimport uint32_t, uint64_t

from nutproxy.msg.message cimport Msg

# What a server has said of an item.
cdef struct Item:
    uint32_t flags
    uint64_t cas
    size_t start            # of its value in the reply
    size_t size

# An error in the terms of the binary protocol.
cdef struct Failure:
    int status
    const char* text
    size_t length

# Make the reply to a binary request from the text that its server, or nutproxy, has replied.
cdef void binary_reply(Msg* msg) noexcept

# `finish` of a message in parts whose `req` has the binary requests.
cdef int binary_keyed(Msg* parent) except -1
cdef int binary_values(Msg* parent) except -1

cdef int put_error(Msg* msg, int opcode, uint32_t opaque, int status, const char* text,
                   size_t length) noexcept
