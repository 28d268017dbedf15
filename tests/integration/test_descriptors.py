# tests/integration/test_descriptors.py: the limit on open files
"""Clients never use the descriptors that servers need, and a configuration that needs more
descriptors than the limit is refused."""

import contextlib
import re
import subprocess

from nutproxy.config import load
from nutproxy.descriptors import CLIENTS_MIN, OWN, room, shortage
from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.scripted import info
from tests.servers import NutproxyServer, RedisServer, connect, pipeline, wait_until

FULL = b"-ERR max number of clients reached\r\n"


class LimitedServer(NutproxyServer):
    """nutproxy with a limit on open files: `limit` are the arguments of ulimit."""

    def __init__(self, config, limit, *arguments):
        super().__init__(config, *arguments)
        self.limit = limit

    def command(self):
        return ["sh", "-c", f'ulimit {self.limit}; exec "$@"', "sh", *super().command()]

    def refusal(self):
        """The error of a start that fails. It has to exit with 1."""
        self.choose_ports()
        run = subprocess.run(self.command(), capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stdout) == (1, ""), run
        return run.stderr


def loaded(text, directory):
    file = directory / "proxy.yml"
    file.write_text(text.replace("listen: auto", "listen: 127.0.0.1:1"))
    config, problems = load(str(file))
    assert config is not None, problems
    return config


def test_the_soft_limit_is_raised_to_the_hard_one(shards):
    with LimitedServer(pool("alpha", shards), "-S -n 64") as proxy:
        clients = [connect(proxy.port) for _ in range(100)]
        wait_until(lambda: info(proxy.port, "clients")["connected_clients"] == 101, "all clients")
        for client in clients:
            client.close()


# What a configuration needs


def test_needs_are_counted_for_servers_protocol_versions_probes_and_clients(shards, tmp_path):
    redis = pool("alpha", shards, server_connections=4)
    limited = pool("beta", shards[:1], client_connections=500).replace(":1\n", ":2\n")
    memcached = mc_pool("gamma", shards[:2])
    limited, memcached = (
        text.replace("auto", f"127.0.0.1:{port}")
        for port, text in enumerate((limited, memcached), start=2)
    )
    config = loaded(redis + limited + memcached, tmp_path)
    servers = 3 * (5 * 2 + 2) + 1 * (2 * 2 + 2) + 2 * (1 * 1 + 2)
    reserved = OWN + 3 + servers + 500
    assert room(config, 10_000) == 10_000 - reserved
    assert shortage(config, reserved + 2 * CLIENTS_MIN) is None
    assert shortage(config, reserved + 2 * CLIENTS_MIN - 1) is not None


def test_what_needs_more_server_connections_than_descriptors_is_refused(shards):
    # twemproxy says "max client conns 4294963284".
    proxy = LimitedServer(pool("alpha", shards, server_connections=1250), "-n 1024")
    with contextlib.closing(proxy):
        needed = OWN + 1 + 3 * (1251 * 2 + 2) + CLIENTS_MIN
        assert proxy.refusal() == (
            f"nutproxy: {proxy.config_file}: needs {needed} open files and the limit is 1024:"
            f" {OWN} for the process itself, 1 to listen for pool 'alpha', 7512 for its 3 servers"
            " x ((1250 server_connections + 1 for SCRIPT KILL) x 2 protocol versions + 2 probes),"
            f" {CLIENTS_MIN} or more for clients;"
            f" raise the limit to {needed} (as root: ulimit -n {needed}; in a systemd unit:"
            f" LimitNOFILE={needed}), or lower server_connections or client_connections\n"
        )


def test_client_connections_that_do_not_fit_beside_the_servers_are_refused(shards):
    config = pool("alpha", shards, client_connections=1000)
    with contextlib.closing(LimitedServer(config, "-n 1024")) as proxy:
        assert "1000 for its client_connections; raise the limit to 1059 (" in proxy.refusal()
    with LimitedServer(config, "-n 1059") as proxy:
        assert pipeline(proxy.port, [("PING",)]) == [b"PONG"]


def test_check_warns_if_the_limit_of_this_machine_is_too_low(shards):
    with contextlib.closing(LimitedServer(pool("alpha", shards), "-n 70")) as proxy:
        proxy.choose_ports()
        command = [*proxy.command()[:-2], "check"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        needed = OWN + 1 + 3 * 6 + CLIENTS_MIN
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith(
            f"{proxy.config_file}: warning: needs {needed} open files and the limit is 70: "
        )


# Clients beyond the limit


def refused(proxy, text=FULL):
    """Is another client refused with this error, and closed?"""
    with connect(proxy.port) as client:
        client.sendall(b"PING\r\n")
        if client.recv(100) != text:
            return False
        assert client.recv(100) == b""
        return True


def test_clients_take_no_descriptor_that_a_server_may_need(tmp_path):
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
        contextlib.ExitStack() as stack,
    ):
        servers = [one, two, three]
        config = pool("alpha", servers, server_connections=4)
        needed = OWN + 1 + 3 * (5 * 2 + 2) + CLIENTS_MIN
        proxy = stack.enter_context(LimitedServer(config, f"-n {needed}"))
        wait_until(
            lambda: f"{CLIENTS_MIN} clients fit in the limit on open files" in proxy.output,
            "the number of clients",
        )
        # The connection that tested whether the proxy is ready may still be counted.
        clients = []

        def another_is_let_in():
            client = Client(proxy.port)
            if client("PING") != b"PONG":
                client.socket.close()
                return False
            clients.append(stack.enter_context(client))
            return True

        for _ in range(CLIENTS_MIN):
            wait_until(another_is_let_in, "room for a client")
        for _ in range(20):
            assert refused(proxy)
        # All server connections are opened only now.
        for number, client in enumerate(clients):
            if number < CLIENTS_MIN // 2:
                assert client("HELLO", "3")[b"proto"] == 3
            values = [b"%d" % key for key in range(50)]
            client("MSET", *(part for value in values for part in (value, value)))
            assert client("MGET", *values) == values
        for server in servers:
            addresses = pipeline(server.port, [("CLIENT", "LIST")])[0].decode().splitlines()
            assert len(addresses) == 8 + 1
        said = re.findall(r"WARNING p \d+ pool 'alpha' on \S+ client refused: (.*)", proxy.log())
        assert set(said) == {f"no more than {CLIENTS_MIN} clients fit in the limit on open files"}
        # Clients that try again and again do not fill the log.
        assert len(said) < 20
        clients.pop().socket.close()
        wait_until(lambda: not refused(proxy), "room for another client")


def test_pools_with_client_connections_keep_their_places(shards):
    keeps = pool("keeps", shards, client_connections=20)
    needed = OWN + 2 + 2 * 3 * 6 + 20 + CLIENTS_MIN
    with (
        LimitedServer(keeps + pool("open", shards), f"-n {needed}") as proxy,
        contextlib.ExitStack() as stack,
    ):
        greedy = [stack.enter_context(connect(proxy.ports["open"])) for _ in range(100)]
        for client in greedy:
            client.sendall(b"PING\r\n")
        answers = [client.recv(100) for client in greedy]
        assert answers.count(b"+PONG\r\n") <= CLIENTS_MIN
        assert set(answers) == {b"+PONG\r\n", FULL}
        for _ in range(20):
            client = stack.enter_context(Client(proxy.ports["keeps"]))
            assert client("DBSIZE") >= 0
