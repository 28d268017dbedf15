"""The Memcached parsers alone: bytes in, messages out.

Every message is fed as a whole, cut in two at every position, and byte by byte. The result must be
the same. integration/test_memcache_differential.py compares the same lines with memcached.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutproxy.proto.framer import Framer
from nutproxy.proto.memcache_commands import COMMANDS, Reply
from nutproxy.proto.protocols import MEMCACHE
from tests.memcache_corpus import CORPUS, CUT
from tests.unit.framing import check_with, name, outcome_with

# Use the same examples in every run. Raise their number to search for new differences.
SETTINGS = settings(max_examples=200, deadline=None, derandomize=True, database=None)
FORMAT = b"CLIENT_ERROR bad command line format\r\n"
CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
EXPTIME = b"CLIENT_ERROR invalid exptime argument\r\n"
ERROR = b"ERROR\r\n"
LONG = "CLIENT_ERROR line too long"
BINARY = "CLIENT_ERROR the binary protocol is not accepted here, see the pool's protocol"
HTTP = "ERROR"
TLS = "CLIENT_ERROR TLS is not supported"
REDIS = "-ERR this pool speaks the Memcached protocol"
MB = 1 << 20


def outcome(requests, pieces):
    return outcome_with(lambda: Framer(MEMCACHE, requests, MB), pieces)


def check(requests, data, messages, error=None):
    check_with(lambda: Framer(MEMCACHE, requests, MB), data, messages, error)


# Requests


def request(line, block=None, error=None, noreply=False):
    """A message as the Framer returns it."""
    return (line.split(), block, noreply, error)


REQUESTS = {
    b"get k\r\n": [request(b"get k")],
    b"get k\n": [request(b"get k")],
    b"  gets  a   b  \r\n": [request(b"gets a b")],
    b"gat -1 a b\r\n": [request(b"gat -1 a b")],
    b"gat 100\r\n": [request(b"gat 100")],
    b"gat 100 \r\n": [request(b"gat 100")],
    b"set k 0 0 3\r\nabc\r\n": [request(b"set k 0 0 3", b"abc")],
    b"set k 0 0 3\nabc\r\n": [request(b"set k 0 0 3", b"abc")],
    b"set k 0 -1 0\r\n\r\n": [request(b"set k 0 -1 0", b"")],
    b"set k 4294967295 2147483647 +2\r\n\r\n\r\n": [
        request(b"set k 4294967295 2147483647 +2", b"\r\n")
    ],
    b"set k 0 0 1 noreply\r\n\n\r\n": [request(b"set k 0 0 1 noreply", b"\n", None, True)],
    b"set k 0 0 1 NOREPLY\r\nv\r\n": [request(b"set k 0 0 1 NOREPLY", b"v")],
    b"cas k 0 0 1 18446744073709551615\r\nv\r\n": [
        request(b"cas k 0 0 1 18446744073709551615", b"v")
    ],
    b"ms k 1 T0 b\r\nv\r\n": [request(b"ms k 1 T0 b", b"v")],
    b"mn\r\nmn\r\n": [request(b"mn")] * 2,
    b"delete noreply\r\n": [request(b"delete noreply")],
    b"flush_all noreply\r\n": [request(b"flush_all noreply", None, None, True)],
    b"get \xff\x80\r\n": [request(b"get \xff\x80")],
    b"get a\x7f \tb\r\n": [(b"get a\x7f \tb".split(b" "), None, False, None)],
    b"get a\rb \r c\r\r\n": [(b"get a\rb \r c\r".split(b" "), None, False, None)],
    b"gat 4294967295 a\r\n": [request(b"gat 4294967295 a")],
    b"set a\tb 0 0 1\r\nv\r\n": [(b"set a\tb 0 0 1".split(b" "), b"v", False, None)],
    b"get " + b"k" * 250 + b"\r\n": [request(b"get " + b"k" * 250)],
    b"get" + b" k" * 2000 + b"\r\n": [request(b"get" + b" k" * 2000)],
    b" " * 100 + b"gats 0" + b" k" * 2000 + b"\r\n": [request(b"gats 0" + b" k" * 2000)],
    # Incomplete: no message and no error.
    b"get": [],
    b"set k 0 0 1048576\r\n" + b"x" * 100: [],
    b"set k 0 0 3\r\nabc\r": [],
    b"x" * 2048: [],
}

# Complete messages that get an error reply, which the Framer returns with them.
ANSWERED = {
    b"\r\n": ([b"\r"], None, False, ERROR),
    b"\n": request(b"", None, ERROR),
    b"   \r\n": request(b"", None, ERROR),
    b"GET k\r\n": request(b"GET k", None, ERROR),
    b"get\r\n": request(b"get", None, ERROR),
    b"get\tk\r\n": (b"get\tk".split(b" "), None, False, ERROR),
    b"me\r\n": request(b"me", None, FORMAT),
    b"get " + b"k" * 251 + b"\r\n": request(b"get " + b"k" * 251, None, FORMAT),
    b"get a b" + b"k" * 251 + b" c\r\n": request(b"get a b" + b"k" * 251 + b" c", None, FORMAT),
    b"gat x k\r\n": request(b"gat x k", None, EXPTIME),
    b"gat 9223372036854775808 k\r\n": request(b"gat 9223372036854775808 k", None, EXPTIME),
    b"gat -9223372036854775809 k\r\n": request(b"gat -9223372036854775809 k", None, EXPTIME),
    b"gat " + b"0" * 251 + b" k\r\n": request(b"gat " + b"0" * 251 + b" k", None, EXPTIME),
    b"get a\0b\r\n": (b"get a\0b".split(b" "), None, False, FORMAT),
    b"set k 0 0 3\r\nabcd\r": request(b"set k 0 0 3", b"abc", CHUNK),
    b"set k 0 0 3 noreply\r\nabcde": request(b"set k 0 0 3 noreply", b"abc", CHUNK, True),
    b"set k 0 0 0\r\n\n\n": request(b"set k 0 0 0", b"", CHUNK),
    b"ms k\r\n": request(b"ms k", None, FORMAT),
    b"ms k S1\r\n": request(b"ms k S1", None, FORMAT),
}
# memcached accepts none of these as a length or as flags.
BAD_NUMBERS = [
    *(b"x", b"1x", b"-", b"+", b"-1", b"--1", b"1.0", b"0x1", b"\x00", b"\x001"),
    *(b"18446744073709551616", b"18446744073709551617", b"9" * 30, b"\xb2", b"\t", b"\t-"),
]
# Lengths that need more than plain digits or 32 bits, each with the number that memcached reads.
WRAPPED = {
    b"+5": 5,
    b"007": 7,
    b"-0": 0,
    b"5\t6": 5,
    b"\x0b5": 5,
    b"4294967301": 5,
    b"-4294967291": 5,
    b"9223372032559808517": 5,
}

BROKEN = {
    b"\x80": BINARY,
    b"\x80\x01\0\0": BINARY,
    b"\x16\x03\x01\x02\0": TLS,
    b"*1\r\n$4\r\nPING\r\n": REDIS,
    b"x" * 2049: LONG,
    b"set k 0 0 1" + b" " * 2050 + b"\r\nv\r\n": LONG,
    b"mg k s" + b"x" * 2050 + b"\r\n": LONG,
    b" " * 101 + b"get" + b" k" * 2000 + b"\r\n": LONG,
    b" " * 2046 + b"get kk\r\n": LONG,
    b"GET / HTTP/1.1\r\n": HTTP,
    b"POST / HTTP/1.0\r\n": HTTP,
}


@pytest.mark.parametrize("data", REQUESTS, ids=name)
def test_requests_are_the_same_however_they_are_cut(data):
    check(True, data, REQUESTS[data])


@pytest.mark.parametrize("data", ANSWERED, ids=name)
def test_a_request_with_an_error_is_whole_however_it_is_cut(data):
    check(True, data, [ANSWERED[data]])


def refused(line, error=FORMAT, noreply=False):
    """A line with an error. Its words may contain any white space except spaces."""
    return (line.split(b" "), None, noreply, error)


@pytest.mark.parametrize("number", BAD_NUMBERS)
@pytest.mark.parametrize("line", [b"set k 0 0 <n>", b"ms k <n>", b"add k 0 0 <n> noreply"])
def test_an_invalid_length_is_refused_and_no_data_block_is_read(line, number):
    line = line.replace(b"<n>", number)
    expected = refused(line, noreply=line.endswith(b"noreply"))
    check(True, line + b"\r\nmn\r\n", [expected, request(b"mn")])


@pytest.mark.parametrize(
    "number", [*BAD_NUMBERS, b"18446744073709551615-", b"-9223372036854775808"]
)
@pytest.mark.parametrize("line", [b"set k <n> 0 9", b"cas k 0 0 9 <n>", b"add k <n> 0 9 noreply"])
def test_an_invalid_number_is_refused_with_the_data_block(line, number):
    """The data block is skipped; none of its bytes are run as a command."""
    line = line.replace(b"<n>", number)
    expected = refused(line, noreply=line.endswith(b"noreply"))
    check(True, line + b"\r\nflush_all\r\nmn\r\n", [expected, request(b"mn")])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"set " + b"k" * 251 + b" 0 0 9", FORMAT),
        (b"set a\0b 0 0 9", FORMAT),
        (b"set k 0 9223372036854775808 9", FORMAT),
        (b"set k 0 0 9 noreply noreply", ERROR),
        (b"cas k 0 0 9", ERROR),
        (b"ms " + b"k" * 251 + b" 9", FORMAT),
        (b"ms a\0b 9", FORMAT),
        # memcached up to 1.6.39 reads these lengths, and later versions refuse them.
        (b"set k 0 0 9\0", FORMAT),
        (b"set k 0 0 9\0001", FORMAT),
        (b"ms k 9\r\0 T0", FORMAT),
        (b"ms k 9" + b" q" * 17, b"CLIENT_ERROR options flags too long\r\n"),
    ],
)
def test_the_data_block_of_a_refused_line_is_skipped(line, error):
    check(True, line + b"\r\nflush_all\r\nmn\r\n", [refused(line, error), request(b"mn")])


@pytest.mark.parametrize("number", WRAPPED)
@pytest.mark.parametrize("line", [b"set k 0 0 <n>", b"cas k 0 0 <n> 7", b"ms k <n> T0"])
def test_a_length_is_read_as_by_memcached(line, number):
    line = line.replace(b"<n>", number)
    block = b"x" * WRAPPED[number]
    expected = (line.split(b" "), block, False, None)
    check(True, line + b"\r\n" + block + b"\r\nmn\r\n", [expected, request(b"mn")])


@pytest.mark.parametrize("data", BROKEN, ids=name)
def test_input_that_closes_the_connection_does_so_however_it_is_cut(data):
    check(True, data, [], BROKEN[data])
    check(True, b"mn\r\n" + data, [request(b"mn")], BROKEN[data])


@pytest.mark.parametrize("row", [*CORPUS.values(), *CUT.values()], ids=lambda row: row.name)
def test_conversations_are_the_same_however_they_are_cut(row):
    for step in row.steps:
        step = step.replace(b"|", b"")
        whole = outcome(True, [step])
        check(True, step, *whole)


def test_a_value_above_the_limit_is_skipped():
    line = b"set k 0 0 %d\r\n" % (MB + 1)
    data = line + b"x" * (MB + 1) + b"\r\nmn\r\n"
    pieces = [data[at : at + 4099] for at in range(0, len(data), 4099)]
    expected = [request(line, None, TOO_LARGE), request(b"mn")]
    assert outcome(True, pieces) == (expected, None)
    assert outcome(True, [data]) == (expected, None)


words = st.lists(
    st.one_of(
        st.sampled_from([*map(str.encode, COMMANDS), b"noreply", b"0", b"1", b"-1", b"5", b"k"]),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=8,
).map(b" ".join)


@SETTINGS
@given(st.lists(words, max_size=5), st.randoms(use_true_random=False))
def test_anything_is_the_same_however_it_is_cut(lines, rng):
    data = b"".join(line + rng.choice([b"\r\n", b"\n", b"\r\n\r\n"]) for line in lines)
    places = sorted(rng.choices(range(len(data) + 1), k=5))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    found, error = outcome(True, [data])
    assert outcome(True, pieces) == (found, error)


# Replies


REPLIES = {
    b"END\r\n": Reply.VALUES,
    b"VALUE k 0 0\r\n\r\nEND\r\n": Reply.VALUES,
    b"VALUE k 0 3\r\nabc\r\nEND\r\n": Reply.VALUES,
    b"VALUE k 4294967295 3 18446744073709551615\r\nabc\r\nEND\r\n": Reply.VALUES,
    b"VALUE a 0 5\r\nEND\r\n\r\nVALUE b 0 1\r\n\n\r\nEND\r\n": Reply.VALUES,
    b"VALUE k 0 2000\r\n" + b"\r\n" * 1000 + b"\r\nEND\r\n": Reply.VALUES,
    b"VALUE " + b"k" * 250 + b" 0 1\r\nv\r\nEND\r\n": Reply.VALUES,
    b"STAT pid 1\r\nSTAT x\r\nEND\r\n": Reply.STATS,
    b"STAT VALUE k\r\nEND\r\n": Reply.STATS,
    b"ITEM k [1 b; 0 s]\r\nEND\r\n": Reply.STATS,
    b"PREFIX a get 1 hit 0 set 0 del 0\r\nEND\r\n": Reply.STATS,
    b"0\r\n": Reply.NUMBER,
    b"18446744073709551615\r\n": Reply.NUMBER,
    b"9  \r\n": Reply.NUMBER,
    b"STORED\r\n": Reply.STORED,
    b"NOT_STORED\r\n": Reply.NOT_STORED,
    b"EXISTS\r\n": Reply.EXISTS,
    b"NOT_FOUND\r\n": Reply.NOT_FOUND,
    b"DELETED\r\n": Reply.DELETED,
    b"TOUCHED\r\n": Reply.TOUCHED,
    b"OK\r\n": Reply.OK,
    b"RESET\r\n": Reply.RESET,
    b"VERSION 1.6.18\r\n": Reply.VERSION,
    b"VA 0\r\n\r\n": Reply.VA,
    b"VA 5 kEND c1\r\nHD\r\n \r\n": Reply.VA,
    b"HD\r\n": Reply.HD,
    b"HD O1 kk c1\r\n": Reply.HD,
    b"EN\r\n": Reply.EN,
    b"NS O1\r\n": Reply.NS,
    b"EX\r\n": Reply.EX,
    b"NF kk\r\n": Reply.NF,
    b"ME k exp=-1 la=0\r\n": Reply.ME,
    b"ERROR\r\n": None,
    b"ERROR Too many open connections\r\n": None,
    b"CLIENT_ERROR bad command line format\r\n": None,
    b"SERVER_ERROR out of memory\r\n": None,
    b"VALUE k 0 1\r\nv\r\nSERVER_ERROR out of memory writing get response\r\n": None,
    b"STAT a 1\r\nERROR\r\n": None,
}
VALUE_LINE = "malformed VALUE line"
VA_LINE = "malformed VA line"
WORD = "unknown word"
NO_END = "line without CR LF"
NO_CRLF = "value without CR LF"
BROKEN_REPLIES = {
    b"\r\n": WORD,
    b"\n": NO_END,
    b"END\n": NO_END,
    b"STORED\n": NO_END,
    b"MN\r\n": WORD,
    b"END \r\n": WORD,
    b"END x\r\n": WORD,
    b"STORED \r\n": WORD,
    b"stored\r\n": WORD,
    b"ERRORS\r\n": WORD,
    b"ERROR \rEND\r\n": WORD,
    b"SERVER_ERROR a\r\r\n": WORD,
    b"VERSION 1\r2\r\n": WORD,
    b"HDx\r\n": WORD,
    b"-1\r\n": WORD,
    b"1x\r\n": WORD,
    b"123456789012345678901\r\n": WORD,
    b"+PONG\r\n": WORD,
    b"VALUE\r\n": WORD,
    b"VALUE \r\n": WORD,
    b"VALUE k\r\n": VALUE_LINE,
    b"VALUE k 0\r\n": VALUE_LINE,
    b"VALUE k 0 \r\n": VALUE_LINE,
    b"VALUE  0 1\r\n": VALUE_LINE,
    b"VALUE k  0 1\r\n": VALUE_LINE,
    b"VALUE k x 1\r\n": VALUE_LINE,
    b"VALUE k 0 x\r\n": VALUE_LINE,
    b"VALUE k 0 -1\r\n": VALUE_LINE,
    b"VALUE k 0 1 \r\n": VALUE_LINE,
    b"VALUE k 0 1 x\r\n": VALUE_LINE,
    b"VALUE k 0 1 2 3\r\n": VALUE_LINE,
    b"VALUE k 0 18446744073709551617\r\n": VALUE_LINE,
    b"VALUE " + b"k" * 251 + b" 0 1\r\n": VALUE_LINE,
    b"VALUE k 0 1\r\nab\r\n": NO_CRLF,
    b"VALUE k 0 1\r\na\n\n": NO_CRLF,
    b"VALUE k 0 0\r\nEND\r\n": NO_CRLF,
    b"VALUE k 0 1\r\na\r\nSTORED\r\n": WORD,
    b"VALUE k 0 1\r\na\r\nSTAT x\r\n": WORD,
    b"VALUE k 0 1\r\na\r\n\r\n": WORD,
    b"VALUE k 0 1\r\na\r\nVA 1\r\na\r\n": WORD,
    b"STAT a 1\r\nVALUE k 0 1\r\n": WORD,
    b"STAT a 1\r\nOK\r\n": WORD,
    b"VA\r\n": WORD,
    b"VA \r\n": WORD,
    b"VA x\r\n": VA_LINE,
    b"VA -1\r\n": VA_LINE,
    b"VA 1x\r\n": VA_LINE,
    b"VA 9999999999999\r\n": VA_LINE,
    b"VA 1\r\nab\r\n": NO_CRLF,
    b"S" * 65537: "line too long",
}
INCOMPLETE = [
    *(b"E", b"END", b"END\r", b"VALUE k 0 3\r\nab", b"VALUE k 0 3\r\nabc\r\n", b"STAT a 1\r\n"),
    *(b"VA 3\r\nabc", b"VA 999999999999\r\n", b"VALUE k 0 999999999999\r\nx"),
]


@pytest.mark.parametrize("data", REPLIES, ids=name)
def test_replies_are_the_same_however_they_are_cut(data):
    check(False, data, [(REPLIES[data], data)])


def test_replies_in_one_buffer_come_out_one_by_one():
    check(False, b"".join(REPLIES), [(kind, data) for data, kind in REPLIES.items()])


@pytest.mark.parametrize("data", BROKEN_REPLIES, ids=name)
def test_a_malformed_reply_is_an_error_however_it_is_cut(data):
    check(False, data, [], BROKEN_REPLIES[data])
    check(False, b"END\r\n" + data, [(Reply.VALUES, b"END\r\n")], BROKEN_REPLIES[data])


@pytest.mark.parametrize("data", INCOMPLETE, ids=name)
def test_an_incomplete_reply_is_awaited(data):
    check(False, data, [])


def test_every_form_of_a_reply_belongs_to_a_command():
    forms = {reply for row in COMMANDS.values() for reply in row.replies}
    assert forms | {Reply.VERSION} == set(Reply)
    assert {kind for kind in REPLIES.values() if kind} == set(Reply)


def test_a_hundred_thousand_messages_in_one_buffer():
    assert Framer(MEMCACHE, True).feed(b"get k\r\n" * 100_000) == [request(b"get k")] * 100_000
    assert (
        Framer(MEMCACHE, False).feed(b"END\r\n" * 100_000) == [(Reply.VALUES, b"END\r\n")] * 100_000
    )


def test_a_get_of_a_hundred_thousand_keys_and_their_values():
    line = b"get" + b" k" * 100_000
    assert Framer(MEMCACHE, True).feed(line + b"\r\n") == [request(line)]
    reply = b"VALUE k 0 1\r\nv\r\n" * 100_000 + b"END\r\n"
    assert Framer(MEMCACHE, False).feed(reply) == [(Reply.VALUES, reply)]


def test_a_get_has_a_limit_far_above_any_use():
    """The words are stored in a table, so a line without a limit could use any amount of memory."""
    keys = b" ".join([b"k" * 250] * 100_000)
    [(words, _, _, error)] = Framer(MEMCACHE, requests=True).feed(b"get " + keys + b"\r\n")
    assert (len(words), error) == (100_001, None)
    with pytest.raises(ValueError, match="CLIENT_ERROR line too long"):
        Framer(MEMCACHE, requests=True).feed(b"get " + b"k " * (16 << 20))
