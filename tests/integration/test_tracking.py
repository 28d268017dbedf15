# tests/integration/test_tracking.py: client-side caching
"""CLIENT TRACKING: what a client has read is reported to it when it changes.

Conversations of several clients are held with a Redis and with nutproxy, and what each client
receives must be the same bytes. An invalidation may arrive a moment later through nutproxy, so
after each step the test waits for as many bytes as Redis sent.
"""

import contextlib
import random
import re
import socket
import threading
import time
from contextlib import ExitStack

import hiredis
import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from tests.client import Client, request
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, connect, pipeline, wait_until


@pytest.fixture(scope="module")
def proxy(shards):
    """The pools `alpha` of three servers, `one` of the first, and `few` with a small table."""
    config = pool("alpha", shards) + pool("one", shards[:1], databases=4)
    with NutproxyServer(config + pool("few", shards, max_tracked_keys=10)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def direct():
    """A Redis to compare with."""
    with RedisServer() as direct:
        yield direct


# Some of them are on each server.
AFTER_ALL = [f"after-all-{number}" for number in range(20)]


@pytest.fixture(autouse=True)
def empty(direct, shards, proxy):
    """Every server is empty, and nutproxy has told of all that has made it so."""
    for server in [direct, *shards]:
        pipeline(server.port, [("FLUSHALL",)])
    for port in proxy.ports.values():
        for options in ((), ("BCAST",)):
            with Cache(port, *options) as cache, Client(port) as writer:
                for key in AFTER_ALL:
                    notice = None
                    # A client that is told that everything has changed does not have the key.
                    while notice != changed(key):
                        cache("EXISTS", key)
                        writer("SET", key, "1")
                        notice = cache.notice()


# Conversations
# --------------------------------------------------------------------------------------------------


class Talk:
    """Clients `a`, `b`, … of one port. `{a}` in a command is the client id of `a`."""

    def __init__(self, port, names):
        self.port = port
        self.sockets = {name: connect(port) for name in names}
        self.ids = {}
        self.tokens = 0
        for name in names:
            self.sockets[name].settimeout(20)
            self.send(name, "CLIENT ID")
            self.ids[name] = int(self.read(name, 4).removeprefix(b":"))

    def read(self, name, size):
        """At least so many bytes, up to the end of a line."""
        data = b""
        while len(data) < size or not data.endswith(b"\r\n"):
            part = self.sockets[name].recv(65536)
            assert part, (name, data)
            data += part
        return data

    def send(self, name, text):
        ids = {each: str(number) for each, number in self.ids.items()}
        commands = [line.format(**ids).split() for line in text.split(" ; ")]
        self.sockets[name].sendall(b"".join([request(*command) for command in commands]))

    def flush(self, name, begun=b""):
        """What has come to a client, before the reply to a PING that is sent now."""
        self.tokens += 1
        token = b"token-%d" % self.tokens
        self.sockets[name].sendall(request("PING", token))
        pong = re.compile(rb"(\*2\r\n\$4\r\npong\r\n)?\$\d+\r\n" + token + rb"\r\n$")
        while not (found := pong.search(begun)):
            part = self.sockets[name].recv(65536)
            assert part, (name, begun)
            begun += part
        return begun[: found.start()]

    def end(self, name):
        self.sockets.pop(name).close()
        with Client(self.port) as client:
            number = self.ids[name]
            wait_until(lambda: not client("CLIENT", "LIST", "ID", number), "the end of a client")

    def close(self):
        for each in self.sockets.values():
            each.close()


def with_ids(data, of, to):
    """The same with the client ids of another Talk."""
    for name, number in of.ids.items():
        data = re.sub(rb"(?<=:)%d\r\n" % number, b"<%b>" % name.encode(), data)
    for name, number in to.ids.items():
        data = data.replace(b"<%b>" % name.encode(), b"%d\r\n" % number)
    return data


def converse(server, port, script):
    """Hold a conversation, a line for each step, with Redis and with nutproxy. Returns what the
    clients received."""
    steps = [line.split(": ", 1) for line in script.strip().splitlines()]
    names = sorted({name.strip() for name, _ in steps})
    direct, through = Talk(server.port, names), Talk(port, names)
    log = []
    try:
        for actor, text in steps:
            actor = actor.strip()
            if text == "leaves":
                direct.end(actor)
                through.end(actor)
                continue
            direct.send(actor, text)
            # The reply of the actor tells that the others have got theirs.
            order = sorted(direct.sockets, key=lambda name: name != actor)
            expected = {name: direct.flush(name) for name in order}
            through.send(actor, text)
            for name in order:
                wanted = with_ids(expected[name], direct, through)
                got = through.read(name, len(wanted)) if wanted else b""
                got = through.flush(name, got)
                assert got == wanted, f"{name} after {actor}: {text}"
                log.append((name, got))
    finally:
        direct.close()
        through.close()
    return log


CONVERSATIONS = {
    "a key is reported once, until it is read again": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        b: SET k 1
        a: GET k
        b: SET k 2
        b: SET k 3
        a: GET k
        a: GET k
        b: DEL k
        a: GET other
        b: SET k 4
        b: SET other 1
    """,
    "several keys of a command": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: MGET k1 k2 k3
        b: MSET k1 a k2 b k3 c
        a: HGETALL h
        b: HSET h f v
        a: LRANGE l 0 -1
        b: RPUSH l 1 2
        a: SINTER s1 s2
        b: SADD s2 x
        b: SADD s1 x
    """,
    "own writes": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: GET k
        a: SET k 1
        a: GET k ; SET k 2
        a: GET k
        a: INCR k
    """,
    "a client that reads nothing is told nothing": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        b: SET k 1
        a: SET k 2
        b: SET k 3
        a: EXISTS k2
        b: SET k2 3
    """,
    "two clients": """
        a: HELLO 3
        b: HELLO 3
        a: CLIENT TRACKING ON
        b: CLIENT TRACKING ON
        a: GET k
        b: GET k
        a: GET j
        c: SET k 1
        a: GET k
        c: SET j 1
        c: SET k 2
    """,
    "OPTIN": """
        a: HELLO 3
        a: CLIENT TRACKING ON OPTIN
        a: GET k
        b: SET k 1
        a: CLIENT CACHING YES ; CLIENT TRACKINGINFO ; CLIENT ID ; GET k ; GET j
        b: SET k 2
        b: SET j 2
        a: CLIENT CACHING YES ; GET k ; GET j
        b: SET j 2
        b: SET k 2
        a: CLIENT CACHING YES ; MULTI ; GET k ; GET j ; EXEC
        b: SET j 2
        b: SET k 2
        a: GET k
        b: SET k 2
        a: CLIENT CACHING NO
        a: CLIENT CACHING x
    """,
    "OPTOUT": """
        a: HELLO 3
        a: CLIENT TRACKING ON OPTOUT
        a: GET k
        b: SET k 1
        a: CLIENT CACHING NO ; CLIENT TRACKINGINFO ; GET k
        b: SET k 1
        a: GET k
        b: SET k 1
        a: CLIENT CACHING NO ; MULTI ; GET k ; EXEC
        b: SET k 1
        a: CLIENT CACHING YES
    """,
    "NOLOOP": """
        a: HELLO 3
        a: CLIENT TRACKING ON NOLOOP
        b: HELLO 3
        b: CLIENT TRACKING ON
        a: GET k
        b: GET k
        a: SET k 1
        a: GET k
        b: SET k 2
        a: GET k
        a: DEL k
        b: SET k 3
        a: GET k
        a: SET k 1 EX 100
        b: SET k 4
        a: GET k
        b: SET k 5
        a: CLIENT TRACKINGINFO
    """,
    "BCAST": """
        a: HELLO 3
        a: CLIENT TRACKING ON BCAST
        b: SET k 1
        b: SET k 2
        b: DEL k
        b: MSET m1 1 m2 2
        a: SET k 3
        a: GET k
        a: CLIENT TRACKINGINFO
        a: CLIENT TRACKING ON BCAST
        b: FLUSHALL
        a: CLIENT TRACKING OFF
        b: SET k 1
    """,
    "BCAST with prefixes": """
        a: HELLO 3
        b: HELLO 3
        a: CLIENT TRACKING ON BCAST PREFIX user: PREFIX object:
        b: CLIENT TRACKING ON BCAST PREFIX us
        c: SET user:1 a
        c: SET object:1 b
        c: SET x 1
        c: MSET user:3 a x 1 user:2 b object:1 c
        a: CLIENT TRACKING ON BCAST PREFIX z
        c: SET z1 1
        c: SET user:1 1
        a: CLIENT TRACKINGINFO
    """,
    "FLUSHALL and FLUSHDB, also of another database": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: GET k
        b: FLUSHALL
        b: SET k 1
        a: GET k
        b: SELECT 1
        b: FLUSHDB
        a: FLUSHDB
    """,
    "transactions": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: MULTI ; GET k ; GET j ; EXEC
        b: SET k 2
        b: SET j 2
        a: MULTI ; GET k ; SET k 3 ; EXEC
        b: SET k 4
        a: MULTI ; GET k ; DISCARD
        b: SET k 5
    """,
    "scripts": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: EVAL return(redis.call('get',KEYS[1])) 1 k
        b: SET k 1
        a: EVAL_RO return(redis.call('get',KEYS[1])) 1 k
        b: EVAL return(redis.call('set',KEYS[1],'1')) 1 k
    """,
    "the time to live": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        b: SET k 1
        a: GET k
        b: EXPIRE k 100
        a: TTL k
        b: PERSIST k
    """,
    "databases": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: SELECT 2
        a: GET k
        b: SET k 1
        a: GET k
        b: SELECT 2
        b: SET k 1
    """,
    "OFF, and ON again": """
        a: HELLO 3
        a: CLIENT GETREDIR
        a: CLIENT TRACKINGINFO
        a: CLIENT TRACKING ON
        a: CLIENT GETREDIR
        a: GET k
        a: CLIENT TRACKING OFF
        b: SET k 1
        a: GET k
        b: SET k 1
        a: CLIENT TRACKING ON
        a: GET k
        b: SET k 1
        a: GET k
        a: RESET
        b: SET k 2
        a: CLIENT TRACKINGINFO
    """,
    "RESP2 with REDIRECT": """
        t: SUBSCRIBE __redis__:invalidate
        a: CLIENT TRACKING ON REDIRECT {t}
        a: CLIENT GETREDIR
        a: CLIENT TRACKINGINFO
        a: GET k
        b: SET k 1
        b: SET k 1
        a: GET k
        a: SET k 2
        a: MGET k j
        b: MSET j 1 k 1
        a: GET k
        b: FLUSHALL
        t: UNSUBSCRIBE
        a: GET k
        b: SET k 1
    """,
    "RESP2 with REDIRECT and BCAST": """
        t: SUBSCRIBE __redis__:invalidate
        a: CLIENT TRACKING ON REDIRECT {t} BCAST PREFIX k
        b: SET k 1
        b: MSET k1 1 k2 2 j 3
        a: SET k3 3
        b: FLUSHALL
    """,
    "RESP3 with REDIRECT": """
        a: HELLO 3
        t: HELLO 3
        a: CLIENT TRACKING ON REDIRECT {t}
        a: GET k
        b: SET k 1
        a: GET k
        a: SET k 1
    """,
    "a target that has gone": """
        a: HELLO 3
        a: CLIENT TRACKING ON REDIRECT {t}
        a: GET k
        t: leaves
        b: SET k 1
        a: CLIENT TRACKINGINFO
        a: CLIENT GETREDIR
        a: GET k
        b: SET k 1
        a: CLIENT TRACKING ON
        a: CLIENT TRACKINGINFO
        a: GET k
        b: SET k 1
    """,
    "RESP2 without REDIRECT gets nothing": """
        a: CLIENT TRACKING ON
        a: GET k
        b: SET k 1
        a: CLIENT TRACKINGINFO
    """,
    "RESP3 after tracking began in RESP2": """
        a: CLIENT TRACKING ON
        a: GET k
        a: HELLO 3 SETNAME x
        b: SET k 1
        a: GET k
        b: SET k 1
        a: HELLO 2 SETNAME x
        a: GET k
        b: SET k 1
    """,
    "inline commands": """
        a: HELLO 3
        a: CLIENT TRACKING ON
        a: PING
        a: GET k
        b: SET k 1
    """,
    "what is refused": """
        a: CLIENT TRACKING
        a: CLIENT TRACKING x
        a: CLIENT TRACKING ON x
        a: CLIENT TRACKING ON PREFIX a
        a: CLIENT TRACKING ON PREFIX
        a: CLIENT TRACKING ON OPTIN OPTOUT
        a: CLIENT TRACKING ON BCAST OPTIN
        a: CLIENT TRACKING ON REDIRECT 999999999
        a: CLIENT TRACKING ON REDIRECT x
        a: CLIENT TRACKING ON REDIRECT {b} REDIRECT {b}
        a: CLIENT TRACKING ON BCAST PREFIX a PREFIX ab
        b: CLIENT TRACKING ON BCAST PREFIX a
        b: CLIENT TRACKING ON BCAST PREFIX ab
        b: CLIENT TRACKING ON
        b: CLIENT TRACKING ON BCAST
        a: CLIENT CACHING YES
        a: CLIENT CACHING x
        a: CLIENT TRACKING ON OPTIN
        a: CLIENT TRACKING ON OPTOUT
        a: CLIENT TRACKING ON BCAST
        a: CLIENT TRACKING ON
        a: CLIENT TRACKINGINFO
        a: CLIENT GETREDIR
    """,
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_clients_get_what_redis_sends(direct, proxy, name):
    log = converse(direct, proxy.ports["one"], CONVERSATIONS[name])
    assert any(got for _, got in log)


# One client, in RESP3
# --------------------------------------------------------------------------------------------------

FORGET = [b"invalidate", None]


def changed(*keys):
    return [b"invalidate", [key.encode() for key in keys]]


class Cache(Client):
    """A RESP3 client with tracking, unless `options` is None. `notices` are the invalidations that
    came before a reply."""

    def __init__(self, port, *options):
        super().__init__(port)
        self.socket.settimeout(20)
        self.notices = []
        self("HELLO", "3")
        assert super().__call__("CLIENT", "TRACKING", "ON", *options) == b"OK"

    def notice(self):
        """The next invalidation."""
        return self.notices.pop(0) if self.notices else list(super().reply())

    def reply(self):
        while isinstance(reply := super().reply(), hiredis.PushNotification):
            self.notices.append(list(reply))
        return reply

    def noticed(self):
        """The invalidations so far."""
        self("PING")
        found, self.notices = self.notices, []
        return found


@pytest.fixture(scope="module")
def keys(proxy, shards):
    """A key on each server."""
    found = {}
    with Client(proxy.port) as client:
        for number in range(100):
            key = f"key{number * 7919:x}-{number}"
            client("SET", key, "x")
            [home] = [
                place
                for place, server in enumerate(shards)
                if pipeline(server.port, [("EXISTS", key)]) == [1]
            ]
            found.setdefault(home, key)
    return [found[place] for place in range(3)]


@pytest.fixture
def writer(proxy):
    with Client(proxy.port) as writer:
        yield writer


def test_keys_of_all_servers_are_reported(proxy, keys, writer):
    with Cache(proxy.port) as cache:
        cache("MGET", *keys)
        for key in keys:
            writer("SET", key, "1")
            assert cache.notice() == changed(key)
        cache("MGET", *keys)
        writer("MSET", *[word for key in keys for word in (key, "2")])
        assert sorted(cache.notice() for _ in keys) == sorted(changed(key) for key in keys)
        assert cache.noticed() == []


def test_bcast_reports_the_changes_of_all_servers(proxy, keys, writer):
    with Cache(proxy.port, "BCAST", "PREFIX", "key") as cache:
        for key in [*keys, *keys]:
            writer("SET", key, "1")
            writer("SET", "x" + key, "1")
            assert cache.notice() == changed(key)
        assert cache.noticed() == []


def test_a_change_by_expiry_is_reported(proxy, keys, writer):
    with Cache(proxy.port) as cache:
        for key in keys:
            writer("SET", key, "1", "PX", "30")
            cache("GET", key)
        assert sorted(cache.notice() for _ in keys) == sorted(changed(key) for key in keys)


def test_a_change_comes_after_the_value_that_was_read_before_it(shards, proxy, keys, writer):
    """The reply of another server, which is stopped, holds up the value."""
    with Cache(proxy.port) as cache, Cache(proxy.port) as other:
        cache("MGET", *keys)
        other("GET", keys[0])
        shards[1].stop()
        try:
            cache.pipeline(("GET", keys[1]), ("GET", keys[0]), ("GET", keys[2]))
            assert other("GET", keys[2]) is None
            writer("SET", keys[0], "new")
            assert other.notice() == changed(keys[0])
        finally:
            shards[1].cont()
        assert [cache.reply(), cache.reply(), cache.reply()] == [None, None, None]
        assert cache.notices == []
        assert cache.notice() == changed(keys[0])


def test_a_client_that_waits_in_a_server_is_told_at_once(proxy, keys, writer):
    with Cache(proxy.port) as cache:
        cache("GET", keys[0])
        cache.send("BLPOP", "list", "0")
        wait_until(lambda: b"flags=bt" in writer("CLIENT", "LIST"), "a client that waits")
        writer("SET", keys[0], "1")
        assert cache.notice() == changed(keys[0])
        writer("RPUSH", "list", "x")
        assert cache.reply() == [b"list", b"x"]
        assert cache.noticed() == []


def test_what_is_read_over_a_connection_of_its_own_is_forgotten_at_once(proxy, keys, writer):
    """WATCH, XREAD with BLOCK: their connections are used by others later."""
    key, other = keys[0], keys[1]
    with Cache(proxy.port) as cache:
        cache("WATCH", key)
        cache("MULTI")
        cache("GET", key)
        assert cache("EXEC") == [None]
        assert cache.notice() == changed(key)
        cache("SELECT", "0")
        writer("XADD", "stream", "1-1", "f", "v")
        assert cache("XREAD", "BLOCK", "1000", "STREAMS", "stream", "0")
        assert cache.notice() == changed("stream")
        assert cache("GET", other) is None
        writer("SET", other, "1")
        assert cache.notice() == changed(other)
        assert cache.noticed() == []


def test_a_transaction_of_several_servers_is_tracked(shards):
    with ExitStack() as stack:
        config = pool("alpha", shards, transactions="split")
        proxy = stack.enter_context(NutproxyServer(config))
        cache, writer = Cache(proxy.port), Client(proxy.port)
        stack.enter_context(cache)
        stack.enter_context(writer)
        cache("MULTI")
        for name in "abcdef":
            cache("GET", name)
        cache("MGET", "g", "h", "i")
        assert len(cache("EXEC")) == 7
        for name in "abcdefghi":
            writer("SET", name, "1")
            assert cache.notice() == changed(name)


def test_a_pause_does_not_end_caching_yes(shards):
    """CLIENT CACHING is about the next command, which CLIENT PAUSE delays."""
    with ExitStack() as stack:
        proxy = stack.enter_context(NutproxyServer(pool("alpha", shards)))
        cache = stack.enter_context(Cache(proxy.port, "OPTIN"))
        writer = stack.enter_context(Client(proxy.port))
        writer("CLIENT", "PAUSE", "100")
        cache.pipeline(("CLIENT", "CACHING", "YES"), ("GET", "k"))
        assert cache.replies(2) == [b"OK", None]
        cache.noticed()
        writer("SET", "k", "1")
        assert cache.notice() == changed("k")


def test_another_client_is_told_after_the_reply_that_it_is_about(shards, proxy, keys, writer):
    """With REDIRECT. The reply is held up by one of another server, which is stopped."""
    with ExitStack() as stack:
        target, probe = Cache(proxy.port), Cache(proxy.port)
        readers = [Client(proxy.port) for _ in range(2)]
        for each in (target, probe, *readers):
            stack.enter_context(each)
        numbers = [reader("CLIENT", "ID") for reader in readers]
        for reader in readers:
            reader("CLIENT", "TRACKING", "ON", "REDIRECT", target("CLIENT", "ID"))
            reader("MGET", *keys)
        probe("GET", keys[0])
        shards[1].stop()
        try:
            for reader in readers:
                reader.pipeline(("GET", keys[1]), ("GET", keys[0]))
            probe("GET", keys[2])
            writer("SET", keys[0], "1")
            assert probe.notice() == changed(keys[0])
            assert target.noticed() == []
            # Others may share the cache of one that leaves.
            assert writer("CLIENT", "KILL", "ID", numbers[0]) == 1
            assert target.notice() == changed(keys[0])
            assert target.noticed() == []
        finally:
            shards[1].cont()
        assert readers[1].replies(2) in ([None, None], [None, b"1"])
        assert target.notice() == changed(keys[0])
        assert target.noticed() == []


def test_tracking_cannot_be_switched_in_a_transaction(proxy):
    with Cache(proxy.port, "OPTIN") as cache:
        for command in (("TRACKING", "OFF"), ("CACHING", "YES")):
            cache("MULTI")
            assert cache.error("CLIENT", *command).startswith("ERR ")
            assert cache.error("EXEC").startswith("EXECABORT")


def test_noloop_reports_a_write_that_failed(proxy, keys, writer):
    key = keys[0]
    with Cache(proxy.port, "NOLOOP") as cache:
        writer("RPUSH", key, "1")
        cache("LRANGE", key, "0", "-1")
        assert cache.error("GETSET", key, "1").startswith("WRONGTYPE")
        assert cache.notice() == changed(key)
        # Whether a conditional write has changed anything is not known in advance.
        cache("GET", keys[1])
        assert cache("SET", keys[1], "1", "XX") is None
        writer("SET", keys[1], "1")
        assert cache.notice() == changed(keys[1])


def test_a_full_table_reports_what_it_forgets(proxy):
    before = proxy.stats()["few"]["tracking_overflows"]
    names = [f"k{number}" for number in range(1000)]
    with Cache(proxy.ports["few"]) as cache, Client(proxy.ports["few"]) as writer:
        kept = set()
        for name in names:
            cache("GET", name)
            kept.add(name)
            for _, [key] in cache.noticed():
                kept.remove(key.decode())
        assert len(kept) == 10
        stats = proxy.stats()["few"]
        assert stats["tracked_keys"] == 10
        assert stats["tracking_overflows"] - before == 990
        # The others are still reported.
        for name in kept:
            writer("SET", name, "1")
            assert cache.notice() == changed(name)
        cache("MGET", *names)
        assert len(cache.noticed()) == 990


def test_a_long_key_or_many_keys_are_forgotten_at_once(proxy, writer):
    with Cache(proxy.port) as cache:
        long = "k" * 513
        cache("GET", long)
        assert cache.notice() == changed(long)
        cache("MGET", *[f"k{number}" for number in range(9000)])
        assert cache.notice() == FORGET
        cache("GET", long[:512])
        writer("SET", long[:512], "1")
        assert cache.notice() == changed(long[:512])
        assert cache.noticed() == []


def test_what_a_client_has_read_leaves_with_it(proxy):
    def kept():
        stats = proxy.stats()["alpha"]
        return stats["tracking_clients"], stats["tracked_keys"]

    wait_until(lambda: kept() == (0, 0), "an empty table")
    with Cache(proxy.port) as cache, Cache(proxy.port) as other, Cache(proxy.port, "BCAST"):
        for number in range(300):
            cache("GET", f"k{number}")
            other("GET", f"k{number}")
        assert kept() == (3, 600)
        info = cache("INFO", "clients").decode()
        assert "tracking_clients:3\r\n" in info
        cache("RESET")
        wait_until(lambda: kept() == (2, 300), "the entries of one client")
        other("CLIENT", "TRACKING", "OFF")
        wait_until(lambda: kept() == (1, 0), "an empty table")
    wait_until(lambda: kept() == (0, 0), "no client")


def test_nothing_is_sent_by_servers_while_no_client_tracks(proxy, shards):
    """The connections for invalidations end."""

    def tracking():
        lines = [line for server in shards for line in connections(server)]
        return [line for line in lines if re.search(r" flags=\w*B", line)]

    with Cache(proxy.port, "BCAST"):
        # Those of other pools have ended, too.
        wait_until(lambda: len(tracking()) == 3, "a connection to each server")
    wait_until(lambda: not tracking(), "the end of the connections")


def test_many_changes_for_many_prefixes_reach_every_client(proxy):
    """64 prefixes and 1,000 keys: one client in each turn."""
    port = proxy.ports["one"]
    keys = [f"p{number % 64:02}:{number}" for number in range(1000)]
    options = [word for number in range(64) for word in ("PREFIX", f"p{number:02}:")]
    with contextlib.ExitStack() as stack:
        caches = [stack.enter_context(Cache(port, "BCAST", *options)) for _ in range(5)]
        writer = stack.enter_context(Client(port))
        writer("MSET", *[word for key in keys for word in (key, "1")])
        for cache in caches:
            found = [key for _ in range(64) for key in cache.notice()[1]]
            assert sorted(found) == sorted(key.encode() for key in keys)


def test_client_list_shows_who_tracks(proxy):
    with Cache(proxy.port, "BCAST") as cache, Client(proxy.port) as target:
        number = target("CLIENT", "ID")
        assert cache("CLIENT", "TRACKING", "ON", "BCAST", "REDIRECT", number) == b"OK"
        line = cache("CLIENT", "LIST", "ID", cache("CLIENT", "ID")).decode()
        assert " flags=tB " in line
        assert f" redir={number} " in line


# Servers and connections that end
# --------------------------------------------------------------------------------------------------


def test_a_server_that_dies_invalidates_everything(shards):
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()) for _ in range(3)]
        proxy = stack.enter_context(NutproxyServer(pool("alpha", servers)))
        cache = stack.enter_context(Cache(proxy.port))
        cast = stack.enter_context(Cache(proxy.port, "BCAST"))
        writer = stack.enter_context(Client(proxy.port))
        names = [f"k{number}" for number in range(30)]
        cache("MGET", *names)
        servers[1].kill()
        assert cache.notice() == FORGET
        assert cast.notice() == FORGET
        servers[1].restart()

        def read_again():
            reply = cache("MGET", *names)
            return not isinstance(reply, hiredis.ReplyError) and not cache.noticed()

        wait_until(read_again, "a tracked read of all servers")
        for name in names:
            writer("SET", name, "1")
            assert cache.notice() == changed(name)
            while (found := cast.notice()) == FORGET:
                pass
            assert found == changed(name)


def test_a_server_that_is_ejected_or_returns_invalidates_everything():
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()) for _ in range(3)]
        config = pool(
            "alpha",
            servers,
            auto_eject_hosts="true",
            server_failure_limit=1,
            server_retry_timeout=200,
            timeout=400,
        )
        proxy = stack.enter_context(NutproxyServer(config))
        cache = stack.enter_context(Cache(proxy.port))
        writer = stack.enter_context(Client(proxy.port))
        names = [f"k{number}" for number in range(30)]
        cache("MGET", *names)
        servers[2].kill()

        def ejected(number):
            writer("MGET", *names)
            return proxy.stats()["alpha"]["s3"]["server_ejected"] == number

        wait_until(lambda: ejected(1), "the ejection")
        assert cache.notice() == FORGET
        wait_until(lambda: cache("MGET", *names) and not cache.noticed(), "a tracked read")
        servers[2].restart()
        wait_until(lambda: ejected(0), "the return")
        # Its keys have been read from other servers.
        assert cache.notice() == FORGET
        wait_until(lambda: cache("MGET", *names) and not cache.noticed(), "a tracked read")
        for name in names:
            writer("SET", name, "1")
            assert cache.notice() == changed(name)


def connections(server):
    """The lines of its CLIENT LIST."""
    return pipeline(server.unix_path, [("CLIENT", "LIST")])[0].decode().splitlines()


def kill_connections(server, condition):
    """End connections of nutproxy, as an administrator may. Returns how many."""
    killed = 0
    for line in connections(server):
        if condition(line):
            number = re.match(r"id=(\d+) ", line)[1]
            killed += pipeline(server.unix_path, [("CLIENT", "KILL", "ID", number)])[0]
    return killed


@pytest.mark.parametrize("listener", [True, False])
def test_a_connection_that_ends_invalidates_everything(listener):
    """That which reports changes, or that on which keys were read."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        proxy = stack.enter_context(NutproxyServer(pool("alpha", [server])))
        cache = stack.enter_context(Cache(proxy.port))
        writer = stack.enter_context(Client(proxy.port))
        for _ in range(10):
            cache("GET", "k")
            cache.noticed()
            kill_connections(
                server, lambda line: " flags=t" in line and (" redir=0 " in line) == listener
            )
            assert cache.notice() == FORGET
            wait_until(lambda: cache("GET", "k") is None and not cache.noticed(), "a tracked read")
            writer("SET", "k", "1")
            assert cache.notice() == changed("k")
            writer("DEL", "k")


def test_while_changes_are_not_reported_nothing_may_be_kept():
    """The server accepts no connection for invalidations any more."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        proxy = stack.enter_context(NutproxyServer(pool("alpha", [server])))
        cache = stack.enter_context(Cache(proxy.port))
        cast = stack.enter_context(Cache(proxy.port, "BCAST", "PREFIX", "k"))
        cache("GET", "k")
        cast("GET", "k")
        pipeline(server.port, [("ACL", "SETUSER", "default", "-client|tracking")])
        assert kill_connections(server, lambda line: " redir=0 " in line) == 2
        assert cache.notice() == FORGET
        assert cast.notice() == FORGET
        for _ in range(3):
            cache("GET", "k")
            assert cache.notice() == changed("k")
            cast("MGET", "k", "other")
            assert cast.notice() == changed("k")
        with Client(proxy.port) as refused:
            for options in ((), ("BCAST",)):
                text = refused.error("CLIENT", "TRACKING", "ON", *options)
                assert "CLIENT TRACKING refused: NOPERM" in text
            assert refused("CLIENT", "GETREDIR") == -1
        pipeline(server.port, [("ACL", "SETUSER", "default", "+client|tracking")])
        # What others have read for it meanwhile is not known.
        assert cast.notice() == FORGET
        wait_until(lambda: cache("GET", "k") is None and not cache.noticed(), "a tracked read")
        with Client(proxy.port) as writer:
            writer("SET", "k", "1")
        assert cache.notice() == changed("k")
        assert cast.notice() == changed("k")


# Many clients, and slow ones
# --------------------------------------------------------------------------------------------------


def test_many_clients_of_a_key_are_all_told(proxy, writer):
    with ExitStack() as stack:
        caches = [stack.enter_context(Cache(proxy.port)) for _ in range(1200)]
        for cache in caches:
            cache("GET", "k")
        for cache in caches[::2]:
            cache("GET", "j")
        writer("SET", "k", "1")
        writer("SET", "j", "1")
        for number, cache in enumerate(caches):
            wanted = [changed("k"), changed("j")] if number % 2 == 0 else [changed("k")]
            assert sorted(cache.notice() for _ in wanted) == sorted(wanted)
            cache("GET", "k")
        writer("FLUSHALL")
        for cache in caches:
            assert cache.notice() == FORGET
            cache("GET", "k")
            cache.notices.clear()


def test_a_client_that_does_not_read_is_closed_and_others_are_not(shards):
    config = pool("alpha", shards, client_max_pending=65536)
    with ExitStack() as stack:
        proxy = stack.enter_context(NutproxyServer(config))
        slow = stack.enter_context(Cache(proxy.port, "BCAST"))
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        quick = stack.enter_context(Cache(proxy.port, "BCAST"))
        writer = stack.enter_context(Client(proxy.port))
        key = "k" * 400

        def closed():
            for _ in range(100):
                writer("SET", key, "1")
            while quick.noticed():
                pass
            return proxy.stats()["alpha"]["slow_subscribers"] == 1

        wait_until(closed, "the end of the slow client")
        assert quick("PING") == b"PONG"


# Caches
# --------------------------------------------------------------------------------------------------


class LocalCache:
    """A cache as an application has it. A thread reads a connection."""

    def __init__(self, port, *options):
        self.port = port
        self.values = {}
        self.options = options
        self.hits = 0
        self.failed = None

    def forget(self, keys):
        if keys is None:
            self.values.clear()
        for key in keys or ():
            self.values.pop(key, None)

    def run(self, names, until):
        chance = random.Random(id(self))
        try:
            with ExitStack() as stack:
                reader = stack.enter_context(Client(self.port))
                reader.socket.settimeout(30)
                reader("HELLO", "3")
                reader("CLIENT", "TRACKING", "ON", *self.options)
                while not until.is_set():
                    some = chance.sample(names, 8)
                    some = [name for name in some if name.encode() not in self.values]
                    self.hits += 8 - len(some)
                    if some:
                        self.fetch(reader, some, chance)
                    self.fetch(reader, [], chance)
                # What is on its way arrives before the values of these.
                self.reader = reader
                stack.pop_all()
        except Exception as error:
            self.failed = error

    def fetch(self, reader, names, chance):
        """Read some keys, in one of several ways, and a PING after them."""
        commands = [("GET", name) for name in names]
        if names and chance.random() < 0.3:
            commands = [("MGET", *names)]
        if "OPTIN" in self.options:
            commands = [each for get in commands for each in (("CLIENT", "CACHING", "YES"), get)]
        reader.pipeline(*commands, ("PING",))
        for command in [*commands, ("PING",)]:
            while isinstance(reply := reader.reply(), hiredis.PushNotification):
                self.forget(reply[1])
            if command[0] == "GET":
                self.values[command[1].encode()] = reply
            elif command[0] == "MGET":
                self.values.update(zip([name.encode() for name in command[1:]], reply, strict=True))


@pytest.mark.parametrize("options", [(), ("OPTIN",), ("BCAST",), ("NOLOOP",)])
def test_no_cache_keeps_an_old_value(shards, proxy, options):
    """Clients with caches read keys while others write them. Afterwards no cache has anything but
    the values on the servers."""
    names = [f"n{number}" for number in range(40)]
    caches = [LocalCache(proxy.port, *options) for _ in range(4)]
    over, written = threading.Event(), threading.Event()

    def write(seed):
        chance = random.Random(seed)
        with Client(proxy.port) as client:
            while not written.is_set():
                some = chance.sample(names, 3)
                client.pipeline(
                    ("SET", some[0], chance.random()),
                    ("DEL", some[1]),
                    ("MSET", some[1], chance.random(), some[2], chance.random()),
                )
                client.replies(3)

    readers = [threading.Thread(target=cache.run, args=(names, over)) for cache in caches]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in [*readers, *writers]:
        thread.start()
    time.sleep(3)
    written.set()
    for thread in writers:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    with Client(proxy.port) as client:
        for cache in caches:
            assert cache.failed is None, cache.failed

            def stale(cache=cache):
                cache.fetch(cache.reader, [], random)
                cached = list(cache.values)
                if not cached:
                    return []
                return [
                    (name, cache.values[name], value)
                    for name, value in zip(cached, client("MGET", *cached), strict=True)
                    if cache.values[name] != value
                ]

            wait_until(lambda stale=stale: not stale(), "an invalidation that is still on its way")
            assert cache.hits > 0
            cache.reader.socket.close()


def test_redis_py_has_a_cache(proxy, keys, writer, monkeypatch):
    # It expects Redis 7.4, whatever it needs of it.
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.2.0")
    config = CacheConfig()
    with redis.Redis(port=proxy.port, protocol=3, cache_config=config) as client:
        for number in range(3):
            for key in keys:
                writer("SET", key, str(number))
            for key in keys:
                wait_until(lambda key=key, n=number: client.get(key) == b"%d" % n, "the new value")
            before = proxy.stats()["alpha"]["client_requests"]
            assert [client.get(key) for key in keys] == [b"%d" % number] * 3
            assert proxy.stats()["alpha"]["client_requests"] == before
