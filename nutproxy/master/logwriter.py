# nutproxy/master/logwriter.py: writing the log
"""The lines of the master and of all workers: their format, and the thread that writes them.

    the master's own lines ──┐
    lines of the workers ────┴─> queue, bounded ─> a thread: adds the time, writes, reopens the file

    2026-11-21T12:03:01.123+01:00 WARNING server 's1' of pool 'alpha' is down: Connection refused
    {"time": "2026-11-21T12:03:01.123+01:00", "level": "WARNING", "message": "server 's1' ...",
     "pool": "alpha", "server": "s1"}

The loop of the master never waits for a disk, and a failure of the log never affects the proxy.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import SimpleQueue
from typing import Any

from nutproxy.log import QUEUE_LINES, STDERR, as_text, log, log_level, reason, set_up
from nutproxy.plain import VERBOSE_MAX, printable

# Seconds that the process waits at its end for the last lines to be written.
LAST_SECONDS = 1.0

FIELDS = ("conn", "pool", "server", "worker")


class Handover(QueueHandler):
    """Passes a line to the thread as text, because its arguments may change before it is written.

    A line that finds the queue full is dropped and counted. After that no debug line is accepted
    until the thread has caught up, so that the gap in the log is in one place.
    """

    queue: SimpleQueue[logging.LogRecord]

    def __init__(self, queue: SimpleQueue[logging.LogRecord]) -> None:
        super().__init__(queue)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        debug = record.levelno == logging.DEBUG
        room = QUEUE_LINES if debug else 2 * QUEUE_LINES
        if self.queue.qsize() >= room or (debug and self.dropped):
            self.dropped += 1
        else:
            super().enqueue(record)

    def take_dropped(self) -> int:
        """The number of lines dropped since the last call."""
        self.acquire()
        try:
            dropped, self.dropped = self.dropped, 0
        finally:
            self.release()
        return dropped

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return as_text(record)


def time_of(record: logging.LogRecord) -> str:
    """Local time in ISO 8601, with milliseconds and the UTC offset."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class TextFormatter(logging.Formatter):
    """A line for people. Text from servers is escaped, so it cannot break the line or control the
    terminal."""

    def format(self, record: logging.LogRecord) -> str:
        worker = getattr(record, "about", {}).get("worker")
        whose = "" if worker is None else f"worker {worker}: "
        line = f"{time_of(record)} {record.levelname} {whose}{printable(record.getMessage())}"
        if record.exc_text:
            line = "\n".join([line, *map(printable, record.exc_text.splitlines())])
        return line


