# tests/fuzz/merging.py: replies of several servers, merged by a running proxy
"""An input is the number of a command and one reply for each of three servers:

    b"0\\n--\\n*1\\r\\n$1\\r\\na\\r\\n\\n--\\n…"

Scripted servers send these replies. A part that is not one whole reply is replaced by an error,
since the targets of the parsers test malformed replies. The command has keys on all three servers.
nutproxy must send one well-formed reply, and then the reply to an ECHO after the command. If the
servers' replies are of the expected kind, the merged reply is known and compared.

binary_merge does the same with requests of Memcached's binary protocol, also with those for a
single key: the servers' replies are text, so nutproxy translates each of them.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Hashable, Iterator

from nutproxy.proto import protocols
from nutproxy.proto.framer import Framer
from nutproxy.proto.memcache_commands import COMMANDS as MEMCACHE_TABLE
from nutproxy.proto.memcache_commands import Reply
from tests.binary import BinaryClient, Op, Response, counting, expiring, request, storage
from tests.client import Client
from tests.fuzz.engine import Target
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.scripted import ScriptedMemcached, ScriptedServer, keys_of
from tests.servers import NutproxyServer
from tests.unit.framing import outcome_with

BETWEEN = b"\n--\n"
SERVERS = (1, 2, 3)
# The server of each key. Each server has two keys, and one key of the first is used twice.
ORDER = (0, 1, 0, 2, 1, 2, 0)
KEYS = [list(keys_of(server, SERVERS, 2)) for server in SERVERS]
TURN = [sum(1 for other in ORDER[:at] if other == one) for at, one in enumerate(ORDER)]
ASKED = [KEYS[one][turn % 2] for one, turn in zip(ORDER, TURN, strict=True)]
# How many keys each server gets.
COUNTS = [ORDER.count(index) for index in range(len(SERVERS))]

REDIS_COMMANDS: list[tuple[bytes | str, ...]] = [
    ("MGET", *ASKED),
    ("DEL", *ASKED),
    ("MSET", *(word for key in ASKED for word in (key, "v"))),
    ("KEYS", "*"),
    ("DBSIZE",),
    ("SCRIPT", "EXISTS", "a", "b"),
    ("SCRIPT", "KILL"),
    ("RANDOMKEY",),
    ("LASTSAVE",),
    ("CONFIG", "GET", "*"),
    ("INFO", "keyspace"),
    ("FLUSHALL",),
    ("LATENCY", "LATEST"),
    ("LATENCY", "HISTORY", "e"),
    ("LATENCY", "HISTOGRAM"),
    ("LATENCY", "DOCTOR"),
    ("MEMORY", "STATS"),
    ("FUNCTION", "STATS"),
    ("SLOWLOG", "GET"),
    ("ACL", "LOG"),
    ("INFO", "everything"),
]
INTEGER = re.compile(rb":(?:0|-?[1-9][0-9]{0,18})\r\n")
MEMCACHE_COMMANDS = [
    b"get " + b" ".join(ASKED),
    b"gets " + b" ".join(ASKED),
    b"gat 0 " + b" ".join(ASKED),
    b"flush_all",
    b"stats items",
]
# The kinds of reply that nutproxy accepts for each command. Any other closes the connection.
FORMS = [{Reply.VALUES}] * 3 + [{Reply.OK}, {Reply.STATS, Reply.RESET, Reply.OK, Reply.VALUES}]


# Requests, and the text command that is sent for them. The first is a run of quiet gets.
BINARY_COMMANDS = [
    (
        "gets",
        [request(Op.GETKQ if at % 2 else Op.GETQ, key, opaque=at) for at, key in enumerate(ASKED)],
    ),
    *(("gets", [request(opcode, ASKED[0])]) for opcode in (Op.GET, Op.GETQ, Op.GETK, Op.GETKQ)),
    *(
        ("gats", [request(opcode, ASKED[0], extras=expiring())])
        for opcode in (Op.GAT, Op.GATQ, Op.GATK, Op.GATKQ)
    ),
    # These keys go as base64.
    *(("mg", [request(opcode, b"a b")]) for opcode in (Op.GET, Op.GETQ, Op.GETK, Op.GETKQ)),
    ("mg", [request(Op.TOUCH, ASKED[0], extras=expiring())]),
    *(
        ("ms", [request(opcode, ASKED[0], b"v", extras=storage())])
        for opcode in (Op.SET, Op.SETQ, Op.ADD, Op.ADDQ, Op.REPLACE)
    ),
    *(("ms", [request(opcode, ASKED[0], b"v")]) for opcode in (Op.APPEND, Op.PREPENDQ)),
    *(("md", [request(opcode, ASKED[0])]) for opcode in (Op.DELETE, Op.DELETEQ)),
    *(
        ("ma", [request(opcode, ASKED[0], extras=counting())])
        for opcode in (Op.INCREMENT, Op.DECREMENTQ)
    ),
    ("flush_all", [request(Op.FLUSH)]),
    ("flush_all", [request(Op.FLUSHQ)]),
    ("stats", [request(Op.STAT, b"items")]),
]
# nutproxy itself makes this reply, so every form of a server's is accepted.
BINARY_FORMS = [
    FORMS[4] if name == "stats" else {*MEMCACHE_TABLE[name].replies} for name, _ in BINARY_COMMANDS
]


class Scene:
    """Three servers that send `replies`, and a proxy for them."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        kind: type[ScriptedServer],
        make_pool: Callable[..., str],
    ) -> None:
        self.replies: list[bytes] = [b""] * len(SERVERS)
        servers = [stack.enter_context(kind(self.script(index))) for index in range(len(SERVERS))]
        options = {"admin_commands": "true"} if kind is ScriptedServer else {}
        config = make_pool("alpha", servers, **options)
        self.proxy = stack.enter_context(NutproxyServer(config))

    def script(self, index: int):  # type: ignore[no-untyped-def]
        def script(session) -> None:  # type: ignore[no-untyped-def]
            while session.receive():
                session.send(self.replies[index])

        return script


