# nutproxy/io/timer.py: the wait queue
"""Timers for retries, probes, connection deadlines and periodic work.

    schedule ──> [ 12 ms | 15 ms | 2000 ms ] ──> expired timers run once per turn
                   ^ the poller sleeps until this one

There are only a few timers per server, so they are Python objects in a heap. Request deadlines are
many and are not kept here. All requests of a pool have the same timeout, so each pool appends their
deadlines to a queue that is already in order (pool.py).

Cancelling is O(1): a cancelled timer stays in the heap until it would have expired. A timer never
runs inside the call that scheduled it.
"""

import logging
from heapq import heappop, heappush

import cython

log = logging.getLogger("nutproxy")


@cython.cclass
class Timer:
    """Calls `callback` at `expires`, unless it is cancelled before."""

    def __init__(self, expires: cython.longlong, callback):
        self.expires = expires
        self.callback = callback

    def cancel(self):
        self.cancelled = True
        self.callback = None


@cython.cclass
class WaitQueue:
    """Timers in order of expiry. Timers that expire at the same time run in the order in which they
    were scheduled."""

    def __init__(self):
        self.heap = []
        self.first = -1

    def schedule(self, expires, callback):
        """Schedule `callback` for `expires`, in milliseconds of the loop's clock."""
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
        """Run the expired timers and return their number. If one raises, the others still run."""
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
