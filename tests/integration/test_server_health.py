"""Servers that are dead, slow or temporarily gone: which clients get errors, and when the servers
are probed again."""

import contextlib
import threading
import time

import hiredis
import pytest

from tests.client import Client, request, words
from tests.integration.conftest import pool
from tests.scripted import (
    LOADING,
    MAXCLIENTS,
    PONG,
    RequestCount,
    ScriptedServer,
    answer,
    bulk,
    info,
    keys_of,
    never,
    reply_to,
    reset,
    value_of,
)
from tests.servers import (
    NutproxyServer,
    RedisServer,
    connect,
    pipeline,
    proxy_connections,
    wait_until,
)

SERVERS = (1, 2, 3)


def cause(number, text):
    return f"ERR server 's{number}' of pool 'alpha': {text}"


@contextlib.contextmanager
def three(**options):
    """Three Redis servers for this test only, with a proxy and a client."""
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as last,
        NutproxyServer(pool("alpha", [one, two, last], **options)) as proxy,
        Client(proxy.port) as client,
    ):
        yield [one, two, last], proxy, client


# Down


def test_a_refused_connect_is_answered_at_once_and_no_other_server_suffers():
    with three(timeout=10000) as (servers, _, client):
        [dead] = keys_of(2, SERVERS, 1)
        [live] = keys_of(3, SERVERS, 1)
        servers[1].kill()
        for _ in range(20):
            client.pipeline(("SET", live, "x"), ("GET", dead), ("GET", live))
            replies = client.replies(3)
            assert str(replies.pop(1)) == cause(2, "Connection refused")
            assert replies == [b"OK", b"x"]


def test_requests_for_a_dead_server_share_one_connect_in_ten_milliseconds():
    with (
        ScriptedServer(never, greeting=MAXCLIENTS) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        expected = cause(1, "ERR max number of clients reached")
        began = time.monotonic()
        for _ in range(20):
            client.pipeline(*[("GET", "a")] * 100)
            assert {str(reply) for reply in client.replies(100)} == {expected}
        for _ in range(50):
            assert client.error("GET", "a") == expected
        assert server.accepted <= (time.monotonic() - began) / 0.01 + 2


def test_a_request_for_a_dead_server_waits_only_for_the_next_connect():
    """It waits no longer, even if the next probe without a request is far away."""
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server], timeout=10000)) as proxy,
        Client(proxy.port) as client,
    ):
        server.refuse()
        waits = []
        for _ in range(50):
            began = time.monotonic()
            assert client.error("GET", "a") == cause(1, "Connection refused")
            waits.append(time.monotonic() - began)
        assert sorted(waits)[25] < 0.5
        probes = figure(proxy, "server_probes")
        wait_until(lambda: figure(proxy, "server_probes") > probes + 3, "more probes")
        server.listen()
        reply = client("GET", "a")
        if isinstance(reply, hiredis.ReplyError):
            # It came while a probe was on its way that had been refused before.
            reply = client("GET", "a")
        assert reply == value_of(b"a")


def test_a_server_that_was_dead_is_found_again_without_ejection():
    with three() as (servers, _, client):
        [key] = keys_of(2, SERVERS, 1)
        servers[1].kill()
        assert client.error("GET", key) == cause(2, "Connection refused")
        servers[1].restart()
        wait_until(lambda: client("SET", key, "x") == b"OK", "the server's return")


def test_a_server_that_is_missing_at_the_start_is_found_when_it_comes_up():
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        server.refuse()
        assert client.error("GET", "a") == cause(1, "Connection refused")
        server.listen()
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "the server")


def test_a_missing_unix_socket_is_reported_and_found_when_it_appears():
    with RedisServer() as redis:
        config = pool("alpha", [redis]).replace(f"127.0.0.1:{redis.port}", str(redis.unix_path))
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client("SET", "a", "x") == b"OK"
            redis.kill()
            redis.unix_path.unlink()
            wait_until(lambda: "No such file" in client.error("GET", "a"), "an error")
            redis.restart()
            wait_until(lambda: client("SET", "a", "x") == b"OK", "the server's return")


# Timeouts


