"""The Redis parsers alone: bytes in, messages out.

Every message of the corpora is fed as a whole, cut in two at every position, and byte by byte. The
result must be the same. Other messages are compared with hiredis: replies with its reader, requests
with its packer. Inline commands are compared with a real Redis.
"""

import socket

import hiredis
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nutproxy.proto.framer import Framer
from nutproxy.proto.protocols import REDIS
from tests.unit.framing import check_with, name, outcome_with

KB = 1024
# Use the same examples in every run. Raise their number to search for new differences.
SETTINGS = settings(max_examples=200, deadline=None, derandomize=True, database=None)
TOO_BIG = "Protocol error: too big request"
MULTIBULK = "Protocol error: invalid multibulk length"
BULK = "Protocol error: invalid bulk length"
DOLLAR = "Protocol error: expected '$', got '%c'"
CRLF = "Protocol error: expected CR LF after bulk"
LONG_MULTIBULK = "Protocol error: too big mbulk count string"
LONG_BULK = "Protocol error: too big bulk count string"
LONG_INLINE = "Protocol error: too big inline request"


def outcome(requests, pieces):
    return outcome_with(lambda: Framer(REDIS, requests), pieces)


def check(requests, data, messages, error=None):
    check_with(lambda: Framer(REDIS, requests), data, messages, error)


# Requests


REQUESTS = {
    b"*1\r\n$4\r\nPING\r\n": [[b"PING"]],
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n": [[b"GET", b"k"]],
    b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n": [[b"GET", b""]],
    b"*1\r\n$0\r\n\r\n": [[b""]],
    b"*2\r\n$4\r\nECHO\r\n$6\r\n\r\n*1\r\n\r\n": [[b"ECHO", b"\r\n*1\r\n"]],
    b"*2\r\n$4\r\nECHO\r\n$4\r\n\0\xff\r\n\r\n": [[b"ECHO", b"\0\xff\r\n"]],
    b"*10\r\n" + b"$1\r\na\r\n" * 10: [[b"a"] * 10],
    b"*0\r\n": [],
    b"*-1\r\n": [],
    b"*-10\r\n": [],
    b"*-9223372036854775808\r\n": [],
    b"*0\r\n*1\r\n$4\r\nPING\r\n*-1\r\n": [[b"PING"]],
    b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n": [[b"PING"], [b"QUIT"]],
    b"*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$4\r\nPING\r\n": [[b"PING"]] * 3,
    b"*2\r\n$4\r\nECHO\r\n$2000\r\n" + b"x" * 2000 + b"\r\n": [[b"ECHO", b"x" * 2000]],
    b"*70\r\n" + b"$0\r\n\r\n" * 70: [[b""] * 70],
    # Incomplete: no message and no error.
    b"*": [],
    b"*1": [],
    b"*1\r": [],
    b"*1048576\r\n": [],
    b"*1\r\n$536870912\r\nx": [],
    b"*2\r\n$4\r\nECHO\r\n$5\r\nabc": [],
    b"*1\r\n$4\r\nPING\r": [],
}

