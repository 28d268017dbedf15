# tests/integration/inside.py: a worker inside the test's process
"""For what cannot be seen or chosen from outside: a Context that runs in a thread."""

import contextlib
import os
import socket
import threading

from nutproxy.config import load
from nutproxy.core import Context
from nutproxy.proxy import listen
from nutproxy.resolver import Resolver
from tests.integration.conftest import pool
from tests.servers import HOST, free_ports


def socket_option(conn, level, name):
    """What an option of a connection's socket is set to."""
    with socket.socket(fileno=os.dup(conn.fd)) as sock:
        return sock.getsockopt(level, name)


def server_conns(pool):
    """A pool's connections to its servers that are open, those of RESP2."""
    return [conn for server in pool.servers for conn in server.conns2 if conn is not None]


@contextlib.contextmanager
def running_context(servers, directory, resolve=None, protocol="redis: true", **options):
    """A Context with the pool `alpha` over these servers, running; gives it and its port. With
    `resolve`, servers have a name, which it resolves."""
    [port] = free_ports(1)
    text = pool("alpha", servers, **options).replace("listen: auto", f"listen: {HOST}:{port}")
    text = text.replace("redis: true", protocol)
    if resolve is not None:
        text = text.replace(f"- {HOST}:", "- several.test:")
    file = directory / "proxy.yml"
    file.write_text(text)
    config, problems = load(str(file))
    assert config is not None, problems
    context = Context(16384, str(file))
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    context.wake_with(reading, lambda data: context.stop())
    context.add_pool(
        config.pools[0],
        listen(config.pools[0]),
        resolve or Resolver(lambda: None).resolve,
    )
    thread = threading.Thread(target=context.run)
    thread.start()
    try:
        yield context, port
    finally:
        writing.send(b"\0")
        thread.join()
        context.close()
        writing.close()