def test_a_stopped_server_costs_each_request_a_timeout_at_most_and_later_ones_nothing():
    """Later requests come after the server has been silent for five seconds."""
    with three(timeout=1000) as (servers, proxy, client):
        [key] = keys_of(1, SERVERS, 1)
        [other] = keys_of(3, SERVERS, 1)
        assert client("SET", key, "x") == b"OK"
        servers[0].stop()
        client.pipeline(*[("GET", key)] * 10, ("SET", other, "y"))
        replies = client.replies(11)
        assert replies.pop() == b"OK"
        assert {str(reply) for reply in replies} == {cause(1, "Connection timed out")}
        assert proxy.stats()["alpha"]["s1"]["server_down"] == 0

        def down():
            assert client.error("GET", key) == cause(1, "Connection timed out")
            return proxy.stats()["alpha"]["s1"]["server_down"]

        wait_until(down, "the server to be down")
        # If each of these waited for its timeout, the test would exceed its time limit.
        for _ in range(1000):
            assert client.error("GET", key) == cause(1, "Connection timed out")
        assert pipeline(proxy.port, [("GET", other)]) == [b"y"]
        servers[0].cont()
        wait_until(lambda: client("GET", key) == b"x", "the server's return")


def test_requests_time_out_when_their_time_has_come():
    """Each times out by itself, and not when something else wakes the proxy, as happens every
    second."""
    with (
        ScriptedServer(never) as server,
        NutproxyServer(pool("alpha", [server], timeout=4000)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as other,
    ):
        began = []
        for number in range(12):
            began.append(time.monotonic())
            client.send("GET", number)
            while time.monotonic() < began[-1] + 1 / 12:
                assert other("PING") == b"PONG"
        # Without a reply to probes, which would settle all of them after the first timeout.
        server.handshake[b"PING"] = b""
        late = []
        for moment in began:
            assert str(client.reply()) == cause(1, "Connection timed out")
            late.append(time.monotonic() - moment - 4)
        assert min(late) > -0.1
        # If timeouts came once a second, the fourth of twelve would be a quarter of a second late.
        assert sorted(late)[3] < 0.2, late


def figure(proxy, name):
    """A figure of server s1."""
    return proxy.stats()["alpha"]["s1"][name]


def test_a_client_that_has_gone_leaves_no_deadline_behind():
    """Its requests get their replies before the deadline, and no client waits for them."""
    go = threading.Event()

    def script(session):
        while command := session.receive():
            if command[1] == b"left":
                session.wait(go)
            if command[1] != b"slow":
                session.send(reply_to(command))

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=2000)) as proxy,
        Client(proxy.port) as client,
    ):
        with connect(proxy.port) as leaving:
            leaving.sendall(request("GET", "left") * 5)
            wait_until(lambda: figure(proxy, "out_queue") == 5, "the requests")
            reset(leaving)
        wait_until(
            lambda: info(proxy.port, "clients")["connected_clients"] == 2, "the client's end"
        )
        go.set()
        wait_until(lambda: figure(proxy, "responses_dropped") == 5, "the replies")
        # This deadline is later than those of the client that has gone.
        assert client.error("GET", "slow") == cause(1, "Connection timed out")
        assert figure(proxy, "requests_timedout") == 1


def test_a_request_is_never_answered_twice():
    with three(timeout=1000) as (servers, _, client):
        key, *others = keys_of(1, SERVERS, 20)
        assert client("SET", key, "late") == b"OK"
        for _ in range(3):
            servers[0].stop()
            client.pipeline(*[("GET", key)] * 5)
            assert {str(reply) for reply in client.replies(5)} == {cause(1, "Connection timed out")}
            servers[0].cont()
            wait_until(lambda: client("GET", key) == b"late", "the server's return")
            for number, other in enumerate(others):
                client.pipeline(("SET", other, number), ("GET", other), ("ECHO", other))
                assert client.replies(3) == [b"OK", b"%d" % number, other]


def test_a_late_reply_does_not_replace_an_error_that_waits_to_be_sent():
    """The client reads no replies meanwhile."""
    finish = threading.Event()
    large = b"l" * 16_000_000

    def script(session):
        while request := session.receive():
            reply = bulk(large) if request[1] == b"large" else reply_to(request)
            while request[1] == b"slow" and not finish.wait(0.005):
                session.send(b">1\r\n+still here\r\n")
            session.send(reply)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=2000)) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("GET", "large"), ("GET", "slow"))
        wait_until(lambda: figure(proxy, "requests_timedout") == 1, "the timeout")
        finish.set()
        wait_until(lambda: figure(proxy, "responses_dropped") == 1, "the late reply")
        assert client.reply() == large
        assert str(client.reply()) == cause(1, "Connection timed out")
        assert client("GET", "a") == value_of(b"a")


