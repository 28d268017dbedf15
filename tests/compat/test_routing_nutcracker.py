"""Routes compared with the real nutcracker: it writes keys, and the servers are asked directly
which of them has each key.

One nutcracker serves all pools, and all pools use the same four Redis servers. How many of them a
pool has, and their names and weights, are drawn from a fixed seed.
"""

import random
from dataclasses import dataclass

import pytest

from nutproxy.hashkit.hashes import HASHES
from nutproxy.hashkit.order import server_order_key
from nutproxy.hashkit.router import Router
from tests.servers import NutcrackerServer, RedisServer, pipeline, wait_until

TWEMPROXY_HASHES = sorted(set(HASHES) - {"murmur3"})
TAGS = [None, "{}", "$$"]
FORMS = ["named", "unnamed", "unix", "named unix", "long name"]


@dataclass
class Pool:
    """A pool in nutcracker's configuration, and what nutproxy must make of the same lines."""

    name: str
    hash: str
    distribution: str
    hash_tag: str | None
    servers: list[tuple[RedisServer, bytes, int]]  # with hashed name and weight, in index order
    lines: list[str]
    options: str = ""

    def config(self):
        tag = f'  hash_tag: "{self.hash_tag}"\n' if self.hash_tag else ""
        return (
            f"{self.name}:\n  listen: auto\n  redis: true\n  hash: {self.hash}\n{tag}"
            f"  distribution: {self.distribution}\n{self.options}  servers:\n"
            + "".join(f"   - {line}\n" for line in self.lines)
        )

    def router(self):
        tag = self.hash_tag.encode() if self.hash_tag else None
        return Router(self.hash, self.distribution, tag, [server[1:] for server in self.servers])

    def where(self, router, keys):
        """The keys that nutproxy puts on each server, by port."""
        placed = {redis.port: set() for redis, _, _ in self.servers}
        for key in keys:
            placed[self.servers[router.explain(key).server][0].port].add(key)
        return placed


def draw_pool(rng, name, hash, distribution, tag, backends, options=""):
    drawn = []
    weights = rng.choice([[1], [1, 2, 3], [1, 50, 1000], [99991, 99989, 3, 1]])
    for backend in rng.sample(backends, rng.randint(2, len(backends))):
        weight = rng.choice(weights)
        form = rng.choice(FORMS)
        address = backend.unix_path if "unix" in form else f"127.0.0.1:{backend.port}"
        hashed = f"{address}:" if form == "unix" else str(address)
        given = ""
        if "name" in form and form != "unnamed":
            size = rng.randint(260, 290) if form == "long name" else rng.randint(5, 12)
            hashed = "".join(rng.choices("abcxyz-._:0129", k=size)) + "e"
            given = f" {hashed}"
        drawn.append((f"{address}:{weight}{given}", (backend, hashed.encode(), weight)))
    servers = sorted(
        (server for _, server in drawn), key=lambda server: server_order_key(server[1])
    )
    lines = [line for line, _ in drawn]
    return Pool(name, hash, distribution, tag, servers, lines, options)


def draw_key(rng):
    """Text, binary, tagged, half tagged, empty and long keys."""
    text = rng.choice(["user:%d", "key:%d", "k%d", "session:%d:cart"]) % rng.randrange(10**6)
    raw = rng.randbytes(rng.randint(1, 24))
    return rng.choice(
        [
            text.encode(),
            raw,
            bytes(byte | 0x80 for byte in raw),
            b"%b{%b}%b" % (raw[:4], text.encode(), raw[4:8]),
            b"{%b}" % raw,
            b"$%b$tail" % raw,
            b"{}" + raw,
            b"$$" + raw,
            text.encode() + b"{" + raw,
            b"}" + raw + b"{",
            raw * 100,
        ]
    )


def write(port, keys):
    assert set(pipeline(port, [("SET", key, b"") for key in keys])) == {b"OK"}


def take(backends):
    """The keys of each server, by port. The servers are emptied."""
    return {
        backend.port: set(pipeline(backend.port, [("KEYS", "*"), ("FLUSHALL",)])[0])
        for backend in backends
    }


