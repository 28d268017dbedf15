# nutproxy/hashkit/order.py: which server is index 0
"""The order that gives servers their indexes, and the values that decide on the server of a key."""

from typing import NamedTuple


def server_order_key(name: bytes) -> tuple[int, bytes]:
    """Sorts hashed server names (and pool names) as twemproxy does: shorter first, then by bytes.

    `zz, server1, server2, server10`. The order in which servers are written down has no influence;
    for modula, and where two ketama points are equal, this order decides.
    """
    return len(name), name


class Layout(NamedTuple):
    """What decides on the server of a key; `Router` takes the same. The servers are pairs of hashed
    name and weight in index order."""

    hash: str
    distribution: str
    hash_tag: bytes | None
    servers: tuple[tuple[str, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.servers)

    @property
    def has_places(self) -> bool:
        """Whether a key belongs to a server. With `random` each lookup draws one."""
        return self.distribution != "random" or len(self.servers) == 1
