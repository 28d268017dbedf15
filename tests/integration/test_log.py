"""The log: its lines, and what happens when the file is moved or cannot be written."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nutproxy.log import BURST, QUEUE_LINES
from tests.client import Client, words
from tests.integration.conftest import pool
from tests.scripted import ScriptedServer
from tests.servers import HOST, NutproxyServer, RedisServer, free_ports, pipeline, wait_until


@pytest.fixture
def dead():
    """An address that refuses connections. No other process can take its port."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield SimpleNamespace(port=bound.getsockname()[1])


@pytest.mark.parametrize("level", ["5", "11"])
def test_requests_are_not_logged(level):
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis]), "-v", level) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("SET", "first", "v") == b"OK"
        client.pipeline(*[("GET", f"key:{number}") for number in range(1000)])
        assert client.replies(1000) == [None] * 1000
        log = proxy.log()
        assert "listens on" in log
        assert "key:" not in log
        assert len(log.splitlines()) < 20


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
            log = usual.log()
            assert "NOTICE pool 'alpha' listens on 127.0.0.1:" in log
            assert "connected" not in log


def test_a_dead_server_is_reported_once(dead):
    with (
        NutproxyServer(pool("alpha", [dead], preconnect=True)) as proxy,
        Client(proxy.port) as client,
    ):
        for _ in range(1000):
            assert "Connection refused" in words(client("GET", "k"))
        [line] = [line for line in proxy.log().splitlines() if "NOTICE" not in line]
        assert "is down: Connection refused" in line


def test_clients_are_logged_from_7_on():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis]), "-v", "7") as proxy,
    ):
        with Client(proxy.port) as client:
            for _ in range(20):
                assert client("PING") == b"PONG"
            address = "{}:{}".format(*client.socket.getsockname())
        wait_until(lambda: "closed: by the client" in proxy.output, "its last line")
        debug = [line.split(" ", 2)[2] for line in proxy.log().splitlines() if " DEBUG " in line]
        [came, went] = debug
        name = came.split(" pool ")[0]
        assert re.fullmatch(r"c \d+", name)
        assert came == f"{name} pool 'alpha': connected from {address}"
        assert went == (
            f"{name} pool 'alpha': closed: by the client; received 280 bytes, sent 140,"
            " requests in flight 0"
        )


def test_a_refused_client_is_logged_ten_times_a_minute():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis], client_connections=1)) as proxy,
        Client(proxy.port) as client,
    ):
        assert client("PING") == b"PONG"
        for _ in range(50):
            with Client(proxy.port) as refused:
                assert "max number of clients" in words(refused.reply())
        refusals = "client refused: client_connections (1) are in use"
        wait_until(lambda: refusals in proxy.output, "the log line")
        assert client("PING") == b"PONG"
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        assert proxy.output.count(refusals) == BURST
        assert re.search(r"WARNING p \d+ pool 'alpha' on .*: client refused", proxy.output)


def test_malformed_reply_is_logged_with_connection_and_server():
    def script(session):
        if session.receive():
            session.send(b"!x\r\n")

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        assert "malformed reply" in client.error("GET", "k")
        wait_until(lambda: "malformed" in proxy.output, "the log line")
        assert re.search(
            r"WARNING s \d+ server 's1' of pool 'alpha' at 127\.0\.0\.1:\d+: connection closed:"
            r" malformed reply",
            proxy.output,
        )


def test_a_server_that_closes_again_and_again_does_not_fill_the_log():
    def script(session):
        session.receive()

    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], server_connections=20)) as proxy,
    ):
        # Each client has other connections and other descriptors.
        for _ in range(60):
            with Client(proxy.port) as client:
                assert "reset" in client.error("GET", "k")
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        assert proxy.output.count("connection closed: ") == BURST


def test_warnings_about_the_configuration_are_logged(dead):
    config = pool("alpha", [dead], server_connections=17, auto_eject_hosts="true")
    with NutproxyServer(config) as proxy:
        wait_until(lambda: "listens on" in proxy.output, "start")
        lines = [line.split(" ", 1)[1] for line in proxy.output.splitlines()]
        assert [line.partition(": warning: ")[0] for line in lines[:2]] == [
            f"WARNING {proxy.config_file}:7: pool 'alpha': server_connections",
            f"WARNING {proxy.config_file}:8: pool 'alpha': auto_eject_hosts",
        ]


def test_start_of_every_pool_is_logged(dead):
    config = "".join(pool(f"pool{number}", [dead]) for number in range(15))
    with NutproxyServer(config) as proxy:
        wait_until(lambda: proxy.output.count("listens on") == 15, "a line for each")


