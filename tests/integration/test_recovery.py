"""The errors that a server failure causes with nutproxy and with nutcracker, which have the same
server and the same load at the same time.

Ten clients of each proxy request one key as fast as they get replies, while the server of both
proxies is killed, restarted, stopped, or kept busy. Other tests stop nutproxy itself, which must
not treat its servers as failed because of that."""

import contextlib
import threading
import time

import hiredis
import pytest

from tests.client import Client
from tests.integration.conftest import pool
from tests.scripted import PONG, ScriptedServer, answer, reply_to, value_of
from tests.servers import NutcrackerServer, NutproxyServer, RedisServer, connect, wait_until

ATTEMPTS = 5
CLIENTS = 10
TIMEOUT = 400
# Keeps the server busy for this many milliseconds.
BUSY = """
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local till = now() + ARGV[1]
while now() < till do end
return 'done'
"""


class Load:
    """Clients of one proxy, until `stop`. Each has one request for each key in flight. An error is
    recorded with the time of its request."""

    def __init__(self, port, keys=("k",)):
        self.port = port
        self.requests = [("GET", key) for key in keys]
        self.errors = []
        self.replies = 0
        self.stopped = False
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self):
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(Client(self.port))
            while not self.stopped:
                sent = time.monotonic()
                try:
                    client.pipeline(*self.requests)
                    replies = client.replies(len(self.requests))
                    failed = any(isinstance(reply, hiredis.ReplyError) for reply in replies)
                except ConnectionError:
                    failed = True
                    client = stack.enter_context(Client(self.port))
                if failed:
                    self.errors.append(sent)
                else:
                    self.replies += 1

    def stop(self):
        self.stopped = True
        for thread in self.threads:
            thread.join()


def answers(redis):
    """Does the server reply on a new connection?"""
    with contextlib.suppress(OSError), connect(redis.port) as direct:
        direct.settimeout(TIMEOUT / 1000)
        direct.sendall(b"PING\r\n")
        return direct.recv(100) == b"+PONG\r\n"
    return False


def killed(redis):
    redis.kill()
    time.sleep(0.3)
    redis.restart()


def restarted(redis):
    redis.restart()


def stopped(redis):
    redis.stop()
    time.sleep(0.6)
    redis.cont()


def stopped_for_longer(redis):
    redis.stop()
    time.sleep(1.0)
    redis.cont()


def kept_busy(redis):
    with Client(redis.port) as direct:
        assert direct("EVAL", BUSY, "0", "600") == b"done"


@pytest.mark.parametrize(
    "disturb", [killed, restarted, stopped, stopped_for_longer, kept_busy], ids=lambda f: f.__name__
)
def test_a_server_that_is_disturbed_costs_no_more_errors_than_with_nutcracker(disturb):
    with RedisServer() as redis:
        config = pool("alpha", [redis], timeout=TIMEOUT, auto_eject_hosts="false")
        with NutproxyServer(config) as nutproxy, NutcrackerServer(config) as nutcracker:
            loads = [Load(nutproxy.port), Load(nutcracker.port)]
            ours, theirs = loads
            try:
                for _ in range(ATTEMPTS):
                    before = ours.replies, theirs.replies
                    wait_until(
                        lambda before=before: (
                            ours.replies > before[0] + 100 and theirs.replies > before[1] + 100
                        ),
                        "load",
                    )
                    ours.errors, theirs.errors = [], []
                    disturb(redis)
                    wait_until(lambda: answers(redis), "the server's return")
                    back = time.monotonic()
                    before = ours.replies
                    wait_until(lambda before=before: ours.replies > before + 200, "replies")
                    late = [error for error in ours.errors if error > back]
                    if not late and len(ours.errors) <= len(theirs.errors):
                        break
                    # On a loaded machine a client may be so late with its request that one more
                    # timeout fits in. A fault costs errors each time.
            finally:
                for load in loads:
                    load.stop()
            assert late == []
            assert len(ours.errors) <= len(theirs.errors)


def pause(nutproxy, then):
    """Stop the proxy for longer than the timeout. `then` is called as soon as it has stopped."""
    nutproxy.stop()
    then()
    time.sleep(1.5 * TIMEOUT / 1000)
    nutproxy.cont()


def test_a_reply_that_has_come_while_the_proxy_was_stopped_is_used():
    go = threading.Event()

    def script(session):
        while request := session.receive():
            session.wait(go)
            session.send(reply_to(request))

    options = {"auto_eject_hosts": "true", "server_failure_limit": 1}
    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=TIMEOUT, **options)) as nutproxy,
        Client(nutproxy.port) as client,
    ):
        for number in range(1, 11):
            go.clear()
            client.send("GET", "k")
            wait_until(lambda number=number: len(server.requests) == number, "the request")
            pause(nutproxy, go.set)
            assert client.reply() == value_of(b"k")
        assert nutproxy.stats()["alpha"]["server_ejects"] == 0
        assert server.accepted == 1


def test_a_handshake_reply_that_comes_while_the_proxy_is_stopped_is_used():
    go = threading.Event()
    begun = []

    def script(session):
        begun.append(session.next_request())
        session.wait(go)
        session.send(PONG)
        answer(session)

    options = {"auto_eject_hosts": "true", "server_failure_limit": 1}
    with (
        ScriptedServer(script) as server,
        NutproxyServer(pool("alpha", [server], timeout=TIMEOUT, **options)) as nutproxy,
        Client(nutproxy.port) as client,
    ):
        for number in range(1, 6):
            go.clear()
            client.send("GET", "k")
            wait_until(lambda number=number: len(begun) == number, "the handshake")
            pause(nutproxy, go.set)
            assert client.reply() == value_of(b"k")
            server.close_all()
            wait_until(lambda: not server.sessions[-1].open, "the end of the connection")
        assert nutproxy.stats()["alpha"]["server_ejects"] == 0


def test_servers_are_not_blamed_for_a_pause_of_the_proxy(shards):
    """Each pause is as long as the timeout, and the replies to all requests in flight have to wait
    for its end."""
    options = {"auto_eject_hosts": "true", "server_failure_limit": 1}
    with NutproxyServer(pool("alpha", shards, timeout=TIMEOUT, **options)) as nutproxy:
        load = Load(nutproxy.port, [f"key{number}" for number in range(50)])
        try:
            for _ in range(20):
                before = load.replies
                wait_until(lambda before=before: load.replies > before + 20, "load")
                nutproxy.stop()
                time.sleep(TIMEOUT / 1000)
                nutproxy.cont()
        finally:
            load.stop()
        assert load.errors == []
        stats = nutproxy.stats()["alpha"]
        assert stats["server_ejects"] == 0
        for server in ("s1", "s2", "s3"):
            assert stats[server]["server_timedout"] == stats[server]["requests_timedout"] == 0
