# nutproxy/hashkit/router.py: key -> server index
"""Finds the server of a key: hash tag, hash function, ring.

    "user:{42}:name" ── hash_tag "{}" ──> "42" ── hash ──> 2927313545 ── Ring ──> server index

- hash_tag: the bytes between the first opening byte and the first closing byte after it are hashed,
  or the whole key if there are none. Only the first pair counts: `a{}b{c}` is hashed whole. Both
  bytes may be the same.
- An empty key has hash 0, whatever the function says.
- A pool that is *configured* with one server hashes nothing. Every key belongs to index 0, or to no
  server (-1) while that server is not live. A pool of several servers hashes as usual even if only
  one of them is live.

The caller replies to requests whose key has no server; nothing here waits or retries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memchr
from cython.cimports.nutproxy.hashkit.hashes import hash_by_name, hash_four_by_name

from nutproxy.hashkit.ring import make_ring


class Route(NamedTuple):
    """Where a key goes and why, for display."""

    server: int
    """Index of the server, -1 if none is live. With `random`, one draw of many."""
    hash: int | None
    """The key's hash; None if nothing is hashed (a single server)."""
    point: int | None
    """ketama: the value of the ring point that owns the key; modula: the number of its slot."""


class Router:
    """The routing of one pool.

    `hash` and `distribution` are names from HASHES and DISTRIBUTIONS, `hash_tag` is two bytes or
    None, `servers` are (hashed name, weight) pairs in twemproxy's index order (see order.py). All
    servers are live at first. Raises ValueError for arguments that are not accepted.
    """

    def __init__(
        self,
        hash: str,
        distribution: str,
        hash_tag: bytes | None,
        servers: Sequence[tuple[bytes, int]],
    ):
        self.hash_function = hash_by_name(hash)
        self.four_function = hash_four_by_name(hash)
        self.ring = make_ring(distribution, servers)
        self.tagged = hash_tag is not None
        if hash_tag is not None:
            if len(hash_tag) != 2:
                raise ValueError(f"hash_tag {hash_tag!r} is not two bytes")
            self.tag_open, self.tag_close = hash_tag

    def route(self, key, length, hash):
        """The index of the key's server, -1 if none is live. Sets the hash of the key, unless the
        pool has one server."""
        if self.ring.nserver == 1:
            return 0 if self.ring.nlive else -1
        hash[0] = self.hash(key, length)
        return self.ring.dispatch(hash[0])

    def hash(self, key, length):
        """The hash of a key, or of the part between its tags."""
        if self.tagged:
            key = self.hashed_part(key, cython.address(length))
        if length == 0:
            return 0
        return self.hash_function(key, length)

    def hash_four(self, keys, lengths, hashes):
        """The hashes of four keys. May change `keys` and `lengths` to the hashed parts."""
        i: cython.int
        if self.four_function == cython.NULL:
            for i in range(4):
                hashes[i] = self.hash(keys[i], lengths[i])
            return 0
        if self.tagged:
            for i in range(4):
                keys[i] = self.hashed_part(keys[i], cython.address(lengths[i]))
        self.four_function(keys, lengths, hashes)
        for i in range(4):
            if lengths[i] == 0:
                hashes[i] = 0
        return 0

    def hashed_part(self, key, length):
        """The start of the hashed part. Sets `length` to the length of that part."""
        opening: cython.pointer(cython.const[cython.uchar])
        closing: cython.pointer(cython.const[cython.uchar])
        opening = cython.cast(
            cython.pointer(cython.const[cython.uchar]), memchr(key, self.tag_open, length[0])
        )
        if opening == cython.NULL:
            return key
        opening += 1
        closing = cython.cast(
            cython.pointer(cython.const[cython.uchar]),
            memchr(opening, self.tag_close, length[0] - (opening - key)),
        )
        if closing == cython.NULL or closing == opening:
            return key
        length[0] = closing - opening
        return opening

    def has_tag(self, key, length):
        """Whether a tag, not the whole key, decides on the server of this key."""
        start: cython.pointer(cython.const[cython.uchar]) = cython.cast(
            cython.pointer(cython.uchar), key
        )
        return self.tagged and self.hashed_part(start, cython.address(length)) != start

    def ring_of(self, servers):
        """A ring of this distribution over other servers, without points: it is built in portions.
        Put into `ring`, it takes over."""
        kind: type = type(self.ring)
        # __init__ would build it at once.
        return kind.__new__(kind, servers)

    def set_live(self, live: list) -> None:
        """Route from now on over the servers whose entry in `live`, in index order, is true."""
        self.ring.set_live(live)

    def begin(self, live: list) -> None:
        """Like `set_live`, but in portions. The old routes apply until `build` returns False."""
        self.ring.begin(live)

    def build(self, npoint: int) -> bool:
        """Continue for about `npoint` ring points. Returns True if there is more to do."""
        return self.ring.build(npoint)

    def points_per_server(self) -> list[int]:
        """Ring points (ketama), slots (modula) or 1 (random) of each server, 0 if not live."""
        return self.ring.points_per_server()

    def explain(self, key: bytes) -> Route:
        """The route of `key`, with the hash and the ring point that lead to it."""
        part: cython.pointer(cython.const[cython.uchar]) = key
        length: cython.size_t = len(key)
        value: uint32_t = 0
        server = self.route(part, length, cython.address(value))
        if self.ring.nserver == 1:
            return Route(server, None, None)
        return Route(server, value, self.ring.point(value))
