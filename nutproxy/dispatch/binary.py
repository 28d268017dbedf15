# nutproxy/dispatch/binary.py: routes requests of memcached's binary protocol
"""The recv_done of a client that speaks the binary protocol. Servers get text:

    GetQ, GetKQ, several at once    gets k1 k2 …     to each server that has some of their keys
    Get                             gets k
    GAT                             gats 60 k
    Touch                           mg k T60 f c
    Set, Add, Replace, Append, …    ms k 3 ME F5 T60 C81 c
    Delete                          md k C81
    Increment, Decrement            ma k MI D1 J10 N60 v c
    Flush                           flush_all 10
    NoOp, Version, Stat, Quit       handled by nutproxy

A key that a line of text cannot carry goes to the server as base64, with a meta command.
front/binary.py translates the replies. That of a GetK repeats the key, so such a request is kept
until then: it is the parent of a message in one part.

Every request is sent so that the server replies to it, even if its client wants no reply.
"""

import logging

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memchr, memcpy, memset, strlen
from cython.cimports.nutproxy.dispatch.forward import (
    answer,
    ask,
    parent_of,
    send_all,
    spare_others,
)
from cython.cimports.nutproxy.dispatch.split import Layout, split
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.msg.message import (
    MSG_MISS,
    MSG_REQ_PIECES,
    Body,
    Msg,
    msg_copy,
    msg_drop,
    msg_get,
    msg_put,
    msg_reserve,
    msg_take,
)
from cython.cimports.nutproxy.msg.parse import Parser
from cython.cimports.nutproxy.msg.pieces import (
    PIECE_MIN,
    Builder,
    builder_begin,
    builder_copy,
    builder_end,
    put_large,
)
from cython.cimports.nutproxy.msg.response import msg_done
from cython.cimports.nutproxy.proto.binary import (
    BIN_COUNT,
    BIN_DELETE,
    BIN_FLUSH,
    BIN_GAT,
    BIN_GET,
    BIN_LOCAL,
    BIN_SASL,
    BIN_STORE,
    BIN_TOUCH,
    HEADER,
    OP_NOOP,
    OP_QUIT,
    OP_VERSION,
    STATUS_INTERNAL,
    STATUS_INVALID,
    STATUS_NOT_FOUND,
    STATUS_NOT_SUPPORTED,
    STATUS_OK,
    STATUS_UNKNOWN,
    Shape,
    as_meta,
    as_text,
    base64_encode,
    is_text_key,
    load16,
    load32,
    load64,
    put_number,
    shapes,
)
from cython.cimports.nutproxy.proto.binary_reply import binary_keyed, binary_values, put_error
from cython.cimports.nutproxy.proto.memcache_merge import memcache_all
from cython.cimports.nutproxy.route import Route
from cython.cimports.nutproxy.stats.slab import POOL_CLIENT_REQUESTS, POOL_REFUSED_REQUESTS

from nutproxy.builtin.interface import Query
from nutproxy.builtin.memcache import HANDLERS
from nutproxy.front.strangers import tell_broken
from nutproxy.proto.binary_commands import TEXTS, Status
from nutproxy.proto.binary_reply import text_packets
from nutproxy.proto.errors import MEMCACHE_REPLIES, cause, memcache_error

log = logging.getLogger("nutproxy")

INTERNAL_ERROR = cython.declare(bytes, MEMCACHE_REPLIES["internal"])
# A server's limit on a key, which also holds for its base64.
KEY_MAX = cython.declare(cython.size_t, 250)
# memcached's meta commands read an exptime as an int. This one is in the year 2038.
EXPTIME_MAX = cython.declare(cython.uint, 0x7FFFFFFF)
# The expiration of Increment and Decrement that says: do not create the item.
NEVER_CREATE = cython.declare(cython.uint, 0xFFFFFFFF)
UNKNOWN = cython.declare(bytes, TEXTS[Status.UNKNOWN])
NOT_FOUND = cython.declare(bytes, TEXTS[Status.NOT_FOUND])
LONG_KEY = cython.declare(bytes, cause("binary_long_key").encode())
LINE_FEED = cython.declare(bytes, cause("memcache_line_feed").partition(" ")[2].encode())


