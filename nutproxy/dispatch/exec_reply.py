# nutproxy/dispatch/exec_reply.py: the reply to EXEC
"""The replies of the batches and of nutproxy's own commands, in the order of the commands."""

import logging

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.nutproxy.dispatch.batch import LOCAL_PART, MERGED, Batch, Transaction
from cython.cimports.nutproxy.dispatch.pubsub import carry_out
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.msg.message import (
    MSG_ERROR,
    MSG_NOREPLY,
    MSG_PIECES,
    Join,
    Msg,
    msg_copy,
    msg_reserve,
)
from cython.cimports.nutproxy.proto.merge import element_size
from cython.cimports.nutproxy.proto.redis import put_length, read_length
from cython.cimports.nutproxy.proto.table import OP_SUBSCRIBE, OP_SUNSUBSCRIBE

from nutproxy.builtin import HANDLERS
from nutproxy.builtin.databases import enter_database
from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS
from nutproxy.proto.table import names

log = logging.getLogger("nutproxy")

handlers: list = [
    HANDLERS[command.handler] if command.handler else None for command in COMMANDS.values()
]
INTERNAL_ERROR = errors.REDIS_REPLIES["internal"]


def put_together(msg):
    join: cython.pointer(Join) = msg.join
    transaction: Transaction = cython.cast(Transaction, join.extra)
    first: cython.pointer(Msg) = join.parts[0]
    own: list = []
    whole: cython.bint = is_whole(first, transaction.batches[0])
    if join.count == 1 and not (whole and (transaction.local or transaction.nmerged)):
        # All replies are the server's, or it has carried out nothing.
        if msg_copy(msg, cython.address(msg.rsp), first.rsp.data, first.rsp.length) < 0:
            raise MemoryError
        if whole and transaction.database >= 0 and msg.client is not cython.NULL:
            enter_database(cython.cast(ClientConn, msg.client), transaction.database)
        return 0
    if msg.client is not cython.NULL:
        client: ClientConn = cython.cast(ClientConn, msg.client)
        # Before the databases that the server has selected: SELECT of the one that the client had.
        own = local_replies(client, transaction)
        if transaction.database >= 0:
            enter_database(client, transaction.database)
        if msg.flags & MSG_NOREPLY:
            text: bytes = confirmations(transaction, own, cython.address(msg.flags))
            return msg_copy(
                msg, cython.address(msg.rsp), cython.cast(cython.p_const_char, text), len(text)
            )
        put_elements(msg, transaction, own)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def is_whole(part: cython.pointer(Msg), batch: Batch) -> cython.bint:
    """Is its reply an array with an element for each command?"""
    pos: cython.size_t = 0
    return part.rsp.data[0] == b"*" and (
        read_length(part.rsp.data, cython.address(pos)) == batch.count
    )


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_elements(msg: cython.pointer(Msg), transaction: Transaction, own: list) -> cython.int:
    """Put the elements into the order of the commands. For a batch that failed, its error stands in
    for the replies of each of its commands."""
    join: cython.pointer(Join) = msg.join
    reply: bytes
    index: cython.uint
    size: cython.size_t = 32
    at: cython.size_t
    target: cython.p_char
    for reply in own:
        size += len(reply)
    # Once to find the size, and to merge what was split.
    begin_elements(msg, transaction)
    for index in range(join.nkeys):
        size += put_element(msg, transaction, join.sequence[index], cython.NULL)
    target = msg_reserve(msg, cython.address(msg.rsp), size)
    if target is cython.NULL:
        raise MemoryError
    begin_elements(msg, transaction)
    at = put_length(target, b"*", join.nkeys)
    own_replies = iter(own)
    for index in range(join.nkeys):
        if join.sequence[index] == LOCAL_PART:
            reply = next(own_replies)
            memcpy(target + at, cython.cast(cython.p_const_char, reply), len(reply))
            at += len(reply)
        else:
            at += put_element(msg, transaction, join.sequence[index], target + at)
    msg.rsp.length = at
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def begin_elements(msg: cython.pointer(Msg), transaction: Transaction) -> cython.int:
    """Set `key_at` of each batch to where its first element is; 0 for one that failed."""
    join: cython.pointer(Join) = msg.join
    index: cython.uint
    at: cython.size_t
    for index in range(join.count):
        at = 0
        if is_whole(join.parts[index], transaction.batches[index]):
            read_length(join.parts[index].rsp.data, cython.address(at))
        join.parts[index].key_at = cython.cast(uint32_t, at)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def next_element(
    part: cython.pointer(Msg), length: cython.pointer(cython.size_t)
) -> cython.p_const_char:
    """The next reply of this batch. Sets its length."""
    start: cython.p_const_char = part.rsp.data
    length[0] = part.rsp.length
    if part.key_at:
        start += part.key_at
        length[0] = element_size(start, part.rsp.length - part.key_at)
        part.key_at += cython.cast(uint32_t, length[0])
    return start


