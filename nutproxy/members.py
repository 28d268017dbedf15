# nutproxy/members.py: who the servers of a pool are
"""A View is what a pool knows of its servers: their names, addresses and weights. It never changes.
Other members, or other weights, are another View (`ServerPool.apply`).

    View A   s1  s2  s3        s1 keeps its connections, and so does s3
    View B   s1      s3  s4    s2 finishes what is in flight, s4 is new

A member is known by its name, which also decides which keys it has. A SCAN cursor has no room for a
name. There, a member is known by its *place*, a number from 1 to PLACES that is computed from the
name: it is the same in every process, and in every View, whatever the other members are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nutproxy.plain import MAX_INT, Address, index_order

if TYPE_CHECKING:
    from nutproxy.config import PoolConfig
    from nutproxy.stats.rows import Rows


PLACES = 0xFFFF


@dataclass(frozen=True)
class Member:
    """One server. `row` is the first cell of its row in the statistics (stats/rows.py)."""

    name: str
    address: Address
    weight: int
    row: int


def place_of(member: Member) -> tuple[str, Address, int]:
    """What makes two members one server: all but the weight."""
    return member.name, member.address, member.row


def places_of(names: Iterable[str]) -> dict[int, int]:
    """By place, in ascending order: the index of the member. If the place of a name is taken by an
    earlier one, the name gets the next free place. Of 20 members, two have one place in 1 of 350
    pools."""
    places: dict[int, int] = {}
    for index, name in enumerate(names):
        place = zlib.crc32(name.encode()) % PLACES + 1
        while place in places:
            place = place % PLACES + 1
        places[place] = index
    return dict(sorted(places.items()))


@dataclass(frozen=True)
class View:
    """The members, in the order of the ring. Raises ValueError if there is none, if there are more
    than PLACES, if two have the same name or the same row, or if a weight or a row is out of
    range."""

    members: tuple[Member, ...]
    places: dict[int, int] = field(init=False, compare=False, repr=False)  # see places_of

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.members, key=lambda member: index_order(member.name)))
        object.__setattr__(self, "members", ordered)
        if not ordered:
            raise ValueError("a pool needs at least one server")
        if len(ordered) > PLACES:
            raise ValueError(f"a pool has at most {PLACES} servers")
        names: set[str] = set()
        rows: dict[int, str] = {}
        for member in ordered:
            if member.name in names:
                raise ValueError(f"two servers have the name '{member.name}'")
            if not 1 <= member.weight <= MAX_INT:
                raise ValueError(
                    f"server '{member.name}': weight {member.weight} is not in 1..{MAX_INT}"
                )
            if member.row < 0:
                raise ValueError(f"server '{member.name}': row {member.row} is negative")
            if member.row in rows:
                raise ValueError(
                    f"servers '{rows[member.row]}' and '{member.name}' have the same row"
                )
            names.add(member.name)
            rows[member.row] = member.name
        object.__setattr__(self, "places", places_of(member.name for member in ordered))


def configured(config: PoolConfig, rows: Rows) -> View:
    """The View of the servers in the file."""
    return View(
        tuple(
            Member(
                server.name, server.address, server.weight, rows.server(config.name, server.name)
            )
            for server in config.servers
        )
    )
