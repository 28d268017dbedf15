# nutproxy/back/health.py: the state machine of one server
"""Whether a server is up, slow, down or ejected, and when it is probed.

    up <── a reply ─── slow <─── a connection was silent for a whole timeout
    ^                   │
    │                   └─ silent for GONE_AFTER ─┐
    │     cannot be reached, fails a handshake ───┴──> down ─── failures reach ───> ejected
    │                                                   │       server_failure_limit    │
    └───── a probe connects, shakes hands, PINGs ───────┴───────────────────────────────┘

A slow server keeps its requests, and each waits for its own deadline. A probe finds out whether
only the old connection is dead.

Nothing is written to a server that is down until a probe has found that it is back. Probes are sent
with a growing back-off. A request brings the next probe forward, to DEMAND_GAP after the last
connect, and waits for it for at most DEMAND_WAIT. Then it fails with the known cause. All requests
share one probe, so a dead server is not probed more often than that. An ejected server is probed
every `server_retry_timeout`. A reply on an old connection ends "slow" and "down" as well.

A failure counts only if the connect or request that failed began after the last counted failure.
One event is thus counted once, however many connections and requests it affects.

After `retire` and `stop` nothing is counted and no probe is sent. A server that is removed from its
pool stays in its state meanwhile; one that stops is down.

The machine has no clock, no socket and no log, and allocates no memory. Its owner calls the method
of an event with the time, and then:

1. carries out the actions that the method has returned, in the order of `Action`;
2. keeps a timer for `probe_at`, which may have changed.

An action may lead to the next event at once, since the state is already the new one.
"""

import cython


@cython.final
@cython.cclass
class Machine:
    """`timeout` is the pool's timeout and `retry_timeout` its server_retry_timeout, both in
    milliseconds. `failure_limit` failures in a row eject the server; with 0 it is never ejected."""

    def __init__(
        self, timeout: cython.longlong, failure_limit: cython.int, retry_timeout: cython.longlong
    ):
        self.gone_after = max(GONE_AFTER, 2 * timeout)
        self.failure_limit = failure_limit
        self.retry_timeout = max(RETRY_MIN, retry_timeout)
        self.backoff = BACKOFF_MIN
        self.last_failure = -1
        self.probe_at = -1

    # Signs of life

    def reply(self):
        """A complete reply to a request. Its owner may report replies only while the state is not
        UP, and tell `failed` and `connect_failed` whether there have been others."""
        return self.recover(TELL_REPLIED)

    def connected(self):
        """A connection that is not the probe has completed its handshake."""
        return self.recover(TELL_RETURNED)

    def recover(self, how):
        """An ejected server returns only with a probe."""
        todo: cython.int
        if self.stopped or self.state == UP or self.state == EJECTED:
            return 0
        todo = TELL_CALM
        if self.state == DOWN:
            todo = how | RESUME
            self.failures = 0
        if self.probing:
            todo |= DROP_PROBE
        self.state = UP
        self.probing = False
        self.probe_at = -1
        return todo

    # Failures

    def failed(self, began, now, replied):
        """A request that began at `began` has timed out, or its connection has ended. `replied`:
        there have been replies since the last failure."""
        if self.stopped:
            return 0
        return self.count(began, now, replied)

    def connect_failed(self, began, now, replied, timed_out):
        """A connect or a handshake that began at `began` has failed, and no other connection
        shows that the server is up. `timed_out`: there was no reply within the timeout."""
        todo: cython.int
        if self.stopped:
            return 0
        todo = self.count(began, now, replied)
        if timed_out and self.state < DOWN:
            return todo | self.suspect(began, now)
        return todo | self.fall(DOWN, now)

    def silence(self, since, now, probe):
        """A request has timed out on a connection without a sign of life since `since`. With
        `probe`, find out at once whether only that connection is dead."""
        todo: cython.int
        if self.stopped or self.state >= DOWN:
            return 0
        todo = self.suspect(since, now)
        if probe and not self.probing:
            self.probe_at = now
        return todo

    def count(self, began, now, replied):
        """Count a failure, unless it belongs to one that has been counted already."""
        if replied:
            self.failures = 0
        if began <= self.last_failure:
            return 0
        self.last_failure = now
        self.failures += 1
        if self.failure_limit == 0 or self.state == EJECTED or self.failures < self.failure_limit:
            return 0
        self.failures = 0
        self.probe_at = -1
        return EJECT | self.fall(EJECTED, now)

    def suspect(self, since, now):
        """It may only be slow, so its requests keep waiting."""
        todo: cython.int = 0
        if self.state == UP:
            self.state = SLOW
            self.slow_since = since
            todo = TELL_SLOW
        if now - self.slow_since >= self.gone_after:
            todo |= self.fall(DOWN, now)
        return todo

    def fall(self, state, now):
        """From now on requests fail unless a probe succeeds soon."""
        todo: cython.int = REFUSE
        if self.state < DOWN:
            todo |= TELL_DOWN
            self.backoff = BACKOFF_MIN
        if self.state < state:
            self.state = state
        # Further failures do not postpone a probe that is scheduled or in progress.
        if self.probe_at < 0 and not self.probing:
            self.probe_at = now + (self.retry_timeout if self.state == EJECTED else self.backoff)
            self.backoff = min(2 * self.backoff, BACKOFF_MAX)
        return todo

    # Probes

    def request(self, now):
        """A request has come while the server is down: HOLD if it may wait for the next probe,
        which is brought forward, and 0 if it fails with the known cause."""
        due: cython.longlong
        if self.stopped or self.state != DOWN:
            return 0
        if self.probing:
            return HOLD if now - self.probe_began < DEMAND_WAIT else 0
        due = max(self.tried + DEMAND_GAP, now)
        if self.probe_at < 0 or self.probe_at > due:
            self.probe_at = due
        return HOLD

    def connecting(self, now):
        """A connect has begun."""
        self.tried = now
        return 0

    def probe_due(self, now, delay):
        """`probe_at` has come. With a `delay`, the probe is postponed by it."""
        self.probe_at = -1
        if self.stopped or self.state == UP or self.probing:
            return 0
        if delay > 0:
            self.probe_at = now + delay
            return 0
        return PROBE

    def probe_started(self, now):
        """The owner has carried out PROBE."""
        self.probing = True
        self.probe_began = now
        return 0

    def probe_ended(self):
        """The probe is over. If it has failed, `connect_failed` follows."""
        self.probing = False
        return 0

    def probe_answered(self):
        """The probe has completed its handshake."""
        todo: cython.int = 0
        self.probing = False
        if self.state == EJECTED and not self.stopped:
            self.state = DOWN
            todo = REJOIN
        return todo | self.recover(TELL_RETURNED)

    def tidy(self, now):
        """Called from time to time. If memory had run out when the probe was due, none is scheduled
        or in progress."""
        if not self.stopped and self.state >= DOWN and self.probe_at < 0 and not self.probing:
            self.probe_at = now + self.backoff
        return 0

    def retire(self):
        """The server is no member of its pool any more. What is in flight goes on in the state that
        it has. Nothing is counted any more, and no probe is sent."""
        todo: cython.int = DROP_PROBE if self.probing else 0
        self.stopped = True
        self.probing = False
        self.probe_at = -1
        return todo

    def stop(self):
        """The proxy is shutting down: the server gets no more requests and no more probes."""
        self.stopped = True
        self.probe_at = -1
        if self.state < DOWN:
            self.state = DOWN
        return 0
