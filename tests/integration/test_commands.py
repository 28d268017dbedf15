"""How commands are routed, split, answered or refused, over real connections.

Where Redis has a reply to the same request, the replies are compared with those of a real Redis.
"""

import contextlib
import random
import re
import threading
from collections import Counter

import hiredis
import pytest

from nutproxy.hashkit.hashes import HASHES
from nutproxy.hashkit.router import Router
from tests.client import Client, request, requests, talk, words
from tests.integration.conftest import pool
from tests.scripted import (
    ScriptedServer,
    answering_when,
    keys_of,
    reply_to,
    value_of,
)
from tests.servers import NutproxyServer, RedisServer, connect, pipeline, wait_until

ROUTER = Router("fnv1a_64", "ketama", b"{}", [(b"s1", 1), (b"s2", 1), (b"s3", 1)])


def tag_of(shard):
    """A key on this shard of pool alpha (0, 1 or 2), which can also be used as a hash tag."""
    return next(f"t{n}" for n in range(1000) if ROUTER.explain(f"t{n}".encode()).server == shard)


A, B, C = (tag_of(shard) for shard in range(3))


@pytest.fixture(scope="module")
def alpha(proxy):
    return proxy.ports["alpha"]


@pytest.fixture(scope="module")
def one(proxy):
    return proxy.ports["one"]


@pytest.fixture(autouse=True)
def empty(shards):
    for shard in shards:
        pipeline(shard.port, [("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")])


@pytest.fixture
def client(alpha):
    with Client(alpha) as client:
        yield client


def on_each(shards, *command):
    return [pipeline(shard.port, [command])[0] for shard in shards]


def holds(shards):
    return [sorted(reply) for reply in on_each(shards, "KEYS", "*")]


# Keys of one server -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        f"SINTER {A} {B}",
        f"SUNIONSTORE {A} {B} {C}",
        f"RENAME {A} {B}",
        f"COPY {A} {B}",
        f"MSETNX {A} 1 {B} 2",
        f"PFCOUNT {A} {B}",
        f"ZUNION 2 {A} {B}",
        f"ZUNIONSTORE {A} 1 {B}",
        f"EVAL return 2 {A} {B}",
        f"SORT {A} STORE {B}",
        f"GEORADIUS {A} 0 0 1 m STORE {B}",
        f"XREAD STREAMS {A} {B} 0 0",
        f"LMPOP 2 {A} {B} LEFT",
        f"BITOP AND {A} {A} {B}",
    ],
)
def test_keys_on_different_servers_are_refused_and_the_error_says_what_to_do(
    client, shards, command
):
    name = command.split()[0]
    assert words(client(*command.split())) == (
        f"CROSSSLOT Keys of '{name}' are on different servers of pool 'alpha'; "
        "keys with the same text between '{}' share a server"
    )
    assert client("PING") == b"PONG"
    assert holds(shards) == [[], [], []]


def test_without_a_hash_tag_the_refusal_names_the_option(shards):
    config = pool("plain", shards).replace('  hash_tag: "{}"\n', "")
    with NutproxyServer(config) as proxy, Client(proxy.port) as client:
        assert words(client("SINTER", A, B)) == (
            "CROSSSLOT Keys of 'SINTER' are on different servers of pool 'plain'; "
            "with hash_tag: '{}' keys with the same text between the braces share a server"
        )


def test_keys_with_one_tag_work_together(client):
    for tag in (A, B, C):
        client("SADD", f"{{{tag}}}x", "1", "2")
        client("SADD", f"{{{tag}}}y", "2", "3")
        assert client("SINTERSTORE", f"{{{tag}}}z", f"{{{tag}}}x", f"{{{tag}}}y") == 1
        assert client("MSETNX", f"a{{{tag}}}", "1", f"b{{{tag}}}", "2") == 1
        script = "return redis.call('get', KEYS[2])"
        assert client("EVAL", script, "2", f"a{{{tag}}}", f"b{{{tag}}}") == b"2"


@pytest.mark.parametrize("tag", [None, "{}"], ids=["no tag", "tag"])
@pytest.mark.parametrize("name", HASHES)
def test_keys_of_one_command_are_routed_like_single_keys(shards, name, tag):
    """The keys of a command are hashed four at a time if the hash function supports it."""
    chance = random.Random(f"{name} {tag}")
    keys = {b"", b"{}", b"{a}", b"a{b}", b"{", b"{\xff}\xff"}
    while len(keys) < 103:
        keys.add(chance.randbytes(chance.randint(0, 20)) + chance.choice([b"", b"{t}", b"{\x80u}"]))
    values = {key: b"%d" % number for number, key in enumerate(sorted(keys))}
    config = pool("alpha", shards).replace("hash: fnv1a_64", f"hash: {name}")
    if tag is None:
        config = re.sub("  hash_tag: .*\n", "", config)
    with (
        NutproxyServer(config) as proxy,
        Client(proxy.port) as client,
    ):
        client("FLUSHALL")
        for count in (1, 2, 3, 4, 5, 6, 7, 103):
            some = list(values)[:count]
            pairs = [word for key in some for word in (key, values[key])]
            assert client("MSET", *pairs) == b"OK"
            assert [client("GET", key) for key in some] == [values[key] for key in some]
            assert client("MGET", *some) == [values[key] for key in some]
            assert client("DEL", *some) == count


@pytest.mark.parametrize("name", ["SORT", "SORT_RO"])
@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("BY w_*", "BY"),
        ("GET o_*", "GET"),
        ("GET # GET o_*->f", "GET"),
        ("LIMIT 0 9 by {other}w_*", "BY"),
        ("BY w_*{own}", "BY"),
        ("BY {}{own}*", "BY"),
        ("BY {own*}", "BY"),
        ("BY GET GET o_*", "GET"),
        ("BY nosort", ""),
        ("BY nosort GET # GET constant GET {other}constant", ""),
        ("BY {own}w_* GET x{own}o_* GET {own}o_*->f GET #", ""),
        ("LIMIT BY w_*", ""),
    ],
)
def test_sort_by_patterns_of_other_servers_is_refused(client, shards, name, options, refused):
    """Their keys would be missing on the server, so the order and a stored list would be wrong."""
    key = f"{{{A}}}l"
    options = options.replace("own", A).replace("other", B)
    client("RPUSH", key, "2", "1")
    reply = client(name, key, *options.split())
    direct = pipeline(shards[0].port, [(name, key, *options.split())])[0]
    if refused:
        assert words(reply) == (
            f"ERR {refused} option of SORT denied when keys formed by the pattern may be on "
            "different servers of pool 'alpha'; put the key's tag, which is between '{}', before "
            "the *"
        )
    else:
        assert words(reply) == words(direct) if isinstance(direct, Exception) else reply == direct


