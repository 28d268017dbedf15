"""Memcached pools: several servers, servers that fail, and clients that send wrong lengths."""

import base64
import contextlib
import random
import re
import socket
import threading

import pytest

from nutproxy.builtin.memcache import SUFFIX
from nutproxy.hashkit.router import Router
from nutproxy.proto import errors
from nutproxy.proto.binary_commands import Status
from tests.binary import BinaryClient, Op
from tests.client import read_all, talk
from tests.integration.conftest import mc_pool
from tests.memcache import MemcacheClient
from tests.scripted import ScriptedMemcached, answer_memcache, keys_of, memcache_reply, value_of
from tests.servers import (
    DEADLINE,
    MemcachedServer,
    NutproxyServer,
    closed_ports,
    free_ports,
    wait_until,
)

SERVERS = (1, 2, 3)
END = b"END\r\n"
STORED = b"STORED\r\n"


@pytest.fixture(scope="module")
def shards():
    """Three memcached."""
    with MemcachedServer() as one, MemcachedServer() as two, MemcachedServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxy(shards):
    """A proxy with the pool `alpha` of all three servers, and `one` of the first server only."""
    with NutproxyServer(mc_pool("alpha", shards) + mc_pool("one", shards[:1])) as proxy:
        yield proxy


@pytest.fixture
def client(proxy, shards):
    """A client of `alpha`, whose servers are empty."""
    with MemcacheClient(proxy.ports["alpha"]) as client:
        assert client(b"flush_all") == b"OK\r\n"
        yield client


def value(key, data, flags=0):
    """The part of the reply to get for one key."""
    return b"VALUE %b %d %d\r\n%b\r\n" % (key, flags, len(data), data)


def base64_of(key):
    return base64.b64encode(key)


# Servers receive requests and nothing else


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
    """memcached closes the connection if such a long line comes in two pieces. nutproxy must send a
    shorter one."""
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
        # memcached forgets that the keys of these items are binary, and then sends them unencoded.
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


def test_a_get_after_too_many_spaces_is_refused_however_it_is_cut(proxy):
    for words in (b"get k", b"get kk", b"gets k"):
        request = b" " * 2046 + words + b"\r\n"
        for place in range(2040, len(request)):
            with MemcacheClient(proxy.ports["one"]) as client:
                client.send_bytes(request[:place])
                client.send_bytes(request[place:])
                assert client.reply() == b"CLIENT_ERROR line too long\r\n"
                assert client.closed()


def test_injected_line_is_a_request_of_its_own(proxy):
    """twemproxy takes this for a key that contains a line end, and forwards it."""
    with MemcacheClient(proxy.ports["alpha"]) as innocent:
        assert innocent(b"set v 0 0 4", b"mine") == STORED
        for _ in range(50):
            answer = talk(proxy.ports["alpha"], b"get a\nversion\r\nget a\nquit\r\n")
            assert answer.startswith(b"END\r\nVERSION ")
            assert answer.endswith(b"%b\r\nEND\r\n" % SUFFIX.encode())
            innocent.send_bytes(b"get v\r\n" * 10)
            assert innocent.replies(10) == [value(b"v", b"mine") + END] * 10


# Several servers


def fill(client, keys):
    """Store `value of <key>` under each key, in one go."""
    client.send_bytes(
        b"".join(
            b"set %b 0 0 %d noreply\r\n%b\r\n" % (key, len(value_of(key)), value_of(key))
            for key in keys
        )
    )
    assert client(b"mn") == b"MN\r\n"


def found(keys):
    return b"".join(value(key, value_of(key)) for key in keys) + END


def test_values_come_in_the_order_of_the_keys_and_once_per_requested_key(client, shards):
    keys = [key for number in (1, 2, 3) for key in keys_of(number, SERVERS, 20)]
    random.Random(1).shuffle(keys)
    fill(client, keys)
    asked = [*keys, *keys[::-2], keys[0], keys[0]]
    assert client(b"get " + b" ".join(asked)) == found(asked)
    missing = [b"missing%d" % number for number in range(len(asked))]
    mixed = [key for pair in zip(asked, missing, strict=True) for key in pair]
    assert client(b"get " + b"  ".join(mixed) + b" ") == found(asked)
    assert client(b"gat 100 " + b" ".join(mixed)) == found(asked)
    with_cas = client(b"gets " + b" ".join(mixed))
    assert re.sub(rb"(?m)^(VALUE \S+ \d+ \d+) \d+\r$", rb"\1\r", with_cas) == found(asked)


