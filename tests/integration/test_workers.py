"""The master and its workers: how clients are shared out, and what happens when a worker dies."""

import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import sanitize
from tests.client import Client, read_all, request
from tests.integration.conftest import pool
from tests.servers import (
    HOST,
    NutproxyServer,
    RedisServer,
    connect,
    free_ports,
    listening_ports,
    state_of,
    wait_until,
)

CLIENTS = 400
IMBALANCE = 1.05


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as redis:
        yield redis


def proxy_of(redis, workers, *arguments, more="", **options):
    config = f"global:\n  workers: {workers}\n{more}" + pool("alpha", [redis], **options)
    return NutproxyServer(config, *arguments)


def clients_of(pid, port, ports=None):
    """How many clients of this port a process has, or how many of those with these ports."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    # While other connections come and go, the kernel shows some twice.
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_, inode = line.split()[:10]
        here, there = (int(end.rpartition(":")[2], 16) for end in (local, remote))
        ours = here == port and (ports is None or there in ports)
        if state == "01" and ours and f"socket:[{inode}]" in inodes:
            found.add(inode)
    return len(found)


def shares(proxy):
    return [clients_of(pid, proxy.port) for pid in proxy.worker_pids]


def shown(proxy):
    return proxy.stats()["alpha"]


# How clients are shared out.


def one_at_a_time(port):
    clients = []
    for _ in range(CLIENTS):
        clients.append(connect(port))
        clients[-1].sendall(request("PING"))
        assert clients[-1].recv(100) == b"+PONG\r\n"
    return clients


def fast(port):
    return [connect(port) for _ in range(CLIENTS)]


def at_once(port):
    """All connects are under way before the first one is complete."""
    clients = [socket.socket() for _ in range(CLIENTS)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex((HOST, port))
    for client in clients:
        client.settimeout(20)
    return clients


def while_busy(port):
    """Eight other clients, two of each worker, send as much as they can."""
    load = ["redis-benchmark", "-h", HOST, "-p", str(port), "-n", "100000000", "-c", "8"]
    with subprocess.Popen([*load, "-P", "16", "get", "k"], stdout=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.5)
            return fast(port)
        finally:
            process.kill()


@pytest.mark.parametrize("load", [one_at_a_time, fast, while_busy, at_once])
def test_every_worker_has_the_same_number_of_clients(redis, load):
    with proxy_of(redis, 4) as proxy:
        clients = load(proxy.port)
        ports = {client.getsockname()[1] for client in clients}
        for client in clients:
            client.sendall(request("GET", "k"))
        for client in clients:
            # Now it has reached its worker.
            assert b"$-1\r\n" in client.recv(100)
        found = [clients_of(pid, proxy.port, ports) for pid in proxy.worker_pids]
        assert max(found) / (CLIENTS / 4) <= IMBALANCE, found
        for client in clients:
            client.close()


def test_few_clients_are_shared_out_too(redis):
    with proxy_of(redis, 4) as proxy:
        clients = [connect(proxy.port) for _ in range(8)]
        wait_until(lambda: shares(proxy) == [2, 2, 2, 2], "two for each worker")
        for client in clients:
            client.close()


def test_auto_is_a_worker_for_each_core(redis):
    with proxy_of(redis, "auto") as proxy:
        count = len(os.sched_getaffinity(0))
        wait_until(lambda: len(proxy.worker_pids) == count, "the workers")


def test_client_connections_is_a_limit_of_all_workers_together(redis):
    with proxy_of(redis, 4, client_connections=10) as proxy:
        clients = [Client(proxy.port) for _ in range(10)]
        for client in clients:
            assert client("PING") == b"PONG"
        with Client(proxy.port) as refused:
            assert "max number of clients" in str(refused.reply())
        clients.pop().socket.close()
        wait_until(lambda: shown(proxy)["client_connections"] == 9, "the end of a client")
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"
        for client in clients:
            client.socket.close()


def test_a_client_that_is_lost_on_its_way_to_a_worker_is_not_counted(redis):
    """The worker has no descriptor left, so the kernel closes those that are handed over to it."""
    with proxy_of(redis, 2, client_connections=10) as proxy:
        full = proxy.worker_pids[0]
        limits = resource.prlimit(full, resource.RLIMIT_NOFILE)
        used = max(int(entry.name) for entry in Path(f"/proc/{full}/fd").iterdir()) + 1
        resource.prlimit(full, resource.RLIMIT_NOFILE, (used, limits[1]))
        clients = [connect(proxy.port) for _ in range(8)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(request("PING"))
                client.shutdown(socket.SHUT_WR)
        assert {read_all(client) for client in clients} == {b"", b"+PONG\r\n"}
        resource.prlimit(full, resource.RLIMIT_NOFILE, limits)
        for client in clients:
            client.close()
        wait_until(lambda: shown(proxy)["client_connections"] == 0, "their end")
        wait_until(lambda: "accept failed" in proxy.output, "the log")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(proxy.port)) for _ in range(10)]
            for client in clients:
                assert client("PING") == b"PONG"
            assert sorted(shares(proxy)) == [5, 5]


def test_ids_of_clients_are_unique(redis):
    with proxy_of(redis, 4) as proxy:
        clients = [Client(proxy.port) for _ in range(40)]
        assert len({client("CLIENT", "ID") for client in clients}) == 40
        for client in clients:
            client.socket.close()


# All workers are one server.


def clients_of_both(proxy, stack):
    """Two clients of each worker."""
    clients = [stack.enter_context(Client(proxy.port)) for _ in range(4)]
    for number, client in enumerate(clients):
        assert client("CLIENT", "SETNAME", f"n{number}") == b"OK"
    assert shares(proxy) == [2, 2]
    return clients


def test_client_list_shows_the_clients_of_all_workers(redis):
    with proxy_of(redis, 2) as proxy, contextlib.ExitStack() as stack:
        clients = clients_of_both(proxy, stack)
        ids = [client("CLIENT", "ID") for client in clients]
        for client in clients:
            lines = client("CLIENT", "LIST").decode().splitlines()
            assert {re.search(r" name=(\w+) ", line)[1] for line in lines} == {
                "n0",
                "n1",
                "n2",
                "n3",
            }
            [line] = client("CLIENT", "LIST", "ID", ids[0]).decode().splitlines()
            assert line.startswith(f"id={ids[0]} ")


def test_client_kill_reaches_the_clients_of_all_workers(redis):
    with proxy_of(redis, 2) as proxy, contextlib.ExitStack() as stack:
        first, *others = clients_of_both(proxy, stack)
        ids = [client("CLIENT", "ID") for client in others]
        assert first("CLIENT", "KILL", "ID", ids[0]) == 1
        assert others[0].closed()
        assert first("CLIENT", "KILL", "ID", ids[0]) == 0
        assert first("CLIENT", "KILL", "TYPE", "normal") == 2
        assert others[1].closed()
        assert others[2].closed()
        assert first("PING") == b"PONG"


def test_client_pause_delays_the_clients_of_all_workers(redis):
    with proxy_of(redis, 2) as proxy, contextlib.ExitStack() as stack:
        first, *others = clients_of_both(proxy, stack)
        assert first("CLIENT", "PAUSE", 100_000, "WRITE") == b"OK"
        for client in others:
            client.send("SET", "k", "v")
        time.sleep(0.2)
        for client in others:
            client.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.socket.recv(1)
            client.socket.settimeout(20)
        assert first("CLIENT", "UNPAUSE") == b"OK"
        for client in others:
            assert client.reply() == b"OK"


def test_info_has_the_figures_of_all_workers(redis):
    with proxy_of(redis, 2) as proxy, contextlib.ExitStack() as stack:
        clients = clients_of_both(proxy, stack)
        for client in clients:
            assert client("SET", "k", "v") == b"OK"
        found = [client("INFO").decode() for client in clients]
        for text in found:
            assert "\r\nconnected_clients:4\r\n" in text
            assert "\r\ntotal_connections_received:4\r\n" in text
            assert f"\r\nprocess_id:{proxy.pid}\r\n" in text
        assert len({re.search(r"run_id:(\w+)", text)[1] for text in found}) == 1
        commands = [int(re.search(r"total_commands_processed:(\d+)", text)[1]) for text in found]
        assert commands == sorted(commands)
        assert commands[0] >= 8
        rss = sum(rss_of(pid) for pid in (proxy.pid, *proxy.worker_pids))
        assert used_memory(clients[0]) == pytest.approx(rss, rel=0.1)
        assert used_memory(clients[1]) == pytest.approx(rss, rel=0.1)


def rss_of(pid):
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def used_memory(client):
    return int(re.search(r"used_memory_rss:(\d+)", client("INFO", "memory").decode())[1])


def test_processor_times_are_those_of_all_processes(redis):
    with proxy_of(redis, 2) as proxy, contextlib.ExitStack() as stack:
        clients = clients_of_both(proxy, stack)
        # Enough for a few of the kernel's ticks.
        clients[0].pipeline(*[("GET", "k")] * 100000)
        for _ in range(100000):
            clients[0].reply()
        pids = (proxy.pid, *proxy.worker_pids)
        used = sum(cpu_seconds(pid) for pid in pids)
        for client in clients:
            text = client("INFO", "cpu").decode()
            told = sum(float(re.search(rf"used_cpu_{of}:(.*)", text)[1]) for of in ("user", "sys"))
            assert used > 0.1
            assert told == pytest.approx(used, rel=0.2)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_that_hangs_is_left_out_of_client_list(redis):
    with proxy_of(redis, 2) as proxy, contextlib.ExitStack() as stack:
        clients = clients_of_both(proxy, stack)
        one, other = proxy.worker_pids
        asking = next(client for client in clients if clients_has(one, proxy.port, client))
        os.kill(other, signal.SIGSTOP)
        assert len(asking("CLIENT", "LIST").decode().splitlines()) == 2
        os.kill(other, signal.SIGCONT)
        wait_until(lambda: len(asking("CLIENT", "LIST").decode().splitlines()) == 4, "all")


# What a worker is.


def test_a_worker_has_no_thread_and_reads_no_yaml(redis):
    with proxy_of(redis, 2) as proxy:
        for pid in proxy.worker_pids:
            assert len(os.listdir(f"/proc/{pid}/task")) == 1
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert "yaml" not in maps
            assert "pydantic" not in maps


def test_a_configuration_larger_than_a_packet_reaches_the_worker(redis):
    text = "".join(pool(f"pool{number}", [redis] * 1) for number in range(150))
    with NutproxyServer(text) as proxy:
        for port in list(proxy.ports.values())[::50]:
            with Client(port) as client:
                assert client("PING") == b"PONG"


# When a worker dies.


def test_a_worker_that_dies_is_replaced_and_clients_of_others_notice_nothing(redis):
    with proxy_of(redis, 2) as proxy, Client(proxy.port) as one, Client(proxy.port) as other:
        for client in (one, other):
            assert client("SET", "k", "v") == b"OK"
        dying, living = proxy.worker_pids
        assert shares(proxy) == [1, 1]
        errors = []
        end = threading.Event()
        spared = one if clients_has(living, proxy.port, one) else other

        def ask():
            while not end.is_set():
                if spared("GET", "k") != b"v":
                    errors.append(1)

        asking = threading.Thread(target=ask)
        asking.start()
        began = time.monotonic()
        os.kill(dying, signal.SIGKILL)
        wait_until(lambda: re.search(r"worker 0 \(pid \d+\) serves", proxy.output), "the next one")
        took = time.monotonic() - began
        end.set()
        asking.join()
        assert not errors
        # Half a second on a machine that does nothing else.
        assert took < 5
        wait_until(lambda: shown(proxy)["client_connections"] == 1, "the gauge")
        with Client(proxy.port) as late:
            assert late("GET", "k") == b"v"
            assert sorted(shares(proxy)) == [1, 1]


def clients_has(pid, port, client):
    """Is this client connected to the process?"""
    own = client.socket.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_, inode = line.split()[:10]
        ports = [int(end.rpartition(":")[2], 16) for end in (local, remote)]
        if ports == [port, own] and state == "01":
            fds = Path(f"/proc/{pid}/fd")
            return f"socket:[{inode}]" in {os.readlink(entry) for entry in fds.iterdir()}
    return False


def test_clients_that_wait_for_a_worker_survive_its_death(redis):
    """Those in the kernel's queue, and those that were handed over to it."""
    with proxy_of(redis, 2) as proxy:
        stopped = proxy.worker_pids
        os.kill(stopped[0], signal.SIGSTOP)
        wait_until(lambda: state_of(stopped[0]) == "T", "stop of a worker")
        clients = [connect(proxy.port) for _ in range(20)]
        for client in clients:
            client.sendall(request("PING"))
        # The other one has accepted all and handed over half.
        wait_until(lambda: clients_of(stopped[1], proxy.port) == 10, "half of the clients")
        os.kill(stopped[1], signal.SIGSTOP)
        wait_until(lambda: state_of(stopped[1]) == "T", "stop of the other")
        queued = [connect(proxy.port) for _ in range(20)]
        for client in queued:
            client.sendall(request("PING"))
        os.kill(stopped[0], signal.SIGKILL)
        os.kill(stopped[1], signal.SIGCONT)
        for client in (*clients, *queued):
            assert client.recv(100) == b"+PONG\r\n"
        wait_until(lambda: shown(proxy)["client_connections"] == 40, "the gauge")
        # How many each has depends on whether the second worker accepts before the master has seen
        # the end of the first one.
        assert sum(shares(proxy)) == 40
        for client in (*clients, *queued):
            client.close()
        wait_until(lambda: shown(proxy)["client_connections"] == 0, "their end")


