"""The same random conversations of several clients, with one Redis and with nutproxy, have the same
replies, byte by byte. What is said and compared is in tests/stateful.

Here are a few of them. NUTPROXY_CONVERSATIONS is their number for each way to receive, and
NUTPROXY_SEED the seed of the first. `make differential` holds 100,000.
"""

import os

import pytest

from tests.stateful.conversation import POOLS, Turn, draw
from tests.stateful.run import hold
from tests.stateful.shrink import shrunk
from tests.stateful.stage import staged

COUNT = int(os.environ.get("NUTPROXY_CONVERSATIONS", "200"))
SEED = int(os.environ.get("NUTPROXY_SEED", "1"))


@pytest.fixture(scope="module", params=[(), ("-m", "512")], ids=["default", "m512"])
def stage(request):
    with staged(*request.param) as stage:
        yield stage
        assert "Traceback" not in stage.proxy.log()


def test_conversations_have_the_replies_of_one_redis(stage):
    for seed in range(SEED, SEED + COUNT):
        report = hold(stage, seed)
        assert not report, report


def test_a_conversation_is_determined_by_its_seed():
    for pool in POOLS:
        assert draw(7, pool) == draw(7, pool) != draw(8, pool)


def test_what_differs_is_found_and_shortened(stage):
    """Redis carries out HELLO in a transaction, nutproxy refuses it."""
    turns = draw(2, "one")
    hello = Turn(1, [[(b"RESET",)], [(b"MULTI",), (b"HELLO", b"3")], [(b"EXEC",)]], (0.3, 0.9))
    assert stage.hold(turns, "one") is None
    difference = stage.hold([*turns, hello, *turns], "one")
    assert (difference.at, difference.actor) == (len(turns), 1)
    assert b"+QUEUED" in difference.expected[2]
    assert difference.found[2].startswith(b"-ERR ")
    assert "client 1: RESET | MULTI | HELLO 3 | EXEC   (cut at 0.300, 0.900)" in str(difference)


def test_what_is_not_needed_for_a_difference_is_left_out():
    turns = draw(3, "three")
    needed = [Turn(0, [[(b"SET", b"{t}a", b"1")]]), Turn(1, [[(b"GET", b"{t}a")]])]
    one, other = [Turn(turn.actor, [*turn.units, [(b"PING",)]], (0.5,)) for turn in needed]

    def differs(turns):
        return all(
            any(unit in turn.units for turn in turns)
            for [unit] in (needed[0].units, needed[1].units)
        )

    assert shrunk([*turns, one, *turns, other, *turns], "three", differs) == needed
