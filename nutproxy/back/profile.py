# nutproxy/back/profile.py: the state that the clients of a shared connection have in common
"""Clients share the connections to a server only if their requests mean the same there. A Profile
is everything about a client that decides this. Its handshake brings a new link into that state.

    client.profile.index ─> Server.lanes[index] ─> the link in the client's slot

A pool has one table of Profiles, with one object for each state. So profiles are compared by
identity, and a request needs no lookup: a client's profile is found when its state changes, not
when a request comes.

The table never shrinks. It is bounded, because clients can choose among two states only. A new
member of the state whose values clients choose freely needs a bound of its own.
"""

import cython


@cython.final
@cython.cclass
class Profile:
    """A state, as its table has made it. `key` is a tuple of all its values."""

    def __init__(self, index: cython.int, key: tuple):
        self.index = index
        self.key = key
        [self.protover] = key

    def __str__(self) -> str:
        return f"RESP{self.protover}"


@cython.final
@cython.cclass
class Profiles:
    """The profiles that the clients of a pool have had."""

    def __init__(self):
        self.rows = []
        self.by_key = {}
        self.default = self.of(2)

    def of(self, protover):
        """The profile of this state."""
        key: tuple = (protover,)
        profile: Profile = self.by_key.get(key)
        if profile is None:
            profile = Profile(len(self.rows), key)
            self.rows.append(profile)
            self.by_key[key] = profile
        return profile
