# tests/isolation/attacks.py: harmful clients and servers, malicious or not
"""Each attack is a function of an Arena (see innocents.py). It is called repeatedly while innocent
clients work. Where it matters, the attack also checks the replies to the attacker. It leaves the
servers in the state in which it found them. `ATTACKS` has the attacks by name."""

import base64
import contextlib
import random
import socket
import ssl
import struct
import threading

from tests import binary
from tests.binary import NEVER, BinaryClient, Op
from tests.client import Client, read_all, request, requests, send_all, talk, words
from tests.integration.test_defects import MALFORMED
from tests.isolation.innocents import HOMES, VICTIM
from tests.memcache import MemcacheClient
from tests.scripted import reset
from tests.servers import HOST, connect, pipeline, wait_until

MEGABYTE = 1 << 20
ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def exchange(port, data, close=True):
    """Like `talk`, for any size: requests and replies may be larger than the socket buffers."""
    with connect(port) as connection:

        def send():
            # It may be closed before it has read everything.
            with contextlib.suppress(ConnectionError):
                send_all(connection, data)
                if close:
                    connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return read_all(connection)
        finally:
            sender.join()


@contextlib.contextmanager
def crowd(port, count):
    """`count` connections that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(port)) for _ in range(count)]


# Framing of Redis


@attack
def malformed_lengths(arena):
    for data, text in MALFORMED.items():
        received = talk(arena.port, requests("PING") + data)
        assert received == b"+PONG\r\n-ERR Protocol error: " + text + b"\r\n"


@attack
def huge_multibulk_counts(arena):
    for count in (b"1048577", b"2147483648", b"4294967298", b"9223372036854775808", b"1" * 60):
        assert talk(arena.port, b"*%b\r\n" % count).startswith(b"-ERR Protocol error")
    with crowd(arena.port, 30) as clients:
        for client in clients:
            client.sendall(b"*1048576\r\n$3\r\nDEL\r\n" + b"$1\r\nk\r\n" * 100)
        arena.hold()


@attack
def announced_and_not_sent(arena):
    """Announce half a gigabyte on each connection and send nothing more."""
    with crowd(arena.port, 50) as clients:
        for client in clients:
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nv")
        arena.hold()
    with crowd(arena.memcache_port, 50) as clients:
        for client in clients:
            client.sendall(b"set k 0 0 1048576\r\nv")
        arena.hold()


@attack
def large_values_that_break_off(arena):
    with connect(arena.port) as client:
        client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$104857600\r\n" + b"v" * MEGABYTE)
        reset(client)
    with connect(arena.memcache_port) as client:
        client.sendall(b"set k 0 0 1000000\r\n" + b"v" * 900_000)
    with Client(arena.port) as client:
        assert client("EXISTS", "k") == 0


@attack
def lines_without_an_end(arena):
    assert exchange(arena.port, b"x" * MEGABYTE).startswith(b"-ERR Protocol error")
    exchange(arena.memcache_port, b"x" * MEGABYTE)
    exchange(arena.memcache_port, b"get " + b"k" * MEGABYTE)


@attack
def other_protocols(arena):
    """HTTP, TLS, memcached's binary protocol, and each protocol on the other's port."""
    http = b"POST /k HTTP/1.1\r\nHost: redis\r\n\r\nSET k v\r\nFLUSHALL\r\nGET k\r\n"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="redis").do_handshake()
    hello = outgoing.read()
    assert hello
    binary = struct.pack("!BBHBBHIIQ", 0x80, 0, 4, 0, 0, 0, 4, 0, 0) + b"key\n"
    quiet = struct.pack("!BBHBBHIIQ", 0x80, 0x11, 1, 8, 0, 0, 10, 0, 0) + bytes(8) + b"kv"
    for data in (http, hello, binary, quiet * 50, b"\0" * 5000, b"\xff" * 5000):
        for port in (arena.port, arena.memcache_port):
            talk(port, data)
    talk(arena.port, b"set k 0 0 1\r\nv\r\nget k\r\n")
    talk(arena.memcache_port, requests("SET k v", "GET k"))
    with Client(arena.port) as client:
        assert client("EXISTS", "k") == 0


@attack
def garbage(arena):
    noise = random.Random(4)
    for _ in range(20):
        for port in (arena.port, arena.memcache_port):
            exchange(port, noise.randbytes(5000))
            text = b"".join(
                noise.choices([b"get", b"$3", b"*2", b"\r\n", b" ", b"\n", b"k"], k=500)
            )
            exchange(port, text)


# Memcached's framing


INJECTIONS = [
    b"get a\nversion\r\n",
    b"get a\nget v\nversion\r\nget a\r\n",
    b"get a\0b\r\nget \0\r\n",
    b"set a\n 0 0 1\r\nv\r\n",
    b"set k 0 0 4294967297\r\na\r\n",
    b"set k 0 0 18446744073709551617\r\na\r\n",
    b"set k 0 0 -1\r\na\r\n",
    b"set k 0 0 3\r\nabcdef\r\nversion\r\n",
    b"set k 0 0 3\r\na\r\nversion\r\n",
    b"set k 0 0 0\r\nversion\r\n",
    b"set k 0 0 1 noreply noreply\r\nv\r\n",
    b"cas k 0 0 1 18446744073709551616 noreply\r\nv\r\n",
    b"delete k noreply noreply\r\n",
    b"incr k 1 noreply noreply\r\n",
    b"touch k 0 noreply noreply\r\n",
    b"flush_all 99999 noreply noreply\r\n",
    b"verbosity 1 noreply noreply\r\n",
    b"get " + b"k" * 251 + b"\r\n",
    b"get \r\n",
    b"get\r\n",
    b"gat " + b"0" * 3000 + b" " + b" ".join(b"k%d" % number for number in range(500)) + b"\r\n",
    b"gat 0 k" + b" " * 70_000 + b"\r\n",
    b" " * 2046 + b"get k\r\n",
    b"get " + b"k " * 50_000 + b"\r\n",
    b"mg %b b k v\r\n" % base64.b64encode(b"a\nversion\nget v"),
    b"ms %b 1 b\r\n9\r\nma %b b k\r\n" % ((base64.b64encode(b"a\r\nEND\r\n"),) * 2),
    b"mg YWJj=YWJj b k v\r\n",
    b"ms k 4294967297 T0\r\na\r\n",
    b"ms k S4294967297\r\na\r\n",
    b"mg k k v q O" + b"o" * 100 + b"\r\nmn\r\n",
]


@attack
def memcached_injections(arena):
    for data in INJECTIONS:
        talk(arena.memcache_port, data)
        talk(arena.memcache_port, data * 10 if len(data) < 1000 else data)


@attack
def memcached_noreply_storm(arena):
    lines = b"set k 0 0 1 noreply\r\nv\r\ndelete k noreply\r\n"
    lines += b"incr n 1 noreply\r\ntouch k 0 noreply\r\n"
    assert talk(arena.memcache_port, lines * 500 + b"mn\r\n") == b"MN\r\n"


# Memcached's binary protocol

TEXT = b"flush_all\r\nget v\r\nversion\r\n"
BINARY_INJECTIONS = [
    *(
        binary.request(opcode, TEXT, TEXT, extras=bytes(extras))
        for opcode in (*Op, 0x30, 0xFF)
        for extras in (0, 4, 8, 20)
    ),
    *(
        binary.request(opcode, b"k", TEXT, extras=bytes(8), **wrong)
        for opcode in (Op.SET, Op.GET, Op.GETKQ, Op.APPENDQ, Op.TOUCH, Op.STAT, 0x30)
        for wrong in (
            {"key_length": 0},
            {"key_length": 65535},
            {"extras_length": 255},
            {"body_length": 0},
            {"body_length": 9},
            {"body_length": 1 << 30},
            {"body_length": (1 << 32) - 1},
            {"magic": 0x81},
        )
    ),
    binary.request(Op.STAT, TEXT),
    binary.request(Op.SASL_AUTH, b"PLAIN", TEXT),
]


@attack
def binary_injections(arena):
    """Keys and values that are commands of the text protocol, and wrong lengths."""
    for data in BINARY_INJECTIONS:
        talk(arena.memcache_port, data * 3)
    with BinaryClient(arena.memcache_port) as client:
        client.send_bytes(
            b"".join(
                binary.request(
                    Op.INCREMENT, key, extras=binary.counting(1, 1, 0 if key == TEXT else NEVER)
                )
                for key in (TEXT, b"a b", b"\r\n", b"\n")
            )
        )
        client.barrier()
        client(Op.DELETE, TEXT)


@attack
def binary_storms(arena):
    """A hundred thousand quiet requests and a NoOp."""
    count = 100_000
    last = binary.request(Op.NOOP, opaque=1)
    done = b"\x81\x0a" + bytes(13) + b"\x01" + bytes(8)
    for data in (
        b"".join(binary.request(Op.GETKQ, b"none:%d" % number) for number in range(count)),
        binary.request(Op.SETQ, b"k", b"v", extras=bytes(8)) * count,
        binary.request(Op.GATQ, b"none", extras=bytes(4)) * count,
        binary.request(Op.GETQ, b"not text") * count,
    ):
        assert exchange(arena.memcache_port, data + last) == done
    found = exchange(arena.memcache_port, binary.request(Op.NOOP, opaque=1) * count)
    assert found == done * count


@attack
def binary_bodies_that_do_not_come(arena):
    with crowd(arena.memcache_port, 90) as clients:
        for number, client in enumerate(clients):
            size = (1000, 1_000_000, 1 << 30)[number % 3]
            head = binary.request(Op.SET, b"k", b"v", extras=bytes(8), body_length=size)
            client.sendall(head)
        arena.hold()


@attack
def binary_headers_that_trickle(arena):
    data = binary.request(Op.SET, b"slow", b"v", extras=bytes(8))
    data += binary.request(Op.GETK, b"slow") + binary.request(Op.DELETE, b"slow")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(BinaryClient(arena.memcache_port)) for _ in range(20)]
        for index in range(len(data)):
            for client in clients:
                client.send_bytes(data[index : index + 1])
        for client in clients:
            stored, found, deleted = client.responses(3)
            assert (stored.opcode, found.opcode, deleted.opcode) == (Op.SET, Op.GETK, Op.DELETE)
            assert found.key == b"slow"


@attack
def binary_slow_readers(arena):
    """Request 400 values of a megabyte and do not read them: in runs, and one by one."""
    with BinaryClient(arena.memcache_port) as client, BinaryClient(arena.memcache_port) as other:
        value = b"v" * 1_000_000
        assert client(Op.SET, b"large", value, extras=bytes(8)).status == 0
        client.send_bytes(binary.request(Op.GETKQ, b"large") * 400)
        other.send_bytes(binary.request(Op.GET, b"large") * 400)
        arena.hold()


# Large amounts


@attack
def deep_pipelines(arena):
    """A hundred thousand requests in one pipeline."""
    count = 100_000
    assert exchange(arena.port, requests("PING") * count) == b"+PONG\r\n" * count
    found = requests(f"GET {HOMES[0].decode()}")
    assert exchange(arena.port, found * count) == b"$-1\r\n" * count
    assert exchange(arena.memcache_port, b"get %b\r\n" % HOMES[1] * count) == b"END\r\n" * count


@attack
def slow_readers(arena):
    """Request 400 values of a megabyte and do not read them."""
    with Client(arena.port) as client, MemcacheClient(arena.memcache_port) as other:
        value = b"v" * 1_000_000
        assert client("SET", "large", value) == b"OK"
        assert other(b"set large 0 0 1000000", value) == b"STORED\r\n"
        client.send_bytes(requests("GET large") * 400)
        other.send_bytes(b"get large\r\n" * 400)
        arena.hold()


@attack
def replies_larger_than_expected(arena):
    """The first replies are small, so that the proxy accepts many requests."""
    with Client(arena.port) as client:
        client("MSET", "large", b"v" * 100_000, "small", "v")
        client.pipeline(*[("GET", "small")] * 500)
        client.replies(500)
        client.send_bytes(requests("GET large") * 1000)
        arena.hold()


@attack
def many_keys(arena):
    count = 100_000
    keys = [b"none:%d" % number for number in range(count)]
    assert exchange(arena.port, request("MGET", *keys)) == b"*%d\r\n" % count + b"$-1\r\n" * count
    assert exchange(arena.memcache_port, b"get " + b" ".join(keys) + b"\r\n") == b"END\r\n"
    assert exchange(arena.port, request("DEL", *keys)) == b":0\r\n"


@attack
def whole_keyspaces(arena):
    with Client(arena.port) as client:
        for command in (("KEYS", "*"), ("DBSIZE",), ("INFO",), ("CLIENT", "LIST"), ("COMMAND",)):
            client.pipeline(*[command] * 20)
            client.replies(20)
    with MemcacheClient(arena.memcache_port) as client:
        client.send_bytes(b"stats\r\nstats servers\r\nstats items\r\n" * 20)
        client.replies(60)


@attack
def large_values(arena):
    value = b"v" * (32 * MEGABYTE)
    with Client(arena.port) as client:
        for _ in range(3):
            assert client("SET", "large", value) == b"OK"
            assert client("GET", "large") == value
        client("DEL", "large")


@attack
def too_large_values(arena):
    """memcached refuses a value that is too large before it has been sent."""
    for _ in range(5):
        answer = exchange(
            arena.memcache_port, b"set k 0 0 9000000\r\n" + b"v" * 9_000_000 + b"\r\nmn\r\n"
        )
        assert answer == b"SERVER_ERROR object too large for cache\r\nMN\r\n", answer[:200]


# Slow, stuck and vanished clients


@attack
def byte_by_byte(arena):
    data = requests("SET slow v", "MGET slow a b c d e f", "DEL slow")
    text = b"set slow 0 0 1\r\nv\r\nget slow a b c d\r\ndelete slow\r\n"
    with Client(arena.port) as client, MemcacheClient(arena.memcache_port) as other:
        for index in range(max(len(data), len(text))):
            client.send_bytes(data[index : index + 1])
            other.send_bytes(text[index : index + 1])
        assert client.replies(3) == [b"OK", [b"v", *[None] * 6], 1]
        assert other.replies(3) == [
            b"STORED\r\n",
            b"VALUE slow 0 1\r\nv\r\nEND\r\n",
            b"DELETED\r\n",
        ]


@attack
def stuck_in_the_middle(arena):
    """Each client sends half a request."""
    with crowd(arena.port, 100) as clients, crowd(arena.memcache_port, 100) as others:
        for number, (client, other) in enumerate(zip(clients, others, strict=True)):
            client.sendall(requests("MGET a b c")[: 1 + number % 30])
            other.sendall(b"set slow 0 0 100\r\nvvvvvvvvv"[: 1 + number % 25])
        arena.hold()


@attack
def half_closed_clients(arena):
    with crowd(arena.port, 30) as clients, crowd(arena.memcache_port, 30) as others:
        for client in clients:
            client.sendall(requests("GET a", "MGET a b c", "PING") * 10)
            client.shutdown(socket.SHUT_WR)
        for other in others:
            other.sendall(b"get a b c\r\nmn\r\n" * 10)
            other.shutdown(socket.SHUT_WR)
        arena.hold()
        for client in clients:
            assert read_all(client) == b"$-1\r\n*3\r\n$-1\r\n$-1\r\n$-1\r\n+PONG\r\n" * 10
        for other in others:
            assert read_all(other) == b"END\r\nMN\r\n" * 10


@attack
def vanishing_clients(arena):
    """Clients disconnect in the middle of a request or with outstanding replies, by FIN or RST."""
    data = requests("GET a", "SET b v", "MGET a b c", "DEL b") * 3
    text = b"get a b c\r\nset b 0 0 1\r\nv\r\nmg b v\r\ndelete b\r\n" * 3
    for port, sent in ((arena.port, data), (arena.memcache_port, text)):
        for size in range(1, len(sent), 7):
            for leave in (socket.socket.close, reset):
                client = connect(port)
                client.sendall(sent[:size])
                leave(client)


@attack
def connect_storm(arena):
    for _ in range(10):
        with crowd(arena.port, 50), crowd(arena.memcache_port, 50):
            pass


@attack
def quit_storm(arena):
    for _ in range(100):
        assert talk(arena.port, requests("PING", "QUIT", "PING")) == b"+PONG\r\n+OK\r\n"
        assert talk(arena.memcache_port, b"mn\r\nquit\r\nmn\r\n") == b"MN\r\n"


# Commands


@attack
def password_guessing(arena):
    locked = arena.proxy.ports["locked"]
    guesses = b"".join(request("AUTH", b"guess %d" % number) for number in range(500))
    answer = talk(locked, guesses + requests("GET a"))
    assert answer.count(b"-ERR invalid password\r\n") == 500
    assert answer.endswith(b"-NOAUTH Authentication required.\r\n")
    # Before AUTH, only small lengths are accepted.
    assert talk(locked, b"*2\r\n$4\r\nAUTH\r\n$1000000\r\n").startswith(b"-ERR Protocol error")
    assert talk(arena.port, guesses).count(b"-ERR Client sent AUTH") == 500


STATEFUL = [
    *("MULTI", "EXEC", "DISCARD", "WATCH a", "SUBSCRIBE a", "PSUBSCRIBE a*", "SSUBSCRIBE a"),
    *("BLPOP a 0.1", "BRPOPLPUSH a b 0.1", "BLMOVE a b LEFT LEFT 0.1", "BZPOPMIN a 0.1"),
    *(
        "WAIT 1 100",
        "XREAD BLOCK 100 STREAMS a $",
        "MONITOR",
        "SYNC",
        "PSYNC ? -1",
        "REPLICAOF NO ONE",
    ),
    *("SHUTDOWN NOSAVE", "DEBUG SLEEP 10", "CLIENT PAUSE 100", "CLIENT KILL TYPE pubsub"),
    *("CLIENT TRACKING ON", "SELECT 1", "SWAPDB 1 2", "CONFIG SET maxmemory 1", "RESET"),
    *("SCRIPT KILL", "FUNCTION FLUSH", "CLUSTER RESET", "ASKING", "MIGRATE h 1 k 0 1"),
]


@attack
def commands_that_take_a_connection(arena):
    """Commands that would change the state of a shared connection, or block it."""
    for command in STATEFUL:
        with Client(arena.port) as client:
            client.send(*command.split())
            # After some refusals, all commands are refused until RESET.
            client.send("RESET")
            client.send("ECHO", "still there")
            client.replies(2)
            assert client.reply() == b"still there", command


@attack
def replies_switched_off(arena):
    silent = requests("CLIENT REPLY OFF", *["GET a", "SET b v", "MGET a b c", "FOO", "PING"] * 200)
    assert talk(arena.port, silent + requests("CLIENT REPLY ON", "DEL b")) == b"+OK\r\n:1\r\n"
    skipped = requests(*["CLIENT REPLY SKIP", "GET a", "PING"] * 100)
    assert talk(arena.port, skipped) == b"+PONG\r\n" * 100


@attack
def protocol_switching(arena):
    with Client(arena.port) as client:
        for _ in range(50):
            client.pipeline(("HELLO", "3"), ("GET", "a"), ("HELLO", "2"), ("MGET", "a", "b"))
            assert client.replies(4)[1::2] == [None, [None, None]]


@attack
def unknown_commands(arena):
    flood = b"".join(request(b"FOO%d" % number, b"x" * 200) for number in range(2000))
    assert exchange(arena.port, flood).count(b"-ERR unknown command") == 2000
    assert exchange(arena.memcache_port, b"foo\r\n" * 2000) == b"ERROR\r\n" * 2000


@attack
def wrong_arguments(arena):
    """twemproxy forwards some of these. For others it closes the connection, and the replies to
    earlier requests are lost."""
    commands = [
        "SET a",
        "GET",
        "mset a a a",
        "EVAL x",
        "EVAL x y a",
        "EXISTS",
        "MOVE a 1",
        "SCAN x",
    ]
    for _ in range(20):
        with Client(arena.port) as client:
            client.send_bytes(requests(*commands, "PING"))
            assert client.replies(len(commands) + 1)[-1] == b"PONG"


@attack
def statistics_readers(arena):
    """Clients of the statistics port that read slowly or send garbage."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((HOST, arena.proxy.stats_port))
            with contextlib.suppress(OSError):
                client.sendall(b"GET /stats HTTP/1.1\r\n\r\n" * 10)
        arena.hold()
    assert "redis" in arena.proxy.stats()