def parts(data: bytes, commands: list, good: Callable[[int, bytes], bool], error: bytes):  # type: ignore[no-untyped-def]
    number, *replies = data.split(BETWEEN)
    index = int(number) % len(commands) if number.isdigit() and len(number) < 5 else 0
    replies = [reply if good(index, reply) else error for reply in replies[: len(SERVERS)]]
    return index, replies + [error] * (len(SERVERS) - len(replies))


def redis_good(index: int, reply: bytes) -> bool:
    return reply[:1] != b">" and outcome_with(lambda: Framer(protocols.REDIS, False), [reply]) == (
        [reply],
        None,
    )


def memcache_good(index: int, reply: bytes, forms: list[set[Reply]] = FORMS) -> bool:
    found, error = outcome_with(lambda: Framer(protocols.MEMCACHE, False), [reply])
    return (
        error is None
        and [text for _, text in found] == [reply]
        and (found[0][0] is None or found[0][0] in forms[index])
    )


def binary_good(index: int, reply: bytes) -> bool:
    return memcache_good(index, reply, BINARY_FORMS)


class Merge:
    """A check that uses a running proxy. The first input starts the proxy."""

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.scene: Scene | None = None

    def close(self) -> None:
        self.stack.close()
        self.scene = None


class RedisMerge(Merge):
    def __call__(self, data: bytes, draw: random.Random) -> Hashable:
        if self.scene is None:
            self.scene = Scene(self.stack, ScriptedServer, pool)
            port = self.scene.proxy.port
            self.clients = [self.stack.enter_context(Client(port)) for _ in range(2)]
            self.clients[1]("HELLO", "3")
        index, replies = parts(data, REDIS_COMMANDS, redis_good, b"-ERR none\r\n")
        self.scene.replies = replies
        resp = draw.randrange(2)
        client = self.clients[resp]
        client.pipeline(REDIS_COMMANDS[index], ("ECHO", "in step"))
        framer = Framer(protocols.REDIS, False)
        found: list[bytes] = []
        while len(found) < 2:
            received = client.socket.recv(1 << 20)
            assert received, "closed"
            found += framer.feed(received)
        assert found[1:] == [b"$7\r\nin step\r\n"], found
        known = redis_merged(index, replies)
        assert known is None or found[0] == known, (replies, known, found[0])
        return index, found[0][:1], found[0][:30] if found[0][:1] == b"-" else None


