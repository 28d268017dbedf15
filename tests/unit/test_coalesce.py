# tests/unit/test_coalesce.py: when turns rest, and for how long
"""The decision is a function of what the loop has counted. Each load here is one that was measured
with real servers (docs/performance.md)."""

import os
import time
from types import SimpleNamespace

import pytest

from nutproxy.io.coalesce import Coalescer
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab, slab_memory

# A load: replies and events per millisecond, microseconds from a request to its reply, and the
# share of a processor that the loop uses.
ONE_CLIENT = SimpleNamespace(replies=19, events=39, latency=26, busy=0.45)
EIGHT_CLIENTS = SimpleNamespace(replies=75, events=150, latency=45, busy=0.9)
FIFTY_CLIENTS = SimpleNamespace(replies=92, events=180, latency=156, busy=0.9)
TWO_HUNDRED = SimpleNamespace(replies=110, events=220, latency=550, busy=0.95)
PIPELINED = SimpleNamespace(replies=590, events=55, latency=490, busy=0.65)
OPEN_HALF = SimpleNamespace(replies=29, events=58, latency=30, busy=0.6)
OPEN_MOST = SimpleNamespace(replies=47, events=94, latency=37, busy=0.78)
# 300 microseconds away, at a third of what a processor can do.
FAR_AND_CALM = SimpleNamespace(replies=12, events=24, latency=330, busy=0.33)


