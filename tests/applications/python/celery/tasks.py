"""A Celery application with a Redis broker and a Redis result backend."""

import os
import time

import redis
from celery import Celery
from helpers import DATABASE_1, URL

app = Celery("tasks", broker=URL, backend=DATABASE_1)
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1
# Seconds until the tasks of a dead worker are given to another one. The defaults are an hour, and a
# look every hundred seconds.
app.conf.broker_transport_options = {
    "visibility_timeout": 2,
    "unacked_restore_interval": 0.5,
    "unacked_restore_throttle": 1,
}
app.conf.result_backend_transport_options = {}
if prefix := os.environ.get("BROKER_PREFIX"):
    app.conf.broker_transport_options["global_keyprefix"] = prefix
if prefix := os.environ.get("BACKEND_PREFIX"):
    app.conf.result_backend_transport_options["global_keyprefix"] = prefix


@app.task
def add(one, two):
    return one + two


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def fail():
    raise ValueError("as planned")


@app.task(bind=True, max_retries=3)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(acks_late=True)
def hang_once(key):
    """Hangs the first time. Returns the number of the run."""
    runs = redis.Redis.from_url(URL).incr(key)
    if runs == 1:
        # Until its worker is killed, which is what the test does.
        time.sleep(600)
    return runs
