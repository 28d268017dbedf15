"""MULTI, EXEC, DISCARD and WATCH: the replies are those of Redis, and nothing is half done."""

import contextlib
import re

import pytest
import redis as redis_py

from tests.client import Client, request, requests, talk, words
from tests.integration.conftest import pool
from tests.scripted import ScriptedServer
from tests.servers import NutproxyServer, RedisServer, pipeline, proxy_connections, wait_until

DIALOGUES = """
MULTI|SET a 1|INCR a|EXEC
EXEC
DISCARD
UNWATCH
MULTI|EXEC
MULTI|MULTI|GET a|EXEC
MULTI|WATCH a|EXEC
MULTI|GET|SET a 2|EXEC|GET a
MULTI|NOSUCH x|EXEC
MULTI|GET|DISCARD|EXEC
MULTI|EXEC x|EXEC
MULTI|DISCARD x|EXEC
MULTI|DISCARD|EXEC
MULTI|INCR a|DISCARD|GET a
EXEC x
MULTI x|EXEC
SET a 1|WATCH a|MULTI|INCR a|EXEC
WATCH a|SET a 5|MULTI|INCR a|EXEC|GET a
WATCH a|UNWATCH|SET a 9|MULTI|INCR a|EXEC
WATCH a|SET a 1|DISCARD|MULTI|INCR a|EXEC|MULTI|INCR a|EXEC
WATCH a|MULTI|DISCARD|SET a 1|MULTI|INCR a|EXEC
WATCH a|MULTI|GET|EXEC|SET a 3|MULTI|EXEC
WATCH a|MULTI|EXEC|SET a 3|MULTI|EXEC
WATCH a|SET a 2|MULTI|PING|EXEC
WATCH a|WATCH b|SET b 1|MULTI|EXEC
WATCH a|RESET|SET a 1|MULTI|GET a|EXEC
WATCH|MULTI|EXEC
WATCH a b c|MULTI|DISCARD|EXEC
WATCH a|SELECT 1|SET a 1|SELECT 0|MULTI|GET a|EXEC
WATCH a|SELECT 1|MULTI|SET a 1|EXEC|GET a|SELECT 0|GET a
WATCH a|SELECT 1|WATCH b|SELECT 0|SET b 1|MULTI|GET b|EXEC
WATCH a|SELECT 1|WATCH b|SET b 1|SELECT 0|MULTI|GET b|EXEC
SELECT 1|WATCH a|SELECT 0|MULTI|SELECT 2|SET a 1|EXEC|GET a
WATCH a|SET a 1|FLUSHALL|MULTI|GET a|EXEC
WATCH a|EXEC x|SET a 1|MULTI|GET a|EXEC
MULTI|PING|ECHO x|INCR a|PING y|EXEC
MULTI|PING|EXEC
MULTI|CLIENT GETNAME|CLIENT SETNAME z|CLIENT GETNAME|EXEC|CLIENT GETNAME
MULTI|CLIENT SETNAME|CLIENT NOSUCH|GET a|EXEC
MULTI|SELECT 3|SET a 33|SELECT 4|SET a 44|EXEC|GET a|SELECT 3|GET a|SELECT 0|GET a
MULTI|SELECT 99|SET a 1|EXEC|GET a
MULTI|SELECT x|SET a 1|EXEC
MULTI|SELECT 0|SELECT 1|SET a 1|EXEC|GET a|SELECT 0|GET a
MULTI|COPY a b DB 16|MOVE a 99|SWAPDB 1 16|SWAPDB 1 x|SET a 1|EXEC
SELECT 3|MULTI|SELECT 0|SET a 1|EXEC|GET a
SET a x|MULTI|LPUSH a x|INCR a|GET a|EXEC
MULTI|SHUTDOWN|EXEC
MULTI|SAVE|GET a|EXEC
MULTI|UNWATCH|EXEC
MULTI|MGET a b|MSET a 1 b 2|DEL a b|EXEC
MULTI|KEYS *|DBSIZE|FLUSHALL|EXEC
MULTI|EVAL return{1,{2,'x'},false} 0|SCRIPT EXISTS x|EXEC
MULTI|SADD s 1|SMEMBERS s|HSET h f v|HGETALL h|ZADD z 1.5 m|ZSCORE z m|EXEC
MULTI|SET a 1|QUIT
MULTI|RESET|EXEC
MULTI|CLIENT REPLY SKIP|GET a|EXEC
MULTI|TIME x|EXEC
CLIENT REPLY OFF|MULTI|SET a 1|EXEC|CLIENT REPLY ON|GET a
MULTI|CLIENT ID x|OBJECT ENCODING a|OBJECT HELP|EXEC
COMMAND COUNT|MULTI|COMMAND COUNT|EXEC
""".strip().splitlines()
QUEUED = b"+QUEUED\r\n"
# nutproxy refuses to queue it; Redis does what it says.
OWN = {"MULTI|CLIENT REPLY SKIP|GET a|EXEC"}


