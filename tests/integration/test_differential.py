"""The same random pipelines, directly to a Redis and through nutproxy, get the same bytes.

    direct ────────────────────────────────> one Redis        ┐
    proxied ──> pool over one fresh Redis, or over three ───> ├─ the same frames, in order

Commands are drawn from a fixed seed, so a failure can be repeated. There are few keys, of all
types, so that wrong types, missing keys and overwritten keys are common. Sometimes a command has an
argument too few or too many. With three servers, the keys of a command share a hash tag.

Some commands are left out because two Redis servers reply differently, too. Random results: SPOP,
SRANDMEMBER, HRANDFIELD, ZRANDMEMBER, RANDOMKEY. Times and ages: TTL, XADD *, OBJECT IDLETIME,
XPENDING with a range, XINFO CONSUMERS. Results that depend on the hash seed of the process: SSCAN
and ZSCAN. Results that depend on its random skip lists: ranges by name over members with different
scores. Sets and KEYS come in the order of the hash seed, too, so replies to the commands in
UNORDERED are compared without their order. Requests that the proxy answers itself, refuses or sends
to all servers have tests of their own.
"""

import random
import re

import hiredis
import pytest

from nutproxy.proto.commands import COMMANDS, KeySpec
from nutproxy.proto.framer import Framer
from nutproxy.proto.protocols import REDIS
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, connect, pipeline

UNORDERED = {b"SMEMBERS", b"SUNION", b"SINTER", b"SDIFF", b"KEYS"}
# A time to live that is relative to now would differ between two servers, and the next command must
# remove it again. Therefore these commands are never spoiled.
UNSPOILED = {b"EXPIRE", b"PEXPIRE", b"PERSIST", b"RESTORE"}

SCRIPTS = [
    b"return redis.call('GET', KEYS[1])",
    b"redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], 1, {false, true, 'x'}, 3.9}",
    b"return redis.pcall('LPUSH', KEYS[1], ARGV[1])",
    b"return {err = 'MINE of the script'}",
    b"return {ok = 'FINE'}",
    b"return {KEYS, ARGV}",
    b"redis.setresp(3) return redis.call('HGETALL', KEYS[1])",
    b"return redis.call('BOGUS', KEYS[1])",
]
LIBRARY = b"""#!lua name=lib
redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
redis.register_function{
  function_name='take', callback=function(keys) return redis.call('GET', keys[1]) end,
  flags={'no-writes'}}
"""

