"""SELECT, and the commands that name a database. Each (protocol version, database) has server
connections of its own, so no request is ever carried out in another client's database."""

import re

import pytest

from tests.client import Client, requests, talk, words
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, pipeline, wait_until

RANGE = "ERR DB index is out of range"


@pytest.fixture(scope="module")
def backend():
    with RedisServer() as backend:
        yield backend


@pytest.fixture(scope="module")
def proxy(backend, shards):
    with NutproxyServer(
        pool("one", [backend])
        + pool("three", shards)
        + pool("few", [backend], databases=4, max_profiles=3)
        + pool("own", [backend], redis_db=5)
        + pool("both", [backend], redis_db=5, databases=8)
    ) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def empty(redis, backend, shards):
    for server in (redis, backend, *shards):
        pipeline(server.port, [("FLUSHALL",)])


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as redis:
        yield redis


DIALOGUE = (
    "SET k 0",
    "SELECT 3",
    "GET k",
    "SET k 3",
    "SELECT 15",
    "SELECT 16",
    "SELECT -1",
    "SELECT x",
    "GET k",
    "SET k 15",
    "SELECT 3",
    "GET k",
    "MOVE k 3",
    "MOVE k 4",
    "MOVE k 4",
    "MOVE k 16",
    "MOVE k x",
    "GET k",
    "SELECT 4",
    "GET k",
    "COPY k k DB 9",
    "COPY k k DB 9",
    "COPY k k DB 9 REPLACE",
    "COPY k k DB 16",
    "COPY k k DB x",
    "COPY k j",
    "SWAPDB 4 9",
    "DBSIZE",
    "SWAPDB 4 16",
    "SWAPDB x 1",
    "SWAPDB 16 x",
    "SWAPDB 4",
    "KEYS *",
    "FLUSHDB",
    "DBSIZE",
    "SELECT 9",
    "DBSIZE",
    "RESET",
    "GET k",
    "INFO keyspace",
    "SELECT 15",
    "FLUSHALL",
    "DBSIZE",
    "SELECT 0",
    "DBSIZE",
    "SELECT",
    "SELECT 1 2",
)


@pytest.mark.parametrize("hello", ["PING", "HELLO 3"])
def test_the_replies_are_those_of_redis(proxy, redis, hello):
    # Without HELLO's own reply, which names the client and the server.
    sent = requests(hello, *DIALOGUE)
    mine, theirs = (talk(port, sent) for port in (proxy.ports["one"], redis.port))
    if hello == "HELLO 3":
        mine, theirs = (text.partition(b"modules\r\n*0\r\n")[2] for text in (mine, theirs))
    assert mine == theirs
    assert len(mine) > 600


def test_the_replies_of_three_servers_are_those_of_one(proxy, redis):
    sent = requests(*(line for line in DIALOGUE if line != "COPY k j"))
    expected = talk(redis.port, sent)
    assert talk(proxy.ports["three"], sent) == expected


def test_the_order_is_kept_wherever_the_requests_are_cut(proxy):
    sent = requests("SET k 0", "SELECT 1", "SET k 1", "GET k", "SELECT 0", "GET k", "SELECT 1")
    sent += requests("GET k", "DEL k", "SELECT 0", "DEL k")
    expected = (
        b"+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n0\r\n+OK\r\n$1\r\n1\r\n:1\r\n+OK\r\n:1\r\n"
    )
    assert talk(proxy.ports["three"], sent) == expected
    for cut in range(1, len(sent)):
        with Client(proxy.ports["three"]) as client:
            client.send_bytes(sent[:cut])
            client.send_bytes(sent[cut:])
            received = b""
            while len(received) < len(expected):
                received += client.socket.recv(65536)
        assert received == expected


def test_clients_in_different_databases_do_not_see_each_other(proxy):
    with Client(proxy.ports["three"]) as one, Client(proxy.ports["three"]) as other:
        one("SELECT", 1)
        other("SELECT", 2)
        for number in range(100):
            one.send("SET", f"k{number}", "one")
            other.send("SET", f"k{number}", "other")
        one.replies(100)
        other.replies(100)
        assert set(one("MGET", *(f"k{number}" for number in range(100)))) == {b"one"}
        assert set(other("MGET", *(f"k{number}" for number in range(100)))) == {b"other"}
        assert [one("DBSIZE"), other("DBSIZE")] == [100, 100]


def test_clients_in_one_database_share_connections():
    with RedisServer() as backend, NutproxyServer(pool("one", [backend])) as proxy:
        clients = [Client(proxy.ports["one"]) for _ in range(20)]
        for number, client in enumerate(clients):
            client("SELECT", number % 2)
            client("INCR", "k")
        listed = pipeline(backend.unix_path, [("CLIENT", "LIST")])[0].decode()
        assert sorted(re.findall(r"addr=127.*? db=(\d+)", listed)) == ["0", "1"]
        assert clients[0]("GET", "k") == b"10"
        for client in clients:
            client.socket.close()


