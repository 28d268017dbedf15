# nutproxy/front/tracked.py: what CLIENT TRACKING has set for a client
"""The state of one client with client-side caching. tracking.py does the work."""

import cython


@cython.final
@cython.cclass
class Reader:
    """Another one takes its place when the client is told to forget everything. So entries of the
    table that refer to this one are void, and need not be searched for."""

    def __init__(self, client):
        self.client = client


@cython.final
@cython.cclass
class Tracked:
    """The values are described in tracked.pxd."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.prefixes = []
        self.writes = {}

    def set(self, asked) -> None:
        """CLIENT TRACKING ON with these options, which have been checked. As in Redis, prefixes are
        added to those that are set already."""
        self.bcast = asked.bcast
        self.optin = asked.optin
        self.optout = asked.optout
        self.noloop = asked.noloop
        self.redirect = asked.redirect
        self.broken = False
        if asked.bcast:
            self.prefixes = sorted({*self.prefixes, *(asked.prefixes or [b""])})
