# tests/unit/core/test_transactions.py: transactions and watches, state by state
"""In each state a client leaves, a server dies, the timeout passes, the proxy drains, or the
members change. After each step the harness checks the bytes that are counted for each client. In
the end no message and no connection may be left."""

import hiredis
import pytest

from nutproxy.stepped import links, state
from tests.unit.core.harness import array, bulk

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
LOST = "EXECABORT Transaction discarded because the connection of WATCH has ended"
MOVED = "EXECABORT Transaction discarded because the servers of the pool have changed"


def lent(rig, number=0):
    """How many links of this server are borrowed, and how many could be."""
    server = rig.server(number)
    return len(server.lent), sum(map(len, server.resting.values()))


def say(rig, client, *commands):
    """Send these lines of words, and return the replies."""
    for line in commands:
        client.send(*line.split())
    rig.settle()
    return client.replies()


def pending(rig, client):
    return state(rig.conn(client))["pending"]


def began(make_rig, steps, **options):
    """A client that has come so far: to "queued" commands, to EXEC that was "sent", over a shared
    link or that of a "watch"."""
    rig = make_rig(servers=2, **options)
    client = rig.link_all()
    key = rig.keys[0][0].decode()
    if "watch" in steps:
        say(rig, client, f"WATCH {key}")
        if steps == "watch asked":
            return rig, client
        rig.servers[0].session.reply(OK)
        rig.settle()
        assert client.replies() == [b"OK"]
    if "queued" in steps or "sent" in steps:
        assert say(rig, client, "MULTI", f"SET {key} 1") == [b"OK", b"QUEUED"]
    if "sent" in steps:
        assert say(rig, client, "EXEC") == []
        assert [request[0] for request in rig.servers[0].session.requests] == [
            *(b"MULTI", b"SET", b"EXEC")
        ]
    return rig, client


STEPS = ["queued", "sent", "watch asked", "watch", "watch and queued", "watch and sent"]
# A reply is due.
IN_FLIGHT = ["sent", "watch asked", "watch and sent"]


@pytest.mark.parametrize("steps", STEPS)
def test_a_client_leaves(make_rig, steps):
    rig, client = began(make_rig, steps)
    session = rig.servers[0].session
    client.close()
    rig.settle()
    if steps in IN_FLIGHT:
        # It may only have closed its sending side, so it gets the reply.
        session.send_raw(OK if steps == "watch asked" else OK + QUEUED + b"*1\r\n" + OK)
        session.requests.clear()
        rig.settle()
    assert rig.worker.clients() == []
    assert lent(rig)[0] == 0
    assert session.eof == (steps in ("watch asked", "watch", "watch and queued"))
    assert rig.counter("forward_error") == 0
    # The shared link is as good as before.
    other = rig.connect()
    other.send(b"GET", rig.keys[0][0])
    rig.settle()
    rig.servers[0].sessions[0].reply(bulk(b"x"))
    rig.settle()
    assert other.replies() == [b"x"]


@pytest.mark.parametrize("steps", STEPS)
def test_a_client_whose_connection_breaks_leaves_no_deadline(make_rig, steps):
    """Its request is freed together with its link."""
    rig, client = began(make_rig, steps, timeout=400)
    rig.conn(client).end()
    rig.settle()
    assert rig.worker.clients() == []
    assert lent(rig) == (0, 0)
    rig.advance(900)


