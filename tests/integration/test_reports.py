# tests/integration/test_reports.py: commands that every server replies to
"""The report of a single server is passed on byte for byte. The merged report of several servers
has the same form."""

import hiredis
import pytest
import redis

from nutproxy.proto import reports
from nutproxy.proto.commands import COMMANDS, Behaviour
from tests.client import Client
from tests.integration.conftest import pool
from tests.scripted import ScriptedServer
from tests.servers import DEADLINE, NutproxyServer, RedisServer, pipeline

FANNED_OUT = [
    row.name
    for row in COMMANDS.values()
    if row.behaviour in (Behaviour.ALL, Behaviour.ADMIN) and row.request_policy
]

# Sent in this order. Servers refuse some of them, with the same error. The commands in SPARED are
# left out because they would end the servers.
REQUESTS = """
CONFIG SET latency-monitor-threshold 1
CONFIG SET slowlog-log-slower-than 0
CONFIG GET maxmemory*
CONFIG HELP
DEBUG SLEEP 0.002
ACL SETUSER u on
ACL USERS
ACL LIST
ACL CAT
ACL GETUSER u
ACL DRYRUN default GET k
ACL GENPASS
ACL WHOAMI
ACL DELUSER u
ACL HELP
ACL LOG
ACL LOG 1
ACL LOG RESET
LATENCY LATEST
LATENCY HISTORY command
LATENCY HISTORY nosuch
LATENCY HISTOGRAM
LATENCY HISTOGRAM debug config|get
LATENCY GRAPH command
LATENCY DOCTOR
LATENCY HELP
LATENCY RESET
SLOWLOG GET
SLOWLOG GET 1
SLOWLOG LEN
SLOWLOG HELP
SLOWLOG RESET
MEMORY STATS
MEMORY DOCTOR
MEMORY MALLOC-STATS
MEMORY PURGE
FUNCTION LOAD "#!lua\\nredis.register_function('f', function() end)"
FUNCTION STATS
FUNCTION DELETE lib
FUNCTION RESTORE dump
FUNCTION FLUSH
FUNCTION KILL
SCRIPT LOAD script
SCRIPT EXISTS 0 1
SCRIPT FLUSH
SCRIPT KILL
MODULE LIST
MODULE HELP
DBSIZE
KEYS *
RANDOMKEY
LASTSAVE
SAVE
BGSAVE
CONFIG RESETSTAT
CONFIG REWRITE
REPLICAOF NO ONE
SLAVEOF NO ONE
SWAPDB 0 0
FLUSHDB
FLUSHALL
ACL SAVE
ACL LOAD
MODULE UNLOAD nosuch
MODULE LOAD nosuch
MODULE LOADEX nosuch
BGREWRITEAOF
FAILOVER
PFSELFTEST
"""
SPARED = {"shutdown"}
CONTAINERS = {
    "acl",
    "backup",
    "commandlog",
    "config",
    "ft.config",
    "hotkeys",
    "latency",
    "module",
    "slowlog",
}
# The servers of the tests are too old for them, or lack their module.
NEWER = {name for name in FANNED_OUT if COMMANDS[name].origin}
RAW = [
    b"*2\r\n$3\r\nraw\r\n:7\r\n",
    b"$4\r\n\0\r\n\xff\r\n",
    b"-MISCONF its own error\r\n",
    b"*0\r\n",
    b"$-1\r\n",
]
RAW_3 = [
    b"%1\r\n$1\r\na\r\n,1.5\r\n",
    b"=5\r\ntxt:x\r\n",
    b"_\r\n",
    b"~1\r\n#t\r\n",
    b"!5\r\nERR x\r\n",
]


def request_of(name):
    """The shortest request that the row allows."""
    words = name.split()
    filler = ["1"] * (abs(COMMANDS[name].arity) - len(words))
    return [*words, *filler]


@pytest.mark.parametrize("version", [2, 3])
def test_reply_of_a_single_server_is_passed_on_byte_for_byte(version):
    replies = RAW + (RAW_3 if version == 3 else [])
    next_reply = [b"$0\r\n\r\n"]

    def script(session):
        while session.receive():
            session.send(next_reply[0])

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], admin_commands="true")) as proxy,
        Client(proxy.port) as client,
    ):
        client("HELLO", str(version))
        for name in set(FANNED_OUT) - CONTAINERS:
            for reply in replies:
                next_reply[:] = [reply]
                client.send(*request_of(name))
                received = b""
                while len(received) < len(reply):
                    received += client.socket.recv(65536)
                assert received == reply, name


