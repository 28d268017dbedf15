"""Servers that die in the middle of a reply, or send wrong or unasked replies.

Only the requests that wait for these servers fail."""

import contextlib
import resource
import threading
from pathlib import Path

import pytest

from tests.client import Client
from tests.integration.conftest import pool
from tests.scripted import (
    ScriptedServer,
    answer,
    bulk,
    keys_of,
    reply_to,
    value_of,
)
from tests.servers import NutproxyServer, RedisServer, wait_until

SERVERS = (1, 2, 3)
RESET = "ERR server 's1' of pool 'alpha': Connection reset by peer"


def special(command, act):
    """A script that calls `act(session, request)` for one command, and replies to the others."""

    def script(session):
        while session.open and (request := session.receive()):
            if request[0] == command:
                act(session, request)
            else:
                session.send(reply_to(request))

    return script


def assert_only_one_request_fails(act, expected):
    """A HGET for which the server calls `act` fails with an error that begins with `expected`.
    Requests to other servers in the same pipeline, and later requests, get their replies."""
    with ScriptedServer(special(b"HGET", act)) as one, ScriptedServer() as two:
        [bad] = keys_of(1, (1, 2), 1)
        [good] = keys_of(2, (1, 2), 1)
        with NutproxyServer(pool("alpha", [one, two])) as proxy, Client(proxy.port) as client:
            for _ in range(3):
                client.pipeline(("GET", bad), ("GET", good), ("HGET", bad, "f"), ("GET", good))
                replies = client.replies(4)
                assert str(replies.pop(2)).startswith(expected)
                assert replies == [value_of(bad), value_of(good), value_of(good)]
                assert client("GET", bad) == value_of(bad)
            assert one.requests.count([b"HGET", bad, b"f"]) == 3
            assert two.accepted == 1


def half_a_reply_and_close(session, request):
    session.send(b"$10\r\nhalf")
    session.close()


def half_a_reply_and_reset(session, request):
    session.send(b"$10\r\nhalf")
    session.reset()


def no_reply_and_close(session, request):
    session.close()


def no_reply_and_reset(session, request):
    session.reset()


@pytest.mark.parametrize(
    "act",
    [half_a_reply_and_close, half_a_reply_and_reset, no_reply_and_close, no_reply_and_reset],
)
def test_a_connection_that_ends_fails_only_its_pending_requests(act):
    assert_only_one_request_fails(act, RESET)


@pytest.mark.parametrize(
    "reply",
    [
        b"?what\r\n",
        b"\r\n",
        b"\0\0\0",
        b"$x\r\n",
        b"$-2\r\n",
        b"$3\r\nabcXY",
        b"$99999999999999999999\r\n",
        b"*-5\r\n",
        b"*2\r\n+one\r\n?two\r\n",
        b"*1\r\n>1\r\n+push\r\n",
        b"%x\r\n",
    ],
)
def test_a_malformed_reply_fails_only_its_request(reply):
    assert_only_one_request_fails(
        lambda session, request: session.send(reply),
        "ERR server 's1' of pool 'alpha': malformed reply (",
    )


