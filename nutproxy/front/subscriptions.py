# nutproxy/front/subscriptions.py: the subscriptions of a frontend's clients
"""Who gets which messages.

    SUBSCRIBE ─> ask ─> Topic ─> Subscriber.want ─> server      one link to each server carries the
                          │                                     subscriptions of all clients
    clients <─ push <─ message <─ Subscriber <────── server

A channel is on the server that its name hashes to, where PUBLISH goes as well. Patterns, and the
channels of keyspace notifications, which every server sends for its own keys, are on all servers.

**A Topic** exists while a client is subscribed to it, or waits to be. A client is added to it when
the servers have confirmed, and gets its confirmation then: no message can come before it.

**A message** is received once, and all clients share its bytes. It goes into a client's queue
before the first reply that is not made yet, so that a client that waits gets it, too. It is never
put into a reply.

**Many clients.** A message for many clients is delivered in portions (FanOut). The link that it
came on is not read meanwhile, so messages of one channel stay in order, and their number is
bounded by what the server holds back.

**The number of receivers.** A server counts its link as one receiver. Whether it does so while a
SUBSCRIBE or UNSUBSCRIBE is on its way is not known here, so a PUBLISH to such a name waits for the
server's confirmation, and PUBSUB does in any case (Counting).

**Slow clients.** The link is shared, so it is read even if a client does not read. A client with
more than `client_max_pending` unread bytes of messages is closed, as by Redis'
client-output-buffer-limit.
"""

import logging
from functools import partial
from itertools import islice

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.back.subscriber import Subscriber
from cython.cimports.nutproxy.front.client import PUSH_NOW, ClientConn
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.msg.message import (
    Body,
    Msg,
    msg_copy,
    msg_get,
    msg_put,
    msg_share,
    msg_take,
)
from cython.cimports.nutproxy.msg.response import msg_done, msg_error
from cython.cimports.nutproxy.pool import ServerPool
from cython.cimports.nutproxy.proto.glob import glob_match
from cython.cimports.nutproxy.proto.table import (
    CHANNEL,
    KINDS,
    PATTERN,
    SHARD,
    STATE_SUBSCRIBED,
)
from cython.cimports.nutproxy.stats.slab import (
    POOL_MESSAGES_DELIVERED,
    POOL_SLOW_SUBSCRIBERS,
    POOL_SUBSCRIPTIONS,
)

from nutproxy.back.link import TIMED_OUT
from nutproxy.back.subscriber import SUBSCRIBE, UNSUBSCRIBE
from nutproxy.proto import errors

log = logging.getLogger("nutproxy")

# The work for messages in one turn: each client that gets one counts 1, or WRITE if something has
# to be written to it only because of that. 2,000 writes take 5 ms.
WORK_PER_TURN = cython.declare(cython.size_t, 32768)
WRITE = cython.declare(cython.size_t, 16)
# Names that are subscribed, moved or ended in one turn: 1 to 2 ms.
NAMES_PER_TURN = cython.declare(cython.Py_ssize_t, 500)
# Clients that are closed in one turn.
CLOSES_PER_TURN = 100
# Approximate bytes of a subscription besides its name.
TOPIC_SIZE = cython.declare(cython.size_t, 256)
# The work to compare a channel with patterns, for the number of receivers that PUBLISH returns.
GLOB_WORK = 200000
# Every server sends notifications about its own keys.
KEYSPACE = (b"__keyspace@", b"__keyevent@")


@cython.final
@cython.cclass
class Topic:
    """The values are described in subscriptions.pxd."""

    def __init__(self, kind: cython.int, name: bytes):
        self.kind = kind
        self.name = name
        self.clients = {}
        self.askers = {}


@cython.final
@cython.cclass
class Asking(Job):
    """Described in subscriptions.pxd. As a Job it goes on with the names that are left."""

    def __init__(self, subscriptions: Subscriptions, client: ClientConn, pairs: list):
        self.conn = client
        self.subscriptions = subscriptions
        self.client = client
        self.pairs = pairs
        self.topics = []
        self.missing = set()

    def portion(self):
        subscriptions: Subscriptions = self.subscriptions
        if self not in subscriptions.askings:
            return False
        subscriptions.ask_some(self)
        return self in subscriptions.askings and len(self.topics) < len(self.pairs)


