# nutproxy/io/sockets.py: listening sockets and socket options
"""The listening socket of a pool, and the options of its TCP sockets: of this one and of those to
servers. Accepted clients inherit the options of the listening socket."""

from __future__ import annotations

import contextlib
import errno as errors
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nutproxy.config.model import PoolConfig

# Seconds until the first probe of an idle connection and between two probes, and how many fail
# before it ends: after two minutes, as in Redis' example of five.
KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 20, socket.TCP_KEEPCNT: 3}
# The system's list of values for tcp_congestion.
CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


def listen(config: PoolConfig) -> socket.socket:
    """The listening socket of a PoolConfig. Raises OSError. The file of a unix socket is replaced,
    as in twemproxy, but only if no process listens on it; otherwise this is an error."""
    address = config.listen
    if config.tcp_congestion:
        check_congestion(config.tcp_congestion)
    if address.family == "unix":
        return listen_unix(config)
    info = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, proto, _, name = info[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.reuseport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tcp_options(sock, config)
        sock.bind(name)
        sock.listen(config.backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def listen_unix(config: PoolConfig) -> socket.socket:
    path = config.listen.path
    sock = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if is_stale(path):
            os.unlink(path)
        sock.bind(path)
        if config.listen_permissions:
            os.chmod(path, config.listen_permissions)
        sock.listen(config.backlog)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class UnixListener(socket.socket):
    """A unix socket that removes its file when it is closed.

    `unlink` compares inodes while the socket is still open, so that the inode cannot have been
    reused for another file."""

    made: tuple[str, os.stat_result] | None = None  # the file's path and status

    def bind(self, path: str) -> None:  # type: ignore[override]
        super().bind(path)
        self.made = path, os.lstat(path)

    def unlink(self) -> None:
        """Remove the file, unless another process has replaced it."""
        if self.made is None:
            return
        path, status = self.made
        self.made = None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(path), status):
                os.unlink(path)

    def close(self) -> None:
        self.unlink()
        super().close()


def is_stale(path: str) -> bool:
    """Is this a socket that no process listens on? connect() to a regular file is refused too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        # connect() would block if the backlog is full.
        other.setblocking(False)
        refused = other.connect_ex(path) == errors.ECONNREFUSED
    return refused and stat.S_ISSOCK(os.lstat(path).st_mode)


def tcp_options(sock: socket.socket, config: PoolConfig) -> None:
    """Set TCP_NODELAY, without which pipelines stall for 40 ms, and the options of `config`. Raises
    OSError."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, config.tcpkeepalive)
    for option, value in (
        (socket.TCP_KEEPIDLE, config.tcpkeepalive_idle),
        (socket.TCP_KEEPINTVL, config.tcpkeepalive_interval),
        (socket.TCP_KEEPCNT, config.tcpkeepalive_count),
    ):
        if value:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if config.tcp_congestion:
        set_congestion(sock, config.tcp_congestion)


def keep_alive(fd: int, config: PoolConfig) -> None:
    """Set keepalive on a connection on which one side waits for long, unless `config` has set it.
    Otherwise nobody would notice that the other host has vanished, and an element that was popped
    for it would be lost."""
    if config.tcpkeepalive:
        return
    sock = socket.socket(fileno=fd)
    try:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        # The connection has ended, which is noticed soon.
        pass
    finally:
        sock.detach()


def set_congestion(sock: socket.socket, name: str) -> None:
    """Raises OSError with a text that lists the available algorithms."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except OSError as error:
        text = f"tcp_congestion '{name}': the system refuses it, available: "
        text += CONGESTION_CONTROLS.read_text(encoding="ascii").strip()
        raise OSError(error.errno, text) from None


def check_congestion(name: str) -> None:
    """Raises OSError if the system does not offer this congestion control algorithm."""
    with socket.socket() as probe:
        set_congestion(probe, name)
