# nutproxy/builtin/resp.py: builds replies and parses arguments
"""Builds replies in the client's version of RESP, and parses arguments as strictly as Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

OK = b"+OK\r\n"


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def integer(number: int) -> bytes:
    return b":%d\r\n" % number


def null(protover: int) -> bytes:
    return b"_\r\n" if protover == 3 else b"$-1\r\n"


def array(items: Sequence[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def mapping(pairs: Mapping[bytes, bytes], protover: int) -> bytes:
    """`pairs` must be encoded already. RESP2 has no maps, so there it is an array in which keys and
    values alternate."""
    head = b"%%%d\r\n" % len(pairs) if protover == 3 else b"*%d\r\n" % (2 * len(pairs))
    return head + b"".join(key + value for key, value in pairs.items())


def verbatim(text: str, protover: int) -> bytes:
    data = text.encode()
    return b"=%d\r\ntxt:%b\r\n" % (len(data) + 4, data) if protover == 3 else bulk(data)


def parse_integer(word: bytes) -> int | None:
    """As strict as Redis: no plus sign, no leading zero, no space, 64 bits."""
    digits = word.removeprefix(b"-")
    if len(digits) > 19 or not digits.isdigit() or (digits[:1] == b"0" and word != b"0"):
        return None
    number = int(word)
    return number if -(2**63) <= number < 2**63 else None


_PRINTABLE = bytes(range(0x21, 0x7F))


def printable(word: bytes) -> bool:
    return not word.translate(None, _PRINTABLE)


def switch(word: bytes) -> bool | None:
    """True for ON, False for OFF (case-insensitive), None for anything else."""
    return {b"on": True, b"off": False}.get(word.lower())
