# nutproxy/proto/binary_reply.py: replies of memcached's binary protocol
"""Makes the reply to a binary request from the reply to the text command that was sent for it.

    VALUE k 5 3 81\\r\\nabc\\r\\nEND\\r\\n      status 0, flags 5, cas 81, value abc
    VA 3 f5 c81\\r\\nabc\\r\\n              the same
    HD c82\\r\\n                         status 0, cas 82
    END, EN, NF                        status 1, Not found
    EX                                 status 2, Data exists for key.
    NS                                 what the same failure is in the binary protocol
    CLIENT_ERROR, SERVER_ERROR, ERROR  the status that fits, with the text

A quiet request gets no reply if it has the result that is usual for it: a get that misses, any
other that succeeds. An error is always sent.
"""

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memchr, memcmp, memcpy, memset, strlen
from cython.cimports.nutproxy.msg.message import (
    MSG_ERROR,
    MSG_NOREPLY,
    MSG_PIECES,
    Body,
    Join,
    msg_constant,
    msg_drop,
    msg_reserve,
)
from cython.cimports.nutproxy.msg.pieces import (
    PIECE_MIN,
    Builder,
    builder_begin,
    builder_copy,
    builder_end,
    builder_put,
    builder_undo,
    put_large,
)
from cython.cimports.nutproxy.proto.binary import (
    BIN_COUNT,
    BIN_GAT,
    BIN_GET,
    BIN_STORE,
    BIN_TOUCH,
    HEADER,
    MAGIC_RESPONSE,
    OP_GETQ,
    OP_STAT,
    OP_VERSION,
    STATUS_EXISTS,
    STATUS_INVALID,
    STATUS_NO_MEMORY,
    STATUS_NOT_A_NUMBER,
    STATUS_NOT_FOUND,
    STATUS_NOT_STORED,
    STATUS_NOT_SUPPORTED,
    STATUS_OK,
    STATUS_TEMPORARY,
    STATUS_TOO_LARGE,
    BinaryRow,
    Shape,
    load16,
    load32,
    put_header,
    shapes,
    store32,
    store64,
)

from nutproxy.proto.binary_commands import TEXTS, Status
from nutproxy.proto.errors import MEMCACHE_REPLIES, cause

NOT_FOUND = cython.declare(cython.p_const_char, TEXTS[Status.NOT_FOUND])
EXISTS = cython.declare(cython.p_const_char, TEXTS[Status.EXISTS])
TOO_LARGE = cython.declare(cython.p_const_char, TEXTS[Status.TOO_LARGE])
NOT_STORED = cython.declare(cython.p_const_char, TEXTS[Status.NOT_STORED])
NOT_A_NUMBER = cython.declare(cython.p_const_char, TEXTS[Status.NOT_A_NUMBER])
TOO_OLD_TEXT = cython.declare(bytes, cause("needs_meta").encode())
TOO_OLD = cython.declare(cython.p_const_char, TOO_OLD_TEXT)
UNEXPECTED = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_part_form"])
# A reply without a known request, for when there is no memory for the right one.
_EMERGENCY = bytes(
    [0x81, 0, 0, 0, 0, 0, 0, Status.NO_MEMORY, 0, 0, 0, len(TEXTS[Status.NO_MEMORY])]
) + bytes(12)
EMERGENCY = cython.declare(bytes, _EMERGENCY + TEXTS[Status.NO_MEMORY])
END = cython.declare(cython.size_t, 5)  # END\r\n
EXTRAS = cython.declare(cython.size_t, 4)  # the flags of an item


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def digits(
    line: cython.p_const_char, pos: cython.pointer(cython.size_t), end: cython.size_t
) -> cython.ulonglong:
    """The number at `pos`, which is moved to its end."""
    number: cython.ulonglong = 0
    at: cython.size_t = pos[0]
    while at < end and b"0" <= line[at] <= b"9":
        number = number * 10 + cython.cast(cython.uint, line[at] - 48)
        at += 1
    pos[0] = at
    return number


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def read_numbers(
    line: cython.p_const_char,
    pos: cython.size_t,
    end: cython.size_t,
    found: cython.pointer(Item),
) -> cython.bint:
    """Read `<flags> <bytes> [cas]` of a VALUE line, which the parser of replies has checked. `end`
    is the end of the reply. Is the value within it?"""
    found.flags = cython.cast(cython.uint, digits(line, cython.address(pos), end))
    pos += 1
    found.size = digits(line, cython.address(pos), end)
    found.cas = 0
    if pos < end and line[pos] == b" ":
        pos += 1
        found.cas = digits(line, cython.address(pos), end)
    found.start = pos + 2
    return found.start + found.size + 2 <= end


