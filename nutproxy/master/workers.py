# nutproxy/master/workers.py: the workers, seen from the master
"""Starts the workers, starts them again when they have died, and serves them: the lines of their
log, and names to look up.

    Workers ── Place 0 ── the memory of its counters, which survives the process
       │         └─────── Handle ── control channel ── worker process
       ├────── Place 1 …
       └────── shared by all: listening sockets, configuration

A worker process is started by exec, so it has only the memory and the descriptors that it needs.

    dies                  is started again: at once, then after 1, 2, 4 … 30 s, until one has been
                          ready for STEADY seconds. The listening sockets stay open, so clients wait
    dies before it is ready, FAILURES times in a row    nutproxy ends
    makes no turn for worker_timeout    SIGABRT, which writes its stacks to the log, then SIGKILL
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutproxy import entry
from nutproxy.config import Config
from nutproxy.control import Channel, Received, close_all
from nutproxy.log import NOTICE, log
from nutproxy.master.logwriter import Log
from nutproxy.plain import pack
from nutproxy.resolver import Answer, Resolver
from nutproxy.stats.board import PLACES_MIN, Board, board_memory
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab, slab_memory


def module_path() -> str:
    """Where a worker finds the same modules. Relative entries would change their meaning in a
    daemon, which changes its directory. An editable installation finds nutproxy without sys.path,
    by code that a worker does not run."""
    places = [os.path.abspath(place) for place in sys.path]
    root = str(Path(entry.__file__).absolute().parents[1])
    return os.pathsep.join(places if root in places else [*places, root])


PATH = module_path()
COMMAND = [sys.executable, "-S", "-s", str(Path(entry.__file__).absolute())]
# The descriptor of the control channel in a worker: the first one after the standard ones.
CHANNEL = 3
# Listening sockets that are sent in one message.
PER_MESSAGE = 100
# Blocked in a worker until it ignores them.
BLOCKED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Seconds until a worker that has died is started again; later ones are as the last.
DELAYS = (0, 1, 2, 4, 8, 16, 30)
STEADY = 60.0
FAILURES = 3
# Seconds between two looks at the turns of the workers, and the most that one look counts for: the
# master itself may have been stopped.
LOOK = 1.0
LOOK_MOST = 2.0
# Seconds until a worker that does not answer the question of another one is left out.
INQUIRY = 1.0
# Seconds that a worker has for writing its stacks.
STACKS = 1.0


class Handle:
    """A worker process, from its start to its end."""

    def __init__(self, number: int) -> None:
        self.number = number
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.posix_spawn(
                COMMAND[0],
                [*COMMAND, str(CHANNEL)],
                {**os.environ, entry.PATH: PATH},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL)],
                setsigmask=BLOCKED,
            )
        self.channel = Channel(ours)
        self.code: int | None = None
        self.ready_since: float | None = None
        self.synced = 0
        # What `beat` of its counters said, and how long it has said that.
        self.beat = -1
        self.silent = 0.0
        self.kill_at: float | None = None

    def ended(self) -> bool:
        """Whether the process has ended. Its exit code is in `code` then."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def signal(self, number: int) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass
class Inquiry:
    """A question of a worker to the others."""

    asker: Handle
    number: int  # the asker's
    waits_for: set[Handle | None]
    answers: list[str]
    until: float  # later answers are not waited for


def fileno(sock: socket.socket) -> int:
    return sock.fileno()


class Place:
    """Worker `number`, whichever process it is."""

    def __init__(self, number: int, rows: Rows) -> None:
        self.number = number
        self.memories = [slab_memory(rows), slab_memory(rows)]
        self.slab = Slab(rows, *self.memories)
        # Clients that other workers have accepted. The master keeps both ends, so that a client on
        # its way survives the death of a worker: the next one takes it.
        self.inbox, self.entrance = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.inbox.setblocking(False)
        self.entrance.setblocking(False)
        self.handle: Handle | None = None
        self.deaths = 0  # since one was steady
        self.start_at: float | None = 0.0


