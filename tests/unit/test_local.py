# tests/unit/test_local.py: the commands that the proxy handles itself
"""Handlers run with a plain client object. Replies that are the same in Redis are compared with a
real server."""

import os
import re
import time
from dataclasses import dataclass, field

import hiredis
import pytest

from nutproxy.builtin import HANDLERS, Query
from nutproxy.builtin.info import SECTIONS, human
from nutproxy.builtin.interface import ReplyMode
from nutproxy.builtin.resp import parse_integer
from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS, INFO_FIELDS, INFO_SECTIONS, State


@dataclass
class FakeServer:
    name: str
    address: str = "127.0.0.1:6379"
    ejected: bool = False
    down: bool = False


@dataclass
class FakePool:
    name: str = "alpha"
    redis_db: int = 0
    databases: int = 16
    server_version: str | None = "7.0.15"
    knows_hello: bool = True
    servers: list = field(default_factory=lambda: [FakeServer("one"), FakeServer("two")])
    server_ejects: int = 5
    asked: int = 0  # how many of the servers above are asked
    redis_auth: bytes | None = None  # of its frontend
    known_clients: list = field(default_factory=list)  # the clients of its frontend

    def members(self):
        return self.servers[: self.asked]


@dataclass
class FakeProcess:
    started: float
    config_file: str = "conf/nutproxy.yml"
    version: str = "0.1.0"
    pid: int = 4711


class FakeTracking:
    count = 0

    def stop(self, client):
        pass


@dataclass
class FakeFrontend:
    pool: FakePool
    process: FakeProcess
    port: int = 22121
    total_connections: int = 12
    curr_connections: int = 3
    blocked_clients: int = 0
    rejected_connections: int = 1
    total_requests: int = 99
    total_net_in: int = 1000
    total_net_out: int = 2000
    forward_errors: int = 4
    tracking: FakeTracking = field(default_factory=FakeTracking)
    tracking_clients: int = 0
    alone: bool = True
    pids: tuple = (os.getpid(),)

    def unpause(self):
        pass

    @property
    def redis_auth(self):
        return self.pool.redis_auth

    @property
    def clients(self):
        return {client.id: client for client in self.pool.known_clients}


@dataclass
class FakeClient:
    pool: FakePool
    frontend: FakeFrontend
    created: float
    last_interaction: float
    id: int = 7
    fd: int = 9
    peer: str = "127.0.0.1:53124"
    local_addr: str = "127.0.0.1:22121"
    name: str = ""
    lib_name: str = ""
    lib_ver: str = ""
    protover: int = 2
    database: int = 0
    authenticated: bool = True
    no_evict: bool = False
    no_touch: bool = False
    reply_mode: ReplyMode = ReplyMode.ON
    last_command: str = ""
    tot_net_in: int = 0
    tot_net_out: int = 0
    omem: int = 0
    closing: bool = False
    waits: bool = False
    delayed: bool = False
    tracked: None = None
    queued_commands: int = -1
    subscribed: tuple = (0, 0, 0)
    states: int = 0
    refusals: dict = field(default_factory=dict)

    def adopt(self, protover, database):
        self.protover, self.database = protover, database
        return True

    def end_session(self):
        pass

    def enter(self, state, command, error):
        self.states |= state
        self.refusals[state] = command, error

    def leave(self, states):
        self.states &= ~states


NOW = 1_000_000.0  # monotonic seconds


def connect(pool, **attributes):
    defaults = {
        "authenticated": pool.redis_auth is None,
        "id": 7 + len(pool.known_clients),
        "created": NOW,
        "last_interaction": NOW,
    }
    frontend = FakeFrontend(pool, FakeProcess(started=NOW - 90_000))
    client = FakeClient(pool, frontend, **{**defaults, **attributes})
    pool.known_clients.append(client)
    return client


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("nutproxy.builtin.client.monotonic", lambda: NOW)
    monkeypatch.setattr("nutproxy.builtin.info.monotonic", lambda: NOW)


@pytest.fixture
def pool():
    return FakePool()


@pytest.fixture
def client(pool):
    return connect(pool)


def ask(client, *argv):
    """Do what the core does with a request: find the row, check the arity, call the handler."""
    words = [word if isinstance(word, bytes) else word.encode() for word in argv]
    name = words[0].decode().lower()
    if len(words) > 1 and name in ("client", "cluster", "script"):
        name = f"{name} {words[1].decode().lower()}"
        if name not in COMMANDS:
            return errors.unknown_subcommand(words)
    row = COMMANDS[name]
    if len(words) != row.arity and (row.arity > 0 or len(words) < -row.arity):
        return errors.wrong_arity(name)
    client.last_command = name
    return HANDLERS[row.handler](client, words)


