# tests/integration/test_conf.py: the example files, and the keys that affect sockets
"""Every file in conf/ loads without a problem. The ones that users start with are also run."""

import contextlib
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nutproxy.config import load
from nutproxy.proto.errors import MEMCACHE_REPLIES
from tests.client import Client, read_all
from tests.integration.conftest import mc_pool, pool
from tests.integration.inside import running_worker, server_conns, socket_option
from tests.memcache import MemcacheClient
from tests.scripted import ScriptedServer, keys_of, never
from tests.servers import (
    HOST,
    MemcachedServer,
    NutproxyServer,
    RedisServer,
    connect,
    free_ports,
    pipeline,
    wait_until,
)

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yml")), ids=lambda path: path.name)
def test_example_has_no_problem(path):
    config, problems = load(str(path))
    assert config is not None
    assert [str(problem) for problem in problems if problem.severity == "problem"] == []


def example(name, servers):
    """The text of an example on a free port. It must have as many servers as these replace."""
    text, listens = re.subn(r"listen: .*", "listen: auto", (CONF / name).read_text())
    ports = iter([server.port for server in servers])
    text = re.sub(r"- 127\.0\.0\.1:\d+:", lambda _: f"- 127.0.0.1:{next(ports)}:", text)
    assert (listens, list(ports)) == (1, [])
    return text


def test_first_example_runs():
    with (
        RedisServer() as one,
        RedisServer() as two,
        NutproxyServer(example("nutproxy.yml", [one, two])) as proxy,
    ):
        assert pipeline(proxy.port, [("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]


def test_application_example_is_one_redis():
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()) for _ in range(3)]
        proxy = stack.enter_context(NutproxyServer(example("application.yml", servers)))
        one, two = (stack.enter_context(Client(proxy.port)) for _ in range(2))
        assert one("SELECT", 15) == two("SELECT", 15) == b"OK"
        assert one("MULTI") == b"OK"
        for number in range(10):
            assert one("SET", f"k{number}", number) == b"QUEUED"
        assert one("EXEC") == [b"OK"] * 10
        assert all(pipeline(server.port, [("SELECT", 15), ("DBSIZE",)])[1] for server in servers)
        one.send("BLPOP", "queue", 0)
        assert two("RPUSH", "queue", "job") == 1
        assert one.reply() == [b"queue", b"job"]
        channels = [b"c%d" % number for number in range(10)]
        one.send("SUBSCRIBE", *channels)
        assert one.replies(10)[-1] == [b"subscribe", b"c9", 10]
        for channel in channels:
            assert two("PUBLISH", channel, "news") == 1
            assert one.reply() == [b"message", channel, b"news"]


def test_memcached_example_runs_and_its_dead_servers_keys_are_misses():
    with MemcachedServer() as one, MemcachedServer() as two, MemcachedServer() as three:
        text = example("memcached.yml", [one, two, three])
        with NutproxyServer(text) as proxy, MemcacheClient(proxy.port) as client:
            assert client(b"set k 0 0 1", b"v") == b"STORED\r\n"
            assert client(b"get k") == b"VALUE k 0 1\r\nv\r\nEND\r\n"
            for server in (one, two, three):
                server.kill()
            assert client(b"get k") == b"END\r\n"


@pytest.mark.parametrize(
    ("config_of", "request_text", "reply", "refusal"),
    [
        (pool, b"PING\r\n", b"+PONG\r\n", b"-ERR max number of clients reached\r\n"),
        (mc_pool, b"mn\r\n", b"MN\r\n", b"ERROR Too many open connections\r\n"),
    ],
    ids=["redis", "memcached"],
)
def test_client_beyond_client_connections_is_told_so_and_closed(
    shards, config_of, request_text, reply, refusal
):
    clients = []
    # None of these requests needs a server.
    with NutproxyServer(config_of("alpha", shards, client_connections=2)) as proxy:

        def another_is_let_in():
            clients.append(connect(proxy.port))
            clients[-1].sendall(request_text)
            return clients[-1].recv(100) == reply

        # The connection that tested whether the proxy is ready may still be counted.
        wait_until(another_is_let_in, "the first client")
        wait_until(another_is_let_in, "the second client")
        with connect(proxy.port) as third:
            assert third.recv(100) == refusal
            assert third.recv(100) == b""
        why = "client refused: client_connections (2) are in use"
        wait_until(lambda: why in proxy.output, "the log line about the client")
        clients.pop().close()
        wait_until(another_is_let_in, "room for another client")
        for client in clients:
            client.close()


# The process


def memory_of_data(pid):
    """The writable memory of a process in bytes, touched or not."""
    found = re.search(r"^VmData:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024


def test_settings_of_the_process_may_stand_in_the_file(shards, tmp_path):
    log = tmp_path / "log"
    config = pool("alpha", shards)
    settings = f"global:\n  verbose: 6\n  output: {log}\n  mbuf_size: 16mb\n"
    with (
        NutproxyServer(settings + config) as proxy,
        NutproxyServer(config) as usual,
        Client(proxy.port) as client,
    ):
        assert client("DBSIZE") >= 0
        assert pipeline(usual.port, [("DBSIZE",)])[0] >= 0
        wait_until(lambda: log.read_text().count("connected, RESP2") == 3, "lines of level 6")
        assert "connected" not in usual.log()
        # The difference is the receive buffer.
        assert memory_of_data(proxy.worker_pid) - memory_of_data(usual.worker_pid) > 12 << 20


# Pools


def test_each_of_20_pools_has_its_own_servers_and_database():
    numbers = range(20)
    keys = [b"%d" % (key * 7919) for key in range(40)]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RedisServer("--databases", "21")) for _ in range(3)]
        two_of = [[servers[number % 3], servers[(number + 1) % 3]] for number in numbers]
        config = "".join(
            pool(f"pool{number}", two_of[number], redis_db=number + 1) for number in numbers
        )
        proxy = stack.enter_context(NutproxyServer(config))
        assert len(set(proxy.ports.values())) == len(numbers)
        for number in numbers:
            sets = [("SET", key, f"of pool {number}") for key in keys]
            assert set(pipeline(proxy.ports[f"pool{number}"], sets)) == {b"OK"}
        for number in numbers:
            gets = [("GET", key) for key in keys]
            found = set(pipeline(proxy.ports[f"pool{number}"], gets))
            assert found == {b"of pool %d" % number}
            held = {
                server: pipeline(server.port, [("SELECT", number + 1), ("DBSIZE",)])[1]
                for server in servers
            }
            assert sum(held.values()) == len(keys)
            assert {server for server in servers if held[server]} == set(two_of[number])


