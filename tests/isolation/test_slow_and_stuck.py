# tests/isolation/test_slow_and_stuck.py: clients do not wait for the slow work of others
"""Names that are not resolved, many connects at once, a lack of descriptors, and lists of many
clients. For servers and clients that hang see attacks.py. `python -m bench.isolation` measures how
long other clients wait."""

import contextlib
import os
import re
import resource
import socket
import threading

import pytest

from nutproxy.builtin.client import LINES_PER_STEP
from tests.client import Client, read_all, request
from tests.integration.conftest import mc_pool, pool
from tests.integration.inside import running_worker
from tests.memcache import MemcacheClient
from tests.scripted import ScriptedServer, info, keys_of, value_of
from tests.servers import HOST, MemcachedServer, NutproxyServer, connect, wait_until

CLIENTS = 500
ACCEPTS_PER_TURN = 64


def test_a_name_server_that_hangs_delays_only_the_keys_of_its_server(tmp_path):
    """The lookup of the first server never ends. The others are resolved at once."""
    asked = threading.Event()
    with ScriptedServer() as one, ScriptedServer() as two, ScriptedServer() as three:

        def resolve(host, port, callback):
            if port == one.port:
                asked.set()
            else:
                callback([(socket.AF_INET, (HOST, port))])

        with (
            running_worker([one, two, three], tmp_path, name="db", resolve=resolve) as (_, port),
            Client(port) as waiting,
            Client(port) as client,
        ):
            lost, *found = (keys_of(number, (1, 2, 3), 1)[0] for number in (1, 2, 3))
            waiting.pipeline(("GET", lost), ("PING",))
            asked.wait()
            for _ in range(200):
                for key in found:
                    assert client("GET", key) == value_of(key)
                assert client("MGET", *found) == [value_of(key) for key in found]


@pytest.mark.parametrize("proxied", [pool, mc_pool])
def test_a_storm_of_connects_does_not_delay_connected_clients(proxied):
    """While the proxy is stopped, many clients connect, and an existing client requests the number
    of clients. When that request is read, only a limited number has been accepted."""
    ping = (request("PING"), b"+PONG\r\n") if proxied is pool else (b"mn\r\n", b"MN\r\n")
    server = ScriptedServer() if proxied is pool else MemcachedServer()
    with (
        server,
        NutproxyServer(proxied("alpha", [server])) as proxy,
        connect(proxy.port) as client,
        contextlib.ExitStack() as stack,
    ):
        client.sendall(ping[0])
        assert client.recv(100) == ping[1]
        proxy.stop()
        crowd = [stack.enter_context(connect(proxy.port)) for _ in range(CLIENTS)]
        client.sendall(request("INFO", "clients") if proxied is pool else b"stats\r\n")
        proxy.cont()
        said = client.recv(65536).decode().replace("STAT ", "").replace(":", " ").split()
        name = "connected_clients" if proxied is pool else "curr_connections"
        assert int(said[said.index(name) + 1]) <= 1 + ACCEPTS_PER_TURN
        for each in crowd:
            each.sendall(ping[0])
        for each in crowd:
            assert each.recv(100) == ping[1]
        assert proxy.stats()["alpha"]["client_accepted"] >= 1 + CLIENTS


