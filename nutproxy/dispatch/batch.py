# nutproxy/dispatch/batch.py: the commands of a transaction
"""What is queued between MULTI and EXEC: a batch for each server, and the order of the commands."""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import free, realloc
from cython.cimports.libc.string import memcpy, strlen
from cython.cimports.nutproxy.dispatch.groups import ANY_GROUP
from cython.cimports.nutproxy.msg.message import MSG_BATCH, Msg, msg_put, msg_take

MULTI = cython.declare(cython.p_const_char, b"*1\r\n$5\r\nMULTI\r\n")
EXEC = cython.declare(cython.p_const_char, b"*1\r\n$4\r\nEXEC\r\n")
# Bytes of a new batch: a few small commands.
BATCH_ROOM = cython.declare(cython.size_t, 512)


@cython.final
@cython.freelist(64)
@cython.cclass
class Batch:
    """The commands that go to one server."""

    def __cinit__(self, group: cython.int):
        self.group = group
        self.append(MULTI, strlen(MULTI))

    def __dealloc__(self):
        free(self.data)

    def append(self, data, length):
        grown: cython.p_char
        room: cython.size_t
        if self.length + length > self.room:
            room = max(BATCH_ROOM, 2 * self.room, self.length + length)
            grown = cython.cast(cython.p_char, realloc(self.data, room))
            if grown is cython.NULL:
                raise MemoryError
            self.data = grown
            self.room = room
        memcpy(self.data + self.length, data, length)
        self.length += length
        return 0


@cython.final
@cython.freelist(64)
@cython.cclass
class Transaction:
    """Described in batch.pxd."""

    def __cinit__(self, version: cython.uint):
        self.version = version
        self.batches = []
        self.database = -1

    def __dealloc__(self):
        index: cython.uint
        for index in range(self.nmerged):
            msg_put(self.merged[index])
        free(self.merged)
        free(self.order)

    @property
    def size(self) -> int:
        return self.count

    def batch_of(self, group, split):
        """The batch for this group; None if it would be another server's."""
        batch: Batch
        for batch in self.batches:
            if batch.group == group or group == ANY_GROUP:
                return batch
            if batch.group == ANY_GROUP:
                batch.group = group
                return batch
        if self.batches and not split:
            return None
        batch = Batch(group)
        self.batches.append(batch)
        return batch

    def note(self, part):
        """The next command is in this batch, or LOCAL_PART."""
        grown: cython.pointer(uint32_t)
        room: cython.uint
        if self.count == self.order_room:
            room = max(16, 2 * self.order_room)
            grown = cython.cast(
                cython.pointer(uint32_t), realloc(self.order, room * cython.sizeof(uint32_t))
            )
            if grown is cython.NULL:
                raise MemoryError
            self.order = grown
            self.order_room = room
        self.order[self.count] = part
        self.count += 1
        return 0

    def keep(self, msg):
        """The next command has been split. Takes over its message."""
        grown: cython.pointer(cython.pointer(Msg))
        room: cython.uint
        if self.nmerged == self.merged_room:
            room = max(4, 2 * self.merged_room)
            grown = cython.cast(
                cython.pointer(cython.pointer(Msg)),
                realloc(self.merged, room * cython.sizeof(cython.pointer(Msg))),
            )
            if grown is cython.NULL:
                msg_put(msg)
                raise MemoryError
            self.merged = grown
            self.merged_room = room
        self.merged[self.nmerged] = msg
        self.nmerged += 1
        return self.note(MERGED | (self.nmerged - 1))


def moved(transaction, route):
    batch: Batch
    if transaction.version != route.version:
        for batch in transaction.batches:
            if batch.group != ANY_GROUP:
                return True
    return False


def batch_group(route, batch):
    return route.any_group() if batch.group == ANY_GROUP else batch.group


def seal(msg, batch):
    batch.append(EXEC, strlen(EXEC))
    msg_take(msg, cython.address(msg.req), batch.data, batch.length)
    msg.flags |= MSG_BATCH
    # MULTI, the commands, and EXEC.
    msg.replies = batch.count + 2
    batch.data = cython.NULL
    return 0
