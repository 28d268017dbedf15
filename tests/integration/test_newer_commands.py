"""Commands of servers that are newer than the redis-server of the tests, and of modules.

Scripted servers stand in for them. Each stores what it gets, so a request for the wrong server
finds nothing.
"""

import pytest

from nutproxy.hashkit.router import Router
from nutproxy.proto.commands import COMMANDS, Behaviour
from tests.client import Client, words
from tests.integration.conftest import pool
from tests.scripted import ScriptedServer, bulk
from tests.scripted import keys_of as some_keys
from tests.servers import NutproxyServer, RedisServer
from tests.unit.test_commands import keys_of, requests, row_of

SERVERS = 3
ROUTER = Router("fnv1a_64", "ketama", b"{}", [(b"s%d" % n, 1) for n in range(1, SERVERS + 1)])
TAGS = [
    next(tag for n in range(1000) if ROUTER.explain(tag := b"t%d" % n).server == server)
    for server in range(SERVERS)
]
A, B, C = (tag.decode() for tag in TAGS)
# Words that are keys in one sample and mean something else in another.
TRICKY = {b"store", b"streams", b"keys", b"block", b""}


class NewerServer(ScriptedServer):
    """Knows MSETEX, JSON.MGET, TS.MADD and SCRIPT SHOW. Everything else is +OK."""

    def __init__(self):
        super().__init__(self.converse_with_store)
        self.store = {}

    def converse_with_store(self, session):
        while request := session.receive():
            name = request[0].decode().lower().replace(".", "_")
            reply = getattr(self, f"on_{name}", self.on_other)
            session.send(reply(request))

    def on_other(self, request):
        return b"+OK\r\n"

    def on_msetex(self, request):
        if not request[1].isdigit():
            return b"-ERR invalid numkeys value\r\n"
        count = int(request[1])
        pairs, options = request[2 : 2 + 2 * count], request[2 + 2 * count :]
        if len(pairs) < 2 * count:
            return b"-ERR wrong number of key-value pairs\r\n"
        if b"NX" in options and self.store.keys() & set(pairs[::2]):
            return b":0\r\n"
        self.store.update(zip(pairs[::2], pairs[1::2], strict=True))
        return b":1\r\n"

    def on_json_mget(self, request):
        *keys, path = request[1:]
        found = [bulk(self.store[k] + path) if k in self.store else b"$-1\r\n" for k in keys]
        return b"*%d\r\n" % len(found) + b"".join(found)

    def on_ts_madd(self, request):
        if (len(request) - 1) % 3:
            return b"-ERR wrong number of arguments for 'TS.MADD' command\r\n"
        triples = zip(request[1::3], request[2::3], request[3::3], strict=True)
        parts = [
            b":%d\r\n" % int(time) if key in self.store else b"-ERR TSDB: no such series\r\n"
            for key, time, value in triples
        ]
        return b"*%d\r\n" % len(parts) + b"".join(parts)

    def on_script(self, request):
        if request[2] in self.store:
            return bulk(self.store[request[2]])
        return b"-NOSCRIPT No matching script.\r\n"


@pytest.fixture(scope="module")
def servers():
    with NewerServer() as one, NewerServer() as two, NewerServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxy(servers):
    text = pool("alpha", servers, admin_commands="true") + pool("one", servers[:1])
    with NutproxyServer(text) as proxy:
        yield proxy


@pytest.fixture
def client(proxy, servers):
    for server in servers:
        server.store.clear()
        server.requests.clear()
    with Client(proxy.ports["alpha"]) as client:
        yield client


@pytest.fixture
def alone(proxy, client):
    """A client of the pool with one server."""
    with Client(proxy.ports["one"]) as alone:
        yield alone


def stored(servers):
    return [{**server.store} for server in servers]


SAMPLES = [
    argv
    for argv in requests()
    if COMMANDS[row_of(argv)].keys
    and COMMANDS[row_of(argv)].behaviour in (Behaviour.FORWARD, Behaviour.ADMIN)
    and not (COMMANDS[row_of(argv)].patterns and b"w_*" in argv)
]


def sent(client, servers, argv):
    """The reply, and the numbers of the servers that got the request unchanged."""
    for server in servers:
        server.requests.clear()
    reply = client(*argv)
    return reply, [number for number, each in enumerate(servers) if each.requests == [argv]]


def blocking_option(argv):
    option = COMMANDS[row_of(argv)].blocking_option
    return (
        option is not None
        and argv != [b"ts.read", b"block", b"0", b"max_count", b"2"]
        and (option.lower().encode() in argv)
    )


