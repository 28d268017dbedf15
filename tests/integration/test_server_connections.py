"""When server connections are opened and renewed, and the checks of the handshake."""

import re
import threading
import time

import pytest

from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.scripted import (
    DENIED,
    LOADING,
    MAXCLIENTS,
    NOAUTH,
    PONG,
    UNKNOWN,
    RequestCount,
    ScriptedMemcached,
    ScriptedServer,
    answer,
    answer_memcache,
    keys_of,
    never,
    value_of,
)
from tests.servers import (
    MemcachedServer,
    NutproxyServer,
    RedisServer,
    pipeline,
    wait_until,
)

SERVERS = (1, 2, 3)


def test_preconnect_opens_all_connections_of_every_server_at_the_start():
    with ScriptedServer() as one, ScriptedServer() as two:
        servers = [one, two]
        with NutproxyServer(pool("alpha", servers, preconnect="true", server_connections=4)):
            # Four for each of RESP2 and RESP3.
            wait_until(lambda: [server.accepted for server in servers] == [8, 8], "preconnect")


def test_preconnect_opens_the_connections_of_a_server_that_comes_up_later():
    with ScriptedServer() as late:
        late.refuse()
        with NutproxyServer(pool("alpha", [late], preconnect="true", server_connections=4)):
            late.listen()
            wait_until(lambda: late.accepted >= 8, "preconnect of a server that comes up later")


def lanes(redis, *login):
    """The protocol version of each of nutproxy's connections, by their ids in the server. Tests use
    its unix socket."""
    clients = pipeline(redis.unix_path, [*login, ("CLIENT", "LIST")])[-1].decode()
    return dict(re.findall(r"^id=(\d+) addr=127.* resp=(\d)", clients, re.MULTILINE))


@pytest.mark.parametrize("password", ["", "s3cret"])
def test_preconnect_opens_the_connections_that_clients_of_both_protocol_versions_use(password):
    options = {"preconnect": "true", "server_connections": 2}
    arguments, login, hello_auth = [], [], []
    if password:
        options |= {"redis_auth": password, "redis_db": 2}
        arguments = ["--requirepass", password]
        login = [("AUTH", password)]
        hello_auth = ["AUTH", "default", password]
    with (
        RedisServer(*arguments) as redis,
        NutproxyServer(pool("alpha", [redis], **options)) as proxy,
    ):
        wait_until(
            lambda: sorted(lanes(redis, *login).values()) == ["2", "2", "3", "3"],
            "connections of both versions",
        )
        before = lanes(redis, *login)
        # Clients use the slots in turn.
        for version in ("2", "3", "2", "3", "3", "2", "2", "3"):
            with Client(proxy.port) as client:
                client("HELLO", version, *hello_auth)
                assert client("SET", "a", "1") == b"OK"
        assert lanes(redis, *login) == before


def quiet(proxy):
    """Nothing was logged above `info`, and the server is up."""
    assert "WARNING" not in proxy.log()
    assert proxy.stats()["alpha"]["s1"]["server_down"] == 0


def test_preconnect_of_a_server_without_hello_warns_about_nothing():
    options = {"preconnect": "true", "server_connections": 2}
    with (
        RedisServer("--rename-command", "HELLO", "") as redis,
        NutproxyServer(pool("alpha", [redis], **options), "-v", "6") as proxy,
    ):
        wait_until(lambda: "HELLO 3 failed: ERR unknown command" in proxy.output, "the refusal")
        wait_until(lambda: list(lanes(redis).values()) == ["2", "2"], "RESP2 only")
        quiet(proxy)
        before = lanes(redis)
        with Client(proxy.port) as client:
            assert client("SET", "a", "1") == b"OK"
            assert client.error("HELLO", "3").startswith("ERR unknown command")
            assert client("GET", "a") == b"1"
        assert lanes(redis) == before


def close_on_hello(session):
    """As twemproxy does, and other servers that do not know the command."""
    while (request := session.next_request()) is not None and request[0] != b"HELLO":
        session.send(session.server.handshake[request[0]])