def test_sort_by_patterns_of_the_same_server_works_as_in_redis(client, shards, one):
    tag = f"{{{C}}}"
    client("RPUSH", f"{tag}l", "1", "2", "3")
    for number, weight in ((1, 30), (2, 10), (3, 20)):
        client("SET", f"{tag}w_{number}", weight)
        client("HSET", f"{tag}o_{number}", "f", f"object{number}")
    ordered = [b"object2", b"object3", b"object1"]
    by = ("SORT", f"{tag}l", "BY", f"{tag}w_*", "GET", f"{tag}o_*->f")
    assert client(*by) == ordered
    assert client(*by, "STORE", f"{tag}sorted") == 3
    assert client("LRANGE", f"{tag}sorted", "0", "-1") == ordered
    with Client(one) as alone:
        alone("RPUSH", "l", "1", "2")
        alone("MSET", "w_1", "2", "w_2", "1")
        assert alone("SORT", "l", "BY", "w_*") == [b"2", b"1"]
        assert alone("SORT_RO", "l", "BY", "w_*", "GET", "w_*") == [b"1", b"2"]


def test_values_of_options_are_not_taken_for_keywords(client, shards):
    """Redis' key specifications find a keyword at any position, even as the value of an option."""
    key = f"{{{C}}}"
    client("RPUSH", f"{key}l", "2", "1")
    assert client("SORT", f"{key}l", "BY", "store", "STORE", f"{key}d") == 2
    refusal = words(client("SORT", f"{key}l", "BY", "store", "STORE", A))
    assert refusal.startswith("CROSSSLOT Keys of 'SORT'")
    refusal = words(client("SORT", f"{key}l", "STORE", f"{key}d", "STORE", A))
    assert refusal.startswith("CROSSSLOT Keys of 'SORT'")
    for tag in (A, B, C):
        client("XADD", tag, "1-1", "f", "v")
        client("XGROUP", "CREATE", tag, "streams", "0")
        entries = [[tag.encode(), [[b"1-1", [b"f", b"v"]]]]]
        request = f"XREADGROUP COUNT 1 GROUP streams streams STREAMS {tag} >"
        assert client(*request.split()) == entries
        client("GEOADD", f"{{{tag}}}g", "1", "1", "m")
        request = f"GEORADIUS {{{tag}}}g 1 1 1 km STORE {{{tag}}}x STORE"
        assert client(*request.split(), f"{{{tag}}}y") == 1
        assert client("EXISTS", f"{{{tag}}}y") == 1


def test_keys_behind_numkeys_are_what_routes(client, shards):
    """twemproxy hashes the first argument of these, which is the number of keys for ZUNION."""
    for shard, tag in enumerate((A, B, C)):
        client("ZADD", tag, "1", "m")
        assert client("ZUNION", "1", tag) == [b"m"]
        assert client("ZINTER", "1", tag) == [b"m"]
        assert client("OBJECT", "ENCODING", tag) == b"listpack"
        assert client("XADD", f"{{{tag}}}s", "1-1", "f", "v") == b"1-1"
        assert client("XREAD", "COUNT", "1", "STREAMS", f"{{{tag}}}s", "0") == [
            [f"{{{tag}}}s".encode(), [[b"1-1", [b"f", b"v"]]]]
        ]
        assert holds(shards)[shard] == sorted([tag.encode(), f"{{{tag}}}s".encode()])


def test_a_group_may_have_the_name_of_an_option(client):
    client("XADD", A, "1-1", "f", "v")
    client("XGROUP", "CREATE", A, "BLOCK", "0")
    entries = [[A.encode(), [[b"1-1", [b"f", b"v"]]]]]
    assert client("XREADGROUP", "GROUP", "BLOCK", "BLOCK", "STREAMS", A, ">") == entries


# Split commands ---------------------------------------------------------------------------------


def test_split_commands_keep_the_order_of_keys_and_their_duplicates(client, shards):
    keys = [f"{n}:key" for n in range(50)]
    pairs = [word for key in keys for word in (key, f"value of {key}")]
    assert client("MSET", *pairs) == b"OK"
    assert all(holds(shards))
    asked = [*keys[::-1], "none", *keys[10:20], keys[0], keys[0], "none"]
    values = [None if key == "none" else f"value of {key}".encode() for key in asked]
    assert client("MGET", *asked) == values
    assert client("EXISTS", *keys, *keys, "none") == 100
    assert client("TOUCH", *keys, keys[3], "none") == 51
    assert client("DEL", keys[0], keys[0], *keys[1:5], "none") == 5
    assert client("UNLINK", *keys) == 45
    assert holds(shards) == [[], [], []]


def test_last_value_of_a_duplicate_key_stays(client):
    assert client("MSET", A, "1", B, "x", A, "2", C, "y", A, "3") == b"OK"
    assert client("MGET", A, B, C) == [b"3", b"x", b"y"]


def test_split_commands_of_100_000_keys(client):
    keys = [b"key:%d" % n for n in range(100_000)]
    pairs = [word for number, key in enumerate(keys) for word in (key, b"%d" % number)]
    assert client("MSET", *pairs) == b"OK"
    assert client("DBSIZE") == 100_000
    assert client("EXISTS", *keys, *keys[:7]) == 100_007
    assert client("MGET", *keys) == pairs[1::2]
    assert client("DEL", *keys) == 100_000
    assert client("MGET", *keys) == [None] * 100_000


def test_split_values_may_hold_anything(client):
    values = [b"", b"\r\n", b"*1\r\n$4\r\nPING\r\n", bytes(range(256)), b"x" * 70_000]
    keys = [b"k\r\n%d" % n for n in range(len(values))]
    pairs = [word for pair in zip(keys, values, strict=True) for word in pair]
    assert client("MSET", *pairs) == b"OK"
    assert client("MGET", *keys, b"") == [*values, None]
    assert client("MSET", b"", b"empty key", A, b"1", B, b"2") == b"OK"
    assert client("MGET", B, b"", A) == [b"2", b"empty key", b"1"]