@cython.cfunc
@cython.exceptval(-1, check=False)
def put_element(
    msg: cython.pointer(Msg), transaction: Transaction, place: uint32_t, target: cython.p_char
) -> cython.Py_ssize_t:
    """Write the reply to the next command, if `target` is given. Returns its length; that of
    nutproxy's own counts as 0."""
    merged: cython.pointer(Msg)
    length: cython.size_t = 0
    start: cython.p_const_char
    index: cython.uint
    if place == LOCAL_PART:
        return 0
    if not place & MERGED:
        start = next_element(msg.join.parts[place], cython.address(length))
        if target is not cython.NULL:
            memcpy(target, start, length)
        return length
    merged = transaction.merged[place & ~MERGED]
    if target is cython.NULL:
        merge_parts(msg, merged)
        return merged.rsp.length
    for index in range(merged.join.count):
        next_element(msg.join.parts[merged.join.parts[index].hash], cython.address(length))
    if not merged.flags & MSG_PIECES:
        memcpy(target, merged.rsp.data, merged.rsp.length)
        return merged.rsp.length
    length = 0
    for index in range(merged.pieces.count):
        memcpy(
            target + length, merged.pieces.bodies[index].data, merged.pieces.bodies[index].length
        )
        length += merged.pieces.bodies[index].length
    return length


@cython.cfunc
@cython.exceptval(-1, check=False)
def merge_parts(msg: cython.pointer(Msg), merged: cython.pointer(Msg)) -> cython.int:
    """Merge the replies to the parts of a command that was split, as outside of a transaction."""
    part: cython.pointer(Msg)
    start: cython.p_const_char
    length: cython.size_t = 0
    index: cython.uint
    for index in range(merged.join.count):
        part = merged.join.parts[index]
        start = next_element(msg.join.parts[part.hash], cython.address(length))
        if start[0] == b"-" or start[0] == b"!":
            part.flags |= MSG_ERROR
        if msg_copy(part, cython.address(part.rsp), start, length) < 0:
            raise MemoryError
    return merged.join.finish(merged)


@cython.cfunc
def local_replies(client: ClientConn, transaction: Transaction) -> list:
    """Carry out nutproxy's own commands of a transaction."""
    replies: list = []
    for number, operation, own in transaction.local or ():
        if isinstance(own, bytes):
            replies.append(own)
            continue
        try:
            if OP_SUBSCRIBE <= operation <= OP_SUNSUBSCRIBE:
                reply = carry_out(transaction.asking, client, operation, own)
            else:
                reply = handlers[number](client, own)
        except Exception:
            log.exception("%s: '%s' failed", client, names[number])
            reply = INTERNAL_ERROR
        replies.append(reply)
    return replies


@cython.cfunc
def confirmations(
    transaction: Transaction, replies: list, flags: cython.pointer(uint32_t)
) -> bytes:
    """What CLIENT REPLY OFF leaves of the reply to EXEC: as in Redis, the confirmations of
    SUBSCRIBE and UNSUBSCRIBE. If there are any, MSG_NOREPLY is taken out of the flags."""
    found: list = []
    for (_, operation, _), reply in zip(transaction.local or (), replies, strict=True):
        if OP_SUBSCRIBE <= operation <= OP_SUNSUBSCRIBE and not reply.startswith(b"-"):
            found.append(reply)
    if found:
        flags[0] &= ~cython.cast(uint32_t, MSG_NOREPLY)
    return b"".join(found)


def assembled(client, transaction, flags):
    replies: list = local_replies(client, transaction)
    if flags[0] & MSG_NOREPLY and replies:
        return confirmations(transaction, replies, flags)
    return b"*%d\r\n" % len(replies) + b"".join(replies)
