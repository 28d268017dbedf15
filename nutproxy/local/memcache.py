# nutproxy/local/memcache.py: version, quit, stats
"""The memcached commands that the proxy answers itself: handlers as in `nutproxy.local`.

`stats` has memcached's names where a figure means the same in a proxy. What is asked of the servers
comes back with each name prefixed by its server's: `STAT s1:evictions 4`. A server that cannot say
is one line, `STAT s1:error ...`, so that the others' figures are not lost.

`stats items` and `stats cachedump` come back as from one memcached, because libmemcached and others
read lists of keys from them. An error of one server is then the whole reply.
"""

from __future__ import annotations

import re
import resource
import struct
import time
from collections.abc import Callable, Iterable, Mapping

from nutproxy import __version__
from nutproxy.local.interface import Client, Query

INTERNAL_ERROR = b"SERVER_ERROR internal error of nutproxy, see its log\r\n"

Handler = Callable[[Client, list[bytes]], bytes | Query]


# The version whose protocol nutproxy speaks: told where no server has said its own.
PROTOCOL_VERSION = (1, 6, 0)
# After the servers' version. All clients parse the two together: libmemcached wants a major version
# above 0 at the start, emcache no blank, and memcached of npm three numbers at the end.
SUFFIX = f"-nutproxy-{__version__}"
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")


def version(client: Client, words: list[bytes]) -> bytes | Query:
    """The servers' version, because clients look for features by it. It is learned in the
    handshake, so the first client that asks has to wait for one."""

    def finish(replies: list[object]) -> bytes:
        return b"VERSION %b\r\n" % _version(client).encode()

    if any(server.version for server in client.pool.servers):
        return finish([])
    return Query("any", words[:1], finish)


def _version(client: Client) -> str:
    found = [VERSION.match(server.version) for server in client.pool.servers]
    versions = [tuple(map(int, match.groups())) for match in found if match]
    return ".".join(map(str, min(versions, default=PROTOCOL_VERSION))) + SUFFIX


def quit(client: Client, words: list[bytes]) -> bytes:
    client.closing = True
    return b""


def stats(client: Client, words: list[bytes]) -> bytes | Query:
    if len(words) == 1:
        return _lines(_own(client).items())
    if words[1:] == [b"servers"]:
        return _lines(_servers(client))
    if words[1:] == [b"items"]:
        return Query("all", words, _merged(client, _items))
    if words[1] == b"cachedump" and len(words) == 4:
        return Query("all", words, _merged(client, lambda texts: _dump(texts, words[3])))
    names = [server.name.encode() for server in client.pool.live_servers()]

    def finish(replies: list[object]) -> bytes:
        texts = [reply for reply in replies if isinstance(reply, bytes)]
        # RESET, OK, or the same error of all.
        if len(set(texts)) == 1 and not texts[0].endswith(b"END\r\n"):
            return texts[0]
        parts = [_prefixed(name, text) for name, text in zip(names, texts, strict=True)]
        return b"".join(parts) + b"END\r\n" if parts else NO_SERVER % client.pool.name.encode()

    return Query("all", words, finish)


def _merged(
    client: Client, merge: Callable[[list[bytes]], bytes]
) -> Callable[[list[object]], bytes]:
    """What makes one reply out of those of all servers, whose END is cut off; or takes the first
    error among them."""

    def finish(replies: list[object]) -> bytes:
        texts = [reply for reply in replies if isinstance(reply, bytes)]
        for text in texts:
            if not text.endswith(b"END\r\n") or not text.startswith((b"STAT ", b"ITEM ", b"END\r")):
                return text[text.rfind(b"\n", 0, -1) + 1 :]
        if not texts:
            return NO_SERVER % client.pool.name.encode()
        return merge([text.removesuffix(b"END\r\n") for text in texts]) + b"END\r\n"

    return finish


def _items(texts: list[bytes]) -> bytes:
    """Figures by slab: sums, but of an age the greatest."""
    figures: dict[bytes, int] = {}
    for line in b"".join(texts).split(b"\r\n"):
        _, name, value = (*line.split(b" "), b"", b"")[:3]
        if value.isdigit():
            before = figures.get(name, 0)
            oldest = name.rpartition(b":")[2].startswith(b"age")
            figures[name] = max(before, int(value)) if oldest else before + int(value)
    # By slab, whichever server has named it first.
    order = sorted(figures, key=lambda name: int(name.split(b":")[1]) if name[6:7].isdigit() else 0)
    return b"".join(b"STAT %b %d\r\n" % (name, figures[name]) for name in order)


def _dump(texts: list[bytes], limit: bytes) -> bytes:
    """Lines with a key each: of all servers at most as many as a single one would show."""
    most = int(limit) if limit.isdigit() and len(limit) < 10 else 0
    if most == 0:
        return b"".join(texts)
    # A key may hold any white space but a line feed.
    lines = b"".join(texts).split(b"\n")[:-1]
    return b"".join(line + b"\n" for line in lines[:most])


NO_FIGURES = b"the server's reply holds no statistics"
NO_SERVER = b"SERVER_ERROR pool '%b' has no live server: Connection refused\r\n"


def _prefixed(name: bytes, text: bytes) -> bytes:
    """The lines of one server's figures, without END; or its error, which may come behind some.
    With values, whose bytes may be any, no line of its reply is repeated."""
    *figures, last = text.split(b"\r\n")[:-1]
    lines = []
    for line in figures:
        word, _, rest = line.partition(b" ")
        if word not in (b"STAT", b"ITEM", b"PREFIX"):
            return b"STAT %b:error %b\r\n" % (name, NO_FIGURES)
        lines.append(b"%b %b:%b\r\n" % (word, name, rest))
    if last != b"END":
        lines.append(b"STAT %b:error %b\r\n" % (name, last))
    return b"".join(lines)


def _lines(figures: Iterable[tuple[str, object]]) -> bytes:
    return "".join(f"STAT {name} {value}\r\n" for name, value in figures).encode() + b"END\r\n"


def _own(client: Client) -> dict[str, object]:
    pool, context = client.pool, client.context
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pid": context.pid,
        "uptime": int(time.monotonic() - context.started),
        "time": int(time.time()),
        "version": _version(client),
        "pointer_size": 8 * struct.calcsize("P"),
        "rusage_user": f"{usage.ru_utime:.6f}",
        "rusage_system": f"{usage.ru_stime:.6f}",
        "curr_connections": pool.curr_connections,
        "total_connections": pool.total_connections,
        "rejected_connections": pool.rejected_connections,
        "bytes_read": pool.total_net_in,
        "bytes_written": pool.total_net_out,
        "threads": 1,
        "nutproxy_pool": pool.name,
        "nutproxy_servers": len(pool.servers),
        "nutproxy_servers_down": sum(server.down for server in pool.servers),
        "nutproxy_servers_ejected": sum(server.ejected for server in pool.servers),
        "nutproxy_requests": pool.total_requests,
        "nutproxy_forward_error": pool.forward_errors,
        "nutproxy_server_ejects": pool.server_ejects,
    }


def _servers(client: Client) -> Iterable[tuple[str, object]]:
    for server in client.pool.servers:
        state = "ejected" if server.ejected else "down" if server.down else "up"
        yield f"{server.name}:address", server.address
        yield f"{server.name}:state", state
        yield f"{server.name}:requests", server.requests
        yield f"{server.name}:responses", server.responses


# By the name of the command.
HANDLERS: Mapping[bytes, Handler] = {b"version": version, b"quit": quit, b"stats": stats}
