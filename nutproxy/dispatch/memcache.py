# nutproxy/dispatch/memcache.py: routes Memcached requests
"""The recv_done of the client role. It puts a parsed request into the queues of servers.

    memcache_recv_done ── the parser found an error: that is the reply
         │
         ├─ GET, GAT     all keys on one server ──────────────────────────> forward
         │               a part for each server that holds keys ──────────> forward, … ─> merged
         ├─ STORE, KEY   ─────────────────────────────────────────────────> forward
         ├─ META         quiet mode noted; base64 keys decoded for routing > forward
         ├─ ALL          flush_all, verbosity: a part for each server ──> forward, … ─> merged
         ├─ LOCAL        mn, version, quit, stats: nutproxy.builtin.memcache
         └─ UNSUPPORTED, denied ──────────────────────────────────────────> an error reply

**noreply and q.** They are overwritten with spaces before a request is forwarded. The server then
sends a reply to every request, even one that it refuses, and replies are paired with requests as
usual. The proxy drops a reply that the client did not want. No reply can be left over and reach
another client.

**Lines that versions of memcached read differently.** They are rewritten (MSG_REWORD), or refused
here together with their data block. proto/memcache.py lists them.
"""

import logging

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memchr, memcpy, memset, strlen
from cython.cimports.nutproxy.dispatch.forward import (
    answer,
    answer_constant,
    ask,
    forward_key,
    forward_one,
    send_all,
    spare_others,
)
from cython.cimports.nutproxy.dispatch.split import Layout, split
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.msg.message import (
    MSG_MISS,
    MSG_NOREPLY,
    MSG_QUIET,
    MSG_REWORD,
)
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.proto.memcache import (
    ALL,
    GAT,
    GET,
    LOCAL,
    META,
    META_STORE,
    STORE,
    UNSUPPORTED,
    Command,
    base64_decode,
    command_of,
    is_word,
)
from cython.cimports.nutproxy.proto.memcache_merge import memcache_all, memcache_values
from cython.cimports.nutproxy.route import Route
from cython.cimports.nutproxy.stats.slab import POOL_CLIENT_REQUESTS, POOL_REFUSED_REQUESTS

from nutproxy.builtin.interface import Query
from nutproxy.builtin.memcache import HANDLERS
from nutproxy.front.strangers import tell_broken
from nutproxy.proto.errors import MEMCACHE_REPLIES, memcache_error

log = logging.getLogger("nutproxy")

# A longer line must begin with get or gets. memcached closes the connection if any other line of
# this length arrives in two pieces.
LINE_MAX = cython.declare(cython.size_t, 2048)
DELETE_NOREPLY = cython.declare(cython.p_const_char, b"delete noreply 0\r\n")
LINE_FEED = MEMCACHE_REPLIES["memcache_line_feed"]
# The reply when a local handler raises an exception. The log has the details.
INTERNAL_ERROR = MEMCACHE_REPLIES["internal"]
# A base64 key is never longer decoded than encoded.
key_buffer = cython.declare(cython.char[256])


def memcache_recv_done(conn, data, parser):
    """Called for a complete request: `data` up to parser.pos, with its words in parser.argv."""
    client: ClientConn = cython.cast(ClientConn, conn)
    route: Route = client.frontend.route
    command: cython.pointer(Command) = command_of(parser)
    flags: cython.uint = parser.flags
    kind: cython.int

    client.stats[POOL_CLIENT_REQUESTS] += 1
    client.last_request = client.reactor.now
    if parser.error is not cython.NULL:
        client.stats[POOL_REFUSED_REQUESTS] += 1
        return answer_constant(client, parser.error, strlen(parser.error), flags)
    if client.frontend.verdicts[command.number]:
        return answer(client, denied(command, client.frontend), flags, True)
    kind = command.kind
    if kind in (GET, GAT):
        return get_values(client, command, data, parser, flags)
    if kind in (META, META_STORE):
        return meta(client, command, data, parser, flags)
    if kind == LOCAL:
        return local_command(client, command, data, parser, flags)
    if kind == UNSUPPORTED:
        return answer(
            client,
            memcache_error("memcache_not_supported", command.name[: command.length]),
            flags,
            True,
        )
    if flags & (MSG_NOREPLY | MSG_REWORD):
        if flags & MSG_NOREPLY:
            no_noreply(command, data, parser)
        if kind == STORE:
            plain_length(data, parser, 4)
        elif flags & MSG_REWORD:
            # delete noreply: the 0, an exptime in old versions, makes every version of memcached
            # read "noreply" as the key.
            return forward_key(
                client,
                command,
                cython.cast(cython.p_char, DELETE_NOREPLY),
                strlen(DELETE_NOREPLY),
                DELETE_NOREPLY + 7,
                7,
                flags,
            )
    if kind == ALL:
        return send_all(
            client,
            command,
            data + parser.argv[0].offset,
            parser.pos - parser.argv[0].offset,
            route.members(),
            memcache_all,
            None,
            flags,
            0,
        )
    return forward_command(client, command, data, parser, flags)


