"""CLIENT KILL, PAUSE, UNPAUSE, UNBLOCK, LIST and INFO act on the clients of the pool as Redis' do
on its own."""

import re
import time

import pytest

from tests.client import Client, read_all, request, requests, talk
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, wait_until


@pytest.fixture(scope="module")
def redis():
    """Asked directly."""
    with RedisServer() as redis:
        yield redis


@pytest.fixture
def backend():
    with RedisServer() as backend:
        yield backend


@pytest.fixture
def proxy(backend):
    with NutproxyServer(pool("one", [backend]) + pool("other", [backend])) as proxy:
        yield proxy


SAME = """\
CLIENT KILL
CLIENT KILL 1.2.3.4:5
CLIENT KILL x y
CLIENT KILL ID
CLIENT KILL ID x
CLIENT KILL ID 0
CLIENT KILL ID -1
CLIENT KILL ID 999999
CLIENT KILL ID 99999999999999999999
CLIENT KILL TYPE foo
CLIENT KILL TYPE normal SKIPME maybe
CLIENT KILL TYPE pubsub
CLIENT KILL type MASTER
CLIENT KILL TYPE slave skipme NO
CLIENT KILL USER nobody
CLIENT KILL USER default ID 999999
CLIENT KILL ADDR 1:2 LADDR 3:4
CLIENT KILL ADDR 1:2 LADDR
CLIENT KILL SKIPME yes ID 999999
CLIENT KILL ID 1 TYPE
CLIENT KILL FOO bar
CLIENT UNBLOCK x
CLIENT UNBLOCK 999999
CLIENT UNBLOCK 999999 foo
CLIENT UNBLOCK 999999 error x
CLIENT UNBLOCK x foo
CLIENT PAUSE
CLIENT PAUSE x
CLIENT PAUSE -1
CLIENT PAUSE 1.5
CLIENT PAUSE 1 foo
CLIENT PAUSE x foo
CLIENT PAUSE 1 write x
CLIENT PAUSE 99999999999999999999
CLIENT PAUSE 1 write
CLIENT UNPAUSE
CLIENT UNPAUSE x
CLIENT NO-EVICT x
CLIENT NO-EVICT on
CLIENT NO-EVICT off
""".splitlines()


def test_the_replies_are_those_of_redis(proxy, redis):
    for command in SAME:
        assert talk(proxy.port, requests(command)) == talk(redis.port, requests(command)), command


def shown(client, number):
    """The fields of a client in CLIENT LIST."""
    line = client("CLIENT", "LIST", "ID", number).decode()
    return dict(word.split("=", 1) for word in line.split())


def waits(client, number):
    return lambda: "b" in shown(client, number)["flags"]


def test_list_shows_transactions_and_waits_as_redis_does(proxy, redis):
    seen = []
    for port in (proxy.port, redis.port):
        with Client(port) as client, Client(port) as other:
            number = client("CLIENT", "ID")
            fields = ("flags", "multi", "sub", "psub")
            found = []
            for command in ("PING", "MULTI", "GET k", "SET k v", "EXEC"):
                client(*command.split())
                found.append([shown(other, number)[name] for name in fields])
            client.send("BLPOP", "q", 0)
            wait_until(waits(other, number), "a client that waits")
            found.append([shown(other, number)[name] for name in fields])
            seen.append(found)
    assert seen[0] == seen[1]


def numbers(client):
    return [int(found) for found in re.findall(r"(?m)^id=(\d+)", client("CLIENT", "LIST").decode())]


@pytest.mark.parametrize("waiting", [False, True])
def test_a_client_is_killed_by_each_of_its_marks(proxy, redis, waiting):
    for port in (proxy.port, redis.port):
        with Client(port) as killer:
            mine = killer("CLIENT", "ID")
            for option in ("id", "addr", "laddr", "old", "type", "user", "all"):
                with Client(port) as victim:
                    number = victim("CLIENT", "ID")
                    fields = shown(killer, number)
                    if waiting:
                        victim.send("BLPOP", "q", 0)
                        wait_until(waits(killer, number), "a client that waits")
                    words = {
                        "id": ("ID", number),
                        "addr": ("ADDR", fields["addr"]),
                        "laddr": ("LADDR", fields["laddr"], "ID", number),
                        "old": (fields["addr"],),
                        "type": ("TYPE", "normal", "SKIPME", "yes"),
                        "user": ("USER", "default", "ID", number),
                        "all": ("ID", number, "ADDR", fields["addr"], "TYPE", "normal"),
                    }[option]
                    expected = b"OK" if option == "old" else 1
                    assert killer("CLIENT", "KILL", *words) == expected, option
                    assert read_all(victim.socket) == b""
                    assert numbers(killer) == [mine]
            assert killer("RPUSH", "q", "v") == 1
            assert killer("DEL", "q") == 1


