# tests/applications/clients.py: clients in languages that are compiled
"""`make clients` runs this file. A client whose compiler is not there is left out, and the last
lines of the output say so."""

import shutil

import pytest

from tests.applications import environments
from tests.applications.scenarios import Scenario
from tests.integration.conftest import mc_pool, pool
from tests.servers import MemcachedServer, NutproxyServer, RedisServer

pytestmark = pytest.mark.timeout(60 * environments.MINUTES)

PROGRAMS = {"go": ["go"], "java": ["mvn", "javac"], "rust": ["cargo"]}
REDIS = [
    Scenario("go/go-redis"),
    Scenario("go/redigo"),
    Scenario("java/jedis"),
    Scenario("java/lettuce"),
    Scenario("rust/redis-rs"),
]
MEMCACHED = [
    Scenario("go/gomemcache"),
    Scenario("java/spymemcached"),
    Scenario("java/spymemcached", variables={"PROTOCOL": "BINARY"}),
]


@pytest.fixture(autouse=True)
def compiler(scenario):
    for program in PROGRAMS[scenario.language]:
        if not shutil.which(program):
            pytest.skip(f"{scenario} is left out: there is no {program}")


@pytest.mark.parametrize("scenario", REDIS, ids=str)
def test_with_one_redis(scenario):
    """The control: a client that fails here says nothing about nutproxy."""
    with RedisServer() as server:
        scenario.run(server.port)


@pytest.mark.parametrize("scenario", REDIS, ids=str)
def test_with_three_redis_servers(scenario):
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
        NutproxyServer(pool("alpha", [one, two, three])) as proxy,
    ):
        scenario.run(proxy.port)
        assert "rror" not in proxy.log()


@pytest.mark.parametrize("scenario", MEMCACHED, ids=str)
def test_with_one_memcached(scenario):
    """The control, as above."""
    with MemcachedServer() as server:
        scenario.run(server.port)


@pytest.mark.parametrize("scenario", MEMCACHED, ids=str)
def test_with_three_memcached_servers(scenario):
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as three,
        NutproxyServer(mc_pool("alpha", [one, two, three])) as proxy,
    ):
        scenario.run(proxy.port)
        assert "rror" not in proxy.log()
