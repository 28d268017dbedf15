# tests/applications/test_applications.py: applications that keep their data in Redis
"""The settings in a row of `SCENARIOS` are those that docs/applications.md gives to users.

`make applications` runs all scenarios. Otherwise only those run that are installed within seconds.
"""

import os

import pytest

from tests.applications import environments
from tests.applications.scenarios import Scenario
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 * environments.MINUTES)]

QUICK = [
    Scenario("python/flask-session"),
]
OTHERS = [
    Scenario("python/arq", pool={"hash_tag": "'a:'"}),
    Scenario("python/django-redis", pool={"transactions": "split"}),
    Scenario("node/connect-redis"),
    Scenario("node/rate-limiter-flexible"),
]
SCENARIOS = QUICK + OTHERS if os.environ.get("NUTPROXY_APPLICATIONS") else QUICK


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
