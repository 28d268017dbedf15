# tests/isolation/test_large_requests.py: what one request costs the clients of other pools
"""For each row of both command tables: one request with a million arguments and one with an
argument of 64 MB, while an innocent client of another pool sends one PING after another.

The wait of a PING is measured as the processor time that the proxy uses between its request and its
reply. That does not depend on how busy the machine is.

`make isolation` tests every row, which takes some minutes. Otherwise only one row of each kind is
tested; rows of one kind take the same path through the proxy.
"""

import contextlib
import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from nutproxy.proto.commands import COMMANDS, LIMITS, Behaviour
from nutproxy.proto.memcache_commands import COMMANDS as MEMCACHE_COMMANDS
from nutproxy.proto.memcache_commands import Kind
from tests.binary import Op, counting, request
from tests.client import Client, send_all
from tests.integration.conftest import mc_pool, pool
from tests.scripted import bulk
from tests.servers import MemcachedServer, NutproxyServer, RedisServer, closed_ports, connect

ALL_ROWS = bool(os.environ.get("NUTPROXY_ALL_ROWS"))
ARGUMENTS = 1_000_000
LARGE = 64 << 20
LIMIT = 0.050  # seconds
ATTEMPTS = 3

# Numbers, so that they are valid counts. With a hash tag for commands that need one server.
APART = b"".join(b"$7\r\n%07d\r\n" % number for number in range(ARGUMENTS))
TOGETHER = b"".join(b"$9\r\n{a}%06d\r\n" % number for number in range(ARGUMENTS))
WORDS = b" ".join(b"%07d" % number for number in range(ARGUMENTS))


def kind_of(row):
    """Rows of one kind take the same path through the proxy."""
    spec = row.keys[0] if row.keys else None
    where = spec and (spec.begin, spec.find, spec.lastkey == 0, len(row.keys))
    name = row.name if row.behaviour is Behaviour.LOCAL else ""
    kind = row.behaviour, row.operation, row.arity > 0
    return *kind, row.response_policy, where, name, " " in row.name


def chosen(rows, kind):
    """All rows, or the first row of each kind."""
    return list(rows) if ALL_ROWS else list({kind(row): row for row in reversed(rows)}.values())


REDIS_ROWS = {row.name: row for row in chosen([*COMMANDS.values()], kind_of)}
MEMCACHE_ROWS = chosen([*MEMCACHE_COMMANDS], lambda name: MEMCACHE_COMMANDS[name].kind)


