"""A Dramatiq application with a Redis broker and results in Redis."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as LimitsBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from helpers import URL

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL), store_results=True))
dramatiq.set_broker(broker)
limits = LimitsBackend(url=URL)


@dramatiq.actor
def add(one, two):
    return one + two


@dramatiq.actor(max_retries=3, min_backoff=10, max_backoff=10)
def fail_once(key):
    if limits.add(key, 1, 60_000):
        raise ValueError("as planned")
    return "second run"


@dramatiq.actor
def limited():
    with ConcurrentRateLimiter(limits, "limited", limit=1).acquire():
        return "alone"