def test_json_for_machines(dead):
    config = "global:\n  log_format: json\n" + pool("alpha", [dead])
    with NutproxyServer(config) as proxy, Client(proxy.port) as client:
        assert "Connection refused" in client.error("GET", "k")
        file, *lines = [json.loads(line) for line in proxy.log().splitlines()]
        assert file["message"] == f"configuration file '{proxy.config_file}'"
        assert [(line["level"], line.get("pool"), line.get("server")) for line in lines] == [
            ("NOTICE", "alpha", None),
            ("NOTICE", None, None),
            ("WARNING", "alpha", "s1"),
            ("NOTICE", None, None),
        ]
        assert lines[2]["message"] == (
            f"server 's1' of pool 'alpha' is down: Connection refused (127.0.0.1:{dead.port})"
        )


def test_a_fault_of_the_master_is_logged_and_ends_it(dead, tmp_path):
    [port] = free_ports(1)
    file = tmp_path / "proxy.yml"
    file.write_text(pool("alpha", [dead]).replace("listen: auto", f"listen: {HOST}:{port}"))
    script = (
        "import sys\n"
        "from nutproxy import cli\n"
        "from nutproxy.master.main import Master\n"
        "Master.tick = lambda self: 1 / 0\n"
        f"sys.exit(cli.main(['-c', '{file}']))\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 1
    assert " CRITICAL internal error, nutproxy ends\nTraceback" in answer.stderr


def test_a_rotated_log_is_opened_again_and_the_proxy_continues(tmp_path):
    log, old = tmp_path / "log", tmp_path / "log.1"
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis]), "-o", str(log)) as proxy,
        Client(proxy.port) as client,
    ):
        wait_until(lambda: log.exists() and "listens on" in log.read_text(), "first line")
        log.rename(old)
        os.kill(proxy.pid, signal.SIGHUP)
        wait_until(log.exists, "a new log file")
        wait_until(
            lambda: "signal 1 (SIGHUP) received, reopening log file" in log.read_text(),
            "its first line",
        )
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
        # At the end of the process, every line has been tried.
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        assert proxy.output == "nutproxy: cannot write the log: No space left on device\n"


@pytest.fixture
def full_pipe(tmp_path):
    """A named pipe that is full, and its reading end."""
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(end, bytes(4096))
        yield fifo, end
    finally:
        os.close(end)


def test_an_unread_log_blocks_neither_clients_nor_the_end(full_pipe, tmp_path):
    fifo, _ = full_pipe
    pid_file = tmp_path / "pid"
    with RedisServer() as redis:
        config = pool("alpha", [redis])
        with NutproxyServer(config, "-o", str(fifo), "-p", str(pid_file)) as proxy:
            assert pipeline(proxy.port, [("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]
            os.kill(proxy.pid, signal.SIGTERM)
            assert proxy.process.wait(20) == 0
            assert not pid_file.exists()


def test_a_log_that_blocks_for_long_keeps_warnings_and_counts_dropped_lines(dead, full_pipe):
    fifo, end = full_pipe
    clients = QUEUE_LINES // 2 + 200
    with NutproxyServer(pool("alpha", [dead]), "-v", "7", "-o", str(fifo)) as proxy:
        for _ in range(clients):
            with Client(proxy.port):
                pass
        # The figures are current: the lines about these clients have been logged.
        wait_until(lambda: proxy.stats()["alpha"]["client_eof"] == clients, "their end")
        with Client(proxy.port) as client:
            assert "Connection refused" in client.error("GET", "k")
        text = bytearray()

        def read(what):
            with contextlib.suppress(BlockingIOError):
                text.extend(os.read(end, 1 << 20))
            return what in text

        wait_until(lambda: read(b" lines dropped"), "the number of missing lines")
        os.kill(proxy.pid, signal.SIGUSR1)
        wait_until(lambda: read(b"SIGUSR1"), "the next line")
        lines = text.strip(b"\0").decode().splitlines()
        assert sum("is down: Connection refused" in line for line in lines) == 1
        [notice] = [line for line in lines if "lines dropped" in line]
        dropped = re.search(r" WARNING (\d+) lines dropped: the log could not be written", notice)
        debug = sum(" DEBUG " in line for line in lines)
        # One more line is being written.
        assert QUEUE_LINES - 10 <= debug <= QUEUE_LINES + 1
        assert debug + int(dropped[1]) == 2 * (clients + 1)
