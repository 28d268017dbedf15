# tests/servers.py: real servers for tests
"""Processes that a test starts, stops, freezes and kills.

    with RedisServer("--requirepass", "secret") as redis:
        redis.port, redis.unix_path     where it listens
        redis.stop(); redis.cont()      SIGSTOP: connects succeed, but there are no replies
        redis.kill(); redis.restart()   SIGKILL, then the same port without the data

Leaving the block kills the process by its id and removes its directory. The kernel chooses the
ports, on the loopback. They stay reserved until the block is left, so no other process gets the
port of a server that is down. Tests wait for conditions, never for a time, and the deadline is far
longer than a loaded machine needs.
"""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hiredis

from tests import sanitize

DEADLINE = 20.0  # seconds
HOST = "127.0.0.1"


def wait_until(condition: Callable[[], object], what: str = "condition") -> None:
    """Returns when `condition()` is true. After the deadline, a TimeoutError names `what`."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not true after {DEADLINE:.0f} s")
        time.sleep(0.002)


@contextlib.contextmanager
def closed_ports(count: int) -> Iterator[list[int]]:
    """Distinct ports of the loopback that refuse connects. Meanwhile the kernel gives them to no
    other socket, neither for a bind to port 0 nor for a connect. A server that sets SO_REUSEADDR,
    as all servers do, can still listen on such a port."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(hold_port()) for _ in range(count)]
        yield [one.getsockname()[1] for one in sockets]


def hold_port() -> socket.socket:
    """A socket that is bound and never listens. It reserves its port until it is closed."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((HOST, 0))
    return holder


def free_ports(count: int) -> list[int]:
    """Distinct ports on which a server can listen. They are reserved until this process ends."""
    holders = [hold_port() for _ in range(count)]
    ports = [one.getsockname()[1] for one in holders]
    for one in holders:
        # Never closed.
        one.detach()
    return ports


def listening_ports(pid: int) -> set[int]:
    """The IPv4 TCP ports on which process `pid` listens."""
    inodes = set()
    # A descriptor or the process may disappear during the loop.
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(os.readlink(entry))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{inode}]" in inodes:
            ports.add(int(local.rpartition(":")[2], 16))
    return ports


def workers_of(pid: int) -> list[int]:
    """The worker processes of the nutproxy whose master is process `pid`, oldest first. A zombie is
    not one, nor is a child that has not executed its program yet."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = [int(child) for child in children if command_of(int(child)) != command_of(pid)]
    return [child for child in found if state_of(child) not in ("", "Z")]


def command_of(pid: int | str) -> bytes:
    """The command line of a process; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def state_of(pid: int) -> str:
    """The state of a process, as in /proc/PID/stat; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def connect(address: int | str | Path) -> socket.socket:
    """A connection to a port of the loopback, or to the path of a unix socket."""
    if isinstance(address, int):
        return socket.create_connection((HOST, address), timeout=DEADLINE)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        raise
    return connection


