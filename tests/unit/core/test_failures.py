# tests/unit/core/test_failures.py: deadlines, connections that end, clients that leave
"""Rule 1: a reply reaches the client that asked for it, or nobody. Rule 8: a deadline hits one
request."""

import hiredis
import pytest

from nutproxy.stepped import queued, state
from tests.unit.core.harness import array, bulk, shrink

TIMEOUT = 400
LARGE = b"v" * 200_000


def errors(replies):
    return [str(reply) for reply in replies if isinstance(reply, hiredis.ReplyError)]


@pytest.fixture
def timed(make_rig):
    return make_rig(timeout=TIMEOUT)


# Deadlines
# --------------------------------------------------------------------------------


def test_deadline_hits_one_request_and_its_late_reply_is_dropped(timed):
    client, other = timed.link_all(), timed.connect()
    early, late = timed.keys[0][:2]
    client.send(b"GET", early)
    timed.settle()
    timed.advance(TIMEOUT - 100)
    client.send(b"GET", late)
    other.send(b"GET", late)
    timed.settle()
    timed.advance(140)
    assert len(errors(client.replies())) == 1
    assert timed.counter("requests_timedout", 0) == 1
    # It keeps its place in the server's queue.
    _, written = queued(timed.link(0))
    assert [msg["refs"] for msg in written] == [1, 2, 2]

    # A probe has asked, on a connection of its own, whether the server is there.
    session = timed.servers[0].sessions[0]
    for value in (b"too late", b"for the second", b"for the other"):
        session.reply(bulk(value))
    timed.settle()
    assert client.replies() == [b"for the second"]
    assert other.replies() == [b"for the other"]
    assert timed.counter("responses_dropped", 0) == 1
    assert not session.eof


