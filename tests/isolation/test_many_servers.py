# tests/isolation/test_many_servers.py: the number of servers does not slow down the loop
"""A pool of a thousand servers, which share a few addresses, and an innocent client of another
pool."""

import contextlib
import socket
import time
from pathlib import Path

import pytest

from tests.client import Client
from tests.integration.conftest import pool
from tests.servers import HOST, NutproxyServer, RedisServer, wait_until

SERVERS = 1000
LIMIT = 0.050  # seconds


def many(listeners, **options):
    """A pool of SERVERS servers, each with its own name, at the addresses of these listeners."""
    text = "".join(f"  {key}: {value}\n" for key, value in options.items())
    lines = [
        f"   - {HOST}:{listeners[number % len(listeners)].getsockname()[1]}:1 s{number}\n"
        for number in range(SERVERS)
    ]
    return (
        "many:\n  listen: auto\n  hash: murmur\n  distribution: ketama\n  redis: true\n"
        + text
        + "  servers:\n"
        + "".join(lines)
    )


def cpu_seconds(pid):
    """The processor time that the event loop's thread has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.fixture
def listener():
    """A port that takes connections into its backlog and never replies."""
    with socket.create_server((HOST, 0), backlog=16) as sock:
        yield sock


def test_a_thousand_servers_at_rest_cost_no_processor_time(listener):
    """This took 80 % of a processor, with a timeout of a millisecond."""
    with NutproxyServer(many([listener], timeout=1)) as proxy, Client(proxy.port) as client:
        assert client("PING") == b"PONG"
        began, spent = time.monotonic(), cpu_seconds(proxy.worker_pid)
        # The servers are at rest for one second.
        wait_until(lambda: time.monotonic() - began >= 1, "a second")
        assert cpu_seconds(proxy.worker_pid) - spent <= 0.05 * (time.monotonic() - began)


@pytest.mark.measures
def test_a_thousand_servers_that_die_at_once_delay_no_other_pool():
    """Each failed server caused a rebuild of the ring, which stopped all pools for 13 s. A long
    wait must occur in every attempt: a pause of this process may cause a single one."""
    assert any(longest_wait_beside_deaths() < LIMIT for _ in range(3))


def longest_wait_beside_deaths():
    with RedisServer() as server, contextlib.ExitStack() as stack:
        closed = stack.enter_context(socket.create_server((HOST, 0)))
        config = many(
            [closed],
            timeout=400,
            auto_eject_hosts="true",
            server_failure_limit=1,
            server_retry_timeout=60000,
        )
        with (
            NutproxyServer(config + pool("other", [server])) as proxy,
            Client(proxy.ports["other"]) as innocent,
            Client(proxy.ports["many"]) as client,
        ):
            closed.close()
            client.pipeline(*[("GET", f"{n}") for n in range(20 * SERVERS)])
            figures = proxy.stats
            longest = longest_work(
                proxy, innocent, lambda: figures()["many"]["server_ejects"] == SERVERS
            )
            client.replies(20 * SERVERS)
            # The ring has no server left once its last portion is built, and the error says so.
            wait_until(
                lambda: client.error("GET", "a").startswith("ERR pool 'many' has no live server"),
                "the ring without servers",
            )
            return longest


def longest_work(proxy, client, done):
    """The most processor time that the loop used while this client waited for the reply to a PING.
    The time of other processes on the machine does not count."""
    longest = 0.0
    while not done():
        began = cpu_seconds(proxy.worker_pid)
        assert client("PING") == b"PONG"
        longest = max(longest, cpu_seconds(proxy.worker_pid) - began)
    return longest
