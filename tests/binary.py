# tests/binary.py: a connection that speaks Memcached's binary protocol, without a client library
"""Sends and receives exact bytes.

    with BinaryClient(proxy.port) as client:
        client(Op.SET, b"k", b"v", extras=storage(flags=5))   one request and its response
        client.send(Op.GETKQ, b"k", opaque=7)                 or in two steps: send now,
        client.response()                                     read the response later
        client.until(9)                 the responses up to the one whose opaque is 9
        client.barrier()                the responses to everything sent so far
        client.send_bytes(b"\\x80")      anything at all
        client.closed()                 the other side has sent nothing more and closed

    request(Op.GET, b"k", key_length=5)     the bytes of a request, with any field wrong

A response has fields: `response.status`, `response.value`. `response.raw` has it as it came.
ResponseReader, which has no socket, finds where it ends.
"""

import enum
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

from tests.client import read_all
from tests.servers import connect

REQUEST = 0x80
RESPONSE = 0x81
# magic, opcode, key length, extras length, data type, vbucket or status, body length, opaque, cas
HEADER = struct.Struct(">BBHBBHIIQ")
# The opaque of the NoOp that `barrier` sends.
BARRIER = 0xBA881E88
# An expiration that says: do not create the counter.
NEVER = 0xFFFFFFFF


class Op(enum.IntEnum):
    """The opcodes that memcached 1.6.18 knows, and VERBOSITY, which it refuses."""

    GET = 0x00
    SET = 0x01
    ADD = 0x02
    REPLACE = 0x03
    DELETE = 0x04
    INCREMENT = 0x05
    DECREMENT = 0x06
    QUIT = 0x07
    FLUSH = 0x08
    GETQ = 0x09
    NOOP = 0x0A
    VERSION = 0x0B
    GETK = 0x0C
    GETKQ = 0x0D
    APPEND = 0x0E
    PREPEND = 0x0F
    STAT = 0x10
    SETQ = 0x11
    ADDQ = 0x12
    REPLACEQ = 0x13
    DELETEQ = 0x14
    INCREMENTQ = 0x15
    DECREMENTQ = 0x16
    QUITQ = 0x17
    FLUSHQ = 0x18
    APPENDQ = 0x19
    PREPENDQ = 0x1A
    VERBOSITY = 0x1B
    TOUCH = 0x1C
    GAT = 0x1D
    GATQ = 0x1E
    SASL_LIST_MECHS = 0x20
    SASL_AUTH = 0x21
    SASL_STEP = 0x22
    GATK = 0x23
    GATKQ = 0x24


class Status(enum.IntEnum):
    OK = 0x00
    NOT_FOUND = 0x01
    EXISTS = 0x02
    TOO_LARGE = 0x03
    INVALID = 0x04
    NOT_STORED = 0x05
    NON_NUMERIC = 0x06
    AUTH_ERROR = 0x20
    AUTH_CONTINUE = 0x21
    UNKNOWN_COMMAND = 0x81
    OUT_OF_MEMORY = 0x82


def storage(flags: int = 0, exptime: int = 0) -> bytes:
    """The extras of SET, ADD, REPLACE and their quiet forms."""
    return struct.pack(">II", flags, exptime)


def counting(delta: int = 1, initial: int = 0, exptime: int = NEVER) -> bytes:
    """The extras of INCREMENT, DECREMENT and their quiet forms."""
    return struct.pack(">QQI", delta, initial, exptime)


def expiring(exptime: int = 0) -> bytes:
    """The extras of TOUCH, GAT, GATK and FLUSH and their quiet forms."""
    return struct.pack(">I", exptime)


def request(
    opcode: int,
    key: bytes = b"",
    value: bytes = b"",
    *,
    extras: bytes = b"",
    opaque: int = 0,
    cas: int = 0,
    magic: int = REQUEST,
    data_type: int = 0,
    vbucket: int = 0,
    key_length: int | None = None,
    extras_length: int | None = None,
    body_length: int | None = None,
) -> bytes:
    """The bytes of a request. A length that is given is announced instead of the true one."""
    body = extras + key + value
    return (
        HEADER.pack(
            magic,
            opcode,
            len(key) if key_length is None else key_length,
            len(extras) if extras_length is None else extras_length,
            data_type,
            vbucket,
            len(body) if body_length is None else body_length,
            opaque,
            cas,
        )
        + body
    )


@dataclass(frozen=True)
class Response:
    opcode: int
    status: int
    opaque: int
    cas: int
    extras: bytes
    key: bytes
    value: bytes
    raw: bytes = field(repr=False)

    @property
    def flags(self) -> int:
        """The flags of an item, from the extras of a hit."""
        return int.from_bytes(self.extras, "big")

    @property
    def number(self) -> int:
        """The value of a counter."""
        assert len(self.value) == 8, self
        return int.from_bytes(self.value, "big")


class ResponseReader:
    """Bytes in, whole responses out, like hiredis.Reader for Redis."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.at = 0  # where the next response begins

    def feed(self, data: bytes) -> None:
        del self.buffer[: self.at]
        self.at = 0
        self.buffer += data

    def has_data(self) -> bool:
        return self.at < len(self.buffer)

    def gets(self) -> Response | None:
        if len(self.buffer) - self.at < HEADER.size:
            return None
        magic, opcode, key, extras, data_type, status, body, opaque, cas = HEADER.unpack_from(
            self.buffer, self.at
        )
        assert magic == RESPONSE, bytes(self.buffer[self.at :])
        assert data_type == 0
        assert extras + key <= body
        whole = HEADER.size + body
        if len(self.buffer) - self.at < whole:
            return None
        taken = bytes(self.buffer[self.at : self.at + whole])
        self.at += whole
        key_at = HEADER.size + extras
        return Response(
            opcode=opcode,
            status=status,
            opaque=opaque,
            cas=cas,
            extras=taken[HEADER.size : key_at],
            key=taken[key_at : key_at + key],
            value=taken[key_at + key :],
            raw=taken,
        )


class BinaryClient:
    """A connection to a port of the loopback, or to the path of a unix socket."""

    def __init__(self, address: int | str | Path) -> None:
        self.socket = connect(address)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = ResponseReader()

    def __enter__(self) -> "BinaryClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def __call__(self, opcode: int, key: bytes = b"", value: bytes = b"", **fields: int | bytes):  # type: ignore[no-untyped-def]
        self.send(opcode, key, value, **fields)
        return self.response()

    def send(
        self, opcode: int, key: bytes = b"", value: bytes = b"", **fields: int | bytes
    ) -> None:
        self.send_bytes(request(opcode, key, value, **fields))  # type: ignore[arg-type]

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def response(self) -> Response:
        """The next response; ConnectionError if the other side closes instead."""
        while (response := self.reader.gets()) is None:
            received = self.socket.recv(1 << 20)
            if not received:
                raise ConnectionError("closed instead of a response")
            self.reader.feed(received)
        return response

    def responses(self, count: int) -> list[Response]:
        return [self.response() for _ in range(count)]

    def until(self, opaque: int) -> list[Response]:
        """The responses before the one with this opaque."""
        found = []
        while (response := self.response()).opaque != opaque:
            found.append(response)
        return found

    def barrier(self) -> list[Response]:
        """The responses to everything sent so far."""
        self.send(Op.NOOP, opaque=BARRIER)
        return self.until(BARRIER)

    def closed(self) -> bool:
        return not self.reader.has_data() and read_all(self.socket) == b""