def decode(reply):
    """Decode a complete reply, with no bytes after it."""
    reader = hiredis.Reader()
    reader.feed(reply)
    value = reader.gets()
    assert value is not False
    assert reader.gets() is False
    assert not reader.has_data()
    return value


def state(client):
    return {name: value for name, value in vars(client).items() if name != "last_command"}


# Compared with Redis ----------------------------------------------------------------------------

DIALOGUES = {
    "ping": [["PING"], ["ping", "hello"], ["PING", ""], ["PING", "a", "b"]],
    "tracking": [
        ["CLIENT", "GETREDIR"],
        ["CLIENT", "TRACKINGINFO"],
        ["CLIENT", "TRACKING", "OFF"],
        ["CLIENT", "tracking", "off", "BCAST", "prefix", "a"],
        ["CLIENT", "TRACKING", "OFF", "OPTIN", "optout", "NOLOOP"],
        ["CLIENT", "TRACKING", "OFF", "PREFIX"],
        ["CLIENT", "TRACKING", "OFF", "x"],
        ["CLIENT", "TRACKING", "x"],
        ["CLIENT", "TRACKING", "x", "BCAST"],
        ["CLIENT", "CACHING", "YES"],
        ["CLIENT", "CACHING", "NO"],
        ["CLIENT", "UNPAUSE"],
        ["CLIENT", "UNBLOCK", "999"],
        ["CLIENT", "UNBLOCK", "999", "error"],
        ["CLIENT", "UNBLOCK", "999", "x"],
        ["CLIENT", "UNBLOCK", "x"],
        ["HELLO", "3"],
        ["CLIENT", "TRACKINGINFO"],
    ],
    "cluster": [
        ["ROLE"],
        ["ROLE", "x"],
        ["READONLY"],
        ["READWRITE"],
        ["READWRITE", "x"],
        ["ASKING"],
        ["CLUSTER", "INFO"],
        ["CLUSTER", "INFO", "x"],
        ["CLUSTER", "SLOTS"],
        ["CLUSTER", "SHARDS"],
        ["CLUSTER", "KEYSLOT", "k"],
        ["CLUSTER", "RESET"],
        ["CLUSTER", "HELP"],
        ["CLUSTER", "NOSUCH"],
    ],
    "script debug": [
        ["SCRIPT", "DEBUG", "NO"],
        ["SCRIPT", "DEBUG", "x"],
        ["SCRIPT", "DEBUG"],
    ],
    "echo": [["ECHO", "a\r\nb"], ["ECHO"], ["ECHO", "a", "b"]],
    "quit": [["QUIT"]],
    "select": [
        ["SELECT", word]
        for word in ("0", "3", "15", "16", "-1", "x", "", "00", "+0", "0 ", "-0", "1.0")
    ],
    "reset": [
        ["CLIENT", "SETNAME", "me"],
        ["HELLO", "3"],
        ["CLIENT", "GETNAME"],
        ["RESET"],
        ["CLIENT", "GETNAME"],
        ["RESET", "x"],
    ],
    "names": [
        ["CLIENT", "GETNAME"],
        ["CLIENT", "SETNAME", "me"],
        ["CLIENT", "GETNAME"],
        ["CLIENT", "SETNAME", "m e"],
        ["CLIENT", "SETNAME", b"m\xff"],
        ["CLIENT", "SETNAME", "m\n"],
        ["CLIENT", "GETNAME"],
        ["CLIENT", "SETNAME", ""],
        ["CLIENT", "GETNAME"],
        ["CLIENT", "SETNAME"],
        ["HELLO", "3"],
        ["CLIENT", "GETNAME"],
    ],
    "client options": [
        ["CLIENT"],
        ["CLIENT", "NOSUCH"],
        ["CLIENT", "MAINT_NOTIFICATIONS", "ON"],
        ["CLIENT", "NO-EVICT", "on"],
        ["CLIENT", "NO-EVICT", "OFF"],
        ["CLIENT", "NO-EVICT", "maybe"],
        ["CLIENT", "NO-EVICT"],
        ["CLIENT", "REPLY", "maybe"],
        ["CLIENT", "REPLY", "ON"],
    ],
    "client list": [
        ["CLIENT", "LIST", "NOSUCH"],
        ["CLIENT", "LIST", "TYPE"],
        ["CLIENT", "LIST", "TYPE", "nosuch"],
        ["CLIENT", "LIST", "TYPE", "master"],
        ["CLIENT", "LIST", "TYPE", "slave"],
        ["CLIENT", "LIST", "type", "replica"],
        ["CLIENT", "LIST", "TYPE", "pubsub"],
        ["CLIENT", "LIST", "TYPE", "pubsub", "x"],
        ["CLIENT", "LIST", "ID"],
        ["CLIENT", "LIST", "ID", "x"],
        ["CLIENT", "LIST", "ID", "1", "01"],
        ["CLIENT", "LIST", "ID", "123456"],
        ["HELLO", "3"],
        ["CLIENT", "LIST", "ID", "123456"],
    ],
    "auth without a password": [
        ["AUTH", "default", "anything"],
        ["AUTH", "nobody", "anything"],
        ["AUTH", "a", "b", "c"],
        ["AUTH"],
    ],
    "hello": [
        ["HELLO"],
        ["HELLO", "3"],
        ["HELLO"],
        ["HELLO", "2"],
        ["HELLO", "3", "SETNAME", "me"],
        ["CLIENT", "GETNAME"],
        ["HELLO", "2", "setname", "you", "auth", "default", "x"],
        ["CLIENT", "GETNAME"],
        ["HELLO", "3", "AUTH", "default", "x", "SETNAME", "us"],
        ["CLIENT", "GETNAME"],
        ["HELLO", "1"],
        ["HELLO", "4"],
        ["HELLO", "03"],
        ["HELLO", "three"],
        ["HELLO", "SETNAME", "me"],
        ["HELLO", "99999999999999999999"],
        ["HELLO", "2", "NOSUCH"],
        ["HELLO", "2", "NO\r\nSUCH"],
        ["HELLO", "2", "NO\0SUCH"],
        ["HELLO", "2", "n" * 300],
        ["HELLO", "2", "SETNAME"],
        ["HELLO", "2", "AUTH", "default"],
        ["HELLO", "2", "SETNAME", "m e"],
        ["HELLO", "2", "AUTH", "nobody", "x"],
        ["CLIENT", "GETNAME"],
        ["HELLO"],
    ],
    "info": [["INFO", "nosuch"], ["HELLO", "3"], ["INFO", "nosuch"]],
}


