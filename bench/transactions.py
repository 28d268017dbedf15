# bench/transactions.py: MULTI, SET, INCR and EXEC in one write
"""Processor time and system calls of a transaction, with 50 clients and two servers.

    python -m bench.transactions

A transaction has four commands, and is compared with four pipelined GETs through nutproxy and
through nutcracker, which has no transactions. All of them take turns; the medians are printed, and
the smallest and largest values. Needs strace, nutcracker, and a compiler.
"""

import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import thread_time
from bench.peers import compiled, program, serving
from bench.tracers import PROGRAMS, parse_strace, per_request
from tests.integration.conftest import pool
from tests.servers import NutcrackerServer, NutproxyServer, RedisServer, wait_until

ROUNDS = 7
REQUESTS = 40_000


def load(tool: str, port: int, kind: str, requests: int, pipeline: int = 1) -> None:
    command = [tool, "--port", str(port), "--command", kind, "--requests", str(requests)]
    subprocess.run([*command, "--pipeline", str(pipeline)], check=True, stdout=subprocess.DEVNULL)


def system_calls(pid: int, directory: Path, run: Callable[[int], None]) -> dict[str, float]:
    file = directory / "strace"

    def once(requests: int) -> dict[str, int]:
        command = [program(*PROGRAMS["calls"]), "-c", "-f", "-qq", "-o", str(file), "-p", str(pid)]
        strace = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: "TracerPid:\t0\n" not in status.read_text(), "strace")
        run(requests)
        strace.terminate()
        strace.wait()
        return parse_strace(file.read_text())

    return per_request(once, 10_000)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        RedisServer() as one,
        RedisServer() as two,
    ):
        tool = compiled(Path(directory), "load")
        config = pool("alpha", [one, two])  # type: ignore[no-untyped-call]
        with NutproxyServer(config) as nutproxy, NutcrackerServer(config) as nutcracker:
            kinds = {
                "nutproxy, a transaction": (nutproxy, "multi", 1, 1),
                "nutproxy, four GETs": (nutproxy, "get", 4, 4),
                "nutcracker, four GETs": (nutcracker, "get", 4, 4),
            }
            costs: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(ROUNDS):
                for kind, (proxy, command, times, pipeline) in kinds.items():
                    if command == "get":
                        # The same keys: they are drawn from the same seed.
                        load(tool, nutproxy.port, "set", times * REQUESTS, 16)
                    before = thread_time(serving(proxy.pid))
                    load(tool, proxy.port, command, times * REQUESTS, pipeline)
                    costs[kind].append((thread_time(serving(proxy.pid)) - before) / 1e3 / REQUESTS)
            for kind, found in costs.items():
                print(
                    f"{kind}: {statistics.median(found):.2f} us"
                    f" ({min(found):.2f} to {max(found):.2f})"
                )
            calls = system_calls(
                serving(nutproxy.pid),
                Path(directory),
                lambda n: load(tool, nutproxy.port, "multi", n),
            )
            print(
                f"system calls of a transaction: {sum(calls.values()):.2f} ("
                + ", ".join(f"{name} {count:.2f}" for name, count in calls.items())
                + ")"
            )


main()
