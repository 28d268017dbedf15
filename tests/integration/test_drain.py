"""The shutdown: the requests that are still answered after a signal, and those that are cut off."""

import contextlib
import os
import re
import select
import signal
import socket
import threading
import time
from functools import partial

import hiredis
import pytest

from nutproxy.builtin.client import LINES_PER_STEP
from tests import binary
from tests.binary import BinaryClient, Op
from tests.client import Client, read_all, request, requests
from tests.integration.conftest import mc_pool, pool
from tests.scripted import (
    ScriptedServer,
    answer,
    bulk,
    info,
    keys_of,
    never,
    reading_when,
    reset,
    value_of,
)
from tests.servers import (
    HOST,
    MemcachedServer,
    NutproxyServer,
    RedisServer,
    connect,
    listening_ports,
    wait_until,
)

# The time, in milliseconds, that a client is given to read its last replies (client.py).
LINGER = 1000
# Longer than any test takes, so that a drain that waits for it exceeds the limit of the test.
PATIENT = "global:\n  shutdown_timeout: 100000\n"


def end(proxy, number=signal.SIGTERM):
    os.kill(proxy.pid, number)


def exit_code(proxy):
    return proxy.process.wait(60)


def refuses(proxy):
    """True if the proxy has stopped listening. Before that a connect would add a client, so it is
    tried last."""
    if any(proxy.port in listening_ports(pid) for pid in (proxy.pid, *proxy.worker_pids)):
        return False
    with socket.socket() as probe:
        return probe.connect_ex((HOST, proxy.port)) != 0


def in_flight(proxy, server, count):
    """True if this many requests have been written to the server and wait for their replies."""
    return proxy.stats()["alpha"][server]["out_queue"] == count


def ended(connection):
    """True if the other side has closed the connection in order. Fails on anything else, such as a
    reset."""
    return connection.recv(1) == b""


class Gate:
    """The script of a server that replies only after the test opens the gate."""

    def __init__(self):
        self.opened = threading.Event()

    def __call__(self, session):
        while command := session.receive():
            session.wait(self.opened)
            session.send(bulk(value_of(command[1])))


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_clients_are_closed_and_the_exit_code_is_0(number):
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
        Client(proxy.port) as used,
        connect(proxy.port) as silent,
    ):
        assert used("SET", "k", "v") == b"OK"
        end(proxy, number)
        assert ended(used.socket)
        assert ended(silent)
        assert exit_code(proxy) == 0
        first = f"signal {number:d} ({number.name}) received, draining for at most 100000 ms"
        assert first in proxy.output
        assert re.search(r"NOTICE drained in \d+ ms, nothing was cut off\n$", proxy.output)


def test_a_client_that_has_been_quiet_for_long_does_not_delay_the_end():
    """It has already had the time that other clients are given to read their last replies."""
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
        Client(proxy.port) as quiet,
    ):
        assert quiet("CLIENT", "SETNAME", "quiet") == b"OK"
        with Client(proxy.port) as other:

            def idle():
                listed = other("CLIENT", "LIST").decode()
                return int(re.search(r" name=quiet .*? idle=(\d+) ", listed)[1])

            wait_until(lambda: idle() >= 2, "two seconds without a request")
        end(proxy)
        assert ended(quiet.socket)
        assert exit_code(proxy) == 0
        took = int(re.search(r"drained in (\d+) ms", proxy.output)[1])
        assert took < LINGER


def test_a_client_that_was_active_a_moment_ago_delays_the_end_by_one_second():
    """The proxy has just started, so the timer that ends the wait for the client is the only one
    that expires in the next second."""
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "k", "v") == b"OK"
        end(proxy)
        assert ended(client.socket)
        assert exit_code(proxy) == 0
        took = int(re.search(r"drained in (\d+) ms", proxy.output)[1])
        assert LINGER <= took < 1.5 * LINGER


def test_requests_in_flight_are_answered_and_new_clients_are_refused(gate):
    with (
        ScriptedServer(gate) as server,
        NutproxyServer(PATIENT + pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("GET", "a"), ("PING",), ("GET", "b"))
        wait_until(lambda: server.requests, "first request at the server")
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        gate.opened.set()
        assert client.replies(3) == [value_of(b"a"), b"PONG", value_of(b"b")]
        assert ended(client.socket)
        assert exit_code(proxy) == 0


def test_requests_that_wait_in_the_sockets_are_answered_too():
    """The proxy is stopped when they arrive. When the drain begins, it has read none of them, and
    has not even accepted one of the clients."""
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis]), "-m", "512") as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "k", "v") == b"OK"
        proxy.stop()
        client.pipeline(*[("ECHO", number) for number in range(1000)])
        with Client(proxy.port) as newcomer:
            newcomer.send("GET", "k")
            end(proxy)
            proxy.cont()
            assert client.replies(1000) == [b"%d" % number for number in range(1000)]
            assert newcomer.reply() == b"v"
            assert ended(client.socket)
            assert ended(newcomer.socket)
        assert exit_code(proxy) == 0