@pytest.mark.parametrize("cut", [1, 5, len(LARGE) // 2])
def test_deadline_in_the_middle_of_the_reply(timed, cut):
    client = timed.link_all()
    key = timed.keys[0][0]
    client.send(b"GET", key)
    timed.settle()
    session = timed.servers[0].session
    session.send_raw(bulk(LARGE)[:cut])
    timed.settle()
    # A sign of life now and then: the server is not silent.
    for _ in range(TIMEOUT // 100):
        timed.advance(105)
        cut += 1
        session.send_raw(bulk(LARGE)[cut - 1 : cut])
        timed.settle()
    assert len(errors(client.replies())) == 1
    client.send(b"GET", key)
    timed.settle()
    session.send_raw(bulk(LARGE)[cut:] + bulk(b"mine"))
    timed.settle()
    assert client.replies() == [b"mine"]
    session.requests.clear()


def test_expired_before_its_first_byte_is_never_sent(timed):
    client = timed.link_all()
    shrink(timed.link(0))
    session = timed.servers[0].session
    session.reads = False
    one, two = timed.keys[0][:2]
    client.send(b"SET", one, LARGE)
    client.send(b"SET", two, b"never")
    client.send(b"GET", timed.keys[1][0])
    timed.settle()
    timed.servers[1].session.reply(bulk(b"other"))
    for _ in range(11):
        # The server reads a little: it is slow and not silent.
        timed.advance(TIMEOUT // 10)
        session.read(100)
    assert timed.counter("requests_timedout", 0) == 2
    waiting, _ = queued(timed.link(0))
    assert ["cancelled" in msg["flags"] for msg in waiting] == [False, True]
    assert waiting[1]["req"]["length"] == 0
    first, second, other = client.replies()
    assert (len(errors([first, second])), other) == (2, b"other")

    client.send(b"GET", two)
    session.reads = True
    timed.settle()
    assert list(session.requests) == [[b"SET", one, LARGE], [b"GET", two]]
    session.reply(b"+OK\r\n")
    session.reply(bulk(b"old"))
    timed.settle()
    assert client.replies() == [b"old"]


def test_late_reply_does_not_replace_an_error_that_is_not_sent_yet(timed):
    client = timed.link_all()
    shrink(timed.conn(client))
    client.reads = False
    client.send(b"GET", timed.keys[0][0])
    client.send(b"GET", timed.keys[1][0])
    timed.settle()
    timed.servers[0].session.reply(bulk(LARGE))
    timed.settle()
    timed.advance(TIMEOUT + 20)
    [], [_, expired] = queued(timed.conn(client))
    assert {"done", "failed"} <= expired["flags"]
    timed.servers[1].sessions[0].reply(bulk(b"late"))
    timed.settle()
    assert queued(timed.link(1)) == ([], [])
    client.reads = True
    timed.settle()
    first, second = client.replies()
    assert first == LARGE
    assert len(errors([second])) == 1


def test_part_that_expires_fails_its_command_only(timed):
    client = timed.link_all()
    one, other = timed.keys[0], timed.keys[1]
    client.send(b"MGET", one[0], other[0])
    timed.settle()
    client.send(b"GET", other[1])
    timed.servers[1].session.reply(array([b"of the other"]))
    timed.settle()
    timed.servers[1].session.reply(bulk(b"next"))
    timed.settle()
    assert client.replies() == []
    timed.advance(TIMEOUT + 50)
    error, following = client.replies()
    assert len(errors([error])) == 1
    assert following == b"next"
    client.send(b"GET", one[1])
    timed.settle()
    session = timed.servers[0].sessions[0]
    session.reply(array([b"late"]))
    session.reply(bulk(b"mine"))
    timed.settle()
    assert client.replies() == [b"mine"]


def test_silent_connection_is_closed_after_two_timeouts(timed):
    client = timed.link_all()
    client.send(b"GET", timed.keys[0][0])
    timed.settle()
    timed.advance(TIMEOUT + 20)
    assert len(errors(client.replies())) == 1
    old = timed.servers[0].sessions[0]
    # A probe asks whether the server is there, and it is.
    assert len(timed.servers[0].sessions) == 2
    timed.advance(2 * TIMEOUT)
    assert old.eof
    client.send(b"GET", timed.keys[0][0])
    timed.settle()
    timed.servers[0].session.reply(bulk(b"new"))
    timed.settle()
    assert client.replies() == [b"new"]


def test_pause_of_the_process_is_no_fault_of_the_server(timed):
    client = timed.link_all()
    client.send(b"GET", timed.keys[0][0])
    timed.settle()
    timed.worker.reactor.clock += 10 * TIMEOUT
    timed.servers[0].session.reply(bulk(b"in time"))
    timed.settle()
    assert client.replies() == [b"in time"]
    assert timed.counter("requests_timedout", 0) == 0


def test_handshake_that_does_not_end_in_time(timed):
    timed.servers[0].greets = False
    client = timed.connect()
    client.send(b"GET", timed.keys[0][0])
    client.send(b"PING")
    timed.settle()
    timed.advance(2 * TIMEOUT)
    error, pong = client.replies()
    assert len(errors([error])) == 1
    assert pong == b"PONG"


# Connections to servers that end
# --------------------------------------------------------------------------------


def test_requests_that_were_written_are_lost_and_never_sent_again(rig):
    client = rig.link_all()
    one, other = rig.keys[0][0], rig.keys[1][0]
    for key in (one, other, one):
        client.send(b"GET", key)
    rig.settle()
    rig.servers[0].session.close()
    rig.servers[1].session.reply(bulk(b"other"))
    rig.settle()
    first, second, third = client.replies()
    assert len(errors([first, third])) == 2
    assert second == b"other"
    assert rig.counter("requests_lost", 0) == 2
    assert rig.counter("requests_retried", 0) == 0
    assert len(rig.servers[0].sessions) == 1

    client.send(b"GET", one)
    rig.settle()
    rig.advance(100)
    assert list(rig.servers[0].session.requests) == [[b"GET", one]]
    rig.servers[0].session.reply(bulk(b"new"))
    rig.settle()
    assert client.replies() == [b"new"]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_half_written_is_lost_and_unwritten_is_retried_once(rig, end):
    client = rig.link_all()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    one, two, three = rig.keys[0][:3]
    client.send(b"GET", one)
    rig.settle()
    client.send(b"SET", two, LARGE)
    client.send(b"GET", three)
    client.send(b"GET", rig.keys[1][0])
    rig.settle()
    waiting, written = queued(rig.link(0))
    assert (len(waiting), len(written)) == (2, 1)
    assert state(rig.link(0))["sent"] > 0
    getattr(session, end)()
    rig.settle()
    rig.servers[1].session.reply(bulk(b"other"))
    rig.settle()
    assert rig.counter("requests_lost", 0) == 2
    assert rig.counter("requests_retried", 0) == 1
    again = rig.servers[0].session
    assert again is not session
    assert list(again.requests) == [[b"GET", three]]
    [], [retried] = queued(rig.link(0))
    assert "retried" in retried["flags"]
    first, second = client.replies()
    assert len(errors([first, second])) == 2
    again.reply(bulk(b"3"))
    rig.settle()
    assert client.replies() == [b"3", b"other"]


def test_retried_request_is_not_retried_again(rig):
    client = rig.link_all()
    shrink(rig.link(0))
    server = rig.servers[0]
    server.session.reads = False
    client.send(b"SET", rig.keys[0][0], LARGE)
    client.send(b"SET", rig.keys[0][1], LARGE)
    client.send(b"GET", rig.keys[0][2])
    rig.settle()
    server.greets = False
    server.session.close()
    rig.settle()
    # They wait for the handshake of the second connection.
    waiting, _ = queued(rig.link(0))
    assert ["retried" in msg["flags"] for msg in waiting] == [True, True]
    server.session.greet()
    server.session.reads = False
    while not rig.link(0).state or not queued(rig.link(0))[1]:
        # Until the first of the two is under way.
        rig.worker.step()
        server.session.flush()
        if state(rig.link(0))["sent"]:
            break
    server.session.close()
    rig.settle()
    assert len(errors(client.replies())) == 3
    assert rig.counter("requests_retried", 0) == 2
    assert rig.counter("requests_lost", 0) + rig.counter("requests_unavailable", 0) == 3


def test_idle_connection_that_has_died_costs_no_request(rig):
    client = rig.link_all()
    rig.servers[0].session.close()
    # The request and the end of the connection come in the same turn.
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    assert list(rig.servers[0].session.requests) == [[b"GET", rig.keys[0][0]]]
    rig.servers[0].session.reply(bulk(b"new"))
    rig.settle()
    assert client.replies() == [b"new"]


def test_refused_connection_fails_the_requests_that_wait_for_it(rig):
    for server in rig.servers:
        server.refuse()
    client = rig.connect()
    client.send(b"GET", rig.keys[0][0])
    client.send(b"MGET", rig.keys[0][0], rig.keys[1][0])
    client.send(b"PING")
    rig.settle()
    rig.advance(100)
    replies = client.replies()
    assert len(errors(replies)) == 2
    assert replies[2] == b"PONG"
    assert rig.counter("server_down", 0) == 1

    rig.servers[0].listen()
    rig.advance(2000)
    assert rig.counter("server_down", 0) == 0
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    rig.servers[0].session.reply(bulk(b"back"))
    rig.settle()
    assert client.replies() == [b"back"]


@pytest.mark.parametrize(
    "unasked",
    [b"+OK\r\n", b"$5\r\nab", b"+", b"-ERR max\r\n", b"?"],
    ids=["reply", "half", "byte", "error", "garbage"],
)
def test_reply_that_nobody_asked_for_ends_the_connection(rig, unasked):
    client = rig.link_all()
    session = rig.servers[0].session
    session.send_raw(unasked)
    rig.settle()
    assert session.eof
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    rig.advance(100)
    rig.servers[0].session.reply(bulk(b"right"))
    rig.settle()
    assert client.replies() == [b"right"]


def test_one_reply_too_many_reaches_nobody(rig):
    client, other = rig.link_all(), rig.connect()
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    session = rig.servers[0].session
    session.reply(bulk(b"mine") + bulk(b"for nobody"))
    other.send(b"GET", rig.keys[0][0])
    rig.settle()
    assert client.replies() == [b"mine"]
    again = rig.servers[0].session
    assert session.eof
    assert again is not session
    again.reply(bulk(b"other's"))
    rig.settle()
    assert other.replies() == [b"other's"]


def test_malformed_reply_fails_all_requests_of_the_connection(rig):
    client = rig.link_all()
    for _ in range(3):
        client.send(b"GET", rig.keys[0][0])
    rig.settle()
    session = rig.servers[0].session
    session.reply(bulk(b"good") + b"$x\r\n" + bulk(b"bad"))
    rig.settle()
    first, *others = client.replies()
    assert first == b"good"
    assert len(errors(others)) == 2
    assert session.eof


# Clients that leave
# --------------------------------------------------------------------------------


def abandon(rig, client, *requests):
    """Send requests and reset the connection: it has an unread reply."""
    client.reads = False
    client.send(b"PING")
    for request in requests:
        client.send(*request)
    rig.settle()
    client.close()
    rig.settle()


@pytest.mark.parametrize("timeout", [0, TIMEOUT])
def test_reply_to_a_client_that_has_gone_reaches_nobody(make_rig, timeout):
    rig = make_rig(timeout=timeout)
    client, other = rig.link_all(), rig.connect()
    key = rig.keys[0][0]
    abandon(rig, client, (b"GET", key), (b"GET", key))
    assert [one.id for one in rig.worker.clients()] == [other.id]
    other.send(b"GET", key)
    rig.settle()
    _, written = queued(rig.link(0))
    assert [(msg["refs"], msg["awaited"]) for msg in written] == [
        (1, False),
        (1, False),
        (2, True),
    ]
    assert rig.worker.orphans() == 2
    for value in (b"first", b"second", b"third"):
        rig.servers[0].session.reply(bulk(value))
    rig.settle()
    assert other.replies() == [b"third"]
    assert rig.counter("responses_dropped", 0) == 2


def test_client_goes_while_its_request_is_half_written(rig):
    client, other = rig.link_all(), rig.connect()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    key = rig.keys[0][0]
    abandon(rig, client, (b"SET", key, LARGE), (b"SET", key, b"2"))
    other.send(b"GET", key)
    session.reads = True
    rig.settle()
    # Both are still carried out.
    assert list(session.requests) == [[b"SET", key, LARGE], [b"SET", key, b"2"], [b"GET", key]]
    for reply in (b"+OK\r\n", b"+OK\r\n", bulk(b"2")):
        session.reply(reply)
    rig.settle()
    assert other.replies() == [b"2"]


def test_client_goes_before_its_server_is_connected(rig):
    rig.servers[0].greets = False
    client = rig.connect()
    abandon(rig, client, (b"GET", rig.keys[0][0]), (b"MGET", rig.keys[0][0], rig.keys[1][0]))
    assert rig.worker.clients() == []
    rig.servers[0].session.close()
    rig.settle()
    assert queued(rig.link(1))[1][0]["refs"] == 1


def test_client_that_has_closed_its_sending_side_gets_its_replies(rig):
    client = rig.link_all()
    client.send(b"GET", rig.keys[0][0])
    client.send(b"MGET", rig.keys[0][0], rig.keys[1][0])
    client.half_close()
    rig.settle()
    assert not client.eof
    rig.servers[0].session.reply(bulk(b"a"))
    rig.servers[0].session.reply(array([b"a"]))
    rig.servers[1].session.reply(array([b"b"]))
    rig.settle()
    assert client.replies() == [b"a", [b"a", b"b"]]
    assert client.eof


def test_client_that_has_closed_completely_is_freed_at_the_reply(rig):
    client = rig.link_all()
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    client.close()
    rig.settle()
    rig.servers[0].session.reply(bulk(b"a"))
    rig.settle()
    assert rig.worker.clients() == []


def test_half_a_request_of_a_client_that_goes(rig):
    client = rig.connect()
    client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\n" + b"x" * 50_000)
    rig.settle()
    assert state(rig.conn(client))["tail"] >= 100_000
    client.close()
    rig.settle()
    assert rig.worker.clients() == []
    assert not any(server.sessions for server in rig.servers)


def test_broken_framing_ends_the_client_after_the_replies_that_it_is_owed(rig):
    client = rig.link_all()
    client.send(b"GET", rig.keys[0][0])
    client.send_raw(b"*1\r\n$x\r\n*1\r\n$4\r\nPING\r\n")
    rig.settle()
    assert client.replies() == []
    rig.servers[0].session.reply(bulk(b"a"))
    rig.settle()
    value, error = client.replies()
    assert value == b"a"
    assert len(errors([error])) == 1
    assert client.eof


def test_quit_closes_after_the_last_reply(rig):
    client = rig.link_all()
    client.send(b"GET", rig.keys[0][0])
    client.send(b"QUIT")
    client.send(b"GET", rig.keys[0][1])
    rig.settle()
    rig.servers[0].session.reply(bulk(b"a"))
    rig.settle()
    assert client.replies() == [b"a", b"OK"]
    assert client.eof
    assert not rig.servers[0].session.requests
    # The proxy waits for the client's end, but not for ever.
    assert len(rig.worker.clients()) == 1
    rig.advance(1100)
    assert rig.worker.clients() == []
