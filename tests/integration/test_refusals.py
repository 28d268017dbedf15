"""A refusal is complete: commands that depend on a refused command do nothing unintended.

A Redis without the proxy shows which commands it executes. Through the proxy, no other command may
be executed.
"""

import random
import re

import pytest
import redis as redis_py

from nutproxy.proto.commands import COMMANDS, OPENS, Behaviour, State
from tests.client import Client, request, requests, talk, words
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, pipeline, wait_until

NO_MULTI = "NOPERM 'MULTI' is denied by deny_commands of pool 'strict'"


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def backend():
    with RedisServer() as backend:
        yield backend


@pytest.fixture(scope="module")
def proxy(backend):
    """Three pools of one server, whose replies are those of Redis."""
    deny = f"[{', '.join(OPENS)}]"
    with NutproxyServer(
        pool("one", [backend], databases=1)
        + pool("five", [backend], redis_db=5)
        + pool("strict", [backend], deny_commands=deny)
    ) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def empty(redis, backend):
    for server in (redis, backend):
        pipeline(server.port, [("FLUSHALL",)])


@pytest.fixture
def client(proxy):
    with Client(proxy.ports["one"]) as client:
        yield client


@pytest.fixture
def strict(proxy):
    with Client(proxy.ports["strict"]) as client:
        yield client


def keys_in(server, database=0):
    return {key.decode() for key in pipeline(server.port, [("SELECT", database), ("KEYS", "*")])[1]}


def least(name):
    """The command with as few arguments as it accepts."""
    return [*name.split(), *["1"] * (abs(COMMANDS[name].arity) - len(name.split()))]


# Every command, and a write after it --------------------------------------------------------------

# Arguments that make the command effective.
ARGUMENTS = {
    "client caching": "YES",
    "client kill": "TYPE pubsub",
    "client tracking": "ON",
    "move": "k 1",
    "psync": "? -1",
    "replconf": "listening-port 1",
    "script debug": "YES",
    "select": "1",
    "swapdb": "0 1",
}
# This command delays later ones, which are executed nevertheless.
DELAYS = {"client pause"}
WRITES = (("SET", "set", "1"), ("EVAL", "return redis.call('set', KEYS[1], 1)", "1", "eval"))


# This command closes the connection.
CLOSES = {"quit"}


def kept_from_servers():
    """Commands that nutproxy refuses, or handles itself and may refuse, too."""
    kept = (Behaviour.UNSUPPORTED, Behaviour.LOCAL)
    return sorted({name for name in COMMANDS if COMMANDS[name].behaviour in kept} - DELAYS - CLOSES)


def sent(name):
    if name in ARGUMENTS:
        return [*name.split(), *ARGUMENTS[name].split()]
    return least(name)


def on_redis(server, command, resp):
    """The keys in database 0 of Redis after the command and the writes."""
    with Client(server.port) as client, Client(server.port) as control:
        if resp == 3:
            client("HELLO", "3")
        number = b"id=%d " % client("CLIENT", "ID")
        client.send(*command)
        # Nothing may be pipelined with SCRIPT DEBUG. MONITOR and SYNC send something that is no
        # reply.
        assert client.socket.recv(1)
        client.pipeline(*WRITES, ("TIME",))

        def done():
            """Has Redis read all commands, whatever their results? The end of the client counts,
            too: Redis closes a client whose script is debugged."""
            lines = control("CLIENT", "LIST").splitlines()
            [line] = [line for line in lines if line.startswith(number)] or [b" cmd=time "]
            return b" cmd=time " in line

        wait_until(done, f"the last command after {command}")
        return keys_in(server)


def on_proxy(port, backend, command, resp):
    with Client(port) as client:
        if resp == 3:
            client("HELLO", "3")
        reply = client(*command)
        client.pipeline(*WRITES, ("PING",))
        client.replies(3)
        return str(reply), keys_in(backend)


@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("name", kept_from_servers())
def test_no_refusal_lets_through_what_redis_would_not_have_carried_out(
    redis, backend, proxy, name, resp
):
    command = sent(name)
    carried_out = on_redis(redis, command, resp)
    _, keys = on_proxy(proxy.ports["one"], backend, command, resp)
    assert keys <= carried_out
    if name not in OPENS:
        assert keys == {"set", "eval"}


@pytest.mark.parametrize("name", OPENS)
def test_a_denied_command_affects_the_same_commands_as_a_refused_one(redis, backend, proxy, name):
    command = sent(name)
    carried_out = on_redis(redis, command, 2)
    refusal, keys = on_proxy(proxy.ports["strict"], backend, command, 2)
    assert refusal.startswith(f"NOPERM '{name.upper()}' is denied")
    assert keys <= carried_out


