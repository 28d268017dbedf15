# nutproxy/builtin/info.py: INFO
"""INFO. A pool replies as if it were a single Redis server.

Sections and fields have the names and the order of Redis. INFO_FIELDS in proto.commands says which
fields are the proxy's own, which come from the servers, and how the values of several servers are
merged. The servers are asked at most once for all sections, and only if a section needs it.
"""

from __future__ import annotations

import contextlib
import platform
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic, time_ns

import hiredis

from nutproxy.builtin.interface import Client, Query
from nutproxy.builtin.resp import verbatim
from nutproxy.builtin.usage import usage
from nutproxy.plain import printable
from nutproxy.proto.commands import INFO_FIELDS

Fields = dict[str, object]
# By server name: the fields of its INFO, or the error. Empty if the servers were not asked.
Replies = Mapping[str, "dict[str, str] | ValueError"]


# How the values of several servers are merged -----------------------------------------------------


def total(values: Sequence[str]) -> object:
    """The sum, with two decimals if a server's value has decimals."""
    if any("." in value for value in values):
        return f"{sum(map(float, values)):.2f}"
    return sum(map(int, values))


def greatest(values: Sequence[str]) -> object:
    return max(map(int, values), default=0)


def least(values: Sequence[str]) -> object:
    return min(map(int, values), default=0)


def worst(values: Sequence[str]) -> object:
    """`ok` if all are, else the first other value."""
    return next((value for value in values if value != "ok"), "ok")


def limits(values: Sequence[str]) -> object:
    """The sum, or 0 ("no limit") if one server has no limit."""
    return 0 if "0" in values else total(values)


def distinct(values: Sequence[str]) -> object:
    """The common value, or all different values separated by commas."""
    return ",".join(dict.fromkeys(values))


Merge = Callable[[Sequence[str]], object]
# The functions by their name in INFO_FIELDS.
MERGES: Mapping[str, Merge] = {
    "sum": total,
    "greatest": greatest,
    "least": least,
    "worst": worst,
    "limit": limits,
    "distinct": distinct,
}


def merged(section: str, own: Fields, replies: Replies) -> Fields:
    """The fields of a section in the order of Redis, followed by those that only nutproxy has. A
    field that no server has sent is left out."""
    fields: Fields = {}
    servers = [*_answers(replies)]
    for name, merge in INFO_FIELDS[section].items():
        values = [server[name] for server in servers if name in server]
        if name in own:
            fields[name] = own[name]
        elif values:
            with contextlib.suppress(ValueError):
                fields[name] = MERGES[merge](values)
    return fields | own


def _answers(replies: Replies) -> Iterator[dict[str, str]]:
    return (reply for reply in replies.values() if isinstance(reply, dict))


# The sections -------------------------------------------------------------------------------------


def _server(client: Client, replies: Replies) -> Fields:
    pool, process = client.pool, client.frontend.process
    if pool.server_version is None:
        found = (reply.get("redis_version") for reply in _answers(replies))
        pool.server_version = next(filter(None, found), None)
    uptime = int(monotonic() - process.started)
    return {
        "redis_version": pool.server_version or "unknown",
        "redis_mode": "standalone",
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "arch_bits": 64 if sys.maxsize > 2**32 else 32,
        "process_id": process.pid,
        "run_id": _run_id(client),
        "tcp_port": client.frontend.port,
        "server_time_usec": time_ns() // 1000,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "config_file": process.config_file,
        "nutproxy_version": process.version,
        "nutproxy_pool": pool.name,
        "nutproxy_servers": len(pool.servers),
        "nutproxy_servers_down": sum(server.down for server in pool.servers),
        "nutproxy_servers_ejected": sum(server.ejected for server in pool.servers),
    }


def _clients(client: Client, replies: Replies) -> Fields:
    return {
        "connected_clients": client.frontend.curr_connections,
        "blocked_clients": client.frontend.blocked_clients,
        "tracking_clients": client.frontend.tracking_clients,
    }


def _memory(client: Client, replies: Replies) -> Fields:
    """The memory of all processes as counted by the kernel; there are no allocator statistics."""
    used, peak, _, _ = usage(client.frontend.pids)
    memory = {"used_memory": used, "used_memory_rss": used, "used_memory_peak": peak}
    fields: Fields = {}
    for name, size in memory.items():
        fields[name] = size
        fields[f"{name}_human"] = human(size)
    return merged("Memory", fields, replies)