@cython.cfunc
@cython.exceptval(check=False)
def read_value(
    data: cython.p_const_char, length: cython.size_t, found: cython.pointer(Item)
) -> cython.bint:
    """Read `VALUE <key> <flags> <bytes> [cas]`. Is it the only value?"""
    space: cython.p_const_char
    if length < 7:
        return False
    space = cython.cast(cython.p_const_char, memchr(data + 6, b" ", length - 6))
    if space is cython.NULL:
        return False
    return (
        read_numbers(data, cython.cast(cython.size_t, space - data) + 1, length, found)
        and found.start + found.size + 2 + END == length
    )


@cython.cfunc
@cython.exceptval(check=False)
def read_meta(
    data: cython.p_const_char, length: cython.size_t, found: cython.pointer(Item)
) -> cython.bint:
    """Read `VA <bytes> <flag>*` or `HD <flag>*`: the flags `f` and `c`."""
    line: cython.p_const_char = cython.cast(cython.p_const_char, memchr(data, b"\n", length))
    end: cython.size_t
    pos: cython.size_t = 3
    char: cython.char
    if line is cython.NULL:
        return False
    end = line - data - 1
    found.flags = 0
    found.cas = found.size = 0
    if data[0] == b"V":
        found.size = digits(data, cython.address(pos), end)
    while pos < end:
        char = data[pos]
        pos += 1
        if char == b"f":
            found.flags = cython.cast(cython.uint, digits(data, cython.address(pos), end))
        elif char == b"c":
            found.cas = digits(data, cython.address(pos), end)
    found.start = end + 2
    return data[0] != b"V" or found.start + found.size + 2 <= length


@cython.cfunc
@cython.exceptval(check=False)
def emergency(msg: cython.pointer(Msg)) -> cython.int:
    """There is no memory for the reply."""
    msg_constant(
        msg,
        cython.address(msg.rsp),
        cython.cast(cython.p_const_char, EMERGENCY),
        len(EMERGENCY),
    )
    return -1


def put_error(msg, opcode, opaque, status, text, length):
    """Make the reply a status with a text. -1 without memory: then it is EMERGENCY."""
    target: cython.p_char = msg_reserve(msg, cython.address(msg.rsp), HEADER + length)
    if target is cython.NULL:
        return emergency(msg)
    put_header(target, opcode, 0, 0, status, length, opaque, 0)
    memcpy(target + HEADER, text, length)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def begins(
    data: cython.p_const_char, length: cython.size_t, word: cython.p_const_char
) -> cython.bint:
    return length >= strlen(word) and memcmp(data, word, strlen(word)) == 0


@cython.cfunc
@cython.exceptval(check=False)
def judge_error(
    data: cython.p_const_char, length: cython.size_t, found: cython.pointer(Failure)
) -> cython.void:
    """The status and the text for an error line. It may follow some values."""
    start: cython.size_t = length - 2 if length > 2 else 0
    while start > 0 and data[start - 1] != b"\n":
        start -= 1
    data += start
    length -= start
    if length >= 2 and data[length - 2] == b"\r":
        length -= 2
    if begins(data, length, b"CLIENT_ERROR "):
        found.status = STATUS_INVALID
        found.text = data + 13
        found.length = length - 13
        if begins(found.text, found.length, b"cannot increment or decrement"):
            found.status = STATUS_NOT_A_NUMBER
            found.text = NOT_A_NUMBER
            found.length = strlen(NOT_A_NUMBER)
    elif begins(data, length, b"SERVER_ERROR "):
        found.status = STATUS_TEMPORARY
        found.text = data + 13
        found.length = length - 13
        if begins(found.text, found.length, b"object too large"):
            found.status = STATUS_TOO_LARGE
            found.text = TOO_LARGE
            found.length = strlen(TOO_LARGE)
        elif begins(found.text, found.length, b"out of memory") or begins(
            found.text, found.length, b"Out of memory"
        ):
            found.status = STATUS_NO_MEMORY
    else:
        # ERROR: the server does not know meta commands.
        found.status = STATUS_NOT_SUPPORTED
        found.text = TOO_OLD
        found.length = strlen(TOO_OLD)


