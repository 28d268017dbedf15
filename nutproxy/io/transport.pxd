# nutproxy/io/transport.pxd: the bytes of a socket, in and out
#
# Everything that the loop reads from a socket or writes to one passes through these functions, and no
# other module calls recv, send or sendmsg. They are plain sockets; a connection that speaks another
# transport would be told apart here and nowhere else.
#
# All are non-blocking and return at once. After -1 errno says why:
#
#     EAGAIN      nothing has come, or the socket's buffer is full: the poller reports the change
#     EINTR       a signal: try again
#     another     the connection has ended

from libc.string cimport memset

from nutproxy.csys cimport (
    MSG_NOSIGNAL,
    SHUT_WR,
    close,
    iovec,
    msghdr,
    recv,
    send,
    sendmsg,
    shutdown,
)
from nutproxy.io.reactor cimport Pollable

cdef inline ssize_t transport_read(Pollable conn, char* data, size_t room) noexcept nogil:
    """Receive up to `room` bytes. Returns how many; 0 at the end of input. If it is `room`, more may
    have come."""
    return recv(conn.fd, data, room, 0)

cdef inline ssize_t transport_write(Pollable conn, iovec* pieces, size_t count) noexcept nogil:
    """Write these pieces, in order. Returns how many bytes the socket took, which may end anywhere in
    a piece; 0 if there are no pieces. A lost connection is an error (EPIPE) and no signal."""
    cdef msghdr message
    if count == 1:
        return send(conn.fd, pieces.iov_base, pieces.iov_len, MSG_NOSIGNAL)
    if count == 0:
        return 0
    # msghdr has members that csys.pxd does not declare.
    memset(&message, 0, sizeof(msghdr))
    message.msg_iov = pieces
    message.msg_iovlen = count
    return sendmsg(conn.fd, &message, MSG_NOSIGNAL)

cdef inline void transport_end(Pollable conn) noexcept nogil:
    """Tell the peer that nothing more will be written. It can still be read."""
    shutdown(conn.fd, SHUT_WR)

cdef inline void transport_refuse(int fd, const char* text, size_t length, char* scratch,
                                  size_t size) noexcept nogil:
    """Close a socket that gets no connection, with this text as the last words if it takes them.
    Closing with unread input sends a reset, and the peer could lose the text: so input is read into
    `scratch` first, up to `size` bytes."""
    send(fd, text, length, MSG_NOSIGNAL)
    recv(fd, scratch, size, 0)
    close(fd)
