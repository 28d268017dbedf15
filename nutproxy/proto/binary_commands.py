# nutproxy/proto/binary_commands.py: the table of memcached's binary protocol
"""What nutproxy does with each opcode of the binary protocol.

A row has the shape of the request, and the command of the text protocol that has the same effect.
Servers only get text commands, so they need not speak the binary protocol. `deny_commands` names
text commands, and denies the opcodes of that row with them. Shapes, statuses and texts are those of
memcached 1.6 (protocol_binary.h and proto_bin.c).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

HEADER = 24  # bytes
REQUEST, RESPONSE = 0x80, 0x81  # the first byte


class Form(IntEnum):
    """How a request is carried out."""

    GET = 0  # gets; a run of quiet ones is one gets for each server
    GAT = 1  # gats
    TOUCH = 2  # mg with T
    STORE = 3  # ms
    DELETE = 4  # md
    COUNT = 5  # ma
    FLUSH = 6  # flush_all
    LOCAL = 7  # handled by the proxy
    SASL = 8  # handled by the proxy; memcached without SASL does not know it


class Opcode(NamedTuple):
    """A row. `extras` are the accepted lengths."""

    name: str
    code: int
    form: Form
    command: str  # the text command that has the same effect; "" if there is none
    extras: tuple[int, ...] = (0,)
    key: bool | None = True  # None: it may have one
    value: bool = False
    quiet: bool = False  # no reply to a miss (get), or to a success (others)
    keyed: bool = False  # the reply repeats the key


def _both(
    name: str, code: int, quiet: int, form: Form, command: str, **shape: object
) -> list[Opcode]:
    """A row and its quiet form."""
    return [
        Opcode(name, code, form, command, **shape),  # type: ignore[arg-type]
        Opcode(f"{name}Q", quiet, form, command, quiet=True, **shape),  # type: ignore[arg-type]
    ]


OPCODES: tuple[Opcode, ...] = (
    *_both("Get", 0x00, 0x09, Form.GET, "get"),
    *_both("GetK", 0x0C, 0x0D, Form.GET, "get", keyed=True),
    *_both("GAT", 0x1D, 0x1E, Form.GAT, "gat", extras=(4,), value=True),
    *_both("GATK", 0x23, 0x24, Form.GAT, "gat", extras=(4,), value=True, keyed=True),
    Opcode("Touch", 0x1C, Form.TOUCH, "touch", extras=(4,), value=True),
    *_both("Set", 0x01, 0x11, Form.STORE, "set", extras=(8,), value=True),
    *_both("Add", 0x02, 0x12, Form.STORE, "add", extras=(8,), value=True),
    *_both("Replace", 0x03, 0x13, Form.STORE, "replace", extras=(8,), value=True),
    *_both("Append", 0x0E, 0x19, Form.STORE, "append", value=True),
    *_both("Prepend", 0x0F, 0x1A, Form.STORE, "prepend", value=True),
    *_both("Delete", 0x04, 0x14, Form.DELETE, "delete"),
    *_both("Increment", 0x05, 0x15, Form.COUNT, "incr", extras=(20,)),
    *_both("Decrement", 0x06, 0x16, Form.COUNT, "decr", extras=(20,)),
    *_both("Flush", 0x08, 0x18, Form.FLUSH, "flush_all", extras=(0, 4), key=False),
    *_both("Quit", 0x07, 0x17, Form.LOCAL, "quit", key=False),
    Opcode("NoOp", 0x0A, Form.LOCAL, "mn", key=False),
    Opcode("Version", 0x0B, Form.LOCAL, "version", key=False),
    Opcode("Stat", 0x10, Form.LOCAL, "stats", key=None, value=True),
    Opcode("SASL list", 0x20, Form.SASL, "", key=False),
    Opcode("SASL auth", 0x21, Form.SASL, "", value=True),
    Opcode("SASL step", 0x22, Form.SASL, "", value=True),
)


class Status(IntEnum):
    """The status of a response."""

    OK = 0x00
    NOT_FOUND = 0x01
    EXISTS = 0x02
    TOO_LARGE = 0x03
    INVALID = 0x04
    NOT_STORED = 0x05
    NOT_A_NUMBER = 0x06
    AUTH = 0x20
    UNKNOWN = 0x81
    NO_MEMORY = 0x82
    NOT_SUPPORTED = 0x83
    INTERNAL = 0x84
    TEMPORARY = 0x86


# memcached's texts. The other statuses come with the text of nutproxy's error.
TEXTS = {
    Status.NOT_FOUND: b"Not found",
    Status.EXISTS: b"Data exists for key.",
    Status.TOO_LARGE: b"Too large.",
    Status.INVALID: b"Invalid arguments",
    Status.NOT_STORED: b"Not stored.",
    Status.NOT_A_NUMBER: b"Non-numeric server-side value for incr or decr",
    Status.AUTH: b"Auth failure.",
    Status.UNKNOWN: b"Unknown command",
    Status.NO_MEMORY: b"Out of memory",
}

# What a server gets for a request, by its form.
SENT = {
    Form.GET: "`gets k`; several quiet ones that arrive together: one `gets` to each server",
    Form.GAT: "`gats 60 k`",
    Form.TOUCH: "`mg k T60 f c`",
    Form.STORE: "`ms k 3 F5 T60 C81 c`, with `M` and the mode",
    Form.DELETE: "`md k C81`",
    Form.COUNT: "`ma k MI D1 J10 N60 v c C81`",
    Form.FLUSH: "`flush_all 10`, to all live servers",
    Form.LOCAL: "handled by nutproxy, like `{}`",
    Form.SASL: "handled by nutproxy: PLAIN with the pool's `users`; without users"
    " `Unknown command`, as by memcached without SASL",
}

_INTRODUCTION = """\
## The binary protocol