def test_client_list_shows_the_database(proxy):
    with Client(proxy.ports["one"]) as client:
        client("SELECT", 7)
        assert b" db=7 " in client("CLIENT", "INFO")
        client("RESET")
        assert b" db=0 " in client("CLIENT", "INFO")


def test_a_pool_has_as_many_databases_as_it_says(proxy):
    with Client(proxy.ports["few"]) as client:
        assert client("SELECT", 3) == b"OK"
        client("SET", "k", "3")
        for command in (("SELECT", 4), ("MOVE", "k", 4), ("COPY", "k", "k", "DB", 4)):
            assert client.error(*command) == RANGE
        assert client.error("SWAPDB", 3, 4) == RANGE
        assert client("GET", "k") == b"3"


def test_a_pool_with_a_redis_db_has_no_other_database_unless_it_says_so(proxy, backend):
    with Client(proxy.ports["own"]) as client:
        assert [client("SELECT", number) for number in (0, 5)] == [b"OK", b"OK"]
        client("SET", "k", "5")
        assert client.error("MOVE", "k", 1) == RANGE
        assert client.error("COPY", "k", "j", "DB", 0).startswith("ERR COPY cannot name database 0")
        assert client.error("SELECT", 1).startswith("ERR this pool has one database")
    with Client(proxy.ports["both"]) as client:
        assert client("GET", "k") == b"5"
        assert client("SELECT", 7) == b"OK"
        assert client("GET", "k") is None
        client("SET", "k", "7")
        assert client("SELECT", 0) == b"OK"
        assert client("MOVE", "k", 6) == 1
        assert client("INFO", "keyspace").split()[2:] == [
            b"db6:keys=1,expires=0,avg_ttl=0",
            b"db7:keys=1,expires=0,avg_ttl=0",
        ]
    assert pipeline(backend.port, [("SELECT", 6), ("GET", "k")])[1] == b"5"


def test_clients_share_no_more_combinations_than_max_profiles(proxy):
    """0, 1 and 2 are in use; a database that nobody uses any more gives its place to another."""
    with Client(proxy.ports["few"]) as one, Client(proxy.ports["few"]) as other:
        one("SELECT", 1)
        other("SELECT", 2)
        one("SET", "k", "1")
        other("SET", "k", "2")
        with Client(proxy.ports["few"]) as third:
            third("SET", "k", "0")
            refusal = (
                "ERR pool 'few' serves at most 3 combinations of protocol version, database and"
                " tracking"
            )
            assert third.error("SELECT", 3).startswith(refusal)
            assert third.error("HELLO", 3).startswith(refusal)
            assert third("GET", "k") == b"0"
            other("SELECT", 1)
            assert third("SELECT", 3) == b"OK"
            assert third("GET", "k") is None
            assert other("GET", "k") == b"1"


def test_a_server_with_fewer_databases_refuses_only_those_that_use_the_others():
    with (
        RedisServer("--databases", "2") as redis,
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(proxy.ports["alpha"]) as client,
        Client(proxy.ports["alpha"]) as other,
    ):
        # The first connection of all.
        assert client("SELECT", 9) == b"OK"
        cause = "ERR server 's1' of pool 'alpha': SELECT 9 failed: ERR DB index is out of range"
        for _ in range(5):
            assert client.error("GET", "k") == cause
            assert other("SET", "k", "0") == b"OK"
        assert client("SELECT", 1) == b"OK"
        assert client("GET", "k") is None
        assert proxy.stats()["alpha"]["s1"]["server_down"] == 0


def test_a_new_connection_is_in_the_database_of_its_clients():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(proxy.ports["alpha"]) as client,
    ):
        client("SELECT", 6)
        client("SET", "k", "6")
        redis.restart()
        wait_until(lambda: client("SET", "k", "6") == b"OK", "the server is back")
        assert pipeline(redis.port, [("SELECT", 6), ("GET", "k")])[1] == b"6"
        assert words(pipeline(redis.port, [("SELECT", 99)])[0]) == RANGE


def test_swapdb_is_seen_by_all_clients_at_once(proxy):
    with Client(proxy.ports["three"]) as one, Client(proxy.ports["three"]) as other:
        other("SELECT", 1)
        for number in range(30):
            one("SET", f"k{number}", "0")
        assert one("SWAPDB", 0, 1) == b"OK"
        assert [one("DBSIZE"), other("DBSIZE")] == [0, 30]
