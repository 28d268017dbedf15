# tests/isolation/test_backlogs.py: a backlog of requests is freed in portions
"""A server reads nothing, so a backlog of requests builds up. While the backlog is freed, an
innocent client of another pool sends PING. Its wait is measured as the processor time that the
event loop uses during each PING, which does not depend on other processes of the machine."""

import contextlib
import os
import threading
from pathlib import Path

import pytest

from tests.client import Client, read_all, request
from tests.integration.conftest import pool
from tests.isolation.test_many_servers import cpu_seconds
from tests.scripted import ScriptedServer, reply_to, reset
from tests.servers import NutproxyServer, RedisServer, wait_until

MEGABYTE = 1 << 20
FIRST = 300
# A turn of the loop may take 20 ms. A PING lasts up to three turns: the one in which it arrives,
# the one in which the reply is sent, and one between them.
LONGEST = 0.06

BACKLOGS = {
    "300,000 small requests": (request("SET", "k", "v"), 300_000),
    "60,000 requests of 10 KB": (request("SET", "k", b"v" * 10_000), 60_000),
    "600 requests of 1 MB": (request("SET", "k", b"v" * MEGABYTE), 600),
    "3 requests of 200 MB": (request("SET", "k", b"v" * 200 * MEGABYTE), 3),
}


def longest_work(proxy, client, done):
    longest = 0.0
    while not done():
        began = cpu_seconds(proxy.worker_pid)
        assert client("PING") == b"PONG"
        longest = max(longest, cpu_seconds(proxy.worker_pid) - began)
    return longest


@contextlib.contextmanager
def backlog(kind):
    """Yields a proxy with this backlog, the innocent client, the client that has sent the backlog,
    and a function that makes the server die."""
    message, count = BACKLOGS[kind]
    end = threading.Event()

    def script(session):
        # The first replies are small, so the proxy expects small replies and accepts more requests.
        for _ in range(FIRST):
            request = session.receive()
            if request is None:
                return
            session.send(reply_to(request))
        session.wait(end)

    options = {"client_max_requests": 1_000_000, "client_max_pending": "2gb"}
    with (
        ScriptedServer(script) as server,
        RedisServer() as other,
        NutproxyServer(
            pool("alpha", [server], server_max_queue="2gb", **options) + pool("beta", [other])
        ) as proxy,
        Client(proxy.ports["beta"]) as innocent,
        Client(proxy.ports["alpha"]) as sender,
    ):
        innocent("PING")
        for _ in range(FIRST):
            sender("SET", "k", "v")
        portion = max(1, 1000 * 1000 // len(message))
        for start in range(0, count, portion):
            sender.send_bytes(message * min(portion, count - start))
        wait_until(lambda: waiting(proxy) == count, "the backlog")

        def die():
            server.refuse()
            end.set()

        yield proxy, innocent, sender, die
        end.set()


def waiting(proxy):
    figures = proxy.stats()["alpha"]["s1"]
    return figures["in_queue"] + figures["out_queue"]


def resident(proxy):
    pages = Path(f"/proc/{proxy.worker_pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def delays_nobody(measured):
    """Whether `measured()`, the longest work in each phase, is short enough in one of three tries.
    A virtual processor that its host takes away for a moment counts as working: of 40 tests beside
    a compiler, one took 0.12 s for a phase. What the loop does itself, it does in every try."""
    tries = []
    while len(tries) < 3 and not (tries and max(tries[-1]) < LONGEST):
        tries.append(measured())
    return max(tries[-1]) < LONGEST or tries


@pytest.mark.measures
@pytest.mark.parametrize("kind", BACKLOGS)
def test_a_backlog_whose_server_dies_delays_no_other_client(kind):
    def measured():
        with backlog(kind) as (proxy, innocent, sender, die):
            reader = threading.Thread(target=read_all, args=(sender.socket,))
            reader.start()
            die()
            dropped = longest_work(proxy, innocent, lambda: waiting(proxy) == 0)
            # Then the memory is returned to the system, which must not delay the client either.
            freed = longest_work(proxy, innocent, lambda: resident(proxy) < 120 * MEGABYTE)
            sender.socket.shutdown(2)
            reader.join()
            return dropped, freed

    assert delays_nobody(measured) is True


@pytest.mark.measures
@pytest.mark.parametrize("kind", BACKLOGS)
def test_a_backlog_whose_client_disconnects_delays_no_other_client(kind):
    def measured():
        with backlog(kind) as (proxy, innocent, sender, die):
            reset(sender.socket)
            gone = longest_work(
                proxy, innocent, lambda: proxy.stats()["alpha"]["client_connections"] == 0
            )
            die()
            dropped = longest_work(proxy, innocent, lambda: waiting(proxy) == 0)
            freed = longest_work(proxy, innocent, lambda: resident(proxy) < 120 * MEGABYTE)
            return gone, dropped, freed

    assert delays_nobody(measured) is True
