"""The functions and the settings of arq's worker."""

from arq import Retry
from arq.connections import RedisSettings
from helpers import PORT

SETTINGS = RedisSettings(host="127.0.0.1", port=PORT)


async def double(context, number):
    return 2 * number


async def fail_once(context):
    if context["job_try"] == 1:
        raise Retry(defer=0.1)
    return "second run"


class Worker:
    functions = (double, fail_once)
    redis_settings = SETTINGS
    poll_delay = 0.05
    health_check_interval = 1