def unnumbered(reply):
    """Remove the ID of the connection, which differs between two servers."""
    return re.sub(rb"(id\r\n):\d+", rb"\1:N", reply)


@pytest.mark.parametrize("name", list(DIALOGUES))
def test_dialogue_is_byte_for_byte_that_of_redis(name, client, reference):
    connection = reference.connect()
    for argv in DIALOGUES[name]:
        reply = ask(client, *argv)
        assert unnumbered(reply) == unnumbered(connection.raw(*argv)), argv


def test_hello_on_a_pool_with_a_password_is_that_of_redis(reference):
    client = connect(FakePool(redis_auth=b"secret"))
    admin = reference.connect()
    admin("CONFIG", "SET", "requirepass", "secret")
    try:
        connection = reference.connect()
        for argv in [
            ["HELLO"],
            ["HELLO", "3"],
            ["HELLO", "3", "SETNAME", "me"],
            ["HELLO", "3", "AUTH", "default", "wrong"],
            ["HELLO", "3", "AUTH", "nobody", "secret"],
            ["AUTH", "default", "wrong"],
            ["AUTH", "nobody", "secret"],
            ["HELLO", "3", "AUTH", "default", "secret"],
            ["HELLO", "2"],
            ["RESET"],
            ["HELLO", "3"],
            ["AUTH", "default", "secret"],
            ["HELLO", "3"],
        ]:
            reply = ask(client, *argv)
            assert unnumbered(reply) == unnumbered(connection.raw(*argv)), argv
    finally:
        admin("CONFIG", "SET", "requirepass", "")


def test_client_info_has_the_fields_of_redis_in_its_order(client, reference):
    theirs = [pair.split(b"=")[0] for pair in reference.connect()("CLIENT", "INFO").split()]
    ours = [pair.split(b"=")[0] for pair in decode(ask(client, "CLIENT", "INFO")).split()]
    assert ours[: len(theirs)] == theirs
    assert ours[len(theirs) :] == [b"lib-name", b"lib-ver", b"tot-net-in", b"tot-net-out"]


def test_client_reply_silences_what_redis_silences(client, reference):
    """The stream of Redis' replies shows which requests have a reply."""
    heard = b"$5\r\nheard\r\n+OK\r\n$3\r\nend\r\n"
    connection = reference.connect()
    connection.send("CLIENT", "REPLY", "SKIP")
    connection.send("PING", "skipped")
    connection.send("PING", "heard")
    connection.send("CLIENT", "REPLY", "OFF")
    connection.send("CLIENT", "REPLY", "SKIP")
    connection.send("PING", "silent")
    connection.send("CLIENT", "REPLY", "ON")
    connection.send("PING", "end")
    with connection.sock.makefile("rb") as stream:
        assert stream.read(len(heard)) == heard

    assert ask(client, "CLIENT", "REPLY", "SKIP") == b""
    assert client.reply_mode == ReplyMode.SKIP
    assert ask(client, "CLIENT", "REPLY", "OFF") == b""
    assert client.reply_mode == ReplyMode.OFF
    assert ask(client, "CLIENT", "REPLY", "SKIP") == b""
    assert client.reply_mode == ReplyMode.OFF
    assert ask(client, "CLIENT", "REPLY", "ON") == b"+OK\r\n"
    assert client.reply_mode == ReplyMode.ON