def test_clients_keep_their_order_over_several_server_connections():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis], server_connections=4)) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(proxy.port)) for _ in range(8)]
        for number, client in enumerate(clients):
            commands = []
            for turn in range(200):
                commands += [("SET", f"k{number}", turn), ("APPEND", f"k{number}", "x")]
                commands += [("GET", f"k{number}")]
            client.pipeline(*commands)
        for client in clients:
            assert client.replies(600)[2::3] == [b"%dx" % turn for turn in range(200)]
        # After the reply to a write, every client sees the write.
        for turn in range(200):
            writer, reader = clients[turn % 8], clients[(turn + 1) % 8]
            assert writer("SET", "shared", turn) == b"OK"
            assert reader("GET", "shared") == b"%d" % turn
        [listed] = pipeline(redis.port, [("CLIENT", "LIST")])
        assert len(listed.splitlines()) == 4 + 1


# Listening


def test_backlog_is_the_kernels(shards, tmp_path):
    with running_worker(shards, tmp_path, backlog=7) as (worker, _):
        # For a listening socket, tcpi_sacked is the backlog (Linux, tcp_get_info).
        info = socket_option(worker.listeners[0], socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        assert struct.unpack_from("I", info, 28) == (7,)


def pid_of(port):
    """The id of the process that replies on a port."""
    [info] = pipeline(port, [("INFO", "server")])
    return int(re.search(rb"^process_id:(\d+)", info, re.M)[1])


def test_two_proxies_share_a_port_with_reuseport(shards, tmp_path):
    with NutproxyServer(pool("alpha", shards, reuseport="true")) as one:
        config = pool("alpha", shards, reuseport="true").replace("auto", f"{HOST}:{one.port}")
        with NutproxyServer(config) as two:
            found = set()

            def both_answer():
                found.add(pid_of(one.port))
                return found == {one.pid, two.pid}

            wait_until(both_answer, "replies of both")
            one.kill()
            assert {pid_of(one.port) for _ in range(20)} == {two.pid}
            without = config.replace("reuseport: true", "reuseport: false")
            assert refusal_of(without, tmp_path).endswith(
                f"nutproxy: pool 'alpha': cannot listen on {HOST}:{one.port}:"
                " Address already in use\n"
            )


# Keys of Memcached pools


@pytest.fixture(scope="module")
def caches():
    """Two memcached."""
    with MemcachedServer() as one, MemcachedServer() as two:
        yield [one, two]


def test_denied_commands_of_memcached_are_refused(caches):
    config = mc_pool("alpha", caches, deny_commands="[flush_all, touch]")
    with NutproxyServer(config) as proxy, MemcacheClient(proxy.port) as client:
        assert client(b"set k 0 0 1", b"v") == b"STORED\r\n"
        for line in (b"flush_all", b"touch k 1"):
            refusal = client(line)
            assert refusal.startswith(b"CLIENT_ERROR ")
            assert b"deny_commands of pool 'alpha'" in refusal
        assert client(b"get k") == b"VALUE k 0 1\r\nv\r\nEND\r\n"


@pytest.mark.parametrize("setting", ["error", "miss"])
def test_on_dead_server_decides_what_becomes_of_its_keys(setting):
    alive, dead = (keys_of(number, (1, 2), 1)[0] for number in (1, 2))
    with MemcachedServer() as one, MemcachedServer() as two:
        config = mc_pool("alpha", [one, two], on_dead_server=setting)
        with NutproxyServer(config) as proxy, MemcacheClient(proxy.port) as client:
            for key in (alive, dead):
                assert client(b"set %b 0 0 1" % key, b"v") == b"STORED\r\n"
            two.kill()
            found = b"VALUE %b 0 1\r\nv\r\nEND\r\n" % alive
            for _ in range(2):
                reply = client(b"get %b %b" % (alive, dead))
                if setting == "miss":
                    assert reply == found
                else:
                    assert reply.startswith(b"SERVER_ERROR server 's2' of pool 'alpha': Connection")
            assert client(b"get %b" % alive) == found


@pytest.mark.parametrize("setting", ["auto", "ascii", "binary"])
def test_protocol_decides_what_memcached_clients_speak(setting):
    noop = b"\x80\x0a" + bytes(22)
    with (
        MemcachedServer() as server,
        NutproxyServer(mc_pool("alpha", [server], protocol=setting)) as proxy,
    ):
        with connect(proxy.port) as text:
            text.sendall(b"get k\r\nquit\r\n")
            received = read_all(text)
        assert received == (
            b"END\r\n" if setting != "binary" else MEMCACHE_REPLIES["memcache_only_binary"]
        )
        with connect(proxy.port) as binary:
            binary.sendall(noop + b"\x80\x07" + bytes(22))
            received = read_all(binary)
        if setting == "ascii":
            assert received == MEMCACHE_REPLIES["memcache_binary"]
        else:
            assert received == b"\x81\x0a" + bytes(22) + b"\x81\x07" + bytes(22)


def test_value_above_proto_max_bulk_len_is_too_large_as_in_memcached():
    with MemcachedServer("-I", "4m") as server:
        config = mc_pool("alpha", [server], proto_max_bulk_len="1mb")
        with NutproxyServer(config) as proxy, MemcacheClient(proxy.port) as client:
            assert client(b"set k 0 0 %d" % (1 << 20), b"v" * (1 << 20)) == b"STORED\r\n"
            longer = (1 << 20) + 1
            refusal = b"SERVER_ERROR object too large for cache\r\n"
            assert client(b"set k 0 0 %d" % longer, b"w" * longer) == refusal
            found = b"VALUE k 0 %d\r\n%b\r\nEND\r\n" % (1 << 20, b"v" * (1 << 20))
            assert client(b"get k") == found


def test_memcached_may_listen_on_a_unix_socket():
    with MemcachedServer(unix=True) as server:
        config = mc_pool("alpha", [server]).replace(f"{HOST}:{server.port}", str(server.unix_path))
        with NutproxyServer(config) as proxy, MemcacheClient(proxy.port) as client:
            assert client(b"set k 0 0 1", b"v") == b"STORED\r\n"
            assert client(b"get k") == b"VALUE k 0 1\r\nv\r\nEND\r\n"


# Unix sockets. Permissions and stale socket files are tested in test_defects.


def refusal_of(config, directory):
    """The error of a proxy that does not start. It has to exit with 1."""
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
        # The first attempt fills the backlog, so that another connect would wait.
        for _ in range(2):
            assert taken(path, pool("alpha", shards), tmp_path)
        assert path.is_socket()


def test_a_regular_file_at_the_path_of_a_unix_socket_is_left_alone(shards, tmp_path):
    path = tmp_path / "data"
    path.write_text("of somebody else")
    assert taken(path, pool("alpha", shards), tmp_path)
    assert path.read_text() == "of somebody else"


@contextlib.contextmanager
def proxy_on(path, servers):
    config = pool("alpha", servers).replace("auto", str(path))
    # Longer than any test waits, because the end of the process removes the file, too.
    with NutproxyServer("global:\n  shutdown_timeout: 100000\n" + config) as proxy:
        yield proxy


def test_the_file_of_a_unix_socket_is_removed_at_the_end(shards, tmp_path):
    path = tmp_path / "sock"
    with proxy_on(path, shards) as proxy:
        assert pipeline(path, [("PING",)]) == [b"PONG"]
        proxy.process.terminate()
        assert proxy.process.wait(20) == 0
        assert not path.exists()


def test_the_file_of_a_unix_socket_is_removed_when_the_drain_begins(tmp_path):
    path = tmp_path / "sock"
    with ScriptedServer(never) as server, proxy_on(path, [server]) as proxy, Client(path) as client:
        client.send("GET", "k")
        wait_until(lambda: server.requests, "the request")
        proxy.process.terminate()
        wait_until(lambda: not path.exists(), "removal of the socket file")
        assert proxy.process.poll() is None


def test_a_socket_file_that_has_replaced_its_own_is_left_alone(shards, tmp_path):
    path = tmp_path / "sock"
    with proxy_on(path, shards) as proxy, socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        other.bind(str(path))
        other.listen()
        proxy.process.terminate()
        assert proxy.process.wait(20) == 0
        connect(path).close()


@pytest.mark.parametrize("refused", ["the next pool", "the log"])
def test_a_failed_start_leaves_no_unix_socket(shards, tmp_path, refused):
    path = tmp_path / "sock"
    config = pool("alpha", shards).replace("auto", str(path))
    if refused == "the log":
        config += f"global:\n  output: {tmp_path}\n"
    else:
        config += pool("later", shards).replace("auto", f"{HOST}:{shards[0].port}")
    assert refusal_of(config, tmp_path)
    assert not path.exists()


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
        running_worker(shards, tmp_path, preconnect="true", **options) as (worker, port),
        Client(port) as client,
    ):
        assert client("DBSIZE") >= 0
        [pool] = worker.pools
        conns = [*server_conns(pool), *worker.clients()]
        assert [keepalive(conn) for conn in conns] == [expected] * 4


