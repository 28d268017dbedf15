# bench/peers.py: starting and stopping what is compared
"""The proxies under test, each with the same servers behind it, and the floor.

nutproxy and nutcracker are started with the same configuration file: the pools that the chosen rows
need. haproxy in TCP mode does not know keys: it deals the client connections to the servers in
turn, each of which has all keys. predixy is measured where it is on PATH; it serves one pool, that
of two Redis servers. The echo server has no backend: it has a port for each different reply.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import placement
from bench.placement import Placement
from bench.rows import LOAD, POOLS, SPACE, Row, key, reply, request

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds; far beyond what a start under valgrind takes
CHECKOUT = Path(__file__).parent.parent
GIVEN: set[int] = set()


@dataclass(frozen=True)
class Peer:
    """A running proxy, and its port for each row, by id, that it can be measured with."""

    name: str
    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    placement: Placement


@dataclass(frozen=True)
class Plan:
    """How a peer is started, and the ports that it will listen on, by row."""

    command: list[str]
    ports: dict[str, int]


@dataclass(frozen=True)
class Ground:
    """What all peers have in common: the rows, the ports of the servers by protocol, and where
    everything runs."""

    directory: Path
    rows: Sequence[Row]
    servers: dict[str, list[int]]
    placement: Placement


def exchange(port: int, sent: bytes, expected: int) -> bytes:
    """Sends bytes on a connection of their own; returns what is received until it is `expected`
    long, or until the other side closes or says no more."""
    received = b""
    with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        # A reply that is too short is an error's: there will be no more.
        with contextlib.suppress(TimeoutError):
            while len(received) < expected and (part := connection.recv(1 << 20)):
                received += part
                connection.settimeout(2.0)
    return received


def free_port() -> int:
    """A port that is free now, and that nobody here has been given before."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not on PATH; make bench installs it")
    return path


def compiled(directory: Path, name: str) -> str:
    """bench/NAME.c, as a program in that directory."""
    binary = directory / name
    if not binary.exists():
        source = Path(__file__).with_name(f"{name}.c")
        subprocess.run([program("cc"), "-O2", "-o", str(binary), str(source)], check=True)
    return str(binary)