def ignore_hello(session):
    while (request := session.next_request()) is not None:
        if request[0] != b"HELLO":
            session.send(session.server.handshake[request[0]])
        else:
            session.wait(session.server.released)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (answer, "HELLO 3 failed: NOPERM"),
        (close_on_hello, "Connection reset by peer"),
        (ignore_hello, "Connection timed out"),
    ],
)
def test_preconnect_of_a_server_that_refuses_hello_in_any_way_warns_about_nothing(script, words):
    with ScriptedServer(script) as server:
        server.released = threading.Event()
        server.handshake[b"HELLO"] = b"-NOPERM this user has no permissions to run 'hello'\r\n"
        options = {"preconnect": "true", "server_connections": 2, "timeout": 400}
        with NutproxyServer(pool("alpha", [server], **options), "-v", "6") as proxy:
            wait_until(lambda: words in proxy.output, "the end of the RESP3 connection")
            server.released.set()
            wait_until(
                lambda: [session.open for session in server.sessions].count(True) == 2, "RESP2"
            )
            quiet(proxy)
            assert server.accepted == 3


def test_preconnect_opens_resp3_connections_once_the_server_has_hello():
    with ScriptedServer() as server:
        greeting = server.handshake[b"HELLO"]
        server.handshake[b"HELLO"] = UNKNOWN
        options = {"preconnect": "true", "server_connections": 2}
        with NutproxyServer(pool("alpha", [server], **options), "-v", "6") as proxy:
            wait_until(lambda: "HELLO 3 failed" in proxy.output, "the refusal")
            server.handshake[b"HELLO"] = greeting
            server.close_all()
            wait_until(lambda: proxy.output.count("connected, RESP3") == 2, "RESP3")


def test_preconnect_opens_one_kind_of_connection_to_memcached():
    with ScriptedMemcached(answer_memcache) as server:
        options = {"preconnect": "true", "server_connections": 2}
        with NutproxyServer(mc_pool("alpha", [server], **options), "-v", "6") as proxy:
            wait_until(lambda: proxy.output.count("connected, RESP2") == 2, "the connections")
            with MemcacheClient(proxy.port) as client:
                client(b"version")
            quiet(proxy)
            assert server.accepted == 2


def test_without_preconnect_only_the_server_of_a_request_is_connected():
    with ScriptedServer() as one, ScriptedServer() as two, ScriptedServer() as three:
        servers = [one, two, three]
        with NutproxyServer(pool("alpha", servers, server_connections=4)) as proxy:
            [key] = keys_of(2, SERVERS, 1)
            assert pipeline(proxy.port, [("GET", key)]) == [value_of(key)]
            assert [server.accepted for server in servers] == [0, 1, 0]


def test_a_client_keeps_to_one_connection_and_clients_share_them_all():
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server], server_connections=2)) as proxy,
    ):
        with Client(proxy.port) as one, Client(proxy.port) as two:
            for _ in range(10):
                assert one("GET", "one") == value_of(b"one")
                assert two("GET", "two") == value_of(b"two")
        used = sorted(session.requests for session in server.sessions)
        assert used == [[[b"GET", b"one"]] * 10, [[b"GET", b"two"]] * 10]


def test_a_restarted_server_is_connected_again():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "a", "1") == b"OK"
        redis.restart()
        wait_until(lambda: client("SET", "a", "2") == b"OK", "the server's return")
        assert client("GET", "a") == b"2"


def test_a_preconnected_server_that_is_restarted_is_connected_again_without_a_request():
    with ScriptedServer() as server:
        options = {"preconnect": "true", "server_connections": 2}
        with NutproxyServer(pool("alpha", [server], **options)):
            wait_until(lambda: server.accepted == 4, "preconnect")
            server.close_all()
            wait_until(lambda: server.accepted >= 8, "reconnect")


def by_name(config):
    return config.replace("   - 127.0.0.1:", "   - localhost:")