@pytest.mark.parametrize("name", OPENS)
def test_a_command_with_wrong_arity_starts_nothing(backend, proxy, name):
    command = [*name.split(), *["x"] * 5] if COMMANDS[name].arity > 0 else name.split()
    refusal, keys = on_proxy(proxy.ports["one"], backend, command, 2)
    assert refusal == f"ERR wrong number of arguments for '{name.replace(' ', '|')}' command"
    assert keys == {"set", "eval"}


@pytest.mark.parametrize("name", OPENS)
def test_reset_ends_what_a_refusal_has_started(proxy, name):
    with Client(proxy.ports["strict"]) as client:
        words(client(*sent(name)))
        refusal = client.error(*WRITES[1])
        assert refusal.startswith("ERR 'EVAL' was not carried out")
        assert client("RESET") == b"RESET"
        assert client(*WRITES[1]) == b"OK"


# Transactions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reply"),
    [
        ("EXEC", f"EXECABORT Transaction discarded because of: {NO_MULTI}"),
        (
            "EXEC x",
            "EXECABORT Transaction discarded because of: "
            "wrong number of arguments for 'exec' command",
        ),
        ("DISCARD", b"OK"),
        ("RESET", b"RESET"),
    ],
)
def test_a_refused_transaction_does_nothing_until_its_end(strict, backend, end, reply):
    inside = [
        "INCR k",
        "MULTI",
        "WATCH k",
        "PING",
        "DISCARD x",
        "NOSUCH",
        "GET",
        "CLIENT REPLY OFF",
    ]
    strict.send_bytes(requests("MULTI", *inside, end, "INCR l"))
    refusal, *refused, ended, after = strict.replies(len(inside) + 3)
    assert words(refusal) == NO_MULTI
    assert words(refused[0]) == (
        f"ERR 'INCR' was not carried out: {NO_MULTI}; EXEC, DISCARD or RESET ends the transaction"
    )
    for each in refused:
        assert words(each).startswith("ERR ")
    assert (str(ended) if end.startswith("EXEC") else ended) == reply
    assert after == 1
    assert keys_in(backend) == {"l"}


def test_no_command_is_carried_out_within_a_refused_transaction(strict, backend):
    names = [
        name
        for name in COMMANDS
        if State.TRANSACTION in COMMANDS[name].refused_in and name != "client reply"
    ]
    assert len(names) == len(COMMANDS) - 5
    strict.pipeline(("MULTI",), *map(least, names), ("EXEC",))
    replies = strict.replies(len(names) + 2)
    assert words(replies[0]) == NO_MULTI
    assert all(words(reply).startswith("ERR ") for reply in replies[1:-1])
    assert words(replies[-1]).startswith("EXECABORT ")
    assert keys_in(backend) == set()


def test_quit_and_broken_framing_work_within_a_refused_transaction(proxy):
    refused = f"-{NO_MULTI}\r\n".encode()
    port = proxy.ports["strict"]
    assert talk(port, requests("MULTI", "QUIT", "INCR k")) == refused + b"+OK\r\n"
    assert talk(port, requests("MULTI") + b"*1\r\n:1\r\n") == (
        refused + b"-ERR Protocol error: expected '$', got ':'\r\n"
    )


def test_without_multi_the_replies_are_those_of_redis(proxy, redis):
    sent = requests("EXEC", "DISCARD", "UNWATCH", "EXEC x", "DISCARD x", "MULTI x", "EXEC", "PING")
    assert talk(proxy.ports["one"], sent) == talk(redis.port, sent)


def test_redis_py_raises_the_error_of_multi_and_nothing_is_executed(proxy, backend):
    with redis_py.Redis(port=proxy.ports["strict"]) as client:
        for _ in range(2):
            with pytest.raises(redis_py.ResponseError, match="is denied by deny_commands"):
                client.pipeline().incr("k").incr("k").execute()
        assert client.get("k") is None
        assert client.pipeline(transaction=False).incr("k").incr("k").execute() == [1, 2]


# Databases ----------------------------------------------------------------------------------------


