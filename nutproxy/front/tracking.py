# nutproxy/front/tracking.py: client-side caching of a frontend's clients
"""Who has read which key, and is told when it changes.

    GET k ─> read ─> ReadKeys[k] += client        (the request is on its way already)
                       │
    Listener ─> changed(k) ─> takes ReadKeys[k] ─> tell ─> `invalidate k`, to each of them once
                └ with bcast ─> cast: to each client with a prefix of k

**Order.** The change of a key comes on another link than the replies (back/invalidations.py), and
may overtake the reply of a read that came before it. So a key is noted when its request is sent,
and what a client is told goes to the end of its queue, after the replies to all requests that it
has sent by then: the client can forget what it has, whatever it was. A read that is sent later has
the new value. If a command is held back or waits in its server, the message goes before its reply:
what it reads is not noted at all, and its client is told to forget that right after the reply.

**Nothing is lost.** A key is noted only while the Listener of its server is ready. Otherwise the
client is told to forget what it has just read. If a Listener or a tracked link ends, or keys get
other servers, clients are told to forget everything, and their entries of the table become void.
If the table is full, an entry is dropped, and its clients are told to forget the key.

**REDIRECT.** The message is for another client. The place in the first one's queue is kept by a
message without bytes, and when that is due, the other one gets its message.

**NOLOOP.** A server cannot know who has written over a shared link. If a client replaces the value
of a key, its entry is dropped when the write is sent: it knows the value then, and has no other. If
the write fails, the client is told to forget the key. About other writes, whose result depends on
the value before, and with bcast, it is told as about those of others.
"""

import logging
from functools import partial

import cython
from cython.cimports.cpython.bytes import PyBytes_GET_SIZE
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.nutproxy.back.invalidations import Listener, Listening, redirect_lane
from cython.cimports.nutproxy.back.link import Link
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.conn import recv_done_t
from cython.cimports.nutproxy.front.client import PUSH_AFTER, PUSH_LAST, ClientConn
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.front.notice import Notice
from cython.cimports.nutproxy.front.read_keys import ReadKeys, Sweep
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.front.tracked import Reader, Tracked
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.msg.message import Msg, msg_constant
from cython.cimports.nutproxy.msg.response import msg_done, msg_error
from cython.cimports.nutproxy.proto.table import STATE_SUBSCRIBED
from cython.cimports.nutproxy.stats.slab import (
    POOL_INVALIDATIONS,
    POOL_SLOW_SUBSCRIBERS,
    POOL_TRACKING_CLIENTS,
    POOL_TRACKING_OVERFLOWS,
)

from nutproxy.builtin.databases import too_many_profiles

log = logging.getLogger("nutproxy")

# A longer key is not noted: an entry must not take more memory than the table is made for.
KEY_MAX = cython.declare(cython.Py_ssize_t, 512)
# Keys of one request that are noted. After a longer one its client is told to forget everything.
KEYS_MAX = cython.declare(cython.Py_ssize_t, 8192)
# Clients that are told something in one turn: 1 to 2 ms.
TOLD_PER_TURN = cython.declare(cython.Py_ssize_t, 500)
# Keys of one message of a Listener with bcast, of which clients with prefixes get theirs.
# More keys are everything.
CAST_MAX = cython.declare(cython.Py_ssize_t, 1024)
# Comparisons of a key with a prefix after which no other client is told in this turn. A comparison
# takes 0.14 us in Python, so one client, which has at most 64 prefixes, takes 9 ms.
COMPARED_PER_TURN = cython.declare(cython.Py_ssize_t, 32768)
# Clients that are closed in one turn.
CLOSED_PER_TURN = 100
# Bytes that a message for another client counts, besides its keys, while it is kept.
KEPT = cython.declare(cython.size_t, 128)
# Milliseconds that CLIENT TRACKING waits for servers if the pool has no timeout.
START_LIMIT = 10000
BROKEN = b">2\r\n$21\r\ntracking-redir-broken\r\n:%d\r\n"


@cython.final
@cython.cclass
class Starting:
    """Described in tracking.pxd."""

    def __init__(self, asked):
        self.asked = asked
        self.missing = set()