def memcache_recv_error(conn, parser):
    """Called when the parser cannot continue. Queue an error reply; the connection is closed after
    the outstanding replies."""
    client: ClientConn = cython.cast(ClientConn, conn)
    client.breaks()
    tell_broken(client, parser.error)
    return answer_constant(client, parser.error, strlen(parser.error), 0)


@cython.cfunc
def denied(command: cython.pointer(Command), frontend: Frontend) -> bytes:
    return memcache_error("memcache_denied", command.name[: command.length], frontend.name.encode())


@cython.cfunc
def duplicate(command: cython.pointer(Command)) -> bytes:
    """memcached's text for a repeated flag."""
    if command.name[1] == b"d" or command.name[1] == b"a":
        return MEMCACHE_REPLIES["memcache_flag_or_duplicate"]
    return MEMCACHE_REPLIES["memcache_duplicate_flag"]


@cython.cfunc
def undecoded(command: cython.pointer(Command)) -> bytes:
    """memcached's text for a key that is not valid base64."""
    if command.name[1] == b"e":
        return MEMCACHE_REPLIES["memcache_format"]
    if command.name[1] == b"d" or command.name[1] == b"a":
        return MEMCACHE_REPLIES["memcache_flag_or_duplicate"]
    return MEMCACHE_REPLIES["memcache_base64"]


@cython.cfunc
@cython.exceptval(check=False)
def starts_flag(char: cython.uchar) -> cython.bint:
    """Whether every version of memcached accepts a word with this first byte as a flag. For any
    other, later versions refuse the whole ms and run its data block as commands."""
    return 65 <= char <= 122 or 48 <= char <= 57


@cython.cfunc
def no_flag(data: cython.p_const_char, parser: cython.pointer(Parser), index: cython.uint) -> bytes:
    """memcached's text for word `index` of an ms, which is not a flag."""
    char: cython.uchar = data[parser.argv[index].offset]
    seen: set = set()
    before: cython.uint
    for before in range(3, index):
        seen.add(data[parser.argv[before].offset])
    if char >= 127 or len(seen) < index - 3:
        return MEMCACHE_REPLIES["memcache_duplicate_flag"]
    return MEMCACHE_REPLIES["memcache_flag"]


@cython.cfunc
@cython.exceptval(check=False)
def has_padding(key: cython.p_const_char, length: cython.size_t) -> cython.bint:
    return memchr(key, b"=", length) is not cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def blank(data: cython.p_char, arg: cython.pointer(Arg)) -> cython.void:
    """Overwrite a word with spaces."""
    memset(data + arg.offset, 32, arg.length)


@cython.cfunc
@cython.exceptval(check=False)
def plain_length(
    data: cython.p_char, parser: cython.pointer(Parser), index: cython.uint
) -> cython.void:
    """Rewrite word `index`, the length of a data block, in plain digits, which every version of
    memcached reads. They fit: no spelling of a number is shorter than its digits."""
    arg: cython.pointer(Arg) = cython.address(parser.argv[index])
    pos: cython.size_t = arg.offset + arg.length
    left: cython.longlong = parser.length
    blank(data, arg)
    while True:
        pos -= 1
        data[pos] = cython.cast(cython.char, 48 + left % 10)
        left //= 10
        if left == 0:
            return


@cython.cfunc
@cython.exceptval(check=False)
def no_noreply(
    command: cython.pointer(Command), data: cython.p_char, parser: cython.pointer(Parser)
) -> cython.void:
    """Remove `noreply`, the last word, so that the server replies.

    If the word before it is `noreply` too, blanking the last word would make that one the option.
    In that case the last word is changed to "Noreply", which has no meaning and leads to the same
    error."""
    last: cython.pointer(Arg) = cython.address(parser.argv[parser.argc - 1])
    first: cython.uint = 1 if command.kind == ALL else 2
    if parser.argc - 1 > first and is_word(
        data, cython.address(parser.argv[parser.argc - 2]), b"noreply", 7
    ):
        data[last.offset] = 78
    else:
        blank(data, last)


