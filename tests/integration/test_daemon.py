"""`-d`, `-p` and the supervisor's socket: how nutproxy is started, found and watched."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sanitize
from tests.client import Client
from tests.integration.conftest import pool
from tests.servers import HOST, NutproxyServer, RedisServer, free_ports, wait_until


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as redis:
        yield redis


def alive(pid):
    """Does this process exist? A zombie does not count."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Daemon:
    """A daemon that `nutproxy -d` starts in the directory `home`, with relative paths."""

    def __init__(self, home, config):
        self.home = home
        self.port = None
        text = config
        if "listen: auto" in config:
            [self.port] = free_ports(1)
            text = config.replace("listen: auto", f"listen: {HOST}:{self.port}")
        (home / "proxy.yml").write_text(text)

    def start(self, *flags):
        """Run the command, and return its exit code."""
        # Files, not pipes: run() would wait for a daemon that keeps a pipe open.
        with open(self.home / "out", "w") as out, open(self.home / "err", "w") as err:
            return subprocess.run(
                [sys.executable, "-m", "nutproxy", "-d", "-s", "0", "-c", "proxy.yml", *flags],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=60,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            ).returncode

    @property
    def errors(self):
        return (self.home / "err").read_text()

    @property
    def pid(self):
        return int((self.home / "n.pid").read_text())

    @property
    def log(self):
        return (self.home / "n.log").read_text()

    def end(self):
        """Send SIGTERM to the daemon if it runs, and wait for its end."""
        if (self.home / "n.pid").exists():
            pid = self.pid
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not alive(pid), "end of the daemon")


@pytest.fixture
def daemon(tmp_path, redis):
    daemon = Daemon(tmp_path, pool("alpha", [redis]))
    yield daemon
    daemon.end()


FILES = ("-o", "n.log", "-p", "n.pid")


def test_the_command_returns_once_the_daemon_listens(daemon):
    assert daemon.start(*FILES) == 0
    assert daemon.errors == ""
    with Client(daemon.port) as client:
        assert client("SET", "k", "v") == b"OK"
    assert daemon.pid != os.getpid()
    wait_until(lambda: "listens on" in daemon.log, "the log")


def test_a_daemon_has_no_terminal_no_standard_files_and_keeps_no_directory_busy(daemon):
    assert daemon.start(*FILES) == 0
    process = Path(f"/proc/{daemon.pid}")
    assert {os.readlink(process / "fd" / str(fd)) for fd in range(3)} == {"/dev/null"}
    assert os.readlink(process / "cwd") == "/"
    parent, _, session, terminal = (process / "stat").read_text().rpartition(")")[2].split()[1:5]
    assert int(parent) != os.getpid()
    assert int(session) not in (os.getsid(0), daemon.pid)
    assert terminal == "0"


@pytest.mark.skipif(sanitize.ACTIVE, reason="the sanitizer has handlers of its own")
def test_a_fatal_signal_leaves_its_stacks_in_the_log_of_a_daemon(daemon):
    assert daemon.start(*FILES) == 0
    pid = daemon.pid
    os.kill(pid, signal.SIGSEGV)
    wait_until(lambda: not alive(pid), "end of the daemon")
    assert "Fatal Python error: Segmentation fault" in daemon.log
    (daemon.home / "n.pid").unlink()


def test_umask_is_the_callers(daemon):
    before = os.umask(0o027)
    try:
        assert daemon.start(*FILES) == 0
    finally:
        os.umask(before)
    assert (daemon.home / "n.log").stat().st_mode & 0o777 == 0o640


def test_a_daemon_without_a_log_says_so(daemon):
    assert daemon.start("-p", "n.pid") == 0
    assert daemon.errors == (
        "nutproxy: warning: a daemon without a log file has no log; set one with -o FILE\n"
    )