@pytest.mark.parametrize("word", [b"get", b"gat 0"])
def test_a_hundred_thousand_keys(client, word):
    keys = [b"key:%d" % number for number in range(100_000)]
    fill(client, keys[::1000])
    assert client(word + b" " + b" ".join(keys)) == found(keys[::1000])
    assert client(b"mn") == b"MN\r\n"


def test_replies_of_several_servers_come_in_the_order_of_the_requests(client):
    columns = [keys_of(number, SERVERS, 50) for number in SERVERS]
    keys = [key for row in zip(*columns, strict=True) for key in row]
    fill(client, keys)
    client.send_bytes(b"".join(b"mg %b v k q\r\nmg no%b v q\r\n" % (key, key) for key in keys))
    client.send(b"mn")
    for key in keys:
        data = value_of(key)
        assert client.reply() == b"VA %d k%b\r\n%b\r\n" % (len(data), key, data)
    assert client.reply() == b"MN\r\n"


def test_quiet_requests_to_several_servers_are_silent_up_to_the_barrier(client):
    """Hits of mg come in the order of the requests. Misses, and ms and md that succeed, have no
    reply. The reply to mn comes after all others, whichever server is the slowest."""
    keys = [key for number in SERVERS for key in keys_of(number, SERVERS, 4)]
    random.Random(5).shuffle(keys)
    client.send_bytes(b"".join(b"ms %b 1 q\r\nv\r\n" % key for key in keys) + b"mn\r\n")
    assert client.line() == b"MN\r\n"
    client.send_bytes(b"".join(b"md %b q\r\n" % key for key in keys[::2]))
    asked = b"".join(b"mg %b v k q O%d\r\n" % (key, at) for at, key in enumerate(keys))
    client.send_bytes(asked + b"mn\r\n")
    for at, key in list(enumerate(keys))[1::2]:
        assert client.reply() == b"VA 1 k%b O%d\r\nv\r\n" % (key, at)
    assert client.reply() == b"MN\r\n"


def test_both_sides_may_be_ipv6():
    with MemcachedServer("-l", "::1") as server:
        port = free_ports(1)[0]
        config = mc_pool("alpha", [server]).replace("listen: auto", f'listen: "[::1]:{port}"')
        config = config.replace(f"127.0.0.1:{server.port}", f'"[::1]:{server.port}').replace(
            ":1 s1", ':1 s1"'
        )
        with (
            NutproxyServer(config),
            socket.socket(socket.AF_INET6) as connection,
        ):
            connection.settimeout(DEADLINE)
            connection.connect(("::1", port))
            connection.sendall(b"set k 0 0 1\r\nv\r\nget k\r\nquit\r\n")
            assert read_all(connection) == STORED + value(b"k", b"v") + END


def test_a_base64_key_and_the_same_key_plain_are_one_item(client):
    for number in range(50):
        key = b"item-%d" % number
        assert client(b"ms %b 1 b" % base64_of(key), b"v") == b"HD\r\n"
        assert client(b"get " + key) == value(key, b"v") + END
        assert client(b"delete " + key) == b"DELETED\r\n"
        assert client(b"set %b 0 0 1" % key, b"w") == STORED
        assert client(b"mg %b b v" % base64_of(key)) == b"VA 1\r\nw\r\n"


def test_a_hash_tag_counts_in_a_base64_key(client, shards):
    keys = [b"{tag}%d" % number for number in range(20)]
    for key in keys:
        assert client(b"ms %b 1 b" % base64_of(key), b"v") == b"HD\r\n"
    items = [MemcacheClient(shard.port)(b"get " + b" ".join(keys)) for shard in shards]
    assert sorted(items) == [END, END, b"".join(value(key, b"v") for key in keys) + END]