# Draw fills in <places>. `;` joins commands that belong together. · is a space within a word.
TEMPLATES = """
SET <str> <v>
SET <str> <v> NX
SET <str> <v> XX GET
SET <str> <v> EXAT <far>
SET <str> <v> PXAT <far>000 KEEPTTL
SET <str> <v> KEEPTTL
SET <str> <v> BOGUS
SETNX <str> <v>
GET <str>
GET <str>
GETSET <str> <v>
GETDEL <str>
GETEX <str> EXAT <far>
GETEX <str> PERSIST
GETRANGE <str> <i> <i>
SUBSTR <str> <i> <i>
SETRANGE <str> <u> <v>
STRLEN <str>
APPEND <str> <short>
INCR <str>
DECR <str>
INCRBY <str> <i>
DECRBY <str> <i>
INCRBYFLOAT <str> <n>
MGET <str> <str> <any>
MSET <str> <v> <str> <v>
MSETNX <str> <v> <str> <v>
LCS <str> <str>
LCS <str> <str> IDX MINMATCHLEN 2 WITHMATCHLEN
SETBIT <bit> <u> 1
SETBIT <bit> <u> 2
GETBIT <bit> <u>
BITCOUNT <bit>
BITCOUNT <bit> <i> <i> BIT
BITPOS <bit> 1 <i>
BITPOS <bit> 0 <i> <i> BYTE
BITOP AND <bit> <bit> <str>
BITOP NOT <bit> <bit>
BITOP BOGUS <bit> <bit>
BITFIELD <bit> SET u8 <u> <u> GET i5 3 OVERFLOW FAIL INCRBY u2 #1 1
BITFIELD_RO <bit> GET u8 #<u>
BITFIELD_RO <bit> SET u8 0 1
HSET <hash> <f> <short>
HSET <hash> <f> <short> <f> <short> <f> <short>
HSETNX <hash> <f> <short>
HMSET <hash> <f> <short>
HGET <hash> <f>
HMGET <hash> <f> <f> <f>
HGETALL <hash>
HKEYS <hash>
HVALS <hash>
HLEN <hash>
HEXISTS <hash> <f>
HSTRLEN <hash> <f>
HDEL <hash> <f> <f>
HINCRBY <hash> <f> <i>
HINCRBYFLOAT <hash> <f> <n>
HSCAN <hash> 0
HSCAN <hash> 0 MATCH f1* COUNT 100
HSCAN <hash> x
LPUSH <list> <v>
RPUSH <list> <v> <short> <i>
RPUSH <list> <i> <i>
LPUSHX <list> <v>
RPUSHX <list> <v>
LPOP <list>
RPOP <list> 2
LPOP <list> -1
LLEN <list>
LINDEX <list> <i>
LRANGE <list> <i> <i>
LSET <list> <i> <v>
LREM <list> <i> <short>
LTRIM <list> 0 <u>
LINSERT <list> BEFORE <short> <v>
LPOS <list> <short> RANK -1 COUNT 0
LMOVE <list> <list> LEFT RIGHT
LMOVE <list> <list> UP DOWN
RPOPLPUSH <list> <list>
LMPOP 2 <list> <list> LEFT COUNT 2
LMPOP 0 <list> LEFT
LMPOP x <list> LEFT
LMPOP 1 <list> UP
SORT <list>
SORT <list> ALPHA DESC LIMIT 0 5
SORT <set> ALPHA
SORT <list> ALPHA STORE <list>
SORT <list> ALPHA GET # GET <t>str:*
SORT_RO <zset> ALPHA
SORT_RO <list> STORE <list>
SADD <set> <m> <m> <i>
SADD <int> <i> <i>
SREM <set> <m>
SCARD <set>
SISMEMBER <set> <m>
SMISMEMBER <set> <m> <m>
SMEMBERS <set>
SMEMBERS <int>
SMOVE <set> <set> <m>
SINTER <set> <set>
SUNION <set> <int>
SDIFF <set> <set> <int>
SINTERSTORE <set> <set> <set>
SUNIONSTORE <set> <set> <int>
SDIFFSTORE <set> <set> <set>
SINTERCARD 2 <set> <set> LIMIT 2
SINTERCARD 3 <set> <set>
SINTERCARD 0 <set>
ZADD <zset> <n> <m>
ZADD <zset> <n> <m> <n> <m> <n> <m>
ZADD <zset> GT CH <n> <m>
ZADD <zset> NX INCR <n> <m>
ZADD <zset> XX NX <n> <m>
ZADD <zset> nan <m>
ZADD <zset> +inf <m>
ZCARD <zset>
ZCOUNT <zset> -inf (<n>
ZINCRBY <zset> <n> <m>
ZLEXCOUNT <t>lex - +
ZMSCORE <zset> <m> <m>
ZSCORE <zset> <m>
ZRANK <zset> <m>
ZREVRANK <zset> <m>
ZREM <zset> <m> <m>
ZPOPMIN <zset>
ZPOPMAX <zset> 2
ZMPOP 2 <zset> <zset> MIN COUNT 2
ZMPOP 1 <zset> BOGUS
ZRANGE <zset> <i> <i> WITHSCORES
ZRANGE <zset> -inf <n> BYSCORE LIMIT 0 3 WITHSCORES
ZRANGE <t>lex [a [m BYLEX
ZRANGE <t>lex + - BYLEX REV
ZRANGE <zset> x y
ZREVRANGE <zset> 0 -1 WITHSCORES
ZRANGEBYSCORE <zset> -inf +inf WITHSCORES LIMIT 1 2
ZREVRANGEBYSCORE <zset> +inf -inf
ZRANGEBYLEX <t>lex - (m
ZREVRANGEBYLEX <t>lex + -
ZRANGESTORE <zset> <zset> 0 2
ZREMRANGEBYRANK <zset> 0 0
ZREMRANGEBYSCORE <zset> (<n> <n>
ZREMRANGEBYLEX <t>lex [m1 [m2
ZADD <t>lex 0 <m> 0 <m>
ZADD <t>lex 0 <m>
DEL <t>dump ; SET <t>dump <v> ; ZRANGEBYLEX <t>dump - +
ZUNION 2 <zset> <zset> WEIGHTS 2 <n> WITHSCORES
ZINTER 2 <zset> <set> AGGREGATE MAX WITHSCORES
ZDIFF 2 <zset> <zset> WITHSCORES
ZUNION 0 <zset>
ZUNION 3 <zset> <zset>
ZUNIONSTORE <zset> 2 <zset> <set>
ZINTERSTORE <zset> 2 <zset> <zset> WEIGHTS 1
ZDIFFSTORE <zset> 2 <zset> <zset>
ZINTERCARD 2 <zset> <zset> LIMIT 1
XADD <stream> <id> <f> <v>
XADD <stream> <id> <f> <v> <f> <short>
XADD <stream> <u>-* <f> <v>
XADD <stream> 0-0 <f> <v>
XADD <stream> NOMKSTREAM MAXLEN = 5 <id> <f> <v>
XADD <stream> <id> <f>
XLEN <stream>
XRANGE <stream> - +
XRANGE <stream> <id> + COUNT 2
XREVRANGE <stream> + (<id>
XRANGE <stream> x +
XDEL <stream> <id> <id>
XTRIM <stream> MAXLEN 6
XTRIM <stream> MINID <id>
XSETID <stream> 9999-9
XREAD STREAMS <stream> 0
XREAD COUNT 2 STREAMS <stream> <stream> 0-0 <id>
XREAD COUNT 2 STREAMS <stream> <stream> 0-0
XREAD COUNT 2 <stream>
XGROUP CREATE <stream> group 0 MKSTREAM
XGROUP CREATE <stream> group $
XGROUP CREATECONSUMER <stream> group bob
XGROUP DELCONSUMER <stream> group bob
XGROUP SETID <stream> group 0
XGROUP DESTROY <stream> group
XGROUP BOGUS <stream> group
XREADGROUP GROUP group alice COUNT 3 STREAMS <stream> >
XREADGROUP GROUP group alice NOACK STREAMS <stream> >
XREADGROUP GROUP group bob STREAMS <stream> 0
XACK <stream> group <id> <id>
XPENDING <stream> group
XCLAIM <stream> group bob 0 <id> JUSTID
XAUTOCLAIM <stream> group alice 0 0 COUNT 2 JUSTID
XINFO STREAM <stream>
XINFO GROUPS <stream>
XINFO BOGUS <stream>
XINFO HELP
GEOADD <geo> <lon> <lat> <m> <lon> <lat> <m>
GEOADD <geo> XX CH <lon> <lat> <m>
GEOADD <geo> 181 0 <m>
GEODIST <geo> <m> <m> km
GEOPOS <geo> <m> <m>
GEOHASH <geo> <m> <m>
GEOSEARCH <geo> FROMMEMBER <m> BYRADIUS 9000 km ASC WITHDIST WITHCOORD WITHHASH
GEOSEARCH <geo> FROMLONLAT <lon> <lat> BYBOX 9000 9000 km ASC COUNT 3
GEOSEARCHSTORE <geo> <geo> FROMLONLAT <lon> <lat> BYRADIUS 9000 km ASC STOREDIST
GEORADIUS <geo> <lon> <lat> 9000 km WITHDIST ASC
GEORADIUS <geo> <lon> <lat> 9000 km ASC STORE <geo>
GEORADIUSBYMEMBER <geo> <m> 9000 km DESC STOREDIST <geo>
GEORADIUS_RO <geo> <lon> <lat> 9000 km ASC
GEORADIUSBYMEMBER_RO <geo> <m> 9000 km ASC
PFADD <hll> <m> <m> <i>
PFCOUNT <hll>
PFCOUNT <hll> <hll>
PFMERGE <hll> <hll> <hll>
EVAL <script> 1 <str> <v>
EVAL <script> 2 <str> <list> <v>
EVAL <script> 0 <v>
EVAL <script> 3 <str>
EVAL <script> -1 <str>
EVAL <script> x <str>
EVAL not·lua 1 <str>
EVAL_RO <script> 1 <str> <v>
EVALSHA <sha> 1 <str> <v>
EVALSHA_RO <sha> 1 <hash> <v>
EVALSHA 0123456789012345678901234567890123456789 1 <str>
FCALL put 1 <str> <v>
FCALL_RO take 1 <str>
FCALL_RO put 1 <str> <v>
FCALL bogus 1 <str>
SCRIPT EXISTS <sha> bogus
DEL <any>
DEL <any> <any>
UNLINK <any> <any>
EXISTS <any> <any> <any>
TOUCH <any> <any>
TYPE <any>
OBJECT ENCODING <any>
OBJECT REFCOUNT <any>
OBJECT FREQ <any>
OBJECT BOGUS <any>
OBJECT HELP
OBJECT
RENAME <any> <any>
RENAMENX <any> <any>
COPY <any> <any>
COPY <any> <any> REPLACE
COPY <any> <any> DB 99
EXPIREAT <any> <far>
EXPIREAT <any> <far> NX
EXPIREAT <any> <far> GT LT
EXPIREAT <any> 1
PEXPIREAT <any> <far>123
EXPIRETIME <any>
PEXPIRETIME <any>
PERSIST <any>
EXPIRE <any> 1000000 ; PERSIST <same>
PEXPIRE <any> 1000000000 ; PERSIST <same>
EXPIRE <any> -1
EXPIRE <any> x
DEL <t>dump ; SET <t>dump <v> ; DUMP <t>dump
DEL <t>dump ; RPUSH <t>dump <v> <i> ; DUMP <t>dump
DUMP <t>missing
RESTORE <any> 0 <payload>
RESTORE <any> 0 <payload> REPLACE
RESTORE <any> <far>000 <payload> REPLACE ABSTTL
RESTORE <any> 0 <v> REPLACE
DBSIZE
KEYS <t>*:0
BOGUS
BOGUS <v> <v> <i>
get <str>
sEt <str> <v>
""".strip().splitlines()

