# tests/soak/checks.py: how a value shows whose it is
"""Values that say who wrote them, for which key and when, and the check of a value that came back.

    b"<client> <sequence> <key> <size>|<the same again, and again, …>"

A value is made of nothing else, so one that is its header's value was written by this program, as a
whole, and what its header says is true.
"""

import hashlib
import itertools
import random
from collections.abc import Callable

from nutproxy.hashkit.router import Router

SERVERS = 4
POOLS = ("plain", "hasty", "wide")


class Wrong(Exception):
    """A reply that is not the answer to its request, or none where one was due."""


def value(client: int, sequence: int, key: bytes, size: int) -> bytes:
    """`size` is that of all but the header's own bytes."""
    header = b"%d %d %s %d|" % (client, sequence, key, size)
    return header + (header * (size // len(header) + 1))[:size]


def check_value(found: object, client: int, key: bytes, before: int) -> None:
    """Is this a value that `client` wrote under `key` with a request before number `before`?"""
    if not isinstance(found, bytes):
        raise Wrong("no value")
    words = found[: found.find(b"|")].split(b" ")
    if len(words) != 4 or not (words[0] + words[1] + words[3]).isdigit():
        raise Wrong("a value that nobody wrote")
    writer, sequence, size = int(words[0]), int(words[1]), int(words[3])
    if writer != client:
        raise Wrong(f"a value of client {writer}")
    if words[2] != key:
        raise Wrong(f"a value of the key {words[2].decode()}")
    if sequence >= before:
        raise Wrong(f"a value that request {sequence} is yet to write")
    if found != value(client, sequence, key, size):
        raise Wrong("a value with other bytes in it")


class Traffic:
    """What one client sends, and what it makes of the replies: the part that is common to both
    protocols. A subclass has the method of each command in `COMMANDS`, with its weight.

    An entry is what a request leaves behind: its check, its words, its number, and what else the
    check wants to know. A check returns the kind of the error, or None, and raises Wrong.
    """

    PROTOCOL = ""
    NOTHING: object = None  # what the reader returns while no reply is whole
    COMMANDS: tuple[tuple[float, str], ...] = ()

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.pool = f"{self.PROTOCOL}-{POOLS[number % len(POOLS)]}"
        self.random = random.Random(f"{seed} {number}")
        self.sequence = 0
        self.out: list[bytes] = []
        self.entries: list[tuple] = []
        self.sums: dict[bytes, int] = {}
        methods = [getattr(self, name) for _, name in self.COMMANDS]
        weights = [weight for weight, _ in self.COMMANDS]
        # Drawn from once a request: a list of the right proportions is quicker than the weights.
        self.draw = self.random.choices(methods, weights, k=4000)
        self.router = Router("fnv1a_64", "ketama", b"{}", server_names())

    def pipeline(self, depth: int) -> tuple[int, bytes, list[tuple]]:
        """About `depth` requests: how many, their bytes, the entries of those that are answered."""
        for method in self.random.choices(self.draw, k=depth):
            self.sequence += 1
            method()
        count, data, entries = len(self.out), b"".join(self.out), self.entries
        self.out, self.entries = [], []
        return count, data, entries

    def key(self, kind: str, count: int) -> bytes:
        return b"%s:%d:%d" % (kind.encode(), self.number, self.random.randrange(count))

    def keys(self, kind: str, count: int, most: int) -> list[bytes]:
        return [self.key(kind, count) for _ in range(self.random.randint(2, most))]

    def size(self) -> int:
        """Mostly small, now and then beyond what a receive takes at once."""
        if self.random.random() < 0.97:
            return self.random.randrange(200)
        return self.random.choice((500, 2000, 16_384, 70_000))

    def large(self) -> int:
        return self.random.randrange(100_000, 3_000_000)

    def value(self, key: bytes, size: int | None = None) -> bytes:
        return value(self.number, self.sequence, key, self.size() if size is None else size)

    def step(self, key: bytes) -> int:
        """By how much this key is always incremented: its sums are multiples of this, and so small
        multiples that those of another key are none."""
        self.sums[key] = self.sums.get(key, 0) + 1
        return 1_000_003 + 1000 * self.number + int(key.rpartition(b":")[2])

    def check_sum(self, found: int, key: bytes) -> None:
        step = 1_000_003 + 1000 * self.number + int(key.rpartition(b":")[2])
        if found % step or not 1 <= found // step <= self.sums[key]:
            raise Wrong(f"no sum of {key.decode()}, which is incremented by {step}")

    def check_server(self, name: str, keys: tuple[bytes, ...]) -> None:
        """May the server of this name have failed a request for these keys?"""
        if self.pool.endswith("-hasty"):
            # Its ring changes.
            return
        if keys and name not in {f"s{self.router.explain(key).server + 1}" for key in keys}:
            raise Wrong(f"an error of {name}, which has none of the keys")

    # Was a request that needs no answer silent, since a reply belongs to one behind it?
    passes_over: Callable[[tuple, bytes], bool] | None = None

    def reader(self):  # type: ignore[no-untyped-def]
        """Of the replies of a new connection: `feed` and `gets`, which returns NOTHING or one."""
        raise NotImplementedError

    def greeting(self) -> None:
        """What a new connection says first."""

    def part(self) -> bytes:
        """The beginning of a request, of a client that vanishes in the middle of it."""
        raise NotImplementedError


def server_names() -> list[tuple[bytes, int]]:
    return [(b"s%d" % number, 1) for number in range(1, SERVERS + 1)]


def keys_everywhere() -> list[bytes]:
    """A key of each server."""
    router = Router("fnv1a_64", "ketama", b"{}", server_names())
    found: dict[int, bytes] = {}
    for number in itertools.count():
        key = b"last:" + hashlib.md5(b"%d" % number).hexdigest().encode()
        found.setdefault(router.explain(key).server, key)
        if len(found) == SERVERS:
            return list(found.values())
    raise AssertionError
