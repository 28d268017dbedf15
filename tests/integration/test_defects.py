"""Bugs of twemproxy, found by running it or reported by its users, that nutproxy does not have.

The numbers are those of the project's notes on twemproxy: A was found by running it, B was reported
by its users. A test without a module is in this file.

    A1   Memcached              test_memcache
    A2   broken lengths         test_malformed_length_hurts_only_who_sent_it,
                                test_bounds_of_the_server_are_those_of_the_proxy
    A3   EXISTS, ZUNION         test_commands: test_split_commands_keep_the_order_of_keys_and_…,
                                test_keys_behind_numkeys_are_what_routes
    A4   MGET, dead shard       test_dead_shard_fails_a_command_and_not_its_client,
                                test_silent_shard_fails_a_command_and_not_its_client
    A5   unix sockets           test_data_is_in_the_database_of_the_pool; gauges: test_stats
    A6   redis_auth, redis_db   test_data_is_in_the_database_of_the_pool,
                                test_clients_are_told_why_a_handshake_failed
    A7   client_connections     test_conf
    A8   lost replies           test_what_is_owed_is_delivered_before_a_connection_ends
    A9   OOM, BUSY              test_full_server_refuses_writes_and_nothing_else,
                                test_busy_server_says_so_itself,
                                test_part_that_fails_gives_its_own_text
    A10  stale counters         test_stats
    A11  pid file, SIGTERM      test_daemon, test_drain
    A12  starved servers        test_check_warns_of_rings_that_starve_a_server
    A13  random and MGET        test_random_distribution_draws_once_for_each_key
    A14  half-made fragments    cannot be caused from outside
    A15  MOVE                   test_commands: test_what_is_not_supported_says_so_in_its_turn
    A16  getpeername            counted by the benchmark
    A17  memory                 test_memory_of_a_burst_is_given_back,
                                test_memory_of_a_slow_reader_is_bounded_…
    A18  own writes             test_client_reads_its_own_writes_over_several_server_connections

    B    mixed-up replies       test_late_reply_reaches_nobody, test_stray_reply_reaches_nobody,
                                test_early_reply_reaches_nobody,
                                test_client_that_vanishes_takes_its_replies_with_it
         edges of buffers       test_lengths_around_the_edges_of_chunks
         empty key, mset a a a  test_degenerate_commands_are_answered
         forms of replies       test_replies_of_odd_forms_pass_unchanged,
                                test_replies_that_come_a_byte_at_a_time
         leaks                  test_memory_of_a_burst_is_given_back
         EMFILE                 test_clients_are_accepted_again_after_descriptors_ran_out
         names                  test_unresolvable_server_fails_only_its_own_keys
         IPv6, unix sockets     test_both_sides_may_be_ipv6, test_unix_listener_has_its_permissions
         half-close             test_half_closed_client_gets_what_is_pending
         ejection, deadlines    test_server_health
         dead connections       test_conf
"""

import contextlib
import os
import random
import re
import resource
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import hiredis
import pytest

from nutproxy.hashkit.router import Router
from tests.client import Client, read_all, request, requests, talk, words
from tests.integration.conftest import pool
from tests.servers import (
    HOST,
    NutproxyServer,
    RedisServer,
    connect,
    pipeline,
    proxy_connections,
    wait_until,
)


def keys_of(names):
    """One key of each server of a pool whose servers have these names."""
    router = Router("fnv1a_64", "ketama", b"{}", [(name.encode(), 1) for name in names])
    found = {}
    number = 0
    while len(found) < len(names):
        key = f"{number}:key"
        found.setdefault(router.explain(key.encode()).server, key)
        number += 1
    return [found[index] for index in range(len(names))]


A, B, C = keys_of(["s1", "s2", "s3"])


@pytest.fixture(scope="module")
def alpha(proxy):
    return proxy.ports["alpha"]


@pytest.fixture(autouse=True)
def quiet(request):
    """The module's shared proxy has logged no traceback."""
    yield
    if "proxy" in request.fixturenames:
        assert "Traceback" not in request.getfixturevalue("proxy").log()


# A2: one client does not affect another ---------------------------------------------------------

