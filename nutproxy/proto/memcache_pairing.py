# nutproxy/proto/memcache_pairing.py: checks that values belong to their request
"""A VALUE line names its key, so the reply to a get can be compared with its request. If a server
sends one reply too many or too few, the next value reveals it, and the connection is closed before
a client receives another client's data.

Every key in the reply must be in the request. memcached sends values in the order of the request.
A proxy between nutproxy and memcached may group them by server; each group costs one more pass over
the keys of the request. For a part of a get, only the first key of the reply is checked here. The
merge checks the others, and replies with an error if a value was not requested.
"""

import cython
from cython.cimports.libc.string import memchr, memcmp
from cython.cimports.nutproxy.msg.message import MSG_NOREPLY, MSG_QUIET, Body, Msg
from cython.cimports.nutproxy.proto.memcache import (
    GAT,
    GET,
    META,
    META_STORE,
    REPLY_ERROR,
    REPLY_VALUES,
    Command,
    value_line,
)

# Maximum passes over the keys of a request. Bounds the work for one reply.
PASSES = cython.declare(cython.int, 64)


def is_meta(msg):
    """Does a memcached before 1.6 not know this command? It would run an ms' data block as
    commands."""
    return cython.cast(cython.pointer(Command), msg.row).kind in (META, META_STORE)


def memcache_fits(msg, data, parser):
    """Can this be memcached's reply to the request: are its form and its keys right? Also marks
    replies that quiet mode leaves out."""
    command: cython.pointer(Command) = cython.cast(cython.pointer(Command), msg.row)
    form: cython.uint
    if parser.kind == REPLY_ERROR:
        return True
    form = cython.cast(cython.uint, 1) << parser.kind
    if msg.flags & MSG_QUIET and command.quiet & form:
        msg.flags |= MSG_NOREPLY
    if parser.kind == REPLY_VALUES and data[0] == b"V" and (command.kind in (GET, GAT)):
        if parser.argc == 1 and value_fits(msg, data, parser.length):
            return True
        return values_fit(msg, data, parser.pos)
    return (command.replies & form) != 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def value_fits(
    msg: cython.pointer(Msg), data: cython.p_const_char, key: cython.size_t
) -> cython.bint:
    """Fast path for a request with a single key and a reply with a single value. `key` is the
    length of the key in the reply. If this returns False, values_fit decides."""
    start: cython.size_t = cython.cast(cython.pointer(Command), msg.row).length + 1
    return (
        msg.req.length == start + key + 2
        and msg.req.data[start - 1] == b" "
        and memcmp(msg.req.data + start, data + 6, key) == 0
    )


@cython.cfunc
@cython.exceptval(check=False)
def values_fit(
    msg: cython.pointer(Msg), data: cython.p_const_char, length: cython.size_t
) -> cython.bint:
    """Whether a complete reply of `length` bytes belongs to this get, gets, gat or gats."""
    req: cython.pointer(Body) = cython.address(msg.req)
    pos: cython.size_t = 0
    passes: cython.int = 0
    # The search for keys starts after the command and, for gat, its exptime.
    first: cython.size_t = word_end(req, 0)
    at: cython.size_t
    end: cython.size_t
    key: cython.size_t = 0
    size: cython.size_t = 0
    found: cython.p_const_char
    if cython.cast(cython.pointer(Command), msg.row).kind == GAT:
        first = word_end(req, word_begin(req, first))
    at = first
    while data[pos] == b"V":
        found = cython.cast(cython.p_const_char, memchr(data + pos, b"\n", length - pos))
        if not value_line(
            data + pos, found - data - pos - 1, cython.address(key), cython.address(size)
        ):
            return False
        while True:
            at = word_begin(req, at)
            end = word_end(req, at)
            if end == at:
                passes += 1
                if passes == PASSES:
                    return False
                at = first
                continue
            if end - at == key and memcmp(req.data + at, data + pos + 6, key) == 0:
                if msg.parent is not cython.NULL:
                    return True
                at = end
                break
            at = end
        pos = cython.cast(cython.size_t, found - data) + 1 + size + 2
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def word_begin(req: cython.pointer(Body), pos: cython.size_t) -> cython.size_t:
    while req.data[pos] == b" ":
        pos += 1
    return pos


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def word_end(req: cython.pointer(Body), pos: cython.size_t) -> cython.size_t:
    """The end of the word at `pos`, or `pos` at the end of the line. A CR ends the line only if an
    LF follows."""
    while (
        req.data[pos] != b" "
        and req.data[pos] != b"\n"
        and not (req.data[pos] == b"\r" and req.data[pos + 1] == b"\n")
    ):
        pos += 1
    return pos