def test_counters_survive_a_worker_and_gauges_do_not(redis):
    with proxy_of(redis, 1) as proxy:
        with Client(proxy.port) as client:
            for _ in range(10):
                assert client("PING") == b"PONG"
            before = shown(proxy)
            assert (before["client_requests"], before["client_connections"]) == (10, 1)
            os.kill(proxy.worker_pid, signal.SIGKILL)
            wait_until(lambda: "serves" in proxy.output, "the next worker")
            assert (shown(proxy)["client_requests"], shown(proxy)["client_connections"]) == (10, 0)
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"
            assert shown(proxy)["client_requests"] == 11
            assert client("CLIENT", "ID") > 1


def test_a_worker_whose_master_has_died_ends(redis):
    with proxy_of(redis, 2) as proxy, Client(proxy.port) as client:
        assert client("PING") == b"PONG"
        pids = proxy.worker_pids
        proxy.process.kill()
        proxy.process.wait()
        assert client.socket.recv(100) == b""
        wait_until(lambda: all(state_of(pid) in ("", "Z") for pid in pids), "end of the workers")


def test_workers_end_when_the_master_has_died_with_messages_unread(redis):
    with proxy_of(redis, 2, "-v", "11") as proxy, Client(proxy.port) as client:
        pids = proxy.worker_pids
        os.kill(proxy.pid, signal.SIGSTOP)
        # Lines of the log.
        for _ in range(4):
            with Client(proxy.port) as other:
                assert other("PING") == b"PONG"
        proxy.process.kill()
        proxy.process.wait()
        assert client.socket.recv(100) == b""
        wait_until(lambda: all(state_of(pid) in ("", "Z") for pid in pids), "end of the workers")


