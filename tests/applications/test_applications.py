# tests/applications/test_applications.py: applications that keep their data in Redis or memcached
"""The settings in a row of `SCENARIOS` are those that docs/applications.md gives to users.

`make applications` runs all scenarios. Otherwise only those run that are installed within seconds.
"""

import os

import pytest

from tests.applications import environments
from tests.applications.scenarios import Scenario
from tests.integration.conftest import mc_pool, pool
from tests.servers import MemcachedServer, NutproxyServer, RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 * environments.MINUTES)]

QUICK = [
    Scenario("python/django-redis", pool={"transactions": "split"}),
    Scenario("python/redis-py"),
    Scenario("python/rq", pool={"hash_tag": "'r:'"}),
]
OTHERS = [
    Scenario("python/arq", pool={"hash_tag": "'a:'"}),
    Scenario("python/celery", variables={"BROKER_PREFIX": "{celery}"}),
    Scenario(
        "python/celery", variables={"BROKER_PREFIX": "{celery}", "BACKEND_PREFIX": "{results}"}
    ),
    Scenario("python/django", pool={"transactions": "split"}),
    Scenario("python/dramatiq"),
    Scenario("python/flask-session"),
    Scenario("python/huey"),
    Scenario("python/valkey-glide"),
    Scenario("node/bullmq", variables={"BULL_PREFIX": "{bull}"}),
    Scenario("node/bullmq", pool={"hash_tag": "'::'"}),
    Scenario("node/connect-redis"),
    Scenario("node/ioredis"),
    Scenario("node/node-redis"),
    Scenario("node/rate-limiter-flexible"),
    Scenario("node/socket.io"),
    Scenario("php/phpredis.php"),
    Scenario("php/predis.php"),
    Scenario("ruby/redis.rb"),
    Scenario("ruby/sidekiq.rb", pool={"hash_tag": "'q:'", "transactions": "split"}),
]
# These speak memcached's binary protocol.
MEMCACHED_QUICK = [
    Scenario("python/bmemcached"),
]
MEMCACHED_OTHERS = [
    Scenario("node/memjs"),
    Scenario("php/memcached.php"),
    Scenario("ruby/dalli.rb"),
]
ALL = bool(os.environ.get("NUTPROXY_APPLICATIONS"))
SCENARIOS = QUICK + OTHERS if ALL else QUICK
MEMCACHED = MEMCACHED_QUICK + MEMCACHED_OTHERS if ALL else MEMCACHED_QUICK


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_with_one_redis(scenario):
    """The control: a scenario that fails here says nothing about nutproxy."""
    with RedisServer() as server:
        scenario.run(server.port)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_with_nutproxy_and_three_servers(scenario):
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
        NutproxyServer(pool("alpha", [one, two, three], **scenario.pool)) as proxy,
    ):
        scenario.run(proxy.port)
        assert "rror" not in proxy.log()


@pytest.mark.parametrize("scenario", MEMCACHED, ids=str)
def test_with_one_memcached(scenario):
    """The control, as above."""
    with MemcachedServer() as server:
        scenario.run(server.port)


@pytest.mark.parametrize("scenario", MEMCACHED, ids=str)
def test_with_nutproxy_and_three_memcached_servers(scenario):
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as three,
        NutproxyServer(mc_pool("alpha", [one, two, three], **scenario.pool)) as proxy,
    ):
        scenario.run(proxy.port)
        assert "rror" not in proxy.log()