@cython.final
@cython.cclass
class Counting(Job):
    """Described in subscriptions.pxd."""

    def __init__(self, client: ClientConn, missing: set):
        self.conn = client
        self.client = client
        self.missing = missing

    def is_over(self) -> None:
        """All is confirmed, or the servers take too long."""
        self.missing.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.client.reactor.jobs.add(self)

    def portion(self):
        client: ClientConn = self.client
        session: Session = client.session
        if client.fd < 0 or session.settling is not self:
            return False
        session.settling = None
        if session.postponed is not None:
            # It waits once: others may end further subscriptions for ever.
            session.settled = True
            client.go_on()
            session.settled = False
        return False


@cython.final
@cython.cclass
class Subscriptions(Audience):
    """Those of the clients of one frontend."""

    def __init__(self, pool: ServerPool):
        config = pool.config
        self.pool = pool
        self.reactor = pool.reactor
        self.stats = pool.stats
        self.max_unread = config.client_max_pending
        self.max_subscriptions = config.max_subscriptions
        self.closes = config.subscribe_gap == "close"
        self.topics = [{} for _ in range(KINDS)]
        self.subscribers = {}
        self.touched = {}
        self.askings = set()
        self.settlings = {}
        self.version = pool.version
        pool.on_regroup.append(self.move_soon)

    def is_empty(self):
        return not self.subscribers

    def tidy(self) -> None:
        """Once a second."""
        subscriber: Subscriber
        if self.version != self.pool.version:
            self.move_soon()
        for subscriber in list(self.subscribers.values()):
            subscriber.tidy()

    # Topics and their servers
    # ---------------------------------------------------------------------------------------------

    def server_of(self, kind, name):
        """The server that this is on; None if no server is live."""
        hash: uint32_t = 0
        group: cython.int = self.pool.group_of(name, len(name), cython.address(hash))
        return None if group < 0 else self.pool.servers[group]

    def topic_of(self, kind, name):
        """The topic of this name, which may be new. None if there is no live server for it."""
        topics: dict = self.topics[kind]
        topic: Topic = topics.get(name)
        if topic is not None:
            return topic
        topic = Topic(kind, name)
        if not self.is_everywhere(kind, name):
            server: Server = self.server_of(kind, name)
            if server is None:
                return None
            topic.home = self.subscriber_of(server)
            self.want(topic.home, topic)
        else:
            for server in self.pool.servers:
                self.want(self.subscriber_of(server), topic)
        topics[name] = topic
        return topic

    def is_everywhere(self, kind: int, name: bytes) -> bool:
        """Is a message for it sent by every server, or by any?"""
        return kind == PATTERN or self.pool.anywhere or name.startswith(KEYSPACE)

    def subscriber_of(self, server):
        subscriber: Subscriber = self.subscribers.get(server)
        if subscriber is None:
            subscriber = self.subscribers[server] = Subscriber(server, self)
        return subscriber

    def want(self, subscriber, topic):
        self.touched[subscriber] = None
        return subscriber.want(topic.kind, topic.name)

    def unwant(self, subscriber, topic):
        self.touched[subscriber] = None
        return subscriber.unwant(topic.kind, topic.name)

    def homes(self, topic: Topic) -> list:
        """The subscribers that it needs."""
        if topic.home is not None:
            return [topic.home]
        return [self.subscriber_of(server) for server in self.pool.servers]

    def release(self, topic):
        """End a topic that no client needs any more."""
        subscriber: Subscriber
        if topic.clients or topic.askers:
            return 0
        del self.topics[topic.kind][topic.name]
        for subscriber in self.homes(topic):
            self.unwant(subscriber, topic)
        return 0

    def flush(self):
        """Tell the servers what has changed."""
        subscriber: Subscriber
        touched: dict = self.touched
        self.touched = {}
        for subscriber in touched:
            subscriber.flush()
        return 0

    # SUBSCRIBE
    # ---------------------------------------------------------------------------------------------

    def ask(self, asking):
        count: cython.size_t = len(asking.pairs)
        size: cython.size_t = sum([len(name) + TOPIC_SIZE for _, name in asking.pairs])
        self.askings.add(asking)
        if self.stats[POOL_SUBSCRIPTIONS] + count > self.max_subscriptions:
            most = b"%d" % self.max_subscriptions
            return self.fail(asking, errors.error("subscriptions", most))
        if asking.client.session.named + size > self.max_unread:
            most = b"%d" % self.max_unread
            return self.fail(asking, errors.error("subscriptions_size", most))
        if self.pool.timeout:
            asking.timer = self.reactor.timers.schedule(
                self.reactor.now + self.pool.timeout, partial(self.expire, asking)
            )
        self.ask_some(asking)
        if asking in self.askings and len(asking.topics) < len(asking.pairs):
            self.reactor.jobs.add(asking)
        return 0

    def ask_some(self, asking):
        """Ask for the next NAMES_PER_TURN names."""
        topic: Topic
        subscriber: Subscriber
        start: cython.Py_ssize_t = len(asking.topics)
        for kind, name in asking.pairs[start : start + NAMES_PER_TURN]:
            topic = self.topic_of(kind, name)
            if topic is None:
                return self.fail(asking, self.pool.dead_reply())
            asking.topics.append(topic)
            topic.askers[asking] = None
            for subscriber in self.homes(topic):
                if not subscriber.has(kind, name):
                    # Again, if this server has refused it before.
                    self.want(subscriber, topic)
                    asking.missing.add((subscriber, kind, name))
        # This may find out that a server is down.
        self.flush()
        return self.settle(asking)

    def settle(self, asking):
        """If all is confirmed, go on with the command."""
        if asking not in self.askings or asking.missing or len(asking.topics) < len(asking.pairs):
            return 0
        self.askings.discard(asking)
        return self.go_on(asking)

    def fail(self, asking, text):
        """Refuse the command: none of its names is subscribed."""
        self.askings.discard(asking)
        asking.error = text
        return self.go_on(asking)

    def go_on(self, asking: Asking) -> int:
        msg: cython.pointer(Msg) = asking.msg
        text: bytes = asking.error
        if asking.timer is not None:
            asking.timer.cancel()
            asking.timer = None
        if asking.then is not cython.NULL:
            return asking.then(asking.client, msg)
        if text is None:
            text = self.admit(asking, 0, len(asking.topics))
        self.forget(asking)
        if asking.error is not None:
            msg_error(msg, text)
            return 0
        if (
            msg_copy(
                msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text)
            )
            < 0
        ):
            raise MemoryError
        msg_done(msg)
        return 0

    def admit(self, asking, start, stop):
        client: ClientConn = asking.client
        session: Session = client.session
        topic: Topic
        frames: list = []
        if session.topics is None:
            session.topics = [{} for _ in range(KINDS)]
            client.begin_pushes()
        for topic in asking.topics[start:stop]:
            own: dict = session.topics[topic.kind]
            if topic.name not in own:
                own[topic.name] = topic
                topic.clients[client] = None
                session.named += len(topic.name) + TOPIC_SIZE
                self.stats[POOL_SUBSCRIPTIONS] += 1
            frames.append(confirmation(client, SUBSCRIBE[topic.kind], topic.kind, topic.name))
        self.note_state(client)
        return b"".join(frames)

    def forget(self, asking):
        topic: Topic
        self.askings.discard(asking)
        if asking.timer is not None:
            asking.timer.cancel()
            asking.timer = None
        asking.client.session.asking = None
        for topic in asking.topics:
            if asking in topic.askers:
                del topic.askers[asking]
                self.release(topic)
        asking.topics = []
        asking.msg = cython.NULL
        asking.extra = None
        return self.flush()

    def expire(self, asking: Asking) -> None:
        """The servers take too long. Patterns are subscribed on those that have confirmed."""
        subscriber: Subscriber
        asking.timer = None
        for subscriber in {pair[0]: None for pair in asking.missing}:
            self.give_up(asking, subscriber, subscriber.server.error_reply(TIMED_OUT), True)

    def give_up(
        self, asking: Asking, subscriber: Subscriber, text: bytes, timed_out: bool = False
    ) -> None:
        """This command waits for this server in vain."""
        topic: Topic
        gone = {pair[1:] for pair in asking.missing if pair[0] is subscriber}
        if asking not in self.askings or not gone:
            return
        asking.missing = {pair for pair in asking.missing if pair[0] is not subscriber}
        for topic in asking.topics:
            if (topic.kind, topic.name) not in gone:
                continue
            if topic.home is not None or not self.is_somewhere(topic, timed_out):
                self.fail(asking, text)
                return
        self.settle(asking)

    def is_somewhere(self, topic: Topic, confirmed: bool) -> bool:
        """Can a server send its messages: has one confirmed, or at least a link?"""
        subscriber: Subscriber
        for subscriber in self.homes(topic):
            if subscriber.has(topic.kind, topic.name) or (
                not confirmed and subscriber.link is not None
            ):
                return True
        return False

    # As the audience of the subscribers
    # ---------------------------------------------------------------------------------------------

    def confirmed(self, subscriber, kind, name):
        topic: Topic = self.topics[kind].get(name)
        asking: Asking
        if topic is None or not topic.askers:
            return 0
        for asking in list(topic.askers):
            asking.missing.discard((subscriber, kind, name))
            self.settle(asking)
        return 0

    def refused(self, subscriber, kind, names, text):
        topic: Topic
        asking: Asking
        for name in names:
            topic = self.topics[kind].get(name)
            if topic is None:
                continue
            for asking in list(topic.askers):
                if asking in self.askings:
                    self.fail(asking, text)
        log.warning(
            "%s refuses subscriptions: %s", subscriber.server, text[1 : len(text) - 2].decode()
        )
        return 0

    def lost(self, subscriber, text, gap):
        asking: Asking
        for asking in list(self.askings):
            self.give_up(asking, subscriber, text)
        if gap and self.closes:
            self.close_those_of(subscriber)
        return 0

    def settled(self, asked):
        settling: Counting
        if not self.settlings:
            return 0
        for settling in self.settlings.pop(asked, ()):
            if asked in settling.missing:
                settling.missing.discard(asked)
                if not settling.missing:
                    settling.is_over()
        return 0

    def close_those_of(self, subscriber: Subscriber) -> None:
        """The clients of this server have lost messages."""
        topic: Topic
        clients: dict = {}
        for topics in self.topics:
            for topic in topics.values():
                if topic.home is None or topic.home is subscriber:
                    clients.update(topic.clients)
        if clients:
            self.reactor.jobs.add(Closing(list(clients)))

    def message(self, subscriber, kind, name, length, data, size):
        topics: dict = self.topics[kind]
        topic: Topic = topics.get(
            PyBytes_FromStringAndSize(name, cython.cast(cython.Py_ssize_t, length))
        )
        holder: cython.pointer(Msg)
        if topic is None or not topic.clients:
            return 0
        holder = held_frame(data, size)
        if holder is cython.NULL:
            raise MemoryError
        try:
            if not self.afford(topic):
                return self.deliver_later(subscriber, topic, holder)
            slow: list = None
            for client in topic.clients:
                if self.deliver(client, topic, holder):
                    slow = slow or []
                    slow.append(client)
        finally:
            msg_put(holder)
        if slow is not None:
            self.close_slow(slow)
        return 0

    def deliver_later(self, subscriber, topic, holder):
        job: FanOut = FanOut(self, subscriber, topic)
        job.holder = holder
        holder.refs += 1
        self.reactor.jobs.add(job)
        subscriber.paused = True
        return 0

    def afford(self, topic):
        """Can a message be delivered to all clients of a topic in this turn? If it is not the first
        one of this turn, most of them are written to anyway."""
        self.new_turn()
        work: cython.size_t = len(topic.clients)
        if topic.turn != self.turn:
            work *= WRITE
        if self.spent + work > WORK_PER_TURN:
            return False
        topic.turn = self.turn
        return True

    def new_turn(self):
        if self.turn != self.reactor.now_usec:
            self.turn = self.reactor.now_usec
            self.spent = 0

    def deliver(self, client, topic, holder):
        """Put a message into the queue of a client. Returns whether it is to be closed."""
        session: Session = client.session
        if client.fd < 0 or client.closing or client.eof:
            return 0
        if session.parting and not has(session, topic):
            return 0
        self.spent += 1 if client.in_flush else WRITE
        body: cython.pointer(Body) = frame_for(client, holder)
        if body is cython.NULL or not client.push(body, body.length, PUSH_NOW):
            return 1
        self.stats[POOL_MESSAGES_DELIVERED] += 1
        return session.pushed > self.max_unread

    def close_slow(self, clients: list) -> None:
        client: ClientConn
        for client in clients:
            self.stats[POOL_SLOW_SUBSCRIBERS] += 1
            log.info(
                "%s: closed: it has %d bytes of unread messages", client, client.session.pushed
            )
            client.close(client)

    # UNSUBSCRIBE, and clients that leave
    # ---------------------------------------------------------------------------------------------

    def unsubscribe(self, client, kind, names):
        own: dict = self.own(client, kind)
        frames: list = []
        if names is None:
            names = list(own) or [None]
        for name in names:
            if name in own:
                self.end_one(client, own.pop(name))
            frames.append(confirmation(client, UNSUBSCRIBE[kind], kind, name))
        self.note_state(client)
        self.flush()
        return b"".join(frames)

    def unsubscribe_steps(self, client: ClientConn, kind: int):
        """The same for all names, if there are many: yields b"" until the reply is made."""
        frames: list = []
        own: dict = self.own(client, kind)
        while own:
            some = list(islice(own, NAMES_PER_TURN))
            frames.append(self.unsubscribe(client, kind, some))
            yield b"".join(frames) if not own else b""

    def own(self, client: ClientConn, kind: int) -> dict:
        """The topics of a client by name."""
        session: Session = client.session
        if session is None or session.topics is None:
            return {}
        return session.topics[kind]

    def end_one(self, client, topic):
        """A client is not subscribed to this any more."""
        del topic.clients[client]
        client.session.named -= len(topic.name) + TOPIC_SIZE
        self.stats[POOL_SUBSCRIPTIONS] -= 1
        return self.release(topic)

    def note_state(self, client: ClientConn) -> None:
        """Is it in the subscribed state?"""
        session: Session = client.session
        if session is not None and session.topics is not None and any(session.topics):
            client.states |= STATE_SUBSCRIBED
        else:
            client.states &= ~STATE_SUBSCRIBED

    def left(self, client: ClientConn) -> None:
        """The client has gone, or has sent RESET."""
        session: Session = client.session
        gone: list = []
        if session.asking is not None:
            self.forget(session.asking)
        if session.topics is None:
            return
        for topics in session.topics:
            gone += topics.values()
        session.topics = None
        job: Parting = Parting(self, client, gone)
        if job.portion():
            self.reactor.jobs.add(job)

    # Other servers
    # ---------------------------------------------------------------------------------------------

    def move_soon(self) -> None:
        """Keys may have got other groups: look where the topics belong."""
        if self.moving is None and self.subscribers:
            job: Moving = Moving(self)
            self.reactor.jobs.add(job)
            self.moving = job
        elif self.moving is None:
            self.version = self.pool.version

    def move(self, topic):
        """Put a topic on its server, or on all of them."""
        asking: Asking
        subscriber: Subscriber
        before: Subscriber = topic.home
        if before is not None:
            server: Server = self.server_of(topic.kind, topic.name)
            if server is None or server is before.server:
                return 0
            topic.home = self.subscriber_of(server)
            self.unwant(before, topic)
        for subscriber in self.homes(topic):
            self.want(subscriber, topic)
        for asking in topic.askers:
            if before is not None and asking in self.askings:
                asking.missing.discard((before, topic.kind, topic.name))
                if not topic.home.has(topic.kind, topic.name):
                    asking.missing.add((topic.home, topic.kind, topic.name))
        return 0

    def end_others(self) -> None:
        """Forget the servers that are no members any more."""
        subscriber: Subscriber
        asking: Asking
        kept = set(self.pool.servers)
        for server in [server for server in self.subscribers if server not in kept]:
            subscriber = self.subscribers.pop(server)
            subscriber.end()
            for asking in list(self.askings):
                self.give_up(asking, subscriber, self.pool.dead_reply())

    # PUBLISH
    # ---------------------------------------------------------------------------------------------

    def is_unsettled(self, client, kind, name, group):
        subscriber: Subscriber
        settling: Counting
        session: Session = client.session
        missing: set = set()
        if client.draining or (session is not None and session.settled):
            return False
        for subscriber in self.subscribers.values():
            if group < 0 or subscriber.server is self.pool.servers[group]:
                missing |= self.unsettled(subscriber, kind, name)
        if not missing:
            return False
        session = client.need_session()
        settling = session.settling = Counting(client, missing)
        for asked in missing:
            self.settlings.setdefault(asked, []).append(settling)
        if self.pool.timeout:
            settling.timer = self.reactor.timers.schedule(
                self.reactor.now + self.pool.timeout, settling.is_over
            )
        return True

    def unsettled(self, subscriber: Subscriber, kind: int, name: bytes | None) -> set:
        """What is on its way to this server and changes its number."""
        work: cython.Py_ssize_t = GLOB_WORK
        if name is None or not subscriber.asked:
            return set(subscriber.asked)
        found = {subscriber.leaving[kind].get(name), subscriber.names[kind].get(name)}
        if kind == CHANNEL:
            for names in (subscriber.leaving[PATTERN], subscriber.names[PATTERN]):
                for pattern, asked in names.items():
                    if work < 0:
                        break
                    if glob_match(pattern, len(pattern), name, len(name), cython.address(work)):
                        found.add(asked)
        return found - {None, True}

    def error_of(self, kind, name, group):
        """The server counts its Subscriber as one receiver for the channel, and for each pattern
        that matches. In truth it is as many as clients have subscribed."""
        subscriber: Subscriber = self.subscribers.get(self.pool.servers[group])
        topic: Topic
        error: cython.int = 0
        work: cython.Py_ssize_t = GLOB_WORK
        if subscriber is None:
            return 0
        topic = self.topics[kind].get(name)
        if subscriber.counts(kind, name):
            error += (0 if topic is None else len(topic.clients)) - 1
        if kind == SHARD:
            return error
        for topic in self.topics[PATTERN].values():
            work -= 8
            if work < 0:
                break
            if glob_match(
                topic.name, len(topic.name), name, len(name), cython.address(work)
            ) and subscriber.has(PATTERN, topic.name):
                error += len(topic.clients) - 1
        return error

    # For PUBSUB and INFO
    # ---------------------------------------------------------------------------------------------

    def names(self, kind: int) -> list:
        return list(self.topics[kind])

    def receivers(self, kind: int, name: bytes) -> int:
        """The number of clients that are subscribed."""
        topic: Topic = self.topics[kind].get(name)
        return 0 if topic is None else len(topic.clients)

    def counted(self, kind: int, name: bytes, server: Server) -> bool:
        """Does this server count a subscription of nutproxy itself?"""
        subscriber: Subscriber = self.subscribers.get(server)
        return subscriber is not None and subscriber.counts(kind, name)

    def patterns_of(self, server: Server) -> int:
        """The number of patterns that this server counts because of nutproxy."""
        subscriber: Subscriber = self.subscribers.get(server)
        if subscriber is None:
            return 0
        live = [name for name in subscriber.names[PATTERN] if subscriber.has(PATTERN, name)]
        return len(live) + len(subscriber.leaving[PATTERN])


