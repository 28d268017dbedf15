# nutproxy/master/main.py: the process that is started
"""Opens everything that a configuration needs, and runs until a signal ends it.

    run                 limits, pid file, listening sockets, log, statistics port, supervisor
      Master            the loop: signals, and the workers (workers.py)

    SIGTERM, SIGINT     drain: answer the requests that have come, then end; the second: end at once
    SIGHUP              reopen the log file
    SIGTTIN, SIGTTOU    raise, lower the log level
    SIGUSR1, SIGUSR2    reserved

Every error of the start is reported before the first worker runs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from nutproxy import descriptors
from nutproxy.config import Config, Options, PoolConfig, Problem
from nutproxy.config.values import WORKERS_MAX
from nutproxy.io.sockets import UnixListener, listen
from nutproxy.log import ALWAYS, NOTICE, STDERR, log, reason
from nutproxy.master.logwriter import Log
from nutproxy.master.workers import Workers
from nutproxy.notify import Notifier
from nutproxy.pidfile import PidFile
from nutproxy.resolver import Resolver
from nutproxy.stats import port
from nutproxy.stats.report import Report
from nutproxy.stats.slab import Slab

END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEVEL_SIGNALS = {signal.SIGTTIN: 1, signal.SIGTTOU: -1}
RESERVED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (*END_SIGNALS, signal.SIGHUP, *LEVEL_SIGNALS, *RESERVED_SIGNALS, signal.SIGCHLD)
# Milliseconds after the end of a drain until workers that still run are killed.
GRACE = 2000
# Milliseconds that a signal about the log waits for what the workers have logged before it.
SYNC = 1000


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
        reading.close()


def ignore_signals() -> None:
    # CPython reports a signal that arrived just before its handler was removed as an unraisable
    # exception, with a traceback on standard error.
    sys.unraisablehook = report_unless_race
    for number in SIGNALS:
        # The interpreter resets Python handlers before it exits, but not SIG_IGN. A process that
        # ignores SIGCHLD cannot wait for its children.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


def report_unless_race(unraisable: sys.UnraisableHookArgs) -> None:
    if "due to race condition" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def ignore(number: int, frame: object) -> None:
    """Does nothing: the wakeup descriptor only works for signals with a Python handler."""


class Master:
    """The loop. The numbers of signals can be read from `reading`, and `wake` wakes the loop from
    another thread. `ready` is called when all workers serve."""

    def __init__(
        self,
        config: Config,
        sockets: Mapping[str, socket.socket],
        max_clients: int,
        reading: socket.socket,
        wake: Callable[[], None],
        output: Log,
        notify: Notifier,
        ready: Callable[[], None],
    ) -> None:
        self.shutdown_timeout = config.globals.shutdown_timeout
        self.sockets = sockets
        self.output = output
        self.notify = notify
        self.reading = reading
        self.resolver = Resolver(wake)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.reading, selectors.EVENT_READ, self.woken)
        self.draining = False
        self.cut = False
        self.kill_at: float | None = None
        self.opened = output.opened
        # Signals that wait until the workers have handled what came before them.
        self.waiting: list[tuple[int, int, float]] = []
        self.syncs = 0
        self.workers = Workers(
            config,
            max_clients,
            sockets,
            count_workers(config),
            output,
            self.resolver,
            self.selector,
            ready,
        )

    def run(self) -> int:
        """Until the workers have ended. Returns the exit code."""
        try:
            self.tick()
            while not self.workers.failed and not (self.draining and not self.workers.handles):
                for key, events in self.selector.select(self.next_timeout()):
                    key.data(events)
                self.tick()
        finally:
            # First, because the socket that signal numbers are written to is closed next.
            ignore_signals()
            self.workers.kill()
            self.selector.close()
        return 1 if self.workers.failed else 0

    def next_timeout(self) -> float | None:
        times = [until for _, _, until in self.waiting]
        times += [at for at in (self.kill_at, self.workers.next_time()) if at is not None]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def tick(self) -> None:
        now = time.monotonic()
        self.workers.tick(now)
        while self.waiting:
            number, sync, until = self.waiting[0]
            if now < until and not self.workers.all_synced(sync):
                break
            del self.waiting[0]
            self.act_on(number)
        if self.kill_at is not None and now >= self.kill_at:
            log.warning("workers that have not ended are killed: %d", len(self.workers.handles))
            self.workers.kill()

    def woken(self, events: int) -> None:
        for number in self.reading.recv(4096):
            if number in END_SIGNALS:
                self.end(number)
            elif number == signal.SIGCHLD:
                self.workers.reap()
            elif number in SIGNALS:
                # The lines of the workers about what came before it are written first.
                self.syncs += 1
                self.workers.tell("sync", number=self.syncs)
                self.waiting.append((number, self.syncs, time.monotonic() + SYNC / 1000))
        self.resolver.deliver()
        if self.opened != self.output.opened:
            self.opened = self.output.opened
            self.workers.tell("log_file", [self.output.file])

    def end(self, number: int) -> None:
        came = f"signal {number} ({signal.Signals(number).name}) received"
        if self.cut:
            return
        if self.draining:
            log.log(ALWAYS, "%s again, ending at once", came)
            self.cut = True
            self.workers.tell("cut")
            self.kill_at = time.monotonic() + GRACE / 1000
            return
        self.draining = True
        log.log(ALWAYS, "%s, draining for at most %d ms", came, self.shutdown_timeout)
        self.notify(STOPPING=1, STATUS="draining: answering the requests that have come")
        for sock in self.sockets.values():
            # First the file of a unix socket: until it has gone, clients can connect.
            if isinstance(sock, UnixListener):
                sock.unlink()
        self.kill_at = time.monotonic() + (self.shutdown_timeout + GRACE) / 1000
        self.workers.drain(self.shutdown_timeout)

    def act_on(self, number: int) -> None:
        """Handle a signal that does not end nutproxy. It is logged at every level."""
        came = f"signal {number} ({signal.Signals(number).name}) received"
        if number == signal.SIGHUP:
            log.log(ALWAYS, "%s, reopening log file", came, extra={"reopen": True})
        elif number in LEVEL_SIGNALS:
            step = LEVEL_SIGNALS[signal.Signals(number)]
            self.output.change_level(step)
            self.workers.tell("verbose", verbose=self.output.verbose)
            way = "up" if step > 0 else "down"
            log.log(ALWAYS, "%s, %s logging level to %d", came, way, self.output.verbose)
        else:
            log.log(ALWAYS, "%s, it is reserved and does nothing", came)


def open_log(config: Config, wake: Callable[[], None]) -> Log:
    """Open the log. Raises OSError with the file in its text."""
    path = config.globals.output
    try:
        return Log(config.globals.verbose, path, config.globals.log_format, wake)
    except OSError as error:
        text = f"cannot write the log '{path}': {reason(error)}"
        raise OSError(error.errno, text) from error


def listen_stats(options: Options) -> socket.socket | None:
    """The listening socket of the statistics port, None if it is turned off. Raises OSError."""
    return port.listen(options.stats_addr, options.stats_port) if options.stats_port else None


@contextlib.contextmanager
def stats_port(config: Config, listener: socket.socket | None, slabs: list[Slab]) -> Iterator[None]:
    """In this context `listener` serves the counters that workers keep in `slabs`."""
    if listener is None:
        yield
        return
    stats = port.StatsPort(listener, Report(slabs, config.pools).make)
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
    about the configuration to the log. `ready` is called once all pools are served."""
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
        reading, writing = stack.enter_context(signals())

        def wake() -> None:
            with contextlib.suppress(OSError):
                writing.send(b"\0")

        try:
            pid_file = None
            if options.pid_file is not None:
                pid_file = PidFile(options.pid_file)
                stack.callback(pid_file.remove)
            sockets = open_listeners(config.pools)
            stack.callback(close_all, sockets.values())
            stats_socket = listen_stats(options)
            output = open_log(config, wake)
            stack.callback(output.stop)
            output.log_fatal_signals()
            if pid_file is not None:
                pid_file.write()
        except OSError as error:
            print(f"nutproxy: {error.strerror}", file=sys.stderr)
            return 1
        notify = Notifier(os.environ.get("NOTIFY_SOCKET"))
        tell_start(config, max_clients, warnings)

        def serving() -> None:
            if options.daemonize:
                master.workers.tell("detach")
            ready()
            notify(READY=1, STATUS=f"serving {', '.join(map(where, config.pools))}")

        try:
            master = Master(config, sockets, max_clients, reading, wake, output, notify, serving)
            slabs = [place.slab for place in master.workers.places]
            with stats_port(config, stats_socket, slabs):
                code = master.run()
        except Exception:
            # In the log and not on standard error, which a daemon does not have.
            log.critical("internal error, nutproxy ends", exc_info=True)
            code = 1
    if output.stuck:
        os._exit(code)
    return code


def count_workers(config: Config) -> int:
    """`auto` is 0 in the configuration."""
    return config.globals.workers or min(len(os.sched_getaffinity(0)), WORKERS_MAX)


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