def test_flush_all_and_verbosity_reach_every_server(client, shards):
    keys = [keys_of(number, SERVERS, 1)[0] for number in SERVERS]
    fill(client, keys)
    assert client(b"verbosity 1") == b"OK\r\n"
    assert client(b"flush_all") == b"OK\r\n"
    assert client(b"get " + b" ".join(keys)) == END
    fill(client, keys)
    client.send(b"flush_all noreply")
    assert client(b"get " + b" ".join(keys)) == END
    for shard in shards:
        with MemcacheClient(shard.port) as direct:
            assert b"STAT verbosity 1\r\n" in direct(b"stats settings")
    assert client(b"verbosity 0") == b"OK\r\n"


def stats(reply):
    assert reply.endswith(END), reply
    lines = reply.removesuffix(END).split(b"\r\n")[:-1]
    return {line.split(b" ", 2)[1].decode(): line.split(b" ", 2)[2].decode() for line in lines}


def test_stats_are_those_of_the_proxy(proxy, client):
    figures = stats(client(b"stats"))
    assert int(figures["pid"]) == proxy.pid
    assert figures["nutproxy_pool"] == "alpha"
    assert figures["nutproxy_servers"] == "3"
    before = int(figures["nutproxy_requests"])
    client(b"get a")
    assert int(stats(client(b"stats"))["nutproxy_requests"]) == before + 2


def test_stats_servers_lists_every_server(client, shards):
    figures = stats(client(b"stats servers"))
    for number, shard in enumerate(shards, start=1):
        assert figures[f"s{number}:address"] == f"127.0.0.1:{shard.port}"
        assert figures[f"s{number}:state"] == "up"
        assert int(figures[f"s{number}:requests"]) >= int(figures[f"s{number}:responses"]) > 0


def test_stats_of_servers_are_prefixed(client, shards):
    fill(client, [keys_of(number, SERVERS, 1)[0] for number in SERVERS])
    figures = stats(client(b"stats settings"))
    for number, shard in enumerate(shards, start=1):
        assert figures[f"s{number}:tcpport"] == str(shard.port)
    assert client(b"stats reset") == b"RESET\r\n"
    assert client(b"stats bogus") == b"ERROR\r\n"


def test_stats_items_and_cachedump_are_those_of_one_memcached():
    """The sums by slab, and the list of keys that memcdump of libmemcached and getAllKeys of PHP
    read."""
    with contextlib.ExitStack() as stack:
        # With the old LRU, all keys are listed at once.
        servers = [
            stack.enter_context(MemcachedServer("-o", "no_modern,no_lru_maintainer"))
            for _ in SERVERS
        ]
        proxy = stack.enter_context(NutproxyServer(mc_pool("alpha", servers)))
        client = stack.enter_context(MemcacheClient(proxy.port))
        keys = [key for number in SERVERS for key in keys_of(number, SERVERS, 2)]
        fill(client, keys)
        assert client(b"set large 0 0 1000", b"x" * 1000) == STORED
        items = stats(client(b"stats items"))
        slabs = sorted({int(name.split(":")[1]) for name in items})
        assert len(slabs) == 2
        assert [int(items[f"items:{slab}:number"]) for slab in slabs] == [len(keys), 1]
        found = []
        for slab in slabs:
            dump = client(b"stats cachedump %d 0" % slab)
            found += re.findall(rb"ITEM (\S+) \[\d+ b; \d+ s\]\r\n", dump)
        assert sorted(found) == sorted([*keys, b"large"])
        assert client(b"stats cachedump %d 4" % slabs[0]).count(b"ITEM ") == 4
        assert client(b"stats cachedump 200 0") == b"CLIENT_ERROR Illegal slab id\r\n"
        assert client(b"stats cachedump 1 x") == b"CLIENT_ERROR bad command line format\r\n"
        assert client(b"stats cachedump 40 0") == END
        servers[1].kill()
        assert client(b"stats items").startswith(b"SERVER_ERROR server 's2' of pool 'alpha': ")
        assert client(b"mn") == b"MN\r\n"