def test_who_kills_itself_gets_the_reply_first(proxy, redis):
    for port in (proxy.port, redis.port):
        for words in (("SKIPME", "no"), ("TYPE", "normal", "SKIPME", "no")):
            with Client(port) as client:
                client.send_bytes(request("CLIENT", "KILL", *words) + request("PING"))
                assert read_all(client.socket) == b":1\r\n"


def test_clients_of_other_pools_are_not_concerned(proxy):
    with Client(proxy.ports["one"]) as killer, Client(proxy.ports["other"]) as client:
        assert killer("CLIENT", "KILL", "TYPE", "normal") == 0
        killer("CLIENT", "PAUSE", 60000)
        assert client("SET", "k", "v") == b"OK"


def test_many_clients_are_killed_in_portions(proxy):
    clients = [Client(proxy.port) for _ in range(300)]
    for client in clients:
        client.send("BLPOP", "q", 0)
    with Client(proxy.port) as killer:
        wait_until(lambda: b"blocked_clients:300" in killer("INFO", "clients"), "300 waits")
        assert killer("CLIENT", "KILL", "TYPE", "normal") == 300
        assert b"blocked_clients:0" in killer("INFO", "clients")
    for client in clients:
        assert client.closed()


# CLIENT PAUSE
# -------------------------------------------------------------------------------------------------


def test_a_pause_delays_all_and_then_all_is_carried_out_in_order(proxy):
    with Client(proxy.port) as client, Client(proxy.port) as other:
        start = time.monotonic()
        client.pipeline(("CLIENT", "PAUSE", 300), ("SET", "k", 1), ("GET", "k"), ("PING",))
        other.pipeline(("GET", "none"), ("MGET", "a", "b"))
        with Client(proxy.port) as later:
            assert later("PING") == b"PONG"
        assert time.monotonic() - start >= 0.29
        assert client.replies(4) == [b"OK", b"OK", b"1", b"PONG"]
        assert other.replies(2) == [None, [None, None]]


def test_a_pause_of_writes_delays_only_those(proxy):
    with Client(proxy.port) as client, Client(proxy.port) as writer, Client(proxy.port) as third:
        client("CLIENT", "PAUSE", 60000, "WRITE")
        writer.pipeline(("GET", "k"), ("SET", "k", 1), ("GET", "k"))
        assert writer.reply() is None
        third.pipeline(("MULTI",), ("GET", "k"), ("EXEC",), ("EVAL", "return 1", 0))
        assert third.replies(3) == [b"OK", b"QUEUED", [None]]
        assert client("GET", "k") is None
        assert client("CLIENT", "UNPAUSE") == b"OK"
        assert writer.replies(2) == [b"OK", b"1"]
        assert third.reply() == 1


def test_a_pause_can_only_be_made_longer_and_stricter(proxy):
    with Client(proxy.port) as client:
        start = time.monotonic()
        client.pipeline(
            ("CLIENT", "PAUSE", 300, "WRITE"),
            ("CLIENT", "PAUSE", 10, "WRITE"),
            ("SET", "k", 1),
        )
        assert client.replies(3) == [b"OK"] * 3
        assert time.monotonic() - start >= 0.29


def test_what_a_client_that_leaves_has_postponed_is_not_carried_out(proxy, backend):
    with Client(proxy.port) as client, Client(backend.port) as direct:
        client("CLIENT", "PAUSE", 60000, "WRITE")
        with Client(proxy.port) as leaving:
            leaving.send("SET", "k", 1)
            leaving.send("SET", "k", 2)
            assert len(numbers(client)) == 2
        wait_until(lambda: len(numbers(client)) == 1, "it has gone")
        client("CLIENT", "UNPAUSE")
        assert client("DBSIZE") == 0
        assert direct("DBSIZE") == 0


def test_an_exec_is_delayed_if_its_commands_write(proxy):
    with Client(proxy.port) as client, Client(proxy.port) as writer:
        writer.pipeline(("MULTI",), ("SET", "k", 1))
        assert writer.replies(2) == [b"OK", b"QUEUED"]
        client("CLIENT", "PAUSE", 60000, "WRITE")
        writer.send("EXEC")
        assert client("GET", "k") is None
        client("CLIENT", "UNPAUSE")
        assert writer.reply() == [b"OK"]