class JsonFormatter(logging.Formatter):
    """A line for machines: one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        about = getattr(record, "about", {})
        fields = {
            "time": time_of(record),
            "level": record.levelname,
            "message": record.getMessage(),
            **{name: about[name] for name in FIELDS if name in about},
        }
        if record.exc_text:
            fields["traceback"] = record.exc_text
        return json.dumps(fields)


FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}


class LogFile(WatchedFileHandler):
    """A log file, or a FIFO with a reader: opening a FIFO without a reader fails instead of waiting
    for one. `fatal` is a descriptor of the file that stays valid when the file is reopened, which
    `opened` is told in the thread."""

    fatal = -1

    def __init__(self, path: str, opened: Callable[[], None]) -> None:
        self.opened = opened
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self.baseFilename, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OSError(error.errno, "it is a FIFO or a socket without a reader") from error
            raise
        os.set_blocking(fd, True)
        if self.fatal < 0:
            self.fatal = os.dup(fd)
        else:
            os.dup2(fd, self.fatal, inheritable=False)
            self.opened()
        return open(fd, "a", encoding=self.encoding, errors=self.errors)


class LogHandler(logging.Handler):
    """Writes lines to a file, or to standard error. The file is reopened on request, and when it
    has been moved or deleted. A line that cannot be written is lost; the first loss is reported on
    standard error. Raises OSError if the file cannot be opened at the start."""

    def __init__(self, output: str | None, opened: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.writer = LogFile(output, opened) if output else logging.StreamHandler(sys.stderr)
        self.writer.handleError = self.lost  # type: ignore[method-assign]
        self.losing = False

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        self.writer.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if getattr(record, "reopen", False) and isinstance(self.writer, LogFile):
                # A closed file is reopened by the next line, which is this one.
                self.writer.close()
            self.writer.emit(record)
        except OSError:
            # The file could not be reopened.
            self.lost(record)

    def lost(self, record: logging.LogRecord) -> None:
        if not self.losing:
            self.losing = True
            with contextlib.suppress(OSError):
                print(
                    f"nutproxy: cannot write the log: {reason(sys.exc_info()[1])}", file=sys.stderr
                )


class Writer(QueueListener):
    """The thread: passes lines from `handover` to `handler`, and reports dropped lines."""

    queue: SimpleQueue[logging.LogRecord]

    def __init__(self, handover: Handover, handler: logging.Handler) -> None:
        super().__init__(handover.queue, handler)
        self.handover = handover

    def handle(self, record: logging.LogRecord) -> None:
        super().handle(record)
        if self.queue.empty():
            self.tell_dropped()

    def stop(self) -> None:
        super().stop()
        self.tell_dropped()

    def tell_dropped(self) -> None:
        dropped = self.handover.take_dropped()
        if dropped:
            # At every level: the dropped lines had passed the level.
            text = f"{dropped} lines dropped: the log could not be written"
            super().handle(log.makeRecord(log.name, logging.WARNING, "", 0, text, (), None))


class Log:
    """The log of this process, until `stop`. `log_format` is text or json; `output` is a file, or
    None for standard error. Raises OSError if the file cannot be opened. When the thread has opened
    it again, `opened` has grown and `wake` is called.

    It starts a thread, so the process must not fork afterwards.
    """

    def __init__(
        self, verbose: int, output: str | None, log_format: str, wake: Callable[[], None]
    ) -> None:
        self.wake = wake
        self.opened = 0
        self.handler = handler = LogHandler(output, self.opened_again)
        handler.setFormatter(FORMATTERS[log_format]())
        self.handover = handover = Handover(SimpleQueue())
        self.verbose = verbose
        set_up(handover, log_level(verbose))
        self.listener = Writer(handover, handler)
        self.listener.start()
        self.stuck = False

    def opened_again(self) -> None:
        self.opened += 1
        self.wake()

    @property
    def file(self) -> int:
        """The descriptor of the log file; -1 if the log goes to standard error."""
        writer = self.handler.writer
        return writer.fatal if isinstance(writer, LogFile) else -1

    def log_fatal_signals(self) -> None:
        """From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT leave the Python stacks of all
        threads in the log before they end the process."""
        faulthandler.enable(self.file if self.file >= 0 else STDERR)

    def write(self, line: dict[str, Any], dropped: int, worker: int | None) -> None:
        """Write a line of a worker, which has applied the level and the rate limit, and `dropped`
        lines before it. `worker` is its number if there are several."""
        self.handover.dropped += dropped
        record = logging.makeLogRecord({"name": log.name, **line})
        if worker is not None:
            record.about = {**(line["about"] or {}), "worker": str(worker)}
        self.handover.handle(record)

    def change_level(self, step: int) -> None:
        """Raise or lower the level by one, within twemproxy's 0 to 11."""
        self.verbose = min(max(self.verbose + step, 0), VERBOSE_MAX)
        log.setLevel(log_level(self.verbose))

    def stop(self) -> None:
        """Wait until everything is written, at most for LAST_SECONDS. If a disk has stopped or a
        pipe is not read, give up and set `stuck`. The interpreter then cannot exit in the usual
        way, because that needs locks which the thread holds."""
        ending = threading.Thread(target=self.listener.stop, name="end of the log", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)
        self.stuck = ending.is_alive()
