# nutproxy/proto/memcache_commands.py: the table of Memcached commands
"""What nutproxy does with each command of memcached's text protocol, classic and meta.

A row describes the layout of the line and the replies it can get. The parser, the dispatcher, the
check of `deny_commands` and docs/memcached.md all use this table. Layouts, reply words and the
replies that quiet mode suppresses are those of memcached 1.6 (protocol.txt and proto_text.c).

For every forwarded line, the server must read exactly as many bytes as the proxy has read, and send
exactly one reply. The proxy therefore checks everything that affects this: key lengths, the numbers
of a storage command and the terminator of the data. `noreply` and `q` are not forwarded; the proxy
drops the reply itself.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

KEY_MAX = 250  # bytes of a key


class Kind(IntEnum):
    """How a command is handled. It also determines the layout of the line."""

    GET = 0  # <name> <key>+
    GAT = 1  # <name> <exptime> <key>+
    STORE = 2  # <name> <key> <flags> <exptime> <bytes> [cas], and a data block
    KEY = 3  # <name> <key> …
    META = 4  # <name> <key> <flag>*
    META_STORE = 5  # ms <key> <bytes> <flag>*, and a data block
    ALL = 6  # sent to all servers
    LOCAL = 7  # handled by the proxy
    UNSUPPORTED = 8


class Reply(IntEnum):
    """The forms of a reply, except errors, which any command can get."""

    VALUES = 1  # VALUE …, END
    STATS = 2  # STAT …, ITEM …, PREFIX …, END
    NUMBER = 3
    STORED = 4
    NOT_STORED = 5
    EXISTS = 6
    NOT_FOUND = 7
    DELETED = 8
    TOUCHED = 9
    OK = 10
    RESET = 11
    VERSION = 12
    VA = 13
    HD = 14
    EN = 15
    NS = 16
    EX = 17
    NF = 18
    ME = 19


KIND_TEXTS = {
    Kind.GET: "split per server; the values in the order of the keys, as often as asked for",
    Kind.GAT: "split per server; the values in the order of the keys, as often as asked for",
    Kind.STORE: "to the key's server",
    Kind.KEY: "to the key's server",
    Kind.META: "to the key's server; with `b` the decoded key counts",
    Kind.META_STORE: "to the key's server; with `b` the decoded key counts",
    Kind.ALL: "to all live servers; the first error there is, else the first reply",
    Kind.LOCAL: "answered by nutproxy",
    Kind.UNSUPPORTED: "refused with `CLIENT_ERROR`; the connection stays open",
}


class Command(NamedTuple):
    """A row. Word counts include the command; `max_words` 0 means no limit."""

    kind: Kind
    min_words: int
    max_words: int
    noreply: bool  # accepts `noreply` as the last word
    replies: tuple[Reply, ...]
    quiet: tuple[Reply, ...]  # the replies that the meta flag `q` suppresses
    text: str


def _row(
    kind: Kind,
    words: tuple[int, int],
    replies: str = "",
    text: str = "",
    *,
    noreply: bool = False,
    quiet: str = "",
) -> Command:
    return Command(
        kind,
        *words,
        noreply,
        tuple(Reply[word] for word in replies.split()),
        tuple(Reply[word] for word in quiet.split()),
        text,
    )


_STORED = "STORED NOT_STORED EXISTS NOT_FOUND"

COMMANDS: dict[str, Command] = {
    "get": _row(Kind.GET, (2, 0), "VALUES", "values of keys"),
    "gets": _row(Kind.GET, (2, 0), "VALUES", "values of keys, each with its cas"),
    "gat": _row(Kind.GAT, (2, 0), "VALUES", "values of keys that get a new exptime"),
    "gats": _row(Kind.GAT, (2, 0), "VALUES", "the same, each with its cas"),
    "set": _row(Kind.STORE, (5, 6), _STORED, "store", noreply=True),
    "add": _row(Kind.STORE, (5, 6), _STORED, "store if the key is new", noreply=True),
    "replace": _row(Kind.STORE, (5, 6), _STORED, "store if the key exists", noreply=True),
    "append": _row(Kind.STORE, (5, 6), _STORED, "add behind a value", noreply=True),
    "prepend": _row(Kind.STORE, (5, 6), _STORED, "add before a value", noreply=True),
    "cas": _row(Kind.STORE, (6, 7), _STORED, "store if nobody else has", noreply=True),
    "delete": _row(Kind.KEY, (2, 4), "DELETED NOT_FOUND", "delete a key", noreply=True),
    "incr": _row(Kind.KEY, (3, 4), "NUMBER NOT_FOUND", "add to a number", noreply=True),
    "decr": _row(Kind.KEY, (3, 4), "NUMBER NOT_FOUND", "take from a number", noreply=True),
    "touch": _row(Kind.KEY, (3, 4), "TOUCHED NOT_FOUND", "new exptime for a key", noreply=True),
    "mg": _row(Kind.META, (2, 0), "VA HD EN OK", "meta get", quiet="EN"),
    "ms": _row(Kind.META_STORE, (2, 0), "HD NS EX NF OK", "meta set", quiet="HD OK"),
    "md": _row(Kind.META, (2, 0), "HD NF EX OK", "meta delete", quiet="HD OK"),
    "ma": _row(Kind.META, (2, 0), "HD VA NF NS EX OK", "meta arithmetic", quiet="HD VA OK"),
    "me": _row(Kind.META, (2, 0), "ME EN", "meta debug: an item's facts"),
    "mn": _row(Kind.LOCAL, (1, 0), text="meta no-op: its reply comes behind all before it"),
    "flush_all": _row(Kind.ALL, (1, 3), "OK", "drop everything", noreply=True),
    "verbosity": _row(Kind.ALL, (2, 3), "OK", "the servers' log level", noreply=True),
    "version": _row(
        Kind.LOCAL,
        (1, 0),
        "VERSION",
        "the lowest version of the servers, with nutproxy's own appended: `1.6.18-nutproxy-0.1.0`;"
        " `1.6.0` where none is known",
    ),
    "stats": _row(
        Kind.LOCAL,
        (1, 0),
        "STATS VALUES RESET OK",
        "nutproxy's figures; `stats servers` those about each server; `stats items` the sums of all"
        " servers' figures, `stats cachedump` all servers' keys; other kinds are asked of all"
        " servers, each name prefixed with its server's",
    ),
    "quit": _row(Kind.LOCAL, (1, 0), text="close the connection, behind what is owed"),
    "cache_memlimit": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "extstore": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "lru": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "lru_crawler": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "refresh_certs": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "shutdown": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "slabs": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "watch": _row(Kind.UNSUPPORTED, (1, 0), text="turns the shared connection into a log"),
}

_INTRODUCTION = """\
# Memcached commands

Generated from the command table, `nutproxy/proto/memcache_commands.py`, by
`python -m nutproxy.proto.memcache_commands`. Do not edit.

What a pool with `redis: false`, the default, does with each command of memcached's text protocol.
Lines are checked as memcached 1.6 checks them, and answered with its errors; the connection closes
where memcached closes it. `noreply`, and `q` of the meta commands, are not forwarded: a server
answers every request, so that no reply can be taken for another's, and nutproxy leaves out what the
client did not want to hear. A pool's `deny_commands` refuses further commands by name. An error of
a server is passed through as it is. What differs from a memcached is in
[differences.md](differences.md).
"""


def document() -> str:
    """The text of docs/memcached.md."""
    lines = [
        _INTRODUCTION,
        "| Command | What it does | What becomes of it | Left out with `q` |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in COMMANDS.items():
        silent = ", ".join(reply.name for reply in row.quiet if reply is not Reply.OK)
        noreply = " (also `noreply`)" if row.noreply else ""
        lines.append(f"| {name} | {row.text}{noreply} | {KIND_TEXTS[row.kind]} | {silent} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