@pytest.fixture(scope="module")
def managed():
    with (
        RedisServer("--enable-debug-command", "yes") as one,
        RedisServer("--enable-debug-command", "yes") as two,
        RedisServer("--enable-debug-command", "yes") as direct,
        NutproxyServer(pool("alpha", [one, two], admin_commands="true")) as proxy,
    ):
        yield proxy.port, [one, two], direct.port


def lines():
    return [line for line in REQUESTS.split("\n") if line]


def test_every_command_for_all_servers_is_tried():
    tried = set()
    for line in lines():
        one, two = [*line.lower().split(), ""][:2]
        tried.add(f"{one} {two}" if f"{one} {two}" in COMMANDS else one)
    assert tried | SPARED == set(FANNED_OUT) - CONTAINERS - NEWER


@pytest.mark.parametrize("version", [2, 3])
def test_reply_of_several_servers_is_parsed_like_that_of_one(managed, version):
    proxied, _, direct = managed
    clients = [
        redis.Redis(port=port, protocol=version, socket_timeout=DEADLINE)
        for port in (proxied, direct)
    ]
    for line in lines():
        words = [word.strip('"').replace("\\n", "\n") for word in split(line)]
        ours, theirs = (parsed(client, words) for client in clients)
        assert shape(ours) == shape(theirs), (line, ours, theirs)


def split(line):
    head, quote, rest = line.partition('"')
    return [*head.split(), *([rest] if quote else [])]


def parsed(client, words):
    """The reply after redis-py's callback, which is chosen by the command's name."""
    name = " ".join(words[:2]) if " ".join(words[:2]) in client.response_callbacks else words[0]
    name = name if name in client.response_callbacks else words[0]
    rest = words[len(name.split()) :]
    try:
        return client.execute_command(name, *rest)
    except redis.ResponseError as error:
        return error


def shape(reply):
    """The types of a reply and of its elements, as far as they are the same on every server."""
    if isinstance(reply, dict) and reply:
        key, value = next(iter(reply.items()))
        return dict, type(key), shape(value)
    if isinstance(reply, list | tuple) and reply:
        return type(reply), shape(reply[0])
    return type(reply)


@pytest.mark.parametrize("version", [2, 3])
def test_memory_stats_have_the_names_of_one_servers(managed, version):
    names = []
    for port in (managed[0], managed[2]):
        with redis.Redis(port=port, protocol=version, socket_timeout=DEADLINE) as client:
            names.append({name: type(value) for name, value in client.memory_stats().items()})
    assert names[0] == names[1]


def test_slowlogs_are_joined_newest_first(managed):
    proxied, servers, _ = managed
    with Client(proxied) as client:
        client("CONFIG", "SET", "slowlog-log-slower-than", "0")
        client("FLUSHALL")
        client("CONFIG", "SET", "slowlog-log-slower-than", "-1")
        entries = client("SLOWLOG", "GET", "-1")
        each = [pipeline(server.port, [("SLOWLOG", "GET", "-1")])[0] for server in servers]
        assert len(entries) == sum(map(len, each))
        assert [entry[1] for entry in entries] == sorted(
            (entry[1] for entry in entries), reverse=True
        )


def test_debug_object_and_similar_commands_go_to_the_server_of_the_key(managed):
    with Client(managed[0]) as client:
        client("MSET", *(word for number in range(20) for word in (f"k{number}", "v")))
        for number in range(20):
            assert b"encoding:embstr" in client("DEBUG", "OBJECT", f"k{number}")
            assert b"val_sds_len:1" in client("DEBUG", "SDSLEN", f"k{number}")
            client("PFADD", f"h{number}", "x")
            assert client("PFDEBUG", "ENCODING", f"h{number}") == b"sparse"
        assert client("DEBUG", "SLEEP", "0") == b"OK"
        assert str(client("DEBUG", "OBJECT")).startswith("ERR wrong number of arguments")
        keys = [f"k{number}" for number in range(20)]
        assert str(client("DEBUG", "DIGEST-VALUE", *keys)).startswith("CROSSSLOT")
        client("FLUSHALL")