def test_signals_to_a_worker_do_nothing(redis):
    with proxy_of(redis, 1) as proxy, Client(proxy.port) as client:
        pid = proxy.worker_pid
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(pid, number)
        assert client("PING") == b"PONG"
        assert proxy.worker_pid == pid


def program(tmp_path, redis, script, more=""):
    """nutproxy with a worker that executes this Python program. Its output is a file."""
    [port] = free_ports(1)
    file = tmp_path / "proxy.yml"
    text = pool("alpha", [redis]).replace("listen: auto", f"listen: {HOST}:{port}")
    file.write_text(more + text)
    main = (
        "import sys\n"
        "from nutproxy import cli\n"
        "from nutproxy.master import workers\n"
        f"workers.COMMAND[:] = [sys.executable, '-c', {script!r}]\n"
        f"sys.exit(cli.main(['-c', {str(file)!r}, '-s', '0']))\n"
    )
    with open(tmp_path / "output", "wb") as output:
        return subprocess.Popen([sys.executable, "-c", main], stderr=output), port


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_three_workers_in_a_row_that_do_not_start_end_nutproxy(redis, tmp_path, workers):
    """Whatever the others are doing then."""
    process, _ = program(
        tmp_path, redis, "raise SystemExit(3)", f"global: {{workers: {workers}}}\n"
    )
    assert process.wait(60) == 1
    output = (tmp_path / "output").read_text()
    assert "Traceback" not in output
    assert "3 in a row have ended before they served, so nutproxy ends\n" in output