@pytest.fixture(scope="module")
def redis():
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
        + pool("three", shards)
        + pool("split", shards, transactions="split")
        + pool("small", [backend], client_max_pending="64kb")
        + pool("denied", [backend], deny_commands="[incr, exec]")
    ) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def empty(redis, backend, shards):
    for server in (redis, backend, *shards):
        pipeline(server.port, [("FLUSHALL",), ("CONFIG", "RESETSTAT")])


def after_hello(text):
    return text.partition(b"modules\r\n*0\r\n")[2]


@pytest.mark.parametrize("dialogue", [line for line in DIALOGUES if line not in OWN])
def test_the_replies_are_those_of_redis(proxy, redis, dialogue):
    sent = requests(*dialogue.split("|"))
    expected = talk(redis.port, sent)
    assert talk(proxy.ports["one"], sent) == expected
    pipeline(redis.port, [("FLUSHALL",)])
    pipeline(proxy.ports["one"], [("FLUSHALL",)])
    sent = request("HELLO", "3") + sent
    assert after_hello(talk(proxy.ports["one"], sent)) == after_hello(talk(redis.port, sent))


@pytest.mark.parametrize(
    "dialogue", ["WATCH a|MULTI|PING|SET a 1|GET a|EXEC|GET a", "MULTI|SET a 1|INCR a|EXEC|GET a"]
)
def test_the_replies_are_the_same_wherever_the_requests_are_cut(proxy, redis, dialogue):
    sent = requests(*dialogue.split("|"), "DEL a")
    expected = talk(redis.port, sent)
    for cut in range(1, len(sent)):
        with Client(proxy.ports["three"]) as client:
            client.send_bytes(sent[:cut])
            client.send_bytes(sent[cut:])
            received = b""
            while len(received) < len(expected):
                received += client.socket.recv(65536)
            assert received == expected


def keys_of(shards):
    """By server: its keys."""
    return [set(pipeline(server.port, [("KEYS", "*")])[0]) for server in shards]


def apart(port, shards):
    """A key on each of the servers."""
    with Client(port) as client:
        for number in range(100):
            client("SET", f"{number}:k", "0")
        found = [sorted(keys) for keys in keys_of(shards)]
        client("FLUSHALL")
    return [keys[0].decode() for keys in found]


def test_a_transaction_on_one_of_three_servers(proxy, shards):
    with Client(proxy.ports["three"]) as client:
        client.pipeline(
            ("MULTI",), ("SET", "{x}a", 1), ("INCR", "{x}a"), ("MGET", "{x}a", "{x}b"), ("EXEC",)
        )
        assert client.replies(5) == [b"OK", *[b"QUEUED"] * 3, [b"OK", 2, [b"2", None]]]
    assert sorted(map(len, keys_of(shards))) == [0, 0, 1]


def test_keys_of_several_servers_are_refused_and_nothing_is_carried_out(proxy, shards):
    one, two, _ = apart(proxy.ports["three"], shards)
    with Client(proxy.ports["three"]) as client:
        client.pipeline(("MULTI",), ("SET", one, 1), ("SET", two, 1), ("SET", one, 2), ("EXEC",))
        ok, queued, refusal, after, end = client.replies(5)
        assert [ok, queued, after] == [b"OK", b"QUEUED", b"QUEUED"]
        assert words(refusal) == (
            "CROSSSLOT Keys of this transaction are on different servers of pool 'three';"
            " keys with the same text between '{}' share a server"
        )
        assert words(end) == "EXECABORT Transaction discarded because of previous errors."
        client.pipeline(("MULTI",), ("MSET", one, 1, two, 1), ("EXEC",))
        assert words(client.replies(3)[1]).startswith("CROSSSLOT Keys of 'MSET' ")
        client.pipeline(("MULTI",), ("FLUSHALL",), ("EXEC",))
        assert words(client.replies(3)[1]).startswith("ERR 'FLUSHALL' is for all servers")
        assert client("MGET", one, two) == [None, None]


