# nutproxy/proto/memcache_pairing.py: whose reply is this?
"""A VALUE says which key it is of, so the reply to a get can be held against its request. A server
that has sent a reply too many, or one too few, is found out by the next value: the connection is
closed before a client gets another client's.

Each key in the reply has to be one of the request's. memcached sends them in the order of the
request; another proxy sends them in one run per server of its own, which costs one more pass over
the request's keys each. Of a fragment's reply only the first key is looked at here: merging checks
the others, and gives the client an error instead of a value that it has not asked for.
"""

import cython
from cython.cimports.libc.string import memchr, memcmp
from cython.cimports.nutproxy.msg.message import Body
from cython.cimports.nutproxy.proto.memcache import GAT, Command, value_line

# Passes over the keys of a request: a bound for the work on one reply.
PASSES = cython.declare(cython.int, 64)


def values_fit(msg, data, length):
    """Does a whole reply of values belong to this get, gets, gat or gats? `length` is the reply's,
    in bytes."""
    req: cython.pointer(Body) = cython.address(msg.req)
    pos: cython.size_t = 0
    passes: cython.int = 0
    # Where the request's next key is looked for, behind the command and its exptime.
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
    """Where the word at `pos` ends; `pos` itself at the end of the line. A CR ends the line only
    before its LF."""
    while (
        req.data[pos] != b" "
        and req.data[pos] != b"\n"
        and not (req.data[pos] == b"\r" and req.data[pos + 1] == b"\n")
    ):
        pos += 1
    return pos
