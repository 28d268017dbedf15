"""The same conversations with memcached directly and through nutproxy, compared byte for byte.

Those of the corpus are compared with recorded replies of memcached, random ones with the replies of
a running memcached. Intended differences are listed in DIFFERENCES.
"""

import random

import pytest

from nutproxy.builtin.memcache import SUFFIX
from tests import memcache_corpus as corpus
from tests.integration.conftest import mc_pool
from tests.memcache_corpus import Answer, Conversation
from tests.servers import MemcachedServer, NutproxyServer

RECORDED = corpus.record()
FORMAT = b"CLIENT_ERROR bad command line format\r\n"
EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"
LONG = b"CLIENT_ERROR line too long\r\n"
STORED = b"STORED\r\n"
ERROR = b"ERROR\r\n"
VALUE = b"VALUE k 5 1\r\nv\r\n"
END = b"END\r\n"
FLAGS = b"CLIENT_ERROR options flags too long\r\n"
MN = b"MN\r\n"


def unsupported(word, times=1):
    return b"CLIENT_ERROR '%b' is not supported by nutproxy\r\n" % word * times


# The replies of nutproxy that differ, by the reason and the name of the conversation.
DIFFERENCES = {
    "NUL ends a line in memcached up to 1.6.39, and is part of a word in later versions. Proxy and "
    "server must agree on where a line ends.": {
        "get: NUL in the key": STORED + FORMAT + FORMAT + END,
        "set: NUL in the key": FORMAT + END,
        "set: NUL behind the length": END,
        "spelling: NUL": ERROR + ERROR,
        "mg: NUL in the key": FORMAT,
    },
    "The data block of a refused line is skipped, as in memcached from 1.6.40 on. The version that "
    "was recorded runs the block as commands.": {
        "set: too many words": ERROR + END,
        "set: key of 251 bytes": FORMAT + END,
        "add: too many words": ERROR + END,
        "add: key of 251 bytes": FORMAT + END,
        "replace: too many words": ERROR + END,
        "replace: key of 251 bytes": FORMAT + END,
        "append: too many words": ERROR + END,
        "append: key of 251 bytes": FORMAT + END,
        "prepend: too many words": ERROR + END,
        "prepend: key of 251 bytes": FORMAT + END,
        "set: flags of 2^64": FORMAT + END,
        "set: negative flags": FORMAT + END,
        "set: flags with letters": FORMAT + END,
        "set: flags in hexadecimal": FORMAT + END,
        "set: flags with a letter, noreply": END,
        "set: exptime of 2^64": FORMAT + END,
        "set: exptime with a letter": FORMAT + END,
        "set: exptime of a word": FORMAT + END,
        "set: exptime with a fraction": FORMAT + END,
        "cas: no unique value": STORED + ERROR + ERROR,
        "cas: unique value of a word": STORED + FORMAT + VALUE + END,
        "cas: negative unique value": STORED + FORMAT + VALUE + END,
        "cas: unique value of 2^64": STORED + FORMAT + VALUE + END,
        "cas: unique value with a letter": STORED + FORMAT + VALUE + END,
        "cas: too many words": STORED + ERROR + VALUE + END,
        "cas: key of 251 bytes": FORMAT + END,
        "ms: key of 251 bytes": FORMAT + MN,
        "ms: key of 251 bytes with q": FORMAT + MN,
        "words: ms of 17 flags, data are commands": FLAGS + ERROR + MN,
        "words: ms of 30 flags": FLAGS + MN,
        "words: set of 30 words": ERROR + END,
        "long line: key of 2000 bytes in set": FORMAT + MN,
    },
    "A client gets an error before it is closed. memcached closes it without one.": {
        "spelling: HTTP is closed": Answer(ERROR, True),
        "spelling: HTTP POST": Answer(ERROR, True),
        "long line: 20,000 bytes without LF": Answer(LONG, True),
        "long line: set of 20,000 bytes": Answer(LONG, True),
        "long line: mg of 20,000 bytes": Answer(LONG, True),
        "long line: get of 20,000 bytes behind 101 spaces": Answer(LONG, True),
    },
    "gat and gats may have any number of keys, like get and gets. memcached closes the connection "
    "if their line is long.": {
        "long line: gat of 20,000 bytes": END + MN,
        "long line: gats of 20,000 bytes": END + MN,
    },
    "The terminator of a data block is checked before the server can refuse the value as too "
    "large.": {
        "set: above the limit, not ended by CR LF": b"CLIENT_ERROR bad data chunk\r\n" + END * 2,
    },
    "q hides every HD of ma. memcached sends it if N has created the item.": {
        "ma: N with q": MN,
    },
    "q is not forwarded, so memcached does not count it among the flags.": {
        "words: mg of 18 flags": STORED + b"VA 1 c<cas> f5 h0 kk l<time> s1 t-1 O1\r\nv\r\n" + MN,
        "words: mg of 18 flags with q": STORED + b"CLIENT_ERROR duplicate flag\r\n" + MN,
    },
    "Commands that administer one server are refused by name, even if their arguments are wrong.": {
        "others: watch of a word": unsupported(b"watch"),
        "others: lru": unsupported(b"lru", 2),
        "others: slabs": unsupported(b"slabs", 2),
        "others: lru_crawler": unsupported(b"lru_crawler", 2),
        "others: cache_memlimit": unsupported(b"cache_memlimit", 2),
        "others: shutdown": unsupported(b"shutdown"),
        "others: refresh_certs": unsupported(b"refresh_certs"),
        "others: extstore": unsupported(b"extstore"),
    },
    "A key is base64 by RFC 4648. memcached also decodes keys with padding in the middle, and the "
    "result could contain a line feed.": {
        "b: padding in the middle": b"CLIENT_ERROR error decoding key\r\n" * 2,
    },
    "bget is unknown. memcached has not documented it for years.": {
        "others: bget": STORED + ERROR,
    },
}
ON_PURPOSE = {
    name: answer if isinstance(answer, Answer) else Answer(answer, False)
    for answers in DIFFERENCES.values()
    for name, answer in answers.items()
}
# The version is that of the servers with the proxy's name.
VERSION = (
    b"VERSION %b\r\n" % corpus.recorded_version().encode(),
    b"VERSION %b%b\r\n" % (corpus.recorded_version().encode(), SUFFIX.encode()),
)