def test_info_fields_are_those_of_redis_or_clearly_of_nutproxy(client, reference):
    theirs = reference.connect()("INFO", "everything").decode()
    reply = decode(ask(client, "INFO", "everything").finish([])).decode()
    own = {"forward_error", "server_ejects"}
    for line in reply.splitlines():
        name = line.split(":")[0]
        assert f"{name}:" in theirs or line in theirs or name in own or "nutproxy_" in name, line


@pytest.mark.parametrize("word", [b"0", b"-1", b"17", b"9223372036854775807", b"-1234567890123"])
def test_integers_are_read(word):
    assert parse_integer(word) == int(word)


@pytest.mark.parametrize(
    "word", [b"", b"-", b"-0", b"01", b"+1", b" 1", b"1 ", b"1_0", b"9223372036854775808", b"1\n"]
)
def test_text_that_redis_does_not_accept_as_an_integer_is_none(word):
    assert parse_integer(word) is None


# The connection ---------------------------------------------------------------------------------


def test_quit_closes_the_connection_after_its_reply(client):
    assert ask(client, "QUIT") == b"+OK\r\n"
    assert client.closing


def test_select_changes_the_database(client):
    for database in (15, 3, 0):
        assert ask(client, "SELECT", str(database)) == b"+OK\r\n"
        assert (client.database, client.states) == (database, 0)
    for database in ("16", "-1", "99999999999"):
        assert ask(client, "SELECT", database) == b"-ERR DB index is out of range\r\n"
        assert (client.database, client.states) == (0, 0)


def test_select_of_another_database_is_refused_in_a_pool_of_one():
    client = connect(FakePool(databases=1))
    for database in ("1", "-1", "99999999999"):
        assert b"this pool has one database" in ask(client, "SELECT", database)
        assert client.states == State.DATABASE
    assert ask(client, "SELECT", "x") == b"-ERR value is not an integer or out of range\r\n"
    assert client.states == State.DATABASE
    assert ask(client, "SELECT", "0") == b"+OK\r\n"
    assert client.states == 0


def test_database_of_the_pool_can_be_selected_by_its_number():
    client = connect(FakePool(redis_db=5, databases=1))
    for database in ("5", "0"):
        assert ask(client, "SELECT", database) == b"+OK\r\n"
        assert (client.database, client.states) == (5, 0)
    assert b"this pool has one database" in ask(client, "SELECT", "1")
    assert client.states == State.DATABASE
    assert ask(client, "SELECT", "5") == b"+OK\r\n"
    assert client.states == 0


def test_auth_with_one_argument_has_the_texts_of_twemproxy(client):
    assert ask(client, "AUTH", "x") == b"-ERR Client sent AUTH, but no password is set\r\n"
    assert client.authenticated

    client = connect(FakePool(redis_auth=b"secret"))
    assert ask(client, "AUTH", "wrong") == b"-ERR invalid password\r\n"
    assert not client.authenticated
    assert ask(client, "AUTH", "secret") == b"+OK\r\n"
    assert client.authenticated
    assert ask(client, "AUTH", "wrong") == b"-ERR invalid password\r\n"
    assert client.authenticated


@pytest.mark.parametrize("user", ["default", "nobody"])
@pytest.mark.parametrize("password", [b"secret", None])
@pytest.mark.parametrize("authenticated", [True, False])
def test_failed_auth_changes_nothing(user, password, authenticated):
    if (user, password) == ("default", None):
        pytest.skip("any password will do")
    client = connect(FakePool(redis_auth=password), authenticated=authenticated)
    for words in (("AUTH",), ("HELLO", "3", "AUTH")):
        assert ask(client, *words, user, "wrong").startswith(b"-WRONGPASS ")
        assert client.authenticated == authenticated
        assert client.protover == 2


def test_password_may_be_any_bytes():
    client = connect(FakePool(redis_auth=b"\xff\0secret"))
    assert ask(client, "AUTH", b"\xff\0secret") == b"+OK\r\n"


def test_reset_makes_the_connection_as_new_but_keeps_its_library(pool):
    client = connect(
        pool, protover=3, name="me", no_evict=True, no_touch=True, reply_mode=ReplyMode.OFF
    )
    client.lib_name = "redis-py"
    assert ask(client, "RESET") == b"+RESET\r\n"
    assert state(client) == {
        **state(client),
        "protover": 2,
        "name": "",
        "no_evict": False,
        "no_touch": False,
        "reply_mode": ReplyMode.ON,
        "lib_name": "redis-py",
        "authenticated": True,
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["HELLO", "4", "SETNAME", "you"],
        ["HELLO", "3", "SETNAME", "you", "NOSUCH"],
        ["HELLO", "3", "SETNAME", "you", "AUTH", "default", "wrong"],
        ["HELLO", "3", "AUTH", "default", "secret", "SETNAME", "y u"],
        ["HELLO", "3", "SETNAME", "you"],
    ],
)
def test_hello_that_fails_changes_nothing(argv):
    client = connect(FakePool(redis_auth=b"secret"), name="me")
    before = state(client)
    assert ask(client, *argv).startswith(b"-")
    assert state(client) == before


