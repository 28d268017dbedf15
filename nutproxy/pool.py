# nutproxy/pool.py: a pool of servers
"""Finds the server of a key, and ends requests that have waited for too long.

    key ─> Router (hash_tag, hash, distribution) ─> Server ─> connection of the client's slot

The ring holds the servers that are not ejected. It is rebuilt when a server is ejected or returns.
A small ring is rebuilt at once, but only once a turn. A large one is rebuilt in portions, with
other work in between. The old ring stays in use until the new one is ready, and requests for an
ejected server get an error until then.

Who the servers are is said by a View (members.py). Another one is applied by a ViewJob:

    apply(view) ─> make servers ─> build their ring ─> swap ─> retire the old, preconnect the new
                   in portions, the pool's list and ring stay in use
                                                       │
                                                       └─ list and ring change together: an index
                                                          on the ring is a place in the list

A server that keeps its name, its address and its row in the statistics is the same object, with its
connections and its health. So is one that comes back before its last request is answered: its
requests stay in order. If another View comes meanwhile, this one is finished first, so some
View becomes ready however often they come, and the last one is in force in the end.
"""

import logging
from bisect import bisect_right

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.nutproxy.back.link import Link
from cython.cimports.nutproxy.back.profile import Profile, Profiles
from cython.cimports.nutproxy.back.server import Server, list_item
from cython.cimports.nutproxy.hashkit.ring import Ring
from cython.cimports.nutproxy.hashkit.router import Router
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.msg.deadline import deadline_append, deadline_first, deadlines_init
from cython.cimports.nutproxy.msg.message import (
    MSG_ASIDE,
    Msg,
    freed_enough,
)
from cython.cimports.nutproxy.msg.parse import Arg
from cython.cimports.nutproxy.msg.response import msg_fail
from cython.cimports.nutproxy.route import Route
from cython.cimports.nutproxy.stats.slab import (
    POOL_NO_LIVE_SERVER,
    POOL_SERVER_EJECTS,
    SERVER_IN_QUEUE_BYTES,
    SERVER_OUT_QUEUE_BYTES,
    SERVER_REQUEST_BYTES,
    SERVER_REQUESTS,
    SERVER_REQUESTS_OVERFLOWED,
    SERVER_REQUESTS_UNAVAILABLE,
)

from nutproxy.back.link import TIMED_OUT
from nutproxy.members import configured, place_of
from nutproxy.proto.errors import cause
from nutproxy.proto.protocols import PROTOCOLS

log = logging.getLogger("nutproxy")

QUEUE_FULL = cause("queue_full")
# Longest reply of a server, in bytes, unless twice the largest value is more.
REPLY_MAX = 1 << 30
# Expired requests that are answered in one turn: 5 ms.
EXPIRED_PER_TURN = cython.declare(cython.int, 4096)
# Connects of a pool in one turn (one takes 0.1 ms), and the milliseconds until the next as many.
CONNECTS_PER_TURN = 64
CONNECTS_APART = 8
# A ring of up to this many servers is rebuilt at once, in less than a millisecond.
RING_SMALL = 32
# Ring points computed in one turn: about a millisecond.
RING_PORTION = 6400
# Servers that are made in one turn while a View is applied, or that are retired or preconnected if
# they have one connection each: two milliseconds.
SERVERS_PORTION = 64


@cython.cclass
class RingJob(Job):
    def __init__(self, pool: ServerPool):
        self.pool = pool

    def portion(self):
        try:
            return self.pool.rebuild_portion()
        except Exception:
            # `tidy` begins again.
            self.pool.ring_job = None
            raise


