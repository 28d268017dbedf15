# tests/unit/core/test_paths.py: the way of a request and of its reply
"""Order, cuts and partial writes, with servers that the test answers for by hand."""

import hiredis
import pytest

from nutproxy.stepped import queued, state
from tests.unit.core.harness import array, bulk, shrink

LARGE = 256 * 1200


def test_request_passes_through_the_queues_and_its_reply_comes_back(rig):
    client = rig.link_all()
    key = rig.keys[0][0]
    client.send(b"GET", key)
    rig.settle()
    session = rig.servers[0].session
    assert list(session.requests) == [[b"GET", key]]

    [], [asked] = queued(rig.conn(client))
    [], [written] = queued(rig.link(0))
    assert asked["address"] == written["address"]
    assert asked["refs"] == 2
    assert asked["flags"] == {"written"}
    assert queued(rig.link(1)) == ([], [])

    session.reply(bulk(b"value"))
    rig.settle()
    assert client.replies() == [b"value"]
    assert queued(rig.conn(client)) == ([], [])
    assert queued(rig.link(0)) == ([], [])
    assert state(rig.conn(client))["pending"] == 0


def test_requests_wait_for_the_handshake(rig):
    rig.servers[0].greets = False
    client = rig.connect()
    key = rig.keys[0][0]
    client.send(b"SET", key, b"1")
    client.send(b"GET", key)
    rig.settle()
    session = rig.servers[0].session
    assert list(session.requests) == [[b"PING"]]
    waiting, written = queued(rig.link(0))
    assert [len(waiting), len(written)] == [2, 0]

    session.greet()
    rig.settle()
    assert list(session.requests) == [[b"SET", key, b"1"], [b"GET", key]]
    session.reply(b"+OK\r\n")
    session.reply(bulk(b"1"))
    rig.settle()
    assert client.replies() == [b"OK", b"1"]


def test_replies_out_of_order_across_servers_come_back_in_order(rig):
    client = rig.link_all()
    one, other = rig.keys[0], rig.keys[1]
    asked = [one[0], other[0], one[1], other[1], one[2]]
    for key in asked:
        client.send(b"GET", key)
    rig.settle()
    for _ in range(2):
        session = rig.servers[1].session
        session.reply(bulk(b"of " + session.requests[0][1]))
    rig.settle()
    # The first request has no reply yet.
    assert client.replies() == []
    _, waiting = queued(rig.conn(client))
    assert ["done" in msg["flags"] for msg in waiting] == [False, True, False, True, False]
    assert [msg["refs"] for msg in waiting] == [2, 1, 2, 1, 2]

    for expected in ([0, 1], [2, 3], [4]):
        session = rig.servers[0].session
        session.reply(bulk(b"of " + session.requests[0][1]))
        rig.settle()
        assert client.replies() == [b"of " + asked[number] for number in expected]


def test_replies_of_a_server_go_to_the_clients_that_asked(rig):
    clients = [rig.connect() for _ in range(5)]
    rig.link_all(clients[0])
    for round_ in range(3):
        for number, client in enumerate(clients):
            client.send(b"GET", rig.keys[0][number])
        rig.settle()
        session = rig.servers[0].session
        while session.requests:
            session.reply(bulk(b"%d of %s" % (round_, session.requests[0][1])))
        rig.settle()
        for number, client in enumerate(clients):
            assert client.replies() == [b"%d of %s" % (round_, rig.keys[0][number])]


def conversation(rig):
    """Requests, the replies of the servers, and what the client gets."""
    one, other = rig.keys[0][0], rig.keys[1][0]
    requests = [
        [b"SET", one, b"v"],
        [b"GET", other],
        [b"MGET", one, other, one],
        [b"PING"],
        [b"DEL", one, other],
    ]
    replies = {
        0: [b"+OK\r\n", array([b"v", b"v"]), b":1\r\n"],
        1: [bulk(b""), b"*1\r\n$-1\r\n", b":0\r\n"],
    }
    return requests, replies, [b"OK", b"", [b"v", None, b"v"], b"PONG", 1]


def test_requests_may_be_cut_anywhere(rig):
    client = rig.link_all()
    requests, replies, expected = conversation(rig)
    data = b"".join(hiredis.pack_command(tuple(request)) for request in requests)
    for cut in range(1, len(data)):
        client.send_raw(data[:cut])
        rig.settle()
        client.send_raw(data[cut:])
        rig.settle()
        for number, server in enumerate(rig.servers):
            for reply in replies[number]:
                server.session.reply(reply)
        rig.settle()
        assert client.replies() == expected, cut
        assert not any(server.session.requests for server in rig.servers)


@pytest.mark.parametrize("number", [0, 1])
def test_replies_may_be_cut_anywhere(rig, number):
    client = rig.link_all()
    requests, replies, expected = conversation(rig)
    data = b"".join(replies[number])
    for cut in range(1, len(data)):
        for request in requests:
            client.send(*request)
        rig.settle()
        cut_one, whole = rig.servers[number].session, rig.servers[1 - number].session
        cut_one.send_raw(data[:cut])
        rig.settle()
        whole.send_raw(b"".join(replies[1 - number]))
        rig.settle()
        cut_one.send_raw(data[cut:])
        rig.settle()
        assert client.replies() == expected, cut
        for server in rig.servers:
            server.session.requests.clear()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_conversation_in_small_pieces(rig, size):
    client = rig.link_all()
    requests, replies, expected = conversation(rig)
    data = b"".join(hiredis.pack_command(tuple(request)) for request in requests)
    for at in range(0, len(data), size):
        client.send_raw(data[at : at + size])
        rig.settle()
    streams = {number: b"".join(replies[number]) for number in (0, 1)}
    while any(streams.values()):
        for number, stream in streams.items():
            rig.servers[number].session.send_raw(stream[:size])
            streams[number] = stream[size:]
        rig.settle()
    assert client.replies() == expected
    for server in rig.servers:
        server.session.requests.clear()


