# nutproxy/msg/response.py: how a request gets its reply
"""A request is answered once, by a server's reply or by an error:

    msg_done    its reply is in `rsp`: tell its owner
    msg_fail    no server answers it: an error reply, or a miss if the pool wants that
    msg_error   an error reply

The owner is a client (client.py), which sends the reply when it is its turn, or the command that
the request is a part of: it has its reply when all of its parts have theirs.

A request can be finished before its server has replied, because its deadline has passed or its
client has gone. It then keeps its place in the server's queue, and the reply that still comes is
dropped there.

No function here raises, so a caller can rely on the request being answered. If there is no memory
for the reply, it is a constant error.
"""

import logging

import cython
from cython.cimports.libc.stdint import SIZE_MAX
from cython.cimports.libc.string import strlen
from cython.cimports.nutproxy.msg.deadline import deadline_remove
from cython.cimports.nutproxy.msg.message import (
    MSG_CANCELLED,
    MSG_DONE,
    MSG_ERROR,
    MSG_FAILED,
    MSG_MISS,
    MSG_REQ_PIECES,
    Join,
    Msg,
    msg_constant,
    msg_copy,
    msg_drop,
    pieces_free,
)
from cython.cimports.nutproxy.msg.protocol import Protocol, protocol_of

log = logging.getLogger("nutproxy")


def msg_done(msg):
    """The reply to this request is in `rsp`."""
    deadline_remove(msg)
    msg.flags |= MSG_DONE
    if msg.server is cython.NULL or msg.flags & MSG_CANCELLED:
        # The request's bytes are not needed any more: it is not in a server's queue, or cancelled.
        msg_drop(cython.address(msg.req))
        if msg.flags & MSG_REQ_PIECES:
            pieces_free(msg)
    msg.owner.answered(msg, msg.rsp.length)


def msg_fail(msg, text):
    """Answer a request with the error reply `text`; None if there was no memory for one. With
    `on_dead_server: miss` the reply is a miss instead, if the command can have one."""
    msg.flags |= MSG_FAILED
    if msg.flags & MSG_MISS and missed(msg):
        msg_done(msg)
    else:
        msg_error(msg, text)


@cython.cfunc
@cython.exceptval(check=False)
def missed(msg: cython.pointer(Msg)) -> cython.bint:
    """Give a request the reply of an empty server. False when memory has run out."""
    try:
        protocol_of(msg).miss(msg)
    except MemoryError:
        return False
    return True


def msg_error(msg, text):
    """Answer a request with the error reply `text`; None if there was no memory for one."""
    constant: cython.p_const_char
    if (
        text is None
        or msg_copy(msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text))
        < 0
    ):
        constant = protocol_of(msg).out_of_memory
        msg_constant(msg, cython.address(msg.rsp), constant, strlen(constant))
    msg.flags |= MSG_ERROR
    msg_done(msg)


# Parts
# -------------------------------------------------------------------------------------------


def part_room(part):
    """The most bytes that the reply to this request may have because of the replies to other parts
    of its command."""
    join: cython.pointer(Join)
    if part.parent is cython.NULL or part.parent.join.max_arrived == 0:
        return SIZE_MAX
    join = part.parent.join
    return join.max_arrived - min(join.arrived, join.max_arrived)


@cython.cfunc
@cython.exceptval(check=False)
def part_answered(part: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    parent: cython.pointer(Msg) = part.parent
    if parent is not cython.NULL:
        parent.join.part_done(parent, part)


@cython.cfunc
@cython.exceptval(check=False)
def part_arrived(part: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    if part.parent is not cython.NULL:
        part.parent.owner.arrived(part.parent, size)


@cython.cfunc
@cython.exceptval(check=False)
def part_refuses(part: cython.pointer(Msg), size: cython.size_t) -> cython.bint:
    if part.parent is cython.NULL:
        return False
    return size > part_room(part) or part.parent.owner.refuses(part.parent, size)


@cython.cfunc
def part_refusal(part: cython.pointer(Msg), size: cython.size_t) -> bytes:
    protocol: Protocol = protocol_of(part)
    if size <= part_room(part):
        return part.parent.owner.refusal(part.parent, size)
    try:
        return protocol.error("merged", b"%d" % part.parent.join.max_arrived)
    except MemoryError:
        return None


part_owner.answered = part_answered
part_owner.arrived = part_arrived
part_owner.refuses = part_refuses
part_owner.refusal = part_refusal


@cython.cfunc
@cython.exceptval(check=False)
def nobody_told(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    pass


@cython.cfunc
@cython.exceptval(check=False)
def nobody_refuses(msg: cython.pointer(Msg), size: cython.size_t) -> cython.bint:
    return False


@cython.cfunc
def nobody_refusal(msg: cython.pointer(Msg), size: cython.size_t) -> bytes:
    return None


nobody.answered = nobody_told
nobody.arrived = nobody_told
nobody.refuses = nobody_refuses
nobody.refusal = nobody_refusal


def join_part_done(msg, part):
    """A part of `msg` is answered. Its bytes count as a reply until all parts are."""
    join: cython.pointer(Join) = msg.join
    index: cython.uint
    msg.flags |= part.flags & MSG_FAILED
    join.ndone += 1
    join.arrived += part.rsp.length
    msg.owner.arrived(msg, part.rsp.length)
    if join.ndone < join.count:
        return
    finish(msg)
    # What the reply needs of the parts' replies, it shares.
    for index in range(join.count):
        msg_drop(cython.address(join.parts[index].rsp))
    msg_drop(cython.address(msg.req))
    msg.flags |= MSG_DONE
    msg.owner.answered(msg, join.arrived)


@cython.cfunc
@cython.exceptval(check=False)
def finish(msg: cython.pointer(Msg)) -> cython.void:
    """Make the reply from those of the parts. An exception is caught here: it must not close the
    connection that the last part came from."""
    text: cython.p_const_char
    try:
        msg.join.finish(msg)
    except Exception:
        text = protocol_of(msg).internal_error
        msg_constant(msg, cython.address(msg.rsp), text, strlen(text))
        log.exception("replies could not be merged")
