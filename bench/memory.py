# bench/memory.py: python -m bench --memory
"""Resident memory of a proxy in five cases that need much of it.

Each case starts a new proxy and new Redis servers, sends some requests and measures the resident
size: idle. Then it resets the kernel's high-water mark (VmHWM) with `clear_refs`, so the peak is
exact. After the case the clients disconnect. When the size has stopped changing, it is measured
again: after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import peers, placement
from bench.peers import HOST, PATIENCE, TWEMPROXIES, compiled, exchange, free_port, serving
from bench.progress import Progress
from bench.report import table
from bench.rows import KILO, LOAD, MEGA, Row, reply, request

CHURN = 1_000_000  # connections
PLACEMENT = placement.placement("shared")
PORTIONS = 20  # of the churn; after each, a server and some clients are killed

GET = Row("get", "", "redis", False, 1, tool=LOAD)
SET = dataclasses.replace(GET, is_set=True)
GET_LARGE = dataclasses.replace(GET, size=MEGA)


@dataclass
class Scene:
    """A proxy with two pools of one server each. The case uses `port`. `other` is another pool."""

    directory: Path
    proxy: subprocess.Popen[bytes]
    port: int
    other: int
    server: subprocess.Popen[bytes]
    restart: Callable[[], None]
    churn: int

    def status(self, name: str) -> int:
        """VmRSS or VmHWM in bytes."""
        for line in Path(f"/proc/{serving(self.proxy.pid)}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise SystemExit("the proxy has died")

    def settled(self) -> int:
        """Waits until the resident size has not changed for a second, and returns it."""
        size, since, end = self.status("VmRSS"), time.monotonic(), time.monotonic() + PATIENCE
        while time.monotonic() - since < 1.0 and time.monotonic() < end:
            time.sleep(0.05)
            if abs((now := self.status("VmRSS")) - size) > 64 * KILO:
                size, since = now, time.monotonic()
        return size

    def reset_peak(self) -> None:
        Path(f"/proc/{serving(self.proxy.pid)}/clear_refs").write_text("5")

    def answers(self, port: int, row: Row) -> bool:
        return exchange(port, request(row), len(reply(row))) == reply(row)


@dataclass(frozen=True)
class Measured:
    """Sizes in bytes."""

    idle: int
    peak: int
    after: int
    note: str = ""


@dataclass(frozen=True)
class Case:
    """`run` creates the load, disconnects, and returns a note or nothing. The size of the proxy is
    measured before and after it."""

    id: str
    title: str
    must: str
    run: Callable[[Scene], str]


@dataclass
class Results:
    machine: dict[str, str]
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)


def pipelined(scene: Scene) -> str:
    """The client sends all requests before it reads a reply."""
    count = 20_000
    expected = len(reply(GET)) * count
    received = exchange(scene.port, request(GET) * count, expected)
    if received != reply(GET) * count:
        raise SystemExit(f"{count} GETs have other replies than expected: {received[:100]!r}")
    return ""


def idle_clients(scene: Scene) -> str:
    with contextlib.ExitStack() as stack:
        for _ in range(10_000):
            client = stack.enter_context(socket.create_connection((HOST, scene.port), PATIENCE))
            client.sendall(request(GET))
            if client.recv(100) != reply(GET):
                raise SystemExit("a client got no reply")
        return f"with all of them idle {megabytes(scene.settled())} resident"


def slow_reader(scene: Scene) -> str:
    with socket.create_connection((HOST, scene.port), PATIENCE) as client:
        client.sendall(request(GET_LARGE) * 400)
        return f"while it read nothing {megabytes(scene.settled())} resident"


def stopped_server(scene: Scene) -> str:
    """The client sends until the proxy has accepted 1 GB, or nothing for three seconds."""
    scene.server.send_signal(signal.SIGSTOP)
    one = request(dataclasses.replace(SET, size=64 * KILO))
    sent, replies, asked, slowest = 0, 0, 0, 0.0
    with socket.create_connection((HOST, scene.port), PATIENCE) as client:
        client.setblocking(False)
        progress = time.monotonic()
        while sent < 1024 * MEGA and time.monotonic() - progress < 3.0:
            readable, writable, _ = select.select([client], [client], [], 0.1)
            if readable:
                if not (part := client.recv(1 << 20)):
                    break
                replies += part.count(b"\n")
            if writable:
                # The last request may have been sent only in part.
                sent += client.send(memoryview(one)[sent % len(one) :])
                progress = time.monotonic()
            before = time.monotonic()
            if not scene.answers(scene.other, GET):
                raise SystemExit("a request to the other pool got no reply")
            asked, slowest = asked + 1, max(slowest, time.monotonic() - before)
    scene.server.send_signal(signal.SIGCONT)
    return (
        f"took {megabytes(sent)} and gave {replies} replies; {asked} requests to another pool were"
        f" answered meanwhile, the slowest after {slowest * 1e3:.1f} ms"
    )


def churn(scene: Scene) -> str:
    """Connections of one request each, and at the same time pipelines of SETs. After each portion
    clients and the server are killed while they have outstanding requests."""
    connections = max(scene.churn // PORTIONS, 1)
    sizes = []
    for portion in range(1, PORTIONS + 1):
        connecting = load(scene, "--reconnect", "--requests", str(connections))
        setting = load(scene, *PIPELINES, "--requests", str(connections * 4))
        finish(connecting)
        finish(setting)
        # They end with an error when the server ends, or by a signal.
        doomed = [load(scene, *PIPELINES, "--seconds", "60") for _ in range(2)]
        time.sleep(0.1)
        doomed[0].kill()
        scene.restart()
        for process in doomed:
            process.kill()
            process.communicate()
        end = time.monotonic() + PATIENCE
        while not scene.answers(scene.port, GET):
            if time.monotonic() > end:
                raise SystemExit("the proxy does not use a server that has returned")
            time.sleep(0.1)
        if portion * 2 in (PORTIONS, PORTIONS * 2):
            sizes.append(scene.settled())
    first, second = sizes
    return (
        f"{connections * PORTIONS:,} connections, {PORTIONS} kills of server and clients; after the"
        f" first half {megabytes(first)} resident, after the second {megabytes(second)}:"
        f" {(second - first) / MEGA:+.2f} MB"
    )


PIPELINES = ("--command", "set", "--size", "1024", "--pipeline", "16")


def load(scene: Scene, *options: str) -> subprocess.Popen[str]:
    command = [compiled(scene.directory, "load"), "--port", str(scene.port), *options]
    with placement.on(PLACEMENT.load):
        return subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the load failed: {output}")


CASES = [
    Case("memory-pipelined", "20,000 pipelined GETs on one connection", "peak ≤ 16 MB", pipelined),
    Case("memory-idle", "10,000 clients, idle after one request each", "≤ 10 MB", idle_clients),
    Case(
        "memory-slow-reader",
        "a client asks for 400 values of 1 MB and reads nothing",
        "peak ≤ 40 MB, after ≤ 5 MB",
        slow_reader,
    ),
    Case("memory-stopped", "1 GB of SETs to a stopped server", "bounded", stopped_server),
    Case("memory-churn", "connections come and go", "second half ≤ +1 MB", churn),
]


@contextlib.contextmanager
def scene(name: str, directory: Path, churn: int) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:

        def start(port: int) -> subprocess.Popen[bytes]:
            command = peers.redis_command(port)
            log = directory / f"redis-{port}.log"
            process = stack.enter_context(peers.running(command, port, log, PLACEMENT.servers))
            peers.fill("redis", port, GET.size)
            return process

        def restart() -> None:
            found.server.kill()
            found.server.wait()
            found.server = start(servers[0])

        servers = [free_port(), free_port()]
        first, _ = [start(port) for port in servers]
        peers.fill("redis", servers[0], MEGA)
        port, other = free_port(), free_port()
        file = directory / f"{name}.yml"
        file.write_text(
            "".join(
                peers.twemproxy_pool(pool, listen, "redis", [server])
                for pool, listen, server in zip(
                    ("main", "other"), (port, other), servers, strict=True
                )
            )
        )
        log = directory / f"{name}.log"
        command = TWEMPROXIES[name](file)
        proxy = stack.enter_context(peers.running(command, port, log, PLACEMENT.proxy))
        found = Scene(directory, proxy, port, other, first, restart, churn)
        yield found


def measure(case: Case, scene: Scene) -> Measured:
    for port in (scene.port, scene.other):
        for row in (GET, SET):
            if not scene.answers(port, row):
                raise SystemExit(f"{case.id}: no reply or a wrong reply of the proxy")
    idle = scene.settled()
    scene.reset_peak()
    note = case.run(scene)
    after = scene.settled()
    return Measured(idle, scene.status("VmHWM"), after, note)


def measure_all(
    names: Sequence[str], cases: Sequence[Case], churn: int, machine: dict[str, str]
) -> Results:
    results = Results(machine)
    progress = Progress(len(names) * len(cases))
    for case in cases:
        results.measured[case.id] = {}
        for name in names:
            with (
                tempfile.TemporaryDirectory(prefix="nutproxy-bench-") as directory,
                scene(name, Path(directory), churn) as prepared,
            ):
                found = results.measured[case.id][name] = measure(case, prepared)
            peak = megabytes(found.peak - found.idle)
            progress.step(f"{case.id:20}{name:12}{peak:>12} above idle at the peak")
    progress.close()
    return results


def megabytes(size: int) -> str:
    return f"{size / MEGA:.1f} MB"


def markdown(results: Results) -> str:
    lines, notes = [], []
    for case in CASES:
        for name, found in results.measured.get(case.id, {}).items():
            sizes = (found.idle, found.peak - found.idle, found.after - found.idle)
            must = case.must if name == "nutproxy" else ""
            lines.append([case.title, name, *(f"{size / MEGA:.1f}" for size in sizes), must])
            if found.note:
                notes.append(f"- {case.title}, {name}: {found.note}.")
    head = ["case", "proxy", "idle", "peak above idle", "after, above idle", "must"]
    return "\n".join(
        [
            "# Memory\n",
            *(f"- {name}: {text}" for name, text in results.machine.items()),
            "\nResident size in MB; of the peak, and of what is left after the clients have gone,"
            " the difference to idle. How each case is made: bench/memory.py.\n",
            table(head, lines),
            "",
            *notes,
            "",
        ]
    )


def write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.md").write_text(markdown(results))
    content = json.dumps(dataclasses.asdict(results), indent=1)
    (directory / "memory.json").write_text(content + "\n")
