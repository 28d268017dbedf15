# tests/integration/test_addresses.py: a name with several addresses
"""What getaddrinfo says of a name cannot be chosen for a process from outside, so the worker's
Context runs in this process, with a resolver that gives the addresses."""

import socket

from tests.integration.inside import running_context
from tests.servers import HOST, RedisServer, free_ports, pipeline


def resolver(*ports):
    """Every name has these ports of the loopback as its addresses."""
    addresses = [(socket.AF_INET, (HOST, port)) for port in ports]
    return lambda host, port, callback: callback(addresses)


def test_next_address_is_tried_when_one_refuses(tmp_path):
    [closed] = free_ports(1)
    with RedisServer() as redis:
        resolve = resolver(closed, redis.port)
        with running_context([redis], tmp_path, resolve) as (_, port):
            assert pipeline(port, [("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]


def test_last_address_that_refuses_is_the_cause(tmp_path):
    with RedisServer() as redis:
        resolve = resolver(*free_ports(2))
        with running_context([redis], tmp_path, resolve) as (_, port):
            [reply] = pipeline(port, [("GET", "k")])
            assert str(reply) == "ERR server 's1' of pool 'alpha': Connection refused"