@pytest.mark.parametrize(
    ("versions", "shown"),
    [
        ([b"VERSION 1.6.18", b"VERSION 1.5.22"], b"1.5.22"),
        ([b"VERSION 1.6.9", b"VERSION 1.6.10"], b"1.6.9"),
        ([b"VERSION 1.6.18 (Debian)", b"VERSION unknown"], b"1.6.18"),
        ([b"VERSION unknown", b"VERSION x.y"], b"1.6.0"),
        ([b"VERSION", b"VERSION x.y"], b"1.6.0"),
        ([b"VERSION ", b"VERSION mcrouter 41.0"], b"1.6.0"),
    ],
)
def test_version_is_the_lowest_of_the_servers_with_the_proxys_name(versions, shown):
    def script(line):
        def answers(session):
            session.lines.readline()
            session.send(line + b"\r\n")
            while request := session.receive():
                session.send(line + b"\r\n" if request == [b"version"] else END)

        return answers

    with (
        ScriptedMemcached(script(versions[0])) as one,
        ScriptedMemcached(script(versions[1])) as two,
        NutproxyServer(mc_pool("alpha", [one, two])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        for number in (1, 2):
            assert client(b"get " + keys_of(number, (1, 2), 1)[0]) == END
        assert client(b"version") == b"VERSION %b%b\r\n" % (shown, SUFFIX.encode())
        assert stats(client(b"stats"))["version"] == shown.decode() + SUFFIX


def test_version_is_one_that_every_client_parses():
    """libmemcached reads three numbers at the start, and the first must not be 0. emcache does not
    allow a blank. The npm package memcached needs three numbers at the end, and crashes without
    them."""
    with (
        MemcachedServer() as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        for version in (
            client(b"version").decode().removeprefix("VERSION ").removesuffix("\r\n"),
            stats(client(b"stats"))["version"],
        ):
            assert re.fullmatch(r"[1-9]\d*\.\d+\.\d+-nutproxy-\d+\.\d+\.\d+", version)


def test_version_before_a_server_is_known():
    """The first request waits for the version of a server. Without any server, the reply is the
    version of the protocol."""
    with (
        MemcachedServer() as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as client,
        MemcacheClient(server.port) as direct,
    ):
        own = direct(b"version").rstrip()
        assert client(b"version") == own + SUFFIX.encode() + b"\r\n"
    with closed_ports(1) as [port]:
        pool = mc_pool("alpha", [server]).replace(f":{server.port}:", f":{port}:")
        with NutproxyServer(pool) as proxy, MemcacheClient(proxy.port) as client:
            assert client(b"version") == b"VERSION 1.6.0%b\r\n" % SUFFIX.encode()


def test_an_extra_end_line_gives_no_client_the_value_of_another():
    """The key of a value is compared with the request. Otherwise all later replies would be
    shifted."""
    extra = iter([False] * 20 + [True])

    def script(session):
        while request := session.receive():
            if request[0] == b"version":
                session.send(b"VERSION 1.6.18\r\n")
                continue
            reply = found([key for key in request[1:] if key != b"miss"])
            session.send(reply + (END if next(extra, False) else b""))

    with lying(script) as (server, client, other):
        for number in range(200):
            keys = [b"a%d" % number, b"b%d" % number]
            client.send(b"get %b" % keys[0])
            other.send(b"get %b miss %b" % (keys[1], keys[0]))
            for reply, asked in ((client.reply(), keys[:1]), (other.reply(), keys[::-1])):
                assert reply in (found(asked), END) or reply.startswith(b"SERVER_ERROR "), reply
        assert server.accepted == 2


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (b"get a", [b"b"]),
        (b"gets a", [b"b"]),
        (b"gat 0 a", [b"0"]),
        (b"gats 0 a", [b"gats"]),
        (b"get a", [b"a", b"b"]),
        (b"get a b c", [b"a", b"c", b"d"]),
        (b"get aa", [b"a"]),
        (b"get a", [b"aa"]),
    ],
)
def test_a_value_of_a_key_that_was_not_requested_ends_the_connection(line, keys):
    def script(session):
        while session.receive():
            session.send(found(keys))

    with lying(script) as (_, client, _):
        assert b": the reply does not match the request: VALUE " in client(line)


@pytest.mark.parametrize("order", [[b"c", b"a", b"b"], [b"b"], [b"a", b"b\tx\r", b"c"]])
def test_values_in_another_order_are_accepted(order):
    """A server that is a proxy itself may reply like this."""

    def script(session):
        session.lines.readline()
        session.send(b"VERSION 1.6.18\r\n")
        while session.lines.readline():
            session.send(found(order))

    with lying(script) as (_, client, _):
        assert client(b"get a b\tx\r  b c ") == found(order)


def test_stats_of_servers_name_the_one_that_is_dead():
    with three() as (servers, _, client):
        servers[1].kill()
        reply = client(b"stats settings")
        assert b"STAT s2:error SERVER_ERROR server 's2' of pool 'alpha': " in reply
        figures = stats(reply)
        assert {name.split(":")[0] for name in figures} == {"s1", "s2", "s3"}
        assert stats(client(b"stats servers"))["s2:state"] == "down"


# Servers that fail


@contextlib.contextmanager
def three(**options):
    """Three memcached for this test only, with a proxy and a client."""
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as last,
        NutproxyServer(mc_pool("alpha", [one, two, last], **options)) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        yield [one, two, last], proxy, client


def failed(number, text):
    return b"SERVER_ERROR server 's%d' of pool 'alpha': %b\r\n" % (number, text)


REFUSED = b"Connection refused"


def test_a_dead_server_fails_only_requests_that_need_it():
    with three() as (servers, _, client):
        one, dead, last = (keys_of(number, SERVERS, 1)[0] for number in SERVERS)
        fill(client, [one, dead, last])
        servers[1].kill()
        # The old connection may end with a reset.
        wait_until(lambda: client(b"get " + dead) == failed(2, REFUSED), "the refusal")
        for line in (
            b"get %b %b" % (one, dead),
            b"gets %b %b %b" % (last, dead, one),
            b"gat 0 %b %b" % (dead, one),
            b"delete " + dead,
            b"mg %b v q" % dead,
            b"flush_all",
        ):
            assert client(line) == failed(2, REFUSED), line
        assert client(b"set %b 0 0 1" % dead, b"v") == failed(2, REFUSED)
        client.send(b"set %b 0 0 1 noreply" % dead, b"v")
        client.send(b"delete %b noreply" % dead)
        assert client(b"set %b 0 0 1" % one, b"v") == STORED
        assert client(b"get %b" % one) == value(one, b"v") + END


def test_keys_of_a_dead_server_are_misses_with_on_dead_server_miss():
    with three(on_dead_server="miss") as (servers, _, client):
        one, dead, last = (keys_of(number, SERVERS, 1)[0] for number in SERVERS)
        fill(client, [one, dead, last])
        servers[1].kill()
        wait_until(lambda: client(b"set %b 0 0 1" % dead, b"v") == failed(2, REFUSED), "refusal")
        assert client(b"get " + dead) == END
        assert client(b"gets " + dead) == END
        assert client(b"gat 0 " + dead) == END
        assert client(b"get %b %b %b" % (last, dead, one)) == found([last, one])
        assert client(b"gat 0 %b %b %b" % (last, dead, one)) == found([last, one])
        assert client(b"mg %b v" % dead) == b"EN\r\n"
        client.send_bytes(b"mg %b v q\r\nmn\r\n" % dead)
        assert client.reply() == b"MN\r\n"
        # Only reads can be misses.
        assert client(b"incr %b 1" % dead) == failed(2, REFUSED)
        assert client(b"md %b" % dead) == failed(2, REFUSED)


def test_a_miss_of_a_dead_server_repeats_key_and_opaque_as_memcached_does():
    with three(on_dead_server="miss") as (servers, _, client):
        live, dead = (keys_of(number, SERVERS, 1)[0] for number in (1, 2))
        coded = base64_of(dead)
        servers[1].kill()
        wait_until(lambda: client(b"set %b 0 0 1" % dead, b"v") == failed(2, REFUSED), "refusal")
        for flags in (b"", b"k", b"O12 v k", b"v k Oab s c", b"f O1"):
            wanted = client(b"mg %b %b" % (live, flags))
            assert client(b"mg %b %b" % (dead, flags)) == wanted.replace(live, dead)
        for flags in (b"k O1 b", b"b O1 k v"):
            wanted = client(b"mg %b %b" % (base64_of(live), flags))
            assert client(b"mg %b %b" % (coded, flags)) == wanted.replace(base64_of(live), coded)
        client.send_bytes(b"mg %b t O1 q\r\nmn\r\n" % dead)
        assert client.reply() == b"MN\r\n"


def test_a_server_that_returns_is_used_again():
    with three() as (servers, _, client):
        [key] = keys_of(2, SERVERS, 1)
        assert client(b"set %b 0 0 1" % key, b"v") == STORED
        servers[1].restart()
        wait_until(lambda: client(b"set %b 0 0 1" % key, b"w") == STORED, "the server's return")
        assert client(b"get " + key) == value(key, b"w") + END


def test_a_server_that_fails_leaves_the_ring_and_returns():
    with three(auto_eject_hosts="true", server_failure_limit=1, server_retry_timeout=100) as (
        servers,
        _,
        client,
    ):
        [key] = keys_of(2, SERVERS, 1)
        servers[1].kill()
        wait_until(lambda: client(b"set %b 0 0 1" % key, b"v") == STORED, "the ejection")
        assert stats(client(b"stats servers"))["s2:state"] == "ejected"
        servers[1].restart()
        wait_until(lambda: stats(client(b"stats servers"))["s2:state"] == "up", "the return")
        assert client(b"get " + key) == END


def test_timed_out_request_gets_no_late_reply():
    with three(timeout=1000) as (servers, _, client):
        [key] = keys_of(1, SERVERS, 1)
        others = keys_of(1, SERVERS, 20)[1:]
        fill(client, [key])
        servers[0].stop()
        client.send_bytes(b"get %b\r\n" % key * 5)
        assert set(client.replies(5)) == {failed(1, b"Connection timed out")}
        client.send(b"incr %b 1 noreply" % key)
        servers[0].cont()
        wait_until(lambda: client(b"get " + key) == found([key]), "the server's return")
        for other in others:
            assert client(b"set %b 0 0 1" % other, b"o") == STORED
            assert client(b"get " + other) == value(other, b"o") + END


def test_a_server_that_accepts_no_more_connections_is_reported():
    with MemcachedServer("-c", "40") as server, contextlib.ExitStack() as stack:
        taken = []
        while not taken or taken[-1](b"get a") == END:
            taken.append(stack.enter_context(MemcacheClient(server.port)))
        with (
            NutproxyServer(mc_pool("alpha", [server])) as proxy,
            MemcacheClient(proxy.port) as client,
        ):
            assert client(b"get a") == failed(1, b"ERROR Too many open connections")
            taken[0].socket.close()
            wait_until(lambda: client(b"get a") == END, "a connection")


def test_an_error_before_the_value_has_been_sent_is_the_reply():
    """memcached sends the error for a value that is too large early, and still reads the value."""
    with (
        MemcachedServer("-I", "1m") as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as client,
        MemcacheClient(proxy.port) as other,
    ):
        for _ in range(5):
            client.send(b"set large 0 0 5000000", b"x" * 5_000_000)
            client.send(b"get k")
            other.send_bytes(b"set k 0 0 1\r\nv\r\nget k\r\n")
            assert other.replies(2) == [STORED, value(b"k", b"v") + END]
            assert client.reply() == b"SERVER_ERROR object too large for cache\r\n"
            assert client.reply() in (END, value(b"k", b"v") + END)
            client.send(b"set large 0 0 5000000 noreply", b"x" * 5_000_000)
            assert client(b"get k") == value(b"k", b"v") + END
        assert "connection closed" not in proxy.log()


def test_an_error_before_the_value_has_been_sent_shifts_no_reply():
    """The server reads the rest after its error has been passed on. It sends no second reply."""
    go = threading.Event()
    size = 20_000_000
    error = b"SERVER_ERROR object too large for cache\r\n"

    def script(session):
        session.lines.readline()
        session.send(b"VERSION 1.6.18\r\n")
        session.lines.readline()
        session.send(error)
        session.wait(go)
        session.lines.read(size + 2)
        answer_memcache(session)

    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as client,
        MemcacheClient(proxy.port) as other,
    ):
        client.send(b"set large 0 0 %d" % size, b"x" * size)
        assert client.reply() == error
        go.set()
        for key in (b"a", b"b", b"c"):
            assert client(b"get " + key) == memcache_reply([b"get", key])
            assert other(b"get " + key) == memcache_reply([b"get", key])
        assert server.accepted == 1


