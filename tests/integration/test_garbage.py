# tests/integration/test_garbage.py: no reference cycle is left behind
"""The cyclic collector is off in the loop, so an unreachable cycle is a leak. Each test repeats one
kind of traffic or failure, and then the collector must find nothing."""

import json
import os
import signal
import socket
import sys

import pytest

from tests import binary
from tests.binary import Op
from tests.client import Client, requests, talk
from tests.integration.conftest import mc_pool, pool
from tests.scripted import ScriptedServer, never, reply_to
from tests.servers import HOST, MemcachedServer, NutproxyServer, RedisServer, connect, wait_until

ROUNDS = 20


class Inspected(NutproxyServer):
    """nutproxy that reports the objects that only the cyclic collector would free."""

    def command(self):
        program = super().command()
        return [sys.executable, "-m", "tests.garbage", self.socket, *program[3:]]

    @property
    def socket(self):
        return str(self.directory / "garbage.sock")

    def garbage(self):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket)
            return json.loads(connection.makefile().read())


def unknown_host(config):
    return config.replace(f"- {HOST}:", "- no-such-host.invalid:")


def redis_traffic(proxy, servers):
    with Client(proxy.port) as client:
        for n in range(ROUNDS):
            client("SET", f"k{n}", "v" * n * 1000)
            client("GET", f"k{n}")
            client("MGET", *[f"k{n}" for n in range(ROUNDS)])
            client("MSET", *[f"{n}" for n in range(2 * ROUNDS)])
            client("DEL", *[f"{n}" for n in range(ROUNDS)])
        for command in ("KEYS *", "DBSIZE", "RANDOMKEY", "SCAN 0", "SCRIPT EXISTS a", "FLUSHALL"):
            client(*command.split())


def local_commands(proxy, servers):
    with Client(proxy.port) as client:
        for _ in range(ROUNDS):
            for command in (
                "HELLO 3",
                "HELLO 2",
                "CLIENT LIST",
                "CLIENT INFO",
                "CLIENT SETNAME x",
                "INFO",
                "TIME",
                "COMMAND COUNT",
                "ECHO x",
                "LOLWUT",
                "RESET",
            ):
                client(*command.split())


def subscriptions(proxy, servers):
    for resp in (2, 3):
        for n in range(ROUNDS):
            with Client(proxy.port) as client, Client(proxy.port) as other:
                client("HELLO", resp)
                client.send("SUBSCRIBE", "a", f"own:{n}")
                client.send("PSUBSCRIBE", "a*")
                client.replies(3)
                other("PUBLISH", "a", "x")
                client.replies(2)
                client.pipeline(("UNSUBSCRIBE", "a"), ("RESET",))
                client.replies(2)
                client.pipeline(("MULTI",), ("SUBSCRIBE", "b"), ("GET", "k"), ("EXEC",))
                client.replies(4)
                other.send("SUBSCRIBE", "gone")


def refused_commands(proxy, servers):
    with Client(proxy.port) as client:
        for _ in range(ROUNDS):
            for command in (
                "NOSUCH a b",
                "GET",
                "SINTER a b c d e f",
                "MULTI",
                "DISCARD",
                "CONFIG GET x",
                "AUTH a b",
                "SELECT 5",
                "RESET",
                "CLIENT NOSUCH",
                "HELLO 9",
            ):
                client.send(*command.split())
                client.reply()


def server_errors(proxy, servers):
    with Client(proxy.port) as client:
        for _ in range(ROUNDS):
            client.pipeline(
                ("SET", "s", "x"), ("LPUSH", "s", "y"), ("EVAL", "return {err='x'}", "0")
            )
            client.replies(3)


def broken_framing(proxy, servers):
    for _ in range(ROUNDS):
        talk(proxy.port, b"*1\r\n$x\r\n")
        talk(proxy.port, b"GET 'x\r\n")


def clients_come_and_go(proxy, servers):
    for n in range(ROUNDS):
        connection = connect(proxy.port)
        connection.sendall(requests("GET a", "MGET a b c d", "INFO", "CLIENT LIST")[: 20 * n])
        connection.close()
    with Client(proxy.port) as client:
        wait_until(lambda: client("CLIENT", "LIST").count(b"\n") == 1, "the others gone")


def statistics(proxy, servers):
    for _ in range(ROUNDS):
        proxy.stats()


def signals(proxy, servers):
    for _ in range(ROUNDS):
        os.kill(proxy.pid, signal.SIGHUP)
        os.kill(proxy.pid, signal.SIGTTIN)
        os.kill(proxy.pid, signal.SIGTTOU)
    proxy.log()


def servers_die(proxy, servers):
    with Client(proxy.port) as client:
        for _ in range(3):
            servers[0].kill()
            for n in range(ROUNDS):
                client.send("GET", f"k{n}")
                client.reply()
            servers[0].restart()
            wait_until(lambda: served(client), "all servers back")