def test_a_timed_out_request_does_not_fail_its_neighbours():
    """The server sends one of its replies slowly, one byte at a time."""
    finish = threading.Event()
    value = b"s" * 100_000

    def script(session):
        while request := session.receive():
            if request[1] != b"slow":
                session.send(reply_to(request))
                continue
            reply = bulk(value)
            for index in range(len(reply)):
                if finish.wait(0.005):
                    session.send(reply[index:])
                    break
                session.send(reply[index : index + 1])

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=2000)) as proxy,
        Client(proxy.port) as slow,
        Client(proxy.port) as neighbour,
    ):
        assert slow.error("GET", "slow") == cause(1, "Connection timed out")
        neighbour.pipeline(("GET", "a"), ("GET", "b"))
        taken = RequestCount(proxy)
        wait_until(lambda: taken() == 3, "all requests")
        finish.set()
        assert neighbour.replies(2) == [value_of(b"a"), value_of(b"b")]
        slow.pipeline(("GET", "c"), ("ECHO", "end"))
        assert slow.replies(2) == [value_of(b"c"), b"end"]
        assert server.accepted == 1


def test_a_reply_that_takes_longer_than_two_timeouts_does_not_close_its_connection():
    """While bytes arrive, the connection is not silent."""
    finish = threading.Event()

    def script(session):
        while request := session.receive():
            reply = reply_to(request)
            while request[1] == b"slow" and not finish.wait(0.005):
                session.send(b">1\r\n+still here\r\n")
            session.send(reply)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=1000)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as next_client,
        Client(proxy.port) as last_client,
    ):
        for each in (client, next_client, last_client):
            assert each.error("GET", "slow") == cause(1, "Connection timed out")
        finish.set()
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "a reply")
        assert server.accepted == 1


def test_a_connection_with_bytes_but_no_whole_reply_is_closed_logged_and_counted():
    """The server sends eight bytes of an endless reply at a time. The bytes are signs of life, but
    there is never a reply."""
    finish = threading.Event()

    def script(session):
        session.receive()
        session.send(b"$100000000\r\n")
        while not finish.wait(0.005):
            session.send(b"8 bytes.")

    options = {"timeout": 200, "auto_eject_hosts": "true", "server_failure_limit": 2}
    with (
        ScriptedServer(script) as server,
        ScriptedServer() as other,
        NutproxyServer(pool("alpha", [server, other], **options)) as proxy,
        Client(proxy.port) as client,
    ):
        [key] = keys_of(1, (1, 2), 1)
        wait_until(lambda: client("GET", key) == value_of(key), "the ejection")
        # Four in a row on each connection, and one more if the first one waited for the connection.
        assert 8 <= figure(proxy, "requests_timedout") <= 10
        assert ejects(proxy) == 1
        assert figure(proxy, "server_err") == 2
        assert proxy.log().count("connection closed: bytes come, but no whole reply for") == 2
        finish.set()


def test_a_server_that_reads_a_large_request_slowly_is_not_silent():
    """It cannot reply before it has the whole request. Reading bytes of it is a sign of life."""
    finish = threading.Event()

    def script(session):
        session.send(reply_to(session.receive()))
        while not finish.wait(0.005):
            session.reader.feed(session.sock.recv(8192))
        answer(session)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=2000)) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("GET", "a") == value_of(b"a")
        assert client.error("SET", "a", b"x" * 30_000_000) == cause(1, "Connection timed out")
        assert proxy.stats()["alpha"]["s1"]["server_down"] == 0
        finish.set()
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "a reply")
        assert server.sessions[0].open


def test_a_connection_that_stays_silent_is_closed():
    with (
        ScriptedServer(never) as server,
        NutproxyServer(pool("alpha", [server], timeout=1000)) as proxy,
        Client(proxy.port) as client,
    ):
        client.send("GET", "a")
        wait_until(lambda: server.requests, "the request")
        server.script = answer
        assert words(client.reply()) == cause(1, "Connection timed out")
        wait_until(lambda: not server.sessions[0].open, "the end of the silent connection")
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "a reply")


