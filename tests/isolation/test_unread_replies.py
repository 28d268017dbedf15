# tests/isolation/test_unread_replies.py: replies that are much larger than expected
"""If a client's replies have been small, the proxy accepts many of its requests. When the replies
are large and the client does not read them, the stored bytes are limited to four times
client_max_pending, which is 64 kb here, and one more reply. All servers are stopped until the
requests have been accepted, and the first one longer, so that no reply can be sent."""

import contextlib
import re

import pytest

from tests.binary import BinaryClient, Op, request, storage
from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.scripted import keys_of
from tests.servers import MemcachedServer, NutproxyServer, RedisServer, wait_until

LIMIT = 4 * 64 * 1024
VALUE = b"v" * 20_000
LARGE = b"l" * 1_000_000
[SLOW], [SECOND, SMALL], [THIRD] = (keys_of(n, (1, 2, 3), 2 if n == 2 else 1) for n in (1, 2, 3))
REFUSED = re.compile(
    rb"reply of 20\d\d\d bytes dropped: (\d+) bytes of replies are unread,"
    rb" more than 4 times client_max_pending"
)


def kept(size):
    """How many replies of this size are stored."""
    return LIMIT // size + 1


@pytest.fixture
def shards():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        yield [one, two, three]


@pytest.fixture
def proxy(shards):
    config = pool("alpha", shards, client_max_pending="64kb")
    with NutproxyServer(config) as proxy, Client(proxy.port) as client:
        assert client("MSET", SLOW, LARGE, SECOND, VALUE, THIRD, VALUE, SMALL, "v") == b"OK"
        yield proxy
        assert "Traceback" not in proxy.log()


def used_to_small_replies(client):
    client.pipeline(*[("GET", SMALL)] * 200)
    assert client.replies(200) == [b"v"] * 200


def dropped(proxy):
    return proxy.stats()["alpha"]["unread_replies_dropped"]


def waiting(proxy):
    """The number of requests and fragments in the servers' queues."""
    stats = proxy.stats()["alpha"]
    return sum(stats[name]["in_queue"] + stats[name]["out_queue"] for name in ("s1", "s2", "s3"))


@contextlib.contextmanager
def all_stopped(proxy, shards, requests):
    """Stop all servers. At the end, wait until `requests` requests sent here have been accepted,
    then continue all servers except the first."""
    before = proxy.stats()["alpha"]["client_requests"]
    for shard in shards:
        shard.stop()
    yield
    wait_until(
        lambda: proxy.stats()["alpha"]["client_requests"] == before + requests, "all requests"
    )
    for shard in shards[1:]:
        shard.cont()


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_above_the_bound_are_errors_in_their_places(proxy, shards, protocol):
    with Client(proxy.port) as client, Client(proxy.port) as neighbour:
        client("HELLO", protocol)
        used_to_small_replies(client)
        with all_stopped(proxy, shards, 303):
            client.pipeline(
                ("GET", SLOW), *[("GET", SECOND)] * 300, ("GET", SMALL), ("SET", SMALL, "w")
            )
        few = kept(len(b"$20000\r\n" + VALUE + b"\r\n"))
        wait_until(lambda: dropped(proxy) == 300 - few, "replies that are not kept")
        # Other clients still use the same server, on the same connection.
        assert neighbour("GET", SECOND) == VALUE
        wait_until(lambda: neighbour("GET", SMALL) == b"w", "the request behind them")
        shards[0].cont()
        # The first reply is never dropped, although it is the largest.
        assert client.reply() == LARGE
        assert client.replies(few) == [VALUE] * few
        for refusal in client.replies(300 - few):
            [unread] = REFUSED.search(str(refusal).encode()).groups()
            # The errors count as unread replies too.
            assert LIMIT < int(unread) <= LIMIT + len(VALUE) + 10 + 300 * 150
        assert client.replies(2) == [b"v", b"OK"]
        # The client has read everything, so it has no restrictions any more.
        assert client("GET", SECOND) == VALUE
        assert client("MGET", SECOND, SMALL, THIRD) == [VALUE, b"w", VALUE]
        stats = proxy.stats()["alpha"]
        assert stats["unread_replies_dropped"] == 300 - few
        assert stats["forward_error"] == 0


def test_parts_of_commands_are_bounded_too(proxy, shards):
    with Client(proxy.port) as client, Client(proxy.port) as neighbour:
        used_to_small_replies(client)
        with all_stopped(proxy, shards, 201):
            client.pipeline(("GET", SLOW), *[("MGET", SECOND, THIRD)] * 200)
        wait_until(lambda: waiting(proxy) == 1, "replies of two servers")
        assert neighbour("MGET", THIRD, SECOND) == [VALUE] * 2
        shards[0].cont()
        assert client.reply() == LARGE
        replies = client.replies(200)
        refusals = [reply for reply in replies if reply != [VALUE] * 2]
        assert all(REFUSED.search(str(refusal).encode()) for refusal in refusals)
        # If one part is stored and the other dropped, the stored part is freed, and there is space
        # for another reply.
        assert len(refusals) >= 200 - kept(2 * len(VALUE))
        assert dropped(proxy) >= len(refusals)
        assert client("MGET", SECOND, THIRD) == [VALUE] * 2
    with Client(proxy.port) as client:
        # All counted bytes have been subtracted again: no reply is above the limit.
        for _ in range(50):
            assert client("MGET", SECOND, THIRD) == [VALUE] * 2