def test_hello_asks_a_server_for_its_version_once_without_changing_its_protocol(reference):
    pool = FakePool(server_version=None, knows_hello=False)
    client = connect(pool, protover=2)
    query = ask(client, "HELLO", "3", "SETNAME", "me")
    assert isinstance(query, Query)
    # The shared connection uses the client's current protocol version, which must not change.
    assert (query.scope, query.argv) == ("any", [b"HELLO", b"2"])
    assert (client.protover, client.name) == (2, "")

    reply = query.finish([reference.connect()(*query.argv)])
    assert decode(reply)[b"version"] == pool.server_version.encode() == b"7.0.15"
    assert (client.protover, client.name) == (3, "me")
    assert isinstance(ask(client, "HELLO", "2"), bytes)


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ([[], b"7.0.0", b"version", b"7.0.15"], "7.0.15"),
        ([b"version", b"7\xff"], "7\ufffd"),
        ([b"version"], ""),
        (7, ""),
    ],
)
def test_hello_accepts_any_version_of_a_server(answer, version):
    client = connect(FakePool(server_version=None, knows_hello=False))
    assert decode(ask(client, "HELLO", "3").finish([answer]))[b"server"] == b"redis"
    assert client.pool.server_version == version


def test_hello_reads_the_version_from_a_server_connection_of_protocol_3(reference):
    client = connect(FakePool(server_version=None, knows_hello=False), protover=3)
    query = ask(client, "HELLO")
    assert query.argv == [b"HELLO", b"3"]
    query.finish([reference.connect()(*query.argv)])
    assert client.pool.server_version == "7.0.15"


def test_hello_2_is_answered_for_servers_that_do_not_know_it(reference):
    client = connect(FakePool(server_version=None, knows_hello=False))
    query = ask(client, "HELLO", "2", "SETNAME", "me")
    assert (query.scope, query.argv) == ("any", [b"INFO", b"server"])
    reply = decode(query.finish([reference.connect()(*query.argv)]))
    assert reply[:6] == [b"server", b"redis", b"version", b"7.0.15", b"proto", 2]
    assert client.name == "me"
    assert decode(ask(client, "HELLO"))[2:4] == [b"version", b"7.0.15"]


def test_hello_2_needs_no_version():
    """INFO may be renamed on the server, too."""
    client = connect(FakePool(server_version=None, knows_hello=False))
    refused = hiredis.ReplyError("ERR unknown command 'INFO', with args beginning with: ")
    assert decode(ask(client, "HELLO", "2").finish([refused]))[2:4] == [b"version", b"unknown"]
    assert client.pool.server_version is None


@pytest.mark.parametrize("version", [None, "5.0.14", "7.0.15"])
@pytest.mark.parametrize(
    "error",
    [
        "ERR unknown command `HELLO`, with args beginning with: `2`, ",
        "ERR unknown command 'HELLO', with args beginning with: '2' ",
        "ERR unknown command 'HELLO'",
    ],
)
def test_hello_3_is_unknown_to_servers_that_do_not_know_it(error, version):
    client = connect(FakePool(server_version=version, knows_hello=False))
    before = state(client)
    reply = ask(client, "HELLO", "3", "SETNAME", "a").finish([hiredis.ReplyError(error)])
    assert reply == errors.unknown_command([b"HELLO", b"3", b"SETNAME", b"a"])
    assert state(client) == before


def test_hello_passes_on_why_no_server_could_be_asked():
    client = connect(FakePool(server_version=None))
    reply = ask(client, "HELLO").finish([hiredis.ReplyError("ERR server 'one': refused")])
    assert reply == b"-ERR server 'one': refused\r\n"
    assert client.pool.server_version is None


# CLIENT -----------------------------------------------------------------------------------------


def test_client_list_is_of_the_pool_and_filtered_by_id_in_the_order_asked_for(pool):
    first, second, third = connect(pool), connect(pool), connect(pool)

    def listed(*options):
        lines = decode(ask(first, "CLIENT", "LIST", *options)).decode().splitlines()
        return [int(re.match(r"id=(\d+) ", line)[1]) for line in lines]

    assert listed() == listed("TYPE", "normal") == [first.id, second.id, third.id]
    assert listed("ID", str(third.id), "123", str(first.id)) == [third.id, first.id]