def test_a_worker_that_does_not_start_is_started_again_after_a_while(redis, tmp_path):
    process, _ = program(tmp_path, redis, "raise SystemExit(3)")
    assert process.wait(60) == 1
    output = (tmp_path / "output").read_text()
    assert output.count("has died: exit code 3; ") == 3
    assert "it is started again\n" in output
    assert "it is started again in 1 s\n" in output
    assert "3 in a row have ended before they served, so nutproxy ends\n" in output


# As an editable installation: a finder instead of an entry in sys.path.
FINDER = """
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "nutproxy":
            return importlib.util.spec_from_file_location(
                name, {root!r} + "/nutproxy/__init__.py",
                submodule_search_locations=[{root!r} + "/nutproxy"],
            )
sys.path[:] = [place for place in sys.path if place not in ("", {root!r})]
sys.meta_path.append(Finder)
from nutproxy import cli
sys.exit(cli.main(["-c", {file!r}, "-s", "0"]))
"""


@pytest.mark.skipif(sanitize.ACTIVE, reason="its modules are found by a finder of its own")
def test_a_worker_finds_nutproxy_however_it_is_installed(redis, tmp_path):
    [port] = free_ports(1)
    file = tmp_path / "proxy.yml"
    file.write_text(pool("alpha", [redis]).replace("listen: auto", f"listen: {HOST}:{port}"))
    root = str(Path(__file__).parents[2])
    script = FINDER.format(root=root, file=str(file))
    with open(tmp_path / "output", "wb") as output:
        process = subprocess.Popen([sys.executable, "-c", script], stderr=output, cwd=tmp_path)
    try:
        wait_until(lambda: process.poll() is not None or port in listening_ports(process.pid))
        with Client(port) as client:
            assert client("PING") == b"PONG"
    finally:
        process.terminate()
        assert process.wait(60) == 0, (tmp_path / "output").read_text()