def expected(name):
    """The reply of nutproxy."""
    if name in ON_PURPOSE:
        return ON_PURPOSE[name]
    recorded = RECORDED[name]
    return Answer(recorded.received.replace(*VERSION), recorded.closed)


@pytest.fixture(scope="module")
def servers():
    """The servers of each pool."""
    with (
        MemcachedServer(*corpus.ARGUMENTS) as one,
        MemcachedServer(*corpus.ARGUMENTS) as two,
        MemcachedServer(*corpus.ARGUMENTS) as three,
    ):
        yield {"one": [one], "three": [one, two, three]}


@pytest.fixture(scope="module")
def proxy(servers):
    """Pools of one server and of three. The proxy receives 512 bytes at a time."""
    config = "".join(mc_pool(name, pool) for name, pool in servers.items())
    with NutproxyServer(config, "-m", "512") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def large_proxy(servers):
    """The same with chunks of the default size."""
    config = "".join(mc_pool(name, pool) for name, pool in servers.items())
    with NutproxyServer(config) as proxy:
        yield proxy


def test_the_table_of_differences_is_up_to_date():
    assert ON_PURPOSE.keys() <= RECORDED.keys()
    for name, answer in ON_PURPOSE.items():
        assert answer != RECORDED[name], f"{name}: no longer a difference"


@pytest.mark.parametrize("pool", ["one", "three"])
@pytest.mark.parametrize("chunk", ["512 bytes", "16 KB"])
def test_conversations_are_those_with_memcached(proxy, large_proxy, servers, pool, chunk):
    port = (proxy if chunk == "512 bytes" else large_proxy).ports[pool]
    for conversation in corpus.CORPUS.values():
        corpus.forget(*servers[pool])
        found = corpus.converse(port, conversation)
        assert found == expected(conversation.name), conversation.name


