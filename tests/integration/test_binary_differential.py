"""The same random conversations in Memcached's binary protocol, with one memcached and through
nutproxy, compared byte by byte.

Here are a few of them. NUTPROXY_CONVERSATIONS is their number for each pool and way to receive, and
NUTPROXY_SEED the seed of the first:

    NUTPROXY_CONVERSATIONS=20000 python -m pytest tests/integration/test_binary_differential.py

Unique values (CAS) are numbered by each server. A request of a conversation names the response
whose value it sends, and two values agree if they stand for the same version of an item.
"""

import base64
import contextlib
import itertools
import os
import random
import re
import time
from dataclasses import dataclass, field, replace

import pytest

from tests.binary import (
    BARRIER,
    HEADER,
    NEVER,
    BinaryClient,
    Op,
    Response,
    Status,
    counting,
    expiring,
    request,
    storage,
)
from tests.integration.conftest import mc_pool
from tests.memcache import MemcacheClient
from tests.memcache_corpus import ARGUMENTS, LARGEST, forget, pausing, pieces_at
from tests.servers import MemcachedServer, NutproxyServer

COUNT = int(os.environ.get("NUTPROXY_CONVERSATIONS", "250"))
SEED = int(os.environ.get("NUTPROXY_SEED", "1"))

MONTH = 60 * 60 * 24 * 30
# Later than any time that text can carry.
FAR = (1 << 31) - 1


@dataclass(frozen=True)
class Request:
    """`cas` is sent as it is, or is that of the response to request number `cas_of`."""

    opcode: int
    key: bytes = b""
    value: bytes = b""
    extras: bytes = b""
    cas: int = 0
    cas_of: int | None = None
    number: int = 0
    opaque: int = 0
    wrong: dict[str, int] = field(default_factory=dict)

    def packed(self, unique):
        """The bytes. `unique` has the unique values of responses by the number of the request."""
        cas = self.cas if self.cas_of is None else unique.get(self.cas_of, 0) or 1 << 63
        return request(
            self.opcode,
            self.key,
            self.value,
            extras=self.extras,
            cas=cas,
            opaque=self.opaque,
            **self.wrong,
        )

    def __str__(self):
        name = Op(self.opcode).name if self.opcode in list(Op) else hex(self.opcode)
        shown = {"extras": self.extras.hex(), "cas": self.cas, **self.wrong}
        if self.cas_of is not None:
            shown["cas"] = f"of {self.cas_of}"
        words = [f"{name}={value}" for name, value in shown.items() if value]
        value = (
            self.value
            if len(self.value) < 40
            else b"%b... (%d)" % (self.value[:20], len(self.value))
        )
        return " ".join([f"{self.number}: {name} {self.key!r} {value!r}", *words])


# Drawing

# nutproxy does not append to such a key, nor count it: memcached would show it to text clients.
LINE = b"line\r\nend"
KEYS = [b"k", b"key:1", b"\xff\x80", b"a b", b"\0", b"cr\r", LINE, b"x" * 250, b"\xfe" * 250]
COUNTERS = [b"n", b"m m"]
VALUES = [b"", b"v", b"1x", b"x" * 300, b"END\r\n", b"\x80\0\xff", b"y" * 4100]
# Around the limit of the servers, for a key of one byte.
LARGE = [LARGEST - 1, LARGEST, LARGEST + 1, LARGEST + 5, LARGEST + 3000]
NUMBERS = [0, 1, 5, 10**9, (1 << 63), (1 << 64) - 1]
FLAGS_OF = [0, 0, 5, 1 << 31, (1 << 32) - 1]
# memcached counts these from 1970 if they are more than 30 days.
EXPTIMES = [0, 0, 100, MONTH, MONTH + 1, FAR, FAR + 1, NEVER - 1, NEVER]
QUIET = {
    Op.GET: Op.GETQ,
    Op.GETK: Op.GETKQ,
    Op.SET: Op.SETQ,
    Op.ADD: Op.ADDQ,
    Op.REPLACE: Op.REPLACEQ,
    Op.APPEND: Op.APPENDQ,
    Op.PREPEND: Op.PREPENDQ,
    Op.DELETE: Op.DELETEQ,
    Op.INCREMENT: Op.INCREMENTQ,
    Op.DECREMENT: Op.DECREMENTQ,
    Op.GAT: Op.GATQ,
    Op.GATK: Op.GATKQ,
    Op.FLUSH: Op.FLUSHQ,
    Op.QUIT: Op.QUITQ,
}
STORING = [Op.SET, Op.SET, Op.SET, Op.ADD, Op.REPLACE]
UNKNOWN = [Op.VERBOSITY, 0x1F, 0x25, 0x30, 0x3B, 0x47, 0x50, 0xFF]
# The lengths of extras that some command has.
LENGTHS = [0, 1, 4, 8, 20, 21, 255]


