# tests/unit/core/test_pressure.py: a client that sends more than it may
"""The proxy stops reading from a client at client_max_requests or client_max_pending, and reads on
at half of it."""

import hiredis
import pytest

from nutproxy.stepped import queued, state
from tests.unit.core.harness import bulk, shrink

LIMIT = 8
PENDING = 65_536


def answer_one(rig, value=b"v"):
    rig.servers[0].session.reply(bulk(value))
    rig.settle()


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "one by one"])
def test_client_pauses_at_its_limit_of_requests_and_resumes_at_half(make_rig, whole):
    rig = make_rig(client_max_requests=LIMIT)
    client, other = rig.link_all(), rig.connect()
    total = 3 * LIMIT
    requests = [hiredis.pack_command((b"GET", rig.keys[0][0])) for _ in range(total)]
    for piece in [b"".join(requests)] if whole else requests:
        client.send_raw(piece)
        rig.settle()
    conn = rig.conn(client)
    session = rig.servers[0].session
    assert state(conn)["paused"]
    assert len(session.requests) == len(queued(conn)[1]) == LIMIT
    # Others are not affected.
    other.send(b"GET", rig.keys[1][0])
    rig.settle()
    rig.servers[1].session.reply(bulk(b"other"))
    rig.settle()
    assert other.replies() == [b"other"]

    for _ in range(LIMIT // 2 - 1):
        answer_one(rig)
        assert state(conn)["paused"]
    answer_one(rig)
    assert len(session.requests) == LIMIT
    while session.requests:
        answer_one(rig)
    assert not state(conn)["paused"]
    assert client.replies() == [b"v"] * total


def test_client_pauses_at_its_limit_of_bytes_and_resumes_at_half(make_rig):
    rig = make_rig(client_max_pending=PENDING)
    client = rig.link_all()
    key = rig.keys[0][0]
    value = b"v" * 20_000
    for _ in range(10):
        client.send(b"SET", key, value)
    rig.settle()
    conn = rig.conn(client)
    session = rig.servers[0].session
    assert state(conn)["paused"]
    # The request that crosses the limit is accepted, and each counts with an expected reply.
    most = PENDING + len(value) + PENDING // 32
    assert PENDING <= state(conn)["pending"] < most
    assert len(session.requests) == 4
    replies = 0
    while session.requests:
        before = len(session.requests)
        session.reply(b"+OK\r\n")
        rig.settle()
        replies += 1
        # Read on only after the sum has fallen to half.
        assert len(session.requests) == before - 1 or before <= 2
        assert state(conn)["pending"] < most
    assert client.replies() == [b"OK"] * 10 == [b"OK"] * replies


def test_one_request_larger_than_the_limit_passes(make_rig):
    rig = make_rig(client_max_pending=PENDING)
    client = rig.link_all()
    value = b"v" * (3 * PENDING)
    client.send(b"SET", rig.keys[0][0], value)
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    session = rig.servers[0].session
    assert list(session.requests) == [[b"SET", rig.keys[0][0], value]]
    session.reply(b"+OK\r\n")
    rig.settle()
    assert list(session.requests) == [[b"GET", rig.keys[0][0]]]
    session.reply(bulk(value))
    rig.settle()
    assert client.replies() == [b"OK", value]


def test_client_that_does_not_read_is_not_read(make_rig):
    rig = make_rig(client_max_pending=PENDING)
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    value = b"v" * 5000
    for _ in range(100):
        client.send(b"GET", rig.keys[0][0])
    session = rig.servers[0].session
    rig.settle()
    sent = 0
    while session.requests:
        answer_one(rig, value)
        sent += 1
    conn = rig.conn(client)
    assert state(conn)["paused"]
    assert sent < 50
    assert state(conn)["unsent"] < 4 * PENDING + len(value)

    client.reads = True
    replies = []
    while len(replies) < 100:
        rig.settle()
        replies += client.replies()
        while session.requests:
            answer_one(rig, value)
    assert replies == [value] * 100


def test_replies_far_beyond_the_limit_are_dropped_for_an_unreading_client(make_rig):
    rig = make_rig(client_max_pending=PENDING)
    client, other = rig.link_all(), rig.connect()
    shrink(rig.conn(client))
    client.reads = False
    # So many, because replies to this client have been small so far.
    count = 20
    for _ in range(count):
        client.send(b"GET", rig.keys[0][0])
    rig.settle()
    session = rig.servers[0].session
    count = len(session.requests)
    value = b"v" * 40_000
    for _ in range(count):
        answer_one(rig, value)
    conn = rig.conn(client)
    assert state(conn)["unsent"] <= 4 * PENDING + len(value) + count * 512
    dropped = rig.counter("unread_replies_dropped")
    assert 0 < dropped < count
    other.send(b"GET", rig.keys[0][0])
    rig.settle()
    session.requests.clear()
    session.send_raw(bulk(b"other"))
    client.reads = True
    rig.settle()
    assert other.replies() == [b"other"]
    replies = client.replies()
    rest = 20 - count
    assert replies[: count - dropped] == [value] * (count - dropped)
    assert all(isinstance(reply, hiredis.ReplyError) for reply in replies[count - dropped : count])
    assert len(replies) == count
    # Those that it sent before it was paused come now.
    assert rest == 0 or len(session.requests) == 0


def test_full_queue_of_a_server_fails_further_requests(make_rig):
    rig = make_rig(server_max_queue="1mb")
    client = rig.link_all()
    session = rig.servers[0].session
    value = b"v" * 500_000
    for _ in range(4):
        client.send(b"SET", rig.keys[0][0], value)
    client.send(b"GET", rig.keys[1][0])
    rig.settle()
    assert len(session.requests) == 2
    assert rig.counter("requests_overflowed", 0) == 2
    rig.servers[1].session.reply(bulk(b"other"))
    session.reply(b"+OK\r\n")
    session.reply(b"+OK\r\n")
    rig.settle()
    first, second, third, fourth, other = client.replies()
    assert [first, second, other] == [b"OK", b"OK", b"other"]
    assert all(isinstance(reply, hiredis.ReplyError) for reply in (third, fourth))


def test_paused_client_that_closes(make_rig):
    rig = make_rig(client_max_requests=LIMIT)
    client = rig.link_all()
    for _ in range(3 * LIMIT):
        client.send(b"GET", rig.keys[0][0])
    rig.settle()
    client.half_close()
    rig.settle()
    session = rig.servers[0].session
    while session.requests:
        answer_one(rig)
    # Everything that it had sent is answered.
    assert client.replies() == [b"v"] * (3 * LIMIT)
    assert client.eof