def test_a_lack_of_descriptors_does_not_affect_connected_clients():
    """A client, a server connection and a reader of the statistics need one descriptor each, and
    get it as soon as there are free ones."""
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        NutproxyServer(mc_pool("alpha", [one, two])) as proxy,
        MemcacheClient(proxy.port) as client,
    ):
        [here], [elsewhere] = (keys_of(number, (1, 2), 1) for number in (1, 2))
        assert client(b"set %b 0 0 1" % here, b"v") == b"STORED\r\n"
        found = b"VALUE %b 0 1\r\nv\r\nEND\r\n" % here
        limits = resource.prlimit(proxy.worker_pid, resource.RLIMIT_NOFILE)
        used = {int(number) for number in os.listdir(f"/proc/{proxy.worker_pid}/fd")}
        first_free = min({*range(len(used) + 1)} - used)
        resource.prlimit(proxy.worker_pid, resource.RLIMIT_NOFILE, (first_free, limits[1]))
        with MemcacheClient(proxy.port) as late, connect(proxy.stats_port) as reader:
            late.send(b"get %b" % here)
            wait_until(lambda: "accept failed: Too many open files" in proxy.output, "the log")
            refusal = b"SERVER_ERROR server 's2' of pool 'alpha': Too many open files\r\n"
            for _ in range(50):
                assert client(b"get %b" % here) == found
                assert client(b"get %b" % elsewhere) == refusal
                assert client(b"get %b %b" % (here, elsewhere)) == refusal
            resource.prlimit(proxy.worker_pid, resource.RLIMIT_NOFILE, limits)
            assert late.reply() == found
            wait_until(lambda: client(b"get %b" % elsewhere) == b"END\r\n", "the server")
            assert read_all(reader).endswith(b"}}}\n")
        assert "Traceback" not in proxy.log()


def test_a_list_of_many_clients_is_made_in_steps_and_keeps_its_place():
    """Clients get the list in the order of their requests, also if they pipeline or disconnect."""
    ask = request("CLIENT", "LIST")
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        contextlib.ExitStack() as stack,
    ):
        crowd = [stack.enter_context(Client(proxy.port)) for _ in range(CLIENTS)]
        for number, each in enumerate(crowd):
            assert each("CLIENT", "SETNAME", f"n{number}") == b"OK"
        one, *others = crowd
        # Several lists at once, a client that shuts down its side, and some that disconnect.
        for each in others[:20]:
            each.pipeline(("GET", "a"), ("CLIENT", "LIST"), ("ECHO", "behind"), ("CLIENT", "LIST"))
        for _ in range(10):
            with connect(proxy.port) as leaving:
                leaving.sendall(ask * 3)
        closed = stack.enter_context(connect(proxy.port))
        closed.sendall(ask)
        closed.shutdown(socket.SHUT_WR)
        for number in range(100):
            assert one("GET", f"{number}") == value_of(b"%d" % number)
        for each in others[:20]:
            value, first, behind, second = each.replies(4)
            assert (value, behind) == (value_of(b"a"), b"behind")
            for text in (first, second):
                names = re.findall(rb" name=(\S+)", text)[:CLIENTS]
                assert names == [b"n%d" % number for number in range(CLIENTS)]
        assert read_all(closed).count(b" name=n") == CLIENTS
        assert one("CLIENT", "REPLY", "ON") == b"OK"
        one.pipeline(("CLIENT", "REPLY", "SKIP"), ("CLIENT", "LIST"), ("ECHO", "next"))
        assert one.reply() == b"next"
        wait_until(lambda: info(proxy.port, "clients")["connected_clients"] == CLIENTS + 1, "all")
        assert "Traceback" not in proxy.log()


def test_other_clients_are_served_while_a_list_of_many_clients_is_made():
    """The last line describes a client that is read in the meantime, 512 bytes in each turn."""
    steps = 5
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server]), "-m", "512") as proxy,
        contextlib.ExitStack() as stack,
    ):
        crowd = [stack.enter_context(Client(proxy.port)) for _ in range(steps * LINES_PER_STEP)]
        one, last = crowd[0], crowd[-1]
        assert last("CLIENT", "SETNAME", "last") == b"OK"
        proxy.stop()
        one.send("CLIENT", "LIST")
        last.pipeline(*[("PING",)] * 1000)
        proxy.cont()
        [line] = [line for line in one.reply().splitlines() if b" name=last " in line]
        assert int(re.search(rb" tot-net-in=(\d+)", line)[1]) > (steps - 2) * 512
        assert last.replies(1000) == [b"PONG"] * 1000
