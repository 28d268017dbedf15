# nutproxy/sockets.py: what is set on sockets
"""The options of a pool's TCP sockets, of servers and of listeners, whose clients inherit them."""

import socket
from pathlib import Path

from nutproxy.config.model import PoolConfig

# What tcp_congestion may name here.
CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


def tcp_options(sock: socket.socket, config: PoolConfig) -> None:
    """Without TCP_NODELAY pipelines stall for 40 ms. Raises OSError."""
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


def set_congestion(sock: socket.socket, name: str) -> None:
    """Raises OSError that says what there is."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except OSError as error:
        text = f"tcp_congestion '{name}': the system refuses it, it has "
        text += CONGESTION_CONTROLS.read_text(encoding="ascii").strip()
        raise OSError(error.errno, text) from None


def check_congestion(name: str) -> None:
    """Raises OSError if no socket can have this congestion control."""
    with socket.socket() as probe:
        set_congestion(probe, name)