@pytest.fixture(scope="module")
def backends():
    with RedisServer() as a, RedisServer() as b, RedisServer() as c, RedisServer() as d:
        yield [a, b, c, d]


@pytest.fixture(scope="module")
def pools(backends):
    rng = random.Random(2012)
    return {
        (hash, distribution, tag): draw_pool(
            rng, f"p{hash}{distribution}{TAGS.index(tag)}", hash, distribution, tag, backends
        )
        for hash in TWEMPROXY_HASHES
        for distribution in ("ketama", "modula", "random")
        for tag in TAGS
    }


@pytest.fixture(scope="module")
def nutcracker(pools):
    with NutcrackerServer("".join(pool.config() for pool in pools.values())) as server:
        yield server


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("distribution", ["ketama", "modula"])
@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_every_key_is_where_nutcracker_puts_it(
    hash, distribution, tag, nutcracker, pools, backends
):
    rng = random.Random(f"{hash} {distribution} {tag}")
    pool = pools[hash, distribution, tag]
    keys = {b"", *(draw_key(rng) for _ in range(250))}
    write(nutcracker.ports[pool.name], keys)
    actual = take(backends)
    for port, expected in pool.where(pool.router(), keys).items():
        assert actual[port] == expected, pool


@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_random_uses_every_server_whatever_its_weight_as_nutcracker_does(
    hash, nutcracker, pools, backends
):
    pool = pools[hash, "random", None]
    keys = [b"key:%d" % i for i in range(400)]
    write(nutcracker.ports[pool.name], keys)
    actual = take(backends)
    expected = pool.where(pool.router(), keys)
    assert sum(len(held) for held in actual.values()) == len(keys)
    assert {port for port, held in actual.items() if held} == set(expected)
    assert all(expected.values())


@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_a_single_server_takes_every_key_in_both(distribution, backends):
    [backend, *_] = backends
    line = f"127.0.0.1:{backend.port}:7 only"
    pool = Pool("one", "md5", distribution, None, [(backend, b"only", 7)], [line])
    keys = {b"", b"a", b"\xff\x80", b"long" * 100}
    with NutcrackerServer(pool.config()) as nutcracker:
        write(nutcracker.ports["one"], keys)
    assert take([backend])[backend.port] == keys
    assert pool.where(pool.router(), keys) == {backend.port: keys}


def test_ejected_servers_keys_go_where_nutcracker_sends_them(backends):
    options = (
        "  auto_eject_hosts: true\n  server_failure_limit: 1\n  server_retry_timeout: 3600000\n"
    )
    rng = random.Random(604)
    with RedisServer() as doomed:
        pools = [
            draw_pool(rng, f"e{number}", "fnv1a_64", distribution, None, backends, options)
            for number, distribution in enumerate(["ketama", "modula"] * 6)
        ]
        for pool in pools:
            # Heavy enough to get keys, because nutcracker notices the failure only when it sends
            # one.
            weight = rng.randint(1, 3) * max(weight for _, _, weight in pool.servers)
            pool.lines.append(f"127.0.0.1:{doomed.port}:{weight} doomed")
            pool.servers.append((doomed, b"doomed", weight))
            pool.servers.sort(key=lambda server: server_order_key(server[1]))
        keys = {draw_key(rng) for _ in range(250)}
        with NutcrackerServer("".join(pool.config() for pool in pools)) as nutcracker:
            doomed.kill()
            for pool in pools:
                port = nutcracker.ports[pool.name]
                commands = [("SET", key, b"") for key in keys]
                wait_until(
                    lambda port=port, commands=commands: set(pipeline(port, commands)) == {b"OK"},
                    "ejection by nutcracker",
                )
                take(backends)
                write(port, keys)
                actual = take(backends)
                router = pool.router()
                router.set_live([redis is not doomed for redis, _, _ in pool.servers])
                expected = pool.where(router, keys)
                assert expected.pop(doomed.port) == set()
                for backend_port, held in expected.items():
                    assert actual[backend_port] == held, pool