@cython.cfunc
@cython.exceptval(check=False)
def put_failure(
    msg: cython.pointer(Msg),
    opcode: cython.int,
    opaque: cython.uint,
    data: cython.p_const_char,
    length: cython.size_t,
) -> cython.int:
    """Make the reply from an error line, which may be in `msg.rsp` itself."""
    found: Failure
    text: cython.char[1024]
    size: cython.size_t
    judge_error(data, length, cython.address(found))
    # A copy, as the reply replaces the line.
    size = min(found.length, cython.sizeof(text))
    memcpy(text, found.text, size)
    return put_error(msg, opcode, opaque, found.status, text, size)


@cython.cfunc
@cython.exceptval(check=False)
def put_status(
    msg: cython.pointer(Msg), opcode: cython.int, opaque: cython.uint, status: cython.int
) -> cython.int:
    text: cython.p_const_char = NOT_FOUND
    if status == STATUS_EXISTS:
        text = EXISTS
    elif status == STATUS_NOT_STORED:
        text = NOT_STORED
    return put_error(msg, opcode, opaque, status, text, strlen(text))


@cython.cfunc
@cython.exceptval(check=False)
def put_item(
    msg: cython.pointer(Msg),
    source: cython.pointer(Body),
    item: cython.pointer(Item),
    opcode: cython.int,
    opaque: cython.uint,
    key: cython.p_const_char,
    key_length: cython.size_t,
) -> cython.bint:
    """Make the reply an item whose value is in `source`. False when memory has run out."""
    head: cython.size_t = HEADER + EXTRAS + key_length
    copied: cython.size_t = item.size if item.size < PIECE_MIN else 0
    target: cython.p_char = msg_reserve(msg, cython.address(msg.rsp), head + copied)
    if target is cython.NULL:
        return False
    put_head(target, item, opcode, opaque, key, key_length)
    if copied < item.size:
        return share_value(msg, source, item, head)
    memcpy(target + head, source.data + item.start, item.size)
    return True


@cython.cfunc
@cython.exceptval(check=False)
def share_value(
    msg: cython.pointer(Msg),
    source: cython.pointer(Body),
    item: cython.pointer(Item),
    head: cython.size_t,
) -> cython.bint:
    """Add a large value, which stays in the block of `source`, to the head that is in the reply."""
    builder: Builder
    memset(cython.address(builder), 0, cython.sizeof(Builder))
    builder.msg = msg
    builder.small = cython.address(msg.rsp)
    builder.buffer = msg.rsp.data
    builder.at = head
    try:
        put_large(cython.address(builder), source, item.start, item.size)
        builder_end(cython.address(builder), MSG_PIECES)
        return True
    except MemoryError:
        return False


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def put_head(
    target: cython.p_char,
    item: cython.pointer(Item),
    opcode: cython.int,
    opaque: cython.uint,
    key: cython.p_const_char,
    key_length: cython.size_t,
) -> cython.void:
    """Write everything of an item's reply but the value."""
    put_header(
        target,
        opcode,
        key_length,
        EXTRAS,
        STATUS_OK,
        EXTRAS + key_length + item.size,
        opaque,
        item.cas,
    )
    store32(target + HEADER, item.flags)
    memcpy(target + HEADER + EXTRAS, key, key_length)


