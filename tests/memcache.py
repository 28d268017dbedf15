# tests/memcache.py: a Memcached connection without a client library
"""What a Memcached client sends and gets, to the byte.

    with MemcacheClient(proxy.port) as client:
        client(b"get k")                       one command line and its whole reply, as bytes
        client(b"set k 0 0 1", b"v")           the same with a data block
        client.send_bytes(b"get k\\r\\nge")      anything at all
        client.reply(), client.replies(3)      read later
        client.closed()                        the other side has closed, and sent nothing more

    talk(proxy.port, b"get k\\r\\n") == b"END\\r\\n"   (tests.client: all that comes)

A reply is what belongs to one request: VALUE blocks and STAT lines up to their END, a VA line and
its data, or one line.
"""

import socket
from pathlib import Path

from tests.client import read_all
from tests.servers import connect

# What each line of a reply of several lines begins with, before the END or the error behind them.
SEVERAL = (b"VALUE ", b"STAT ", b"ITEM ")


class MemcacheClient:
    """A connection to a port of the loopback, or to the path of a unix socket."""

    def __init__(self, address: int | str | Path) -> None:
        self.socket = connect(address)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()

    def __enter__(self) -> "MemcacheClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def __call__(self, line: bytes, data: bytes | None = None) -> bytes:
        self.send(line, data)
        return self.reply()

    def send(self, line: bytes, data: bytes | None = None) -> None:
        self.send_bytes(line + b"\r\n" if data is None else b"%b\r\n%b\r\n" % (line, data))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> bytes:
        """The next reply; ConnectionError if the other side closes instead."""
        parts = []
        line = self.line()
        while line.startswith(SEVERAL):
            parts.append(line)
            if line.startswith(b"VALUE "):
                parts.append(self.take(int(line.split()[3]) + 2))
            line = self.line()
        parts.append(line)
        if line.startswith(b"VA "):
            parts.append(self.take(int(line.split()[1]) + 2))
        return b"".join(parts)

    def replies(self, count: int) -> list[bytes]:
        return [self.reply() for _ in range(count)]

    def line(self) -> bytes:
        """The next line, with its end."""
        searched = 0
        while (end := self.received.find(b"\n", searched)) < 0:
            searched = len(self.received)
            self.receive()
        return self.take(end + 1)

    def take(self, size: int) -> bytes:
        while len(self.received) < size:
            self.receive()
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def receive(self) -> None:
        received = self.socket.recv(1 << 20)
        if not received:
            raise ConnectionError("closed in the place of a reply")
        self.received += received

    def closed(self) -> bool:
        return not self.received and read_all(self.socket) == b""
