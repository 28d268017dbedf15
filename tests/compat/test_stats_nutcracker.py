"""The statistics of nutproxy and of the real nutcracker after the same requests.

nutcracker shows the figures of the previous poll, and aggregates them every `-i` milliseconds. It
is therefore polled until it shows the same figures as nutproxy. Events that a proxy notices by
itself, such as the end of a connection, are first awaited in nutproxy's figures. Otherwise both
would show the old figures and be equal.
"""

import contextlib
import re

import pytest

from tests.client import Client, read_all
from tests.servers import NutcrackerServer, NutproxyServer, RedisServer, pipeline, wait_until

POOLS = """\
alpha:
  listen: auto
  distribution: ketama
  redis: true
  timeout: 5000
  servers:
   - 127.0.0.1:{one}:1 s1
   - 127.0.0.1:{two}:2 s2
longer name:
  listen: auto
  redis: true
  servers:
   - 127.0.0.1:{two}:1
"""
# Figures that differ for a reason (docs/statistics.md) or by chance.
OTHER = {"version", "uptime", "timestamp", "fragments"}


@pytest.fixture
def redis():
    with RedisServer() as one, RedisServer() as two:
        yield one, two


@pytest.fixture
def proxies(redis):
    config = POOLS.format(one=redis[0].port, two=redis[1].port)
    with NutproxyServer(config) as ours, NutcrackerServer(config, "-i", "10") as theirs:
        yield ours, theirs


def common(ours, theirs):
    """The part of `ours` that twemproxy has, too."""
    return {
        name: common(ours[name], value) if isinstance(value, dict) else ours[name]
        for name, value in theirs.items()
        if name not in OTHER
    }


def equal(ours, theirs):
    """Assert that twemproxy's counters become equal to ours."""
    seen = None

    def same():
        nonlocal seen
        shown = theirs.stats()
        seen = common(ours.stats(), shown), common(shown, shown)
        return seen[0] == seen[1]

    with contextlib.suppress(TimeoutError):
        wait_until(same)
    assert seen[0] == seen[1]


def without_ours(text, reference):
    """The text of our statistics without the names that twemproxy does not have."""
    for name in sorted(
        set(re.findall(r'"(\w+)":', text)) - set(re.findall(r'"(\w+)":', reference))
    ):
        text = re.sub(rf', "{name}":(\d+| {{"count":.*?}}}})', "", text)
    return text


def test_names_order_and_spacing_are_equal(proxies):
    figures = r'("(?:uptime|timestamp)":)\d+|("version":)"[^"]+"'
    ours, theirs = (re.sub(figures, r"\1\2", proxy.stats_text().decode()) for proxy in proxies)
    assert without_ours(ours, theirs) == theirs


def test_counters_are_equal_after_the_same_requests(proxies, redis):
    equal(*proxies)
    for proxy in proxies:
        for server in redis:
            assert pipeline(server.port, [("FLUSHALL",)]) == [b"OK"]
        with Client(proxy.ports["alpha"]) as client, Client(proxy.ports["longer name"]) as other:
            for number in range(50):
                assert client("SET", f"key:{number}", "v" * number) == b"OK"
                assert client("GET", f"key:{number}") == b"v" * number
            client.error("INCR", "key:7")
            assert len(client("MGET", *(f"key:{number}" for number in range(50)))) == 50
            assert client("DEL", *(f"key:{number}" for number in range(50))) == 50
            assert client("PING") == b"PONG"
            client.pipeline(*(("GET", f"key:{number}") for number in range(50)))
            client.replies(50)
            assert other("SET", "key", "x" * 100_000) == b"OK"
            client.send("QUIT")
            read_all(client.socket)
        with Client(proxy.ports["alpha"]) as client:
            client.send_bytes(b"*1\r\n$x\r\n")
            read_all(client.socket)
    ours, theirs = proxies
    wait_until(lambda: ours.stats()["alpha"]["client_connections"] == 0)
    wait_until(lambda: ours.stats()["longer name"]["client_connections"] == 0)
    equal(ours, theirs)
    alpha = ours.stats()["alpha"]
    assert alpha["client_eof"] == 1
    assert alpha["client_err"] == 1
    assert alpha["fragments"] == 4
    assert alpha["s1"]["requests"] + alpha["s2"]["requests"] == 50 + 50 + 1 + 2 + 2 + 50


