# nutproxy/log.py: the log
"""Log lines: their subject and how often they are written. The master writes them.

    log.warning("%s is down: %s", server, cause)
      │  find the subject, apply the rate limit, format the message
      └─ Forwarder ─> the control channel ─> the master: master/logwriter.py

Connections are named by role and descriptor, as in twemproxy: `c 7` is a client, `s 8` a server,
`p 6` a listener. Pass the objects that a line is about (connections, servers, pools) as arguments:
each has an `about` property, which fills the fields `conn`, `pool` and `server`. A caller that has
only the names passes them as `extra={"about": {...}}`.

A worker never waits for the master or for a disk, and a failure of the log never affects the proxy.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nutproxy.control import Channel


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
# Debug lines that may wait for a disk that does not write, or for a master that does not read,
# about 1 KB each. Other lines have as much room again, so that debug lines cannot crowd out errors.
QUEUE_LINES = 5000

# The descriptor of standard error.
STDERR = 2


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


def as_text(record: logging.LogRecord) -> logging.LogRecord:
    """The record with its message and its traceback as text, because its arguments may change
    before it is written."""
    record.msg, record.args = record.getMessage(), ()
    if record.exc_info:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
    return record


class Forwarder(logging.Handler):
    """Passes the lines of a worker to the master. A line that finds too many before it is dropped
    and counted. After that no debug line is accepted until the master has caught up, so that the
    gap in the log is in one place."""

    # What a line is made of at the other end.
    ATTRIBUTES = ("levelno", "levelname", "created", "msg", "exc_text", "about")

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        debug = record.levelno == logging.DEBUG
        waiting = len(self.channel.waiting)
        if waiting >= (QUEUE_LINES if debug else 2 * QUEUE_LINES) or (
            debug and self.dropped and waiting
        ):
            self.dropped += 1
            return
        dropped, self.dropped = self.dropped, 0
        as_text(record)
        line = {name: getattr(record, name, None) for name in self.ATTRIBUTES}
        self.channel.send("log", line=line, dropped=dropped)


def set_up(handler: logging.Handler, level: int) -> None:
    """Pass all lines to `handler`, from this level on."""
    log.handlers[:] = [handler]
    log.filters[:] = [find_subject, Repeats()]
    log.propagate = False
    log.setLevel(level)
