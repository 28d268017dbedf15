"""The log: what an operator reads, and what becomes of it if it is moved or cannot be written."""

import logging
import os
import signal
import socket
from types import SimpleNamespace

import pytest

from nutproxy.worker import BURST, BURST_SECONDS, NOTICE, Repeats, log_level
from tests.client import Client, words
from tests.integration.conftest import pool
from tests.servers import HOST, NutproxyServer, RedisServer, wait_until


@pytest.fixture
def dead():
    """A server that refuses connections; nobody else can take its port."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield SimpleNamespace(port=bound.getsockname()[1])


@pytest.mark.parametrize(
    ("verbose", "least"),
    [
        (1, logging.CRITICAL),
        (3, logging.ERROR),
        (4, logging.WARNING),
        (5, NOTICE),
        (6, logging.INFO),
        (7, logging.DEBUG),
        (11, logging.DEBUG),
    ],
)
def test_levels_are_twemproxys(verbose, least):
    assert log_level(verbose) == least


def test_connections_are_logged_from_6_on():
    with RedisServer() as redis:
        config = pool("alpha", [redis], preconnect=True)
        with (
            NutproxyServer(config) as usual,
            NutproxyServer(config, "-v", "6") as verbose,
            Client(usual.port) as client,
        ):
            assert client("SET", "k", "v") == b"OK"
            wait_until(lambda: "connected, RESP2" in verbose.output, "line about the connection")
            assert "NOTICE pool 'alpha' listens on 127.0.0.1:" in usual.output
            assert "connected" not in usual.output


def test_a_dead_server_is_reported_once(dead):
    with (
        NutproxyServer(pool("alpha", [dead], preconnect=True)) as proxy,
        Client(proxy.port) as client,
    ):
        for _ in range(1000):
            assert "Connection refused" in words(client("GET", "k"))
        wait_until(lambda: "is down" in proxy.output, "line about the server")
        assert proxy.output.count("is down: Connection refused") == 1
        lines = proxy.output.splitlines()
        assert [line for line in lines if "NOTICE" not in line] == lines[-1:]


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("nutproxy.worker.time.monotonic", lambda: now[0])
    return now


def lines(repeats, count, *args):
    """What is let through of `count` equal lines."""
    records = [
        logging.LogRecord("nutproxy", logging.ERROR, "", 0, "%s failed", args, None)
        for _ in range(count)
    ]
    return [record.getMessage() for record in records if repeats.filter(record)]


def test_a_line_that_repeats_is_left_out_and_counted(clock):
    repeats = Repeats()
    assert lines(repeats, 1000, "100% a") == ["100% a failed"] * BURST
    assert lines(repeats, 1, "b") == ["b failed"]
    clock[0] += BURST_SECONDS
    assert lines(repeats, 1, "100% a") == [
        f"100% a failed ({1000 - BURST} more of these in {BURST_SECONDS:.0f} s)"
    ]
    assert lines(repeats, 1, "b") == ["b failed"]


def test_lines_that_differ_are_not_remembered_for_ever(clock):
    repeats = Repeats()
    assert sum(len(lines(repeats, 1, number)) for number in range(10_000)) == 10_000
    assert len(repeats.said) <= 1000


def test_a_log_that_is_rotated_is_opened_again_and_the_proxy_goes_on(tmp_path):
    log, old = tmp_path / "log", tmp_path / "log.1"
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis]), "-o", str(log)) as proxy,
        Client(proxy.port) as client,
    ):
        wait_until(lambda: "listens on" in log.read_text(), "first line")
        log.rename(old)
        os.kill(proxy.pid, signal.SIGHUP)
        wait_until(log.exists, "a new log file")
        wait_until(lambda: "(SIGHUP), reopening log file" in log.read_text(), "its first line")
        assert client("PING") == b"PONG"
        assert proxy.output == ""


def test_a_log_that_cannot_be_written_is_reported_once_and_the_proxy_goes_on(dead):
    with (
        NutproxyServer(pool("alpha", [dead]), "-o", "/dev/full") as proxy,
        Client(proxy.port) as client,
    ):
        assert "Connection refused" in words(client("GET", "k"))
        wait_until(lambda: proxy.output != "", "report")
        for _ in range(3):
            os.kill(proxy.pid, signal.SIGHUP)
        assert client("PING") == b"PONG"
        assert proxy.output == "nutproxy: cannot write the log: No space left on device\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_end_it(number, dead):
    with NutproxyServer(pool("alpha", [dead])) as proxy:
        os.kill(proxy.pid, number)
        assert proxy.process.wait(20) == 0
        assert proxy.output.endswith(f"signal {number:d} ({number.name}), stopping\n")
