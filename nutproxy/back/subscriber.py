# nutproxy/back/subscriber.py: what the clients of a pool are subscribed to on one server
"""Holds the one link on which a server sends its messages for all clients.

    want, unwant ─> flush ─> SUBSCRIBE, UNSUBSCRIBE ─> server
    Audience.confirmed, refused  <─ their replies     <─┤
    Audience.message             <─ messages          <─┘

The link speaks RESP2 and carries nothing else, so its frames are told apart by their first element.
Each name in a command gets a reply of its own, in the order of the commands: `asked`.

If the link ends, all names are subscribed again on the next one, which is opened as soon as the
server is up. Messages in between are lost, as they are for a client of Redis whose connection ends.
"""

import logging
from collections import deque

import cython
import hiredis
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.string import memcmp
from cython.cimports.nutproxy.back.link import LINK_READY, Link, LinkUser
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.msg.message import MSG_DONE, Msg, msg_copy, msg_get, msg_put
from cython.cimports.nutproxy.proto.redis import read_length
from cython.cimports.nutproxy.proto.table import CHANNEL, KINDS, PATTERN, SHARD
from cython.cimports.nutproxy.stats.slab import (
    SERVER_MESSAGES,
    SERVER_SERVER_PROTOCOL_ERRORS,
    SERVER_SUBSCRIPTION_GAPS,
)

from nutproxy.back.handshake import UNASKED
from nutproxy.back.link import NOT_NEEDED
from nutproxy.proto import errors
from nutproxy.proto.merge import decode

log = logging.getLogger("nutproxy")

# By kind: the commands. Their replies begin with the same words in lower case.
SUBSCRIBE = (b"subscribe", b"psubscribe", b"ssubscribe")
UNSUBSCRIBE = (b"unsubscribe", b"punsubscribe", b"sunsubscribe")
# The names in one command on a new link.
NAMES_MAX = 1000
# Milliseconds before a link is opened again. The delay grows while that fails.
RETRY_MIN = 50
RETRY_MAX = 1000
# No message is shorter than this.
SHORTEST = cython.declare(cython.size_t, 29)


@cython.cclass
class Audience:
    """The methods are described in subscriber.pxd."""

    def message(self, subscriber, kind, name, length, data, size):
        raise NotImplementedError

    def confirmed(self, subscriber, kind, name):
        raise NotImplementedError

    def refused(self, subscriber, kind, names, text):
        raise NotImplementedError

    def lost(self, subscriber, text, gap):
        raise NotImplementedError

    def settled(self, asked):
        raise NotImplementedError


@cython.final
@cython.cclass
class Asked:
    def __init__(self, word: bytes, kind: cython.int, names: list):
        self.word = word
        self.kind = kind
        self.names = names


