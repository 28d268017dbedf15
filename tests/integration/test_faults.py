# tests/integration/test_faults.py: faults inside nutproxy
"""A fault inside nutproxy, such as a lack of memory or a log that raises, affects at most the
request or the connection in which it occurs. Every request is answered, and nothing leaks.

Faults are caused in two ways. For Python code, a function of the standard library raises; the
Worker runs inside the test's process. For C code, malloc fails for messages and for lists of
connections while a flag in a file is set; nutproxy runs in a process of its own.
"""

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import termios
import threading
import time
import types
from collections import deque

import pytest

from nutproxy.builtin.client import LINES_PER_STEP
from nutproxy.msg.message import live_messages
from nutproxy.resolver import Resolver
from tests.client import Client, request, words
from tests.integration.conftest import mc_pool, pool
from tests.integration.inside import running_worker
from tests.scripted import ScriptedServer, answer, keys_of, never, reset, value_of
from tests.servers import HOST, MemcachedServer, NutproxyServer, wait_until

# This key leaves no room in its message for an error text, which then needs another block.
LONG = "k" * 150
NO_MEMORY = "ERR out of memory"

MALLOC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_realloc(void *block, size_t size);
static volatile const char *lacking = "";

__attribute__((constructor)) static void watch(void) {
    int fd = open(getenv("LACKING"), O_RDONLY);
    lacking = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
}

static int refused(void *address, const char *module) {
    Dl_info caller;
    return *lacking && dladdr(address, &caller) && strstr(caller.dli_fname, module);
}

void *malloc(size_t size) {
    if (refused(__builtin_return_address(0), "/nutproxy/msg/message."))
        return NULL;
    return __libc_malloc(size);
}

void *realloc(void *block, size_t size) {
    void *address = __builtin_return_address(0);
    if (refused(address, "/nutproxy/conn.") || refused(address, "/nutproxy/io/reactor."))
        return NULL;
    return __libc_realloc(block, size);
}
"""


@pytest.fixture(scope="module")
def malloc(tmp_path_factory):
    """The library for LD_PRELOAD."""
    library = tmp_path_factory.mktemp("malloc") / "malloc.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-xc", "-o", library, "-", "-ldl"],
        input=MALLOC.encode(),
        check=True,
    )
    return library


class ShortServer(NutproxyServer):
    """nutproxy with that malloc. Inside the context `without_memory`, it fails."""

    def __init__(self, config, malloc, directory):
        super().__init__(config)
        self.malloc = malloc
        self.file = directory / "lacking"
        self.file.write_bytes(b"\0")

    def command(self):
        return [
            "env",
            f"LD_PRELOAD={self.malloc}",
            f"LACKING={self.file}",
            *super().command(),
        ]

    @contextlib.contextmanager
    def without_memory(self):
        self.say(b"\1")
        try:
            yield
        finally:
            self.say(b"\0")

    def say(self, byte):
        with self.file.open("r+b") as file:
            file.write(byte)


class Failing:
    """Replaces a function inside the context, and raises. `calls` is the number of calls."""

    def __init__(self, monkeypatch, owner, name, fault=MemoryError):
        self.monkeypatch = monkeypatch
        self.owner = owner
        self.name = name
        self.fault = fault
        self.calls = 0

    def __call__(self, *_):
        self.calls += 1
        raise self.fault

    def __enter__(self):
        self.monkeypatch.setattr(self.owner, self.name, self)
        return self

    def __exit__(self, *_):
        self.monkeypatch.undo()


class Full(deque):
    """A queue without memory for another entry."""

    def append(self, _):
        raise MemoryError


@pytest.fixture
def faults(caplog):
    """A function that returns the texts of the faults in the log."""
    return lambda: [record.getMessage() for record in caplog.records if record.exc_info]


# Requests of a server connection that ends -------------------------------------------------------


def holding(go, count):
    """The script of a server that receives `count` requests, waits for `go`, and resets the
    connection. Later connections get replies."""

    def script(session):
        if session.number > 1:
            answer(session)
            return
        for _ in range(count):
            session.receive()
        session.wait(go)
        session.reset()

    return script


@pytest.mark.measures
def test_requests_are_answered_when_their_connection_ends_and_there_is_no_memory(malloc, tmp_path):
    go = threading.Event()
    with (
        ScriptedServer(holding(go, 4)) as server,
        ShortServer(pool("alpha", [server]), malloc, tmp_path) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(*[("GET", LONG)] * 3, ("GET", "short"))
        wait_until(lambda: len(server.requests) == 4, "the requests")
        with proxy.without_memory():
            go.set()
            replies = [words(reply) for reply in client.replies(4)]
        assert replies[:3] == [NO_MEMORY] * 3
        assert replies[3] == "ERR server 's1' of pool 'alpha': Connection reset by peer"
        assert client("GET", LONG) == value_of(LONG.encode())
        assert "Traceback" not in proxy.log()


@pytest.mark.measures
def test_parts_are_answered_when_their_connection_ends_and_there_is_no_memory(malloc, tmp_path):
    go = threading.Event()
    keys = [b"{%b}" % keys_of(number, [1, 2, 3], 1)[0] + b"k" * 100 for number in (1, 2)]
    with (
        ScriptedServer(holding(go, 1)) as server,
        ScriptedServer() as other,
        ScriptedServer() as third,
        ShortServer(pool("alpha", [server, other, third]), malloc, tmp_path) as proxy,
        Client(proxy.port) as client,
    ):
        client.send("MGET", *keys)
        wait_until(lambda: server.requests and other.requests, "both parts")
        with proxy.without_memory():
            go.set()
            assert words(client.reply()) == NO_MEMORY
        assert client("MGET", *keys) == [value_of(key) for key in keys]


@pytest.mark.measures
@pytest.mark.parametrize("size", [1000, 70_000, 1 << 20], ids=["small", "copied", "shared"])
def test_a_request_that_cannot_be_split_closes_its_client_and_no_other(malloc, tmp_path, size):
    """Twice, so that whatever the first one has left behind would be used by the second."""
    keys = [keys_of(number, [1, 2, 3], 1)[0] for number in (1, 2, 3)]
    command = request("MSET", keys[0], "s" * 300, keys[1], "v" * size, keys[2], "s" * size)
    with (
        ScriptedServer() as server,
        ScriptedServer() as other,
        ScriptedServer() as third,
        ShortServer(pool("alpha", [server, other, third]), malloc, tmp_path) as proxy,
        Client(proxy.port) as neighbour,
    ):
        assert neighbour("MGET", *keys) == [value_of(key) for key in keys]
        for _ in range(2):
            with Client(proxy.port) as client:
                client.send_bytes(command[:-1])
                wait_until(lambda client=client: not unsent(client), "the request")
                with proxy.without_memory():
                    client.send_bytes(command[-1:])
                    assert client.closed()
                    assert neighbour("GET", keys[0]) == value_of(keys[0])
        assert neighbour("MGET", *keys) == [value_of(key) for key in keys]
        with Client(proxy.port) as client:
            client.send_bytes(command)
            assert client.reply() == b"OK"
        assert proxy.log().count("in nutproxy.dispatch.split.split\n") == 2, proxy.log()


def unsent(client):
    """The bytes that the proxy's socket has not taken yet."""
    return int.from_bytes(fcntl.ioctl(client.socket, termios.TIOCOUTQ, b"\0" * 4), "little")


