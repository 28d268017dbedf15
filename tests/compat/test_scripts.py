"""The conversations of tests/compat/scripts.py with nutcracker and with nutproxy, both with the
same configuration file."""

import contextlib
from pathlib import Path

import pytest

from tests.client import request
from tests.compat.scripts import CLOSED, DIFFERENCES, ELSEWHERE, SAME, document
from tests.servers import (
    MemcachedServer,
    NutcrackerServer,
    NutproxyServer,
    RedisServer,
    connect,
)

ROOT = Path(__file__).parents[2]
POOL = """\
{name}:
  listen: auto
  hash: fnv1a_64
  hash_tag: "{{}}"
  distribution: ketama
{options}  servers:
{servers}"""

# The end of every conversation. No other reply contains it.
END = b"--- the end ---"
REDIS_LAST = (
    request("SET", "last:one", END) + request("GET", "last:one"),
    b"+OK\r\n$15\r\n%b\r\n" % END,
)
LAST = {
    "redis": REDIS_LAST,
    "auth": REDIS_LAST,
    "memcached": (
        b"set last:one 0 0 15\r\n%b\r\nget last:one\r\n" % END,
        b"STORED\r\nVALUE last:one 0 15\r\n%b\r\nEND\r\n" % END,
    ),
}


def pool(name, servers, options):
    return POOL.format(
        name=name,
        options=options,
        servers="".join(
            f"   - 127.0.0.1:{server.port}:1 s{number}\n" for number, server in enumerate(servers)
        ),
    )


class Both:
    """Both proxies, with the same servers."""

    def __init__(self, stack):
        enter = stack.enter_context
        self.servers = {
            "redis": [enter(RedisServer()) for _ in range(3)],
            "auth": [enter(RedisServer("--requirepass", "secret"))],
            "memcached": [enter(MemcachedServer()) for _ in range(3)],
        }
        config = (
            pool("redis", self.servers["redis"], "  redis: true\n")
            + pool("auth", self.servers["auth"], "  redis: true\n  redis_auth: secret\n")
            + pool("memcached", self.servers["memcached"], "")
        )
        self.theirs = enter(NutcrackerServer(config))
        self.ours = enter(NutproxyServer(config))

    def answer(self, proxy, name, sent):
        """The reply of `proxy` to these bytes when the pool is empty."""
        for server in self.servers[name]:
            with connect(server.port) as connection:
                if name == "memcached":
                    connection.sendall(b"flush_all\r\n")
                    assert connection.recv(100) == b"OK\r\n"
                else:
                    connection.sendall(b"AUTH secret\r\nFLUSHALL\r\nSCRIPT FLUSH\r\n")
                    received = b""
                    while received.count(b"\r\n") < 3:
                        received += connection.recv(1000)
        last, reply = LAST[name]
        received = b""
        with connect(proxy.ports[name]) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
                connection.sendall(last)
            while True:
                try:
                    part = connection.recv(1 << 20)
                except ConnectionResetError:
                    part = b""
                if not part:
                    return received + CLOSED
                received += part
                if received.endswith(reply):
                    return received.removesuffix(reply)


@pytest.fixture(scope="module")
def both():
    with contextlib.ExitStack() as stack:
        yield Both(stack)


@pytest.mark.parametrize(
    ("pool", "sent"), [pytest.param(name, sent, id=f"{name}-{what}") for name, what, sent in SAME]
)
def test_both_answer_with_the_same_bytes(both, pool, sent):
    theirs = both.answer(both.theirs, pool, sent)
    assert both.answer(both.ours, pool, sent) == theirs


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, id=f"{row.what[:40]}-{number}")
        for row in DIFFERENCES
        for number, script in enumerate(row.scripts)
    ],
)
def test_they_differ_as_the_table_says(both, script):
    assert both.answer(both.ours, script.pool, script.sent) == script.ours
    assert both.answer(both.theirs, script.pool, script.sent) == script.theirs


def test_documentation_is_generated_from_the_table():
    written = (ROOT / "docs/differences.md").read_text(encoding="utf-8")
    assert written == document(), "run: python -m tests.compat.scripts"


def test_the_tests_listed_in_elsewhere_exist():
    for row in ELSEWHERE:
        for test in row.tests:
            file, name = test.split("::")
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
