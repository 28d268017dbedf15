# tests/integration/test_bench.py: the benchmark with real proxies
"""Benchmark rows from end to end, and the load generator with correct and faulty servers."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest

from bench import measure, peers, placement, rows
from bench.__main__ import main
from bench.peers import compiled, fill
from bench.ratios import Results
from tests.client import Client
from tests.scripted import ScriptedServer
from tests.servers import MemcachedServer, RedisServer, closed_ports


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Runs the load generator with these options and returns the finished process."""
    program = compiled(tmp_path_factory.mktemp("load"), "load")

    def run(*options):
        words = [program, *map(str, options)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture(scope="module")
def servers():
    """A Redis and a memcached with the benchmark's keys, by protocol."""
    with RedisServer("--protected-mode", "no") as redis, MemcachedServer() as memcached:
        found = {"redis": redis, "memcache": memcached}
        for protocol, server in found.items():
            fill(protocol, server.port, 3)
        yield found


def test_rows_run_from_end_to_end(tmp_path, capsys):
    main(
        [
            *("--only", "redis-mget-10,memcache-get", "--peers", "nutproxy,nutcracker,echo"),
            *("--placement", "shared,own", "--rounds", "1", "--scale", "0.01"),
            *("--output", str(tmp_path)),
        ]
    )
    results = Results.read(tmp_path / "latest.json")
    assert results.samples.keys() == results.placements.keys() == {"shared", "own"}
    for by_row in results.samples.values():
        assert by_row.keys() == {"redis-mget-10", "memcache-get"}
        for by_peer in by_row.values():
            assert by_peer.keys() == {"nutproxy", "nutcracker", "echo"}
            for samples in by_peer.values():
                # Each round runs every peer twice, in opposite orders.
                assert [sample.cpu > 0 for sample in samples] == [True, True]
    printed = capsys.readouterr()
    assert "| `memcache-get` |" in printed.out
    assert printed.err.startswith("2 rows, 0 at partial load, 0 counts; 3 peers, 1 rounds")
    assert "† Rounds: 1." in (tmp_path / "latest.md").read_text()
    assert (tmp_path / "cpu.svg").exists()


def test_coalesce_is_compared_with_off(tmp_path, capsys):
    words = ("--placement", "free", "--rounds", "1", "--scale", "0.02", "--output", str(tmp_path))
    peers = "nutproxy,nutproxy-off,nutcracker,redis"
    main(["--coalesce", "--only", "redis-get-c8,redis-get-changing", "--peers", peers, *words])
    results = Results.read(tmp_path / "coalesce.json")
    for row in ("redis-get-c8", "redis-get-changing"):
        by_peer = results.row("free", row)
        assert by_peer.keys() == {"nutproxy", "nutproxy-off", "nutcracker", "redis"}
        assert all(sample.waited == 0 for sample in by_peer["nutproxy-off"])
        # A turn may end without an event: its poll had waited for a timer.
        assert all(sample.events > 0 for sample in by_peer["nutproxy"] + by_peer["nutproxy-off"])
        assert all(sample.events is None for sample in by_peer["nutcracker"] + by_peer["redis"])
    assert "## With and without `coalesce`" in (tmp_path / "coalesce.md").read_text()
    assert not (tmp_path / "coalesce.svg").exists()


def test_alternate_compares_phases_of_one_process(tmp_path):
    words = ["--only", "redis-get-c8", "--placement", "free", "--seconds", "1"]
    command = [sys.executable, "-m", "bench.alternate", *words]
    run = subprocess.run(command, capture_output=True, text=True, cwd=peers.CHECKOUT, timeout=60)
    assert run.returncode == 0, run.stderr
    [line] = [line for line in run.stdout.splitlines() if line.startswith("| `redis-get-c8` |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # Two phases of 80 ms are a pair.
    assert 1 <= int(cells[1]) <= 7
    assert all(re.fullmatch(r"\d+\.\d\d ± (\d+\.\d\d|inf)", cell) for cell in cells[-2:])


def test_load_changes_the_number_of_clients_each_second(load, servers):
    """Each request is sent and answered once, although most clients begin in the second second."""
    port = servers["redis"].port
    with Client(port) as client:
        before = int(info(client)["total_commands_processed"])
        run = load("--port", port, "--changing", "2,8", "--seconds", 2)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert 1.9 < result["seconds"] < 10
        # The INFO before is counted as well.
        assert int(info(client)["total_commands_processed"]) - before == result["requests"] + 1


def info(client):
    lines = client("INFO", "stats").decode().split("\r\n")
    return dict(line.split(":", 1) for line in lines if ":" in line)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--changing", "1,x", "--seconds", 1), "--changing: 'x' is not a number from 1 to 60000"),
        (("--changing", "1", "--requests", 5), "--changing excludes"),
        (("--changing", "1", "--seconds", 1, "--reconnect"), "--changing excludes"),
    ],
)
def test_load_refuses_what_does_not_go_with_changing(load, options, error):
    run = load("--port", 1, *options)
    assert run.returncode == 2
    assert error in run.stderr


def test_partial_load_is_offered_at_its_share_of_nutcrackers_capacity(tmp_path):
    words = ("--placement", "free", "--rounds", "1", "--scale", "0.05")
    main(["--only", "memcache-get-at-20", *words, "--output", str(tmp_path)])
    results = Results.read(tmp_path / "latest.json")
    offered = results.row("free", "memcache-get-at-20")
    capacity = results.medians("memcache-get", "nutcracker", lambda s: s.load.requests_per_second)
    rate = results.rates["free"]["memcache-get-at-20"]
    assert rate == pytest.approx(0.2 * capacity["free"], abs=1)
    assert offered.keys() == {"nutproxy", "nutcracker"}
    for samples in offered.values():
        for sample in samples:
            # Never faster than the rate; how much slower depends on the other load of the machine.
            assert sample.load.requests_per_second < 1.1 * rate
            assert 0 < sample.percent < 100
            assert 0 < sample.load.p50 <= sample.load.p99
    assert "| `memcache-get-at-20` | free |" in (tmp_path / "latest.md").read_text()


@pytest.mark.parametrize("place", placement.NAMES)
def test_every_process_runs_where_its_placement_says(place, tmp_path, monkeypatch):
    """All threads of the proxies, the servers, and the load generator."""
    found = placement.placement(place)
    started = []
    monkeypatch.setattr(peers, "running", noted(peers.running, started))
    loads = []
    row = rows.row("redis-get")
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(peers.backends(tmp_path, [row], found.servers))
        assert len(servers["redis"]) == 2
        ground = peers.Ground(tmp_path, [row], servers, found)
        assert {affinity(process.pid) for process in started} == {found.servers}
        del started[:]
        run = [
            stack.enter_context(peers.peer(name, ground))
            for name in ("nutproxy", "nutcracker", "echo")
        ]
        assert {affinity(process.pid) for process in started} == {found.proxy}
        monkeypatch.setattr(
            "bench.measure.subprocess.run",
            lambda *words, **options: loads.append(os.sched_getaffinity(0)) or done(),
        )
        for peer in run:
            measure.check(peer, row)
            measure.generate(peer, row, 10, tmp_path)
    assert loads == [found.load] * 3


def noted(running, started):
    @contextlib.contextmanager
    def wrapper(*arguments):
        with running(*arguments) as process:
            started.append(process)
            yield process

    return wrapper


def affinity(pid):
    """The CPUs of a process. All its threads must have the same."""
    [found] = {
        frozenset(os.sched_getaffinity(int(task))) for task in os.listdir(f"/proc/{pid}/task")
    }
    return found


def done():
    output = '"test","rps"\n"GET","100","1","1","1","1","1","1"\n'
    return subprocess.CompletedProcess([], 0, output, "")


def test_keys_are_spread_over_both_servers(tmp_path):
    """Each sharding proxy requests about half of the keys from each server."""
    row = rows.row("redis-mget-100")
    here = placement.placement("free")
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(peers.backends(tmp_path, [row], here.servers))
        ground = peers.Ground(tmp_path, [row], servers, here)
        clients = [stack.enter_context(Client(port)) for port in servers["redis"]]
        for name in ("nutproxy", "nutcracker"):
            peer = stack.enter_context(peers.peer(name, ground))
            before = [hits(client) for client in clients]
            measure.check(peer, row)
            asked = [hits(client) - count for client, count in zip(clients, before, strict=True)]
            assert sum(asked) == 100
            assert min(asked) > 25, name


def hits(client):
    return int(re.search(rb"keyspace_hits:(\d+)\r\n", client("INFO", "stats"))[1])


@pytest.mark.parametrize("name", ["haproxy", "predixy"])
def test_optional_peers_give_the_same_replies(name, tmp_path):
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    row = rows.row("redis-get")
    here = placement.placement("free")
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(peers.backends(tmp_path, [row], here.servers))
        peer = stack.enter_context(peers.peer(name, peers.Ground(tmp_path, [row], servers, here)))
        measure.check(peer, row)
        # Many connections, because haproxy assigns each of them to one server.
        measure.generate(peer, row, 1000, tmp_path)
        clients = [stack.enter_context(Client(port)) for port in servers["redis"]]
        assert min(hits(client) for client in clients) > 100


def test_a_partial_run_writes_no_results(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.__main__.RESULTS", tmp_path / "results")
    words = ("--placement", "free", "--scale", "0.001")
    main(["--only", "memcache-get", "--peers", "echo", *words])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("protocol", ["redis", "memcache", "binary"])
@pytest.mark.parametrize(
    "options",
    [
        ("--pipeline", 16),
        ("--command", "set", "--pipeline", 7),
        ("--keys", 20),
        ("--reconnect",),
        ("--rate", 5000, "--pipeline", 100),
    ],
    ids=lambda options: options[0],
)
def test_load_sends_the_given_number_of_requests(load, servers, protocol, options):
    port = servers["redis" if protocol == "redis" else "memcache"].port
    answer = load("--port", port, "--protocol", protocol, "--requests", 500, *options)
    assert (answer.returncode, answer.stderr) == (0, "")
    result = json.loads(answer.stdout)
    assert result["requests"] == 500
    latency = result["latency_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]


@pytest.mark.parametrize(
    ("protocol", "size"), [("redis", 1 << 20), ("memcache", 1_000_000), ("binary", 1_000_000)]
)
def test_load_reads_and_writes_large_values(load, servers, protocol, size):
    port = servers["redis" if protocol == "redis" else "memcache"].port
    options = ("--port", port, "--protocol", protocol, "--size", size, "--space", 1)
    options += ("--clients", 2)
    for command in ("set", "get"):
        answer = load(*options, "--command", command, "--requests", 8)
        assert (answer.returncode, answer.stderr) == (0, "")


def test_open_loop_measures_latency_from_the_time_a_request_was_due(load):
    """There are three connections with one request in flight each. Two of them get no reply before
    the third sends its last request, number 59. They send most of their requests only then, so
    request n gets its reply (59 - n) / 200 s after it was due. The tenth shortest of these
    latencies is 70 ms. The third connection sends only 20 of the 60 requests, so the median is at
    least 70 ms."""
    last_is_due = threading.Event()

    def script(session):
        while session.receive():
            if session.number == 3:
                if len(session.requests) == 20:
                    last_is_due.set()
            else:
                session.wait(last_is_due)
            session.send(b"$3\r\nxxx\r\n")

    with ScriptedServer(script) as server:
        answer = load("--port", server.port, "--clients", 3, "--requests", 60, "--rate", 200)
    assert (answer.returncode, answer.stderr) == (0, "")
    latency = json.loads(answer.stdout)["latency_us"]
    assert latency["p50"] >= 70_000
    assert latency["max"] >= 59 * 5_000


def test_open_loop_does_not_wait_for_replies(load, servers):
    answer = load("--port", servers["redis"].port, "--rate", 2000, "--seconds", 0.25)
    assert json.loads(answer.stdout)["requests"] == 500


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"-ERR no such server\r\n", "the reply is '-ERR no such server' where '$3' was due"),
        (b"$4\r\nxxxx\r\n", "the reply is '$4' where '$3' was due"),
        (b"$3\r\nxxy\r\n", "a value is not the one that was stored"),
        (b"$3\r\nxxx\r\n$3\r\nxxx\r\n", "a reply that nobody asked for"),
        (b"$3\nxxx\r\n", "where 'a line that ends with CRLF' was due"),
        (b"", "closed by the other side, with 1 replies due"),
    ],
)
def test_wrong_reply_ends_the_load(load, reply, message):
    def script(session):
        session.receive()
        if reply:
            session.send(reply)
            session.receive()

    with ScriptedServer(script) as server:
        answer = load("--port", server.port, "--clients", 1, "--requests", 2)
    assert answer.returncode == 1
    assert message in answer.stderr


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            b"\x81\0" + bytes(5) + b"\1" + bytes(16),
            "opcode 0 and status 1, where opcode 0 and status",
        ),
        (b"\x81\1" + bytes(22), "opcode 1 and status 0, where opcode 0 and status 0 were due"),
        (b"\x81" + bytes(23), "a body of 0 bytes, 0 before the value"),
        (b"\x81\0\0\0\4" + bytes(6) + b"\x07" + bytes(16) + b"xyz", "not the one that was stored"),
        (b"END\r\n" * 5, "a response has opcode"),
    ],
)
def test_wrong_binary_reply_ends_the_load(load, reply, message):
    def script(session):
        session.sock.recv(1000)
        session.send(reply)
        # The load ends, or the server does.
        with contextlib.suppress(OSError):
            session.sock.recv(1000)

    with ScriptedServer(script) as server:
        options = ("--port", server.port, "--protocol", "binary", "--clients", 1)
        answer = load(*options, "--requests", 2)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert message in answer.stderr


def test_load_names_an_address_that_refuses_connections(load):
    with closed_ports(1) as [port]:
        answer = load("--port", port, "--requests", 1)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "Connection refused" in answer.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--port is missing"),
        (("--port", "1"), "one of --requests and --seconds is needed"),
        (("--port", "70000"), "--port: '70000' is not a number from 1 to 65535"),
        (("--port", "1", "--protocol", "http"), "'http' is neither redis nor memcache"),
        (("--port", "1", "--seconds", "-1"), "--seconds: '-1' is not a positive number"),
        (
            ("--port", "1", "--requests", "1", "--reconnect", "--pipeline", "2"),
            "--reconnect excludes --rate and --pipeline",
        ),
    ],
)
def test_load_reports_mistakes_in_its_options(load, options, message):
    answer = load(*options)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "usage: load --port PORT" in answer.stderr
