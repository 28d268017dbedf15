# nutproxy/local/memcache.py: version, quit, stats
"""The memcached commands that the proxy answers itself: handlers as in `nutproxy.local`.

`stats` has memcached's names where a figure means the same in a proxy. What is asked of the servers
comes back with each name prefixed by its server's: `STAT s1:items:1:number 4`. A server that cannot
say is one line, `STAT s1:error ...`, so that the others' figures are not lost.
"""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Callable, Iterable, Mapping

from nutproxy.local.interface import Client, Query

INTERNAL_ERROR = b"SERVER_ERROR internal error of nutproxy, see its log\r\n"

Handler = Callable[[Client, list[bytes]], bytes | Query]


def version(client: Client, words: list[bytes]) -> bytes:
    """Clients that look for features read digits behind VERSION."""
    return f"VERSION {client.context.version} (nutproxy)\r\n".encode()


def quit(client: Client, words: list[bytes]) -> bytes:
    client.closing = True
    return b""


def stats(client: Client, words: list[bytes]) -> bytes | Query:
    if len(words) == 1:
        return _lines(_own(client).items())
    if words[1:] == [b"servers"]:
        return _lines(_servers(client))
    names = [server.name.encode() for server in client.pool.live_servers()]

    def finish(replies: list[object]) -> bytes:
        texts = [reply for reply in replies if isinstance(reply, bytes)]
        # RESET, OK, or the same error of all.
        if len(set(texts)) == 1 and not texts[0].endswith(b"END\r\n"):
            return texts[0]
        parts = [_prefixed(name, text) for name, text in zip(names, texts, strict=True)]
        return b"".join(parts) + b"END\r\n" if parts else NO_SERVER % client.pool.name.encode()

    return Query("all", words, finish)


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
        "version": context.version,
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
