# nutproxy/builtin/memcache.py: version, quit, stats
"""The Memcached commands that the proxy handles itself: handlers as in `nutproxy.builtin`.

`stats` uses memcached's names for values that have the same meaning in a proxy. Statistics from the
servers have the name of the server as a prefix: `STAT s1:evictions 4`. A server that fails adds one
line, `STAT s1:error ...`, so that the statistics of the others are not lost.

`stats items` and `stats cachedump` have the form of a single memcached's reply, because
libmemcached and others read lists of keys from them. If a server fails, its error is the whole
reply.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterable, Mapping

from nutproxy import __version__
from nutproxy.builtin.interface import Client, Query
from nutproxy.builtin.usage import usage
from nutproxy.proto.errors import cause, memcache_error

Handler = Callable[[Client, list[bytes]], bytes | Query]


# The version whose protocol nutproxy speaks. Reported if no server's version is known.
PROTOCOL_VERSION = (1, 6, 0)
# Appended to the version of the servers. All clients must be able to parse it: libmemcached
# needs a major version above 0 at the start, emcache no space, and memcached of npm three numbers
# at the end.
SUFFIX = f"-nutproxy-{__version__}"
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")


def version(client: Client, words: list[bytes]) -> bytes | Query:
    """The lowest version of the servers, because clients choose features by it.

    The version of a server is learned in the handshake. If none is known yet, the request is also
    sent to a server, so that its handshake is complete when the reply is made."""

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
    names = [server.name.encode() for server in client.pool.members()]

    def finish(replies: list[object]) -> bytes:
        texts = [reply for reply in replies if isinstance(reply, bytes)]
        # RESET, OK, or the same error from all servers.
        if len(set(texts)) == 1 and not texts[0].endswith(b"END\r\n"):
            return texts[0]
        parts = [_prefixed(name, text) for name, text in zip(names, texts, strict=True)]
        return b"".join(parts) + b"END\r\n" if parts else _no_server(client)

    return Query("all", words, finish)


def _merged(
    client: Client, merge: Callable[[list[bytes]], bytes]
) -> Callable[[list[object]], bytes]:
    """Returns a `finish` that applies `merge` to the replies of all servers without their END. If
    one of them is an error, that is the reply."""

    def finish(replies: list[object]) -> bytes:
        texts = [reply for reply in replies if isinstance(reply, bytes)]
        for text in texts:
            if not text.endswith(b"END\r\n") or not text.startswith((b"STAT ", b"ITEM ", b"END\r")):
                return text[text.rfind(b"\n", 0, -1) + 1 :]
        if not texts:
            return _no_server(client)
        return merge([text.removesuffix(b"END\r\n") for text in texts]) + b"END\r\n"

    return finish


def _items(texts: list[bytes]) -> bytes:
    """Statistics by slab: the greatest age, and sums of everything else."""
    figures: dict[bytes, int] = {}
    for line in b"".join(texts).split(b"\r\n"):
        _, name, value = (*line.split(b" "), b"", b"")[:3]
        if value.isdigit():
            before = figures.get(name, 0)
            oldest = name.rpartition(b":")[2].startswith(b"age")
            figures[name] = max(before, int(value)) if oldest else before + int(value)
    # Sort by slab, because not every server has every slab.
    order = sorted(figures, key=lambda name: int(name.split(b":")[1]) if name[6:7].isdigit() else 0)
    return b"".join(b"STAT %b %d\r\n" % (name, figures[name]) for name in order)


def _dump(texts: list[bytes], limit: bytes) -> bytes:
    """Lines with one key each. `limit` applies to the lines of all servers together."""
    most = int(limit) if limit.isdigit() and len(limit) < 10 else 0
    if most == 0:
        return b"".join(texts)
    # Split at line feeds only: a key may contain any other white space.
    lines = b"".join(texts).split(b"\n")[:-1]
    return b"".join(line + b"\n" for line in lines[:most])


NO_FIGURES = cause("no_statistics").encode()


def _no_server(client: Client) -> bytes:
    return memcache_error("no_live_server", client.pool.name.encode())


def _prefixed(name: bytes, text: bytes) -> bytes:
    """The lines of one server's statistics without END, with the server's name as a prefix. An
    error may follow some lines. A reply with any other line, such as a value that may contain any
    bytes, is replaced by an error line."""
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
    pool, frontend = client.pool, client.frontend
    used = usage(frontend.pids)
    return {
        "pid": frontend.process.pid,
        "uptime": int(time.monotonic() - frontend.process.started),
        "time": int(time.time()),
        "version": _version(client),
        "pointer_size": 8 * struct.calcsize("P"),
        "rusage_user": f"{used.user:.6f}",
        "rusage_system": f"{used.system:.6f}",
        "curr_connections": frontend.curr_connections,
        "total_connections": frontend.total_connections,
        "rejected_connections": frontend.rejected_connections,
        "bytes_read": frontend.total_net_in,
        "bytes_written": frontend.total_net_out,
        "threads": 1,
        "nutproxy_pool": pool.name,
        "nutproxy_servers": len(pool.servers),
        "nutproxy_servers_down": sum(server.down for server in pool.servers),
        "nutproxy_servers_ejected": sum(server.ejected for server in pool.servers),
        "nutproxy_requests": frontend.total_requests,
        "nutproxy_forward_error": frontend.forward_errors,
        "nutproxy_server_ejects": pool.server_ejects,
    }


def _servers(client: Client) -> Iterable[tuple[str, object]]:
    for server in client.pool.servers:
        state = "ejected" if server.ejected else "down" if server.down else "up"
        yield f"{server.name}:address", server.address
        yield f"{server.name}:state", state
        yield f"{server.name}:requests", server.requests
        yield f"{server.name}:responses", server.responses


# The handlers by the name of the command.
HANDLERS: Mapping[bytes, Handler] = {b"version": version, b"quit": quit, b"stats": stats}