def test_half_a_pair_is_the_wrong_number_of_arguments(client, shards):
    for command in (f"MSET {A} 1 {B}", f"MSET {A} {B} {C}", f"MSET {A} 1 {B} 2 {C}"):
        refusal = words(client(*command.split()))
        assert refusal == "ERR wrong number of arguments for 'mset' command"
    assert holds(shards) == [[], [], []]


def test_inline_commands_are_split_too(client):
    client.send_bytes(f"MSET {A} 1 {B} \"two words\" {C} ''\r\nmget {C} {B} {A}\n".encode())
    assert client.replies(2) == [b"OK", [b"", b"two words", b"1"]]
    client.send_bytes(f'\r\n\r\n   \r\nset {A} "\\x00\\xff\\r\\n"\r\nGET {A}\r\n'.encode())
    assert client.replies(2) == [b"OK", b"\x00\xff\r\n"]


# Commands for all servers -----------------------------------------------------------------------


def test_counts_and_names_of_keys_come_from_all_servers(client, shards):
    client("MSET", A, "1", B, "2", C, "3", "other", "4")
    assert client("DBSIZE") == 4
    assert sorted(client("KEYS", "*")) == sorted([A.encode(), B.encode(), C.encode(), b"other"])
    assert client("KEYS", "nothing*") == []
    assert client("FLUSHDB", "SYNC") == b"OK"
    assert client("DBSIZE") == 0
    client("MSET", A, "1", B, "2", C, "3")
    assert client("FLUSHALL", "ASYNC") == b"OK"
    assert holds(shards) == [[], [], []]
    assert words(client("FLUSHALL", "NOSUCH")) == "ERR syntax error"


def test_scripts_are_loaded_into_every_server(client, shards):
    script = "return redis.call('get', KEYS[1])"
    sha = client("SCRIPT", "LOAD", script)
    assert on_each(shards, "SCRIPT", "EXISTS", sha) == [[1], [1], [1]]
    client("MSET", A, "1", B, "2", C, "3")
    assert [client("EVALSHA", sha, "1", key) for key in (A, B, C)] == [b"1", b"2", b"3"]
    only_one = pipeline(shards[1].port, [("SCRIPT", "LOAD", "return 1")])[0]
    assert client("SCRIPT", "EXISTS", sha, only_one, "f" * 40, sha) == [1, 0, 0, 1]
    assert client("SCRIPT", "FLUSH") == b"OK"
    assert client("SCRIPT", "EXISTS", sha) == [0]
    assert words(client("EVALSHA", sha, "1", A)).startswith("NOSCRIPT")
    assert words(client("SCRIPT", "LOAD", "this is no Lua")).startswith("ERR Error compiling")


LIBRARY = """#!lua name=shop
redis.register_function('price', function(keys) return redis.call('get', keys[1]) end)
"""


def test_functions_are_the_same_on_every_server(client, shards):
    assert client("FUNCTION", "LOAD", LIBRARY) == b"shop"
    assert words(client("FUNCTION", "LOAD", LIBRARY)) == "ERR Library 'shop' already exists"
    assert client("FUNCTION", "LOAD", "REPLACE", LIBRARY) == b"shop"
    client("MSET", A, "1", B, "2", C, "3")
    assert [client("FCALL", "price", "1", key) for key in (A, B, C)] == [b"1", b"2", b"3"]
    [library] = client("FUNCTION", "LIST")
    assert library[:2] == [b"library_name", b"shop"]
    dump = client("FUNCTION", "DUMP")
    assert client("FUNCTION", "DELETE", "shop") == b"OK"
    assert on_each(shards, "FUNCTION", "LIST") == [[], [], []]
    assert client("FUNCTION", "RESTORE", dump) == b"OK"
    assert all(on_each(shards, "FUNCTION", "LIST"))
    assert client("FUNCTION", "FLUSH") == b"OK"
    assert on_each(shards, "FUNCTION", "LIST") == [[], [], []]
    assert words(client("FUNCTION", "DELETE", "shop")) == "ERR Library not found"


def test_random_key_comes_from_a_server_that_has_one(client):
    assert client("RANDOMKEY") is None
    for key in (A, B, C):
        client("SET", key, "1")
        assert client("RANDOMKEY") == key.encode()
        client("DEL", key)


def test_waits_of_clients_that_have_left_hold_nobody_up(proxy, client):
    assert client("WAIT", "1", "10") == 0
    for _ in range(30):
        with Client(proxy.port) as leaving:
            leaving.send("WAIT", "1", "0")
        assert client("GET", A) is None


# Answered by the proxy --------------------------------------------------------------------------


def test_hello_has_the_fields_and_version_of_redis(client, shards):
    with Client(shards[0].port) as redis:
        expected = redis("HELLO", "3")
    for version in (2, 3):
        reply = client("HELLO", str(version))
        if version == 2:
            reply = dict(zip(reply[::2], reply[1::2], strict=True))
        assert reply == {**expected, b"id": client("CLIENT", "ID"), b"proto": version}
    assert client("HELLO")[b"proto"] == 3


def test_hello_that_is_refused_changes_nothing(client):
    for command, text in {
        "HELLO 4": "NOPROTO unsupported protocol version",
        "HELLO 1": "NOPROTO unsupported protocol version",
        "HELLO x": "ERR Protocol version is not an integer or out of range",
        "HELLO 3 NOSUCH": "ERR Syntax error in HELLO option 'NOSUCH'",
        "HELLO 3 SETNAME": "ERR Syntax error in HELLO option 'SETNAME'",
        "HELLO 3 AUTH nobody x": "WRONGPASS invalid username-password pair or user is disabled.",
    }.items():
        assert words(client(*command.split())) == text
        assert b"resp=2" in client("CLIENT", "INFO")
    assert client("HELLO", "3", "AUTH", "default", "any", "SETNAME", "me")[b"proto"] == 3
    assert client("CLIENT", "GETNAME") == b"me"


