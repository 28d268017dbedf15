# nutproxy/builtin/databases.py: SELECT, and the databases that other commands name
"""The databases of a pool, as its clients number them: 0 and `redis_db` are the pool's own, and the
numbers below `databases` are those of the servers.

`refusal` is asked about commands that name a database in an argument (MOVE, COPY, SWAPDB), before
they go to a server. They are not changed on the way, so 0 must be the servers' 0.
"""

from __future__ import annotations

from nutproxy.builtin.interface import Client, Pool
from nutproxy.builtin.resp import OK, parse_integer
from nutproxy.proto import errors
from nutproxy.proto.commands import State


def number_of(pool: Pool, word: bytes) -> int | None:
    """The servers' number of a database that clients may select; None for all others."""
    number = parse_integer(word)
    if number is None or (number != pool.redis_db and not 0 <= number < pool.databases):
        return None
    return number or pool.redis_db


def select(client: Client, argv: list[bytes]) -> bytes:
    pool = client.pool
    number = number_of(pool, argv[1])
    if number is None:
        if parse_integer(argv[1]) is None:
            return errors.error("not_integer")
        if pool.databases > 1:
            return errors.error("database_range")
        error = errors.error("databases", argv[1])
        client.enter(State.DATABASE, b"SELECT " + argv[1], error)
        return error
    if not client.adopt(client.protover, number):
        return too_many_profiles(pool)
    client.leave(State.DATABASE)
    return OK


def enter_database(client: Client, number: int) -> None:
    """A transaction has selected this database on its server. If the pool has no room for its
    profile any more, the client's next commands are refused."""
    if not client.adopt(client.protover, number):
        client.enter(State.DATABASE, b"SELECT %d" % number, too_many_profiles(client.pool))


def too_many_profiles(pool: Pool) -> bytes:
    return errors.error("max_profiles", pool.name.encode(), b"%d" % pool.profiles.limit)


def visible(client: Client) -> int:
    """The client's own number of its database."""
    return 0 if client.database == client.pool.redis_db else client.database


def refusal(client: Client, name: str, argv: list[bytes]) -> bytes:
    """The error for a command that names a database which clients of this pool cannot select; b""
    if there is none."""
    pool = client.pool
    numbers = [parse_integer(word) for word in _named(name, argv)]
    if name == "swapdb" and None in numbers:
        # The server says which one.
        return b""
    for number in numbers:
        if number == 0 and pool.redis_db:
            return errors.error("database_own", name.upper().encode())
        if number is not None and number != pool.redis_db and number >= pool.databases:
            return errors.error("database_range")
    return b""


def _named(name: str, argv: list[bytes]) -> list[bytes]:
    """The arguments that are numbers of databases."""
    if name == "swapdb":
        return argv[1:3]
    if name == "move":
        return argv[2:3]
    # COPY source destination [DB number] [REPLACE]
    return [argv[at + 1] for at in range(3, len(argv) - 1) if argv[at].lower() == b"db"]
