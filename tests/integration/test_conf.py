# tests/integration/test_conf.py: the example files, and the keys that act on sockets
"""Every file in conf/ loads without a problem; the first one a user meets is run."""

import re
from pathlib import Path

import pytest

from nutproxy.config import load
from tests.integration.conftest import pool
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


def test_tcpkeepalive_is_set_towards_servers_and_clients(shards):
    with (
        NutproxyServer(pool("alpha", shards, tcpkeepalive="true", preconnect="true")) as proxy,
        connect(proxy.port) as client,
    ):
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        ports = {proxy.port, *(server.port for server in shards)}

        def kept_alive():
            # A timer of kind 02 is the kernel's keepalive (Documentation/networking/proc_net_tcp).
            found = set()
            for line in Path(f"/proc/{proxy.pid}/net/tcp").read_text().splitlines()[1:]:
                _, local, remote, state, _, timer, *_ = line.split()
                if state == "01" and timer.startswith("02:"):
                    found |= {int(local.split(":")[1], 16), int(remote.split(":")[1], 16)}
            return ports <= found

        wait_until(kept_alive, "keepalive on every connection")
