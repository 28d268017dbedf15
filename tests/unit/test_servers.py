"""The guarantees of the servers that tests use."""

import socket

import pytest

from tests.scripted import ScriptedServer, answer_memcache
from tests.servers import HOST, MemcachedServer, RedisServer, closed_ports, connect


def takes(port):
    """Whether a socket without SO_REUSEPORT can be bound to this port."""
    with socket.socket() as other:
        try:
            other.bind((HOST, port))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("server", [RedisServer, MemcachedServer])
def test_port_of_a_killed_server_stays_reserved_for_its_restart(server):
    with server() as one:
        port = one.port
        for _ in range(2):
            one.kill()
            with pytest.raises(ConnectionRefusedError):
                connect(port)
            assert not takes(port)
            one.restart()
            assert one.port == port
            connect(port).close()
    assert takes(port)


def test_port_of_a_scripted_server_that_refuses_stays_reserved():
    with ScriptedServer(answer_memcache) as one:
        for _ in range(2):
            one.refuse()
            with pytest.raises(ConnectionRefusedError):
                connect(one.port)
            assert not takes(one.port)
            one.listen()
            connect(one.port).close()


def test_closed_ports_are_not_assigned_to_other_sockets():
    """This includes sockets with SO_REUSEPORT."""
    with closed_ports(100) as ports, closed_ports(300) as others:
        assert len({*ports, *others}) == 400