def test_a_connection_that_falls_silent_after_a_timeout_is_closed():
    """There were signs of life when the request timed out, so the connection was not closed
    then."""
    silent = threading.Event()

    def script(session):
        session.receive()
        while not silent.wait(0.005):
            session.send(b">1\r\n+still here\r\n")
        session.receive()

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=1000)) as proxy,
        Client(proxy.port) as client,
    ):
        assert client.error("GET", "a") == cause(1, "Connection timed out")
        assert proxy.stats()["alpha"]["s1"]["server_down"] == 0
        silent.set()
        wait_until(lambda: not server.sessions[0].open, "the end of the silent connection")
        server.script = answer
        assert client("GET", "a") == value_of(b"a")


def test_a_connection_is_not_closed_before_it_has_been_silent_for_two_timeouts():
    """The timeout of another pool shows that the silence has lasted for more than one and a half
    timeouts."""
    go = threading.Event()

    def script(session):
        session.receive()
        session.wait(go)
        session.send(bulk(b"late"))
        answer(session)

    with ScriptedServer(script) as server, ScriptedServer(never) as clock:
        pools = pool("alpha", [server], timeout=6000) + pool("clock", [clock], timeout=3600)
        with (
            NutproxyServer(pools) as proxy,
            Client(proxy.ports["alpha"]) as client,
            Client(proxy.ports["clock"]) as waiting,
        ):
            client.send("GET", "a")
            wait_until(lambda: server.requests, "the request")
            # The probe gets no reply.
            server.handshake[b"PING"] = b""
            assert str(client.reply()) == cause(1, "Connection timed out")
            assert "Connection timed out" in waiting.error("GET", "a")
            go.set()
            wait_until(lambda: figure(proxy, "responses_dropped") == 1, "the late reply")
            assert client("GET", "b") == value_of(b"b")
            assert figure(proxy, "server_connections") == 1


def test_requests_that_timed_out_unsent_are_never_sent():
    """The server is stopped, and the requests are more than the sockets on both sides can
    buffer."""
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis], timeout=2000, client_max_pending="1gb")) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "first", "x") == b"OK"
        [first] = proxy_connections(redis)
        redis.stop()
        keys = [f"big{number}" for number in range(40)]
        client.pipeline(*[("SET", key, b"x" * 1_000_000) for key in keys])
        assert {str(reply) for reply in client.replies(40)} == {cause(1, "Connection timed out")}
        redis.cont()
        wait_until(lambda: client("GET", "first") == b"x", "the server's return")
        # Before that, the server has not read everything from the sockets.
        wait_until(lambda: first not in proxy_connections(redis), "the end of the old connection")
        stored = [key for key in keys if client("EXISTS", key)]
        assert stored == keys[: len(stored)]
        assert len(stored) < 40


def test_a_request_that_timed_out_half_written_is_written_to_its_end_and_none_behind_it():
    """The server shows signs of life, but reads nothing until both requests have timed out."""
    finish = threading.Event()
    large = b"x" * 20_000_000

    def script(session):
        session.shake()
        while not finish.wait(0.005):
            session.send(b">1\r\n+still here\r\n")
        answer(session)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=2000)) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("SET", "half", large), ("SET", "unsent", "x"))
        for reply in client.replies(2):
            assert str(reply) == cause(1, "Connection timed out")
        finish.set()
        assert client("GET", "a") == value_of(b"a")
        assert server.requests == [[b"SET", b"half", large], [b"GET", b"a"]]
        assert proxy.stats()["alpha"]["s1"]["in_queue_bytes"] == 0
        assert server.sessions[0].open


def test_a_server_that_stops_reading_in_the_middle_of_a_request_is_found_silent():
    go = threading.Event()

    def script(session):
        session.receive()
        session.send(bulk(b"the last"))
        session.wait(go)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=1000)) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("GET", "a") == b"the last"
        server.handshake[b"PING"] = b""
        server.script = answer
        assert client.error("SET", "a", b"x" * 20_000_000) == cause(1, "Connection timed out")

        def down():
            assert client.error("GET", "a") == cause(1, "Connection timed out")
            return figure(proxy, "server_down")

        wait_until(down, "the server to be down")
        # If each of these waited for its timeout, the test would exceed its time limit.
        for _ in range(1000):
            assert client.error("GET", "a") == cause(1, "Connection timed out")
        server.handshake[b"PING"] = PONG
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "a new connection")
        go.set()