@cython.final
@cython.cclass
class Tracking(Listening):
    """Of the clients of one frontend."""

    def __init__(self, frontend: Frontend):
        self.frontend = frontend
        self.pool = frontend.pool
        self.reactor = frontend.reactor
        self.stats = frontend.stats
        self.read_keys = ReadKeys(frontend.config.max_tracked_keys)
        self.read_keys.stats = frontend.stats
        self.max_unread = frontend.max_pending
        self.readers = {}
        self.casters = {}
        self.listeners = [{}, {}]
        self.flushed = [0, 0]
        self.starting = {}
        self.slow = {}
        self.pool.on_regroup.append(self.regrouped)

    @property
    def count(self) -> int:
        """The number of clients with tracking."""
        return len(self.readers) + len(self.casters)

    # CLIENT TRACKING
    # ---------------------------------------------------------------------------------------------

    def start(self, client, starting):
        session: Session = client.session
        asked = starting.asked
        listener: Listener
        if session.tracked is not None:
            # The mode is the same, so nothing else changes.
            session.tracked.set(asked)
            return self.confirm(client, starting)
        self.read_keys.prepare()
        session.tracked = Tracked(Reader(client))
        session.tracked.set(asked)
        if not asked.bcast and not client.track(True):
            self.left(client)
            msg_error(starting.msg, too_many_profiles(client.pool))
            return 0
        client.begin_pushes()
        (self.casters if asked.bcast else self.readers)[client] = None
        self.stats[POOL_TRACKING_CLIENTS] = self.count
        self.starting[client] = starting
        for server in self.pool.servers:
            listener = self.listener_of(server, asked.bcast, True)
            if listener.link is not None and not listener.ready:
                starting.missing.add(listener)
        if starting.missing:
            limit = self.pool.timeout or START_LIMIT
            starting.timer = self.reactor.timers.schedule(
                self.reactor.now + limit, partial(self.settle, client, starting)
            )
        else:
            self.settle(client, starting)
        return 0

    def listener_of(self, server: Server, bcast: bool, now: bool = False) -> Listener:
        """The one of this server, which is being opened if it is not ready."""
        listener: Listener = self.listeners[bcast].get(server)
        if listener is None:
            listener = self.listeners[bcast][server] = Listener(server, bcast, self)
        if not listener.ready:
            listener.open(now)
        return listener

    def settle(self, client: ClientConn, starting: Starting) -> None:
        """Every server has replied, or time is up: make the reply. It is an error if no server can
        report changes."""
        text: bytes = None
        listener: Listener
        if self.starting.get(client) is not starting:
            return
        self.forget_starting(client)
        for server in self.pool.servers:
            listener = self.listeners[starting.asked.bcast].get(server)
            if listener is None:
                continue
            if listener.ready:
                text = None
                break
            text = listener.refusal or self.pool.dead_reply()
        if text is not None:
            self.stop(client)
            msg_error(starting.msg, text)
        else:
            self.confirm(client, starting)

    def confirm(self, client, starting):
        client.session.starting = None
        msg_constant(starting.msg, cython.address(starting.msg.rsp), b"+OK\r\n", 5)
        msg_done(starting.msg)
        return 0

    def forget_starting(self, client: ClientConn) -> None:
        starting: Starting = self.starting.pop(client, None)
        if starting is not None and starting.timer is not None:
            starting.timer.cancel()
            starting.timer = None
        client.session.starting = None

    def settle_those_of(self, listener: Listener) -> None:
        """It is ready, or has failed."""
        starting: Starting
        for client, starting in list(self.starting.items()):
            if listener in starting.missing:
                starting.missing.discard(listener)
                if not starting.missing:
                    self.settle(client, starting)

    def stop(self, client: ClientConn) -> None:
        """CLIENT TRACKING OFF. Without room for another profile it keeps the one that it has."""
        if client.tracked is not None:
            self.left(client)
            client.track(False)

    def left(self, client: ClientConn) -> None:
        """It has gone, or does not track any more."""
        session: Session = client.session
        tracked: Tracked = session.tracked
        self.forget_starting(client)
        if client.fd < 0 and session.due:
            # Others may share its cache.
            for before, notice in session.due.values():
                self.deliver(client, before, notice)
            session.due = None
        if tracked is None:
            return
        session.tracked = None
        client.recv_done = cython.cast(recv_done_t, client.protocol.dispatch)
        self.readers.pop(client, None)
        self.casters.pop(client, None)
        self.stats[POOL_TRACKING_CLIENTS] = self.count
        tracked.reader.client = None
        tracked.writes = None
        self.read_keys.garbage = True

    # Requests
    # ---------------------------------------------------------------------------------------------

    def read(self, client, keys, held):
        tracked: Tracked = client.session.tracked
        rest: list = []
        if len(keys) > KEYS_MAX:
            return self.tell(client, Notice(None), PUSH_LAST)
        for key in keys:
            if held or len(key) > KEY_MAX or not self.covers(key, tracked.bcast):
                rest.append(key)
            elif not tracked.bcast and self.read_keys.note(tracked.reader, key):
                self.drop_one()
        if not rest:
            return 0
        if tracked.bcast:
            return 0 if held else self.cast(client, rest, {})
        return self.tell(client, Notice(rest), PUSH_LAST)

    def drop_one(self) -> None:
        """The table is full."""
        key: bytes = self.read_keys.next_to_drop()
        clients = self.read_keys.take(key)
        if clients:
            self.stats[POOL_TRACKING_OVERFLOWS] += 1
            self.tell_all(clients, Notice([key]))

    def covers(self, key: bytes, bcast: bool) -> bool:
        """Is a change of this key reported?"""
        hash: uint32_t = 0
        listener: Listener
        if self.pool.anywhere:
            for server in self.pool.servers:
                listener = self.listener_of(server, bcast)
                if not listener.ready:
                    return False
            return True
        group: cython.int = self.pool.group_of(
            key, cython.cast(cython.size_t, PyBytes_GET_SIZE(key)), cython.address(hash)
        )
        if group < 0:
            return False
        listener = self.listener_of(self.pool.servers[group], bcast)
        return listener.ready

    def writes(self, client, key):
        tracked: Tracked = client.session.tracked
        return self.read_keys.remove(tracked.reader, key)

    def write_failed(self, client: ClientConn, key: bytes) -> None:
        """It may have been told nothing about a change by another client."""
        self.tell(client, Notice([key]), PUSH_LAST)

    def forget(self, client):
        """What it has read does not count any more."""
        tracked: Tracked = client.session.tracked
        tracked.reader.client = None
        tracked.reader = Reader(client)
        self.read_keys.garbage = True
        return 0

    def tidy(self) -> None:
        """Once a second."""
        listener: Listener
        if self.read_keys.begins_sweep():
            self.reactor.jobs.add(Sweep(self.read_keys))
        for bcast, clients in enumerate((self.readers, self.casters)):
            if not clients and self.listeners[bcast]:
                for listener in self.listeners[bcast].values():
                    listener.end()
                self.listeners[bcast] = {}

    # Changes
    # ---------------------------------------------------------------------------------------------

    def is_busy(self):
        return self.spreading > 0

    def changed(self, listener, keys):
        if keys is None or (listener.bcast and len(keys) > CAST_MAX):
            # FLUSHALL. The server says so for each tracked link, and for the Listener. What is sent
            # to it later in this turn is read after that.
            if self.flushed[listener.bcast] == self.reactor.now_usec:
                return 0
            self.flushed[listener.bcast] = self.reactor.now_usec
            clients = list(self.casters if listener.bcast else self.readers)
            return self.tell_all(clients, Notice(None))
        if listener.bcast:
            return self.tell_all(list(self.casters), Notice(keys))
        for key in keys:
            clients = self.read_keys.take(key)
            if clients:
                self.tell_all(clients, Notice([key]))
        return 0

    def listener_ready(self, listener):
        if listener.bcast:
            # What has been read over other links, of which a client with bcast may know, was not
            # listened to. A client that waits for this has no such knowledge yet.
            self.tell_all(
                [each for each in self.casters if each not in self.starting], Notice(None)
            )
        self.settle_those_of(listener)
        return 0

    def listener_lost(self, listener, text, gap):
        if gap:
            self.tell_all(list(self.casters if listener.bcast else self.readers), Notice(None))
        self.settle_those_of(listener)
        return 0

    def lane_ended(self, link: Link) -> None:
        """The server has forgotten what was read on this tracked link."""
        self.tell_all(self.clients_on(link), Notice(None))

    def lane_ready(self, link: Link) -> None:
        """A tracked link is ready. If the Listener is another one than at the beginning of its
        handshake, what waits to be sent on it is not tracked."""
        server: Server = link.server
        if link.redirect != server.redirect_id:
            redirect_lane(link)
            self.tell_all(self.clients_on(link), Notice(None))

    def clients_on(self, link: Link) -> list:
        """The clients whose requests go over this tracked link."""
        client: ClientConn
        found = []
        for client in self.readers:
            if client.profile is link.profile and client.id % link.server.connections == link.slot:
                found.append(client)
        return found

    def regrouped(self) -> None:
        """Keys may have got other servers."""
        if not self.readers and not self.casters:
            return
        listener: Listener
        kept = set(self.pool.servers)
        for bcast, clients in enumerate((self.readers, self.casters)):
            listeners: dict = self.listeners[bcast]
            for server in [server for server in listeners if server not in kept]:
                listener = listeners.pop(server)
                listener.end()
                self.settle_those_of(listener)
            if clients:
                for server in kept:
                    self.listener_of(server, bcast)
            self.tell_all(list(clients), Notice(None))

    # Messages
    # ---------------------------------------------------------------------------------------------

    def tell_all(self, clients, notice):
        """Tell these clients: in this turn, if they are not too many."""
        job: Spread = Spread(self, clients, notice)
        if job.portion():
            job.later = True
            self.spreading += 1
            self.reactor.jobs.add(job)
        return 0

    def spread_ends(self) -> None:
        listener: Listener
        self.spreading -= 1
        if not self.spreading:
            for listeners in self.listeners:
                for listener in listeners.values():
                    listener.resume()

    def cast(self, client, keys, made):
        """Tell a client with bcast of the keys with its prefixes: a message for each prefix. `made`
        has the Notices by prefix, for all clients."""
        notice: Notice
        tracked: Tracked = client.session.tracked
        for prefix in tracked.prefixes:
            notice = made.get(prefix)
            if notice is None:
                notice = made[prefix] = Notice([key for key in keys if key.startswith(prefix)])
            if notice.keys:
                self.tell(client, notice, PUSH_AFTER)
        return 0

    def tell(self, client, notice, where):
        tracked: Tracked = client.session.tracked
        msg: cython.pointer(Msg)
        size: cython.size_t = KEPT
        if tracked is None or not self.takes(client):
            return 0
        if tracked.redirect == 0:
            if client.profile.protover == 3:
                self.push(client, notice.frame(3), where)
            return 0
        if client.omsg_q.head is cython.NULL:
            return self.deliver(client, tracked, notice)
        for key in notice.keys or ():
            size += len(key)
        msg = client.push(cython.NULL, size, where)
        if msg is cython.NULL:
            self.give_up(client)
        else:
            if client.session.due is None:
                client.session.due = {}
            client.session.due[cython.cast(cython.size_t, msg)] = (tracked, notice)
            self.check(client)
        return 0

    def takes(self, client: ClientConn) -> bool:
        return not (client.fd < 0 or client.closing or client.eof or client in self.slow)

    def turn_has_come(self, client: ClientConn, number: int) -> None:
        """The replies before a message for another client have been sent."""
        found = client.session.due.pop(number, None)
        if found is not None:
            tracked, notice = found
            self.deliver(client, tracked, notice)

    def deliver(self, client, tracked, notice):
        """A message for the client that this one has named with REDIRECT."""
        target: ClientConn = self.frontend.clients.get(tracked.redirect)
        if target is None:
            tracked.broken = True
            if client.profile.protover == 3 and self.takes(client):
                notice = Notice(None, BROKEN % tracked.redirect)
                self.push(client, notice.frame(3), PUSH_AFTER)
            return 0
        if not self.takes(target):
            return 0
        target.need_session()
        target.begin_pushes()
        if target.profile.protover == 3:
            self.push(target, notice.frame(3), PUSH_AFTER)
        elif target.states & STATE_SUBSCRIBED:
            self.push(target, notice.frame(2), PUSH_AFTER)
        return 0

    def push(self, client, body, where):
        if body is cython.NULL or client.push(body, body.length, where) is cython.NULL:
            return self.give_up(client)
        self.stats[POOL_INVALIDATIONS] += 1
        return self.check(client)

    def check(self, client: ClientConn) -> int:
        """A client that does not read is closed, as with subscriptions."""
        if client.session.pushed > self.max_unread:
            self.stats[POOL_SLOW_SUBSCRIBERS] += 1
            log.info(
                "%s: closed: it has %d bytes of unread messages", client, client.session.pushed
            )
            self.give_up(client)
        return 0

    def give_up(self, client: ClientConn) -> int:
        """Close a client that cannot be told, so that it knows."""
        if not self.slow:
            self.reactor.jobs.add(EndSlow(self))
        self.slow[client] = None
        return 0