MALFORMED = {
    b"*2\r\n$03\r\nGET\r\n$1\r\nk\r\n": b"invalid bulk length",
    b"*02\r\n$3\r\nGET\r\n$1\r\nk\r\n": b"invalid multibulk length",
    b"*2\r\n$4294967299\r\nGET\r\n$1\r\nk\r\n": b"invalid bulk length",
    b"*4294967298\r\n$3\r\nGET\r\n$1\r\nk\r\n": b"invalid multibulk length",
    b"*2\r\n$3\r\nGET\r\n$+1\r\nk\r\n": b"invalid bulk length",
    b"*2\r\n$3\r\nGET\r\n$ 1\r\nk\r\n": b"invalid bulk length",
    b"*2\r\n$3\r\nGET\r\n$-1\r\n": b"invalid bulk length",
    b"*2\r\n$3\r\nGET\r\n:1\r\n": b"expected '$', got ':'",
    b"*2\r\n$3\r\nGET\r\n$\r\n\r\n": b"invalid bulk length",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk12*1\r\n$8\r\nFLUSHALL\r\n": b"expected CR LF after bulk",
}


def test_malformed_length_hurts_only_who_sent_it(alpha):
    over = threading.Event()
    outcomes: list[int | Exception] = []

    def innocent(number):
        count = 0
        try:
            with Client(alpha) as client:
                while not over.is_set():
                    for key in (A, B, C):
                        value = f"{number} {count}".encode()
                        assert client("SET", f"{{{key}}}{number}", value) == b"OK"
                        assert client("GET", f"{{{key}}}{number}") == value
                        count += 1
            outcomes.append(count)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=innocent, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        for data, text in list(MALFORMED.items()) * 10:
            received = talk(alpha, requests("PING") + data)
            assert received == b"+PONG\r\n-ERR Protocol error: " + text + b"\r\n"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert [outcome for outcome in outcomes if not isinstance(outcome, int)] == []
    assert all(outcomes)


def test_bounds_of_the_server_are_those_of_the_proxy():
    """Otherwise Redis would close a server connection that clients share."""
    with (
        RedisServer("--proto-max-bulk-len", "1mb") as server,
        NutproxyServer(pool("alpha", [server], proto_max_bulk_len=1 << 20)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as large,
    ):
        assert client("SET", "k", b"v" * (1 << 20)) == b"OK"
        large.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % ((1 << 20) + 1))
        assert words(large.reply()) == "ERR Protocol error: invalid bulk length"
        assert large.closed()
        assert client("STRLEN", "k") == 1 << 20


# A4: a shard that does not answer ---------------------------------------------------------------


@pytest.fixture
def fleet():
    """Three servers for the test to stop or kill, and a pool of them with a timeout."""
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
        NutproxyServer(pool("alpha", [one, two, three], timeout=1000)) as proxy,
    ):
        yield proxy, [one, two, three]
        assert "Traceback" not in proxy.log()


def test_dead_shard_fails_a_command_and_not_its_client(fleet):
    proxy, servers = fleet
    with Client(proxy.port) as client:
        assert client("MSET", A, "1", B, "2", C, "3") == b"OK"
        servers[1].kill()
        for _ in range(3):
            refusal = words(client("MGET", A, B, C))
            assert re.fullmatch(
                r"ERR server 's2' of pool 'alpha': Connection (refused|reset by peer)", refusal
            )
            assert client("MGET", A, C) == [b"1", b"3"]
        for command in (f"DEL {A} {B}", f"MSET {A} 1 {B} 2"):
            name = command.split()[0].lower()
            assert words(client(*command.split())).endswith(
                f"; other keys of this '{name}' may have been changed"
            )
        assert words(client("GET", B)) == "ERR server 's2' of pool 'alpha': Connection refused"
        assert client("PING") == b"PONG"


def test_silent_shard_fails_a_command_and_not_its_client(fleet):
    proxy, servers = fleet
    with Client(proxy.port) as client:
        assert client("MSET", A, "1", B, "2", C, "3") == b"OK"
        servers[1].stop()
        assert words(client("MGET", A, B, C)) == (
            "ERR server 's2' of pool 'alpha': Connection timed out"
        )
        assert client("MGET", A, C) == [b"1", b"3"]
        servers[1].cont()
        wait_until(lambda: client("GET", B) == b"2", "return of s2")
        assert client("MGET", A, B, C) == [b"1", b"2", b"3"]