class Loop:
    """Feeds a Coalescer as the loop does, a window of a millisecond at a time."""

    def __init__(self, limit=100):
        slab = Slab(rows := Rows.of([]), memory := slab_memory(rows))
        os.close(memory)
        self.slab = slab
        self.coalescer = Coalescer(limit, slab)
        self.counted = {"turns": 0, "events": 0, "replies": 0, "reply_usec": 0}
        self.now = self.used = 1_000_000

    def pass_by(self, load, windows=60, span=1000):
        """Returns the gap after each window."""
        gaps = []
        for _ in range(windows):
            self.now += span
            self.used += int(load.busy * span)
            replies = load.replies * span // 1000
            turns = getattr(load, "turns", load.events // 2)
            self.counted["turns"] += max(turns * span // 1000, 1)
            self.counted["events"] += load.events * span // 1000
            self.counted["replies"] += replies
            self.counted["reply_usec"] += replies * load.latency
            self.coalescer.observe(self.now, self.counted, self.used)
            gaps.append(self.coalescer.gap)
        return gaps

    def idle(self, usec):
        """No turn at all, and then the first one."""
        self.now += usec
        self.counted["turns"] += 1
        self.counted["events"] += 1
        self.coalescer.observe(self.now, self.counted, self.used)


@pytest.mark.parametrize("load", [ONE_CLIENT, EIGHT_CLIENTS, OPEN_HALF, OPEN_MOST, FAR_AND_CALM])
def test_nobody_waits_for_the_loop_where_little_is_in_flight(load):
    assert set(Loop().pass_by(load)) == {0}


@pytest.mark.parametrize("load", [FIFTY_CLIENTS, TWO_HUNDRED, PIPELINED])
def test_turns_rest_where_much_is_in_flight_but_never_longer_than_the_servers_take(load):
    gap = Loop().pass_by(load)[-1]
    assert 20 <= gap <= 100
    assert gap <= load.latency * 2 / 3


def test_the_limit_is_the_longest_gap():
    assert Loop(limit=50).pass_by(TWO_HUNDRED)[-1] == 50
    assert Loop(limit=1000).pass_by(TWO_HUNDRED)[-1] == pytest.approx(550 * 2 / 3, abs=2)


def test_off_never_rests():
    assert set(Loop(limit=0).pass_by(TWO_HUNDRED)) == {0}


def test_a_loop_that_has_time_does_not_rest():
    calm = SimpleNamespace(**{**vars(TWO_HUNDRED), "busy": 0.5})
    assert set(Loop().pass_by(calm)) == {0}


def test_turns_that_are_full_by_themselves_do_not_begin_to_rest():
    loop = Loop()
    full = SimpleNamespace(**vars(TWO_HUNDRED), turns=10)
    assert set(loop.pass_by(full)) == {0}
    # Those that are full because they rest go on.
    assert loop.pass_by(TWO_HUNDRED)[-1] > 0
    assert 0 not in loop.pass_by(full)


def test_a_loop_that_rests_goes_on_although_it_is_less_busy_for_it():
    loop = Loop()
    assert loop.pass_by(FIFTY_CLIENTS)[-1] > 0
    rested = SimpleNamespace(replies=100, events=200, latency=90, busy=0.45)
    assert 0 not in loop.pass_by(rested, windows=200)


def test_it_ends_within_milliseconds_when_the_load_goes():
    loop = Loop()
    assert loop.pass_by(TWO_HUNDRED)[-1] > 0
    assert loop.pass_by(ONE_CLIENT, windows=30)[-1] == 0


def test_it_begins_within_milliseconds_when_the_load_comes():
    loop = Loop()
    loop.pass_by(ONE_CLIENT)
    assert loop.pass_by(TWO_HUNDRED, windows=20)[-1] > 0


def test_nothing_of_an_old_load_is_left_after_a_pause():
    loop = Loop()
    assert loop.pass_by(TWO_HUNDRED)[-1] > 0
    loop.idle(50_000)
    assert loop.coalescer.gap == 0


def test_one_slow_command_does_not_make_eight_clients_a_crowd():
    loop = Loop()
    loop.pass_by(EIGHT_CLIENTS)
    loop.counted["reply_usec"] += 2_000_000
    assert set(loop.pass_by(EIGHT_CLIENTS)) == {0}


def test_its_own_rest_is_not_taken_for_the_latency_of_the_servers():
    """Or a rest would be a reason for a longer one. Here every reply takes 40 us and the rest."""
    loop = Loop(limit=1000)
    load = SimpleNamespace(**vars(TWO_HUNDRED))
    loop.pass_by(load)
    for _ in range(50):
        before = loop.slab.read(WAITED)
        loop.coalescer.rest(now())
        waited = loop.slab.read(WAITED) - before
        load.latency = 40 + waited
        # One turn in a window: all of its replies have waited for that rest.
        load.events = 2
        loop.pass_by(load, windows=1)
    assert loop.coalescer.latency == pytest.approx(40, abs=5)


# The cells of the row of the process.
WAITS, WAITED = 4, 5


def now():
    return time.monotonic_ns() // 1000


def test_a_rest_lasts_until_the_gap_is_over_and_is_counted():
    loop = Loop()
    loop.pass_by(TWO_HUNDRED)
    assert loop.coalescer.gap == 100
    loop.coalescer.prepare()
    polled = now()
    loop.coalescer.rest(polled)
    passed = now() - polled
    assert passed >= 100
    assert loop.slab.read(WAITS) == 1
    assert 0 < loop.slab.read(WAITED) <= passed


def test_a_turn_that_took_longer_than_the_gap_does_not_rest():
    loop = Loop()
    loop.pass_by(TWO_HUNDRED)
    loop.coalescer.rest(now() - 100)
    assert loop.slab.read(WAITS) == loop.slab.read(WAITED) == 0


def test_the_log_says_when_turns_begin_to_rest_and_when_they_cease(caplog):
    loop = Loop()
    with caplog.at_level("DEBUG", logger="nutproxy"):
        loop.coalescer.tell()
        loop.pass_by(TWO_HUNDRED)
        loop.coalescer.tell()
        loop.coalescer.tell()
        loop.pass_by(ONE_CLIENT)
        loop.coalescer.tell()
    began, ceased = (record.getMessage() for record in caplog.records)
    assert began.startswith("coalesce: polls are at least 100 us apart: 60 requests in flight")
    assert ceased.startswith("coalesce: polls are not delayed: ")