def served(client):
    client.pipeline(*[("GET", f"k{n}") for n in range(ROUNDS)])
    return not any(isinstance(reply, Exception) for reply in client.replies(ROUNDS))


REDIS = [
    redis_traffic,
    local_commands,
    refused_commands,
    subscriptions,
    server_errors,
    broken_framing,
    clients_come_and_go,
    statistics,
    signals,
    servers_die,
]


@pytest.fixture(scope="module")
def inspected():
    with RedisServer() as one, RedisServer() as two:
        options = {"timeout": 2000, "auto_eject_hosts": "true", "server_failure_limit": 1}
        config = pool("alpha", [one, two], server_retry_timeout=50, **options)
        with Inspected(config, "-v", "11") as proxy:
            yield proxy, [one, two]


@pytest.mark.parametrize("kind", REDIS, ids=lambda kind: kind.__name__)
def test_redis_pools_leave_no_cycle(inspected, kind):
    proxy, servers = inspected
    kind(proxy, servers)
    proxy.garbage()
    kind(proxy, servers)
    assert proxy.garbage() == {"counts": {}, "objects": []}


def test_memcached_pools_leave_no_cycle():
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        Inspected(mc_pool("alpha", [one, two], timeout=2000)) as proxy,
    ):
        proxy.garbage()
        for _ in range(ROUNDS):
            talk(
                proxy.port,
                b"set a 0 0 1\r\nx\r\nget a b c d e f\r\nset a 0 0 x\r\nmg a v k\r\nstats\r\n"
                b"stats items\r\nnosuch\r\nversion\r\nflush_all\r\nverbosity 1\r\nquit\r\n",
            )
        one.kill()
        for _ in range(ROUNDS):
            talk(proxy.port, b"get a b c d e f\r\nquit\r\n")
        assert proxy.garbage() == {"counts": {}, "objects": []}


def test_binary_clients_leave_no_cycle():
    def requests():
        keys = [b"a", b"b", b"c", b"d e", b"\r\n"]
        for key in keys:
            yield from (binary.request(opcode, key) for opcode in (Op.GET, Op.GETK, Op.DELETE))
            yield from (binary.request(opcode, key) for opcode in (Op.GETQ, Op.GETKQ))
            yield binary.request(Op.SET, key, b"v", extras=binary.storage())
            yield binary.request(Op.GATKQ, key, extras=binary.expiring())
            yield binary.request(Op.INCREMENT, key, extras=binary.counting())
        yield from (binary.request(Op.GETKQ, key) for key in keys * 3)
        yield from (binary.request(Op.STAT, key) for key in (b"", b"items", b"settings", b"no"))
        yield from (binary.request(opcode) for opcode in (Op.NOOP, Op.VERSION, Op.FLUSH, Op.FLUSHQ))
        yield binary.request(Op.SASL_AUTH, b"PLAIN", b"\0user\0secret")
        yield binary.request(0x30, b"k", b"v")

    sent = b"".join(requests())
    endings = [
        binary.request(Op.QUIT),
        binary.request(Op.QUITQ),
        binary.request(Op.GET),
        binary.request(Op.GET, magic=0x81),
    ]
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        Inspected(mc_pool("alpha", [one, two], timeout=2000)) as proxy,
    ):
        proxy.garbage()
        for ending in endings * (ROUNDS // 4 + 1):
            talk(proxy.port, sent + ending)
        one.kill()
        for ending in endings:
            talk(proxy.port, sent + ending)
        assert proxy.garbage() == {"counts": {}, "objects": []}


def test_names_that_do_not_resolve_leave_no_cycle():
    with RedisServer() as server:
        config = unknown_host(pool("alpha", [server], timeout=2000))
        with Inspected(config) as proxy, Client(proxy.port) as client:
            client.send("GET", "a")
            client.reply()
            proxy.garbage()
            before = proxy.output.count("cannot resolve")
            wait_until(
                lambda: proxy.stats()["alpha"]["s1"]["server_probes"] > 2, "probes that fail"
            )
            assert before >= 1
            assert proxy.garbage() == {"counts": {}, "objects": []}


def test_timeouts_and_odd_servers_leave_no_cycle():
    def odd(session):
        session.receive()
        session.send(b"?what\r\n")

    def unasked(session):
        request = session.receive()
        session.send(reply_to(request) + b"+MORE\r\n")
        session.receive()

    for script in (never, odd, unasked):
        with (
            ScriptedServer(script) as server,
            Inspected(pool("alpha", [server], timeout=50)) as proxy,
        ):
            with Client(proxy.port) as client:
                for _ in range(5):
                    client.send("GET", "a")
                    client.reply()
                proxy.garbage()
                for _ in range(5):
                    client.send("GET", "a")
                    client.reply()
            assert proxy.garbage() == {"counts": {}, "objects": []}, script.__name__