def test_parts_of_an_mset_are_counted_and_its_values_once(proxies):
    """twemproxy does not count parts, and counts the bytes of most of their values twice."""
    ours, theirs = proxies
    values, size = 20, 1000
    pairs = [word for number in range(values) for word in (f"key:{number}", "v" * size)]

    def request_bytes(proxy):
        alpha = proxy.stats()["alpha"]
        return alpha["s1"]["request_bytes"] + alpha["s2"]["request_bytes"]

    for proxy in proxies:
        with Client(proxy.ports["alpha"]) as client:
            assert client("MSET", *pairs) == b"OK"
    wait_until(lambda: request_bytes(theirs) > 1.5 * values * size)
    assert values * size < request_bytes(ours) < 1.1 * values * size
    assert theirs.stats()["alpha"]["fragments"] == 0
    assert ours.stats()["alpha"]["fragments"] == 2


def test_connections_are_counted_alike_while_they_are_open(proxies):
    ours, theirs = proxies
    clients = [Client(proxy.ports["alpha"]) for proxy in proxies for _ in range(3)]
    for client in clients:
        # The request goes to both servers.
        assert client("MGET", *(f"key:{number}" for number in range(50))) == [None] * 50
    equal(ours, theirs)
    stats = ours.stats()
    assert stats["alpha"]["client_connections"] == 3
    assert stats["curr_connections"] == stats["total_connections"] == 2 + 3 + 2
    for client in clients:
        client.socket.close()
    wait_until(lambda: ours.stats()["curr_connections"] == 2 + 2)
    equal(ours, theirs)


def test_server_that_closes_its_connections_is_counted_alike(proxies, redis):
    one, _ = redis
    for proxy in proxies:
        with Client(proxy.ports["alpha"]) as client:
            for number in range(20):
                client("SET", f"{number}", "v")
    assert pipeline(one.port, [("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")]) == [2]
    ours, theirs = proxies
    wait_until(lambda: ours.stats()["alpha"]["s1"]["server_connections"] == 0)
    equal(ours, theirs)
    assert ours.stats()["alpha"]["s1"]["server_eof"] == 1


def test_requests_of_a_dead_server_are_counted_alike(proxies, redis):
    """Except for server_err, because nutproxy's probes fail, too."""
    ours, theirs = proxies
    for server in redis:
        server.kill()
    for proxy in proxies:
        with Client(proxy.ports["longer name"]) as client:
            client.error("GET", "k")
            client.error("GET", "k")
    server = f"127.0.0.1:{redis[1].port}"
    wait_until(lambda: theirs.stats()["longer name"]["forward_error"] == 2)
    assert ours.stats()["longer name"]["forward_error"] == 2
    assert theirs.stats()["longer name"][server]["server_err"] == 2
    wait_until(lambda: ours.stats()["longer name"][server]["server_err"] >= 2)
    assert ours.stats()["longer name"][server]["requests_unavailable"] == 2


def test_requests_that_time_out_are_counted_alike(redis):
    """Except for server_timedout, because nutproxy's probes time out, too."""

    def time_out(proxy):
        """Send requests to stopped servers. Returns the number of requests that have timed out."""
        replies = []

        def set_key():
            # On a loaded machine, this request may time out, too.
            replies.append(client("SET", "k", "v"))
            return replies[-1] == b"OK"

        with Client(proxy.ports["alpha"]) as client:
            wait_until(set_key)
            for server in redis:
                server.stop()
            client.error("GET", "k")
        for server in redis:
            server.cont()
        return len(replies)

    def figures(proxy):
        alpha = proxy.stats()["alpha"]
        timeouts = sum(alpha[server]["server_timedout"] for server in ("s1", "s2"))
        return alpha["forward_error"], timeouts

    config = POOLS.format(one=redis[0].port, two=redis[1].port).replace("5000", "300")
    with NutproxyServer(config) as ours, NutcrackerServer(config, "-i", "10") as theirs:
        count = time_out(ours)
        errors, timeouts = figures(ours)
        assert errors == count
        assert timeouts >= count
        count = time_out(theirs)
        wait_until(lambda: figures(theirs) == (count, count))