The first byte of a connection decides which protocol its client speaks; the pool's `protocol` may
exclude one. Servers get the text protocol in any case: they need not speak the binary one, which
memcached has declared deprecated. A key that text cannot carry (spaces, control bytes) goes as
base64, with a meta command; it may have 186 bytes. Other keys may have 250. Meta commands need
memcached 1.6; gets of text keys work with any version.

Statuses, texts, opaque and cas are those of memcached. A pool's `deny_commands` names text
commands, and denies the opcodes of the same row. A server that is down or does not reply in time
gives status 0x86 (temporary failure) with the text of nutproxy's error; a denied command 0x83 (not
supported). An expiration after the year 2038 is taken as that year, because meta commands have no
later one.

It differs from memcached where memcached's own behaviour would lose or mix up requests, or where a
meta command cannot do the same:

- What follows the key of a Touch, a GAT or a Stat is skipped. memcached reads it as further
  requests.
- The body of an unknown opcode, such as Verbosity, is skipped once. memcached skips extras and key
  twice, and with them the next request.
- A request whose first byte is wrong ends the connection, as in memcached, but the responses that
  are due are sent before.
- An Add, Replace, Append or Prepend with a value that is too large for the server also deletes the
  item that is there, as `ms` does in every mode. In memcached only a Set does so.
- A key with a line feed can be set, read and deleted. Append, Prepend, Increment and Decrement are
  refused, because memcached could show such a key to text clients as lines of its own.

| | Opcode, quiet | Like | What a server gets |
| --- | --- | --- | --- |
"""


def section() -> str:
    """The section of docs/memcached.md."""
    lines = []
    for row in OPCODES:
        if row.quiet:
            continue
        codes = [each.code for each in OPCODES if each.name in (row.name, f"{row.name}Q")]
        numbers = ", ".join(f"0x{code:02x}" for code in codes)
        like = f"`{row.command}`" if row.command else ""
        sent = SENT[row.form].format(row.command)
        lines.append(f"| {row.name} | {numbers} | {like} | {sent} |\n")
    return _INTRODUCTION + "".join(lines)
