# tests/unit/core/test_retire.py: a server that is removed from its pool
"""What is in flight is answered, nothing new begins, links close when idle, and the pool forgets
the server when the last one has gone."""

import hiredis
import pytest

from nutproxy.stepped import links, queued, state
from tests.unit.core.harness import bulk, shrink

TIMEOUT = 400
LARGE = b"v" * 200_000


@pytest.fixture
def timed(make_rig):
    return make_rig(timeout=TIMEOUT)


def retire(rig, number=0):
    """Remove this server: the others stay."""
    server = rig.server(number)
    rig.apply(*[other for other in range(len(rig.servers)) if other != number])
    assert server.retired
    return server


def is_gone(rig, server):
    """Has it been forgotten, with all that it held?"""
    gone = server not in rig.pool.leaving
    assert gone == (not links(server))
    row = [member.row for member in rig.members(*range(len(rig.servers)))].index(server.member.row)
    gauges = ["server_connections", "in_queue", "in_queue_bytes", "out_queue", "out_queue_bytes"]
    assert not gone or [rig.counter(name, row) for name in gauges] == [0] * 5
    return gone


def ask(rig, client, *keys):
    for key in keys or rig.keys[0][:1]:
        client.send(b"GET", key)
    rig.settle()


def is_error(reply, text):
    return isinstance(reply, hiredis.ReplyError) and text in str(reply)


def test_idle_server_goes_at_once(rig):
    client = rig.link_all()
    server = retire(rig)
    assert is_gone(rig, server)
    assert rig.servers[0].session.eof
    # Its keys belong to the other server, on a connection that was not touched.
    ask(rig, client)
    [session] = rig.servers[1].sessions
    session.reply(bulk(b"of the other"))
    rig.settle()
    assert client.replies() == [b"of the other"]
    assert len(rig.servers[0].sessions) == 1


def test_server_without_a_connection_goes_at_once(rig):
    assert is_gone(rig, retire(rig))


def test_requests_in_flight_are_answered(rig):
    client, other = rig.link_all(), rig.connect()
    ask(rig, client, *rig.keys[0][:2])
    ask(rig, other)
    server = retire(rig)
    session = rig.servers[0].session
    for value in (b"1", b"2"):
        session.reply(bulk(value))
        rig.settle()
        assert not is_gone(rig, server)
    session.reply(bulk(b"3"))
    rig.settle()
    assert is_gone(rig, server)
    assert session.eof
    assert (client.replies(), other.replies()) == ([b"1", b"2"], [b"3"])
    assert rig.counter("responses", 0) == 4
    assert rig.counter("requests_lost", 0) == 0


def test_links_go_one_by_one(make_rig):
    rig = make_rig(server_connections=2)
    clients = [rig.connect(), rig.connect()]
    for client in clients:
        ask(rig, client)
    server = retire(rig)
    first, second = rig.servers[0].sessions
    second.reply(bulk(b"b"))
    rig.settle()
    assert (first.eof, second.eof, is_gone(rig, server)) == (False, True, False)
    first.reply(bulk(b"a"))
    rig.settle()
    assert is_gone(rig, server)
    assert sorted(client.replies() for client in clients) == [[b"a"], [b"b"]]


def test_request_that_is_half_written_is_sent_to_its_end(rig):
    client = rig.link_all()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    one, two = rig.keys[0][:2]
    client.send(b"SET", one, LARGE)
    client.send(b"GET", two)
    rig.settle()
    assert state(rig.link(0))["sent"] > 0
    server = retire(rig)
    session.reads = True
    rig.settle()
    assert list(session.requests) == [[b"SET", one, LARGE], [b"GET", two]]
    session.reply(b"+OK\r\n")
    session.reply(bulk(b"2"))
    rig.settle()
    assert client.replies() == [b"OK", b"2"]
    assert is_gone(rig, server)


