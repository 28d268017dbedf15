# bench/progress.py: the progress of a run
"""On a terminal, a bar with the last step and the remaining time. Otherwise a line for each step,
so that a log shows when each step was done."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """Call `step` after each of the `total` steps."""

    def __init__(self, total: int, stream: TextIO = sys.stderr) -> None:
        self.total = total
        self.done = 0
        self.stream = stream
        self.terminal = stream.isatty()
        self.begun = time.monotonic()

    def step(self, line: str) -> None:
        self.done = min(self.done + 1, self.total)
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + self.bar(line)[:width])
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def bar(self, line: str, width: int = 24) -> str:
        filled = width * self.done // self.total
        left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        clock = f"{int(left) // 60}:{int(left) % 60:02} left"
        share = f"{100 * self.done // self.total:3}%"
        return f"[{'#' * filled}{'.' * (width - filled)}] {share} {clock}  {line}"

    def close(self) -> None:
        """Clears the line of the bar."""
        if self.terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