def test_clients_of_a_unix_socket_are_answered_too(tmp_path):
    path = tmp_path / "alpha.sock"
    with (
        RedisServer() as redis,
        NutproxyServer(
            PATIENT + pool("alpha", [redis]).replace("listen: auto", f"listen: {path}")
        ) as proxy,
    ):
        with Client(path) as client:
            assert client("SET", "k", "v") == b"OK"
            proxy.stop()
            client.pipeline(("GET", "k"), ("GET", "k"))
            end(proxy)
            proxy.cont()
            assert client.replies(2) == [b"v", b"v"]
            assert ended(client.socket)
        assert exit_code(proxy) == 0


def test_a_request_that_has_begun_is_received_completely_and_the_next_is_not(gate):
    with (
        ScriptedServer(gate) as server,
        NutproxyServer(PATIENT + pool("alpha", [server])) as proxy,
        connect(proxy.port) as idle,
        Client(proxy.port) as client,
    ):
        whole = request("GET", "a")
        client.send_bytes(whole + whole[:9])
        wait_until(lambda: server.requests, "first request at the server")
        end(proxy)
        # By now the proxy knows what each client had sent before the signal.
        assert ended(idle)
        client.send_bytes(whole[9:] + request("GET", "too late"))
        gate.opened.set()
        assert client.replies(2) == [value_of(b"a")] * 2
        assert ended(client.socket)
        assert exit_code(proxy) == 0
        assert server.requests == [[b"GET", b"a"]] * 2


def test_memcached_clients_are_answered_and_a_value_too_large_is_received_completely():
    with (
        MemcachedServer() as cache,
        NutproxyServer(PATIENT + mc_pool("alpha", [cache])) as proxy,
        connect(proxy.port) as client,
        connect(proxy.port) as other,
    ):
        other.sendall(b"set k 0 0 1\r\nv\r\n")
        assert other.recv(100) == b"STORED\r\n"
        proxy.stop()
        other.sendall(b"get k\r\nmn\r\nset k 0 0 1 noreply\r\nw\r\nget k\r\n")
        large = b"set k 0 0 2000000000\r\n"
        client.sendall(large + b"x" * 100)
        end(proxy)
        proxy.cont()
        wait_until(lambda: refuses(proxy), "closed listener")
        assert read_all(other) == b"VALUE k 0 1\r\nv\r\nEND\r\nMN\r\nVALUE k 0 1\r\nw\r\nEND\r\n"
        assert client.recv(100) == b"SERVER_ERROR object too large for cache\r\n"
        # The client can send the rest without being cut off.
        client.sendall(b"x" * (1 << 20))
        wait_until(lambda: proxy.stats()["alpha"]["client_request_bytes"] > 1 << 20, "the rest")
        client.shutdown(socket.SHUT_WR)
        assert ended(client)
        assert exit_code(proxy) == 0


def test_binary_clients_are_answered_and_a_value_that_has_begun_is_stored():
    value = b"x" * 500_000
    begun = binary.request(Op.SET, b"large", value, extras=bytes(8), opaque=7)
    with (
        MemcachedServer() as cache,
        NutproxyServer(PATIENT + mc_pool("alpha", [cache])) as proxy,
        BinaryClient(proxy.port) as client,
        BinaryClient(proxy.port) as other,
        connect(proxy.port) as undecided,
    ):
        for key in (b"a", b"b"):
            assert other(Op.SET, key, key, extras=bytes(8)).status == 0
        assert client(Op.NOOP).status == 0
        proxy.stop()
        quiet = [binary.request(Op.GETKQ, key, opaque=1) for key in (b"a", b"none", b"b", b"c d")]
        other.send_bytes(b"".join(quiet * 20) + binary.request(Op.NOOP, opaque=2))
        other.send_bytes(binary.request(Op.GETKQ, b"a", opaque=3))
        client.send_bytes(begun[:100_000])
        end(proxy)
        proxy.cont()
        assert ended(undecided)
        assert [each.value for each in other.until(2)] == [b"a", b"b"] * 20
        assert other.response().opaque == 3
        assert other.closed()
        client.send_bytes(begun[100_000:] + binary.request(Op.NOOP, opaque=8))
        stored = client.response()
        assert (stored.opaque, stored.status) == (7, 0)
        assert client.closed()
        assert exit_code(proxy) == 0
        with BinaryClient(cache.port) as direct:
            assert direct(Op.GET, b"large").value == value


