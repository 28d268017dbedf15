# nutproxy/front/binary.py: the clients that speak memcached's binary protocol
"""A Memcached listener takes both protocols, as memcached does: the first byte of a connection
decides. Such a client differs from others in its Protocol, and in what is done with the replies to
its requests: servers send text, and `binary_answered` translates it.
"""

import cython
from cython.cimports.nutproxy.conn import Conn, recv_done_t, recv_error_t
from cython.cimports.nutproxy.front.client import client_enqueue, client_owner
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.msg.message import Msg, Owner
from cython.cimports.nutproxy.proto.binary import MAGIC_REQUEST
from cython.cimports.nutproxy.proto.binary_reply import binary_reply
from cython.cimports.nutproxy.proto.protocols import binary_protocol

from nutproxy.proto.errors import MEMCACHE_REPLIES

ONLY_BINARY = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_only_binary"])


@cython.cfunc
@cython.exceptval(check=False)
def binary_answered(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    binary_reply(msg)
    client_owner.answered(msg, size)


binary_owner = cython.declare(Owner)
binary_owner = client_owner
binary_owner.answered = binary_answered


@cython.cfunc
@cython.exceptval(check=False)
def binary_enqueue(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    client_enqueue(conn, msg)
    msg.owner = cython.address(binary_owner)
    msg.opaque = cython.cast(ClientConn, conn).opaque


def choose_protocol(conn, first):
    client: ClientConn = cython.cast(ClientConn, conn)
    client.parse = client.protocol.parse_request
    frontend: Frontend = client.frontend
    if frontend.users:
        client.recv_done = cython.cast(recv_done_t, client.protocol.authenticate)
    if frontend.only_text:
        # Its parser refuses the other.
        return 0
    if cython.cast(cython.uchar, first) == MAGIC_REQUEST:
        client.protocol = binary_protocol
        client.recv_done = cython.cast(
            recv_done_t,
            binary_protocol.authenticate if frontend.users else binary_protocol.dispatch,
        )
        client.recv_error = cython.cast(recv_error_t, binary_protocol.refuse)
        client.enqueue_inq = client.enqueue_outq = binary_enqueue
        client.parse = binary_protocol.parse_request
    elif frontend.only_binary:
        client.give_up(ONLY_BINARY)
    return 0
