# nutproxy/local/server.py: INFO, TIME, LOLWUT
"""The proxy's answers about itself, in the place of the one server that clients take it for."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, time_ns

import hiredis

from nutproxy.config.values import printable
from nutproxy.local.interface import Client, Query
from nutproxy.local.resp import array, bulk, verbatim


def time(client: Client, argv: list[bytes]) -> bytes:
    seconds, nanoseconds = divmod(time_ns(), 1_000_000_000)
    return array([bulk(b"%d" % seconds), bulk(b"%d" % (nanoseconds // 1000))])


LOLWUT = """\
         .-''''''-.
      .o'          'o.
     /     one ring,   \\
    o    many servers   o
     \\                 /
      'o.           .o'
         '-......o-'

"""


def lolwut(client: Client, argv: list[bytes]) -> bytes:
    return verbatim(f"{LOLWUT}nutproxy ver. {client.context.version}\n", client.resp)


Fields = dict[str, object]
# What the servers have said, by their names; nothing where they were not asked.
Replies = Mapping[str, object]

SECTIONS_OF_ALL = frozenset({b"default", b"all", b"everything"})


def info(client: Client, argv: list[bytes]) -> bytes | Query:
    """INFO [section …]: Redis' layout and field names; unknown sections are empty, as in Redis."""
    asked = {word.lower() for word in argv[1:]} or SECTIONS_OF_ALL
    wanted = [
        name for name in SECTIONS if asked & SECTIONS_OF_ALL or name.lower().encode() in asked
    ]
    names = [server.name for server in client.pool.live_servers()]

    def finish(answers: list[object]) -> bytes:
        return report(dict(zip(names, answers, strict=True)))

    def report(replies: Replies) -> bytes:
        parts = []
        for name in wanted:
            fields = SECTIONS[name](client, replies)
            lines = "".join(f"{field}:{value}\r\n" for field, value in fields.items())
            parts.append(f"# {name}\r\n{lines}")
        return verbatim("\r\n".join(parts), client.resp)

    if "Server" in wanted and client.pool.server_version is None:
        return Query("all", [b"INFO"], finish)
    if "Keyspace" in wanted:
        return Query("all", [b"INFO", b"keyspace"], finish)
    return report({})


def _server(client: Client, replies: Replies) -> Fields:
    pool, context = client.pool, client.context
    if pool.server_version is None:
        found = (_fields(reply).get("redis_version") for reply in replies.values())
        pool.server_version = next(filter(None, found), None)
    uptime = int(monotonic() - context.started)
    return {
        "redis_version": pool.server_version or "unknown",
        "redis_mode": "standalone",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 2**32 else 32,
        "process_id": context.pid,
        "tcp_port": context.port,
        "server_time_usec": time_ns() // 1000,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "config_file": context.config_file,
        "nutproxy_version": context.version,
        "nutproxy_pool": pool.name,
        "nutproxy_servers": len(pool.servers),
        "nutproxy_servers_down": sum(server.down for server in pool.servers),
        "nutproxy_servers_ejected": sum(server.ejected for server in pool.servers),
    }


def _clients(client: Client, replies: Replies) -> Fields:
    return {
        "connected_clients": client.pool.curr_connections,
        "blocked_clients": 0,
        "tracking_clients": 0,
    }


def _memory(client: Client, replies: Replies) -> Fields:
    """The process as the kernel counts it: there are no figures of an allocator."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    used = pages * resource.getpagesize()
    # The kernel's peak is not always up to date.
    peak = max(used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    memory = {"used_memory": used, "used_memory_rss": used, "used_memory_peak": peak}
    fields: Fields = {}
    for name, size in memory.items():
        fields[name] = size
        fields[f"{name}_human"] = human(size)
    return fields


def human(size: float) -> str:
    """A number of bytes in the units of Redis' _human fields."""
    units = iter("BKMGTP")
    unit = next(units)
    while size >= 1024:
        size /= 1024
        unit = next(units)
    return f"{size:.0f}B" if unit == "B" else f"{size:.2f}{unit}"


def _stats(client: Client, replies: Replies) -> Fields:
    pool = client.pool
    return {
        "total_connections_received": pool.total_connections,
        "total_commands_processed": pool.total_requests,
        "total_net_input_bytes": pool.total_net_in,
        "total_net_output_bytes": pool.total_net_out,
        "rejected_connections": pool.rejected_connections,
        "forward_error": pool.forward_errors,
        "server_ejects": pool.server_ejects,
    }


def _keyspace(client: Client, replies: Replies) -> Fields:
    """The sum of the servers' redis_db, which is the client's db0.

    avg_ttl is the mean over all keys that expire. Servers that did not answer are counted and named
    with the reason, so that a sum without them is not taken for the whole.
    """
    keys = expires = ttls = 0
    failed = {}
    for name, reply in replies.items():
        try:
            counts = _counts(reply, f"db{client.pool.redis_db}")
        except ValueError as error:
            failed[name] = printable(str(error))
            continue
        keys += counts["keys"]
        expires += counts["expires"]
        ttls += counts["expires"] * counts["avg_ttl"]
    fields: Fields = {}
    if keys:
        avg_ttl = ttls // expires if expires else 0
        fields["db0"] = f"keys={keys},expires={expires},avg_ttl={avg_ttl}"
    if failed:
        fields["nutproxy_servers_unanswered"] = len(failed)
    for number, (name, cause) in enumerate(failed.items()):
        fields[f"nutproxy_unanswered{number}"] = f"server={name},error={cause}"
    return fields


NO_FIGURES = "the reply holds no figures"


def _counts(reply: object, database: str) -> dict[str, int]:
    """The figures of one database in a server's INFO. Raises ValueError where there are none."""
    if isinstance(reply, hiredis.ReplyError):
        raise ValueError(str(reply))
    if not isinstance(reply, bytes):
        raise ValueError(NO_FIGURES)
    text = _fields(reply).get(database, "")
    counts = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    try:
        return {name: int(counts.get(name, 0)) for name in ("keys", "expires", "avg_ttl")}
    except ValueError:
        raise ValueError(NO_FIGURES) from None


def _fields(reply: object) -> dict[str, str]:
    """The fields of a server's INFO; none of a server that failed."""
    if not isinstance(reply, bytes):
        return {}
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


SECTIONS: Mapping[str, Callable[[Client, Replies], Fields]] = {
    "Server": _server,
    "Clients": _clients,
    "Memory": _memory,
    "Stats": _stats,
    "Keyspace": _keyspace,
}