def _persistence(client: Client, replies: Replies) -> Fields:
    """`loading` is always 0. A server that is loading refuses requests with LOADING itself, and a
    client that waits for the end of loading would not use the other servers either."""
    return merged("Persistence", {"loading": 0, "async_loading": 0}, replies)


def _replication(client: Client, replies: Replies) -> Fields:
    """A primary without replicas."""
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": _run_id(client),
        "master_replid2": "0" * 40,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _run_id(client: Client) -> str:
    """40 hexadecimal digits that do not change while the process runs."""
    process = client.frontend.process
    told = f"{platform.node()} {process.pid} {process.started} {client.pool.name}"
    return f"{random.Random(told).getrandbits(160):040x}"


def _cpu(client: Client, replies: Replies) -> Fields:
    """`_main_thread`: the workers, which handle the requests."""
    process, *workers = client.frontend.pids
    fields: Fields = {}
    for suffix, pids in (
        ("", [process, *workers]),
        ("_children", []),
        ("_main_thread", workers or [process]),
    ):
        used = usage(pids)
        fields[f"used_cpu_sys{suffix}"] = f"{used.system:.6f}"
        fields[f"used_cpu_user{suffix}"] = f"{used.user:.6f}"
    return fields


def _modules(client: Client, replies: Replies) -> Fields:
    """Empty: nutproxy supports no module commands."""
    return {}


def _commandstats(client: Client, replies: Replies) -> Fields:
    """The sums, and usec_per_call computed from them."""
    fields: Fields = {}
    for name, found in _by_name("cmdstat_", replies):
        sums = {key: sum(int(float(each.get(key, 0))) for each in found) for key in found[0]}
        per_call = sums.get("usec", 0) / max(1, sums.get("calls", 0))
        fields[name] = _pairs({**sums, "usec_per_call": f"{per_call:.2f}"})
    return fields


def _errorstats(client: Client, replies: Replies) -> Fields:
    return {
        name: _pairs({"count": sum(int(each["count"]) for each in found)})
        for name, found in _by_name("errorstat_", replies)
    }


def _latencystats(client: Client, replies: Replies) -> Fields:
    """Percentiles cannot be added, so each is that of the slowest server."""
    return {
        name: _pairs(
            {key: max((each.get(key, "0") for each in found), key=float) for key in found[0]}
        )
        for name, found in _by_name("latency_percentiles_usec_", replies)
    }


def _by_name(prefix: str, replies: Replies) -> Iterable[tuple[str, list[dict[str, str]]]]:
    """The names of fields that begin with `prefix`, each with the values of the servers."""
    found: dict[str, list[dict[str, str]]] = {}
    for reply in _answers(replies):
        for name, text in reply.items():
            if name.startswith(prefix):
                figures = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
                found.setdefault(name, []).append(figures)
    return found.items()


def _parsed(reply: object) -> dict[str, str] | ValueError:
    try:
        return _fields(reply)
    except ValueError as error:
        return error


