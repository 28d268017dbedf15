# nutproxy/worker.py: one event-loop process
"""Builds a Context from a Config and runs it.

A worker gets everything that it needs as values: a checked Config, and listening sockets. It reads
no file and decides nothing about processes, so that a master can start several of them.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import SimpleQueue

from nutproxy import descriptors
from nutproxy.config import Config, PoolConfig
from nutproxy.core import Context
from nutproxy.proxy import listen
from nutproxy.resolver import Resolver

log = logging.getLogger("nutproxy")

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

# How often the same line is logged in so many seconds.
BURST = 10
BURST_SECONDS = 60.0
# Different lines that are remembered for it.
BURST_LINES = 1000

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def log_level(verbose: int) -> int:
    """The least level that is logged with `-v verbose`."""
    return LEVELS[verbose] if verbose < len(LEVELS) else logging.DEBUG


class Repeats(logging.Filter):
    """Leaves out what has been said often enough: a server that fails with every request, or a
    process without descriptors, does not fill the disk. The next line of the kind tells how many
    are missing."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, tuple[float, int]] = {}  # since when, how often

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        now = time.monotonic()
        since, count = self.said.get(text, (now, 0))
        if now - since >= BURST_SECONDS:
            if count > BURST:
                record.msg = f"{text} ({count - BURST} more of these in {now - since:.0f} s)"
                record.args = ()
            since, count = now, 0
        if len(self.said) >= BURST_LINES:
            self.said.clear()
        self.said[text] = since, count + 1
        return count < BURST


class LogHandler(logging.Handler):
    """Writes lines to a file, which it opens again when it has been moved away or deleted, or to
    standard error. What cannot be written is lost; the first time, standard error tells why."""

    def __init__(self, output: str | None) -> None:
        super().__init__()
        self.writer = WatchedFileHandler(output) if output else logging.StreamHandler(sys.stderr)
        self.writer.handleError = self.lost  # type: ignore[method-assign]
        self.losing = False

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        self.writer.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        try:
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


def reason(error: BaseException | None) -> str:
    """The text of an error without its number."""
    return getattr(error, "strerror", None) or str(error)


def start_log(verbose: int, output: str | None) -> QueueListener:
    """Log to `output` (standard error if None), from a thread: the loop never waits for a disk.
    Raises OSError."""
    handler = LogHandler(output)
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    log.handlers[:] = [QueueHandler(queue)]
    log.filters[:] = [Repeats()]
    log.setLevel(log_level(verbose))
    log.propagate = False
    listener = QueueListener(queue, handler)
    listener.start()
    return listener


def open_listeners(pools: tuple[PoolConfig, ...]) -> dict[str, socket.socket]:
    """The listening socket of every pool, by its name; all of them or none. Raises OSError with the
    pool and the address in its text."""
    found: dict[str, socket.socket] = {}
    try:
        for pool in pools:
            try:
                found[pool.name] = listen(pool)
            except OSError as error:
                text = f"pool '{pool.name}': cannot listen on {pool.listen}: {reason(error)}"
                raise OSError(error.errno, text) from error
    except OSError:
        for sock in found.values():
            sock.close()
        raise
    return found


@contextlib.contextmanager
def signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket pair: the number of each signal that comes meanwhile can be read from the first, and
    threads write zeros to the second to wake the loop. SIGHUP is among them, so that it does not
    end the process: twemproxy's users send it when they have rotated the log."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    # The C-level handler writes the signal's number to the descriptor.
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, ignore) for number in (*END_SIGNALS, signal.SIGHUP)}
    try:
        yield reading, writing
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        writing.close()


def ignore(number: int, frame: object) -> None:
    """A Python handler must be there for the wakeup descriptor to be written to."""


def serve(
    config: Config,
    sockets: Mapping[str, socket.socket],
    max_clients: int,
    wakeup: tuple[socket.socket, socket.socket],
) -> None:
    """Run a worker until SIGTERM or SIGINT; `wakeup` is the pair of `signals`."""
    context = Context(config.globals.mbuf_size, config.path)
    context.max_clients = max_clients
    reading, writing = wakeup

    def wake() -> None:
        writing.send(b"\0")

    resolver = Resolver(wake)

    def woken(data: bytes) -> None:
        for number in data:
            if number in END_SIGNALS:
                log.log(NOTICE, "signal %d (%s), stopping", number, signal.Signals(number).name)
                context.stop()
            elif number == signal.SIGHUP:
                # The line itself opens the file again when it was moved away.
                log.log(NOTICE, "signal %d (SIGHUP), reopening log file", number)
        resolver.deliver()

    context.wake_with(reading, woken)
    for pool in config.pools:
        context.add_pool(pool, sockets[pool.name], resolver.resolve)
    try:
        context.run()
    finally:
        context.close()


def run(config: Config, options: object = None) -> int:
    """Serve `config` in the foreground; the exit code. Refusals go to standard error."""
    open_files = descriptors.raise_limit()
    shortage = descriptors.shortage(config, open_files)
    if shortage is not None:
        print(f"nutproxy: {config.path}: {shortage}", file=sys.stderr)
        return 1
    # Before the first client can come, and whoever waits for that can send a signal.
    with signals() as wakeup:
        return listen_and_serve(config, descriptors.room(config, open_files), wakeup)


def listen_and_serve(
    config: Config, max_clients: int, wakeup: tuple[socket.socket, socket.socket]
) -> int:
    try:
        sockets = open_listeners(config.pools)
    except OSError as error:
        print(f"nutproxy: {error.strerror}", file=sys.stderr)
        return 1
    try:
        listener = start_log(config.globals.verbose, config.globals.output)
    except OSError as error:
        path = config.globals.output
        print(f"nutproxy: cannot write the log '{path}': {reason(error)}", file=sys.stderr)
        return 1
    try:
        for pool in config.pools:
            log.log(
                NOTICE,
                "pool '%s' listens on %s, servers: %d",
                pool.name,
                pool.listen,
                len(pool.servers),
            )
        if not all(pool.client_connections for pool in config.pools):
            log.log(NOTICE, "%d clients fit in the limit on open files", max_clients)
        serve(config, sockets, max_clients, wakeup)
    finally:
        listener.stop()
    return 0