def test_client_info_shows_the_connection(pool):
    client = connect(
        pool,
        peer="/run/nutproxy.sock:0",
        created=NOW - 100.5,
        last_interaction=NOW - 10.5,
        omem=5,
        tot_net_in=6,
        tot_net_out=7,
        closing=True,
    )
    for argv in (
        ["SETNAME", "me"],
        ["SETINFO", "LIB-NAME", "redis-py"],
        ["SETINFO", "lib-ver", "8.1.0"],
        ["NO-EVICT", "ON"],
        ["NO-TOUCH", "on"],
    ):
        assert ask(client, "CLIENT", *argv) == b"+OK\r\n"
    fields = dict(
        pair.split("=", 1) for pair in decode(ask(client, "CLIENT", "INFO")).decode().split()
    )
    expected = {
        "addr": "/run/nutproxy.sock:0",
        "laddr": "127.0.0.1:22121",
        "name": "me",
        "age": "100",
        "idle": "10",
        "flags": "UceT",
        "omem": "5",
        "cmd": "client|info",
        "user": "default",
        "resp": "2",
        "lib-name": "redis-py",
        "lib-ver": "8.1.0",
        "tot-net-in": "6",
        "tot-net-out": "7",
    }
    assert {name: fields[name] for name in expected} == expected


def test_client_setinfo_refuses_other_attributes_and_unprintable_values(client):
    assert (
        ask(client, "CLIENT", "SETINFO", "LIB-AGE", "3")
        == b"-ERR Unrecognized option 'LIB-AGE'\r\n"
    )
    assert (
        ask(client, "CLIENT", "SETINFO", "LIB-NAME", "redis py")
        == b"-ERR lib-name cannot contain spaces, newlines or special characters.\r\n"
    )
    assert client.lib_name == ""


def test_client_no_touch_takes_on_and_off(client):
    assert ask(client, "CLIENT", "NO-TOUCH", "maybe") == b"-ERR syntax error\r\n"
    ask(client, "CLIENT", "NO-TOUCH", "ON")
    assert client.no_touch
    ask(client, "CLIENT", "NO-TOUCH", "OFF")
    assert not client.no_touch


def test_client_id_is_the_connections(client):
    assert ask(client, "CLIENT", "ID") == b":7\r\n"


def test_client_help_names_every_supported_subcommand_and_no_other(client):
    lines = [line.decode() for line in decode(ask(client, "CLIENT", "HELP"))]
    described = {f"client {line.split()[0].lower()}" for line in lines[1:] if line[0] != " "}
    assert described == {
        row.name for row in COMMANDS.values() if row.handler and row.name.startswith("client ")
    }


def test_a_client_subcommand_that_is_not_in_the_table_has_redis_text(client):
    """redis-py sends this after HELLO and continues if the reply is an error."""
    words = [b"CLIENT", b"MAINT_NOTIFICATIONS", b"ON"]
    assert HANDLERS["client"](client, words) == errors.unknown_subcommand(words)
    assert HANDLERS["client"](client, words[:1]) == errors.wrong_arity("client")


# INFO, TIME, LOLWUT -----------------------------------------------------------------------------


def sections(reply):
    return re.findall(r"^# (\w+)\r$", decode(reply).decode(), re.MULTILINE)


def info(client, *asked, replies=()):
    """The reply to INFO. `replies` are the replies of the servers."""
    client.pool.servers = [FakeServer(f"s{number}") for number, _ in enumerate(replies)]
    client.pool.asked = len(replies)
    reply = ask(client, "INFO", *asked)
    return reply if isinstance(reply, bytes) else reply.finish([*replies])


def fields(reply):
    lines = decode(reply).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@pytest.mark.parametrize(
    "argv",
    [
        ["INFO"],
        ["INFO", "all"],
        ["info", "Default"],
        ["INFO", "EVERYTHING"],
        ["INFO", "stats", "nosuch", "SERVER"],
        ["INFO", "default", "commandstats"],
        ["INFO", "nosuch"],
    ],
)
def test_info_has_the_sections_of_redis_in_its_order(argv, client, reference):
    theirs = sections(reference.connect().raw(*argv))
    assert sections(info(client, *argv[1:])) == theirs


def test_info_asks_the_servers_once_and_only_for_what_the_proxy_does_not_know(pool, client):
    for section in ("server", "clients", "replication", "CPU", "modules", "cluster", "nosuch"):
        assert isinstance(ask(client, "INFO", section), bytes), section
    assert ask(client, "INFO", "keyspace").argv == [b"INFO", b"keyspace"]
    assert ask(client, "INFO", "Commandstats", "cpu").argv == [b"INFO", b"commandstats"]
    # Redis before 7 accepts only one section.
    assert ask(client, "INFO", "memory", "stats").argv == [b"INFO"]
    assert ask(client, "INFO").argv == [b"INFO"]
    assert ask(client, "INFO", "everything").argv == [b"INFO", b"all"]
    pool.server_version = None
    assert ask(client, "INFO", "keyspace").argv == [b"INFO", b"keyspace"]
    assert ask(client, "INFO", "server").argv == [b"INFO", b"server"]


