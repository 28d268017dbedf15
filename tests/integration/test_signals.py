"""Signals that do not end nutproxy. The shutdown is in test_drain.py."""

import os
import signal
import subprocess
import sys

import pytest

from tests import sanitize
from tests.client import Client
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, wait_until


@pytest.fixture
def redis():
    with RedisServer() as redis:
        yield redis


def messages(proxy, text):
    """The lines of the log that contain `text`, without time and level."""
    return [line.split(" ", 2)[2] for line in proxy.output.splitlines() if text in line]


def test_log_level_goes_up_and_down_by_signals(redis):
    with NutproxyServer(pool("alpha", [redis]), "-v", "6") as proxy:

        def connects(count):
            for _ in range(count):
                with Client(proxy.port) as client:
                    assert client("PING") == b"PONG"

        connects(3)
        os.kill(proxy.pid, signal.SIGTTIN)
        wait_until(lambda: messages(proxy, "SIGTTIN"), "line about the level")
        connects(1)
        wait_until(lambda: messages(proxy, "connected from"), "client at level 7")
        os.kill(proxy.pid, signal.SIGTTOU)
        wait_until(lambda: messages(proxy, "SIGTTOU"), "line about the level")
        connects(3)
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        assert len(messages(proxy, "connected from")) == 1
        assert messages(proxy, "SIGTT") == [
            "signal 21 (SIGTTIN) received, up logging level to 7",
            "signal 22 (SIGTTOU) received, down logging level to 6",
        ]


def test_log_level_stays_between_0_and_11(redis):
    with NutproxyServer(pool("alpha", [redis]), "-v", "1") as proxy:
        for number in range(1, 4):
            os.kill(proxy.pid, signal.SIGTTOU)
            wait_until(
                lambda number=number: len(messages(proxy, "SIGTTOU")) == number, "the next line"
            )
        assert messages(proxy, "") == ["signal 22 (SIGTTOU) received, down logging level to 0"] * 3
        for number in range(1, 13):
            os.kill(proxy.pid, signal.SIGTTIN)
            wait_until(
                lambda number=number: len(messages(proxy, "SIGTTIN")) == number, "the next line"
            )
        assert (
            messages(proxy, "SIGTTIN")[-2:]
            == ["signal 21 (SIGTTIN) received, up logging level to 11"] * 2
        )


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_reserved_signals_say_so_and_change_nothing(redis, number):
    with (
        NutproxyServer(pool("alpha", [redis]), "-v", "0") as proxy,
        Client(proxy.port) as client,
    ):
        os.kill(proxy.pid, number)
        wait_until(lambda: proxy.output, "the log line")
        assert messages(proxy, "") == [
            f"signal {number:d} ({number.name}) received, it is reserved and does nothing"
        ]
        assert client("PING") == b"PONG"


