"""The same data through nutproxy and through the real nutcracker, both ways.

    nutproxy   ──> pool hash, distribution ┐
                                            ├──> the same Redis servers, under names and weights
    nutcracker ──> pool hash, distribution ┘

One process of each has a pool for every hash and distribution. What is written through one is read
and deleted through the other, which only works if both find every key on the same server.
"""

import random

import pytest

from nutproxy.hashkit.hashes import HASHES
from tests.servers import NutcrackerServer, NutproxyServer, RedisServer, pipeline

TWEMPROXY_HASHES = sorted(set(HASHES) - {"murmur3"})
TAGS = ["", "{}", "$$"]
POOL = """\
{name}:
  listen: auto
  redis: true
  hash: {hash}
  distribution: {distribution}
{tag}  servers:
{servers}"""


def config(backends):
    """The pools; their names, weights and tags are drawn from the name of the hash."""
    pools = []
    for hash in TWEMPROXY_HASHES:
        rng = random.Random(hash)
        weights = rng.choice([[1], [1, 2, 5]])
        names = rng.choice([["", "", ""], [" node1", " node2", " node10"]])
        lines = [
            f"   - 127.0.0.1:{server.port}:{rng.choice(weights)}{name}\n"
            for server, name in zip(backends, names, strict=True)
        ]
        for distribution in "ketama", "modula", "random":
            tag = rng.choice(TAGS)
            pools.append(
                POOL.format(
                    name=f"{hash}-{distribution}",
                    hash=hash,
                    distribution=distribution,
                    tag=f'  hash_tag: "{tag}"\n' if tag else "",
                    servers="".join(lines),
                )
            )
    return "".join(pools)


def draw_keys(rng, count):
    """Text, binary, tagged and half tagged keys, none twice."""
    keys = set()
    while len(keys) < count:
        raw = rng.randbytes(rng.randint(1, 20))
        text = b"user:%d" % rng.randrange(10**6)
        keys.add(
            rng.choice(
                [
                    text,
                    raw,
                    bytes(byte | 0x80 for byte in raw),
                    raw + b"{" + text + b"}" + raw,
                    b"{}" + raw,
                    b"$" + raw + b"$" + text,
                    b"$$" + text,
                    raw + b"{" + text,
                    b"}\r\n{" + raw,
                    raw * 40,
                ]
            )
        )
    return sorted(keys)


@pytest.fixture(scope="module")
def backends():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def nutproxy(backends):
    with NutproxyServer(config(backends)) as server:
        yield server


@pytest.fixture(scope="module")
def nutcracker(backends):
    with NutcrackerServer(config(backends)) as server:
        yield server


@pytest.fixture
def empty(backends):
    for backend in backends:
        assert pipeline(backend.port, [("FLUSHALL",), ("CONFIG", "RESETSTAT")]) == [b"OK", b"OK"]


def held(backends):
    """How many keys there are on all servers together."""
    return sum(pipeline(backend.port, [("DBSIZE",)])[0] for backend in backends)


def lookups(backends):
    """How many keys were looked up on all servers together since their statistics were reset."""
    count = 0
    for backend in backends:
        [info] = pipeline(backend.port, [("INFO", "stats")])
        fields = dict(line.split(b":") for line in info.split() if line.startswith(b"keyspace_"))
        count += int(fields[b"keyspace_hits"]) + int(fields[b"keyspace_misses"])
    return count


def write_and_read(writer, reader, keys, backends):
    """One key at a time, then all at once."""
    values = [b"value of " + key for key in keys]
    assert set(pipeline(writer, [("SET", *pair) for pair in zip(keys, values, strict=True)])) == {
        b"OK"
    }
    assert held(backends) == len(keys)
    assert pipeline(reader, [("GET", key) for key in keys]) == values
    assert pipeline(reader, [("MGET", *keys)]) == [values]
    assert pipeline(reader, [("DEL", *keys)]) == [len(keys)]
    assert held(backends) == 0

    pairs = [word for pair in zip(keys, values, strict=True) for word in pair]
    assert pipeline(writer, [("MSET", *pairs)]) == [b"OK"]
    assert pipeline(reader, [("GET", key) for key in keys]) == values
    assert pipeline(reader, [("DEL", key) for key in keys]) == [1] * len(keys)
    assert held(backends) == 0


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("distribution", ["ketama", "modula"])
@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_what_one_proxy_writes_the_other_finds(hash, distribution, nutproxy, nutcracker, backends):
    rng = random.Random(f"{hash} {distribution}")
    ours = nutproxy.ports[f"{hash}-{distribution}"]
    theirs = nutcracker.ports[f"{hash}-{distribution}"]
    write_and_read(ours, theirs, draw_keys(rng, 150), backends)
    write_and_read(theirs, ours, draw_keys(rng, 150), backends)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_random_sends_each_key_of_a_split_command_once(hash, nutproxy, backends):
    port = nutproxy.ports[f"{hash}-random"]
    keys = draw_keys(random.Random(hash), 300)
    assert pipeline(port, [("MSET", *(word for key in keys for word in (key, key)))]) == [b"OK"]
    assert held(backends) == len(keys)
    assert all(pipeline(backend.port, [("DBSIZE",)])[0] for backend in backends)

    # Each key is asked of one server, which may be another than it was written to.
    [values] = pipeline(port, [("MGET", *keys)])
    assert len(values) == len(keys)
    assert all(value in (None, key) for key, value in zip(keys, values, strict=True))
    assert lookups(backends) == len(keys)

    [found] = pipeline(port, [("EXISTS", *keys)])
    assert 0 < found < len(keys)
    [deleted] = pipeline(port, [("DEL", *keys)])
    assert held(backends) == len(keys) - deleted