TYPES = ["str", "bit", "hash", "list", "set", "int", "zset", "stream", "geo", "hll"]


class Draw:
    """Draws commands as tuples of bytes. With `tags`, the keys of a command have the form
    {tag}name. Arguments that are keys, or may turn other arguments into keys, are then not
    spoiled."""

    def __init__(self, seed, tags, payloads, shas):
        self.rng = random.Random(seed)
        self.tags = tags
        self.choices = {
            "f": [b"f%d" % i for i in range(12)],
            "m": [b"m%d" % i for i in range(12)] + [b"", b"\xff\r\n", b"M M"],
            "far": [b"4102444800", b"4102444801"],
            "lon": [b"0", b"13.361389", b"-122.27652", b"2.349014"],
            "lat": [b"0", b"38.115556", b"37.805186", b"48.864716"],
            "script": SCRIPTS,
            "sha": shas,
            "payload": payloads,
        }

    def commands(self, count):
        """`count` commands, or one or two more if they belong together."""
        drawn = []
        while len(drawn) < count:
            self.tag = b"{%b}" % self.rng.choice(self.tags) if self.tags else b""
            for template in self.rng.choice(TEMPLATES).split(" ; "):
                drawn.append(self.spoiled([self.word(word) for word in template.split()]))
        return drawn

    def word(self, template):
        parts = re.split(r"<(\w+)>", template.replace("·", " "))
        return b"".join(
            self.place(part) if odd % 2 else part.encode() for odd, part in enumerate(parts)
        )

    def place(self, name):
        rng = self.rng
        if name in self.choices:
            return rng.choice(self.choices[name])
        if name in TYPES or name == "any":
            if name == "any" or rng.random() < 0.08:
                name = rng.choice(TYPES)
            self.key = b"%b%b:%d" % (self.tag, name.encode(), rng.randrange(3))
            return self.key
        return {
            "t": lambda: self.tag,
            "same": lambda: self.key,
            "i": lambda: b"%d" % rng.choice([0, 1, 2, -1, -2, 5, 40, 2**31, -(2**63)]),
            "u": lambda: b"%d" % rng.randrange(60),
            "n": lambda: rng.choice([b"0", b"1", b"1.5", b"-2.25", b"3e2", b"17", b"0.1", b"x"]),
            "id": lambda: b"%d-%d" % (rng.randrange(1, 400), rng.randrange(3)),
            "short": self.short,
            "v": lambda: rng.choice([self.short(), self.short(), self.long()]),
        }[name]()

    def short(self):
        return self.rng.choice(
            [b"", b"0", b"10", b"-3", b"1.5", b"a", b"word", b"\r\n", b"\0\xff", b"*1\r\n$1\r\n"]
        )

    def long(self):
        """Sometimes longer than the smallest receive chunk, or than the limit of a packed list."""
        size = self.rng.choice([20, 70, 200, 600, 3000]) if self.rng.random() < 0.2 else 12
        return self.rng.randbytes(size)

    def spoiled(self, words):
        """The command. One in fifteen has an argument too few or too many."""
        first = 1
        if self.tags:
            row = COMMANDS.get(words[0].decode().lower())
            if row is None or row.keys != (KeySpec(pos=1),):
                return tuple(words)
            first = 2
        if words[0] not in UNSPOILED and len(words) > first and self.rng.random() < 1 / 15:
            at = self.rng.randrange(first, len(words))
            words[at : at + 1] = self.rng.choice([[], [words[at]] * 2])
        return tuple(words)


