# nutproxy/msg/response.py: the way of a reply
"""From the server connection that received it to the client that asked.

    rsp_recv_done   the head of the server's omsg_q gets the reply          (server connections)
    msg_done        a request is answered, by a reply or by an error
    rsp_send_next   the head of the client's omsg_q, if it is answered      (client connections)
    rsp_send_done   it has been written: it leaves the queue

A request can be answered before its server has replied: its deadline has passed, or its client has
gone. It then keeps its place in the server's omsg_q, and the reply that still comes is dropped
here.
"""

import logging

import cython
from cython.cimports.libc.string import strlen
from cython.cimports.nutproxy.msg.message import (
    MSG_CANCELLED,
    MSG_DONE,
    MSG_ERROR,
    MSG_FAILED,
    MSG_LOCAL_ERROR,
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
from cython.cimports.nutproxy.stats.slab import POOL_FORWARD_ERROR

log = logging.getLogger("nutproxy")


def deadline_append(queue, msg):
    """Put a message at the end of a pool's deadline queue: a ring through a message of its own."""
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
    """This request has its reply in `rsp`. Tell whoever waits for it."""
    parent: cython.pointer(Msg)
    client: Conn
    deadline_remove(msg)
    msg.flags |= MSG_DONE
    if msg.server is cython.NULL or msg.flags & MSG_CANCELLED:
        # Its bytes are needed no more: they have all been written, or never will be.
        msg_drop(cython.address(msg.req))
    parent = msg.parent
    if parent is not cython.NULL:
        parent.flags |= msg.flags & MSG_FAILED
        parent.split.ndone += 1
        if parent.split.ndone == parent.split.nfrag:
            merge_frags(parent)
            msg_done(parent)
        return 0
    if msg.client is cython.NULL:
        return 0
    client = cython.cast(Conn, msg.client)
    if msg.flags & MSG_FAILED:
        client.stats[POOL_FORWARD_ERROR] += 1
    if msg.row is not cython.NULL:
        # Grows at once, shrinks by an eighth: one large reply among many small ones counts too.
        if msg.rsp.length > client.expected:
            client.expected = msg.rsp.length
        else:
            client.expected -= (client.expected - msg.rsp.length + 7) >> 3
    if msg.flags & MSG_NOREPLY:
        msg_drop(cython.address(msg.rsp))
    client.pending += msg.rsp.length - msg.held
    msg.held = msg.rsp.length
    if client.omsg_q.head == msg:
        client.mark_flush()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_frags(parent: cython.pointer(Msg)) -> cython.int:
    """The reply of a command in parts. What goes wrong here is no fault of the connection that
    brought the last part."""
    text: cython.p_const_char = b"-ERR internal error of nutproxy, see its log\r\n"
    try:
        if parent.flags & MSG_MEMCACHE:
            text = b"SERVER_ERROR internal error of nutproxy, see its log\r\n"
            memcache_merge(parent)
        else:
            redis_merge(parent)
    except Exception:
        log.exception("replies could not be merged")
        msg_constant(parent, cython.address(parent.rsp), text, strlen(text))
        parent.flags |= MSG_ERROR | MSG_LOCAL_ERROR
    return 0


def msg_fail(msg, text):
    """Answer a request with an error of the proxy's own: a whole error reply in `text`; or as one
    that missed, where a server that fails is taken for an empty one."""
    msg.flags |= MSG_FAILED
    if msg.flags & MSG_MISS:
        memcache_miss(msg)
        return msg_done(msg)
    if (
        msg_copy(msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text))
        < 0
    ):
        raise MemoryError
    msg.flags |= MSG_ERROR | MSG_LOCAL_ERROR
    return msg_done(msg)


def rsp_recv_done(conn, data, parser):
    """A reply has come on a server connection whose omsg_q is not empty."""
    return rsp_receive(conn, conn.dequeue_outq(conn), data, parser)


def rsp_receive(conn, msg, data, parser):
    """This request's reply has come. Takes over one reference to it."""
    failed: cython.bint = False
    if msg_awaited(msg):
        if parser.kind == b"-" or parser.kind == b"!":
            msg.flags |= MSG_ERROR
        failed = conn.loop.body_receive(msg, cython.address(msg.rsp), data, parser.pos) < 0
        if failed:
            msg_fail(
                msg,
                b"SERVER_ERROR out of memory\r\n"
                if msg.flags & MSG_MEMCACHE
                else b"-ERR out of memory\r\n",
            )
        else:
            msg_done(msg)
    else:
        deadline_remove(msg)
    msg_put(msg)
    return 0


def rsp_send_next(conn, cursor):
    """Replies leave in the order of the requests: nothing behind one that is not answered yet."""
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
    """A request of this client: its place in the order of replies. Until its reply has come it
    counts with the size that replies to this client have had of late."""
    msg.client = cython.cast(cython.p_void, conn)
    msg.held += conn.expected
    conn.pending += msg.held
    client_append(cython.address(conn.omsg_q), msg)


def rsp_dequeue(conn):
    msg: cython.pointer(Msg) = client_pop(cython.address(conn.omsg_q))
    conn.pending -= msg.held
    msg.client = cython.NULL
    return msg
