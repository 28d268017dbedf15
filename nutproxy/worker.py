# nutproxy/worker.py: one event-loop process
"""Builds a Worker from a Config and runs it.

    run                 the process: pid file, listening sockets, log, supervisor
      serve             the worker: signals and the loop, until it is drained

A worker gets everything it needs as arguments: a checked Config, listening sockets, and the log
that signals control. It reads no files and starts no processes, so that a master could start
several workers.

    SIGTERM, SIGINT     drain: answer the requests that have come, then end; the second: end at once
    SIGHUP              reopen the log file
    SIGTTIN, SIGTTOU    raise, lower the log level
    SIGUSR1, SIGUSR2    reserved
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from nutproxy import descriptors
from nutproxy.config import Config, Options, PoolConfig, Problem
from nutproxy.core import Worker
from nutproxy.io.sockets import listen
from nutproxy.log import ALWAYS, NOTICE, STDERR, Log, log, reason
from nutproxy.notify import Notifier
from nutproxy.pidfile import PidFile
from nutproxy.resolver import Resolver
from nutproxy.stats import port
from nutproxy.stats.report import Report
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab, slab_memory

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEVEL_SIGNALS = {signal.SIGTTIN: 1, signal.SIGTTOU: -1}
RESERVED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (*END_SIGNALS, signal.SIGHUP, *LEVEL_SIGNALS, *RESERVED_SIGNALS)


def open_listeners(pools: tuple[PoolConfig, ...]) -> dict[str, socket.socket]:
    """The listening sockets by the names of their pools. Raises OSError with the pool and the
    address in its text if one of them fails, and closes the others."""
    found: dict[str, socket.socket] = {}
    try:
        for pool in pools:
            try:
                found[pool.name] = listen(pool)
            except OSError as error:
                text = f"pool '{pool.name}': cannot listen on {pool.listen}: {reason(error)}"
                raise OSError(error.errno, text) from error
    except OSError:
        close_all(found.values())
        raise
    return found


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close these sockets. Those that a worker has taken over are already closed."""
    for sock in sockets:
        sock.close()


