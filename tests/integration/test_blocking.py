"""Commands that wait in a server: BLPOP and the like, XREAD with BLOCK, WAIT. Each waits on a
server connection of its own, and an element is never popped for a client that has gone."""

import contextlib
import re
import signal
import socket
import time

import pytest

from tests.client import Client, request, requests, talk
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, pipeline, wait_until


@pytest.fixture(scope="module")
def redis():
    """Asked directly."""
    with RedisServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def backend():
    with RedisServer() as backend:
        yield backend


@pytest.fixture(scope="module")
def proxy(backend, shards):
    with NutproxyServer(
        pool("one", [backend])
        + pool("three", shards, timeout=400)
        + pool("few", [backend], max_blocked=2)
    ) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def empty(redis, backend, shards):
    for server in (redis, backend, *shards):
        pipeline(server.port, [("FLUSHALL",)])


def blocked(port):
    """How many clients of this pool or server wait."""
    with Client(port) as client:
        return int(re.search(rb"blocked_clients:(\d+)", client("INFO", "clients"))[1])


def wait_for(port, count):
    wait_until(lambda: blocked(port) == count, f"{count} blocked clients")


# Like one Redis
# -----------------------------------------------------------------------------------------

# `other:` is sent by another client, when the one before it waits if its line ends with `&`.
DIALOGUES = {
    "an element that is there": """
        RPUSH q a b
        BLPOP q 0
        BRPOP q 0
        LLEN q""",
    "null after the timeout": """
        BLPOP q 0.01
        BRPOPLPUSH q r 0.01
        BLMOVE q r LEFT LEFT 0.01
        BLMPOP 0.01 1 q LEFT
        BZPOPMIN z 0.01
        BZMPOP 0.01 1 z MIN
        XREAD BLOCK 10 STREAMS x $""",
    "a push ends it": """
        BLPOP q r 0 &
        other: RPUSH r a
        BRPOP r q 5 &
        other: LPUSH q b c
        LLEN q""",
    "lists": """
        BLMOVE a b LEFT RIGHT 0 &
        other: RPUSH a 1 2
        BRPOPLPUSH a b 0
        LRANGE b 0 -1
        BLMPOP 0 2 c b LEFT COUNT 5""",
    "sorted sets": """
        BZPOPMIN z 0 &
        other: ZADD z 1 a 2 b
        BZPOPMAX z 0
        BZMPOP 0 1 z MAX COUNT 3 &
        other: ZADD z 1 a 2 b""",
    "streams": """
        XREAD COUNT 2 BLOCK 0 STREAMS x $ &
        other: XADD x 5-1 f v
        XREAD BLOCK 0 STREAMS x 0
        XGROUP CREATE x g 0
        XREADGROUP GROUP g c BLOCK 0 STREAMS x >
        XREADGROUP GROUP g c BLOCK 0 NOACK STREAMS x > &
        other: XADD x 6-1 f w
        XREADGROUP GROUP g c BLOCK 5 COUNT 1 STREAMS x >""",
    "a stream is deleted": """
        XGROUP CREATE x g 0 MKSTREAM
        XREADGROUP GROUP g c BLOCK 0 STREAMS x > &
        other: DEL x""",
    "errors": """
        BLPOP q
        BLPOP q x
        BLPOP q -1
        BLPOP q 1e100
        BLPOP q inf
        BLPOP q nan
        BLMPOP 1 0 q LEFT
        BLMPOP 1 x q LEFT
        BLMPOP 1 2 q LEFT
        BLMPOP 0 1 q UP
        BZMPOP 0 1 z MIN COUNT 0
        BLMOVE a b LEFT UP 0
        XREAD BLOCK x STREAMS x $
        XREAD BLOCK -1 STREAMS x $
        XREAD BLOCK 0 STREAMS x y $
        XREAD BLOCK STREAMS x $
        XREAD BLOCK 0 COUNT STREAMS x $
        XREADGROUP GROUP g c BLOCK 0 STREAMS none >
        BRPOPLPUSH a b 0 0
        BZPOPMIN z 0 0 x
        PING""",
    "wrong types": """
        SET s 1
        BLPOP s 0
        BLMOVE s q LEFT LEFT 0
        RPUSH q a
        BLMOVE q s LEFT LEFT 0
        BZPOPMIN s 0
        XREAD BLOCK 0 STREAMS s $
        BLPOP none s 0
        BLPOP wait 0 &
        other: ZADD wait 1 a
        other: DEL wait
        other: RPUSH wait b""",
    "odd timeouts": """
        BLPOP q 0x0.1
        BLPOP q 1e-2
        BLPOP q 0.0001
        BLPOP q .01
        BLPOP q +0.01""",
    "in a transaction": """
        MULTI
        BLPOP q 0
        RPUSH q a
        BLPOP q 0
        XREAD BLOCK 0 STREAMS x $
        BLMOVE q r LEFT LEFT 0
        WAIT 1 0
        EXEC""",
    "in a database": """
        SELECT 3
        BLPOP q 0 &
        other: SELECT 3
        other: RPUSH q a
        BLPOP q 0.01""",
    "WAIT": """
        SET k v
        WAIT 0 0
        WAIT 0 10
        WAIT 1 20
        WAIT x 0
        WAIT 0 x
        WAIT 0 -1
        WAIT 1
        WAIT -1 0""",
}