@cython.cclass
class ViewJob(Job):
    """Applies the pool's `next_view`. What has to be done after the swap is kept in the pool, so
    that `tidy` can begin again if memory runs out."""

    def __init__(self, pool: ServerPool):
        self.pool = pool

    def portion(self):
        more: cython.bint = False
        try:
            more = self.go_on()
        finally:
            if not more:
                self.pool.view_job = None
        return more

    def go_on(self):
        """Do a portion. Returns whether there is more to do."""
        pool: ServerPool = self.pool
        if pool.departing or pool.arriving:
            pool.see_off()
            return True
        if self.view is None:
            if pool.next_view is None:
                return False
            self.begin(pool.next_view)
        if not self.build():
            self.swap()
            log.info(
                "%s has other members: servers: %d, new: %d, removed: %d",
                pool,
                len(pool.servers),
                len(pool.arriving),
                len(pool.departing),
            )
        return True

    def begin(self, view) -> None:
        self.view = view
        self.ring = None
        self.old = {
            place_of(server.member): server for server in self.pool.leaving + self.pool.servers
        }
        self.servers = []
        self.made = []

    def build(self):
        """Make some servers, or a portion of their ring. Returns whether there is more to do."""
        if len(self.servers) < len(self.view.members):
            self.make_servers()
            return True
        if self.ring is None:
            self.make_ring()
            return True
        return self.ring.build(RING_PORTION)

    def make_servers(self) -> None:
        server: Server
        first = len(self.servers)
        for member in self.view.members[first : first + SERVERS_PORTION]:
            server = self.old.get(place_of(member))
            if server is None:
                server = Server(self.pool.reactor, self.pool, member)
                self.made.append(server)
            self.servers.append(server)

    def make_ring(self) -> None:
        self.ring = self.pool.router.ring_of(
            [(member.name.encode(), member.weight) for member in self.view.members]
        )
        self.live = [not server.ejected for server in self.servers]
        self.ring.begin(self.live)

    def swap(self) -> None:
        """The new servers and their ring take over."""
        pool: ServerPool = self.pool
        server: Server
        index: cython.int
        kept = set(self.servers)
        gone = [server for server in pool.servers if server not in kept]
        leaving = [server for server in pool.leaving + gone if server not in kept]
        gone.reverse()
        for server in self.servers:
            if server.retired:
                server.rejoin()
                self.made.append(server)
        # Nothing below raises before all is changed.
        for index, member in enumerate(self.view.members):
            server = self.servers[index]
            server.member = member
            server.index = index
        pool.servers = self.servers
        pool.ngroups = len(self.servers)
        pool.router.ring = self.ring
        pool.places = self.view.places
        pool.order = list(self.view.places)
        pool.leaving = leaving
        pool.departing = gone
        pool.arriving = self.made
        if pool.next_view is self.view:
            pool.next_view = None
        self.view = None
        # A rebuild of the old ring is of no use any more.
        pool.ring_building = pool.ring_stale = False
        pool.regrouped()
        if pool.live_flags() != self.live:
            pool.update_ring()


