# tests/unit/core/test_links.py: the connections to a server, and its health
"""Slots and lanes, probes and their back-off, ejection. The clock is the test's, so times are
exact."""

import hiredis
import pytest

from nutproxy.stepped import links, queued
from tests.unit.core.harness import STEP, bulk

HELLO2 = b"*4\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:2\r\n"
HELLO = b"%2\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"


def is_error(reply, text=""):
    return isinstance(reply, hiredis.ReplyError) and text in str(reply)


def get(rig, client, number=0):
    client.send(b"GET", rig.keys[number][0])
    rig.settle()


def test_clients_keep_to_one_connection_of_a_server(make_rig):
    rig = make_rig(server_connections=2)
    clients = [rig.connect() for _ in range(4)]
    for _ in range(2):
        for client in clients:
            get(rig, client)
    first, second = rig.servers[0].sessions
    assert [len(first.requests), len(second.requests)] == [4, 4]
    # Replies on one of them do not wait for the other.
    for value in (b"a", b"b", b"c", b"d"):
        second.reply(bulk(value))
    rig.settle()
    got = [client.replies() for client in clients]
    assert got in ([[], [b"a", b"c"], [], [b"b", b"d"]], [[b"a", b"c"], [], [b"b", b"d"], []])
    first.requests.clear()


def test_each_protocol_version_has_its_own_connection(rig):
    rig.servers[0].greets = False
    old, new = rig.connect(), rig.connect()
    conn = rig.conn(new)
    conn.adopt(3, 0)
    del conn
    get(rig, old)
    get(rig, new)
    first, second = rig.servers[0].sessions
    assert list(first.requests) == [[b"PING"]]
    assert list(second.requests) == [[b"HELLO", b"3"], [b"PING"]]
    second.reply(HELLO)
    second.greet()
    first.greet()
    rig.settle()
    second.reply(b"_\r\n")
    first.reply(b"$-1\r\n")
    rig.settle()
    assert new.take() == b"_\r\n"
    assert old.take() == b"$-1\r\n"


def test_lanes_exist_from_the_first_client_with_their_profile_on(rig):
    server = rig.pool.servers[0]
    client = rig.connect()
    assert server.lanes == []
    rig.link_all(client)
    assert [len(lane) for lane in server.lanes] == [1]
    client.send(b"HELLO", b"3")
    rig.settle()
    assert [list(one.session.requests) for one in rig.servers] == [[[b"HELLO", b"2"]], []]
    rig.servers[0].session.reply(HELLO2)
    rig.settle()
    assert rig.conn(client).profile is rig.pool.profiles.of(3, 0)
    # Nothing has been opened yet: the client only may use it.
    assert len(server.lanes) == 1
    get(rig, client)
    assert [len(lane) for lane in server.lanes] == [1, 1]
    assert rig.link(0, 3) is not rig.link(0, 2)
    rig.servers[0].session.reply(b"_\r\n")
    rig.settle()
    assert client.take().endswith(b"_\r\n")
    assert rig.conn(client).protover == 3


def test_link_for_a_busy_server_has_no_slot_and_closes_after_its_last_reply(rig):
    client = rig.link_all()
    get(rig, client)
    for one in rig.servers:
        # There is no handshake.
        one.greets = False
    client.send(b"SCRIPT", b"KILL")
    rig.settle()
    server = rig.pool.servers[0]
    [shared, aside] = links(server)
    assert [shared] == server.shared_links()
    assert (shared.slot, aside.slot) == (0, -1)
    assert aside.profile is shared.profile
    del shared, aside
    for one in rig.servers:
        assert list(one.session.requests) == [[b"SCRIPT", b"KILL"]]
        one.session.reply(b"+OK\r\n")
    rig.settle()
    assert all(one.session.eof for one in rig.servers)
    assert [len(links(one)) for one in rig.pool.servers] == [1, 1]
    rig.servers[0].sessions[0].reply(bulk(b"at last"))
    rig.settle()
    assert client.replies() == [b"at last", b"OK"]


def test_server_too_old_for_resp3_still_serves_the_others(rig):
    old, new = rig.link_all(), rig.connect()
    rig.servers[0].greets = False
    conn = rig.conn(new)
    conn.adopt(3, 0)
    del conn
    get(rig, new)
    rig.servers[0].session.reply(b"-ERR unknown command `HELLO`\r\n")
    rig.settle()
    [error] = new.replies()
    assert is_error(error, "NOPROTO")
    get(rig, old)
    rig.servers[0].sessions[0].reply(bulk(b"fine"))
    rig.settle()
    assert old.replies() == [b"fine"]
    assert rig.counter("server_down", 0) == 0


def test_preconnect_opens_every_connection(make_rig):
    rig = make_rig(server_connections=2, preconnect="true")
    rig.pool.preconnect()
    rig.settle()
    # Two for each of RESP2 and RESP3.
    assert [len(server.sessions) for server in rig.servers] == [4, 4]
    assert all(session.greeted for server in rig.servers for session in server.sessions)
    # A connection that ends is opened again.
    rig.advance(1100)
    rig.servers[0].session.close()
    rig.settle()
    assert len(rig.servers[0].sessions) == 5


