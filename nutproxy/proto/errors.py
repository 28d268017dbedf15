# nutproxy/proto/errors.py: makes nutproxy's own error replies
"""Every error that nutproxy itself sends to a client is made here, from a row of error_table.py.

    error, memcache_error              a complete reply, with words inserted into the row's text
    REDIS_REPLIES, MEMCACHE_REPLIES    the complete replies of rows without words
    PROTOCOL_ERRORS                     texts of the Redis request parser, see `protocol_error`
    cause                               why a server failed, to be inserted into another error

Bytes of the request are echoed as Redis does: cut at 128 bytes and at the first NUL, with line ends
replaced by spaces, so an error is always one line.

The objects in the three tables live as long as the process, so C code may keep pointers into them.

This module also writes the page about errors:

    python -m nutproxy.proto.errors > docs/errors.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from textwrap import fill

from nutproxy.proto.error_table import ERRORS, SECTIONS, ErrorText

ECHOED = 128  # an error repeats at most this many bytes of the request
WORDS = 2 + ECHOED // 3  # words that can fit: each is quoted and followed by a space

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def error(key: str, *words: bytes) -> bytes:
    """The reply to a Redis client for row `key`, with `words` inserted, as one line."""
    row = ERRORS[key]
    code = b"-ERR " if row.protocol == "both" else b"-"
    return b"%b%b\r\n" % (code, (row.text % words).translate(_ONE_LINE))


def memcache_error(key: str, *words: bytes) -> bytes:
    """The same to a Memcached client."""
    row = ERRORS[key]
    code = b"SERVER_ERROR " if row.protocol == "both" else b""
    return b"%b%b\r\n" % (code, (row.text % words).translate(_ONE_LINE))


_WORDLESS = {
    key: row
    for section in SECTIONS
    for key, row in section.rows.items()
    if section.replies and b"%" not in row.text
}
REDIS_REPLIES = {key: error(key) for key, row in _WORDLESS.items() if row.protocol != "memcached"}
MEMCACHE_REPLIES = {
    key: memcache_error(key) for key, row in _WORDLESS.items() if row.protocol != "redis"
}
# Without the code. The parser leaves a %c in a text for the byte that it did not expect.
PROTOCOL_ERRORS = {
    key: row.text.removeprefix(b"ERR ")
    for key, row in ERRORS.items()
    if row.text.startswith(b"ERR Protocol error: ")
}


def protocol_error(text: bytes) -> bytes:
    """The reply for a text of PROTOCOL_ERRORS whose %c has been replaced."""
    return b"-ERR %b\r\n" % text


def cause(key: str, *words: object) -> str:
    """The cause of row `key`, for the log and for the row "server"."""
    return ERRORS[key].text.decode().replace("%b", "%s") % words


def server_error(make: Callable[..., bytes], server: str, pool: str, cause: str) -> bytes:
    """The reply to a request that a server could not carry out; `make` is one of the two above.
    While a Redis server is loading, the reply keeps the code LOADING, because clients know that
    they can wait and retry."""
    if cause.startswith("LOADING "):
        cause = cause.removeprefix("LOADING ")
        return error("loading", server.encode(), pool.encode(), cause.encode())
    return make("server", server.encode(), pool.encode(), cause.encode())


def passed_on(error: Exception) -> bytes:
    """A server's error reply, as hiredis has decoded it."""
    return b"-%b\r\n" % str(error).encode(errors="surrogateescape")


def add(reply: bytes, key: str, word: bytes) -> bytes:
    """An error reply of a server with the addition of row `key`."""
    return b"%b; %b\r\n" % (reply[:-2], ERRORS[key].text % word)


def unknown_command(argv: Sequence[bytes]) -> bytes:
    """The text of Redis 7: the name, then the quoted arguments that begin within 128 bytes."""
    args = b""
    for word in argv[1:]:
        if len(args) >= ECHOED:
            break
        args += b"'%b' " % echo(word, ECHOED - len(args))
    return error("unknown_command", echo(argv[0]), args)


def unknown_subcommand(argv: Sequence[bytes]) -> bytes:
    return error("unknown_subcommand", echo(argv[1]), echo(argv[0].upper()))


def wrong_arity(name: str) -> bytes:
    """`name` is the name of a row. Redis writes a subcommand as config|get."""
    return error("wrong_arity", name.replace(" ", "|").encode())


