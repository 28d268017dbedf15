# tests/integration/inside.py: a worker inside the test's process
"""A Worker that runs in a thread of the test's process, for tests of its internal state."""

import contextlib
import os
import queue
import socket
import threading

from nutproxy.config import load
from nutproxy.core import Worker
from nutproxy.io.sockets import listen
from nutproxy.resolver import Resolver
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab, slab_memory
from nutproxy.stepped import share
from tests.integration.conftest import pool
from tests.servers import DEADLINE, HOST, free_ports

WAKE, STOP = b"\0", b"\1"


def socket_option(conn, level, name, size=0):
    """The value of a socket option of a connection: a number, or `size` bytes of a struct."""
    with socket.socket(fileno=os.dup(conn.fd)) as sock:
        return sock.getsockopt(level, name, size)


def server_conns(pool):
    """The open RESP2 connections of a pool to its servers."""
    links = [link for server in pool.servers for link in server.shared_links()]
    return [link for link in links if link.profile.protover == 2]


class Calls:
    """Calls functions in the worker's thread: `calls(function)` returns what it returns."""

    def __init__(self):
        self.waiting = queue.SimpleQueue()
        self.results = queue.SimpleQueue()
        self.wake = None

    def __call__(self, function):
        self.waiting.put(function)
        self.wake()
        result = self.results.get(timeout=DEADLINE)
        if isinstance(result, BaseException):
            raise result
        return result

    def run(self):
        while not self.waiting.empty():
            try:
                self.results.put(self.waiting.get()())
            except Exception as error:
                self.results.put(error)


@contextlib.contextmanager
def running_worker(
    servers,
    directory,
    *,
    form=pool,
    name=HOST,
    resolve=None,
    calls=None,
    prepare=lambda worker: None,
    **options,
):
    """A running Worker with the pool `alpha` of these servers, whose text `form` makes. Yields the
    Worker and its port. With `name`, the servers are configured by that name instead of an address.
    `resolve` looks it up instead of the worker's Resolver. `calls` is a Calls for this worker.
    `prepare` is called with the Worker before it runs."""
    [port] = free_ports(1)
    text = form("alpha", servers, **options).replace("listen: auto", f"listen: {HOST}:{port}")
    text = text.replace(f"- {HOST}:", f"- {name}:")
    file = directory / "proxy.yml"
    file.write_text(text)
    config, problems = load(str(file))
    assert config is not None, problems
    worker = Worker(
        16384, str(file), Slab(rows := Rows.of(config.pools), memory := slab_memory(rows))
    )
    os.close(memory)
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    resolver = Resolver(lambda: writing.send(WAKE))

    def woken():
        # There is nothing to read if it is called again after an exception.
        with contextlib.suppress(BlockingIOError):
            if STOP in reading.recv(4096):
                worker.stop()
        resolver.deliver()
        if calls is not None:
            calls.run()

    share(worker)
    if calls is not None:
        calls.wake = lambda: writing.send(WAKE)
    worker.listen_to(reading, woken)
    worker.add_pool(config.pools[0], listen(config.pools[0]), resolve or resolver.resolve)
    prepare(worker)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker, port
    finally:
        writing.send(STOP)
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the worker did not end"
        worker.close()
        writing.close()