@pytest.mark.parametrize("steps", STEPS)
def test_a_server_dies(make_rig, steps):
    rig, client = began(make_rig, steps)
    for session in rig.servers[0].sessions:
        session.close()
    rig.settle()
    replies = client.replies()
    if steps in IN_FLIGHT:
        [error] = replies
        assert "Connection reset by peer" in str(error)
    else:
        assert replies == []
    if steps in ("watch", "watch and queued"):
        if steps == "watch":
            say(rig, client, "MULTI", "PING")
        [error] = say(rig, client, "EXEC")
        assert str(error).startswith(LOST)
    elif steps == "queued":
        # Nothing was sent, so nothing is lost.
        assert say(rig, client, "EXEC") == []
        rig.servers[0].session.send_raw(OK + QUEUED + b"*1\r\n" + OK)
        rig.settle()
        assert client.replies() == [[b"OK"]]
    assert lent(rig) == (0, 0)
    assert pending(rig, client) == 0
    # The session is clean.
    [error] = say(rig, client, "EXEC")
    assert str(error) == "ERR EXEC without MULTI"


@pytest.mark.parametrize("steps", IN_FLIGHT)
def test_the_timeout_passes(make_rig, steps):
    rig, client = began(make_rig, steps, timeout=400)
    session = rig.servers[0].session
    rig.advance(450)
    [error] = client.replies()
    assert "timed out" in str(error)
    # Nobody knows what becomes of a link that is not shared: it is closed.
    assert lent(rig) == (0, 0)
    assert session.eof == ("watch" in steps)
    assert pending(rig, client) == 0
    if steps == "sent":
        # The late replies are those of the transaction, not of the next request.
        client.send(b"GET", rig.keys[0][0])
        rig.settle()
        session.send_raw(OK + QUEUED + b"*1\r\n" + OK + bulk(b"x"))
        session.requests.clear()
        rig.settle()
        assert client.replies() == [b"x"]


@pytest.mark.parametrize(
    "replies", [b"", OK, OK + QUEUED, OK + b"-OOM no\r\n", OK + QUEUED + b"*1\r\n$"]
)
@pytest.mark.parametrize("steps", ["sent", "watch and sent"])
def test_a_server_dies_in_the_middle_of_its_replies(make_rig, steps, replies):
    rig, client = began(make_rig, steps)
    rig.servers[0].session.send_raw(replies)
    rig.settle()
    assert client.replies() == []
    rig.servers[0].session.close()
    rig.settle()
    [error] = client.replies()
    assert str(error).startswith("ERR server 's1' of pool 'alpha': ")
    assert lent(rig) == (0, 0)
    assert pending(rig, client) == 0


@pytest.mark.parametrize("steps", STEPS)
def test_a_drain_answers_what_is_owed(make_rig, steps):
    rig, client = began(make_rig, steps)
    rig.worker.drain(5000)
    rig.settle()
    if steps in ("queued", "watch", "watch and queued"):
        assert client.eof
    else:
        assert not client.eof
        sent = b"*1\r\n" + OK
        rig.servers[0].session.send_raw(OK if steps == "watch asked" else OK + QUEUED + sent)
        rig.settle()
        assert client.replies() == [b"OK" if steps == "watch asked" else [b"OK"]]
        assert client.eof
    client.close()
    rig.advance(1100)
    assert lent(rig)[0] == 0


def test_replies_that_are_not_wanted(make_rig):
    rig = make_rig(servers=2)
    client = rig.link_all()
    key = rig.keys[0][0].decode()
    lines = ("CLIENT REPLY OFF", f"WATCH {key}", "MULTI", "GET", f"SET {key} 1", "EXEC", "DISCARD")
    assert say(rig, client, *lines) == []
    # Nothing is read before WATCH has its reply.
    rig.servers[0].session.reply(OK)
    assert say(rig, client, "CLIENT REPLY ON") == [b"OK"]
    assert rig.servers[0].session.reply(OK) == [b"UNWATCH"]
    rig.settle()
    assert lent(rig) == (0, 1)
    assert pending(rig, client) == 0


