# nutproxy/worker.py: the process of one event loop
"""A worker: it gets everything from the master over its control channel, and runs a Worker.

    entry.py ──> main     signals are ignored: the master acts on them
                 begin    waits for `start` and the listening sockets, and builds the Worker
                 act_on   handles a message of the master, in the loop

It has no thread, reads no file and looks up no name: configuration, log and names are the
master's, and the master reads the counters in shared memory. If the master ends, the worker drains
and ends too.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

from nutproxy.builtin import ANSWERS, Question
from nutproxy.control import Channel, Received, close_all
from nutproxy.core import Worker
from nutproxy.log import STDERR, Forwarder, log, log_level, set_up
from nutproxy.plain import Plain, unpack
from nutproxy.resolver import Answer, Callback, literal
from nutproxy.stats.board import Board
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab

# The master acts on these, and tells its workers. Ctrl-C reaches all of them.
IGNORED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
)
# Seconds in which the last lines of the log must reach the master.
LAST_SECONDS = 1.0
# What is sent with the descriptor of a client: its pool, and the epoch of its count.
CLIENT = struct.Struct("=IQ")
CLIENTS_PER_TURN = 64


class WorkerProcess:
    """The process of one worker, from `start` to its end."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.log_file = -1
        # If there are several workers: where others put clients, and where this one puts theirs.
        self.handed_over: socket.socket | None = None
        self.peers: list[socket.socket] = []
        self.questions: dict[int, Callable[[list[bytes]], None]] = {}
        self.question = 0
        self.asked: dict[tuple[str, int], list[Callback]] = {}

    def begin(self) -> None:
        """Wait for what a worker needs, and build the Worker. Raises EOFError if the master
        ends."""
        listeners: dict[str, socket.socket] = {}
        late: list[Received] = []
        expected = -1
        while len(listeners) != expected:
            select.select([self.channel.sock], [], [])
            for message in self.channel.receive():
                match message.name:
                    case "start":
                        self.build(message)
                        expected = len(self.config.pools)
                    case "listeners":
                        socks = map(to_socket, message.descriptors)
                        listeners |= zip(message.fields["names"], socks, strict=True)
                    case "drain" | "cut":
                        # Not before the clients that have connected so far can be accepted.
                        late.append(message)
                    case _:
                        self.act_on(message)
        for pool in self.config.pools:
            self.worker.add_pool(pool, listeners[pool.name], self.resolve, self.hand_over)
            self.worker.frontends[-1].colleagues = self.ask
        inbox = self.worker.listen_to(self.channel.sock.dup(), self.receive, self.flush)
        self.channel.full = inbox.await_room
        if self.handed_over is not None:
            self.worker.listen_to(self.handed_over, self.take_over)
        self.worker.board.set_ready(self.worker.board.own, True)
        self.channel.send("ready")
        for message in late:
            self.act_on(message)

    def build(self, start: Received) -> None:
        """The Worker, without its pools."""
        fields = start.fields
        counters, given, board, *others = start.descriptors
        memories: list[int] = []
        if fields["workers"] > 1:
            memories = others[: fields["workers"] - 1]
            del others[: len(memories)]
            inbox, *others = others
            self.peers = list(map(to_socket, others[: fields["workers"]]))
            del others[: fields["workers"]]
            self.handed_over = to_socket(inbox)
        log.setLevel(log_level(fields["verbose"]))
        if others:
            [self.log_file] = others
            faulthandler.enable(self.log_file)
        self.config: Plain = unpack(fields["config"])
        rows = Rows.unpack(fields["rows"])
        slab = Slab(rows, counters, given)
        slab.others = [Slab(rows, memory) for memory in memories]
        close_all([counters, given, *memories])
        keys = self.config.globals
        self.worker = Worker(
            keys.mbuf_size,
            self.config.path,
            slab,
            keys.coalesce,
            fields["pid"],
            fields["started"],
            Board(fields["places"], fields["workers"], fields["number"], board),
        )
        os.close(board)
        self.worker.client_room.limit = fields["max_clients"]

    def run(self) -> None:
        try:
            self.worker.run()
        finally:
            self.worker.close()

    def flush(self) -> None:
        if not self.channel.flush():
            self.channel.full()

    def receive(self) -> bool:
        """Handle what the master has sent."""
        try:
            for message in self.channel.receive():
                self.act_on(message)
        except EOFError:
            # The master has ended.
            if not self.worker.draining:
                self.drain(self.config.globals.shutdown_timeout)
        return False

    def act_on(self, message: Received) -> None:
        fields = message.fields
        match message.name:
            case "resolved":
                self.resolved(**fields)
            case "verbose":
                log.setLevel(log_level(fields["verbose"]))
            case "log_file":
                os.dup2(message.descriptors[0], self.log_file, inheritable=False)
            case "detach":
                detach()
            case "asked":
                self.answer(**fields)
            case "answered":
                callback = self.questions.pop(fields["number"])
                callback([text.encode("latin-1") for text in fields["answers"]])
            case "sync":
                self.channel.send("synced", number=fields["number"])
            case "drain":
                self.drain(fields["limit"])
            case "cut":
                self.worker.cut()
        close_all(message.descriptors)

    def ask(self, pool: str, question: Question, callback: Callable[[list[bytes]], None]) -> None:
        """Ask the other workers on behalf of a client of `pool`."""
        self.question += 1
        self.questions[self.question] = callback
        words = [word.decode("latin-1") for word in question.words]
        self.channel.send(
            "ask", number=self.question, pool=pool, question=question.name, words=words
        )

    def answer(self, inquiry: int, pool: str, question: str, words: list[str]) -> None:
        """Answer another worker, when that is done."""

        def done(text: bytes) -> None:
            self.channel.send("answer", inquiry=inquiry, text=text.decode("latin-1"))

        for frontend in self.worker.frontends:
            if frontend.name == pool:
                asked = [word.encode("latin-1") for word in words]
                self.worker.carry_out(ANSWERS[question](frontend, asked), done)

    def drain(self, limit: int) -> None:
        self.worker.board.set_ready(self.worker.board.own, False)
        self.worker.drain(limit)

    def hand_over(self, worker: int, pool: int, fd: int, epoch: int) -> bool:
        """Give a client to another worker. False if its inbox is full."""
        try:
            socket.send_fds(self.peers[worker], [CLIENT.pack(pool, epoch)], [fd])
        except OSError:
            return False
        return True

    def take_over(self) -> bool:
        """Take clients that other workers have accepted. Returns whether there may be more."""
        assert self.handed_over is not None
        for _ in range(CLIENTS_PER_TURN):
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self.handed_over, CLIENT.size, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            pool, epoch = CLIENT.unpack(data)
            if descriptors:
                self.worker.adopt(pool, descriptors[0], epoch)
            else:
                # There was no free descriptor for it, so the kernel has closed it.
                self.worker.lose(pool, epoch)
        return True

    def resolve(self, host: str, port: int, callback: Callback) -> None:
        """Call back with the addresses of a host, or with an OSError (resolver.py)."""
        if known := literal(host, port):
            callback(known)
            return
        callbacks = self.asked.setdefault((host, port), [])
        callbacks.append(callback)
        if len(callbacks) == 1:
            self.channel.send("resolve", host=host, port=port)

    def resolved(self, host: str, port: int, addresses: list[Any] | None, error: list[Any]) -> None:
        answer: Answer = OSError(*error)
        if addresses is not None:
            answer = [(family, tuple(address)) for family, address in addresses]
        for callback in self.asked.pop((host, port)):
            callback(answer)


def to_socket(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


def detach() -> None:
    """Let go of the terminal from which a daemon was started."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def main(fd: int) -> int:
    """Run a worker whose control channel is `fd`, and return the exit code."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # The master has blocked them until now.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.enable(STDERR)
    channel = Channel(socket.socket(fileno=fd))
    set_up(Forwarder(channel), log_level(0))
    process = WorkerProcess(channel)
    code = 0
    try:
        process.begin()
        process.run()
    except EOFError:
        # During the start.
        code = 1
    except Exception:
        log.critical("internal error, the worker ends", exc_info=True)
        code = 1
    # The last lines of the log.
    while not channel.flush() and select.select([], [channel.sock], [], LAST_SECONDS)[1]:
        pass
    return code