class Session:
    """A connection that returns replies as raw bytes."""

    def __init__(self, port):
        self.connection = connect(port)
        self.framer = Framer(REDIS, False)

    def ask(self, commands):
        self.connection.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        frames = []
        while len(frames) < len(commands):
            received = self.connection.recv(65536)
            assert received, f"closed after {frames[-1:]}, the reply to {commands[len(frames) - 1]}"
            frames += self.framer.feed(received)
        assert len(frames) == len(commands)
        return frames


def decoded(frame):
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


def comparable(command, frame):
    """The reply, or its type and its sorted elements if their order has no meaning."""
    if command[0].upper() in UNORDERED and frame[:1] in b"*~":
        return frame[:1], sorted(decoded(frame))
    return frame


def compare(seed, direct_port, proxy_port, resp, commands):
    rng = random.Random(seed)
    direct, proxied = Session(direct_port), Session(proxy_port)
    with direct.connection, proxied.connection:
        for session in direct, proxied:
            [hello] = session.ask([("HELLO", str(resp))])
            assert hello[:1] in b"*%"
        start = 0
        while start < len(commands):
            portion = commands[start : start + rng.choice([1, 7, 60])]
            expected, found = direct.ask(portion), proxied.ask(portion)
            for command, one, other in zip(portion, expected, found, strict=True):
                assert comparable(command, other) == comparable(command, one), command
            start += len(portion)