@pytest.mark.measures
def test_requests_that_time_out_are_answered_when_there_is_no_memory(malloc, tmp_path):
    with (
        ScriptedServer(never) as server,
        ShortServer(pool("alpha", [server], timeout=200), malloc, tmp_path) as proxy,
        Client(proxy.port) as client,
    ):
        # The later requests use the messages of these, and need no memory for them.
        client.pipeline(*[("PING",)] * 3)
        assert client.replies(3) == [b"PONG"] * 3
        with proxy.without_memory():
            client.pipeline(*[("GET", LONG)] * 3)
            assert [words(reply) for reply in client.replies(3)] == [NO_MEMORY] * 3


@pytest.mark.measures
def test_a_miss_becomes_an_error_when_there_is_no_memory(malloc, tmp_path):
    options = {"timeout": 200, "on_dead_server": "miss"}
    with (
        MemcachedServer() as server,
        ShortServer(mc_pool("alpha", [server], **options), malloc, tmp_path) as proxy,
        socket.create_connection((HOST, proxy.port), 10) as client,
        client.makefile("rb") as replies,
    ):
        line = f"mg {LONG} k q v\r\nmn\r\n".encode()
        client.sendall(line)
        assert replies.readline() == b"MN\r\n"
        server.stop()
        with proxy.without_memory():
            client.sendall(line)
            assert replies.readline() == b"SERVER_ERROR out of memory\r\n"
        assert replies.readline() == b"MN\r\n"
        server.cont()


@pytest.mark.measures
def test_replies_that_come_together_leave_together_when_there_is_no_memory(malloc, tmp_path):
    count = 100
    go = threading.Event()

    def script(session):
        for _ in range(count):
            session.receive()
        session.wait(go)
        session.send(b"+OK\r\n" * count)
        session.receive()

    with (
        ScriptedServer(script) as server,
        ShortServer(pool("alpha", [server]), malloc, tmp_path) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(proxy.port)) for _ in range(count)]
        # One after the other, so that no list has held many of them at once.
        for number, client in enumerate(clients, start=1):
            client.send("GET", "k")
            wait_until(lambda number=number: len(server.requests) == number, "the request")
        with proxy.without_memory():
            go.set()
            assert [client.reply() for client in clients] == [b"OK"] * count


