# nutproxy/spread.py: how evenly a pool spreads keys over its servers
"""What `nutproxy check` and `nutproxy ring` say about the spread of a pool's keys. They ask the
router that the proxy asks.

Two things can make it uneven. The ring itself gives no two servers exactly the same share: that is
a few percent. And a hash may keep keys together that differ in their last characters only. fnv1_64,
fnv1a_64 and crc16 hardly change their upper bits then, so with ketama a hundred keys that are
counted up can all be on one server.
"""

from collections import Counter
from math import sqrt
from typing import NamedTuple

from nutproxy.config import PoolConfig
from nutproxy.hashkit.router import Router

# Keys as applications count them: each of these with each start is a run of RUN keys.
PREFIXES = ("item:", "user:", "key_", "session:", "")
STARTS = (1000, 10000, 100000)
RUN = 100
# A run is uneven when a server has more than its share, and of what is not its share more than this
# part. An even hash stays below it by far, whatever the number of servers.
TOO_MUCH = 0.5
# In standard deviations of a run that is spread at random: chance is not reported.
CHANCE = 5.0
# And one uneven run says little about a pool: so many of them are wanted.
WANTED = len(PREFIXES) * len(STARTS) / 3

# How many evenly spread hash values `shares` looks up, and at most over all servers `moves`.
SAMPLE = 1 << 16
MOVES_SAMPLE = 1 << 19


class Uneven(NamedTuple):
    """A run of keys of which too many are on one server."""

    first: str
    last: str
    found: int
    server: str
    share: float  # the server's part of the weights


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
    """What a server has of a pool."""

    points: int
    share: float  # of all hash values
    moves: float  # of all hash values, those that change their server when this one leaves


def parts(pool: PoolConfig) -> list[Part]:
    """One for each server, in index order."""
    # murmur of a number is as good as a hash value drawn at random, whatever the pool's hash is.
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
    """The pool's with the hash `name`. Tags are left out: the samples have none."""
    servers = [(server.name.encode(), server.weight) for server in pool.servers]
    return Router(name, pool.distribution, None, servers)
