# nutproxy/log.py: the log
"""What nutproxy says, in which form, and how often.

    log.warning("%s is down: %s", server, cause)
      │  in the loop: what it is about, whether it has been said often enough, its text
      └─ queue, bounded ─> a thread: formats, writes, opens the file again

    2026-11-21T12:03:01.123+01:00 WARNING server 's1' of pool 'alpha' is down: Connection refused
    {"time": "2026-11-21T12:03:01.123+01:00", "level": "WARNING", "message": "server 's1' ...",
     "pool": "alpha", "server": "s1"}

Connections are named by role and descriptor, as twemproxy does: `c 7` a client, `s 8` a server,
`p 6` a listener. Objects that lines are about (connections, servers, pools) are handed over as
arguments: each has an `about` of its own, from which a line gets its fields `conn`, `pool` and
`server`. Whoever has only names gives them as `extra={"about": {...}}`.

The loop never waits for a disk, and a fault of the log is never one of the proxy.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from datetime import datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import SimpleQueue
from typing import Any

from nutproxy.config.model import VERBOSE_MAX
from nutproxy.config.values import printable


class LossyLogger(logging.Logger):
    """A line that cannot be made or handed over, as when memory has run out, is lost: whoever logs
    it is in the middle of something, and goes on."""

    def _log(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            super()._log(*args, **kwargs)


log = logging.getLogger("nutproxy")
# Other modules may have asked for it before this one.
log.__class__ = LossyLogger

# What is said at every level: an operator who sends a signal is told that it has come.
ALWAYS = 100
logging.addLevelName(ALWAYS, "NOTICE")
# What an operator wants to see of a proxy that is well: syslog's level, which logging lacks.
NOTICE = 25
logging.addLevelName(NOTICE, "NOTICE")

# twemproxy's levels in logging's terms, by number; what is above them is DEBUG.
LEVELS = (
    60,
    logging.CRITICAL,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    NOTICE,
    logging.INFO,
)

# How often lines of one kind are logged in so many seconds.
BURST = 10
BURST_SECONDS = 60.0
# Kinds that are remembered for it.
BURST_KINDS = 1000
# Debug lines that wait for a disk that does not write, 1 KB each; the others have as much room
# again, so that what is wrong is not lost among them.
QUEUE_LINES = 5000
# For how long the end waits for the last lines to be written.
LAST_SECONDS = 1.0

FIELDS = ("conn", "pool", "server")


def log_level(verbose: int) -> int:
    """The least level that is logged with `-v verbose`."""
    return LEVELS[verbose] if verbose < len(LEVELS) else logging.DEBUG


def reason(error: BaseException | None) -> str:
    """The text of an error without its number."""
    return getattr(error, "strerror", None) or str(error)


def find_subject(record: logging.LogRecord) -> bool:
    """Collects what a line is about in its `about`, while the arguments are still objects."""
    about: dict[str, str] = dict(getattr(record, "about", {}))
    if isinstance(record.args, tuple):
        for argument in record.args:
            about |= getattr(argument, "about", {})
    record.about = about
    return True


class Repeats(logging.Filter):
    """Leaves out what has been said often enough: a server that fails with every request, or a
    process without descriptors, does not fill the disk. The next line of the kind tells how many
    are missing.

    A kind is a text before its arguments, about one pool and server: descriptors and causes vary
    without end. Debugging is exempt, and what somebody has asked for by a signal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[tuple[Any, ...], tuple[float, int]] = {}  # since when, how often

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno in (logging.DEBUG, ALWAYS):
            return True
        about = getattr(record, "about", {})
        kind = (record.msg, about.get("pool"), about.get("server"))
        now = time.monotonic()
        since, count = self.said.get(kind, (now, 0))
        if now - since >= BURST_SECONDS:
            if count > BURST:
                missing = f"{count - BURST} more of these in {now - since:.0f} s"
                record.msg, record.args = f"{record.getMessage()} ({missing})", ()
            since, count = now, 0
        if len(self.said) >= BURST_KINDS:
            self.said.clear()
        self.said[kind] = since, count + 1
        return count < BURST


class Handover(QueueHandler):
    """Hands a line to the thread as text: what its arguments are may change meanwhile.

    A line that has no room is left out and counted. Then no debug line is taken until the thread
    has written what waits, so that those that are missing are missing in one place.
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
        """The lines that were left out since the last time."""
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
    """ISO 8601 with milliseconds and the offset of the local time."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class TextFormatter(logging.Formatter):
    """A line for people. What servers have sent cannot break it or act on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{time_of(record)} {record.levelname} {printable(record.getMessage())}"
        if record.exc_text:
            line = "\n".join([line, *map(printable, record.exc_text.splitlines())])
        return line


class JsonFormatter(logging.Formatter):
    """A line for machines: one object."""

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


class LogHandler(logging.Handler):
    """Writes lines to a file, which it opens again when it is told to, or when it has been moved
    away or deleted; or to standard error. What cannot be written is lost; the first time, standard
    error tells why. Raises OSError where the file cannot be opened at first."""

    def __init__(self, output: str | None) -> None:
        super().__init__()
        self.writer = (
            WatchedFileHandler(output, encoding="utf-8", errors="backslashreplace")
            if output
            else logging.StreamHandler(sys.stderr)
        )
        self.writer.handleError = self.lost  # type: ignore[method-assign]
        self.losing = False

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        self.writer.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if getattr(record, "reopen", False) and isinstance(self.writer, WatchedFileHandler):
                # A file that is closed is opened by its next line, which is this one.
                self.writer.close()
            self.writer.emit(record)
        except OSError:
            # A file that cannot be opened again.
            self.lost(record)

    def lost(self, record: logging.LogRecord) -> None:
        if not self.losing:
            self.losing = True
            with contextlib.suppress(OSError):
                print(
                    f"nutproxy: cannot write the log: {reason(sys.exc_info()[1])}", file=sys.stderr
                )


class Writer(QueueListener):
    """The thread: has `handler` write what `handover` has taken, and then how many it has not."""

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
            # At every level: what is missing was wanted.
            text = f"{dropped} lines dropped: the log could not be written"
            super().handle(log.makeRecord(log.name, logging.WARNING, "", 0, text, (), None))


class Log:
    """The log of this process, from its making to `stop`: in `log_format` (text or json) to the
    file `output`, to standard error if that is None. Raises OSError.

    It begins a thread: nothing may fork afterwards.
    """

    def __init__(self, verbose: int, output: str | None, log_format: str) -> None:
        handler = LogHandler(output)
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

    def change_level(self, step: int) -> None:
        """One up or down, within twemproxy's 0 to 11."""
        self.verbose = min(max(self.verbose + step, 0), VERBOSE_MAX)
        log.setLevel(log_level(self.verbose))

    def stop(self) -> None:
        """Returns when everything is written. A disk that has stopped, or a pipe that nobody reads,
        is not waited for: then `stuck`, and the interpreter cannot end in order, which takes locks
        that the thread holds."""
        ending = threading.Thread(target=self.listener.stop, name="end of the log", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)
        self.stuck = ending.is_alive()