@pytest.mark.measures
def test_a_client_refused_for_lack_of_memory_does_not_end_the_listener(malloc, tmp_path):
    with (
        ScriptedServer() as server,
        ShortServer(pool("alpha", [server]), malloc, tmp_path) as proxy,
        Client(proxy.port) as first,
        contextlib.ExitStack() as stack,
    ):
        # The proxy listens before it has all the memory that it needs for the start.
        assert first("PING") == b"PONG"
        with proxy.without_memory():
            for _ in range(100):
                stack.enter_context(Client(proxy.port))
            refused = "accept failed: Cannot allocate memory"
            wait_until(lambda: refused in proxy.output, "a refused client")
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"
        assert "Traceback" not in proxy.log()


@pytest.mark.measures
def test_a_client_is_closed_when_there_is_no_memory_for_its_list(malloc, tmp_path):
    """A list of so many clients is made in steps, and no caller handles an exception in a step."""
    with (
        ScriptedServer() as server,
        ShortServer(pool("alpha", [server]), malloc, tmp_path) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(proxy.port)) for _ in range(LINES_PER_STEP + 2)]
        for client in clients:
            assert client("PING") == b"PONG"
        with proxy.without_memory():
            clients[0].send("CLIENT", "LIST")
            assert clients[0].closed()
        assert clients[1]("CLIENT", "LIST").count(b" fd=") == LINES_PER_STEP + 1


def test_a_list_that_cannot_be_started_does_not_block_later_ones(monkeypatch, tmp_path):
    with (
        ScriptedServer() as server,
        running_worker([server], tmp_path) as (worker, port),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(port)) for _ in range(LINES_PER_STEP + 2)]
        for client in clients:
            assert client("PING") == b"PONG"
        with monkeypatch.context() as patched:
            patched.setattr(worker.reactor.replies, "waiting", Full())
            clients[0].send("CLIENT", "LIST")
            assert clients[0].closed()
        assert clients[1]("CLIENT", "LIST").count(b" fd=") == LINES_PER_STEP + 1


def test_requests_are_answered_when_the_end_of_their_connection_raises(
    monkeypatch, tmp_path, faults
):
    go = threading.Event()
    with (
        ScriptedServer(holding(go, 3)) as server,
        running_worker([server], tmp_path) as (_, port),
        Client(port) as client,
    ):
        before = live_messages()
        client.pipeline(*[("GET", "k")] * 3)
        wait_until(lambda: len(server.requests) == 3, "the requests")
        with Failing(monkeypatch, os, "strerror") as failing:
            go.set()
            assert [words(reply) for reply in client.replies(3)] == [NO_MEMORY] * 3
        assert failing.calls == 1
        assert len(faults()) == 1
        assert client("GET", "k") == value_of(b"k")
        assert server.accepted == 2
        wait_until(lambda: live_messages() == before, "the last message")


def test_requests_are_answered_when_the_log_raises(tmp_path):
    class Raising(logging.Handler):
        lines = 0

        def emit(self, record):
            Raising.lines += 1
            raise MemoryError

    go = threading.Event()
    handler = Raising()
    log = logging.getLogger("nutproxy")
    with (
        ScriptedServer(holding(go, 3)) as server,
        running_worker([server], tmp_path) as (_, port),
        Client(port) as client,
    ):
        client.pipeline(*[("GET", "k")] * 3)
        wait_until(lambda: len(server.requests) == 3, "the requests")
        log.addHandler(handler)
        try:
            go.set()
            for reply in client.replies(3):
                assert words(reply) == "ERR server 's1' of pool 'alpha': Connection reset by peer"
            assert client("GET", "k") == value_of(b"k")
        finally:
            log.removeHandler(handler)
        assert Raising.lines > 0


# Other places ------------------------------------------------------------------------------------


def test_a_server_is_probed_again_when_the_end_of_a_probe_raises(monkeypatch, tmp_path, faults):
    with (
        ScriptedServer() as server,
        running_worker([server], tmp_path) as (worker, port),
        Client(port) as client,
    ):
        server.refuse()
        with socket.create_server((HOST, server.port)) as listener:
            listener.settimeout(10)
            client.send("GET", "k")
            reset(listener.accept()[0])
            assert words(client.reply()).endswith("Connection reset by peer")
            with Failing(monkeypatch, os, "strerror") as failing:
                reset(listener.accept()[0])
                wait_until(lambda: failing.calls, "the end of the probe")
                wait_until(faults, "the fault")
        server.listen()
        wait_until(lambda: client("GET", "k") == value_of(b"k"), "the return of the server")
        assert not worker.pools[0].servers[0].down


