# nutproxy/msg/request.py: the path of a request
"""How a request passes through the two queues of a server connection.

    enqueue_inq     a dispatched request waits to be written
    req_send_next   the request to write after this one
    req_send_done   it has been written: it moves from imsg_q to omsg_q and waits for its reply
    dequeue_outq    its reply has come

A request that was cancelled before its first byte was written has no bytes left. The gathered write
skips it, and it leaves the queue in `req_send_done`. A request that the server answered before it
had all of it leaves the queue there, too.
"""

import cython
from cython.cimports.nutproxy.msg.message import (
    MSG_ANSWERED,
    MSG_CANCELLED,
    MSG_WRITTEN,
    msg_put,
    server_append,
    server_pop,
)


def req_send_next(conn, cursor):
    msg: cython.pointer(Msg)
    msg = conn.imsg_q.head if cursor[0] is cython.NULL else cursor[0].server_next
    if msg is cython.NULL:
        return cython.NULL
    cursor[0] = msg
    return cython.address(msg.req)


def req_send_done(conn):
    """The head of imsg_q has been written: it now waits for its reply."""
    msg: cython.pointer(Msg) = conn.dequeue_inq(conn)
    if msg.flags & (MSG_CANCELLED | MSG_ANSWERED):
        msg_put(msg)
        return 0
    msg.flags |= MSG_WRITTEN
    conn.enqueue_outq(conn, msg)
    return 0


def req_enqueue_inq(conn, msg):
    msg.server = cython.cast(cython.p_void, conn)
    server_append(cython.address(conn.imsg_q), msg)


def req_dequeue_inq(conn):
    msg: cython.pointer(Msg) = server_pop(cython.address(conn.imsg_q))
    msg.server = cython.NULL
    return msg


def req_enqueue_outq(conn, msg):
    msg.server = cython.cast(cython.p_void, conn)
    server_append(cython.address(conn.omsg_q), msg)


def req_dequeue_outq(conn):
    msg: cython.pointer(Msg) = server_pop(cython.address(conn.omsg_q))
    msg.server = cython.NULL
    return msg
