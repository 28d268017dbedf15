# nutproxy/back/invalidations.py: which keys have changed on a server
"""For clients with client-side caching (CLIENT TRACKING): the link on which a server says what has
changed.

    GET k ─> tracked link ─────> server notes: k was read on this link
                                   │ k changes
    Listening.changed <─ Listener <┘ invalidate k

**Tracked links** are those of a profile with `tracked`. Each has sent `CLIENT TRACKING ON REDIRECT
id`, so the server notes what is read on it, and reports the first change to the Listener, whose
CLIENT ID that is. This works in RESP2 and RESP3, and needs nothing of the tracked link but that
command. It is a part of the handshake, or, on links that were open before the Listener, a request
like others: what is queued after it is tracked.

**With bcast** a Listener gets all changes of its server, without any tracked link.

A Listener says nothing about order: a change may come before the reply of a read that came before
it. Its audience takes care of that. If its link ends, it is opened again; what has changed
meanwhile is not known then.
"""

import logging

import cython
import hiredis
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.nutproxy.back.link import LINK_READY, Link, LinkUser
from cython.cimports.nutproxy.back.profile import Profile
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.msg.message import MSG_DONE, Msg, msg_copy, msg_get, msg_put

from nutproxy.proto import errors
from nutproxy.proto.merge import decode

log = logging.getLogger("nutproxy")

# Milliseconds before a link is opened again. The delay grows while that fails.
RETRY_MIN = 50
RETRY_MAX = 1000
# Bytes of a list of changed keys that is read. A longer one means that everything may have changed.
LIST_MAX = cython.declare(cython.size_t, 1 << 18)


@cython.cclass
class Listening:
    """The methods are described in invalidations.pxd."""

    def listener_ready(self, listener):
        raise NotImplementedError

    def listener_lost(self, listener, text, gap):
        raise NotImplementedError

    def changed(self, listener, keys):
        raise NotImplementedError

    def is_busy(self):
        return False


@cython.cfunc
@cython.exceptval(-1, check=False)
def send(link: Link, words: tuple) -> cython.int:
    """Send a command to whose reply no client listens."""
    text: bytes = hiredis.pack_command(words)
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    if (
        msg_copy(msg, cython.address(msg.req), cython.cast(cython.p_const_char, text), len(text))
        < 0
    ):
        msg_put(msg)
        raise MemoryError
    msg.flags = MSG_DONE
    msg.start = link.reactor.now_usec
    link.enqueue_inq(link, msg)
    link.mark_flush()
    return 0


def redirect_lane(link):
    server: Server = link.server
    link.redirect = server.redirect_id
    return send(link, (b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"%d" % link.redirect))


@cython.final
@cython.cclass
class Listener(LinkUser):
    """The values are described in invalidations.pxd."""

    def __init__(self, server: Server, bcast: cython.bint, audience: Listening):
        self.server = server
        self.bcast = bcast
        self.audience = audience
        self.delay = RETRY_MIN

    def open(self, now):
        profile: Profile
        link: Link
        if self.link is not None or self.ended or (self.retry is not None and not now):
            return 0
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        profile = self.server.resp3()
        if profile is None:
            pool = self.server.pool
            text = errors.error(
                "max_profiles", pool.name.encode(), b"%d" % self.server.profiles.limit
            )
            return self.fail(text)
        link = self.server.borrow(profile)
        if link is None:
            return self.fail(self.server.refusal)
        self.link = link
        link.serve(self)
        return 0

    def fail(self, text):
        """There is no link now."""
        gap: cython.bint = self.ready
        self.ready = False
        self.refusal = text
        if not self.bcast:
            self.server.redirect_id = 0
        if self.ended:
            return 0
        if self.retry is None:
            reactor = self.server.reactor
            self.retry = reactor.timers.schedule(reactor.now + self.delay, self.try_again)
            self.delay = min(2 * self.delay, RETRY_MAX)
        return self.audience.listener_lost(self, text, gap)

    def try_again(self) -> None:
        self.retry = None
        if self.server.down:
            # Its own probes find out when it is up.
            self.delay = RETRY_MIN
            reactor = self.server.reactor
            self.retry = reactor.timers.schedule(reactor.now + self.delay, self.try_again)
        else:
            self.open(True)

    def end(self):
        self.ended = True
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.link is not None:
            self.link.drop()
        return 0

    def resume(self):
        if self.link is not None:
            self.link.mark_ready()

    # As the user of the link
    # ---------------------------------------------------------------------------------------------

    def link_opened(self, link):
        """CLIENT TRACKING is sent without bcast, too: the reply says whether the server allows
        it."""
        if link.server_id == 0:
            self.refusal = self.server.error_reply(errors.cause("tracking_refused", "CLIENT ID"))
            return link.drop()
        words = (b"CLIENT", b"TRACKING", b"ON")
        return send(link, (*words, b"BCAST") if self.bcast else words)

    def link_ended(self, link, text):
        self.link = None
        if self.ready:
            log.info("%s %s: invalidations are interrupted: %s", link, self.server, link.cause)
            self.refusal = None
        # If it was dropped because of an error reply, that is the reason.
        return self.fail(self.refusal or text)

    def listens(self):
        return not self.audience.is_busy()

    def received(self, link, data, parser):
        if parser.kind != b">":
            return self.answered(data, parser.pos)
        if parser.pos > LIST_MAX:
            return self.audience.changed(self, None)
        [reply] = decode([PyBytes_FromStringAndSize(data, parser.pos)])
        if isinstance(reply, list) and len(reply) == 2 and reply[0] == b"invalidate":
            return self.audience.changed(self, reply[1])
        return 0

    def answered(self, data, length):
        """The reply to CLIENT TRACKING."""
        link: Link = self.link
        text: bytes = data[:length]
        if self.ready or link.omsg_q.head is cython.NULL:
            return link.abort(errors.cause("unasked"))
        msg_put(link.dequeue_outq(link))
        if text != b"+OK\r\n":
            cause = errors.cause("tracking_refused", text[1:].partition(b"\r\n")[0].decode())
            log.warning("%s %s: %s", link, self.server, cause)
            self.refusal = self.server.error_reply(cause)
            self.delay = RETRY_MAX
            return link.drop()
        self.delay = RETRY_MIN
        self.ready = True
        self.refusal = None
        if not self.bcast:
            self.server.redirect_id = link.server_id
            for lane in self.server.shared_links():
                if is_tracked(lane):
                    redirect_lane(lane)
        return self.audience.listener_ready(self)


@cython.cfunc
@cython.exceptval(check=False)
def is_tracked(link: Link) -> cython.bint:
    """Is it a tracked link on which requests may be under way?"""
    return link.profile.tracked and link.state == LINK_READY
