# tests/client.py: a connection without a client library
"""Sends and receives exact bytes.

    with Client(proxy.port) as client:
        client("SET", "k", "v")          one command and its reply
        client.send("GET", "k")          or in two steps: send now,
        client.reply()                   read the reply later
        client.error("FOO")              the text of the error reply
        client.send_bytes(b"*1\\r\\n$4")   anything at all
        client.closed()                  the other side has sent nothing more and closed

    talk(proxy.port, request("GET", "k")) == b"$1\\r\\nv\\r\\n"

Replies are decoded by hiredis: values are bytes, errors are hiredis.ReplyError objects.
"""

import socket
import time
from pathlib import Path
from typing import Any

import hiredis

from tests.servers import connect

NOTHING = object()  # returned while no reply is complete


def request(*words: str | bytes | int) -> bytes:
    """A command as an array of bulk strings."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any mix of them
    return packed


def requests(*commands: str) -> bytes:
    """Several commands in one piece. Each is given as a string of words."""
    return b"".join(request(*command.split()) for command in commands)


def talk(address: int | str | Path, data: bytes, gap: float = 0) -> bytes:
    """Sends `data`, closes the sending side after `gap` seconds, and returns everything received
    until the other side closes too. `data` and its replies must fit the socket buffers."""
    with connect(address) as connection:
        connection.sendall(data)
        if gap:
            time.sleep(gap)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def send_all(connection: socket.socket, data: bytes) -> None:
    """Like `sendall`, but the timeout applies to each piece instead of the whole. On a busy machine
    a large amount may take long, as long as there is progress."""
    left = memoryview(data)
    while left:
        left = left[connection.send(left) :]


def read_all(connection: socket.socket) -> bytes:
    """Everything received until the other side closes, possibly with a reset."""
    parts = []
    try:
        while part := connection.recv(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def words(reply: Any) -> str:
    """The text of an error reply. An assertion fails if the reply is not an error."""
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)


class Client:
    """A connection to a port of the loopback, or to the path of a unix socket."""

    def __init__(self, address: int | str | Path) -> None:
        self.socket = connect(address)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader(notEnoughData=NOTHING)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def __call__(self, *command: str | bytes | int) -> Any:
        self.send(*command)
        return self.reply()

    def send(self, *command: str | bytes | int) -> None:
        self.socket.sendall(request(*command))

    def pipeline(self, *commands: tuple[str | bytes | int, ...]) -> None:
        """Send several commands at once."""
        self.socket.sendall(b"".join(request(*command) for command in commands))

    def error(self, *command: str | bytes | int) -> str:
        """The text of the error reply to a command."""
        return words(self(*command))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> Any:
        """The next reply; ConnectionError if the other side closes instead."""
        while (reply := self.reader.gets()) is NOTHING:
            received = self.socket.recv(1 << 20)
            if not received:
                raise ConnectionError("closed instead of a reply")
            self.reader.feed(received)
        return reply

    def replies(self, count: int) -> list[Any]:
        return [self.reply() for _ in range(count)]

    def closed(self) -> bool:
        return not self.reader.has_data() and read_all(self.socket) == b""