def test_parts_that_wait_for_others_are_bounded(proxy, shards):
    with Client(proxy.port) as client:
        used_to_small_replies(client)
        before = proxy.stats()["alpha"]["client_requests"]
        for shard in shards:
            shard.stop()
        client.pipeline(("GET", SLOW), *[("MGET", SECOND, THIRD)] * 200)
        wait_until(
            lambda: proxy.stats()["alpha"]["client_requests"] == before + 201, "all requests"
        )
        shards[1].cont()
        few = kept(len(b"*1\r\n$20000\r\n" + VALUE + b"\r\n"))
        wait_until(lambda: dropped(proxy) == 200 - few, "parts that are not kept")
        for shard in shards:
            shard.cont()
        assert client.reply() == LARGE
        for reply in client.replies(200):
            assert reply == [VALUE] * 2 or REFUSED.search(str(reply).encode())
        assert client("MGET", SECOND, THIRD) == [VALUE] * 2


def test_a_client_with_large_merged_replies_is_given_few_requests_at_a_time(proxy, shards):
    """A merged reply counts with all bytes of the servers, not only with its first piece. After one
    of them, the next requests are accepted one at a time."""
    with Client(proxy.port) as client:
        assert client("MGET", SECOND, THIRD) == [VALUE] * 2
        shards[0].stop()
        client.pipeline(("GET", SLOW), *[("MGET", SECOND, THIRD)] * 200)
        with Client(proxy.port) as neighbour:
            assert neighbour("MGET", SECOND, THIRD) == [VALUE] * 2
        shards[0].cont()
        assert client.reply() == LARGE
        assert client.replies(200) == [[VALUE] * 2] * 200
        assert dropped(proxy) == 0


def test_memcached_clients_are_told_in_their_protocol():
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as three,
        NutproxyServer(mc_pool("alpha", [one, two, three], client_max_pending="64kb")) as proxy,
        MemcacheClient(proxy.port) as client,
        MemcacheClient(proxy.port) as neighbour,
    ):
        values = {SLOW: b"slow", SECOND: VALUE, THIRD: VALUE, SMALL: b"v"}
        for key, value in values.items():
            assert client(b"set %b 0 0 %d" % (key, len(value)), value) == b"STORED\r\n"
        found = {
            key: b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(value), value)
            for key, value in values.items()
        }
        both = found[SECOND].removesuffix(b"END\r\n") + found[THIRD]
        client.send_bytes(b"get %b\r\n" % SMALL * 200)
        assert client.replies(200) == [found[SMALL]] * 200
        lines = b"get %b\r\nget %b %b\r\nmg %b v\r\n" % (SECOND, SECOND, THIRD, SECOND)
        with all_stopped(proxy, [one, two, three], 302):
            client.send_bytes(b"get %b\r\n" % SLOW + lines * 100 + b"get %b\r\n" % SMALL)
        wait_until(lambda: waiting(proxy) == 1, "replies of two servers")
        assert neighbour(b"get %b %b" % (SECOND, THIRD)) == both
        one.cont()
        assert client.reply() == found[SLOW]
        whole = [found[SECOND], both, b"VA 20000\r\n%b\r\n" % VALUE]
        refusals = 0
        for _ in range(100):
            for reply, expected in zip(client.replies(3), whole, strict=True):
                if reply != expected:
                    assert reply.startswith(b"SERVER_ERROR reply of 20")
                    assert REFUSED.search(reply)
                    refusals += 1
        assert refusals >= 300 - kept(len(VALUE))
        assert client.reply() == found[SMALL]
        assert client(b"get %b %b" % (SECOND, THIRD)) == both


def test_binary_clients_are_told_in_their_protocol():
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as three,
        NutproxyServer(mc_pool("alpha", [one, two, three], client_max_pending="64kb")) as proxy,
        BinaryClient(proxy.port) as client,
        BinaryClient(proxy.port) as neighbour,
    ):
        values = {SLOW: b"slow", SECOND: VALUE, THIRD: VALUE, SMALL: b"v"}
        for key, value in values.items():
            assert client(Op.SET, key, value, extras=storage()).status == 0
        client.send_bytes(request(Op.GET, SMALL) * 200)
        client.barrier()
        # Alternately with a run of two.
        asked = [
            *((Op.GET, SECOND), (Op.GETKQ, SECOND), (Op.GETKQ, THIRD)),
            *((Op.GETK, SECOND), (Op.GATQ, THIRD), (Op.NOOP, b"")),
        ]
        lines = b"".join(
            request(opcode, key, extras=bytes(4) if opcode == Op.GATQ else b"", opaque=at)
            for at, (opcode, key) in enumerate(asked)
        )
        with all_stopped(proxy, [one, two, three], 602):
            client.send_bytes(request(Op.GET, SLOW, opaque=100) + lines * 100)
            client.send(Op.GET, SMALL, opaque=101)
        wait_until(lambda: waiting(proxy) == 1, "replies of two servers")
        assert neighbour(Op.GET, SECOND).value == VALUE
        one.cont()
        assert client.response().value == b"slow"
        refusals = 0
        for _ in range(100):
            for at, (opcode, key) in enumerate(asked):
                found = client.response()
                assert (found.opcode, found.opaque) == (opcode, at)
                if found.status:
                    assert REFUSED.search(found.value)
                    refusals += 1
                else:
                    assert found.value == values.get(key, b"")
        assert refusals >= 500 - kept(len(VALUE))
        assert client.response().value == b"v"
        assert client(Op.GETK, SECOND).value == VALUE