@pytest.mark.parametrize("count", [1, 4])
def test_reconnects_to_a_server_that_closes_at_once_are_limited_in_rate(count):
    times = []

    def slam(session):
        times.append(time.monotonic())
        session.shake()

    with (
        ScriptedServer(slam) as server,
        NutproxyServer(pool("alpha", [server], preconnect="true", server_connections=count)),
    ):
        # All connections of both versions at once, every 100 ms.
        last = 6 * 2 * count
        wait_until(lambda: len(times) > last, "reconnects")
        assert times[last] - times[0] > 0.5


def test_a_server_with_a_host_name_works_and_is_connected_again():
    with (
        RedisServer() as redis,
        NutproxyServer(by_name(pool("alpha", [redis]))) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "a", "1") == b"OK"
        redis.restart()
        wait_until(lambda: client("SET", "a", "2") == b"OK", "the server's return")


def test_a_name_that_does_not_resolve_is_told_to_clients_and_hurts_no_other_server():
    with ScriptedServer() as one, ScriptedServer() as two:
        config = pool("alpha", [one, two]).replace(
            f"127.0.0.1:{one.port}", f"nutproxy-test.invalid:{one.port}"
        )
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            [lost] = keys_of(1, (1, 2), 1)
            [found] = keys_of(2, (1, 2), 1)
            error = client.error("GET", lost)
            assert error.startswith("ERR server 's1' of pool 'alpha': cannot resolve host: ")
            assert client("GET", found) == value_of(found)


# The handshake


@pytest.mark.parametrize("resp", [2, 3])
def test_a_server_that_has_too_many_clients_is_named_with_its_own_error(resp):
    with (
        ScriptedServer(never, greeting=MAXCLIENTS) as full,
        ScriptedServer() as two,
        NutproxyServer(pool("alpha", [full, two])) as proxy,
        Client(proxy.port) as client,
    ):
        [refused] = keys_of(1, (1, 2), 1)
        [served] = keys_of(2, (1, 2), 1)
        client("GET", served)
        assert resp == 2 or client("HELLO", "3")
        expected = "ERR server 's1' of pool 'alpha': ERR max number of clients reached"
        for _ in range(5):
            assert client.error("GET", refused) == expected
        assert client("GET", served) == value_of(served)
        full.greeting, full.script = b"", answer
        wait_until(lambda: client("GET", refused) == value_of(refused), "room for clients")