@cython.final
@cython.cclass
class Subscriber(LinkUser):
    """The subscriptions on `server`."""

    def __init__(self, server: Server, audience: Audience):
        self.server = server
        self.audience = audience
        self.names = [{} for _ in range(KINDS)]
        self.fresh = [{} for _ in range(KINDS)]
        self.stale = [{} for _ in range(KINDS)]
        self.leaving = [{} for _ in range(KINDS)]
        self.asked = deque()
        self.backlog = []
        self.delay = RETRY_MIN

    def want(self, kind, name):
        names: dict = self.names[kind]
        if name in names:
            return 0
        if name in self.stale[kind]:
            # UNSUBSCRIBE has not been sent.
            names[name] = self.stale[kind].pop(name)
            return 0
        names[name] = None
        self.fresh[kind][name] = None
        return 0

    def unwant(self, kind, name):
        names: dict = self.names[kind]
        if name not in names:
            return 0
        asked = names.pop(name)
        if name in self.fresh[kind]:
            del self.fresh[kind][name]
        elif asked is not None:
            self.stale[kind][name] = asked
        return 0

    def flush(self):
        kind: cython.int
        if self.link is None:
            if self.retry is None and not self.is_empty():
                self.open()
            return 0
        if self.link.state != LINK_READY:
            return 0
        for kind in range(cython.cast(cython.int, KINDS)):
            if self.fresh[kind]:
                self.send(SUBSCRIBE[kind], kind, list(self.fresh[kind]))
                self.fresh[kind].clear()
            if self.stale[kind]:
                self.send(UNSUBSCRIBE[kind], kind, list(self.stale[kind]))
                self.stale[kind].clear()
        return 0

    def send(self, word, kind, names):
        """Send a command with these names."""
        text: bytes = hiredis.pack_command((word, *names))
        asked: Asked = Asked(word, kind, names)
        target: dict = self.names[kind] if word == SUBSCRIBE[kind] else self.leaving[kind]
        msg: cython.pointer(Msg) = msg_get()
        if msg is cython.NULL:
            raise MemoryError
        if (
            msg_copy(
                msg, cython.address(msg.req), cython.cast(cython.p_const_char, text), len(text)
            )
            < 0
        ):
            msg_put(msg)
            raise MemoryError
        # Nobody waits for a reply in it.
        msg.flags = MSG_DONE
        msg.start = self.link.reactor.now_usec
        self.link.enqueue_inq(self.link, msg)
        self.link.mark_flush()
        self.asked.append(asked)
        for name in names:
            target[name] = asked
        return 0

    def has(self, kind, name):
        return self.names[kind].get(name) is True

    def counts(self, kind, name):
        return (
            self.names[kind].get(name) is True
            or name in self.leaving[kind]
            or self.stale[kind].get(name) is True
        )

    def is_empty(self):
        return not any(self.names)

    def resume(self):
        self.paused = False
        if self.link is not None:
            self.link.mark_ready()

    def end(self):
        """The server is no member of the pool any more, or the pool is closed."""
        self.ended = True
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.link is not None:
            self.link.drop()
        return 0

    def tidy(self):
        """End a link that nobody needs any more."""
        if self.link is not None and self.is_empty() and not self.asked:
            self.link.drop()
        return 0

    # The link
    # ---------------------------------------------------------------------------------------------

    def open(self):
        """Open a link, or try to."""
        link: Link = self.server.borrow(self.server.profiles.default)
        if link is None:
            self.try_later()
            self.audience.lost(self, self.server.refusal, False)
            return 0
        self.link = link
        link.serve(self)
        return 0

    def try_later(self) -> None:
        if self.retry is None and not self.ended:
            reactor = self.server.reactor
            self.retry = reactor.timers.schedule(reactor.now + self.delay, self.try_again)
            self.delay = min(2 * self.delay, RETRY_MAX)

    def try_again(self) -> None:
        self.retry = None
        if self.link is not None or self.is_empty():
            return
        if self.server.down:
            # Its own probes find out when it is up.
            self.delay = RETRY_MIN
            self.try_later()
        else:
            self.open()

    def link_opened(self, link):
        """Subscribe to everything, in commands of a bounded size: the next one is sent when the one
        before has been confirmed."""
        kind: cython.int
        self.delay = RETRY_MIN
        for kind in range(cython.cast(cython.int, KINDS)):
            names: list = list(self.names[kind])
            self.fresh[kind].clear()
            self.stale[kind].clear()
            for start in range(0, len(names), NAMES_MAX):
                self.backlog.append((kind, names[start : start + NAMES_MAX]))
        self.send_backlog()
        return 0

    def send_backlog(self):
        while self.backlog and not self.asked:
            kind, names = self.backlog.pop()
            # Some may have gone meanwhile, or may have been sent.
            wanted: dict = self.names[kind]
            names = [name for name in names if name in wanted and wanted[name] is None]
            if names:
                self.send(SUBSCRIBE[kind], kind, names)
        return 0

    def link_ended(self, link, text):
        kind: cython.int
        had: cython.bint = False
        self.link = None
        for asked in self.asked:
            self.audience.settled(asked)
        self.asked.clear()
        self.backlog.clear()
        for kind in range(cython.cast(cython.int, KINDS)):
            names: dict = self.names[kind]
            had = had or True in names.values()
            self.names[kind] = dict.fromkeys(names)
            self.fresh[kind].clear()
            self.stale[kind].clear()
            self.leaving[kind].clear()
        if self.ended or self.is_empty():
            return 0
        had = had and link.cause != NOT_NEEDED
        if had:
            self.server.stats[SERVER_SUBSCRIPTION_GAPS] += 1
            log.warning("%s %s: subscriptions are interrupted: %s", link, self.server, link.cause)
        self.try_later()
        self.audience.lost(self, text, had)
        return 0

    def listens(self):
        return not self.paused

    def received(self, link, data, parser):
        """A frame: a message or the reply to a command."""
        pos: cython.size_t
        kind: cython.int
        length: cython.size_t
        if parser.kind == b"*" and parser.pos >= SHORTEST:
            pos = 0
            if memcmp(data, b"*3\r\n$7\r\nmessage\r\n$", 18) == 0:
                kind = CHANNEL
                pos = 17
            elif memcmp(data, b"*4\r\n$8\r\npmessage\r\n$", 19) == 0:
                kind = PATTERN
                pos = 18
            elif memcmp(data, b"*3\r\n$8\r\nsmessage\r\n$", 19) == 0:
                kind = SHARD
                pos = 18
            if pos:
                self.server.stats[SERVER_MESSAGES] += 1
                length = read_length(data, cython.address(pos))
                return self.audience.message(self, kind, data + pos, length, data, parser.pos)
        [reply] = decode([PyBytes_FromStringAndSize(data, parser.pos)])
        return self.reply(reply)

    def reply(self, reply):
        """The reply to a command, for one of its names or as an error for all."""
        asked: Asked
        names: list
        if isinstance(reply, hiredis.ReplyError):
            asked = self.next_asked()
            if asked is None:
                return self.link.abort(str(reply)[:500])
            names = asked.names[asked.done :]
            wanted: dict = self.names[asked.kind]
            text: bytes = errors.passed_on(reply)
            if asked.word == SUBSCRIBE[asked.kind]:
                names = [name for name in names if wanted.get(name) is asked]
                for name in names:
                    del wanted[name]
                self.audience.refused(self, asked.kind, names, text)
            else:
                for name in names:
                    if self.leaving[asked.kind].get(name) is asked:
                        del self.leaving[asked.kind][name]
            return 0
        if not isinstance(reply, list) or len(reply) != 3 or not self.asked:
            return self.stray()
        asked = self.asked[0]
        if [asked.word, asked.names[asked.done]] != reply[:2]:
            return self.stray()
        asked.done += 1
        if asked.done == len(asked.names):
            self.next_asked()
        name: bytes = reply[1]
        if asked.word == SUBSCRIBE[asked.kind]:
            if self.names[asked.kind].get(name) is asked:
                self.names[asked.kind][name] = True
                self.audience.confirmed(self, asked.kind, name)
            elif self.stale[asked.kind].get(name) is asked:
                self.stale[asked.kind][name] = True
        elif self.leaving[asked.kind].get(name) is asked:
            del self.leaving[asked.kind][name]
        if not self.asked and self.backlog:
            self.send_backlog()
        return 0

    def next_asked(self):
        """The first command has all its replies: its message leaves the link."""
        link: Link = self.link
        if not self.asked or link.omsg_q.head is cython.NULL:
            return None
        msg_put(link.dequeue_outq(link))
        asked: Asked = self.asked.popleft()
        self.audience.settled(asked)
        return asked

    def stray(self) -> int:
        """A reply to nothing that was sent."""
        self.server.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
        self.link.abort(UNASKED)
        return 0
