"""Commands that only the configuration describes. Scripted servers have them."""

import pytest

from tests.client import Client, words
from tests.integration.conftest import pool
from tests.scripted import ScriptedServer, bulk, keys_of
from tests.servers import NutproxyServer

SERVERS = 3
A, B, C = (keys_of(number, range(1, SERVERS + 1), 1)[0] for number in (1, 2, 3))

ALPHA = """
   - MYMOD.GET 2 readonly,fast 1 1 1
   - MYMOD.UNION -3 readonly numkeys 1
   - MYMOD.STORE -4 write 1 1 1 numkeys 2
   - MYMOD.PAIRS -3 write 2 -1 2
   - MYMOD.MSET -3 write 1 -1 2 request_policy:multi_shard response_policy:all_succeeded
   - MYMOD.MGET -3 readonly 1 -2 1 request_policy:multi_shard
   - MYMOD.COUNT 1 0 0 0 request_policy:all_shards response_policy:agg_sum
   - MYMOD.FLUSH 1 write 0 0 0 request_policy:all_shards
   - MYMOD.CONFIG -1 admin 0 0 0
   - MYMOD.SEARCH -2 0 0 0
   - MYMOD.DENIED 2 1 1 1
   - MYMOD.OPTIONAL -1 1 1 1"""
# The same name with another form, in another pool.
BETA = """
   - MYMOD.GET -3 2 2 1
   - MYMOD.SEARCH -2 0 0 0"""


def answer(session):
    while request := session.receive():
        name = request[0].upper()
        if name == b"MYMOD.MGET":
            parts = [bulk(key + request[-1]) for key in request[1:-1]]
            session.send(b"*%d\r\n" % len(parts) + b"".join(parts))
        elif name == b"MYMOD.COUNT":
            session.send(b":7\r\n")
        elif name == b"MYMOD.FLUSH" and session.server.fails:
            session.send(b"-ERR it failed\r\n")
        else:
            session.send(b"+OK\r\n")


@pytest.fixture(scope="module")
def servers():
    with (
        ScriptedServer(answer) as one,
        ScriptedServer(answer) as two,
        ScriptedServer(answer) as three,
    ):
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxy(servers):
    text = (
        pool("alpha", servers, custom_commands=ALPHA, deny_commands='["mymod.denied"]')
        + pool("beta", servers, custom_commands=BETA)
        + pool("one", servers[:1], custom_commands=BETA)
        + pool("plain", servers)
    )
    with NutproxyServer(text) as proxy:
        yield proxy


@pytest.fixture
def clients(proxy, servers):
    for server in servers:
        server.requests.clear()
        server.fails = False
    with (
        Client(proxy.ports["alpha"]) as alpha,
        Client(proxy.ports["beta"]) as beta,
        Client(proxy.ports["one"]) as one,
        Client(proxy.ports["plain"]) as plain,
    ):
        yield {"alpha": alpha, "beta": beta, "one": one, "plain": plain}


@pytest.fixture
def alpha(clients):
    return clients["alpha"]


def received(servers):
    """What each server has got since the last call."""
    found = [list(server.requests) for server in servers]
    for server in servers:
        server.requests.clear()
    return found


def test_custom_commands_go_to_the_server_of_their_keys(alpha, servers):
    for number, key in enumerate((A, B, C)):
        for argv in (
            [b"MYMOD.GET", key],
            [b"mymod.get", key],
            [b"MYMOD.UNION", b"1", key, A],
            [b"MYMOD.UNION", b"2", key, key],
            [b"MYMOD.STORE", key, b"1", key],
            [b"MYMOD.PAIRS", b"x", key, A, key, B],
            [b"MYMOD.OPTIONAL", key],
        ):
            assert alpha(*argv) == b"OK"
            expected = [[], [], []]
            expected[number] = [argv]
            assert received(servers) == expected