def redis_merged(index: int, replies: list[bytes]) -> bytes | None:
    """The merged reply, or None if it is not known."""
    firsts = {reply[:1] for reply in replies}
    if firsts == {b":"} and not all(INTEGER.fullmatch(reply) for reply in replies):
        return None
    if index == 0 and firsts == {b"*"}:
        elements = [elements_of(reply) for reply in replies]
        if [len(found) for found in elements] != COUNTS:
            return unexpected("mget")
        merged = [elements[one][turn] for one, turn in zip(ORDER, TURN, strict=True)]
        return b"*%d\r\n" % len(ORDER) + b"".join(merged)
    if index in (1, 4) and firsts == {b":"}:
        total = sum(int(reply[1:]) for reply in replies)
        if not -(2**63) <= total < 2**63:
            return unexpected("del" if index == 1 else "dbsize")
        return b":%d\r\n" % total
    if index == 2 and firsts == {b"+"}:
        # The proxy may send any of them.
        return replies[0] if len(set(replies)) == 1 else None
    if index == 3 and firsts == {b"*"}:
        elements = [elements_of(reply) for reply in replies]
        flat = [element for found in elements for element in found]
        return b"*%d\r\n" % len(flat) + b"".join(flat)
    if index == 8 and firsts == {b":"}:
        return b":%d\r\n" % min(int(reply[1:]) for reply in replies)
    return None


def unexpected(name: str) -> bytes:
    return (
        f"-ERR a server's reply to a part of '{name}' does not have the expected form\r\n".encode()
    )


def elements_of(array: bytes) -> list[bytes]:
    """The bytes of each element of an array."""
    line, _, rest = array.partition(b"\r\n")
    found = []
    for _ in range(int(line[1:])):
        # The first message in the rest is the next element.
        [element, *_] = Framer(protocols.REDIS, False).feed(rest)
        found.append(element)
        rest = rest[len(element) :]
    return found


class MemcacheMerge(Merge):
    def __call__(self, data: bytes, draw: random.Random) -> Hashable:
        if self.scene is None:
            self.scene = Scene(self.stack, ScriptedMemcached, mc_pool)
            self.client = self.stack.enter_context(MemcacheClient(self.scene.proxy.port))
        index, replies = parts(data, MEMCACHE_COMMANDS, memcache_good, b"SERVER_ERROR none\r\n")
        self.scene.replies = replies
        self.client.send_bytes(MEMCACHE_COMMANDS[index] + b"\r\nmn\r\n")
        found, then = self.client.replies(2)
        assert then == b"MN\r\n", (found, then)
        if index < 3 and b" the reply does not match the request: " not in found:
            assert found == memcache_merged(replies), (replies, found)
        return index, found[:6], found[:30] if found[:6] in (b"SERVER", b"CLIENT") else None


def memcache_merged(replies: list[bytes]) -> bytes:
    for reply in replies:
        if reply != b"END\r\n" and not reply.endswith(b"\nEND\r\n"):
            # There may be values before the error.
            return reply[reply.rstrip().rfind(b"\n") + 1 :]
    blocks = [list(blocks_of(reply)) for reply in replies]
    merged = []
    for key, one in zip(ASKED, ORDER, strict=True):
        if blocks[one] and blocks[one][0][0] == key:
            merged.append(blocks[one].pop(0)[1])
    if any(blocks):
        return b"SERVER_ERROR a server's reply to a part of this command does not belong to it\r\n"
    return b"".join(merged) + b"END\r\n"