def _pairs(figures: Mapping[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in figures.items())


def _cluster(client: Client, replies: Replies) -> Fields:
    return {"cluster_enabled": 0}


def human(size: float) -> str:
    """A number of bytes in the format of Redis' _human fields."""
    units = iter("BKMGTP")
    unit = next(units)
    while size >= 1024:
        size /= 1024
        unit = next(units)
    return f"{size:.0f}B" if unit == "B" else f"{size:.2f}{unit}"


def _stats(client: Client, replies: Replies) -> Fields:
    frontend = client.frontend
    own: Fields = {
        "total_connections_received": frontend.total_connections,
        "total_commands_processed": frontend.total_requests,
        "total_net_input_bytes": frontend.total_net_in,
        "total_net_output_bytes": frontend.total_net_out,
        "rejected_connections": frontend.rejected_connections,
        "forward_error": frontend.forward_errors,
        "server_ejects": client.pool.server_ejects,
    }
    failed = sum(isinstance(reply, ValueError) for reply in replies.values())
    if failed:
        own["nutproxy_servers_unanswered"] = failed
    return merged("Stats", own, replies)


def _keyspace(client: Client, replies: Replies) -> Fields:
    """The sums of each database that clients can select; redis_db is db0 to them.

    avg_ttl is the mean over all keys that expire. Servers that failed are counted and listed with
    the reason, so that the reader can see that the sum is incomplete.
    """
    pool = client.pool
    sums: dict[int, dict[str, int]] = {}
    failed = {}
    for name, reply in replies.items():
        try:
            if isinstance(reply, ValueError):
                raise reply
            found = {
                number: _counts(text)
                for number, text in _databases(reply)
                if number == pool.redis_db or 0 < number < pool.databases
            }
        except ValueError as error:
            failed[name] = printable(str(error))
            continue
        for number, counts in found.items():
            total = sums.setdefault(0 if number == pool.redis_db else number, _counts(""))
            for key in ("keys", "expires"):
                total[key] += counts[key]
            total["avg_ttl"] += counts["expires"] * counts["avg_ttl"]
    fields: Fields = {}
    for number, total in sorted(sums.items()):
        if total["expires"]:
            total["avg_ttl"] //= total["expires"]
        if total["keys"]:
            fields[f"db{number}"] = _pairs(total)
    if failed:
        fields["nutproxy_servers_unanswered"] = len(failed)
    for place, (name, cause) in enumerate(failed.items()):
        fields[f"nutproxy_unanswered{place}"] = f"server={name},error={cause}"
    return fields


NO_FIGURES = "the reply holds no figures"


def _databases(reply: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """The databases in a server's INFO: number and figures."""
    for name, text in reply.items():
        if name.startswith("db") and name[2:].isdigit():
            yield int(name[2:]), text


def _counts(text: str) -> dict[str, int]:
    """The figures of a database. Raises ValueError if one is not a number."""
    counts = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    try:
        return {name: int(counts.get(name, 0)) for name in ("keys", "expires", "avg_ttl")}
    except ValueError:
        raise ValueError(NO_FIGURES) from None


def _fields(reply: object) -> dict[str, str]:
    """The fields of a server's INFO. Raises ValueError with the reason if there are none."""
    if isinstance(reply, hiredis.ReplyError):
        raise ValueError(str(reply))
    if not isinstance(reply, bytes):
        raise ValueError(NO_FIGURES)
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def server_version(reply: object) -> str | None:
    """The version in a server's INFO, or None."""
    try:
        return _fields(reply).get("redis_version")
    except ValueError:
        return None


Section = Callable[[Client, Replies], Fields]
# In the order of Redis.
SECTIONS: Mapping[str, Section] = {
    "Server": _server,
    "Clients": _clients,
    "Memory": _memory,
    "Persistence": _persistence,
    "Stats": _stats,
    "Replication": _replication,
    "CPU": _cpu,
    "Modules": _modules,
    "Commandstats": _commandstats,
    "Errorstats": _errorstats,
    "Latencystats": _latencystats,
    "Cluster": _cluster,
    "Keyspace": _keyspace,
}
# The sections that need data from the servers. Server needs it too until their version is known.
OF_SERVERS = frozenset(
    {"Memory", "Persistence", "Stats", "Commandstats", "Errorstats", "Latencystats", "Keyspace"}
)
# The sections that only INFO all and INFO everything include.
NOT_BY_DEFAULT = frozenset({"Commandstats", "Latencystats"})
# Words for several sections, and the sections that they leave out.
GROUPS: Mapping[bytes, frozenset[str]] = {
    b"default": NOT_BY_DEFAULT,
    b"all": frozenset(),
    b"everything": frozenset(),
}


def info(client: Client, argv: list[bytes]) -> bytes | Query:
    """INFO [section …]. An unknown section is empty, as in Redis."""
    asked = {word.lower() for word in argv[1:]} or {b"default"}
    wanted = [name for name in SECTIONS if _is_wanted(name, asked)]
    names = [server.name for server in client.pool.members()]

    def finish(answers: list[object]) -> bytes:
        return report(dict(zip(names, map(_parsed, answers), strict=True)))

    def report(replies: Replies) -> bytes:
        parts = []
        for name in wanted:
            fields = SECTIONS[name](client, replies)
            lines = "".join(f"{field}:{value}\r\n" for field, value in fields.items())
            parts.append(f"# {name}\r\n{lines}")
        return verbatim("\r\n".join(parts), client.protover)

    needed = OF_SERVERS.intersection(wanted)
    if "Server" in wanted and client.pool.server_version is None:
        needed |= {"Server"}
    return Query("all", _question(needed), finish) if needed else report({})


def _is_wanted(name: str, asked: set[bytes]) -> bool:
    if name.lower().encode() in asked:
        return True
    return any(word in asked and name not in left_out for word, left_out in GROUPS.items())


def _question(needed: frozenset[str]) -> list[bytes]:
    """One request for all needed sections. Redis before 7 accepts at most one section argument."""
    if len(needed) == 1:
        return [b"INFO", *(name.lower().encode() for name in needed)]
    return [b"INFO", b"all"] if needed & NOT_BY_DEFAULT else [b"INFO"]
