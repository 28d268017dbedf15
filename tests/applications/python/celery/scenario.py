"""A hundred tasks, a chord, a chain, retries, a remote control command, and a killed worker whose
task is done by another."""

import contextlib
import os

import redis
from celery import chain, chord, group
from helpers import DEADLINE, URL, background, wait_until
from tasks import add, app, fail, flaky, hang_once, total


@contextlib.contextmanager
def worker(name, *options):
    command = ["-m", "celery", "-A", "tasks", "worker", "-n", f"{name}@%h", "-l", "WARNING"]
    with background(*command, *options) as process:
        wait_until(
            lambda: any(reply for reply in app.control.ping(timeout=0.3) if name in str(reply)),
            f"worker {name}",
        )
        yield process


def run_tasks():
    results = [add.delay(number, number) for number in range(100)]
    assert [one.get(DEADLINE) for one in results] == [2 * number for number in range(100)]
    assert all(one.successful() for one in results)
    results[0].forget()

    # A chord counts its results in several keys.
    if os.environ.get("BACKEND_PREFIX"):
        header = (add.s(number, number) for number in range(10))
        assert chord(header)(total.s()).get(DEADLINE) == 90
    assert chain(add.s(1, 2), add.s(3), add.s(4))().get(DEADLINE) == 10
    assert group(add.s(number, 1) for number in range(10))().get(DEADLINE) == [*range(1, 11)]
    assert flaky.delay().get(DEADLINE) == 2
    assert add.apply_async((1, 2), countdown=1).get(DEADLINE) == 3
    failed = fail.delay()
    with contextlib.suppress(ValueError):
        failed.get(DEADLINE)
        raise AssertionError("the error is lost")
    assert failed.failed()

    [statistics] = app.control.inspect(timeout=5).stats().values()
    assert sum(statistics["total"].values()) >= 100


with worker("first", "--pool", "prefork", "--concurrency", "2") as first:
    run_tasks()
    first.terminate()
    assert first.wait(DEADLINE) == 0

with redis.Redis.from_url(URL) as client, worker("second", "--pool", "solo") as second:
    result = hang_once.delay("runs")
    wait_until(lambda: client.get("runs") == b"1", "start of the task")
    second.kill()
    second.wait()
    with worker("third", "--pool", "solo"):
        assert result.get(DEADLINE) == 2
