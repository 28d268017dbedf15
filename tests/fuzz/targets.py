# tests/fuzz/targets.py: the fuzzed code, and what must be true for every input
"""
redis_request, memcache_request   However the input is cut, the messages are the same as those of
                                  strict.py. A message that is encoded again is read unchanged.
redis_reply                       The same at every cut, and as hiredis reads them.
memcache_reply                    The same at every cut, and as tests/memcache.py reads them.
binary_request                    The same at every cut, and as strict.py reads them.
config                            Each finding is one printable line, and there is a Config only if
                                  there is no problem.
redis_merge, memcache_merge,
binary_merge                      See merging.py.
"""

import random
import re
import tempfile
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path

import hiredis

from nutproxy.config import load
from nutproxy.config.model import GlobalConfig, PoolKeys
from nutproxy.proto.framer import Framer
from nutproxy.proto.memcache_commands import COMMANDS as MEMCACHE_COMMANDS
from nutproxy.proto.protocols import BINARY, MEMCACHE, REDIS
from tests import binary
from tests.binary import Op
from tests.fuzz import strict
from tests.fuzz.engine import Target
from tests.memcache import MemcacheReader
from tests.memcache_corpus import CORPUS as CONVERSATIONS
from tests.unit import test_memcache_parser, test_redis_parser
from tests.unit.framing import outcome_with

MAX_BULK = 5000
SMALL = 6000  # longer messages are not used as seeds
ROOT = Path(__file__).parents[2]


def same_at_every_cut(
    framer: Callable[[], object], data: bytes, draw: random.Random
) -> tuple[list, str | None]:
    whole = outcome_with(framer, [data])
    places = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((1, 1, 2, 5))))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert outcome_with(framer, pieces) == whole, (places, whole)
    if len(data) < 300:
        assert outcome_with(framer, [bytes([byte]) for byte in data]) == whole, whole
    return whole


def small(seeds: object) -> list[bytes]:
    return [seed for seed in seeds if len(seed) <= SMALL]  # type: ignore[attr-defined]


def some(count: int) -> int:
    """Limits the number of outcomes: all counts from 4 on are the same."""
    return min(count, 4)


# Redis ----------------------------------------------------------------------------------------


def redis_request(data: bytes, draw: random.Random) -> Hashable:
    def framer() -> Framer:
        return Framer(REDIS, True, MAX_BULK)

    found, error = same_at_every_cut(framer, data, draw)
    assert (found, error is not None) == strict.redis_requests(data, MAX_BULK), (found, error)
    plain = [argv for argv in found if argv]
    again = b"".join(hiredis.pack_command(tuple(argv)) for argv in plain)
    assert outcome_with(framer, [again]) == (plain, None)
    shape = tuple(None if argv is None else some(len(argv)) for argv in found[:3])
    return error, some(len(found)), shape


# hiredis takes attributes for separate replies, and allocates memory for the announced length.
NOT_FOR_HIREDIS = re.compile(rb"\||[*%~>][0-9]{6}")


def redis_reply(data: bytes, draw: random.Random) -> Hashable:
    def framer() -> Framer:
        return Framer(REDIS, False)

    found, error = same_at_every_cut(framer, data, draw)
    assert data.startswith(b"".join(found))
    for reply in found:
        assert outcome_with(framer, [reply]) == ([reply], None)
        assert outcome_with(framer, [reply[:-1]]) == ([], None)
    if not NOT_FOR_HIREDIS.search(data):
        test_redis_parser.check_against_hiredis(data)
    kinds = [sorted({line[0] for line in reply.split(b"\r\n") if line}) for reply in found[:1]]
    return error, some(len(found)), repr(kinds)


# Memcached ------------------------------------------------------------------------------------

MEMCACHE_NAMES = frozenset(name.encode() for name in MEMCACHE_COMMANDS)