@cython.final
@cython.cclass
class Spread(Job):
    """Described in tracking.pxd."""

    def __init__(self, tracking: Tracking, clients: list, notice: Notice):
        self.tracking = tracking
        self.clients = clients
        self.notice = notice
        self.made = {}

    def portion(self):
        tracking: Tracking = self.tracking
        client: ClientConn
        compared: cython.Py_ssize_t = 0
        told: cython.Py_ssize_t = 0
        while self.clients and told < TOLD_PER_TURN and compared < COMPARED_PER_TURN:
            client = self.clients.pop()
            told += 1
            if client.session is None or client.session.tracked is None:
                # It has left meanwhile.
                continue
            if self.notice.keys is None:
                tracking.tell(client, self.notice, PUSH_AFTER)
                tracking.forget(client)
            elif client.session.tracked.bcast:
                compared += len(client.session.tracked.prefixes) * len(self.notice.keys)
                tracking.cast(client, self.notice.keys, self.made)
            else:
                tracking.tell(client, self.notice, PUSH_AFTER)
        if self.clients:
            return True
        if self.later:
            tracking.spread_ends()
        return False


@cython.final
@cython.cclass
class EndSlow(Job):
    """Described in tracking.pxd."""

    def __init__(self, tracking: Tracking):
        self.tracking = tracking

    def portion(self):
        tracking: Tracking = self.tracking
        for _ in range(min(CLOSED_PER_TURN, len(tracking.slow))):
            client, _ = tracking.slow.popitem()
            client.kill()
        return len(tracking.slow) > 0