def test_info_looks_like_a_primary_without_replicas(client):
    replication = fields(info(client, "replication"))
    assert replication["role"] == "master"
    assert replication["connected_slaves"] == "0"
    assert re.fullmatch("[0-9a-f]{40}", replication["master_replid"])
    assert fields(info(client, "replication")) == replication
    other = connect(FakePool(name="beta"))
    assert fields(info(other, "replication"))["master_replid"] != replication["master_replid"]
    assert fields(info(client, "cluster")) == {"cluster_enabled": "0"}


def test_the_documented_sections_are_those_of_info():
    assert [*INFO_SECTIONS] == [*SECTIONS]


def test_info_fields_stand_in_the_order_of_redis(client, reference):
    theirs = [*fields(reference.connect().raw("INFO", "everything"))]
    server = reference.connect()("INFO", "all")
    ours = [*fields(info(client, "everything", replies=[server, server]))]
    own = [name for name in ours if name in theirs]
    assert own == sorted(own, key=theirs.index)
    summed = {name for section in INFO_FIELDS.values() for name in section}
    assert summed <= set(ours)
    assert {name for name in theirs if name.startswith(("cmdstat_", "errorstat_"))} <= set(ours)


def test_info_merges_the_replies_of_the_servers(client):
    one = (
        b"maxmemory:100\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n"
        b"rdb_last_bgsave_status:ok\r\nrdb_last_save_time:1000\r\nkeyspace_hits:7\r\n"
        b"instantaneous_input_kbps:0.25\r\nlatest_fork_usec:5\r\nexpired_keys:x\r\n"
        b"cmdstat_get:calls=3,usec=30,usec_per_call=10.00,rejected_calls=1,failed_calls=0\r\n"
        b"errorstat_ERR:count=2\r\nlatency_percentiles_usec_get:p50=1.003,p99=100.000\r\n"
    )
    two = (
        b"maxmemory:200\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n"
        b"rdb_last_bgsave_status:err\r\nrdb_last_save_time:900\r\nkeyspace_hits:9\r\n"
        b"instantaneous_input_kbps:0.50\r\nlatest_fork_usec:9\r\nexpired_keys:1\r\n"
        b"cmdstat_get:calls=1,usec=20,usec_per_call=20.00,rejected_calls=0,failed_calls=2\r\n"
        b"cmdstat_set:calls=0,usec=0,usec_per_call=0.00,rejected_calls=4,failed_calls=0\r\n"
        b"errorstat_ERR:count=3\r\nlatency_percentiles_usec_get:p50=9.003,p99=90.000\r\n"
    )
    found = fields(info(client, "everything", replies=[one, two, hiredis.ReplyError("ERR no")]))
    expected = {
        "maxmemory": "300",
        "maxmemory_policy": "noeviction,allkeys-lru",
        "loading": "0",
        "aof_enabled": "0",
        "rdb_last_bgsave_status": "err",
        "rdb_last_save_time": "900",
        "keyspace_hits": "16",
        "instantaneous_input_kbps": "0.75",
        "latest_fork_usec": "9",
        "cmdstat_get": "calls=4,usec=50,usec_per_call=12.50,rejected_calls=1,failed_calls=2",
        "cmdstat_set": "calls=0,usec=0,usec_per_call=0.00,rejected_calls=4,failed_calls=0",
        "errorstat_ERR": "count=5",
        "latency_percentiles_usec_get": "p50=9.003,p99=100.000",
        "nutproxy_servers_unanswered": "1",
    }
    assert {name: found[name] for name in expected} == expected
    assert "expired_keys" not in found
    without = info(client, "memory", replies=[one, two.replace(b"maxmemory:200", b"maxmemory:0")])
    assert fields(without)["maxmemory"] == "0"


def test_info_learns_the_version_of_the_servers(client, reference):
    client.pool.server_version = None
    client.pool.asked = 2
    query = ask(client, "INFO", "server")
    refused = hiredis.ReplyError("ERR server 'one': refused")
    reply = query.finish([refused, reference.connect()(*query.argv)])
    assert b"redis_version:7.0.15\r\n" in reply
    assert client.pool.server_version == "7.0.15"


def test_info_without_any_server_has_no_version(client):
    client.pool.server_version = None
    client.pool.asked = 1
    reply = ask(client, "INFO", "server").finish([hiredis.ReplyError("ERR refused")])
    assert b"redis_version:unknown\r\n" in reply
    assert client.pool.server_version is None