def test_protocol_may_change_back_and_forth_within_one_packet(alpha):
    data = requests(
        f"HSET h f v {B} w",
        "HGETALL h",
        "HELLO 3",
        "HGETALL h",
        f"MGET {A} {B} {C}",
        "HELLO 2",
        f"MGET {A} {B} {C}",
        "HGETALL h",
        "HELLO 3",
        "GET none",
        "RANDOMKEY",
        "RESET",
        "GET none",
        "HELLO 3 SETNAME me",
        "CLIENT GETNAME",
        "SMEMBERS none",
        "QUIT",
    )
    received = talk(alpha, data)
    pairs = b"$1\r\nf\r\n$1\r\nv\r\n$%d\r\n%b\r\n$1\r\nw\r\n" % (len(B), B.encode())
    greeting = rb"%7\r\n(?:\$6\r\nserver\r\n.*?modules\r\n\*0\r\n)"
    old_greeting = rb"\*14\r\n(?:\$6\r\nserver\r\n.*?modules\r\n\*0\r\n)"
    expected = [
        b":2\r\n*4\r\n" + pairs,
        greeting,
        b"%2\r\n" + pairs + b"*3\r\n_\r\n_\r\n_\r\n",
        old_greeting,
        b"*3\r\n$-1\r\n$-1\r\n$-1\r\n" + b"*4\r\n" + pairs,
        greeting,
        b"_\r\n$1\r\nh\r\n+RESET\r\n$-1\r\n",
        greeting,
        b"$2\r\nme\r\n~0\r\n+OK\r\n",
    ]
    pattern = b"".join(
        part if part in (greeting, old_greeting) else re.escape(part) for part in expected
    )
    assert re.fullmatch(pattern, received, re.DOTALL), received


def test_change_of_protocol_keeps_the_order_of_requests(alpha):
    """RESP2 and RESP3 have separate server connections."""
    value = b"v" * 300_000
    for turn in range(20):
        with Client(alpha) as client:
            for version in (3, 2, 3):
                client.send_bytes(
                    request("SET", A, value)
                    + requests(f"GET {A}", f"HELLO {version}", f"MSET {A} {turn} {B} 1", f"GET {A}")
                )
            for _ in range(3):
                first, second, _, third, last = client.replies(5)
                assert (first, third) == (b"OK", b"OK")
                assert second == value
                assert last == b"%d" % turn


def test_change_of_protocol_waits_for_requests_in_flight():
    go = threading.Event()

    def script(session):
        while command := session.receive():
            if command[1] == b"slow":
                session.wait(go)
            session.send(reply_to(command))

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        for version in (3, 2):
            assert client("HELLO", version)
            assert client("GET", "a") == value_of(b"a")
        client.pipeline(("SET", "slow", "v"), ("HELLO", 3), ("GET", "behind"))
        wait_until(lambda: [b"SET", b"slow", b"v"] in server.requests, "the first request")
        taken = proxy.stats()["alpha"]["s1"]["requests"]
        go.set()
        first, _, last = client.replies(3)
        assert (first, last) == (b"OK", value_of(b"behind"))
        assert proxy.stats()["alpha"]["s1"]["requests"] == taken + 1


def test_first_change_of_protocol_waits_too():
    """HELLO asks a server for its version. This server replies while another one still has to
    execute an earlier request."""
    go = threading.Event()
    asked = Router("fnv1a_64", "ketama", b"{}", [(b"s1", 1), (b"s2", 1)]).explain(b"placeholder")
    [slow] = keys_of(2 - asked.server, (1, 2), 1)
    with (
        ScriptedServer(answering_when(go)) as one,
        ScriptedServer(answering_when(go)) as two,
        NutproxyServer(pool("alpha", [one, two])) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("SET", slow, "v"), ("HELLO", 3), ("GET", slow))
        names = [f"s{1 + asked.server}", f"s{2 - asked.server}"]
        wait_until(lambda: proxy.stats()["alpha"][names[0]]["responses"] == 1, "the version")
        for _ in range(20):
            assert proxy.stats()["alpha"][names[1]]["requests"] == 1
        go.set()
        first, _, last = client.replies(3)
        assert (first, last) == (b"OK", value_of(slow))


def after_hello(received):
    """The bytes after the reply to a HELLO, or all bytes if there is none."""
    return received.rpartition(b"modules\r\n*0\r\n")[2]


def test_types_of_resp3_pass_through(alpha, shards):
    """The replies are those of the server, byte for byte."""
    key = f"{{{A}}}"
    data = requests(
        f"HSET {key}h f v",
        f"HGETALL {key}h",
        f"SADD {key}s m",
        f"SMEMBERS {key}s",
        f"ZADD {key}z 1.5 m",
        f"ZSCORE {key}z m",
        f"ZSCORE {key}z none",
        f"ZRANGE {key}z 0 -1 WITHSCORES",
        f"GET {key}none",
        f"LRANGE {key}none 0 -1",
        f"LPOP {key}none",
        f"INCRBYFLOAT {key}f 1.25",
        f"EVAL return{{true,1,'x'}} 1 {key}",
        f"GEOADD {key}g 13.361389 38.115556 Palermo",
        f"GEOPOS {key}g Palermo none",
        f"INCR {key}h",
        f"EXISTS {key}h",
        "NOSUCH x",
        "GET",
    )
    data += request("EVAL", "redis.setresp(3); return redis.call('hgetall', KEYS[1])", 1, key + "h")
    data += request("EVAL", "return {double=3.5}", 1, key)
    data += request("EVAL", "return {big_number='12345678901234567890'}", 1, key)
    data += request("EVAL", "return {verbatim_string={string='x',format='txt'}}", 1, key)
    data += request("EVAL", "redis.setresp(3); return {true,false,{map={a=1}}}", 1, key)
    for version in (b"", request("HELLO", "2"), request("HELLO", "3")):
        expected = after_hello(talk(shards[0].port, version + data))
        pipeline(shards[0].port, [("FLUSHALL",)])
        assert after_hello(talk(alpha, version + data)) == expected
        pipeline(shards[0].port, [("FLUSHALL",)])