def test_keys_that_are_watched_belong_to_the_transaction(proxy, shards):
    one, two, _ = apart(proxy.ports["three"], shards)
    for name in ("three", "split"):
        with Client(proxy.ports[name]) as client:
            assert client.error("WATCH", one, two).startswith("CROSSSLOT Keys of 'WATCH' ")
            assert client("WATCH", one) == b"OK"
            assert client.error("WATCH", two).startswith("CROSSSLOT Keys of this transaction ")
            assert client("MULTI") == b"OK"
            assert client.error("SET", two, 1).startswith("CROSSSLOT Keys of this transaction ")
            assert client.error("EXEC").startswith("EXECABORT ")


def test_split_transactions_are_carried_out_by_every_server(proxy, shards):
    one, two, three = apart(proxy.ports["split"], shards)
    with Client(proxy.ports["split"]) as client:
        commands = [
            ("SET", two, "x"),
            ("SET", one, 1),
            ("PING",),
            ("INCR", one),
            ("LPUSH", three, "a", "b"),
            ("INCR", two),
            ("LRANGE", three, 0, -1),
            ("ECHO", "e"),
            ("GET", one),
        ]
        client.pipeline(("MULTI",), *commands, ("EXEC",))
        assert client.replies(len(commands) + 1) == [b"OK", *[b"QUEUED"] * len(commands)]
        ok, one_ok, pong, two_now, length, wrong, items, echo, value = client.reply()
        assert [ok, one_ok, pong, two_now, length] == [b"OK", b"OK", b"PONG", 2, 2]
        assert words(wrong) == "ERR value is not an integer or out of range"
        assert [items, echo, value] == [[b"b", b"a"], b"e", b"2"]
        # An error anywhere, and no server carries out anything.
        client.pipeline(("MULTI",), ("SET", one, 5), ("SET", two, 5), ("GET",), ("EXEC",))
        assert words(client.replies(5)[4]).startswith("EXECABORT ")
        assert client("MGET", one, two) == [b"2", b"x"]
    for server in shards:
        stats = pipeline(server.port, [("INFO", "commandstats")])[0].decode()
        assert re.search(r"cmdstat_exec:calls=(\d+)", stats)[1] == "1"


def test_commands_with_many_keys_are_split_in_split_transactions(proxy, shards):
    keys = [f"{number}:k" for number in range(30)]
    large = "x" * 200_000
    with Client(proxy.ports["split"]) as client:
        client.pipeline(
            ("MULTI",),
            ("MSET", *[word for key in keys for word in (key, key)]),
            ("EXPIRE", keys[3], 1000),
            ("MGET", *keys, "nosuch"),
            ("SET", keys[0], large),
            ("MGET", *keys[:3]),
            ("DEL", *keys[:20], "nosuch"),
            ("EXISTS", *keys),
            ("MGET", keys[25]),
            ("EXEC",),
        )
        assert client.replies(9) == [b"OK", *[b"QUEUED"] * 8]
        values = [key.encode() for key in keys]
        assert client.reply() == [
            b"OK",
            1,
            [*values, None],
            b"OK",
            [large.encode(), *values[1:3]],
            20,
            10,
            [values[25]],
        ]
        client.pipeline(("MULTI",), ("MSET", "a", "1", "b"), ("EXEC",))
        assert words(client.replies(3)[1]) == "ERR wrong number of arguments for 'mset' command"
        client.pipeline(("MULTI",), ("MSETNX", *keys[:6]), ("EXEC",))
        assert words(client.replies(3)[1]).startswith("CROSSSLOT Keys of 'MSETNX' ")
        client.pipeline(("WATCH", keys[0]), ("MULTI",), ("MGET", *keys), ("EXEC",))
        assert words(client.replies(4)[2]).startswith("CROSSSLOT Keys of 'MGET' ")
    stats = [pipeline(server.port, [("INFO", "commandstats")])[0].decode() for server in shards]
    assert [re.search(r"cmdstat_exec:calls=(\d+)", text)[1] for text in stats] == ["1"] * 3


