# nutproxy/dispatch/forward.py: the dispatching code that both protocols share
"""Gives a request to the route, or makes nutproxy's own reply to it.

    answer        queue a complete reply
    forward_key   send the whole request to the group of its key
    forward_one   the same for a request without a key, or with several in one group
    send_all      send the same bytes to several members of the route, and merge the replies
    ask           the same for a local handler, which makes the reply from those of the servers
    later         make a local handler's reply in several turns
    spare_others  after many local commands, the client's next request waits for the next turn

Every request becomes a message in the client's omsg_q. Replies are sent in the order of that queue,
so they keep the order of the requests, no matter who made the reply.
"""

import logging

import cython
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.msg.message import (
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
from cython.cimports.nutproxy.msg.response import join_part_done, msg_done, part_owner
from cython.cimports.nutproxy.proto.merge import merge_query
from cython.cimports.nutproxy.proto.table import STATE_MULTI
from cython.cimports.nutproxy.route import NO_GROUP, Route
from cython.cimports.nutproxy.stats.slab import (
    POOL_FRAGMENTS,
    POOL_REFUSED_REQUESTS,
)

from nutproxy.builtin import Question

log = logging.getLogger("nutproxy")

# Maximum local commands of one client in one turn: 1 to 2 ms.
LOCAL_PER_TURN = cython.declare(cython.uint, 64)


def answer(client, text, flags, error):
    """Queue a complete reply, which is sent after the replies to earlier requests."""
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    msg.flags = flags
    if error:
        client.stats[POOL_REFUSED_REQUESTS] += 1
        if client.states & STATE_MULTI:
            client.doom()
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


@cython.cfunc
@cython.inline
@cython.exceptval(-1, check=False)
def queue_whole(
    client: ClientConn,
    msg: cython.pointer(Msg),
    row: cython.p_void,
    data: cython.p_char,
    length: cython.size_t,
    group: cython.int,
    flags: cython.uint,
) -> cython.int:
    """Give `msg` the whole request, and put it into the client's queue. Raises MemoryError."""
    if msg is cython.NULL:
        raise MemoryError
    msg.flags = flags
    msg.row = row
    # With MSG_MISS the reply may repeat words of the request, so keep it even without a server.
    if group >= 0 or flags & MSG_MISS:
        if client.body_receive(msg, cython.address(msg.req), data, length) < 0:
            msg_put(msg)
            raise MemoryError
        msg.charge = msg.req.length
    client.enqueue_outq(client, msg)
    return 0


def queue_held(client, row, data, length, flags):
    """The message of a request that will be held back: it is in the client's queue, and nowhere
    else yet."""
    msg: cython.pointer(Msg) = msg_get()
    queue_whole(client, msg, row, data, length, 0, flags)
    return msg


def forward_one(client, row, data, length, group, flags):
    """Send the whole request to one group. NO_GROUP: no server is live, and the request fails."""
    msg: cython.pointer(Msg) = msg_get()
    queue_whole(client, msg, row, data, length, group, flags)
    return client.frontend.route.submit(msg, group, client.id, client.profile)


def forward_key(client, row, data, length, key, key_length, flags):
    """Send the whole request to the group of its key, which is in `data`."""
    hash: uint32_t = 0
    group: cython.int = client.frontend.route.group_of(key, key_length, cython.address(hash))
    msg: cython.pointer(Msg) = msg_get()
    queue_whole(client, msg, row, data, length, group, flags)
    msg.hash = hash
    msg.key_at = cython.cast(uint32_t, key - data)
    msg.key_length = cython.cast(uint32_t, key_length)
    return client.frontend.route.submit(msg, group, client.id, client.profile)


def parent_of(client, row, count, nkeys, finish, flags):
    """Make the message of a command that is sent in `count` parts. The caller puts it into the
    client's queue and submits the parts."""
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
    if count > 1:
        client.stats[POOL_FRAGMENTS] += count
    return msg


def send_all(client, row, data, length, members, finish, extra, flags, part_flags):
    """Send the same request to these members of the route. Every part gets `part_flags`. If there
    are none, the reply is an error."""
    route: Route = client.frontend.route
    msg: cython.pointer(Msg)
    part: cython.pointer(Msg)
    first: cython.pointer(Body)
    index: cython.uint
    if not members:
        return forward_one(client, row, cython.cast(cython.p_char, data), length, NO_GROUP, flags)
    msg = parent_of(client, row, len(members), 0, finish, flags)
    if extra is None:
        extra = members
    Py_INCREF(extra)
    msg.join.extra = cython.cast(cython.p_void, extra)
    msg.join.max_arrived = client.frontend.max_merged_reply
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
    client.enqueue_outq(client, msg)
    # If all of them fail at once, the command may be complete after the last.
    for index in range(msg.join.count):
        route.submit(msg.join.parts[index], members[index].index, client.id, client.profile)
    return 0


def ask(client, row, request, members, finish, failure, flags):
    """Send a local handler's request to these members. The reply is `finish(replies)`, or `failure`
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
    if not members:
        # INFO and stats must still work when every server is ejected.
        return answer(client, finished([]), flags, False)
    return send_all(client, row, request, len(request), members, merge_query, finished, flags, 0)


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
    client.reactor.replies.add(ReplySteps(client, steps, flags, failure))
    return 0


@cython.cclass
class ReplySteps(Job):
    """A reply that is made in steps."""

    def answered(self, answers: list) -> None:
        """The other workers have replied to a Question: go on."""
        client: ClientConn = self.conn
        self.answers = answers
        client.reactor.replies.add(self)

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
        answers, self.answers = self.answers, None
        try:
            reply = self.steps.send(answers)
            if isinstance(reply, Question):
                client.frontend.ask(reply, self.answered)
                return False
        except Exception:
            log.exception("%s: a reply could not be made", client)
            reply = self.failure
        if not reply:
            return True
        client.resume()
        answer(client, reply, self.flags, False)
        return False
