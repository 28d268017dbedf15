"""nutproxy demo, run as users run it, with port 22121 free or taken."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "nutproxy", "demo"]
# redis-1 to redis-3 and nutproxy.
CHILDREN = 5


def children(directory: Path) -> list[int]:
    """The ids of the processes that run below `directory`, where a demo starts all its
    processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # The process may end meanwhile, or belong to another user.
            with contextlib.suppress(OSError):
                if os.readlink(entry / "cwd").startswith(f"{directory}/"):
                    found.append(int(entry.name))
    return found


def run_demo(
    directory: Path, command: list[str], serving: Callable[[subprocess.Popen], None] | None = None
) -> tuple[int, str]:
    """Run a demo, and return its exit code and its output. It must leave no process and no file
    behind. `serving` is called while it serves."""
    lines = []
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        for line in demo.stdout:
            lines.append(line)
            if serving is not None and line.startswith("and its log"):
                serving(demo)
    assert children(directory) == []
    assert list(directory.iterdir()) == []
    return demo.returncode, "".join(lines)


def changed(change: str, *arguments: str) -> list[str]:
    """The command for a demo that first executes `change`, a Python statement."""
    program = f"""
import signal, sys
from nutproxy import demo
{change}
sys.exit(demo.main({list(arguments)}))
"""
    return [sys.executable, "-c", program]


def test_tour_does_what_it_says_and_leaves_nothing_behind(tmp_path):
    code, output = run_demo(tmp_path, [*COMMAND, "--once"])
    assert code == 0, output
    assert "every step succeeded" in output


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_serving_demo_and_leaves_nothing_behind(tmp_path, stop):
    found = []

    def serving(demo):
        found.extend(children(tmp_path))
        demo.send_signal(stop)

    code, output = run_demo(tmp_path, COMMAND, serving)
    assert code == 0, output
    assert len(found) == CHILDREN


def test_a_signal_during_the_tour_ends_it_and_leaves_nothing_behind(tmp_path):
    stopped = changed("demo.Demo.pipeline = lambda self: signal.raise_signal(signal.SIGTERM)")
    code, output = run_demo(tmp_path, stopped)
    assert code == 128 + signal.SIGTERM, output
    assert "\n2. " in output
    assert "\n3. " not in output


def test_a_taken_port_is_reported_and_another_one_used(tmp_path):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        code, output = run_demo(tmp_path, changed(f"demo.PORT = {port}", "--once"))
    assert code == 0, output
    assert f"Port {port} is taken; nutproxy uses " in output


def test_a_port_that_is_taken_just_before_the_start_is_replaced(tmp_path):
    """Two servers are given a port that another process has taken, and have to find another one."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        change = f"""
free_port = demo.free_port
looks = []
def late(preferred=0):
    looks.append(preferred)
    return {port} if len(looks) in (1, 5) else free_port(preferred)
demo.free_port = late
"""
        code, output = run_demo(tmp_path, changed(change, "--once"))
    assert code == 0, output
    assert f"127.0.0.1:{port}" not in output