def converse(port, dialogue, protover, servers):
    """What both clients receive, to the byte. The port is one of these servers, or leads to
    them."""
    received = []
    with Client(port) as client, Client(port) as other:
        for one in (client, other):
            one("HELLO", protover)
        owed = False
        for line in map(str.strip, dialogue.strip().splitlines()):
            if line.startswith("other: "):
                other.send_bytes(requests(line.removeprefix("other: ")))
                received.append(one_reply(other))
                continue
            if owed:
                received.append(one_reply(client))
            owed = line.endswith(" &")
            client.send_bytes(requests(line.removesuffix(" &")))
            if owed:
                wait_until(lambda: sum(blocked(one.port) for one in servers) == 1, "a wait")
            else:
                received.append(one_reply(client))
        if owed:
            received.append(one_reply(client))
    return received


def one_reply(client):
    """The bytes of one reply. Nothing else is received with it."""
    data = client.socket.recv(65536)
    assert data, "closed"
    return data


@pytest.mark.parametrize("protover", [2, 3])
@pytest.mark.parametrize("name", DIALOGUES)
def test_it_is_what_one_redis_says(name, protover, redis, proxy, backend, shards):
    for port, servers in ((proxy.ports["one"], [backend]), (proxy.ports["three"], shards)):
        dialogue = DIALOGUES[name]
        if port == proxy.ports["three"]:
            # Some of the errors have keys where none can be.
            dialogue = tagged(dialogue if name != "errors" else "PING")
        pipeline(redis.port, [("FLUSHALL",)])
        expected = converse(redis.port, dialogue, protover, [redis])
        assert converse(port, dialogue, protover, servers) == expected


KEYS = re.compile(r"(?<= )(q|r|a|b|c|z|x|y|s|wait|none)(?= |$)", re.M)
PLACES = re.compile(r"^(?:other: )?(?:B|L|R|X|SET|DEL|ZADD)")


def tagged(dialogue):
    """The same with all keys on one server. Values and names of consumers change as well."""
    lines = []
    for line in map(str.strip, dialogue.strip().splitlines()):
        lines.append(KEYS.sub(r"{t}\1", line) if PLACES.match(line) else line)
    return "\n".join(lines)


