"""Clients that speak another protocol cause one log line a minute that names the protocol."""

import pytest

from nutproxy.front.strangers import TEXTS
from tests.client import read_all
from tests.integration.conftest import mc_pool
from tests.memcache import MemcacheClient
from tests.servers import MemcachedServer, NutproxyServer, connect, wait_until

TLS = bytes.fromhex("16030100c8010000c40303") + b"\xab" * 190
BINARY = b"\x80\x0b" + bytes(22)
HTTP = b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: cache\r\n\r\nflush_all\r\n"


@pytest.fixture(scope="module")
def proxy():
    """The pools `alpha` and `gamma` of Memcached, for text and binary clients, and `beta` of Redis.
    Nothing sent to them reaches a server."""
    with MemcachedServer() as server:
        redis = mc_pool("beta", [server]).replace("redis: false", "redis: true")
        if "redis: true" not in redis:
            redis += "  redis: true\n"
        text = mc_pool("alpha", [server], protocol="ascii")
        binary = mc_pool("gamma", [server], protocol="binary")
        with NutproxyServer(text + redis + binary) as proxy:
            yield proxy


@pytest.mark.parametrize(
    ("pool", "data", "what"),
    [
        ("alpha", BINARY, "binary"),
        ("alpha", TLS, "tls"),
        ("alpha", HTTP, "http"),
        ("alpha", b"*1\r\n$4\r\nPING\r\n", "redis"),
        ("gamma", b"get k\r\n", "text"),
        ("beta", BINARY, "binary"),
        ("beta", TLS, "tls"),
        ("beta", POST, "http"),
        ("beta", b"version\r\nQUIT\r\n", "memcached"),
    ],
)
def test_a_stranger_leaves_one_line_and_is_closed(proxy, pool, data, what):
    line = f"pool '{pool}': a client at "
    for _ in range(3):
        with connect(proxy.ports[pool]) as stranger:
            stranger.sendall(data)
            read_all(stranger)
    text = TEXTS[what]
    wait_until(lambda: text in proxy.log(), "the line")
    lines = [row for row in proxy.log().splitlines() if line in row and text in row]
    assert len(lines) == 1, lines
    assert " WARNING c " in lines[0]


def test_arguments_of_a_redis_request_are_not_run_as_commands(proxy):
    with MemcacheClient(proxy.ports["alpha"]) as client:
        assert client(b"set k 0 0 1", b"v") == b"STORED\r\n"
        with connect(proxy.ports["alpha"]) as stranger:
            stranger.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$9\r\nflush_all\r\n")
            assert read_all(stranger) == b"-ERR this pool speaks the Memcached protocol\r\n"
        assert client(b"get k") == b"VALUE k 0 1\r\nv\r\nEND\r\n"
