"""The configuration: accepted values, refused values with their messages, and the results."""

import io
import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nutproxy.config import Address, Config, PoolConfig, Problem, index_order, load, schema
from nutproxy.config.docs import example, page
from nutproxy.config.load import SYNONYMS, ketama_points
from nutproxy.config.model import GlobalConfig, PoolKeys, PoolSettings, accepted, size_text, table
from nutproxy.proto import commands
from nutproxy.proto.commands import KeySpec

ROOT = Path(__file__).parent.parent.parent

PERMISSIONS_ACCEPTED = "accepted: octal 0 to 0777"
LISTEN_ACCEPTED = "accepted: host:port, [IPv6]:port or /path [permissions]"
SERVER_ACCEPTED = "host:port:weight [name], [IPv6]:port:weight [name] or /path:weight [name]"

NO_LIST = f"is not a list, accepted: a list of {SERVER_ACCEPTED}"
SERVERS_EMPTY = f"is empty, a pool needs at least one server; accepted: a list of {SERVER_ACCEPTED}"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Loads a text as the file `f.yml`."""
    monkeypatch.chdir(tmp_path)

    def read(text: str | bytes) -> tuple[Config | None, list[Problem]]:
        Path("f.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load("f.yml")

    return read


@pytest.fixture
def findings(read):
    """The findings in a text, as printed."""
    return lambda text: [str(problem) for problem in read(text)[1]]


def pool_text(
    *keys: str, listen: str = "127.0.0.1:1", servers: tuple[str, ...] = ("h:1:1",)
) -> str:
    """A Redis pool `p`: listen on line 2, redis on line 3, `keys` from line 4, then servers."""
    lines = ["p:", f"  listen: {listen}", "  redis: true", *(f"  {key}" for key in keys)]
    return "\n".join([*lines, "  servers:", *(f"  - {server}" for server in servers)]) + "\n"


@pytest.fixture
def read_pool(read):
    """The only pool of a text without problems."""

    def read_pool(*keys: str, **parts) -> PoolConfig:
        config, problems = read(pool_text(*keys, **parts))
        assert config is not None, [str(problem) for problem in problems]
        return config.pools[0]

    return read_pool


# Accepted values.


def test_defaults_are_twemproxys(read):
    config, problems = read("p:\n  listen: 127.0.0.1:22121\n  servers:\n  - 127.0.0.1:6379:1\n")
    pool = config.pools[0]
    assert problems == []
    assert pool.name == "p"
    assert pool.listen == Address("tcp", host="127.0.0.1", port=22121)
    assert pool.listen_permissions is None
    assert (pool.hash, pool.distribution, pool.hash_tag) == ("fnv1a_64", "ketama", None)
    assert (pool.timeout, pool.backlog, pool.client_connections) == (None, 512, 0)
    assert not any([pool.tcpkeepalive, pool.reuseport, pool.preconnect, pool.auto_eject_hosts])
    assert (pool.redis, pool.redis_auth, pool.redis_db) == (False, None, 0)
    assert (pool.server_connections, pool.server_retry_timeout) == (1, 30000)
    assert pool.server_failure_limit == 2


def test_own_keys_change_nothing_for_twemproxys_users_by_default(read_pool):
    pool = read_pool()
    assert (pool.admin_commands, pool.deny_commands) == (False, frozenset())
    assert (pool.client_max_requests, pool.client_max_pending) == (1024, 32 << 20)
    assert (pool.client_query_buffer_limit, pool.client_request_timeout) == (2 << 30, 60000)
    assert (pool.server_max_queue, pool.proto_max_bulk_len) == (1 << 30, 512 << 20)
    assert pool.max_merged_reply == 256 << 20


def test_global_settings_have_defaults(read):
    config, _ = read(pool_text())
    assert (config.globals.verbose, config.globals.output, config.globals.mbuf_size) == (
        5,
        None,
        16384,
    )
    assert config.path == "f.yml"


@pytest.mark.parametrize(
    ("text", "usec"),
    [("auto", 100), ("off", 0), ("OFF", 0), ("20us", 20), ("50 us", 50), ("1000 \u00b5s", 1000)],
)
def test_coalesce_is_a_word_or_a_time_in_microseconds(text, usec, read):
    config, _ = read(f"global:\n  coalesce: {text}\n" + pool_text())
    assert config.globals.coalesce == usec


def test_global_settings_are_read(read):
    config, _ = read(
        "global:\n  verbose: 11\n  output: /x/y.log\n  mbuf_size: 64kb\n" + pool_text()
    )
    assert (config.globals.verbose, config.globals.output, config.globals.mbuf_size) == (
        11,
        "/x/y.log",
        65536,
    )


@pytest.mark.parametrize(
    ("text", "address", "permissions", "shown"),
    [
        ("127.0.0.1:22121", Address("tcp", "127.0.0.1", 22121), None, "127.0.0.1:22121"),
        ("127.1:022121", Address("tcp", "127.1", 22121), None, "127.1:22121"),
        ("localhost:1", Address("tcp", "localhost", 1), None, "localhost:1"),
        ("my_host-1.example.com.:65535", Address("tcp", "my_host-1.example.com.", 65535), None, ""),
        ("::1:22121", Address("tcp", "::1", 22121), None, "[::1]:22121"),
        ('"[::1]:22121"', Address("tcp", "::1", 22121), None, "[::1]:22121"),
        (":::22121", Address("tcp", "::", 22121), None, "[::]:22121"),
        ("fe80::1%eth0:22121", Address("tcp", "fe80::1%eth0", 22121), None, "[fe80::1%eth0]:22121"),
        ("/run/a.sock", Address("unix", path="/run/a.sock"), None, "/run/a.sock"),
        ("/run/a.sock 0777", Address("unix", path="/run/a.sock"), 0o777, "/run/a.sock"),
        ("/run/a.sock  640", Address("unix", path="/run/a.sock"), 0o640, "/run/a.sock"),
        ("/run/a.sock 0", Address("unix", path="/run/a.sock"), None, "/run/a.sock"),
        ("/" + "x" * 106, Address("unix", path="/" + "x" * 106), None, "/" + "x" * 106),
    ],
)
def test_forms_of_listen(read_pool, text, address, permissions, shown):
    pool = read_pool(listen=text)
    assert (pool.listen, pool.listen_permissions) == (address, permissions)
    if shown:
        assert str(pool.listen) == shown


@pytest.mark.parametrize(
    ("text", "name", "named", "address", "weight"),
    [
        ("h:6379:1", "h:6379", False, Address("tcp", "h", 6379), 1),
        ("h:6379:12 alpha", "alpha", True, Address("tcp", "h", 6379), 12),
        ("h:6379:1  a:b", "a:b", True, Address("tcp", "h", 6379), 1),
        ('h:6379:1 "n"', '"n"', True, Address("tcp", "h", 6379), 1),
        ("h:06379:01", "h:06379", False, Address("tcp", "h", 6379), 1),
        ("10.0.0.1:11211:1", "10.0.0.1", False, Address("tcp", "10.0.0.1", 11211), 1),
        ("10.0.0.1:11211:1 n", "n", True, Address("tcp", "10.0.0.1", 11211), 1),
        ("::1:6379:1", "::1:6379", False, Address("tcp", "::1", 6379), 1),
        ('"[::1]:6379:1"', "::1:6379", False, Address("tcp", "::1", 6379), 1),
        ('"[::1]:11211:1"', "::1", False, Address("tcp", "::1", 11211), 1),
        ('"[::1]:6379:1 n"', "n", True, Address("tcp", "::1", 6379), 1),
        ("/a.sock:1", "/a.sock:", False, Address("unix", path="/a.sock"), 1),
        ("/a.sock:5 n", "n", True, Address("unix", path="/a.sock"), 5),
        ("/a b.sock:1 n", "n", True, Address("unix", path="/a b.sock"), 1),
        ("h:1:2147483647", "h:1", False, Address("tcp", "h", 1), 2147483647),
    ],
)
def test_forms_of_servers_and_the_names_they_are_hashed_under(
    read_pool, text, name, named, address, weight
):
    (server,) = read_pool(servers=(text,)).servers
    assert (server.name, server.named, server.address) == (name, named, address)
    assert (server.weight, server.line) == (weight, 5)


def test_servers_are_in_twemproxys_index_order(read_pool):
    names = ("server10", "server2", "zz", "é1", "server1")
    pool = read_pool(servers=tuple(f"h:{i + 1}:1 {name}" for i, name in enumerate(names)))
    assert [server.name for server in pool.servers] == [
        "zz",
        "é1",
        "server1",
        "server2",
        "server10",
    ]
    assert [server.line for server in pool.servers] == [7, 8, 9, 6, 5]


def test_pools_are_in_twemproxys_order(read):
    text = "".join(
        f"{name}:\n  listen: h:{port}\n  redis: true\n  servers: [h:1:1]\n"
        for port, name in enumerate(("beta", "alpha", "z", "Beta"), 1)
    )
    config, _ = read(text)
    assert [pool.name for pool in config.pools] == ["z", "Beta", "beta", "alpha"]


def test_index_order_compares_bytes_not_characters():
    assert sorted(["é", "zz", "aaa", "z"], key=index_order) == ["z", "zz", "é", "aaa"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("yes", True),
        ("NO", False),
        ("On", True),
        ("'true'", True),
    ],
)
def test_booleans(read_pool, text, value):
    assert read_pool(f"preconnect: {text}").preconnect is value


@pytest.mark.parametrize(
    ("text", "value"),
    [("400", 400), ("0400", 400), ("'400'", 400), ("0", None), ("-1", None)],
)
def test_timeout_is_milliseconds_and_nothing_for_no_limit(read_pool, text, value):
    assert read_pool(f"timeout: {text}").timeout == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2000000", 2000000),
        ("2000000b", 2000000),
        ("2000k", 2000000),
        ("2000kb", 2048000),
        ("2m", 2000000),
        ("2MB", 2097152),
        ("1g", 1000000000),
        ("1Gb", 1073741824),
    ],
)
def test_sizes_have_the_units_of_redis_conf(read_pool, text, value):
    assert read_pool(f"server_max_queue: {text}").server_max_queue == value


def test_text_that_looks_like_a_number_stays_as_it_is_written(read_pool):
    assert read_pool("redis_auth: 0123").redis_auth == b"0123"
    assert read_pool("redis_auth: null").redis_auth == b"null"
    assert read_pool("redis_auth: a b").redis_auth == b"a b"


@pytest.mark.parametrize(("text", "value"), [('"{}"', b"{}"), ("$$", b"$$"), ("é", "é".encode())])
def test_hash_tag_is_two_bytes(read_pool, text, value):
    assert read_pool(f"hash_tag: {text}").hash_tag == value


def test_denied_commands_are_lower_case_and_subcommands_take_either_spelling(read_pool):
    pool = read_pool('deny_commands: [KEYS, "config|set", CONFIG  GET]')
    assert pool.deny_commands == {"keys", "config set", "config get"}


def test_a_pool_takes_defaults_and_its_own_values_win(read):
    config, _ = read(
        "defaults:\n  redis: true\n  timeout: 400\n  deny_commands: [keys]\n"
        "a:\n  listen: h:1\n  servers: [h:1:1]\n"
        "b:\n  listen: h:2\n  timeout: 5\n  deny_commands: [flushall]\n  servers: [h:1:1]\n"
    )
    a, b = config.pools
    assert (a.redis, a.timeout, a.deny_commands) == (True, 400, {"keys"})
    assert (b.redis, b.timeout, b.deny_commands) == (True, 5, {"flushall"})


def test_denied_commands_in_defaults_reach_the_pools_that_have_them(read):
    config, _ = read(
        "defaults:\n  deny_commands: [flush_all, flushall, set]\n"
        "m:\n  listen: h:1\n  servers: [h:1:1]\n"
        "r:\n  listen: h:2\n  redis: true\n  servers: [h:1:1]\n"
    )
    m, r = config.pools
    assert (m.deny_commands, r.deny_commands) == ({"flush_all", "set"}, {"flushall", "set"})


def test_on_dead_server_from_defaults_does_not_reach_redis_pools(read):
    config, _ = read(
        "defaults:\n  on_dead_server: miss\n"
        "m:\n  listen: h:1\n  servers: [h:1:1]\n"
        "r:\n  listen: h:2\n  redis: true\n  servers: [h:1:1]\n"
    )
    assert [pool.on_dead_server for pool in config.pools] == ["miss", "error"]


def test_redis_auth_from_defaults_does_not_reach_memcached_pools(read):
    config, _ = read(
        "defaults:\n  redis_auth: pw\n"
        "m:\n  listen: h:1\n  servers: [h:1:1]\n"
        "r:\n  listen: h:2\n  redis: true\n  servers: [h:1:1]\n"
    )
    assert [pool.redis_auth for pool in config.pools] == [None, b"pw"]


def test_password_does_not_show_when_a_pool_is_printed(read_pool):
    pool = read_pool("redis_auth: s3cret")
    assert pool.redis_auth == b"s3cret"
    assert "s3cret" not in repr(pool) + str(pool)


def test_results_cannot_be_changed(read):
    config, _ = read(pool_text())
    for part, name in [
        (config, "path"),
        (config.globals, "verbose"),
        (config.pools[0], "timeout"),
        (config.pools[0].servers[0], "weight"),
        (config.pools[0].listen, "port"),
    ]:
        with pytest.raises((AttributeError, ValueError)):
            setattr(part, name, 1)


def test_tabs_between_tokens_are_read_as_twemproxy_reads_them(read):
    config, problems = read(
        "p:\n  listen:\t127.0.0.1:1\t# why\n  redis: true\t\n  servers:\n  - h:1:1\t\n"
    )
    assert problems == []
    assert str(config.pools[0].listen) == "127.0.0.1:1"


def test_aliases_and_a_byte_order_mark_are_read(read):
    config, problems = read(
        "\ufeffa:\n  listen: h:1\n  redis: &r true\n  servers: &s [h:1:1]\n"
        "b:\n  listen: h:2\n  redis: *r\n  servers: *s\n"
    )
    assert problems == []
    assert config.pools[1].servers[0].name == "h:1"


# Refused keys and values. Line 4 is the first line of `keys`.


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lisen: x", "lisen: unknown key, did you mean 'listen'?"),
        ("zzz: x", "zzz: unknown key"),
        ("sentinels: x", "sentinels: unknown key"),
        ("redis_password: x", "redis_password: unknown key, did you mean 'redis_auth'?"),
        ("password: x", "password: unknown key, did you mean 'redis_auth'?"),
        ("requirepass: x", "requirepass: unknown key, did you mean 'redis_auth'?"),
        ("Database: 1", "Database: unknown key, did you mean 'redis_db'?"),
        ("backends: [h:1:1]", "backends: unknown key, did you mean 'servers'?"),
        ("port: 1", "port: unknown key, did you mean 'listen'?"),
        ("tcp-keepalive: 1", "tcp-keepalive: unknown key, did you mean 'tcpkeepalive'?"),
        ("loglevel: 3", "loglevel: unknown key, did you mean 'verbose' under 'global'?"),
        (r'"\ud800": x', "has a key that is not plain text"),
        (r'"a\nb": x', "has a key that is not plain text"),
        (
            r'redis_auth: "\ud800"',
            "redis_auth: contains U+D800, half of a surrogate pair, accepted: UTF-8 text",
        ),
        (
            r'deny_commands: ["\udfff"]',
            "deny_commands: contains U+DFFF, half of a surrogate pair, accepted: UTF-8 text",
        ),
        ("verbose: 3", "verbose: is a process setting, it belongs under 'global'"),
        ("<<: {a: b}", "<<: merge keys are not supported, put common values under 'defaults'"),
        (
            "hash: fnv1a_46",
            "hash: 'fnv1a_46' is not a valid hash, accepted: one_at_a_time, md5, crc16, crc32,"
            " crc32a, fnv1_64, fnv1a_64, fnv1_32, fnv1a_32, hsieh, murmur, jenkins, murmur3,"
            " did you mean 'fnv1a_64'?",
        ),
        (
            "distribution: ring",
            "distribution: 'ring' is not a valid distribution, accepted: ketama, modula, random",
        ),
        (
            "hash_tag: x",
            "hash_tag: 'x' is not a pair of characters, accepted: exactly two bytes",
        ),
        ("hash_tag: {}", 'hash_tag: braces must be quoted: "{}"'),
        ("hash_tag: []", 'hash_tag: brackets must be quoted: "[]"'),
        ("hash_tag: {a: b}", "hash_tag: is a mapping, accepted: exactly two bytes"),
        (
            "timeout: -2",
            "timeout: -2 is out of range, accepted: -1 to 2147483647 milliseconds",
        ),
        (
            "timeout: 99999999999",
            "timeout: 99999999999 is out of range, accepted: -1 to 2147483647 milliseconds",
        ),
        (
            "timeout: 1.5",
            "timeout: '1.5' is not a whole number, accepted: -1 to 2147483647 milliseconds",
        ),
        (
            "timeout: [1]",
            "timeout: is a list, accepted: -1 to 2147483647 milliseconds",
        ),
        ("timeout:", "timeout: has no value, accepted: -1 to 2147483647 milliseconds"),
        (
            "backlog: 1_000",
            "backlog: '1_000' is not a whole number, accepted: 0 to 2147483647 connections",
        ),
        (
            "tcpkeepalive_idle: 32768",
            "tcpkeepalive_idle: 32768 is out of range, accepted: 0 to 32767 seconds",
        ),
        (
            "tcpkeepalive_count: 128",
            "tcpkeepalive_count: 128 is out of range, accepted: 0 to 127 probes",
        ),
        ("redis_db: -1", "redis_db: -1 is out of range, accepted: 0 to 2147483647"),
        ("preconnect: True1", "preconnect: 'True1' is not a boolean, accepted: true, false"),
        ("preconnect: 1", "preconnect: '1' is not a boolean, accepted: true, false"),
        ('redis_auth: ""', "redis_auth: has no value, accepted: text that is not empty"),
        (
            "server_connections: 0",
            "server_connections: 0 is out of range, accepted: 1 to 65535 connections",
        ),
        (
            "client_max_requests: 1000001",
            "client_max_requests: 1000001 is out of range, accepted: 1 to 1000000 requests",
        ),
        (
            "client_max_pending: 64tb",
            "client_max_pending: '64tb' is not a size, accepted: bytes with an optional k, kb, m,"
            " mb, g or gb",
        ),
        (
            "proto_max_bulk_len: 5gb",
            "proto_max_bulk_len: 5gb is out of range, accepted: 1mb to 4gb",
        ),
        (
            "proto_max_bulk_len: 1048575",
            "proto_max_bulk_len: 1048575 is out of range, accepted: 1mb to 4gb",
        ),
        (
            "deny_commands: keys",
            "deny_commands: is not a list, accepted: a list of commands",
        ),
        (
            "deny_commands: [keys, flushal]",
            "deny_commands: 'flushal' is not a Redis command, did you mean 'flushall'?",
        ),
        (
            'deny_commands: ["config|sett"]',
            "deny_commands: 'config|sett' is not a Redis command, did you mean 'config set'?",
        ),
        (
            "deny_commands: [keys, [x]]",
            "deny_commands: entry 2 is a list, accepted: a list of commands",
        ),
        ("redis: false", "redis: duplicate key, first set on line 3"),
    ],
)
def test_value_that_is_not_accepted(findings, key, message):
    assert findings(pool_text(key)) == [f"f.yml:4: pool 'p': {message}"]


FORM = (
    "accepted: a list of commands, each as name arity [flags] first-key last-key step"
    " [request_policy:… response_policy:…]"
)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("GET 2 1 1 1", "nutproxy knows 'GET', and its behaviour cannot be changed"),
        ("X", f"entry 1 'X' is not complete, {FORM}"),
        ("X 0 1 1 1", "'X': the arity counts the name, so it is not 0"),
        ("X two 1 1 1", "'two' is not an arity, accepted: -1048576 to 1048576"),
        (
            "X 2 readnly 1 1 1",
            "'readnly' is not a flag of Redis' commands, did you mean 'readonly'?",
        ),
        (
            "X 2 write,blocking 1 1 1",
            "'X' cannot have the flag 'blocking': it would block a server connection that clients"
            " share",
        ),
        (
            "X 2 pubsub 1 1 1",
            "'X' cannot have the flag 'pubsub': it would change a server connection that clients"
            " share",
        ),
        (
            "X 2 no_auth 1 1 1",
            "'X' cannot have the flag 'no_auth': clients must authenticate before a server gets"
            " their requests",
        ),
        ("X 2", f"entry 1 'X' does not say where its keys are; write 0 0 0 if it has none, {FORM}"),
        ("X 2 1 1", f"entry 1 'X' has incomplete keys '1 1', {FORM}"),
        ("X -2 numkeys", f"entry 1 'X' has incomplete keys 'numkeys', {FORM}"),
        ("X 2 2 1 1", "the last key, 1, comes before the first, 2"),
        ("X 2 0 1 1", "'0' is not the position of a key, accepted: 1 to 1048576"),
        ("X 2 1 1 0", "'0' is not a step, accepted: 1 to 1048576"),
        ("X 2 1 one 1", "'one' is not the position of a key, accepted: -1048576 to 1048576"),
        ("X 2 numkeys 0", "'0' is not the position of an argument, accepted: 1 to 1048576"),
        ("X -5 1 1 1 2 2 1 3 3 1 4 4 1", "'X' has keys in 4 places, accepted: at most 3"),
        (
            "X -2 2 -1 1 request_policy:multi_shard",
            "'X' cannot be split: request_policy:multi_shard needs keys from argument 1 to the end,"
            " as in '1 -1 2', or 'numkeys 1'",
        ),
        (
            "X -2 1 -1 1 request_policy:all_shards",
            "'X' has keys, so they say its server, not request_policy:all_shards",
        ),
        (
            "X -2 1 -1 1 request_policy:some",
            "'some' is not a request_policy of 'X', accepted: multi_shard, all_shards, all_nodes",
        ),
        (
            "X 1 0 0 0 request_policy:all_shards response_policy:special",
            "'special' is not a response_policy of 'X', accepted: all_succeeded, one_succeeded,"
            " agg_sum, agg_min, agg_logical_and, first_non_null",
        ),
        (
            "X -2 1 -1 1 policy:all_shards",
            "'policy' is not a policy, accepted: request_policy, response_policy",
        ),
        ("X -2 1 -1 1 response_policy:agg_sum", "'X' has a response_policy, but no request_policy"),
        ("X|Y 2 1 1 1", "'X|Y' is not a name, accepted: printable ASCII without '|'"),
        (
            f"{'x' * 40} 2 1 1 1",
            f"the name '{'x' * 40}' is too long, accepted: at most 39 characters",
        ),
        ("{a: b}", f"entry 1 is a mapping, {FORM}"),
        ("[a]", f"entry 1 is a list, {FORM}"),
    ],
)
def test_custom_command_that_is_not_accepted(findings, entry, message):
    text = pool_text(f"custom_commands:\n  - {entry}")
    assert findings(text) == [f"f.yml:5: pool 'p': custom_commands: {message}"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("app", "entry 1 'app' is not complete, accepted: a list of users"),
        (">secret", "entry 1 does not begin with a name, accepted: a list of users"),
        ("app >secret", "user 'app' must be either on or off"),
        ("app on off >secret", "user 'app' must be either on or off"),
        ("app on", "user 'app' has no password: add >password, #sha256 or nopass"),
        ("app on secret", "entry 1 'app' has a rule that is not known, accepted: a list of users"),
        ("app on '#123'", "entry 1 'app' has a rule that is not known, accepted: a list of users"),
    ],
)
def test_users_are_checked_and_passwords_not_repeated(findings, entry, message):
    text = f'p:\n  listen: h:1\n  users: ["{entry}"]\n  servers: [h:1:1]\n'
    [found] = findings(text)
    assert found.startswith(f"f.yml:3: pool 'p': users: {message}")
    assert "secret" not in found


def test_a_user_is_named_once_and_only_in_memcached_pools(findings):
    users = "p:\n  listen: h:1\n  users: [{}]\n  redis: {}\n  servers: [h:1:1]\n"
    assert findings(users.format("a on nopass, a off", "false")) == [
        "f.yml:3: pool 'p': users: user 'a' is named twice"
    ]
    assert findings(users.format("a on nopass", "true")) == [
        "f.yml:3: pool 'p': users: is only valid for a Memcached pool; use 'redis_auth'"
    ]


def test_custom_commands_are_read_in_the_form_of_the_table(read_pool):
    pool = read_pool(
        "custom_commands:\n  - MyMod.Store -4 write,fast 1 1 1 numkeys 2\n  - MYMOD.X 3 2 2 1\n"
        "  deny_commands: [mymod.x]"
    )
    store, other = pool.custom_commands
    command = commands.custom(store.name, store.row)
    assert (command.name, command.arity, command.flags) == ("mymod.store", -4, {"write", "fast"})
    assert command.keys == (
        KeySpec(pos=1),
        KeySpec(pos=2, find="keynum", keynumidx=0, firstkey=1),
    )
    assert commands.custom(other.name, other.row).keys == (KeySpec(pos=2),)
    assert pool.deny_commands == {"mymod.x"}


def test_custom_commands_are_counted_and_named_once(findings):
    twice = "custom_commands:\n  - X 2 1 1 1\n  - x 2 2 2 1"
    assert findings(pool_text(twice)) == [
        "f.yml:6: pool 'p': custom_commands: duplicate command 'x', first on line 5"
    ]
    many = "".join(f"\n  - X{number} 2 1 1 1" for number in range(257))
    assert findings(pool_text(f"custom_commands:{many}")) == [
        "f.yml:4: pool 'p': custom_commands: has 257 commands, accepted: at most 256"
    ]


def test_custom_commands_of_the_defaults_apply_to_redis_pools(findings):
    text = (
        "defaults:\n  custom_commands: [X 2 1 1 1]\n  deny_commands: [x]\n"
        "m:\n  listen: h:1\n  redis: false\n  servers: [h:1:1]\n"
        "r:\n  listen: h:2\n  redis: true\n  servers: [h:1:1]\n"
    )
    assert findings(text) == []


def test_custom_commands_have_no_effect_in_a_memcached_pool(findings):
    text = "p:\n  listen: h:1\n  redis: false\n  custom_commands: [X 2 1 1 1]\n  servers: [h:1:1]\n"
    assert findings(text) == [
        "f.yml:4: pool 'p': custom_commands: warning: has no effect in a Memcached pool"
    ]


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        (
            "22121",
            f"'22121' is not an address to listen on, {LISTEN_ACCEPTED}; the host is missing,"
            " write '0.0.0.0:22121'",
        ),
        (
            ":22121",
            f"':22121' is not an address to listen on, {LISTEN_ACCEPTED}; the host is missing,"
            " write '0.0.0.0:22121'",
        ),
        ("a", f"'a' is not an address to listen on, {LISTEN_ACCEPTED}"),
        ("tcp://a:1", f"tcp://… is a URL, write 'a:1'; {LISTEN_ACCEPTED}"),
        ("unix:///run/a.sock", f"unix://… is a URL, write '/run/a.sock'; {LISTEN_ACCEPTED}"),
        (r'"/a\0b"', r"the path '/a\x00b' contains a NUL byte"),
        ("h:0", "port 0 is out of range, accepted: 1 to 65535"),
        ("h:65536", "port 65536 is out of range, accepted: 1 to 65535"),
        ("h:redis", "'redis' is not a port, accepted: 1 to 65535"),
        ("h:-1", "'-1' is not a port, accepted: 1 to 65535"),
        ("1.2.3.256:1", "'1.2.3.256' is not an IPv4 address"),
        ("1::2::3:1", "'1::2::3' is not an IPv6 address"),
        ('"[localhost]:1"', "'localhost' is not an IPv6 address"),
        ("a/b:1", "'a/b' is not a host name, an IPv4 or an IPv6 address"),
        ("a b:1", "'a b' is not a host name, an IPv4 or an IPv6 address"),
        ("/a 9999", f"'9999' is not a set of permissions, {PERMISSIONS_ACCEPTED}"),
        ("/a 01777", f"'01777' is not a set of permissions, {PERMISSIONS_ACCEPTED}"),
        ("/a rw", f"'rw' is not a set of permissions, {PERMISSIONS_ACCEPTED}"),
        ("/" + "x" * 107, "the path is 108 bytes long, the maximum for a unix socket is 107"),
        ("[a]", f"is a list, {LISTEN_ACCEPTED}"),
    ],
)
def test_listen_that_is_not_accepted(findings, listen, message):
    assert findings(pool_text(listen=listen)) == [f"f.yml:2: pool 'p': listen: {message}"]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("h:1:0", "weight 0 is out of range, accepted: 1 to 2147483647"),
        ("h:1:2147483648", "weight 2147483648 is out of range, accepted: 1 to 2147483647"),
        ("h:1:-1", "'-1' is not a weight, accepted: 1 to 2147483647"),
        ("h:1:x n", "'x' is not a weight, accepted: 1 to 2147483647"),
        ("h:0:1", "port 0 is out of range, accepted: 1 to 65535"),
        ("h:99999999999:1", "port 99999999999 is out of range, accepted: 1 to 65535"),
        ("h:x:1", "'x' is not a port, accepted: 1 to 65535"),
        (
            "h:1",
            f"'h:1' is not a server, accepted: {SERVER_ACCEPTED}; the weight is missing, write"
            " 'h:1:1'",
        ),
        (
            "h:1 n",
            f"'h:1 n' is not a server, accepted: {SERVER_ACCEPTED}; the weight is missing, write"
            " 'h:1:1 n'",
        ),
        (
            "h",
            f"'h' is not a server, accepted: {SERVER_ACCEPTED}; the port and the weight are"
            " missing, write 'h:6379:1'",
        ),
        (
            "redis://10.0.0.1:7000/0",
            f"redis://… is a URL, write '10.0.0.1:7000:1'; accepted: {SERVER_ACCEPTED}",
        ),
        (
            "rediss://user:s3cret@h/2",
            f"rediss://… is a URL, write 'h:6379:1'; accepted: {SERVER_ACCEPTED}; put its password"
            " in redis_auth; put its database in redis_db: 2; nutproxy does not speak TLS",
        ),
        (
            "memcached://h",
            f"memcached://… is a URL, write 'h:11211:1'; accepted: {SERVER_ACCEPTED}",
        ),
        (
            "unix:///run/a.sock",
            f"unix://… is a URL, write '/run/a.sock:1'; accepted: {SERVER_ACCEPTED}",
        ),
        (
            "h:1:1 my first  server",
            "the name of a server must not contain spaces: 'my first  server', write"
            " 'my-first-server'",
        ),
        (r'"/a\0b:1"', r"the path '/a\x00b' contains a NUL byte"),
        (":1:1", f"':1:1' is not a server, accepted: {SERVER_ACCEPTED}"),
        (
            "/a",
            f"'/a' is not a server, accepted: {SERVER_ACCEPTED}; the weight is missing, write"
            " '/a:1'",
        ),
        # The last word is a name, as in twemproxy, and the rest has no port and no weight.
        ("x y:1:1", f"'x y:1:1' is not a server, accepted: {SERVER_ACCEPTED}"),
        (
            "/" + "x" * 107 + ":1",
            "the path is 108 bytes long, the maximum for a unix socket is 107",
        ),
        ("a: b", f"entry 2 is a mapping, accepted: a list of {SERVER_ACCEPTED}"),
    ],
)
def test_server_that_is_not_accepted(findings, server, message):
    assert findings(pool_text(servers=("good:1:1", server))) == [
        f"f.yml:6: pool 'p': servers: {message}"
    ]


def test_password_in_a_url_is_not_repeated(findings):
    [finding] = findings(pool_text(servers=("redis://user:s3cret@h:1/0",)))
    assert "s3cret" not in finding


@pytest.mark.parametrize(("word", "key"), SYNONYMS.items())
def test_every_synonym_leads_to_a_key(findings, word, key):
    assert word not in PoolKeys.model_fields.keys() | GlobalConfig.model_fields.keys()
    for text in (pool_text(f"{word}: 1"), f"global:\n  {word.upper()}: 1\n" + pool_text()):
        [finding] = findings(text)
        assert f"did you mean '{key}'" in finding or "global" in text
    assert key in PoolKeys.model_fields or key in GlobalConfig.model_fields


def test_duplicate_server_names_name_the_line_of_both(findings):
    assert findings(pool_text(servers=("a:1:1 n", "b:1:1 n", '"[::1]:1:1"', "::1:1:2"))) == [
        "f.yml:6: pool 'p': servers: duplicate server name 'n', first used on line 5",
        "f.yml:8: pool 'p': servers: duplicate server name '::1:1', first used on line 7",
    ]


def test_one_address_under_two_names_is_accepted_with_a_warning(read_pool, findings):
    assert len(read_pool(servers=("a:1:1 n", "a:1:1 m")).servers) == 2
    assert findings(pool_text(servers=("a:1:1 n", "b:1:1", "a:01:1 m", "/s:1 x", "/s:1 y"))) == [
        "f.yml:7: pool 'p': servers: warning: server 'm' has the same address as 'n' on line 5,"
        " a:1: it gets the keys of both",
        "f.yml:9: pool 'p': servers: warning: server 'y' has the same address as 'x' on line 8,"
        " /s: it gets the keys of both",
    ]


def test_duplicate_listen_names_the_other_pool_and_its_line(findings):
    assert findings(
        "a:\n  redis: true\n  listen: ::1:5\n  servers: [h:1:1]\n"
        'b:\n  redis: true\n  listen: "[::1]:5"\n  servers: [h:1:1]\n'
    ) == ["f.yml:7: pool 'b': listen: [::1]:5 is already used by pool 'a' on line 3"]


def test_duplicate_pool_names_the_line_of_both(findings):
    assert findings(pool_text() + pool_text(listen="h:2")) == [
        "f.yml:6: pool 'p': duplicate pool, first defined on line 1"
    ]


def test_duplicate_section_names_the_line_of_both(findings):
    assert findings("global: {}\nglobal: {}\n" + pool_text()) == [
        "f.yml:2: global: duplicate section, first defined on line 1"
    ]


def test_missing_listen_and_servers(findings):
    assert findings("p:\n  redis: true\n") == [
        f"f.yml:1: pool 'p': listen: is missing, every pool needs it; {LISTEN_ACCEPTED}",
        "f.yml:1: pool 'p': servers: is missing, every pool needs it;"
        f" accepted: a list of {SERVER_ACCEPTED}",
    ]


@pytest.mark.parametrize(
    ("servers", "message"),
    [
        ("[]", SERVERS_EMPTY),
        ("", SERVERS_EMPTY),
        ("-h:1:1", f"{NO_LIST}; a space is missing after '-'"),
        ("h:1:1", NO_LIST),
        ("{}", NO_LIST),
    ],
)
def test_servers_that_are_not_a_list_or_empty(findings, servers, message):
    assert findings(f"p:\n  redis: true\n  listen: h:1\n  servers: {servers}\n") == [
        f"f.yml:4: pool 'p': servers: {message}"
    ]


def test_redis_auth_needs_a_redis_pool(findings):
    assert findings("p:\n  listen: h:1\n  redis: no\n  redis_auth: pw\n  servers: [h:1:1]\n") == [
        "f.yml:4: pool 'p': redis_auth: is only valid for a Redis pool, set 'redis: true'",
    ]


def test_on_dead_server_miss_needs_a_memcached_pool(findings):
    assert findings(pool_text("on_dead_server: miss")) == [
        "f.yml:4: pool 'p': on_dead_server: 'miss' is only valid for a Memcached pool,"
        " set 'redis: false'",
    ]


def test_denied_commands_are_those_of_the_pools_protocol(findings):
    found = findings(
        "defaults:\n  deny_commands: [flushal, mg]\n"
        "p:\n  listen: h:1\n  deny_commands:\n  - MG\n  - flushall\n  servers: [h:1:1]\n"
        "r:\n  listen: h:2\n  redis: on\n  deny_commands: [flush_all]\n  servers: [h:1:1]\n"
    )
    assert [line for line in found if "warning" not in line] == [
        "f.yml:2: defaults.deny_commands: 'flushal' is not a Redis or Memcached command,"
        " did you mean 'flushall'?",
        "f.yml:7: pool 'p': deny_commands: 'flushall' is not a Memcached command,"
        " did you mean 'flush_all'?",
        "f.yml:12: pool 'r': deny_commands: 'flush_all' is not a Redis command,"
        " did you mean 'flushall'?",
    ]


def test_warning_for_redis_keys_without_an_effect_in_a_memcached_pool(findings, read):
    text = (
        "defaults:\n  redis_db: 1\n"
        "p:\n  listen: h:1\n  redis_db: 2\n  admin_commands: on\n  servers: [h:1:1]\n"
        "q:\n  listen: h:2\n  redis_db: 0\n  servers: [h:1:1]\n"
    )
    found = findings(text)
    assert [line for line in found if "has no effect" in line] == [
        "f.yml:5: pool 'p': redis_db: warning: has no effect in a Memcached pool",
        "f.yml:6: pool 'p': admin_commands: warning: has no effect in a Memcached pool",
    ]
    p, q = read(text)[0].pools
    assert [p.redis_db, p.admin_commands, q.redis_db] == [0, False, 0]


def test_keys_of_one_protocol_are_not_judged_where_the_protocol_is_not_known(findings):
    assert findings(
        "defaults:\n  redis: maybe\np:\n  listen: h:1\n  redis_auth: pw\n  servers: [h:1:1]\n"
    ) == ["f.yml:2: defaults.redis: 'maybe' is not a boolean, accepted: true, false"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("global:\n  verbose: 12\n", "global.verbose: 12 is out of range, accepted: 0 to 11"),
        ("global:\n  verbos: 1\n", "global.verbos: unknown key, did you mean 'verbose'?"),
        (
            "global:\n  mbuf_size: 100\n",
            "global.mbuf_size: 100 is out of range, accepted: 512 to 16mb",
        ),
        ("global:\n  output: [a]\n", "global.output: is a list, accepted: a path"),
        (
            "global:\n  coalesce: 19 us\n",
            "global.coalesce: 19 us is out of range, accepted: auto, off, or a limit from 20 us to"
            " 1000 us",
        ),
        (
            "global:\n  coalesce: 50\n",
            "global.coalesce: '50' is not a time, accepted: auto, off, or a limit from 20 us to"
            " 1000 us",
        ),
        (
            "global:\n  listen: h:9\n",
            "global.listen: is a key of a pool; 'global' is for process settings and cannot"
            " be a pool's name",
        ),
        (
            "defaults:\n  timeout: x\n",
            "defaults.timeout: 'x' is not a whole number, accepted: -1 to 2147483647 milliseconds",
        ),
        (
            "defaults:\n  listen: h:9\n",
            "defaults.listen: cannot be a default, every pool needs its own",
        ),
        (
            "defaults:\n  servers: [h:9:1]\n",
            "defaults.servers: cannot be a default, every pool needs its own",
        ),
        ("defaults:\n  tiemout: 1\n", "defaults.tiemout: unknown key, did you mean 'timeout'?"),
        (
            "defaults:\n  output: x\n",
            "defaults.output: is a process setting, it belongs under 'global'",
        ),
    ],
)
def test_problem_in_a_reserved_section_is_reported_once(findings, section, message):
    assert findings(section + pool_text()) == [f"f.yml:2: {message}"]


@pytest.mark.parametrize("section", ["global: 5\n", "defaults: [a]\n"])
def test_reserved_section_that_is_not_a_mapping(findings, section):
    name = section.partition(":")[0]
    assert findings(section + pool_text()) == [
        f"f.yml:1: {name}: is not a mapping of keys and values"
    ]


@pytest.mark.parametrize("section", ["global:\n", "defaults:\n", "global: {}\n"])
def test_reserved_section_may_be_empty(findings, section):
    assert findings(section + pool_text()) == []


def test_pool_that_is_not_a_mapping(findings):
    assert findings("p: 5\n") == ["f.yml:1: pool 'p': is not a mapping of keys and values"]
    assert findings("p:\n  timeout:400\n") == [
        "f.yml:1: pool 'p': is not a mapping of keys and values; a space is missing after"
        " 'timeout:'"
    ]
    assert findings("p:\nredis: true\n") == [
        "f.yml:1: pool 'p': is not a mapping of keys and values",
        "f.yml:2: pool 'redis': is not a mapping of keys and values; it is a key of a pool,"
        " indent it under its pool",
    ]


@pytest.mark.parametrize("word", ["pools", "clusters", "defaults"])
def test_pools_are_at_the_top_level(findings, word):
    text = f"{word}:\n  a:\n    listen: h:1\n  b:\n    listen: h:2\n"
    label = word if word == "defaults" else f"pool '{word}'"
    assert findings(text)[-1] == (
        f"f.yml:1: {label}: contains pools where keys are expected: write pools at the top level,"
        f" remove '{word}:' and the indentation below it"
    )


def test_pools_are_not_a_list(findings):
    assert findings("pools:\n  - name: a\n    listen: h:1\n") == [
        "f.yml:1: pool 'pools': is not a mapping of keys and values but a list; write each pool as"
        " 'NAME:' with its keys indented below"
    ]


def test_names_contain_no_control_characters(findings):
    assert findings('"a\\r\\nEND": {}\n"b\\ud800": {}\n"\u00e4 b": 5\n') == [
        "f.yml:1: the name of pool 'a\\r\\nEND' must not contain control characters",
        "f.yml:2: the name of pool 'b\\ud800' must not contain control characters",
        "f.yml:3: pool '\u00e4 b': is not a mapping of keys and values",
    ]
    entry = '"10.0.0.1:6379:1 s\\u0007"'
    [finding] = findings(pool_text(servers=(entry,)))
    assert finding.endswith("must not contain control characters")


def test_key_and_pool_names_must_be_plain_text(findings):
    assert findings("? [a]\n: b\n" + pool_text("? [x]\n  : y")) == [
        "f.yml:1: the name of a pool must be plain text",
        "f.yml:6: pool 'p': has a key that is not plain text",
    ]


@pytest.mark.parametrize("text", ["global:\n  verbose: 3\n", "defaults: {}\n"])
def test_file_without_a_pool(findings, text):
    assert findings(text) == ["f.yml: defines no pool"]


# Files that are refused with a single message.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "f.yml: is empty, at least one pool is needed"),
        (b"# nothing\n", "f.yml: is empty, at least one pool is needed"),
        (b"\n- a\n", "f.yml:2: is not a mapping of pools by name"),
        (b"5", "f.yml:1: is not a mapping of pools by name"),
        (b"a: b\nc: \xff\n", "f.yml:2: is not UTF-8 text: byte 0xff"),
        (b"a: b\nc: \x00\n", "f.yml:2: is not YAML: control character 0x00"),
        (b"[" * 100000, "f.yml: is not a configuration: nested too deeply"),
        (
            b"a: 1\n---\nb: 1\n",
            "f.yml:2: YAML syntax: expected a single document in the stream, but found another"
            " document",
        ),
        (b"a:\n  b: *c\n", "f.yml:2: YAML syntax: found undefined alias 'c'"),
        (
            b"a:\n\tb: 1\n",
            "f.yml:2: YAML syntax: while scanning for the next token, found character '\\t' that"
            " cannot start any token; indent with spaces, not with tabs",
        ),
        (
            b"\t",
            "f.yml:1: YAML syntax: while scanning for the next token, found character '\\t' that"
            " cannot start any token; indent with spaces, not with tabs",
        ),
        (
            b"a:\n  listen: [::1]:22\n",
            "f.yml:2: YAML syntax: while parsing a flow node, expected the node content, but found"
            " ':'; quote an address in brackets",
        ),
        (
            b"a:\n  listen: *:22\n",
            "f.yml:2: YAML syntax: while scanning an alias, expected alphabetic or numeric"
            " character, but found ':'; write 0.0.0.0 for all addresses",
        ),
        (
            b"a: 'b\n",
            "f.yml:1: YAML syntax: while scanning a quoted scalar, found unexpected end of stream",
        ),
        (
            b"a:\n  listen: 'b\n  redis: true\n",
            "f.yml:2: YAML syntax: while scanning a quoted scalar, found unexpected end of stream",
        ),
        (
            b"a:\n  hash_tag: {\n\n",
            "f.yml:2: YAML syntax: while parsing a flow node, expected the node content, but found"
            " '<stream end>'",
        ),
        (
            b"a:\n  listen:127.0.0.1:22\n  redis: true\n",
            "f.yml:2: YAML syntax: a space is missing after 'listen:'",
        ),
        (
            b"a:\n  listen: h:1\n  timeout:400\n  # more\n  backlog:5\n  redis: true\n",
            "f.yml:3: YAML syntax: a space is missing after 'timeout:'",
        ),
        (
            b"a:\n  listen: h:1\n  timeout:400\n",
            "f.yml:3: YAML syntax: a space is missing after 'timeout:'",
        ),
        (
            b"a:\n  servers:\n  -h:1:1\n  redis: true\n",
            "f.yml:3: YAML syntax: a space is missing after '-'",
        ),
        (
            b"a:\n  listen: h:1\n   redis: true\n",
            "f.yml:3: YAML syntax: mapping values are not allowed here; check the indentation"
            " here and above, and look for a missing space after a colon",
        ),
    ],
)
def test_file_that_is_not_a_configuration(read, text, message):
    config, problems = read(text)
    assert config is None
    assert [str(problem) for problem in problems] == [message]


def test_list_that_contains_itself_is_refused(findings):
    assert findings("p:\n  redis: true\n  listen: h:1\n  servers: &s [*s]\n") == [
        f"f.yml:4: pool 'p': servers: entry 1 is a list, accepted: a list of {SERVER_ACCEPTED}"
    ]


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("nothing.yml", "No such file or directory"),
        (".", "Is a directory"),
        ("f/g.yml", "No such file or directory"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_file_that_cannot_be_read(tmp_path, monkeypatch, path, cause):
    monkeypatch.chdir(tmp_path)
    config, problems = load(path)
    assert config is None
    shown = path.replace("\0", r"\x00")
    assert [str(problem) for problem in problems] == [f"{shown}: cannot be read: {cause}"]


def test_size_of_the_file_is_limited(tmp_path, monkeypatch):
    sparse = tmp_path / "large.yml"
    with sparse.open("wb") as file:
        file.truncate(3 << 30)
    for path in ("/dev/zero", str(sparse)):
        config, problems = load(path)
        assert config is None
        assert [str(problem) for problem in problems] == [
            f"{path}: is not a configuration: larger than 4 MB"
        ]


def test_a_pipe_is_read_to_its_end(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    text = pool_text(servers=tuple(f"10.0.{n // 250}.{n % 250}:1:1" for n in range(10_000)))
    writer = threading.Thread(target=fifo.write_text, args=(text,))
    writer.start()
    config, problems = load(str(fifo))
    writer.join()
    assert problems == []
    assert len(config.pools[0].servers) == 10_000


def test_a_pipe_without_a_writer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["nutproxy.config.load"], "PIPE_PATIENCE", 0.1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    _, [problem] = load(str(fifo))
    assert str(problem) == f"{fifo}: cannot be read: nothing was written to it for 0.1 s"


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pool_text("x: 1").encode())))
    config, [problem] = load("-")
    assert config is None
    assert str(problem) == "<stdin>:4: pool 'p': x: unknown key"


# ${NAME}.


def test_environment_variables_are_read(read_pool, monkeypatch):
    monkeypatch.setenv("NC_HOST", "10.0.0.1")
    monkeypatch.setenv("NC_SECRET", "a b: #c")
    monkeypatch.setenv("NC_TIMEOUT", "400")
    pool = read_pool(
        "redis_auth: ${NC_SECRET}",
        "timeout: ${NC_TIMEOUT}",
        "deny_commands: ['${NC_COMMAND}']".replace("${NC_COMMAND}", "keys"),
        servers=("${NC_HOST}:6379:1 a-$${NC_HOST}", "${NC_HOST}:6380:1"),
    )
    assert (pool.redis_auth, pool.timeout) == (b"a b: #c", 400)
    assert {server.name for server in pool.servers} == {"a-${NC_HOST}", "10.0.0.1:6380"}


@pytest.mark.parametrize("text", ["a$b", "$${a", "${", "$", "a}b{", "$(a)", "$a"])
def test_other_dollars_are_text(read_pool, text):
    assert read_pool(f"redis_auth: '{text}'").redis_auth == text.encode()


def test_environment_variables_that_are_not_there(findings, monkeypatch):
    monkeypatch.setenv("NC_EMPTY", "")
    os.environb[b"NC_BYTES"] = b"\xff"
    try:
        assert findings(
            pool_text(
                "redis_auth: x${NC_ABSENT}y",
                "timeout: ${NC_EMPTY}",
                "hash: ${NC-DASH}",
                "hash_tag: ${NC_BYTES}",
                servers=("h:1:1", "${NC_ABSENT}:1:1"),
            )
        ) == [
            "f.yml:4: pool 'p': redis_auth: environment variable 'NC_ABSENT' is not set; set it,"
            " or write $${NC_ABSENT} for the literal text",
            "f.yml:5: pool 'p': timeout: has no value, accepted: -1 to 2147483647 milliseconds",
            "f.yml:6: pool 'p': hash: '${NC-DASH}' does not name an environment variable,"
            " accepted: ${NAME}; write $${NC-DASH} for the literal text",
            "f.yml:7: pool 'p': hash_tag: contains U+DCFF, half of a surrogate pair, accepted:"
            " UTF-8 text",
            "f.yml:10: pool 'p': servers: environment variable 'NC_ABSENT' is not set; set it, or"
            " write $${NC_ABSENT} for the literal text",
        ]
    finally:
        del os.environb[b"NC_BYTES"]


def test_finding_is_one_line_whatever_it_quotes(findings):
    (finding,) = findings(pool_text(r'timeout: "a\n\e[2Jb"'))
    assert finding.startswith(r"f.yml:4: pool 'p': timeout: 'a\n\x1b[2Jb' is not a whole number")


FRAGMENTS = ["p", ":", " ", "\n", "\n  ", "-", "[", "]", "{", "}", '"', "&a", "*a", "!", "|", "<<"]
# Values that are text in YAML and have caused a traceback, or that nutproxy interprets itself.
VALUES = [
    *(r'"\ud800"', r'"\0"', r'"\udfff:1:1"', r'"/\0:1"', r'"\x07"', r'"\N"'),
    *("${HOME}", "${NOT_SET_ANYWHERE}", "${", "$${A}", "redis://u:p@h:1/0", "unix:///a", "a://"),
    *("h:1:1 a b", "h:1:1 a", "/a:1", "::1:1:1", "-1", "9" * 50, "0x1", "~", "!!binary x"),
]
KEYS = [*PoolKeys.model_fields, *GlobalConfig.model_fields, "global", "defaults", "h:1:1", "0"]


def check_findings(read, content):
    config, problems = read(content)
    assert (config is None) == any(problem.severity == "problem" for problem in problems)
    for problem in problems:
        assert str(problem).isprintable()
    if config is not None:
        # Addresses, names and files must be text that the system accepts at the start.
        for pool in config.pools:
            for address in (pool.listen, *(server.address for server in pool.servers)):
                assert "\0" not in str(address).encode().decode()
        assert "\0" not in (config.globals.output or "").encode().decode()


FUZZED = settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZED
@given(
    st.lists(st.sampled_from(FRAGMENTS + KEYS + VALUES) | st.text(max_size=3), max_size=40).map(
        "".join
    )
)
def test_no_text_makes_load_fail(read, text):
    check_findings(read, text.encode(errors="replace"))


@FUZZED
@given(st.binary(max_size=200))
def test_no_bytes_make_load_fail(read, content):
    check_findings(read, content)


@FUZZED
@given(
    st.sampled_from([*PoolKeys.model_fields, *GlobalConfig.model_fields]),
    st.lists(st.sampled_from(VALUES) | st.text(max_size=5), max_size=3),
    st.sampled_from(["{}", "[{}]", "{{a: {}}}", "'{}'", '"{}"', "\n  - {}"]),
)
def test_no_value_of_any_key_makes_load_fail(read, key, parts, form):
    value = form.format("".join(parts))
    for text in (pool_text(f"{key}: {value}"), f"global:\n  {key}: {value}\n" + pool_text()):
        check_findings(read, text.encode(errors="replace"))


# Warnings.


def test_memcached_pool_has_no_warning(read):
    config, problems = read("p:\n  listen: h:1\n  servers: [h:1:1]\n")
    assert config is not None
    assert problems == []


CRC32_WARNING = (
    "hash: warning: crc32 has only 15 bits, so with ketama all keys go to one server;"
    " crc32a spreads them"
)
EJECT_WARNING = (
    "auto_eject_hosts: warning: without a timeout, a server that hangs is never ejected;"
    " set 'timeout'"
)
CONNECTIONS_WARNING = (
    "server_connections: warning: 17 is more than a pool needs, because requests are pipelined;"
    " 1 is enough for most pools, 16 for any"
)


@pytest.mark.parametrize(
    ("keys", "warnings"),
    [
        (("hash: crc32",), [CRC32_WARNING]),
        (("hash: crc32a",), []),
        (("hash: crc32", "distribution: modula"), []),
        (("auto_eject_hosts: true",), [EJECT_WARNING]),
        (("auto_eject_hosts: true", "timeout: 0"), [EJECT_WARNING]),
        (("auto_eject_hosts: true", "timeout: 1"), []),
        (("server_connections: 17",), [CONNECTIONS_WARNING]),
        (("server_connections: 16",), []),
        (
            ("tcpkeepalive_idle: 60",),
            ["tcpkeepalive_idle: warning: has no effect without 'tcpkeepalive: true'"],
        ),
        (("tcpkeepalive_count: 0",), []),
        (("tcpkeepalive_interval: 60", "tcpkeepalive: on"), []),
    ],
)
def test_configuration_with_warnings(read, keys, warnings):
    config, problems = read(pool_text(*keys, servers=("a:1:1", "b:1:1")))
    assert config is not None
    assert [str(problem) for problem in problems] == [
        f"f.yml:4: pool 'p': {warning}" for warning in warnings
    ]


def test_no_warning_for_crc32_in_a_pool_of_one_server(findings):
    assert findings(pool_text("hash: crc32")) == []


@pytest.mark.parametrize(
    ("distribution", "warned"), [("ketama", True), ("modula", False), ("random", False)]
)
def test_weight_that_gets_no_point_in_the_ring(findings, distribution, warned):
    text = pool_text(f"distribution: {distribution}", servers=("a:1:1", "b:1:100000"))
    message = (
        "f.yml:6: pool 'p': servers: warning: server 'a:1' gets no points in the ring and no"
        " keys: weight 1 of 100001 is too small"
    )
    assert findings(text) == ([message] if warned else [])


@pytest.mark.parametrize(
    ("weights", "points"),
    [
        ((1,), (160,)),
        ((1, 1, 1), (160, 160, 160)),
        ((1, 2, 5), (60, 120, 300)),
        ((100000, 1), (316, 0)),
        ((1,) * 7, (160,) * 7),
    ],
)
def test_ring_points_are_twemproxys(weights, points):
    assert tuple(ketama_points(w, sum(weights), len(weights)) for w in weights) == points


def test_names_that_mean_something_else_in_the_statistics(read):
    text = pool_text(servers=("a:1:1 version", "b:1:1 fragments", "c:1:1 server_eof"))
    config, problems = read(text.replace("p:\n", "uptime:\n", 1))
    assert [pool.name for pool in config.pools] == ["uptime"]
    assert [str(problem) for problem in problems] == [
        "f.yml:1: pool 'uptime': warning: the statistics already use this name and show the pool"
        " as 'uptime_'",
        "f.yml:6: pool 'uptime': servers: warning: the statistics already have a counter named"
        " 'fragments' and show the server as 'fragments_'",
    ]


def test_warning_caused_by_defaults_has_their_line(findings):
    assert findings("defaults:\n  server_connections: 17\n" + pool_text()) == [
        f"f.yml:2: pool 'p': {CONNECTIONS_WARNING}"
    ]


# All findings at once.


def test_everything_is_reported_in_the_order_of_lines(read):
    config, problems = read(
        "a:\n"
        "  redis: true\n"
        "  timeout: x\n"
        "  lisen: h:1\n"
        "  auto_eject_hosts: true\n"
        "  server_connections: 17\n"
        "  servers:\n"
        "  - h:1:0\n"
        "  - h:1\n"
        "b:\n"
        "  listen: 1\n"
        "  redis: maybe\n"
        "  servers: [h:1:1]\n"
    )
    assert config is None
    assert [
        (problem.line, problem.pool, problem.key, problem.severity) for problem in problems
    ] == [
        (1, "a", "listen", "problem"),
        (3, "a", "timeout", "problem"),
        (4, "a", "lisen", "problem"),
        (6, "a", "server_connections", "warning"),
        (8, "a", "servers", "problem"),
        (9, "a", "servers", "problem"),
        (11, "b", "listen", "problem"),
        (12, "b", "redis", "problem"),
    ]


def test_value_with_a_problem_causes_no_warning_by_its_default(findings):
    (finding,) = findings(pool_text("timeout: x", "auto_eject_hosts: true"))
    assert finding.startswith("f.yml:4: pool 'p': timeout: ")
    findings_of_defaults = findings(
        "defaults:\n  timeout: x\n" + pool_text("auto_eject_hosts: true")
    )
    assert len(findings_of_defaults) == 1


# The table of keys, its schema, its page and the examples.


def test_schema_has_every_key_with_help_and_example():
    definitions = schema()["$defs"]
    for section, keys in [("global", GlobalConfig), ("defaults", PoolSettings), ("pool", PoolKeys)]:
        rows = definitions[section]["properties"]
        assert set(rows) == set(keys.model_fields)
        assert definitions[section]["additionalProperties"] is False
        for name, row in rows.items():
            assert row["description"].endswith("."), name
            assert row["examples"], name
            assert "type" in row or "enum" in row, name
    assert definitions["pool"]["required"] == ["listen", "servers"]
    assert schema()["additionalProperties"] == {"$ref": "#/$defs/pool"}
    assert json.loads(json.dumps(schema())) == schema()


def test_schema_has_defaults_as_written_in_a_file():
    rows = schema()["$defs"]["pool"]["properties"]
    assert rows["timeout"]["default"] == -1
    assert rows["server_max_queue"]["default"] == "1gb"
    assert rows["hash"]["enum"][-1] == "murmur3"
    assert (rows["server_connections"]["minimum"], rows["server_connections"]["maximum"]) == (
        1,
        65535,
    )


@pytest.mark.parametrize("name", PoolSettings.model_fields)
def test_written_default_of_a_pool_key_means_the_default(read_pool, name):
    row = schema()["$defs"]["pool"]["properties"][name]
    if "default" in row and name != "redis":
        text = yaml.safe_dump({name: row["default"]}, default_flow_style=True).strip()[1:-1]
        assert getattr(read_pool(text), name) == getattr(read_pool(), name)
    else:
        assert name in ("redis", "hash_tag", "redis_auth", "tcp_congestion")


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section in (GlobalConfig, PoolKeys) for name in section.model_fields],
)
def test_example_of_every_key_is_accepted(section, name):
    row = section.model_fields[name]
    assert section.model_validate(_texts(yaml.safe_load(example(name, row))))


def _texts(value):
    """Values as the loader passes them to the table: all of them are text."""
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_page_about_the_configuration_is_generated_from_the_table():
    committed = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert committed == page(), "run: python -m nutproxy.config.docs > docs/configuration.md"


def test_page_has_a_section_with_the_accepted_values_of_every_key():
    text = page()
    for section in (GlobalConfig, PoolKeys):
        for name, row in table(section).items():
            _, found, rest = text.partition(f"\n### {name}\n")
            assert found, name
            section_text = re.split(r"\n##", rest)[0]
            assert f"- accepted: {accepted(row)}\n" in section_text
            assert "- default: " in section_text


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512"), (1024, "1kb"), (32 << 20, "32mb"), (1 << 40, "1024gb")]
)
def test_sizes_are_shown_with_their_unit(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yml")), ids=lambda path: path.name)
def test_example_configuration_has_neither_problem_nor_warning(path):
    config, problems = load(str(path))
    assert config is not None
    assert [str(problem) for problem in problems] == []


def test_example_of_twemproxys_file_sets_every_key_of_twemproxy():
    own = {
        "tcpkeepalive_idle",
        "tcpkeepalive_interval",
        "tcpkeepalive_count",
        "tcp_congestion",
        "databases",
        "max_profiles",
        "transactions",
        "subscribe_gap",
        "max_subscriptions",
        "max_tracked_keys",
        "max_blocked",
        "admin_commands",
        "deny_commands",
        "custom_commands",
        "on_dead_server",
        "protocol",
        "users",
        "client_max_requests",
        "client_max_pending",
        "client_query_buffer_limit",
        "client_request_timeout",
        "server_max_queue",
        "max_merged_reply",
        "proto_max_bulk_len",
    }
    document = yaml.safe_load((ROOT / "conf" / "twemproxy.yml").read_text(encoding="utf-8"))
    assert set(document["every_key"]) == set(PoolKeys.model_fields) - own
