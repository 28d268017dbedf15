# nutproxy/io/inbox.py: how messages of other processes reach the loop
"""A socket that Python code reads and writes, in the loop: the control channel, and the clients
that other workers hand over. The loop calls `read()` when there is something to read, and `write()`
when there is room again. So messages are handled like all other input: in a turn, never in the
middle of one.
"""

import logging

import cython
from cython.cimports.nutproxy.io.reactor import (
    Pollable,
    Reactor,
    close_t,
    recv_next_t,
    recv_t,
    send_t,
)

log = logging.getLogger("nutproxy")


@cython.cfunc
@cython.exceptval(-1, check=False)
def inbox_recv(conn: Inbox) -> cython.int:
    try:
        if conn.read():
            conn.mark_ready()
    except Exception:
        # Do not close the inbox: nothing could be received any more.
        log.exception("internal error while handling a message")
        conn.mark_ready()
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def inbox_recv_next(conn: Inbox) -> cython.bint:
    """Always: an error of the socket says that the other process has ended with something unread,
    and `read` must see that end."""
    return True


@cython.cfunc
@cython.exceptval(-1, check=False)
def inbox_send(conn: Inbox) -> cython.int:
    conn.write()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def inbox_close(conn: Inbox) -> cython.int:
    conn.sock.detach()
    conn.shut()
    return 0


@cython.cclass
class Inbox(Pollable):
    """Calls `read()` in the loop when `sock` can be read, and in the next turn again if it returns
    True: there may be more. It takes over `sock`."""

    letter = "w"

    def __init__(self, reactor: Reactor, sock, read, write=None):
        self.reactor = reactor
        self.sock = sock
        self.read = read
        self.write = write
        self.flush_list = cython.address(reactor.flush_clients)
        self.recv = cython.cast(recv_t, inbox_recv)
        self.recv_next = cython.cast(recv_next_t, inbox_recv_next)
        self.send = cython.cast(send_t, inbox_send)
        self.close = cython.cast(close_t, inbox_close)
        # Not added to reactor.conns: it must not be counted as a connection.
        self.fd = sock.fileno()
        reactor.poller.add(self.fd, cython.cast(cython.p_void, self))

    def await_room(self) -> None:
        """The socket is full: call `write()` when there is room."""
        if not self.blocked and self.fd >= 0:
            self.reactor.poller.add_out(self.fd, cython.cast(cython.p_void, self))
            self.blocked = True
