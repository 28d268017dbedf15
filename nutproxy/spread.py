# nutproxy/spread.py: how evenly a pool spreads keys over its servers
"""For `nutproxy check` and `nutproxy ring`: how evenly a pool spreads its keys, and what is wrong
with its ring. The results come from the same ring and router that the proxy uses.

The spread can be uneven for two reasons. The ring gives servers slightly different shares, by a few
percent. And some hashes keep keys together that differ only in their last characters: fnv1_64,
fnv1a_64 and crc16 then hardly change their upper bits. With ketama, a hundred keys with consecutive
numbers can all be on one server.
"""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

from nutproxy.config import Config, PoolConfig, Problem
from nutproxy.config.load import is_crc32_on_ketama, ketama_points
from nutproxy.hashkit.arcs import HASH_VALUES, is_uneven_modula, moves, shares, work
from nutproxy.hashkit.order import Layout
from nutproxy.hashkit.ring import make_ring
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

# What moves when a server leaves is left out if all servers together take more than this many arcs,
# about two seconds.
WORK_MAX = 1 << 22
# The ring's label for a point, "<name>-<number>", is cut to this many bytes, as in twemproxy.
LABEL_MAX = 272


def router(pool: PoolConfig) -> Router:
    servers = [(server.name.encode(), server.weight) for server in pool.servers]
    return Router(pool.hash, pool.distribution, pool.hash_tag, servers)


class Uneven(NamedTuple):
    """A run of keys with too many on one server."""

    first: str
    last: str
    found: int
    server: str
    share: float  # the part of all hash values that belong to the server

    def text(self, pool: PoolConfig) -> str:
        return (
            f"with {pool.distribution}, {pool.hash} keeps keys with consecutive numbers together:"
            f" of the {RUN} keys '{self.first}' to '{self.last}', {self.found} belong to server"
            f" '{self.server}', whose share is {self.share:.0%}; set 'hash: murmur' for a new pool,"
            " but not for one that holds data, because nearly every key would be looked up on"
            " another server"
        )


def warnings(config: Config) -> Iterator[Problem]:
    """Warnings about pools that keep keys with consecutive numbers together. The proxy does not log
    them at the start: the file is correct, and a pool with data cannot change its hash."""
    for pool in config.pools:
        run = None if is_crc32_on_ketama(pool) else uneven(pool)
        if run is not None:
            line = pool.line_of("hash")
            yield Problem("warning", config.path, line, pool.name, "hash", run.text(pool))


def uneven(pool: PoolConfig) -> Uneven | None:
    """The worst run of keys, if the pool spreads many runs unevenly."""
    if len(pool.servers) < 2 or pool.distribution == "random":
        return None
    servers = [(server.name.encode(), server.weight) for server in pool.servers]
    whole_keys = Router(pool.hash, pool.distribution, None, servers)
    hashes, total = shares(pool.layout)
    found = []
    for prefix in PREFIXES:
        for start in STARTS:
            keys = [f"{prefix}{number}" for number in range(start, start + RUN)]
            counts = Counter(whole_keys.explain(key.encode()).server for key in keys)
            index, count = counts.most_common(1)[0]
            server = pool.servers[index]
            share = hashes[index] / total
            deviation = sqrt(share * (1 - share) / RUN)
            if count / RUN > share + max(TOO_MUCH * (1 - share), CHANCE * deviation):
                found.append(Uneven(keys[0], keys[-1], count, server.name, share))
    return max(found, key=lambda run: run.found) if len(found) >= WANTED else None


class Part(NamedTuple):
    """A server's part of a pool."""

    points: int
    hashes: int  # hash values that belong to it
    share: Fraction  # part of all hash values
    fair: Fraction  # the part that its weight says
    moves: Fraction | None  # part that moves if this server leaves; None if unknown


class Parts(NamedTuple):
    """All servers of a pool, in index order."""

    servers: list[Part]
    hashes: int  # all hash values that were counted
    exact: bool

    @property
    def imbalance(self) -> Fraction:
        """The largest share, as a multiple of what the server's weight says. With equal weights:
        the most to the mean."""
        return max(part.share / part.fair for part in self.servers)


def parts(pool: PoolConfig) -> Parts:
    each = pool.layout
    counts, total = shares(each)
    weights = [weight if each.has_places else 1 for _, weight in each.servers]
    return Parts(
        [
            Part(points, count, Fraction(count, total), Fraction(weight, sum(weights)), leaves)
            for points, count, weight, leaves in zip(
                router(pool).points_per_server(), counts, weights, _leaving(each), strict=True
            )
        ],
        total,
        not is_uneven_modula(each),
    )


