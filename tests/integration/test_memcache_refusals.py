"""Memcached lines that are followed by a data block: does nutproxy accept and refuse the same lines
as memcached, and what happens to the block?

The block is the command `flush_all`. If it is run as a command, the reply is OK, and the server is
empty. The same lines are sent to a memcached directly and to others through nutproxy, and the
replies and the state are compared. memcached up to 1.6.39 runs the block of a line that it refuses,
and later versions skip it. nutproxy always skips it. A line has no block only if no version of
memcached accepts its length.
"""

import itertools
import random

import pytest

from tests.integration.conftest import mc_pool
from tests.memcache import MemcacheClient
from tests.scripted import ScriptedMemcached
from tests.servers import MemcachedServer, NutproxyServer

BLOCK = b"flush_all"
RAN = b"OK\r\n"
OTHER = b"VALUE other 0 4\r\ngood\r\n"
LAST = b"set last 0 0 4\r\nlast\r\nget last\r\n"
LAST_REPLY = b"VALUE last 0 4\r\nlast\r\nEND\r\n"

# <k> is an existing key, except for add.
LINES = {
    b"set": b"set <k> 5 0 9",
    b"add": b"add <k> 5 0 9",
    b"replace": b"replace <k> 5 0 9",
    b"append": b"append <k> 5 0 9",
    b"prepend": b"prepend <k> 5 0 9",
    b"cas": b"cas <k> 5 0 9 1",
    b"ms": b"ms <k> 9 T0 F5",
}
LENGTH = {b"ms": 2}  # the index of the length; 4 for the others

AROUND = (0, 2**31, 2**32, 2**63, 2**64)
NUMBERS = [
    *(b"%d" % (sign * bound + off) for bound in AROUND for off in (-1, 0, 1) for sign in (1, -1)),
    *(
        b"%d" % (2**33 + 9),
        b"%d" % -(2**32 - 9),
        b"9" * 19,
        b"9" * 40,
        b"0" * 30,
        b"+0",
        b"-",
        b"+",
    ),
    *(
        b"x",
        b"0x9",
        b"1e3",
        b"1.5",
        b"7x",
        b"--7",
        b"\t7",
        b"7\t",
        b"7\r8",
        b"7\x7f",
        b"\x0b",
        b"\xff",
    ),
]
KEYS = [
    *(
        b"a\tb",
        b"\x01",
        b"u\x7f",
        b"\x1b[2J",
        b"a\rb",
        b"c\r",
        b"\r",
        b"\xff\xfe",
        b"\x80",
        b"noreply",
    ),
    *(b"x" * 249, b"x" * 250, b"x" * 251, b"x" * 1000, b"\t" * 250, b"\t" * 251),
]
FLAGS = [
    *(b"F%b" % number for number in NUMBERS),
    *(b"T%b" % number for number in NUMBERS if number != b"1"),
    *(b"C%b" % number for number in NUMBERS),
    *(b"M", b"MX", b"ME", b"MR", b"M%d" % 7, b"O", b"O\x7f", b"O\tx", b"O" + b"x" * 31),
    *(b"O" + b"x" * 32, b"O" + b"x" * 33, b"b", b"!", b"\x01", b"\x7f", b"\xff", b"~", b"1", b"_"),
    *(
        b"T0 T0",
        b"! !",
        b"T0 T0 !",
        b"b b",
        b"I",
        b"k",
        b"k k",
        b"q",
        b"q q",
        b"v",
        b"N1000",
        b"Nx",
    ),
    *(b"Z", b" ".join([b"k"] * 14), b" ".join([b"k"] * 40)),
]
# In 32 bits, these are short lengths, or lengths that announce no block.
LENGTHS = [
    *(b"%d" % (times * 2**32 + left) for times in (1, -1, 7, 2**30) for left in (0, 5, 9, 13)),
    *(
        b"9",
        b"+9",
        b"0009",
        b"0" * 20 + b"9",
        b"\t9",
        b"9\t",
        b"9\rx",
        b"-0",
        b"0",
        b"00",
        b"8",
        b"10",
    ),
    *(b"-1", b"-9", b"%d" % (2**31 - 2), b"%d" % (2**31 - 1), b"%d" % 2**31, b"%d" % (2**32 - 1)),
    *(b"%d" % (2**63 - 1), b"%d" % 2**63, b"%d" % -(2**63), b"%d" % 2**64, b"x", b"9x", b"-", b"+"),
    *(b"0x9", b"9.", b"--9", b"\xb9", b"\x0b", b"9" * 40),
]