@cython.cfunc
@cython.exceptval(check=False)
def succeed(
    msg: cython.pointer(Msg), shape: cython.pointer(Shape), opcode: cython.int
) -> cython.int:
    """Make the reply to a request that has been carried out, from HD, OK, or the VA of ma."""
    found: Item
    target: cython.p_char
    value: cython.ulonglong = 0
    extras: cython.size_t = 0
    body: cython.size_t = 0
    pos: cython.size_t
    if shape.quiet:
        msg.flags |= MSG_NOREPLY
        return 0
    if not read_meta(msg.rsp.data, msg.rsp.length, cython.address(found)):
        found.cas = 0
    if shape.form == BIN_COUNT:
        pos = found.start
        value = digits(msg.rsp.data, cython.address(pos), found.start + found.size)
        body = 8
    elif shape.form == BIN_TOUCH:
        extras = body = EXTRAS
    target = msg_reserve(msg, cython.address(msg.rsp), HEADER + body)
    if target is cython.NULL:
        return emergency(msg)
    put_header(target, opcode, 0, extras, STATUS_OK, body, msg.opaque, found.cas)
    if shape.form == BIN_COUNT:
        store64(target + HEADER, value)
    elif shape.form == BIN_TOUCH:
        store32(target + HEADER, found.flags)
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def is_made(msg: cython.pointer(Msg)) -> cython.bint:
    """Is the reply a binary one already? Those of nutproxy itself are, and those of commands in
    parts."""
    return (
        msg.row is cython.NULL
        or msg.rsp.length == 0
        or msg.rsp.data is cython.NULL
        or cython.cast(cython.uchar, msg.rsp.data[0]) == MAGIC_RESPONSE
    )


def binary_reply(msg):
    opcode: cython.int
    shape: cython.pointer(Shape)
    data: cython.p_const_char = msg.rsp.data
    first: cython.char
    second: cython.char
    if is_made(msg):
        return
    opcode = cython.cast(cython.pointer(BinaryRow), msg.row).opcode
    shape = cython.address(shapes[opcode])
    first = data[0]
    second = data[1]
    if opcode in (OP_STAT, OP_VERSION):
        put_texts(msg, opcode)
    elif first == b"V" and (shape.form == BIN_GET or shape.form == BIN_GAT):
        put_found(msg, opcode)
    elif (first == b"V" and second == b"A") or (first == b"H" and second == b"D") or first == b"O":
        succeed(msg, shape, opcode)
    elif (first == b"E" and second == b"N") or (first == b"N" and second == b"F"):
        if shape.quiet and (shape.form == BIN_GET or shape.form == BIN_GAT):
            msg.flags |= MSG_NOREPLY
        else:
            put_status(msg, opcode, msg.opaque, STATUS_NOT_FOUND)
    elif first == b"E" and second == b"X":
        put_status(msg, opcode, msg.opaque, STATUS_EXISTS)
    elif first == b"N" and second == b"S":
        put_status(msg, opcode, msg.opaque, not_stored(shape))
    else:
        put_failure(msg, opcode, msg.opaque, data, msg.rsp.length)


@cython.cfunc
@cython.exceptval(check=False)
def not_stored(shape: cython.pointer(Shape)) -> cython.int:
    """The status for NS."""
    if shape.form == BIN_STORE and shape.mode == b"E":
        return STATUS_EXISTS
    if shape.form == BIN_STORE and shape.mode == b"R":
        return STATUS_NOT_FOUND
    return STATUS_NOT_STORED


@cython.cfunc
@cython.exceptval(check=False)
def read_item(body: cython.pointer(Body), found: cython.pointer(Item)) -> cython.bint:
    if body.length > 2 and body.data[2] == b"L":
        return read_value(body.data, body.length, found)
    return read_meta(body.data, body.length, found)


@cython.cfunc
@cython.exceptval(check=False)
def put_found(msg: cython.pointer(Msg), opcode: cython.int) -> cython.void:
    """Make the reply to a get from the text that is in its place."""
    found: Item
    text: Body = msg.rsp
    memset(cython.address(msg.rsp), 0, cython.sizeof(Body))
    if not read_item(cython.address(text), cython.address(found)):
        if msg.flags & MSG_ERROR:
            # An error in place of the rest.
            put_failure(msg, opcode, msg.opaque, text.data, text.length)
        else:
            put_failure(msg, opcode, msg.opaque, UNEXPECTED, strlen(UNEXPECTED))
    elif not put_item(
        msg, cython.address(text), cython.address(found), opcode, msg.opaque, text.data, 0
    ):
        emergency(msg)
    msg_drop(cython.address(text))