def test_requests_before_and_after_it_keep_their_order(proxy):
    port = proxy.ports["three"]
    with Client(port) as client, Client(port) as other:
        client.pipeline(
            *[("SET", f"k{number}", number) for number in range(100)],
            ("BLPOP", "q", 0),
            ("GET", "k7"),
            ("BLPOP", "q", 0),
            ("PING",),
        )
        assert client.replies(100) == [b"OK"] * 100
        wait_for(port, 1)
        other("RPUSH", "q", "a")
        assert client.replies(2) == [[b"q", b"a"], b"7"]
        wait_for(port, 1)
        other("RPUSH", "q", "b")
        assert client.replies(2) == [[b"q", b"b"], b"PONG"]


@pytest.mark.parametrize(
    "command",
    [
        "BLPOP {} {} 0",
        "BLMOVE {} {} LEFT LEFT 0",
        "BZMPOP 0 2 {} {} MIN",
        "XREAD BLOCK 0 STREAMS {} {} $ $",
    ],
)
def test_keys_on_several_servers_are_refused_and_the_hash_tag_is_named(command, proxy):
    with Client(proxy.ports["three"]) as client:
        error = client.error(*command.format("apple", "queue").split())
        assert error == (
            f"CROSSSLOT Keys of '{command.split()[0]}' are on different servers of pool 'three';"
            " keys with the same text between '{}' share a server"
        )
        assert client("PING") == b"PONG"


def test_only_max_blocked_clients_wait(proxy):
    port = proxy.ports["few"]
    with Client(port) as one, Client(port) as two, Client(port) as three:
        one.send("BLPOP", "q", 0)
        two.send("XREAD", "BLOCK", 0, "STREAMS", "x", "$")
        wait_for(port, 2)
        for command in ("BLPOP q 0", "WAIT 0 0"):
            assert three.error(*command.split()) == (
                "ERR pool 'few' lets at most 2 clients wait in blocking commands (max_blocked)"
            )
        three("RPUSH", "q", "a")
        assert one.reply() == [b"q", b"a"]
        assert three("BLPOP", "q", "0.01") is None


def test_links_are_used_again(proxy, backend):
    with Client(proxy.ports["one"]) as client:
        # The shared link, and one to wait on.
        client("DEL", "q")
        client("BLPOP", "q", "0.01")
        before = connections_made(backend)
        for number in range(20):
            client("RPUSH", "q", number)
            assert client("BLPOP", "q", 0) == [b"q", b"%d" % number]
        assert connections_made(backend) == before + 1


def connections_made(server):
    """Including the one that asks."""
    [info] = pipeline(server.port, [("INFO", "stats")])
    return int(re.search(rb"total_connections_received:(\d+)", info)[1])


# The end of a client
# ------------------------------------------------------------------------------------


def close(client):
    client.socket.close()


def reset(client):
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.socket.close()


def half_close(client):
    client.socket.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("behind", [b"", request("PING"), b"*2\r\n$3\r\nGET"])
@pytest.mark.parametrize("leave", [close, reset, half_close])
def test_what_is_pushed_after_a_client_has_left_stays(leave, behind, proxy, backend):
    port = proxy.ports["one"]
    with Client(port) as other, contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(Client(port))
            client.send_bytes(request("BLPOP", "q", 0) + behind)
            wait_for(backend.port, 1)
            leave(client)
            # Without a wait.
            assert other("RPUSH", "q", "v") == 1
            wait_for(backend.port, 0)
            assert other("LPOP", "q") == b"v"
            wait_for(port, 0)


@pytest.mark.parametrize("gap", [0, 0.0001, 0.001, 0.01])
@pytest.mark.parametrize(
    "commands",
    [
        "RPUSH q a b, BLPOP q 0, PING",
        "BLPOP q 0, PING",
        "BLPOP q nan, PING",
        "SET q a, BLPOP q 0, PING",
        "XREAD BLOCK 0 STREAMS q $, PING",
        "WAIT 0 0, PING",
        "WAIT 1 0, PING",
    ],
)
def test_a_client_that_sends_its_end_after_the_command_gets_what_redis_replies(
    commands, gap, proxy, redis
):
    """The reply, if the command need not wait; else nothing. The end comes with the command, or
    while it is on its way to the server, or while the reply is on its way back."""
    data = requests("FLUSHALL", *commands.split(", "))
    direct = talk(redis.port, data, gap)
    for _ in range(3):
        assert talk(proxy.ports["one"], data, gap) == direct