# Servers


def refusals(client, *commands):
    """The error replies to these commands."""
    client.pipeline(*commands)
    return [words(reply) for reply in client.replies(len(commands))]


@attack
def full_server(arena):
    """-OOM replies, for which twemproxy closes the connection."""
    port = arena.redis[-1].port
    pipeline(port, [("CONFIG", "SET", "maxmemory", "1")])
    with Client(arena.port) as client:
        for text in refusals(client, *[("SET", VICTIM, "v"), ("MSET", VICTIM, "v", "a", "b")] * 50):
            assert text.startswith("OOM ")
    pipeline(port, [("CONFIG", "SET", "maxmemory", "0")])


@attack
def busy_server(arena):
    """A script that does not end: every client that needs this server gets -BUSY."""
    server = arena.redis[-1]
    pipeline(server.unix_path, [("CONFIG", "SET", "busy-reply-threshold", "1")])
    with Client(arena.port) as script, Client(arena.port) as client:
        script.send("EVAL", "while true do end", "1", VICTIM)

        def busy():
            [reply] = pipeline(server.unix_path, [("GET", VICTIM)])
            return isinstance(reply, Exception)

        wait_until(busy, "-BUSY")
        arena.hold()
        assert pipeline(server.unix_path, [("SCRIPT", "KILL")]) == [b"OK"]
        words(script.reply())
        wait_until(lambda: client("GET", VICTIM) is None, "the server's return")


