# nutproxy/builtin/usage.py: what nutproxy uses of the machine
"""The memory and the processor time of the master and its workers, from /proc. Clients see them as
one server, so INFO and `stats` show the sums."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    memory: int = 0  # resident bytes
    peak: int = 0  # the most that each has had, bytes
    user: float = 0.0  # seconds
    system: float = 0.0  # seconds


def usage(pids: Iterable[int]) -> Usage:
    """Of these processes together. One that has ended counts nothing. Pages that they share are
    counted for each. The times of other processes are multiples of a kernel tick (10 ms)."""
    found = [_own() if pid == os.getpid() else _other(pid) for pid in pids]
    return Usage(*map(sum, zip(*found, strict=True)))


def _own() -> Usage:
    used = resource.getrusage(resource.RUSAGE_SELF)
    memory, peak = _memory(Path("/proc/self/status"))
    return Usage(memory, peak, used.ru_utime, used.ru_stime)


def _other(pid: int) -> Usage:
    try:
        # After the name of the program, which may contain anything, comes the third field.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        memory, peak = _memory(Path(f"/proc/{pid}/status"))
    except OSError:
        return Usage()
    return Usage(memory, peak, int(fields[11]) / TICKS, int(fields[12]) / TICKS)


def _memory(path: Path) -> tuple[int, int]:
    """Resident bytes now, and at most."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024
    # A process that is about to end has none. The kernel's peak is not always up to date.
    memory = found.get("VmRSS", 0)
    return memory, max(memory, found.get("VmHWM", 0))
