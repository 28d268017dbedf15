"""Signals that nutproxy outlives. How it ends is in test_drain.py."""

import os
import signal

import pytest

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
        wait_until(lambda: proxy.output, "line about it")
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
        wait_until(lambda: messages(proxy, "SIGHUP"), "line about it")
        assert messages(proxy, "signal") == ["signal 1 (SIGHUP) received, reopening log file"]
        assert client("PING") == b"PONG"
