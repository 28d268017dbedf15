# tests/integration/test_scan.py: SCAN and other commands on all keys, with real servers
"""What a client of one Redis may rely on holds for a pool of three: every key that exists from the
beginning to the end is returned, and every scan ends."""

import contextlib
import itertools
import random
import re
import subprocess

import hiredis
import pytest
import redis

from tests.client import Client, request, talk
from tests.integration.conftest import pool
from tests.servers import DEADLINE, HOST, NutproxyServer, RedisServer, pipeline, wait_until

EJECT = {"auto_eject_hosts": "true", "server_failure_limit": 1, "server_retry_timeout": 200}


@pytest.fixture(scope="module")
def shards():
    """Three servers that keep the frequency of use, which `redis-cli --hotkeys` asks for."""
    lfu = ("--maxmemory-policy", "allkeys-lfu")
    with RedisServer(*lfu) as one, RedisServer(*lfu) as two, RedisServer(*lfu) as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxies(shards):
    """Two proxies with the same pool. The second one has the servers in another order."""
    lines = pool("alpha", shards).splitlines(keepends=True)
    other = "".join(lines[:-3] + lines[:-4:-1])
    with (
        NutproxyServer(pool("alpha", shards) + pool("one", shards[:1])) as one,
        NutproxyServer(other) as two,
    ):
        yield one, two


@pytest.fixture
def port(proxies):
    with Client(proxies[0].port) as client:
        assert client("FLUSHALL") == b"OK"
    return proxies[0].port


def fill(port, count, prefix="key"):
    keys = [b"%b:%d" % (prefix.encode(), number) for number in range(count)]
    pipeline(port, [("SET", key, "v") for key in keys])
    return keys


def pages(ask, *options):
    """The pages of a whole scan. `ask` sends a command."""
    cursor = b"0"
    while True:
        cursor, keys = ask("SCAN", cursor, *options)
        yield keys
        if cursor == b"0":
            return


def scan(ask, *options):
    return list(itertools.chain.from_iterable(pages(ask, *options)))