@cython.cfunc
@cython.exceptval(-1, check=False)
def forward_command(
    client: ClientConn,
    command: cython.pointer(Command),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """Send the request to the server of its second word."""
    start: cython.size_t = parser.argv[0].offset
    arg: cython.pointer(Arg) = cython.address(parser.argv[1])
    return forward_key(
        client, command, data + start, parser.pos - start, data + arg.offset, arg.length, flags
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def meta(
    client: ClientConn,
    command: cython.pointer(Command),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """mg, ms, md, ma, me. A flag is recognised by its first byte, as in memcached."""
    arg: cython.pointer(Arg)
    first: cython.uint = 3 if command.kind == META_STORE else 2
    index: cython.uint
    base64: cython.bint = False
    length: cython.size_t = 0
    key: cython.p_const_char = cython.NULL
    # Whether memcached may create the item without marking its key as binary.
    unmarked: cython.bint = command.name[1] == b"a"
    for index in range(first, parser.argc):
        arg = cython.address(parser.argv[index])
        if data[arg.offset] == b"b" and (command.quiet or arg.length == 1):
            base64 = True
        elif data[arg.offset] == b"q" and command.quiet:
            if flags & MSG_QUIET:
                # Only one q is blanked; a second one would make the server send no reply.
                return answer(client, duplicate(command), 0, True)
            flags |= MSG_QUIET
            blank(data, arg)
        elif data[arg.offset] == b"N" and command.name[1] == b"g":
            unmarked = True
        elif (
            data[arg.offset] == b"M"
            and command.kind == META_STORE
            and arg.length > 1
            and (data[arg.offset + 1] & 95) in (65, 80)
        ):
            # Append or prepend.
            unmarked = True
        elif command.kind == META_STORE and not starts_flag(data[arg.offset]):
            return answer(client, no_flag(data, parser, index), 0, True)
    if flags & MSG_REWORD:
        plain_length(data, parser, 2)
    if base64:
        # Route by the decoded key, so that an item has the same server with and without base64.
        arg = cython.address(parser.argv[1])
        length = base64_decode(data + arg.offset, arg.length, cython.address(key_buffer[0]))
        if length == 0 and has_padding(data + arg.offset, arg.length):
            # memcached also decodes keys with padding in the middle, but not to a defined result.
            return answer(client, undecoded(command), 0, True)
        if unmarked and memchr(cython.address(key_buffer[0]), 10, length) is not cython.NULL:
            # Without the mark memcached shows the key unencoded. With a line feed in it, the client
            # could insert lines of its choice among the replies of all clients.
            return answer(client, LINE_FEED, 0, True)
        if length:
            key = cython.address(key_buffer[0])
    if client.frontend.miss and command.name[1] == b"g":
        flags |= MSG_MISS
    if key is cython.NULL:
        return forward_command(client, command, data, parser, flags)
    start: cython.size_t = parser.argv[0].offset
    hash: uint32_t = 0
    return forward_one(
        client,
        command,
        data + start,
        parser.pos - start,
        client.frontend.route.group_of(key, length, cython.address(hash)),
        flags,
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def local_command(
    client: ClientConn,
    command: cython.pointer(Command),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """Run a command that the proxy handles itself."""
    arg: cython.pointer(Arg)
    index: cython.uint
    words: list = []
    if command.length == 2:
        return answer_constant(client, b"MN\r\n", 4, flags)
    for index in range(parser.argc):
        arg = cython.address(parser.argv[index])
        words.append(
            PyBytes_FromStringAndSize(data + arg.offset, cython.cast(cython.Py_ssize_t, arg.length))
        )
    try:
        reply = HANDLERS[words[0]](client, words)
    except Exception:
        log.exception("%s: '%s' failed", client, words[0].decode())
        reply = INTERNAL_ERROR
    if isinstance(reply, Query):
        servers: list = client.frontend.route.members()
        ask(
            client,
            command,
            b" ".join(reply.argv) + b"\r\n",
            servers[:1] if reply.scope == "any" else servers,
            reply.finish,
            INTERNAL_ERROR,
            flags,
        )
    elif reply:
        answer(client, reply, flags, False)
    else:
        # quit: the connection closes when all outstanding replies have been sent, possibly now.
        client.mark_flush()
    return spare_others(client)


@cython.cfunc
@cython.exceptval(-1, check=False)
def get_values(
    client: ClientConn,
    command: cython.pointer(Command),
    data: cython.p_char,
    parser: cython.pointer(Parser),
    flags: cython.uint,
) -> cython.int:
    """get, gets, gat, gats."""
    layout: Layout
    first: cython.uint = 2 if command.kind == GAT else 1
    if parser.argc == first:
        # In memcached, gat without a key is not an error.
        return answer_constant(client, b"END\r\n", 5, flags)
    if client.frontend.miss:
        flags |= MSG_MISS
    if parser.argc == 2:
        # The most frequent request needs no Layout.
        return forward_command(client, command, data, parser, flags)
    layout.start = parser.argv[0].offset
    layout.first = first
    layout.step = 1
    layout.nkeys = parser.argc - first
    # A range is a key with one space before it.
    layout.lead = 1
    layout.trail = 0
    layout.put_head = put_words
    layout.head = parser.argv[0].length
    if command.kind == GAT:
        layout.head += 1 + parser.argv[1].length
    layout.tail = b"\r\n"
    layout.tail_size = 2
    layout.limit = LINE_MAX if command.kind == GAT else 0
    layout.finish = memcache_values
    layout.ordered = True
    layout.kept = True
    layout.rewritten = False
    layout.part_flags = flags
    return split(client, command, data, parser, cython.address(layout), flags)


@cython.cfunc
@cython.exceptval(check=False)
def put_words(
    target: cython.p_char,
    data: cython.p_const_char,
    parser: cython.pointer(cython.const[Parser]),
    layout: cython.pointer(cython.const[Layout]),
    keys: cython.size_t,
) -> cython.size_t:
    """Write the command, and the exptime of gat and gats."""
    arg: cython.pointer(cython.const[Arg]) = parser.argv
    size: cython.size_t = arg.length
    memcpy(target, data + arg.offset, size)
    if layout.first == 2:
        arg += 1
        target[size] = 32
        memcpy(target + size + 1, data + arg.offset, arg.length)
        size += 1 + arg.length
    return size
