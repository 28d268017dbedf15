# nutproxy/stats/port.py: the statistics port
"""Every TCP connection gets the statistics of this moment, and is closed: no request is read.

One thread serves all connections, and none waits for another: what a socket does not take at once
is written when it does. Whoever does not read has PATIENCE seconds; when CLIENTS are connected, the
one that has been there longest makes room.

The thread needs the GIL for a few calls a connection; while it writes a report the event loop runs.
"""

from __future__ import annotations

import contextlib
import logging
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


class Reader:
    """Somebody who is being told: what is still to be written, and until when. `eof` when nothing
    more comes from there."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self.sock = sock
        self.left = memoryview(data)
        self.until = time.monotonic() + PATIENCE
        self.eof = False

    def serve(self, events: int) -> int:
        """What the selector has told; the events that are of interest now, 0 when all is done.
        Raises OSError when the connection is lost."""
        if events & selectors.EVENT_READ:
            with contextlib.suppress(BlockingIOError):
                self.eof = not self.sock.recv(65536)
        if events & selectors.EVENT_WRITE and self.left:
            with contextlib.suppress(BlockingIOError):
                self.left = self.left[self.sock.send(self.left) :]
            if not self.left:
                # Closing with bytes unread, an HTTP request, would reset the connection and could
                # take the report from its reader: wait until that one closes.
                self.sock.shutdown(socket.SHUT_WR)
        return (0 if self.eof else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if self.left else 0
        )


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
                    self.drop(reader)

    def next_timeout(self) -> float | None:
        first = next(iter(self.readers.values()), None)
        return None if first is None else max(first.until - time.monotonic(), 0.0)

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
            # It has gone again, or there is no descriptor: then the oldest reader gives up its own.
            self.drop_oldest()
            time.sleep(PAUSE)
            return
        sock.setblocking(False)
        if len(self.readers) >= CLIENTS:
            self.drop_oldest()
        reader = Reader(sock, self.report())
        self.readers[sock.fileno()] = reader
        self.selector.register(
            sock, selectors.EVENT_READ, lambda events: self.serve(reader, events)
        )
        self.serve(reader, selectors.EVENT_WRITE)

    def serve(self, reader: Reader, events: int) -> None:
        if reader.sock.fileno() < 0:
            # It has had to make room since the selector told of it.
            return
        try:
            interest = reader.serve(events)
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
        for reader in list(self.readers.values())[:1]:
            self.drop(reader)