@cython.cfunc
@cython.exceptval(-1)
def has(session: Session, topic: Topic) -> cython.bint:
    """Has this client subscribed to it, and not left?"""
    return session.topics is not None and topic.name in session.topics[topic.kind]


@cython.cfunc
def confirmation(client: ClientConn, word: bytes, kind: cython.int, name: object) -> bytes:
    """The reply for one name: its word, the name, and the number of subscriptions. None: there was
    none."""
    session: Session = client.session
    head: bytes = b">3" if client.profile.protover == 3 else b"*3"
    count: cython.Py_ssize_t = 0
    shown: bytes
    if session is not None and session.topics is not None:
        if kind == SHARD:
            count = len(session.topics[SHARD])
        else:
            count = len(session.topics[CHANNEL]) + len(session.topics[PATTERN])
    if name is not None:
        shown = b"$%d\r\n%b" % (len(name), name)
    else:
        shown = b"_" if client.profile.protover == 3 else b"$-1"
    return b"%b\r\n$%d\r\n%b\r\n%b\r\n:%d\r\n" % (head, len(word), word, shown, count)


@cython.cfunc
@cython.exceptval(check=False)
def held_frame(data: cython.p_const_char, size: cython.size_t) -> cython.pointer(Msg):
    """A message that holds this frame in its reply, in memory that others can share. Its request is
    for the frame in RESP3. NULL when memory has run out."""
    block: cython.p_char
    holder: cython.pointer(Msg) = msg_get()
    if holder is cython.NULL:
        return cython.NULL
    block = cython.cast(cython.p_char, malloc(size))
    if block is not cython.NULL:
        memcpy(block, data, size)
        msg_take(holder, cython.address(holder.rsp), block, size)
        if msg_share(cython.address(holder.rsp)):
            return holder
    msg_put(holder)
    return cython.NULL


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def frame_for(client: ClientConn, holder: cython.pointer(Msg)) -> cython.pointer(Body):
    """The frame in the protocol of this client; NULL when memory has run out."""
    block: cython.p_char
    if client.profile.protover == 2:
        return cython.address(holder.rsp)
    if holder.req.length == 0:
        block = cython.cast(cython.p_char, malloc(holder.rsp.length))
        if block is cython.NULL:
            return cython.NULL
        memcpy(block, holder.rsp.data, holder.rsp.length)
        block[0] = b">"
        msg_take(holder, cython.address(holder.req), block, holder.rsp.length)
        if not msg_share(cython.address(holder.req)):
            return cython.NULL
    return cython.address(holder.req)