def test_a_split_transaction_has_the_error_of_a_dead_server_in_place_of_its_replies():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        shards = [one, two, three]
        with NutproxyServer(pool("split", shards, transactions="split", timeout=2000)) as proxy:
            keys = apart(proxy.ports["split"], shards)
            two.kill()
            with Client(proxy.ports["split"]) as client:
                client.pipeline(("MULTI",), *[("INCR", key) for key in keys * 2], ("EXEC",))
                first, dead, third, again, dead_too, third_again = client.replies(8)[-1]
                assert [first, third, again, third_again] == [1, 1, 2, 2]
                assert words(dead) == words(dead_too)
                assert words(dead).startswith("ERR server 's2' of pool 'split': ")
                assert client("GET", keys[0]) == b"2"


def test_one_write_and_one_reply_a_transaction(proxy, backend):
    """Twenty commands are one request to the server, and need one round trip."""
    with Client(proxy.ports["one"]) as client:
        client("PING")
        before = proxy.stats()["one"]["s1"]["requests"]
        client.pipeline(("MULTI",), *[("INCR", "a")] * 20, ("EXEC",))
        assert client.replies(22)[-1] == list(range(1, 21))
        assert proxy.stats()["one"]["s1"]["requests"] == before + 1


def test_transactions_of_many_clients_on_one_connection_do_not_mix(proxy, backend):
    clients = [Client(proxy.ports["one"]) for _ in range(20)]
    for _ in range(20):
        for number, client in enumerate(clients):
            client.pipeline(
                ("MULTI",), ("INCR", "n"), ("SET", "who", number), ("GET", "who"), ("EXEC",)
            )
    seen = []
    for _ in range(20):
        for number, client in enumerate(clients):
            *_, (value, ok, who) = client.replies(5)
            assert (ok, who) == (b"OK", b"%d" % number)
            seen.append(value)
    assert sorted(seen) == list(range(1, 401))
    for client in clients:
        client.socket.close()


def test_a_large_transaction_is_sent_while_its_replies_come(proxy, redis):
    """The server replies to MULTI before it has received all of the message."""
    value = "x" * 100_000
    commands = [("SET", f"{{t}}{number}", value) for number in range(100)]
    for port in (proxy.ports["three"], proxy.ports["one"]):
        with Client(port) as client:
            client.socket.settimeout(60)
            client.send_bytes(request("MULTI"))
            for command in commands:
                client.send_bytes(request(*command))
            client.send_bytes(request("EXEC"))
            assert client.replies(101) == [b"OK", *[b"QUEUED"] * 100]
            assert client.reply() == [b"OK"] * 100
            assert client("STRLEN", "{t}7") == 100_000


def test_a_watch_race_is_lost_and_won_as_with_redis(proxy):
    with Client(proxy.ports["three"]) as one, Client(proxy.ports["three"]) as other:
        one("SET", "k", 1)
        one("WATCH", "k")
        assert one("GET", "k") == b"1"
        other("SET", "k", 5)
        one.pipeline(("MULTI",), ("SET", "k", 2), ("EXEC",))
        assert one.replies(3) == [b"OK", b"QUEUED", None]
        one("WATCH", "k")
        one.pipeline(("MULTI",), ("INCR", "k"), ("EXEC",))
        assert one.replies(3) == [b"OK", b"QUEUED", [6]]