def test_custom_commands_with_keys_of_several_servers_are_refused(alpha, servers):
    for argv in (
        [b"MYMOD.UNION", b"2", A, B],
        [b"MYMOD.STORE", A, b"1", B],
        [b"MYMOD.STORE", A, b"2", A, B],
        [b"MYMOD.PAIRS", b"x", A, A, B, A],
    ):
        name = argv[0].decode()
        assert alpha.error(*argv).startswith(f"CROSSSLOT Keys of '{name}' are on different")
    assert received(servers) == [[], [], []]


def test_custom_commands_are_split_as_their_policy_says(alpha, servers):
    assert alpha("MYMOD.MSET", A, "1", B, "2", A, "3") == b"OK"
    assert received(servers) == [
        [[b"MYMOD.MSET", A, b"1", A, b"3"]],
        [[b"MYMOD.MSET", B, b"2"]],
        [],
    ]
    assert alpha("MYMOD.MGET", C, A, B, A, ".x") == [key + b".x" for key in (C, A, B, A)]
    assert alpha("MYMOD.COUNT") == 7 * SERVERS
    assert alpha("MYMOD.FLUSH") == b"OK"
    servers[1].fails = True
    assert "other servers" in alpha.error("MYMOD.FLUSH")


def test_custom_command_without_keys_needs_a_pool_of_one_server(clients, servers):
    for name in ("alpha", "beta"):
        refusal = clients[name].error("MYMOD.SEARCH", "word")
        assert refusal == f"ERR 'MYMOD.SEARCH' needs a pool of one server, pool '{name}' has 3"
    assert clients["one"]("MYMOD.SEARCH", "word") == b"OK"
    assert received(servers) == [[[b"MYMOD.SEARCH", b"word"]], [], []]


def test_each_pool_has_its_own_custom_commands(clients, servers):
    assert clients["beta"]("MYMOD.GET", A, B) == b"OK"
    assert received(servers) == [[], [[b"MYMOD.GET", A, B]], []]
    arity = "ERR wrong number of arguments for 'mymod.get' command"
    assert clients["alpha"].error("MYMOD.GET", A, B) == arity
    assert clients["beta"].error("MYMOD.GET", A) == arity
    assert clients["beta"].error("MYMOD.UNION", "1", A).startswith("ERR unknown command")
    assert clients["plain"].error("MYMOD.GET", A).startswith("ERR unknown command 'MYMOD.GET'")
    assert received(servers) == [[], [], []]


def test_custom_commands_can_be_denied_and_may_be_administration(alpha, servers):
    assert alpha.error("MYMOD.DENIED", A) == (
        "NOPERM 'MYMOD.DENIED' is denied by deny_commands of pool 'alpha'"
    )
    assert alpha.error("MYMOD.CONFIG").startswith(
        "NOPERM 'MYMOD.CONFIG' is an administration command"
    )
    assert received(servers) == [[], [], []]


def test_custom_commands_are_queued_in_a_transaction(alpha, servers):
    assert alpha("MULTI") == b"OK"
    assert alpha("MYMOD.GET", A) == b"QUEUED"
    assert alpha.error("MYMOD.DENIED", A).startswith("NOPERM 'MYMOD.DENIED' is denied")
    assert words(alpha("EXEC")).startswith("EXECABORT")
    assert received(servers) == [[], [], []]


def test_known_commands_are_not_changed(clients):
    for client in clients.values():
        assert client("GET", A) == b"OK"
        assert client("PING") == b"PONG"
        assert client.error("MYMOD", A).startswith("ERR unknown command 'MYMOD'")


def test_client_list_shows_a_custom_command(clients):
    alpha = clients["alpha"]
    number = alpha("CLIENT", "ID")
    with Client(alpha.socket.getpeername()[1]) as watcher:
        alpha("MYMOD.GET", A)
        assert b" cmd=mymod.get " in watcher("CLIENT", "LIST", "ID", number)


def test_long_key_of_a_custom_command_is_refused(alpha, servers):
    refusal = alpha.error("MYMOD.GET", b"k" * (2 << 20))
    assert refusal.startswith("ERR a key of 2097152 bytes is too long")
    assert received(servers) == [[], [], []]