@contextlib.contextmanager
def signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket pair. Until this context ends, the number of each received signal can be read from
    the first socket, and threads write zeros to the second to wake the loop. Later signals are
    ignored: the process is about to end, and with its own exit code."""
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    # The C-level handler writes the signal's number to the descriptor.
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, ignore)
    # A write to a lost connection returns an error instead.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield reading, writing
    finally:
        ignore_signals()
        writing.close()


def ignore_signals() -> None:
    # CPython reports a signal that arrived just before its handler was removed as an unraisable
    # exception, with a traceback on standard error.
    sys.unraisablehook = report_unless_race
    for number in SIGNALS:
        # The interpreter resets Python handlers before it exits, but not SIG_IGN.
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


def report_unless_race(unraisable: sys.UnraisableHookArgs) -> None:
    if "due to race condition" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def ignore(number: int, frame: object) -> None:
    """Does nothing: the wakeup descriptor only works for signals with a Python handler."""


def act_on(
    number: int, worker: Worker, shutdown_timeout: int, output: Log, notify: Notifier
) -> None:
    """Handle a signal, in the loop. It is logged at every level."""
    came = f"signal {number} ({signal.Signals(number).name}) received"
    if number in END_SIGNALS:
        if worker.draining:
            log.log(ALWAYS, "%s again, ending at once", came)
            worker.cut()
        else:
            log.log(ALWAYS, "%s, draining for at most %d ms", came, shutdown_timeout)
            notify(STOPPING=1, STATUS="draining: answering the requests that have come")
            worker.drain(shutdown_timeout)
    elif number == signal.SIGHUP:
        log.log(ALWAYS, "%s, reopening log file", came, extra={"reopen": True})
    elif number in LEVEL_SIGNALS:
        step = LEVEL_SIGNALS[signal.Signals(number)]
        output.change_level(step)
        way = "up" if step > 0 else "down"
        log.log(ALWAYS, "%s, %s logging level to %d", came, way, output.verbose)
    else:
        log.log(ALWAYS, "%s, it is reserved and does nothing", came)


def serve(
    config: Config,
    sockets: Mapping[str, socket.socket],
    max_clients: int,
    wakeup: tuple[socket.socket, socket.socket],
    output: Log,
    notify: Notifier,
    stats_memory: int,
) -> None:
    """Run a worker until a signal ends it. `wakeup` is the pair of `signals`, `stats_memory` the
    descriptor of the memory for its counters."""
    slab = Slab(Rows.of(config.pools), stats_memory)
    keys = config.globals
    worker = Worker(keys.mbuf_size, config.path, slab, keys.coalesce)
    worker.client_room.limit = max_clients
    reading, writing = wakeup

    def wake() -> None:
        writing.send(b"\0")

    resolver = Resolver(wake)

    def woken(data: bytes) -> None:
        for number in data:
            if number:
                act_on(number, worker, config.globals.shutdown_timeout, output, notify)
        resolver.deliver()

    worker.wake_with(reading, woken)
    for pool in config.pools:
        worker.add_pool(pool, sockets[pool.name], resolver.resolve)
    try:
        worker.run()
    finally:
        # First, because the socket that signal numbers are written to is closed next.
        ignore_signals()
        worker.close()


def open_log(config: Config) -> Log:
    """Open the log. Raises OSError with the file in its text."""
    path = config.globals.output
    try:
        return Log(config.globals.verbose, path, config.globals.log_format)
    except OSError as error:
        text = f"cannot write the log '{path}': {reason(error)}"
        raise OSError(error.errno, text) from error


def listen_stats(options: Options) -> socket.socket | None:
    """The listening socket of the statistics port, None if it is turned off. Raises OSError."""
    return port.listen(options.stats_addr, options.stats_port) if options.stats_port else None


@contextlib.contextmanager
def stats_port(config: Config, listener: socket.socket | None, memory: int) -> Iterator[None]:
    """In this context `listener` serves the counters that a worker keeps in `memory`."""
    if listener is None:
        yield
        return
    stats = port.StatsPort(listener, Report(Slab(Rows.of(config.pools), memory), config.pools).make)
    stats.start()
    try:
        yield
    finally:
        stats.close()


def run(
    config: Config,
    options: Options,
    warnings: Sequence[Problem] = (),
    ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve `config` and return the exit code. Errors at the start go to standard error, `warnings`
    about the configuration to the log. `ready` is called once all pools listen."""
    faulthandler.enable(STDERR)
    open_files = descriptors.raise_limit()
    shortage = descriptors.shortage(config, open_files)
    if shortage is not None:
        print(f"nutproxy: {config.path}: {shortage}", file=sys.stderr)
        return 1
    max_clients = descriptors.room(config, open_files)
    code = 0
    with contextlib.ExitStack() as stack:
        # Before the pools listen: a process that waits for that may then send a signal.
        wakeup = stack.enter_context(signals())
        try:
            pid_file = None
            if options.pid_file is not None:
                pid_file = PidFile(options.pid_file)
                stack.callback(pid_file.remove)
            sockets = open_listeners(config.pools)
            stack.callback(close_all, sockets.values())
            stats_socket = listen_stats(options)
            output = open_log(config)
            stack.callback(output.stop)
            output.log_fatal_signals()
            if pid_file is not None:
                pid_file.write()
        except OSError as error:
            print(f"nutproxy: {error.strerror}", file=sys.stderr)
            return 1
        notify = Notifier(os.environ.get("NOTIFY_SOCKET"))
        tell_start(config, max_clients, warnings)
        memory = slab_memory(Rows.of(config.pools))
        stack.enter_context(stats_port(config, stats_socket, memory))
        ready()
        notify(READY=1, STATUS=f"serving {', '.join(map(where, config.pools))}")
        try:
            serve(config, sockets, max_clients, wakeup, output, notify, memory)
        except Exception:
            # In the log and not on standard error, which a daemon does not have.
            log.critical("internal error, nutproxy ends", exc_info=True)
            code = 1
    if output.stuck:
        os._exit(code)
    return code


def where(pool: PoolConfig) -> str:
    return f"pool '{pool.name}' on {pool.listen}"


def tell_start(config: Config, max_clients: int, warnings: Sequence[Problem]) -> None:
    for warning in warnings:
        # The text is the format string, so that the rate limit counts each warning separately.
        log.warning(str(warning), extra={"about": {"pool": warning.pool} if warning.pool else {}})
    log.log(NOTICE, "configuration file '%s'", config.path)
    for pool in config.pools:
        log.log(
            NOTICE,
            "pool '%s' listens on %s, servers: %d",
            pool.name,
            pool.listen,
            len(pool.servers),
            extra={"about": {"pool": pool.name}},
        )
    if not all(pool.client_connections for pool in config.pools):
        log.log(NOTICE, "%d clients fit in the limit on open files", max_clients)
