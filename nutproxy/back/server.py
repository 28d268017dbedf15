# nutproxy/back/server.py: one server of a pool
"""The connections to one server, and its health.

    link_for ─> lanes[profile.index] ─> [slot 0] [slot 1] …

A client keeps to one slot, so its requests stay in order. The lanes of a profile (profile.py) exist
from the first client with it on.

**Links without a slot** are not shared: only their user puts requests into them, and no client is
given one by `link_for`. There are two kinds:

- for commands that a busy server must get at once: one for each profile, in `asides`, which closes
  after its last reply
- for a client that blocks its connection or changes its state (`borrow`). It is given back clean
  (`give_back`), for the next one, or dropped

What they share with those in the lanes is the handshake, their life, and the deadlines of requests.
A request of theirs never moves to another link, and their end says nothing about the server's
health. A server that goes down or is removed ends those that are borrowed: their users may wait for
ever.

**Health.** Whether the server is up, slow, down or ejected is decided in health.py. Events are
reported to `self.health`, and `carry_out` does what follows from them.

If a connection is refused while other connections to the same server are in use (maxclients), only
its slot is affected: it is tried again after BACKOFF_MIN, and the requests of that slot wait.

A connection may receive bytes and never a complete reply. It is not silent, but it is useless. When
ROW_MIN requests in a row have timed out on it, over ROW_TIMEOUTS timeouts, it is closed, and this
counts as a failure of the server.

**Removal.** The pool removes a server with `retire`. Its links end when they are idle, and after
the last one the server tells the pool that it has gone. A link becomes idle with a reply
(`link_replied`), at the end of the handshake (`link_ready`), or with a write after which no reply
is due (`server_send`). A link that breaks before still moves its unwritten requests to a new one.
"""

import logging
import os
import time
from collections import deque
from functools import partial

import cython
from cython.cimports.libc.errno import ECONNRESET, ENOMEM
from cython.cimports.nutproxy.back.health import (
    BACKOFF_MAX,
    BACKOFF_MIN,
    DEMAND_GAP,
    DEMAND_WAIT,
    DOWN,
    DROP_PROBE,
    EJECT,
    EJECTED,
    HOLD,
    PROBE,
    REFUSE,
    REJOIN,
    RESUME,
    TELL_CALM,
    TELL_DOWN,
    TELL_REPLIED,
    TELL_RETURNED,
    TELL_SLOW,
    UP,
    Machine,
)
from cython.cimports.nutproxy.back.link import (
    LINK_CLOSED,
    LINK_READY,
    LINK_WAITING,
    NO_SLOT,
    Link,
    idle,
)
from cython.cimports.nutproxy.back.profile import Profile, Profiles
from cython.cimports.nutproxy.back.server import list_item, list_size
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.io.reactor import Reactor
from cython.cimports.nutproxy.stats.slab import (
    GLOBAL_TOTAL_CONNECTIONS,
    SERVER_REQUESTS,
    SERVER_REQUESTS_TIMEDOUT,
    SERVER_RESPONSES,
    SERVER_SERVER_DOWN,
    SERVER_SERVER_EJECTED,
    SERVER_SERVER_EJECTED_AT,
    SERVER_SERVER_PROBES,
    SERVER_SERVER_PROTOCOL_ERRORS,
    SERVER_SERVER_TIMEDOUT,
)

from nutproxy.back.link import NOPROTO, NOT_NEEDED, TIMED_OUT
from nutproxy.proto import errors

log = logging.getLogger("nutproxy")

# Milliseconds that an old connection has to reply after a probe has been answered.
PATIENCE = 100
# A connection is closed when this many requests in a row have timed out, over this many timeouts.
ROW_MIN = 4
ROW_TIMEOUTS = 4
# Idle links of a profile that are kept to be borrowed, and for how many milliseconds. Many clients
# with short timeouts need as many links all the time.
RESTING_MAX = 4096
REST = 10000
# Borrowed links to one server that connect at the same time.
GREETING_MAX = 64
# Borrowed links that are ended in one turn: a millisecond, with the replies to their clients.
ENDED_PER_TURN = 32
# Milliseconds for connect and handshake if the pool has no timeout.
HANDSHAKE_LIMIT = 10000


