# tests/client.py: a connection without a client library
"""What a client sends and gets, to the byte.

    with Client(proxy.port) as client:
        client("SET", "k", "v")          one command and its reply
        client.send("GET", "k")          or apart: sent now,
        client.reply()                   read later
        client.error("FOO")              the text of the error that comes back
        client.send_bytes(b"*1\\r\\n$4")   anything at all
        client.closed()                  the other side has closed, and sent nothing more

    talk(proxy.port, request("GET", "k")) == b"$1\\r\\nv\\r\\n"

Replies are decoded by hiredis: values are bytes, errors are hiredis.ReplyError objects.
"""

import socket
from pathlib import Path
from typing import Any

import hiredis

from tests.servers import connect

NOTHING = object()  # in the place of a reply that is not complete


def request(*words: str | bytes | int) -> bytes:
    """A command as an array of bulk strings."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any mix of them
    return packed


def requests(*commands: str) -> bytes:
    """Commands of which each is one string of words, one behind the other."""
    return b"".join(request(*command.split()) for command in commands)


def talk(address: int | str | Path, data: bytes) -> bytes:
    """Sends `data`, closes the sending side, and returns all that comes until the other side closes
    too. `data` and its replies have to fit the sockets' buffers."""
    with connect(address) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def send_all(connection: socket.socket, data: bytes) -> None:
    """As its `sendall`, whose timeout is one for the whole: here it is for each piece, so that much
    may take long on a busy machine, as long as it goes on."""
    left = memoryview(data)
    while left:
        left = left[connection.send(left) :]


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes, which may be with a reset."""
    parts = []
    try:
        while part := connection.recv(1 << 20):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def words(reply: Any) -> str:
    """The text of an error reply; an assertion fails if it is none."""
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
                raise ConnectionError("closed in the place of a reply")
            self.reader.feed(received)
        return reply

    def replies(self, count: int) -> list[Any]:
        return [self.reply() for _ in range(count)]

    def closed(self) -> bool:
        return not self.reader.has_data() and read_all(self.socket) == b""
