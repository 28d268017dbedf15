# tests/integration/conftest.py: servers shared by the tests of a module
"""Redis or memcached servers with proxies in front of them, started once for each test module.

Tests that stop, kill or fill their servers start their own (tests.servers).
"""

import pytest

from tests.servers import NutproxyServer, RedisServer

POOL = """\
{name}:
  listen: auto
  hash: fnv1a_64
  distribution: ketama
  redis: {redis}
{options}  servers:
{servers}"""


def pool(name, servers, **options):
    """A pool of these RedisServers in twemproxy's format. They are named s1, s2, …"""
    return pool_text(name, servers, "true", options)


def mc_pool(name, servers, **options):
    """A pool of these MemcachedServers in twemproxy's format. They are named s1, s2, …"""
    return pool_text(name, servers, "false", options)


def pool_text(name, servers, redis, options):
    options = {"hash_tag": '"{}"', **options}
    return POOL.format(
        name=name,
        redis=redis,
        options="".join(f"  {key}: {value}\n" for key, value in options.items()),
        servers="".join(
            f"   - 127.0.0.1:{server.port}:1 s{number}\n"
            for number, server in enumerate(servers, start=1)
        ),
    )


@pytest.fixture(scope="module")
def shards():
    """Three Redis servers."""
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxy(shards):
    """A proxy with the pool `alpha` of all three servers, and `one` of the first server only."""
    with NutproxyServer(pool("alpha", shards) + pool("one", shards[:1])) as proxy:
        yield proxy
