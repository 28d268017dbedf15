"""The same data through nutproxy and through the real nutcracker, both ways.

    nutproxy   ──> pool protocol, hash, distribution ┐
                                                      ├──> the same servers, under names and weights
    nutcracker ──> pool protocol, hash, distribution ┘

One process of each proxy, with the same file, has a pool for every protocol, hash and distribution.
Keys that are written through one are read and deleted through the other, which only works if both
find every key on the same server. The last test does the same with the example of
docs/migrating-from-twemproxy.md.
"""

import random
import re
from pathlib import Path

import pytest

from nutproxy.hashkit.hashes import HASHES
from tests.memcache import MemcacheClient
from tests.servers import (
    MemcachedServer,
    NutcrackerServer,
    NutproxyServer,
    RedisServer,
    pipeline,
)

GUIDE = Path(__file__).parents[2] / "docs/migrating-from-twemproxy.md"

TWEMPROXY_HASHES = sorted(set(HASHES) - {"murmur3"})
TAGS = ["", "{}", "$$"]
POOL = """\
{name}:
  listen: auto
  redis: {redis}
  hash: {hash}
  distribution: {distribution}
{tag}  servers:
{servers}"""


def pool_name(redis, hash, distribution):
    return f"{'redis' if redis else 'memcached'}-{hash}-{distribution}"


def config(backends, redis):
    """The pools. Their names, weights and tags are drawn with the name of the hash as the seed."""
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
                    name=pool_name(redis, hash, distribution),
                    redis=str(redis).lower(),
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


def draw_memcached_keys(rng, count):
    """The same without what memcached refuses: control bytes, spaces, more than 250 bytes."""
    keys = {re.sub(rb"[\x00-\x20\x7f]", b"_", key)[:250] for key in draw_keys(rng, count)}
    return sorted(keys)


@pytest.fixture(scope="module")
def backends():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def caches():
    with MemcachedServer() as one, MemcachedServer() as two, MemcachedServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def file(backends, caches):
    return config(backends, redis=True) + config(caches, redis=False)


@pytest.fixture(scope="module")
def nutproxy(file):
    with NutproxyServer(file) as server:
        yield server


@pytest.fixture(scope="module")
def nutcracker(file):
    with NutcrackerServer(file) as server:
        yield server


@pytest.fixture
def empty(backends):
    for backend in backends:
        assert pipeline(backend.port, [("FLUSHALL",), ("CONFIG", "RESETSTAT")]) == [b"OK", b"OK"]


def cached(caches):
    """The number of items on all memcached."""
    count = 0
    for cache in caches:
        with MemcacheClient(cache.port) as client:
            count += int(re.search(rb"^STAT curr_items (\d+)\r$", client(b"stats"), re.M)[1])
    return count


def held(backends):
    """The number of keys on all servers."""
    return sum(pipeline(backend.port, [("DBSIZE",)])[0] for backend in backends)


def lookups(backends):
    """The number of lookups of keys on all servers since their statistics were reset."""
    count = 0
    for backend in backends:
        [info] = pipeline(backend.port, [("INFO", "stats")])
        fields = dict(line.split(b":") for line in info.split() if line.startswith(b"keyspace_"))
        count += int(fields[b"keyspace_hits"]) + int(fields[b"keyspace_misses"])
    return count


def write_and_read(writer, reader, keys, backends):
    """Write and read one key at a time, then all at once."""
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


def write_and_read_memcached(writer, reader, keys, caches):
    """Write one key at a time. Read one key at a time, and all at once."""
    items = {key: b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(key), key) for key in keys}
    with MemcacheClient(writer) as client:
        for key in keys:
            assert client(b"set %b 0 0 %d" % (key, len(key)), key) == b"STORED\r\n"
    assert cached(caches) == len(keys)
    with MemcacheClient(reader) as client:
        for key in keys:
            assert client(b"get " + key) == items[key] + b"END\r\n"
        assert client(b"get " + b" ".join(keys)) == b"".join(items.values()) + b"END\r\n"
        for key in keys:
            assert client(b"delete " + key) == b"DELETED\r\n"
    assert cached(caches) == 0


both = pytest.mark.parametrize("distribution", ["ketama", "modula"])


@pytest.mark.usefixtures("empty")
@both
@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_keys_that_one_proxy_writes_are_found_by_the_other(
    hash, distribution, nutproxy, nutcracker, backends
):
    rng = random.Random(f"{hash} {distribution}")
    name = pool_name(True, hash, distribution)
    ours, theirs = nutproxy.ports[name], nutcracker.ports[name]
    write_and_read(ours, theirs, draw_keys(rng, 150), backends)
    write_and_read(theirs, ours, draw_keys(rng, 150), backends)


@both
@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_items_that_one_proxy_caches_are_found_by_the_other(
    hash, distribution, nutproxy, nutcracker, caches
):
    rng = random.Random(f"{hash} {distribution}")
    name = pool_name(False, hash, distribution)
    ours, theirs = nutproxy.ports[name], nutcracker.ports[name]
    write_and_read_memcached(ours, theirs, draw_memcached_keys(rng, 150), caches)
    write_and_read_memcached(theirs, ours, draw_memcached_keys(rng, 150), caches)


@pytest.mark.usefixtures("empty")
def test_the_file_of_the_guide_works_under_both(backends, caches):
    text = re.search(r"```yaml\n(sessions:\n.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)[1]
    text = re.sub(r"listen: .*", "listen: auto", text)
    servers = iter([*backends, *caches])
    text = re.sub(
        r"- [\d.]+:\d+:(\d+) ", lambda line: f"- 127.0.0.1:{next(servers).port}:{line[1]} ", text
    )
    assert next(servers, None) is None
    rng = random.Random("guide")
    with NutproxyServer(text) as ours, NutcrackerServer(text) as theirs:
        for writer, reader in (ours, theirs), (theirs, ours):
            ports = writer.ports["sessions"], reader.ports["sessions"]
            write_and_read(*ports, draw_keys(rng, 150), backends)
            ports = writer.ports["pages"], reader.ports["pages"]
            write_and_read_memcached(*ports, draw_memcached_keys(rng, 150), caches)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("hash", TWEMPROXY_HASHES)
def test_random_sends_each_key_of_a_split_command_once(hash, nutproxy, backends):
    port = nutproxy.ports[pool_name(True, hash, "random")]
    keys = draw_keys(random.Random(hash), 300)
    assert pipeline(port, [("MSET", *(word for key in keys for word in (key, key)))]) == [b"OK"]
    assert held(backends) == len(keys)
    assert all(pipeline(backend.port, [("DBSIZE",)])[0] for backend in backends)

    # Each key is requested from one server, which may not be the one that it was written to.
    [values] = pipeline(port, [("MGET", *keys)])
    assert len(values) == len(keys)
    assert all(value in (None, key) for key, value in zip(keys, values, strict=True))
    assert lookups(backends) == len(keys)

    [found] = pipeline(port, [("EXISTS", *keys)])
    assert 0 < found < len(keys)
    [deleted] = pipeline(port, [("DEL", *keys)])
    assert held(backends) == len(keys) - deleted
