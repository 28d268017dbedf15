from nutproxy.front.client cimport ClientConn
from nutproxy.msg.parse cimport Parser
from nutproxy.proto.binary cimport LINE_ROOM, BinaryRow, Shape

# A request, and the line of text that is sent for it.
cdef struct Request:
    char* data
    const char* extras
    const char* key
    size_t key_length
    const char* value
    size_t size             # of the value
    Shape* shape
    BinaryRow* row          # of the message
    bint encoded            # the key goes as base64
    size_t line_length
    char[LINE_ROOM] line

# Queue a complete reply to the request at `data`: a status, and a text. `refuse` counts it as refused.
cdef int respond(ClientConn client, const char* data, int status, const char* text,
                 size_t length) except -1
cdef int refuse(ClientConn client, const char* data, int status, const char* text,
                size_t length) except -1

cdef int binary_recv_done(object conn, char* data, Parser* parser) except -1
cdef int binary_recv_error(object conn, Parser* parser) except -1