def with_word(line, index, word):
    words = line.split(b" ")
    words[index] = word
    return b" ".join(words)


def fields(name):
    """The values to try for the words of its line, by index, without the length."""
    if name == b"ms":
        return {1: KEYS, 3: FLAGS}
    return {1: KEYS, 2: NUMBERS, 3: NUMBERS} | ({5: NUMBERS} if name == b"cas" else {})


def table():
    """Every field of every command with each of its values, and lines with too many words."""
    for name, line in LINES.items():
        for index, words in fields(name).items():
            for word in words:
                yield with_word(line, index, word)
                if name != b"ms":
                    yield with_word(line, index, word) + b" noreply"
        for more in (b" x", b" noreply noreply", b" noreply x", b" x x x"):
            if name != b"ms":
                yield line + more
    yield b"cas <k> 5 0 9"


def at_random(count, seed):
    draw = random.Random(seed)
    letters = [byte for byte in range(1, 256) if byte not in b" \n"]

    def junk():
        return bytes(draw.choices(letters, k=draw.choice([1, 2, 3, 20, 250, 251])))

    def number():
        value = draw.choice([1, -1]) * (
            draw.getrandbits(draw.choice([8, 31, 33, 62, 64, 66])) + 200
        )
        text = b"%d" % value
        return draw.choice(
            [text, text, text, b"+" + text, b"\t" + text, text + b"\x0b", b"0" + text]
        )

    for _ in range(count):
        name, line = draw.choice(list(LINES.items()))
        index = draw.choice(list(fields(name)))
        word = junk() if index == 1 or draw.random() < 0.2 else number()
        if name == b"ms" and index == 3:
            word = draw.choice([b"F", b"T", b"C", b"M", b"O", b"J", b"D", b"N", b"R", b""]) + word
        last = draw.choice([b"", b"", b" noreply"]) if name != b"ms" else b""
        yield with_word(line, index, word) + last


def is_safe(line):
    """Do both sides send the same replies? A first flag `c` shows a number that counts up. An
    exptime below 100 might pass meanwhile, so random numbers are larger."""
    return not (line.startswith(b"ms") and line.split(b" ")[3][:1] == b"c")


def converse(port, requests, last):
    """All bytes received for these requests, which are sent at once, up to the reply to `last`."""
    received = bytearray()
    with MemcacheClient(port) as client:
        client.send_bytes(requests + LAST)
        while not received.endswith(LAST_REPLY):
            received += client.socket.recv(1 << 20) or b"closed" + LAST_REPLY
    return bytes(received)


def case(number, line):
    """The line with its block, after requests that set the state and before those that read it."""
    key = b"k%d" % number
    line = line.replace(b"<k>", key)
    tested = line.split(b" ")[1]
    before = b"" if line.startswith(b"add") else b"set %b 0 0 1\r\nv\r\n" % key
    before = b"flush_all\r\n" + before + b"set other 0 0 4\r\ngood\r\nmn\r\n"
    keys = [key, b"other"] + [tested] * (tested != key and len(tested) <= 250)
    return before + line + b"\r\n%b\r\nmn\r\nget %b\r\nmn\r\n" % (BLOCK, b" ".join(keys)), key


def refused(line, key, replies, state):
    """The replies and the state that nutproxy must have. This memcached may have run the block."""
    if not replies.endswith(RAN):
        return replies, state
    kept = b"" if line.startswith(b"add") else b"VALUE %b 0 1\r\nv\r\n" % key
    return replies.removesuffix(RAN), kept + OTHER + b"END\r\n"


@pytest.fixture(scope="module")
def ports():
    """The ports of a memcached, and of nutproxy with two others."""
    with (
        MemcachedServer() as direct,
        MemcachedServer() as one,
        MemcachedServer() as two,
        NutproxyServer(mc_pool("alpha", [one, two])) as proxy,
    ):
        yield direct.port, proxy.port