@cython.cfunc
@cython.exceptval(check=False)
def read_request(
    request: cython.pointer(Request), data: cython.p_char, end: cython.size_t
) -> cython.void:
    request.data = data
    request.shape = cython.address(shapes[cython.cast(cython.uchar, data[1])])
    request.key_length = load16(data + 2)
    request.extras = data + HEADER
    request.key = request.extras + cython.cast(cython.uchar, data[4])
    request.value = request.key + request.key_length
    request.size = end - (request.value - data)
    request.line_length = 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def put(
    request: cython.pointer(Request), text: cython.p_const_char, length: cython.size_t
) -> cython.void:
    memcpy(cython.address(request.line[0]) + request.line_length, text, length)
    request.line_length += length


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def put_flag(
    request: cython.pointer(Request), flag: cython.p_const_char, number: uint64_t
) -> cython.void:
    """Write a space and a number, with the letter of a flag before it unless that is empty."""
    put(request, b" ", 1)
    put(request, flag, strlen(flag))
    request.line_length += put_number(cython.address(request.line[0]) + request.line_length, number)


@cython.cfunc
@cython.exceptval(check=False)
def put_key(request: cython.pointer(Request)) -> cython.bint:
    """Write the key. False if no line can carry it."""
    size: cython.size_t
    if not request.encoded:
        put(request, request.key, request.key_length)
        return True
    size = (request.key_length + 2) // 3 * 4
    if size > KEY_MAX:
        return False
    base64_encode(
        request.key,
        request.key_length,
        cython.address(request.line[0]) + request.line_length,
    )
    request.line_length += size
    return True


@cython.cfunc
@cython.exceptval(check=False)
def put_options(request: cython.pointer(Request)) -> cython.void:
    """Write the flags of a meta command."""
    shape: cython.pointer(Shape) = request.shape
    form: cython.int = shape.form
    extras: cython.p_const_char = request.extras
    cas: uint64_t = load64(request.data + 16)
    expires: uint32_t
    if form == BIN_STORE:
        put_flag(request, b"", request.size)
        # The mode of a request with a cas is S, whatever its opcode, as in memcached.
        if shape.mode == b"A" or shape.mode == b"P" or (shape.mode != b"S" and cas == 0):
            put(request, b" M", 2)
            put(request, cython.address(shape.mode), 1)
        if shape.extras:
            put_flag(request, b"F", load32(extras))
            put_flag(request, b"T", min(load32(extras + 4), EXPTIME_MAX))
        if not shape.quiet:
            put(request, b" c", 2)
    elif form == BIN_COUNT:
        put(request, b" M", 2)
        put(request, cython.address(shape.mode), 1)
        put_flag(request, b"D", load64(extras))
        expires = load32(extras + 16)
        if expires != NEVER_CREATE:
            put_flag(request, b"J", load64(extras + 8))
            put_flag(request, b"N", min(expires, EXPTIME_MAX))
        put(request, b" v c", 4)
    elif form != BIN_DELETE:
        if form != BIN_GET:
            put_flag(request, b"T", min(load32(extras), EXPTIME_MAX))
        if form != BIN_TOUCH:
            put(request, b" v", 2)
        put(request, b" f c", 4)
    if cas and (form in (BIN_STORE, BIN_COUNT, BIN_DELETE)):
        put_flag(request, b"C", cas)
    if request.encoded:
        put(request, b" b", 2)


@cython.cfunc
@cython.exceptval(check=False)
def put_line(request: cython.pointer(Request)) -> cython.bint:
    """Write the line of text for this request, and set its row. False if its key is too long."""
    opcode: cython.int = cython.cast(cython.uchar, request.data[1])
    form: cython.int = request.shape.form
    request.encoded = not is_text_key(request.key, request.key_length)
    if not request.encoded and form in (BIN_GET, BIN_GAT):
        request.row = cython.address(as_text[opcode])
        put(request, request.row.command.name, 4)
        if form == BIN_GAT:
            put_flag(request, b"", min(load32(request.extras), EXPTIME_MAX))
        put(request, b" ", 1)
        put_key(request)
    else:
        request.row = cython.address(as_meta[opcode])
        put(request, request.row.command.name, 2)
        put(request, b" ", 1)
        if not put_key(request):
            return False
        put_options(request)
    put(request, b"\r\n", 2)
    return True