class Arena:
    """Pools under attack, and the pool `other`, whose client only sends PING."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            redis = [stack.enter_context(RedisServer()) for _ in range(3)]
            memcached = [stack.enter_context(MemcachedServer()) for _ in range(2)]
            ports = stack.enter_context(closed_ports(100))
            self.proxy = stack.enter_context(
                NutproxyServer(
                    pool("redis", redis)
                    + mc_pool("memcached", memcached)
                    + mc_pool("many", [SimpleNamespace(port=port) for port in ports])
                    + pool("one", redis[:1])
                    + pool("other", redis[:1])
                )
            )
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def processor_time(self):
        """The processor time of the proxy in seconds: clock_getcpuclockid of its process."""
        return time.clock_gettime((~self.proxy.worker_pid << 3) | 2)

    @contextlib.contextmanager
    def innocent(self):
        """Yields a list, which gets the longest wait of a PING when the context ends."""
        over, ready, waits = threading.Event(), threading.Event(), []

        def run():
            longest = 0.0
            with Client(self.proxy.ports["other"]) as client:
                while not over.is_set():
                    begun = self.processor_time()
                    if client("PING") != b"PONG":
                        return
                    longest = max(longest, self.processor_time() - begun)
                    ready.set()
            waits.append(longest)

        thread = threading.Thread(target=run)
        thread.start()
        ready.wait()
        try:
            yield waits
        finally:
            over.set()
            thread.join()

    def longest_wait(self, protocol, *parts):
        """The longest wait of a PING while this request is sent and answered. Blocking of the loop
        repeats; a pause of this process, during which the proxy works on, does not. So a long wait
        must occur in every attempt."""
        for _ in range(ATTEMPTS):
            longest = self.longest_wait_once(protocol, *parts)
            if longest < LIMIT:
                break
        return longest

    def longest_wait_once(self, protocol, *parts):
        with self.innocent() as waits, connect(self.proxy.ports[protocol]) as connection:

            def send():
                # The proxy may close the connection before it has read everything.
                with contextlib.suppress(ConnectionError):
                    for part in parts:
                        send_all(connection, part)
                    connection.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            received = False
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1 << 20):
                    received = True
            sender.join()
        # CLIENT REPLY and quit get no reply.
        assert received or parts[0].split()[-1].lower() in (b"reply", b"quit")
        return waits[0]


@pytest.fixture(scope="module")
def arena():
    with Arena() as arena:
        yield arena


def head(row, count):
    """The beginning of a request with `count` arguments, and how many arguments must follow."""
    words = row.name.encode().split()
    text = b"*%d\r\n" % count + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    spec = row.keys[0] if row.keys else None
    left = count - len(words)
    if spec and spec.find == "keynum" and spec.begin == "index":
        # Nearly all arguments are keys.
        filled = spec.pos + spec.keynumidx - len(words)
        text += b"$1\r\n1\r\n" * filled
        number = b"%d" % (left - filled - 10)
        text += b"$%d\r\n%b\r\n" % (len(number), number)
        left -= filled + 1
    return text, left


@pytest.mark.measures
@pytest.mark.parametrize("name", REDIS_ROWS)
def test_a_redis_command_with_a_million_arguments_holds_up_no_other_pool(arena, name):
    row = REDIS_ROWS[name]
    begun, left = head(row, ARGUMENTS)
    words = TOGETHER if row.behaviour is Behaviour.FORWARD else APART
    size = len(words) // ARGUMENTS
    assert arena.longest_wait("redis", begun, words[: left * size]) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize(
    "name", [name for name, row in REDIS_ROWS.items() if row.behaviour in LIMITS]
)
def test_the_longest_request_that_is_not_refused_holds_up_no_other_pool(arena, name):
    row = REDIS_ROWS[name]
    begun, left = head(row, LIMITS[row.behaviour].args)
    assert arena.longest_wait("redis", begun, APART[: left * (len(APART) // ARGUMENTS)]) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("name", REDIS_ROWS)
def test_a_redis_command_with_an_argument_of_64_mb_holds_up_no_other_pool(arena, name):
    row = REDIS_ROWS[name]
    count = max(abs(row.arity), len(name.split()) + 1)
    begun, left = head(row, count)
    if left < 1:
        begun, left = head(row, count + 1)
    large = b"$%d\r\n" % LARGE + bytes(LARGE) + b"\r\n"
    assert arena.longest_wait("redis", begun, b"$1\r\n1\r\n" * (left - 1), large) < LIMIT
    if left > 1:
        assert arena.longest_wait("redis", begun, large, b"$1\r\n1\r\n" * (left - 1)) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("begun", [b"*1000000\r\n", b"*1000000\r\n$3\r\nfoo\r\n", b"x"])
def test_what_is_not_a_command_holds_up_no_other_pool(arena, begun):
    assert arena.longest_wait("redis", begun, APART) < LIMIT
    large = b"$%d\r\n" % LARGE + bytes(LARGE) + b"\r\n"
    assert arena.longest_wait("redis", b"*2\r\n", large * 2) < LIMIT
    assert arena.longest_wait("redis", b"*2\r\n$3\r\nfoo\r\n", large) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize(
    "command", [b"CLIENT INFO", b"INFO memory", b"HELLO 3", b"CLIENT LIST ID 1", b"foo", b"LOLWUT"]
)
def test_a_pipeline_of_commands_that_the_proxy_answers_holds_up_no_other_pool(arena, command):
    assert arena.longest_wait("redis", command + b"\r\n", (command + b"\r\n") * 20_000) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("line", [b"stats\r\n", b"stats servers\r\n"])
def test_a_pipeline_of_memcached_commands_that_the_proxy_answers_holds_up_no_other_pool(
    arena, line
):
    assert arena.longest_wait("many", line, line * 3_000) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("count", [15, 300])
@pytest.mark.parametrize("command", [b"DEL", b"MGET", b"SUNION", b"PFCOUNT"])
def test_many_keys_of_a_megabyte_hold_up_no_other_pool(arena, command, count):
    begun = b"*%d\r\n" % (count + 1) + bulk(command)
    # Commands for one server only take keys that belong to it: here the same one again and again.
    split = command in (b"DEL", b"MGET")
    keys = [bulk(b"%d " % (number * split) + bytes(1_000_000)) for number in range(count)]
    assert arena.longest_wait("redis", begun, *keys) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize(("count", "size"), [(2, 200_000_000), (20, 5_000_000), (800, 100_000)])
def test_large_values_of_one_request_are_not_copied_for_their_servers(arena, count, size):
    value = bulk(bytes(size))
    pairs = [bulk(b"large%d" % number) + value for number in range(count)]
    request = b"*%d\r\n" % (1 + 2 * count) + bulk(b"MSET")
    assert arena.longest_wait("redis", request, *pairs) < LIMIT
    assert arena.longest_wait("redis", b"FLUSHALL\r\n") < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("command", [b"SINTERSTORE", b"SORT"])
def test_keys_are_not_hashed_in_a_pool_of_one_server(arena, command):
    words = [command, bytes(LARGE), *([b"STORE"] if command == b"SORT" else []), bytes(LARGE)]
    assert arena.longest_wait("one", b"*%d\r\n" % len(words), *map(bulk, words)) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("name", MEMCACHE_ROWS)
def test_a_memcached_command_with_a_million_words_holds_up_no_other_pool(arena, name):
    first = b" 0 " if MEMCACHE_COMMANDS[name].kind is Kind.GAT else b" "
    line = name.encode() + first + WORDS + b"\r\n"
    assert arena.longest_wait("memcached", line) < LIMIT
    # The most words that are accepted.
    assert arena.longest_wait("memcached", line[: 8 * 262_000] + b"\r\n") < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize("name", MEMCACHE_ROWS)
def test_a_memcached_command_with_a_word_or_a_value_of_64_mb_holds_up_no_other_pool(arena, name):
    assert arena.longest_wait("memcached", name.encode() + b" ", bytes(LARGE) + b"\r\n") < LIMIT
    large = bytes(LARGE) + b"\r\n"
    if name == "ms":
        assert arena.longest_wait("memcached", b"ms k %d\r\n" % LARGE, large) < LIMIT
    elif MEMCACHE_COMMANDS[name].kind is Kind.STORE:
        line = b"%b k 0 0 %d%b\r\n" % (name.encode(), LARGE, b" 1" if name == "cas" else b"")
        assert arena.longest_wait("memcached", line, large) < LIMIT


# Memcached's binary protocol: an opcode of each form, with the length of its extras.
OPCODES = {
    Op.GET: 0,
    Op.GETKQ: 0,
    Op.GATKQ: 4,
    Op.TOUCH: 4,
    Op.SETQ: 8,
    Op.APPENDQ: 0,
    Op.DELETEQ: 0,
    Op.INCREMENTQ: 20,
    Op.NOOP: 0,
    Op.FLUSHQ: 0,
    Op.VERSION: 0,
    Op.STAT: 0,
    0x30: 0,
}
WITHOUT_KEY = (Op.NOOP, Op.FLUSHQ, Op.VERSION, Op.STAT)


def binary_request(opcode, key):
    extras = counting() if opcode == Op.INCREMENTQ else bytes(OPCODES[opcode])
    value = b"v" if opcode in (Op.SETQ, Op.APPENDQ) else b""
    return request(opcode, b"" if opcode in WITHOUT_KEY else key, value, extras=extras)


@pytest.mark.measures
@pytest.mark.parametrize("opcode", OPCODES, ids=lambda opcode: f"{int(opcode):02x}")
def test_many_requests_of_the_binary_protocol_hold_up_no_other_pool(arena, opcode):
    count = 3_000 if opcode == Op.STAT else 50_000
    sent = b"".join(binary_request(opcode, b"%07d" % number) for number in range(count))
    assert arena.longest_wait("memcached", sent, request(Op.NOOP)) < LIMIT
    if opcode == Op.STAT:
        assert arena.longest_wait("many", sent, request(Op.NOOP)) < LIMIT
    elif opcode in (Op.GETKQ, Op.GATKQ):
        # Keys that no line of text can carry.
        sent = b"".join(binary_request(opcode, b"a b%07d" % number) for number in range(count))
        assert arena.longest_wait("memcached", sent, request(Op.NOOP)) < LIMIT


@pytest.mark.measures
@pytest.mark.parametrize(
    "opcode", [Op.SET, Op.ADDQ, Op.APPEND, Op.GAT, Op.STAT, Op.SASL_AUTH, 0x30]
)
@pytest.mark.parametrize("size", [900_000, LARGE])
def test_a_binary_request_with_a_long_body_holds_up_no_other_pool(arena, opcode, size):
    extras = {Op.SET: 8, Op.ADDQ: 8, Op.GAT: 4}.get(opcode, 0)
    head = request(opcode, b"k", extras=bytes(extras), body_length=extras + 1 + size)
    assert arena.longest_wait("memcached", head, bytes(size), request(Op.NOOP)) < LIMIT
