# tests/integration/test_addresses.py: a name with several addresses
"""What getaddrinfo says of a name cannot be chosen for a process from outside, so the worker's
Context runs here, in a thread, with a resolver that gives the addresses."""

import contextlib
import socket
import threading

from nutproxy.config import load
from nutproxy.core import Context
from nutproxy.proxy import listen
from tests.integration.conftest import pool
from tests.servers import HOST, RedisServer, free_ports, pipeline


@contextlib.contextmanager
def context_resolving(redis, addresses, directory):
    """A proxy in this process for one server whose name has these addresses; gives its port."""
    [port] = free_ports(1)
    text = pool("alpha", [redis]).replace("listen: auto", f"listen: {HOST}:{port}")
    file = directory / "proxy.yml"
    file.write_text(text.replace(f"- {HOST}:", "- several.test:"))
    config, problems = load(str(file))
    assert config is not None, problems
    context = Context(16384, str(file))
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    context.wake_with(reading, lambda data: context.stop())
    context.add_pool(
        config.pools[0],
        listen(config.pools[0]),
        lambda host, port, callback: callback([(socket.AF_INET, found) for found in addresses]),
    )
    thread = threading.Thread(target=context.run)
    thread.start()
    try:
        yield port
    finally:
        writing.send(b"\0")
        thread.join()
        context.close()
        writing.close()


def test_next_address_is_tried_when_one_refuses(tmp_path):
    [closed] = free_ports(1)
    with RedisServer() as redis:
        addresses = [(HOST, closed), (HOST, redis.port)]
        with context_resolving(redis, addresses, tmp_path) as port:
            assert pipeline(port, [("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]


def test_last_address_that_refuses_is_the_cause(tmp_path):
    closed = free_ports(2)
    with RedisServer() as redis:
        addresses = [(HOST, port) for port in closed]
        with context_resolving(redis, addresses, tmp_path) as port:
            [reply] = pipeline(port, [("GET", "k")])
            assert str(reply) == "ERR server 's1' of pool 'alpha': Connection refused"
