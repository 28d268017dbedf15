# nutproxy/control.py: the control channel between the master and a worker
"""One SOCK_SEQPACKET socket pair for each worker. A packet is a message: JSON, and descriptors.

    ["drain", {"limit": 10000}]

MESSAGES has them all. A message of more than PACKET bytes travels in a memfd, so that none is too
long for a packet. A message that finds the socket full waits, and its descriptors with it: neither
side ever blocks. The end of the stream means that the other process has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

# A packet must fit in a socket buffer of the default size, 208 KB, several times.
PACKET = 32768
# The most descriptors that a packet can carry (SCM_MAX_FD).
DESCRIPTORS = 253
IN_MEMORY = b"@"


class Message(NamedTuple):
    sender: str
    text: str


MESSAGES = {
    "start": Message(
        "master",
        "Everything that a worker needs: its number, the configuration as plain values (see"
        " plain.py), how many clients fit in its descriptors, the level of the log, and"
        " facts about the process. Descriptors: the two memories of its counters (stats/slab.py);"
        " that of the board; with several workers the counters of the others, its inbox and the"
        " inboxes of all; and the log file, if there is one.",
    ),
    "listeners": Message(
        "master",
        "Names of pools, and their listening sockets as descriptors. The worker begins when it has"
        " those of all pools.",
    ),
    "resolved": Message(
        "master",
        "The addresses of a host and port, or the error of the lookup.",
    ),
    "verbose": Message("master", "The new level of the log."),
    "log_file": Message("master", "The log file has been opened again. Its descriptor."),
    "detach": Message(
        "master", "nutproxy is a daemon: the standard descriptors become /dev/null from now on."
    ),
    "sync": Message("master", "The worker sends `synced` with the same number."),
    "drain": Message(
        "master",
        "Accept no more clients, answer the requests that have come, and end, after `limit`"
        " milliseconds at the latest.",
    ),
    "cut": Message("master", "End at once."),
    "asked": Message(
        "master", "A client of another worker asks (builtin.ANSWERS): what, about which pool."
    ),
    "answered": Message("master", "What the other workers say to a question."),
    "ask": Message("worker", "Ask all other workers on behalf of a client."),
    "answer": Message("worker", "The answer to `asked`."),
    "ready": Message("worker", "The worker serves all pools."),
    "log": Message(
        "worker",
        "A line of the log, and how many lines before it have been dropped because the master did"
        " not read them.",
    ),
    "resolve": Message("worker", "Look up a host and port, and send `resolved`."),
    "synced": Message("worker", "Everything that came before this `sync` has been handled."),
}


class Received(NamedTuple):
    name: str
    fields: dict[str, Any]
    descriptors: list[int]


class Channel:
    """One end of a control channel, in a loop that calls `receive` and `flush` when `sock` can be
    read and written. It owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.waiting: deque[tuple[bytes, list[int]]] = deque()
        # Called when a message waits, so that the loop calls `flush` when there is room.
        self.full: Callable[[], None] = lambda: None

    def send(self, name: str, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """Send a message, or keep it until `flush`. The caller keeps its descriptors. A message to
        a process that has ended is lost."""
        if name not in MESSAGES:
            raise KeyError(name)
        data = json.dumps([name, fields], separators=(",", ":")).encode()
        copies = [os.dup(fd) for fd in descriptors]
        if len(data) > PACKET:
            copies.insert(0, in_memory(data))
            data = IN_MEMORY
        self.waiting.append((data, copies))
        if len(self.waiting) > 1 or not self.flush():
            self.full()

    def flush(self) -> bool:
        """Send what waits, as far as there is room. Returns whether nothing is left."""
        while self.waiting:
            data, descriptors = self.waiting[0]
            try:
                if descriptors:
                    socket.send_fds(self.sock, [data], descriptors)
                else:
                    self.sock.send(data)
            except BlockingIOError:
                return False
            except OSError:
                # The other process has ended, or this one has no memory. `receive` sees the first.
                pass
            self.waiting.popleft()
            close_all(descriptors)
        return True

    def receive(self) -> Iterator[Received]:
        """The messages that have come. Raises EOFError after the last one of a process that has
        ended. The caller closes the descriptors."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self.sock, PACKET, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except ConnectionError:
                data, descriptors = b"", []
            if not data:
                raise EOFError
            if data == IN_MEMORY:
                data = from_memory(descriptors.pop(0))
            name, fields = json.loads(data)
            yield Received(name, fields, descriptors)

    def close(self) -> None:
        while self.waiting:
            close_all(self.waiting.popleft()[1])
        self.sock.close()


def in_memory(data: bytes) -> int:
    """The descriptor of a memfd that contains these bytes."""
    fd = os.memfd_create("nutproxy-message")
    with open(os.dup(fd), "wb") as file:
        file.write(data)
    return fd


def from_memory(fd: int) -> bytes:
    with open(fd, "rb") as file:
        file.seek(0)
        return file.read()


def close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
