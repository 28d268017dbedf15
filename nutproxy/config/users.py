# nutproxy/config/users.py: who may use a pool
"""Parses an entry of `users`. It has the form of a line of Redis' ACL file without the word `user`:

    app on >secret
    app on #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b
    guest on nopass
    old off >secret

`#` precedes the SHA-256 of a password in hexadecimal digits. A user may have several passwords. The
configuration keeps an entry as text, with the hashes instead of the passwords.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from nutproxy.config.values import Unfit, scalar

FORM = "name on >password, name on #sha256, name on nopass or name off"
# A name is a word of a line, and of a SASL message: no blank, no control byte.
_NAME = re.compile(r"[!-~\u00a1-\uffff]{1,250}")
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


def user(value: Any) -> str:
    """The entry with every `>password` as `#sha256`."""
    words = scalar(value).split()
    if words and words[0][0] in "<>#!":
        # It may be a password, so it is not repeated.
        raise Unfit("does not begin with a name")
    if len(words) < 2:
        raise Unfit(f"'{value}' is not complete")
    name, rules = words[0], words[1:]
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is not a name: up to 250 printable characters")
    kept = []
    for rule in rules:
        if rule.startswith(">") and len(rule) > 1:
            kept.append("#" + hashlib.sha256(rule[1:].encode()).hexdigest())
        elif rule in ("on", "off", "nopass") or (rule[:1] == "#" and _HASH.fullmatch(rule[1:])):
            kept.append(rule)
        else:
            # The same.
            raise Unfit(f"'{name}' has a rule that is not known")
    if ("on" in kept) == ("off" in kept):
        raise ValueError(f"user '{name}' must be either on or off")
    if "on" in kept and len(kept) == 1:
        raise ValueError(f"user '{name}' has no password: add >password, #sha256 or nopass")
    return " ".join([name, *kept])


def name_of(entry: str) -> str:
    return entry.partition(" ")[0]
