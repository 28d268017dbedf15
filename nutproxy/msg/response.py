# nutproxy/msg/response.py: the path of a reply
"""How a reply gets from the server connection that received it to its client.

    rsp_recv_done   the head of the server's omsg_q gets the reply          (server connections)
    msg_done        a request is answered, by a reply or by an error
    rsp_send_next   the head of the client's omsg_q, if it is answered      (client connections)
    rsp_send_done   it has been written: it leaves the queue

A request can be finished before its server has replied, because its deadline has passed or its
client has gone. It then keeps its place in the server's omsg_q, and the reply that still comes is
dropped here.

A server connection is shared by clients, so it must be read even if one of them does not read its
replies. Large replies for a client that has too much unread are therefore dropped, and the client
gets an error instead, in the same place. See `reply_refused`.

No function here raises, so a caller can rely on the request being answered. If there is no memory
for the reply, it is a constant error.
"""

import logging

import cython
from cython.cimports.libc.string import strlen
from cython.cimports.nutproxy.msg.message import (
    MSG_CANCELLED,
    MSG_DONE,
    MSG_ERROR,
    MSG_FAILED,
    MSG_MEMCACHE,
    MSG_MISS,
    MSG_NOREPLY,
    MSG_TIMED,
    client_append,
    client_pop,
    msg_awaited,
    msg_constant,
    msg_copy,
    msg_drop,
    msg_put,
)
from cython.cimports.nutproxy.proto.memcache_merge import memcache_merge, memcache_miss
from cython.cimports.nutproxy.proto.merge import redis_merge
from cython.cimports.nutproxy.stats.slab import POOL_FORWARD_ERROR, POOL_UNREAD_REPLIES_DROPPED

log = logging.getLogger("nutproxy")

# A reply up to this size is always kept: an error would be hardly smaller, and the reply may
# confirm a write.
REPLY_SMALL = cython.declare(cython.size_t, 512)


def deadline_append(queue, msg):
    """Append a message to a pool's deadline queue, a circular list whose head is a message that is
    not a request."""
    msg.timeout_prev = queue.timeout_prev
    msg.timeout_next = queue
    queue.timeout_prev.timeout_next = msg
    queue.timeout_prev = msg
    msg.flags |= MSG_TIMED


def deadline_remove(msg):
    if msg.flags & MSG_TIMED:
        msg.timeout_prev.timeout_next = msg.timeout_next
        msg.timeout_next.timeout_prev = msg.timeout_prev
        msg.flags &= ~MSG_TIMED


def msg_done(msg):
    """The reply to this request is in `rsp`: pass it on to its client or its parent."""
    deadline_remove(msg)
    msg.flags |= MSG_DONE
    if msg.server is cython.NULL or msg.flags & MSG_CANCELLED:
        # The request's bytes are not needed any more: it is not in a server's queue, or cancelled.
        msg_drop(cython.address(msg.req))
    if msg.parent is not cython.NULL:
        frag_done(msg.parent, msg)
    elif msg.client is not cython.NULL:
        client_answered(cython.cast(Conn, msg.client), msg, msg.rsp.length)


@cython.cfunc
@cython.exceptval(check=False)
def frag_done(parent: cython.pointer(Msg), frag: cython.pointer(Msg)) -> cython.void:
    """A part of a command is answered. Its bytes count as a reply until all parts are."""
    client: Conn
    arrived: cython.size_t
    index: cython.uint
    parent.flags |= frag.flags & MSG_FAILED
    parent.split.ndone += 1
    parent.split.arrived += frag.rsp.length
    if parent.client is not cython.NULL:
        client = cython.cast(Conn, parent.client)
        parent.held += frag.rsp.length
        client.pending += frag.rsp.length
        client.unsent += frag.rsp.length
    if parent.split.ndone < parent.split.nfrag:
        return
    arrived = parent.split.arrived
    merge_frags(parent)
    if parent.split is not cython.NULL:
        # The merged reply does not point into the parts, so their bytes can be freed now.
        for index in range(parent.split.nfrag):
            msg_drop(cython.address(parent.split.frags[index].rsp))
    msg_drop(cython.address(parent.req))
    parent.flags |= MSG_DONE
    if parent.client is not cython.NULL:
        client = cython.cast(Conn, parent.client)
        client.unsent -= arrived
        client_answered(client, parent, arrived)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def client_answered(client: Conn, msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """A request in this client's omsg_q has its reply, which took `size` bytes from servers."""
    if msg.flags & MSG_FAILED:
        client.stats[POOL_FORWARD_ERROR] += 1
    if msg.row is not cython.NULL:
        # Grows at once and shrinks by an eighth, so that one large reply among small ones counts.
        if size > client.expected:
            client.expected = size
        else:
            client.expected -= (client.expected - size + 7) >> 3
    if msg.flags & MSG_NOREPLY:
        msg_drop(cython.address(msg.rsp))
    client.unsent += msg.rsp.length
    client.pending += msg.rsp.length - msg.held
    msg.held = msg.rsp.length
    if client.omsg_q.head == msg:
        client.mark_flush()


@cython.cfunc
@cython.exceptval(check=False)
def merge_frags(parent: cython.pointer(Msg)) -> cython.void:
    """Merge the replies to the parts of a command. An exception is caught here: it must not close
    the connection that the last part came from."""
    text: cython.p_const_char = b"-ERR internal error of nutproxy, see its log\r\n"
    try:
        if parent.flags & MSG_MEMCACHE:
            text = b"SERVER_ERROR internal error of nutproxy, see its log\r\n"
            memcache_merge(parent)
        else:
            redis_merge(parent)
    except Exception:
        msg_constant(parent, cython.address(parent.rsp), text, strlen(text))
        log.exception("replies could not be merged")


def msg_fail(msg, text):
    """Answer a request with the error reply `text`; None if there was no memory for one. With
    `on_dead_server: miss` the reply is a miss instead, if the command can have one."""
    msg.flags |= MSG_FAILED
    if msg.flags & MSG_MISS and missed(msg):
        msg_done(msg)
    else:
        msg_error(msg, text)


@cython.cfunc
@cython.exceptval(check=False)
def missed(msg: cython.pointer(Msg)) -> cython.bint:
    """Give a request the reply of an empty server. False when memory has run out."""
    try:
        memcache_miss(msg)
    except MemoryError:
        return False
    return True


@cython.cfunc
@cython.exceptval(check=False)
def msg_error(msg: cython.pointer(Msg), text: bytes | None) -> cython.void:
    constant: cython.p_const_char = b"-ERR out of memory\r\n"
    if (
        text is None
        or msg_copy(msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text))
        < 0
    ):
        if msg.flags & MSG_MEMCACHE:
            constant = b"SERVER_ERROR out of memory\r\n"
        msg_constant(msg, cython.address(msg.rsp), constant, strlen(constant))
    msg.flags |= MSG_ERROR
    msg_done(msg)


