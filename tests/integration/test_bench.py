# tests/integration/test_bench.py: the benchmark, on real proxies
"""A row from end to end, and the load generator against servers that are right and wrong."""

import json
import subprocess
import threading

import pytest

from bench.__main__ import main
from bench.peers import compiled, fill
from tests.scripted import ScriptedServer
from tests.servers import MemcachedServer, RedisServer, closed_ports


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Runs the load generator with these options; gives the finished process."""
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
            *("--rounds", "2", "--scale", "0.01", "--output", str(tmp_path)),
        ]
    )
    results = json.loads((tmp_path / "latest.json").read_text())
    assert results["samples"].keys() == {"redis-mget-10", "memcache-get"}
    for by_peer in results["samples"].values():
        assert by_peer.keys() == {"nutproxy", "nutcracker", "echo"}
        for samples in by_peer.values():
            assert [sample["cpu"] > 0 for sample in samples] == [True, True]
    assert "| `memcache-get` |" in capsys.readouterr().out
    assert (tmp_path / "cpu.svg").exists()


def test_part_of_a_run_leaves_the_results_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.__main__.RESULTS", tmp_path / "results")
    main(["--only", "memcache-get", "--peers", "echo", "--scale", "0.001"])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("protocol", ["redis", "memcache"])
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
def test_load_makes_as_many_requests_as_it_was_told(load, servers, protocol, options):
    port = servers[protocol].port
    answer = load("--port", port, "--protocol", protocol, "--requests", 500, *options)
    assert (answer.returncode, answer.stderr) == (0, "")
    result = json.loads(answer.stdout)
    assert result["requests"] == 500
    latency = result["latency_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]


def test_load_of_large_values_is_read_as_it_was_written(load, servers):
    options = ("--port", servers["redis"].port, "--size", 1 << 20, "--space", 1, "--clients", 2)
    for command in ("set", "get"):
        answer = load(*options, "--command", command, "--requests", 8)
        assert (answer.returncode, answer.stderr) == (0, "")


def test_open_loop_counts_from_the_time_a_request_was_due(load):
    """Of three connections with one request in flight each, two get no reply before the third has
    sent its last, number 59. So a request of theirs with number n, which is mostly sent only then,
    is answered (59 - n) / 200 s after it was due. The tenth least of that is 70 ms, and the other
    connection's are 20 of the 60."""
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


def test_load_says_what_cannot_be_connected_to(load):
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
def test_mistake_in_the_options_of_the_load_is_told(load, options, message):
    answer = load(*options)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "usage: load --port PORT" in answer.stderr
