# tests/integration/test_loop.py: the event loop and its sockets
"""The event loop, tested from inside: a Worker in a thread of this process."""

import socket

from tests.client import Client
from tests.integration.inside import running_worker, server_conns, socket_option


def test_delays_of_small_packets_are_off_on_both_sides(shards, tmp_path):
    with (
        running_worker(shards, tmp_path, preconnect="true") as (worker, port),
        Client(port) as client,
    ):
        assert client("DBSIZE") >= 0
        [pool] = worker.pools
        conns = [*server_conns(pool), *worker.clients()]
        assert len(conns) == 4
        for conn in conns:
            assert socket_option(conn, socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_client_that_does_not_read_blocks_its_own_connection_only(shards, tmp_path):
    value = b"x" * 1_000_000
    with (
        running_worker(shards[:1], tmp_path) as (_, port),
        Client(port) as slow,
        Client(port) as other,
    ):
        assert slow("SET", "k", value) == b"OK"
        slow.pipeline(*[("GET", "k")] * 40)
        for number in range(100):
            assert other("ECHO", f"{number}") == b"%d" % number
        assert slow.replies(40) == [value] * 40
        assert other("GET", "k") == value
