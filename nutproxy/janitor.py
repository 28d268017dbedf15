# nutproxy/janitor.py: the periodic work of a worker
"""What is not caused by an event of a connection:

    work    every turn: a millisecond or two for jobs that would take too long for one turn
    tidy    every second: memory after a burst, probes, rings and requests that do not go on, a
            line about turns that wait
    look    twice per timeout: connections to servers on which requests have timed out

A timer that is due at a certain time belongs to what it is for.
"""

import logging
from functools import partial

import cython
from cython.cimports.nutproxy.front.client import end_unfinished
from cython.cimports.nutproxy.io.clock import clock_usec
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.io.reactor import Reactor, end_faulty
from cython.cimports.nutproxy.msg.message import messages_trim
from cython.cimports.nutproxy.pool import ServerPool

log = logging.getLogger("nutproxy")

# Milliseconds between runs of `tidy`.
TIDY_INTERVAL = 1000
# At least so many milliseconds are between runs of `look` at a pool.
LOOK_MIN = 10
# Microseconds after which no other job of the same queue gets a portion in this turn.
WORK_PER_TURN = cython.declare(cython.longlong, 1000)


@cython.cclass
class Janitor:
    """`pools` and `frontends` are the worker's lists, which may still grow."""

    def __init__(self, reactor: Reactor, pools: list, frontends: list):
        self.reactor = reactor
        self.pools = pools
        self.frontends = frontends
        self.watched = set()

    def work(self):
        """The loop's own jobs do not wait for replies, of which clients can ask for any number."""
        self.portions(self.reactor.jobs)
        return self.portions(self.reactor.replies)

    def portions(self, jobs):
        """Do a portion of each of these jobs, as long as there is time in this turn."""
        job: Job
        more: cython.bint
        end: cython.longlong = clock_usec() + WORK_PER_TURN
        for _ in range(jobs.count):
            job = jobs.first()
            more = False
            try:
                more = job.portion()
            except Exception:
                if job.conn is None:
                    log.exception("internal error in a job")
                else:
                    end_faulty(job.conn)
            jobs.next(more)
            if clock_usec() >= end:
                break
        return 0

    def tidy(self) -> None:
        """Schedules itself first: it must go on even if something below fails."""
        self.reactor.timers.schedule(self.reactor.now + TIDY_INTERVAL, self.tidy)
        messages_trim()
        self.reactor.coalescer.tell()
        for pool in self.pools:
            pool.keep_probing()
        for frontend in self.frontends:
            end_unfinished(frontend)
            if frontend.subscriptions is not None:
                frontend.subscriptions.tidy()
                frontend.tracking.tidy()

    def watch(self):
        """Requests may have timed out: see that `look` runs for their pools."""
        pool: ServerPool
        for pool in self.pools:
            if pool.suspects and pool not in self.watched:
                self.reactor.timers.schedule(
                    self.reactor.now + max(pool.timeout // 2, LOOK_MIN), partial(self.look, pool)
                )
                self.watched.add(pool)
        return 0

    def look(self, pool: ServerPool) -> None:
        self.watched.discard(pool)
        pool.close_silent()
        self.watch()