def test_clients_of_both_versions_get_replies_in_their_own_version(alpha):
    with Client(alpha) as old, Client(alpha) as new:
        new("HELLO", "3")
        for key in (A, B, C):
            old("ZADD", f"z{{{key}}}", "0.5", "m")
            old("HSET", f"h{{{key}}}", "f", "v")
        for _ in range(50):
            for client in (old, new):
                for key in (A, B, C):
                    client.send("ZSCORE", f"z{{{key}}}", "m")
                    client.send("HGETALL", f"h{{{key}}}")
                client.send("MGET", A, B, C)
                client.send("RANDOMKEY")
            assert old.replies(7) == [b"0.5", [b"f", b"v"]] * 3 + [[None] * 3]
            assert new.replies(7) == [0.5, {b"f": b"v"}] * 3 + [[None] * 3]
            assert isinstance(old.reply(), bytes)
            assert isinstance(new.reply(), bytes)


def test_replies_that_the_proxy_merges_have_the_clients_version(alpha):
    data = requests(f"MGET {A} {B}", "RANDOMKEY", "KEYS *", "CLIENT GETNAME", "FUNCTION STATS")
    running = b"$14\r\nrunning_script\r\n"
    old = talk(alpha, data)
    new = after_hello(talk(alpha, request("HELLO", "3") + data))
    assert old.startswith(b"*2\r\n$-1\r\n$-1\r\n$-1\r\n*0\r\n$-1\r\n*4\r\n" + running)
    assert new.startswith(b"*2\r\n_\r\n_\r\n_\r\n*0\r\n_\r\n%2\r\n" + running)


def test_select_takes_the_only_database(client):
    assert client("SELECT", "0") == b"OK"
    assert words(client("SELECT", "16")) == "ERR DB index is out of range"
    assert words(client("SELECT", "x")) == "ERR value is not an integer or out of range"
    assert client("PING") == b"PONG"


def test_reset_makes_the_connection_as_new(client):
    client("HELLO", "3", "SETNAME", "me")
    client("CLIENT", "NO-EVICT", "ON")
    assert client("RESET") == b"RESET"
    line = client("CLIENT", "INFO").decode()
    assert " name= " in line
    assert " flags=N " in line
    assert " resp=2 " in line


def test_clients_see_themselves_and_others_of_their_pool(alpha, one):
    with Client(alpha) as me, Client(alpha) as other, Client(one) as stranger:
        assert me("CLIENT", "SETNAME", "me") == b"OK"
        assert me("CLIENT", "SETINFO", "LIB-NAME", "test") == b"OK"
        assert me("CLIENT", "SETINFO", "LIB-VER", "1.2") == b"OK"
        assert other("CLIENT", "SETNAME", "other") == b"OK"
        assert stranger("CLIENT", "SETNAME", "stranger") == b"OK"
        line = me("CLIENT", "INFO").decode()
        mine = dict(field.split("=", 1) for field in line.split())
        assert mine["id"] == str(me("CLIENT", "ID"))
        assert mine["addr"] == "{}:{}".format(*me.socket.getsockname())
        assert mine["laddr"] == f"127.0.0.1:{alpha}"
        assert (mine["name"], mine["lib-name"], mine["lib-ver"]) == ("me", "test", "1.2")
        assert mine["cmd"] == "client|info"
        names = {re.search(r" name=(\S*) ", line)[1] for line in listed(me)}
        assert {"me", "other"} <= names
        assert "stranger" not in names
        [only] = listed(me, "ID", str(other("CLIENT", "ID")))
        assert " name=other " in only


def listed(client, *arguments):
    return client("CLIENT", "LIST", *arguments).decode().splitlines()


@pytest.mark.parametrize("command", ["CLIENT MAINT_NOTIFICATIONS ON"])
def test_commands_that_clients_only_try_get_an_error(client, command):
    assert words(client(*command.split())).startswith("ERR ")
    assert client("PING") == b"PONG"


def test_client_reply_decides_which_requests_get_a_reply(alpha):
    switched = requests(
        "CLIENT REPLY OFF",
        f"SET {A} 1",
        f"MGET {A} {B} {C}",
        "PING",
        "NOSUCH",
        "GET",
        "ECHO x",
        "DBSIZE",
        f"SINTER {A} {B}",
        "CLIENT REPLY SKIP",
        f"GET {A}",
        "CLIENT REPLY ON",
        f"GET {A}",
    )
    assert talk(alpha, switched) == b"+OK\r\n$1\r\n1\r\n"
    skipped = requests(
        f"GET {A}",
        "CLIENT REPLY SKIP",
        f"SET {A} 2",
        f"GET {A}",
        "CLIENT REPLY SKIP",
        f"MGET {A} {B}",
        f"MGET {A} {B}",
        "CLIENT REPLY SKIP",
        "PING",
        "PING",
    )
    assert talk(alpha, skipped) == b"$1\r\n1\r\n$1\r\n2\r\n*2\r\n$1\r\n2\r\n$-1\r\n+PONG\r\n"


def test_info_has_the_sections_and_sums_up_keys(client, shards):
    client("MSET", A, "1", B, "2", C, "3")
    client("EXPIRE", A, "1000")
    text = client("INFO").decode()
    assert re.findall(r"^# (\w+)\r$", text, re.MULTILINE) == [
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "CPU",
        "Modules",
        "Errorstats",
        "Cluster",
        "Keyspace",
    ]
    fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    version = pipeline(shards[0].port, [("INFO", "server")])[0].decode()
    assert f"redis_version:{fields['redis_version']}\r\n" in version
    assert fields["nutproxy_servers"] == "3"
    assert fields["db0"].startswith("keys=3,expires=1,")
    assert client("INFO", "keyspace").startswith(b"# Keyspace\r\ndb0:keys=3,expires=1,")
    assert client("INFO", "clients").startswith(b"# Clients\r\nconnected_clients:1\r\n")
    assert client("INFO", "nosuch") == b""
    assert client("INFO", "everything").count(b"# ") == 13


@pytest.mark.parametrize("version", ["2", "3"])
def test_info_sums_up_the_servers_and_names_the_pools_port(proxy, shards, version):
    for name, servers in (("alpha", shards), ("one", shards[:1])):
        with Client(proxy.ports[name]) as client:
            client("HELLO", version)
            on_each(servers, "CONFIG", "RESETSTAT")
            client("MSET", A, "1", B, "2", C, "3")
            client("MGET", A, B, C, "missing")
            text = client("INFO").decode()
            assert f"\r\ntcp_port:{proxy.ports[name]}\r\n" in text
            for line in (
                "keyspace_hits:3",
                "keyspace_misses:1",
                "maxmemory_policy:noeviction",
                "loading:0",
                "role:master",
                "connected_slaves:0",
                "cluster_enabled:0",
            ):
                assert f"\r\n{line}\r\n" in text
            stats = client("INFO", "commandstats").decode()
            assert f"cmdstat_mget:calls={len(servers)}," in stats