@cython.final
@cython.cclass
class FanOut(Job):
    """Described in subscriptions.pxd."""

    def __init__(self, subscriptions: Subscriptions, subscriber: Subscriber, topic: Topic):
        self.subscriptions = subscriptions
        self.subscriber = subscriber
        self.topic = topic
        self.clients = list(topic.clients)

    def __dealloc__(self):
        if self.holder is not cython.NULL:
            msg_put(self.holder)

    def portion(self):
        more: cython.bint = False
        try:
            more = self.go_on()
        finally:
            if not more:
                self.subscriber.resume()
        return more

    def go_on(self):
        """Deliver to some. Returns whether there are more."""
        subscriptions: Subscriptions = self.subscriptions
        client: ClientConn
        slow: list = []
        subscriptions.new_turn()
        if self.at == 0 and len(self.clients) * WRITE <= WORK_PER_TURN:
            # All of them get it in this turn.
            self.topic.turn = subscriptions.turn
        while self.at < len(self.clients) and subscriptions.spent < WORK_PER_TURN:
            client = self.clients[self.at]
            self.at += 1
            # It may have unsubscribed meanwhile.
            if client in self.topic.clients and subscriptions.deliver(
                client, self.topic, self.holder
            ):
                slow.append(client)
        subscriptions.close_slow(slow)
        return self.at < len(self.clients)