# Ejection

EJECT = {"auto_eject_hosts": "true", "server_retry_timeout": 200, "server_failure_limit": 2}
NO_LIVE_SERVER = "ERR pool 'alpha' has no live server: Connection refused"


def ejects(proxy):
    return proxy.stats()["alpha"]["server_ejects"]


def test_an_ejected_server_s_keys_go_to_the_others_and_come_back_with_it():
    with three(timeout=10000, **EJECT) as (servers, proxy, client):
        keys = keys_of(2, SERVERS, 40)
        servers[1].kill()
        client.pipeline(*[("GET", key) for key in keys])
        for reply in client.replies(len(keys)):
            assert str(reply) == cause(2, "Connection refused")
        wait_until(lambda: ejects(proxy) == 1, "the ejection")

        for number in (1, 3):
            moved = [key for key in keys if key in set(keys_of(number, (1, 3), 400))]
            assert moved
            client.pipeline(*[("SET", key, number) for key in moved])
            assert set(client.replies(len(moved))) == {b"OK"}
            found = pipeline(servers[number - 1].port, [("GET", key) for key in moved])
            assert found == [b"%d" % number] * len(moved)

        servers[1].restart()
        wait_until(lambda: client("GET", keys[0]) is None, "the server's return")
        client.pipeline(*[("SET", key, "back") for key in keys])
        assert set(client.replies(len(keys))) == {b"OK"}
        found = pipeline(servers[1].port, [("GET", key) for key in keys])
        assert found == [b"back"] * len(keys)


def test_refused_connects_count_as_failures_of_one_server():
    with three(**EJECT | {"server_failure_limit": 3}) as (servers, proxy, client):
        [key] = keys_of(2, SERVERS, 1)
        servers[1].kill()
        assert client.error("GET", key) == cause(2, "Connection refused")
        wait_until(lambda: client("GET", key) is None, "the ejection")
        assert ejects(proxy) == 1


def test_a_stopped_server_is_ejected_and_returns_when_it_continues():
    with three(timeout=2000, **EJECT | {"server_failure_limit": 1}) as (servers, proxy, client):
        [key] = keys_of(2, SERVERS, 1)
        assert client("SET", key, "second") == b"OK"
        servers[1].stop()
        assert client.error("GET", key) == cause(2, "Connection timed out")
        assert client("GET", key) is None
        assert ejects(proxy) == 1
        servers[1].cont()
        wait_until(lambda: client("GET", key) == b"second", "the server's return")


def test_no_request_fails_between_the_ejection_and_the_return():
    """The server is probed meanwhile. It accepts connections, and replies that it is loading."""
    with (
        ScriptedServer() as one,
        ScriptedServer() as two,
        NutproxyServer(pool("alpha", [one, two], **EJECT)) as proxy,
        Client(proxy.port) as client,
    ):
        [key] = keys_of(1, (1, 2), 1)
        one.handshake[b"PING"] = LOADING
        assert client.error("GET", key).startswith("LOADING server 's1' of pool 'alpha': Redis is")
        wait_until(lambda: ejects(proxy) == 1, "the ejection")
        probes = one.accepted

        def served():
            assert client("GET", key) == value_of(key)
            return one.accepted >= probes + 4

        wait_until(served, "four probes")
        assert one.requests == []
        assert ejects(proxy) == 1
        one.handshake[b"PING"] = PONG

        def returned():
            assert client("GET", key) == value_of(key)
            return one.requests

        wait_until(returned, "the server's return")


def owing(proxy, server, count):
    """Clients that each wait for a reply of the server. Together they use all its connections."""
    before = len(server.requests)
    clients = [Client(proxy.port) for _ in range(count)]
    for client in clients:
        client.pipeline(("HGET", "a", "f"))
    wait_until(lambda: len(server.requests) == before + count, "requests in flight")
    return clients