# Congestion control


@pytest.mark.parametrize("chosen", [None, "reno"], ids=["the system's", "chosen"])
def test_tcp_congestion_is_set_towards_servers_and_clients(shards, tmp_path, chosen):
    system = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    options = {"tcp_congestion": chosen} if chosen else {}
    with (
        running_worker(shards, tmp_path, preconnect="true", **options) as (worker, port),
        Client(port) as client,
    ):
        assert client("DBSIZE") >= 0
        [pool] = worker.pools
        conns = [*server_conns(pool), *worker.clients()]
        names = [
            socket_option(conn, socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) for conn in conns
        ]
        assert [name.rstrip(b"\0").decode() for name in names] == [chosen or system] * 4


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_tcp_congestion_unknown_to_the_system_is_refused(shards, tmp_path, family):
    offered = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().strip()
    [port] = free_ports(1)
    address = f"{HOST}:{port}" if family == "tcp" else tmp_path / "sock"
    config = pool("alpha", shards, tcp_congestion="none").replace("auto", str(address))
    reason = f"tcp_congestion 'none': the system refuses it, available: {offered}\n"
    refusal = refusal_of(config, tmp_path)
    assert refusal == f"nutproxy: pool 'alpha': cannot listen on {address}: {reason}"
    file = tmp_path / "checked.yml"
    file.write_text(config)
    command = [sys.executable, "-m", "nutproxy", "check", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True)
    # Only a warning, because the file may be meant for another machine.
    assert checked.returncode == 0
    line = config.splitlines().index("  tcp_congestion: none") + 1
    assert f"{file}:{line}: pool 'alpha': warning: {reason}" in checked.stdout