def test_links_of_watches_are_given_back_and_used_again():
    with RedisServer() as backend, NutproxyServer(pool("one", [backend])) as proxy:
        port = proxy.ports["one"]
        with Client(port) as client:
            for _ in range(50):
                client.pipeline(("WATCH", "k"), ("MULTI",), ("INCR", "k"), ("EXEC",))
                client.pipeline(("WATCH", "k"), ("UNWATCH",), ("WATCH", "k"), ("MULTI",))
                client.pipeline(("DISCARD",))
                assert client.replies(9)[3][0] > 0
            # The shared one, and that of WATCH; another, while the reply to UNWATCH is due.
            assert len(proxy_connections(backend)) <= 3
            # It is clean: others' changes do not fail the next transaction.
            client("WATCH", "k")
            client("UNWATCH")
            with Client(port) as other:
                other("SET", "k", 7)
            client.pipeline(("WATCH", "j"), ("MULTI",), ("INCR", "k"), ("EXEC",))
            assert client.replies(4)[3] == [8]
        with Client(port) as client:
            client("WATCH", "k")
            before = len(proxy_connections(backend))
        # A client has left, and so has its link.
        wait_until(lambda: len(proxy_connections(backend)) == before - 1, "its link has ended")


def test_exec_fails_when_the_server_of_the_watch_was_restarted():
    with (
        RedisServer() as backend,
        NutproxyServer(pool("one", [backend])) as proxy,
        Client(proxy.ports["one"]) as client,
    ):
        client("WATCH", "k")
        backend.restart()
        wait_until(lambda: client("SET", "k", 1) == b"OK", "the server is back")
        client.pipeline(("MULTI",), ("SET", "k", 2), ("EXEC",))
        assert words(client.replies(3)[2]).startswith(
            "EXECABORT Transaction discarded because the connection of WATCH has ended"
        )
        assert client("GET", "k") == b"1"
        # The session is clean.
        client.pipeline(("WATCH", "k"), ("MULTI",), ("INCR", "k"), ("EXEC",))
        assert client.replies(4)[3] == [2]


def test_exec_on_a_dead_server_is_an_error_and_nothing_else_is_hurt():
    with (
        RedisServer() as backend,
        NutproxyServer(pool("one", [backend], timeout=1000)) as proxy,
        Client(proxy.ports["one"]) as client,
    ):
        client("SET", "k", 1)
        client("MULTI")
        client("INCR", "k")
        backend.kill()
        assert client.error("EXEC").startswith("ERR server 's1' of pool 'one': ")
        assert client.error("EXEC") == "ERR EXEC without MULTI"
        backend.restart()
        wait_until(lambda: client("SET", "k", 1) == b"OK", "the server is back")
        client.pipeline(("MULTI",), ("INCR", "k"), ("EXEC",))
        assert client.replies(3)[2] == [2]


def test_a_transaction_that_times_out_leaves_the_connection_in_order():
    """The late replies belong to the transaction, and to nobody else."""
    with (
        RedisServer() as backend,
        NutproxyServer(pool("one", [backend], timeout=400)) as proxy,
        Client(proxy.ports["one"]) as one,
        Client(proxy.ports["one"]) as other,
    ):
        other("SET", "j", "j")
        backend.stop()
        one.pipeline(("MULTI",), ("SET", "k", 1), ("GET", "k"), ("EXEC",))
        assert "timed out" in words(one.replies(4)[3])
        other.send("GET", "j")
        backend.cont()
        # Redis carries out what it has received. The GET may have timed out, too.
        reply = other.reply()
        assert reply == b"j" or "timed out" in words(reply)
        wait_until(lambda: other("GET", "k") == b"1", "the transaction was carried out")
        assert other("GET", "j") == b"j"


def test_the_reason_of_the_server_is_in_the_reply_to_exec():
    with (
        RedisServer("--maxmemory", "3mb") as backend,
        NutproxyServer(pool("one", [backend])) as proxy,
        Client(proxy.ports["one"]) as client,
    ):
        with contextlib.suppress(Exception):
            for number in range(100):
                client("SET", f"k{number}", "x" * 100_000)
        client.pipeline(("MULTI",), ("SET", "a", "x" * 100_000), ("GET", "a"), ("EXEC",))
        assert words(client.replies(4)[3]) == (
            "EXECABORT Transaction discarded because of:"
            " OOM command not allowed when used memory > 'maxmemory'."
        )


def test_a_server_that_refuses_multi_is_named():
    acl = ["--user", "default", "on", "nopass", "~*", "&*", "+@all", "-multi"]
    with (
        RedisServer(*acl) as backend,
        NutproxyServer(pool("one", [backend])) as proxy,
        Client(proxy.ports["one"]) as client,
    ):
        client.pipeline(("MULTI",), ("SET", "a", 1), ("EXEC",))
        assert words(client.replies(3)[2]).startswith(
            "ERR server 's1' of pool 'one': it refused MULTI (NOPERM"
        )
        assert client("GET", "a") == b"1"