def test_a_large_value_that_has_begun_is_stored():
    value = os.urandom(4 << 20)
    whole = request("SET", "k", value)
    with RedisServer() as redis:
        with (
            NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
            Client(proxy.port) as client,
        ):
            client.send_bytes(whole[: 1 << 20])
            end(proxy)
            wait_until(lambda: refuses(proxy), "closed listener")
            client.send_bytes(whole[1 << 20 :])
            assert client.reply() == b"OK"
            assert ended(client.socket)
            assert exit_code(proxy) == 0
        with Client(redis.port) as direct:
            assert direct("GET", "k") == value


def test_requests_of_a_client_that_has_left_are_executed():
    with RedisServer() as redis:
        with NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy:
            with Client(proxy.port) as client:
                assert client("SET", "k", "v") == b"OK"
            redis.stop()
            with Client(proxy.port) as client:
                client.send("SET", "k", "last words")
                wait_until(lambda: proxy.stats()["alpha"]["s1"]["out_queue"] == 1, "the request")
                reset(client.socket)
            wait_until(lambda: proxy.stats()["alpha"]["client_connections"] == 0, "client's end")
            end(proxy)
            wait_until(lambda: refuses(proxy), "closed listener")
            for _ in range(20):
                assert proxy.stats()["alpha"]["s1"]["out_queue"] == 1
            redis.cont()
            assert exit_code(proxy) == 0
        with Client(redis.port) as direct:
            assert direct("GET", "k") == b"last words"


def test_a_request_of_a_client_that_has_left_is_written_completely():
    go = threading.Event()
    value = b"x" * 20_000_000
    with (
        ScriptedServer(reading_when(go)) as server,
        NutproxyServer(PATIENT + pool("alpha", [server])) as proxy,
    ):
        with Client(proxy.port) as client:
            client.send("SET", "k", value)
            wait_until(
                lambda: proxy.stats()["alpha"]["s1"]["in_queue_bytes"] > len(value), "the request"
            )
            reset(client.socket)
        wait_until(lambda: proxy.stats()["alpha"]["client_connections"] == 0, "the client's end")
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        for _ in range(20):
            assert proxy.stats()["alpha"]["s1"]["in_queue"] == 1
        go.set()
        assert exit_code(proxy) == 0
        assert server.requests == [[b"SET", b"k", value]]


def test_the_drain_does_not_wait_for_a_request_that_has_timed_out():
    """The server still sends bytes, and may reply some day."""
    over = threading.Event()

    def script(session):
        session.receive()
        while not over.wait(0.005):
            session.send(b">1\r\n+still here\r\n")

    with (
        ScriptedServer(script) as server,
        NutproxyServer(PATIENT + pool("alpha", [server], timeout=1000)) as proxy,
    ):
        with Client(proxy.port) as client:
            assert "Connection timed out" in client.error("GET", "k")
        end(proxy)
        assert exit_code(proxy) == 0
        over.set()


def test_a_client_that_goes_on_sending_loses_no_reply_to_a_reset():
    """Requests after the signal are read and dropped while the client reads its replies. Closing
    the connection with unread bytes would reset it, and replies on their way would be lost."""
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
        connect(proxy.port) as idle,
        Client(proxy.port) as client,
    ):
        value = "x" * 100_000
        assert client("SET", "k", value) == b"OK"
        proxy.stop()
        client.pipeline(*[("GET", "k")] * 20)
        end(proxy)
        proxy.cont()
        # By now the proxy knows what each client had sent before the signal.
        assert ended(idle)
        # The client has not read any of the replies yet.
        client.pipeline(*[("GET", "k")] * 20)
        assert client.replies(20) == [value.encode()] * 20
        assert ended(client.socket)
        client.socket.close()
        assert exit_code(proxy) == 0


def test_a_client_that_has_not_taken_its_last_reply_loses_nothing_to_a_reset():
    """No request is pending when the drain begins. The reply is in the buffers of the sockets."""
    value = b"x" * 1_000_000
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "k", value) == b"OK"
        client.send("GET", "k")
        wait_until(
            lambda: proxy.stats()["alpha"]["client_response_bytes"] > len(value), "the reply"
        )
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        client.send("GET", "k")
        assert client.reply() == value
        assert ended(client.socket)
        client.socket.close()
        assert exit_code(proxy) == 0