BROKEN_REQUESTS = {
    b"*\r\n": MULTIBULK,
    b"*-\r\n": MULTIBULK,
    b"*-0\r\n": MULTIBULK,
    b"*01\r\n": MULTIBULK,
    b"*02\r\n": MULTIBULK,
    b"*00\r\n": MULTIBULK,
    b"*+1\r\n": MULTIBULK,
    b"* 1\r\n": MULTIBULK,
    b"*1 \r\n": MULTIBULK,
    b"*1a\r\n": MULTIBULK,
    b"*0x1\r\n": MULTIBULK,
    b"*1.0\r\n": MULTIBULK,
    b"*--1\r\n": MULTIBULK,
    b"*-01\r\n": MULTIBULK,
    b"*1\0\r\n": MULTIBULK,
    b"*1048577\r\n": MULTIBULK,
    b"*2147483648\r\n": MULTIBULK,
    b"*4294967298\r\n": MULTIBULK,
    b"*9223372036854775807\r\n": MULTIBULK,
    b"*9223372036854775808\r\n": MULTIBULK,
    b"*-9223372036854775809\r\n": MULTIBULK,
    b"*18446744073709551617\r\n": MULTIBULK,
    b"*99999999999999999999999\r\n": MULTIBULK,
    b"*1\rX": MULTIBULK,
    b"*1\r\r\n": MULTIBULK,
    b"*1\n\r": MULTIBULK,
    b"*" + b"1" * 64 * KB: LONG_MULTIBULK,
    b"*1\r\n+4\r\n": DOLLAR,
    b"*1\r\n:1\r\n": DOLLAR,
    b"*1\r\n*1\r\n": DOLLAR,
    b"*1\r\nPING\r\n": DOLLAR,
    b"*1\r\n\0\r\n": DOLLAR,
    b"*1\r\n\r\n": DOLLAR,
    b"*1\r\n " + b"x" * 64 * KB: LONG_BULK,
    b"*1\r\n$\r\n": BULK,
    b"*1\r\n$-1\r\n": BULK,
    b"*1\r\n$-0\r\n": BULK,
    b"*1\r\n$03\r\nGET\r\n": BULK,
    b"*1\r\n$+3\r\nGET\r\n": BULK,
    b"*1\r\n$ 3\r\nGET\r\n": BULK,
    b"*1\r\n$3 \r\nGET\r\n": BULK,
    b"*1\r\n$3a\r\nGET\r\n": BULK,
    b"*1\r\n$3\0\r\nGET\r\n": BULK,
    b"*1\r\n$536870913\r\n": BULK,
    b"*1\r\n$4294967299\r\nGET\r\n": BULK,
    b"*1\r\n$18446744073709551619\r\nGET\r\n": BULK,
    b"*1\r\n$9223372036854775807\r\n": BULK,
    b"*1\r\n$9223372036854775808\r\n": BULK,
    b"*1\r\n$-9223372036854775808\r\n": BULK,
    b"*1\r\n$3\rX": BULK,
    b"*1\r\n$" + b"1" * 64 * KB: LONG_BULK,
    b"*1\r\n$4\r\nPINGPING": CRLF,
    b"*1\r\n$4\r\nPING\n\r": CRLF,
    b"*1\r\n$4\r\nPING\rX": CRLF,
    b"*1\r\n$4\r\nPINGX\n": CRLF,
    b"*2\r\n$4\r\nECHO\r\n$1\r\nab\r\n": CRLF,
    b"*2\r\n$4\r\nECHO\r\n$0\r\na\r\n": CRLF,
    b"x" * (64 * KB + 1): LONG_INLINE,
}

INLINE = {
    b"PING\r\n": [b"PING"],
    b"PING\n": [b"PING"],
    b"PING\r\r\n": [b"PING"],
    b"  GET \t k  \r\n": [b"GET", b"k"],
    b'ECHO ""\r\n': [b"ECHO", b""],
    b"ECHO ''\r\n": [b"ECHO", b""],
    b'ECHO "a b"\r\n': [b"ECHO", b"a b"],
    b"ECHO 'a b'\r\n": [b"ECHO", b"a b"],
    b'ECHO "a\'b"\r\n': [b"ECHO", b"a'b"],
    b"ECHO 'a\"b'\r\n": [b"ECHO", b'a"b'],
    rb'ECHO "\n\r\t\b\a\\\"\q"' + b"\r\n": [b"ECHO", b'\n\r\t\b\a\\"q'],
    rb'ECHO "\x00\xfF\x4g\x"' + b"\r\n": [b"ECHO", b"\0\xffx4gx"],
    rb"ECHO '\n\x41\\\''" + b"\r\n": [b"ECHO", rb"\n\x41\\'"],
    rb"ECHO \n\x41" + b"\r\n": [b"ECHO", rb"\n\x41"],
    b'ECHO a"b c"\r\n': [b"ECHO", b"ab c"],
    b"ECHO a'b c'\r\n": [b"ECHO", b"ab c"],
    b'"PING"\r\n': [b"PING"],
    b"ECHO a\vb\fc\r\n": [b"ECHO", b"a\vb\fc"],
    b"\vECHO \f x\r\n": [b"ECHO", b"x"],
    b"ECHO 'x'\vy\r\n": [b"ECHO", b"x", b"y"],
    b"ECHO \xe4\xff\r\n": [b"ECHO", b"\xe4\xff"],
    b"$4\r\n": [b"$4"],
    b"+OK\r\n": [b"+OK"],
    b" *1\r\n": [b"*1"],
    b"   \r\n": [],
    b"GET k\rx\r\n": [b"GET", b"k", b"x"],
    b'ECHO "\r\n': None,
    b"ECHO 'a\r\n": None,
    b'ECHO "a"b\r\n': None,
    b"ECHO 'a'b\r\n": None,
    b'ECHO "a""b"\r\n': None,
    b'ECHO "a\\"\r\n': None,
    b"ECHO 'a\\'\r\n": None,
    b"ECHO " + b"x" * (64 * KB - 7) + b"\r\n": [b"ECHO", b"x" * (64 * KB - 7)],
}


