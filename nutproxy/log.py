# nutproxy/log.py: the log
"""Log lines: their format, how often they are written, and the thread that writes them.

    log.warning("%s is down: %s", server, cause)
      │  in the loop: find the subject, apply the rate limit, format the message
      └─ queue, bounded ─> a thread: adds the time, writes, reopens the file

    2026-11-21T12:03:01.123+01:00 WARNING server 's1' of pool 'alpha' is down: Connection refused
    {"time": "2026-11-21T12:03:01.123+01:00", "level": "WARNING", "message": "server 's1' ...",
     "pool": "alpha", "server": "s1"}

Connections are named by role and descriptor, as in twemproxy: `c 7` is a client, `s 8` a server,
`p 6` a listener. Pass the objects that a line is about (connections, servers, pools) as arguments:
each has an `about` property, which fills the fields `conn`, `pool` and `server`. A caller that has
only the names passes them as `extra={"about": {...}}`.

The loop never waits for a disk, and a failure of the log never affects the proxy.
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
import time
from datetime import datetime
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import SimpleQueue
from typing import Any

from nutproxy.config.model import VERBOSE_MAX
from nutproxy.config.values import printable


class LossyLogger(logging.Logger):
    """Drops a line that cannot be formatted or queued, for example when memory has run out. The
    caller is in the middle of other work, which must go on."""

    def _log(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            super()._log(*args, **kwargs)


log = logging.getLogger("nutproxy")
# Another module may have created the logger first.
log.__class__ = LossyLogger

# Written at every level: an operator who sends a signal sees that it has arrived.
ALWAYS = 100
logging.addLevelName(ALWAYS, "NOTICE")
# Normal events that an operator wants to see: syslog's NOTICE, which `logging` lacks.
NOTICE = 25
logging.addLevelName(NOTICE, "NOTICE")

# twemproxy's levels by number, in the terms of `logging`. Higher numbers are DEBUG.
LEVELS = (
    60,
    logging.CRITICAL,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    NOTICE,
    logging.INFO,
)

# At most BURST lines of one kind in BURST_SECONDS.
BURST = 10
BURST_SECONDS = 60.0
# The number of kinds that are tracked.
BURST_KINDS = 1000
# Debug lines that may wait for a disk that does not write, about 1 KB each. Other lines have as
# much room again, so that debug lines cannot crowd out errors.
QUEUE_LINES = 5000
# Seconds that the process waits at its end for the last lines to be written.
LAST_SECONDS = 1.0

# The descriptor of standard error.
STDERR = 2

FIELDS = ("conn", "pool", "server")


def log_level(verbose: int) -> int:
    """The lowest level that is logged with `-v verbose`."""
    return LEVELS[verbose] if verbose < len(LEVELS) else logging.DEBUG


def reason(error: BaseException | None) -> str:
    """The text of an error, without its errno."""
    return getattr(error, "strerror", None) or str(error)


def find_subject(record: logging.LogRecord) -> bool:
    """Collects the line's subjects in `record.about`, while its arguments are still objects."""
    about: dict[str, str] = dict(getattr(record, "about", {}))
    if isinstance(record.args, tuple):
        for argument in record.args:
            about |= getattr(argument, "about", {})
    record.about = about
    return True


class Repeats(logging.Filter):
    """Limits how often one kind of line is written, so that a server that fails with every request,
    or a process without descriptors, does not fill the disk. The next line of that kind says how
    many were left out.

    A kind is a format string together with its pool and server. The arguments do not count, since
    descriptors and causes vary without end. Debug lines and replies to signals are exempt. A
    line may have a `burst` of its own, as an extra.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[tuple[Any, ...], tuple[float, int]] = {}  # first time, count

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno in (logging.DEBUG, ALWAYS):
            return True
        about = getattr(record, "about", {})
        burst = getattr(record, "burst", BURST)
        kind = (record.msg, about.get("pool"), about.get("server"))
        now = time.monotonic()
        since, count = self.said.get(kind, (now, 0))
        if now - since >= BURST_SECONDS:
            if count > burst:
                missing = f"{count - burst} more of these in {now - since:.0f} s"
                record.msg, record.args = f"{record.getMessage()} ({missing})", ()
            since, count = now, 0
        if len(self.said) >= BURST_KINDS:
            self.said.clear()
        self.said[kind] = since, count + 1
        return count < burst


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
        record.msg, record.args = record.getMessage(), ()
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        return record


def time_of(record: logging.LogRecord) -> str:
    """Local time in ISO 8601, with milliseconds and the UTC offset."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class TextFormatter(logging.Formatter):
    """A line for people. Text from servers is escaped, so it cannot break the line or control the
    terminal."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{time_of(record)} {record.levelname} {printable(record.getMessage())}"
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
    for one. `fatal` is a descriptor of the file that stays valid when the file is reopened."""

    fatal = -1

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
        return open(fd, "a", encoding=self.encoding, errors=self.errors)


class LogHandler(logging.Handler):
    """Writes lines to a file, or to standard error. The file is reopened on request, and when it
    has been moved or deleted. A line that cannot be written is lost; the first loss is reported on
    standard error. Raises OSError if the file cannot be opened at the start."""

    def __init__(self, output: str | None) -> None:
        super().__init__()
        self.writer = (
            LogFile(output, encoding="utf-8", errors="backslashreplace")
            if output
            else logging.StreamHandler(sys.stderr)
        )
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
    None for standard error. Raises OSError if the file cannot be opened.

    It starts a thread, so the process must not fork afterwards.
    """

    def __init__(self, verbose: int, output: str | None, log_format: str) -> None:
        self.handler = handler = LogHandler(output)
        handler.setFormatter(FORMATTERS[log_format]())
        handover = Handover(SimpleQueue())
        log.handlers[:] = [handover]
        log.filters[:] = [find_subject, Repeats()]
        log.propagate = False
        self.verbose = verbose
        log.setLevel(log_level(verbose))
        self.listener = Writer(handover, handler)
        self.listener.start()
        self.stuck = False

    def log_fatal_signals(self) -> None:
        """From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT leave the Python stacks of all
        threads in the log before they end the process."""
        writer = self.handler.writer
        faulthandler.enable(writer.fatal if isinstance(writer, LogFile) else STDERR)

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