class Workers:
    """The workers of a configuration, in the loop of the master, which calls `reap` after SIGCHLD
    and `tick` in every turn. `ready` is called once, when all serve."""

    def __init__(
        self,
        config: Config,
        max_clients: int,
        sockets: Mapping[str, socket.socket],
        count: int,
        output: Log,
        resolver: Resolver,
        selector: selectors.BaseSelector,
        ready: Callable[[], None],
    ) -> None:
        self.packed = pack(config)
        self.timeout = config.globals.worker_timeout / 1000
        self.max_clients = max_clients
        self.sockets = dict(sockets)
        self.output = output
        self.resolver = resolver
        self.selector = selector
        self.ready: Callable[[], None] | None = ready
        self.rows = Rows.of(config.pools)
        self.places = [Place(number, self.rows) for number in range(count)]
        room = max(2 * len(config.pools), PLACES_MIN)
        self.board_memory = board_memory(room, count)
        self.board = Board(room, count, 0, self.board_memory)
        self.started = self.looked = time.monotonic()
        self.ending = False
        self.inquiries: dict[int, Inquiry] = {}
        self.inquiry = 0
        self.failures = 0  # workers in a row that have ended before they were ready

    @property
    def handles(self) -> list[Handle]:
        return [place.handle for place in self.places if place.handle is not None]

    @property
    def failed(self) -> bool:
        return self.failures >= FAILURES

    # The life of a worker.

    def start(self, place: Place) -> None:
        place.start_at = None
        handle = place.handle = Handle(place.number)
        self.board.set_pid(place.number, handle.pid)
        if self.ready is not None:
            # The first one that serves shares out the clients who wait already.
            self.board.set_ready(place.number, True)
        self.selector.register(
            handle.channel.sock, selectors.EVENT_READ, lambda events: self.serve(handle, events)
        )
        handle.channel.full = lambda: self.await_room(handle)
        log_file = [self.output.file] if self.output.file >= 0 else []
        inboxes = [place.inbox, *(each.entrance for each in self.places)]
        memories = [each.memories[0] for each in self.places if each is not place]
        if len(self.places) == 1:
            inboxes.clear()
        handle.channel.send(
            "start",
            [*place.memories, self.board_memory, *memories, *map(fileno, inboxes), *log_file],
            number=place.number,
            workers=len(self.places),
            places=self.board.pools,
            rows=self.rows.pack(),
            config=self.packed,
            max_clients=self.max_clients,
            verbose=self.output.verbose,
            pid=os.getpid(),
            started=self.started,
        )
        names = list(self.sockets)
        for begin in range(0, len(names), PER_MESSAGE):
            part = names[begin : begin + PER_MESSAGE]
            fds = [self.sockets[name].fileno() for name in part]
            handle.channel.send("listeners", fds, names=part)

    def next_time(self) -> float | None:
        """When `tick` has something to do, in monotonic seconds."""
        times = [place.start_at for place in self.places if place.start_at is not None]
        times += [handle.kill_at for handle in self.handles if handle.kill_at is not None]
        times += [inquiry.until for inquiry in self.inquiries.values()]
        if self.timeout and self.handles:
            times.append(self.looked + LOOK)
        return min(times, default=None)

    def tick(self, now: float) -> None:
        for place in self.places:
            if place.start_at is not None and now >= place.start_at and not self.ending:
                self.start(place)
        for handle in self.handles:
            if handle.kill_at is not None and now >= handle.kill_at:
                handle.kill_at = None
                handle.signal(signal.SIGKILL)
        for number, inquiry in list(self.inquiries.items()):
            if now >= inquiry.until:
                # A worker that hangs.
                inquiry.waits_for.clear()
                self.has_answered(number, None)
        if self.timeout and now >= self.looked + LOOK:
            passed = min(now - self.looked, LOOK_MOST)
            self.looked = now
            for place in self.places:
                self.look(place, passed, now)

    def look(self, place: Place, passed: float, now: float) -> None:
        """Does the worker still make turns? One that has nothing to do makes one in each second."""
        handle = place.handle
        if handle is None or handle.ready_since is None:
            return
        if now - handle.ready_since >= STEADY:
            place.deaths = 0
        beat = place.slab.beat()
        if beat != handle.beat:
            handle.beat, handle.silent = beat, 0.0
            return
        handle.silent += passed
        if handle.silent >= self.timeout and handle.kill_at is None:
            text = "worker %d (pid %d) has been hanging for %.0f s and is ended; its stacks follow"
            log.critical(text, handle.number, handle.pid, handle.silent)
            handle.signal(signal.SIGABRT)
            handle.kill_at = now + STACKS

    def reap(self) -> None:
        """Worker processes may have ended."""
        for place in self.places:
            if place.handle is not None and place.handle.ended():
                self.bury(place, place.handle)

    def bury(self, place: Place, handle: Handle) -> None:
        with contextlib.suppress(EOFError, KeyError):
            # The last lines of its log.
            self.read(handle)
        self.hang_up(handle)
        handle.channel.close()
        place.handle = None
        for number in list(self.inquiries):
            self.has_answered(number, handle)
        place.slab.forget()
        self.board.reset(place.number)
        if self.ending:
            return
        if handle.ready_since is None:
            self.failures += 1
        delay = DELAYS[min(place.deaths, len(DELAYS) - 1)]
        place.deaths += 1
        place.start_at = time.monotonic() + delay
        how = f"exit code {handle.code}"
        if handle.code is not None and handle.code < 0:
            how = f"signal {-handle.code} ({signal.Signals(-handle.code).name})"
        again = f"it is started again in {delay} s" if delay else "it is started again"
        if self.failed:
            again = f"{FAILURES} in a row have ended before they served, so nutproxy ends"
        log.critical("worker %d (pid %d) has died: %s; %s", handle.number, handle.pid, how, again)

    def hang_up(self, handle: Handle) -> None:
        with contextlib.suppress(KeyError):
            self.selector.unregister(handle.channel.sock)

    # Messages.

    def tell(self, name: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a message to all workers."""
        for handle in self.handles:
            handle.channel.send(name, descriptors, **fields)

    def all_synced(self, number: int) -> bool:
        """Have all workers that serve replied to this `sync`?"""
        return all(
            handle.synced >= number for handle in self.handles if handle.ready_since is not None
        )

    def await_room(self, handle: Handle) -> None:
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        key = self.selector.get_map().get(handle.channel.sock)
        if key is not None:
            self.selector.modify(handle.channel.sock, both, key.data)

    def serve(self, handle: Handle, events: int) -> None:
        """The control channel can be read or written."""
        if self.places[handle.number].handle is not handle:
            # It was buried after the selector had reported it.
            return
        if events & selectors.EVENT_WRITE and handle.channel.flush():
            key = self.selector.get_key(handle.channel.sock)
            self.selector.modify(handle.channel.sock, selectors.EVENT_READ, key.data)
        if events & selectors.EVENT_READ:
            try:
                self.read(handle)
            except EOFError:
                # It has ended, or is about to: SIGCHLD comes.
                self.hang_up(handle)

    def read(self, handle: Handle) -> None:
        for message in handle.channel.receive():
            self.act_on(handle, message)
            close_all(message.descriptors)

    def act_on(self, handle: Handle, message: Received) -> None:
        fields = message.fields
        match message.name:
            case "log":
                worker = handle.number if len(self.places) > 1 else None
                self.output.write(fields["line"], fields["dropped"], worker)
            case "resolve":
                self.look_up(handle, fields["host"], fields["port"])
            case "synced":
                handle.synced = fields["number"]
            case "ask":
                self.inquire(handle, **fields)
            case "answer":
                inquiry = self.inquiries.get(fields["inquiry"])
                if inquiry is not None:
                    inquiry.answers.append(fields["text"])
                    self.has_answered(fields["inquiry"], handle)
            case "ready":
                self.serves(handle)

    def inquire(
        self, handle: Handle, number: int, pool: str, question: str, words: list[str]
    ) -> None:
        """A client of this worker asks the other ones."""
        asked = [
            each for each in self.handles if each is not handle and each.ready_since is not None
        ]
        self.inquiry += 1
        until = time.monotonic() + INQUIRY
        self.inquiries[self.inquiry] = Inquiry(handle, number, set(asked), [], until)
        for each in asked:
            each.channel.send(
                "asked", inquiry=self.inquiry, pool=pool, question=question, words=words
            )
        self.has_answered(self.inquiry, None)

    def has_answered(self, number: int, handle: Handle | None) -> None:
        """This worker has answered, or has ended. Passes on the answers when nobody is left."""
        inquiry = self.inquiries[number]
        inquiry.waits_for.discard(handle)
        if not inquiry.waits_for:
            del self.inquiries[number]
            inquiry.asker.channel.send("answered", number=inquiry.number, answers=inquiry.answers)

    def serves(self, handle: Handle) -> None:
        handle.ready_since = time.monotonic()
        self.failures = 0
        if self.ready is None:
            log.log(NOTICE, "worker %d (pid %d) serves", handle.number, handle.pid)
        elif all(each.ready_since is not None for each in self.handles):
            ready, self.ready = self.ready, None
            ready()

    def look_up(self, handle: Handle, host: str, port: int) -> None:
        def found(answer: Answer) -> None:
            addresses, error = None, []
            if isinstance(answer, OSError):
                error = list(answer.args)
            else:
                addresses = answer
            handle.channel.send("resolved", host=host, port=port, addresses=addresses, error=error)

        self.resolver.resolve(host, port, found)

    # The end.

    def drain(self, limit: int) -> None:
        """Close the listening sockets, and let the workers end when they have answered what has
        come."""
        self.ending = True
        for sock in self.sockets.values():
            sock.close()
        for place in self.places:
            place.start_at = None
        self.tell("drain", limit=limit)

    def kill(self) -> None:
        """End all workers at once, and wait for them."""
        self.ending = True
        for place in self.places:
            if (handle := place.handle) is not None:
                handle.signal(signal.SIGKILL)
                os.waitpid(handle.pid, 0)
                handle.code = -signal.SIGKILL
                self.bury(place, handle)