HANGS = """
import sys
from nutproxy import worker
def hang(self, *_):
    while True:
        pass
worker.WorkerProcess.resolve = hang
sys.exit(worker.main(int(sys.argv[1])))
"""


@pytest.mark.skipif(sanitize.ACTIVE, reason="the sanitizer has handlers of its own")
def test_a_worker_that_hangs_leaves_its_stacks_and_is_replaced(redis, tmp_path):
    process, port = program(tmp_path, redis, HANGS, "global:\n  worker_timeout: 4000\n")
    try:

        def log():
            return (tmp_path / "output").read_text()

        wait_until(lambda: "listens on" in log(), "start")
        with Client(port) as client:
            # To connect to the server, its address is looked up.
            client.send("GET", "k")
            wait_until(lambda: "serves" in log(), "the next worker")
        assert "has been hanging for" in log()
        assert re.search(r'File "<string>", line \d+ in hang', log())
        assert "has died: signal 6 (SIGABRT); it is started again\n" in log()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_stopped_worker_is_replaced_after_worker_timeout(redis):
    with proxy_of(redis, 1, more="  worker_timeout: 1500\n") as proxy:
        os.kill(proxy.worker_pid, signal.SIGSTOP)
        wait_until(lambda: "serves" in proxy.output, "the next worker")
        assert "has died: signal 9 (SIGKILL); it is started again" in proxy.output
        with Client(proxy.port) as client:
            assert client("PING") == b"PONG"
