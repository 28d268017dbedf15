# nutproxy/msg/pieces.py: a request or a reply in several bodies
"""A command in parts has large values in one block and small ones beside them: the value of an MSET
that goes to one of several servers, or the element of an MGET that comes from one. They are not
copied. The request or the reply is then a list of pieces, and each shares the block that it was
received into.

    Builder ── builder_put, builder_copy ──> small elements: one buffer; large ones: pieces
            ── builder_end ──> one body, or msg.pieces (MSG_PIECES, MSG_REQ_PIECES)
"""

import cython
from cython.cimports.libc.stdlib import free, malloc, realloc
from cython.cimports.libc.string import memset
from cython.cimports.nutproxy.msg.message import (
    Pieces,
    msg_drop,
    msg_reserve,
    msg_share,
    msg_view,
)


def builder_begin(builder, msg, small, room):
    """Begin a request or a reply of which at most `room` bytes are small elements.

    The buffer has room for all elements that may be copied to it. The system allocates the pages
    of a large block when they are first written, so unused room costs nothing."""
    memset(builder, 0, cython.sizeof(Builder))
    builder.msg = msg
    builder.small = small
    builder.buffer = msg_reserve(msg, small, room)
    if builder.buffer is cython.NULL:
        raise MemoryError
    return 0


def put_large(builder, source, start, size):
    """Add bytes without copying them: the block that they were received into is shared."""
    if (
        msg_share(source)
        and put_buffer(builder)
        and add_piece(builder, source, source.data + start, size)
    ):
        return 0
    builder_undo(builder)
    raise MemoryError


@cython.cfunc
@cython.exceptval(check=False)
def put_buffer(builder: cython.pointer(Builder)) -> cython.bint:
    """Make a piece of what has been written to the buffer since the last piece. False when memory
    has run out."""
    start: cython.size_t = builder.cut
    if builder.at == start:
        return True
    builder.cut = builder.at
    return msg_share(builder.small) and add_piece(
        builder, builder.small, builder.buffer + start, builder.at - start
    )


@cython.cfunc
@cython.exceptval(check=False)
def add_piece(
    builder: cython.pointer(Builder),
    source: cython.pointer(Body),
    data: cython.p_char,
    size: cython.size_t,
) -> cython.bint:
    room: cython.uint
    grown: cython.pointer(Body)
    if builder.count == builder.room:
        room = max(8, 2 * builder.room)
        grown = cython.cast(
            cython.pointer(Body), realloc(builder.bodies, room * cython.sizeof(Body))
        )
        if grown is cython.NULL:
            return False
        builder.bodies = grown
        builder.room = room
    memset(cython.address(builder.bodies[builder.count]), 0, cython.sizeof(Body))
    msg_view(cython.address(builder.bodies[builder.count]), source, data, size)
    builder.count += 1
    return True


def builder_end(builder, flag):
    """Complete the request or the reply. If it is in pieces, the message gets this flag, and the
    length of its body is their sum. Raises MemoryError."""
    msg: cython.pointer(Msg) = builder.msg
    pieces: cython.pointer(Pieces)
    total: cython.size_t = 0
    index: cython.uint
    if builder.count == 0:
        builder.small.length = builder.at
        return 0
    pieces = cython.cast(cython.pointer(Pieces), malloc(cython.sizeof(Pieces)))
    if pieces is cython.NULL or not put_buffer(builder):
        free(pieces)
        builder_undo(builder)
        raise MemoryError
    for index in range(builder.count):
        total += builder.bodies[index].length
    pieces.bodies = builder.bodies
    pieces.count = builder.count
    pieces.sent = 0
    # The pieces keep the buffer.
    msg_drop(builder.small)
    builder.small.length = total
    msg.pieces = pieces
    msg.flags |= flag
    return 0


def builder_undo(builder):
    """Give up what has been added."""
    index: cython.uint
    for index in range(builder.count):
        msg_drop(cython.address(builder.bodies[index]))
    free(builder.bodies)
    builder.bodies = cython.NULL
    builder.count = builder.room = 0


def pieces_written(msg):
    """The first piece has been written. If others are left, free it and return its length, else
    return 0."""
    pieces: cython.pointer(Pieces) = msg.pieces
    body: cython.pointer(Body) = cython.address(pieces.bodies[pieces.sent])
    length: cython.size_t = body.length
    if pieces.sent + 1 == pieces.count:
        return 0
    pieces.sent += 1
    msg_drop(body)
    return length