def test_a_transaction_counts_against_the_memory_of_its_client(proxy):
    with Client(proxy.ports["small"]) as client:
        for _ in range(3):
            client("MULTI")
            assert client("SET", "a", "x" * 20000) == b"QUEUED"
            assert client.error("SET", "a", "x" * 20000) == (
                "ERR a transaction of more than 32768 bytes (half of client_max_pending)"
            )
            assert client.error("EXEC").startswith("EXECABORT ")
            assert client("GET", "a") is None


@pytest.mark.parametrize(("name", "first"), [("split", "GET k"), ("one", "PING")])
def test_nutproxy_puts_together_no_more_replies_than_a_turn_allows(proxy, name, first):
    with Client(proxy.ports[name]) as client:
        client.send_bytes(requests("MULTI", first, *["GET k"] * 65536, "EXEC"))
        *_, refusal, end = client.replies(65539)
        assert words(refusal).startswith("ERR a transaction has more than 65536 commands ")
        assert words(end).startswith("EXECABORT ")


def test_denied_commands_make_the_transaction_fail(proxy):
    with Client(proxy.ports["denied"]) as client:
        client.pipeline(("MULTI",), ("SET", "a", 1), ("INCR", "a"), ("DISCARD",))
        assert words(client.replies(4)[2]).startswith("NOPERM 'INCR' is denied")
        client.pipeline(("MULTI",), ("SET", "a", 1), ("EXEC",), ("GET", "a"))
        assert words(client.replies(4)[2]).startswith("EXECABORT ")
        assert client("GET", "a") is None


@pytest.mark.parametrize("command", ["INFO", "HELLO 3", "CLIENT LIST", "CLIENT REPLY OFF"])
def test_what_cannot_be_queued_says_so(proxy, command):
    with Client(proxy.ports["one"]) as client:
        client("MULTI")
        assert client.error(*command.split()).endswith(
            "is not supported by nutproxy in a transaction"
        )
        assert client.error("EXEC").startswith("EXECABORT ")
        assert client("PING") == b"PONG"


def test_a_client_that_leaves_in_a_transaction_has_done_nothing(proxy, backend):
    for end in (b"", request("QUIT"), b"*1\r\n:1\r\n"):
        sent = requests("MULTI", "SET a 1") + end
        assert talk(proxy.ports["one"], sent).startswith(b"+OK\r\n+QUEUED\r\n")
    assert pipeline(backend.port, [("GET", "a")]) == [None]


def test_more_replies_than_a_transaction_has_commands_end_the_connection():
    def script(session):
        while command := session.receive():
            if command[0] == b"EXEC":
                session.send(b"*1\r\n:1\r\n:2\r\n")
            else:
                session.send({b"MULTI": b"+OK\r\n", b"GET": b"$1\r\nv\r\n"}.get(command[0], QUEUED))

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("one", [server])) as proxy,
        Client(proxy.ports["one"]) as client,
    ):
        client.pipeline(("MULTI",), ("INCR", "a"), ("EXEC",))
        assert client.replies(3)[2] == [1]
        assert client("GET", "a") == b"v"
        assert server.accepted == 2


def test_redis_py_pipelines_and_optimistic_locks(proxy):
    with redis_py.Redis(port=proxy.ports["three"]) as client:
        pipe = client.pipeline()
        pipe.set("{a}1", 1).incr("{a}1").get("{a}1")
        assert pipe.execute() == [True, 2, b"2"]
        assert client.transaction(lambda pipe: pipe.multi() or pipe.incr("{a}1"), "{a}1") == [3]
        with client.pipeline() as pipe:
            pipe.watch("{a}1")
            client.set("{a}1", 9)
            pipe.multi()
            pipe.incr("{a}1")
            with pytest.raises(redis_py.WatchError):
                pipe.execute()
        with pytest.raises(redis_py.ResponseError, match="are on different servers"):
            client.pipeline().mset({f"k{number}": 1 for number in range(20)}).execute()