def test_part_of_a_command_is_answered(rig):
    client = rig.link_all()
    client.send(b"MGET", rig.keys[0][0], rig.keys[1][0])
    rig.settle()
    server = retire(rig)
    for one in rig.servers:
        one.session.reply(b"*1\r\n" + bulk(one.path[-1:].encode()))
    rig.settle()
    assert client.replies() == [[b"1", b"2"]]
    assert is_gone(rig, server)


def test_link_that_connects_sends_what_waits_in_it(rig):
    rig.servers[0].greets = False
    client = rig.connect()
    ask(rig, client)
    server = retire(rig)
    assert not is_gone(rig, server)
    rig.servers[0].greets = True
    session = rig.servers[0].session
    session.greet()
    rig.settle()
    session.reply(bulk(b"a"))
    rig.settle()
    assert client.replies() == [b"a"]
    assert is_gone(rig, server)


def test_link_that_connects_for_nobody_goes_at_once(make_rig):
    rig = make_rig(server_connections=2, preconnect="true")
    rig.servers[0].greets = False
    rig.pool.preconnect()
    rig.settle()
    assert is_gone(rig, retire(rig))
    assert all(session.eof for session in rig.servers[0].sessions)
    rig.advance(2000)
    assert len(rig.servers[0].sessions) == 2


def test_link_that_connects_and_fails_fails_its_requests(rig):
    rig.servers[0].greets = False
    client = rig.connect()
    ask(rig, client)
    server = retire(rig)
    rig.servers[0].session.close()
    rig.settle()
    [error] = client.replies()
    assert is_error(error, "Connection reset by peer")
    assert is_gone(rig, server)
    assert rig.counter("server_down", 0) == 0


def test_link_that_was_refused_is_tried_again_for_its_requests(make_rig):
    rig = make_rig(server_connections=2)
    clients = [rig.connect(), rig.connect()]
    ask(rig, clients[0])
    one = rig.servers[0]
    one.greets = False
    ask(rig, clients[1])
    one.session.reply(b"-ERR max number of clients reached\r\n")
    rig.settle()
    [error] = clients[1].replies()
    assert is_error(error, "max number of clients")
    one.greets = True
    ask(rig, clients[1])
    server = retire(rig)
    one.sessions[0].reply(bulk(b"a"))
    rig.settle()
    # It waits for its own next try, not for a probe.
    assert not is_gone(rig, server)
    rig.advance(120)
    one.session.reply(bulk(b"b"))
    rig.settle()
    assert [client.replies() for client in clients] == [[b"a"], [b"b"]]
    assert is_gone(rig, server)


def test_unwritten_requests_of_a_link_that_ends_move_to_a_new_one(rig):
    client = rig.link_all()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    one, two = rig.keys[0][:2]
    client.send(b"SET", one, LARGE)
    client.send(b"GET", two)
    rig.settle()
    server = retire(rig)
    session.close()
    rig.settle()
    again = rig.servers[0].session
    assert again is not session
    assert list(again.requests) == [[b"GET", two]]
    again.reply(bulk(b"2"))
    rig.settle()
    first, second = client.replies()
    assert is_error(first, "Connection reset by peer")
    assert second == b"2"
    assert is_gone(rig, server)


def test_slow_server_answers_late(timed):
    client = timed.link_all()
    timed.servers[0].greets = False
    ask(timed, client)
    timed.advance(TIMEOUT + 20)
    ask(timed, client)
    [old, probe] = timed.servers[0].sessions
    server = retire(timed)
    # The probe is not needed any more.
    assert probe.eof
    assert not is_gone(timed, server)
    old.reply(bulk(b"too late"))
    old.reply(bulk(b"in time"))
    timed.settle()
    error, value = client.replies()
    assert is_error(error, "timed out")
    assert value == b"in time"
    assert is_gone(timed, server)


def test_silent_server_goes_when_its_requests_have_timed_out(timed):
    client = timed.link_all()
    timed.servers[0].greets = False
    ask(timed, client)
    server = retire(timed)
    timed.advance(TIMEOUT + 20)
    [error] = client.replies()
    assert is_error(error, "timed out")
    timed.advance(3 * TIMEOUT)
    assert is_gone(timed, server)
    # No probe has been sent.
    assert len(timed.servers[0].sessions) == 1
    assert timed.counter("server_probes", 0) == 0