# A5, A6: redis_auth and redis_db ----------------------------------------------------------------


def config_for(server, address, options):
    """A pool of one server, reached by `tcp` or `unix`, with these options."""
    where = f"{HOST}:{server.port}" if address == "tcp" else str(server.unix_path)
    lines = "".join(f"  {line}\n" for line in options)
    return f"alpha:\n  listen: auto\n  redis: true\n{lines}  servers:\n   - {where}:1 s1\n"


@pytest.mark.parametrize("address", ["tcp", "unix"])
@pytest.mark.parametrize("password", ["", "secret"], ids=["open", "password"])
def test_data_is_in_the_database_of_the_pool(address, password):
    options = ["redis_db: 5"] + ([f"redis_auth: {password}"] if password else [])
    arguments = ["--requirepass", password] if password else []
    login = [("AUTH", password)] if password else []
    with (
        RedisServer(*arguments) as server,
        NutproxyServer(config_for(server, address, options)) as proxy,
    ):
        for version in ("2", "3"):
            hello = [*("HELLO", version), *(("AUTH", "default", password) if password else ())]
            assert pipeline(proxy.port, [tuple(hello), ("SET", f"k{version}", "v")])[1] == b"OK"
        direct = [*login, ("KEYS", "*"), ("SELECT", "5"), ("KEYS", "*")]
        zero, _, five = pipeline(server.port, direct)[len(login) :]
        assert zero == []
        assert sorted(five) == [b"k2", b"k3"]


@pytest.mark.parametrize("address", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["redis_auth: wrong"], "redis_auth failed: WRONGPASS "),
        (
            ["redis_auth: secret", "redis_db: 99"],
            "redis_db 99 failed: ERR DB index is out of range",
        ),
        ([], "redis_auth is not set, but the server wants it: NOAUTH "),
    ],
    ids=["wrong password", "no such database", "no password"],
)
def test_clients_are_told_why_a_handshake_failed(address, options, text):
    with (
        RedisServer("--requirepass", "secret") as server,
        NutproxyServer(config_for(server, address, options)) as proxy,
        Client(proxy.port) as client,
    ):
        for line in options:
            if line.startswith("redis_auth"):
                assert client("AUTH", line.split()[1]) == b"OK"
        for _ in range(3):
            refusal = words(client("SET", "k", "v"))
            assert refusal.startswith(f"ERR server 's1' of pool 'alpha': {text}")
        assert client("PING") == b"PONG"
        assert pipeline(server.port, [("AUTH", "secret"), ("DBSIZE",)])[1] == 0


# A8: replies that are owed ----------------------------------------------------------------------


def test_what_is_owed_is_delivered_before_a_connection_ends(alpha):
    with Client(alpha) as client:
        commands = [f"SET {A} 1", f"GET {A}", "FOO", f"GET {A}", f"MGET {A} {B}", "MULTI x"]
        client.send_bytes(requests(*commands, f"GET {A}") + b"*1\r\n$x\r\n" + requests("PING"))
        *replies, last = client.replies(8)
        assert replies[:2] + replies[3:5] + replies[6:] == [b"OK", b"1", b"1", [b"1", None], b"1"]
        assert words(replies[2]).startswith("ERR unknown command 'FOO'")
        assert words(replies[5]) == "ERR wrong number of arguments for 'multi' command"
        assert words(last) == "ERR Protocol error: invalid bulk length"
        assert client.closed()


# A9: a server's own errors ----------------------------------------------------------------------


def test_full_server_refuses_writes_and_nothing_else():
    with (
        RedisServer("--maxmemory-policy", "noeviction") as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as neighbour,
    ):
        assert client("MSET", "a", "1", "b", "2") == b"OK"
        pipeline(server.unix_path, [("CONFIG", "SET", "maxmemory", "1")])
        before = proxy_connections(server)
        neighbour.send_bytes(requests("GET b") * 100)
        client.send_bytes(requests("GET a", "SET a 3", "GET a", "GET b") * 25)
        assert neighbour.replies(100) == [b"2"] * 100
        for _ in range(25):
            first, refusal, second, third = client.replies(4)
            assert (first, second, third) == (b"1", b"1", b"2")
            assert words(refusal) == ("OOM command not allowed when used memory > 'maxmemory'.")
        assert proxy_connections(server) == before