def memcache_request(data: bytes, draw: random.Random) -> Hashable:
    def framer() -> Framer:
        return Framer(MEMCACHE, True, MAX_BULK)

    found, error = same_at_every_cut(framer, data, draw)
    expected, broken = strict.memcache_requests(data, MAX_BULK, MEMCACHE_NAMES)
    seen = [(split_at_nul(words), block) for words, block, _, _ in found]
    expected = [(split_at_nul(words), block) for words, block in expected]
    assert (seen, error is not None) == (expected, broken), (found, error)
    for words, block, noreply, answer in found:
        if answer is None:
            line = b" ".join(words)
            assert b"\0" not in line, words
            text = line + b"\r\n" if block is None else b"%b\r\n%b\r\n" % (line, block)
            assert outcome_with(framer, [text]) == ([(words, block, noreply, None)], None)
    shape = tuple(
        (words[:1] if answer is None else None, block is None, noreply, answer)
        for words, block, noreply, answer in found[:1]
    )
    return error, some(len(found)), repr(shape)


def split_at_nul(words: list[bytes]) -> list[bytes]:
    """A line with a NUL is refused, so it makes no difference where its words end."""
    return [part for word in words for part in word.split(b"\0") if part]


def memcache_reply(data: bytes, draw: random.Random) -> Hashable:
    def framer() -> Framer:
        return Framer(MEMCACHE, False)

    found, error = same_at_every_cut(framer, data, draw)
    texts = [text for _, text in found]
    assert data.startswith(b"".join(texts))
    reader = MemcacheReader()
    for kind, text in found:
        assert outcome_with(framer, [text]) == ([(kind, text)], None)
        assert outcome_with(framer, [text[:-1]]) == ([], None)
        reader.feed(text)
        assert reader.gets() == text
    return error, some(len(found)), tuple(kind for kind, _ in found[:2])


class BinaryRequests:
    """A Framer that returns the requests of a run of quiet gets one by one. How many there are in a
    run depends on what comes together."""

    def __init__(self) -> None:
        self.framer = Framer(BINARY, True, MAX_BULK)

    def feed(self, data: bytes) -> list[tuple[bytes, bytes | None]]:
        found = []
        for run, error in self.framer.feed(data):
            at = 0
            while error is None and at < len(run):
                end = at + 24 + int.from_bytes(run[at + 8 : at + 12], "big")
                found.append((run[at:end], None))
                at = end
            if error is not None:
                found.append((run, error))
        return found


def binary_request(data: bytes, draw: random.Random) -> Hashable:
    found, error = same_at_every_cut(BinaryRequests, data, draw)
    assert (found, error is not None) == strict.binary_requests(data, MAX_BULK), (found, error)
    for text, why in found:
        if why is None:
            assert outcome_with(BinaryRequests, [text]) == ([(text, None)], None)
    return error, some(len(found)), tuple((text[1:2], why) for text, why in found[:2])


def binary_seeds() -> list[bytes]:
    """Every opcode with every length of extras that some opcode has."""
    single = [
        binary.request(opcode, key, value, extras=bytes(extras), opaque=7, cas=9)
        for opcode in (*Op, 0x30, 0xFF)
        for extras in (0, 4, 8, 20)
        for key in (b"", b"k", b"a b")
        for value in (b"", b"v")
    ]
    runs = [
        b"".join(binary.request(draw, key) for draw in (Op.GETKQ, Op.GETQ) for key in keys)
        + binary.request(Op.NOOP)
        for keys in ([b"a", b"b", b"c"], [b"a", b"b c", b"d"], [b"x" * 250, b"y"])
    ]
    large = [
        binary.request(opcode, b"k", b"v" * size, extras=bytes(8)) + binary.request(Op.GET, b"k")
        for opcode in (Op.SET, Op.ADDQ)
        for size in (MAX_BULK, MAX_BULK + 1)
    ]
    return [*single, *runs, *large, binary.request(Op.GET, b"k", magic=0x81)]


# Configuration --------------------------------------------------------------------------------


# The ends of lines in YAML.
LINE_END = re.compile(b"\r\n|\r|\n|\xc2\x85|\xe2\x80[\xa8\xa9]")


@cache
def scratch() -> Path:
    directory = tempfile.TemporaryDirectory(prefix="nutproxy-fuzz-")
    KEPT.append(directory)
    return Path(directory.name, "proxy.yml")


KEPT: list[object] = []


def config(data: bytes, draw: random.Random) -> Hashable:
    scratch().write_bytes(data)
    loaded, problems = load(str(scratch()))
    assert (loaded is None) == any(problem.severity == "problem" for problem in problems)
    for problem in problems:
        text = str(problem)
        assert text.isprintable(), text
        assert problem.line is None or 1 <= problem.line <= len(LINE_END.findall(data)) + 1, text
    keys = frozenset(f"{problem.key} {problem.message[:25]}" for problem in problems)
    return loaded is None, keys