def test_replies_that_came_before_the_end_of_a_connection_are_delivered():
    def act(session, request):
        session.send(bulk(b"the last words"))
        session.close()

    with (
        ScriptedServer(special(b"HGET", act)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("HGET", "a", "f") == b"the last words"


def test_a_reply_that_comes_one_byte_at_a_time_is_one_reply():
    def act(session, request):
        session.send_bytes(b"*3\r\n$5\r\nhello\r\n*2\r\n:-17\r\n$-1\r\n$0\r\n\r\n")

    with (
        ScriptedServer(special(b"LRANGE", act)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("LRANGE", "a", "0", "9"), ("GET", "b"))
        assert client.replies(2) == [[b"hello", [-17, None], b""], value_of(b"b")]


def test_a_stray_reply_closes_its_connection_and_reaches_nobody():
    def act(session, request):
        session.send(bulk(b"asked for") + bulk(b"stray"))

    with ScriptedServer(special(b"HGET", act)) as one, ScriptedServer() as two:
        [key] = keys_of(1, (1, 2), 1)
        [other] = keys_of(2, (1, 2), 1)
        with NutproxyServer(pool("alpha", [one, two])) as proxy, Client(proxy.port) as client:
            for number in range(1, 4):
                assert client("HGET", key, "f") == b"asked for"
                assert client("GET", key) == value_of(key)
                assert client("GET", other) == value_of(other)
                assert one.accepted == number + 1
            assert two.accepted == 1


@pytest.mark.parametrize("resp", ["2", "3"])
def test_pushes_are_not_taken_for_replies(resp):
    def act(session, request):
        push = b">3\r\n$7\r\nmessage\r\n+channel\r\n:1\r\n"
        session.send(push + bulk(b"one") + push)

    with (
        ScriptedServer(special(b"HGET", act)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("HELLO", resp)
        connections = server.accepted + (resp == "3")
        for _ in range(3):
            client.pipeline(("HGET", "a", "f"), ("GET", "b"))
            assert client.replies(2) == [b"one", value_of(b"b")]
        assert server.accepted == connections


def test_a_push_that_comes_in_two_parts_while_nothing_is_due_is_no_stray_reply():
    go = threading.Event()

    def act(session, request):
        session.send(bulk(b"one") + b">3\r\n$7\r\nmess")
        session.wait(go)
        session.send(b"age\r\n+channel\r\n:1\r\n")

    with (
        ScriptedServer(special(b"HGET", act)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("HGET", "a", "f") == b"one"
        go.set()
        assert client("GET", "b") == value_of(b"b")
        assert server.accepted == 1


def test_an_error_before_the_request_is_complete_reaches_the_sender():
    go = threading.Event()

    def refuse_early(session):
        session.shake()
        session.sock.recv(100)
        session.send(b"-ERR Protocol error: too long\r\n")
        session.wait(go)

    scripts = iter([refuse_early])
    with (
        ScriptedServer(lambda session: next(scripts, answer)(session)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client.error("SET", "a", b"x" * 20_000_000) == (
            "ERR server 's1' of pool 'alpha': refused the request: ERR Protocol error: too long"
        )
        go.set()
        assert client("GET", "b") == value_of(b"b")


def test_the_start_of_a_stray_reply_is_not_taken_for_that_of_the_next_one():
    """The start arrives alone, and the rest would arrive with the reply to the next request."""
    stray = b"$20\r\nof"

    def act(session, request):
        session.send(bulk(b"asked for") + stray)

    with (
        ScriptedServer(special(b"HGET", act)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        for number in range(1, 4):
            assert client("HGET", "a", "f") == b"asked for"
            assert client("GET", "a") == value_of(b"a")
            assert server.accepted == number + 1
        assert proxy.stats()["alpha"]["s1"]["server_protocol_errors"] == 3


def test_a_value_that_is_too_long_for_the_server_is_reported_and_counted():
    """Redis closes the connection for this error, although clients share it."""
    with (
        RedisServer("--proto-max-bulk-len", "1mb") as redis,
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        error = client.error("SET", "a", b"x" * 2_000_000)
        assert error == ("ERR Protocol error: invalid bulk length") or error == (
            "ERR server 's1' of pool 'alpha': refused the request: ERR Protocol error: invalid bulk"
            " length (it needs a proto-max-bulk-len as large as the pool's proto_max_bulk_len)"
        )
        wait_until(lambda: proxy.stats()["alpha"]["s1"]["server_refusals"] == 1, "the count")
        assert "(it needs a proto-max-bulk-len as large as" in proxy.log()
        assert client("SET", "a", "x") == b"OK"


LONG = b"-ERR Protocol error: " + b"x" * 1_000_000 + b"\r\n"


def test_a_long_error_of_a_server_that_closes_is_repeated_in_part():
    """Every request that waits for the server gets it, and the log does."""

    def script(session):
        session.receive()
        session.receive()
        session.send(LONG)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("GET", "a"), ("GET", "b"))
        own, others = client.replies(2)
        assert str(own) == LONG[1:-2].decode()
        assert "refused the request: ERR Protocol error: xxx" in str(others)
        assert len(str(others)) < 1000
        assert len(max(proxy.log().splitlines(), key=len)) < 1000


@pytest.mark.parametrize(
    "reply", [LONG, b"*300000\r\n" + b":1\r\n" * 300_000, b"$1000000\r\n" + b"x" * 1_000_000]
)
def test_a_long_reply_to_the_handshake_is_not_looked_at(reply):
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        server.handshake[b"PING"] = reply
        assert client.error("GET", "a") == (
            "ERR server 's1' of pool 'alpha': its reply to the handshake is too long"
        )
        server.handshake[b"PING"] = b"-ERR " + b"x" * 10_000 + b"\r\n"
        wait_until(lambda: "PING failed" in client.error("GET", "a"), "the other error")
        assert len(client.error("GET", "a")) < 1000
        assert len(max(proxy.log().splitlines(), key=len)) < 1000


def test_a_script_that_returns_a_protocol_error_ends_no_connection():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        script = "return redis.error_reply('ERR Protocol error: invalid bulk length')"
        assert "invalid bulk length" in client.error("EVAL", script, "0")
        assert client("SET", "a", "x") == b"OK"
        redis.kill()
        assert "invalid bulk length" not in client.error("GET", "a")
        assert proxy.stats()["alpha"]["s1"]["server_refusals"] == 0


@pytest.mark.parametrize(
    "error",
    [
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "BUSY Redis is busy running a script.",
        "READONLY You can't write against a read only replica.",
    ],
)
def test_a_server_s_own_error_is_passed_through_to_its_request_alone(error):
    def act(session, request):
        session.send(f"-{error}\r\n".encode())

    with (
        ScriptedServer(special(b"SET", act)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("GET", "a"), ("SET", "a", "1"), ("GET", "a"), ("GET", "b"))
        replies = client.replies(4)
        assert str(replies.pop(1)) == error
        assert replies == [value_of(b"a"), value_of(b"a"), value_of(b"b")]
        assert server.accepted == 1


# Commands in parts, one of which fails


@pytest.fixture
def parts():
    """A client, and keys of three servers. The second server resets the connection when it gets
    MGET, DEL or MSET."""

    def act(session):
        while session.open and (request := session.receive()):
            if request[0] in (b"MGET", b"DEL", b"MSET"):
                session.reset()
            else:
                session.send(reply_to(request) if request[0] != b"TOUCH" else b":1\r\n")

    def count(session, request):
        session.send(b":1\r\n")

    with (
        ScriptedServer(special(b"DEL", count)) as one,
        ScriptedServer(act) as two,
        ScriptedServer(special(b"DEL", count)) as three,
    ):
        servers = [one, two, three]
        with NutproxyServer(pool("alpha", servers)) as proxy, Client(proxy.port) as client:
            yield client, [key for number in SERVERS for key in keys_of(number, SERVERS, 2)]


CAUSE = "ERR server 's2' of pool 'alpha': Connection reset by peer"


def test_mget_with_a_failing_part_is_one_error_and_the_connection_stays_open(parts):
    client, keys = parts
    client.pipeline(("GET", keys[0]), ("MGET", *keys), ("MGET", *keys[:2], *keys[4:]))
    first, failed, rest = client.replies(3)
    assert first == value_of(keys[0])
    assert str(failed) == CAUSE
    assert rest == [value_of(key) for key in [*keys[:2], *keys[4:]]]
    assert client("GET", keys[2]) == value_of(keys[2])


def test_mget_parts_of_the_wrong_lengths_are_an_error_and_leave_nothing_behind():
    """One server sends three elements and the other one. The sum is the number of keys, but the
    parts are wrong. Large elements are sent without copying them, and some were already queued when
    the error was found."""
    large = b"$100000\r\n" + b"x" * 100000 + b"\r\n"

    def three(session, request):
        session.send(b"*3\r\n" + large * 3)

    def one(session, request):
        session.send(b"*1\r\n" + large)

    with (
        ScriptedServer(special(b"MGET", one)) as first,
        ScriptedServer(special(b"MGET", three)) as second,
        NutproxyServer(pool("alpha", [first, second])) as proxy,
        Client(proxy.port) as client,
    ):
        early, early2 = keys_of(2, (1, 2), 2)
        late, late2 = keys_of(1, (1, 2), 2)
        for _ in range(3):
            client.pipeline(("MGET", early, early2, late, late2), ("GET", early))
            failed, other = client.replies(2)
            assert "does not have the expected form" in str(failed)
            assert other == value_of(early)


def test_an_error_after_an_attribute_is_the_error_of_its_part():
    def refuse(session, request):
        session.send(b"|1\r\n+ttl\r\n:3600\r\n-OOM no memory\r\n")

    with (
        ScriptedServer() as one,
        ScriptedServer(special(b"MGET", refuse)) as two,
        NutproxyServer(pool("alpha", [one, two])) as proxy,
        Client(proxy.port) as client,
    ):
        [good], [bad] = keys_of(1, (1, 2), 1), keys_of(2, (1, 2), 1)
        assert client("HELLO", "3")
        client.pipeline(("MGET", good, bad), ("GET", bad))
        # hiredis returns an attribute as a separate reply.
        attribute, failed, other = client.replies(3)
        assert attribute == [b"ttl", 3600]
        assert str(failed) == "OOM no memory"
        assert other == value_of(bad)


@pytest.mark.parametrize("command", ["DEL", "MSET"])
def test_a_write_with_a_failing_part_says_that_others_may_have_been_applied(parts, command):
    client, keys = parts
    words = [word for key in keys for word in ((key, "x") if command == "MSET" else (key,))]
    name = command.lower()
    expected = f"{CAUSE}; other keys of this '{name}' may have been changed"
    assert client.error(command, *words) == expected
    assert client("GET", keys[0]) == value_of(keys[0])


def test_late_replies_of_other_parts_affect_no_later_request():
    go = threading.Event()

    def late(session, request):
        session.wait(go)
        session.send(reply_to(request))

    with ScriptedServer(special(b"MGET", late)) as one, ScriptedServer() as two:
        config = pool("alpha", [one, two], timeout=2000)
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            keys = [*keys_of(1, (1, 2), 2), *keys_of(2, (1, 2), 2)]
            expected = "ERR server 's1' of pool 'alpha': Connection timed out"
            client.pipeline(("MGET", *keys), ("GET", keys[2]))
            failed, other = client.replies(2)
            assert str(failed) == expected
            assert other == value_of(keys[2])
            go.set()
            wait_until(lambda: client("GET", keys[0]) == value_of(keys[0]), "the server's return")
            for _ in range(5):
                assert client("MGET", *keys) == [value_of(key) for key in keys]
                assert client("GET", keys[0]) == value_of(keys[0])


@contextlib.contextmanager
def asked_of(servers):
    """A client of a pool of these servers, and the servers. None of their replies may cause a
    traceback in the proxy."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        proxy = stack.enter_context(NutproxyServer(pool("alpha", servers)))
        client = stack.enter_context(Client(proxy.port))
        yield client, servers
        assert client("PING") == b"PONG"
        assert "Traceback" not in proxy.log()


def saying(command, reply):
    return ScriptedServer(special(command, lambda session, request: session.send(reply)))


def test_a_reply_that_the_proxy_cannot_decode_does_not_block_its_client():
    """HELLO waits for the reply of a server. A map whose key is a map cannot be a Python object."""
    with asked_of([ScriptedServer()]) as (client, [server]):
        server.handshake[b"HELLO"] = b"%1\r\n%0\r\n:1\r\n"
        assert client.error("HELLO", "3") == "ERR a server's reply does not have the expected form"
        server.handshake[b"HELLO"] = b"!8\r\nERR a\r\nb\r\n"
        assert client.error("HELLO", "3") == "ERR a  b"


def limit_memory(proxy, more):
    """Allow the proxy this many bytes more than it has now."""
    pages = int(Path(f"/proc/{proxy.worker_pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.prlimit(proxy.worker_pid, resource.RLIMIT_AS, (most, most))


@pytest.mark.measures
def test_a_reply_that_the_proxy_has_no_memory_to_decode_does_not_block_its_client():
    """There is memory for the reply, but not for a second copy of it."""
    size = 48 << 20
    with (
        saying(b"INFO", bulk(bytes(size))) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("GET", "a") == value_of(b"a")
        limit_memory(proxy, size + (32 << 20))
        assert client.error("INFO") == "ERR internal error of nutproxy, see its log"
        assert client("GET", "a") == value_of(b"a")


@pytest.mark.measures
def test_a_reply_for_which_there_is_no_memory_is_reported():
    def large(session, request):
        session.send(b"$268435456\r\n" + b"x" * 65536)

    with (
        ScriptedServer(special(b"HGET", large)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("GET", "a") == value_of(b"a")
        limit_memory(proxy, 64 << 20)
        assert client.error("HGET", "a", "b") == RESET.replace(
            "Connection reset by peer", "Cannot allocate memory"
        )
        assert client("GET", "a") == value_of(b"a")


# Server replies from which the proxy makes its own


FIGURES = bulk(b"# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"!10\r\nERR a\r\nb\0c\r\n", rb"ERR a  b\x00c"),
        (b"!0\r\n\r\n", b""),
        (b"%1\r\n*1\r\n:1\r\n:2\r\n", b"ERR a server's reply does not have the expected form"),
        (b"*1\r\n!3\r\nERR\r\n", b"ERR a server's reply does not have the expected form"),
        (b"*0\r\n", b"the reply holds no figures"),
    ],
)
def test_info_names_a_server_with_an_unexpected_reply(reply, error):
    with asked_of([saying(b"INFO", FIGURES), saying(b"INFO", reply)]) as (client, _):
        client("HELLO", "3")
        assert client("INFO", "keyspace") == (
            b"# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n"
            b"nutproxy_servers_unanswered:1\r\nnutproxy_unanswered0:server=s2,error=%b\r\n" % error
        )


@pytest.mark.parametrize("bad", [b":x\r\n", b":\r\n", b"+OK\r\n", b"*-1\r\n", b":01\r\n"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_sum_names_the_server_whose_reply_is_not_a_number(bad, place):
    replies = [b":1\r\n", b":1\r\n"]
    replies[place] = bad
    with asked_of([saying(b"DBSIZE", reply) for reply in replies]) as (client, _):
        text = client.error("DBSIZE")
        assert text == (
            f"ERR server 's{place + 1}' of pool 'alpha':"
            " its reply to 'dbsize' does not have the expected form"
        )
        assert client("DBSIZE") is not None


def test_a_sum_passes_on_a_blob_error():
    error = saying(b"DBSIZE", b"!6\r\nERR no\r\n")
    with asked_of([saying(b"DBSIZE", b":1\r\n"), error]) as (client, _):
        assert client("HELLO", "3")
        client.send("DBSIZE")
        assert client.socket.recv(1000) == b"!6\r\nERR no\r\n"
