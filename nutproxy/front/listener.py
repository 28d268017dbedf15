# nutproxy/front/listener.py: the role of a listening socket
"""Accepts the clients of one frontend, and shares them out among the workers: who accepts a client
gives it to the worker that has the fewest. The number per turn is bounded, so that a storm of
connects does not delay other connections. A client beyond client_connections, or beyond the number
that the limit on open files allows, gets an error and is closed. If accept fails because
descriptors have run out anyway, it is tried again after ACCEPT_PAUSE; the clients wait in the
kernel's backlog meanwhile.
"""

import errno as errors
import logging
import os

import cython
from cython.cimports.libc.errno import EAGAIN, ECONNABORTED, EINTR, ENOMEM, errno
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.csys import SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, close
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.io.reactor import close_t, recv_t, send_t
from cython.cimports.nutproxy.io.transport import transport_refuse
from cython.cimports.nutproxy.stats.board import Board
from cython.cimports.nutproxy.stats.slab import GLOBAL_TOTAL_CONNECTIONS, POOL_CLIENT_REJECTED

from nutproxy.io.sockets import UnixListener

log = logging.getLogger("nutproxy")

ACCEPTS_PER_TURN = cython.declare(cython.int, 64)
# Milliseconds until the next try when the process has no descriptor left.
ACCEPT_PAUSE = 100


@cython.cfunc
@cython.exceptval(-1, check=False)
def proxy_recv(conn: Conn) -> cython.int:
    """Accept waiting clients, up to ACCEPTS_PER_TURN."""
    self: Listener = cython.cast(Listener, conn)
    fd: cython.int
    for _ in range(ACCEPTS_PER_TURN):
        fd = accept4(conn.fd, cython.NULL, cython.NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EAGAIN:
                return 0
            if errno in (EINTR, ECONNABORTED):
                continue
            self.pause(errno)
            return 0
        try:
            self.add_client(fd)
        except (OSError, MemoryError) as error:
            # epoll has a limit of its own (max_user_watches). The client is lost, not the listener.
            self.pause(getattr(error, "errno", ENOMEM))
            return 0
    conn.mark_ready()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def proxy_send(conn: Conn) -> cython.int:
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def proxy_close(conn: Conn) -> cython.int:
    """After a fault the listener only pauses: if it were closed, it would never be opened again."""
    cython.cast(Listener, conn).hold()
    return 0


@cython.cclass
class Listener(Conn):
    """The listener of `frontend`. It takes over `sock`, which is bound and listening, and which the
    workers share. `hand_over(worker, pool, fd, epoch)` gives a client to another worker, and
    returns False if that worker has no room for more."""

    letter = "p"
    after_fault = "no client is accepted for a moment"

    def __init__(self, frontend: Frontend, sock, hand_over=None):
        self.frontend = frontend
        self.hand_over = hand_over
        self.reactor = frontend.reactor
        self.sock = sock
        self.address = str(frontend.config.listen)
        self.flush_list = cython.address(self.reactor.flush_clients)
        self.recv = cython.cast(recv_t, proxy_recv)
        self.send = cython.cast(send_t, proxy_send)
        self.close = cython.cast(close_t, proxy_close)
        self.reactor.open(self, sock.fileno())
        self.reactor.stats[GLOBAL_TOTAL_CONNECTIONS] += 1
        # Clients may have connected before the socket was added to the poller.
        self.mark_ready()

    @property
    def about(self) -> dict:
        return {"conn": str(self), **self.frontend.about}

    def add_client(self, fd):
        """Give the client to the worker with the fewest. `fd` is closed if this raises."""
        board: Board = self.frontend.board
        pool: cython.int = self.frontend.place
        worker: cython.int = board.least(pool)
        epoch: cython.ulonglong = board.come(worker, pool)
        if worker != board.own:
            if not self.frontend.is_full() and self.hand_over(worker, pool, fd, epoch):
                close(fd)
                return 0
            board.leave(worker, pool, epoch)
            board.come(board.own, pool)
        self.take(fd)
        return 0

    def adopt(self, fd: cython.int, epoch: cython.ulonglong) -> ClientConn:
        """The same for a client that another worker has accepted and counted for this one. Returns
        the client, or None."""
        if epoch != self.frontend.epoch:
            # It was counted for the process before this one.
            self.frontend.board.come(self.frontend.board.own, self.frontend.place)
        return self.take(fd)

    def lose(self, epoch: cython.ulonglong) -> None:
        """Such a client was lost on its way, because this process has no free descriptor."""
        if epoch == self.frontend.epoch:
            self.frontend.uncount()
        self.pause(errors.EMFILE)

    def take(self, fd):
        """Make a client connection from `fd`, or refuse it. It is counted already."""
        client: ClientConn = None
        try:
            reason = self.frontend.refusal()
            if reason is None:
                client = ClientConn(self.frontend)
        except Exception:
            self.frontend.uncount()
            close(fd)
            raise
        if client is None:
            self.frontend.uncount()
            self.refuse(fd, reason)
            return None
        self.reactor.stats[GLOBAL_TOTAL_CONNECTIONS] += 1
        try:
            self.reactor.open(client, fd)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s %s: connected from %s", client, self.frontend, client.peer)
        except Exception:
            client.close(client)
            raise
        return client

    def refuse(self, fd: int, reason: str) -> None:
        """Send a client the error of its protocol, close it, and log the reason."""
        full: bytes = self.frontend.protocol.too_many_clients
        transport_refuse(fd, full, len(full), self.reactor.scratch, self.reactor.mbuf_size)
        self.frontend.stats[POOL_CLIENT_REJECTED] += 1
        log.warning("%s %s on %s: client refused: %s", self, self.frontend, self.address, reason)

    def hold(self) -> None:
        """Accept no clients for ACCEPT_PAUSE."""
        if self.pause_timer is None:
            try:
                self.pause_timer = self.reactor.timers.schedule(
                    self.reactor.now + ACCEPT_PAUSE, self.resume
                )
            except MemoryError:
                # Without a timer nothing would end the pause.
                self.mark_ready()

    def pause(self, err: int) -> None:
        """The same, and log the reason, once per pause."""
        if self.pause_timer is None:
            self.hold()
            log.error(
                "%s %s on %s: accept failed: %s%s",
                self,
                self.frontend,
                self.address,
                os.strerror(err),
                "; raise the limit on open files (ulimit -n)" if err == errors.EMFILE else "",
            )

    def resume(self) -> None:
        self.pause_timer = None
        self.mark_ready()

    def drain(self) -> None:
        """Accept the clients that have connected so far, because they may have sent requests, and
        then close the socket. Clients that connect in between are reset; to a unix socket no client
        can, because its file is removed first."""
        self.remove_file()
        for _ in range(self.frontend.config.backlog // ACCEPTS_PER_TURN + 1):
            proxy_recv(self)
        self.end()

    def end(self) -> None:
        if self.fd >= 0:
            self.remove_file()
            self.sock.detach()
            self.shut()

    def remove_file(self) -> None:
        if isinstance(self.sock, UnixListener):
            self.sock.unlink()
