# nutproxy/front/strangers.py: clients that speak another protocol
"""Log lines about clients that speak a protocol which the listener does not: one line per minute,
pool and protocol. The line names the protocol and says what to do. Without it, a wrong port or a
missing `redis: true` would only show as protocol errors."""

from __future__ import annotations

import logging

from nutproxy.builtin.interface import Client
from nutproxy.proto.errors import MEMCACHE_REPLIES, PROTOCOL_ERRORS

log = logging.getLogger("nutproxy")

TEXTS = {
    "binary": "sent the binary Memcached protocol, which this pool does not accept; make the client"
    " use the text protocol, or another pool: a Memcached pool needs 'protocol: auto'",
    "text": "sent the text Memcached protocol; this pool has 'protocol: binary': 'auto' takes both",
    "tls": "sent a TLS handshake; nutproxy does not speak TLS: turn it off in the client, or put a"
    " TLS proxy (stunnel, HAProxy) in front of nutproxy",
    "http": "sent an HTTP request; a health check must be of type TCP, and the statistics are on"
    " the port of --stats-port",
    "redis": "sent the Redis protocol; this pool speaks Memcached: connect to another pool, or set"
    " 'redis: true' for it",
    "memcached": "sent the Memcached protocol; this pool speaks Redis: connect to another pool, or"
    " set 'redis: false' for it",
}

# The protocol by the error text of the parsers.
ERRORS = {
    MEMCACHE_REPLIES["memcache_binary"]: "binary",
    MEMCACHE_REPLIES["memcache_only_binary"]: "text",
    MEMCACHE_REPLIES["memcache_tls"]: "tls",
    MEMCACHE_REPLIES["memcache_unknown"]: "http",
    MEMCACHE_REPLIES["memcache_redis"]: "redis",
    PROTOCOL_ERRORS["binary"]: "binary",
    PROTOCOL_ERRORS["tls"]: "tls",
}

# Commands that Redis does not have.
MEMCACHE_WORDS = frozenset(
    b"gets gat gats add replace cas delete flush_all version stats verbosity mg ms md ma mn".split()
)


def tell_stranger(client: Client, what: str) -> None:
    log.warning(
        f"%s %s: a client at %s {TEXTS[what]}", client, client.frontend, client.peer, extra=ONCE
    )


def tell_broken(client: Client, error: bytes) -> None:
    """Called when the parser has failed with this error."""
    if error in ERRORS:
        tell_stranger(client, ERRORS[error])


def tell_inline(client: Client, words: list[bytes]) -> None:
    """Called for an inline command to a Redis pool. Only people and other protocols send those."""
    if words[-1].startswith(b"HTTP/"):
        tell_stranger(client, "http")
    elif words[0] in MEMCACHE_WORDS:
        tell_stranger(client, "memcached")


# One line of a kind per minute instead of the usual ten (see log.py).
ONCE = {"burst": 1}