def test_warnings_about_the_configuration_reach_the_terminal_and_the_log(tmp_path, redis):
    daemon = Daemon(tmp_path, pool("alpha", [redis], server_connections=17))
    try:
        assert daemon.start(*FILES) == 0
        assert daemon.errors.startswith("proxy.yml:7: pool 'alpha': server_connections: warning: ")
        wait_until(lambda: f"WARNING {daemon.errors}" in daemon.log, "the same line")
    finally:
        daemon.end()


def test_a_port_in_use_reaches_the_terminal_and_the_exit_code(daemon):
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, daemon.port))
        holder.listen()
        assert daemon.start(*FILES) == 1
    assert daemon.errors == (
        f"nutproxy: pool 'alpha': cannot listen on {HOST}:{daemon.port}: Address already in use\n"
    )
    assert not (daemon.home / "n.pid").exists()


def test_a_bad_configuration_reaches_the_terminal_and_the_exit_code(tmp_path):
    daemon = Daemon(tmp_path, "alpha:\n  listen: nowhere\n")
    assert daemon.start(*FILES) == 1
    assert "proxy.yml:2: pool 'alpha': listen: 'nowhere' is not an address" in daemon.errors


@pytest.mark.parametrize(
    ("serve", "code", "error"),
    [
        ("os._exit(9)", 1, "nutproxy: the daemon ended before it was listening\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("3", 3, ""),
        ("ready() or 3", 0, ""),
    ],
)
def test_exit_code_is_what_the_daemon_reports_or_1_if_it_dies(tmp_path, serve, code, error):
    """Only errors before the daemon is ready can be reported."""
    script = (
        "import os, sys\n"
        "from nutproxy.daemon import daemonize\n"
        f"sys.exit(daemonize(lambda ready: {serve}))\n"
    )
    # With pipes, run() also waits until the daemon has closed them.
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert answer.returncode == code
    assert error in answer.stderr
    assert bool(answer.stderr) == bool(error)


def test_a_fifo_needs_a_reader_to_be_used_as_the_log(daemon):
    path = daemon.home / "fifo"
    os.mkfifo(path)
    assert daemon.start("-o", "fifo") == 1
    assert daemon.errors == (
        f"nutproxy: cannot write the log '{path}': it is a FIFO or a socket without a reader\n"
    )
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert daemon.start("-o", "fifo", "-p", "n.pid") == 0
        os.set_blocking(reader, True)
        wait_until(lambda: b"listens on" in os.read(reader, 65536), "the log")
    finally:
        os.close(reader)


def test_a_log_that_cannot_be_written_reaches_the_terminal_and_the_exit_code(daemon):
    assert daemon.start("-o", "missing/n.log", "-p", "n.pid") == 1
    path = daemon.home / "missing" / "n.log"
    assert daemon.errors == (
        f"nutproxy: cannot write the log '{path}': No such file or directory\n"
    )
    assert not (daemon.home / "n.pid").exists()


def test_a_pid_file_that_cannot_be_written_reaches_the_terminal_and_the_exit_code(daemon):
    assert daemon.start("-p", "missing/n.pid") == 1
    path = daemon.home / "missing" / "n.pid"
    assert daemon.errors.splitlines()[-1] == (
        f"nutproxy: cannot write the pid file '{path}': No such file or directory"
    )


def test_a_daemon_reopens_its_log_by_its_relative_name(daemon):
    assert daemon.start(*FILES) == 0
    wait_until(lambda: "listens on" in daemon.log, "the log")
    (daemon.home / "n.log").rename(daemon.home / "n.log.1")
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until((daemon.home / "n.log").exists, "a new file")
    wait_until(lambda: "reopening log file" in daemon.log, "its first line")


# The pid file.


def test_a_pid_file_that_is_not_a_regular_file_is_refused_and_left_alone(daemon):
    path = daemon.home / "fifo"
    os.mkfifo(path)
    link = daemon.home / "link"
    link.symlink_to(path)
    for name in ("fifo", "link"):
        assert daemon.start("-p", name, "-o", "n.log") == 1
        assert daemon.errors == (
            f"nutproxy: cannot write the pid file '{daemon.home / name}': it is not a regular"
            " file\n"
        )
    assert path.is_fifo()
    assert link.is_symlink()


def test_pid_file_is_there_while_it_runs_and_removed_at_the_end(daemon):
    assert daemon.start(*FILES) == 0
    pid = daemon.pid
    assert alive(pid)
    os.kill(pid, signal.SIGINT)
    wait_until(lambda: not alive(pid), "end of the daemon")
    assert not (daemon.home / "n.pid").exists()


def test_a_second_process_is_refused_with_the_pid_of_the_first(daemon, redis):
    assert daemon.start(*FILES) == 0
    second = Daemon(daemon.home, pool("alpha", [redis]))
    assert second.start(*FILES) == 1
    assert daemon.errors == (
        f"nutproxy: the pid file '{daemon.home / 'n.pid'}' is held by process {daemon.pid};"
        " stop it, or give another -p\n"
    )
    assert alive(daemon.pid)


def test_a_locked_pid_file_that_is_still_empty_is_respected(daemon):
    path = daemon.home / "n.pid"
    with open(path, "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert daemon.start(*FILES) == 1
    assert f"'{path}' is held by a process that is starting;" in daemon.errors
    assert path.exists()
    path.unlink()


def test_a_stale_pid_file_is_replaced(daemon):
    # Longer than any pid, so that the rest must be truncated. The process exists: it is this test.
    (daemon.home / "n.pid").write_text(f"{os.getpid()}\n and more\n")
    assert daemon.start(*FILES) == 0
    assert (daemon.home / "n.pid").read_text() == f"{daemon.pid}\n"
    assert daemon.pid != os.getpid()


def test_a_pid_file_left_by_a_killed_process_does_not_prevent_a_start(daemon):
    assert daemon.start(*FILES) == 0
    pid = daemon.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "end of the daemon")
    assert daemon.pid == pid
    assert daemon.start(*FILES) == 0
    assert daemon.pid != pid


def test_a_pid_file_replaced_by_another_process_is_left_alone(daemon):
    assert daemon.start(*FILES) == 0
    pid, path = daemon.pid, daemon.home / "n.pid"
    path.unlink()
    path.write_text("another's")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "end of the daemon")
    assert path.read_text() == "another's"
    path.unlink()