def test_a_server_in_protected_mode_is_named_with_its_own_error():
    with (
        ScriptedServer(never, greeting=DENIED) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        expected = "ERR server 's1' of pool 'alpha': DENIED Redis is running in protected mode."
        assert client.error("GET", "a") == expected


def test_a_server_that_loads_its_data_gets_no_request_until_it_is_ready():
    with ScriptedServer() as server:
        server.handshake[b"PING"] = LOADING
        with NutproxyServer(pool("alpha", [server])) as proxy, Client(proxy.port) as client:
            expected = "LOADING server 's1' of pool 'alpha': Redis is loading the dataset in memory"
            for _ in range(50):
                assert client.error("GET", "a") == expected
            assert server.requests == []
            server.handshake[b"PING"] = b"+PONG\r\n"
            wait_until(lambda: client("GET", "a") == value_of(b"a"), "the end of loading")


def test_a_server_that_requires_a_password_the_pool_does_not_have_gets_no_request():
    with ScriptedServer() as server:
        server.handshake[b"PING"] = NOAUTH
        with NutproxyServer(pool("alpha", [server])) as proxy, Client(proxy.port) as client:
            error = client.error("GET", "a")
            assert error == (
                "ERR server 's1' of pool 'alpha': redis_auth is not set, but the server wants it: "
                "NOAUTH Authentication required."
            )
            assert server.requests == []


@pytest.mark.parametrize(
    ("command", "words"),
    [(b"AUTH", "redis_auth failed: ERR no"), (b"SELECT", "redis_db 3 failed: ERR no")],
)
def test_a_failed_step_of_the_handshake_is_reported_and_no_request_is_sent(command, words):
    with ScriptedServer() as server:
        server.handshake[command] = b"-ERR no\r\n"
        config = pool("alpha", [server], redis_auth="secret", redis_db=3)
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client("AUTH", "secret") == b"OK"
            assert client.error("GET", "a") == f"ERR server 's1' of pool 'alpha': {words}"
            assert server.requests == []
            server.handshake[command] = b"+OK\r\n"
            wait_until(lambda: client("GET", "a") == value_of(b"a"), "the handshake")


def test_a_step_of_the_handshake_that_fails_with_a_blob_error_is_reported():
    with ScriptedServer() as server:
        server.handshake[b"AUTH"] = b"!8\r\nERR a\r\nb\r\n"
        config = pool("alpha", [server], redis_auth="secret")
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client("AUTH", "secret") == b"OK"
            expected = "ERR server 's1' of pool 'alpha': redis_auth failed: ERR a  b"
            assert client.error("GET", "a") == expected


def test_an_attribute_in_the_handshake_is_not_taken_for_a_reply_of_its_own():
    with ScriptedServer() as server:
        server.handshake[b"AUTH"] = b"|1\r\n+a\r\n+b\r\n+OK\r\n"
        server.handshake[b"PING"] = LOADING
        config = pool("alpha", [server], redis_auth="secret")
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client("AUTH", "secret") == b"OK"
            assert client.error("GET", "a").startswith("LOADING ")


@pytest.mark.parametrize("version", [b":7\r\n", b"$1\r\n\xff\r\n"])
def test_a_hello_reply_with_a_strange_version_is_accepted(version):
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("HELLO", "3")[b"proto"] == 3
        proto = b"$5\r\nproto\r\n:3\r\n"
        server.handshake[b"HELLO"] = b"%2\r\n" + proto + b"$7\r\nversion\r\n" + version
        assert client("GET", "a") == value_of(b"a")


def test_a_handshake_that_is_never_answered_ends_with_the_timeout():
    with ScriptedServer() as server:
        server.handshake[b"PING"] = b""
        with (
            NutproxyServer(pool("alpha", [server], timeout=200)) as proxy,
            Client(proxy.port) as client,
        ):
            expected = "ERR server 's1' of pool 'alpha': Connection timed out"
            assert client.error("SET", "never", "sent") == expected
            server.handshake[b"PING"] = b"+PONG\r\n"
            wait_until(lambda: client("GET", "a") == value_of(b"a"), "the handshake")
            assert [b"SET", b"never", b"sent"] not in server.requests


@pytest.mark.parametrize(
    ("command", "reply", "words"),
    [
        (b"PING", b"+HI\r\n", "not a reply to PING: b'HI'"),
        (b"PING", b":1\r\n", "not a reply to PING: 1"),
        (b"PING", b"-WHAT is this\r\n", "PING failed: WHAT is this"),
        (b"AUTH", b"+PONG\r\n", "not a reply to AUTH: b'PONG'"),
        (b"SELECT", b"+HI\r\n", "not a reply to SELECT: b'HI'"),
        (b"HELLO", b"+OK\r\n", "not a reply to HELLO: b'OK'"),
        (b"HELLO", b"%1\r\n+proto\r\n:2\r\n", "not a reply to HELLO: {b'proto': 2}"),
    ],
)
def test_a_step_of_the_handshake_takes_its_own_reply_and_no_other(command, reply, words):
    with ScriptedServer() as server:
        config = pool("alpha", [server], redis_auth="secret", redis_db=3)
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client("AUTH", "secret") == b"OK"
            assert client("HELLO", "3")[b"proto"] == 3
            server.handshake[command] = reply
            assert client.error("GET", "a") == f"ERR server 's1' of pool 'alpha': {words}"
            assert server.requests == []


@pytest.mark.parametrize(
    "error",
    [
        b"-BUSY Redis is busy running a script.\r\n",
        b"-MISCONF Redis is configured to save RDB snapshots.\r\n",
        b"-NOPERM User default has no permissions to run the 'ping' command\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-ERR unknown command 'PING'\r\n",
    ],
)
def test_an_error_to_ping_does_not_exclude_a_server_that_serves(error):
    with ScriptedServer() as server:
        server.handshake[b"PING"] = error
        with NutproxyServer(pool("alpha", [server])) as proxy, Client(proxy.port) as client:
            assert client("GET", "a") == value_of(b"a")


@pytest.mark.parametrize("greeting", [b"+HI\r\n", b"-HI\r\n", b"+OK\r\n"])
def test_a_server_that_speaks_first_gives_no_client_the_reply_of_another(greeting):
    with (
        ScriptedServer(greeting=greeting) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        for number in range(50):
            assert client.error("GET", f"k{number}").startswith("ERR server 's1' of pool 'alpha': ")
        server.greeting = b""
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "a server without a greeting")


@pytest.mark.parametrize("extra", [b"+HI\r\n", b"+HI", b"$100\r\nxx", b"-HI"])
def test_bytes_after_the_handshake_end_the_connection_before_a_request_is_written(extra):
    with ScriptedServer() as server:
        server.handshake[b"PING"] = PONG + extra
        with NutproxyServer(pool("alpha", [server])) as proxy, Client(proxy.port) as client:
            assert client.error("GET", "a") == (
                "ERR server 's1' of pool 'alpha': the server sent a reply to no request"
            )
            assert server.requests == []
            assert proxy.stats()["alpha"]["s1"]["server_protocol_errors"] == 2
            server.handshake[b"PING"] = PONG
            assert client("GET", "a") == value_of(b"a")


def test_a_memcached_that_speaks_first_gives_no_client_the_reply_of_another():
    with ScriptedMemcached(answer_memcache) as server:
        server.handshake[b"version"] = b"END\r\n"
        with (
            NutproxyServer(mc_pool("alpha", [server])) as proxy,
            MemcacheClient(proxy.port) as client,
        ):
            assert client(b"get a") == (
                b"SERVER_ERROR server 's1' of pool 'alpha': not a reply to version: 'END'\r\n"
            )
            assert server.requests == []


@pytest.mark.parametrize(
    "error",
    [
        b"-ERR AUTH <password> called without any password configured for the default user. Are"
        b" you sure your configuration is correct?\r\n",
        b"-ERR Client sent AUTH, but no password is set\r\n",
    ],
)
def test_servers_without_a_password_serve_a_pool_that_has_one_with_one_warning(error):
    with ScriptedServer() as server:
        server.handshake[b"AUTH"] = error
        config = pool("alpha", [server], redis_auth="secret", server_connections=4)
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client.error("GET", "a") == "NOAUTH Authentication required."
            for _ in range(3):
                assert client("AUTH", "secret") == b"OK"
                assert client("GET", "a") == value_of(b"a")
                server.close_all()
                wait_until(
                    lambda: not proxy.stats()["alpha"]["s1"]["server_connections"], "the end"
                )
            assert proxy.log().count("has no password: redis_auth protects the pool") == 1


def test_a_real_server_without_a_password_serves_a_pool_that_has_one():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis], redis_auth="secret", redis_db=3)) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("AUTH", "secret") == b"OK"
        assert client("SET", "a", "1") == b"OK"
        assert client("HELLO", "3")[b"proto"] == 3
        assert client("GET", "a") == b"1"


