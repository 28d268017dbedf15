# nutproxy/front/users.py: the users of a pool
"""Who may use a Memcached pool, and with which passwords."""

from __future__ import annotations

from collections.abc import Iterable


class Users:
    """The users of a pool, from its entries. It is false if there are none."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.rules = {name.encode(): rules for name, *rules in map(str.split, entries)}

    def __bool__(self) -> bool:
        return bool(self.rules)

    def accepts(self, name: bytes, password: bytes) -> bool:
        """Whether this is the password of a user who is on. The hashes are compared in a time that
        does not depend on them."""
        # A worker that needs no OpenSSL is 3.5 MB smaller.
        import hashlib
        import hmac

        rules = self.rules.get(name, [])
        digest = "#" + hashlib.sha256(password).hexdigest()
        found = [hmac.compare_digest(rule, digest) for rule in rules if rule[0] == "#"]
        return "on" in rules and ("nopass" in rules or any(found))
