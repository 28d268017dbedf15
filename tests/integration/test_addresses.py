# tests/integration/test_addresses.py: names with several addresses, or with a new address
"""Servers with several addresses. A test cannot choose the results of getaddrinfo in another
process, so the worker's Worker runs in this process with the test's own resolver."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.client import Client
from tests.integration.inside import running_worker
from tests.servers import HOST, RedisServer, closed_ports, connect, pipeline, wait_until

NAME = "server.test"


def resolver(*ports):
    """Resolves every name to these ports of the loopback."""
    addresses = [(socket.AF_INET, (HOST, port)) for port in ports]
    return lambda host, port, callback: callback(addresses)


def test_next_address_is_tried_when_one_refuses(tmp_path):
    with closed_ports(1) as [closed], RedisServer() as redis:
        resolve = resolver(closed, redis.port)
        with running_worker([redis], tmp_path, name=NAME, resolve=resolve) as (_, port):
            assert pipeline(port, [("SET", "k", "v"), ("GET", "k")]) == [b"OK", b"v"]


def full_backlog(port):
    """Fill the backlog, which is 1, of a server that does not accept. The next connect waits."""
    sockets = []
    for count in (1, 2):
        sockets.append(connect(port))
        wait_until(lambda count=count: backlog(port) == count, "a connection in the backlog")
    return sockets


def address(port):
    """An address of the loopback in the form of /proc/net/tcp."""
    return f"{socket.htonl(int.from_bytes(socket.inet_aton(HOST), 'big')):08X}:{port:04X}"


def backlog(port):
    """The number of connections to this port that have not been accepted."""
    listens = f" {address(port)} 00000000:0000 0A "
    [row] = [row for row in Path("/proc/net/tcp").read_text().splitlines() if listens in row]
    return int(row.split()[4].partition(":")[2], 16)


def connects(port):
    """The number of connects to this port that have not succeeded yet (SYN_SENT)."""
    return Path("/proc/net/tcp").read_text().count(f"{address(port)} 02")


def test_next_address_is_given_time_to_accept(tmp_path):
    with closed_ports(1) as [closed], RedisServer("--tcp-backlog", "1") as redis:
        resolve = resolver(closed, redis.port)
        with running_worker([redis], tmp_path, name=NAME, resolve=resolve) as (_, port):
            redis.stop()
            with contextlib.ExitStack() as stack:
                for sock in full_backlog(redis.port):
                    stack.enter_context(sock)
                with Client(port) as client:
                    client.send("SET", "k", "v")
                    wait_until(lambda: connects(redis.port), "a waiting connect")
                    redis.cont()
                    assert client.reply() == b"OK"


def test_error_names_the_refusal_of_the_last_address(tmp_path):
    with closed_ports(2) as closed, RedisServer() as redis:
        resolve = resolver(*closed)
        with running_worker([redis], tmp_path, name=NAME, resolve=resolve) as (_, port):
            [reply] = pipeline(port, [("GET", "k")])
            assert str(reply) == "ERR server 's1' of pool 'alpha': Connection refused"


@pytest.fixture
def names(monkeypatch):
    """A dict of names and their addresses, used by getaddrinfo. Other names resolve as usual."""
    found = {}
    getaddrinfo = socket.getaddrinfo

    def look_up(host, port, *arguments, **keywords):
        return getaddrinfo(found.get(host, host), port, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


def test_a_name_that_changes_its_address_is_resolved_again(names, tmp_path):
    names[NAME] = HOST
    with (
        RedisServer() as old,
        RedisServer("--bind", "127.0.0.2", "--port", str(old.port)) as new,
        running_worker([old], tmp_path, name=NAME) as (_, port),
        Client(port) as client,
    ):
        assert client("SET", "where", "old") == b"OK"
        names[NAME] = "127.0.0.2"
        # A working connection is kept.
        assert client("GET", "where") == b"old"
        assert pipeline(new.unix_path, [("SET", "where", "new")]) == [b"OK"]
        old.kill()
        wait_until(lambda: client("GET", "where") == b"new", "the new address")


def test_a_name_that_does_not_exist_at_first_is_resolved_again(names, tmp_path):
    names[NAME] = "nosuch.invalid"
    with (
        RedisServer() as redis,
        running_worker([redis], tmp_path, name=NAME) as (_, port),
        Client(port) as client,
    ):
        refusal = client.error("GET", "k")
        assert refusal.startswith("ERR server 's1' of pool 'alpha': cannot resolve host: ")
        names[NAME] = HOST
        wait_until(lambda: client("GET", "k") is None, "the name")
