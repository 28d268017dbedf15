"""Jobs, jobs that depend on others, a failure, a retry, a scheduled job, two queues."""

import datetime

import redis
import tasks
from helpers import URL, background, wait_until
from rq import Queue, Retry, Worker
from rq.job import Job

connection = redis.Redis.from_url(URL)
queue = Queue(connection=connection)


def done(jobs):
    wait_until(lambda: all(job.is_finished for job in jobs), "jobs")
    return [job.return_value() for job in jobs]


def run_jobs():
    jobs = [queue.enqueue(tasks.double, number) for number in range(20)]
    assert done(jobs) == [2 * number for number in range(20)]
    assert Job.fetch(jobs[0].id, connection=connection).is_finished
    assert len(queue.finished_job_registry) == 20

    parts = [queue.enqueue(tasks.double, number) for number in range(3)]
    assert done([queue.enqueue(tasks.sum_of_dependencies, depends_on=parts)]) == [6]

    failed = queue.enqueue(tasks.fail)
    wait_until(lambda: failed.get_status(refresh=True) == "failed", "failure")
    assert "as planned" in failed.latest_result().exc_string
    assert len(queue.failed_job_registry) == 1
    assert done([queue.enqueue(tasks.fail_once, retry=Retry(max=1))]) == ["second run"]

    batch = queue.enqueue_many([Queue.prepare_data(tasks.double, (n,)) for n in range(10)])
    assert done(batch) == [2 * number for number in range(10)]
    later = queue.enqueue_in(datetime.timedelta(seconds=1), tasks.double, 4)
    assert done([later]) == [8]


with background("-m", "rq.cli", "worker", "--url", URL, "--with-scheduler") as worker:
    run_jobs()
    assert len(Worker.all(connection=connection)) == 1
    worker.terminate()
    assert worker.wait(40) == 0
assert not Worker.all(connection=connection)

# A worker of several queues waits with BLPOP, a worker of one queue with BLMOVE.
urgent = Queue("urgent", connection=connection)
with background("-m", "rq.cli", "worker", "--url", URL, "urgent", "default"):
    assert done([urgent.enqueue(tasks.double, 1), queue.enqueue(tasks.double, 2)]) == [2, 4]