def test_the_link_of_a_watch_follows_its_client(make_rig):
    rig, client = began(make_rig, "watch")
    key = rig.keys[0][0].decode()
    session = rig.servers[0].session
    session.greeted = False
    # What the reply to HELLO needs is known.
    rig.pool.knows_hello, rig.pool.server_version = True, "7.0.0"
    client.send("SELECT", "3")
    client.send("HELLO", "3")
    client.send("MULTI")
    client.send("SET", key, "1")
    client.send("EXEC")
    rig.settle()
    assert len(client.replies()) == 4
    assert [list(request) for request in session.requests] == [
        *([b"MULTI"], [b"SET", key.encode(), b"1"], [b"EXEC"])
    ]
    session.send_raw(OK + QUEUED + b"_\r\n")
    session.requests.clear()
    rig.settle()
    assert client.replies() == [None]
    # It is given back with the new state, and used for it again.
    assert lent(rig) == (0, 1)
    assert say(rig, client, f"WATCH {key}") == []
    assert list(session.requests) == [[b"WATCH", key.encode()]]
    session.reply(OK)
    rig.settle()
    # Back in the first state, another one is used.
    assert say(rig, client, "UNWATCH") == [b"OK", b"OK"]
    session.reply(OK)
    session.greeted = False
    assert len(say(rig, client, "SELECT 0", "HELLO 2", f"WATCH {key}")) == 2
    assert rig.servers[0].session is not session


def test_a_server_refuses_the_state_that_the_link_of_a_watch_should_have(make_rig):
    rig, client = began(make_rig, "watch")
    session = rig.servers[0].session
    session.greeted = True
    say(rig, client, "SELECT 3", "MULTI", f"SET {rig.keys[0][0].decode()} 1", "EXEC")
    assert session.reply(b"-ERR DB index is out of range\r\n") == [b"SELECT", b"3"]
    rig.settle()
    [error] = client.replies()
    assert "SELECT 3" in str(error) or "database 3" in str(error)
    assert session.eof
    # Nothing of the transaction was sent to the wrong database.
    assert [request[0] for request in session.requests] == [b"PING", b"CLIENT"]
    assert lent(rig) == (0, 0)


@pytest.mark.parametrize("left", [(0,), (1,), (1, 0)])
def test_members_change_between_multi_and_exec(make_rig, left):
    rig = make_rig(servers=2)
    client = rig.link_all()
    for number in 0, 1:
        say(rig, client, "MULTI", f"SET {rig.keys[number][0].decode()} 1")
        rig.apply(*left)
        [error] = say(rig, client, "EXEC")
        assert str(error).startswith(MOVED)
        rig.apply(0, 1)
    assert pending(rig, client) == 0


@pytest.mark.parametrize("left", [(0,), (1,), (1, 0)])
def test_members_change_between_watch_and_exec(make_rig, left):
    rig, client = began(make_rig, "watch")
    rig.apply(*left)
    say(rig, client, "MULTI", "PING")
    if left == (0,):
        # It is still the server of the key, which is still watched.
        assert say(rig, client, "EXEC") == []
        rig.servers[0].session.send_raw(OK + b"*-1\r\n")
        rig.settle()
        assert client.replies() == [None]
    else:
        [error] = say(rig, client, "EXEC")
        assert str(error).startswith(LOST if left == (1,) else MOVED)
        if left == (1, 0):
            assert rig.servers[0].session.reply(OK) == [b"UNWATCH"]
            rig.settle()
    if rig.server(0) is not None:
        assert lent(rig) == (0, 1)


def test_members_change_while_a_watch_is_held_back(make_rig):
    """Its group was found among the old members."""
    rig = make_rig(servers=2)
    client = rig.link_all()
    for left in ((0,), (1, 0)):
        client.send(b"GET", rig.keys[0][0])
        client.send(b"WATCH", rig.keys[1][0])
        rig.settle()
        rig.apply(*left)
        rig.servers[0].sessions[0].reply(bulk(b"x"))
        rig.settle()
        value, *error = client.replies()
        assert value == b"x"
        if left == (1, 0):
            assert str(error[0]).startswith(LOST)
        else:
            rig.servers[0].session.reply(OK)
            rig.settle()
            assert client.replies() == [b"OK"]
            assert say(rig, client, "UNWATCH") == [b"OK"]
            rig.servers[0].session.reply(OK)
            rig.settle()
            rig.apply(0, 1)


