# nutproxy/stats/port.py: the statistics port
"""Every TCP connection gets the statistics of this moment, and is closed.

    a collector connects and reads ────── nothing comes for GRACE ──> the JSON as it is
    curl connects and sends GET / ─────── an HTTP request comes ────> the JSON as an HTTP reply

twemproxy's collectors send nothing and an HTTP client sends its request at once, so a short wait
tells them apart. Anything else that is sent is ignored and gets the plain JSON.

One thread serves all connections, and none waits for another: what a socket does not take at once
is written when it does. A client that neither completes its request nor reads has PATIENCE seconds;
when CLIENTS are connected, the one that has been there longest makes room.

The thread needs the GIL for a few calls a connection; while it writes a report the event loop runs.
"""

from __future__ import annotations

import contextlib
import logging
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable

log = logging.getLogger("nutproxy")

# As many as descriptors.OWN has room for.
CLIENTS = 16
BACKLOG = 128
PATIENCE = 10.0
# How long a client may take, in seconds, to begin an HTTP request. It sends it right after the
# handshake: only a processor that is busy comes between.
GRACE = 0.05
# More of a request than this is not waited for.
MAX_REQUEST = 8192
# Until the next try where nobody could be accepted.
PAUSE = 0.1


def listen(address: str, port: int) -> socket.socket:
    """The listening socket. Raises OSError with the address in its text."""
    try:
        [(family, kind, proto, _, name), *_] = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(name)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        text = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"cannot serve statistics on {address}:{port}: {text}; -s chooses another port, -a"
            " another address",
        ) from error
    return sock


PATHS = (b"/", b"/stats")
REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[0-9]\r?\n")
REQUEST_START = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) ")
REQUEST_END = re.compile(rb"\r?\n\r?\n")


def http_reply(method: bytes, target: bytes, report: Callable[[], bytes]) -> bytes:
    """The reply to a request whose first line names this method and target."""
    kind, extra = "text/plain; charset=utf-8", ""
    if method not in (b"GET", b"HEAD"):
        status, extra = "405 Method Not Allowed", "Allow: GET, HEAD\r\n"
        body = b"GET the statistics from / or /stats\n"
    elif target.partition(b"?")[0] not in PATHS:
        status, body = "404 Not Found", b"the statistics are at / and /stats\n"
    else:
        status, kind, body = "200 OK", "application/json", report()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)


class Reader:
    """A client of the port: what it has sent, what is still to be written to it, and how long it
    may take. `eof` once it has closed its sending side."""

    def __init__(self, sock: socket.socket, report: Callable[[], bytes]) -> None:
        self.sock = sock
        self.report = report
        self.request = b""
        self.is_http = False  # known only when GRACE is over and the request is not complete
        self.left: memoryview | None = None  # None until it is known what is to be written
        self.until = time.monotonic() + GRACE
        self.eof = False

    def serve(self, events: int) -> int:
        """Acts on what the selector has reported; returns the events to wait for, 0 when all is
        done. Raises OSError when the connection is lost."""
        if events & selectors.EVENT_READ:
            self.receive()
        if self.left is None and self.is_complete():
            self.reply()
        if self.left:
            self.send(self.left)
        waiting = selectors.EVENT_WRITE if self.left else 0
        return waiting if self.eof else waiting | selectors.EVENT_READ

    def receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(65536)
            self.eof = not data
            if self.left is None:
                self.request += data[:MAX_REQUEST]

    def is_complete(self) -> bool:
        """Does nothing that may still come change the reply?"""
        if self.eof or len(self.request) > MAX_REQUEST:
            return True
        if b"\n" in self.request and not REQUEST_LINE.match(self.request):
            return True
        return REQUEST_END.search(self.request) is not None

    def expire(self) -> int:
        """The time is up; returns the events to wait for, 0 when the client has to go."""
        if self.left is not None:
            return 0
        if not self.is_http and REQUEST_START.match(self.request):
            self.is_http = True
            self.until += PATIENCE
            return selectors.EVENT_READ
        self.reply()
        return self.serve(0)

    def reply(self) -> None:
        """Make the reply, of this moment."""
        line = REQUEST_LINE.match(self.request)
        text = http_reply(line[1], line[2], self.report) if line else self.report()
        self.left = memoryview(text)
        self.until = time.monotonic() + PATIENCE

    def send(self, left: memoryview) -> None:
        with contextlib.suppress(BlockingIOError):
            self.left = left[self.sock.send(left) :]
        if not self.left:
            # Closing with bytes unread would reset the connection and could take the report from
            # its reader: wait until that one closes.
            self.sock.shutdown(socket.SHUT_WR)


class StatsPort:
    """Serves what `report()` makes on `listener`, which it takes over, from `start` to `close`."""

    def __init__(self, listener: socket.socket, report: Callable[[], bytes]) -> None:
        self.listener = listener
        self.report = report
        self.selector = selectors.DefaultSelector()
        self.readers: dict[int, Reader] = {}  # by descriptor, in order of arrival
        self.ending, self.end = socket.socketpair()
        self.thread = threading.Thread(target=self.run, name="statistics", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        """End the thread and close everything."""
        self.end.close()
        self.thread.join()

    def run(self) -> None:
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(self.ending, selectors.EVENT_READ)
        while True:
            for key, events in self.selector.select(self.next_timeout()):
                if key.fileobj is self.ending:
                    self.clear()
                    return
                try:
                    key.data(events)
                except Exception:
                    log.exception("the statistics port failed")
            now = time.monotonic()
            for reader in list(self.readers.values()):
                if reader.until <= now:
                    self.advance(reader, reader.expire)

    def next_timeout(self) -> float | None:
        first = min((reader.until for reader in self.readers.values()), default=None)
        return None if first is None else max(first - time.monotonic(), 0.0)

    def clear(self) -> None:
        for reader in list(self.readers.values()):
            self.drop(reader)
        self.selector.close()
        self.listener.close()
        self.ending.close()

    def accept(self, events: int) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            # The client has left, or there is no descriptor: then the oldest reader gives one up.
            self.drop_oldest()
            time.sleep(PAUSE)
            return
        sock.setblocking(False)
        if len(self.readers) >= CLIENTS:
            self.drop_oldest()
        reader = Reader(sock, self.report)
        self.readers[sock.fileno()] = reader
        self.selector.register(
            sock,
            selectors.EVENT_READ,
            lambda events: self.advance(reader, lambda: reader.serve(events)),
        )

    def advance(self, reader: Reader, step: Callable[[], int]) -> None:
        """Take a step with a reader, which tells the events to wait for next."""
        if reader.sock.fileno() < 0:
            # It has had to make room since the selector reported it.
            return
        try:
            interest = step()
        except OSError:
            interest = 0
        if interest:
            key = self.selector.get_key(reader.sock)
            self.selector.modify(reader.sock, interest, key.data)
        else:
            self.drop(reader)

    def drop(self, reader: Reader) -> None:
        del self.readers[reader.sock.fileno()]
        self.selector.unregister(reader.sock)
        reader.sock.close()

    def drop_oldest(self) -> None:
        """Make room. One that has not been replied to gets what its socket takes at once."""
        for reader in list(self.readers.values())[:1]:
            if reader.left is None:
                reader.is_http = True
                self.advance(reader, reader.expire)
            if reader.sock.fileno() >= 0:
                self.drop(reader)