def test_pid_file_in_the_foreground(redis, tmp_path):
    path = tmp_path / "n.pid"
    with NutproxyServer(pool("alpha", [redis]), "-p", str(path)) as proxy:
        wait_until(lambda: path.exists() and path.read_text(), "the pid")
        assert path.read_text() == f"{proxy.pid}\n"
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(20) == 0
        assert not path.exists()


# The supervisor.


class Supervised(NutproxyServer):
    """Started as systemd starts a unit of Type=notify."""

    def __init__(self, config, address):
        super().__init__(config)
        self.address = address

    def command(self):
        return ["env", f"NOTIFY_SOCKET={self.address}", *super().command()]


@pytest.mark.parametrize("abstract", [False, True])
def test_supervisor_is_notified_of_readiness_and_of_the_drain(redis, tmp_path, abstract):
    address = f"nutproxy-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + address if abstract else address)
        supervisor.settimeout(20)
        with Supervised(pool("alpha", [redis]), "@" + address if abstract else address) as proxy:
            assert supervisor.recv(4096).decode() == (
                f"READY=1\nSTATUS=serving pool 'alpha' on {HOST}:{proxy.port}"
            )
            os.kill(proxy.pid, signal.SIGTERM)
            assert supervisor.recv(4096).startswith(b"STOPPING=1\nSTATUS=draining")
            assert proxy.process.wait(20) == 0


def test_a_missing_supervisor_is_logged_and_changes_nothing(redis, tmp_path):
    with (
        Supervised(pool("alpha", [redis]), tmp_path / "nobody") as proxy,
        Client(proxy.port) as client,
    ):
        assert client("PING") == b"PONG"
        wait_until(lambda: "cannot notify the supervisor at" in proxy.output, "the log line")
