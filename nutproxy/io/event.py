# nutproxy/io/event.py: the poller
"""A thin wrapper around epoll with the few calls that the loop needs.

Every descriptor is registered once, edge-triggered, with read interest always on. Write interest is
added after a short write and removed as soon as the socket is writable again, so a connection that
never blocks costs one epoll_ctl in its life. Closing a descriptor removes it.

The handler of an event must read until a short read, or come back to it later, because an edge is
reported only once.
"""

import os

import cython
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.nutproxy.csys import (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_MOD,
    EPOLLET,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
)

# Events handled in one turn before replies are sent. If a thousand servers reset their connections
# at once, each event takes 0.1 ms.
MAX_EVENTS = cython.declare(cython.int, 256)


@cython.cclass
class Poller:
    """One epoll instance. Raises OSError when the kernel refuses."""

    def __cinit__(self):
        self.ep = -1
        self.nevents = MAX_EVENTS
        self.events = cython.cast(
            cython.pointer(epoll_event), malloc(MAX_EVENTS * cython.sizeof(epoll_event))
        )
        if self.events is cython.NULL:
            raise MemoryError
        self.ep = epoll_create1(EPOLL_CLOEXEC)
        if self.ep < 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.ep >= 0:
            close(self.ep)
        free(self.events)

    def control(self, op, fd, interest, data):
        event: epoll_event
        event.events = interest
        event.data.ptr = data
        if epoll_ctl(self.ep, op, fd, cython.address(event)) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def add(self, fd, data):
        """Watch `fd` for input; `data` comes back in its events."""
        return self.control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, data)

    def add_out(self, fd, data):
        """Watch for writability as well: after a short write, or while connecting."""
        return self.control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLET, data)

    def del_out(self, fd, data):
        return self.control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, data)

    def wait(self, timeout):
        """Fill `events` and return their number. `timeout` is in milliseconds, -1 to wait without
        limit, 0 to return at once. A worker has no other thread, so the GIL is kept."""
        count: cython.int = epoll_wait(self.ep, self.events, self.nevents, timeout)
        if count < 0:
            if errno == EINTR:
                return 0
            raise OSError(errno, os.strerror(errno))
        return count