def redis_cli(port, *arguments):
    done = subprocess.run(
        ["redis-cli", "-h", HOST, "-p", str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done
    assert "rror" not in done.stdout + done.stderr, done
    return done.stdout


# One server, and errors
# ----------------------------------------------------------------------------

REQUESTS = [
    ("0",),
    ("00", "COUNT", "2"),
    ("",),
    ("+0",),
    ("-0",),
    ("0\0x",),
    (" 0",),
    ("\t0",),
    ("0 ",),
    ("abc",),
    ("1x",),
    ("0x0",),
    ("1.0",),
    ("18446744073709551616",),
    ("9" * 1000,),
    ("x", "COUNT", "0"),
    ("0", "COUNT", "0"),
    ("0", "COUNT", "-1"),
    ("0", "COUNT", "x"),
    ("0", "COUNT", "9223372036854775808"),
    ("0", "COUNT"),
    ("0", "MATCH"),
    ("0", "MATCH", "*", "MATCH"),
    ("0", "TYPE"),
    ("0", "NOSUCH", "x"),
    ("0", "COUNT", "x", "NOSUCH"),
    ("0", "NOSUCH", "COUNT", "x"),
    ("0", "TYPE", "nosuch", "COUNT", "0"),
    ("0", "count", "10", "match", "none*", "type", "STRING"),
    (),
]


@pytest.mark.parametrize("protover", [2, 3])
@pytest.mark.parametrize("words", REQUESTS, ids=str)
def test_arguments_are_checked_as_in_redis(proxies, shards, port, words, protover):
    """A pool of three empty servers has the replies of one, but for the cursor of the next."""
    sent = request("HELLO", protover) + request("SCAN", *words)

    def replied(address):
        hello, reply = split(talk(address, sent))
        assert hello[:1] in b"*%"
        return reply

    expected = replied(shards[0].port)
    assert replied(proxies[0].ports["one"]) == expected
    if expected == b"*2\r\n$1\r\n0\r\n*0\r\n":
        assert re.fullmatch(rb"\*2\r\n\$\d\r\n[1-9]\d*\r\n\*0\r\n", replied(port))
    else:
        assert replied(port) == expected


def split(data):
    """The two replies in `data`."""
    reader = hiredis.Reader()
    for end in range(1, len(data) + 1):
        reader.feed(data[end - 1 : end])
        if reader.gets() is not False:
            return data[:end], data[end:]
    raise AssertionError(data)


@pytest.mark.parametrize("protover", [2, 3])
def test_pool_of_one_server_has_its_cursors_and_pages(proxies, shards, port, protover):
    fill(shards[0].port, 1000)
    cursor = b"0"
    for _ in range(1000):
        sent = request("HELLO", protover) + request("SCAN", cursor, "COUNT", 7)
        _, direct = split(talk(shards[0].port, sent))
        _, through = split(talk(proxies[0].ports["one"], sent))
        assert through == direct
        [cursor, _] = decode(direct)
        if cursor == b"0":
            return
    raise AssertionError("no end")


def decode(data):
    reader = hiredis.Reader()
    reader.feed(data)
    return reader.gets()


# Clients and tools
# ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("count", [None, 1, 7, 1000, 1_000_000])
def test_scan_iter(port, protocol, count):
    keys = fill(port, 500)
    with redis.Redis(HOST, port, protocol=protocol, socket_timeout=DEADLINE) as client:
        found = list(client.scan_iter(count=count))
        assert set(found) == set(keys)
        # Nothing changes, so nothing is returned twice.
        assert len(found) == 500
        client.rpush("list", 1)
        assert list(client.scan_iter(_type="list", count=count)) == [b"list"]
        assert set(client.scan_iter(match="key:1*", count=count)) == {
            key for key in keys if key.startswith(b"key:1")
        }
        assert list(client.scan_iter(match="none*", count=count)) == []


def test_cursors_are_numbers_that_every_client_can_hold(port):
    fill(port, 2000)
    with Client(port) as client:
        cursor = b"0"
        while True:
            cursor, _ = client("SCAN", cursor)
            assert re.fullmatch(rb"0|[1-9][0-9]*", cursor)
            # As Number() in JavaScript, or tonumber() in Lua.
            assert b"%d" % int(float(cursor)) == cursor
            if cursor == b"0":
                return


def test_delete_pattern_of_django_redis(shards, port):
    """What django-redis sends: all DEL in one transaction, which a pool of several servers carries
    out with `transactions: split`."""
    fill(port, 300, "kept")
    fill(port, 300, "prefix:1:gone")
    with (
        NutproxyServer(pool("alpha", shards, transactions="split")) as proxy,
        redis.Redis(HOST, proxy.port, socket_timeout=DEADLINE) as client,
    ):
        batch = client.pipeline()
        for key in client.scan_iter(match="prefix:1:gone*", count=10):
            batch.delete(key)
        assert sum(batch.execute()) == 300
        assert client.dbsize() == 300


@pytest.mark.parametrize("options", [[], ["-3"]], ids=["RESP2", "RESP3"])
def test_redis_cli_scan(port, options):
    keys = fill(port, 300)
    found = redis_cli(port, *options, "--scan").split()
    assert sorted(found) == sorted(key.decode() for key in keys)
    assert sorted(redis_cli(port, *options, "--scan", "--pattern", "key:7?").split()) == [
        f"key:7{digit}" for digit in range(10)
    ]


@pytest.mark.parametrize("options", [[], ["-3"]], ids=["RESP2", "RESP3"])
def test_redis_cli_bigkeys_and_memkeys(port, options):
    fill(port, 300)
    with Client(port) as client:
        client("SET", "long", "x" * 5000)
        client("RPUSH", "list", *range(900))
    for option in ("--bigkeys", "--memkeys"):
        shown = redis_cli(port, *options, option)
        assert "Sampled 302 keys in the keyspace!" in shown
        assert re.search(r"Biggest string found '\"long\"' has 5\d\d\d bytes", shown)
        assert re.search(r"Biggest   list found '\"list\"' has \d+ (items|bytes)", shown)


@pytest.mark.parametrize("options", [[], ["-3"]], ids=["RESP2", "RESP3"])
def test_redis_cli_hotkeys(port, options):
    keys = fill(port, 30)
    pipeline(port, [("GET", keys[7])] * 3000)
    shown = redis_cli(port, *options, "--hotkeys")
    assert "Sampled 30 keys in the keyspace!" in shown
    assert re.search(r'hot key found with counter: \d+\s+keyname: "?key:7\b', shown)


# What a scan promises
# ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_key_that_stays_is_returned_while_tables_grow_and_shrink(proxies, port, seed):
    """Two proxies take turns, with other keys that come and go, enough for the hash tables of the
    servers to grow and to shrink several times."""
    draw = random.Random(seed)
    kept = set(fill(port, 3000, "kept"))
    others = shrunk = 0
    found = []
    with Client(proxies[0].port) as one, Client(proxies[1].port) as two:
        cursor = b"0"
        for number in itertools.count():
            assert number < 100_000, "no end"
            ask = draw.choice([one, two])
            cursor, page = ask("SCAN", cursor, "COUNT", draw.choice([1, 10, 60]))
            found += page
            if cursor == b"0":
                break
            if number % 20 == 10:
                fill(port, draw.choice([100, 4000, 12_000]), f"other{others}")
                others += 1
            elif number % 20 == 0 and (gone := one("KEYS", "other*")):
                assert one("DEL", *gone) == len(gone)
                shrunk += 1
    assert shrunk > 2
    assert kept <= set(found)
    assert all(key in kept or key.startswith(b"other") for key in found)


def test_as_many_requests_as_direct_scans_need(shards, proxies, port):
    """SCAN over all servers costs no request more than a scan of each server directly."""
    fill(port, 20_000)

    def calls():
        stats = [pipeline(server.unix_path, [("INFO", "commandstats")])[0] for server in shards]
        return [int(re.search(rb"cmdstat_scan:calls=(\d+)", text)[1]) for text in stats]

    for server in shards:
        pipeline(server.unix_path, [("CONFIG", "RESETSTAT")])
        with Client(server.unix_path) as client:
            scan(client, "COUNT", 100)
    direct = calls()
    assert sum(direct) > 150
    for server in shards:
        pipeline(server.unix_path, [("CONFIG", "RESETSTAT")])
    with Client(port) as client:
        assert len(scan(client, "COUNT", 100)) == 20_000
    assert calls() == direct


# RANDOMKEY and KEYS
# ----------------------------------------------------------------------------


def test_every_key_is_as_likely_to_be_the_random_one(shards, port):
    """The servers have 5, 100 and 400 keys: how many draws each gets, within six standard
    deviations."""
    sizes = [5, 100, 400]
    for server, size in zip(shards, sizes, strict=True):
        fill(server.port, size, f"on{size}")
    found = []
    with Client(port) as client:
        for _ in range(30):
            client.pipeline(*[("RANDOMKEY",)] * 100)
            found += client.replies(100)
    for size in sizes:
        share = size / sum(sizes)
        count = sum(key.startswith(b"on%d:" % size) for key in found)
        assert abs(count - 3000 * share) <= 6 * (3000 * share * (1 - share)) ** 0.5


def test_random_key_is_null_only_if_all_servers_are_empty(shards, port):
    with Client(port) as client:
        assert client("RANDOMKEY") is None
        for server in shards:
            [key] = fill(server.port, 1)
            assert [client("RANDOMKEY") for _ in range(20)] == [key] * 20
            pipeline(server.unix_path, [("FLUSHALL",)])
        assert client("RANDOMKEY") is None


def test_keys_with_more_bytes_than_max_merged_reply_is_an_error(shards, port):
    fill(port, 2000)
    with (
        NutproxyServer(pool("alpha", shards, max_merged_reply="64kb")) as proxy,
        Client(proxy.port) as client,
    ):
        assert len(client("KEYS", "*")) == 2000
        fill(port, 3000, "others")
        assert client.error("KEYS", "*") == (
            "ERR the servers' replies have more than 65536 bytes together (max_merged_reply)"
        )
        assert len(client("KEYS", "key:*")) == 2000
        assert len(scan(client, "COUNT", 100_000)) == 5000


# Servers that go
# ----------------------------------------------------------------------------


@contextlib.contextmanager
def own_pool(**options):
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        servers = [one, two, three]
        with NutproxyServer(pool("alpha", servers, timeout=300, **options)) as proxy:
            yield servers, proxy


def owner_of(servers, keys):
    """The server that has the keys of this page."""
    return next(
        server for server in servers if pipeline(server.unix_path, [("EXISTS", *keys)])[0] > 0
    )


@pytest.mark.parametrize("options", [{}, EJECT], ids=["kept", "ejected"])
def test_stopped_server_is_an_error_until_it_is_back_and_no_key_is_missed(options):
    with own_pool(**options) as (servers, proxy), Client(proxy.port) as client:
        keys = fill(proxy.port, 900)
        for server in servers:
            found, errors, stopped = [], 0, False
            cursor = b"0"
            while True:
                reply = client("SCAN", cursor, "COUNT", 20)
                if isinstance(reply, hiredis.ReplyError):
                    errors += 1
                    assert f"127.0.0.1:{server.port}" in str(reply) or "server 's" in str(reply)
                    if errors == 5:
                        server.cont()
                    continue
                cursor, page = reply
                found += page
                if cursor == b"0":
                    break
                if page and not stopped and owner_of(servers, page) is server:
                    stopped = True
                    server.stop()
            assert errors >= 5
            assert set(found) == set(keys)


def test_killed_server_is_an_error_and_the_scan_goes_on_when_it_is_back():
    with own_pool() as (servers, proxy), Client(proxy.port) as client:
        keys = fill(proxy.port, 900)
        cursor, page = client("SCAN", "0", "COUNT", 20)
        killed = owner_of(servers, page)
        lost = set(pipeline(killed.unix_path, [("KEYS", "*")])[0])
        killed.kill()
        for _ in range(3):
            assert "server 's" in client.error("SCAN", cursor, "COUNT", 20)
        killed.restart()
        wait_until(
            lambda: not isinstance(client("SCAN", cursor, "COUNT", 20), hiredis.ReplyError),
            "the server is back",
        )
        found = []
        while cursor != b"0":
            cursor, page = client("SCAN", cursor, "COUNT", 20)
            found += page
        assert set(found) == set(keys) - lost


def test_ejected_server_is_never_skipped():
    """While it is ejected, its keys go to other servers, and a scan stops at it."""
    with own_pool(**EJECT) as (servers, proxy), Client(proxy.port) as client:
        fill(proxy.port, 900)
        for server in servers:
            server.kill()
            # Servers that are ejected are not asked for their size.
            wait_until(lambda: isinstance(client("DBSIZE"), int), "ejection")
            with pytest.raises(AssertionError, match="server 's"):
                scan(lambda *words: replied(client(*words)), "COUNT", 100)
            server.restart()
            wait_until(
                lambda: not isinstance(ends(client), hiredis.ReplyError), "the server is back"
            )


def replied(reply):
    assert not isinstance(reply, hiredis.ReplyError), str(reply)
    return reply


def ends(client):
    """The reply to the last SCAN of a whole scan, or an error."""
    cursor = b"0"
    while True:
        reply = client("SCAN", cursor, "COUNT", 1000)
        if isinstance(reply, hiredis.ReplyError) or reply[0] == b"0":
            return reply
        cursor = reply[0]


# Databases
# ----------------------------------------------------------------------------


@pytest.mark.parametrize("protover", [2, 3])
def test_scan_and_random_key_are_of_the_client_s_database(port, protover):
    with Client(port) as client, Client(port) as other:
        client("HELLO", protover)
        assert client("SELECT", "3") == b"OK"
        for number in range(200):
            client("SET", f"in3:{number}", "v")
            other("SET", f"in0:{number}", "v")
        assert set(scan(client, "COUNT", 7)) == {b"in3:%d" % number for number in range(200)}
        assert set(scan(other, "COUNT", 7)) == {b"in0:%d" % number for number in range(200)}
        assert {client("RANDOMKEY")[:4] for _ in range(50)} == {b"in3:"}
        assert {other("RANDOMKEY")[:4] for _ in range(50)} == {b"in0:"}


def test_scan_in_a_transaction_is_for_a_pool_of_one_server(proxies, shards, port):
    fill(shards[0].port, 5)
    with Client(proxies[0].ports["one"]) as client:
        client.pipeline(("MULTI",), ("SCAN", 0, "COUNT", 100), ("EXEC",))
        began, queued, [[cursor, keys]] = client.replies(3)
        assert (began, queued, cursor, len(keys)) == (b"OK", b"QUEUED", b"0", 5)
    with Client(port) as client:
        client("MULTI")
        assert client.error("SCAN", 0).startswith("ERR 'SCAN' is for all servers of the pool")
        assert client.error("EXEC").startswith("EXECABORT")
