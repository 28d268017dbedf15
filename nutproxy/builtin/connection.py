# nutproxy/builtin/connection.py: PING, ECHO, QUIT, AUTH, RESET, HELLO
"""Commands that concern only the client's own connection."""

from __future__ import annotations

from collections.abc import Iterable

import hiredis

from nutproxy.builtin.client import name_error
from nutproxy.builtin.databases import too_many_profiles
from nutproxy.builtin.info import server_version
from nutproxy.builtin.interface import Client, Frontend, Query, ReplyMode
from nutproxy.builtin.resp import OK, array, bulk, integer, mapping, parse_integer
from nutproxy.proto import errors
from nutproxy.proto.commands import State

DEFAULT_USER = b"default"  # the only user of a pool, with Redis' name for it


def authenticates(frontend: Frontend, user: bytes, password: bytes) -> bool:
    """Whether this user and password are those of the frontend.

    The time that this takes does not reveal which of the two is wrong. Without a redis_auth, the
    default user has no password and every password is accepted, as in Redis.
    """
    # A worker that needs no OpenSSL is 3.5 MB smaller.
    from hmac import compare_digest

    known = compare_digest(user, DEFAULT_USER)
    if frontend.redis_auth is None:
        return known
    return compare_digest(password, frontend.redis_auth) & known


def ping(client: Client, argv: list[bytes]) -> bytes:
    if len(argv) > 2:
        return errors.wrong_arity("ping")
    if client.protover == 2 and any(client.subscribed):
        # An array, like a message.
        return array([bulk(b"pong"), bulk(argv[1] if len(argv) == 2 else b"")])
    return bulk(argv[1]) if len(argv) == 2 else b"+PONG\r\n"


def echo(client: Client, argv: list[bytes]) -> bytes:
    return bulk(argv[1])


def quit(client: Client, argv: list[bytes]) -> bytes:
    client.closing = True
    return OK


def auth(client: Client, argv: list[bytes]) -> bytes:
    """AUTH. The errors of `AUTH password` have twemproxy's texts, those of `AUTH user password` the
    texts of Redis. A failed AUTH changes nothing, as in Redis."""
    frontend = client.frontend
    if len(argv) > 3:
        return errors.error("syntax")
    if len(argv) == 2:
        if frontend.redis_auth is None:
            return errors.error("no_password_set")
        if not authenticates(frontend, DEFAULT_USER, argv[1]):
            return errors.error("invalid_password")
    elif not authenticates(frontend, argv[1], argv[2]):
        return errors.error("wrongpass")
    client.authenticated = True
    return OK


def reset(client: Client, argv: list[bytes]) -> bytes:
    """Restore the state of a new connection. lib_name and lib_ver are kept, because they are still
    correct."""
    client.end_session()
    # The profile of a new client always exists.
    client.adopt(2, client.pool.redis_db)
    client.name = ""
    client.reply_mode = ReplyMode.ON
    client.no_evict = client.no_touch = False
    # As a number: in Python 3.11.2, ~ of such a flag is only one of the others.
    client.leave(~int(State.AUTH))
    client.authenticated = client.frontend.redis_auth is None
    return b"+RESET\r\n"


def hello(client: Client, argv: list[bytes]) -> bytes | Query:
    """HELLO [2|3 [AUTH user password] [SETNAME name]]. If an option is refused, nothing changes."""
    protover = client.protover
    name: str | None = None
    authenticated = client.authenticated
    credentials: tuple[bytes, bytes] | None = None
    if len(argv) > 1:
        version = parse_integer(argv[1])
        if version is None:
            return errors.error("proto_not_integer")
        if version not in (2, 3):
            return errors.error("noproto")
        protover = version
    words = iter(argv[2:])
    left = len(argv) - 2
    for word in words:
        option = word.lower()
        if option == b"auth" and left > 2:
            credentials = next(words), next(words)
            left -= 3
        elif option == b"setname" and left > 1:
            given = next(words)
            if refusal := name_error(given):
                return refusal
            name = given.decode()
            left -= 2
        else:
            return errors.error("hello_option", errors.echo(word, len(word)))
    if credentials is not None:
        if not authenticates(client.frontend, *credentials):
            return errors.error("wrongpass")
        authenticated = True
    if not authenticated:
        return errors.error("noauth_hello")

    def greet() -> bytes:
        if not client.adopt(protover, client.database):
            return too_many_profiles(client.pool)
        client.authenticated = True
        if name is not None:
            client.name = name
        return _greeting(client)

    def finish(replies: list[object]) -> bytes:
        [reply] = replies
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith("ERR unknown command"):
                return b"-%b\r\n" % str(reply).encode(errors="surrogateescape")
            if protover == 3:
                # The text of Redis makes clients that prefer RESP3 fall back to RESP2.
                return errors.unknown_command(argv)
            return greet()
        if protover == 3:
            client.pool.knows_hello = True
            client.pool.server_version = _version_in_hello(reply)
        else:
            client.pool.server_version = server_version(reply)
        return greet()

    if protover == 3 and not client.pool.knows_hello:
        # HELLO with the current protocol version of the client, which the shared connection has
        # already. The requested version would change the replies to all other clients.
        return Query("any", [b"HELLO", b"%d" % client.protover], finish)
    if client.pool.server_version is None:
        return Query("any", [b"INFO", b"server"], finish)
    return greet()


def _greeting(client: Client) -> bytes:
    version = client.pool.server_version or "unknown"
    fields = {
        b"server": bulk(b"redis"),
        b"version": bulk(version.encode()),
        b"proto": integer(client.protover),
        b"id": integer(client.id),
        b"mode": bulk(b"standalone"),
        b"role": bulk(b"master"),
        b"modules": array([]),
    }
    return mapping({bulk(name): value for name, value in fields.items()}, client.protover)


def _version_in_hello(reply: object) -> str:
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(reply, list):
        pairs = zip(reply[::2], reply[1::2], strict=False)
    elif isinstance(reply, dict):
        pairs = reply.items()
    version = next((value for name, value in pairs if name == b"version"), b"")
    return version.decode(errors="replace") if isinstance(version, bytes) else ""