def config_seeds() -> list[bytes]:
    examples = [file.read_bytes() for file in sorted(ROOT.glob("conf/*.yml"))]
    every_key = "".join(
        f"  {name}: {field.examples[0]}\n"
        for name, field in PoolKeys.model_fields.items()
        if field.examples
    )
    # Escapes of YAML, references, and the syntax of other programs.
    odd = [
        b'p:\n  listen: "/\\0"\n  redis_auth: "\\ud800"\n  servers: ["\\udfff:1:1", "h:1:1 a b"]\n',
        b"p:\n  listen: tcp://h:1\n  servers:\n  - redis://u:p@h:1/1\n  - ${NO}:1:1\n  -h:1:1\n",
        b"pools:\n  p:\n    listen:h:1\n    timeout:400\n    servers:\n",
    ]
    return [*examples, b"p:\n" + every_key.encode(), *odd]


TARGETS = [
    Target(
        "redis_request",
        small(
            [
                *test_redis_parser.REQUESTS,
                *test_redis_parser.BROKEN_REQUESTS,
                *test_redis_parser.INLINE,
            ]
        ),
        [
            b"\r\n",
            b"*1\r\n",
            b"$3\r\n",
            b"$0\r\n\r\n",
            b"$1\r\nk\r\n",
            b"\\x41",
            b"\\n",
            b'" ',
            b"' ",
        ],
        redis_request,
    ),
    Target(
        "redis_reply",
        small(
            [
                *test_redis_parser.REPLIES,
                *test_redis_parser.INCOMPLETE_REPLIES,
                *test_redis_parser.BROKEN_REPLIES,
            ]
        ),
        [
            b"\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*2\r\n",
            b"%1\r\n",
            b"|1\r\n",
            b">1\r\n",
            b"=4\r\ntxt:\r\n",
        ],
        redis_reply,
    ),
    Target(
        "memcache_request",
        small(
            [
                *test_memcache_parser.REQUESTS,
                *test_memcache_parser.ANSWERED,
                *test_memcache_parser.BROKEN,
                *(b"".join(talk.steps) for talk in CONVERSATIONS.values()),
            ]
        ),
        [
            *(b"%s " % name for name in sorted(MEMCACHE_NAMES)),
            b" noreply\r\n",
            b"\r\n",
            b" k 0 0 1\r\n",
        ],
        memcache_request,
    ),
    Target(
        "memcache_reply",
        small(
            [
                *test_memcache_parser.REPLIES,
                *test_memcache_parser.BROKEN_REPLIES,
                *test_memcache_parser.INCOMPLETE,
            ]
        ),
        [
            b"\r\n",
            b"END\r\n",
            b"VALUE k 0 1\r\nv\r\n",
            b"VA 1 k\r\nv\r\n",
            b"STAT a b\r\n",
            b"HD\r\n",
        ],
        memcache_reply,
    ),
    Target(
        "binary_request",
        small(binary_seeds()),
        [
            *(binary.request(opcode, b"k") for opcode in (Op.GETQ, Op.GETKQ, Op.GET, Op.DELETE)),
            binary.request(Op.SET, b"k", b"v", extras=bytes(8)),
            binary.request(Op.NOOP),
            b"\x80",
            bytes(4),
            b"\xff\xff\xff\xff",
            b"\0\0\0\x01",
        ],
        binary_request,
    ),
    Target(
        "config",
        config_seeds(),
        [
            *(
                f"  {key}: ".encode()
                for key in (*PoolKeys.model_fields, *GlobalConfig.model_fields)
            ),
            *(b"global:\n", b"defaults:\n", b"\n   - h:1:1\n", b"&a ", b"*a", b"<<: ", b"!!map "),
            *(rb'"\ud800"', rb'"\0"', b"${A}", b"${HOME}", b"$${", b"redis://h:1/0", b" a b"),
            *(b"{", b"[", b"|\n", b"'", b'"', b"---\n", b"%YAML 1.1\n", b"? ", b"\xef\xbb\xbf"),
        ],
        config,
    ),
]