def binary_recv_done(conn, data, parser):
    """Called for a complete request, or for a run of quiet gets: `data` up to parser.pos."""
    client: ClientConn = cython.cast(ClientConn, conn)
    shape: cython.pointer(Shape) = cython.address(shapes[cython.cast(cython.uchar, data[1])])
    request: Request
    client.last_request = client.reactor.now
    client.opaque = load32(data + 12)
    if parser.error is not cython.NULL:
        client.stats[POOL_CLIENT_REQUESTS] += 1
        return refuse(
            client,
            data,
            cython.cast(cython.uchar, parser.kind),
            parser.error,
            strlen(parser.error),
        )
    client.stats[POOL_CLIENT_REQUESTS] += parser.argc - 1 if parser.argc > 1 else 1
    if shape.denied >= 0 and client.frontend.verdicts[shape.denied]:
        return deny(client, data, parser, shape)
    if parser.argc > 2:
        return get_run(client, data, parser)
    read_request(cython.address(request), data, parser.pos)
    if shape.form == BIN_SASL:
        # memcached without SASL does not know it.
        return refuse(client, data, STATUS_UNKNOWN, UNKNOWN, len(UNKNOWN))
    if shape.form == BIN_LOCAL:
        return local_command(client, cython.address(request))
    if shape.form == BIN_FLUSH:
        return flush(client, cython.address(request))
    if not put_line(cython.address(request)):
        return refuse(client, data, STATUS_INVALID, LONG_KEY, len(LONG_KEY))
    if request.encoded and shows_key(cython.address(request)):
        return refuse(client, data, STATUS_INVALID, LINE_FEED, len(LINE_FEED))
    if shape.keyed:
        return forward_kept(client, cython.address(request))
    return forward_line(client, cython.address(request))


def binary_recv_error(conn, parser):
    """Called when the parser cannot continue: queue the error, if memcached sends one. The
    connection is closed after the outstanding replies."""
    client: ClientConn = cython.cast(ClientConn, conn)
    head: cython.char[24]
    client.breaks()
    tell_broken(client, parser.error)
    if parser.error[0] == 0:
        # Not a request of this protocol.
        client.mark_flush()
        return 0
    memset(cython.address(head[0]), 0, HEADER)
    if parser.kind:
        client.opaque = cython.cast(uint32_t, parser.length)
        head[1] = cython.cast(cython.char, parser.state)
        return respond(
            client,
            head,
            cython.cast(cython.uchar, parser.kind),
            parser.error,
            strlen(parser.error),
        )
    # A text of the pool: the request has not come to its end.
    client.opaque = 0
    text: bytes = parser.error
    text = text.partition(b" ")[2].rstrip()
    return respond(client, head, STATUS_NOT_SUPPORTED, text, len(text))


def respond(client, data, status, text, length):
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    put_error(msg, cython.cast(cython.uchar, data[1]), client.opaque, status, text, length)
    client.enqueue_outq(client, msg)
    msg_done(msg)
    return 0


def refuse(client, data, status, text, length):
    client.stats[POOL_REFUSED_REQUESTS] += 1
    return respond(client, data, status, text, length)


