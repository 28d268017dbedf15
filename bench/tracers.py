# bench/tracers.py: counts system calls and instructions with strace and valgrind
"""System calls and instructions per request.

Each is counted in two runs, and the second has three times the requests of the first. Connects and
all other costs that do not depend on the requests are the same in both, so the difference has only
the cost of requests.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench import measure
from bench.peers import PATIENCE, Ground, Peer, peer, program
from bench.rows import Count

Counts = dict[str, float]  # per request, by the name of a system call or "instructions"
PROGRAMS = {"calls": ["strace"], "instructions": ["valgrind", "callgrind_control"]}  # by kind

# Smaller counts come from timers, not from requests.
NEGLIGIBLE = 0.005


class NotPermitted(Exception):
    """This machine does not permit tracing."""


def per_request(once: Callable[[int], dict[str, int]], requests: int) -> Counts:
    few, many = once(requests), once(3 * requests)
    difference = {name: (many[name] - few.get(name, 0)) / (2 * requests) for name in many}
    return {name: calls for name, calls in difference.items() if abs(calls) >= NEGLIGIBLE}


def calls(running: Peer, count: Count, directory: Path) -> Counts:
    """System calls by name, counted by strace."""
    file = directory / "strace"

    def once(requests: int) -> dict[str, int]:
        pid = str(running.pid)
        strace = subprocess.Popen(
            [program("strace"), "-c", "-f", "-qq", "-o", str(file), "-p", pid],
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_traced(running.pid):
                if strace.poll() is not None or time.monotonic() > deadline:
                    raise NotPermitted("strace could not attach to the proxy")
                time.sleep(0.02)
            measure.generate(running, count.row, requests, directory)
        finally:
            # On SIGINT, strace writes its table and detaches from the proxy.
            strace.send_signal(signal.SIGINT)
            strace.wait()
        return parse_strace(file.read_text())

    return per_request(once, count.row.requests)


def is_traced(pid: int) -> bool:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def parse_strace(table: str) -> dict[str, int]:
    """The calls column of `strace -c`: % time, seconds, usecs/call, calls, [errors,] name."""
    row = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)
    return {name: int(calls) for calls, name in row.findall(table) if name != "total"}


def instructions(
    name: str, ground: Ground, counts: list[Count], done: Callable[[Count, Counts], None]
) -> None:
    """Instructions of the proxy in user space. One process is used for all rows, because a start
    under valgrind takes long."""
    file = ground.directory / f"callgrind.{name}"
    under = [program("valgrind"), "--tool=callgrind", "-q", f"--callgrind-out-file={file}.%p"]
    under.append("--trace-children=yes")
    with peer(name, ground, under) as running:
        if running is None:
            return
        dumped = 0

        def dump() -> int:
            """The instructions since the last dump."""
            nonlocal dumped
            command = [program("callgrind_control"), "--dump", str(running.pid)]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            dumped += 1
            written = file.with_name(f"{file.name}.{running.pid}.{dumped}")
            if not written.exists():
                raise NotPermitted(f"callgrind_control: {answer.stdout}{answer.stderr}")
            return parse_callgrind(written.read_text())

        for count in counts:
            # The first requests fill caches and free lists.
            measure.generate(running, count.row, count.row.requests, ground.directory)
            dump()

            def once(requests: int, count: Count = count) -> dict[str, int]:
                measure.generate(running, count.row, requests, ground.directory)
                return {"instructions": dump()}

            done(count, per_request(once, count.row.requests))


def parse_callgrind(dump: str) -> int:
    found = re.search(r"^totals: (\d+)$", dump, re.MULTILINE)
    if found is None:
        raise SystemExit("callgrind wrote no totals")
    return int(found[1])