@pytest.mark.parametrize("data", REQUESTS, ids=name)
def test_requests_are_the_same_however_they_are_cut(data):
    check(True, data, REQUESTS[data])


@pytest.mark.parametrize("data", BROKEN_REQUESTS, ids=name)
def test_a_broken_request_gets_redis_text_however_it_is_cut(data):
    check(True, data, [], BROKEN_REQUESTS[data])


@pytest.mark.parametrize("data", INLINE, ids=name)
def test_inline_commands_are_the_same_however_they_are_cut(data):
    check(True, data, [INLINE[data]])


@pytest.mark.parametrize("data", [b"\r\n", b"\n", b"\n\n\r\n", b"\r\n*0\r\n\n"], ids=name)
def test_empty_lines_are_dropped(data):
    check(True, data, [])


def test_requests_before_a_broken_one_come_out():
    data = b"*1\r\n$4\r\nPING\r\nPING\r\n\r\n*02\r\n"
    check(True, data, [[b"PING"], [b"PING"]], MULTIBULK)


def test_a_length_line_of_64_kb_is_awaited_and_a_longer_one_is_refused():
    assert outcome(True, [b"*" + b"1" * (64 * KB - 1)]) == ([], None)
    assert outcome(True, [b"*1\r\n$" + b"1" * (64 * KB - 1)]) == ([], None)
    assert outcome(True, [b"x" * 64 * KB]) == ([], None)


def test_max_bulk_is_the_longest_argument():
    assert Framer(REDIS, True, 10).feed(b"*1\r\n$10\r\n0123456789\r\n") == [[b"0123456789"]]
    with pytest.raises(ValueError, match=BULK):
        Framer(REDIS, True, 10).feed(b"*2\r\n$1\r\na\r\n$11\r\n0123456789a\r\n")


