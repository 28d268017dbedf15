"""Functions that RQ's workers call."""

from rq import get_current_job


def double(number):
    return 2 * number


def fail():
    raise ValueError("as planned")


def fail_once():
    job = get_current_job()
    if job.retries_left:
        raise ValueError("as planned")
    return "second run"


def sum_of_dependencies():
    return sum(job.return_value() for job in get_current_job().fetch_dependencies())
