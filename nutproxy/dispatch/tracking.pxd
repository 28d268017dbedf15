from libc.stdint cimport uint32_t

from nutproxy.front.client cimport ClientConn

# CLIENT TRACKING ON. `asked` is a Track.
cdef int start_tracking(ClientConn client, void* row, object asked, uint32_t flags) except -1
