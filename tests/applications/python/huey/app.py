"""Three Huey applications: a list, a sorted set with priorities, and results that expire."""

import os

from helpers import PORT
from huey import PriorityRedisHuey, RedisExpireHuey, RedisHuey

KINDS = {"list": RedisHuey, "priority": PriorityRedisHuey, "expire": RedisExpireHuey}
KIND = os.environ.get("HUEY_KIND", "list")
huey = KINDS[KIND](KIND, host="127.0.0.1", port=PORT)


@huey.task()
def add(one, two):
    return one + two


@huey.task(retries=2)
def fail_once(key):
    if huey.storage.incr(key) == 1:
        raise ValueError("as planned")
    return "second run"


@huey.task()
@huey.lock_task("guard")
def guarded():
    return "alone"