def test_a_client_that_has_left_is_removed_when_its_end_raises(
    monkeypatch, tmp_path, caplog, faults
):
    go = threading.Event()

    def script(session):
        session.receive()
        session.wait(go)
        session.send(b"+late\r\n")
        answer(session)

    caplog.set_level(logging.DEBUG, "nutproxy")
    with ScriptedServer(script) as server, running_worker([server], tmp_path) as (worker, port):
        with Client(port) as client:
            client.send("GET", "k")
            wait_until(lambda: server.requests, "the request")
            with Failing(monkeypatch, os, "strerror"):
                reset(client.socket)
                wait_until(lambda: not worker.clients(), "the end of the client")
                wait_until(faults, "the fault")
        go.set()
        with Client(port) as client:
            assert client("GET", "k") == value_of(b"k")


@pytest.mark.parametrize(
    ("what", "logged"),
    [
        ("memory", "accept failed: Cannot allocate memory"),
        ("memory for the log", "internal error, no client is accepted for a moment"),
        ("anything else", "internal error, no client is accepted for a moment"),
    ],
)
def test_a_listener_continues_when_an_accept_raises(monkeypatch, tmp_path, caplog, what, logged):
    clock = types.SimpleNamespace(monotonic=time.monotonic)
    monkeypatch.setattr("nutproxy.front.client.time", clock)
    with (
        ScriptedServer() as server,
        running_worker([server], tmp_path) as (worker, port),
        Client(port) as first,
        contextlib.ExitStack() as failing,
    ):
        assert first("PING") == b"PONG"
        descriptors = len(os.listdir("/proc/self/fd"))
        fault = RuntimeError if what == "anything else" else MemoryError
        failing.enter_context(Failing(monkeypatch, clock, "monotonic", fault))
        if what == "memory for the log":
            failing.enter_context(Failing(monkeypatch, os, "strerror"))
        with Client(port) as refused:
            assert refused.closed()
        wait_until(lambda: logged in caplog.text, "the log")
        failing.close()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == descriptors, "the descriptor's end")
        with Client(port) as second:
            assert second("PING") == b"PONG"
            assert len(worker.clients()) == 2
        assert first("PING") == b"PONG"


def test_a_resolver_result_that_raises_does_not_end_the_wakeup_of_the_loop(
    monkeypatch, tmp_path, faults
):
    deliver = Resolver.deliver

    def delivering(self):
        deliver(self)
        monkeypatch.setattr(Resolver, "deliver", deliver)
        raise MemoryError

    monkeypatch.setattr(Resolver, "deliver", delivering)
    with (
        ScriptedServer() as server,
        running_worker([server], tmp_path, name="localhost") as (_, port),
        Client(port) as client,
    ):
        assert client("GET", "k") == value_of(b"k")
        # The end of the context depends on the same wakeup.
        wait_until(faults, "the fault")


def test_clients_that_cannot_be_drained_are_closed(monkeypatch, tmp_path, faults):
    deliver = Resolver.deliver
    drained = []

    def draining(self):
        deliver(self)
        monkeypatch.setattr(Resolver, "deliver", deliver)
        with Failing(monkeypatch, fcntl, "ioctl") as failing:
            worker.drain(600000)
        drained.append(failing.calls)

    with (
        ScriptedServer() as server,
        running_worker([server], tmp_path, name="localhost") as (worker, port),
        Client(port) as one,
        Client(port) as other,
    ):
        assert other("PING") == b"PONG"
        monkeypatch.setattr(Resolver, "deliver", draining)
        one.send("GET", "k")
        assert one.closed()
        assert other.closed()
        wait_until(lambda: drained == [2], "the drain")
        assert len(faults()) == 2


def test_a_connection_is_released_when_all_its_addresses_fail(tmp_path):
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind((HOST, 0))
        listener.listen(0)
        full = listener.getsockname()
        # One connection fills the queue, so the next connect gets no reply.
        filler.connect(full)

        def resolve(host, port, callback):
            # The second address is refused at once.
            callback([(socket.AF_INET, full), (socket.AF_UNIX, str(tmp_path / "none"))])

        with (
            ScriptedServer() as server,
            running_worker([server], tmp_path, name="name", resolve=resolve) as (worker, port),
            Client(port) as client,
        ):
            client.send("GET", "k")
            wait_until(lambda: len(worker.reactor.conns) == 3, "the connect")
            listener.close()
            assert words(client.reply()).endswith("No such file or directory")
            wait_until(lambda: len(worker.reactor.conns) == 2, "the end of the connection")