def lose_all(proxy, server, count):
    """A single event that ends all connections of the server, each with a request in flight."""
    clients = owing(proxy, server, count)
    server.close_all()
    for client in clients:
        assert str(client.reply()) == cause(1, "Connection reset by peer")
        client.socket.close()


def hold_hget(session):
    while request := session.receive():
        if request[0] != b"HGET":
            session.send(reply_to(request))


def test_one_event_on_many_connections_is_one_failure():
    with (
        ScriptedServer(hold_hget) as server,
        NutproxyServer(pool("alpha", [server], server_connections=8, **EJECT)) as proxy,
    ):
        lose_all(proxy, server, 8)
        assert ejects(proxy) == 0
        lose_all(proxy, server, 8)
        assert ejects(proxy) == 1


def test_replies_end_a_row_of_failures():
    with (
        ScriptedServer(hold_hget) as server,
        NutproxyServer(pool("alpha", [server], **EJECT)) as proxy,
        Client(proxy.port) as client,
    ):
        for _ in range(4):
            lose_all(proxy, server, 1)
            assert client("GET", "a") == value_of(b"a")
        assert ejects(proxy) == 0


def test_when_all_servers_are_ejected_requests_are_refused_at_once():
    with three(timeout=10000, **EJECT) as (servers, proxy, client):
        keys = [key for number in SERVERS for key in keys_of(number, SERVERS, 1)]
        for server in servers:
            server.kill()
        # When a server leaves the ring, its keys move to those that are left, until all have left.
        wait_until(lambda: client.error("GET", keys[0]) == NO_LIVE_SERVER, "the last ejection")
        for command in [("GET", keys[0]), ("MGET", *keys), ("DBSIZE",), ("SET", keys[2], "x")]:
            assert client.error(*command) == NO_LIVE_SERVER
        assert client("PING") == b"PONG"
        assert b"nutproxy_servers_ejected:3\r\n" in client("INFO")
        servers[0].restart()
        wait_until(lambda: client("SET", keys[2], "x") == b"OK", "a server's return")
        assert pipeline(servers[0].port, [("GET", keys[2])]) == [b"x"]
        assert ejects(proxy) == 3


@pytest.mark.parametrize("retry", [0, 1])
def test_a_short_retry_timeout_does_not_keep_the_processor_busy(retry):
    times = []

    def full(session):
        times.append(time.monotonic())
        session.send(MAXCLIENTS)
        session.receive()

    with (
        ScriptedServer(full) as server,
        NutproxyServer(pool("alpha", [server], **EJECT | {"server_retry_timeout": retry})) as proxy,
        Client(proxy.port) as client,
    ):
        wait_until(lambda: client.error("GET", "a") == NO_LIVE_SERVER, "the ejection")
        before = len(times)
        wait_until(lambda: len(times) > before + 5, "five more probes")
        assert client.error("GET", "a") == NO_LIVE_SERVER
        assert times[before + 5] - times[before] > 5 * 0.008


def test_server_that_takes_no_more_connections_still_serves_those_it_has():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(redis.port) as direct,
        Client(proxy.port) as old,
        Client(proxy.port) as new,
    ):
        assert old("SET", "k", "v") == b"OK"
        assert new("HELLO", "3")[b"proto"] == 3
        # Two connections are open: this client's, and the one of nutproxy for RESP2.
        assert direct("CONFIG", "SET", "maxclients", "2") == b"OK"
        assert new.error("GET", "k") == (
            "ERR server 's1' of pool 'alpha': ERR max number of clients reached"
        )
        for _ in range(10):
            assert old("GET", "k") == b"v"
        assert direct("CONFIG", "SET", "maxclients", "100") == b"OK"
        wait_until(lambda: new("GET", "k") == b"v", "a connection for RESP3")


def test_flushall_with_a_dead_server_says_that_others_may_have_obeyed():
    with (
        RedisServer() as one,
        RedisServer() as two,
        NutproxyServer(pool("alpha", [one, two])) as proxy,
        Client(proxy.port) as client,
    ):
        [key] = keys_of(1, (1, 2), 1)
        assert client("SET", key, "v") == b"OK"
        two.kill()
        assert client.error("FLUSHALL") == (
            "ERR server 's2' of pool 'alpha': Connection refused; "
            "other servers may have executed this 'flushall'"
        )
        assert client("GET", key) is None
