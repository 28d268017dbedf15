# nutproxy/front/notice.py: what clients with client-side caching are told
"""A Notice is for many clients, which share its bytes: a push in RESP3, and in RESP2 a message of
the channel `__redis__:invalidate`."""

import cython
from cython.cimports.libc.stdlib import malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.nutproxy.msg.message import (
    Body,
    Msg,
    msg_drop,
    msg_get,
    msg_put,
    msg_share,
    msg_take,
)

HEAD2: bytes = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n"
HEAD3: bytes = b">2\r\n$10\r\ninvalidate\r\n"


@cython.cfunc
@cython.exceptval(check=False)
def put_frame(holder: cython.pointer(Msg), body: cython.pointer(Body), frame: bytes) -> cython.bint:
    """Set a body to a block that others can share. False when memory has run out."""
    size: cython.size_t = len(frame)
    block: cython.p_char = cython.cast(cython.p_char, malloc(size))
    if block is cython.NULL:
        return False
    memcpy(block, cython.cast(cython.p_const_char, frame), size)
    msg_take(holder, body, block, size)
    if msg_share(body):
        return True
    msg_drop(body)
    return False


@cython.final
@cython.cclass
class Notice:
    """Described in notice.pxd."""

    def __init__(self, keys: list | None, raw: bytes | None = None):
        self.keys = keys
        self.raw = raw

    def __dealloc__(self):
        if self.holder is not cython.NULL:
            msg_put(self.holder)

    def frame(self, protover):
        body: cython.pointer(Body)
        if self.holder is cython.NULL:
            self.holder = msg_get()
            if self.holder is cython.NULL:
                return cython.NULL
        body = cython.address(self.holder.rsp)
        if protover == 2:
            body = cython.address(self.holder.req)
        if body.length == 0:
            try:
                if not put_frame(self.holder, body, self.made(protover)):
                    return cython.NULL
            except MemoryError:
                return cython.NULL
        return body

    def made(self, protover: int) -> bytes:
        head = HEAD3 if protover == 3 else HEAD2
        if self.raw is not None:
            return self.raw
        if self.keys is None:
            return head + (b"_\r\n" if protover == 3 else b"$-1\r\n")
        parts = [b"%b*%d\r\n" % (head, len(self.keys))]
        for key in self.keys:
            parts.append(b"$%d\r\n%b\r\n" % (len(key), key))
        return b"".join(parts)