@pytest.fixture(scope="module")
def servers():
    """A server for direct requests, one for a proxy, and three shards."""
    with (
        RedisServer() as direct,
        RedisServer() as fresh,
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
    ):
        yield [direct, fresh, one, two, three]


@pytest.fixture(scope="module", params=[(), ("-m", "512")], ids=["default", "m512"])
def proxy(request, servers):
    _, fresh, *shards = servers
    with NutproxyServer(pool("one", [fresh]) + pool("three", shards), *request.param) as proxy:
        yield proxy


@pytest.fixture
def empty(servers):
    for server in servers:
        assert pipeline(server.port, [("FLUSHALL",)]) == [b"OK"]


@pytest.fixture(scope="module")
def shas(servers):
    """The hashes of the scripts. Scripts and library are loaded into every server."""
    load = [("SCRIPT", "LOAD", script) for script in SCRIPTS]
    for server in servers:
        *shas, name = pipeline(server.port, [*load, ("FUNCTION", "LOAD", "REPLACE", LIBRARY)])
        assert name == b"lib"
    return shas


@pytest.fixture(scope="module")
def payloads(servers):
    """The DUMP of a key of each type, and a damaged one."""
    values = [
        ("SET", "k", "value"),
        ("RPUSH", "k", "a", "1", "\xff"),
        ("HSET", "k", "f1", "v", "f2", "2"),
        ("SADD", "k", "1", "2", "3"),
        ("ZADD", "k", "1", "m1", "2.5", "m2"),
        ("XADD", "k", "5-1", "f", "v"),
    ]
    commands = [step for value in values for step in (("DEL", "k"), value, ("DUMP", "k"))]
    dumps = pipeline(servers[0].port, commands)[2::3]
    return [*dumps, dumps[0][:-1] + b"?"]


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_server_behind_the_proxy_replies_as_without_it(
    seed, resp, servers, proxy, payloads, shas
):
    commands = Draw(seed, [], payloads, shas).commands(2500)
    compare(seed, servers[0].port, proxy.ports["one"], resp, commands)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("resp", [2, 3])
