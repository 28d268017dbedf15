"""Broken and odd framing, sent to a real Redis and through nutproxy: the same bytes come back.

Each case is sent after pipelined commands and before a last one. The replies to the commands before
it come first. The last one is answered only if the connection was not closed.
"""

import contextlib
import socket
import threading

import pytest

from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, connect

KB = 1024
BEFORE = (
    b"*3\r\n$3\r\nSET\r\n$5\r\nfr:me\r\n$5\r\nvalue\r\n"
    b"PING\r\n"
    b"*2\r\n$3\r\nGET\r\n$5\r\nfr:me\r\n"
    b"*1\r\n$5\r\nBOGUS\r\n"
)
LAST = b"*2\r\n$4\r\nECHO\r\n$4\r\nlast\r\n"

# For these, Redis sends the same reply, and closes the connection in the same cases.
SAME = [
    b"",
    b"\r\n",
    b"\n",
    b"\r\n\n\r\n",
    b"   \r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-9223372036854775808\r\n",
    b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$2\r\n\0\xff\r\n$4\r\n\r\n*1\r\n",
    b"*2\r\n$3\r\nGET\r\n$2\r\n\0\xff\r\n",
    b"*2\r\n$4\r\nECHO\r\n$3000\r\n" + b"x" * 3000 + b"\r\n",
    b"PING\n",
    b"PING\r\r\n",
    b"  get \t fr:me  \r\n",
    b"get fr:me\rx\r\n",
    b'ECHO "a b"\r\n',
    b"ECHO 'a b'\r\n",
    b'ECHO ""\r\n',
    b'set fr:quoted "\\x00\\r\\n\\"x\\xZZ"\r\nget fr:quoted\r\n',
    b"ECHO 'it\\'s \\n'\r\n",
    b'ECHO "\\a\\b\\t\\q\\\\"\r\n',
    b'ECHO a"b c"\r\n',
    b"ECHO \\x41\r\n",
    b"ECHO \xe4\xf6\r\n",
    b"ECHO a\vb\fc\r\n",
    b'ECHO "x"\vy\r\n',
    b"ECHO\r\n",
    b"'BOGUS 'a b\r\n",
    b'"" x\r\n',
    b"ECHO " + b"x" * 5000 + b"\r\n",
    b"SET fr:long " + b"x" * 20000 + b"\r\nGET fr:long\r\n",
    b"SET 'fr:quoted' '" + b"x" * 60000 + b"'\r\nGET fr:quoted\r\n",
    b'ECHO "a\r\n',
    b"ECHO 'a\r\n",
    b'ECHO "a"b\r\n',
    b"ECHO 'a'b\r\n",
    b'ECHO "a\\"\r\n',
    b"$3\r\n",
    b"+OK\r\n",
    b"*\r\n",
    b"*-\r\n",
    b"*-0\r\n",
    b"*02\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*+1\r\n",
    b"* 1\r\n",
    b"*1 \r\n",
    b"*1a\r\n",
    b"*-01\r\n",
    b"*2147483648\r\n",
    b"*4294967298\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*9223372036854775808\r\n",
    b"*18446744073709551617\r\n",
    b"*99999999999999999999999\r\n",
    b"*" + b"1" * 64 * KB,
    b"*1\r\nPING\r\n",
    b"*1\r\n+4\r\nPING\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n%s%n\r\n",
    b"*1\r\n\xff\r\n",
    b"*1\r\n'\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n\n\r\n",
    b"*1\r\n\t\r\n",
    b"*2\r\n$3\r\nGET\r\nk\r\n",
    b"*1\r\n " + b"x" * 64 * KB,
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$-0\r\n",
    b"*1\r\n$03\r\nGET\r\n",
    b"*1\r\n$+3\r\nGET\r\n",
    b"*1\r\n$ 3\r\nGET\r\n",
    b"*1\r\n$3 \r\nGET\r\n",
    b"*1\r\n$3a\r\nGET\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$4294967299\r\nGET\r\n",
    b"*1\r\n$18446744073709551619\r\nGET\r\n",
    b"*1\r\n$9223372036854775808\r\n",
    b"*1\r\n$" + b"1" * 64 * KB,
    b"*2\r\n$3\r\nGET\r\n$01\r\nk\r\n",
    b"x" * (64 * KB + 1),
]

# nutproxy is stricter than Redis, which skips the two bytes after a line and after a bulk without
# checking them, and stops looking for the end of a line at a NUL. A server must see the same
# requests as nutproxy.
STRICTER = {
    b"*1\rX$4\r\nPING\r\n": b"-ERR Protocol error: invalid multibulk length\r\n",
    b"*1\r\n$4\rXPING\r\n": b"-ERR Protocol error: invalid bulk length\r\n",
    b"*1\0\r\n$4\r\nPING\r\n": b"-ERR Protocol error: invalid multibulk length\r\n",
    b"*1\r\n\0\r\n": b"-ERR Protocol error: expected '$', got '\0'\r\n",
    b"*1\r\n$4\r\nPINGXX": b"-ERR Protocol error: expected CR LF after bulk\r\n",
    b"*1\r\n$4\r\nPING\n\r": b"-ERR Protocol error: expected CR LF after bulk\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nkey\r\n": b"-ERR Protocol error: expected CR LF after bulk\r\n",
}

