# tests/sanitize: everything once more, with AddressSanitizer and UndefinedBehaviorSanitizer
"""python -m tests.sanitize (make asan): a copy of the tree in build/asan, compiled with both, and
in it the test suite, a short fuzz and a short soak.

A sanitized module needs an interpreter that has been linked with the sanitizers, so that they are
there before the C library is: build/asan/bin/python (launcher.c) is one, in a virtual environment
of its own with the packages of this one. What it starts by sys.executable is sanitized too;
redis-server and the like are not. Python's own allocator is off, so that every object has a block
of its own.

    build/asan/tree/       the copy, with its compiled modules
    build/asan/reports/    one file for each process that the sanitizers have something to say about

Any report is a failure, and so is a leak that one names: at the end of each nutproxy LeakSanitizer
looks for blocks that nothing points to.
"""

import os
import sys
from pathlib import Path

# Are these the sanitized modules?
ACTIVE = os.environ.get("NUTPROXY_SANITIZE", "") not in ("", "0")


def report_of(pid: int) -> str:
    """What the sanitizers have said about the process `pid`."""
    file = Path(sys.prefix, "reports", f"report.{pid}")
    return file.read_text(errors="replace") if file.exists() else ""