def test_info_keyspace_sums_up_each_database_the_pool_s_as_db0(client):
    client.pool.redis_db = 3
    client.pool.databases = 6
    client.pool.servers.append(FakeServer("three"))
    client.pool.asked = 3
    replies = [
        b"# Keyspace\r\ndb0:keys=1000,expires=1000,avg_ttl=1\r\n"
        b"db3:keys=10,expires=4,avg_ttl=100\r\n",
        b"# Keyspace\r\ndb3:keys=5,expires=1,avg_ttl=600,subexpiry=0\r\n",
        b"# Keyspace\r\ndb5:keys=3,expires=0,avg_ttl=0\r\ndb6:keys=9,expires=0,avg_ttl=0\r\n",
    ]
    reply = ask(client, "INFO", "keyspace").finish(replies)
    assert decode(reply) == (
        b"# Keyspace\r\ndb0:keys=15,expires=5,avg_ttl=200\r\ndb5:keys=3,expires=0,avg_ttl=0\r\n"
    )


def test_info_keyspace_of_an_empty_pool_is_that_of_an_empty_redis(client, reference):
    connection = reference.connect()
    connection("FLUSHALL")
    client.pool.asked = 2
    query = ask(client, "INFO", "keyspace")
    assert query.finish([connection(*query.argv)] * 2) == connection.raw("INFO", "keyspace")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (hiredis.ReplyError("ERR no"), b"ERR no"),
        (hiredis.ReplyError("ERR \x1b"), rb"ERR \x1b"),
        (7, b"the reply holds no figures"),
        (b"db0:keys=many\r\n", b"the reply holds no figures"),
    ],
)
def test_info_keyspace_says_which_servers_are_not_in_the_sum_and_why(client, answer, error):
    client.pool.asked = 2
    replies = [b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n", answer]
    assert decode(ask(client, "INFO", "keyspace").finish(replies)) == (
        b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n"
        b"nutproxy_servers_unanswered:1\r\nnutproxy_unanswered0:server=two,error=%b\r\n" % error
    )


def test_info_reports_the_proxy_and_its_pool(client):
    client.pool.servers[1].down = True
    client.frontend.port = 22122
    text = decode(ask(client, "INFO").finish([])).decode()
    for line in (
        "redis_version:7.0.15",
        "redis_mode:standalone",
        "process_id:4711",
        "tcp_port:22122",
        "uptime_in_seconds:90000",
        "uptime_in_days:1",
        "config_file:conf/nutproxy.yml",
        "nutproxy_version:0.1.0",
        "nutproxy_pool:alpha",
        "nutproxy_servers:2",
        "nutproxy_servers_down:1",
        "nutproxy_servers_ejected:0",
        "connected_clients:3",
        "total_connections_received:12",
        "total_commands_processed:99",
        "total_net_input_bytes:1000",
        "total_net_output_bytes:2000",
        "rejected_connections:1",
        "forward_error:4",
        "server_ejects:5",
    ):
        assert f"\r\n{line}\r\n" in text
    assert int(re.search(r"used_memory:(\d+)", text)[1]) > 1_000_000


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1_572_864, "1.50M"), (5 * 2**40, "5.00T")],
)
def test_sizes_are_written_as_redis_writes_them(size, text):
    assert human(size) == text


@pytest.mark.parametrize("argv", [["INFO", "clients"], ["CLIENT", "INFO"], ["LOLWUT"]])
def test_texts_are_verbatim_strings_in_resp3(argv, client):
    in_resp2 = ask(client, *argv)
    client.protover = 3
    in_resp3 = ask(client, *argv)
    assert in_resp2.startswith(b"$")
    assert re.match(rb"=\d+\r\ntxt:", in_resp3)
    assert decode(in_resp3) == decode(in_resp2).replace(b"resp=2", b"resp=3")


def test_lolwut_ends_with_the_version(client):
    text = decode(ask(client, "LOLWUT", "VERSION", "5"))
    assert text.endswith(b"nutproxy ver. 0.1.0\n")


def test_time_is_seconds_and_microseconds(client):
    before = time.time_ns() // 1000
    seconds, microseconds = map(int, decode(ask(client, "TIME")))
    after = time.time_ns() // 1000
    assert 0 <= microseconds < 1_000_000
    assert before <= seconds * 1_000_000 + microseconds <= after


def test_client_list_of_many_is_made_in_steps(pool, client):
    others = [connect(pool) for _ in range(250)]
    answer = ask(client, "CLIENT", "LIST")
    others[-1].fd = -1
    *before, reply = answer.steps
    assert before == [b"", b""]
    ids = [
        int(line.split()[0].removeprefix(b"id=")) for line in reply.split(b"\n") if b"id=" in line
    ]
    assert ids == [client.id, *(other.id for other in others[:-1])]
