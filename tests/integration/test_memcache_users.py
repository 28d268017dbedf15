"""Clients of a Memcached pool with `users` have to authenticate first. Those of the text protocol
are compared with memcached -Y."""

import hashlib

import pytest

from tests.binary import BinaryClient, Op, Status
from tests.client import talk
from tests.integration.conftest import mc_pool
from tests.servers import MemcachedServer, NutproxyServer, connect

HASH = hashlib.sha256(b"hashed").hexdigest()
USERS = f'["app on >secret >other", "hash on #{HASH}", "old off >secret", "guest on nopass"]'


@pytest.fixture(scope="module")
def proxy():
    with (
        MemcachedServer() as server,
        NutproxyServer(mc_pool("alpha", [server], users=USERS)) as proxy,
    ):
        yield proxy


@pytest.fixture(scope="module")
def memcached(tmp_path_factory):
    """A memcached with the same user."""
    file = tmp_path_factory.mktemp("users") / "users"
    file.write_text("app:secret\n")
    with MemcachedServer("-Y", str(file)) as server:
        yield server


def login(data):
    return b"set any 0 0 %d\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize(
    "lines",
    [
        [b"get k\r\n"],
        [b"version\r\n"],
        [b"nonsense\r\n"],
        [b"set k 0 0\r\n"],
        [login(b"app secret"), b"get k\r\n"],
        [login(b"app wrong"), b"get k\r\n"],
        [login(b"nobody secret")],
        [login(b"app")],
        [login(b"")],
        [login(b"app secret more"), b"get k\r\n"],
        [login(b"app wrong"), login(b"app secret"), b"set k 0 0 1\r\nv\r\n", b"delete k\r\n"],
    ],
)
def test_text_clients_authenticate_as_with_memcached(proxy, memcached, lines):
    """One at a time: memcached loses the errors of pipelined lines."""
    with connect(proxy.port) as client, connect(memcached.port) as direct:
        for line in lines:
            found = []
            for connection in (client, direct):
                connection.sendall(line)
                found.append(connection.recv(1000))
            assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        (b"app secret", True),
        (b"app other", True),
        (b"app hashed", False),
        (b"hash hashed", True),
        (b"hash " + HASH.encode(), False),
        (b"old secret", False),
        (b"guest anything", True),
        (b"on on", False),
    ],
)
def test_users_are_those_of_the_file(proxy, words, accepted):
    reply = talk(proxy.port, login(words) + b"quit\r\n")
    assert reply.startswith(b"STORED" if accepted else b"CLIENT_ERROR authentication failure")
    with BinaryClient(proxy.port) as client:
        answer = client(Op.SASL_AUTH, b"PLAIN", b"\0" + words.replace(b" ", b"\0"))
        assert answer.status == (Status.OK if accepted else Status.AUTH_ERROR)
        assert answer.value == (b"Authenticated" if accepted else b"Auth failure.")


def test_a_binary_client_works_after_sasl(proxy):
    with BinaryClient(proxy.port) as client:
        assert client(Op.VERSION).status == Status.OK
        assert client(Op.SASL_LIST_MECHS).value == b"PLAIN"
        assert client(Op.SASL_STEP, b"PLAIN", b"\0app\0secret").status == Status.AUTH_ERROR
        assert client(Op.SASL_AUTH, b"CRAM-MD5", b"\0app\0secret").status == Status.AUTH_ERROR
        assert client(Op.SASL_AUTH, b"PLAIN", b"app\0app\0secret").status == Status.OK
        assert client(Op.SET, b"k", b"v", extras=bytes(8)).status == Status.OK
        assert client(Op.GET, b"k").value == b"v"
        # A failure takes the authentication back.
        assert client(Op.SASL_AUTH, b"PLAIN", b"\0app\0wrong").status == Status.AUTH_ERROR
        assert client(Op.GET, b"k", opaque=7).status == Status.AUTH_ERROR
        assert client.closed()


def test_nothing_is_carried_out_before_sasl(proxy):
    for op in (Op.NOOP, Op.GET, Op.GETKQ, Op.FLUSHQ, Op.STAT, 0x60):
        key = b"k" if op in (Op.GET, Op.GETKQ) else b""
        with BinaryClient(proxy.port) as client:
            client.send(op, key, opaque=9)
            client.send(Op.SASL_AUTH, b"PLAIN", b"\0app\0secret")
            refused = client.response()
            assert (refused.status, refused.opaque) == (Status.AUTH_ERROR, 9)
            assert client.closed()


def test_what_a_client_can_make_nutproxy_keep_before_it_has_authenticated_is_small(proxy):
    with BinaryClient(proxy.port) as client:
        big = client(Op.SASL_AUTH, b"PLAIN", bytes(20000))
        assert big.status in (Status.TOO_LARGE, Status.AUTH_ERROR)
    reply = talk(proxy.port, b"set k 0 0 20000\r\n" + bytes(20000) + b"\r\nquit\r\n")
    assert reply.startswith(b"SERVER_ERROR object too large for cache\r\n")


def test_sasl_is_unknown_without_users_as_in_memcached():
    with (
        MemcachedServer() as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        BinaryClient(server.port) as direct,
        BinaryClient(proxy.port) as client,
    ):
        for one in (direct, client):
            for words in ((Op.SASL_LIST_MECHS,), (Op.SASL_AUTH, b"PLAIN", b"\0a\0b")):
                answer = one(*words)
                assert answer.status == Status.UNKNOWN_COMMAND
            assert one(Op.NOOP).status == Status.OK
