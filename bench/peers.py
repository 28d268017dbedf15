# bench/peers.py: starts and stops the programs that are compared
"""The proxies, which all have the same servers, and the echo server, which is the floor.

nutproxy and nutcracker have the same configuration file, with the pools that the chosen rows need.
nutproxy-off has it with `coalesce: off`. redis is a Redis server without a proxy.
haproxy in TCP mode does not know keys: it distributes client connections to the servers in turn,
and each server has all keys. predixy is measured if it is on PATH. It has one pool, the one of two
Redis servers. The echo server has no servers, but a port for each different reply.
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
from tests.servers import free_ports

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds; far longer than a start under valgrind
CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Peer:
    """A running proxy. `ports` has the port for each row that it can serve, by id."""

    name: str
    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    placement: Placement
    stats_port: int = 0  # of nutproxy

    @property
    def pid(self) -> int:
        """The process that handles the requests."""
        return serving(self.process.pid)


def serving(pid: int) -> int:
    """The only worker of a nutproxy whose master is process `pid`; `pid` itself for others."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if children else pid


@dataclass(frozen=True)
class Plan:
    """The command that starts a peer, and its ports by row."""

    command: list[str]
    ports: dict[str, int]
    stats_port: int = 0


@dataclass(frozen=True)
class Ground:
    """What all peers have in common: the rows, the ports of the servers by protocol, and the
    placement."""

    directory: Path
    rows: Sequence[Row]
    servers: dict[str, list[int]]
    placement: Placement


def exchange(port: int, sent: bytes, expected: int) -> bytes:
    """Sends bytes on a new connection. Returns what it receives: at least `expected` bytes, unless
    the other side closes or sends nothing for two seconds."""
    received = b""
    with socket.create_connection((HOST, port), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        # A shorter reply is an error, and no more bytes will arrive.
        with contextlib.suppress(TimeoutError):
            while len(received) < expected and (part := connection.recv(1 << 20)):
                received += part
                connection.settimeout(2.0)
    return received


def free_port() -> int:
    """A port that stays reserved until this process ends, so no other process gets it before the
    peer listens on it."""
    [port] = free_ports(1)
    return port


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not on PATH; make bench installs it")
    return path


def compiled(directory: Path, name: str) -> str:
    """bench/NAME.c, compiled into this directory."""
    binary = directory / name
    if not binary.exists():
        source = Path(__file__).with_name(f"{name}.c")
        subprocess.run([program("cc"), "-O2", "-o", str(binary), str(source)], check=True)
    return str(binary)


@contextlib.contextmanager
def running(
    command: list[str], port: int, log: Path, processors: frozenset[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a process on these processors, waits until it accepts connections on the port, and
    ends it at the end."""
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
            # A stopped process does not handle SIGTERM.
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
    # memcached refuses to run as root without -u. -U 0 switches off UDP.
    return [program("memcached"), "-p", str(port), "-l", HOST, "-U", "0", "-t", "1", "-u", "root"]


@contextlib.contextmanager
def backends(
    directory: Path, rows: Sequence[Row], processors: frozenset[int]
) -> Iterator[dict[str, list[int]]]:
    """Starts as many servers of each protocol as the rows need. Each has all keys of its rows, so
    it does not matter which server a proxy chooses."""
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
    """Writes all keys with values of this size."""
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
    # -s comes last: plan_twemproxy takes the port from there.
    return [sys.executable, "-m", "nutproxy", "-c", str(file), "-s", str(free_port())]


def nutcracker_command(file: Path, mbuf_size: int = 16384) -> list[str]:
    command = [program("nutcracker"), "-c", str(file), "-v", "4", "-m", str(mbuf_size)]
    # By default it writes to the log of its package, and its statistics port is fixed and open to
    # other machines.
    return [*command, "-o", "/dev/stderr", "-a", HOST, "-s", str(free_port())]


# The programs that read twemproxy's configuration, and the command for a file.
TWEMPROXIES: dict[str, Callable[[Path], list[str]]] = {
    "nutproxy": nutproxy_command,
    "nutproxy-off": nutproxy_command,
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
    """Whether this peer has the pool of this row, and speaks its protocol: predixy has one pool,
    the others have all, and nutcracker does not speak memcached's binary protocol."""
    if row.binary and name.startswith("nutcracker"):
        return False
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
    # By default it logs a line for each connection.
    file.write_text(
        f"Name bench\nBind {HOST}:{port}\nWorkerThreads 1\nLogNoticeSample 0\n"
        "Authority {\n    Auth {\n        Mode write\n    }\n}\n"
        "StandaloneServerPool {\n    Hash crc16\n    Distribution modula\n"
        f"    RefreshMethod fixed\n{groups}}}\n"
    )
    return Plan([program("predixy"), str(file)], by_row(ground, {"redis": port}))


def plan_echo(ground: Ground) -> Plan:
    """How the echo server counts requests. For redis-benchmark it counts '*', which no key or value
    contains: its first two requests have another number of lines. For load.c it counts lines,
    because load.c fails if a reply arrives before it has sent the whole request. In memcached's
    binary protocol it counts the first bytes of the packets."""
    taken: dict[tuple[str, str, bytes], int] = {}
    ports, words = {}, []
    for row in ground.rows:
        mark = (str(ord("\n")), str(request(row).count(b"\n")))
        if row.tool != LOAD:
            mark = (str(ord("*")), "1")
        if row.binary:
            mark = (str(0x80), str(request(row).count(b"\x80")))
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
        ("global:\n  coalesce: off\n" if name == "nutproxy-off" else "")
        + "".join(
            twemproxy_pool(pool, port, POOLS[pool].protocol, members(ground, pool))
            for pool, port in ports.items()
        )
    )
    command = TWEMPROXIES[name](file)
    stats_port = int(command[-1]) if name.startswith("nutproxy") else 0
    served = {row.id for row in ground.rows if serves(name, row)}
    mine = {id: port for id, port in by_row(ground, ports).items() if id in served}
    return Plan(command, mine, stats_port)


def twemproxy_pool(name: str, port: int, protocol: str, servers: Sequence[int]) -> str:
    """The servers have the names s1, s2, ..., so the server of a key does not depend on ports."""
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


def plan_redis(ground: Ground) -> Plan:
    """Redis itself, without a proxy, for the rows of Redis."""
    port = free_port()
    ports = {row.id: port for row in ground.rows if row.protocol == "redis"}
    return Plan(redis_command(port), ports)


PLANS = {"haproxy": plan_haproxy, "predixy": plan_predixy, "echo": plan_echo, "redis": plan_redis}
PEERS = [*TWEMPROXIES, *PLANS]


def plan(name: str, ground: Ground) -> Plan:
    return plan_twemproxy(ground, name) if name in TWEMPROXIES else PLANS[name](ground)


@contextlib.contextmanager
def peer(name: str, ground: Ground, under: Sequence[str] = ()) -> Iterator[Peer | None]:
    """Starts the peer. Yields None if it can serve none of the rows. `under` is a command that runs
    it, such as valgrind."""
    planned = plan(name, ground)
    if not planned.ports:
        yield None
        return
    log = ground.directory / f"{name}.log"
    port = next(iter(planned.ports.values()))
    place = ground.placement.servers if name == "redis" else ground.placement.proxy
    with running([*under, *planned.command], port, log, place) as process:
        if name == "redis":
            for size in {row.size for row in ground.rows if row.id in planned.ports}:
                fill("redis", port, size)
        yield Peer(name, process, planned.ports, ground.placement, planned.stats_port)
