# nutproxy/io/sockets.py: socket options
"""Options of a pool's TCP sockets: server connections and listeners. Accepted clients inherit those
of the listener."""

import socket
from pathlib import Path

from nutproxy.config.model import PoolConfig

# The system's list of values for tcp_congestion.
CONGESTION_CONTROLS = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


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