# How the figures are merged -----------------------------------------------------------------------


def merge(policy, *replies, resp=2):
    reader = hiredis.Reader()
    names = [f"s{number}" for number, _ in enumerate(replies, start=1)]
    reader.feed(reports.REPORTS[policy]([*replies], names, resp))
    return reader.gets()


def test_latency_latest_is_the_newest_and_the_greatest():
    one = [[b"command", 100, 5, 9], [b"fork", 90, 1, 1]]
    two = [[b"command", 101, 3, 20]]
    expected = [[b"command", 101, 3, 20], [b"fork", 90, 1, 1]]
    assert merge("latest", one, two) == merge("latest", one, two, []) == expected
    assert merge("latest", [[b"e", 1, 2, 3, 10, 4]], [[b"e", 1, 3, 3, 5, 2]]) == [
        [b"e", 1, 3, 3, 15, 6]
    ]


def test_latency_history_is_in_the_order_of_time():
    assert merge("history", [[1, 5], [4, 2]], [[2, 7], [4, 3]]) == [[1, 5], [2, 7], [4, 3]]


@pytest.mark.parametrize("resp", [2, 3])
def test_latency_histograms_are_added_up_to_each_bound(resp):
    """A server leaves out a bound at which it has no more calls."""

    def form(figures):
        if resp == 3:
            return {
                command: {b"calls": calls, b"histogram_usec": counts}
                for command, (calls, counts) in figures.items()
            }
        return [
            part
            for command, (calls, counts) in figures.items()
            for part in (
                command,
                [
                    b"calls",
                    calls,
                    b"histogram_usec",
                    [number for pair in counts.items() for number in pair],
                ],
            )
        ]

    one = form({b"get": (5, {1: 2, 8: 5}), b"set": (1, {4: 1})})
    two = form({b"get": (3, {4: 1, 16: 3})})
    assert merge("histograms", one, two, resp=resp) == form(
        {b"get": (8, {1: 2, 4: 3, 8: 6, 16: 8}), b"set": (1, {4: 1})}
    )


def test_memory_stats_are_sums_and_means_of_ratios():
    one = [b"keys.count", 3, b"db.0", [b"overhead", 7], b"dataset.percentage", b"50.5"]
    two = [b"keys.count", 4, b"dataset.percentage", b"99.5", b"keys.bytes-per-key", 10]
    assert merge("figures", one, two) == [
        *(b"keys.count", 7),
        *(b"db.0", [b"overhead", 7]),
        *(b"dataset.percentage", b"75"),
        *(b"keys.bytes-per-key", 10),
    ]
    ratios = merge("figures", {b"ratio": 1.5}, {b"ratio": 2.5, b"db.1": {b"x": 1}}, resp=3)
    assert ratios == {b"ratio": 2.0, b"db.1": {b"x": 1}}


def test_function_stats_show_the_script_that_runs():
    idle = [b"running_script", None, b"engines", [b"LUA", []]]
    busy = [b"running_script", [b"name", b"f"], b"engines", [b"LUA", []]]
    assert merge("running", idle, busy) == busy
    assert merge("running", idle, idle) == idle


def test_texts_are_below_the_names_of_their_servers():
    assert merge("texts", b"good", b"bad") == b"s1:\ngood\ns2:\nbad"


def test_a_report_that_takes_too_long_to_merge_is_refused():
    """The client chooses its length: merging 20,000 entries of SLOWLOG holds the loop for 0.4 s."""
    with RedisServer() as one, RedisServer() as two:
        for server in (one, two):
            settings = ("slowlog-max-len", "9999", "slowlog-log-slower-than", "0")
            pipeline(server.port, [("CONFIG", "SET", *settings), *[("PING",)] * 2000])
        with (
            NutproxyServer(pool("alpha", [one, two], admin_commands="true")) as proxy,
            Client(proxy.port) as client,
        ):
            assert len(client("SLOWLOG", "GET", "100")) == 200
            error = client.error("SLOWLOG", "GET", "9999")
            assert error.startswith("ERR the replies of the servers to 'SLOWLOG GET' have ")
            assert error.endswith(" lines, at most 20000 are merged")