@cython.final
@cython.cclass
class Parting(Job):
    """Described in subscriptions.pxd."""

    def __init__(self, subscriptions: Subscriptions, client: ClientConn, topics: list):
        self.subscriptions = subscriptions
        self.client = client
        self.topics = topics

    def portion(self):
        subscriptions: Subscriptions = self.subscriptions
        topic: Topic
        for _ in range(min(NAMES_PER_TURN, len(self.topics))):
            topic = self.topics.pop()
            if has(self.client.session, topic):
                # After RESET it has subscribed again.
                subscriptions.stats[POOL_SUBSCRIPTIONS] -= 1
                self.client.session.named -= len(topic.name) + TOPIC_SIZE
            else:
                subscriptions.end_one(self.client, topic)
        subscriptions.flush()
        self.client.session.parting = len(self.topics) > 0
        return self.client.session.parting


@cython.final
@cython.cclass
class Moving(Job):
    """Described in subscriptions.pxd. If keys get other groups meanwhile, it begins anew."""

    def __init__(self, subscriptions: Subscriptions):
        self.subscriptions = subscriptions

    def portion(self):
        subscriptions: Subscriptions = self.subscriptions
        more: cython.bint = False
        try:
            more = self.go_on()
        finally:
            if not more:
                # After an exception, `tidy` begins anew.
                subscriptions.moving = None
        return more

    def go_on(self) -> bool:
        """Look at some topics. Returns whether there are more."""
        subscriptions: Subscriptions = self.subscriptions
        topic: Topic
        if self.topics is None:
            self.version = subscriptions.pool.version
            self.topics = [topic for topics in subscriptions.topics for topic in topics.values()]
        for _ in range(min(NAMES_PER_TURN, len(self.topics))):
            topic = self.topics.pop()
            if subscriptions.topics[topic.kind].get(topic.name) is topic:
                subscriptions.move(topic)
        subscriptions.flush()
        if self.topics:
            return True
        self.topics = None
        if self.version != subscriptions.pool.version:
            return True
        subscriptions.version = self.version
        subscriptions.end_others()
        return False


@cython.final
@cython.cclass
class Closing(Job):
    """Described in subscriptions.pxd."""

    def __init__(self, clients: list):
        self.clients = clients

    def portion(self):
        client: ClientConn
        for _ in range(min(CLOSES_PER_TURN, len(self.clients))):
            client = self.clients.pop()
            client.close(client)
        return len(self.clients) > 0