def test_values_of_a_megabyte_pass_whole(client):
    data = random.Random(1).randbytes(1_000_000)
    for key in (keys_of(number, SERVERS, 1)[0] for number in SERVERS):
        assert client(b"set %b 0 0 1000000" % key, data) == STORED
    keys = [keys_of(number, SERVERS, 1)[0] for number in SERVERS]
    assert client(b"get " + b" ".join(keys)) == b"".join(value(key, data) for key in keys) + END


# Servers that lie


@contextlib.contextmanager
def lying(script, **options):
    """A server with this script, a proxy, and two clients that share the server connection."""
    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server], **options)) as proxy,
        MemcacheClient(proxy.port) as client,
        MemcacheClient(proxy.port) as other,
    ):
        yield server, client, other


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"get a", b"STORED\r\n"),
        (b"get a", b"DELETED\r\n"),
        (b"get a", b"1\r\n"),
        (b"get a", b"HD\r\n"),
        (b"get a", b"STAT a 1\r\nEND\r\n"),
        (b"get a", b"VA 1\r\nx\r\n"),
        (b"gat 0 a", b"TOUCHED\r\n"),
        (b"delete a", b"END\r\n"),
        (b"delete a", b"STORED\r\n"),
        (b"incr a 1", b"OK\r\n"),
        (b"incr a 1 noreply", b"OK\r\n"),
        (b"touch a 1", b"1\r\n"),
        (b"mg a v", b"END\r\n"),
        (b"mg a v q", b"NF\r\n"),
        (b"md a", b"EN\r\n"),
        (b"ma a", b"ME a\r\n"),
        (b"flush_all", b"END\r\n"),
        (b"get a", b"MN\r\n"),
        (b"get a", b"VALUE a 0 x\r\n"),
        (b"get a", b"VALUE a 0 1\r\nxx\r\nEND\r\n"),
        (b"get a", b"VALUE a 0 1\r\nx\r\nSTORED\r\n"),
        (b"get a", b"END\n"),
        (b"mg a v", b"VA x\r\n"),
        (b"get a", b"\0\r\n"),
        (b"get a", b"+PONG\r\n"),
    ],
)
def test_a_reply_of_the_wrong_kind_ends_that_connection_and_reaches_no_client(line, reply):
    """The requests on the connection fail, and the next request gets a new connection."""

    def script(session):
        if session.number > 1:
            answer_memcache(session)
        else:
            session.receive()
            session.wait(go_on)
            session.send(reply + b"VALUE secret 0 6\r\nsecret\r\nEND\r\n")
            session.receive()

    go_on = threading.Event()
    with lying(script) as (server, client, other):
        client.send(line)
        wait_until(lambda: server.requests, "the request")
        other.send(b"get b")
        go_on.set()
        if not line.endswith(b"noreply"):
            assert client.reply().startswith(failed(1, b"")[:-2])
        # A request that had not been written yet is sent again.
        assert other.reply().startswith((failed(1, b"")[:-2], found([b"b"])))
        for either in (client, other):
            assert either(b"get b") == value(b"b", value_of(b"b")) + END