def test_a_malformed_handshake_is_reported():
    with ScriptedServer() as server:
        server.handshake[b"PING"] = b"PONG\r\n"
        with NutproxyServer(pool("alpha", [server])) as proxy, Client(proxy.port) as client:
            error = client.error("GET", "a")
            assert error.startswith("ERR server 's1' of pool 'alpha': malformed reply")


def test_a_server_of_the_other_protocol_is_reported_with_the_key_that_is_wrong():
    with RedisServer() as redis, MemcachedServer() as memcached:
        config = pool("alpha", [memcached]) + mc_pool("beta", [redis])
        with NutproxyServer(config) as proxy:
            with Client(proxy.ports["alpha"]) as client:
                error = client.error("GET", "k")
                assert "if this is a Memcached server, the pool needs 'redis: false'" in error
            with MemcacheClient(proxy.ports["beta"]) as client:
                error = client(b"get k")
                assert b"if this is a Redis server, the pool needs 'redis: true'" in error


# Servers that are too old for RESP3


def test_a_pool_of_servers_too_old_for_hello_refuses_it_and_serves_resp2():
    with ScriptedServer() as server:
        server.handshake[b"HELLO"] = UNKNOWN
        with NutproxyServer(pool("alpha", [server])) as proxy, Client(proxy.port) as client:
            refusal = "ERR unknown command 'HELLO', with args beginning with: '3' "
            assert client.error("HELLO", "3") == refusal
            assert client("GET", "a") == value_of(b"a")
            assert client("HELLO", "2")[4:6] == [b"proto", 2]
            assert client("GET", "b") == value_of(b"b")