@pytest.mark.parametrize("argument", [b"a", b"x" * 900], ids=["many", "long"])
def test_max_request_is_the_size_of_a_request(argument):
    """The size includes the bytes of the protocol."""
    words = [argument] * (850 // len(argument) or 1)
    data = hiredis.pack_command(tuple(words))
    size = len(data)
    check_with(lambda: Framer(REDIS, True, max_request=size), data * 2, [words] * 2)
    check_with(lambda: Framer(REDIS, True, max_request=size - 1), data * 2, [], TOO_BIG)


def test_a_hundred_thousand_requests_in_one_buffer():
    request = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
    assert Framer(REDIS, True).feed(request * 100_000) == [[b"GET", b"k"]] * 100_000


def test_a_request_of_a_hundred_thousand_arguments():
    data = b"*100000\r\n" + b"$1\r\na\r\n" * 100_000
    assert Framer(REDIS, True).feed(data) == [[b"a"] * 100_000]


arguments = st.lists(
    st.one_of(st.binary(max_size=40), st.binary(max_size=3).map(lambda word: word * 700)),
    min_size=1,
    max_size=8,
)


@SETTINGS
@given(st.lists(arguments, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_what_hiredis_packs_comes_back_identical(commands, rng):
    data = b"".join(hiredis.pack_command(tuple(command)) for command in commands)
    places = sorted(rng.choices(range(len(data) + 1), k=4))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert outcome(True, pieces) == (commands, None)


inline_pieces = st.sampled_from(
    [
        b"a",
        b"b c",
        b'"',
        b"'",
        b"\\",
        b"\\x",
        b"41",
        b"\\n",
        b" ",
        b"\t",
        b"\x0b",
        b"\x0c",
        b"\r",
        b"\xff",
        b'"x y" ',
        b"'x y' ",
        b'\\"',
        b"\\'",
        b"zZ",
    ]
)


def words_by_redis(path, line):
    """How a real Redis splits `line`, or None if it reports unbalanced quotes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        connection.sendall(b"EVAL 'return ARGV' 0 " + line + b"\n")
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            reader.feed(connection.recv(65536))
    if isinstance(reply, hiredis.ReplyError):
        assert str(reply) == "ERR Protocol error: unbalanced quotes in request"
        return None
    return reply


@SETTINGS
@given(st.lists(inline_pieces, max_size=8).map(b"".join))
@example(b"")
def test_words_of_inline_commands_are_those_of_a_real_redis(reference_path, line):
    [words] = Framer(REDIS, True).feed(b"EVAL 'return ARGV' 0 " + line + b"\n")
    assert (words and words[3:]) == words_by_redis(reference_path, line)


# Replies


REPLIES = [
    b"+OK\r\n",
    b"+\r\n",
    b"-ERR unknown\r\n",
    b"-ERR\r\n",
    b"-\r\n",
    b":0\r\n",
    b":-1\r\n",
    b":9223372036854775807\r\n",
    b":-9223372036854775808\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"$2\r\n\r\n\r\n",
    b"$5\r\n\0\xff\r\n$\r\n",
    b"$1000\r\n" + b"x" * 1000 + b"\r\n",
    b"$70000\r\n" + b"\r\n" * 35000 + b"\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n*-1\r\n$-1\r\n",
    b"*3\r\n:1\r\n+a\r\n$1\r\nb\r\n",
    b"*2\r\n-ERR inside\r\n*1\r\n*0\r\n",
    b"*1\r\n" * 40 + b":1\r\n",
    b"*40\r\n" + b"*1\r\n$0\r\n\r\n" * 40,
    b"%0\r\n",
    b"%2\r\n$1\r\na\r\n:1\r\n+b\r\n*1\r\n_\r\n",
    b"~0\r\n",
    b"~2\r\n:1\r\n,1.5\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"#f\r\n",
    b",0\r\n",
    b",-0\r\n",
    b",1.25\r\n",
    b",-1e-07\r\n",
    b",1.5E+300\r\n",
    b",10\r\n",
    b",5.\r\n",
    b",.5\r\n",
    b",inf\r\n",
    b",-inf\r\n",
    b",nan\r\n",
    b",-nan\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"(-1\r\n",
    b"(0\r\n",
    b"=4\r\ntxt:\r\n",
    b"=15\r\ntxt:Some string\r\n",
    b"=6\r\nmkd:\r\n\r\n",
    b"!0\r\n\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"|1\r\n+key-popularity\r\n%1\r\n$1\r\na\r\n,0.19\r\n*2\r\n:1\r\n:2\r\n",
    b"|0\r\n:1\r\n",
    b"|1\r\n+a\r\n+b\r\n|1\r\n+c\r\n+d\r\n$-1\r\n",
    b"*2\r\n:1\r\n|1\r\n+ttl\r\n:3600\r\n:3\r\n",
    b"%1\r\n|1\r\n+a\r\n+b\r\n+k\r\n|1\r\n+a\r\n+b\r\n+v\r\n",
    b"|1\r\n|1\r\n+in\r\n+side\r\n+a\r\n+b\r\n:1\r\n",
    b">0\r\n",
    b">2\r\n+message\r\n*1\r\n$1\r\nx\r\n",
]

INCOMPLETE_REPLIES = [
    b"+",
    b"+OK\r",
    b":",
    b":-",
    b":1\r",
    b"$",
    b"$-",
    b"$3\r\nab",
    b"$3\r\nabc\r",
    b"*2\r\n:1\r\n",
    b"*4294967295\r\n",
    b"$1099511627776\r\n",
    b"%1\r\n+a\r\n",
    b"|1\r\n+a\r\n+b\r\n",
    b"|1\r\n+a\r\n",
    b"*1\r\n" * 100_000,
    b":1\n",
    b":1\r\r",
    b"(abc\r",
]

NUMBER = "malformed length"
TYPE = "unknown type"
NO_CRLF = "bulk without CR LF"
LENGTH = "invalid bulk length"
AGGREGATE = "invalid aggregate length"
PUSH = "push inside a reply"

BROKEN_REPLIES = {
    b"\r\n": TYPE,
    b"\0": TYPE,
    b"OK\r\n": TYPE,
    b"?1\r\n": TYPE,
    b";4\r\n": TYPE,
    b".\r\n": TYPE,
    b"*1\r\nOK\r\n": TYPE,
    b"$?\r\n": NUMBER,
    b"*?\r\n": NUMBER,
    b"$\r\n": NUMBER,
    b"$03\r\nabc\r\n": NUMBER,
    b"$+3\r\nabc\r\n": NUMBER,
    b"$ 3\r\nabc\r\n": NUMBER,
    b"$3a\r\nabc\r\n": NUMBER,
    b"$18446744073709551619\r\nabc\r\n": NUMBER,
    b"$3\rXabc\r\n": NUMBER,
    b"*\r\n": NUMBER,
    b"*02\r\n": NUMBER,
    b"%+1\r\n": NUMBER,
    b"~1a\r\n": NUMBER,
    b"|-\r\n": NUMBER,
    b">x\r\n": NUMBER,
    b"$-2\r\n": LENGTH,
    b"$9223372036854775807\r\n": LENGTH,
    b"$1099511627777\r\n": LENGTH,
    b"!-1\r\n": LENGTH,
    b"=-1\r\n": LENGTH,
    b"*-2\r\n": AGGREGATE,
    b"*4294967296\r\n": AGGREGATE,
    b"*9223372036854775807\r\n": AGGREGATE,
    b"%-1\r\n": AGGREGATE,
    b"~-1\r\n": AGGREGATE,
    b">-1\r\n": AGGREGATE,
    b"|-1\r\n": AGGREGATE,
    b"$3\r\nabcde": NO_CRLF,
    b"$3\r\nabc\n\r": NO_CRLF,
    b"$0\r\na\r": NO_CRLF,
    b"*1\r\n$3\r\nabcd\r\n": NO_CRLF,
    b"*1\r\n>1\r\n+a\r\n": PUSH,
    b"*2\r\n:1\r\n>0\r\n": PUSH,
    b">1\r\n>0\r\n": PUSH,
    b"|1\r\n+a\r\n>0\r\n": PUSH,
}


# Correctly framed, but with a text that does not match the type. Scripts can send all of these.
ODD_REPLIES = [
    b":\r\n",
    b":-\r\n",
    b":+1\r\n",
    b":01\r\n",
    b":-0\r\n",
    b":1.5\r\n",
    b": 1\r\n",
    b":1 \r\n",
    b":9223372036854775808\r\n",
    b":-9223372036854775809\r\n",
    b":18446744073709551617\r\n",
    b"=3\r\ntxt\r\n",
    b"=4\r\nabcd\r\n",
    b"+a\rb\r\n",
    b"+a\nb\r\n",
    b"-ERR a\nb\r\n",
    b"+a\r\r\n",
    b"_x\r\n",
    b"#\r\n",
    b"#T\r\n",
    b"#tt\r\n",
    b"#1\r\n",
    b",\r\n",
    b",-\r\n",
    b",.\r\n",
    b",+1\r\n",
    b", 1\r\n",
    b",1 \r\n",
    b",1e\r\n",
    b",1e+\r\n",
    b",e5\r\n",
    b",0x1\r\n",
    b",1,5\r\n",
    b",INF\r\n",
    b",infinity\r\n",
    b"(\r\n",
    b"(-\r\n",
    b"(+1\r\n",
    b"(1.5\r\n",
    b"(1e5\r\n",
    b"(abc\r\n",
    b"=0\r\n\r\n",
    b"*2\r\n(a\rb\r\n,\n\r\n",
]


@pytest.mark.parametrize("data", ODD_REPLIES, ids=name)
def test_the_text_of_a_reply_does_not_determine_where_it_ends(data):
    check(False, data, [data])
    check(False, b"*1\r\n" + data + b"+OK\r\n", [b"*1\r\n" + data, b"+OK\r\n"])


@pytest.mark.parametrize("data", REPLIES, ids=name)
def test_replies_are_the_same_however_they_are_cut(data):
    check(False, data, [data])


def test_replies_in_one_buffer_come_out_one_by_one():
    check(False, b"".join(REPLIES), REPLIES)


@pytest.mark.parametrize("data", INCOMPLETE_REPLIES, ids=name)
def test_an_incomplete_reply_is_awaited(data):
    check(False, data, [])


@pytest.mark.parametrize("data", BROKEN_REPLIES, ids=name)
def test_a_broken_reply_is_an_error_however_it_is_cut(data):
    check(False, data, [], BROKEN_REPLIES[data])
    check(False, b":1\r\n" + data, [b":1\r\n"], BROKEN_REPLIES[data])


def test_a_reply_of_any_depth_and_of_many_elements():
    data = b"*2\r\n+a\r\n" * 50_000 + b"*100000\r\n" + b":1\r\n" * 100_000
    assert outcome(False, [data, data]) == ([data, data], None)


# hiredis as the oracle. It gets no attributes, because it counts them as separate elements.


line_text = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20).map(
    lambda text: text.encode("latin-1")
)
integers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, -1, 2**63 - 1, -(2**63), 2**32, -(2**31)]),
)


def bulk(kind, data):
    return b"%b%d\r\n%b\r\n" % (kind, len(data), data)


def aggregate(kind, elements, per_element=1):
    return b"%b%d\r\n%b" % (kind, len(elements) // per_element, b"".join(elements))


# hiredis uses these as dict keys, so they must be hashable in Python.
key_elements = st.one_of(
    line_text.map(lambda text: b"+%b\r\n" % text),
    integers.map(lambda value: b":%d\r\n" % value),
    st.binary(max_size=30).map(lambda data: bulk(b"$", data)),
)
leaf_elements = st.one_of(
    key_elements,
    line_text.map(lambda text: b"-%b\r\n" % text),
    st.sampled_from(
        [
            b"$-1\r\n",
            b"*-1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b"#f\r\n",
            b",inf\r\n",
            b",-inf\r\n",
            b",nan\r\n",
            b"*0\r\n",
            b"%0\r\n",
            b"~0\r\n",
            b"$0\r\n\r\n",
        ]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: b",%r\r\n" % value),
    st.integers(-(10**60), 10**60).map(lambda value: b"(%d\r\n" % value),
    st.binary(max_size=30).map(lambda data: bulk(b"=", b"txt:" + data)),
)
elements = st.recursive(
    leaf_elements,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(lambda items: aggregate(b"*", items)),
        st.lists(inner, max_size=5).map(lambda items: aggregate(b"~", items)),
        st.lists(st.tuples(key_elements, inner).map(b"".join), max_size=4).map(
            lambda items: aggregate(b"%", items)
        ),
    ),
    max_leaves=15,
)
replies = st.one_of(
    elements, st.lists(elements, max_size=4).map(lambda items: aggregate(b">", items))
)


def by_hiredis(data):
    """The number of replies that hiredis finds in `data`, and its error after them, or None."""
    more = object()
    reader = hiredis.Reader(notEnoughData=more)
    reader.feed(data)
    count = 0
    try:
        while reader.gets() is not more:
            count += 1
    except hiredis.ProtocolError as error:
        return count, str(error)
    return count, None


@SETTINGS
@given(st.lists(replies, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_generated_replies_are_framed_as_encoded_and_as_hiredis_reads_them(frames, rng):
    data = b"".join(frames)
    places = sorted(rng.choices(range(len(data) + 1), k=4))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert outcome(False, pieces) == (frames, None)
    # Without its last byte a reply is incomplete, so hiredis ends each one at its encoded end.
    for frame in frames:
        assert by_hiredis(frame[:-1]) == (0, None)
        assert by_hiredis(frame) == (1, None)


# Replies that nutproxy refuses and hiredis accepts: nutproxy's error and the reason.
STRICTER = {
    NO_CRLF: "hiredis skips the two bytes after a bulk; if they are not CR LF, the length is wrong",
    PUSH: "a push is a separate message; inside a reply it would be taken for an element",
    AGGREGATE: "hiredis reads -1 as null for every aggregate; RESP allows it only for arrays",
    LENGTH: "hiredis reads =-1 as null; RESP allows it only for $. No server sends a terabyte",
}
# Replies that hiredis refuses and nutproxy forwards: the error of hiredis and the reason.
LOOSER = {
    'Protocol error, got "!" as reply type byte': "hiredis does not know RESP3's blob errors",
    **dict.fromkeys(
        (
            "Bad simple string value",
            "Bad integer value",
            "Bad double value",
            "Double value is too large",
            "Bad bignum value",
            "Bad bool value",
            "Bad nil value",
            "Verbatim string 4 bytes of content type are missing or incorrectly encoded.",
        ),
        "hiredis checks the text of a line; forwarding it is harmless",
    ),
}


def mutations(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        byte = rng.choice(b"\r\n+-:$*%~_#,(=!>0123456789a\0\xff")
        if kind == 0:
            data[at : at + 1] = bytes([byte])
        elif kind == 1:
            data[at:at] = bytes([byte])
        elif kind == 2:
            del data[at : at + 1]
        else:
            del data[at:]
    return bytes(data)


@settings(SETTINGS, max_examples=1000)
@given(st.lists(replies, min_size=1, max_size=3).map(b"".join), st.randoms(use_true_random=False))
def test_mutated_replies_are_judged_as_by_hiredis(data, rng):
    check_against_hiredis(mutations(rng, data))


def check_against_hiredis(data):
    """Check that `data` has as many replies as hiredis finds, and an error if hiredis reports one,
    except for STRICTER and LOOSER."""
    try:
        count, error = by_hiredis(data)
    except (TypeError, MemoryError):
        # hiredis has no result for keys that Python cannot hash and aggregates larger than memory.
        return
    found, our_error = outcome(False, [data])
    if our_error == NUMBER and error is None:
        # nutproxy reports the first wrong byte. hiredis only checks a line when it is complete.
        count, error = by_hiredis(data + b"\r\n")
    if our_error in STRICTER and (error is None or len(found) < count):
        return
    if error in LOOSER and len(found) >= count:
        return
    assert (len(found), our_error is None) == (count, error is None), (data, our_error, error)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"$1\r\naXY", NO_CRLF),
        (b"*1\r\n>1\r\n+a\r\n", PUSH),
        (b"%-1\r\n", AGGREGATE),
        (b"=-1\r\n", LENGTH),
    ],
)
def test_replies_that_nutproxy_refuses_and_hiredis_accepts(data, error):
    assert error in STRICTER
    assert by_hiredis(data)[1] is None
    assert outcome(False, [data]) == ([], error)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"!3\r\nERR\r\n", 'Protocol error, got "!" as reply type byte'), (b",1e999\r\n", None)],
)
def test_replies_that_hiredis_refuses_and_nutproxy_forwards(data, error):
    assert by_hiredis(data)[1] == (error or "Bad double value")
    assert by_hiredis(data)[1] in LOOSER
    assert outcome(False, [data]) == ([data], None)
