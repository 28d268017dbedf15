# nutproxy/descriptors.py: the limit on open files, and how it is shared out
"""Every connection is an open file, and the system limits their number (RLIMIT_NOFILE).

    limit ─┬─ the process itself          OWN
           ├─ for each pool: its listener, and what its servers may need at once
           ├─ client_connections          of the pools that set it
           └─ the rest                    clients of the pools that do not

The descriptors that servers may need are reserved, so clients cannot use them up: only the client
that is one too many is refused. A configuration that leaves too few descriptors for clients is
refused at the start.
"""

import resource
import sys
from collections.abc import Iterator
from typing import NamedTuple

from nutproxy.config import Config, PoolConfig

# Standard input, output and error 3, log 2, epoll 1, signals 2, pid file 1, the statistics port 1
# with 16 of its clients, a client that is being refused 1, name lookups 4; and some to spare.
OWN = 40
# A pool without client_connections needs room for at least this many clients to be useful.
CLIENTS_MIN = 16
# A server that is down or slow is probed over a separate connection. The last probe of a slow one
# is kept for a moment: it replaces a connection that turns out to be dead.
PROBES = 2
# Commands for a busy Redis server (SCRIPT KILL) have a connection of their own in each version.
ASIDES = 1


class Lanes(NamedTuple):
    """What connections to a server exist for."""

    versions: int  # protocol versions that clients speak
    asides: int


# By `redis` of the pool. Redis has RESP2 and RESP3.
LANES = {True: Lanes(2, ASIDES), False: Lanes(1, 0)}


class Need(NamedTuple):
    """A number of open files, and the text that says what they are for."""

    files: int
    what: str


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return the limit that is then in force. The usual
    soft limit of 1024 exists for select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        # fs.nr_open has been lowered below the hard limit.
        return _number(soft)
    return _number(hard)


def hard_limit() -> int:
    """The highest limit that raise_limit can set."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def room(config: Config, limit: int) -> int:
    """How many clients of pools without client_connections fit in `limit` open files."""
    return limit - sum(need.files for need in _reserved(config))


def shortage(config: Config, limit: int) -> str | None:
    """Why the configuration does not fit in `limit` open files, with the sum; None if it fits."""
    needs = list(_reserved(config))
    at_least = CLIENTS_MIN * sum(not pool.client_connections for pool in config.pools)
    if at_least:
        needs.append(Need(at_least, "or more for clients"))
    total = sum(need.files for need in needs)
    if total <= limit:
        return None
    return (
        f"needs {total} open files and the limit is {limit}:"
        f" {', '.join(f'{need.files} {need.what}' for need in needs)};"
        f" raise the limit to {total} (as root: ulimit -n {total}; in a systemd unit:"
        f" LimitNOFILE={total}), or lower server_connections or client_connections"
    )


def _reserved(config: Config) -> Iterator[Need]:
    """Descriptors that clients of pools without client_connections cannot use."""
    yield Need(OWN, "for the process itself")
    for pool in config.pools:
        yield from _pool(pool)


def _pool(pool: PoolConfig) -> Iterator[Need]:
    servers = len(pool.servers)
    versions, asides = LANES[pool.redis]
    each = (pool.server_connections + asides) * versions + PROBES
    connections = f"{pool.server_connections} server_connections"
    if asides:
        connections = f"({connections} + {asides} for SCRIPT KILL) x {versions} protocol versions"
    yield Need(1, f"to listen for pool '{pool.name}'")
    yield Need(servers * each, f"for its {servers} servers x ({connections} + {PROBES} probes)")
    if pool.client_connections:
        yield Need(pool.client_connections, "for its client_connections")