@pytest.mark.parametrize("argv", SAMPLES, ids=lambda argv: b" ".join(argv).decode())
def test_every_key_of_a_request_decides_on_its_server(argv, client, servers):
    """Keys of one server are forwarded to it; with one key of another server, the request is
    refused and no server gets it."""
    if blocking_option(argv):
        return
    places = keys_of(COMMANDS[row_of(argv)], argv)
    expected = {ROUTER.explain(argv[place]).server for place in places}
    reply, got = sent(client, servers, argv)
    if len(expected) > 1:
        assert words(reply).startswith("CROSSSLOT")
    else:
        assert (reply, len(got)) == (b"OK", 1)
        assert expected <= set(got)
    if not places or TRICKY & set(argv):
        return
    for here, tag in enumerate(TAGS):
        tagged = list(argv)
        for place in places:
            tagged[place] = b"{%b}%b" % (tag, argv[place])
        assert sent(client, servers, tagged) == (b"OK", [here])
        for place in places if len(places) > 1 else ():
            apart = list(tagged)
            apart[place] = b"{%b}%b" % (TAGS[here - 1], argv[place])
            assert words(sent(client, servers, apart)[0]).startswith("CROSSSLOT")
            assert not any(server.requests for server in servers)


# MSETEX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "EX 10", "px 10", "EXAT 10", "PXAT 10", "KEEPTTL"])
def test_msetex_is_split_and_each_part_has_its_number_of_keys_and_the_options(
    client, servers, options
):
    extra = options.encode().split()
    of_server = [some_keys(number, range(1, SERVERS + 1), 10) for number in (1, 2, 3)]
    keys = [key for column in zip(*of_server, strict=True) for key in column]
    pairs = [word for key in keys for word in (key, key[:5])]
    assert client("MSETEX", "30", *pairs, *extra) == 1
    for number, server in enumerate(servers):
        [request] = server.requests
        mine = [word for key in of_server[number] for word in (key, key[:5])]
        assert request == [b"MSETEX", b"10", *mine, *extra]


@pytest.mark.parametrize("options", ["NX", "xx", "NX EX 10", "EX 10 XX", "NEWER"])
def test_msetex_with_a_condition_is_for_one_server_only(client, servers, options):
    client("MSETEX", "1", f"{{{A}}}1", "old")
    refusal = client.error("MSETEX", "2", A, "1", B, "2", *options.split())
    assert refusal.startswith("CROSSSLOT Keys of 'MSETEX' are on different servers")
    assert client("MSETEX", "2", f"{{{A}}}1", "1", f"{{{A}}}2", "2", "NX") == 0
    assert client("MSETEX", "2", f"{{{B}}}1", "1", f"{{{B}}}2", "2", "NX") == 1
    assert [len(store) for store in stored(servers)] == [1, 2, 0]


@pytest.mark.parametrize(
    "request_text",
    [f"3 {A} 1 {B} 2", f"2 {A} 1 {B}", f"x {A} 1", f"-1 {A} 1", f"99999999999 {A} 1"],
)
def test_msetex_that_does_not_fit_its_number_of_keys_gets_a_servers_error(
    client, servers, request_text
):
    servers_before = stored(servers)
    client.send("MSETEX", *request_text.split())
    client.send("PING")
    assert words(client.reply()) in (
        "ERR wrong number of key-value pairs",
        "ERR invalid numkeys value",
    )
    assert client.reply() == b"PONG"
    assert stored(servers) == servers_before


def test_failed_part_of_msetex_says_that_others_may_have_been_applied(proxy, client, servers):
    servers[1].on_msetex = lambda request: b"-OOM command not allowed\r\n"
    try:
        error = client.error("MSETEX", "2", A, "1", B, "2")
    finally:
        del servers[1].on_msetex
    assert error.startswith("OOM command not allowed")
    assert "other" in error


def test_large_values_of_msetex_reach_their_servers(client, servers):
    """Above a megabyte the parts share the block of the request instead of a copy."""
    values = [bytes([letter]) * (1 << 20) for letter in b"abc"]
    pairs = [word for pair in zip((A, B, C), values, strict=True) for word in pair]
    assert client("MSETEX", "4", *pairs, f"{{{A}}}", "small", "EX", "10") == 1
    assert stored(servers) == [
        {A.encode(): values[0], f"{{{A}}}".encode(): b"small"},
        {B.encode(): values[1]},
        {C.encode(): values[2]},
    ]
    assert all(server.requests[0][-2:] == [b"EX", b"10"] for server in servers)


def test_inline_msetex_is_split_too(client, servers):
    client.send_bytes(f"msetex 2 {A} 1 {B} '' keepttl\r\n".encode())
    assert client.reply() == 1
    assert [server.requests for server in servers] == [
        [[b"msetex", b"1", A.encode(), b"1", b"keepttl"]],
        [[b"msetex", b"1", B.encode(), b"", b"keepttl"]],
        [],
    ]


# JSON.MGET and TS.MADD --------------------------------------------------------------------------


def test_json_mget_takes_its_path_to_every_server_and_keeps_the_order(client, servers):
    client("MSETEX", "3", A, "a", B, "b", C, "c")
    assert client("JSON.MGET", C, A, "none", B, A, "$.path") == [
        b"c$.path",
        b"a$.path",
        None,
        b"b$.path",
        b"a$.path",
    ]


def test_long_path_is_not_repeated(client, servers):
    client("MSETEX", "2", A, "a", B, "b")
    refusal = client.error("JSON.MGET", A, B, "p" * 5000)
    assert refusal.startswith("CROSSSLOT Keys of 'JSON.MGET' are on different servers")
    assert client("JSON.MGET", A, "p" * 5000) == [b"a" + b"p" * 5000]
    assert client("JSON.MGET", A, B, "p" * 4000) == [b"a" + b"p" * 4000, b"b" + b"p" * 4000]