def test_stray_reply_reaches_nobody():
    def script(session):
        while request := session.receive():
            session.send(memcache_reply(request))
            if request[1] == b"double":
                session.send(b"VALUE secret 0 6\r\nsecret\r\nEND\r\n")

    with lying(script) as (server, client, other):
        for number in range(20):
            assert client(b"get double") == value(b"double", value_of(b"double")) + END
            # The second reply comes with the first, or when no request waits for it.
            wait_until(lambda: not server.sessions[-1].open, "the end of the connection")
            assert (
                other(b"get b%d" % number)
                == value(b"b%d" % number, value_of(b"b%d" % number)) + END
            )


def test_a_reply_may_come_byte_by_byte():
    def script(session):
        while request := session.receive():
            session.send_bytes(memcache_reply(request))

    with lying(script) as (_, client, other):
        for each in (client, other):
            assert each(b"get a b a") == found([b"a", b"b", b"a"])
            assert each(b"set a 0 0 1", b"v") == STORED


@pytest.mark.parametrize("size", range(1, 40, 3))
def test_an_incomplete_reply_fails_only_its_request(size):
    def script(session):
        while request := session.receive():
            reply = memcache_reply(request)
            if request[1] == b"broken":
                session.send(reply[: min(size, len(reply) - 1)])
                return
            session.send(reply)

    with lying(script) as (_, client, other):
        assert other(b"get a") == found([b"a"])
        assert client(b"get broken") == failed(1, b"Connection reset by peer")
        assert other(b"get a") == found([b"a"])
        assert client(b"get a") == found([b"a"])