@pytest.mark.parametrize("info", [True, False], ids=["INFO", "no INFO"])
def test_servers_without_hello_serve_resp2_clients(info):
    """Redis before version 6, or with HELLO renamed. The error for HELLO 3 is the one after which
    old clients continue without it."""
    renamed = ["--rename-command", "HELLO", ""]
    if not info:
        renamed += ["--rename-command", "INFO", ""]
    with (
        RedisServer(*renamed) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
    ):
        version = b"7.0.15" if info else b"unknown"
        for _ in range(2):
            with connect(proxy.port) as connection, connect(server.port) as direct:
                request = b"*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$7\r\nSETNAME\r\n$2\r\nme\r\n"
                refusals = []
                for each in connection, direct:
                    each.sendall(request)
                    refusals.append(each.recv(65536))
                assert refusals[0] == refusals[1]
                assert refusals[0].startswith(b"-ERR unknown command 'HELLO'")
            with Client(proxy.port) as client:
                for argv in (["HELLO"], ["HELLO", "2"]):
                    greeting = client(*argv)
                    assert greeting[:6] == [b"server", b"redis", b"version", version, b"proto", 2]
                assert client("SET", A, "1") == b"OK"
                assert client("GET", A) == b"1"


def test_handshake_of_valkey_glide_finds_a_primary(alpha):
    """The client connects only to a server that reports to be a primary and not a cluster node."""
    with Client(alpha) as client:
        client.pipeline(
            ("HELLO", "3"),
            ("CLIENT", "SETNAME", "glide"),
            ("CLIENT", "SETINFO", "LIB-NAME", "GlidePy"),
            ("CLIENT", "SETINFO", "LIB-VER", "2.6.0"),
            ("INFO", "REPLICATION"),
        )
        greeting, *oks, replication = client.replies(5)
        assert (greeting[b"proto"], greeting[b"role"], greeting[b"mode"]) == (
            3,
            b"master",
            b"standalone",
        )
        assert oks == [b"OK"] * 3
        assert b"\r\nrole:master\r\n" in replication


def test_haproxys_check_of_redis_passes(alpha):
    """The conversation of its documentation: tcp-check with `rstring role:master`."""
    conversation = [
        (b"PING\r\n", b"+PONG"),
        (b"info replication\r\n", b"role:master"),
        (b"QUIT\r\n", b"+OK"),
    ]
    with connect(alpha) as connection:
        for request, expected in conversation:
            connection.sendall(request)
            received = b""
            while expected not in received:
                part = connection.recv(65536)
                assert part, (request, received)
                received += part


@pytest.mark.parametrize(
    "command",
    [
        "COMMAND COUNT",
        "COMMAND INFO get mget nosuch",
        "COMMAND DOCS set",
        "COMMAND LIST FILTERBY PATTERN h*",
        "COMMAND GETKEYS MSET a 1 b 2",
        "COMMAND GETKEYSANDFLAGS GET k",
        "ECHO hello",
        "PING hello",
    ],
)
@pytest.mark.parametrize("version", ["2", "3"])
def test_server_independent_answers_are_those_of_redis(alpha, shards, command, version):
    replies = []
    for port in (alpha, shards[0].port):
        with Client(port) as client:
            client("HELLO", version)
            replies.append(client(*command.split()))
    if command.startswith("COMMAND LIST"):
        replies = [sorted(reply) for reply in replies]
    assert replies[0] == replies[1]


def test_time_is_now(client, shards):
    before = int(pipeline(shards[0].port, [("TIME",)])[0][0])
    seconds, microseconds = map(int, client("TIME"))
    after = int(pipeline(shards[0].port, [("TIME",)])[0][0])
    assert before <= seconds <= after
    assert 0 <= microseconds < 1_000_000
    assert b"nutproxy ver. " in client("LOLWUT")


def test_quit_is_answered_after_earlier_requests_and_ends_the_connection(alpha, shards):
    data = requests(f"SET {A} 1", f"GET {A}", f"MGET {A} {B}", "QUIT", f"SET {A} 2", "NOSUCH")
    with Client(alpha) as client:
        client.send_bytes(data)
        replies = client.replies(4)
        assert replies == [b"OK", b"1", [b"1", None], b"OK"]
        assert client.closed()
    assert pipeline(shards[0].port, [("GET", A)]) == [b"1"]


# Many commands in one packet that the proxy answers itself: after 64 in one turn of the loop, the
# client's next request waits for the next turn.


@pytest.mark.parametrize("before", range(60, 67))
def test_a_reply_in_several_turns_keeps_its_place(proxy, alpha, before):
    """A list of more than a hundred clients."""
    with contextlib.ExitStack() as stack:
        for _ in range(101):
            stack.enter_context(connect(alpha))
        wait_until(lambda: proxy.stats()["alpha"]["client_connections"] >= 101, "the clients")
        client = stack.enter_context(Client(alpha))
        echoes = requests(*[f"ECHO {number}" for number in range(before)])
        client.send_bytes(echoes + requests("CLIENT LIST", f"GET {A}", "ECHO last"))
        assert client.replies(before) == [b"%d" % number for number in range(before)]
        listed, value, last = client.replies(3)
        assert listed.count(b"\n") >= 102
        assert (value, last) == (None, b"last")


@pytest.mark.parametrize("before", range(62, 66))
def test_hello_decides_on_what_follows_it(shards, before):
    """A server is asked for the reply to the first HELLO."""
    with NutproxyServer(pool("alpha", shards)) as proxy:
        received = talk(
            proxy.port, requests("ECHO x") * before + requests("HELLO 3", "GET missing")
        )
        assert received.endswith(b"*0\r\n_\r\n")


@pytest.mark.parametrize("before", range(62, 66))
def test_quit_ends_the_connection(alpha, before):
    with Client(alpha) as client:
        client.send_bytes(requests("ECHO x") * before + requests("QUIT"))
        assert client.replies(before + 1) == [b"x"] * before + [b"OK"]
        assert client.closed()


