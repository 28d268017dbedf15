# tests/integration/test_conf.py: the example files, and the keys that act on sockets
"""Every file in conf/ loads without a problem; the first one a user meets is run."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nutproxy.config import load
from tests.client import Client
from tests.integration.conftest import pool
from tests.integration.inside import running_context, server_conns, socket_option
from tests.servers import NutproxyServer, RedisServer, connect, pipeline, wait_until

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yml")), ids=lambda path: path.name)
def test_example_has_no_problem(path):
    config, problems = load(str(path))
    assert config is not None
    assert [str(problem) for problem in problems if problem.severity == "problem"] == []


def test_first_example_runs():
    text = (CONF / "nutproxy.yml").read_text()
    text, listens = re.subn(r"listen: .*", "listen: auto", text)
    with RedisServer() as one, RedisServer() as two:
        servers = iter([one, two])
        text, count = re.subn(
            r"- 127\.0\.0\.1:\d+:",
            lambda _: f"- 127.0.0.1:{next(servers).port}:",
            text,
        )
        assert (listens, count) == (1, 2)
        with NutproxyServer(text) as proxy:
            assert pipeline(proxy.port, [("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]


def test_client_beyond_client_connections_is_told_so_and_closed(shards):
    clients = []
    with NutproxyServer(pool("alpha", shards, client_connections=2)) as proxy:

        def another_is_let_in():
            clients.append(connect(proxy.port))
            clients[-1].sendall(b"PING\r\n")
            return clients[-1].recv(100) == b"+PONG\r\n"

        # The connection that found the proxy ready may still count.
        wait_until(another_is_let_in, "the first client")
        wait_until(another_is_let_in, "the second client")
        with connect(proxy.port) as third:
            assert third.recv(100) == b"-ERR max number of clients reached\r\n"
            assert third.recv(100) == b""
        clients.pop().close()
        wait_until(another_is_let_in, "a place for another client")
        for client in clients:
            client.close()


# Unix sockets: permissions and a stale one are in test_defects.


def refusal_of(config, directory):
    """What a proxy says instead of starting; it has to exit with 1."""
    file = directory / "proxy.yml"
    file.write_text(config)
    command = [sys.executable, "-m", "nutproxy", "-c", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (1, ""), run
    return run.stderr


def taken(path, config, directory):
    expected = f"nutproxy: pool 'alpha': cannot listen on {path}: Address already in use\n"
    return refusal_of(config.replace("auto", str(path)), directory) == expected


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(shards, tmp_path):
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        # The first attempt fills the backlog, and a connect would wait from then on.
        for _ in range(2):
            assert taken(path, pool("alpha", shards), tmp_path)
        assert path.is_socket()


def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(shards, tmp_path):
    path = tmp_path / "data"
    path.write_text("of somebody else")
    assert taken(path, pool("alpha", shards), tmp_path)
    assert path.read_text() == "of somebody else"


# Keepalive


def keepalive(conn):
    return [
        socket_option(conn, level, name)
        for level, name in [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        ]
    ]


def systems_keepalive():
    names = ("time", "intvl", "probes")
    return [int(Path(f"/proc/sys/net/ipv4/tcp_keepalive_{name}").read_text()) for name in names]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, *systems_keepalive()]),
        ({"tcpkeepalive": "true"}, [1, *systems_keepalive()]),
        (
            {
                "tcpkeepalive": "true",
                "tcpkeepalive_idle": 61,
                "tcpkeepalive_interval": 11,
                "tcpkeepalive_count": 3,
            },
            [1, 61, 11, 3],
        ),
    ],
    ids=["off", "as the system has it", "chosen"],
)
def test_tcpkeepalive_is_set_towards_servers_and_clients(shards, tmp_path, options, expected):
    with (
        running_context(shards, tmp_path, preconnect="true", **options) as (context, port),
        Client(port) as client,
    ):
        assert client("DBSIZE") >= 0
        [pool] = context.pools
        conns = [*server_conns(pool), *pool.client_conns]
        assert [keepalive(conn) for conn in conns] == [expected] * 4
