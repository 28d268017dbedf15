# nutproxy/io/inbox.py: how signals and threads reach the loop
"""The reading end of a socket pair. A signal handler or a thread writes bytes to the other end,
which wakes the loop, and the loop calls `callback` with them. So they are handled like all other
input: in a turn, never in the middle of one.
"""

import logging

import cython
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.nutproxy.io.reactor import Pollable, Reactor, close_t, recv_t, send_t
from cython.cimports.nutproxy.io.transport import transport_read

log = logging.getLogger("nutproxy")


@cython.cfunc
@cython.exceptval(-1, check=False)
def inbox_recv(conn: Inbox) -> cython.int:
    reactor: Reactor = conn.reactor
    count: cython.Py_ssize_t = transport_read(conn, reactor.scratch, reactor.mbuf_size)
    if count > 0 or (count < 0 and errno == EINTR):
        conn.mark_ready()
    if count <= 0:
        return 0
    try:
        conn.callback(reactor.scratch[:count])
    except Exception:
        # Do not close the inbox: signals could no longer be received.
        log.exception("internal error while handling a signal or a name lookup")
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def inbox_send(conn: Inbox) -> cython.int:
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def inbox_close(conn: Inbox) -> cython.int:
    conn.sock.detach()
    conn.shut()
    return 0


@cython.cclass
class Inbox(Pollable):
    """Calls `callback(data)` in the loop with the bytes that arrive at `sock`."""

    letter = "w"

    def __init__(self, reactor: Reactor, sock, callback):
        self.reactor = reactor
        self.sock = sock
        self.callback = callback
        self.flush_list = cython.address(reactor.flush_clients)
        self.recv = cython.cast(recv_t, inbox_recv)
        self.send = cython.cast(send_t, inbox_send)
        self.close = cython.cast(close_t, inbox_close)
        # Not added to reactor.conns: it must not be counted as a connection.
        self.fd = sock.fileno()
        reactor.poller.add(self.fd, cython.cast(cython.p_void, self))