class Talker:
    """Draws the requests of a careless client."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.keyed = {}  # the numbers of the earlier requests for a key
        self.before = 0  # requests up to this one belong to earlier steps
        # A flush that has a delay brings items back that an earlier one has hidden, unless their
        # memory has been used for others meanwhile.
        self.flushes = self.one([[b"", expiring(0)], [expiring(1000), expiring(MONTH + 1)]])

    def one(self, words):
        return self.random.choice(words)

    def conversation(self):
        """Steps of requests. Each step is sent after the responses to the one before."""
        steps = [self.step() for _ in range(self.random.randint(1, 6))]
        if self.random.random() < 0.3:
            steps.append([self.finish(self.ending())])
        return steps

    def step(self):
        made = [self.finish(self.draw()) for _ in range(self.random.randint(1, 20))]
        self.before = made[-1].number
        if self.random.random() < 0.05:
            # Something that ends the connection, and what is never read after it.
            made.insert(self.random.randint(0, len(made)), self.finish(self.broken()))
        return made

    def finish(self, made):
        number = next(self.numbers)
        self.keyed.setdefault(made.key, []).append(number)
        # Any number, but none twice.
        opaque = (number << 16 | self.random.getrandbits(16)) ^ 0x5A5A0000
        data = self.random.random() < 0.02
        ignored = {"data_type": self.one([1, 255]), "vbucket": self.one([1, 65535])} if data else {}
        return replace(made, number=number, opaque=opaque, wrong={**made.wrong, **ignored})

    def draw(self):
        kind = self.random.choices(
            (self.get, self.store, self.extend, self.delete, self.count, self.touch, self.other),
            (25, 25, 10, 8, 14, 10, 8),
        )[0]
        return kind()

    def cas(self, key):
        """None, a wrong one, or one that some response for the key had, most often the latest."""
        chance = self.random.random()
        if chance < 0.6:
            return {}
        if chance < 0.7:
            return {"cas": self.one([1 << 60, (1 << 64) - 1])}
        earlier = [number for number in self.keyed.get(key, ()) if number <= self.before]
        if not earlier:
            return {}
        return {"cas_of": earlier[-1] if chance < 0.9 else self.one(earlier)}

    def quiet(self, opcode):
        return self.one([opcode, QUIET[opcode]])

    def get(self):
        # The unique value of a request to read is ignored.
        key = self.one(KEYS + COUNTERS)
        return Request(self.quiet(self.one([Op.GET, Op.GETK])), key, **self.cas(key))

    def store(self):
        key = self.one(KEYS)
        value = self.one(VALUES)
        opcode = self.one(STORING)
        if opcode == Op.SET and self.random.random() < 0.15:
            # If such a value is refused, ms deletes the item whatever its mode is.
            key, value = b"k", b"z" * self.one(LARGE)
        extras = storage(self.one(FLAGS_OF), self.one(EXPTIMES))
        return Request(self.quiet(opcode), key, value, extras, **self.cas(key))

    def extend(self):
        key = self.one([key for key in KEYS if key != LINE])
        opcode = self.quiet(self.one([Op.APPEND, Op.PREPEND]))
        return Request(opcode, key, self.one(VALUES), **self.cas(key))

    def delete(self):
        key = self.one(KEYS + COUNTERS)
        return Request(self.quiet(Op.DELETE), key, **self.cas(key))

    def count(self):
        key = self.one(COUNTERS * 4 + [key for key in KEYS if key != LINE])
        if key in COUNTERS and self.random.random() < 0.1:
            return Request(Op.SET, key, b"%d" % self.one(NUMBERS), storage())
        # Only COUNTERS have numbers.
        exptime = self.one([*EXPTIMES, NEVER, NEVER]) if key in COUNTERS else NEVER
        extras = counting(self.one(NUMBERS), self.one(NUMBERS), exptime)
        opcode = self.quiet(self.one([Op.INCREMENT, Op.INCREMENT, Op.DECREMENT]))
        return Request(opcode, key, b"", extras, **self.cas(key))

    def touch(self):
        opcode = self.one([Op.TOUCH, Op.TOUCH, *map(self.quiet, (Op.GAT, Op.GATK))])
        key = self.one(KEYS + COUNTERS)
        return Request(opcode, key, b"", expiring(self.one(EXPTIMES)), **self.cas(key))

    def other(self):
        chance = self.random.random()
        if chance < 0.25:
            return Request(self.quiet(Op.FLUSH), extras=self.one(self.flushes))
        if chance < 0.5:
            return Request(Op.NOOP)
        if chance < 0.6:
            return Request(Op.VERSION)
        if chance < 0.7:
            return Request(Op.STAT, self.one([b"", b"settings"]))
        if chance < 0.75:
            return Request(Op.STAT, b"bogus")
        if chance < 0.9:
            # Of the body of an unknown command memcached skips the extras and the key twice.
            return Request(self.one(UNKNOWN), value=self.one([b"", b"", b"v" * 30]))
        return self.one(
            [
                Request(Op.SASL_LIST_MECHS),
                Request(Op.SASL_AUTH, b"PLAIN", b"\0user\0secret"),
                Request(Op.SASL_STEP, b"PLAIN", b"more"),
                Request(Op.SASL_AUTH, b"CRAM-MD5"),
            ]
        )

    def ending(self):
        """The last request of a conversation. memcached drops what it has not sent yet if the magic
        is wrong, so this is a step of its own."""
        return self.one(
            [
                Request(Op.QUIT),
                Request(Op.QUITQ),
                Request(Op.GET, b"k", wrong={"magic": self.one([0, 0x67, 0x7F, 0x81, 0xFF])}),
                self.broken(),
            ]
        )

    def broken(self):
        """A request after which memcached closes the connection. Nothing of it is left over."""
        chance = self.random.random()
        if chance < 0.2:
            return Request(self.one([Op.QUIT, Op.QUITQ]))
        if chance < 0.4:
            return replace(self.draw_keyed(), key=self.one([b"", b"x" * 251, b"y" * 1000]))
        made = self.draw_keyed() if chance < 0.9 else Request(self.one([*Op, 0x30, 0x7F]), b"k")
        if chance < 0.7:
            lengths = [length for length in LENGTHS if length != len(made.extras)]
            made = replace(made, extras=b"\0" * self.one(lengths))
            # These take any extras of this length, or any value.
            return made if made.opcode not in (Op.STAT, *UNKNOWN) else Request(Op.QUIT, b"k")
        # Lengths that do not fit into the body.
        body = len(made.extras) + len(made.key) - 1
        short = self.random.randint(0, body)
        return replace(made, value=b"", wrong={"body_length": short})

    def draw_keyed(self):
        return self.one([self.get, self.store, self.extend, self.delete, self.count, self.touch])()


# Holding a conversation


@dataclass
class Held:
    """What came of a conversation: the responses of each step, and whether the connection ended."""

    steps: list[list[Response]]
    closed: bool


def uncut(data):
    return [data]


def hold(address, steps, cut=uncut, pause=lambda: None):
    """`cut` returns the pieces of a step. Each is sent in its own segment, and `pause` is called
    between two of them."""
    unique = {}
    held = Held([], False)
    with BinaryClient(address) as client:
        assert client.barrier() == []
        for step in steps:
            numbers = {made.opaque: made.number for made in step}
            data = b"".join(made.packed(unique) for made in step)
            data += request(Op.NOOP, opaque=BARRIER)
            first, *others = cut(data)
            client.send_bytes(first)
            for piece in others:
                pause()
                # The other side may have closed already.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.send_bytes(piece)
            found = []
            held.steps.append(found)
            try:
                while (response := client.response()).opaque != BARRIER:
                    found.append(response)
                    if response.opaque in numbers:
                        unique[numbers[response.opaque]] = response.cas
            except ConnectionError:
                held.closed = True
                assert not client.reader.has_data()
                return held
    return held


def comparable(response, made):
    """The bytes of a response without what may differ: the unique value, and the spaces after a
    number that has become shorter. memcached writes them if it counts in place."""
    raw = response.raw
    if response.opcode == Op.VERSION and not response.status:
        raw = raw[: HEADER.size]
        return raw[:8] + raw[12:16]
    value = response.value
    if made is not None and made.key in COUNTERS and response.extras:
        value = value.rstrip(b" ")
    return raw[:8] + raw[12:16] + response.extras + response.key + value


def without_statistics(responses):
    """The same with one response in place of the lines of statistics."""
    return [
        each
        for each in responses
        if not (each.opcode == Op.STAT and each.status == Status.OK and each.key)
    ]


def difference(steps, expected, found):
    """A text about the first difference, or None."""
    made_of = {made.opaque: made for step in steps for made in step}
    versions = {}  # (key, unique value of memcached) -> the one through nutproxy
    seen = {}  # the reverse
    for at, (wanted, got) in enumerate(
        itertools.zip_longest(expected.steps, found.steps, fillvalue=[])
    ):
        pairs = itertools.zip_longest(*map(without_statistics, (wanted, got)))
        for left, right in pairs:
            made = made_of.get((left or right).opaque)
            where = f"step {at}, request {made}:\n  memcached: {left}\n  nutproxy:  {right}"
            if left is None or right is None:
                return where
            if comparable(left, made) != comparable(right, made):
                return where
            if bool(left.cas) != bool(right.cas):
                return where
            if left.cas:
                pair = (made.key, left.cas), (made.key, right.cas)
                same = versions.setdefault(pair[0], right.cas) == right.cas
                if not same or seen.setdefault(pair[1], left.cas) != left.cas:
                    return f"another version, {where}"
    if expected.closed != found.closed or len(expected.steps) != len(found.steps):
        return f"closed after step {len(expected.steps)}: {expected.closed}, {found.closed}"
    return None


# Items as the servers have them

TIME_TO_LIVE = re.compile(rb" t(-?\d+)")


def items(address):
    """Flags, size, time to live and value of each key, by a text client."""
    found = {}
    with MemcacheClient(address) as client:
        for key in KEYS:
            word = base64.b64encode(key)
            if len(word) > 250:
                word, b = key, b""
            else:
                b = b" b"
            reply = client(b"mg %b%b f s t v" % (word, b))
            times = TIME_TO_LIVE.findall(reply.split(b"\r\n")[0])
            found[key] = (TIME_TO_LIVE.sub(b"", reply, count=1), int(times[0]) if times else None)
    return found


def same_items(expected, found):
    """Text has no later time than in 2038. A second may pass between the two."""
    latest = FAR - time.time() - 10
    for key, (item, seconds) in expected.items():
        other, theirs = found[key]
        if item != other:
            return f"{key!r}: {item!r} is {other!r}"
        if seconds is None or seconds == theirs:
            continue
        if abs(seconds - theirs) > 3 and not (seconds >= latest and theirs >= latest):
            return f"{key!r}: time to live {seconds} is {theirs}"
    return None


# The stage


class Stage:
    """A memcached for comparison, and nutproxy with pools of one server and of three."""

    def __init__(self, direct, proxy, servers):
        self.direct = direct
        self.proxy = proxy
        self.servers = servers

    def converse(self, pool, steps, cut=uncut, pause=lambda: None):
        """The first difference, or None."""
        expected = hold(self.direct.port, steps)
        return difference(steps, expected, hold(self.proxy.ports[pool], steps, cut, pause))

    def compare(self, pool, steps, cut=uncut):
        """The same with servers that are empty before. Their items are compared afterwards."""
        for server in (self.direct, *self.servers[pool]):
            with BinaryClient(server.port) as client:
                client.send_bytes(b"".join(request(Op.DELETEQ, key) for key in KEYS + COUNTERS))
                client.barrier()
        forget(self.direct, *self.servers[pool])
        if text := self.converse(pool, steps, cut):
            return text
        return same_items(items(self.direct.port), items(self.proxy.ports[pool]))

    def report(self, pool, steps, cut=uncut):
        """None, or the difference with as few requests as show it."""
        if not self.compare(pool, steps, cut):
            return None
        steps = shrunk(steps, lambda fewer: self.compare(pool, fewer, cut))
        shown = "\n\n".join("\n".join(map(str, step)) for step in steps)
        return f"pool {pool}:\n{shown}\n\n{self.compare(pool, steps, cut)}"


def shrunk(steps, differs):
    """Fewer requests that differ as well."""
    again = True
    while again:
        again = False
        for at, step in enumerate(steps):
            for place in range(len(step)):
                fewer = [*steps[:at], step[:place] + step[place + 1 :], *steps[at + 1 :]]
                fewer = [step for step in fewer if step]
                if fewer and differs(fewer):
                    steps = fewer
                    again = True
                    break
            if again:
                break
    return steps


@pytest.fixture(scope="module", params=[(), ("-m", "512")], ids=["default", "m512"])
def stage(request):
    with contextlib.ExitStack() as stack:
        direct, *shards = [stack.enter_context(MemcachedServer(*ARGUMENTS)) for _ in range(5)]
        servers = {"one": shards[:1], "three": shards[1:]}
        config = "".join(mc_pool(name, pool) for name, pool in servers.items())
        proxy = stack.enter_context(NutproxyServer(config, *request.param))
        yield Stage(direct, proxy, servers)
        assert "Traceback" not in proxy.log()


# Tests


@pytest.mark.parametrize("pool", ["one", "three"])
def test_random_conversations_are_those_with_memcached(stage, pool):
    for seed in range(SEED, SEED + COUNT):
        talker = Talker(seed)
        steps = talker.conversation()
        chance = random.Random(seed)

        def cut(data, chance=chance):
            count = min(chance.randint(0, 20), len(data) - 1)
            return pieces_at(data, sorted(chance.sample(range(1, len(data)), count)))

        report = stage.report(pool, steps, cut)
        assert not report, f"NUTPROXY_SEED={seed} {report}"


def test_a_conversation_is_determined_by_its_seed():
    assert Talker(7).conversation() == Talker(7).conversation() != Talker(8).conversation()


def test_what_differs_is_found_and_shortened(stage):
    steps = Talker(5).conversation()
    assert stage.report("three", steps) is None
    odd = Request(Op.APPEND, LINE, b"v", number=1000, opaque=1000)
    report = stage.report("three", [*steps, [odd], *Talker(3).conversation()])
    assert report.count(": APPEND ") == 2, report
    assert "1000: APPEND b'line\\r\\nend' b'v'" in report
    assert "cannot add to an item" in report
    assert len(report.splitlines()) < 10, report


EVERY = [
    Request(Op.SET, b"k", b"v", storage(5, 100)),
    Request(Op.GETK, b"k"),
    Request(Op.GETKQ, b"k"),
    Request(Op.GET, b"missing"),
    Request(Op.GETQ, b"missing"),
    Request(Op.ADD, b"k", b"w", storage()),
    Request(Op.ADDQ, b"k", b"w", storage()),
    Request(Op.REPLACE, b"k", b"w", storage(7)),
    Request(Op.REPLACEQ, b"missing", b"w", storage()),
    Request(Op.SETQ, b"a b", b"END\r\n", storage()),
    Request(Op.APPEND, b"k", b">"),
    Request(Op.APPENDQ, b"missing", b">"),
    Request(Op.PREPEND, b"k", b"<"),
    Request(Op.PREPENDQ, b"k", b"<"),
    Request(Op.INCREMENT, b"n", b"", counting(5, 10, 0)),
    Request(Op.INCREMENTQ, b"n", b"", counting(5)),
    Request(Op.DECREMENT, b"n", b"", counting(3)),
    Request(Op.DECREMENTQ, b"k", b"", counting(3)),
    Request(Op.TOUCH, b"k", b"", expiring(200)),
    Request(Op.GAT, b"k", b"", expiring(300)),
    Request(Op.GATQ, b"k", b"", expiring(300)),
    Request(Op.GATK, b"a b", b"", expiring(300)),
    Request(Op.GATKQ, b"a b", b"", expiring(300)),
    Request(Op.DELETE, b"k"),
    Request(Op.DELETEQ, b"k"),
    Request(Op.NOOP),
    Request(Op.VERSION),
    Request(Op.STAT, b"bogus"),
    Request(Op.VERBOSITY),
    Request(0x70, value=b"0123456789"),
    Request(Op.SASL_LIST_MECHS),
    Request(Op.SASL_AUTH, b"PLAIN", b"\0user\0secret"),
    Request(Op.SASL_STEP, b"PLAIN", b"more"),
    Request(Op.FLUSH, extras=expiring(0)),
    Request(Op.FLUSHQ),
    Request(Op.SET, b"k", b"z" * (LARGEST + 1), storage()),
    Request(Op.GET, b"x" * 251),
]
ENDS = [
    Request(Op.QUIT),
    Request(Op.QUITQ),
    Request(Op.GET),
    Request(Op.GET, b"k", wrong={"body_length": 0}),
    Request(Op.GET, b"k", wrong={"magic": 0x81}),
]


def numbered(requests):
    return [replace(each, number=at, opaque=at) for at, each in enumerate(requests, start=1)]


@pytest.mark.parametrize("size", [1, 7, 23, 24, 25])
def test_responses_do_not_depend_on_segments(stage, size):
    for ending in ENDS[:1] if size == 1 else ENDS:
        *made, last = numbered([*EVERY, ending])
        found = stage.compare(
            "three", [made, [last]], lambda data: pieces_at(data, range(size, len(data), size))
        )
        assert not found, (ending, found)


def test_responses_do_not_depend_on_where_a_request_is_cut(stage):
    """In two pieces, at every byte. nutproxy has read the first piece before the second is sent."""
    with pausing(stage.proxy.ports["three"]) as pause:
        for each in numbered([*EVERY, *ENDS]):
            before = numbered([Request(Op.SET, b"k", b"v", storage(5)), Request(Op.GET, b"k")])
            before = [replace(made, opaque=made.opaque + 1000) for made in before]
            length = len(each.packed({}))
            for place in [*range(1, min(length, 80)), length - 1]:
                found = stage.converse(
                    "three",
                    [before, [each]],
                    lambda data, place=place: pieces_at(data, [place]),
                    pause,
                )
                assert not found, (place, found)


def lengths():
    """Every opcode with lengths that are right and wrong."""
    for opcode, extras, key, value in itertools.product(
        [*Op, 0x30, 0xFF], LENGTHS, (0, 1, 250, 251), (0, 1)
    ):
        known = opcode in set(Op) - {Op.VERBOSITY}
        # memcached takes what is left over for the next request.
        leaves = opcode == Op.STAT and not extras and value
        leaves |= opcode in (Op.TOUCH, Op.GAT, Op.GATQ, Op.GATK, Op.GATKQ) and extras == 4 and value
        # It skips the extras and the key twice.
        leaves |= not known and (extras or key)
        if not leaves or key == 251:
            yield Request(opcode, b"k" * key, b"v" * value, b"\0" * extras)
    for opcode in (*Op, 0x30):
        for wrong in ({"body_length": 0}, {"body_length": 4}, {"key_length": 8}):
            yield Request(opcode, b"key", b"", b"\0" * 4, wrong=wrong)


def test_lengths_are_checked_as_by_memcached(stage):
    for each in lengths():
        found = stage.converse("three", [numbered([Request(Op.NOOP), each])])
        assert not found, found
