# tests/unit/core/test_rests.py: what never waits for a rest
"""Whether a turn may rest before its poll (io/coalesce.py), asked of a loop that would always rest
for 100 microseconds."""

import pytest

from nutproxy.stepped import rest_always

FOREVER = -1  # the poller's timeout when no timer or deadline is scheduled


@pytest.fixture
def resting(rig):
    rest_always(rig.worker, 100)
    return rig


def test_a_turn_may_rest_while_requests_are_with_the_servers(resting):
    client = resting.link_all()
    client.send(b"GET", resting.keys[0][0])
    resting.settle()
    assert resting.worker.may_rest(FOREVER)


@pytest.mark.parametrize(("milliseconds", "may"), [(1, False), (2, True), (400, True)])
def test_no_timer_or_deadline_comes_later_for_it(resting, milliseconds, may):
    """What is due in a millisecond by the loop's clock may be due at once."""
    assert resting.worker.may_rest(milliseconds) is may


def test_the_time_until_a_deadline_is_compared_with_the_limit(rig):
    rest_always(rig.worker, 1000)
    assert not rig.worker.may_rest(1)
    assert rig.worker.may_rest(2)


def test_no_turn_rests_while_a_connection_to_a_server_begins(resting):
    resting.servers[0].greets = False
    client = resting.connect()
    client.send(b"GET", resting.keys[0][0])
    resting.settle()
    assert resting.worker.reactor.handshakes == 1
    assert not resting.worker.may_rest(FOREVER)
    resting.servers[0].session.greet()
    resting.settle()
    assert resting.worker.reactor.handshakes == 0
    assert resting.worker.may_rest(FOREVER)
    resting.servers[0].session.reply(b"$-1\r\n")
    resting.settle()
    assert client.replies() == [None]


def test_a_handshake_that_fails_is_over(resting):
    resting.servers[0].greets = False
    client = resting.connect()
    client.send(b"GET", resting.keys[0][0])
    resting.settle()
    resting.servers[0].session.close()
    resting.settle()
    assert resting.worker.reactor.handshakes == 0
    assert resting.worker.may_rest(FOREVER)


def test_no_turn_rests_in_a_drain(resting):
    client = resting.link_all()
    client.send(b"GET", resting.keys[0][0])
    resting.settle()
    resting.worker.drain(1000)
    assert not resting.worker.may_rest(FOREVER)
    resting.servers[0].session.reply(b"$-1\r\n")
    resting.settle()