def test_after_a_refused_select_nothing_is_executed_until_an_accepted_one(client, backend):
    refusal = client.error("SELECT", "1")
    assert refusal.startswith("ERR this pool has one database: after SELECT 1 ")
    assert client.error("SET", "k", "1") == (
        "ERR 'SET' was not carried out because 'SELECT 1' was refused: send SELECT 0 or RESET"
    )
    assert client("PING") == b"PONG"
    assert client("HELLO", "2")[:2] == [b"server", b"redis"]
    assert words(client("AUTH", "x")).startswith("ERR Client sent AUTH")
    assert client("INFO", "server").startswith(b"# Server")
    assert client("COMMAND", "COUNT") > 200
    assert client("CLIENT", "SETNAME", "me") == b"OK"
    assert client.error("SELECT", "x") == "ERR value is not an integer or out of range"
    assert "because 'SELECT 1' was refused" in client.error("FLUSHALL")
    assert client.error("SELECT", "2").startswith("ERR this pool has one database")
    assert "because 'SELECT 2' was refused" in client.error("KEYS", "*")
    assert keys_in(backend) == set()
    assert client("SELECT", "0") == b"OK"
    assert client("SET", "k", "1") == b"OK"


def test_no_command_reaches_the_data_after_a_refused_select(client, backend):
    names = [
        name
        for name, row in COMMANDS.items()
        if row.behaviour in (Behaviour.FORWARD, Behaviour.SPLIT, Behaviour.ALL, Behaviour.ADMIN)
    ]
    assert {"get", "mset", "flushall", "keys", "eval", "fcall", "script flush"} <= set(names)
    client.pipeline(("SELECT", "1"), *map(least, names))
    refused = client.replies(len(names) + 1)[1:]
    for name, reply in zip(names, refused, strict=True):
        # A container without a subcommand fails on its arity, or its subcommand is unknown.
        assert re.match(
            f"ERR ('{name.upper()}' was not carried out|unknown subcommand|wrong number)",
            words(reply),
        )
    assert keys_in(backend) == set()


def test_the_number_of_the_pools_database_is_accepted(proxy, backend):
    with Client(proxy.ports["five"]) as client:
        assert client("SELECT", "5") == b"OK"
        assert client("SET", "k", "1") == b"OK"
        assert client.error("SELECT", "1").startswith("ERR this pool has one database")
        assert "because 'SELECT 1' was refused" in client.error("GET", "k")
        assert client("SELECT", "5") == b"OK"
        assert client("GET", "k") == b"1"
        assert client("SELECT", "0") == b"OK"
        assert client("GET", "k") == b"1"
    assert keys_in(backend, 5) == {"k"}


def test_swapping_other_databases_and_ending_debugging_block_no_later_command(client):
    for command in ("SWAPDB 3 4", "SWAPDB 0 1", "SWAPDB x 0", "SCRIPT DEBUG x"):
        assert client.error(*command.split())
        for write in WRITES:
            assert client(*write) == b"OK"
    assert client.error("SCRIPT", "DEBUG", "SYNC").endswith("is not supported by nutproxy")
    assert "because 'SCRIPT DEBUG SYNC' was refused" in client.error(*WRITES[1])
    assert client("SCRIPT", "DEBUG", "NO") == b"OK"
    assert client(*WRITES[1]) == b"OK"


# CLIENT REPLY -------------------------------------------------------------------------------------

REPLYING = (
    "CLIENT REPLY ON",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY x",
    "CLIENT REPLY",
    "CLIENT NOSUCH",
    "RESET",
    "RESET x",
    "PING",
    "ECHO x",
    "ECHO",
    "SET k 1",
    "GET k",
    "NOSUCH x",
    "HELLO 2",
    "HELLO 3",
    "HELLO 4",
    "AUTH bob x",
    "SELECT 0",
    "EXEC",
    "DISCARD",
    "UNWATCH",
)
ENDS = (b"", b"", request("QUIT"), b"*1\r\n:1\r\n", b"*x\r\n")


def test_client_reply_decides_which_requests_get_a_reply_as_in_redis(proxy, redis):
    chance = random.Random(10)
    pipeline(redis.port, [("SET", "k", "1")])
    with Client(proxy.ports["one"]) as client:
        client("SET", "k", "1")
    for _ in range(400):
        # Commands that switch replies on or off are drawn more often.
        commands = chance.choices(REPLYING, [4, 2, 4, 2, 2, 1, 3] + [1] * 15, k=12)
        sent = requests(*commands) + chance.choice(ENDS)
        ours, theirs = (
            re.sub(rb"(?<=id\r\n:)\d+", b"", talk(port, sent))
            for port in (proxy.ports["one"], redis.port)
        )
        assert ours == theirs, commands


def test_names_of_subcommands_are_not_commands(client):
    for name in COMMANDS:
        if " " in name:
            for word in (name, name.upper()):
                assert client.error(word, "x", "off") == (
                    f"ERR unknown command '{word}', with args beginning with: 'x' 'off' "
                )
    assert client("PING") == b"PONG"