def test_sigpipe_and_sighup_change_nothing(redis):
    with (
        NutproxyServer(pool("alpha", [redis])) as proxy,
        Client(proxy.port) as client,
    ):
        os.kill(proxy.pid, signal.SIGPIPE)
        os.kill(proxy.pid, signal.SIGHUP)
        wait_until(lambda: messages(proxy, "SIGHUP"), "the log line")
        assert messages(proxy, "signal") == ["signal 1 (SIGHUP) received, reopening log file"]
        assert client("PING") == b"PONG"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_during_the_shutdown_do_not_change_its_result(redis, number):
    """They arrive at every stage of the shutdown: in the loop, while everything is closed, and
    while the interpreter ends."""
    for _ in range(5):
        with NutproxyServer(pool("alpha", [redis])) as proxy:
            while proxy.process.poll() is None:
                proxy.process.send_signal(number)
                proxy.process.send_signal(signal.SIGHUP)
            assert proxy.process.returncode == 0
            assert "Traceback" not in proxy.output
            assert "Exception ignored" not in proxy.output
            assert len(messages(proxy, "drained")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_ends_it_without_a_traceback(redis, tmp_path, number):
    """Before nutproxy has installed its handlers, the signal ends it. Later it ends with exit code
    0."""
    file = tmp_path / "proxy.yml"
    file.write_text(
        pool("alpha", [redis]).replace("listen: auto", f"listen: {tmp_path}/alpha.sock")
    )
    command = [sys.executable, "-X", "importtime", "-m", "nutproxy", "-s", "0", "-c", str(file)]
    for count in (1, 50, 100, 200, 300, 400):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # Each line is an imported module. The imports of the command itself begin with `signal`.
        lines = iter(process.stderr.readline, "")
        next(line for line in lines if line.split()[-1] == "signal")
        for line in lines:
            count -= 1
            if count == 0 or "alpha" in line:
                break
        process.send_signal(number)
        rest = process.communicate(timeout=20)[1]
        assert "Traceback" not in rest
        assert process.returncode in (-number, 0), rest


FATAL = [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT]


@pytest.mark.skipif(sanitize.ACTIVE, reason="the sanitizer has handlers of its own")
@pytest.mark.parametrize("number", FATAL)
def test_a_fatal_signal_of_the_master_leaves_all_stacks_on_standard_error(redis, number):
    with NutproxyServer(pool("alpha", [redis])) as proxy:
        wait_until(lambda: "listens on" in proxy.output, "the thread that writes the log")
        os.kill(proxy.pid, number)
        assert proxy.process.wait(20) == -number
        assert proxy.output.count("Fatal Python error") == 1
        assert 'nutproxy/master/main.py", line' in proxy.output
        assert proxy.output.count("hread 0x") >= 2


@pytest.mark.skipif(sanitize.ACTIVE, reason="the sanitizer has handlers of its own")
@pytest.mark.parametrize("number", FATAL)
def test_a_fatal_signal_of_a_worker_leaves_its_stack_on_standard_error(redis, number):
    with NutproxyServer(pool("alpha", [redis])) as proxy:
        os.kill(proxy.worker_pid, number)
        died = f"signal {number:d} ({number.name}); it is started again"
        wait_until(lambda: died in proxy.output, "the log line")
        assert proxy.output.count("Fatal Python error") == 1
        assert 'nutproxy/worker.py", line' in proxy.output
        # It has no other thread.
        assert proxy.output.count("hread 0x") == 1


ABORT_AT_START = """
import os, sys
from nutproxy import cli
from nutproxy.master import main
main.open_listeners = lambda pools: os.abort()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sanitize.ACTIVE, reason="the sanitizer has handlers of its own")
def test_a_fatal_signal_before_the_log_is_open_leaves_a_stack_too(redis, tmp_path):
    file = tmp_path / "proxy.yml"
    file.write_text(pool("alpha", [redis]).replace("listen: auto", "listen: 127.0.0.1:1"))
    command = [sys.executable, "-c", ABORT_AT_START, "-s", "0", "-c", str(file)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=20, check=False)
    assert ended.returncode == -signal.SIGABRT
    assert ended.stderr.startswith("Fatal Python error: Aborted")
    assert 'nutproxy/master/main.py", line' in ended.stderr


@pytest.mark.skipif(sanitize.ACTIVE, reason="the sanitizer has handlers of its own")
@pytest.mark.parametrize("rotated", ["never", "on a signal", "by the next line"])
@pytest.mark.parametrize("process", ["master", "worker"])
def test_a_fatal_signal_leaves_its_stacks_in_the_log_file(redis, tmp_path, rotated, process):
    file, old = tmp_path / "log", tmp_path / "log.1"
    with NutproxyServer(pool("alpha", [redis]), "-o", str(file)) as proxy:
        wait_until(lambda: "listens on" in file.read_text(), "the first lines")
        if rotated != "never":
            file.rename(old)
            os.kill(proxy.pid, signal.SIGHUP if rotated == "on a signal" else signal.SIGUSR1)
            wait_until(lambda: file.exists() and "received" in file.read_text(), "the new file")
        if process == "master":
            os.kill(proxy.pid, signal.SIGSEGV)
            assert proxy.process.wait(20) == -signal.SIGSEGV
        else:
            # The worker has the descriptor of the new file when it has replied to this.
            before = file.read_text().count("SIGUSR2")
            os.kill(proxy.pid, signal.SIGUSR2)
            wait_until(lambda: file.read_text().count("SIGUSR2") > before, "the next line")
            os.kill(proxy.worker_pid, signal.SIGSEGV)
            wait_until(lambda: "has died" in file.read_text(), "the end of the worker")
        assert "Fatal Python error: Segmentation fault" in file.read_text()
        assert "Fatal" not in proxy.output
        assert not old.exists() or "Fatal" not in old.read_text()
