# bench/peers.py: starting and stopping what is compared
"""The proxies under test, each with the same two Redis servers behind it, and the floor.

Every proxy listens on two ports: behind `one` is the first server, behind `two` are both. haproxy
in TCP mode does not know keys, so its `two` is the first server as well; the echo server has no
backend.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hiredis

HOST = "127.0.0.1"
PATIENCE = 20.0
CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Peer:
    """A running proxy: its process and the ports of its two pools."""

    name: str
    process: subprocess.Popen[bytes]
    ports: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """How a peer is started, and the ports that it will listen on."""

    command: list[str]
    ports: dict[str, int]


def call(port: int, *words: str) -> object:
    """One command on a connection of its own; returns the decoded reply."""
    reader = hiredis.Reader()
    encoded = [word.encode() for word in words]
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded)
    with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        while (reply := reader.gets()) is False:
            received = connection.recv(65536)
            if not received:
                raise ConnectionError(f"port {port} closed the connection on {words[0]!r}")
            reader.feed(received)
    return reply


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not on PATH; make bench installs it")
    return path


def pinned(command: list[str], load: bool = False) -> list[str]:
    """The command on the processor of the load generator, or on that of the proxies and servers.

    Left to the scheduler, a run is in one of two states, depending on which two of load, proxy and
    server share a processor; the same proxy then costs 6 or 9 us a request. Kept apart from the
    load, a proxy always has requests waiting, which is the state that its capacity depends on.
    """
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        return command
    return [program("taskset"), "-c", str(processors[0 if load else 1]), *command]


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process, from its first answer on that port until it has been stopped."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONPATH": str(CHECKOUT)}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            pinned(command), cwd=log.parent, env=environment, stdout=output, stderr=output
        ) as process,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def redis_servers(directory: Path, keys: int) -> Iterator[list[int]]:
    """Two empty Redis servers' ports; both are given all keys, whichever a proxy will route to."""
    with contextlib.ExitStack() as stack:
        ports = [free_port(), free_port()]
        for port in ports:
            command = [program("redis-server"), "--port", str(port), "--bind", HOST]
            command += ["--save", "", "--appendonly", "no"]
            stack.enter_context(running(command, port, directory / f"redis-{port}.log"))
            pairs = [word for n in range(keys) for word in (f"key:{n:012}", "xxx")]
            if call(port, "MSET", *pairs) != b"OK":
                raise SystemExit("the keys could not be written")
        yield ports


def plan_nutproxy(directory: Path, servers: list[int]) -> Plan:
    pools, ports = twemproxy_pools(servers)
    file = directory / "nutproxy.yml"
    file.write_text(pools)
    return Plan([sys.executable, "-m", "nutproxy", "-c", str(file)], ports)


def plan_nutcracker(directory: Path, servers: list[int], mbuf_size: int = 16384) -> Plan:
    pools, ports = twemproxy_pools(servers)
    file = directory / f"nutcracker-{mbuf_size}.yml"
    file.write_text(pools)
    command = [program("nutcracker"), "-c", str(file), "-v", "4", "-m", str(mbuf_size)]
    # Its default is to offer the counters to the world on one fixed port.
    command += ["-a", HOST, "-s", str(free_port())]
    return Plan(command, ports)


def plan_nutcracker_m512(directory: Path, servers: list[int]) -> Plan:
    return plan_nutcracker(directory, servers, mbuf_size=512)


def plan_haproxy(directory: Path, servers: list[int]) -> Plan:
    port = free_port()
    file = directory / "haproxy.cfg"
    file.write_text(
        "global\n  nbthread 1\n  maxconn 2000\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"
        f"listen redis\n  bind {HOST}:{port}\n  server redis {HOST}:{servers[0]}\n"
    )
    return Plan([program("haproxy"), "-db", "-f", str(file)], {"one": port, "two": port})


def plan_echo(directory: Path, servers: list[int]) -> Plan:
    port = free_port()
    binary = directory / "echo"
    source = Path(__file__).with_name("echo.c")
    subprocess.run([program("cc"), "-O2", "-o", str(binary), str(source)], check=True)
    return Plan([str(binary), str(port)], {"one": port, "two": port})


def twemproxy_pools(servers: list[int]) -> tuple[str, dict[str, int]]:
    """Both pools in twemproxy's format, which nutproxy and nutcracker share."""
    ports = {"one": free_port(), "two": free_port()}
    pools = ""
    for (name, port), members in zip(ports.items(), (servers[:1], servers), strict=True):
        pools += f"{name}:\n  listen: {HOST}:{port}\n  hash: fnv1a_64\n  distribution: ketama\n"
        pools += "  redis: true\n  preconnect: true\n  servers:\n"
        pools += "".join(f"   - {HOST}:{server}:1\n" for server in members)
    return pools, ports


PLANS: dict[str, Callable[[Path, list[int]], Plan]] = {
    "nutproxy": plan_nutproxy,
    "nutcracker": plan_nutcracker,
    "nutcracker-m512": plan_nutcracker_m512,
    "haproxy": plan_haproxy,
    "echo": plan_echo,
}


@contextlib.contextmanager
def peer(name: str, directory: Path, servers: list[int]) -> Iterator[Peer]:
    plan = PLANS[name](directory, servers)
    log = directory / f"{name}.log"
    with running(plan.command, plan.ports["two"], log) as process:
        yield Peer(name, process, plan.ports)
