# nutproxy/local/transaction.py: EXEC, DISCARD, UNWATCH, and what a refusal takes with it
"""nutproxy has no transactions yet: after a refused MULTI nothing is carried out until EXEC or
DISCARD. Other commands that open a state, such as SELECT, take what follows with them too.

The core calls `refused` for every refused command whose row opens a State (proto/commands.py), and
`not_carried_out` for the error of a command that such a state refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nutproxy.local.interface import Client
from nutproxy.local.resp import OK, parse_integer
from nutproxy.proto import errors
from nutproxy.proto.commands import OPENS, State


def exec_(client: Client, argv: list[bytes]) -> bytes:
    if not client.states & State.TRANSACTION:
        return errors.error("exec_without_multi")
    assert client.refusals is not None
    _, error = client.refusals[State.TRANSACTION]
    return abort(client, error)


def abort(client: Client, error: bytes) -> bytes:
    """EXEC's reply where `error` is why there is nothing to carry out."""
    client.leave(State.TRANSACTION)
    return errors.error("execabort", _cause(error))


def discard(client: Client, argv: list[bytes]) -> bytes:
    if not client.states & State.TRANSACTION:
        return errors.error("discard_without_multi")
    client.leave(State.TRANSACTION)
    return OK


def unwatch(client: Client, argv: list[bytes]) -> bytes:
    return OK


def refused(client: Client, name: str, argv: list[bytes], error: bytes) -> None:
    """This command has been refused with `error`: `argv` is the beginning of it."""
    if name == "script debug" and argv[2].lower() == b"no":
        client.leave(State.DEBUGGING)
    elif _WOULD_OPEN.get(name, _always)(client, argv):
        words = argv if name in ("select", "swapdb") else [name.upper().encode()]
        client.enter(OPENS[name], b" ".join(map(errors.echo, words)), error)


def not_carried_out(client: Client, name: str, states: int) -> bytes:
    """The error for a command that is refused in these states of the client."""
    if states & State.AUTH:
        return errors.noauth()
    # A transaction first: it tells the client how to go on.
    state = next(state for state in State if states & state)
    assert client.refusals is not None
    command, error = client.refusals[state]
    word = name.upper().encode()
    if state is State.TRANSACTION:
        return errors.error("in_transaction", word, _cause(error))
    return errors.error("in_database" if state is State.DATABASE else "in_state", word, command)


def _cause(error: bytes) -> bytes:
    """The text of an error reply within another one, where ERR would say nothing."""
    return error[1:-2].removeprefix(b"ERR ")


def _always(client: Client, argv: list[bytes]) -> bool:
    return True


def _leaves_database(client: Client, argv: list[bytes]) -> bool:
    """SELECT of a database that is not the pool's. What is no number changes nothing in Redis."""
    return parse_integer(argv[1]) not in (None, 0, client.pool.redis_db)


def _swaps_database(client: Client, argv: list[bytes]) -> bool:
    """SWAPDB of the pool's database with another one."""
    one, other = parse_integer(argv[1]), parse_integer(argv[2])
    if one is None or other is None or one == other:
        return False
    return bool({one, other} & {0, client.pool.redis_db})


def _starts_debugging(client: Client, argv: list[bytes]) -> bool:
    return argv[2].lower() in (b"yes", b"sync")


_WOULD_OPEN: Mapping[str, Callable[[Client, list[bytes]], bool]] = {
    "select": _leaves_database,
    "swapdb": _swaps_database,
    "script debug": _starts_debugging,
}