def test_a_client_at_its_limit_of_requests_gets_every_reply():
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis], client_max_requests=16)) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "k", "v") == b"OK"
        redis.stop()
        client.pipeline(*[("GET", "k")] * 5000)
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        redis.cont()
        assert client.replies(5000) == [b"v"] * 5000
        assert ended(client.socket)
        assert exit_code(proxy) == 0


def test_the_drain_waits_for_a_reply_that_is_made_in_steps():
    with (
        RedisServer() as redis,
        NutproxyServer(PATIENT + pool("alpha", [redis])) as proxy,
        contextlib.ExitStack() as stack,
        Client(proxy.port) as client,
    ):
        crowd = [stack.enter_context(connect(proxy.port)) for _ in range(2 * LINES_PER_STEP)]
        wait_until(lambda: info(proxy.port, "clients")["connected_clients"] > len(crowd), "clients")
        proxy.stop()
        client.send("CLIENT", "LIST")
        end(proxy)
        proxy.cont()
        assert client.reply().count(b"\n") > LINES_PER_STEP
        assert ended(client.socket)
        stack.close()
        assert exit_code(proxy) == 0


def test_a_server_that_hangs_makes_the_timeout_end_it():
    config = "global:\n  shutdown_timeout: 300\n"
    with (
        RedisServer() as redis,
        RedisServer() as second,
        NutproxyServer(config + pool("alpha", [redis, second])) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as other,
    ):
        keys = [keys_of(number, (1, 2), 1)[0] for number in (1, 2)]
        assert client("MSET", keys[0], "v", keys[1], "v") == b"OK"
        redis.stop()
        second.stop()
        client.pipeline(("GET", keys[0]), ("GET", keys[1]))
        # One request, in two parts.
        other.send("MGET", *keys)
        for server in ("s1", "s2"):
            wait_until(partial(in_flight, proxy, server, 2), "all requests")
        end(proxy)
        assert exit_code(proxy) == 0
        assert re.search(
            r"WARNING drain ended after \d+ ms: clients cut off: 2, requests cut off: 3\n$",
            proxy.output,
        ), proxy.output


def test_an_unread_reply_in_pieces_counts_as_one_request_that_is_cut_off():
    with (
        RedisServer() as one,
        RedisServer() as two,
        NutproxyServer("global:\n  shutdown_timeout: 300\n" + pool("alpha", [one, two])) as proxy,
        Client(proxy.port) as client,
    ):
        # More than the sockets between client and proxy can buffer.
        keys = [key for number in (1, 2) for key in keys_of(number, (1, 2), 16)]
        for key in keys:
            assert client("SET", key, b"x" * 1000000) == b"OK"
        client.send("MGET", *keys)
        for server in ("s1", "s2"):
            wait_until(partial(in_flight, proxy, server, 0), "all replies")
        end(proxy)
        assert exit_code(proxy) == 0
        assert "clients cut off: 1, requests cut off: 1\n" in proxy.output