def test_values_that_were_not_requested_are_not_merged():
    """One server of a get sends other keys, more keys, or the right keys in the wrong order."""
    for made in (
        lambda keys: [b"other"],
        lambda keys: [*keys, b"other"],
        lambda keys: [*keys, *keys],
        lambda keys: keys[::-1],
    ):

        def script(session, made=made):
            while request := session.receive():
                session.send(found(made(request[1:])))

        with (
            ScriptedMemcached(script) as liar,
            MemcachedServer() as honest,
            NutproxyServer(mc_pool("alpha", [liar, honest])) as proxy,
            MemcacheClient(proxy.port) as client,
        ):
            names = [(b"s1", 1), (b"s2", 1)]
            router = Router("fnv1a_64", "ketama", b"{}", names)
            keys = [b"%d-key" % number for number in range(100)]
            lies = [key for key in keys if router.explain(key).server == 0][:2]
            truth = [key for key in keys if router.explain(key).server == 1][:2]
            fill(client, truth)
            # The first two errors are found on arrival, the others when the parts are merged.
            answer = client(b"get " + b" ".join(lies + truth))
            assert b" reply does not match " in answer or b" does not belong to it" in answer
            assert answer.startswith(b"SERVER_ERROR ")
            assert client(b"get " + b" ".join(truth)) == found(truth)


