# tests/unit/test_health.py: every event in every state, and rules that hold after any events
"""The table says what each event leads to in each state. The state machine of hypothesis plays the
owner of a health.Machine: it carries out the actions and keeps the time."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nutproxy.back.health import Action, Health, Machine, Milliseconds

BACKOFF_MIN, BACKOFF_MAX = Milliseconds.BACKOFF_MIN, Milliseconds.BACKOFF_MAX
DEMAND_GAP, DEMAND_WAIT = Milliseconds.DEMAND_GAP, Milliseconds.DEMAND_WAIT
GONE_AFTER, RETRY_MIN = Milliseconds.GONE_AFTER, Milliseconds.RETRY_MIN
UP, SLOW, DOWN, EJECTED = Health.UP, Health.SLOW, Health.DOWN, Health.EJECTED
STOPPED = "stopped"
TIMEOUT, LIMIT, RETRY = 400, 2, 3000
# The time of the events that lead to a state, and of the event of a row.
BEFORE, NOW = 1000, 2000


def actions(todo):
    """The names of the actions, in their order."""
    return [action.name for action in Action if todo & action]


def machine(state, limit=LIMIT, probe=None):
    """A machine in this state, in which one failure is counted. `probe`: its probe is "running",
    "due", or neither with None."""
    health = Machine(TIMEOUT, limit, RETRY)
    if state == STOPPED:
        health.stop()
        return health
    if state == UP:
        health.failed(BEFORE, BEFORE, False)
    elif state == SLOW:
        health.connect_failed(BEFORE, BEFORE, False, True)
    elif state == DOWN:
        health.connect_failed(BEFORE, BEFORE, False, False)
    elif state == EJECTED:
        for began in (BEFORE - 1, BEFORE):
            health.connect_failed(began, began, False, False)
    if state >= DOWN or probe:
        health.probe_due(BEFORE, 0)
    if probe == "running":
        health.probe_started(BEFORE)
    elif probe == "due":
        health.probe_due(BEFORE, 5000)
    assert health.state == state
    return health


REJOINED = ["TELL_RETURNED", "REJOIN", "RESUME"]
EJECTS = ["EJECT", "TELL_DOWN", "REFUSE"]
NOTHING = []

# For each event: its method and arguments, and for each state the next state and the actions.
TABLE = {
    "a reply": (
        ("reply",),
        {
            UP: (UP, NOTHING),
            SLOW: (UP, ["TELL_CALM"]),
            DOWN: (UP, ["TELL_REPLIED", "RESUME"]),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
    "another connection is ready": (
        ("connected",),
        {
            UP: (UP, NOTHING),
            SLOW: (UP, ["TELL_CALM"]),
            DOWN: (UP, ["TELL_RETURNED", "RESUME"]),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
    "the probe is ready": (
        ("probe_answered",),
        {
            UP: (UP, NOTHING),
            SLOW: (UP, ["TELL_CALM"]),
            DOWN: (UP, ["TELL_RETURNED", "RESUME"]),
            EJECTED: (UP, REJOINED),
        },
    ),
    "a request fails, after replies": (
        ("failed", NOW, NOW, True),
        {state: (state, NOTHING) for state in Health},
    ),
    "a request fails that began before the last failure": (
        ("failed", BEFORE, NOW, False),
        {state: (state, NOTHING) for state in Health},
    ),
    "a request fails, one failure too many": (
        ("failed", NOW, NOW, False),
        {
            UP: (EJECTED, EJECTS),
            SLOW: (EJECTED, EJECTS),
            DOWN: (EJECTED, ["EJECT", "REFUSE"]),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
    "a connect is refused": (
        ("connect_failed", BEFORE, NOW, False, False),
        {
            UP: (DOWN, ["TELL_DOWN", "REFUSE"]),
            SLOW: (DOWN, ["TELL_DOWN", "REFUSE"]),
            DOWN: (DOWN, ["REFUSE"]),
            EJECTED: (EJECTED, ["REFUSE"]),
        },
    ),
    "a connect is refused, one failure too many": (
        ("connect_failed", NOW, NOW, False, False),
        {
            UP: (EJECTED, EJECTS),
            SLOW: (EJECTED, EJECTS),
            DOWN: (EJECTED, ["EJECT", "REFUSE"]),
            EJECTED: (EJECTED, ["REFUSE"]),
        },
    ),
    "a connect times out": (
        ("connect_failed", BEFORE, NOW, False, True),
        {
            UP: (SLOW, ["TELL_SLOW"]),
            SLOW: (SLOW, NOTHING),
            DOWN: (DOWN, ["REFUSE"]),
            EJECTED: (EJECTED, ["REFUSE"]),
        },
    ),
    "a connect times out, one failure too many": (
        ("connect_failed", NOW, NOW, False, True),
        {
            UP: (EJECTED, EJECTS),
            SLOW: (EJECTED, EJECTS),
            DOWN: (EJECTED, ["EJECT", "REFUSE"]),
            EJECTED: (EJECTED, ["REFUSE"]),
        },
    ),
    "silence": (
        ("silence", BEFORE, NOW, True),
        {
            UP: (SLOW, ["TELL_SLOW"]),
            SLOW: (SLOW, NOTHING),
            DOWN: (DOWN, NOTHING),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
    "silence for too long": (
        ("silence", BEFORE, BEFORE + GONE_AFTER, False),
        {
            UP: (DOWN, ["TELL_SLOW", "TELL_DOWN", "REFUSE"]),
            SLOW: (DOWN, ["TELL_DOWN", "REFUSE"]),
            DOWN: (DOWN, NOTHING),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
    "a request while it is down": (
        ("request", NOW),
        {
            UP: (UP, NOTHING),
            SLOW: (SLOW, NOTHING),
            DOWN: (DOWN, ["HOLD"]),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
    "the probe is due": (
        ("probe_due", NOW, 0),
        {
            UP: (UP, NOTHING),
            SLOW: (SLOW, ["PROBE"]),
            DOWN: (DOWN, ["PROBE"]),
            EJECTED: (EJECTED, ["PROBE"]),
        },
    ),
    "the probe is due, after other connects": (
        ("probe_due", NOW, 8),
        {state: (state, NOTHING) for state in Health},
    ),
    "a connect begins": (("connecting", NOW), {state: (state, NOTHING) for state in Health}),
    "the probe begins": (("probe_started", NOW), {state: (state, NOTHING) for state in Health}),
    "the probe ends": (("probe_ended",), {state: (state, NOTHING) for state in Health}),
    "tidying": (("tidy", NOW), {state: (state, NOTHING) for state in Health}),
    "the server is retired": (("retire",), {state: (state, NOTHING) for state in Health}),
    "the proxy stops": (
        ("stop",),
        {
            UP: (DOWN, NOTHING),
            SLOW: (DOWN, NOTHING),
            DOWN: (DOWN, NOTHING),
            EJECTED: (EJECTED, NOTHING),
        },
    ),
}


@pytest.mark.parametrize("state", Health, ids=lambda state: state.name)
@pytest.mark.parametrize("event", TABLE)
def test_every_event_in_every_state(event, state):
    (method, *arguments), outcomes = TABLE[event]
    health = machine(state)
    todo = getattr(health, method)(*arguments)
    assert (health.state, actions(todo)) == outcomes[state]


@pytest.mark.parametrize("event", TABLE)
def test_a_machine_that_is_stopped_does_nothing(event):
    (method, *arguments), _ = TABLE[event]
    health = machine(STOPPED)
    assert getattr(health, method)(*arguments) == 0
    assert (health.state, health.probe_at, health.stopped) == (DOWN, -1, True)


@pytest.mark.parametrize("state", Health, ids=lambda state: state.name)
@pytest.mark.parametrize("event", [event for event in TABLE if event != "the proxy stops"])
def test_a_machine_that_is_retired_keeps_its_state(event, state):
    (method, *arguments), _ = TABLE[event]
    health = machine(state, probe="due")
    health.retire()
    failures = health.failures
    assert getattr(health, method)(*arguments) == 0
    assert (health.state, health.failures) == (state, failures)
    assert (health.probe_at, health.stopped) == (-1, True)


def test_retiring_drops_the_probe():
    for state in (SLOW, DOWN, EJECTED):
        health = machine(state, probe="running")
        assert actions(health.retire()) == ["DROP_PROBE"]
        assert health.retire() == 0
        assert not health.probing


def test_the_table_has_every_event():
    events = {name for name in dir(Machine) if callable(getattr(Machine, name)) and name[0] != "_"}
    assert {row[0][0] for row in TABLE.values()} == events


# Probes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["a reply", "another connection is ready"])
@pytest.mark.parametrize("state", [SLOW, DOWN])
def test_a_sign_of_life_ends_probing(event, state):
    method = TABLE[event][0][0]
    running, due = machine(state, probe="running"), machine(state, probe="due")
    assert "DROP_PROBE" in actions(getattr(running, method)())
    assert "DROP_PROBE" not in actions(getattr(due, method)())
    assert (running.state, running.probing) == (due.state, due.probing) == (UP, False)
    assert running.probe_at == due.probe_at == -1


def test_an_answered_probe_is_not_dropped():
    for state in (SLOW, DOWN, EJECTED):
        health = machine(state, probe="running")
        assert "DROP_PROBE" not in actions(health.probe_answered())
        assert (health.state, health.probing, health.probe_at) == (UP, False, -1)


def fail_probe(health):
    """The next probe is due, and is refused at once. Returns how long it took to be due."""
    now = health.probe_at
    delay = now - health.last_failure
    assert actions(health.probe_due(now, 0)) == ["PROBE"]
    health.probe_started(now)
    health.probe_ended()
    assert actions(health.connect_failed(now, now, False, False))[-1] == "REFUSE"
    return delay


def test_the_back_off_doubles_up_to_its_maximum_and_begins_anew():
    health = Machine(TIMEOUT, 0, RETRY)
    for now in (NOW, 100 * NOW):
        health.connect_failed(now, now, False, False)
        delays = [fail_probe(health) for _ in range(6)]
        assert delays[0] == BACKOFF_MIN
        assert delays == [100, 200, 400, 800, BACKOFF_MAX, BACKOFF_MAX]
        health.reply()


def test_an_ejected_server_is_probed_every_server_retry_timeout():
    health = machine(EJECTED)
    health.tidy(NOW)
    fail_probe(health)
    assert [fail_probe(health) for _ in range(3)] == [RETRY] * 3


def test_a_retry_timeout_of_0_does_not_keep_the_processor_busy():
    health = Machine(TIMEOUT, 1, 0)
    assert "EJECT" in actions(health.failed(NOW, NOW, False))
    assert health.probe_at == NOW + RETRY_MIN


def test_an_ejection_postpones_the_probe_of_a_server_that_was_down():
    health = machine(DOWN, probe="due")
    health.failed(NOW, NOW, False)
    assert health.probe_at == NOW + RETRY


def test_failures_do_not_postpone_a_probe():
    due, running = machine(DOWN, limit=0, probe="due"), machine(DOWN, limit=0, probe="running")
    before = due.probe_at, due.backoff, running.backoff
    for health in (due, running):
        health.connect_failed(NOW, NOW, False, False)
    assert (due.probe_at, due.backoff, running.backoff) == before
    assert running.probe_at == -1


def test_a_request_brings_the_probe_forward():
    health = machine(DOWN, probe="due")
    health.connecting(NOW)
    assert actions(health.request(NOW)) == ["HOLD"]
    assert health.probe_at == NOW + DEMAND_GAP
    health.request(NOW + 1)
    assert health.probe_at == NOW + DEMAND_GAP
    late = machine(DOWN, probe="due")
    late.request(NOW)
    assert late.probe_at == NOW


def test_a_request_does_not_postpone_the_probe():
    health = Machine(TIMEOUT, 0, RETRY)
    health.connect_failed(NOW - 95, NOW - 95, False, False)
    health.connecting(NOW)
    health.request(NOW)
    assert health.probe_at == NOW - 95 + BACKOFF_MIN


def test_a_request_waits_only_for_a_probe_that_has_just_begun():
    health = machine(DOWN, probe="running")
    assert actions(health.request(BEFORE + DEMAND_WAIT - 1)) == ["HOLD"]
    assert health.request(BEFORE + DEMAND_WAIT) == 0
    assert health.probe_at == -1


def test_silence_probes_at_once_unless_a_probe_is_running():
    for probe, due in ((None, NOW), ("due", NOW), ("running", -1)):
        health = machine(SLOW, probe=probe)
        health.silence(BEFORE, NOW, True)
        assert health.probe_at == due
    quiet = machine(SLOW)
    quiet.silence(BEFORE, NOW, False)
    assert quiet.probe_at == -1


def test_a_probe_is_postponed():
    health = machine(DOWN)
    assert health.probe_due(NOW, 8) == 0
    assert health.probe_at == NOW + 8


def test_a_lost_probe_is_scheduled_again():
    for state in Health:
        health = machine(state)
        health.tidy(NOW)
        assert health.probe_at == (NOW + health.backoff if state >= DOWN else -1)
        running = machine(state, probe="running")
        running.tidy(NOW)
        assert running.probe_at == -1


# Failures and slowness ---------------------------------------------------------------------------


def test_one_event_is_counted_once():
    health = Machine(TIMEOUT, 3, RETRY)
    for began in range(BEFORE, BEFORE + 100):
        health.failed(began, NOW, False)
    assert health.failures == 1
    assert health.failed(NOW + 1, NOW + 2, False) == 0
    assert health.failures == 2


def test_replies_end_a_row_of_failures():
    health = Machine(TIMEOUT, 2, RETRY)
    for now in range(NOW, NOW + 100):
        assert health.failed(now, now, True) == 0
    assert actions(health.failed(NOW + 100, NOW + 100, False)) == EJECTS
    assert health.failures == 0


@pytest.mark.parametrize(
    ("state", "method"),
    [
        (DOWN, "reply"),
        (DOWN, "connected"),
        (DOWN, "probe_answered"),
        (EJECTED, "probe_answered"),
    ],
)
def test_a_return_ends_a_row_of_failures(state, method):
    health = machine(state, limit=3 if state == DOWN else 2)
    health.connect_failed(NOW, NOW, False, False)
    assert health.failures == (2 if state == DOWN else 1)
    getattr(health, method)()
    assert (health.state, health.failures) == (UP, 0)


def test_a_limit_of_0_never_ejects():
    health = Machine(TIMEOUT, 0, RETRY)
    assert not any(health.failed(now, now, False) for now in range(NOW, NOW + 100))


def test_a_slow_server_is_down_after_five_seconds_and_two_timeouts():
    for timeout, limit in ((TIMEOUT, GONE_AFTER), (0, GONE_AFTER), (4000, 8000)):
        health = Machine(timeout, 0, RETRY)
        assert actions(health.silence(NOW, NOW + timeout, True)) == ["TELL_SLOW"]
        assert health.slow_since == NOW
        # The silence of the server counts, not that of the connection.
        assert health.silence(NOW + 100, NOW + limit - 1, True) == 0
        assert actions(health.silence(NOW + 100, NOW + limit, True)) == ["TELL_DOWN", "REFUSE"]
        health.reply()
        assert actions(health.silence(NOW + limit, NOW + limit + 1, True)) == ["TELL_SLOW"]


# Any events --------------------------------------------------------------------------------------


class Owner(RuleBasedStateMachine):
    """A server's owner, without the server. A probe may be lost, as when memory runs out; then
    none need be due or running before the next `tidy`."""

    @initialize(
        timeout=st.integers(0, 5000),
        limit=st.integers(0, 4),
        retry=st.sampled_from([0, 100, 30000]),
    )
    def start(self, timeout, limit, retry):
        self.health = Machine(timeout, limit, retry)
        self.limit = limit
        self.now = 10_000
        self.began = self.now
        self.in_ring = True
        self.told_down = False
        self.probing = False
        self.lost = False

    def carry_out(self, todo):
        """Apply the actions, as far as they can be seen here, and check that they fit."""
        names = actions(todo)
        if "EJECT" in names:
            assert self.in_ring
            self.in_ring = False
        if "TELL_DOWN" in names:
            assert not self.told_down
            self.told_down = True
        if "DROP_PROBE" in names:
            assert self.probing
            self.probing = False
        if "RESUME" in names:
            assert self.told_down
            assert {"TELL_RETURNED", "TELL_REPLIED"} & set(names)
            self.told_down = False
        if "REJOIN" in names:
            assert not self.in_ring
            assert "RESUME" in names
            self.in_ring = True
        return names

    def counted(self, method, *arguments):
        """An event that may count one failure, and no more."""
        before, last = self.health.failures, self.health.last_failure
        replied = arguments[1]
        names = self.carry_out(getattr(self.health, method)(arguments[0], self.now, *arguments[1:]))
        base = 0 if replied else before
        if arguments[0] <= last:
            assert (self.health.failures, self.health.last_failure) == (base, last)
        elif not self.health.stopped:
            assert self.health.last_failure == self.now
            assert self.health.failures == (0 if "EJECT" in names else base + 1)
        return names

    @rule(milliseconds=st.integers(0, 3000))
    def time_passes(self, milliseconds):
        self.now += milliseconds

    @precondition(lambda self: self.health.state != UP)
    @rule()
    def a_reply(self):
        self.carry_out(self.health.reply())
        assert self.health.state == (EJECTED if not self.in_ring else UP) or self.health.stopped

    @rule()
    def a_connection_is_ready(self):
        self.carry_out(self.health.connected())
        assert self.health.state == (EJECTED if not self.in_ring else UP) or self.health.stopped

    @rule(ago=st.integers(0, 3000), replied=st.booleans())
    def a_request_fails(self, ago, replied):
        if not self.health.stopped:
            self.counted("failed", self.now - ago, replied)

    @rule(ago=st.integers(0, 3000), replied=st.booleans(), timed_out=st.booleans())
    def a_connect_fails(self, ago, replied, timed_out):
        if not self.health.stopped:
            self.counted("connect_failed", self.now - ago, replied, timed_out)
            assert self.health.state != UP

    @rule(ago=st.integers(0, 8000), probe=st.booleans())
    def a_connection_is_silent(self, ago, probe):
        self.carry_out(self.health.silence(self.now - ago, self.now, probe))
        assert self.health.state != UP or self.health.stopped

    @precondition(lambda self: self.health.state >= DOWN)
    @rule()
    def a_request_comes(self):
        if self.health.request(self.now):
            assert self.health.state == DOWN
            if self.health.probing:
                assert self.now - self.health.probe_began < DEMAND_WAIT
            else:
                assert 0 <= self.health.probe_at <= self.now + DEMAND_GAP
                # If it was lost, it is due again.
                self.lost = False

    @precondition(lambda self: self.health.probe_at >= 0)
    @rule(outcome=st.sampled_from(["begins", "is postponed", "is lost"]))
    def the_probe_is_due(self, outcome):
        self.now = max(self.now, self.health.probe_at)
        todo = self.health.probe_due(self.now, 8 if outcome == "is postponed" else 0)
        if outcome == "is postponed":
            assert todo == 0
            return
        assert actions(todo) == ["PROBE"]
        assert not self.probing
        if outcome == "begins":
            self.probing = True
            self.health.probe_started(self.now)
            self.health.connecting(self.now)
            self.began = self.now
        else:
            self.lost = True

    @precondition(lambda self: self.probing)
    @rule()
    def the_probe_is_answered(self):
        self.probing = False
        self.health.probe_ended()
        self.carry_out(self.health.probe_answered())
        assert self.health.state == UP or self.health.stopped

    @precondition(lambda self: self.probing)
    @rule(timed_out=st.booleans())
    def the_probe_fails(self, timed_out):
        self.probing = False
        self.health.probe_ended()
        if not self.health.stopped:
            self.counted("connect_failed", self.began, False, timed_out)

    @rule()
    def tidying(self):
        self.health.tidy(self.now)
        self.lost = False

    @rule()
    def the_server_is_retired(self):
        self.carry_out(self.health.retire())

    @precondition(lambda self: self.health.state >= DOWN)
    @rule()
    def the_proxy_stops(self):
        self.health.stop()

    @invariant()
    def a_probe_of_a_server_that_is_down_is_due_or_running(self):
        health = self.health
        if health.state >= DOWN and not health.stopped and not self.lost:
            assert health.probing or health.probe_at >= 0

    @invariant()
    def a_server_that_is_up_or_stopped_has_no_probe_due(self):
        if self.health.state == UP or self.health.stopped:
            assert self.health.probe_at == -1

    @invariant()
    def one_probe_at_a_time(self):
        assert self.health.probing == self.probing
        assert not (self.health.probing and self.health.probe_at >= 0)

    @invariant()
    def the_state_is_what_was_told(self):
        assert (self.health.state >= DOWN) == self.told_down or self.health.stopped
        assert (self.health.state == EJECTED) == (not self.in_ring)

    @invariant()
    def figures_are_within_their_bounds(self):
        health = self.health
        assert BACKOFF_MIN <= health.backoff <= BACKOFF_MAX
        assert health.last_failure <= self.now
        assert health.failures >= 0
        assert self.in_ring or self.limit
        assert not self.in_ring or not self.limit or health.failures < self.limit
        if health.probe_at >= 0:
            assert health.probe_at - self.now <= max(BACKOFF_MAX, health.retry_timeout)


TestOwner = Owner.TestCase
TestOwner.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
