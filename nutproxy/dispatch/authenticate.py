# nutproxy/dispatch/authenticate.py: Memcached clients of a pool with `users`
"""Such a client must authenticate before anything else, as with memcached's own options:

    memcached -Y    text protocol: set K F E BYTES, with `user password` as its data; the key is
                    ignored. STORED, or CLIENT_ERROR
    memcached -S    binary protocol: SASL with the mechanism PLAIN. Version and SASL commands work
                    before it; any other closes the connection

Then a text client gets the recv_done of its protocol. A binary one may authenticate again at any
time, so it keeps this one, which passes everything but SASL on.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.string import strlen
from cython.cimports.nutproxy.conn import recv_done_t
from cython.cimports.nutproxy.dispatch.binary import binary_recv_done, refuse, respond
from cython.cimports.nutproxy.dispatch.forward import answer, answer_constant
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.msg.parse import Parser
from cython.cimports.nutproxy.proto.binary import (
    BIN_SASL,
    HEADER,
    OP_SASL_AUTH,
    OP_SASL_LIST,
    OP_VERSION,
    STATUS_AUTH,
    STATUS_OK,
    load16,
    load32,
    shapes,
)
from cython.cimports.nutproxy.proto.memcache import STORE, Command, command_of, is_word
from cython.cimports.nutproxy.proto.table import STATE_AUTH
from cython.cimports.nutproxy.stats.slab import POOL_CLIENT_REQUESTS, POOL_REFUSED_REQUESTS

from nutproxy.proto.binary_commands import TEXTS, Status
from nutproxy.proto.errors import MEMCACHE_REPLIES

STORED = cython.declare(bytes, b"STORED\r\n")
FAILURE = cython.declare(bytes, TEXTS[Status.AUTH])
MECHANISM = cython.declare(bytes, b"PLAIN")
SUCCESS = cython.declare(bytes, b"Authenticated")


def text_authenticate(conn, data, parser):
    client: ClientConn = cython.cast(ClientConn, conn)
    command: cython.pointer(Command) = command_of(parser)
    client.stats[POOL_CLIENT_REQUESTS] += 1
    client.last_request = client.reactor.now
    if (
        command is cython.NULL
        or command.kind != STORE
        or parser.argc < 5
        or not is_word(data, cython.address(parser.argv[0]), b"set", 3)
    ):
        return answer(client, MEMCACHE_REPLIES["memcache_unauthenticated"], 0, True)
    if parser.error is not cython.NULL:
        client.stats[POOL_REFUSED_REQUESTS] += 1
        return answer_constant(client, parser.error, strlen(parser.error), 0)
    block: bytes = PyBytes_FromStringAndSize(
        data + parser.pos - parser.length - 2, cython.cast(cython.Py_ssize_t, parser.length)
    )
    words: list = block.split(b" ")
    if len(words) < 2:
        return answer(client, MEMCACHE_REPLIES["memcache_auth_format"], 0, True)
    if not client.frontend.users.accepts(words[0], words[1]):
        return answer(client, MEMCACHE_REPLIES["memcache_auth_failure"], 0, True)
    client.authenticated = True
    client.recv_done = cython.cast(recv_done_t, client.protocol.dispatch)
    return answer(client, STORED, 0, False)


def binary_authenticate(conn, data, parser):
    client: ClientConn = cython.cast(ClientConn, conn)
    opcode: cython.int = cython.cast(cython.uchar, data[1])
    if shapes[opcode].form == BIN_SASL and parser.error is cython.NULL:
        client.opaque = load32(data + 12)
        client.stats[POOL_CLIENT_REQUESTS] += 1
        client.last_request = client.reactor.now
        return sasl(client, opcode, data, parser)
    if not client.states & STATE_AUTH or (opcode == OP_VERSION and parser.error is cython.NULL):
        return binary_recv_done(conn, data, parser)
    client.opaque = load32(data + 12)
    client.stats[POOL_CLIENT_REQUESTS] += 1
    refuse(client, data, STATUS_AUTH, FAILURE, len(FAILURE))
    client.closing = True
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def sasl(
    client: ClientConn,
    opcode: cython.int,
    data: cython.p_char,
    parser: cython.pointer(Parser),
) -> cython.int:
    """SASL list, auth, step. PLAIN has one message, so a step is always too much."""
    if opcode == OP_SASL_LIST:
        return respond(client, data, STATUS_OK, MECHANISM, len(MECHANISM))
    client.authenticated = opcode == OP_SASL_AUTH and accepts(client, data, parser)
    if client.states & STATE_AUTH:
        return refuse(client, data, STATUS_AUTH, FAILURE, len(FAILURE))
    return respond(client, data, STATUS_OK, SUCCESS, len(SUCCESS))


@cython.cfunc
@cython.exceptval(-1, check=False)
def accepts(client: ClientConn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.bint:
    """Is this a message of PLAIN (RFC 4616: identity NUL user NUL password) of one of the users?"""
    key: cython.size_t = load16(data + 2)
    mechanism: bytes = PyBytes_FromStringAndSize(data + HEADER, cython.cast(cython.Py_ssize_t, key))
    text: bytes = PyBytes_FromStringAndSize(
        data + HEADER + key, cython.cast(cython.Py_ssize_t, parser.pos - HEADER - key)
    )
    fields: list = text.split(b"\0")
    return (
        mechanism == MECHANISM
        and len(fields) == 3
        and client.frontend.users.accepts(fields[1], fields[2])
    )