@cython.cfunc
@cython.exceptval(check=False)
def put_texts(msg: cython.pointer(Msg), opcode: cython.int) -> cython.void:
    """Make the reply to Stat or Version."""
    target: cython.p_char
    try:
        packets: bytes = text_packets(
            msg.rsp.data[: msg.rsp.length], opcode, msg.opaque.to_bytes(4, "big")
        )
        target = msg_reserve(msg, cython.address(msg.rsp), len(packets))
        if target is not cython.NULL:
            memcpy(target, cython.cast(cython.p_char, packets), len(packets))
            return
    except MemoryError:
        pass
    emergency(msg)


def text_packets(text: bytes, opcode: int, opaque: bytes) -> bytes:
    """The responses to Stat or Version for this reply of the text protocol. Each statistic has one,
    with its name as the key; an empty one ends them."""
    *lines, last = text.removesuffix(b"\r\n").split(b"\r\n")
    if last.startswith(b"VERSION "):
        return packet(opcode, Status.OK, opaque, b"", last[8:])
    if last not in (b"END", b"RESET", b"OK"):
        word, _, rest = last.partition(b" ")
        if word == b"SERVER_ERROR":
            return packet(opcode, Status.TEMPORARY, opaque, b"", rest)
        # memcached's reply for statistics that it does not have.
        return packet(opcode, Status.NOT_FOUND, opaque, b"", TEXTS[Status.NOT_FOUND])
    made = []
    for line in lines:
        _, name, value = (*line.split(b" ", 2), b"", b"")[:3]
        made.append(packet(opcode, Status.OK, opaque, name, value))
    made.append(packet(opcode, Status.OK, opaque, b"", b""))
    return b"".join(made)


def packet(opcode: int, status: int, opaque: bytes, key: bytes, value: bytes) -> bytes:
    """A response without extras and cas."""
    return b"%b%b%b%b%b%b" % (
        bytes([0x81, opcode]) + len(key).to_bytes(2, "big") + bytes(2) + status.to_bytes(2, "big"),
        (len(key) + len(value)).to_bytes(4, "big"),
        opaque,
        bytes(8),
        key,
        value,
    )


def binary_keyed(parent):
    """A get that repeats its key. `req` has the request; the only part has asked a server."""
    part: cython.pointer(Msg) = parent.join.parts[0]
    data: cython.p_char = parent.req.data
    opcode: cython.int = cython.cast(cython.uchar, data[1])
    key: cython.size_t = load16(data + 2)
    at: cython.p_const_char = data + HEADER + cython.cast(cython.uchar, data[4])
    opaque: cython.uint = load32(data + 12)
    target: cython.p_char
    found: Item
    if part.flags & MSG_ERROR or part.rsp.length < 2:
        return put_failure_of(parent, part, opcode, opaque)
    if part.rsp.data[0] == b"V":
        if not read_item(cython.address(part.rsp), cython.address(found)):
            put_failure(parent, opcode, opaque, UNEXPECTED, strlen(UNEXPECTED))
            return 0
        if not put_item(
            parent, cython.address(part.rsp), cython.address(found), opcode, opaque, at, key
        ):
            raise MemoryError
        return 0
    if part.rsp.data[0] != b"E" or part.rsp.data[1] != b"N":
        return put_failure_of(parent, part, opcode, opaque)
    if shapes[opcode].quiet:
        return 0
    target = msg_reserve(parent, cython.address(parent.rsp), HEADER + key)
    if target is cython.NULL:
        raise MemoryError
    put_header(target, opcode, key, 0, STATUS_NOT_FOUND, key, opaque, 0)
    memcpy(target + HEADER, at, key)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_failure_of(
    parent: cython.pointer(Msg),
    part: cython.pointer(Msg),
    opcode: cython.int,
    opaque: cython.uint,
) -> cython.int:
    put_failure(parent, opcode, opaque, part.rsp.data, part.rsp.length)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def value_at(
    body: cython.pointer(Body),
    at: cython.size_t,
    key: cython.p_const_char,
    length: cython.size_t,
    found: cython.pointer(Item),
) -> cython.bint:
    """Whether the value at `at` belongs to this key. Sets `found`; its `start` counts from the
    start of the body."""
    line: cython.p_const_char = body.data + at
    left: cython.size_t = body.length - at
    if (
        left < 6 + length + 1
        or line[0] != b"V"
        or line[6 + length] != b" "
        or memcmp(line + 6, key, length) != 0
        or not read_numbers(line, 6 + length + 1, left, found)
    ):
        return False
    found.start += at
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def has_failed(part: cython.pointer(Msg)) -> cython.bint:
    return part.flags & MSG_ERROR or part.rsp.length < END