@pytest.mark.parametrize("seed", [4, 5])
def test_three_servers_reply_as_one_if_keys_share_a_hash_tag(
    seed, resp, servers, proxy, payloads, shas
):
    tags = [b"a", b"b", b"c", b"user:1", b"\xff\0"]
    commands = Draw(seed, tags, payloads, shas).commands(2500)
    compare(seed, servers[0].port, proxy.ports["three"], resp, commands)
    assert all(pipeline(shard.port, [("DBSIZE",)])[0] for shard in servers[2:])


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("resp", [2, 3])
def test_split_commands_get_the_replies_of_one_server(resp, servers, proxy):
    rng = random.Random(resp)
    keys = [b"key:%d" % i for i in range(60)] + [b"", b"\xff\r\n", b"{tag}1", b"{tag}2", b"x" * 700]
    commands = []
    for _ in range(600):
        some = rng.choices(keys, k=rng.choice([1, 2, 3, 10, 100]))
        name = rng.choice(
            ["MGET", "MGET", "MSET", "MSET", "DEL", "UNLINK", "EXISTS", "TOUCH", "KEY"]
        )
        if name == "KEY":
            [maker] = rng.sample([("RPUSH",), ("SADD",), ("HSET", b"f"), ("GET",)], 1)
            value = [] if maker == ("GET",) else [*maker[1:], b"v"]
            commands.append((maker[0], some[0], *value))
        elif name == "MSET":
            pairs = [word for key in some for word in (key, rng.randbytes(rng.choice([0, 9, 700])))]
            commands.append((name, *pairs[: len(pairs) - (rng.random() < 0.05)]))
        else:
            commands.append((name, *some))
    commands += [(name,) for name in ("MGET", "MSET", "DEL", "UNLINK", "EXISTS", "TOUCH")]
    compare(resp, servers[0].port, proxy.ports["three"], resp, [*commands, ("DBSIZE",)])
