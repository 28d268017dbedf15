# bench/progress.py: how far it is
"""On a terminal, a bar with what is being measured and the time that is left; otherwise a line for
each step, so that a log shows what was measured when."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """`step` is called once for each of `total` steps, when it is done."""

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
        """Leaves the bar's line to what is printed next."""
        if self.terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
