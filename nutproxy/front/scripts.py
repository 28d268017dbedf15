# nutproxy/front/scripts.py: the scripts and functions that clients have loaded
"""What clients of a frontend have loaded into the servers. A server that was down then, or was
restarted without its data, lacks it, and replies NOSCRIPT or "Function not found".
dispatch/scripts.py loads it again and repeats the request.

Scripts are kept by the SHA1 of their text, as Redis does, libraries of functions by their name. The
oldest are forgotten when all together are larger than LIMIT; a text above TEXT_MAX is not kept.
"""

from __future__ import annotations

import re

import hiredis

# Bytes of all scripts, and of one.
LIMIT = 16 << 20
TEXT_MAX = 1 << 20
# Functions that one library may have been loaded for: with so many requests a request is repeated.
LIBRARIES_MAX = 64

_NAME = re.compile(rb"#!\S+[^\n]*?\bname=(\S+)", re.IGNORECASE)


class Scripts:
    """`count` is the number of texts."""

    def __init__(self) -> None:
        self.by_sha: dict[bytes, bytes] = {}
        self.shas: dict[bytes, bytes] = {}
        self.libraries: dict[bytes, bytes] = {}
        self.size = 0

    @property
    def count(self) -> int:
        return len(self.by_sha) + len(self.libraries)

    def keep_script(self, text: bytes) -> None:
        """A client sends this script: SCRIPT LOAD or EVAL."""
        if text in self.shas or len(text) > TEXT_MAX:
            return
        # A worker that needs no OpenSSL is 3.5 MB smaller.
        import hashlib

        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        self.shas[text] = sha
        self.by_sha[sha] = text
        self.size += len(text)
        while self.size > LIMIT and self.by_sha:
            oldest = next(iter(self.by_sha))
            old = self.by_sha.pop(oldest)
            del self.shas[old]
            self.size -= len(old)

    def keep_library(self, code: bytes) -> None:
        """The servers have accepted this library."""
        found = _NAME.match(code)
        if found is None or len(code) > TEXT_MAX:
            return
        self.forget_library(found[1])
        if len(self.libraries) < LIBRARIES_MAX and self.size + len(code) <= LIMIT:
            self.libraries[found[1]] = code
            self.size += len(code)

    def forget_library(self, name: bytes) -> None:
        self.size -= len(self.libraries.pop(name, b""))

    def forget_scripts(self) -> None:
        self.size -= sum(map(len, self.shas))
        self.shas.clear()
        self.by_sha.clear()

    def forget_libraries(self) -> None:
        self.size -= sum(map(len, self.libraries.values()))
        self.libraries.clear()

    def script(self, sha: bytes) -> list[bytes]:
        """The requests that load the script with this SHA1; none if it is not known."""
        text = self.by_sha.get(sha.lower())
        return [] if text is None else [_request(b"SCRIPT", b"LOAD", text)]

    def functions(self) -> list[bytes]:
        """The requests that load all libraries. A server refuses those that it has."""
        return [_request(b"FUNCTION", b"LOAD", code) for code in self.libraries.values()]


def _request(*words: bytes) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its types allow one word
    return packed