@cython.cclass
class ServerPool(Route):
    """A pool as configured. `resolve(host, port, callback)` looks up names without blocking."""

    def __init__(self, reactor: Reactor, config, resolve):
        self.reactor = reactor
        self.stats = reactor.slab.row(reactor.slab.rows.pool(config.name))
        self.config = config
        self.protocol = PROTOCOLS[config.redis]
        self.resolve = resolve
        self.name = config.name
        self.redis_db = config.redis_db
        self.databases = config.databases
        self.timeout = config.timeout or 0
        self.anywhere = config.distribution == "random"
        self.max_queue = config.server_max_queue
        self.max_reply = max(REPLY_MAX, 2 * config.proto_max_bulk_len)
        self.profiles = Profiles(config.redis_db, config.max_profiles, self.vacate)
        self.servers = []
        self.leaving = []
        self.on_regroup = []
        self.begin_with(configured(config, reactor.slab.rows))
        deadlines_init(cython.address(self.deadlines))
        self.suspects = set()

    def __str__(self) -> str:
        return f"pool '{self.name}'"

    @property
    def about(self) -> dict:
        """The fields of a log line about this pool (see log.py)."""
        return {"pool": self.name}

    def group_of(self, key, length, hash):
        return self.router.route(cython.cast(cython.pointer(cython.uchar), key), length, hash)

    def group(self, data, arg, step, count, groups):
        ring: Ring = self.router.ring
        hash_keys(self.router, data, arg, step, count, groups)
        return ring.dispatch_all(groups, count) < 0

    def holds(self, group, data, argv, keys, count):
        arg: cython.pointer(cython.const[Arg])
        before: cython.uint = 0
        hashed: cython.uint
        index: cython.uint
        for index in range(count):
            arg = cython.address(argv[keys[index]])
            hashed = self.router.hash(
                cython.cast(cython.pointer(cython.uchar), data) + arg.offset, arg.length
            )
            # Keys with one hash tag, of which there may be a million, are not looked up each.
            if (index == 0 or hashed != before) and self.router.ring.dispatch(hashed) != group:
                return False
            before = hashed
        return True

    def is_tagged(self, key, length):
        return self.router.has_tag(key, length)

    def any_group(self):
        """The server of the key `placeholder`, as in twemproxy, or, if that is down, the first that
        is not."""
        hash: uint32_t = 0
        group: cython.int = self.group_of(b"placeholder", 11, cython.address(hash))
        server: Server
        if group < 0 or not self.servers[group].down:
            return group
        for server in self.servers:
            if not server.down:
                return server.index
        return group

    def members(self):
        """The servers that are not ejected, in the ring's order."""
        server: Server
        live = []
        for server in self.servers:
            if not server.ejected:
                live.append(server)
        return live

    def place_after(self, place):
        at = bisect_right(self.order, place)
        return self.order[at] if at < len(self.order) else 0

    def member_at(self, place):
        index = self.places.get(place)
        return None if index is None else self.servers[index]

    def submit(self, msg, group, client, profile):
        server: Server
        link: Link
        queued: cython.size_t
        if group < 0:
            self.stats[POOL_NO_LIVE_SERVER] += 1
            msg_fail(msg, self.dead_reply())
            return 0
        server = cython.cast(Server, list_item(cython.cast(cython.p_void, self.servers), group))
        if msg.flags & MSG_ASIDE:
            link = server.aside_for(profile)
        else:
            link = server.link_for(client, profile)
        if link is None:
            server.stats[SERVER_REQUESTS_UNAVAILABLE] += 1
            msg_fail(msg, server.refusal)
            return 0
        queued = server.stats[SERVER_IN_QUEUE_BYTES] + server.stats[SERVER_OUT_QUEUE_BYTES]
        if queued > 0 and self.overflows(msg, queued):
            server.stats[SERVER_REQUESTS_OVERFLOWED] += 1
            msg_fail(msg, server.error_reply(QUEUE_FULL))
            return 0
        if self.timeout:
            deadline_append(cython.address(self.deadlines), msg, self.reactor.now + self.timeout)
        queue_at(link, server.stats, msg)
        return 0

    def submit_to(self, link, msg, timed):
        if timed and self.timeout:
            deadline_append(cython.address(self.deadlines), msg, self.reactor.now + self.timeout)
        queue_at(link, link.stats, msg)
        return 0

    def borrow(self, msg, group, profile):
        server: Server
        link: Link
        if group < 0:
            self.stats[POOL_NO_LIVE_SERVER] += 1
            msg_fail(msg, self.dead_reply())
            return None
        server = self.servers[group]
        link = server.borrow(profile)
        if link is None:
            server.stats[SERVER_REQUESTS_UNAVAILABLE] += 1
            msg_fail(msg, server.refusal)
        return link

    def overflows(self, msg, queued):
        """Is this request too much for a server with so many bytes in its queues? What goes past
        the queues is not."""
        return (
            queued + max(msg.req.length, msg.queued) > self.max_queue and not msg.flags & MSG_ASIDE
        )

    def dead_reply(self) -> bytes:
        """The error reply when every server is ejected."""
        return self.protocol.error("no_live_server", self.name.encode())

    def next_deadline(self):
        """When the next request expires, in milliseconds of the loop's clock; -1 if none waits."""
        msg: cython.pointer(Msg) = deadline_first(cython.address(self.deadlines))
        return -1 if msg is cython.NULL else msg.deadline

    def expire(self):
        """Fail the requests whose deadline has passed. Others on their connection keep waiting."""
        msg: cython.pointer(Msg)
        link: Link
        server: Server
        start: cython.longlong
        text: bytes
        # What is left expires in the next turn.
        for _ in range(EXPIRED_PER_TURN):
            if freed_enough():
                return 0
            msg = deadline_first(cython.address(self.deadlines))
            if msg is cython.NULL or msg.deadline > self.reactor.seen:
                return 0
            link = cython.cast(Link, msg.server)
            server = cython.cast(Server, link.server)
            text = server.error_reply(TIMED_OUT)
            link.cancel(msg)
            start = msg.start // 1000
            msg_fail(msg, text)
            server.request_timed_out(link, start)
        return 0

    def connect_delay(self) -> int:
        """The milliseconds to wait before one more connect. Spreads them out, so that hundreds of
        servers that go or return at once do not block the loop."""
        if self.connects_turn != self.reactor.now_usec:
            self.connects_turn = self.reactor.now_usec
            self.connects = 0
        self.connects += 1
        return (self.connects - 1) // CONNECTS_PER_TURN * CONNECTS_APART

    def watch(self, server: Server) -> None:
        """A request has timed out on this server: the connection may be dead."""
        self.suspects.add(server)

    def close_silent(self) -> None:
        """Look for dead connections of the servers on which requests have timed out. Servers
        without timeouts cost nothing, however many there are."""
        for server in self.suspects.copy():
            if not server.close_silent():
                self.suspects.discard(server)

    def update_ring(self) -> None:
        """Rebuild the ring, now or soon, after servers have left or returned."""
        self.ring_stale = True
        if self.ring_job is not None:
            return
        if len(self.servers) <= RING_SMALL and self.ring_turn != self.reactor.now_usec:
            self.ring_turn = self.reactor.now_usec
            self.router.set_live(self.live_flags())
            self.ring_stale = False
            self.regrouped()
        else:
            self.rebuild_soon()

    def regrouped(self) -> None:
        """Keys may have got other groups."""
        self.version += 1
        for regrouped in self.on_regroup:
            regrouped()

    def rebuild_soon(self) -> None:
        job: RingJob = RingJob(self)
        self.reactor.jobs.add(job)
        self.ring_job = job

    def rebuild_portion(self):
        """Build one portion of the new ring. If servers leave or return meanwhile, the ring is
        finished first and then built again, so it becomes ready however often they do."""
        if not self.ring_building:
            if not self.ring_stale:
                # A View has brought another ring.
                self.ring_job = None
                return False
            self.router.begin(self.live_flags())
            self.ring_stale = False
        self.ring_building = self.router.build(RING_PORTION)
        if not self.ring_building:
            self.regrouped()
        if self.ring_building or self.ring_stale:
            return True
        self.ring_job = None
        return False

    def vacate(self, profile: Profile) -> bool:
        """End the links of this profile, if all of them are idle. Returns whether they were."""
        servers = self.servers + self.leaving
        for server in servers:
            if not server.is_idle(profile):
                return False
        for server in servers:
            server.vacate(profile)
        return True

    def live_flags(self) -> list[bool]:
        """For each server, in index order, whether the ring holds it."""
        return [not server.ejected for server in self.servers]

    def ejected(self, server: Server) -> None:
        self.stats[POOL_SERVER_EJECTS] += 1
        self.update_ring()

    def returned(self, server: Server) -> None:
        self.update_ring()

    def begin_with(self, view) -> None:
        """The first View, applied at once. `preconnect` is the loop's."""
        job: ViewJob = ViewJob(self)
        self.router = Router(
            self.config.hash,
            self.config.distribution,
            self.config.hash_tag,
            [(member.name.encode(), member.weight) for member in view.members],
        )
        job.begin(view)
        while len(job.servers) < len(view.members):
            job.make_servers()
        job.ring = self.router.ring
        job.live = [True] * len(view.members)
        job.swap()
        self.arriving = []

    def apply(self, view) -> None:
        """Make the members of this View the servers of the pool, soon. Raises ValueError, and
        changes nothing, if the statistics have no row for one of them."""
        rows = set(self.reactor.slab.rows.used.values())
        for member in view.members:
            if member.row not in rows:
                raise ValueError(
                    f"server '{member.name}': the statistics of {self} have no row {member.row}"
                )
        self.next_view = view
        self.apply_soon()

    def apply_soon(self) -> None:
        if self.view_job is None:
            job: ViewJob = ViewJob(self)
            self.reactor.jobs.add(job)
            self.view_job = job

    def see_off(self) -> None:
        """Retire some of the servers that are no members any more. When there are none left, open
        connections to some of the new ones, with preconnect."""
        server: Server
        for _ in range(max(SERVERS_PORTION // self.config.server_connections, 1)):
            if self.departing:
                server = self.departing.pop()
                server.retire()
            elif self.arriving:
                server = self.arriving.pop()
                if self.config.preconnect:
                    server.preconnect()

    def server_gone(self, server: Server) -> None:
        """The last connection of a removed server has gone."""
        if server in self.leaving:
            self.leaving.remove(server)

    def preconnect(self) -> None:
        for server in self.servers:
            server.preconnect()

    def keep_probing(self) -> None:
        """Resume ring rebuilds and probes that stopped because memory had run out."""
        if (self.ring_building or self.ring_stale) and self.ring_job is None:
            self.rebuild_soon()
        if self.next_view is not None or self.departing or self.arriving:
            self.apply_soon()
        for server in self.servers:
            server.keep_probing()

    @property
    def server_ejects(self) -> int:
        return self.reactor.slab.total(self.stats + POOL_SERVER_EJECTS)

    def close(self) -> None:
        for server in self.servers + self.leaving:
            server.close()


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def queue_at(link: Link, stats: cython.pointer(uint64_t), msg: cython.pointer(Msg)) -> cython.void:
    """Put a request into the queue of this link. `stats` is the row of its server."""
    msg.start = link.reactor.now_usec
    stats[SERVER_REQUESTS] += 1
    stats[SERVER_REQUEST_BYTES] += msg.req.length
    msg.refs += 1
    link.enqueue_inq(link, msg)
    link.mark_flush()


@cython.cfunc
@cython.inline
@cython.exceptval(-1, check=False)
def hash_keys(
    router: Router,
    data: cython.p_const_char,
    arg: cython.pointer(cython.const[Arg]),
    step: cython.uint,
    count: cython.uint,
    hashes: cython.pointer(cython.uint),
) -> cython.int:
    """Write the hashes of these keys, as in ServerPool.group."""
    keys = cython.declare(cython.pointer(cython.const[cython.uchar])[4])
    lengths = cython.declare(cython.size_t[4])
    index: cython.uint = 0
    place: cython.uint
    while count - index >= 4:
        for place in range(4):
            keys[place] = cython.cast(cython.pointer(cython.uchar), data) + arg.offset
            lengths[place] = arg.length
            arg += step
        router.hash_four(keys, lengths, hashes + index)
        index += 4
    while index < count:
        hashes[index] = router.hash(
            cython.cast(cython.pointer(cython.uchar), data) + arg.offset, arg.length
        )
        arg += step
        index += 1
    return 0