# AUTH -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked():
    """A pool whose servers require a password. Clients have to send the same password."""
    password = ("--requirepass", "secret")
    with (
        RedisServer(*password) as one,
        RedisServer(*password) as two,
        NutproxyServer(pool("locked", [one, two], redis_auth="secret")) as proxy,
    ):
        yield proxy


def test_nothing_is_answered_before_auth(locked):
    noauth = "NOAUTH Authentication required."
    with Client(locked.port) as client:
        for command in ("PING", "GET k", "MGET a b c", "DBSIZE", "INFO", "CLIENT ID", "TIME"):
            assert words(client(*command.split())) == noauth
        aborted = "EXECABORT Transaction discarded because of: "
        assert words(client("EXEC")) == aborted + noauth
        assert words(client("HELLO", "3")).startswith("NOAUTH HELLO must be called")
        assert words(client("AUTH", "wrong")) == "ERR invalid password"
        assert words(client("AUTH", "nobody", "secret")).startswith("WRONGPASS ")
        assert client("AUTH", "secret") == b"OK"
        assert client("MSET", "a", "1", "b", "2", "c", "3") == b"OK"
        assert client("MGET", "a", "b", "c") == [b"1", b"2", b"3"]
        assert words(client("AUTH", "wrong")) == "ERR invalid password"
        assert words(client("AUTH", "nobody", "secret")).startswith("WRONGPASS ")
        assert words(client("HELLO", "3", "AUTH", "nobody", "x")).startswith("WRONGPASS ")
        assert client("GET", "a") == b"1"
        assert client("RESET") == b"RESET"
        assert words(client("GET", "a")) == noauth
        assert client("QUIT") == b"OK"
        assert client.closed()


def test_auth_applies_to_later_requests_in_the_same_packet(locked):
    with Client(locked.port) as client:
        client.send_bytes(requests("GET k", "AUTH secret", "SET k 1", "AUTH no", "GET k"))
        replies = client.replies(5)
    assert [str(reply) for reply in replies[::3]] == [
        "NOAUTH Authentication required.",
        "ERR invalid password",
    ]
    assert replies[1:3] == [b"OK", b"OK"]
    assert replies[4] == b"1"


def test_failed_auth_does_not_lock_a_client_out_of_a_pool_without_a_password(client):
    assert client("SET", "k", "v") == b"OK"
    assert words(client("AUTH", "x")).startswith("ERR Client sent AUTH")
    assert words(client("AUTH", "bob", "x")).startswith("WRONGPASS ")
    assert words(client("HELLO", "3", "AUTH", "bob", "x")).startswith("WRONGPASS ")
    assert client("GET", "k") == b"v"


def test_hello_may_carry_the_password(locked):
    with Client(locked.port) as client:
        client.send_bytes(
            requests("HELLO 3 AUTH default wrong", "HELLO 3 AUTH default secret", "HSET h f v")
        )
        client.send("HGETALL", "h")
        refused, greeting, _, value = client.replies(4)
        assert words(refused).startswith("WRONGPASS ")
        assert greeting[b"proto"] == 3
        assert value == {b"f": b"v"}


def test_unauthenticated_clients_cannot_announce_large_requests(locked):
    with Client(locked.port) as client:
        client.send_bytes(b"*11\r\n")
        assert words(client.reply()) == "ERR Protocol error: unauthenticated multibulk length"
        assert client.closed()
    with Client(locked.port) as client:
        client.send_bytes(b"*2\r\n$3\r\nGET\r\n$16385\r\n")
        assert words(client.reply()) == "ERR Protocol error: unauthenticated bulk length"
        assert client.closed()


def test_auth_without_a_password_is_an_error(client):
    assert words(client("AUTH", "x")) == "ERR Client sent AUTH, but no password is set"
    assert client("AUTH", "default", "x") == b"OK"


# Administration, deny_commands, and unsupported commands ---------------------------------


ADMIN = """\
CONFIG GET maxmemory
CONFIG SET maxmemory 0
CONFIG RESETSTAT
DEBUG SLEEP 0
SHUTDOWN NOSAVE
REPLICAOF NO ONE
ACL LIST
MODULE LIST
SAVE
BGSAVE
LASTSAVE
LATENCY LATEST
SLOWLOG GET
FAILOVER
""".splitlines()


@pytest.mark.parametrize("command", ADMIN)
def test_administration_is_refused_unless_the_pool_allows_it(client, shards, command):
    refusal = words(client(*command.split()))
    assert re.fullmatch(
        r"NOPERM '[A-Z ]+' is an administration command, "
        r"pool 'alpha' does not set admin_commands: true",
        refusal,
    )
    assert client("PING") == b"PONG"
    assert on_each(shards, "PING") == [b"PONG"] * 3


@pytest.fixture(scope="module")
def managed():
    """Two servers, and a pool of them that allows administration."""
    with (
        RedisServer("--enable-debug-command", "yes") as one,
        RedisServer("--enable-debug-command", "yes") as two,
        NutproxyServer(pool("managed", [one, two], admin_commands="true")) as proxy,
    ):
        yield proxy, [one, two]


def test_configuration_is_set_on_every_server(managed):
    proxy, servers = managed
    with Client(proxy.port) as client:
        assert client("CONFIG", "SET", "maxmemory-samples", "7") == b"OK"
        assert (
            on_each(servers, "CONFIG", "GET", "maxmemory-samples")
            == [[b"maxmemory-samples", b"7"]] * 2
        )
        assert client("CONFIG", "GET", "maxmemory-samples") == [b"maxmemory-samples", b"7"]
        assert words(client("CONFIG", "SET", "nosuch", "1")).startswith("ERR ")
        assert client("CONFIG", "RESETSTAT") == b"OK"


