# nutproxy/stats/port.py: the statistics port
"""Every TCP connection gets the current statistics and is closed.

    a collector connects and reads ────── no input within GRACE ────> the JSON as it is
    curl connects and sends GET / ─────── an HTTP request ──────────> the JSON as an HTTP reply

twemproxy's collectors send nothing, and an HTTP client sends its request at once, so a short wait
tells them apart. Any other input is ignored and gets the plain JSON.

One thread serves all connections, and none blocks another: if a socket is full, the rest is written
when there is room. A client that neither completes its request nor reads is disconnected after
PATIENCE seconds. If CLIENTS are connected and another one connects, the oldest is disconnected.

The thread holds the GIL only for a few calls per connection: while a report is being written, the
event loop runs.
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

# descriptors.OWN reserves this many.
CLIENTS = 16
BACKLOG = 128
PATIENCE = 10.0
# Seconds within which a client must begin an HTTP request. Clients send it right after the TCP
# handshake, so only a busy processor delays it.
GRACE = 0.05
# Longest HTTP request, in bytes; a longer one is answered at once.
MAX_REQUEST = 8192
# Seconds until the next try after accept has failed.
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
    """A client of the port: the input from it, the output that is left, and its time limit. `eof`
    is set once it has closed its sending side."""

    def __init__(self, sock: socket.socket, report: Callable[[], bytes]) -> None:
        self.sock = sock
        self.report = report
        self.request = b""
        self.is_http = False  # set only if the request is still incomplete after GRACE
        self.left: memoryview | None = None  # None until the reply has been made
        self.until = time.monotonic() + GRACE
        self.eof = False

    def serve(self, events: int) -> int:
        """Handles the events from the selector; returns the events to wait for next, 0 when done.
        Raises OSError when the connection is lost."""
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
        """Is the reply known, whatever further input may come?"""
        if self.eof or len(self.request) > MAX_REQUEST:
            return True
        if b"\n" in self.request and not REQUEST_LINE.match(self.request):
            return True
        return REQUEST_END.search(self.request) is not None

    def expire(self) -> int:
        """The time limit has passed. Returns the events to wait for, 0 to disconnect the client."""
        if self.left is not None:
            return 0
        if not self.is_http and REQUEST_START.match(self.request):
            self.is_http = True
            self.until += PATIENCE
            return selectors.EVENT_READ
        self.reply()
        return self.serve(0)

    def reply(self) -> None:
        """Make the reply with the current figures."""
        line = REQUEST_LINE.match(self.request)
        text = http_reply(line[1], line[2], self.report) if line else self.report()
        self.left = memoryview(text)
        self.until = time.monotonic() + PATIENCE

    def send(self, left: memoryview) -> None:
        with contextlib.suppress(BlockingIOError):
            self.left = left[self.sock.send(left) :]
        if not self.left:
            # Closing with unread input would reset the connection, and the client could lose the
            # report: wait until the client closes.
            self.sock.shutdown(socket.SHUT_WR)


class StatsPort:
    """Serves `report()` on `listener`, which it takes over, from `start` to `close`."""

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
            # The client has left, or there is no free descriptor: the oldest reader gives up one.
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
        """Call `step`, a step of this reader that returns the events to wait for next."""
        if reader.sock.fileno() < 0:
            # It was closed to make room after the selector had reported it.
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
        """Disconnect the oldest reader. If it has no reply yet, it gets as much of one as its
        socket takes at once."""
        for reader in list(self.readers.values())[:1]:
            if reader.left is None:
                reader.is_http = True
                self.advance(reader, reader.expire)
            if reader.sock.fileno() >= 0:
                self.drop(reader)
