# nutproxy/builtin/transaction.py: the states that a refusal opens
"""After a refused MULTI, all commands are refused until EXEC or DISCARD. Other refused commands
that would have opened a state, such as SELECT, also cause the next commands to be refused.

The core calls `refused` for every refused command whose row opens a State (proto/commands.py). It
calls `not_carried_out` for the error of a command that is refused because of such a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nutproxy.builtin.interface import Client
from nutproxy.builtin.resp import parse_integer
from nutproxy.proto import errors
from nutproxy.proto.commands import OPENS, State


def abort(client: Client, error: bytes) -> bytes:
    """End the transaction and return the reply to EXEC. `error` is the reason for the failure."""
    client.leave(State.TRANSACTION)
    return errors.execabort(error)


def refused(client: Client, name: str, argv: list[bytes], error: bytes) -> None:
    """Called when this command has been refused with `error`. `argv` holds its first words."""
    if name == "script debug" and argv[2].lower() == b"no":
        client.leave(State.DEBUGGING)
    elif _WOULD_OPEN.get(name, _always)(client, argv):
        words = argv if name in ("select", "swapdb") else [name.upper().encode()]
        client.enter(OPENS[name], b" ".join(map(errors.echo, words)), error)


def not_carried_out(client: Client, name: str, states: int) -> bytes:
    """The error for a command that is refused because of these states of the client."""
    if states & State.AUTH:
        return errors.noauth()
    if states & State.SUBSCRIBED:
        return errors.error("subscribed", name.replace(" ", "|").encode())
    # A transaction has the lowest number, so its error, which says how to continue, is preferred.
    state = next(state for state in State if states & state)
    assert client.refusals is not None
    command, error = client.refusals[state]
    word = name.upper().encode()
    if state is State.TRANSACTION:
        return errors.error("in_transaction", word, errors.cause_of(error))
    return errors.error("in_database" if state is State.DATABASE else "in_state", word, command)


def _always(client: Client, argv: list[bytes]) -> bool:
    return True


def _leaves_database(client: Client, argv: list[bytes]) -> bool:
    """Whether a SELECT is for another database. An argument that is not a
    number changes nothing in Redis, so it opens no state."""
    number = parse_integer(argv[1])
    return number is not None and (number or client.pool.redis_db) != client.database


def _swaps_database(client: Client, argv: list[bytes]) -> bool:
    """Whether a SWAPDB exchanges the client's database for another one."""
    one, other = parse_integer(argv[1]), parse_integer(argv[2])
    if one is None or other is None or one == other:
        return False
    own = client.pool.redis_db
    return client.database in (one or own, other or own)


def _starts_debugging(client: Client, argv: list[bytes]) -> bool:
    return argv[2].lower() in (b"yes", b"sync")


_WOULD_OPEN: Mapping[str, Callable[[Client, list[bytes]], bool]] = {
    "select": _leaves_database,
    "swapdb": _swaps_database,
    "script debug": _starts_debugging,
}