def test_probes_of_a_server_that_is_down_back_off(rig):
    server = rig.servers[0]
    server.refuse()
    client = rig.connect()
    get(rig, client)
    [error] = client.replies()
    assert is_error(error, "Connection refused")
    times = []
    probes = 0
    began = rig.worker.reactor.now
    while len(times) < 6:
        rig.advance(10)
        if rig.counter("server_probes", 0) > probes:
            probes += 1
            times.append(rig.worker.reactor.now - began)
    gaps = [later - before for before, later in zip([0, *times], times, strict=False)]
    for gap, expected in zip(gaps, (100, 200, 400, 800, 1000, 1000), strict=True):
        assert expected <= gap <= expected + STEP

    server.listen()
    rig.advance(1100)
    assert rig.counter("server_down", 0) == 0
    # The probe has become the connection.
    get(rig, client)
    server.session.reply(bulk(b"back"))
    rig.settle()
    assert client.replies() == [b"back"]
    assert len(server.sessions) == 1


def test_request_waits_a_moment_for_a_probe_that_it_brings_forward(rig):
    server = rig.servers[0]
    server.refuse()
    client = rig.connect()
    get(rig, client)
    assert is_error(*client.replies())
    server.listen()
    rig.worker.reactor.clock += 50
    rig.settle()
    get(rig, client)
    rig.advance(30)
    assert list(server.session.requests) == [[b"GET", rig.keys[0][0]]]
    server.session.reply(bulk(b"back"))
    rig.settle()
    assert client.replies() == [b"back"]


def test_request_does_not_wait_long_for_a_probe_without_a_reply(rig):
    server = rig.servers[0]
    server.refuse()
    client = rig.connect()
    get(rig, client)
    assert is_error(*client.replies())
    server.listen()
    server.greets = False
    get(rig, client)
    rig.advance(60)
    assert is_error(*client.replies(), "Connection refused")
    # The next one fails at once.
    get(rig, client)
    assert is_error(*client.replies(), "Connection refused")
    assert len(server.sessions) == 1


def test_server_that_accepts_no_further_connection_stays_up(make_rig):
    rig = make_rig(server_connections=2)
    clients = [rig.connect(), rig.connect()]
    get(rig, clients[0])
    server = rig.servers[0]
    server.greets = False
    get(rig, clients[1])
    server.sessions[1].reply(b"-ERR max number of clients reached\r\n")
    rig.settle()
    server.sessions[1].close()
    [error] = clients[1].replies()
    assert is_error(error, "max number of clients")
    server.sessions[0].reply(bulk(b"fine"))
    rig.settle()
    assert clients[0].replies() == [b"fine"]
    assert rig.counter("server_down", 0) == 0
    # Its slot is tried again a moment later.
    server.greets = True
    get(rig, clients[1])
    assert len(server.sessions) == 2
    rig.advance(120)
    server.session.reply(bulk(b"at last"))
    rig.settle()
    assert clients[1].replies() == [b"at last"]


@pytest.fixture
def ejecting(make_rig):
    return make_rig(
        timeout=400, auto_eject_hosts="true", server_failure_limit=2, server_retry_timeout=500
    )


def test_ejected_server_leaves_the_ring_and_returns(ejecting):
    rig = ejecting
    client = rig.link_all()
    server = rig.servers[0]
    get(rig, client)
    server.refuse()
    server.session.close()
    rig.settle()
    assert is_error(*client.replies())
    assert rig.counter("server_ejected", 0) == 0
    rig.advance(20)
    get(rig, client)
    rig.advance(60)
    assert is_error(*client.replies())
    assert rig.counter("server_ejected", 0) == 1
    assert rig.counter("server_ejects") == 1

    # Its keys now belong to the other server.
    get(rig, client)
    rig.servers[1].session.reply(bulk(b"instead"))
    rig.settle()
    assert client.replies() == [b"instead"]
    server.listen()
    rig.advance(700)
    assert rig.counter("server_ejected", 0) == 0
    get(rig, client)
    server.session.reply(bulk(b"again"))
    rig.settle()
    assert client.replies() == [b"again"]


def test_all_servers_ejected(ejecting):
    rig = ejecting
    client = rig.link_all()
    for server in rig.servers:
        server.refuse()
        server.session.close()
    for _ in range(8):
        get(rig, client, 0)
        get(rig, client, 1)
        rig.advance(60)
    assert [rig.counter("server_ejected", number) for number in (0, 1)] == [1, 1]
    client.replies()
    client.send(b"MGET", rig.keys[0][0], rig.keys[1][0])
    client.send(b"DBSIZE")
    get(rig, client)
    replies = client.replies()
    assert len(replies) == 3
    assert all(is_error(reply) for reply in replies)
    assert rig.counter("no_live_server") >= 3


def test_silent_server_is_slow_then_down(make_rig):
    rig = make_rig(timeout=400)
    client = rig.link_all()
    rig.servers[0].greets = False
    get(rig, client)
    rig.advance(420)
    assert is_error(*client.replies(), "timed out")
    assert rig.counter("server_down", 0) == 0
    for _ in range(20):
        get(rig, client)
        rig.advance(420)
    assert all(is_error(reply) for reply in client.replies())
    assert rig.counter("server_down", 0) == 1
    rig.servers[0].greets = True
    for session in rig.servers[0].sessions:
        if not session.eof:
            session.greet()
    rig.advance(1100)
    assert rig.counter("server_down", 0) == 0


def test_closing_the_worker_ends_every_connection_and_answers_nobody(rig):
    client = rig.link_all()
    get(rig, client)
    client.send(b"MGET", rig.keys[0][0], rig.keys[1][0])
    rig.settle()
    assert len(links(rig.pool.servers[0])) == 1
    assert len(queued(rig.link(0))[1]) == 2
    rig.worker.stop()
    rig.worker.close()
    client.read()
    assert client.eof
    assert links(rig.pool.servers[0]) == []
