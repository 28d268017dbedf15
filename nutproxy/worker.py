# nutproxy/worker.py: one event-loop process
"""Builds a Context from a Config and runs it.

A worker gets everything that it needs as values: a checked Config, and listening sockets. It reads
no file and decides nothing about processes, so that a master can start several of them.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Mapping
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue

from nutproxy.config import Config, PoolConfig
from nutproxy.core import Context
from nutproxy.proxy import listen
from nutproxy.resolver import Resolver

log = logging.getLogger("nutproxy")

# twemproxy's levels (0 to 11) in logging's terms; what is not listed is above it.
LEVELS = {0: 60, 1: logging.CRITICAL, 2: logging.CRITICAL, 3: logging.ERROR, 4: logging.WARNING}


def log_level(verbose: int) -> int:
    """The least level that is logged with `-v verbose`."""
    return LEVELS.get(verbose, logging.INFO if verbose < 7 else logging.DEBUG)


def start_log(verbose: int, output: str | None) -> QueueListener:
    """Log to `output` (standard error if None), from a thread: the loop never waits for a disk.
    Raises OSError."""
    handler = logging.FileHandler(output) if output else logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    log.handlers[:] = [QueueHandler(queue)]
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
                reason = error.strerror or str(error)
                text = f"pool '{pool.name}': cannot listen on {pool.listen}: {reason}"
                raise OSError(error.errno, text) from error
    except OSError:
        for sock in found.values():
            sock.close()
        raise
    return found


def serve(config: Config, sockets: Mapping[str, socket.socket], mbuf_size: int) -> None:
    """Run a worker until SIGTERM or SIGINT."""
    context = Context(mbuf_size, config.path)
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)

    def wake() -> None:
        writing.send(b"\0")

    resolver = Resolver(wake)

    def woken(data: bytes) -> None:
        for number in data:
            if number in (signal.SIGTERM, signal.SIGINT):
                log.warning("signal %d (%s), stopping", number, signal.Signals(number).name)
                context.stop()
        resolver.deliver()

    context.wake_with(reading, woken)
    for pool in config.pools:
        context.add_pool(pool, sockets[pool.name], resolver.resolve)

    # The C-level handler writes the signal's number to the descriptor, which wakes the loop.
    handlers = {number: signal.signal(number, ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        context.run()
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        context.close()
        writing.close()


def ignore(number: int, frame: object) -> None:
    """A Python handler must be there for the wakeup descriptor to be written to."""


def run(config: Config, options: object = None) -> int:
    """Serve `config` in the foreground; the exit code. Refusals go to standard error."""
    memcached = [pool.name for pool in config.pools if not pool.redis]
    for name in memcached:
        print(
            f"nutproxy: pool '{name}': Memcached pools are not served by this version; "
            "a Redis pool says `redis: true`",
            file=sys.stderr,
        )
    if memcached:
        return 1
    try:
        sockets = open_listeners(config.pools)
    except OSError as error:
        print(f"nutproxy: {error.strerror}", file=sys.stderr)
        return 1
    try:
        listener = start_log(config.globals.verbose, config.globals.output)
    except OSError as error:
        print(f"nutproxy: cannot write the log: {error}", file=sys.stderr)
        return 1
    try:
        for pool in config.pools:
            log.warning(
                "pool '%s' listens on %s, %d servers", pool.name, pool.listen, len(pool.servers)
            )
        serve(config, sockets, config.globals.mbuf_size)
    finally:
        listener.stop()
    return 0