def blocks_of(reply: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The key and the block of each value."""
    at = 0
    while reply[at : at + 5] == b"VALUE":
        line = reply[at : reply.index(b"\n", at) + 1]
        end = at + len(line) + int(line.split(b" ")[3]) + 2
        yield line.split(b" ")[1], reply[at:end]
        at = end


class BinaryMerge(Merge):
    def __call__(self, data: bytes, draw: random.Random) -> Hashable:
        if self.scene is None:
            self.scene = Scene(self.stack, ScriptedMemcached, mc_pool)
            self.client = self.stack.enter_context(BinaryClient(self.scene.proxy.port))
        index, replies = parts(data, BINARY_COMMANDS, binary_good, b"SERVER_ERROR none\r\n")
        self.scene.replies = replies
        _, sent = BINARY_COMMANDS[index]
        self.client.send_bytes(b"".join(sent))
        found = self.client.barrier()
        opcodes = [one[1] for one in sent]
        quiet = Op(opcodes[0]).name.endswith("Q")
        assert all(each.opcode in opcodes and each.opaque < len(sent) for each in found), found
        if opcodes == [Op.STAT]:
            # The last one is empty, or an error.
            assert found
            assert not found[-1].key
            assert all(each.key for each in found[:-1]), found
        else:
            opaques = [each.opaque for each in found]
            assert opaques == sorted(set(opaques)), found
            assert len(found) == len(sent) or quiet, found
        if index == 0 and not any(DOES_NOT_MATCH in each.value for each in found):
            known = binary_merged(replies)
            assert [outcome_of(each) for each in found] == known, (replies, found)
        return index, repr([shape_of(each) for each in found[:2]])


DOES_NOT_MATCH = b" the reply does not match the request: "


def outcome_of(each: Response) -> tuple[int, bytes | None, bytes | None]:
    return (each.opaque, None, None) if each.status else (each.opaque, each.key, each.value)


def shape_of(each: Response) -> tuple[int, int, bytes]:
    return each.status, len(each.extras), each.value[:20] if each.status else b""


def binary_merged(replies: list[bytes]) -> list[tuple[int, bytes | None, bytes | None]]:
    """The responses to the run of quiet gets: opaque, key and value of a hit, or None twice."""
    failed = [reply != b"END\r\n" and not reply.endswith(b"\nEND\r\n") for reply in replies]
    blocks = [
        [] if bad else list(blocks_of(reply)) for bad, reply in zip(failed, replies, strict=True)
    ]
    made: list[tuple[int, bytes | None, bytes | None]] = []
    for at, (key, one) in enumerate(zip(ASKED, ORDER, strict=True)):
        if failed[one]:
            made.append((at, None, None))
        elif blocks[one] and blocks[one][0][0] == key:
            line, _, value = blocks[one].pop(0)[1].partition(b"\r\n")
            made.append((at, key if at % 2 else b"", value[: int(line.split(b" ")[3])]))
    if any(blocks):
        return [(at, None, None) for at in range(len(ASKED))]
    return made


def redis_seeds() -> Iterator[bytes]:
    arrays = [b"*%d\r\n" % count + b"$2\r\nab\r\n" * count for count in COUNTS]
    plain = [b":1\r\n", b"+OK\r\n", b"*0\r\n", b"*2\r\n:1\r\n:0\r\n", b"$-1\r\n", b"$1\r\nk\r\n"]
    more = [b"_\r\n", b"~1\r\n+a\r\n", b"%1\r\n+a\r\n+b\r\n", b"!3\r\nERR\r\n", b"-ERR no\r\n"]
    # Replies to LATENCY, MEMORY STATS and FUNCTION STATS.
    calls = b"*4\r\n$5\r\ncalls\r\n:2\r\n$14\r\nhistogram_usec\r\n*2\r\n:4\r\n:2\r\n"
    reports = [
        b"*1\r\n*4\r\n$1\r\ne\r\n:9\r\n:2\r\n:3\r\n",
        b"*1\r\n*2\r\n:9\r\n:2\r\n",
        b"*2\r\n$3\r\nget\r\n" + calls,
        b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$3\r\n0.5\r\n",
        b"%1\r\n$1\r\na\r\n,0.5\r\n",
        b"*2\r\n$14\r\nrunning_script\r\n$-1\r\n",
    ]
    for index in range(len(REDIS_COMMANDS)):
        number = b"%d" % index
        yield BETWEEN.join([number, *arrays])
        for reply in (*plain, *more, *reports):
            yield BETWEEN.join([number, *[reply] * 3])
        yield BETWEEN.join([number, b":1\r\n", b"-ERR no\r\n", b":1\r\n"])


def memcache_seeds() -> Iterator[bytes]:
    for index in range(len(MEMCACHE_COMMANDS)):
        number = b"%d" % index
        for unique in b"", b" 7":
            blocks = [
                b"".join(
                    b"VALUE %b 0 1%b\r\nv\r\n" % (key, unique)
                    for key, other in zip(ASKED, ORDER, strict=True)
                    if other == one
                )
                for one in range(len(SERVERS))
            ]
            yield BETWEEN.join([number, *(block + b"END\r\n" for block in blocks)])
        for reply in b"END\r\n", b"OK\r\n", b"ERROR\r\n", b"STAT a b\r\nEND\r\n":
            yield BETWEEN.join([number, *[reply] * 3])


def binary_seeds() -> Iterator[bytes]:
    for data in memcache_seeds():
        number, *replies = data.split(BETWEEN)
        if number in (b"0", b"1"):
            yield BETWEEN.join([b"0", *replies])
    key = ASKED[0]
    for index in range(len(BINARY_COMMANDS)):
        for reply in (
            b"END\r\n",
            b"VALUE %b 7 2 9\r\nvw\r\nEND\r\n" % key,
            b"EN\r\n",
            b"VA 2 f7 c9\r\n10\r\n",
            b"HD f7 c9\r\n",
            b"NS\r\n",
            b"EX\r\n",
            b"NF\r\n",
            b"OK\r\n",
            b"STAT items:1:number 1\r\nEND\r\n",
            b"SERVER_ERROR object too large for cache\r\n",
            b"SERVER_ERROR out of memory\r\n",
            b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            b"ERROR\r\n",
        ):
            if binary_good(index, reply):
                yield BETWEEN.join([b"%d" % index, *[reply] * 3])


REDIS, MEMCACHE, BINARY = RedisMerge(), MemcacheMerge(), BinaryMerge()
MERGES = [
    Target(
        "redis_merge",
        list(redis_seeds()),
        [
            BETWEEN,
            b":1\r\n",
            b"*1\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"-ERR x\r\n",
            b"|1\r\n+a\r\n+b\r\n",
        ],
        REDIS,
        REDIS.close,
    ),
    Target(
        "memcache_merge",
        list(memcache_seeds()),
        [BETWEEN, b"END\r\n", *(b"VALUE %b 0 1\r\nv\r\n" % key for key in ASKED), b"ERROR\r\n"],
        MEMCACHE,
        MEMCACHE.close,
    ),
    Target(
        "binary_merge",
        list(binary_seeds()),
        [
            BETWEEN,
            *(b"VALUE %b 0 1 1\r\nv\r\n" % key for key in ASKED),
            *(b"END\r\n", b"VA 1 f1 c1\r\n9\r\n", b"HD c1\r\n", b"SERVER_ERROR x\r\n"),
        ],
        BINARY,
        BINARY.close,
    ),
]