@cython.cfunc
@cython.exceptval(-1, check=False)
def deny(
    client: ClientConn,
    data: cython.p_char,
    parser: cython.pointer(Parser),
    shape: cython.pointer(Shape),
) -> cython.int:
    """Refuse a request, or each of a run, because of deny_commands."""
    names: tuple = client.frontend.protocol.commands
    text: bytes = memcache_error(
        "memcache_denied", names[shape.denied].encode(), client.frontend.name.encode()
    )
    text = text.partition(b" ")[2].rstrip()
    pos: cython.size_t = 0
    while pos < parser.pos:
        client.opaque = load32(data + pos + 12)
        refuse(client, data + pos, STATUS_NOT_SUPPORTED, text, len(text))
        pos += HEADER + load32(data + pos + 8)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def shows_key(request: cython.pointer(Request)) -> cython.bint:
    """May memcached create the item without the mark that its key is binary? With a line feed in
    the key, its client could insert lines of its choice among the replies of others."""
    return (
        request.shape.form == BIN_COUNT
        or (request.shape.form == BIN_STORE and not request.shape.extras)
    ) and memchr(request.key, 10, request.key_length) is not cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def put_request(
    client: ClientConn, msg: cython.pointer(Msg), request: cython.pointer(Request)
) -> cython.bint:
    """Give a message its line, and the value. False when memory has run out."""
    target: cython.p_char
    at: cython.size_t = request.line_length
    if request.shape.form != BIN_STORE:
        return msg_copy(msg, cython.address(msg.req), cython.address(request.line[0]), at) == 0
    if request.size >= PIECE_MIN and client.block == request.data:
        return keep_value(client, msg, request)
    target = msg_reserve(msg, cython.address(msg.req), at + request.size + 2)
    if target is cython.NULL:
        return False
    memcpy(target, cython.address(request.line[0]), at)
    memcpy(target + at, request.value, request.size)
    memcpy(target + at + request.size, b"\r\n", 2)
    return True


@cython.cfunc
@cython.exceptval(check=False)
def keep_value(
    client: ClientConn, msg: cython.pointer(Msg), request: cython.pointer(Request)
) -> cython.bint:
    """The same for a large value: the message keeps the block that it was received into."""
    builder: Builder
    block: Body
    at: cython.size_t = request.value - request.data
    memset(cython.address(block), 0, cython.sizeof(Body))
    msg_take(msg, cython.address(block), client.block, at + request.size)
    client.block = cython.NULL
    try:
        builder_begin(
            cython.address(builder), msg, cython.address(msg.req), request.line_length + 2
        )
        builder_copy(cython.address(builder), cython.address(request.line[0]), request.line_length)
        put_large(cython.address(builder), cython.address(block), at, request.size)
        builder_copy(cython.address(builder), b"\r\n", 2)
        builder_end(cython.address(builder), MSG_REQ_PIECES)
        msg.queued = at + request.size
        return True
    except MemoryError:
        return False
    finally:
        msg_drop(cython.address(block))


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def flags_of(client: ClientConn, request: cython.pointer(Request)) -> cython.uint:
    if client.frontend.miss and request.shape.form <= BIN_GAT:
        return MSG_MISS
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def forward_line(client: ClientConn, request: cython.pointer(Request)) -> cython.int:
    """Send the request to the server of its key."""
    route: Route = client.frontend.route
    hash: uint32_t = 0
    group: cython.int
    msg: cython.pointer(Msg) = msg_get()
    if msg is cython.NULL:
        raise MemoryError
    group = route.group_of(request.key, request.key_length, cython.address(hash))
    msg.row = request.row
    msg.flags = flags_of(client, request)
    msg.hash = hash
    if not put_request(client, msg, request):
        msg_put(msg)
        raise MemoryError
    msg.charge = msg.req.length
    client.enqueue_outq(client, msg)
    return route.submit(msg, group, client.id, client.profile)


@cython.cfunc
@cython.exceptval(-1, check=False)
def forward_kept(client: ClientConn, request: cython.pointer(Request)) -> cython.int:
    """The same for a request whose reply repeats the key."""
    route: Route = client.frontend.route
    hash: uint32_t = 0
    group: cython.int
    part: cython.pointer(Msg)
    msg: cython.pointer(Msg) = parent_of(client, request.row, 1, 0, binary_keyed, 0)
    part = msg.join.parts[0]
    part.flags = flags_of(client, request)
    if (
        not put_request(client, part, request)
        or msg_copy(msg, cython.address(msg.req), request.data, request.value - request.data) < 0
    ):
        msg_put(msg)
        raise MemoryError
    msg.charge = msg.req.length + part.req.length
    group = route.group_of(request.key, request.key_length, cython.address(hash))
    client.enqueue_outq(client, msg)
    return route.submit(part, group, client.id, client.profile)