# Before AUTH.
UNAUTHENTICATED = [
    b"",
    b"PING\r\n",
    b"GET k\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*10\r\n" + b"$1\r\na\r\n" * 10,
    b"*11\r\n" + b"$1\r\na\r\n" * 11,
    b"*2147483647\r\n",
    b"*2147483648\r\n",
    b"*2\r\n$3\r\nGET\r\n$16384\r\n" + b"x" * 16384 + b"\r\n",
    b"*2\r\n$3\r\nGET\r\n$16385\r\n",
    b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
    b"*2\r\n$3\r\nGET\r\n$-1\r\n",
    b"*2\r\n$3\r\nGET\r\n$01\r\n",
    b"GET a b c d e f g h i j k l m n\r\n",
    b"GET " + b"x" * 20000 + b"\r\n",
    b"AUTH secret\r\n*12\r\n$6\r\nEXISTS\r\n" + b"$1\r\na\r\n" * 11,
    b"AUTH secret\r\n*2\r\n$4\r\nECHO\r\n$20000\r\n" + b"x" * 20000 + b"\r\n",
]


def name(data):
    return repr(data[:40])


def exchange(address, data, step=None):
    """All bytes received for `data`, which is sent at once or in pieces of `step` bytes, until the
    end. The client closes its side after sending everything; the server may close before that."""
    received = b""
    with connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for at in range(0, len(data), step or len(data)):
                connection.sendall(data[at : at + (step or len(data))])
            connection.shutdown(socket.SHUT_WR)
        # Bytes that were sent before the reset can still be read.
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    return received


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def locked_redis():
    with RedisServer("--requirepass", "secret") as redis:
        yield redis


@pytest.fixture(scope="module", params=[(), ("-m", "512")], ids=["default", "m512"])
def proxies(request, redis, locked_redis):
    """The ports of a pool of `redis`, and of a pool of `locked_redis` with its password."""
    config = pool("open", [redis]) + pool("locked", [locked_redis], redis_auth="secret")
    with NutproxyServer(config, *request.param) as proxy:
        yield proxy.ports


@pytest.mark.parametrize("case", SAME, ids=name)
def test_odd_framing_is_handled_as_in_redis(case, redis, proxies):
    data = BEFORE + case + LAST
    expected = exchange(redis.port, data)
    assert expected.startswith(b"+OK\r\n+PONG\r\n$5\r\nvalue\r\n-ERR unknown command 'BOGUS'")
    assert exchange(proxies["open"], data) == expected
    if len(data) < 2 * KB:
        assert exchange(proxies["open"], data, 1) == expected


@pytest.mark.parametrize("case", STRICTER, ids=name)
def test_wrong_terminators_close_the_connection(case, redis, proxies):
    expected = exchange(redis.port, BEFORE) + STRICTER[case]
    assert exchange(proxies["open"], BEFORE + case + LAST) == expected
    assert exchange(proxies["open"], BEFORE + case + LAST, 1) == expected


@pytest.mark.parametrize("case", UNAUTHENTICATED, ids=name)
def test_before_auth_the_bounds_are_those_of_redis(case, locked_redis, proxies):
    data = b"*1\r\n$5\r\nRESET\r\n" + case + LAST
    expected = exchange(locked_redis.port, data)
    assert exchange(proxies["locked"], data) == expected
    if len(data) < 2 * KB:
        assert exchange(proxies["locked"], data, 1) == expected


def test_a_long_inline_command_that_comes_in_pieces(redis, proxies):
    data = b"SET fr:pieces 'x  " + b"x" * 20000 + b"'\r\nGET fr:pieces\r\n"
    expected = exchange(redis.port, data)
    assert expected.startswith(b"+OK\r\n$20003\r\nx  x")
    for step in None, 16384, 9000, 1000:
        assert exchange(proxies["open"], data, step) == expected


def test_a_hundred_thousand_requests_at_once(redis, proxies):
    count = 100_000
    data = LAST * count
    with connect(proxies["open"]) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        left = count * len(b"$4\r\nlast\r\n")
        while left:
            chunk = connection.recv(1 << 20)
            assert chunk
            left -= len(chunk)
        sender.join()


def test_a_broken_client_does_not_affect_a_partial_request_of_another(proxies):
    with connect(proxies["open"]) as half, connect(proxies["open"]) as broken:
        half.sendall(b"*2\r\n$4\r\nECHO\r\n$4\r\nla")
        broken.sendall(b"*2\r\n$03\r\n")
        assert broken.recv(100) == b"-ERR Protocol error: invalid bulk length\r\n"
        assert broken.recv(100) == b""
        half.sendall(b"st\r\n")
        assert half.recv(100) == b"$4\r\nlast\r\n"