@contextlib.contextmanager
def running(
    command: list[str], port: int, log: Path, processors: frozenset[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """The process on these processors, from its first accept on that port until it has ended."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONPATH": str(CHECKOUT), "PYTHONHASHSEED": "0"}
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        with placement.on(processors):
            process = stack.enter_context(
                subprocess.Popen(
                    command, cwd=log.parent, env=environment, stdout=output, stderr=output
                )
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not start:\n{log.read_text()}")
                time.sleep(0.02)
            yield process
        finally:
            # One that was stopped would not see the signal.
            process.send_signal(signal.SIGCONT)
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


def redis_command(port: int) -> list[str]:
    words = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
    return [program("redis-server"), *words]


def memcached_command(port: int) -> list[str]:
    # It refuses to run as root without a word for it; the datagram port is not wanted.
    return [program("memcached"), "-p", str(port), "-l", HOST, "-U", "0", "-t", "1", "-u", "root"]


@contextlib.contextmanager
def backends(
    directory: Path, rows: Sequence[Row], processors: frozenset[int]
) -> Iterator[dict[str, list[int]]]:
    """As many servers as the rows need, by protocol, each with all keys of its rows: whichever
    server a proxy chooses has them."""
    servers: dict[str, list[int]] = {"redis": [], "memcache": []}
    with contextlib.ExitStack() as stack:
        for protocol, ports in servers.items():
            mine = [row for row in rows if row.protocol == protocol]
            for number in range(max((POOLS[row.pool].servers for row in mine), default=0)):
                ports.append(port := free_port())
                command = redis_command(port) if protocol == "redis" else memcached_command(port)
                log = directory / f"{protocol}-{port}.log"
                stack.enter_context(running(command, port, log, processors))
                for size in {row.size for row in mine if POOLS[row.pool].servers > number}:
                    fill(protocol, port, size)
        yield servers


def fill(protocol: str, port: int, size: int) -> None:
    """Writes all keys with values of that size."""
    rows = {
        "redis": Row("fill", "", "redis", True, 1, size),
        "memcache": Row("fill", "", "memcache", True, 1, size),
    }
    one, done = request(rows[protocol]), reply(rows[protocol])
    first = key(size, 0)
    with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
        for start in range(0, SPACE[size], 100):
            portion = range(start, start + 100)
            keys = (key(size, number) for number in portion)
            connection.sendall(b"".join(one.replace(first, each) for each in keys))
            received, expected = b"", done * len(portion)
            while len(received) < len(expected) and (part := connection.recv(1 << 16)):
                received += part
            if received != expected:
                raise SystemExit(f"the keys could not be written: {received[:100]!r}")


def nutproxy_command(file: Path) -> list[str]:
    return [sys.executable, "-m", "nutproxy", "-c", str(file), "-s", str(free_port())]


def nutcracker_command(file: Path, mbuf_size: int = 16384) -> list[str]:
    command = [program("nutcracker"), "-c", str(file), "-v", "4", "-m", str(mbuf_size)]
    # Its defaults are its package's log, and to offer the counters to the world on one fixed port.
    return [*command, "-o", "/dev/stderr", "-a", HOST, "-s", str(free_port())]


# What reads twemproxy's configuration: the command that starts it, given the file.
TWEMPROXIES: dict[str, Callable[[Path], list[str]]] = {
    "nutproxy": nutproxy_command,
    "nutcracker": nutcracker_command,
    "nutcracker-m512": lambda file: nutcracker_command(file, mbuf_size=512),
}


def plan_haproxy(ground: Ground) -> Plan:
    text = "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode tcp\n"
    text += "  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"
    ports = {}
    for pool in pools(ground):
        ports[pool] = free_port()
        text += f"listen {pool}\n  bind {HOST}:{ports[pool]}\n  balance roundrobin\n"
        for number, server in enumerate(members(ground, pool), start=1):
            text += f"  server s{number} {HOST}:{server}\n"
    file = ground.directory / "haproxy.cfg"
    file.write_text(text)
    return Plan([program("haproxy"), "-db", "-f", str(file)], by_row(ground, ports))


def serves(name: str, row: Row) -> bool:
    """A predixy has one pool, and each of the others all of them."""
    return name != "predixy" or row.pool == "redis"


def plan_predixy(ground: Ground) -> Plan:
    if not any(serves("predixy", row) for row in ground.rows):
        return Plan([], {})
    port = free_port()
    groups = "".join(
        f"    Group s{number} {{\n        + {HOST}:{server}\n    }}\n"
        for number, server in enumerate(members(ground, "redis"), start=1)
    )
    file = ground.directory / "predixy.conf"
    # Left alone it writes a line for each connection.
    file.write_text(
        f"Name bench\nBind {HOST}:{port}\nWorkerThreads 1\nLogNoticeSample 0\n"
        "Authority {\n    Auth {\n        Mode write\n    }\n}\n"
        "StandaloneServerPool {\n    Hash crc16\n    Distribution modula\n"
        f"    RefreshMethod fixed\n{groups}}}\n"
    )
    return Plan([program("predixy"), str(file)], by_row(ground, {"redis": port}))


def plan_echo(ground: Ground) -> Plan:
    """redis-benchmark's requests are told by their '*', which its keys and values do not contain:
    it begins with two that have another number of lines. load.c's are told by that number, since it
    takes a reply to a request that it has not sent completely for a fault."""
    taken: dict[tuple[str, str, bytes], int] = {}
    ports, words = {}, []
    for row in ground.rows:
        mark = (str(ord("\n")), str(request(row).count(b"\n")))
        if row.tool != LOAD:
            mark = (str(ord("*")), "1")
        kind = (*mark, reply(row))
        if kind not in taken:
            taken[kind] = free_port()
            file = ground.directory / f"reply-{len(taken)}"
            file.write_bytes(reply(row))
            words += [str(taken[kind]), *mark, str(file)]
        ports[row.id] = taken[kind]
    return Plan([compiled(ground.directory, "echo"), *words], ports)


def pools(ground: Ground) -> list[str]:
    return list(dict.fromkeys(row.pool for row in ground.rows))


def members(ground: Ground, pool: str) -> list[int]:
    return ground.servers[POOLS[pool].protocol][: POOLS[pool].servers]


def by_row(ground: Ground, ports: dict[str, int]) -> dict[str, int]:
    return {row.id: ports[row.pool] for row in ground.rows if row.pool in ports}


def plan_twemproxy(ground: Ground, name: str) -> Plan:
    ports = {pool: free_port() for pool in pools(ground)}
    file = ground.directory / f"{name}.yml"
    file.write_text(
        "".join(
            twemproxy_pool(pool, port, POOLS[pool].protocol, members(ground, pool))
            for pool, port in ports.items()
        )
    )
    return Plan(TWEMPROXIES[name](file), by_row(ground, ports))


def twemproxy_pool(name: str, port: int, protocol: str, servers: Sequence[int]) -> str:
    """The servers are named s1, s2, ...: a key stays on the same one whichever ports are free."""
    lines = [
        f"{name}:",
        f"  listen: {HOST}:{port}",
        "  hash: fnv1a_64",
        "  distribution: ketama",
        f"  redis: {'true' if protocol == 'redis' else 'false'}",
        "  preconnect: true",
        "  servers:",
        *(f"   - {HOST}:{server}:1 s{number}" for number, server in enumerate(servers, start=1)),
    ]
    return "\n".join(lines) + "\n"


PLANS = {"haproxy": plan_haproxy, "predixy": plan_predixy, "echo": plan_echo}
PEERS = [*TWEMPROXIES, *PLANS]


def plan(name: str, ground: Ground) -> Plan:
    return plan_twemproxy(ground, name) if name in TWEMPROXIES else PLANS[name](ground)


@contextlib.contextmanager
def peer(name: str, ground: Ground, under: Sequence[str] = ()) -> Iterator[Peer | None]:
    """The peer, running, or None if it can do none of the rows. `under` is a command that runs it,
    such as valgrind."""
    planned = plan(name, ground)
    if not planned.ports:
        yield None
        return
    log = ground.directory / f"{name}.log"
    port = next(iter(planned.ports.values()))
    with running([*under, *planned.command], port, log, ground.placement.proxy) as process:
        yield Peer(name, process, planned.ports, ground.placement)