@pytest.mark.parametrize("mbuf", [512, 16384])
def test_large_request_is_written_as_the_server_reads_it(make_rig, mbuf):
    rig = make_rig(mbuf=mbuf)
    client = rig.link_all()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    one, other = rig.keys[0][0], rig.keys[1][0]
    value = bytes(range(256)) * (LARGE // 256)
    client.send(b"SET", one, value)
    client.send(b"GET", one)
    client.send(b"GET", other)
    rig.settle()
    assert state(rig.link(0))["blocked"]
    assert 0 < state(rig.link(0))["sent"] < LARGE
    waiting, written = queued(rig.link(0))
    assert [len(waiting), len(written)] == [2, 0]
    # The other server is not held up by that.
    rig.servers[1].session.reply(bulk(b"other"))
    rig.settle()
    assert client.replies() == []

    while session.read(1000):
        rig.worker.step()
    rig.settle()
    assert list(session.requests) == [[b"SET", one, value], [b"GET", one]]
    assert not state(rig.link(0))["blocked"]
    session.reply(b"+OK\r\n")
    session.reply(bulk(b"1"))
    rig.settle()
    assert client.replies() == [b"OK", b"1", b"other"]


@pytest.mark.parametrize("mbuf", [512, 16384])
def test_large_reply_is_written_as_the_client_reads_it(make_rig, mbuf):
    rig = make_rig(mbuf=mbuf)
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    one, other = rig.keys[0][0], rig.keys[1][0]
    value = bytes(range(256)) * (LARGE // 256)
    for key in (one, other, one):
        client.send(b"GET", key)
    rig.settle()
    rig.servers[1].session.reply(bulk(b"other"))
    rig.servers[0].session.reply(bulk(value))
    rig.servers[0].session.reply(bulk(b"last"))
    rig.settle()
    conn = state(rig.conn(client))
    assert conn["blocked"]
    assert 0 < conn["sent"] < LARGE
    # Everything but the handful of bytes that the socket holds is still counted.
    assert LARGE < conn["unsent"] == conn["pending"]
    assert client.read(1)
    while client.read(1000):
        rig.worker.step()
    assert client.replies() == [value, b"other", b"last"]


def test_many_small_replies_to_a_slow_client(rig):
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    values = [b"%d:" % number + b"x" * (number * 7 % 3000) for number in range(500)]
    for _ in values:
        client.send(b"GET", rig.keys[0][0])
    rig.settle()
    session = rig.servers[0].session
    unsent = list(values)
    replies = []
    blocked = 0
    while len(replies) < len(values):
        # The proxy stops reading requests while too much is in flight.
        while session.requests:
            session.reply(bulk(unsent.pop(0)))
        rig.settle()
        blocked += state(rig.conn(client))["blocked"]
        assert client.read(5000)
        replies += client.replies()
    assert blocked > 10
    assert replies == values


def test_pushes_and_errors_of_a_server_keep_the_pairing(rig):
    client = rig.link_all()
    for number in range(3):
        client.send(b"GET", rig.keys[0][number])
    rig.settle()
    session = rig.servers[0].session
    session.send_raw(b">2\r\n+invalidate\r\n*0\r\n")
    session.reply(b"-WRONGTYPE no\r\n")
    session.send_raw(b">1\r\n+x\r\n")
    session.reply(bulk(b"b"))
    session.reply(b"-ERR other\r\n")
    rig.settle()
    first, second, third = client.replies()
    assert (str(first), second, str(third)) == ("WRONGTYPE no", b"b", "ERR other")


def test_a_message_knows_its_key_and_its_hash(rig):
    client = rig.link_all()
    key = rig.keys[0][0]
    client.send(b"SET", key, b"value")
    rig.settle()
    _, [msg] = queued(rig.link(0))
    assert msg["key"] == (hiredis.pack_command((b"SET", key, b"value")).index(key), len(key))
    assert msg["hash"] == rig.pool.router.explain(key).hash
    rig.servers[0].session.reply(b"+OK\r\n")


def test_a_message_of_memcached_knows_its_key_and_its_hash(make_rig):
    rig = make_rig(redis=False)
    client = rig.connect()
    key = rig.keys[0][0]
    client.send_raw(b" set  %b 0 0 5\r\nvalue\r\n" % key)
    rig.settle()
    _, [msg] = queued(rig.link(0))
    # The request begins with its first word.
    assert msg["key"] == (5, len(key))
    assert msg["hash"] == rig.pool.router.explain(key).hash
    rig.servers[0].session.reply(b"STORED\r\n")


def test_a_message_without_a_key_or_with_several_has_no_place(rig):
    client = rig.link_all()
    client.send(b"PFCOUNT", *[b"{%b}%d" % (rig.keys[0][0], number) for number in range(2)])
    rig.settle()
    _, [msg] = queued(rig.link(0))
    assert msg["key"] == (0, 0)
    rig.servers[0].session.reply(b":0\r\n")
