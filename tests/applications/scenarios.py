# tests/applications/scenarios.py: runs a scenario against a server
"""A scenario finds its server's port in the environment variable REDIS_PORT or MEMCACHED_PORT. It
has passed if it exits with 0 in time. No process of it is left then."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.applications import environments

SECONDS = 100


@dataclass(frozen=True)
class Scenario:
    """`path` is its folder or file here. `pool` has settings that the pool needs, `variables` the
    settings of the application, as environment variables that the scenario reads."""

    path: str
    pool: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = {**self.pool, **self.variables}
        return " ".join([self.path, *(f"{key}={value}" for key, value in settings.items())])

    @property
    def language(self) -> str:
        return self.path.split("/")[0]

    def command(self) -> list[str | Path]:
        """Installs what the scenario needs, if necessary."""
        return environments.COMMANDS[self.language](environments.HERE / self.path)

    def run(self, port: int) -> None:
        process = subprocess.Popen(
            self.command(),
            env={
                **os.environ,
                "REDIS_PORT": str(port),
                "MEMCACHED_PORT": str(port),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": str(environments.HERE / "python"),
                **self.variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        in_time = True
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            # Its workers too: they are in the group that has the id of this process.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not in_time:
                output, _ = process.communicate()
            process.wait()
        assert in_time, f"not done after {SECONDS} s:\n{output}"
        assert process.returncode == 0, output
