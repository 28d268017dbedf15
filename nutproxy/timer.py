# nutproxy/timer.py: the wait queue
"""Things that happen later: retries, probes, connection deadlines, periodic work.

    schedule ──> [ 12 ms | 15 ms | 2000 ms ] ──> expired, run once per turn
                   ^ the poller sleeps until this one

These are few (a handful a server), so a heap of Python objects carries them. Deadlines of requests
are many and do not stand here: those of one pool are all equally long, so each pool appends them to
a queue of its own, in order, at no cost (pool.py).

A cancelled timer stays until it surfaces; cancelling is O(1). A timer never runs inside the call
that armed it.
"""

import logging
from heapq import heappop, heappush

import cython

log = logging.getLogger("nutproxy")


@cython.cclass
class Timer:
    """One thing to do at `expires`; `cancel` makes it nothing."""

    def __init__(self, expires: cython.longlong, callback):
        self.expires = expires
        self.callback = callback

    def cancel(self):
        self.cancelled = True
        self.callback = None


@cython.cclass
class WaitQueue:
    """Timers in order of expiry; equal ones in the order in which they were armed."""

    def __init__(self):
        self.heap = []
        self.first = -1

    def schedule(self, expires, callback):
        """Arm a timer for `expires`, in milliseconds of the loop's clock."""
        timer = Timer(expires, callback)
        self.serial += 1
        heappush(self.heap, (expires, self.serial, timer))
        if self.first < 0 or timer.expires < self.first:
            self.first = timer.expires
        return timer

    def next_expiry(self):
        """When the next timer expires, -1 if there is none."""
        return self.first

    def run(self, now):
        """Run what has expired; how many. One that raises does not stop the others."""
        count: cython.int = 0
        last: cython.longlong = self.serial
        if self.first < 0 or now < self.first:
            return 0
        while self.heap and self.heap[0][0] <= now and self.heap[0][1] <= last:
            timer = cython.cast(Timer, heappop(self.heap)[2])
            if timer.cancelled:
                continue
            count += 1
            try:
                timer.callback()
            except Exception:
                log.exception("a timer failed")
        self.first = cython.cast(Timer, self.heap[0][2]).expires if self.heap else -1
        return count
