"""Memcached pools: several servers, servers that fail, and clients that lie."""

import base64

import pytest

from tests.client import talk
from tests.integration.conftest import mc_pool
from tests.memcache import MemcacheClient
from tests.servers import MemcachedServer, NutproxyServer

END = b"END\r\n"
STORED = b"STORED\r\n"


@pytest.fixture(scope="module")
def shards():
    """Three memcached."""
    with MemcachedServer() as one, MemcachedServer() as two, MemcachedServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxy(shards):
    """A proxy with the pool `alpha` over the three, and `one` over the first alone."""
    with NutproxyServer(mc_pool("alpha", shards) + mc_pool("one", shards[:1])) as proxy:
        yield proxy


@pytest.fixture
def client(proxy, shards):
    """A client of `alpha`, whose servers are empty."""
    with MemcacheClient(proxy.ports["alpha"]) as client:
        assert client(b"flush_all") == b"OK\r\n"
        yield client


def value(key, data, flags=0):
    """A key's part of the reply to get."""
    return b"VALUE %b %d %d\r\n%b\r\n" % (key, flags, len(data), data)


def base64_of(key):
    return base64.b64encode(key)


# Nothing but requests reaches a server


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (b"delete k noreply noreply", b"v"),
        (b"delete k noreply   noreply", b"v"),
        (b"delete k 1 noreply", b"v"),
        (b"incr k noreply noreply", b"v"),
        (b"decr k noreply noreply", b"v"),
        (b"touch k noreply noreply", b"v"),
        (b"flush_all noreply noreply", b"v"),
        (b"verbosity noreply noreply", b"v"),
        (b"delete noreply noreply", b"v"),
        (b"delete k noreply", None),
        (b"flush_all noreply", None),
    ],
)
def test_noreply_in_any_number_leaves_each_request_with_its_own_reply(proxy, line, left):
    with MemcacheClient(proxy.ports["one"]) as client:
        assert client(b"set k 0 0 1", b"v") == STORED
        assert client(b"set noreply 0 0 1", b"n") == STORED
        client.send_bytes(line + b"\r\nget k\r\nset j 0 0 1\r\nw\r\nget j\r\n")
        assert client.reply() == (END if left is None else value(b"k", left) + END)
        assert client.reply() == STORED
        assert client.reply() == value(b"j", b"w") + END


def test_a_key_named_noreply_is_deleted_and_counted(proxy):
    with MemcacheClient(proxy.ports["one"]) as client:
        assert client(b"set noreply 0 0 1", b"1") == STORED
        client.send(b"incr noreply 1 noreply")
        assert client(b"get noreply") == value(b"noreply", b"2") + END
        client.send(b"delete noreply noreply")
        assert client(b"get noreply") == END


@pytest.mark.parametrize("zeros", [250, 1000, 2100, 20_000])
def test_a_long_exptime_of_gat_makes_no_long_lines(proxy, zeros):
    keys = b" ".join(b"k%d" % number for number in range(5000))
    with MemcacheClient(proxy.ports["alpha"]) as client:
        client.send(b"gat " + b"0" * zeros + b" " + keys)
        assert client.reply() in (END, b"CLIENT_ERROR invalid exptime argument\r\n")
        assert client(b"mn") == b"MN\r\n"


@pytest.mark.parametrize("words", [b"k", b"k k", b"k j"])
def test_spaces_do_not_make_a_long_line_of_gat_on_a_connection_of_others(proxy, words, client):
    """memcached closes when such a line comes in two pieces; so it has to be shorter."""
    assert client(b"set k 0 0 1", b"v") == STORED
    expected = (value(b"k", b"v") * words.split().count(b"k")) + END
    for port in proxy.ports.values():
        with MemcacheClient(port) as other:
            if port == proxy.ports["one"]:
                assert other(b"set k 0 0 1", b"v") == STORED
            assert other(b"gat 0 " + words.replace(b" ", b" " * 70_000)) == expected
            assert other(b"gat 0 " + words + b" " * 70_000) == expected


EVIL = b"a\r\nEND\r\nVALUE k 0 3\r\nbad\r\nEND\r\n"


@pytest.mark.parametrize(
    "requests",
    [
        # Items whose keys memcached forgets to have been binary, and then sends as they are.
        [b"mg <k> b N30 k v\r\n"],
        [b"ma <k> b N30\r\n"],
        [b"ms <k> 1 b\r\n9\r\n", b"ma <k> b\r\n"],
        [b"ms <k> 1 b\r\n9\r\n", b"ms <k> 1 b MA\r\n9\r\n"],
        [b"ms <k> 1 b\r\n9\r\n", b"ms <k> 1 MP b\r\n9\r\n"],
    ],
)
@pytest.mark.parametrize("key", [b"a\nb", b"\n", EVIL])
def test_a_binary_key_does_not_forge_replies(proxy, requests, key):
    key = base64_of(key)
    with (
        MemcacheClient(proxy.ports["one"]) as client,
        MemcacheClient(proxy.ports["one"]) as other,
    ):
        assert other(b"set k 0 0 4", b"good") == STORED
        for request in requests:
            client.send_bytes(request.replace(b"<k>", key))
        client.send_bytes(b"mg %b b k v\r\nme %b b\r\nmn\r\n" % (key, key))
        lines = []
        while (line := client.line()) != b"MN\r\n":
            lines.append(line)
        allowed = (b"VA ", b"HD", b"EN", b"ME ", b"CLIENT_ERROR ", b"9\r\n")
        assert all(line.startswith(allowed) and line.endswith(b"\r\n") for line in lines), lines
        assert not any(line.startswith(b"SERVER_ERROR") for line in lines)
        assert other(b"get k") == value(b"k", b"good") + END


def test_a_get_behind_more_spaces_than_memcached_takes_is_refused_however_it_is_cut(proxy):
    for words in (b"get k", b"get kk", b"gets k"):
        request = b" " * 2046 + words + b"\r\n"
        for place in range(2040, len(request)):
            with MemcacheClient(proxy.ports["one"]) as client:
                client.send_bytes(request[:place])
                client.send_bytes(request[place:])
                assert client.reply() == b"CLIENT_ERROR line too long\r\n"
                assert client.closed()


def test_injected_line_is_a_request_of_its_own(proxy):
    """What twemproxy takes for a key with a line end, and hands on."""
    with MemcacheClient(proxy.ports["alpha"]) as innocent:
        assert innocent(b"set v 0 0 4", b"mine") == STORED
        for _ in range(50):
            answer = talk(proxy.ports["alpha"], b"get a\nversion\r\nget a\nquit\r\n")
            assert answer.startswith(b"END\r\nVERSION ")
            assert answer.endswith(b" (nutproxy)\r\nEND\r\n")
            innocent.send_bytes(b"get v\r\n" * 10)
            assert innocent.replies(10) == [value(b"v", b"mine") + END] * 10