def test_bytes_are_counted_from_command_to_reply(make_rig):
    rig = make_rig(servers=2, client_max_pending="64kb")
    client = rig.link_all()
    key = rig.keys[0][0].decode()
    small = pending(rig, client)
    say(rig, client, "MULTI", f"SET {key} {'x' * 20_000}")
    assert pending(rig, client) > small + 20_000
    [error] = say(rig, client, f"SET {key} {'y' * 20_000}")
    assert isinstance(error, hiredis.ReplyError)
    # What is refused at EXEC is not kept until then.
    assert pending(rig, client) == small
    [error] = say(rig, client, "EXEC")
    assert str(error).startswith("EXECABORT ")
    for end in ("DISCARD", "RESET", "EXEC x"):
        say(rig, client, "MULTI", f"SET {key} {'x' * 20_000}", "PING", end)
        assert pending(rig, client) == small
    say(rig, client, "MULTI", f"SET {key} {'x' * 20_000}", f"GET {key}", "EXEC")
    value = array([b"OK", b"x" * 9])
    rig.servers[0].session.send_raw(OK + QUEUED + QUEUED + value)
    rig.settle()
    assert client.replies()[-1] == [b"OK", b"x" * 9]
    assert pending(rig, client) == small


@pytest.mark.parametrize("ahead", [(), ("PING",), ("GET {key}",)])
@pytest.mark.parametrize("end", ["reply", "close", "timeout"])
def test_the_replies_of_a_transaction_in_one_piece_leave_together(make_rig, ahead, end):
    """If no other reply is owed, nothing leaves before EXEC has its reply, whatever that is."""
    rig = make_rig(servers=2, timeout=400)
    client = rig.link_all()
    key = rig.keys[0][0].decode()
    session = rig.servers[0].session
    lines = [line.format(key=key) for line in ahead]
    early = say(rig, client, *lines, "MULTI", f"SET {key} 1", "EXEC", *lines)
    assert early == ([b"PONG", b"OK", b"QUEUED"] if ahead == ("PING",) else [])
    transaction = OK + QUEUED + array([b"OK"])
    if end == "reply":
        session.send_raw((bulk(b"v") if "GET" in "".join(ahead) else b"") + transaction)
    elif end == "close":
        session.close()
    else:
        rig.advance(500)
    rig.settle()
    found = early + client.replies()
    if "GET" in "".join(ahead):
        assert len(found) == (4 if end == "reply" else 5)
        found = found[1:4]
    elif ahead:
        assert [found[0], *found[4:]] == [b"PONG", b"PONG"]
        found = found[1:4]
    assert found[:2] == [b"OK", b"QUEUED"]
    assert found[2] == [b"OK"] if end == "reply" else isinstance(found[2], hiredis.ReplyError)


def test_no_link_is_left_of_many_watches(make_rig):
    rig = make_rig(servers=2)
    rig.link_all()
    clients = [rig.connect() for _ in range(40)]
    for client in clients:
        client.send(b"WATCH", rig.keys[0][0])
    rig.settle()
    for session in rig.servers[0].sessions[1:]:
        session.reply(OK)
    rig.settle()
    assert lent(rig) == (40, 0)
    for client in clients[::2]:
        client.send(b"UNWATCH")
    for client in clients[1::2]:
        client.close()
    rig.settle()
    for session in rig.servers[0].sessions[1:]:
        if session.requests:
            assert session.reply(OK) == [b"UNWATCH"]
    rig.settle()
    # The 20 that were given back are kept for ten seconds.
    assert lent(rig) == (0, 20)
    assert len(links(rig.server(0))) == 21
    rig.advance(12_000)
    rig.pool.keep_probing()
    rig.settle()
    assert lent(rig) == (0, 0)
