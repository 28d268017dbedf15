# tests/stateful/shrink.py: the shortest conversation that still differs
"""Leaves out turns, then units, then cuts, as long as there is a difference."""

from collections.abc import Callable, Iterator

from tests.stateful.conversation import Turn, acceptable


def shrunk(turns: list[Turn], pool: str, differs: Callable[[list[Turn]], bool]) -> list[Turn]:
    """`differs` holds a conversation."""
    again = True
    while again:
        again = False
        for shorter in shortened(turns):
            if acceptable(shorter, pool) and differs(shorter):
                turns, again = shorter, True
                break
    return turns


def shortened(turns: list[Turn]) -> Iterator[list[Turn]]:
    """The conversation without something."""
    size = len(turns) // 2
    while size:
        for start in range(0, len(turns), size):
            yield turns[:start] + turns[start + size :]
        size //= 2
    for number, turn in enumerate(turns):
        for unit in range(len(turn.units)):
            if len(turn.units) > 1:
                units = turn.units[:unit] + turn.units[unit + 1 :]
                yield [*turns[:number], Turn(turn.actor, units, turn.cuts), *turns[number + 1 :]]
        if turn.cuts:
            yield [*turns[:number], Turn(turn.actor, turn.units), *turns[number + 1 :]]
    for number, turn in enumerate(turns):
        for unit, commands in enumerate(turn.units):
            for at in range(1, len(commands) - 1):
                units = list(turn.units)
                units[unit] = commands[:at] + commands[at + 1 :]
                yield [*turns[:number], Turn(turn.actor, units, turn.cuts), *turns[number + 1 :]]
