# nutproxy/spread.py: how evenly a pool spreads keys over its servers
"""For `nutproxy check` and `nutproxy ring`: how evenly a pool spreads its keys. The results come
from the same router that the proxy uses.

The spread can be uneven for two reasons. The ring gives servers slightly different shares, by a few
percent. And some hashes keep keys together that differ only in their last characters: fnv1_64,
fnv1a_64 and crc16 then hardly change their upper bits. With ketama, a hundred keys with consecutive
numbers can all be on one server.
"""

from collections import Counter
from math import sqrt
from typing import NamedTuple

from nutproxy.config import PoolConfig
from nutproxy.hashkit.router import Router

# Typical keys with consecutive numbers: each prefix with each start gives a run of RUN keys.
PREFIXES = ("item:", "user:", "key_", "session:", "")
STARTS = (1000, 10000, 100000)
RUN = 100
# A run is uneven if one server gets its share and more than this part of the rest. A good hash
# stays far below that, whatever the number of servers.
TOO_MUCH = 0.5
# The excess must also be this many standard deviations of a random spread, so that chance is not
# reported.
CHANCE = 5.0
# One uneven run says little about a pool: at least this many runs must be uneven.
WANTED = len(PREFIXES) * len(STARTS) / 3

# Number of evenly spread hash values that `share` is measured with, and the limit for `moves`, over
# all servers.
SAMPLE = 1 << 16
MOVES_SAMPLE = 1 << 19


class Uneven(NamedTuple):
    """A run of keys with too many on one server."""

    first: str
    last: str
    found: int
    server: str
    share: float  # the server's weight as part of all weights


def uneven(pool: PoolConfig) -> Uneven | None:
    """The worst run of keys, if the pool spreads many runs unevenly."""
    if len(pool.servers) < 2 or pool.distribution == "random":
        return None
    router = _router(pool, pool.hash)
    total = sum(server.weight for server in pool.servers)
    found = []
    for prefix in PREFIXES:
        for start in STARTS:
            keys = [f"{prefix}{number}" for number in range(start, start + RUN)]
            counts = Counter(router.explain(key.encode()).server for key in keys)
            index, count = counts.most_common(1)[0]
            server = pool.servers[index]
            share = server.weight / total
            deviation = sqrt(share * (1 - share) / RUN)
            if count / RUN > share + max(TOO_MUCH * (1 - share), CHANCE * deviation):
                found.append(Uneven(keys[0], keys[-1], count, server.name, share))
    return max(found, key=lambda run: run.found) if len(found) >= WANTED else None


class Part(NamedTuple):
    """A server's part of a pool."""

    points: int
    share: float  # part of all hash values that belong to it
    moves: float  # part of all hash values that change their server if this one leaves


def parts(pool: PoolConfig) -> list[Part]:
    """One for each server, in index order."""
    # murmur of a number is as good as a random hash value, whatever the pool's hash is.
    router = _router(pool, "murmur")
    points = router.points_per_server()
    if pool.distribution == "random" or len(pool.servers) == 1:
        share = 1 / len(pool.servers)
        return [Part(count, share, share) for count in points]
    counts = Counter(_places(router, SAMPLE))
    size = min(SAMPLE, max(1024, MOVES_SAMPLE // len(pool.servers)))
    before = _places(router, size)
    moves = []
    for index in range(len(pool.servers)):
        router.set_live([other != index for other in range(len(pool.servers))])
        after = _places(router, size)
        moves.append(sum(map(int.__ne__, before, after)) / size)
    return [
        Part(points[index], counts[index] / SAMPLE, moves[index])
        for index in range(len(pool.servers))
    ]


def _places(router: Router, size: int) -> list[int]:
    return [router.explain(b"%d" % number).server for number in range(size)]


def _router(pool: PoolConfig, name: str) -> Router:
    """The pool's router, but with the hash `name` and without a hash tag: the samples have none."""
    servers = [(server.name.encode(), server.weight) for server in pool.servers]
    return Router(name, pool.distribution, None, servers)
