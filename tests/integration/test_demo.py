"""nutproxy demo, run as its users run it."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "nutproxy", "demo"]


@pytest.fixture(autouse=True)
def one_demo_at_a_time(tmp_path_factory):
    """They all want port 22121, and one test is about that."""
    with (tmp_path_factory.getbasetemp().parent / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path)}


def assert_nothing_is_left(output: str, tmp_path: Path) -> None:
    ports = re.findall(r"^   \S+ +127\.0\.0\.1:(\d+)$", output, re.MULTILINE)
    assert len(ports) == 4
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)))
    assert list(tmp_path.iterdir()) == []


def test_tour_does_what_it_says_and_leaves_nothing_behind(tmp_path):
    demo = subprocess.run(
        [*COMMAND, "--once"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.returncode == 0, demo.stdout
    assert "every step did what it says" in demo.stdout
    assert_nothing_is_left(demo.stdout, tmp_path)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_serving_demo_and_leaves_nothing_behind(tmp_path, stop):
    with subprocess.Popen(
        COMMAND, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as demo:
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if line.startswith("and its log"):
                demo.send_signal(stop)
    output = "".join(lines)
    assert demo.returncode == 0, output
    assert_nothing_is_left(output, tmp_path)


def test_a_signal_during_the_tour_ends_it_and_leaves_nothing_behind(tmp_path):
    with subprocess.Popen(
        COMMAND, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as demo:
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if line.startswith("1. "):
                demo.send_signal(signal.SIGTERM)
    output = "".join(lines)
    assert demo.returncode == 128 + signal.SIGTERM, output
    assert_nothing_is_left(output, tmp_path)


def test_a_taken_port_is_reported_and_another_one_used(tmp_path):
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            squatter.bind(("127.0.0.1", 22121))
            squatter.listen()
        except OSError:
            # Somebody else has it, which serves as well.
            pass
        demo = subprocess.run(
            [*COMMAND, "--once"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
        )
    assert demo.returncode == 0, demo.stdout
    assert "Port 22121 is taken; nutproxy uses " in demo.stdout
