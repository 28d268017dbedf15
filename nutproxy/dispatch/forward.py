# nutproxy/dispatch/forward.py: the dispatching code that both protocols share
"""Puts a request into the queues of servers, or makes nutproxy's own reply to it.

    answer        queue a complete reply
    forward_one   send the whole request to one server
    send_parts    send the parts of a request to their servers and merge the replies
    send_all      send the same bytes to several servers
    ask           the same for a local handler, which makes the reply from those of the servers
    later         make a local handler's reply in several turns
    spare_others  after many local commands, the client's next request waits for the next turn

Every request becomes a message in the client's omsg_q. Replies are sent in the order of that queue,
so they keep the order of the requests, no matter who made the reply.
"""

import logging

import cython
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.nutproxy.back.link import Link
from cython.cimports.nutproxy.back.server import Server
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.msg.deadline import deadline_append
from cython.cimports.nutproxy.msg.message import (
    MSG_ASIDE,
    MSG_MISS,
    Body,
    Join,
    join_get,
    msg_constant,
    msg_copy,
    msg_get,
    msg_put,
    msg_share,
    msg_view,
)
from cython.cimports.nutproxy.msg.response import join_part_done, msg_done, msg_fail, part_owner
from cython.cimports.nutproxy.pool import ServerPool
from cython.cimports.nutproxy.proto.merge import merge_query
from cython.cimports.nutproxy.stats.slab import (
    POOL_FORWARD_ERROR,
    POOL_FRAGMENTS,
    POOL_NO_LIVE_SERVER,
    POOL_REFUSED_REQUESTS,
    SERVER_IN_QUEUE_BYTES,
    SERVER_OUT_QUEUE_BYTES,
    SERVER_REQUEST_BYTES,
    SERVER_REQUESTS,
    SERVER_REQUESTS_OVERFLOWED,
    SERVER_REQUESTS_UNAVAILABLE,
)

from nutproxy.proto.errors import cause

log = logging.getLogger("nutproxy")

# Maximum local commands of one client in one turn: 1 to 2 ms.
LOCAL_PER_TURN = cython.declare(cython.uint, 64)
QUEUE_FULL = cause("queue_full")


def answer(client, text, flags, error):
    """Queue a complete reply, which is sent after the replies to earlier requests."""
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    msg.flags = flags
    if error:
        client.stats[POOL_REFUSED_REQUESTS] += 1
    if (
        msg_copy(msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text))
        < 0
    ):
        msg_put(msg)
        raise MemoryError
    client.enqueue_outq(client, msg)
    msg_done(msg)
    return 0


def answer_constant(client, text, length, flags):
    """Like `answer`, for bytes that outlive every message. They are not copied."""
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    msg.flags = flags
    msg_constant(msg, cython.address(msg.rsp), text, length)
    client.enqueue_outq(client, msg)
    msg_done(msg)
    return 0


def answer_dead(client, flags):
    """Reply to a command for several servers when none is live."""
    client.stats[POOL_NO_LIVE_SERVER] += 1
    client.stats[POOL_FORWARD_ERROR] += 1
    return answer(client, client.pool.dead_reply(), flags, False)


def forward(client, msg, server):
    """Queue a request for this server, or fail it if it cannot be queued. The bytes of the request
    must be in `msg.req`."""
    pool: ServerPool = client.pool
    link: Link = server.link_for(client.id, client.profile)
    queued: cython.size_t
    if link is None:
        server.stats[SERVER_REQUESTS_UNAVAILABLE] += 1
        msg_fail(msg, server.refusal)
        return 0
    queued = server.stats[SERVER_IN_QUEUE_BYTES] + server.stats[SERVER_OUT_QUEUE_BYTES]
    if queued > 0 and queued + max(msg.req.length, msg.queued) > pool.max_queue:
        server.stats[SERVER_REQUESTS_OVERFLOWED] += 1
        msg_fail(msg, server.error_reply(QUEUE_FULL))
        return 0
    queue(client, msg, server, link)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def forward_aside(client: ClientConn, msg: cython.pointer(Msg), server: Server) -> cython.int:
    """Like `forward`, over a separate connection that bypasses the server's queues."""
    link: Link = server.aside_for(client.profile)
    if link is None:
        server.stats[SERVER_REQUESTS_UNAVAILABLE] += 1
        msg_fail(msg, server.refusal)
        return 0
    queue(client, msg, server, link)
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def queue(client: ClientConn, msg: cython.pointer(Msg), server: Server, link: Link) -> cython.void:
    """Queue a request on this connection and set its deadline."""
    pool: ServerPool = client.pool
    msg.start = client.reactor.now_usec
    if pool.timeout:
        deadline_append(cython.address(pool.deadlines), msg, client.reactor.now + pool.timeout)
    server.stats[SERVER_REQUESTS] += 1
    server.stats[SERVER_REQUEST_BYTES] += msg.req.length
    msg.refs += 1
    link.enqueue_inq(link, msg)
    link.mark_flush()


def forward_one(client, row, data, length, server, flags):
    """Send the whole request to one server. If `server` is None, no server is live and the request
    fails."""
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    msg.flags = flags
    msg.row = row
    # With MSG_MISS the reply may repeat words of the request, so keep it even without a server.
    if server is not None or flags & MSG_MISS:
        if client.body_receive(msg, cython.address(msg.req), data, length) < 0:
            msg_put(msg)
            raise MemoryError
        msg.charge = msg.req.length
    client.enqueue_outq(client, msg)
    if server is None:
        client.stats[POOL_NO_LIVE_SERVER] += 1
        msg_fail(msg, client.pool.dead_reply())
        return 0
    return forward(client, msg, server)