def test_one_server_that_is_too_old_refuses_resp3_without_a_connect_for_each_request():
    with ScriptedServer() as one, ScriptedServer() as two:
        [old] = keys_of(1, (1, 2), 1)
        [new] = keys_of(2, (1, 2), 1)
        with NutproxyServer(pool("alpha", [one, two])) as proxy, Client(proxy.port) as client:
            assert client("HELLO", "3")[b"proto"] == 3
            one.handshake[b"HELLO"] = UNKNOWN
            for _ in range(20):
                assert client.error("GET", old) == "NOPROTO unsupported protocol version"
                assert client("GET", new) == value_of(new)
            assert pipeline(proxy.port, [("GET", old)]) == [value_of(old)]
            assert one.accepted <= 3


# Requests whose connection died before they were written


def stalled(go):
    """A script that reads no request until `go`, then resets the connection."""

    def script(session):
        session.shake()
        session.wait(go)
        session.reset()

    return script


def test_unwritten_requests_are_sent_once_more_and_written_ones_never():
    go = threading.Event()
    scripts = iter([stalled(go)])

    def script(session):
        next(scripts, answer)(session)

    with ScriptedServer(script) as server:
        with (
            NutproxyServer(pool("alpha", [server], client_max_pending="1gb")) as proxy,
            Client(proxy.port) as client,
        ):
            value = b"x" * 1_000_000
            client.pipeline(("SET", "a0", value))
            wait_until(lambda: server.sessions, "the first connection")
            client.pipeline(*[("SET", f"a{number}", value) for number in range(1, 24)])
            taken = RequestCount(proxy)
            wait_until(lambda: taken() == 24, "all requests")
            go.set()
            replies = client.replies(24)
        failed = [str(reply) for reply in replies if reply != b"OK"]
        assert set(failed) == {"ERR server 's1' of pool 'alpha': Connection reset by peer"}
        assert replies == [*replies[: len(failed)], *[b"OK"] * (24 - len(failed))]
        sent = [request[1] for request in server.requests]
        assert sent == [b"a%d" % number for number in range(len(failed), 24)]


def test_unwritten_requests_are_moved_to_a_new_connection_once_only():
    go = threading.Event()
    with (
        ScriptedServer(stalled(go)) as server,
        NutproxyServer(pool("alpha", [server], client_max_pending="1gb")) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(*[("SET", "a", b"x" * 1_000_000)] * 24)
        taken = RequestCount(proxy)
        wait_until(lambda: taken() == 24, "all requests")
        go.set()
        replies = client.replies(24)
        assert {str(reply) for reply in replies} == {
            "ERR server 's1' of pool 'alpha': Connection reset by peer"
        }
        assert server.accepted == 2


def test_server_that_was_too_old_for_hello_is_asked_again_after_its_return():
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        greeting = server.handshake[b"HELLO"]
        assert client("HELLO", "3")[b"proto"] == 3
        server.handshake[b"HELLO"] = b"-ERR unknown command 'HELLO'\r\n"
        assert client.error("GET", "a") == "NOPROTO unsupported protocol version"
        server.handshake[b"HELLO"] = greeting
        server.refuse()
        server.close_all()
        with Client(proxy.port) as other:
            wait_until(lambda: "refused" in str(other("GET", "a")), "the server to be down")
            server.listen()
            wait_until(lambda: other("GET", "a") == value_of(b"a"), "the server's return")
        wait_until(lambda: client("GET", "a") == value_of(b"a"), "RESP3 after its return")