def test_administration_reaches_every_server(managed):
    proxy, servers = managed
    with Client(proxy.port) as client:
        assert client("DEBUG", "SLEEP", "0") == b"OK"
        assert client("SAVE") == b"OK"
        assert [(server.directory / "dump.rdb").exists() for server in servers] == [True, True]
        assert client("LASTSAVE") == min(on_each(servers, "LASTSAVE"))
        assert client("CONFIG", "SET", "slowlog-log-slower-than", "0") == b"OK"
        client("MGET", *(f"{n}:key" for n in range(50)))
        # No more entries are logged from here on, even if the machine is slow.
        assert client("CONFIG", "SET", "slowlog-log-slower-than", "-1") == b"OK"
        logged = client("SLOWLOG", "GET", "128")
        assert len(logged) == client("SLOWLOG", "LEN") == sum(on_each(servers, "SLOWLOG", "LEN"))
        assert sum(entry[3][0].upper() == b"MGET" for entry in logged) == 2
        assert client("SLOWLOG", "RESET") == b"OK"
        assert client("SLOWLOG", "LEN") == 0
        assert client("LATENCY", "RESET") == 0
        assert client("REPLICAOF", "NO", "ONE") == b"OK"


def test_shutdown_reaches_every_server():
    with RedisServer() as one, RedisServer() as two:
        config = pool("managed", [one, two], admin_commands="true")
        with NutproxyServer(config) as proxy, Client(proxy.port) as client:
            assert client("SHUTDOWN", "NOSAVE") == b"OK"
            wait_until(lambda: not one.running() and not two.running(), "end of both servers")
            assert client("PING") == b"PONG"
            assert "Connection refused" in words(client("GET", "k"))


@pytest.fixture(scope="module")
def strict(shards):
    """A pool that allows administration, and denies KEYS, all of SCRIPT, CONFIG SET and PING."""
    denied = '["KEYS", "script", "config set", "ping"]'
    config = pool("strict", shards, admin_commands="true", deny_commands=denied)
    with NutproxyServer(config) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("KEYS *", "KEYS"),
        ("keys *", "KEYS"),
        ("SCRIPT LOAD x", "SCRIPT LOAD"),
        ("SCRIPT FLUSH", "SCRIPT FLUSH"),
        ("CONFIG SET maxmemory 1", "CONFIG SET"),
        ("PING", "PING"),
    ],
)
def test_denied_commands_are_refused(strict, command, name):
    with Client(strict.port) as client:
        refusal = words(client(*command.split()))
        assert refusal == f"NOPERM '{name}' is denied by deny_commands of pool 'strict'"
        assert client("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"0"]


NOT_YET = """\
MONITOR
SYNC
PSYNC ? -1
""".splitlines()


def test_what_is_not_supported_says_so_in_its_turn(client):
    for command in NOT_YET:
        client.send("SET", A, command)
        client.send(*command.split())
        client.send("RESET")
        client.send("GET", A)
    for command in NOT_YET:
        ok, refusal, _, value = client.replies(4)
        assert (ok, value) == (b"OK", command.encode())
        name = command.split()[0]
        assert words(refusal) == f"ERR '{name}' is not supported by nutproxy"


WRONG = """\
GET
GET a b
SET a
MGET
MSET
MSET a
DEL
EXISTS
HSET h f
EVAL
EVAL x
ECHO
SELECT
AUTH
DBSIZE x
KEYS
NOSUCH
nosuch a b
GETT k
FOO 'bar
CLIENT
CLIENT NOSUCH
CLIENT SETNAME
CONFIG NOSUCH
CONFIG
SCRIPT NOSUCH x
OBJECT NOSUCH k
EVAL x y k
EVAL x -1 k
EVAL x 5 k
ZUNION x k
ZUNION 3 k
XREAD STREAMS a b 0
SORT
BITOP NOSUCH a b
SET a b NOSUCH
EXPIRE a x
PING a b
TIME x
RANDOMKEY x
FLUSHALL x y
HELLO x
COMMAND NOSUCH
FUNCTION NOSUCH
XADD
LMPOP 0 k LEFT
""".splitlines()


@pytest.mark.parametrize("name", ["one", "alpha"])
def test_wrong_commands_get_the_errors_of_redis_in_order(proxy, shards, name):
    data = b"".join(
        request("SET", A, command) + request(*command.split()) + request("GET", A)
        for command in WRONG
    )
    data += request("x" * 300, "y" * 300, "z") + request("a\r\nb", "c\r\nd") + request("\0a", "\0b")
    data += request("") + request("", "x")
    expected = talk(shards[0].port, data)
    assert expected.count(b"\r\n") > 3 * len(WRONG)
    assert talk(proxy.ports[name], data) == expected


def test_connections_of_web_browsers_are_closed(alpha, shards):
    for first in (b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        with Client(alpha) as client:
            client.send_bytes(first + b"Content-Length: 9\r\n\r\n" + request("SET", A, "stolen"))
            while True:
                try:
                    words(client.reply())
                except ConnectionError:
                    break
    assert holds(shards) == [[], [], []]


def test_replies_of_all_kinds_come_in_the_order_of_the_requests(alpha):
    """Requests that are local, forwarded to each server, split, sent to all servers, refused, or
    invalid, many times over."""
    with Client(alpha) as client:
        client("MSET", A, "1", B, "2", C, "3")
        kinds = [
            ("PING", b"PONG"),
            (f"GET {A}", b"1"),
            (f"MGET {C} {B} {A}", [b"3", b"2", b"1"]),
            (f"GET {B}", b"2"),
            ("DBSIZE", 3),
            (f"GET {C}", b"3"),
            ("NOSUCH", "ERR unknown command 'NOSUCH', with args beginning with: "),
            (f"EXISTS {A} {B} {A}", 3),
            ("ECHO x", b"x"),
            ("GET", "ERR wrong number of arguments for 'get' command"),
            ("SELECT 0", b"OK"),
            (f"LPUSH {A} x", "WRONGTYPE Operation against a key holding the wrong kind of value"),
        ]
        client.send_bytes(requests(*(command for command, _ in kinds)) * 200)
        for _ in range(200):
            for command, expected in kinds:
                reply = client.reply()
                if isinstance(reply, hiredis.ReplyError):
                    reply = str(reply)
                assert reply == expected, command


def test_keys_are_spread_as_the_router_says(client, shards):
    keys = [f"key:{n}" for n in range(300)]
    client("MSET", *(word for key in keys for word in (key, "v")))
    counts = Counter(ROUTER.explain(key.encode()).server for key in keys)
    assert [len(held) for held in holds(shards)] == [counts[shard] for shard in range(3)]