def test_busy_server_says_so_itself():
    """twemproxy closes the connection, and all requests on it get `Invalid argument`."""
    with (
        RedisServer("--busy-reply-threshold", "1") as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
        Client(server.unix_path) as script,
    ):
        assert client("SET", "a", "1") == b"OK"
        before = proxy_connections(server)
        script.send("EVAL", "while true do end", "0")
        wait_until(
            lambda: isinstance(pipeline(server.unix_path, [("GET", "a")])[0], hiredis.ReplyError),
            "BUSY",
        )
        for command in ("GET a", "MGET a b"):
            assert words(client(*command.split())).startswith("BUSY Redis is busy running a script")
        assert pipeline(server.unix_path, [("SCRIPT", "KILL")]) == [b"OK"]
        words(script.reply())
        assert client("GET", "a") == b"1"
        assert proxy_connections(server) == before


def test_part_that_fails_gives_its_own_text(fleet):
    proxy, servers = fleet
    with Client(proxy.port) as client:
        assert client("MSET", A, "1", B, "2", C, "3") == b"OK"
        pipeline(servers[2].port, [("CONFIG", "SET", "maxmemory", "1")])
        assert words(client("MSET", A, "4", B, "5", C, "6")) == (
            "OOM command not allowed when used memory > 'maxmemory'."
            "; other keys of this 'mset' may have been changed"
        )
        assert client("MGET", A, B, C) == [b"4", b"5", b"3"]


# A12, A13: routing ------------------------------------------------------------------------------


def test_check_warns_of_rings_that_starve_a_server(tmp_path):
    file = tmp_path / "rings.yml"
    file.write_text(
        "bits:\n  listen: 127.0.0.1:22121\n  redis: true\n  hash: crc32\n  timeout: 400\n"
        "  servers:\n   - 127.0.0.1:6379:1\n   - 127.0.0.1:6380:1\n"
        "weights:\n  listen: 127.0.0.1:22122\n  redis: true\n  timeout: 400\n"
        "  servers:\n   - 127.0.0.1:6379:100000 large\n   - 127.0.0.1:6380:1 small\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "nutproxy", "check", file], capture_output=True, text=True
    )
    assert done.returncode == 0
    lines = (done.stdout + done.stderr).splitlines()
    assert [line for line in lines if line.startswith(f"{file}:4: pool 'bits': hash: warning")]
    assert [line for line in lines if line.startswith(f"{file}:") and "small" in line]


def test_random_distribution_draws_once_for_each_key(shards):
    """Every server has every key. Each value names its key and its server."""
    keys = [f"{number}:random" for number in range(200)]
    for number, shard in enumerate(shards):
        pairs = [word for key in keys for word in (key, f"{key}@{number}")]
        pipeline(shard.port, [("MSET", *pairs)])
    config = pool("alpha", shards).replace("distribution: ketama", "distribution: random")
    with NutproxyServer(config) as proxy, Client(proxy.port) as client:
        for _ in range(10):
            values = [value.decode().split("@") for value in client("MGET", *keys)]
            assert [key for key, _ in values] == keys
            assert {server for _, server in values} == {"0", "1", "2"}
        client("FLUSHALL")
        assert client("MSET", *(word for key in keys for word in (key, "v"))) == b"OK"
        assert client("DBSIZE") == len(keys)
        # Keys have no fixed server, so no command is refused for keys on different servers.
        assert client("SINTER", "1:none", "2:none", "3:none") == []
        client("FLUSHALL")


# A17: memory ------------------------------------------------------------------------------------

MEGABYTE = 1 << 20