def test_ts_madd_is_split_and_each_sample_has_its_own_result(client, servers):
    client("MSETEX", "2", A, "a", B, "b")
    first, second, third, fourth = client(
        *f"TS.MADD {A} 1 0.5 {C} 2 0.5 {B} 3 0.5 {A} 4 0.5".split()
    )
    assert (first, third, fourth) == (1, 3, 4)
    assert words(second) == "ERR TSDB: no such series"
    refusal = client.error(*f"TS.MADD {A} 1 0.5 {B} 2".split())
    assert refusal == "ERR wrong number of arguments for 'ts.madd' command"


# Without keys -----------------------------------------------------------------------------------


ONE = [name for name, row in COMMANDS.items() if row.behaviour is Behaviour.ONE]


@pytest.mark.parametrize("name", ONE)
def test_command_without_keys_needs_a_pool_of_one_server(name, client, alone, servers):
    argv = [b"%b" % word for word in name.encode().split()]
    argv += [b"word"] * (abs(COMMANDS[name].arity) - len(argv))
    if name == "ft.cursor":
        argv = argv[:1]  # refused for its arity: it takes a subcommand
    refusal = client(*argv)
    if name == "ft.cursor":
        assert words(refusal) == "ERR wrong number of arguments for 'ft.cursor' command"
        return
    assert words(refusal) == (
        f"ERR '{name.upper()}' needs a pool of one server, pool 'alpha' has {SERVERS}"
    )
    assert not any(server.requests for server in servers)
    assert sent(alone, servers, argv) == (b"OK", [0])


@pytest.mark.parametrize("name", ["hotkeys get", "backup list", "backup status"])
def test_administration_without_a_merge_needs_a_pool_of_one_server(name, client, alone):
    assert words(client(*name.split())) == (
        f"ERR '{name.upper()}' needs a pool of one server, pool 'alpha' has {SERVERS}"
    )
    assert words(alone(*name.split())).startswith("NOPERM")


def test_command_without_keys_makes_a_transaction_fail(client, servers):
    assert client("MULTI") == b"OK"
    assert client.error("FT.SEARCH", "index", "word") == (
        f"ERR 'FT.SEARCH' needs a pool of one server, pool 'alpha' has {SERVERS}"
    )
    assert words(client("EXEC")).startswith("EXECABORT")
    assert not any(server.requests for server in servers)


def test_request_with_optional_arguments_may_have_no_key(client, alone, servers):
    """FT.GET, CF.COMPACT and others have arity -1, so their key may be missing."""
    for name in ("FT.GET", "FT.ADD", "CF.COMPACT"):
        assert client(name) == b"OK"
        assert alone(name) == b"OK"


def test_script_show_finds_the_script_on_any_server(client, servers):
    servers[2].store[b"sha"] = b"return 1"
    assert client("SCRIPT", "SHOW", "sha") == b"return 1"
    assert words(client("SCRIPT", "SHOW", "none")) == "NOSCRIPT No matching script."


# Refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "HIMPORT PREPARE set a b",
        "HIMPORT SET key set 1 2",
        "HIMPORT DISCARD set",
        "HIMPORT DISCARDALL",
        "SEARCH.CLUSTERSET",
        "TIMESERIES.REFRESHCLUSTER",
        "TRIMSLOTS RANGES 1 0 1",
    ],
)
def test_commands_of_a_connection_or_a_cluster_are_not_supported(command, client, servers):
    row = row_of(command.lower().encode().split())
    assert client.error(*command.split()) == f"ERR '{row.upper()}' is not supported by nutproxy"
    assert not any(server.requests for server in servers)


def test_ts_read_waits_with_block_only(client, servers):
    """It goes over a connection of its own then, like all commands that wait."""
    for options in ("MAX_COUNT 5", "BLOCK 0 1", "MAX_COUNT 5 block 10 1"):
        before = sum(server.accepted for server in servers)
        assert client("TS.READ", A, "0", *options.split()) == b"OK"
        own = "block" in options.lower() and options[0] == "B"
        assert sum(server.accepted for server in servers) - before == own


def test_clients_capabilities_and_import_mode(client):
    assert client("CLIENT", "CAPA", "redirect", "newer") == b"OK"
    assert client("CLIENT", "IMPORT-SOURCE", "OFF") == b"OK"
    assert client.error("CLIENT", "IMPORT-SOURCE", "ON") == "ERR Server is not in import mode"
    assert client.error("CLIENT", "IMPORT-SOURCE", "x") == "ERR syntax error"


def test_older_server_refuses_a_newer_command_itself():
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.ports["alpha"]) as client,
    ):
        for argv in (["DELEX", "k"], ["JSON.SET", "k", "$", "1"], ["FT.SEARCH", "i", "q"]):
            quoted = " ".join(f"'{word}'" for word in argv[1:])
            assert client.error(*argv) == (
                f"ERR unknown command '{argv[0]}', with args beginning with: {quoted} "
            )
        assert client("SET", "k", "v") == b"OK"
