# nutproxy/io/coalesce.py: short waits that make turns fuller
"""A loop that polls as soon as it can finds one or two events in a turn, however much is in flight.
Each then costs a poll and a send of its own, and servers and clients get their bytes in small
pieces. Network cards had this problem with interrupts, and their answer is ours: while much is in
flight, there is a least time from one poll to the next.

    poll ── turn ── rest ── poll ── turn ── rest ── poll ── a long turn ── poll
     └──────── gap ────────┘ └──────── gap ────────┘ └─── gap ───┘

What happens in the meantime is found by the next poll. A turn that takes longer than the gap by
itself rests for nothing. Where little is in flight, everybody would wait for the loop. Whether it
rests, and for how long, follows from what it has counted in the last milliseconds:

    latency      from the queueing of a request for a server to its reply, less our own rest
    in_flight    replies per microsecond x latency (Little's law): the requests that servers have
    event_rate   events per microsecond
    fullness     events per turn
    busy         the share of a processor that the loop uses

    gap = latency x SHARE, at most `limit`; no gap
        if fewer than LEAST_EVENTS would come in it,
        if servers have fewer than LEAST_IN_FLIGHT requests to work on meanwhile,
        if the loop is less than LEAST_BUSY: there is time enough, or
        if turns are FULL without it

docs/performance.md has the measurements behind these figures.
"""

import logging

import cython
from cython.cimports.nutproxy.csys import (
    CLOCK_MONOTONIC,
    PR_SET_TIMERSLACK,
    clock_nanosleep,
    prctl,
    timespec,
)
from cython.cimports.nutproxy.io.clock import clock_usec
from cython.cimports.nutproxy.stats.slab import GLOBAL_WAITED_USEC, GLOBAL_WAITS, Slab

log = logging.getLogger("nutproxy")

# The gap is this part of the latency.
SHARE = cython.declare(cython.double, 2.0 / 3.0)
# No gap is shorter, in microseconds: each rest costs about 4 of processor time.
LEAST_GAP = cython.declare(cython.double, 20)
# A shorter rest is left out, in microseconds: it would end 4 late.
LEAST_REST = cython.declare(cython.longlong, 5)
LEAST_EVENTS = cython.declare(cython.double, 3)
LEAST_IN_FLIGHT = cython.declare(cython.double, 8)
LEAST_BUSY = cython.declare(cython.double, 0.6)
# Events in a turn that is full without a rest.
FULL = cython.declare(cython.double, 12)
# A loop that rests already goes on down to this part of the three.
HALF = cython.declare(cython.double, 0.5)
# Microseconds between decisions.
WINDOW = cython.declare(cython.longlong, 1000)
# The part that a window has in the averages, and the microseconds after which only it counts.
WEIGHT = cython.declare(cython.double, 0.125)
FORGET = cython.declare(cython.double, 10000)
# No window counts for more than twice the average and this, in microseconds.
LATENCY_STEP = cython.declare(cython.double, 50)
# Later than anything.
NEVER = cython.declare(cython.longlong, 1 << 62)
# Nanoseconds by which the kernel may delay the end of a rest. By default it is 50 microseconds.
TIMER_SLACK = cython.declare(cython.ulong, 1000)


@cython.cclass
class Coalescer:
    """`limit` is the greatest gap in microseconds; with 0 no turn ever waits."""

    def __init__(self, limit: int, slab: Slab):
        self.limit = limit
        self.used = -1
        self.stats = slab.row(0)

    def prepare(self) -> None:
        """Let this thread wake when it is told to."""
        if self.limit:
            prctl(PR_SET_TIMERSLACK, TIMER_SLACK)

    def rest(self, polled):
        """Wait until `gap` has passed since the last poll."""
        span: timespec
        begun: cython.longlong = clock_usec()
        left: cython.longlong = self.gap - (begun - polled)
        if left < LEAST_REST:
            return
        span.tv_sec = left // 1000000
        span.tv_nsec = left % 1000000 * 1000
        # A signal ends it early.
        clock_nanosleep(CLOCK_MONOTONIC, 0, cython.address(span), cython.NULL)
        left = clock_usec() - begun
        self.rested += left
        self.stats[GLOBAL_WAITS] += 1
        self.stats[GLOBAL_WAITED_USEC] += left

    def weighs(self):
        """Does it matter how busy the loop is? Where little is in flight, that system call is left
        out."""
        return self.in_flight >= LEAST_IN_FLIGHT * HALF

    def observe(self, now, counted, used):
        """Bring the averages up to date, and decide. `used` is the processor time of the loop in
        microseconds; -1 if it is not known."""
        span: cython.double = now - self.since
        weight: cython.double = WEIGHT if span < FORGET else 1
        turns: cython.double = counted.turns - self.before.turns
        events: cython.double = counted.events - self.before.events
        replies: cython.double = counted.replies - self.before.replies
        took: cython.double = counted.reply_usec - self.before.reply_usec
        if replies and turns:
            took = max(took / replies - self.rested / turns, 0.0)
            if weight < 1:
                # One slow command does not make the servers slow.
                took = min(took, 2 * self.latency + LATENCY_STEP)
            self.latency += (took - self.latency) * weight
        self.in_flight += (replies / span * self.latency - self.in_flight) * weight
        self.event_rate += (events / span - self.event_rate) * weight
        if turns:
            self.fullness += (events / turns - self.fullness) * weight
        if used < 0:
            self.busy = 0
        elif self.used >= 0:
            self.busy += ((used - self.used) / span - self.busy) * weight
        self.decide()
        self.since = now
        self.decide_at = now + WINDOW if self.limit else NEVER
        self.before = counted
        self.used = used
        self.rested = 0

    def decide(self):
        gap: cython.double = min(self.latency * SHARE, cython.cast(cython.double, self.limit))
        least: cython.double = HALF if self.gap else 1
        if (
            gap < LEAST_GAP
            or self.event_rate * gap < LEAST_EVENTS * least
            or self.in_flight < LEAST_IN_FLIGHT * least
            or self.busy < LEAST_BUSY * least
            or (self.gap == 0 and self.fullness >= FULL)
        ):
            gap = 0
        self.gap = cython.cast(cython.longlong, gap)

    def tell(self) -> None:
        """Log it, if turns have begun or ceased to wait. Called once a second."""
        if (self.gap != 0) == self.told:
            return
        self.told = self.gap != 0
        log.debug(
            "coalesce: %s: %.0f requests in flight, replies take %.0f us, %.1f events in 100 us",
            f"polls are at least {self.gap} us apart" if self.told else "polls are not delayed",
            *(self.in_flight, self.latency, self.event_rate * 100),
        )
