# tests/isolation/innocents.py: well-behaved clients
"""Clients of a Redis and a Memcached pool that send requests without a pause during an attack, and
check every byte of the replies.

    with Arena() as arena:
        arena.innocents.beside(attack, arena)     calls attack(arena) until each has done its rounds

A round consists of writes, reads, commands for several servers, and a deep pipeline, with keys and
values of its own. `beside` fails for one wrong reply, one error, or one connection that is closed
or silent. It waits for rounds, not for a time: a client without replies fails by the timeout of its
socket.

Attacks may stop or kill the last server of a pool (`arena.redis[-1]`, `arena.memcached[-1]`). The
innocent clients have no keys there.
"""

import contextlib
import itertools
import threading

from tests.binary import BinaryClient, Op, request, storage
from tests.client import Client
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.scripted import keys_of
from tests.servers import MemcachedServer, NutproxyServer, RedisServer, wait_until

SERVERS = (1, 2, 3, 4)
ROUNDS = 10
DEPTH = 20
# A key on each server except the last, for the innocents, and one on the last server.
HOMES = [keys_of(number, SERVERS, 1)[0] for number in SERVERS[:-1]]
[VICTIM] = keys_of(SERVERS[-1], SERVERS, 1)


def expect(found, expected):
    if found != expected:
        raise AssertionError(f"{str(found)[:200]} instead of {str(expected)[:200]}")


class Innocent:
    """`rounds` is the number of completed rounds, `fault` the exception that ended the client."""

    def __init__(self, number, port):
        self.number = number
        self.port = port
        self.rounds = 0
        self.fault = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.keys = [b"{%b}%d" % (home, number) for home in HOMES]

    def run(self):
        try:
            with self.connection(self.port) as client:
                self.greet(client)
                while not self.over.is_set():
                    self.round(client, b"%d of %d" % (self.rounds, self.number))
                    self.rounds += 1
        except Exception as fault:
            self.fault = fault

    def greet(self, client):
        pass


class RedisInnocent(Innocent):
    connection = Client

    def greet(self, client):
        # Every second client uses RESP3, which has its own server connections.
        client("HELLO", 2 + self.number % 2)

    def round(self, client, value):
        for key in self.keys:
            expect(client("SET", key, value), b"OK")
            expect(client("GET", key), value)
        expect(client("MGET", *self.keys), [value] * len(self.keys))
        client.pipeline(*[("GET", key) for key in self.keys] * DEPTH)
        expect(client.replies(DEPTH * len(self.keys)), [value] * (DEPTH * len(self.keys)))
        expect(client("DEL", *self.keys), len(self.keys))
        expect(client("EXISTS", *self.keys), 0)


class MemcacheInnocent(Innocent):
    connection = MemcacheClient

    def round(self, client, value):
        found = {key: b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(value), value) for key in self.keys}
        for key in self.keys:
            expect(client(b"set %b 0 0 %d" % (key, len(value)), value), b"STORED\r\n")
            expect(client(b"get %b" % key), found[key] + b"END\r\n")
        whole = b"".join(found.values()) + b"END\r\n"
        client.send_bytes(b"get %b\r\n" % b" ".join(self.keys) * DEPTH)
        expect(client.replies(DEPTH), [whole] * DEPTH)
        for key in self.keys:
            expect(client(b"delete %b" % key), b"DELETED\r\n")
            expect(client(b"mg %b v" % key), b"EN\r\n")


class BinaryInnocent(Innocent):
    """A client of the Memcached pool that speaks the binary protocol."""

    connection = BinaryClient

    def round(self, client, value):
        for key in self.keys:
            expect(client(Op.SET, key, value, extras=storage(7)).status, 0)
            expect(client(Op.GET, key).value, value)
        quiet = [request(Op.GETKQ, key, opaque=at) for at, key in enumerate(self.keys)]
        client.send_bytes(b"".join(quiet) * DEPTH)
        found = [(each.opaque, each.key, each.value, each.flags) for each in client.barrier()]
        expect(found, [(at, key, value, 7) for at, key in enumerate(self.keys)] * DEPTH)
        for key in self.keys:
            client.send(Op.DELETEQ, key)
            client.send(Op.GETKQ, key)
        expect(client.barrier(), [])


class Innocents:
    def __init__(self, arena):
        redis, memcached = arena.proxy.ports["redis"], arena.proxy.ports["memcached"]
        self.all = [RedisInnocent(number, redis) for number in range(4)]
        self.all += [MemcacheInnocent(number, memcached) for number in range(3)]
        # Their keys have other numbers.
        self.all += [BinaryInnocent(number, memcached) for number in range(3, 5)]

    def __enter__(self):
        for each in self.all:
            each.thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        for each in self.all:
            each.over.set()
        for each in self.all:
            each.thread.join()

    def check(self):
        for each in self.all:
            if each.fault is not None:
                raise AssertionError(f"{type(each).__name__} {each.number}") from each.fault

    def counts(self):
        return [each.rounds for each in self.all]

    def have_done(self, before):
        """Whether all clients have done their rounds since `before`."""
        self.check()
        return all(now >= old + ROUNDS for old, now in zip(before, self.counts(), strict=True))

    def more(self):
        """Wait until each client has done its rounds. For attacks that last that long."""
        before = self.counts()
        wait_until(lambda: self.have_done(before), "rounds of the innocents")

    def beside(self, attack, arena):
        before = self.counts()
        for turn in itertools.count():
            attack(arena)
            if self.have_done(before) and turn:
                return


class Arena:
    """Four servers of each kind, and one proxy with a pool of each. Its ports are `port` (Redis)
    and `memcache_port`. The pool `locked` needs a password."""

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.redis = [stack.enter_context(RedisServer()) for _ in SERVERS]
            self.memcached = [stack.enter_context(MemcachedServer()) for _ in SERVERS]
            config = (
                pool("redis", self.redis, client_max_pending="2mb")
                + mc_pool("memcached", self.memcached, client_max_pending="2mb")
                + pool("locked", self.redis[:1], redis_auth="secret")
            )
            self.proxy = stack.enter_context(NutproxyServer(config))
            self.port = self.proxy.ports["redis"]
            self.memcache_port = self.proxy.ports["memcached"]
            self.innocents = stack.enter_context(Innocents(self))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        with self.stack:
            self.innocents.check()

    def hold(self):
        """Keep the attack as it is while each innocent does its rounds."""
        self.innocents.more()