def test_request_that_expired_unwritten_does_not_hold_the_link(timed):
    client = timed.link_all()
    shrink(timed.link(0))
    session = timed.servers[0].session
    session.reads = False
    client.send(b"SET", timed.keys[0][0], LARGE)
    client.send(b"GET", timed.keys[0][1])
    timed.settle()
    server = retire(timed)
    for _ in range(11):
        timed.advance(TIMEOUT // 10)
        session.read(100)
    assert len(client.replies()) == 2
    [link] = links(server)
    waiting, _ = queued(link)
    del link
    assert ["cancelled" in msg["flags"] for msg in waiting] == [False, True]
    session.reads = True
    timed.settle()
    assert not is_gone(timed, server)
    session.reply(b"+OK\r\n")
    timed.settle()
    assert is_gone(timed, server)


def test_link_that_becomes_ready_after_its_requests_have_expired(make_rig):
    rig = make_rig(timeout=TIMEOUT)
    rig.servers[0].greets = False
    client = rig.connect()
    rig.advance(TIMEOUT // 2)
    ask(rig, client)
    client.close()
    server = retire(rig)
    rig.settle()
    assert not is_gone(rig, server)
    rig.servers[0].session.greet()
    rig.settle()
    # The request is carried out, although nobody waits.
    assert len(rig.servers[0].session.requests) == 1
    rig.servers[0].session.reply(bulk(b"a"))
    rig.settle()
    assert is_gone(rig, server)


def down(rig, client):
    """The server refuses connections, and that is known."""
    rig.servers[0].refuse()
    ask(rig, client)
    [error] = client.replies()
    assert is_error(error, "Connection refused")
    assert rig.counter("server_down", 0) == 1


def test_requests_that_wait_for_a_probe_fail_at_once(rig):
    client = rig.connect()
    down(rig, client)
    rig.servers[0].listen()
    rig.servers[0].greets = False
    client.send(b"GET", rig.keys[0][0])
    client.send(b"MGET", rig.keys[0][0], rig.keys[1][0])
    rig.settle()
    assert client.replies() == []
    server = retire(rig)
    rig.servers[1].session.reply(b"*1\r\n" + bulk(b"b"))
    rig.settle()
    replies = client.replies()
    assert len(replies) == 2
    for reply in replies:
        assert is_error(reply, "server 's1' of pool 'alpha': removed from the pool")
    assert is_gone(rig, server)
    assert rig.counter("server_down", 0) == 0


@pytest.mark.parametrize("probes", [False, True], ids=["due", "running"])
def test_server_that_is_down_is_probed_no_more(rig, probes):
    client = rig.connect()
    down(rig, client)
    one = rig.servers[0]
    one.listen()
    one.greets = False
    if probes:
        rig.advance(120)
        assert not one.session.eof
    sessions = len(one.sessions)
    assert sessions == probes
    server = retire(rig)
    assert is_gone(rig, server)
    rig.advance(3000)
    assert all(session.eof for session in one.sessions)
    assert len(one.sessions) == sessions
    assert rig.counter("server_down", 0) == 0
    assert rig.counter("server_probes", 0) == probes


def test_requests_in_flight_on_a_server_that_is_down_are_answered(make_rig):
    rig = make_rig(server_connections=2)
    clients = [rig.connect(), rig.connect()]
    one = rig.servers[0]
    ask(rig, clients[0])
    session = one.session
    # So long without a reply that this connection does not show that the server is up.
    rig.advance(11_000)
    one.refuse()
    ask(rig, clients[1])
    [error] = clients[1].replies()
    assert is_error(error, "Connection refused")
    assert rig.counter("server_down", 0) == 1
    server = retire(rig)
    assert not is_gone(rig, server)
    session.reply(bulk(b"at last"))
    rig.settle()
    assert clients[0].replies() == [b"at last"]
    assert is_gone(rig, server)


def test_ejected_server_goes_and_does_not_return(make_rig):
    rig = make_rig(auto_eject_hosts="true", server_failure_limit=1, server_retry_timeout=500)
    client = rig.link_all()
    one = rig.servers[0]
    ask(rig, client)
    one.refuse()
    one.session.close()
    rig.settle()
    assert rig.counter("server_ejected", 0) == 1
    server = retire(rig)
    assert is_gone(rig, server)
    one.listen()
    rig.advance(2000)
    assert len(one.sessions) == 1
    assert [rig.counter(name, 0) for name in ("server_ejected", "server_down")] == [0, 0]
    assert rig.counter("server_ejects") == 1


def test_reconnect_of_preconnect_is_cancelled(make_rig):
    rig = make_rig(preconnect="true")
    rig.pool.preconnect()
    rig.settle()
    # Young connections that end are opened again after a moment.
    for session in rig.servers[0].sessions:
        session.close()
    rig.settle()
    count = len(rig.servers[0].sessions)
    assert is_gone(rig, retire(rig))
    rig.advance(3000)
    assert len(rig.servers[0].sessions) == count


def test_link_for_a_busy_server_ends_as_usual(rig):
    client = rig.link_all()
    for one in rig.servers:
        one.greets = False
    client.send(b"SCRIPT", b"KILL")
    rig.settle()
    server = retire(rig)
    assert not is_gone(rig, server)
    assert rig.servers[0].sessions[0].eof
    for one in rig.servers:
        one.session.reply(b"+OK\r\n")
    rig.settle()
    assert client.replies() == [b"OK"]
    assert is_gone(rig, server)


def test_each_profile_has_its_links_closed(rig):
    old, new = rig.link_all(), rig.connect()
    conn = rig.conn(new)
    conn.adopt(3, 0)
    del conn
    ask(rig, new)
    ask(rig, old)
    first, second = rig.servers[0].sessions
    server = retire(rig)
    first.reply(bulk(b"a"))
    rig.settle()
    assert (first.eof, is_gone(rig, server)) == (True, False)
    second.reply(b"_\r\n")
    rig.settle()
    assert is_gone(rig, server)
    assert (old.replies(), new.take()) == ([b"a"], b"_\r\n")


def test_memcached_refusal_of_a_request_that_is_being_written_frees_the_link(make_rig):
    rig = make_rig(redis=False)
    client = rig.connect()
    key = rig.keys[0][0]
    client.send_raw(b"get %b\r\n" % key)
    rig.settle()
    session = rig.servers[0].session
    session.reply(b"END\r\n")
    rig.settle()
    shrink(rig.link(0))
    session.reads = False
    client.send_raw(b"set %b 0 0 %d\r\n%b\r\n" % (key, len(LARGE), LARGE))
    rig.settle()
    server = retire(rig)
    session.send_raw(b"SERVER_ERROR object too large for cache\r\n")
    rig.settle()
    assert not is_gone(rig, server)
    # The server reads the rest of the request, to which it has replied.
    session.reads = True
    rig.settle()
    session.requests.clear()
    assert is_gone(rig, server)
    assert client.take() == b"END\r\nSERVER_ERROR object too large for cache\r\n"


def test_shutdown_ends_a_server_that_is_leaving(rig):
    client = rig.link_all()
    ask(rig, client)
    server = retire(rig)
    assert not is_gone(rig, server)
    rig.worker.stop()
    rig.worker.close()
    assert is_gone(rig, server)


def test_drain_waits_for_the_requests_of_clients_that_have_gone(rig):
    client = rig.link_all()
    client.reads = False
    client.send(b"PING")
    ask(rig, client)
    # With an unread reply, so that the connection is reset.
    client.close()
    rig.settle()
    retire(rig)
    assert rig.worker.orphans() == 1
    rig.servers[0].session.reply(bulk(b"a"))
    rig.settle()
    assert rig.worker.orphans() == 0
    assert rig.pool.leaving == []