def test_an_error_instead_of_values_is_the_whole_reply():
    def script(session):
        while session.receive():
            session.send(value(b"a", b"v") + b"SERVER_ERROR out of memory writing get response\r\n")

    with (
        ScriptedMemcached(script) as one,
        ScriptedMemcached(answer_memcache) as two,
        NutproxyServer(mc_pool("alpha", [one, two])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        keys = b" ".join(b"%d-key" % number for number in range(100))
        error = b"SERVER_ERROR out of memory writing get response\r\n"
        assert client(b"get " + keys) == error
        assert client(b"mn") == b"MN\r\n"


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (
            b"VALUE k 0 6\r\na\r\nEND\r\nEND\r\n",
            b"STAT s1:error the server's reply holds no statistics\r\n",
        ),
        (
            b"STAT a 1\r\nSERVER_ERROR none\r\n",
            b"STAT s1:a 1\r\nSTAT s1:error SERVER_ERROR none\r\n",
        ),
    ],
)
def test_invalid_statistics_do_not_shift_replies(reply, shown):
    def answers(text):
        def script(session):
            while session.receive():
                session.send(text)

        return script

    with (
        ScriptedMemcached(answers(reply)) as one,
        ScriptedMemcached(answers(END)) as two,
        NutproxyServer(mc_pool("alpha", [one, two])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        client.send_bytes(b"stats settings\r\nmn\r\n")
        assert client.replies(2) == [shown + END, b"MN\r\n"]


@pytest.mark.parametrize("first", ["text", "binary"])
def test_an_old_server_gets_no_meta_command(first):
    """memcached 1.4 replies ERROR to the line of an ms, and runs the data block as commands. A get
    of the binary protocol needs no meta command."""

    def script(session):
        session.lines.readline()
        session.send(b"VERSION 1.4.39\r\n")
        while request := session.receive():
            session.send(
                b"VALUE k 0 1 7\r\nv\r\nEND\r\n" if request[0] == b"gets" else b"ERROR\r\n"
            )

    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as text,
        BinaryClient(proxy.port) as binary,
    ):
        cause = "server 's1' of pool 'alpha': " + errors.cause("needs_meta")
        for kind in [first, "text", "binary"]:
            if kind == "text":
                assert text(b"ms k 9", b"flush_all") == b"SERVER_ERROR %b\r\n" % cause.encode()
                assert text(b"mg k v").startswith(b"SERVER_ERROR server 's1'")
            else:
                for op in (Op.SET, Op.SETQ):
                    refused = binary(op, b"k", b"flush_all", extras=bytes(8), opaque=5)
                    assert (refused.status, refused.opaque) == (Status.TEMPORARY, 5)
                    assert refused.value == cause.encode()
                assert binary(Op.GET, b"k").value == b"v"
        names = {request[0] for request in server.requests}
        assert names == {b"gets"}