@cython.cfunc
@cython.exceptval(-1, check=False)
def get_run(client: ClientConn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """A run of quiet gets: one `gets` for each server that has some of the keys."""
    layout: Layout
    index: cython.uint
    # A range is a key with one space before it, in place of the last byte of the header.
    for index in range(1, parser.argc):
        data[parser.argv[index].offset - 1] = 32
    memset(cython.address(layout), 0, cython.sizeof(Layout))
    layout.first = 1
    layout.step = 1
    layout.nkeys = parser.argc - 1
    layout.lead = 1
    layout.put_head = put_gets
    layout.head = 4
    layout.tail = b"\r\n"
    layout.tail_size = 2
    layout.finish = binary_values
    layout.ordered = True
    layout.kept = True
    layout.rewritten = True
    if client.frontend.miss:
        layout.part_flags = MSG_MISS
    return split(
        client,
        cython.address(as_text[cython.cast(cython.uchar, data[1])]),
        data,
        parser,
        cython.address(layout),
        0,
    )


@cython.cfunc
@cython.exceptval(check=False)
def put_gets(
    target: cython.p_char,
    data: cython.p_const_char,
    parser: cython.pointer(cython.const[Parser]),
    layout: cython.pointer(cython.const[Layout]),
    keys: cython.size_t,
) -> cython.size_t:
    memcpy(target, b"gets", 4)
    return 4


@cython.cfunc
@cython.exceptval(-1, check=False)
def flush(client: ClientConn, request: cython.pointer(Request)) -> cython.int:
    """flush_all, to all servers."""
    route: Route = client.frontend.route
    put(request, b"flush_all", 9)
    if request.key != request.extras:
        put_flag(request, b"", min(load32(request.extras), EXPTIME_MAX))
    put(request, b"\r\n", 2)
    return send_all(
        client,
        cython.address(as_text[cython.cast(cython.uchar, request.data[1])]),
        cython.address(request.line[0]),
        request.line_length,
        route.members(),
        memcache_all,
        None,
        0,
        0,
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def local_command(client: ClientConn, request: cython.pointer(Request)) -> cython.int:
    """NoOp, Version, Stat, Quit."""
    opcode: cython.int = cython.cast(cython.uchar, request.data[1])
    loud: cython.int = request.shape.loud
    words: list
    if loud == OP_NOOP:
        return respond(client, request.data, STATUS_OK, b"", 0)
    if loud == OP_QUIT:
        client.closing = True
        if request.shape.quiet:
            client.mark_flush()
            return 0
        return respond(client, request.data, STATUS_OK, b"", 0)
    words = [b"version"]
    if opcode != OP_VERSION:
        key: bytes = PyBytes_FromStringAndSize(
            request.key, cython.cast(cython.Py_ssize_t, request.key_length)
        )
        if b"\0" in key:
            # Versions of memcached differ in where such a line ends.
            return respond(client, request.data, STATUS_NOT_FOUND, NOT_FOUND, len(NOT_FOUND))
        words = [b"stats", *key.split()]
    servers: list = client.frontend.route.members()
    try:
        reply = HANDLERS[words[0]](client, words)
        if isinstance(reply, Query) and not servers:
            reply = reply.finish([])
        if not isinstance(reply, Query):
            reply = text_packets(reply, opcode, client.opaque.to_bytes(4, "big"))
    except Exception:
        log.exception("%s: '%s' failed", client, words[0].decode())
        text: bytes = INTERNAL_ERROR.partition(b" ")[2].rstrip()
        return respond(client, request.data, STATUS_INTERNAL, text, len(text))
    if isinstance(reply, Query):
        ask(
            client,
            cython.address(as_text[opcode]),
            b" ".join(reply.argv) + b"\r\n",
            servers[:1] if reply.scope == "any" else servers,
            reply.finish,
            INTERNAL_ERROR,
            0,
        )
    else:
        answer(client, reply, 0, False)
    return spare_others(client)