@pytest.mark.parametrize("pool", ["one", "three"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_replies_do_not_depend_on_segments(proxy, servers, pool, size):
    for conversation in corpus.CORPUS.values():
        if max(map(len, conversation.steps)) > 100 * size:
            continue
        corpus.forget(*servers[pool])
        found = corpus.converse(
            proxy.ports[pool],
            conversation,
            lambda data: corpus.pieces_at(data, range(size, len(data), size)),
        )
        assert found == expected(conversation.name), conversation.name


# The conversations are divided among this many tests.
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_replies_do_not_depend_on_where_a_message_is_cut(proxy, servers, part):
    """In two pieces, at every byte. The proxy has read the first piece before the second is
    sent."""
    port = proxy.ports["three"]
    short = [
        row for row in corpus.CORPUS.values() if len(row.steps) == 1 and len(row.steps[0]) < 60
    ]
    with corpus.pausing(port) as pause:
        for conversation in short[part::PARTS]:
            for place in range(1, len(conversation.steps[0])):
                corpus.forget(*servers["three"])
                found = corpus.converse(
                    port,
                    conversation,
                    lambda data, place=place: corpus.pieces_at(data, [place]),
                    pause,
                )
                assert found == expected(conversation.name), (conversation.name, place)


def test_long_lines_are_refused_however_they_are_cut(proxy):
    """memcached accepts such a line or closes the connection, depending on how it is cut."""
    with corpus.pausing(proxy.ports["one"]) as pause:
        for name, conversation in corpus.CUT.items():
            [line, *_] = conversation.steps[0].replace(b"|", b"").partition(b"\n")
            line = line.rstrip(b"\r").lstrip()
            found = corpus.converse(
                proxy.ports["one"], conversation, lambda data: data.split(b"|"), pause
            )
            whole = corpus.converse(
                proxy.ports["one"],
                Conversation(name, (conversation.steps[0].replace(b"|", b""),)),
            )
            assert found == whole, name


# Random conversations

KEYS = [b"k", b"key:1", b"noreply", b"-1", b"x" * 250, b"y" * 251, b"\xff\x80", b"q", b"b"]
# If a key of get is too long, memcached drops the replies that it has not sent yet.
GET_KEYS = [key for key in KEYS if len(key) <= 250]
ENCODED = [b"Zm9v", b"Zm9vYg==", b"a2V5OjE=", b"AAEC//4=", b"Zg", b"!!!!", b"Zh=="]
NUMBERS = [b"0", b"1", b"5", b"-1", b"007", b"+1", b"x", b"1x", b"99999999999999999999", b""]
FLAGS_OF = [b"0", b"1", b"007", b"+1", b"4294967301", b"18446744073709551615"]
EXPTIMES = [b"0", b"0", b"1000", b"4294967295", b"x", b"1.5", b"noreply"]
LAST = [b"", b"", b"", b" noreply", b" noreply", b" noreply noreply", b" NOREPLY", b" bogus"]
VALUES = [b"", b"v", b"10", b"x" * 300, b"END\r\n", b"\r\n", b"\0\xff"]
# memcached may count in place or make a new item. Requests for these keys avoid everything that
# depends on this: time to live, fetched or not, spaces after a shorter number, and the bytes that
# it reads after a value that is not a number.
COUNTERS = [b"n", b"m", b"0", b"bjE=", b"missing"]
GET_FLAGS = b"b c f h k l O1 Oabc q s t v N3000 T100 R10 E1234567890 I v v k".split()
SET_FLAGS = b"b c F5 Fx I k O2 q s T100 T-1 C99999999 Cx MS ME MA MP MR MX M ! b k".split()
DELETE_FLAGS = b"b q I T100 C99999999 Cx k O3 s v !".split()
ADD_FLAGS = b"b N0 J5 Jx D2 Dx MI M+ MX q c v O4 k v v".split()


class Talker:
    """Draws the requests of a careless client."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, words):
        return self.random.choice(words)

    def some(self, words, most):
        # No flag occurs twice. The error for that depends on the order of the flags, and nutproxy
        # does not forward q.
        return [b" " + word for word in self.random.sample(words, self.random.randint(0, most))]

    def length(self, value):
        """The length of a value, sometimes a wrong one."""
        wrong = self.one([1, 2, -1]) if self.random.random() < 0.05 else 0
        return max(0, len(value) + wrong)

    def request(self):
        kind = self.random.choices(
            ("get", "gat", "store", "count", "touch", "delete", "meta", "odd"),
            (20, 5, 20, 8, 5, 5, 35, 2),
        )[0]
        return getattr(self, kind)()

    def get(self):
        keys = b" ".join(self.random.choices(GET_KEYS, k=self.random.randint(1, 12)))
        return b"%b %b\r\n" % (self.one([b"get", b"gets"]), keys)

    def gat(self):
        keys = b" ".join(self.random.choices(GET_KEYS, k=self.random.randint(1, 12)))
        return b"%b %b %b\r\n" % (self.one([b"gat", b"gats"]), self.one(EXPTIMES), keys)

    def store(self):
        """Lines that memcached accepts. test_memcache_refusals.py tests for which of the others the
        data block is skipped."""
        word = self.one([b"set", b"set", b"set", b"add", b"replace", b"append", b"prepend", b"cas"])
        value = self.one(VALUES)
        length = b"%d" % self.length(value)
        line = [word, self.one(GET_KEYS), self.one(FLAGS_OF), self.one(EXPTIMES[:4]), length]
        if word == b"cas":
            line.append(self.one([b"123456789", b"+1", b"18446744073709551615"]))
        last = self.one([word for word in LAST if word != b" noreply noreply"])
        return b" ".join(line) + last + b"\r\n" + value + b"\r\n"

    def count(self):
        key = self.one(COUNTERS)
        return self.one(
            [
                b"set %b 0 0 2%b\r\n10\r\n" % (key, self.one(LAST[:5])),
                b"get %b %b\r\n" % (key, self.one(GET_KEYS)),
                b"incr %b %b%b\r\n" % (key, self.one(NUMBERS), self.one(LAST)),
                b"incr %b 5\r\n" % key,
                b"mg %b v k f\r\n" % key,
            ]
        )

    def touch(self):
        return b"touch %b %b%b\r\n" % (self.one(KEYS), self.one(EXPTIMES), self.one(LAST))

    def delete(self):
        # If a key and a word are both wrong, the two sides report different errors.
        word = self.one([b"", b" 0", b" 1", b" x"])
        return b"delete %b%b%b\r\n" % (self.one(GET_KEYS), word, self.one(LAST))

    def meta(self):
        word = self.one([b"mg", b"mg", b"ms", b"md", b"ma", b"me", b"mn"])
        key = self.one(KEYS + ENCODED * 2)
        if word == b"mg":
            return b"mg %b%b\r\n" % (key, b"".join(self.some(GET_FLAGS, 7)))
        if word == b"ms":
            value = self.one(VALUES)
            length = self.length(value)
            key = self.one(GET_KEYS + ENCODED * 2)
            # If a flag and a length are both wrong, the two sides report different errors.
            flags = b"".join(self.some(SET_FLAGS, 5)) if length == len(value) else b""
            return b"ms %b %d%b\r\n%b\r\n" % (key, length, flags, value)
        if word == b"md":
            return b"md %b%b\r\n" % (key, b"".join(self.some(DELETE_FLAGS, 4)))
        if word == b"ma":
            key = self.one(COUNTERS)
            flags = b"".join(self.some(ADD_FLAGS, 5))
            # It is intended that q also hides the reply for an item that N has created.
            return b"ma %b%b\r\n" % (key, flags.replace(b" q", b"") if b" N" in flags else flags)
        if word == b"me":
            return b"me %b%b\r\n" % (key, self.one([b"", b" b", b" x"]))
        return b"mn\r\n"

    def odd(self):
        return self.one(
            [
                *(
                    b"\r\n",
                    b"   \r\n",
                    b"get\r\n",
                    b"gets \n",
                    b"bogus\r\n",
                    b"set k\r\n",
                    b"GET k\r\n",
                ),
                *(b"flush_all\r\n", b"flush_all 0 noreply\r\n", b"flush_all noreply\r\n"),
                *(b"flush_all noreply noreply\r\n", b"flush_all x noreply\r\n", b"flush_all x\r\n"),
                *(b"verbosity 0\r\n", b"verbosity noreply\r\n", b"verbosity noreply noreply\r\n"),
                *(b"mg\r\n", b"ms\r\n", b"ms k\r\n", b"ms k S1\r\n", b"ma\r\n", b"me\r\n"),
            ]
        )


@pytest.mark.parametrize("seed", range(12))
def test_random_conversations_are_those_with_memcached(proxy, servers, seed):
    """A thousand requests in segments of random sizes, to memcached itself and to each pool."""
    talker = Talker(seed)

    def cut(data):
        count = talker.random.randint(0, 20)
        return corpus.pieces_at(data, sorted(talker.random.sample(range(1, len(data)), count)))

    with MemcachedServer(*corpus.ARGUMENTS) as direct:
        conversations = [
            # The empty lines fill a data block whose length was too large.
            Conversation("random", (b"".join(talker.request() for _ in range(20)) + b"\r\n" * 3,))
            for _ in range(50)
        ]
        wanted = [corpus.converse(direct.port, row) for row in conversations]
    for pool in servers:
        corpus.forget(*servers[pool])
        for conversation, answer in zip(conversations, wanted, strict=True):
            found = corpus.converse(proxy.ports[pool], conversation, cut)
            assert found == answer, conversation.steps