def _leaving(each: Layout) -> Iterator[Fraction | None]:
    """What moves if a server leaves, for each server. The others take its keys; in ketama only they
    move unless the others get more or fewer points as well."""
    servers = each.servers
    counts, total = shares(each)
    for index, (_, weight) in enumerate(servers):
        rest = each._replace(servers=(*servers[:index], *servers[index + 1 :]))
        if len(servers) == 1:
            yield Fraction(1)
        elif not each.has_places:
            yield None
        elif each.distribution == "ketama" and _same_points(each, weight):
            yield Fraction(counts[index], total)
        elif work(each, rest) * len(servers) > WORK_MAX:
            yield None
        else:
            yield moves(each, rest).moved


def _same_points(each: Layout, leaving: int) -> bool:
    """Whether servers keep their points if one of weight `leaving` leaves."""
    weights = Counter(weight for _, weight in each.servers)
    total, size = sum(weight for _, weight in each.servers), len(each.servers)
    weights[leaving] -= 1
    return all(
        ketama_points(weight, total, size) == ketama_points(weight, total - leaving, size - 1)
        for weight in +weights
    )


def traps(pool: PoolConfig) -> Iterator[str]:
    """What is wrong with the ring of a pool that the check of its file does not warn of."""
    if len(pool.servers) == 1:
        return
    if pool.distribution == "random":
        if len({server.weight for server in pool.servers}) > 1:
            yield "random ignores weights: all servers get equally many requests"
        return
    if run := None if is_crc32_on_ketama(pool) else uneven(pool):
        yield run.text(pool)
    if pool.hash == "hsieh" and pool.distribution == "modula":
        yield (
            "hsieh rarely returns every 65th value, so with modula the shares do not follow the"
            " weights if their sum is a multiple of 5 or 13"
        )
    yield from _unnamed(pool)
    if pool.distribution == "ketama":
        yield from _rounded(pool)
        yield from _cut(pool)
        yield from _contested(pool)


def _unnamed(pool: PoolConfig) -> Iterator[str]:
    unnamed = [server for server in pool.servers if not server.named]
    if not unnamed:
        return
    first = unnamed[0]
    if pool.distribution == "modula":
        moved = "can change the order of the servers, which moves nearly all keys"
    else:
        points = router(pool).points_per_server()
        own = Fraction(points[pool.servers.index(first)], sum(points))
        # Expected: old and new points of the server are independent. Two such sets and the others'
        # points are equally likely to come first after a hash value.
        share = 2 * own * (1 - own) / (1 + own)
        moved = f"moves about {float(share):.0%} of the keys to or from other servers"
    yield (
        f"{len(unnamed)} of {len(pool.servers)} servers have no name, so their addresses are"
        f" hashed: another address for '{first.name}' {moved}. To name it without moving a key,"
        f" write '{first.address}:{first.weight} {first.name}'"
    )


def _rounded(pool: PoolConfig) -> Iterator[str]:
    """Servers whose points twemproxy's float32 makes fewer, or more, than whole numbers would."""
    size, total = len(pool.servers), sum(server.weight for server in pool.servers)
    wrong = []
    for server in pool.servers:
        points = ketama_points(server.weight, total, size)
        whole = 40 * size * server.weight // total * 4
        if points != whole:
            wrong.append((server.name, points, whole))
    if wrong:
        name, points, whole = wrong[0]
        yield (
            f"{len(wrong)} of {size} servers have the wrong number of points, such as {points}"
            f" instead of {whole} for '{name}', because twemproxy rounds to float32. Another server"
            " more or less can correct that, which moves keys between the servers that stay; see"
            " 'nutproxy diff'"
        )


def _cut(pool: PoolConfig) -> Iterator[str]:
    points = router(pool).points_per_server()
    for server, count in zip(pool.servers, points, strict=True):
        if len(f"{server.name.encode().decode('latin-1')}-{count // 4 - 1}") > LABEL_MAX:
            yield (
                f"the name of server '{server.name[:40]}...' is too long: only {LABEL_MAX} bytes of"
                " it and the number of a point are hashed, so some of its points are equal"
            )


def _contested(pool: PoolConfig) -> Iterator[str]:
    """Points of two servers with one value."""
    each = pool.layout
    servers = [(name.encode(), weight) for name, weight in each.servers]
    points = make_ring(each.distribution, servers).points()
    before, contested, hashes = points[-1] >> 32, 0, 0
    for one, other in pairwise(points):
        if one >> 32 != other >> 32:
            before = one >> 32
        elif one != other:
            contested += 1
            hashes += ((one >> 32) - before) % HASH_VALUES
    if contested:
        yield (
            f"{contested} points of the ring belong to two servers: here the first in index order"
            f" owns their keys, {hashes / HASH_VALUES:.4%}; in twemproxy that depends on its C"
            " library"
        )