def pipeline(address: int | str | Path, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The replies to `commands`, which are sent on a new connection.

    Arguments are str, bytes or int. Values are bytes, errors are hiredis.ReplyError objects. Raises
    ConnectionError if the server closes before the last reply.
    """
    requests = [hiredis.pack_command(command) for command in commands]
    replies: list[Any] = []
    reader = hiredis.Reader()
    with connect(address) as connection:
        # In portions. Otherwise both directions might fill up, and both sides wait for each other.
        for start in range(0, len(requests), 200):
            portion = requests[start : start + 200]
            connection.sendall(b"".join(portion))
            while len(replies) < start + len(portion):
                received = connection.recv(65536)
                if not received:
                    raise ConnectionError(f"closed after {len(replies)} of {len(requests)} replies")
                reader.feed(received)
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
    return replies


class ServerProcess:
    """A process with its own directory. A subclass says how to start it and when it is ready.

    `choose_ports` gets its ports from `hold_ports`. `command` is called after it. `ready` is called
    until it returns true or the process has ended.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nutproxy-test-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        self.held = contextlib.ExitStack()

    def hold_ports(self, count: int) -> list[int]:
        """Distinct ports that are reserved for this server until `close`."""
        return self.held.enter_context(closed_ports(count))

    def choose_ports(self) -> None:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def __enter__(self):  # type: ignore[no-untyped-def]  # typing.Self needs Python 3.11
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError("not running")
        return self.process.pid

    @property
    def output(self) -> str:
        """The standard output and standard error so far, of all runs of the process."""
        path = self.directory / "output"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        self.choose_ports()
        if not self.spawn():
            raise RuntimeError(f"{self.command()} does not start:\n{self.output}")

    def restart(self) -> None:
        """Kills the process if it is running, and starts it again on the same ports."""
        self.kill()
        wait_until(self.spawn, f"restart of {self.command()[0]}")

    def spawn(self) -> bool:
        with open(self.directory / "output", "ab") as output:
            process = self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        wait_until(
            lambda: process.poll() is not None or self.ready(), f"start of {self.command()[0]}"
        )
        if process.poll() is None:
            return True
        self.process = None
        return False

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Stops the process with SIGSTOP. Returns when it has stopped."""
        if not self.stopped:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)
            self.stopped = True

    def cont(self) -> None:
        if self.stopped:
            os.kill(self.pid, signal.SIGCONT)
            self.stopped = False

    def kill(self) -> None:
        """Kills the process, even if it is stopped. Returns when it has ended, so its ports are
        closed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.stopped = False

    def close(self) -> None:
        self.kill()
        self.held.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisServer(ServerProcess):
    """redis-server on a TCP port and a unix socket, without persistence.

    `arguments` are passed on and override the ones below: `RedisServer("--requirepass", "x")`.
    """

    port: int

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.arguments = arguments
        self.unix_path = self.directory / "redis.sock"

    def choose_ports(self) -> None:
        [self.port] = self.hold_ports(1)

    def command(self) -> list[str]:
        return [
            "redis-server",
            *("--port", str(self.port), "--bind", HOST, "--unixsocket", str(self.unix_path)),
            *("--save", "", "--appendonly", "no", "--dir", str(self.directory)),
            *self.arguments,
        ]

    def ready(self) -> bool:
        # Redis opens its unix socket after its TCP port.
        try:
            with connect(self.unix_path) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def proxy_connections(server: RedisServer) -> list[str]:
    """The ids of a server's TCP connections. Tests themselves use its unix socket."""
    clients = pipeline(server.unix_path, [("CLIENT", "LIST")])[0].decode()
    return re.findall(r"^id=(\d+) addr=127", clients, re.MULTILINE)


class MemcachedServer(ServerProcess):
    """memcached on a TCP port or, with `unix=True`, on `unix_path`. It cannot listen on both.

    `arguments` are passed on and override the ones below: `MemcachedServer("-I", "8k")`.
    """

    port: int

    def __init__(self, *arguments: str, unix: bool = False) -> None:
        super().__init__()
        self.arguments = arguments
        self.unix = unix
        self.unix_path = self.directory / "memcached.sock"

    def choose_ports(self) -> None:
        [self.port] = self.hold_ports(1)

    @property
    def address(self) -> int | Path:
        """The address for `connect`."""
        return self.unix_path if self.unix else self.port

    def command(self) -> list[str]:
        where = ["-s", str(self.unix_path)] if self.unix else ["-p", str(self.port), "-l", HOST]
        # memcached refuses to run as root without -u.
        user = pwd.getpwuid(os.getuid()).pw_name
        # With one thread, all connections are handled in one order.
        return ["memcached", *where, "-U", "0", "-u", user, "-t", "1", *self.arguments]

    def ready(self) -> bool:
        # Do not connect before it listens.
        if not self.unix and self.port not in listening_ports(self.pid):
            return False
        try:
            with connect(self.address) as connection:
                connection.sendall(b"version\r\n")
                # The second is the reply of one with users.
                return connection.recv(100).startswith((b"VERSION ", b"CLIENT_ERROR unauth"))
        except OSError:
            return False


class ProxyServer(ServerProcess):
    """A proxy with the configuration `config`, in twemproxy's format.

    `listen: auto` in it means a free port of the loopback. `ports` has these ports by the name of
    the pool, and `stats_port` is another one. `arguments` are passed on to the program.
    """

    stats_port: int

    def __init__(self, config: str, *arguments: str) -> None:
        super().__init__()
        self.config = config
        self.arguments = arguments
        self.ports: dict[str, int] = {}

    def choose_ports(self) -> None:
        pool = ""
        autos = len(re.findall(r"listen: auto$", self.config, re.M))
        self.stats_port, *ports = self.hold_ports(1 + autos)
        taken = iter(ports)
        lines = []
        for line in self.config.splitlines():
            if line.endswith(":") and not line.startswith((" ", "#")):
                pool = line[:-1]
            elif line.strip() == "listen: auto":
                self.ports[pool] = next(taken)
                line = line.replace("auto", f"{HOST}:{self.ports[pool]}")
            lines.append(line + "\n")
        self.config_file.write_text("".join(lines))

    @property
    def config_file(self) -> Path:
        return self.directory / "proxy.yml"

    @property
    def port(self) -> int:
        """The port of the first `listen: auto`."""
        return next(iter(self.ports.values()))

    def ready(self) -> bool:
        # A connect would be counted as a client. Unless `arguments` change it, both proxies also
        # listen for readers of statistics. nutproxy opens that port last.
        ports = set(self.ports.values())
        if "-s" not in self.arguments:
            ports.add(self.stats_port)
        return ports <= listening_ports(self.pid)

    def stats_text(self) -> bytes:
        """The output of the statistics port."""
        parts = []
        with connect(self.stats_port) as connection:
            # Otherwise the proxy waits a moment for an HTTP request.
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def stats(self) -> dict[str, Any]:
        """The same, decoded."""
        return dict(json.loads(self.stats_text()))


class NutproxyServer(ProxyServer):
    """nutproxy in the foreground. Its log is `output`. `pid` is the master's."""

    @property
    def worker_pids(self) -> list[int]:
        return workers_of(self.pid)

    @property
    def worker_pid(self) -> int:
        """The process that handles the requests, if there is one worker."""
        [pid] = self.worker_pids
        return pid

    def ready(self) -> bool:
        """Also when all workers have their listening sockets: they serve a moment later."""
        ports = set(self.ports.values())
        workers = self.worker_pids if super().ready() else []
        return bool(workers) and all(ports <= listening_ports(pid) for pid in workers)

    def stop(self) -> None:
        """Stops the workers and the master."""
        if not self.stopped:
            self.stopped_workers = self.worker_pids
            for pid in self.stopped_workers:
                os.kill(pid, signal.SIGSTOP)
                wait_until(lambda pid=pid: state_of(pid) == "T", "stop of a worker")  # type: ignore[misc]
        super().stop()

    def cont(self) -> None:
        if self.stopped:
            for pid in self.stopped_workers:
                os.kill(pid, signal.SIGCONT)
        super().cont()

    def kill(self) -> None:
        """Kills the workers as well: they would end by themselves, but not at once."""
        workers = [] if self.process is None else self.worker_pids
        super().kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(state_of(pid) in ("", "Z") for pid in workers), "end of the workers")

    def close(self) -> None:
        """A sanitized nutproxy is not killed: it ends at once by itself and then looks for leaks. A
        report of a sanitizer raises an AssertionError."""
        report = ""
        if sanitize.ACTIVE and self.process is not None:
            process = self.process
            self.cont()
            pids = [process.pid, *self.worker_pids]
            process.terminate()
            process.send_signal(signal.SIGINT)
            wait_until(lambda: process.poll() is not None, "end of nutproxy")
            report = "".join(map(sanitize.report_of, pids))
        super().close()
        assert not report, report

    def log(self) -> str:
        """`output`, with a line for everything that has happened so far. A separate thread writes
        the log in order, so wait for the line about a signal sent now."""
        line = f"({signal.SIGUSR1.name})"
        before = self.output.count(line)
        os.kill(self.pid, signal.SIGUSR1)
        wait_until(lambda: self.output.count(line) > before, "the log line about SIGUSR1")
        return self.output

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "nutproxy",
            *("-c", str(self.config_file)),
            *("-a", HOST, "-s", str(self.stats_port)),
            *self.arguments,
        ]


class NutcrackerServer(ProxyServer):
    """twemproxy."""

    def command(self) -> list[str]:
        return [
            "nutcracker",
            *("-c", str(self.config_file)),
            *("-a", HOST, "-s", str(self.stats_port)),
            *self.arguments,
        ]