def binary_values(parent):
    """A run of quiet gets. `req` has the requests; the parts have asked the servers for all keys.
    Raises MemoryError."""
    join: cython.pointer(Join) = parent.join
    cursors: cython.pointer(cython.size_t)
    failures: cython.pointer(Failure)
    cursors = cython.cast(
        cython.pointer(cython.size_t),
        calloc(join.count, cython.sizeof(cython.size_t) + cython.sizeof(Failure)),
    )
    if cursors is cython.NULL:
        raise MemoryError
    failures = cython.cast(cython.pointer(Failure), cursors + join.count)
    try:
        if not put_values(parent, cursors, failures):
            # A server has sent a value that was not asked for.
            fail_all(parent, failures)
            put_values(parent, cursors, failures)
        return 0
    finally:
        free(cursors)


@cython.cfunc
@cython.exceptval(check=False)
def fail_all(parent: cython.pointer(Msg), failures: cython.pointer(Failure)) -> cython.void:
    index: cython.uint
    for index in range(parent.join.count):
        judge_error(UNEXPECTED, strlen(UNEXPECTED), cython.address(failures[index]))


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_values(
    parent: cython.pointer(Msg),
    cursors: cython.pointer(cython.size_t),
    failures: cython.pointer(Failure),
) -> cython.int:
    """Make the replies to all gets of a run. `cursors` has the next value of each part, `failures`
    has a status for each part that has failed. Returns 0, and makes no reply, if a value belongs to
    none of the gets."""
    join: cython.pointer(Join) = parent.join
    data: cython.p_char = parent.req.data
    part: cython.pointer(Msg)
    builder: Builder
    found: Item
    failure: cython.pointer(Failure)
    room: cython.size_t = parent.req.length + join.nkeys * EXTRAS
    longest: cython.size_t = 0
    key: cython.size_t
    index: cython.uint
    number: cython.uint
    for index in range(join.count):
        part = join.parts[index]
        failure = cython.address(failures[index])
        if failure.status == 0 and has_failed(part):
            judge_error(part.rsp.data, part.rsp.length, failure)
        if failure.status == 0:
            room += part.rsp.length
        else:
            longest = max(longest, failure.length)
    builder_begin(
        cython.address(builder),
        parent,
        cython.address(parent.rsp),
        room + longest * join.nkeys,
    )
    for index in range(join.nkeys):
        key = load16(data + 2)
        number = join.sequence[index]
        part = join.parts[number]
        failure = cython.address(failures[number])
        if failure.status:
            put_header(
                builder.buffer + builder.at,
                data[1],
                0,
                0,
                failure.status,
                failure.length,
                load32(data + 12),
                0,
            )
            builder.at += HEADER
            builder_copy(cython.address(builder), failure.text, failure.length)
        elif value_at(
            cython.address(part.rsp),
            cursors[number],
            data + HEADER,
            key,
            cython.address(found),
        ):
            cursors[number] = found.start + found.size + 2
            if data[1] == OP_GETQ:
                key = 0
            put_head(
                builder.buffer + builder.at,
                cython.address(found),
                data[1],
                load32(data + 12),
                data + HEADER,
                key,
            )
            builder.at += HEADER + EXTRAS + key
            builder_put(cython.address(builder), cython.address(part.rsp), found.start, found.size)
        data += HEADER + load16(data + 2)
    for index in range(join.count):
        if failures[index].status == 0 and join.parts[index].rsp.length - cursors[index] != END:
            builder_undo(cython.address(builder))
            return 0
    builder_end(cython.address(builder), MSG_PIECES)
    return 1
