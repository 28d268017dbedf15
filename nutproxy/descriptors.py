# nutproxy/descriptors.py: how many files the process may have open, and what for
"""Every connection is an open file, and the system limits them (RLIMIT_NOFILE).

    limit ─┬─ the process itself          OWN
           ├─ for each pool: its listener, and what its servers may need at once
           ├─ client_connections          of the pools that set it
           └─ the rest                    clients of the pools that do not

What servers may need is kept free for them: clients that come in numbers cannot take it, so the
limit is felt by the client that is one too many and by nobody else. A configuration that leaves too
little for clients is refused at the start, since it could not keep what it promises.
"""

import resource
import sys
from collections.abc import Iterator
from typing import NamedTuple

from nutproxy.config import Config, PoolConfig

# Standard input, output and error 3, log 1, epoll 1, signals 2, pid file 1, the statistics port 1
# with 16 of its clients, a client that is told to go 1, lookups of names 4; and some to spare.
OWN = 40
# Without this many clients a pool that sets no client_connections is of no use.
CLIENTS_MIN = 16
# A server that is down is asked on a connection of its own whether it is back.
PROBES = 1


class Need(NamedTuple):
    """A number of open files, and what they are for."""

    files: int
    what: str


def raise_limit() -> int:
    """Raise the soft limit to the hard one, and return what holds then. The usual soft limit, 1024,
    is meant for select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        # The system's own bound (fs.nr_open) has been lowered below the hard limit.
        return _number(soft)
    return _number(hard)


def hard_limit() -> int:
    """What raise_limit can reach."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def room(config: Config, limit: int) -> int:
    """How many clients fit in `limit` open files, of all pools without client_connections."""
    return limit - sum(need.files for need in _reserved(config))


def shortage(config: Config, limit: int) -> str | None:
    """Why the configuration cannot be served with `limit` open files, with the arithmetic; None if
    it can."""
    needs = list(_reserved(config))
    at_least = CLIENTS_MIN * sum(not pool.client_connections for pool in config.pools)
    if at_least:
        needs.append(Need(at_least, "for clients at least"))
    total = sum(need.files for need in needs)
    if total <= limit:
        return None
    return (
        f"needs {total} open files and the limit is {limit}:"
        f" {', '.join(f'{need.files} {need.what}' for need in needs)};"
        f" allow {total} (as root: ulimit -n {total}; for a service of systemd:"
        f" LimitNOFILE={total}), or lower server_connections or client_connections"
    )


def _reserved(config: Config) -> Iterator[Need]:
    """What clients of pools without client_connections cannot have."""
    yield Need(OWN, "for the process itself")
    for pool in config.pools:
        yield from _pool(pool)


def _pool(pool: PoolConfig) -> Iterator[Need]:
    servers = len(pool.servers)
    # Connections exist for each protocol version that clients speak: RESP2 and RESP3.
    versions = 2 if pool.redis else 1
    each = pool.server_connections * versions + PROBES
    connections = f"{pool.server_connections} server_connections"
    if pool.redis:
        connections += f" x {versions} protocol versions"
    yield Need(1, f"to listen for pool '{pool.name}'")
    yield Need(servers * each, f"for its {servers} servers x ({connections} + {PROBES} probe)")
    if pool.client_connections:
        yield Need(pool.client_connections, "for its client_connections")
