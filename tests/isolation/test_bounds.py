# tests/isolation/test_bounds.py: how much clients and servers can make the proxy store
"""Incomplete requests and replies, and names. Each has a limit in docs/operations.md. Memory is
measured from outside, as counted by the kernel."""

import contextlib
import multiprocessing
import random
import resource
import select
import time
from pathlib import Path

import pytest

from nutproxy.builtin.client import NAME_MAX
from tests import binary
from tests.binary import BinaryClient, Op
from tests.client import Client, read_all, request
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.scripted import (
    RequestCount,
    ScriptedMemcached,
    ScriptedServer,
    answer_memcache,
    memcache_reply,
    reply_to,
    value_of,
)
from tests.servers import NutproxyServer, RedisServer, connect, wait_until

MB = 1 << 20
PROTOCOLS = ["redis", "memcached", "binary"]


def memory(proxy):
    """The current memory of the proxy in bytes."""
    pages = int(Path(f"/proc/{proxy.worker_pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@contextlib.contextmanager
def proxied(protocol, **options):
    """A proxy, the client class of its pool, and the beginning of a large request."""
    if protocol == "redis":
        server, make, client = ScriptedServer(), pool, Client
        begun = b"*2\r\n$3\r\nGET\r\n$200000000\r\n"
    else:
        server, make, client = ScriptedMemcached(answer_memcache), mc_pool, MemcacheClient
        begun = b"set k 0 0 200000000\r\n"
    if protocol == "binary":
        client = BinaryClient
        begun = binary.request(Op.SET, b"k", extras=bytes(8), body_length=200_000_000)
    with server, NutproxyServer(make("alpha", [server], **options)) as proxy:
        yield proxy, client, begun


def ping(client):
    if isinstance(client, Client):
        return client("GET", "k") == value_of(b"k")
    if isinstance(client, BinaryClient):
        return client(Op.NOOP).status == 0
    return client(b"get k") == b"VALUE k 0 %d\r\n%b\r\nEND\r\n" % (10, value_of(b"k"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_request_that_stands_still_ends_its_client_alone(protocol, size):
    with (
        proxied(protocol, client_request_timeout=500) as (proxy, client, begun),
        client(proxy.port) as idle,
        connect(proxy.port) as stuck,
    ):
        stuck.sendall((begun + b"x" * size)[:size])
        assert b"an unfinished request, see client_request_timeout" in read_all(stuck)
        # Between two requests a client may be idle without a limit.
        assert ping(idle)
        assert proxy.stats()["alpha"]["client_protocol_errors"] == 1


def test_a_slow_upload_takes_as_long_as_it_likes():
    data = request("SET", "k", b"v" * 10_000)
    with (
        proxied("redis", client_request_timeout=1500) as (proxy, client, _),
        client(proxy.port) as slow,
    ):
        begun = time.monotonic()
        for at in range(0, len(data), 1000):
            slow.send_bytes(data[at : at + 1000])
            time.sleep(0.4)
        assert time.monotonic() - begun > 3
        assert slow.reply() == b"OK"


def test_a_client_that_the_proxy_does_not_read_does_not_time_out():
    """The rest of a request waits in the socket until earlier requests have replies."""
    with (
        RedisServer() as server,
        NutproxyServer(
            pool("alpha", [server], client_request_timeout=300, client_max_requests=1)
        ) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "k", "v") == b"OK"
        server.stop()
        client.pipeline(*[("GET", "k")] * 500)
        client.send_bytes(request("GET", "k")[:-3])
        time.sleep(2.5)
        server.cont()
        assert client.replies(500) == [b"v"] * 500
        client.send_bytes(b"k\r\n")
        assert client.reply() == b"v"


@pytest.mark.measures
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unfinished_requests_of_all_clients_are_bounded(protocol):
    """Each of ten clients sends 30 MB of an argument. Those with the most bytes are closed."""
    with (
        proxied(protocol, client_query_buffer_limit="64mb") as (proxy, client, begun),
        client(proxy.port) as neighbour,
        connect(proxy.port) as small,
        contextlib.ExitStack() as stack,
    ):
        before = memory(proxy)
        small.sendall(begun + b"x" * MB)
        crowd = [stack.enter_context(connect(proxy.port)) for _ in range(10)]
        for each in crowd:
            with contextlib.suppress(OSError):
                each.sendall(begun + b"x" * (30 * MB))
        wait_until(lambda: proxy.stats()["alpha"]["client_protocol_errors"] >= 8, "the bound")
        assert memory(proxy) - before < 80 * MB
        assert ping(neighbour)
        told = [each for each in crowd if received(each)]
        assert len(told) == proxy.stats()["alpha"]["client_protocol_errors"] == 8
        # The client with the fewest bytes is still connected.
        assert not received(small)


def received(connection):
    """Whether the client has received the error for too many unfinished bytes."""
    connection.settimeout(0.2)
    try:
        return b"client_query_buffer_limit" in read_all(connection)
    except TimeoutError:
        return False


def endless(kind, size):
    """The script of a server that replies to HGET with a line, or a bulk, of this size."""

    def script(session):
        while command := session.receive():
            if command[0] == b"HGET":
                session.send(kind)
                for _ in range(size // MB):
                    session.send(b"x" * MB)
                session.send(b"\r\n")
            else:
                session.send(reply_to(command))

    return script


TOO_LONG = "ERR server 's1' of pool 'alpha': its reply is too long"


@pytest.mark.measures
@pytest.mark.parametrize("begun", [b"+", b"-ERR ", b"*2\r\n:1\r\n(", b":1"])
def test_a_line_without_an_end_is_not_kept(begun):
    """A line of 300 MB is received and dropped. The client gets an error, and other clients can
    still use the server connection."""
    with (
        ScriptedServer(endless(begun, 300 * MB)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as neighbour,
    ):
        assert neighbour("GET", "k") == value_of(b"k")
        before = memory(proxy)
        client.pipeline(("HGET", "h", "f"), ("GET", "k"))
        assert str(client.reply()) == TOO_LONG
        assert client.reply() == value_of(b"k")
        assert memory(proxy) - before < 48 * MB
        assert neighbour("GET", "k") == value_of(b"k")
        assert server.accepted == 1
        assert "a reply is dropped" in proxy.log()


@pytest.mark.parametrize("chunk", ["512", "16384"])
def test_what_follows_a_dropped_reply_is_understood(chunk):
    """The dropped reply contains a line with many CRs, more elements follow the line, and it
    arrives in pieces of any size."""
    rng = random.Random(chunk)
    line = bytearray(17 * MB)
    for at in (*range(0, len(line), 511), *rng.choices(range(len(line)), k=50_000)):
        line[at] = 13
    dropped = b"*4\r\n+%b\r\n$5\r\nhello\r\n" % bytes(line)
    dropped += b"*2\r\n:1\r\n%%1\r\n+a\r\n_\r\n$30000\r\n%b\r\n" % (b"y" * 30_000)

    def script(session):
        while command := session.receive():
            if command[0] != b"HGET":
                session.send(reply_to(command))
                continue
            at = 0
            while at < len(dropped):
                size = rng.choice([1, 2, 3, 1000, 65536, MB])
                session.send(dropped[at : at + size])
                at += size

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server]), "-m", chunk) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(*[("HGET", "h", "f"), ("GET", "k")] * 2)
        for _ in range(2):
            assert str(client.reply()) == TOO_LONG
            assert client.reply() == value_of(b"k")
        assert server.accepted == 1


def test_a_long_line_that_is_kept():
    """A status line of 15 MB, below the limit, is forwarded like any other reply."""
    text = b"+" + b"x" * (15 * MB) + b"\r\n"
    with (
        ScriptedServer(lambda session: session.receive() and session.send(text)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        connect(proxy.port) as client,
    ):
        client.sendall(request("GET", "k"))
        found = b""
        while len(found) < len(text):
            found += client.recv(MB)
        assert found == text


@pytest.mark.slow
@pytest.mark.measures
@pytest.mark.parametrize(
    "begun", [b"$%d\r\n" % (1025 * MB), b"*2\r\n$1\r\na\r\n$%d\r\n" % (1025 * MB)]
)
def test_a_reply_above_the_bound_is_not_kept(begun):
    with (
        ScriptedServer(endless(begun, 1025 * MB)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("GET", "k") == value_of(b"k")
        before = memory(proxy)
        client.pipeline(("HGET", "h", "f"), ("GET", "k"))
        assert str(client.reply()) == TOO_LONG
        assert client.reply() == value_of(b"k")
        assert memory(proxy) - before < 16 * MB
        assert server.accepted == 1


@pytest.mark.slow
@pytest.mark.measures
def test_a_value_of_memcached_above_the_bound_is_not_kept():
    def script(session):
        while command := session.receive():
            if command[1] == b"k":
                session.send(memcache_reply(command))
                continue
            session.send(b"VALUE large 0 %d\r\n" % (1025 * MB))
            for _ in range(1025):
                session.send(bytes(MB))
            session.send(b"\r\nEND\r\n")

    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        assert ping(client)
        before = memory(proxy)
        client.send_bytes(b"get large\r\n")
        assert client.reply() == b"SERVER_%b\r\n" % TOO_LONG.replace("ERR", "ERROR").encode()
        assert ping(client)
        assert memory(proxy) - before < 16 * MB
        assert server.accepted == 1


@pytest.mark.measures
def test_names_of_clients_are_bounded():
    """Thirty clients request a list of 220 clients with names of maximum length."""
    name = "n" * NAME_MAX
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        contextlib.ExitStack() as stack,
    ):
        crowd = [stack.enter_context(Client(proxy.port)) for _ in range(220)]
        for each in crowd:
            longer = f"ERR Client names and attributes cannot be longer than {NAME_MAX} bytes."
            assert each.error("CLIENT", "SETNAME", name + "n") == longer
            assert each.error("HELLO", "2", "SETNAME", name + "n") == longer
            assert each.error("CLIENT", "SETINFO", "LIB-VER", name + "n") == longer
            assert each("CLIENT", "SETNAME", name) == b"OK"
            assert each("CLIENT", "SETINFO", "LIB-NAME", name) == b"OK"
            assert each("CLIENT", "SETINFO", "LIB-VER", name) == b"OK"
        before = memory(proxy)
        for each in crowd[:30]:
            each.send("CLIENT", "LIST")
        for each in crowd[:30]:
            assert each.reply().count(name.encode()) == 3 * len(crowd)
        assert memory(proxy) - before < 64 * MB


def test_memory_does_not_grow_under_a_load_of_long_pipelines():
    """A turn of the loop then takes, and frees, more than FREE_PER_TURN."""
    clients, depth = 250, 1000
    with RedisServer() as redis, NutproxyServer(pool("alpha", [redis])) as proxy:
        count = RequestCount(proxy)
        flood = multiprocessing.get_context("fork").Process(
            target=ping_without_end, args=(proxy.port, clients, depth), daemon=True
        )
        flood.start()
        try:
            wait_until(lambda: count() > 5 * clients * depth, "the pipelines")
            before = memory(proxy)
            wait_until(lambda: count() > 15 * clients * depth, "more pipelines")
            assert memory(proxy) < before + 200 * MB
        finally:
            flood.kill()
            flood.join()


def ping_without_end(port, clients, depth):
    pings = request("PING") * depth
    poller = select.epoll()
    connections = {}
    for _ in range(clients):
        connection = connect(port)
        connection.sendall(pings)
        connections[connection.fileno()] = connection, [0]
        poller.register(connection, select.EPOLLIN)
    while True:
        for number, _ in poller.poll():
            connection, received = connections[number]
            received[0] += len(connection.recv(1 << 20))
            if received[0] == len(b"+PONG\r\n") * depth:
                received[0] = 0
                connection.sendall(pings)
