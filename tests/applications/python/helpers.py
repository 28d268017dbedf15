# tests/applications/python/helpers.py: what the scenarios in Python share
"""The scenario's server is on 127.0.0.1 at `PORT`. `background` runs a worker."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

PORT = int(os.environ["REDIS_PORT"])
URL = f"redis://127.0.0.1:{PORT}/0"
DATABASE_1 = f"redis://127.0.0.1:{PORT}/1"
DEADLINE = 40  # seconds, far longer than a loaded machine needs


def wait_until(condition, what):
    """Returns the first value of `condition()` that is true. After the deadline, a TimeoutError
    names `what`."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not true after {DEADLINE} s")
        time.sleep(0.01)
    return value


@contextlib.contextmanager
def background(*command):
    """Runs a program of the scenario's environment in the scenario's folder, until the block is
    left."""
    here = Path(sys.argv[0]).parent
    with subprocess.Popen([sys.executable, *command], cwd=here) as process:
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