def resident(proxy, what="VmRSS"):
    """The resident memory of the process in bytes; with VmHWM, its peak."""
    for line in Path(f"/proc/{proxy.worker_pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(what)


@pytest.mark.measures
def test_memory_of_a_burst_is_given_back(shards):
    """twemproxy used 361 MB for the first of these bursts, and never released it."""
    with NutproxyServer(pool("alpha", shards)) as proxy, Client(proxy.port) as client:
        client("PING")
        before = resident(proxy)
        with contextlib.closing(connect(proxy.port)) as burst:
            sender = threading.Thread(target=burst.sendall, args=(requests("GET none") * 20_000,))
            sender.start()
            assert len(take(burst, 5 * 20_000)) == 5 * 20_000
            sender.join()
            assert resident(proxy) < before + 40 * MEGABYTE
        for _ in range(20):
            pairs = [word for n in range(100) for word in (f"{n}:key", b"v" * 50_000)]
            assert client("MSET", *pairs) == b"OK"
            assert len(client("MGET", *pairs[::2])) == 100
        client("FLUSHALL")
        wait_until(lambda: resident(proxy) < before + 20 * MEGABYTE, "memory to be released")


def take(connection, count):
    """Read exactly this many bytes."""
    data = bytearray()
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part
        data += part
    return bytes(data)


@pytest.mark.measures
def test_memory_of_a_slow_reader_is_bounded_and_given_back():
    """A client requests 400 values of 1 MB and reads none. twemproxy used 420 MB, and kept it after
    the client had gone."""
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client("SET", "k", random.Random(3).randbytes(MEGABYTE))
        client("SET", "small", "v")
        before = resident(proxy)
        with Client(proxy.port) as slow:
            slow.send_bytes(requests("GET k") * 400)

            def unread():
                sizes = re.findall(rb" omem=(\d+)", client("CLIENT", "LIST"))
                return max(map(int, sizes))

            wait_until(lambda: unread() > 20 * MEGABYTE, "unread replies")
            wait_until(lambda: resident(proxy) > before + 20 * MEGABYTE, "their memory")
            assert client("GET", "small") == b"v"
        wait_until(lambda: resident(proxy) < before + 5 * MEGABYTE, "memory to be released")
        # client_max_pending, and a margin.
        assert resident(proxy, "VmHWM") < before + 40 * MEGABYTE
        assert client("GET", "small") == b"v"


def test_slow_reader_that_catches_up_misses_nothing():
    values = [random.Random(n).randbytes(MEGABYTE) for n in range(3)]
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        for number, value in enumerate(values):
            client("SET", f"{number}:k", value)
        client.send_bytes(requests("GET 0:k", "GET 1:k", "PING", "GET 2:k") * 20)
        wait_until(
            lambda: b"omem=0 " not in talk(proxy.port, requests("CLIENT LIST")).splitlines()[1],
            "unread replies",
        )
        for _ in range(20):
            assert client.replies(4) == [values[0], values[1], b"PONG", values[2]]


# A18: order -------------------------------------------------------------------------------------


def test_client_reads_its_own_writes_over_several_server_connections(shards):
    with NutproxyServer(pool("alpha", shards, server_connections=4)) as proxy:
        for turn in range(10):
            with Client(proxy.port) as client:
                length = 4 * MEGABYTE + turn
                client.send("SET", A, b"v" * length)
                client.send("STRLEN", A)
                assert client.replies(2) == [b"OK", length]
    pipeline(shards[0].port, [("FLUSHALL",)])


# B: mixed-up replies ----------------------------------------------------------------------------


class ScriptedServer:
    """Replies to PING and HELLO as Redis does, and to GET with the bytes in `replies` for its key.
    With `slowly`, it sends them one byte at a time. If the bytes of a request contain the word
    `early`, it replies to them at once, and reads no more of the request."""

    def __init__(self, replies, slowly=False):
        self.replies = replies
        self.slowly = slowly
        self.connections = 0
        self.over = threading.Event()
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        self.open = set()
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def accept(self):
        threads = []
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                break
            self.connections += 1
            self.open.add(connection)
            threads.append(threading.Thread(target=self.serve, args=(connection,)))
            threads[-1].start()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = hiredis.Reader()
        with contextlib.suppress(OSError):
            while received := connection.recv(65536):
                if b"early" in received:
                    connection.sendall(b"+OK\r\n")
                    self.over.wait()
                    break
                reader.feed(received)
                while (command := reader.gets()) is not False:
                    self.answer(connection, command)
        self.open.discard(connection)
        connection.close()

    def answer(self, connection, command):
        if command[0] == b"PING":
            reply = b"+PONG\r\n"
        elif command[0] == b"HELLO":
            reply = b"%2\r\n+version\r\n+7.0.15\r\n+proto\r\n:3\r\n"
        else:
            reply = self.replies[command[1].decode()]
        size = 1 if self.slowly else len(reply)
        for start in range(0, len(reply), size):
            connection.sendall(reply[start : start + size])


def test_late_reply_reaches_nobody(fleet):
    """The proxy has already sent an error for the request at its deadline."""
    proxy, servers = fleet
    with Client(proxy.port) as client, Client(proxy.port) as other:
        assert client("SET", A, "late") == b"OK"
        assert client("SET", f"{{{A}}}x", "right") == b"OK"
        for _ in range(3):
            servers[0].stop()
            assert "Connection timed out" in words(client("GET", A))
            servers[0].cont()
            wait_until(lambda: other("GET", f"{{{A}}}x") == b"right", "return of s1")
            assert client("GET", f"{{{A}}}x") == b"right"
            assert client("GET", A) == b"late"


def test_stray_reply_reaches_nobody():
    replies = {"stray": b"$1\r\na\r\n$5\r\nstray\r\n", "k": b"$1\r\nk\r\n"}
    with (
        ScriptedServer(replies) as server,
        NutproxyServer(pool("alpha", [server]), "-v", "6") as proxy,
        Client(proxy.port) as client,
    ):
        for turn in range(1, 6):
            assert client("GET", "stray") == b"a"
            # The proxy closes this connection. The next request uses another one.
            wait_until(
                lambda turn=turn: proxy.output.count("sent a reply to no request") == turn,
                "closed connection",
            )
            assert client("GET", "k") == b"k"


def test_early_reply_reaches_nobody():
    """The server replies before the request has been sent, so its reply can mean anything."""
    with (
        ScriptedServer({"k": b"$1\r\nk\r\n"}) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as other,
    ):
        client.send("SET", "early", bytes(32 * MEGABYTE))
        client.send("GET", "k")
        refusal, value = client.replies(2)
        assert words(refusal) == (
            "ERR server 's1' of pool 'alpha': the server sent a reply to no request"
        )
        assert value == b"k"
        assert other("GET", "k") == b"k"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_client_that_vanishes_takes_its_replies_with_it(reset):
    with (
        RedisServer() as one,
        RedisServer() as two,
        NutproxyServer(pool("alpha", [one, two])) as proxy,
        Client(proxy.port) as client,
    ):
        first, second = keys_of(["s1", "s2"])
        client("MSET", first, "mine", second, "other", "large", b"x" * 100_000)
        for server in (one, two):
            server.stop()
        for _ in range(20):
            vanishing = connect(proxy.port)
            vanishing.sendall(requests(f"GET {first}", f"MGET {first} {second}", "GET large") * 20)
            if reset:
                vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            vanishing.close()
        client.send_bytes(requests(f"GET {first}", f"MGET {second} {first}", "PING") * 20)
        for server in (one, two):
            server.cont()
        for _ in range(20):
            assert client.replies(3) == [b"mine", [b"other", b"mine"], b"PONG"]
        wait_until(lambda: client("CLIENT", "LIST").count(b"\n") == 1, "clients gone")
        assert "Traceback" not in proxy.log()


def test_half_closed_client_gets_what_is_pending(fleet):
    _, servers = fleet
    # Without a timeout, because the servers may be stopped for long on a loaded machine.
    with NutproxyServer(pool("alpha", servers)) as proxy:
        pipeline(proxy.port, [("MSET", A, "1", B, "2", C, "3")])
        for server in servers:
            server.stop()
        with connect(proxy.port) as connection:
            connection.sendall(requests(f"GET {A}", f"MGET {A} {B} {C}", "PING", "DBSIZE"))
            connection.shutdown(socket.SHUT_WR)
            for server in servers:
                server.cont()
            assert read_all(connection) == (
                b"$1\r\n1\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n+PONG\r\n:3\r\n"
            )


# B: lengths and forms ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["512", "16384"])
def chunked(request, shards):
    with NutproxyServer(pool("alpha", shards), "-m", request.param) as proxy:
        yield proxy
        assert "Traceback" not in proxy.log()


EDGES = [16306, 16307, 16336, 16335, *range(16380, 16390), 32642, 32643, 32672, 32768, 49008, 65336]


def test_lengths_around_the_edges_of_chunks(chunked):
    """Lengths of keys, of values, and of both together, in single requests and in pipelines."""
    lengths = [*range(480, 561), *EDGES]
    pairs = [("1" * length, str(length)) for length in lengths]
    pairs += [(f"{length}:v", "v" * length) for length in lengths]
    pairs += [(f"{length}:half".ljust(length // 2, "k"), "v" * (length // 2)) for length in lengths]
    with Client(chunked.port) as client:
        for key, value in pairs:
            assert client("SET", key, value) == b"OK"
            assert client("GET", key) == value.encode()
        sender = threading.Thread(
            target=client.send_bytes,
            args=(b"".join(request("GET", key) + request("PING") for key, _ in pairs),),
        )
        sender.start()
        for key, value in pairs:
            assert client.replies(2) == [value.encode(), b"PONG"], len(key)
        sender.join()
        assert client("MGET", *(key for key, _ in pairs)) == [value.encode() for _, value in pairs]
        for value in (b"x" * 1_000_000, os.urandom(300_000), b"\r\n" * 100_000, b""):
            assert client("MSET", A, value, B, value) == b"OK"
            assert client("GET", A) == value
            assert client("MGET", B, A, B) == [value] * 3
        client("FLUSHALL")


def test_degenerate_commands_are_answered(chunked):
    with Client(chunked.port) as client:
        refusal = "ERR wrong number of arguments for 'mset' command"
        assert words(client("mset", "a", "a", "a")) == refusal
        assert client("SET", "", "empty") == b"OK"
        assert client("GET", "") == b"empty"
        assert client("GET", "{}") is None
        assert client("MGET", "", A, B, "") == [b"empty", None, None, b"empty"]
        assert client("EXISTS", "", "", A) == 2
        assert client("DEL", "", "") == 1
        assert client("SET", A, "") == b"OK"
        assert client("GET", A) == b""
        client.send_bytes(b"*0\r\n*-1\r\n\r\n" + requests(f"DEL {A}"))
        assert client.reply() == 1
        client.send_bytes(b"*1\r\n$0\r\n\r\n")
        assert words(client.reply()) == "ERR unknown command '', with args beginning with: "


FORMS = {
    "nested": "return {1, {2, {3, {}, 'x'}}, {{{{}}}}}",
    "error without a space": "return redis.error_reply('ERR')",
    "error": "return redis.error_reply('MY own words')",
    "status in an array": "return {redis.status_reply('OK'), {redis.status_reply('')}}",
    "error in an array": "return {redis.error_reply('ERR inside'), 1}",
    "null in an array": "return {1, false, {false}}",
    "deep": "local t = {} for i = 1, 100 do t = {t} end return t",
    "long": "local t = {} for i = 1, 5000 do t[i] = tostring(i) end return t",
    "negative": "return -9223372036854775807",
    "CR LF": "return '\\r\\n$-1\\r\\n'",
}


@pytest.mark.parametrize("form", FORMS)
def test_replies_of_odd_forms_pass_unchanged(chunked, shards, form):
    data = request("EVAL", FORMS[form], "1", A) + requests("PING")
    assert talk(chunked.port, data) == talk(shards[0].port, data)


def test_replies_that_come_a_byte_at_a_time():
    replies = {
        "bulk": b"$12\r\nhello\r\n\r\n$-1\r\n",
        "null": b"$-1\r\n",
        "nulls": b"*4\r\n*-1\r\n$-1\r\n*1\r\n*-1\r\n*0\r\n",
        "error": b"-ERR\r\n",
        "bare error": b"-\r\n",
        "status": b"+\r\n",
        "integer": b":-1\r\n",
        "double": b",1.5e10\r\n",
        "map": b"%2\r\n+a\r\n#t\r\n$1\r\nb\r\n_\r\n",
        "set": b"~2\r\n(12345678901234567890\r\n=5\r\ntxt:x\r\n",
        "attributes": b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
        "large error": b"!9\r\nERR large\r\n",
        "nested": b"*2\r\n*1\r\n%1\r\n+k\r\n~1\r\n:1\r\n$0\r\n\r\n",
    }
    with (
        ScriptedServer(replies, slowly=True) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
    ):
        for hello in (b"", requests("HELLO 3")):
            data = hello + b"".join(request("GET", key) for key in replies)
            received = talk(proxy.port, data)
            assert received.endswith(b"".join(replies.values()))
            assert received.startswith(b"%7\r\n" if hello else replies["bulk"])
        assert server.connections == 2
        assert "malformed" not in proxy.log()


# B: descriptors, names, addresses ---------------------------------------------------------------


def test_clients_are_accepted_again_after_descriptors_ran_out(shards):
    with NutproxyServer(pool("alpha", shards)) as proxy, Client(proxy.port) as client:
        client("MSET", A, "1", B, "2", C, "3")
        used = len(os.listdir(f"/proc/{proxy.worker_pid}/fd"))
        _, hard = resource.prlimit(proxy.worker_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(proxy.worker_pid, resource.RLIMIT_NOFILE, (used + 3, hard))
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(Client(proxy.port)) for _ in range(10)]
            for each in waiting:
                each.send("GET", A)
            wait_until(lambda: "accept failed: Too many open files" in proxy.output, "EMFILE")
            assert client("GET", A) == b"1"
            for accepted in waiting[:3]:
                assert accepted.reply() == b"1"
                accepted.socket.close()
            for late in waiting[3:6]:
                assert late.reply() == b"1"
        with Client(proxy.port) as late:
            assert late("MGET", A, B, C) == [b"1", b"2", b"3"]
    pipeline(shards[0].port, [("FLUSHALL",)])


def test_unresolvable_server_fails_only_its_own_keys(shards):
    config = pool("alpha", shards[:1]) + "   - nosuch.invalid:6379:1 s2\n"
    good, bad = keys_of(["s1", "s2"])
    with NutproxyServer(config) as proxy, Client(proxy.port) as client:
        for _ in range(3):
            refusal = words(client("GET", bad))
            assert refusal.startswith("ERR server 's2' of pool 'alpha': cannot resolve host")
            assert client("SET", good, "1") == b"OK"
            assert client("GET", good) == b"1"
        # A separate thread writes the log.
        down = "server 's2' of pool 'alpha' is down: cannot resolve host"
        wait_until(lambda: down in proxy.output, "the log line")
        client("DEL", good)


class NutproxyAt(NutproxyServer):
    """A proxy whose first pool listens on `address(port)`, in the syntax of the configuration."""

    def __init__(self, config, address, dial):
        super().__init__(config)
        self.address = address
        self.dial = dial

    def choose_ports(self):
        super().choose_ports()
        text = self.config_file.read_text()
        self.config_file.write_text(text.replace(f"{HOST}:{self.port}", self.address(self.port), 1))

    def ready(self):
        try:
            self.dial(self.port).close()
        except OSError:
            return False
        return True


def ask(connection, data):
    with connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


@pytest.mark.parametrize("form", ["[::1]:{}", "::1:{}"])
def test_both_sides_may_be_ipv6(form):
    with RedisServer("--bind", "::1") as server:
        # YAML requires quotes around a value that begins with a bracket.
        address = form.format(server.port)
        config = pool("alpha", [server]).replace(f"{HOST}:{server.port}:1 s1", f'"{address}:1 s1"')

        def dial(port):
            return socket.create_connection(("::1", port), 10)

        with NutproxyAt(config, f'"{form}"'.format, dial) as proxy:
            data = requests("SET k v", "GET k", "CLIENT INFO")
            received = ask(dial(proxy.port), data)
            assert received.startswith(b"+OK\r\n$1\r\nv\r\n")
            assert b" addr=[::1]:" in received
            with pytest.raises(ConnectionRefusedError):
                connect(proxy.port)


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o770])
def test_unix_listener_has_its_permissions(shards, tmp_path, mode):
    path = tmp_path / "proxy.sock"
    config = pool("alpha", shards)
    with NutproxyAt(config, lambda _: f"{path} {mode:04o}", lambda _: connect(path)) as proxy:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert ask(connect(path), requests("PING", f"DEL {A}")) == b"+PONG\r\n:0\r\n"
        # The socket file of a proxy that was killed does not prevent the next start.
        proxy.restart()
        assert ask(connect(path), requests("PING")) == b"+PONG\r\n"
