# nutproxy/back/profile.py: the state that the clients of a shared connection have in common
"""Clients share the connections to a server only if their requests mean the same there. A Profile
is everything about a client that decides this. Its handshake brings a new link into that state.

    client.profile.index ─> Server.lanes[index] ─> the link in the client's slot

A pool has one table of Profiles, with one object for each state. So profiles are compared by
identity, and a request needs no lookup: a client's profile is found when its state changes, not
when a request comes.

The table is bounded (`max_profiles`), because clients choose their databases freely. When it is
full, a profile that no client has, and whose links are idle, gives its place to a new one.
"""

import cython


@cython.final
@cython.cclass
class Profile:
    """A state, as its table has made it. `key` is a tuple of all its values."""

    def __init__(self, index: cython.int, key: tuple):
        self.index = index
        self.key = key
        self.protover, self.database, self.tracked = key

    def __str__(self) -> str:
        database = f", database {self.database}" if self.database else ""
        return f"RESP{self.protover}{database}{', tracked' if self.tracked else ''}"


@cython.final
@cython.cclass
class Profiles:
    """The profiles of the clients of a pool. `database` is that of a new client. `vacate(profile)`
    ends the links of a profile without clients; False if one of them is in use."""

    def __init__(self, database: cython.int, limit: cython.int, vacate):
        self.rows = []
        self.by_key = {}
        self.limit = limit
        self.vacate = vacate
        self.default = self.of(2, database)

    def of(self, protover, database, tracked=False):
        key: tuple = (protover, database, tracked)
        profile: Profile = self.by_key.get(key)
        if profile is not None:
            return profile
        index: cython.int = len(self.rows)
        if index >= self.limit:
            index = self.free_index()
            if index < 0:
                return None
            profile = self.rows[index]
            del self.by_key[profile.key]
            profile = self.rows[index] = Profile(index, key)
        else:
            profile = Profile(index, key)
            self.rows.append(profile)
        self.by_key[key] = profile
        return profile

    def free_index(self) -> int:
        """The place of a profile that is not in use any more; -1 if there is none."""
        profile: Profile
        for profile in self.rows:
            if profile is not self.default and not profile.clients and self.vacate(profile):
                return profile.index
        return -1