def blocked(client):
    return int(re.search(rb"blocked_clients:(\d+)", client("INFO", "clients"))[1])


def test_clients_that_a_pause_delays_are_shown_as_blocked(proxy, redis):
    """As in Redis. They leave the count when the pause ends, when they leave, and when they are
    killed."""
    for port in (proxy.port, redis.port):
        with Client(port) as client, Client(port) as one, Client(port) as two:
            number = one("CLIENT", "ID")
            client("CLIENT", "PAUSE", 60000, "WRITE")
            one.send("SET", "k", 1)
            two.pipeline(("MULTI",), ("SET", "k", 2), ("EXEC",))
            wait_until(lambda: blocked(client) == 2, "two writes")
            assert shown(client, number)["flags"] == "b"
            with Client(port) as three:
                third = three("CLIENT", "ID")
                three.send("DEL", "k")
                wait_until(lambda: blocked(client) == 3, "three writes")
            wait_until(lambda: blocked(client) == 2, "the third has left")
            assert third not in numbers(client)
            with Client(port) as four:
                fourth = four("CLIENT", "ID")
                four.send("DEL", "k")
                wait_until(lambda: blocked(client) == 3, "three writes")
                assert client("CLIENT", "KILL", "ID", fourth) == 1
                assert blocked(client) == 2
            client("CLIENT", "UNPAUSE")
            assert one.reply() == b"OK"
            assert two.replies(3) == [b"OK", b"QUEUED", [b"OK"]]
            assert blocked(client) == 0
            assert shown(client, number)["flags"] == "N"
            client("FLUSHALL")


def test_a_pause_of_writes_lets_scripts_go_that_promise_to_write_nothing(proxy, redis):
    reads = "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])"
    stale = "#!lua flags=allow-stale,no-writes\nreturn 2"
    plain = "-- #!lua flags=no-writes\nreturn 3"
    oom = "#!lua flags=allow-oom\nreturn 4"
    for port in (proxy.port, redis.port):
        with Client(port) as client, Client(port) as other:
            shas = [client("SCRIPT", "LOAD", text) for text in (reads, stale, plain, oom)]
            client("SET", "k", "v")
            client("CLIENT", "PAUSE", 60000, "WRITE")
            assert other("EVAL", reads, 1, "k") == b"v"
            assert other("EVAL", stale, 0) == 2
            assert other("EVALSHA", shas[0], 1, "k") == b"v"
            assert other("EVALSHA", shas[1].upper(), 0) == 2
            other.pipeline(("MULTI",), ("EVAL", reads, 1, "k"), ("EVALSHA", shas[1], 0), ("EXEC",))
            assert other.replies(4) == [b"OK", b"QUEUED", b"QUEUED", [b"v", 2]]
            assert blocked(client) == 0
            delayed = [("EVAL", plain, 0), ("EVALSHA", shas[2], 0), ("EVAL", oom, 0)]
            delayed += [("EVALSHA", shas[3], 0)]
            for count, words in enumerate(delayed, 1):
                writer = Client(port)
                writer.send(*words)
                wait_until(lambda: blocked(client) == count, words)  # noqa: B023
                delayed[count - 1] = writer
            other.pipeline(("MULTI",), ("EVAL", reads, 1, "k"), ("EVAL", oom, 0), ("EXEC",))
            wait_until(lambda: blocked(client) == 5, "EXEC")
            client("CLIENT", "UNPAUSE")
            assert other.replies(4) == [b"OK", b"QUEUED", b"QUEUED", [b"v", 4]]
            for writer, value in zip(delayed, (3, 3, 4, 4), strict=True):
                assert writer.reply() == value
                writer.socket.close()


def test_a_pause_in_a_transaction_begins_and_ends_with_its_end(proxy, redis):
    for port in (proxy.port, redis.port):
        with Client(port) as client, Client(port) as writer:
            client.pipeline(
                ("MULTI",),
                ("SET", "k", 1),
                ("CLIENT", "PAUSE", 60000, "WRITE"),
                ("SET", "k", 2),
                ("EXEC",),
            )
            assert client.replies(5) == [b"OK", *[b"QUEUED"] * 3, [b"OK"] * 3]
            writer.send("SET", "k", 3)
            wait_until(lambda: blocked(client) == 1, "a write")
            client.pipeline(("MULTI",), ("GET", "k"), ("CLIENT", "UNPAUSE"), ("EXEC",))
            assert client.replies(4) == [b"OK", b"QUEUED", b"QUEUED", [b"2", b"OK"]]
            assert writer.reply() == b"OK"
            assert client("GET", "k") == b"3"