def compare(ports, lines):
    lines = [line for line in lines if is_safe(line)]
    for start in range(0, len(lines), 100):
        cases = [case(start + index, line) for index, line in enumerate(lines[start : start + 100])]
        requests = b"".join(request for request, _ in cases)
        direct, proxied = (converse(port, requests, LAST).split(b"MN\r\n") for port in ports)
        assert len(direct) == 3 * len(cases) + 1
        assert len(proxied) == len(direct), find_shift(proxied, cases)
        for index, (_, key) in enumerate(cases):
            line = lines[start + index]
            replies, state = direct[3 * index + 1 : 3 * index + 3]
            wanted = refused(line, key, replies, state)
            found = tuple(proxied[3 * index + 1 : 3 * index + 3])
            assert found == wanted, line


def find_shift(proxied, cases):
    """The first case that does not have three replies."""
    return next(
        (
            request
            for at, (request, _) in enumerate(cases)
            if not proxied[3 * at + 2].endswith(b"END\r\n")
        ),
        None,
    )


def test_every_field_is_taken_or_refused_as_memcached_does_and_no_block_is_run(ports):
    compare(ports, list(table()))


@pytest.mark.parametrize("seed", range(4))
def test_random_lines_are_taken_or_refused_as_memcached_does(ports, seed):
    compare(ports, list(at_random(2500, seed)))


@pytest.mark.parametrize("name", LINES)
def test_a_length_is_read_as_memcached_reads_it(ports, name):
    """A wrong length, too: what follows must then be read from the same place."""
    index = LENGTH.get(name, 4)
    for word, last in itertools.product(LENGTHS, (b"", b" noreply")):
        if last and name == b"ms":
            continue
        line = with_word(LINES[name], index, word) + last
        request, _ = case(0, line)
        request = b"flush_all\r\n" + request + b"\r\n" * 3
        direct, proxied = (converse(port, request, LAST) for port in ports)
        assert proxied == direct, line


def test_a_value_above_the_servers_bound_is_skipped(ports):
    value = BLOCK + b"\r\n" + b"x" * 1_200_000
    request = b"set large 0 0 %d\r\n%b\r\nms large %d\r\n%b\r\n" % (
        len(value),
        value,
        len(value),
        value,
    )
    direct, proxied = (converse(port, request, LAST) for port in ports)
    assert proxied == direct


def test_the_block_of_a_denied_line_is_skipped():
    deny = ", ".join(name.decode() for name in LINES if name != b"set")
    with (
        MemcachedServer() as server,
        NutproxyServer(mc_pool("alpha", [server], deny_commands=f"[{deny}]")) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        assert client(b"set other 0 0 4", b"good") == b"STORED\r\n"
        for name, line in LINES.items():
            if name != b"set":
                denied = b"CLIENT_ERROR '%b' is denied by deny_commands of pool 'alpha'\r\n" % name
                assert client(line.replace(b"<k>", b"k"), BLOCK) == denied
        assert client(b"get other") == OTHER + b"END\r\n"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"set k 0 0 +3\r\nabc\r\n", b"set k 0 0  3\r\nabc\r\n"),
        (
            b"set k 0 0 0000000000000003 noreply\r\nabc\r\n",
            b"set k 0 0                3        \r\nabc\r\n",
        ),
        (b"cas k 0 0 4294967299 1\r\nabc\r\n", b"cas k 0 0          3 1\r\nabc\r\n"),
        (b"ms k 3\t T0\r\nabc\r\n", b"ms k  3 T0\r\nabc\r\n"),
        (b"delete noreply\r\n", b"delete noreply 0\r\n"),
    ],
)
def test_lines_that_later_versions_read_differently_are_written_in_a_form_that_all_read(line, seen):
    """memcached from 1.6.40 on refuses these lengths without skipping the block, and never replies
    to this delete. The next reply would go to the wrong client."""
    got = []

    def script(session):
        session.lines.readline()
        session.send(b"VERSION 1.6.45\r\n")
        got.append(session.lines.read(len(seen)))
        session.send(b"ERROR\r\n")
        session.lines.readline()

    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        client.send_bytes(line + b"mn\r\n")
        while b"MN\r\n" not in client.reader.buffer:
            client.receive()
    assert got == [seen]