def rsp_recv_done(conn, data, parser):
    """Pair a reply with the head of the server connection's omsg_q, which is not empty."""
    rsp_receive(conn, conn.dequeue_outq(conn), data, parser)


def rsp_receive(conn, msg, data, parser):
    """The reply to this request has come. Takes over one reference to the request."""
    if msg_awaited(msg):
        if parser.kind == b"-" or parser.kind == b"!":
            msg.flags |= MSG_ERROR
        if reply_refused(msg, parser.pos):
            refuse_reply(msg, parser.pos)
        elif conn.loop.body_receive(msg, cython.address(msg.rsp), data, parser.pos) < 0:
            msg_fail(msg, None)
        else:
            msg_done(msg)
    else:
        deadline_remove(msg)
    msg_put(msg)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def reply_refused(msg: cython.pointer(Msg), size: cython.size_t) -> cython.bint:
    """Does its client have so much unread that a reply of this size is dropped? The request whose
    turn is next always gets its reply: however large it is, it is only one."""
    root: cython.pointer(Msg) = msg if msg.parent is cython.NULL else msg.parent
    client: Conn
    if root.client is cython.NULL:
        return False
    client = cython.cast(Conn, root.client)
    return client.unsent > client.unsent_max and size > REPLY_SMALL and client.omsg_q.head != root


@cython.cfunc
@cython.exceptval(check=False)
def refuse_reply(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """Answer a request with an error instead of the reply that `reply_refused` drops."""
    client: Conn = cython.cast(Conn, msg.client if msg.parent is cython.NULL else msg.parent.client)
    code: bytes = b"SERVER_ERROR" if msg.flags & MSG_MEMCACHE else b"-ERR"
    text: bytes
    client.stats[POOL_UNREAD_REPLIES_DROPPED] += 1
    try:
        text = (
            b"%b reply of %d bytes dropped: %d bytes of replies are unread,"
            b" more than 4 times client_max_pending\r\n" % (code, size, client.unsent)
        )
    except MemoryError:
        text = None
    msg_error(msg, text)


def rsp_send_next(conn, cursor):
    """Replies leave in the order of the requests: the first one that is not done ends the write."""
    msg: cython.pointer(Msg)
    msg = conn.omsg_q.head if cursor[0] is cython.NULL else cursor[0].client_next
    if msg is cython.NULL or not msg.flags & MSG_DONE:
        return cython.NULL
    cursor[0] = msg
    return cython.address(msg.rsp)


def rsp_send_done(conn):
    """The head's reply has been written."""
    msg_put(conn.dequeue_outq(conn))
    return 0


def rsp_enqueue(conn, msg):
    """Append a request to its client's queue, which keeps the replies in order. Until its reply has
    come, it counts with the size that replies to this client have had recently."""
    msg.client = cython.cast(cython.p_void, conn)
    msg.held += conn.expected
    conn.pending += msg.held
    client_append(cython.address(conn.omsg_q), msg)


def rsp_dequeue(conn):
    msg: cython.pointer(Msg) = client_pop(cython.address(conn.omsg_q))
    conn.pending -= msg.held
    if msg.flags & MSG_DONE:
        conn.unsent -= msg.held
    msg.client = cython.NULL
    return msg