@attack
def odd_replies(arena):
    """Nested, large and unusual replies of scripts."""
    scripts = [
        "return {1, {2, {3, {}, 'x'}}, {{{{}}}}}",
        "return redis.error_reply('ERR')",
        "return {redis.error_reply('ERR inside'), false}",
        "local t = {} for i = 1, 100 do t = {t} end return t",
        "return string.rep('\\r\\n', 100000)",
    ]
    with Client(arena.port) as client:
        for script in scripts * 5:
            client("EVAL", script, "1", VICTIM)
        assert client("PING") == b"PONG"


@attack
def stopped_server(arena):
    """Requests for a stopped server wait, and so do commands with a part for it, and many more."""
    # A key of the stopped server. A client with 100 unread values of this size does not keep up.
    large = b"{%b}large" % VICTIM
    # Requests on established connections wait without a limit, those for new connections 10 s. So
    # establish them first.
    assert pipeline(arena.port, [("GET", VICTIM)]) == [None]
    with MemcacheClient(arena.memcache_port) as client:
        assert client(b"get " + VICTIM) == b"END\r\n"
    for server in (arena.redis[-1], arena.memcached[-1]):
        server.stop()
    with (
        Client(arena.port) as client,
        MemcacheClient(arena.memcache_port) as other,
        crowd(arena.port, 20) as clients,
    ):
        client.pipeline(*[("GET", VICTIM), ("MGET", VICTIM, *HOMES), ("PING",)] * 100)
        other.send_bytes(b"get %b %b\r\nmn\r\n" % (VICTIM, HOMES[0]) * 100)
        for each in clients:
            each.sendall(request("SET", large, b"v" * 100_000))
        arena.hold()
        for server in (arena.redis[-1], arena.memcached[-1]):
            server.cont()
        for _ in range(100):
            assert len(client.replies(3)[1]) == 1 + len(HOMES)
            assert other.replies(2) == [b"END\r\n", b"MN\r\n"]
        for each in clients:
            assert each.recv(100) == b"+OK\r\n"
    assert pipeline(arena.port, [("DEL", large)]) == [1]


@attack
def killed_server(arena):
    with Client(arena.port) as client, MemcacheClient(arena.memcache_port) as other:
        for server in (arena.redis[-1], arena.memcached[-1]):
            server.kill()
        client.pipeline(
            *[("GET", VICTIM), ("MGET", VICTIM, *HOMES), ("MSET", VICTIM, "v", "a", "b")] * 50
        )
        for reply in client.replies(150):
            assert "server 's4' of pool 'redis': " in words(reply)
        other.send_bytes(b"get %b %b\r\nset %b 0 0 1\r\nv\r\n" % (VICTIM, HOMES[0], VICTIM) * 50)
        for reply in other.replies(100):
            assert reply.startswith(b"SERVER_ERROR server 's4' of pool 'memcached': ")
        arena.hold()
        for server in (arena.redis[-1], arena.memcached[-1]):
            server.restart()
        wait_until(lambda: client("GET", VICTIM) is None, "return of a Redis server")
        wait_until(lambda: other(b"get %b" % VICTIM) == b"END\r\n", "return of a Memcached server")
