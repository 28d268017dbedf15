# nutproxy/builtin/tracking.py: CLIENT TRACKING, CACHING, GETREDIR and TRACKINGINFO
"""Checks what a client asks for, in the order and with the texts of Redis."""

from __future__ import annotations

from nutproxy.builtin.interface import Client, Track
from nutproxy.builtin.resp import OK, array, bulk, integer, mapping, parse_integer, switch
from nutproxy.proto import errors

# Every changed key is compared with each prefix of a client.
PREFIXES_MAX = 64
PREFIX_MAX = 512


def tracking(client: Client, argv: list[bytes]) -> bytes | Track:
    """CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX prefix]… [BCAST] [OPTIN] [OPTOUT] [NOLOOP]"""
    flags: set[bytes] = set()
    prefixes: list[bytes] = []
    redirect = 0
    words = iter(argv[3:])
    left = len(argv) - 3
    for word in words:
        option = word.lower()
        left -= 1
        if option == b"redirect" and left:
            left -= 1
            number = parse_integer(next(words))
            if redirect:
                return errors.error("tracking_two_redirects")
            if number is None:
                return errors.error("not_integer")
            if number not in client.frontend.clients:
                return errors.error("tracking_no_client")
            redirect = number
        elif option == b"prefix" and left:
            left -= 1
            prefixes.append(next(words))
        elif option in (b"bcast", b"optin", b"optout", b"noloop"):
            flags.add(option)
        else:
            return errors.error("syntax")
    on = switch(argv[2])
    if on is None:
        return errors.error("syntax")
    if not on:
        client.frontend.tracking.stop(client)
        return OK
    return _objection(client, flags, prefixes) or Track(
        redirect=redirect,
        bcast=b"bcast" in flags,
        optin=b"optin" in flags,
        optout=b"optout" in flags,
        noloop=b"noloop" in flags,
        prefixes=prefixes,
    )


def _objection(client: Client, flags: set[bytes], prefixes: list[bytes]) -> bytes:
    """Why these options are refused; b"" if they are not."""
    before = client.tracked
    bcast, optin, optout = (name in flags for name in (b"bcast", b"optin", b"optout"))
    if prefixes and not bcast:
        return errors.error("tracking_prefix")
    if before is not None and before.bcast != bcast:
        return errors.error("tracking_bcast")
    if bcast and (optin or optout):
        return errors.error("tracking_bcast_opt")
    if optin and optout:
        return errors.error("tracking_both")
    if before is not None and ((optin and before.optout) or (optout and before.optin)):
        return errors.error("tracking_switch")
    return _collision(prefixes, before.prefixes if before else []) if bcast else b""


def _collision(prefixes: list[bytes], existing: list[bytes]) -> bytes:
    """The error if a prefix is the beginning of another, or if there are too many; or b""."""
    if len(prefixes) + len(existing) > PREFIXES_MAX or max(map(len, prefixes), default=0) > (
        PREFIX_MAX
    ):
        return errors.error("tracking_prefixes", b"%d" % PREFIXES_MAX, b"%d" % PREFIX_MAX)
    for at, prefix in enumerate(prefixes):
        for other in existing:
            if _overlap(prefix, other):
                return errors.error("tracking_existing", errors.echo(prefix), errors.echo(other))
        for other in prefixes[at + 1 :]:
            if _overlap(prefix, other):
                return errors.error("tracking_provided", errors.echo(prefix), errors.echo(other))
    return b""


def _overlap(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def caching(client: Client, argv: list[bytes]) -> bytes:
    tracked = client.tracked
    if tracked is None:
        return errors.error("not_tracking")
    on = {b"yes": True, b"no": False}.get(argv[2].lower())
    if on is None:
        return errors.error("syntax")
    if not (tracked.optin if on else tracked.optout):
        return errors.error("caching_yes" if on else "caching_no")
    tracked.caching = True
    return OK


def getredir(client: Client, argv: list[bytes]) -> bytes:
    return integer(-1 if client.tracked is None else client.tracked.redirect)


def trackinginfo(client: Client, argv: list[bytes]) -> bytes:
    tracked = client.tracked
    flags, redirect, prefixes = ["off"], -1, []
    if tracked is not None:
        redirect = tracked.redirect
        prefixes = tracked.prefixes
        named = {
            "bcast": tracked.bcast,
            "optin": tracked.optin,
            "caching-yes": tracked.optin and tracked.caching,
            "optout": tracked.optout,
            "caching-no": tracked.optout and tracked.caching,
            "noloop": tracked.noloop,
            "broken_redirect": tracked.broken,
        }
        flags = ["on", *(name for name, has in named.items() if has)]
    names = array([bulk(flag.encode()) for flag in flags])
    if client.protover == 3:
        names = b"~" + names[1:]
    fields = {
        b"flags": names,
        b"redirect": integer(redirect),
        b"prefixes": array([bulk(prefix) for prefix in prefixes]),
    }
    return mapping({bulk(name): value for name, value in fields.items()}, client.protover)
