# tests/soak/checks.py: values that say which request has written them
"""A value contains the client, the sequence number of the request, and the key that it is for:

    b"<client> <sequence> <key> <size>|<the header again and again, …>"

The header determines every byte of the value. A value whose bytes match its header was therefore
written as a whole by the request that the header names.
"""

import hashlib
import itertools
import random
from collections.abc import Callable

from nutproxy.hashkit.router import Router

SERVERS = 4
POOLS = ("plain", "hasty", "wide")


class Wrong(Exception):
    """A reply that does not belong to its request, or a reply that is missing."""


def value(client: int, sequence: int, key: bytes, size: int) -> bytes:
    """`size` does not include the first header."""
    header = b"%d %d %s %d|" % (client, sequence, key, size)
    return header + (header * (size // len(header) + 1))[:size]


def check_value(found: object, client: int, key: bytes, before: int) -> None:
    """Raises Wrong unless `client` wrote this value to `key` with a request before `before`."""
    if not isinstance(found, bytes):
        raise Wrong("no value")
    words = found[: found.find(b"|")].split(b" ")
    if len(words) != 4 or not (words[0] + words[1] + words[3]).isdigit():
        raise Wrong("a value that no client has written")
    writer, sequence, size = int(words[0]), int(words[1]), int(words[3])
    if writer != client:
        raise Wrong(f"a value of client {writer}")
    if words[2] != key:
        raise Wrong(f"a value of the key {words[2].decode()}")
    if sequence >= before:
        raise Wrong(f"a value of request {sequence}, which has not been sent yet")
    if found != value(client, sequence, key, size):
        raise Wrong("a value whose bytes do not match its header")


class Traffic:
    """The requests of one client and the checks of their replies, as far as both protocols share
    them. `COMMANDS` of a subclass has the weight and the method of each command.

    A request that expects a reply adds an entry: its check, its words, its number, and whatever
    else the check needs. A check returns None or the kind of an error that is allowed. It raises
    Wrong if the reply is wrong.
    """

    PROTOCOL = ""
    NOTHING: object = None  # returned by the reader while no reply is complete
    COMMANDS: tuple[tuple[float, str], ...] = ()

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.pool = f"{self.PROTOCOL}-{POOLS[number % len(POOLS)]}"
        self.random = random.Random(f"{seed} {number}")
        self.sequence = 0
        self.connection = 0  # their number so far
        # For subscribers: when messages were lost, as (pool, server, from, to); and their number.
        self.holes: list[tuple[str, int, float, float]] = []
        self.messages = 0
        self.out: list[bytes] = []
        self.entries: list[tuple] = []
        self.sums: dict[bytes, int] = {}
        methods = [getattr(self, name) for _, name in self.COMMANDS]
        weights = [weight for weight, _ in self.COMMANDS]
        # One is drawn for each request. A list in the right proportions is faster than weights.
        self.draw = self.random.choices(methods, weights, k=4000)
        self.router = Router("fnv1a_64", "ketama", b"{}", server_names())

    def pipeline(self, depth: int) -> tuple[int, bytes, list[tuple]]:
        """About `depth` requests: their number, their bytes, and the entries."""
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
        """Usually small, sometimes larger than one receive."""
        if self.random.random() < 0.97:
            return self.random.randrange(200)
        return self.random.choice((500, 2000, 16_384, 70_000))

    def large(self) -> int:
        return self.random.randrange(100_000, 3_000_000)

    def value(self, key: bytes, size: int | None = None) -> bytes:
        return value(self.number, self.sequence, key, self.size() if size is None else size)

    def step(self, key: bytes) -> int:
        """The increment of this key, always the same, so each of its sums is a multiple. The
        factors are so small that a sum of another key is not a multiple."""
        self.sums[key] = self.sums.get(key, 0) + 1
        return 1_000_003 + 1000 * self.number + int(key.rpartition(b":")[2])

    def check_sum(self, found: int, key: bytes) -> None:
        step = 1_000_003 + 1000 * self.number + int(key.rpartition(b":")[2])
        if found % step or not 1 <= found // step <= self.sums[key]:
            raise Wrong(f"not a sum of {key.decode()}, which is incremented by {step}")

    def check_server(self, name: str, keys: tuple[bytes, ...]) -> None:
        """Raises Wrong if a request for these keys does not use the server of this name."""
        if self.pool.endswith("-hasty"):
            # The servers of its ring change.
            return
        if keys and name not in {f"s{self.router.explain(key).server + 1}" for key in keys}:
            raise Wrong(f"an error of {name}, which does not have any of the keys")

    # Returned by a check: the request gets further replies.
    MORE = "more"
    # Whether this is a message that nobody has asked for.
    takes: Callable[[object], bool] | None = None

    def is_finished(self) -> bool:
        """Asked at the end of a round, when no reply is due: may it disconnect?"""
        return True

    def pause(self) -> float:
        """Seconds before the next pipeline."""
        return 0

    # Whether this reply belongs to a later request, so the request of this entry got no reply.
    passes_over: Callable[[tuple, bytes], bool] | None = None

    def waits(self, entry: tuple) -> bool:
        """Whether it is a blocking command: a client that sends no more is closed instead."""
        return False

    def reader(self):  # type: ignore[no-untyped-def]
        """Reads the replies of a new connection. `gets` returns a reply or NOTHING."""
        raise NotImplementedError

    def greeting(self) -> None:
        """Adds the first requests of a new connection."""
        self.connection += 1

    def part(self) -> bytes:
        """The beginning of a request, for a client that disconnects in the middle of it."""
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
