# nutproxy/proto/memcache_merge.py: merges several memcached replies into one
"""Makes the reply to a command that was sent in parts, and the reply "miss" for a failed server.

The parent's `req` holds the line of a get with keys on several servers. Each part's reply has the
values found on its server, in the order of the part's keys. One pass over all keys, with a cursor
in each reply, finds every value. It also detects a value that was not requested. A key that is
requested twice is returned twice, as memcached does.

If a part failed, the reply to the command is that error.
"""

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memchr, memcmp
from cython.cimports.nutproxy.msg.message import (
    MSG_ERROR,
    MSG_NOREPLY,
    MSG_PIECES,
    MSG_QUIET,
    Body,
    Join,
    msg_constant,
)
from cython.cimports.nutproxy.msg.parse import Arg
from cython.cimports.nutproxy.msg.pieces import (
    Builder,
    builder_begin,
    builder_copy,
    builder_end,
    builder_put,
    builder_undo,
)
from cython.cimports.nutproxy.proto.memcache import GAT, META, Command, value_numbers
from cython.cimports.nutproxy.proto.merge import put_text

from nutproxy.proto.errors import MEMCACHE_REPLIES

END = cython.declare(cython.p_const_char, b"END\r\n")
END_LENGTH = cython.declare(cython.size_t, 5)
UNEXPECTED = MEMCACHE_REPLIES["memcache_part_form"]


def memcache_miss(msg):
    """Reply as a server does that does not have the key. Raises MemoryError."""
    command: cython.pointer(Command) = cython.cast(cython.pointer(Command), msg.row)
    if command.kind != META:
        msg_constant(msg, cython.address(msg.rsp), END, END_LENGTH)
        return 0
    line: bytes = msg.req.data[: msg.req.length]
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    # Split at spaces only: a key may contain any other white space.
    put_text(msg, meta_miss([word for word in line.split(b" ") if word]))
    if msg.flags & MSG_QUIET:
        msg.flags |= MSG_NOREPLY
    return 0


@cython.cfunc
def meta_miss(words: list) -> bytes:
    """The reply EN to an mg, with the flags that memcached repeats: `k` with the key, and `O`."""
    answer: list = [b"EN"]
    flags: list = words[2:]
    encoded: list = [b"b"] if [flag for flag in flags if flag[:1] == b"b"] else []
    for flag in flags:
        if flag[:1] == b"k":
            answer += [b"k" + words[1], *encoded]
        elif flag[:1] == b"O":
            answer.append(flag)
    return b" ".join(answer) + b"\r\n"


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_failure(parent: cython.pointer(Msg)) -> cython.int:
    """If a part has failed, its error is the reply. Returns 1 then, else 0."""
    join: cython.pointer(Join) = parent.join
    part: cython.pointer(Msg)
    index: cython.uint
    for index in range(join.count):
        part = join.parts[index]
        if part.flags & MSG_ERROR:
            # The error is the last line; values may precede it.
            text: bytes = part.rsp.data[: part.rsp.length]
            put_text(parent, text[text.rfind(b"\n", 0, len(text) - 1) + 1 :])
            return 1
    return 0


def memcache_all(parent):
    """flush_all, verbosity: an error if there is one, else the first reply."""
    part: cython.pointer(Msg)
    if put_failure(parent):
        return 0
    part = parent.join.parts[0]
    return put_text(parent, part.rsp.data[: part.rsp.length])


@cython.cfunc
@cython.exceptval(check=False)
def next_word(
    line: cython.pointer(Body), end: cython.size_t, word: cython.pointer(Arg)
) -> cython.void:
    """Advance `word` to the next word of a line that ends at `end`."""
    pos: cython.size_t = word.offset + word.length
    found: cython.p_char
    while line.data[pos] == b" ":
        pos += 1
    found = cython.cast(cython.p_char, memchr(line.data + pos, b" ", end - pos))
    word.offset = pos
    word.length = (end if found is cython.NULL else found - line.data) - pos


@cython.cfunc
@cython.exceptval(check=False)
def value_of(
    body: cython.pointer(Body), at: cython.size_t, key: cython.p_const_char, length: cython.size_t
) -> cython.size_t:
    """The size of the value at `at`, including its line, if it belongs to this key; else 0."""
    line: cython.p_char = body.data + at
    left: cython.size_t = body.length - at
    end: cython.p_char
    size: cython.size_t = 0
    if (
        left < 6 + length + 1
        or line[0] != b"V"
        or line[6 + length] != b" "
        or memcmp(line + 6, key, length) != 0
    ):
        return 0
    end = cython.cast(cython.p_char, memchr(line + 6 + length, b"\n", left - 6 - length))
    value_numbers(line, 6 + length + 1, end - line - 1, cython.address(size))
    return (end - line) + 1 + size + 2


def memcache_values(parent):
    """get, gets, gat, gats: the values of all parts in the order of the keys."""
    join: cython.pointer(Join) = parent.join
    line: cython.pointer(Body) = cython.address(parent.req)
    part: cython.pointer(Msg)
    builder: Builder
    room: cython.size_t = END_LENGTH
    word: Arg
    end: cython.size_t = line.length - 1
    size: cython.size_t
    index: cython.uint
    number: cython.uint
    cursors: cython.pointer(cython.size_t)
    if put_failure(parent):
        return 0
    cursors = cython.cast(
        cython.pointer(cython.size_t), calloc(join.count, cython.sizeof(cython.size_t))
    )
    if cursors is cython.NULL:
        raise MemoryError
    try:
        for index in range(join.count):
            room += join.parts[index].rsp.length
        builder_begin(cython.address(builder), parent, cython.address(parent.rsp), room)
        if line.data[end - 1] == b"\r":
            end -= 1
        word.offset = word.length = 0
        next_word(line, end, cython.address(word))
        if cython.cast(cython.pointer(Command), parent.row).kind == GAT:
            next_word(line, end, cython.address(word))
        for index in range(join.nkeys):
            next_word(line, end, cython.address(word))
            number = join.sequence[index]
            part = join.parts[number]
            size = value_of(
                cython.address(part.rsp), cursors[number], line.data + word.offset, word.length
            )
            if size:
                builder_put(
                    cython.address(builder), cython.address(part.rsp), cursors[number], size
                )
                cursors[number] += size
        for index in range(join.count):
            if join.parts[index].rsp.length - cursors[index] != END_LENGTH:
                builder_undo(cython.address(builder))
                return put_text(parent, UNEXPECTED)
        builder_copy(cython.address(builder), END, END_LENGTH)
        return builder_end(cython.address(builder), MSG_PIECES)
    finally:
        free(cursors)