def too_many(name: str, count: int, most: int) -> bytes:
    """`count` and `most` count the arguments including the command's name."""
    return error("too_many", name.upper().encode(), b"%d" % count, b"%d" % most)


def too_long(name: str, length: int, most: int) -> bytes:
    return error("too_long", name.upper().encode(), b"%d" % length, b"%d" % most)


def one_server(name: str, pool: str, servers: int) -> bytes:
    return error("one_server", name.upper().encode(), pool.encode(), b"%d" % servers)


def report_too_long(name: str, lines: int, most: int) -> bytes:
    return error("report_too_long", name.upper().encode(), b"%d" % lines, b"%d" % most)


def key_too_long(length: int, most: int) -> bytes:
    return error("key_too_long", b"%d" % length, b"%d" % most)


def keys_too_long(length: int, most: int) -> bytes:
    return error("keys_too_long", b"%d" % length, b"%d" % most)


def not_supported(name: str, option: str = "") -> bytes:
    """`option` makes a supported command unsupported, as BLOCK does with XREAD."""
    return error("not_supported", f"{name} {option}".strip().upper().encode())


def denied(name: str, pool: str) -> bytes:
    return error("denied", name.upper().encode(), pool.encode())


def needs_admin(name: str, pool: str) -> bytes:
    return error("needs_admin", name.upper().encode(), pool.encode())


def sort_pattern(option: bytes, pool: str, hash_tag: bytes | None) -> bytes:
    """Redis Cluster's text for BY and GET, with servers instead of slots."""
    way = b"with hash_tag: '{}' a pattern may have the key's tag before the *"
    if hash_tag:
        way = b"put the key's tag, which is between '%b', before the *" % hash_tag
    return error("sort_pattern", option.upper(), pool.encode(), way)


def crossslot(name: str, pool: str, hash_tag: bytes | None) -> bytes:
    return error("crossslot", name.upper().encode(), pool.encode(), _together(hash_tag))


def transaction_servers(pool: str, hash_tag: bytes | None) -> bytes:
    return error("transaction_servers", pool.encode(), _together(hash_tag))


def _together(hash_tag: bytes | None) -> bytes:
    """What keeps keys together."""
    way = "with hash_tag: '{}' keys with the same text between the braces share a server"
    if hash_tag:
        way = f"keys with the same text between {hash_tag.decode()!r} share a server"
    return way.encode()


def cause_of(error: bytes) -> bytes:
    """The text of an error reply, to be quoted in another one. ERR is left out."""
    return error[1:-2].removeprefix(b"ERR ")


def execabort(cause: bytes) -> bytes:
    """The reply to EXEC because of this error reply."""
    return error("execabort", cause_of(cause))


def noauth() -> bytes:
    return error("noauth")


def echo(word: bytes, limit: int = ECHOED) -> bytes:
    """As C's %.*s prints a word, which Redis uses: at most `limit` bytes, and none after a NUL."""
    return word[:limit].partition(b"\0")[0]


_INTRODUCTION = """\
# Errors

Generated from the table of errors, `nutproxy/proto/error_table.py`, by
`python -m nutproxy.proto.errors`. Do not edit.

These are all the errors that nutproxy itself sends to clients, with what has happened and what to
do. An X stands for a word that nutproxy inserts. A server's own error is passed on unchanged, and
is not listed here. Errors of both protocols have the code `-ERR` for a Redis client and
`SERVER_ERROR` for a Memcached client. Texts that Redis or memcached has for the same situation are
used exactly.
"""


def document() -> str:
    """The text of docs/errors.md."""
    lines = [_INTRODUCTION]
    for section in SECTIONS:
        lines += [f"## {section.title}\n", f"{fill(section.text, 100)}\n"]
        lines += ["| Text | Protocol | What has happened, and what to do |", "| --- | --- | --- |"]
        for row in section.rows.values():
            text = _shown(row) if section.replies else row.text
            text = text.replace(b"%b", b"X").replace(b"%c", b"X").replace(b"|", b"\\|")
            lines.append(f"| `{text.decode()}` | {row.protocol} | {row.help} |")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _shown(row: ErrorText) -> bytes:
    """The text as a client receives it. In rows of both protocols the code is left out."""
    return b"-" + row.text if row.protocol == "redis" else row.text


if __name__ == "__main__":
    sys.stdout.write(document())
