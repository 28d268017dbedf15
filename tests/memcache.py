# tests/memcache.py: a Memcached connection without a client library
"""Sends and receives exact bytes.

    with MemcacheClient(proxy.port) as client:
        client(b"get k")                       one command line and its whole reply, as bytes
        client(b"set k 0 0 1", b"v")           the same with a data block
        client.send_bytes(b"get k\\r\\nge")      anything at all
        client.reply(), client.replies(3)      read replies later
        client.closed()                        the other side has sent nothing more and closed

    talk(proxy.port, b"get k\\r\\n") == b"END\\r\\n"   (tests.client: everything received)

A reply is everything that belongs to one request: VALUE blocks or STAT lines up to END, a VA line
and its data, or one line. MemcacheReader, which has no socket, finds where it ends:

    reader.feed(received); reader.gets()       the next whole reply, or None
"""

import socket
from pathlib import Path

from tests.client import read_all
from tests.servers import connect

# How each line of a reply of several lines begins. END or an error ends the reply.
SEVERAL = (b"VALUE ", b"STAT ", b"STAT\r", b"ITEM ", b"ITEM\r", b"PREFIX ", b"PREFIX\r")


class MemcacheReader:
    """Bytes in, whole replies out, like hiredis.Reader for Redis. However the bytes arrive, none is
    searched twice."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.searched = 0  # bytes of the reply that need no further search for a line's end
        self.at = 0  # where the next line of the reply begins
        self.whole = 0  # the size of the reply, once it is known

    def feed(self, data: bytes) -> None:
        self.buffer += data

    def gets(self) -> bytes | None:
        while not self.whole:
            end = self.buffer.find(b"\n", self.searched) + 1
            if not end:
                self.searched = max(self.searched, len(self.buffer))
                return None
            line = self.buffer[self.at : end]
            if line.startswith(b"VA "):
                self.whole = end + int(line.split(b" ")[1]) + 2
            elif not line.startswith(SEVERAL):
                self.whole = end
            elif line.startswith(b"VALUE "):
                end += int(line.split(b" ")[3]) + 2
            self.at = self.searched = end
        if len(self.buffer) < self.whole:
            return None
        return self.take(self.whole)

    def line(self) -> bytes | None:
        """The next line alone."""
        end = self.buffer.find(b"\n") + 1
        return self.take(end) if end else None

    def take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        self.searched = self.at = self.whole = 0
        return taken


class MemcacheClient:
    """A connection to a port of the loopback, or to the path of a unix socket."""

    def __init__(self, address: int | str | Path) -> None:
        self.socket = connect(address)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = MemcacheReader()

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
        while (reply := self.reader.gets()) is None:
            self.receive()
        return reply

    def replies(self, count: int) -> list[bytes]:
        return [self.reply() for _ in range(count)]

    def line(self) -> bytes:
        """The next line, with its end."""
        while (line := self.reader.line()) is None:
            self.receive()
        return line

    def receive(self) -> None:
        received = self.socket.recv(1 << 20)
        if not received:
            raise ConnectionError("closed instead of a reply")
        self.reader.feed(received)

    def closed(self) -> bool:
        return not self.reader.buffer and read_all(self.socket) == b""
