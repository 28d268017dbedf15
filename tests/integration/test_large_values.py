# tests/integration/test_large_values.py: large values in merged replies
"""MGET with values on several servers: some are large, some small, some missing."""

import contextlib
import ctypes
import mmap
import os
import random
import resource
import statistics
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hiredis
import pytest
import redis

from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.integration.inside import running_worker
from tests.scripted import ScriptedServer, answer, keys_of, reset, value_of
from tests.servers import (
    DEADLINE,
    MemcachedServer,
    NutproxyServer,
    RedisServer,
    connect,
    pipeline,
    wait_until,
)

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("arguments", [(), ("-m", "512")], ids=["default", "-m 512"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_large_and_small_values_keep_their_places(shards, arguments, protocol):
    chance = random.Random(f"{arguments} {protocol}")
    sizes = [0, 1, 200, 5000, 65000, 65536, 70000, 300000]
    values = {
        f"k{number}": chance.randbytes(chance.choice(sizes)) if chance.random() < 0.8 else None
        for number in range(60)
    }
    with (
        NutproxyServer(pool("alpha", shards), *arguments) as proxy,
        redis.Redis(port=proxy.port, protocol=protocol, socket_timeout=DEADLINE) as client,
    ):
        client.flushall()
        client.mset({key: value for key, value in values.items() if value is not None})
        for _ in range(5):
            keys = chance.choices(list(values), k=chance.randint(2, 80))
            pipeline = client.pipeline(transaction=False)
            pipeline.echo("before")
            pipeline.mget(keys)
            pipeline.echo("after")
            before, found, after = pipeline.execute()
            assert (before, after) == (b"before", b"after")
            assert found == [values[key] for key in keys]


@pytest.mark.parametrize("arguments", [(), ("-m", "512")], ids=["default", "-m 512"])
def test_large_and_small_values_of_one_request_get_to_their_servers(shards, arguments):
    """Some are copied, some are sent from the block that the request was received into."""
    chance = random.Random(f"{arguments}")
    sizes = [0, 1, 200, 5000, 65000, 65528, 65536, 70000, 300000, 3_000_000]
    with NutproxyServer(pool("alpha", shards), *arguments) as proxy, Client(proxy.port) as client:
        for _ in range(10):
            client("FLUSHALL")
            count = chance.randint(2, 40)
            values = {
                b"k%d" % number: chance.randbytes(chance.choice(sizes)) for number in range(count)
            }
            values[b"large"] = chance.randbytes(1_000_000)
            words = [word for pair in values.items() for word in pair]
            client.pipeline(
                ("ECHO", "before"), ("MSET", *words), ("MGET", *values), ("ECHO", "after")
            )
            assert client.replies(4) == [b"before", b"OK", list(values.values()), b"after"]
            assert client("DEL", b"x" * 1_000_000, b"y" * 100_000, *values) == len(values)


def test_a_server_that_dies_in_the_middle_of_large_values_fails_its_part_alone():
    """Its part is written up to the end of one of its pieces, and no further."""

    def script(session):
        session.shake()
        received = 0
        while received < 2_000_000:
            received += len(session.sock.recv(65536))
        session.close()

    with (
        ScriptedServer(script) as bad,
        ScriptedServer() as good,
        NutproxyServer(pool("alpha", [bad, good])) as proxy,
        Client(proxy.port) as client,
    ):
        mine, others = keys_of(1, (1, 2), 6), keys_of(2, (1, 2), 6)
        words = [word for key in (*mine, *others) for word in (key, key * 50_000)]
        reply = str(client.error("MSET", *words))
        assert "server 's1' of pool 'alpha': Connection reset by peer" in reply
        [[command, *stored]] = [request for request in good.requests if request[0] == b"MSET"]
        assert dict(zip(stored[::2], stored[1::2], strict=True)) == {
            key: key * 50_000 for key in others
        }
        assert command == b"MSET"
        bad.script = answer
        assert client("GET", mine[0]) == value_of(mine[0])


def test_a_client_that_leaves_in_the_middle_of_its_large_values_leaves_whole_requests():
    """The parts keep the block of the request: what one server has of it is not cut short."""
    go = threading.Event()

    def slowly(session):
        session.shake()
        session.wait(go)
        answer(session)

    with (
        ScriptedServer(slowly) as one,
        ScriptedServer(slowly) as two,
        NutproxyServer(pool("alpha", [one, two])) as proxy,
    ):
        keys = keys_of(1, (1, 2), 4) + keys_of(2, (1, 2), 4)
        values = {key: key * 100_000 for key in keys}
        with Client(proxy.port) as client:
            client.send("MSET", *[word for pair in values.items() for word in pair])
            wait_until(lambda: proxy.stats()["alpha"]["fragments"] == 2, "the parts")
            reset(client.socket)
        wait_until(lambda: proxy.stats()["alpha"]["client_connections"] == 0, "the client to go")
        go.set()
        wait_until(lambda: one.requests and two.requests, "the requests")
        stored = {}
        for server in (one, two):
            [[command, *words]] = server.requests
            assert command == b"MSET"
            stored |= dict(zip(words[::2], words[1::2], strict=True))
        assert stored == values


def test_a_small_part_of_a_large_request_counts_with_all_that_it_keeps_in_memory():
    """It shares the block of the request. Clients that send large values to one server and leave
    could otherwise fill the memory with what waits for another, which is stopped."""
    large, small = (keys_of(number, (1, 2), 1)[0] for number in (1, 2))
    request = ("MSET", large, b"x" * 9_000_000, small, b"x" * 70_000)
    with (
        RedisServer() as one,
        RedisServer() as two,
        NutproxyServer(pool("alpha", [one, two], server_max_queue="20mb")) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(proxy.port)) for _ in range(3)]
        assert clients[0](*request) == b"OK"
        two.stop()
        for number, client in enumerate(clients[:2], 2):
            client.send(*request)
            wait_until(lambda n=number: proxy.stats()["alpha"]["s2"]["requests"] == n, "the part")
        assert "its queue is full" in str(clients[2].error(*request))
        two.cont()
        assert [client.reply() for client in clients[:2]] == [b"OK", b"OK"]
        stats = proxy.stats()["alpha"]["s2"]
        assert stats["in_queue_bytes"] == stats["out_queue_bytes"] == 0


def memory(proxy, field):
    """A field of the memory of the process, in bytes."""
    for line in Path(f"/proc/{proxy.worker_pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def test_a_large_value_that_is_freed_takes_no_memory_of_others_along(shards, tmp_path):
    """Its last pages are returned in portions: pages of the value, and not those at the address
    that is its length. In a process of its own: the heap of this one may be at that address."""
    code = "import sys; from tests.integration import test_large_values as tests;"
    code += "tests.free_a_large_value(int(sys.argv[1]), sys.argv[2])"
    words = [sys.executable, "-c", code, str(shards[0].port), str(tmp_path)]
    subprocess.run(words, check=True, timeout=6 * DEADLINE, cwd=ROOT)


def free_a_large_value(server, directory):
    size = 160 * 1024 * 1024
    servers = [types.SimpleNamespace(port=server)]
    with low_memory(128 * 1024 * 1024, 16 * 1024 * 1024) as memory:
        with running_worker(servers, Path(directory)) as (_, port), Client(port) as client:
            assert client("SET", "k", bytes(size)) == b"OK"
            for _ in range(100):
                assert client("PING") == b"PONG"
            assert client("DEL", "k") == 1
        assert memory[:] == b"x" * len(memory)


@contextlib.contextmanager
def low_memory(address, size):
    """Memory at this address, full of x, where a heap may be that is not placed at random."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    fixed_noreplace = 0x100000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed_noreplace
    found = libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert found == address, os.strerror(ctypes.get_errno())
    memory = (ctypes.c_char * size).from_address(address)
    memory[:] = b"x" * size
    yield memory
    libc.munmap(address, size)


@pytest.mark.measures
def test_large_values_of_several_servers_are_not_copied_to_be_merged(shards):
    size = 100 * 1024 * 1024
    with (
        NutproxyServer(pool("alpha", shards)) as proxy,
        redis.Redis(port=proxy.port, socket_timeout=DEADLINE) as client,
    ):
        client.flushall()
        idle = memory(proxy, "VmRSS")
        keys = [*keys_of(1, (1, 2, 3), 2), *keys_of(2, (1, 2, 3), 1), *keys_of(3, (1, 2, 3), 1)]
        for number, key in enumerate(keys):
            client.set(key, b"%d" % number * size)
        found = client.mget(keys)
        assert [len(value) for value in found] == [size] * 4
        assert [value[:1] + value[-1:] for value in found] == [b"00", b"11", b"22", b"33"]
        # All four values are needed at once. A second copy of them would double the memory.
        assert memory(proxy, "VmHWM") - idle < 1.5 * 4 * size
        wait_until(lambda: memory(proxy, "VmRSS") - idle < size, "memory to be given back")
        client.flushall()


def page_faults(pid):
    """The number of minor page faults of the process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.measures
def test_memory_of_large_values_is_reused(shards):
    """A value of 1 MB is 256 pages. To give them back after each value and to request them again
    for the next would cost more than copying them."""
    at_once = 8
    request = [("SET", "large", b"x" * (1024 * 1024))]
    with NutproxyServer(pool("alpha", shards)) as proxy, ThreadPoolExecutor(at_once) as executor:

        def send_all():
            for replies in executor.map(lambda _: pipeline(proxy.port, request), range(at_once)):
                assert replies == [b"OK"]

        counts = []
        for _ in range(40):
            before = page_faults(proxy.worker_pid)
            send_all()
            counts.append(page_faults(proxy.worker_pid) - before)
        # They are still given back once a second, which affects only a few rounds.
        assert statistics.median(counts) < at_once * 256 // 10


@pytest.mark.measures
def test_memory_of_incomplete_values_is_given_back(shards):
    """All clients have gone except the last one, whose value comes after the others in the heap."""
    size = 15 * 1024 * 1024
    part = b"x" * (8 * 1024 * 1024)
    with NutproxyServer(pool("alpha", shards)) as proxy, contextlib.ExitStack() as stack:
        idle = memory(proxy, "VmRSS")
        clients = []

        def received():
            return memory(proxy, "VmRSS") - idle

        for number in range(10):
            clients.append(stack.enter_context(connect(proxy.port)))
            clients[-1].sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b" % (size, part))
            expected = (number + 0.9) * len(part)
            wait_until(lambda expected=expected: received() > expected, "the part to be received")
        for client in clients[:-1]:
            client.close()
        wait_until(lambda: received() < 2 * len(part), "memory to be given back")


@pytest.mark.measures
def test_requests_after_a_large_one_do_not_keep_its_memory(shards):
    """Of the received bytes, only the start of the next request of the pipeline remains."""
    large = [b"NOPE", *[b"argument"] * 300000]
    whole = hiredis.pack_command((b"GET", b"k" * 9000))
    begun = hiredis.pack_command((b"ECHO", b"x" * 6000))
    count = 10
    # The bytes after the large request are far more than a chunk, wherever the large one ends.
    with (
        NutproxyServer(pool("alpha", shards), "-m", "512") as proxy,
        contextlib.ExitStack() as stack,
    ):
        idle = memory(proxy, "VmRSS")
        for _ in range(count):
            client = stack.enter_context(connect(proxy.port))
            client.sendall(hiredis.pack_command(tuple(large)) + whole * 40 + begun[:-3000])
            received = b""
            while received.count(b"$-1\r\n") < 40:
                received += client.recv(65536)
        wait_until(
            lambda: memory(proxy, "VmRSS") - idle < count * 2 * 1024 * 1024,
            "memory to be given back",
        )


@pytest.mark.measures
def test_answered_requests_that_wait_for_their_turn_do_not_keep_their_bytes(shards):
    """The first server is stopped. A later request that the second server has answered counts only
    with its reply."""
    large = b"x" * (1024 * 1024)
    count = 200
    with NutproxyServer(pool("alpha", shards)) as proxy, connect(proxy.port) as client:
        [slow], [other] = keys_of(1, (1, 2, 3), 1), keys_of(2, (1, 2, 3), 1)
        idle = memory(proxy, "VmRSS")
        shards[0].stop()
        try:
            client.sendall(hiredis.pack_command(("GET", slow)))
            for _ in range(count):
                client.sendall(hiredis.pack_command(("SET", other, large)))
            wait_until(
                lambda: proxy.stats()["alpha"]["s2"]["responses"] == count, "the replies of s2"
            )
            assert memory(proxy, "VmRSS") - idle < count * len(large) // 2
        finally:
            shards[0].cont()


@pytest.mark.measures
def test_merged_replies_that_wait_for_their_turn_do_not_keep_their_request():
    """Memcached's `get`, whose line is read for the order of the values."""
    keys = [*keys_of(2, (1, 2, 3), 2), *keys_of(3, (1, 2, 3), 2)]
    line = b"get " + b" ".join([b"{%b}" % key + b"x" * 200 for key in keys] * 1000)
    count = 200
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as three,
        NutproxyServer(mc_pool("alpha", [one, two, three])) as proxy,
        connect(proxy.port) as client,
    ):
        idle = memory(proxy, "VmRSS")
        one.stop()
        client.sendall(b"get %b\r\n" % keys_of(1, (1, 2, 3), 1)[0])
        for _ in range(count):
            client.sendall(line + b"\r\n")
        for server in ("s2", "s3"):
            wait_until(
                lambda server=server: proxy.stats()["alpha"][server]["responses"] == count,
                "replies of the others",
            )
        assert memory(proxy, "VmRSS") - idle < count * len(line) // 2


@pytest.mark.measures
def test_memory_of_many_small_requests_is_given_back():
    """Small requests are stored in their messages. No other memory can be given back here."""
    at_once, clients = 1000, 60

    def script(session):
        while command := session.receive():
            if command[0] != b"SET":
                session.send(b"+OK\r\n")

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        contextlib.ExitStack() as stack,
    ):
        crowd = [stack.enter_context(Client(proxy.port)) for _ in range(clients)]
        for client in crowd:
            # The proxy accepts this many requests only if it knows that the replies are small.
            client.pipeline(*[("GET", "k")] * 200)
            assert client.replies(200) == [b"OK"] * 200
        idle = memory(proxy, "VmRSS")
        for client in crowd:
            client.pipeline(*[("SET", "k", "v")] * at_once)
        wait_until(
            lambda: proxy.stats()["alpha"]["s1"]["out_queue"] == at_once * clients, "all requests"
        )
        size = memory(proxy, "VmRSS") - idle
        stack.close()
        server.close_all()
        wait_until(lambda: memory(proxy, "VmRSS") - idle < size // 4, "memory to be given back")


@pytest.mark.measures
def test_memory_of_many_connections_is_given_back(shards):
    """No other memory can be given back here. With fewer connections, the heap keeps it."""
    count = 6000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2 * count), hard), hard))
    try:
        with NutproxyServer(pool("alpha", shards)) as proxy, contextlib.ExitStack() as stack:

            def clients():
                return proxy.stats()["alpha"]["client_connections"]

            idle = memory(proxy, "VmRSS")
            for _ in range(count):
                stack.enter_context(connect(proxy.port))
            wait_until(lambda: clients() == count, "all clients")
            size = memory(proxy, "VmRSS") - idle
            stack.close()
            wait_until(lambda: memory(proxy, "VmRSS") - idle < size // 2, "memory to be given back")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
