# nutproxy/route.py: who gets a request
"""A Route sends requests on. What dispatch/ knows of servers is this: keys with one group number
may share a message, and `submit` takes a message for a group.

A ServerPool (pool.py) is a route whose groups are its servers.
"""

import cython


@cython.cclass
class Route:
    """The methods are described in route.pxd. None of them blocks."""

    def group_of(self, key, length, hash):
        raise NotImplementedError

    def group(self, data, arg, step, count, groups):
        raise NotImplementedError

    def holds(self, group, data, argv, keys, count):
        raise NotImplementedError

    def is_tagged(self, key, length):
        return False

    def any_group(self):
        raise NotImplementedError

    def members(self):
        raise NotImplementedError

    def place_after(self, place):
        raise NotImplementedError

    def member_at(self, place):
        raise NotImplementedError

    def submit(self, msg, group, client, profile):
        raise NotImplementedError

    def borrow(self, msg, group, profile):
        raise NotImplementedError

    def submit_to(self, link, msg, timed):
        raise NotImplementedError
