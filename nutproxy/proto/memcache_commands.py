# nutproxy/proto/memcache_commands.py: the table of Memcached commands
"""What nutproxy does with each command of memcached's text protocol, classic and meta.

A row has the layout of the line and the replies that belong to it. The parser, the dispatcher, the
check of `deny_commands` and docs/memcached.md all read this table. Layouts, reply words and the
replies that quiet mode drops are those of memcached 1.6 (protocol.txt and proto_text.c).

For every forwarded line, the server must read exactly as many bytes as the proxy has read, and send
exactly one reply. So everything that affects either (key lengths, numbers of a storage command, the
data's terminator) is checked first. `noreply` and `q` are not forwarded: the proxy drops the reply
itself.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from nutproxy.proto import binary_commands

KEY_MAX = 250  # bytes of a key


class Kind(IntEnum):
    """How a command is handled. It also determines the layout of the line."""

    GET = 0  # <name> <key>+
    GAT = 1  # <name> <exptime> <key>+
    STORE = 2  # <name> <key> <flags> <exptime> <bytes> [cas], and a data block
    KEY = 3  # <name> <key> …
    META = 4  # <name> <key> <flag>*
    META_STORE = 5  # ms <key> <bytes> <flag>*, and a data block
    ALL = 6  # to all servers
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
    Kind.GET: "split per server; the values come in the order of the keys, repeated keys included",
    Kind.GAT: "split per server; the values come in the order of the keys, repeated keys included",
    Kind.STORE: "to the key's server",
    Kind.KEY: "to the key's server",
    Kind.META: "to the key's server; with `b` the decoded key decides",
    Kind.META_STORE: "to the key's server; with `b` the decoded key decides",
    Kind.ALL: "to all live servers; replies with the first error, or else the first reply",
    Kind.LOCAL: "handled by nutproxy",
    Kind.UNSUPPORTED: "refused with `CLIENT_ERROR`; the connection stays open",
}


class Command(NamedTuple):
    """A row. Words are counted with the command itself; `max_words` 0 means no bound."""

    kind: Kind
    min_words: int
    max_words: int
    noreply: bool  # a last word `noreply` asks for no reply
    replies: tuple[Reply, ...]
    quiet: tuple[Reply, ...]  # dropped with the meta flag `q`
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
    "gat": _row(Kind.GAT, (2, 0), "VALUES", "values of keys; also sets a new exptime"),
    "gats": _row(
        Kind.GAT, (2, 0), "VALUES", "values of keys, each with its cas; also sets a new exptime"
    ),
    "set": _row(Kind.STORE, (5, 6), _STORED, "store", noreply=True),
    "add": _row(Kind.STORE, (5, 6), _STORED, "store if the key does not exist", noreply=True),
    "replace": _row(Kind.STORE, (5, 6), _STORED, "store if the key exists", noreply=True),
    "append": _row(Kind.STORE, (5, 6), _STORED, "append to a value", noreply=True),
    "prepend": _row(Kind.STORE, (5, 6), _STORED, "prepend to a value", noreply=True),
    "cas": _row(
        Kind.STORE,
        (6, 7),
        _STORED,
        "store if the item has not changed since it was read",
        noreply=True,
    ),
    "delete": _row(Kind.KEY, (2, 4), "DELETED NOT_FOUND", "delete a key", noreply=True),
    "incr": _row(Kind.KEY, (3, 4), "NUMBER NOT_FOUND", "increment a number", noreply=True),
    "decr": _row(Kind.KEY, (3, 4), "NUMBER NOT_FOUND", "decrement a number", noreply=True),
    "touch": _row(Kind.KEY, (3, 4), "TOUCHED NOT_FOUND", "set a new exptime", noreply=True),
    "mg": _row(Kind.META, (2, 0), "VA HD EN OK", "meta get", quiet="EN"),
    "ms": _row(Kind.META_STORE, (2, 0), "HD NS EX NF OK", "meta set", quiet="HD OK"),
    "md": _row(Kind.META, (2, 0), "HD NF EX OK", "meta delete", quiet="HD OK"),
    "ma": _row(Kind.META, (2, 0), "HD VA NF NS EX OK", "meta arithmetic", quiet="HD VA OK"),
    "me": _row(Kind.META, (2, 0), "ME EN", "meta debug: metadata of an item"),
    "mn": _row(Kind.LOCAL, (1, 0), text="meta no-op: its reply comes after all earlier replies"),
    "flush_all": _row(Kind.ALL, (1, 3), "OK", "delete all items", noreply=True),
    "verbosity": _row(Kind.ALL, (2, 3), "OK", "set the servers' log level", noreply=True),
    "version": _row(
        Kind.LOCAL,
        (1, 0),
        "VERSION",
        "the lowest version of the servers with nutproxy's own appended: `1.6.18-nutproxy-0.1.0`;"
        " `1.6.0` if none is known",
    ),
    "stats": _row(
        Kind.LOCAL,
        (1, 0),
        "STATS VALUES RESET OK",
        "nutproxy's counters. `stats servers`: the state of each server. `stats items`: the sums"
        " over all servers. `stats cachedump`: the keys of all servers. Other kinds: the replies"
        " of all servers, each name prefixed with its server's name",
    ),
    "quit": _row(Kind.LOCAL, (1, 0), text="close the connection after all earlier replies"),
    "cache_memlimit": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "extstore": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "lru": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "lru_crawler": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "refresh_certs": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "shutdown": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "slabs": _row(Kind.UNSUPPORTED, (1, 0), text="administration of one server"),
    "watch": _row(Kind.UNSUPPORTED, (1, 0), text="turns the shared server connection into a log"),
}

_INTRODUCTION = """\
# Memcached commands

Generated from the command table, `nutproxy/proto/memcache_commands.py`, by
`python -m nutproxy.proto.memcache_commands`. Do not edit.

This is how a pool with `redis: false`, the default, handles each command of memcached's text
protocol, and [each opcode](#the-binary-protocol) of the binary one. nutproxy checks lines as
memcached 1.6 does and replies with the same errors. It closes the connection where memcached closes
it. It does not forward `noreply` or the meta flag `q`: the server replies to every request, so that
replies cannot be mixed up, and nutproxy drops the replies that the client did not want. A pool's
`deny_commands` refuses further commands by name. A server's error is passed on unchanged.
[differences.md](differences.md) lists the differences from memcached.
"""


def document() -> str:
    """The text of docs/memcached.md."""
    lines = [
        _INTRODUCTION,
        "| Command | What it does | How it is handled | Dropped with `q` |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in COMMANDS.items():
        silent = ", ".join(reply.name for reply in row.quiet if reply is not Reply.OK)
        noreply = " (also `noreply`)" if row.noreply else ""
        lines.append(f"| {name} | {row.text}{noreply} | {KIND_TEXTS[row.kind]} | {silent} |")
    return "\n".join(lines) + "\n\n" + binary_commands.section()


if __name__ == "__main__":
    print(document(), end="")
