# tests/integration/test_coalesce.py: turns that rest, with real servers
"""Whether a loop rests by itself depends on the processor time that the machine gives it. Therefore
most of these run a Worker that always rests (stepped.py). The decision itself has unit tests."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from nutproxy.stepped import rest_always
from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.integration.inside import running_worker
from tests.memcache import MemcacheClient
from tests.servers import HOST, MemcachedServer, NutproxyServer, RedisServer

# The cells of the row of the process.
WAITS, WAITED = 4, 5
QUIET = "global:\n  coalesce: off\n"


@pytest.fixture(scope="module")
def redises():
    with RedisServer() as one, RedisServer() as other:
        yield [one, other]


@contextlib.contextmanager
def resting(servers, directory, usec=200, **options):
    """A running Worker whose polls are always `usec` microseconds apart, and its port."""

    def prepare(worker):
        rest_always(worker, usec)

    with running_worker(servers, directory, prepare=prepare, **options) as (worker, port):
        yield worker, port


def figure(worker, cell):
    return worker.reactor.slab.read(cell)


def test_every_reply_is_the_right_one_although_turns_rest(redises, tmp_path):
    with resting(redises, tmp_path) as (worker, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(20)]
        for number, client in enumerate(clients):
            for each in range(50):
                client.send("SET", f"k{number}:{each}", f"{number}-{each}")
                client.send("GET", f"k{number}:{each}")
        for number, client in enumerate(clients):
            for each in range(50):
                assert client.reply() == b"OK"
                assert client.reply() == f"{number}-{each}".encode()
        assert figure(worker, WAITS) > 0
        assert figure(worker, WAITED) >= figure(worker, WAITS)


def test_a_deadline_is_met_although_turns_rest(redises, tmp_path):
    with resting(redises, tmp_path, timeout=200) as (_, port), Client(port) as client:
        assert client("SET", "k", "v") == b"OK"
        for redis in redises:
            redis.stop()
        try:
            assert "Connection timed out" in client.error("GET", "k")
        finally:
            for redis in redises:
                redis.cont()


def test_a_worker_that_rests_ends_when_it_is_told_to(redises, tmp_path):
    with resting(redises, tmp_path, usec=1000) as (_, port), Client(port) as client:
        assert client("PING") == b"PONG"


def benchmark(port, clients, requests):
    """Load from redis-benchmark. It fails on an error reply."""
    words = ["-h", HOST, "-p", port, "-c", clients, "-n", requests, "-P", 4, "-r", 1000]
    command = [shutil.which("redis-benchmark"), *map(str, words), "GET", "key:__rand_int__"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "rror" not in done.stdout + done.stderr


def test_the_statistics_count_turns_and_events(redises):
    with NutproxyServer(pool("alpha", redises)) as proxy:
        before = proxy.stats()
        benchmark(proxy.port, 50, 20_000)
        after = proxy.stats()
    turns, events = after["turns"] - before["turns"], after["events"] - before["events"]
    # Each of the 5,000 batches is at least one event, and no turn has more than 256.
    assert events >= 5000
    assert events / 256 <= turns


def test_off_never_rests(redises):
    with NutproxyServer(QUIET + pool("alpha", redises)) as proxy:
        benchmark(proxy.port, 50, 200_000)
        stats = proxy.stats()
    assert stats["waits"] == stats["waited_usec"] == 0


def test_one_client_never_waits_for_the_loop(redises):
    with NutproxyServer(pool("alpha", redises)) as proxy, Client(proxy.port) as client:
        for number in range(3000):
            assert client("SET", "k", number) == b"OK"
        assert proxy.stats()["waits"] == 0


def used(pid):
    """The processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.measures
def test_a_busy_loop_with_much_in_flight_rests(redises):
    busiest = 0.0
    with NutproxyServer("global:\n  verbose: 7\n" + pool("alpha", redises)) as proxy:
        end = time.monotonic() + 60
        while proxy.stats()["waits"] == 0 and time.monotonic() < end:
            began, before = time.monotonic(), used(proxy.worker_pid)
            benchmark(proxy.port, 100, 200_000)
            busiest = max(busiest, (used(proxy.worker_pid) - before) / (time.monotonic() - began))
        stats = proxy.stats()
        if stats["waits"] == 0 and busiest < 0.7:
            pytest.skip(f"the machine is too busy: nutproxy got {busiest:.0%} of a processor")
        assert stats["waits"] > 0
        # A rest that has begun lasts 5 us at least.
        assert stats["waited_usec"] >= 5 * stats["waits"]


def test_memcached_replies_are_the_right_ones_although_turns_rest(tmp_path):
    with MemcachedServer() as one, MemcachedServer() as other:
        servers = [one, other]
        with (
            resting(servers, tmp_path, form=mc_pool) as (worker, port),
            MemcacheClient(port) as client,
        ):
            for number in range(200):
                stored = client(b"set k%d 0 0 3" % number, b"%03d" % number)
                assert stored == b"STORED\r\n"
            assert client(b"get k7") == b"VALUE k7 0 3\r\n007\r\nEND\r\n"
            assert figure(worker, WAITS) > 0