def forward_one_aside(client, row, data, length, server, flags):
    """The whole request to one server, past all that waits for it."""
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    msg.flags = flags
    msg.row = row
    if msg_copy(msg, cython.address(msg.req), data, length) < 0:
        msg_put(msg)
        raise MemoryError
    msg.charge = length
    client.enqueue_outq(client, msg)
    return forward_aside(client, msg, server)


def parent_of(client, row, count, nkeys, finish, flags):
    """Make the message of a command that is sent in `count` parts. `send_parts` puts it into the
    client's queue."""
    msg: cython.pointer(Msg) = msg_get()
    join: cython.pointer(Join)
    index: cython.uint
    if msg is cython.NULL:
        raise MemoryError
    msg.row = row
    msg.flags = flags
    join = join_get(msg, count, nkeys)
    if join is cython.NULL:
        msg_put(msg)
        raise MemoryError
    for index in range(count):
        join.parts[index].owner = cython.address(part_owner)
    join.part_done = join_part_done
    join.finish = finish
    join.protover = client.profile.protover
    client.stats[POOL_FRAGMENTS] += count
    return msg


def send_parts(client, msg, servers):
    """Queue every part for its server. If all of them fail at once, `msg` may be complete on
    return."""
    index: cython.uint
    count: cython.uint = msg.join.count
    client.enqueue_outq(client, msg)
    for index in range(count):
        forward(client, msg.join.parts[index], cython.cast(Server, servers[index]))
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def send_aside(client: ClientConn, msg: cython.pointer(Msg), servers: list) -> cython.int:
    """Like `send_parts`, over separate connections that bypass the servers' queues."""
    index: cython.uint
    count: cython.uint = msg.join.count
    client.enqueue_outq(client, msg)
    for index in range(count):
        forward_aside(client, msg.join.parts[index], cython.cast(Server, servers[index]))
    return 0


def send_all(client, row, data, length, servers, finish, extra, flags, part_flags):
    """Send the same request to these servers. Every part gets `part_flags`. If `servers` is empty,
    the reply is an error."""
    msg: cython.pointer(Msg)
    part: cython.pointer(Msg)
    first: cython.pointer(Body)
    index: cython.uint
    if not servers:
        return answer_dead(client, flags)
    msg = parent_of(client, row, len(servers), 0, finish, flags)
    if extra is None:
        extra = servers
    Py_INCREF(extra)
    msg.join.extra = cython.cast(cython.p_void, extra)
    first = cython.address(msg.join.parts[0].req)
    if msg_copy(msg.join.parts[0], first, data, length) < 0 or not msg_share(first):
        msg_put(msg)
        raise MemoryError
    for index in range(msg.join.count):
        part = msg.join.parts[index]
        part.flags |= part_flags
        if index == 0:
            continue
        if first.buffer is not cython.NULL:
            msg_view(cython.address(part.req), first, first.data, length)
        elif msg_copy(part, cython.address(part.req), data, length) < 0:
            msg_put(msg)
            raise MemoryError
    msg.charge = length if first.buffer is not cython.NULL else length * msg.join.count
    if part_flags & MSG_ASIDE:
        return send_aside(client, msg, servers)
    return send_parts(client, msg, servers)


def ask(client, row, request, servers, finish, failure, flags):
    """Send a local handler's request to these servers. The reply is `finish(replies)`, or `failure`
    if that raises. The client's next request is not parsed before the reply has been made, because
    this request may change how the next one must be read."""

    def finished(replies):
        client.resume()
        try:
            if replies is None:
                raise MemoryError
            return finish(replies)
        except Exception:
            log.exception("%s: a reply could not be made", client)
            return failure

    client.waiting = True
    if not servers:
        # INFO and stats must still work when every server is ejected.
        return answer(client, finished([]), flags, False)
    return send_all(client, row, request, len(request), servers, merge_query, finished, flags, 0)


def spare_others(client):
    """Count a local command whose reply has been queued. After LOCAL_PER_TURN of them in one turn,
    the client's next request waits until the next turn."""
    if client.waiting:
        # Its next request waits already, for the reply to this command.
        return 0
    if client.local_turn != client.reactor.now_usec:
        client.local_turn = client.reactor.now_usec
        client.local_count = 0
    client.local_count += 1
    if client.local_count == LOCAL_PER_TURN:
        client.local_count = 0
        later(client, None, 0, None)
    return 0


def later(client, steps, flags, failure):
    """Make a reply in later turns; it is `failure` if that raises. The client's next request waits
    until it is complete. If `steps` is None, only the next request is delayed."""
    client.waiting = True
    client.reactor.jobs.add(ReplySteps(client, steps, flags, failure))
    return 0


@cython.cclass
class ReplySteps(Job):
    """A reply that is made in steps."""

    def __init__(self, client: ClientConn, steps, flags: cython.uint, failure):
        self.conn = client
        self.steps = steps
        self.flags = flags
        self.failure = failure

    def portion(self):
        client: ClientConn = self.conn
        # If the client has disconnected, drop the rest.
        if client.fd < 0:
            return False
        if self.steps is None:
            client.resume()
            return False
        try:
            reply = next(self.steps)
        except Exception:
            log.exception("%s: a reply could not be made", client)
            reply = self.failure
        if not reply:
            return True
        client.resume()
        answer(client, reply, self.flags, False)
        return False