@cython.cclass
class EndLent(Job):
    def __init__(self, links: list, cause: str):
        self.links = links
        self.cause = cause

    def portion(self):
        link: Link
        for link in self.links[-ENDED_PER_TURN:]:
            link.abort(self.cause)
        del self.links[-ENDED_PER_TURN:]
        return len(self.links) > 0


@cython.final
@cython.cclass
class Server(Upstream):
    """One server of a pool, as a Member of its View says."""

    def __init__(self, reactor: Reactor, pool, member):
        self.reactor = reactor
        self.pool = pool
        self.member = member
        self.name = member.name
        self.protocol = pool.protocol
        self.stats = reactor.slab.row(member.row)
        self.connections = pool.config.server_connections
        self.profiles = pool.profiles
        self.lanes = []
        self.asides = {}
        self.lent = set()
        self.greeting = set()
        self.lend_queue = deque()
        self.resting = {}
        self.refusals = {}
        self.version = ""
        self.health = self.new_health()

    def new_health(self) -> Machine:
        config = self.pool.config
        return Machine(
            config.timeout or 0,
            max(config.server_failure_limit, 1) if config.auto_eject_hosts else 0,
            config.server_retry_timeout,
        )

    @property
    def address(self) -> str:
        return str(self.member.address)

    @property
    def requests(self) -> int:
        return self.reactor.slab.total(self.stats + SERVER_REQUESTS)

    @property
    def responses(self) -> int:
        return self.reactor.slab.total(self.stats + SERVER_RESPONSES)

    def __str__(self) -> str:
        return f"server '{self.name}' of pool '{self.pool.name}'"

    @property
    def about(self) -> dict:
        """The fields of a log line about this server (see log.py)."""
        return {**self.pool.about, "server": self.name}

    def error_reply(self, cause):
        try:
            return errors.server_error(self.protocol.error, self.name, self.pool.name, cause)
        except MemoryError:
            return None

    def link_for(self, client, profile):
        slot: cython.int = client % self.connections
        lanes: cython.p_void = cython.cast(cython.p_void, self.lanes)
        link: cython.p_void
        # Without counting references: 15 instructions fewer for each request.
        if not self.down and profile.index < list_size(lanes):
            link = list_item(list_item(lanes, profile.index), slot)
            if link != cython.cast(cython.p_void, None):
                return cython.cast(Link, link)
        return self.missing_link(profile, slot)

    def lane(self, profile: Profile) -> list:
        """The links of this profile by slot: a Link or None."""
        while len(self.lanes) <= profile.index:
            self.lanes.append([None] * self.connections)
        return self.lanes[profile.index]

    def is_idle(self, profile: Profile) -> bool:
        """Has no link of this profile a request?"""
        link: Link
        for link in self.lane(profile):
            if link is not None and not idle(link):
                return False
        for link in self.lent:
            if link.profile is profile:
                return False
        return profile not in self.asides

    def vacate(self, profile: Profile) -> None:
        """End the links of this profile, which are idle."""
        link: Link
        for link in self.lane(profile) + list(self.resting.pop(profile, ())):
            if link is not None:
                link.drop()

    def missing_link(self, profile, slot):
        """A new link for this slot, or what a request gets while the server is down."""
        if self.down:
            return self.wait_for_probe(profile, slot)
        if profile.protover == 3 and self.no_resp3:
            self.refusal = NOPROTO
            return None
        return self.open_slot(profile, slot)

    def wait_for_probe(self, profile: Profile, slot: int):
        """While the server is down: the connection in which a request waits for the next probe,
        which is brought forward. None if the probe has been without a reply for too long."""
        link: Link = self.lane(profile)[slot]
        todo: cython.int
        if link is not None and link.state == LINK_READY and idle(link):
            # It may be dead as well: it was idle when the server went down.
            link.drop()
            link = None
        if link is not None:
            return link
        self.refusal = self.error
        todo = self.health.request(self.reactor.now)
        self.carry_out(todo)
        if not todo & HOLD:
            return None
        return self.connect_later(profile, slot, DEMAND_GAP + DEMAND_WAIT, False)

    def connect_later(self, profile: Profile, slot: int, delay: int, by_itself: bool):
        """A connection in which requests can wait. With `by_itself` it connects after `delay`
        milliseconds. Without, it fails then, unless a probe has let it connect before."""
        link = Link(self, profile, slot)
        lane = self.lane(profile)
        link.arm(delay, partial(self.begin_waiting, link) if by_itself else None)
        lane[slot] = link
        self.open_links += 1
        return link

    def open_slot(self, profile: Profile, slot: int):
        """Connect for this slot, or a little later if it was refused a moment ago or if this turn
        has opened many connections."""
        wait = max(
            self.refusals.get((profile, slot), 0) - self.reactor.now, self.pool.connect_delay()
        )
        if wait > 0:
            return self.connect_later(profile, slot, wait, True)
        return self.connect(profile, slot, False)

    def connect(self, profile: Profile, slot: int, probe: bool):
        """Open a connection. None if that failed at once."""
        link = Link(self, profile, slot)
        lane = self.lane(profile)
        # Before it gets its slot: if this raises, no connection without a time limit is left there.
        link.arm(self.grace(), None)
        self.open_links += 1
        if probe:
            self.stats[SERVER_SERVER_PROBES] += 1
            self.probing = link
            self.health.probe_started(self.reactor.now)
        else:
            lane[slot] = link
        self.begin(link)
        return None if link.state == LINK_CLOSED else link

    def begin_waiting(self, link: Link) -> None:
        """Connect a connection in which requests have been waiting."""
        link.arm(self.grace(), None)
        self.begin(link)

    def begin(self, link: Link) -> None:
        self.health.connecting(self.reactor.now)
        self.reactor.stats[GLOBAL_TOTAL_CONNECTIONS] += 1
        link.connect(self.member.address, self.pool.resolve)

    def aside_for(self, profile):
        """The separate connection for commands that a busy server must get at once (SCRIPT KILL),
        ahead of the requests that wait for it. None if it could not be opened."""
        link: Link = self.asides.get(profile)
        if link is None:
            link = Link(self, profile, NO_SLOT, True)
            link.arm(self.grace(), None)
            self.asides[profile] = link
            self.open_links += 1
            self.begin(link)
        return None if link.state == LINK_CLOSED else link

    def borrow(self, profile):
        link: Link
        hold: cython.bint = False
        resting: dict = self.resting.get(profile)
        if self.down:
            self.refusal = self.error
            todo: cython.int = self.health.request(self.reactor.now)
            self.carry_out(todo)
            if not todo & HOLD:
                return None
            hold = True
        elif profile.protover == 3 and self.no_resp3:
            self.refusal = NOPROTO
            return None
        elif resting:
            link, _ = resting.popitem()
            self.lent.add(link)
            return link
        link = Link(self, profile, NO_SLOT)
        self.lent.add(link)
        self.open_links += 1
        if hold:
            link.arm(DEMAND_GAP + DEMAND_WAIT, None)
        else:
            self.begin_lent(link)
        return None if link.state == LINK_CLOSED else link

    def change(self, link, profile):
        link.arm(self.grace(), None)
        return link.change(profile)

    def begin_lent(self, link: Link) -> None:
        """Connect a borrowed link, or let it wait for its turn. If thousands of clients begin to
        wait at once, neither the server's listen queue nor this process may be the reason why they
        time out."""
        if len(self.greeting) >= GREETING_MAX:
            self.lend_queue.append(link)
            return
        self.greeting.add(link)
        link.arm(self.grace(), None)
        self.begin(link)

    def greeted(self, link: Link) -> None:
        """A borrowed link is ready, or has ended: the next one may connect."""
        if link in self.greeting:
            self.greeting.remove(link)
            while self.lend_queue and len(self.greeting) < GREETING_MAX:
                link = self.lend_queue.popleft()
                if link.state == LINK_WAITING:
                    self.begin_lent(link)

    def give_back(self, link):
        resting: dict
        if link.state == LINK_CLOSED:
            return 0
        if not idle(link):
            link.return_when_idle()
            return 0
        resting = self.resting.setdefault(link.profile, {})
        if (
            link.state != LINK_READY
            or link.finishing
            or len(resting) >= RESTING_MAX
            or self.down
            or self.retired
            or self.stopping
            or link.profile not in self.profiles.rows
        ):
            return link.drop()
        self.lent.discard(link)
        link.returned()
        link.waiting_since = self.reactor.now
        resting[link] = None
        return 0

    def end_resting(self, limit: int) -> None:
        """Close the links that nobody has borrowed for so many milliseconds."""
        link: Link
        for resting in self.resting.values():
            for link in list(resting):
                if self.reactor.now - link.waiting_since < limit:
                    # The others have come back later.
                    break
                link.drop()

    def end_lent(self, cause: str) -> None:
        """End the links that are borrowed: their server is of no use any more."""
        if self.lent:
            self.reactor.jobs.add(EndLent(list(self.lent), cause))

    def handshake(self, link):
        return self.protocol.handshake.steps(self, link)

    def judge(self, link, step, data):
        return self.protocol.handshake.judge(self, link, step, data)

    def unpaired(self, step: str, reply: object) -> str:
        """Count a reply that is not the one to this step. Returns the reason."""
        self.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
        return errors.cause("handshake_reply", step, f"{reply!a:.100}")

    def link_ready(self, link):
        if link.slot == NO_SLOT:
            self.greeted(link)
            return 0
        # It may have been upgraded since its last connection.
        self.no_resp3 = False
        if link is self.probing:
            self.probe_answered(link)
        else:
            log.info("%s %s: connected, %s", link, self, link.profile)
            if self.health.state != UP:
                self.carry_out(self.health.connected())
        if link.profile.tracked and link.state == LINK_READY:
            self.pool.tracker.lane_ready(link)
        if self.retired:
            self.close_if_idle(link)
        elif self.pool.config.preconnect and not self.has_resp3:
            self.preconnect_resp3(link)
        return 0

    def probe_answered(self, probe: Link) -> None:
        """The server is up. The probe becomes a normal connection if its slot is free."""
        old: Link
        lane: list = self.lane(probe.profile)
        self.probing = None
        self.health.probe_ended()
        for old in self.shared_links():
            # An idle connection may have died with the server.
            if self.down and old.state == LINK_READY and idle(old):
                old.drop()
        old = lane[probe.slot]
        if old is None:
            lane[probe.slot] = probe
        elif old.state == LINK_WAITING:
            lane[probe.slot] = probe
            probe.take_requests(old)
            old.drop()
        elif self.spare is None and old.silence() >= self.grace():
            self.spare = probe
        else:
            # The slot has a connection that works.
            probe.drop()
        if self.silent_links(self.grace()):
            # Their replies may arrive just after the probe's.
            self.reactor.timers.schedule(self.reactor.now + PATIENCE, self.replace_silent)
        self.carry_out(self.health.probe_answered())

    def replace_silent(self) -> None:
        """A probe was answered PATIENCE ago: connections that are still silent are dead."""
        link: Link
        spare: Link = self.spare
        stuck = self.silent_links(self.grace())
        self.spare = None
        if spare is not None:
            lane = self.lane(spare.profile)
            if lane[spare.slot] in stuck:
                lane[spare.slot] = spare
            else:
                spare.drop()
        for link in stuck:
            link.abort(TIMED_OUT)

    def shared_links(self) -> list:
        """The links in the lanes."""
        return [link for lane in self.lanes for link in lane if link is not None]

    def links(self) -> list:
        """All links."""
        others = [self.probing, self.spare, *self.asides.values(), *self.lent]
        for resting in self.resting.values():
            others += resting
        return self.shared_links() + [link for link in others if link is not None]

    def silent_links(self, limit: int) -> list:
        """The connections that have owed a sign of life for at least `limit` ms."""
        link: Link
        silent = []
        for link in self.shared_links():
            if link.silence() >= limit:
                silent.append(link)
        return silent

    def grace(self) -> int:
        """Milliseconds of silence that make a connection suspect: the pool's timeout."""
        return self.pool.config.timeout or HANDSHAKE_LIMIT

    def link_left(self, link):
        lane: list
        if link.slot == NO_SLOT:
            if self.asides.get(link.profile) is link:
                self.asides.pop(link.profile)
            self.lent.discard(link)
            self.greeted(link)
            self.resting.get(link.profile, {}).pop(link, None)
            return False
        lane = self.lanes[link.profile.index]
        if lane[link.slot] is link:
            lane[link.slot] = None
        if link is self.spare:
            self.spare = None
        if link is not self.probing:
            return False
        self.probing = None
        self.health.probe_ended()
        return True

    def link_closed(self, link, was_ready, waited, probe):
        """What the end of a link says about the server depends on its state."""
        if link.profile.tracked and was_ready and link.slot != NO_SLOT:
            self.pool.tracker.lane_ended(link)
        if link.cause == NOT_NEEDED or link.connect_began < 0:
            return 0
        if link.slot == NO_SLOT:
            self.refusal = self.error_reply(link.cause)
            log.info("%s %s: %s", link, self, link.cause)
            return 0
        unused: cython.bint = link.unused()
        if link.profile.protover == 3 and not was_ready and (self.no_resp3 or unused):
            # The server is up, but too old for this protocol version. Or it refuses HELLO in some
            # other way on a connection that no request needs.
            self.has_resp3 = False
            log.log(
                logging.INFO if unused else logging.WARNING, "%s %s: %s", link, self, link.cause
            )
        elif was_ready:
            self.ready_link_closed(link, waited)
        elif link.unfit:
            self.refuse_slot(link)
        else:
            self.connect_failed(link, probe)
        return 0

    def ready_link_closed(self, link: Link, waited: bool) -> None:
        # The end of an idle connection is normal, unless there was an error.
        log.log(
            logging.WARNING if waited or link.cause != self.ended() else logging.INFO,
            "%s %s at %s: connection closed: %s",
            link,
            self,
            self.address,
            link.cause if link.err or link.cause != self.ended() else "by the server",
        )
        # Running out of memory here says nothing about the server.
        if waited and link.err != ENOMEM:
            self.request_failed(self.reactor.now - link.silence(), link.cause)
        if self.pool.config.preconnect and not self.down and not self.retired:
            # A server that closes a connection just after accepting it would do so again.
            young = self.reactor.now - link.connect_began < BACKOFF_MAX
            self.preconnect_in(BACKOFF_MIN if young else 0)

    def connect_failed(self, link: Link, probe: bool) -> None:
        """It could not be connected, or its handshake has failed."""
        if not probe and self.serves():
            # It accepts no more connections (maxclients), but the existing ones work.
            self.refuse_slot(link)
            return
        if probe:
            log.info("%s at %s: probe failed: %s", self, self.address, link.cause)
            if not self.down and link.recv_bytes:
                # A slow server that gives a reason for refusing the connection is up.
                return
        self.carry_out(
            self.health.connect_failed(
                link.connect_began,
                self.reactor.now,
                self.replies_since(),
                link.cause == TIMED_OUT,
            ),
            link.cause,
        )

    def refuse_slot(self, link: Link) -> None:
        """Only this slot cannot be connected. It is tried again after BACKOFF_MIN."""
        log.warning("%s %s at %s: no further connection: %s", link, self, self.address, link.cause)
        self.refusal = self.error_reply(link.cause)
        self.refusals[link.profile, link.slot] = self.reactor.now + BACKOFF_MIN

    def link_settled(self):
        self.open_links -= 1
        if self.retired and self.open_links == 0:
            self.pool.server_gone(self)
        return 0

    def serves(self) -> bool:
        """Is there a ready connection that is not silent?"""
        link: Link
        for link in self.shared_links():
            if link.state == LINK_READY and link.silence() < self.grace():
                return True
        return False

    @staticmethod
    def ended() -> str:
        """The cause of a connection that the server closed without an error."""
        return os.strerror(ECONNRESET)

    def preconnect_in(self, delay: int) -> None:
        """Open the connections that are missing after `delay` milliseconds, or before."""
        due: cython.longlong = self.reactor.now + delay
        if self.reconnect_timer is not None:
            if self.reconnect_timer.expires <= due:
                return
            self.reconnect_timer.cancel()
        self.reconnect_timer = self.reactor.timers.schedule(due, self.preconnect)

    def preconnect(self) -> None:
        """Open every connection that is missing: RESP3 too, if the server is known to have it."""
        if self.reconnect_timer is not None:
            self.reconnect_timer.cancel()
            self.reconnect_timer = None
        profiles: Profiles = self.profiles
        resp3: Profile = self.resp3() if self.has_resp3 else None
        for profile in [profiles.default] if resp3 is None else [profiles.default, resp3]:
            for slot in range(self.connections):
                if not self.down and self.lane(profile)[slot] is None:
                    self.open_slot(profile, slot)

    def preconnect_resp3(self, link: Link) -> None:
        """A connection is ready, and it is not known yet whether the server accepts HELLO 3. One
        RESP3 connection finds out, and the others follow it."""
        if link.profile.protover == 3:
            self.has_resp3 = True
            self.preconnect()
            return
        if link.profile is not self.profiles.default:
            return
        if 3 not in self.protocol.handshake.versions or link.slot != 0 or self.down:
            return
        profile: Profile = self.resp3()
        if profile is not None and self.lane(profile)[0] is None:
            self.open_slot(profile, 0)

    def resp3(self) -> Profile:
        """The profile of a new client that has sent HELLO 3; None if there are too many."""
        profiles: Profiles = self.profiles
        return profiles.of(3, profiles.default.database)

    def replies_since(self):
        """Have there been replies since this was last called?"""
        replied: cython.bint = self.has_replied
        self.has_replied = False
        return replied

    def request_failed(self, began: int, cause: str) -> None:
        """A request that began at `began` (milliseconds of the loop's clock) has failed."""
        self.carry_out(self.health.failed(began, self.reactor.now, self.replies_since()), cause)

    def link_replied(self, link):
        self.carry_out(self.health.reply())
        if self.retired:
            self.close_if_idle(link)
        return 0

    def carry_out(self, todo, cause=None):
        """Carry out the actions of an event, in the order of health.Action. `cause`: of a failure.
        An action may lead to another event and so to another call of this."""
        health: Machine = self.health
        self.down = health.state >= DOWN
        self.ejected = health.state == EJECTED
        self.wants_replies = self.retired or health.state != UP
        try:
            if todo & (EJECT | TELL_SLOW | TELL_DOWN | REFUSE):
                self.suffer(todo, cause)
            elif todo & (TELL_CALM | RESUME | DROP_PROBE):
                self.recover(todo)
            elif todo & PROBE:
                self.connect(self.profiles.default, 0, True)
        finally:
            self.follow_probe_at()
        return 0

    def suffer(self, todo: int, cause: str) -> None:
        """Carry out the actions that follow from a failure."""
        link: Link
        if todo & REFUSE:
            self.error = self.refusal = self.error_reply(cause)
        if todo & EJECT:
            self.stats[SERVER_SERVER_EJECTED] = 1
            self.stats[SERVER_SERVER_EJECTED_AT] = time.time_ns() // 1000
            retry_timeout = self.pool.config.server_retry_timeout
            log.warning("%s ejected for at least %d ms: %s", self, retry_timeout, cause)
        if todo & TELL_SLOW:
            silence = self.reactor.now - self.health.slow_since
            log.warning("%s is slow: no reply for %d ms (%s)", self, silence, self.address)
        if todo & TELL_DOWN:
            self.stats[SERVER_SERVER_DOWN] = 1
            log.warning("%s is down: %s (%s)", self, cause, self.address)
        if todo & REFUSE:
            for link in self.shared_links() + list(self.lent):
                if link.state == LINK_WAITING:
                    link.abort(TIMED_OUT)
        if todo & (EJECT | TELL_DOWN):
            self.end_lent(cause)
        if todo & EJECT:
            self.pool.ejected(self)
            for link in self.shared_links():
                link.abort(cause)

    def recover(self, todo: int) -> None:
        """Carry out the actions that follow from a sign of life."""
        link: Link
        if todo & TELL_CALM:
            log.warning("%s replies after %d ms", self, self.reactor.now - self.health.slow_since)
        if todo & RESUME:
            self.stats[SERVER_SERVER_DOWN] = 0
            self.refusals.clear()
            self.error = None
        if todo & DROP_PROBE:
            self.probing.drop()
        if todo & (TELL_RETURNED | TELL_REPLIED):
            how = "has returned" if todo & TELL_RETURNED else "has replied again"
            log.warning("%s %s", self, how)
        if todo & REJOIN:
            self.stats[SERVER_SERVER_EJECTED] = 0
            self.pool.returned(self)
        if todo & RESUME:
            for link in self.shared_links():
                if link.state == LINK_WAITING:
                    self.begin_waiting(link)
            for link in list(self.lent):
                if link.state == LINK_WAITING:
                    link.arm(self.grace(), None)
                    self.begin_lent(link)
            if self.pool.config.preconnect:
                self.preconnect()

    def follow_probe_at(self):
        """Keep a timer for the next probe."""
        due: cython.longlong = self.health.probe_at
        if self.probe_timer is not None and self.probe_timer.expires != due:
            self.probe_timer.cancel()
            self.probe_timer = None
        if self.probe_timer is None and due >= 0:
            self.probe_timer = self.reactor.timers.schedule(due, self.probe)
        return 0

    def probe(self) -> None:
        """Find out over a new connection whether the server is back."""
        self.probe_timer = None
        self.carry_out(self.health.probe_due(self.reactor.now, self.pool.connect_delay()))

    def keep_probing(self) -> None:
        """Schedule the next probe if memory had run out when it should have been scheduled."""
        self.health.tidy(self.reactor.now)
        self.follow_probe_at()
        if self.resting:
            self.end_resting(REST)

    def request_timed_out(self, link, start):
        """A request has timed out. What that says about its connection and about the server depends
        on what else was received meanwhile."""
        silence: cython.longlong = link.silence()
        self.stats[SERVER_REQUESTS_TIMEDOUT] += 1
        if link.note_timeout(start):
            self.stats[SERVER_SERVER_TIMEDOUT] += 1
            self.pool.watch(self)
        if link.slot == NO_SLOT:
            link.abort(TIMED_OUT)
            return 0
        if link.state != LINK_READY:
            # Connect and handshake have a time limit of their own.
            return 0
        if silence < self.grace():
            row: cython.longlong = link.timeouts_last()
            if link.timed_out >= ROW_MIN and row >= ROW_TIMEOUTS * self.grace():
                link.abort(errors.cause("silent_bytes", row))
            return 0
        self.request_failed(start, TIMED_OUT)
        if silence >= 2 * self.grace():
            # Dead, even if TCP still reports it as connected.
            link.abort(TIMED_OUT)
        probe: cython.bint = silence < 2 * self.grace() and self.spare is None
        self.carry_out(
            self.health.silence(self.reactor.now - silence, self.reactor.now, probe), TIMED_OUT
        )
        return 0

    def close_silent(self) -> bool:
        """Close the connections that have been silent for two timeouts: they are dead, even if TCP
        still reports them as connected. A connection that requests still wait for may reply until
        the next of them times out, and is closed then. Returns whether to keep watching."""
        link: Link
        for link in self.silent_links(2 * self.grace()):
            if not link.awaited():
                link.abort(TIMED_OUT)
        # Not any(): a generator expression does not see the attributes that only C sees.
        watched = False
        for link in self.shared_links():
            if link.timed_out and not idle(link):
                watched = True
        return watched

    def orphans(self) -> int:
        """The number of unanswered requests whose clients have gone."""
        link: Link
        count = 0
        for link in self.links():
            count += link.orphans()
        return count

    def retire(self) -> None:
        """The server is no member of its pool any more, and nothing new is routed to it. Requests
        in flight are answered, those in links that still connect are sent, and a link closes when
        it is idle. What waits for a probe of a server that is down fails now. The pool is told when
        the last link has gone, which may be before this returns."""
        link: Link
        if self.retired:
            return
        cause = errors.cause("removed")
        log.info("%s is removed from its pool", self)
        self.retired = True
        if self.down:
            self.error = self.refusal = self.error_reply(cause)
            # Nobody has to look after it any more. Otherwise the gauges may be those of the server
            # that replaces it, which has the same row.
            self.stats[SERVER_SERVER_DOWN] = self.stats[SERVER_SERVER_EJECTED] = 0
        if self.reconnect_timer is not None:
            self.reconnect_timer.cancel()
            self.reconnect_timer = None
        # Counts as a link, so that the server is not gone before the end of this.
        self.open_links += 1
        self.carry_out(self.health.retire())
        self.end_lent(cause)
        for link in self.links():
            if self.down and link.state == LINK_WAITING:
                link.abort(cause)
            else:
                self.close_if_idle(link)
        self.link_settled()

    def rejoin(self) -> None:
        """It was removed, and is a member again. Links with requests in flight have stayed and are
        used again. Its health begins anew."""
        self.health = self.new_health()
        self.retired = False
        self.error = None
        self.refusals.clear()
        # As after an event without an action.
        self.carry_out(0)
        log.info("%s is back in its pool", self)

    def close_if_idle(self, link: Link) -> None:
        if link.state != LINK_CLOSED and idle(link):
            link.drop()

    def close(self) -> None:
        """The proxy is shutting down: close all connections, and open no more."""
        link: Link
        self.stopping = True
        self.error = self.error_reply(errors.cause("stops"))
        self.carry_out(self.health.stop())
        if self.reconnect_timer is not None:
            self.reconnect_timer.cancel()
        for link in self.links():
            link.drop()
