# tests/sanitize: all tests with AddressSanitizer and UndefinedBehaviorSanitizer
"""python -m tests.sanitize (make asan) copies the tree to build/asan, compiles the copy with both
sanitizers, and runs the tests, a short fuzz and a short soak there.

Sanitized modules need an interpreter that is linked with the sanitizers, because these must be
loaded before the C library. This interpreter is build/asan/bin/python, built from launcher.c. It
has its own virtual environment with the packages of the current one. Processes that it starts with
sys.executable are sanitized too; redis-server and other programs are not. Python's allocator is
switched off, so that every object is a separate block.

    build/asan/tree/       the copy with its compiled modules
    build/asan/reports/    one file for each process for which there is a report

Any report is a failure. That includes leaks: whenever a nutproxy ends, LeakSanitizer reports blocks
that are not referenced any more.
"""

import os
import sys
from pathlib import Path

# Whether the modules in use are sanitized.
ACTIVE = os.environ.get("NUTPROXY_SANITIZE", "") not in ("", "0")


def report_of(pid: int) -> str:
    """The report of the sanitizers on the process `pid`."""
    file = Path(sys.prefix, "reports", f"report.{pid}")
    return file.read_text(errors="replace") if file.exists() else ""