def test_a_client_that_ends_while_its_server_is_stopped_is_let_go():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("one", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        client.send("BLPOP", "q", 0)
        wait_for(redis.port, 1)
        redis.stop()
        half_close(client)
        wait_until(lambda: blocked(proxy.port) == 0, "the end of the wait")
        redis.cont()
        wait_for(redis.port, 0)


def test_a_wait_does_not_outlive_the_drain(backend):
    with NutproxyServer(pool("one", [backend])) as proxy, Client(proxy.port) as client:
        client.send("BLPOP", "q", 0)
        wait_for(backend.port, 1)
        start = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        assert client.closed()
        assert proxy.process.wait(20) == 0
        # shutdown_timeout is ten seconds.
        assert time.monotonic() - start < 5
        assert "nothing was cut off" in proxy.output


# The end of a server
# ------------------------------------------------------------------------------------


@pytest.fixture
def mortal():
    with RedisServer() as server:
        yield server


def test_a_server_that_dies_costs_its_clients_an_error_each(mortal):
    with (
        NutproxyServer(pool("one", [mortal])) as proxy,
        Client(proxy.port) as one,
        Client(proxy.port) as two,
    ):
        one.send("BLPOP", "q", 0)
        two.send("XREAD", "BLOCK", 0, "STREAMS", "x", "$")
        wait_for(mortal.port, 2)
        mortal.kill()
        for client in (one, two):
            error = str(client.reply())
            assert error == "ERR server 's1' of pool 'one': Connection reset by peer"
        mortal.restart()
        wait_until(lambda: one("RPUSH", "q", "a") == 1, "the server is back")
        assert one("BLPOP", "q", 0) == [b"q", b"a"]
        assert blocked(proxy.port) == 0


def test_a_server_that_hangs_is_waited_for_as_long_as_the_timeout_and_the_pools(mortal):
    with NutproxyServer(pool("one", [mortal], timeout=300)) as proxy, Client(proxy.port) as client:
        client("BLPOP", "q", "0.01")
        client.send("BLPOP", "q", "0.5")
        wait_for(mortal.port, 1)
        start = time.monotonic()
        mortal.stop()
        error = str(client.reply())
        assert error == "ERR server 's1' of pool 'one': Connection timed out"
        assert 0.7 < time.monotonic() - start < 10
        mortal.cont()
        assert client("BLPOP", "q", "0.01") is None


def test_a_wait_is_longer_than_the_timeout_of_the_pool(mortal):
    with (
        NutproxyServer(pool("one", [mortal], timeout=100)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as forever,
    ):
        forever.send("BLPOP", "r", 0)
        assert client("BLPOP", "q", "0.6") is None
        assert client("RPUSH", "r", "a") == 1
        assert forever.reply() == [b"r", b"a"]


# WAIT
# -------------------------------------------------------------------------------------------------


@pytest.fixture
def replicated():
    """Two servers, the second without a replica."""
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer("--replicaof", f"127.0.0.1 {one.port}", "--repl-diskless-sync-delay", "0"),
    ):
        wait_until(
            lambda: b"state=online" in pipeline(one.port, [("INFO", "replication")])[0],
            "a replica",
        )
        yield one, two


@pytest.mark.parametrize("protover", [2, 3])
def test_wait_counts_the_replicas_of_the_server_with_the_fewest(replicated, protover):
    one, two = replicated
    with NutproxyServer(pool("one", [one]) + pool("two", [one, two])) as proxy:
        with Client(proxy.ports["one"]) as client:
            client("HELLO", protover)
            client("SET", "k", "v")
            assert client("WAIT", 1, 0) == 1
            assert client("WAIT", 2, 20) == 1
        with Client(proxy.ports["two"]) as client:
            client("HELLO", protover)
            assert client("WAIT", 1, 20) == 0
            assert client("WAIT", 0, 0) == 0


def test_wait_proves_that_the_replica_has_the_writes_of_the_client(replicated):
    one, _ = replicated
    [info] = pipeline(one.port, [("INFO", "replication")])
    replica = int(re.search(rb"slave0:ip=[^,]*,port=(\d+)", info)[1])
    with NutproxyServer(pool("one", [one])) as proxy, Client(proxy.port) as client:
        # A link that has been lent before.
        client("WAIT", 1, 0)
        for number in range(200):
            client.pipeline(("SET", "k", number), ("WAIT", 1, 0))
            assert client.replies(2) == [b"OK", 1]
            assert pipeline(replica, [("GET", "k")]) == [b"%d" % number]


def test_wait_holds_up_nobody_else(proxy):
    port = proxy.ports["three"]
    with Client(port) as client, Client(port) as other:
        client.send("WAIT", 1, 0)
        wait_for(port, 1)
        assert other("SET", "k", "v") == b"OK"
    wait_for(port, 0)


# CLIENT UNBLOCK
# ------------------------------------------------------------------------------------


@pytest.mark.parametrize("protover", [2, 3])
@pytest.mark.parametrize("reason", [(), ("TIMEOUT",), ("error",)])
@pytest.mark.parametrize(
    "command",
    ["BLPOP q 0", "BLMOVE q r LEFT LEFT 5", "XREAD BLOCK 0 STREAMS x $", "WAIT 1 0"],
)
def test_client_unblock_ends_the_wait_as_in_redis(protover, reason, command, proxy, redis):
    received = []
    for port in (proxy.ports["one"], redis.port):
        with Client(port) as client, Client(port) as other:
            client("HELLO", protover)
            number = client("CLIENT", "ID")
            assert other("CLIENT", "UNBLOCK", number, *reason) == 0
            client.send_bytes(requests(command))
            wait_for(port, 1)
            # At once: the command may still be on its way.
            assert other("CLIENT", "UNBLOCK", number, *reason) == 1
            received.append(one_reply(client))
            assert client("PING") == b"PONG"
            assert other("CLIENT", "UNBLOCK", number, *reason) == 0
    assert received[0] == received[1]


def test_unblock_never_loses_an_element(proxy, backend):
    """It races with a push, on another connection to the server."""
    port = proxy.ports["one"]
    got = pushed = 0
    with Client(port) as client, Client(port) as other, Client(backend.port) as direct:
        number = client("CLIENT", "ID")
        for _ in range(300):
            client.send("BLPOP", "q", 0)
            wait_for(port, 1)
            other.send("CLIENT", "UNBLOCK", number)
            direct.send("RPUSH", "q", "v")
            pushed += direct.reply() >= 0
            done = other.reply()
            reply = client.reply()
            assert (reply is None) == (done == 1)
            got += reply is not None
            got += len(other("LPOP", "q", 10) or ())
    assert got == pushed


def test_unblock_in_a_pool_whose_server_may_not_unblock():
    """Neither CLIENT ID nor CLIENT UNBLOCK: nutproxy ends the wait itself."""
    with (
        RedisServer("--rename-command", "CLIENT", "") as backend,
        NutproxyServer(pool("one", [backend])) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as other,
    ):
        number = client("CLIENT", "ID")
        for reason, reply in ((b"TIMEOUT", "None"), (b"ERROR", "UNBLOCKED client unblocked")):
            client.send("BLPOP", "q", 0)
            wait_for(backend.port, 1)
            assert other("CLIENT", "UNBLOCK", number, reason) == 1
            assert str(client.reply()).startswith(reply)
            wait_for(backend.port, 0)
            assert other("RPUSH", "q", "v") == 1
            assert other("LPOP", "q") == b"v"