def test_a_timeout_of_0_does_not_wait():
    config = "global:\n  shutdown_timeout: 0\n"
    with (
        ScriptedServer(never) as server,
        NutproxyServer(config + pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.send("GET", "k")
        wait_until(lambda: server.requests, "request at the server")
        end(proxy)
        assert exit_code(proxy) == 0
        assert "clients cut off: 1, requests cut off: 1" in proxy.output


def test_a_timeout_while_clients_may_still_read_their_last_reply_cuts_off_nothing():
    config = f"global:\n  shutdown_timeout: {LINGER // 10}\n"
    with (
        RedisServer() as redis,
        NutproxyServer(config + pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        # The client may still be reading its reply, so the drain would wait for it.
        assert client("SET", "k", "v") == b"OK"
        end(proxy)
        assert exit_code(proxy) == 0
        assert "ms, nothing was cut off" in proxy.output
        assert "drain ended" not in proxy.output


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second):
    with (
        ScriptedServer(never) as server,
        NutproxyServer(PATIENT + pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.send("GET", "k")
        wait_until(lambda: server.requests, "request at the server")
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        end(proxy, second)
        assert exit_code(proxy) == 0
        assert f"signal {second:d} ({second.name}) received again, ending at once" in proxy.output
        assert "clients cut off: 1, requests cut off: 1" in proxy.output


def test_half_closed_and_quitting_clients_get_their_replies(gate):
    with (
        ScriptedServer(gate) as server,
        NutproxyServer(PATIENT + pool("alpha", [server])) as proxy,
        Client(proxy.port) as half,
        Client(proxy.port) as quitting,
    ):
        half.send("GET", "a")
        half.socket.shutdown(socket.SHUT_WR)
        quitting.send_bytes(requests("GET b", "QUIT", "GET c"))
        wait_until(lambda: server.requests, "first request at the server")
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        gate.opened.set()
        assert half.reply() == value_of(b"a")
        assert ended(half.socket)
        assert quitting.replies(2) == [value_of(b"b"), b"OK"]
        assert ended(quitting.socket)
        assert exit_code(proxy) == 0


def test_a_server_that_comes_back_during_the_drain_is_still_used(gate):
    """A drain does not change how servers are handled: a lost connection is opened again."""
    key = keys_of(1, [1], 1)[0]

    def script(session):
        if session.number == 1:
            session.receive()
            session.wait(gate.opened)
            return
        answer(session)

    with (
        ScriptedServer(script) as server,
        NutproxyServer(PATIENT + pool("alpha", [server], client_max_requests=1)) as proxy,
        Client(proxy.port) as client,
    ):
        # The limit of one request keeps the second one back until the first is answered.
        client.pipeline(("GET", key), ("GET", key))
        wait_until(lambda: server.requests, "first request at the server")
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        gate.opened.set()
        assert isinstance(client.reply(), hiredis.ReplyError)
        assert client.reply() == value_of(key)
        assert exit_code(proxy) == 0


# Under load.

CLIENTS = 60
PIPELINE = 50
KEYS = 100


class Load(threading.Thread):
    """Clients in one thread, until `stop_sending()`. Each sends a pipeline as soon as the previous
    one has been answered. Every reply is compared with its request."""

    def __init__(self, port):
        super().__init__()
        self.clients = [connect(port) for _ in range(CLIENTS)]
        self.readers = [hiredis.Reader() for _ in self.clients]
        self.sent = [0] * CLIENTS
        self.answered = [0] * CLIENTS
        self.faults = []
        self.sending = threading.Lock()
        self.stopped = False

    def stop_sending(self):
        """Nothing more is sent when this returns."""
        with self.sending:
            self.stopped = True

    def send(self, index):
        with self.sending:
            if not self.stopped:
                numbers = range(self.sent[index], self.sent[index] + PIPELINE)
                self.clients[index].sendall(b"".join(question(index, n) for n in numbers))
                self.sent[index] += PIPELINE

    def receive(self, index):
        """Read from a client. Returns False if the proxy has closed it."""
        try:
            received = self.clients[index].recv(65536)
        except OSError as error:
            self.faults.append(error)
            return False
        self.readers[index].feed(received)
        while (reply := self.readers[index].gets()) is not False:
            if reply != right_reply(index, self.answered[index]):
                self.faults.append((index, self.answered[index], reply))
            self.answered[index] += 1
        return bool(received)

    def run(self):
        waiting = {client: index for index, client in enumerate(self.clients)}
        while waiting:
            for index in range(CLIENTS):
                if self.answered[index] == self.sent[index]:
                    self.send(index)
            for client in select.select(list(waiting), [], [])[0]:
                if not self.receive(waiting[client]):
                    del waiting[client]

    def close(self):
        for client in self.clients:
            client.close()


def question(index, number):
    """The proxy handles every third request itself. The others go to servers."""
    if number % 3 == 0:
        return request("ECHO", f"{index}:{number}")
    return request("GET", number % KEYS)


def right_reply(index, number):
    return b"%d:%d" % (index, number) if number % 3 == 0 else b"value %d" % (number % KEYS)


def test_no_request_is_lost_under_load():
    """One of the servers is stopped when the drain begins, and continues later."""
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as slow,
        NutproxyServer(PATIENT + pool("alpha", [one, two, slow])) as proxy,
    ):
        with Client(proxy.port) as client:
            for number in range(KEYS):
                assert client("SET", number, f"value {number}") == b"OK"
        load = Load(proxy.port)
        load.start()
        wait_until(lambda: sum(load.answered) > 10 * CLIENTS * PIPELINE, "load")
        slow.stop()
        load.stop_sending()
        due = sum(load.sent) - sum(load.answered)
        began = time.monotonic()
        end(proxy)
        wait_until(lambda: refuses(proxy), "closed listener")
        slow.cont()
        load.join(60)
        load.close()
        assert exit_code(proxy) == 0
        took = time.monotonic() - began
        assert load.faults == []
        assert load.answered == load.sent
        # The figures, shown by pytest -s.
        print(
            f"{CLIENTS} clients, {due} requests in flight at the signal, all answered,"
            f" {sum(load.sent)} in all; {took * 1000:.0f} ms"
        )
