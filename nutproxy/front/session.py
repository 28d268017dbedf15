# nutproxy/front/session.py: what a client has that uses more than single requests
"""The state of a client with transactions, blocking commands or subscriptions. Other clients have
no Session, so they pay nothing for it.

**Held commands.** Some commands must not overtake the client's earlier ones, which go over shared
server connections: a blocking command, or WATCH. Such a command is put into the client's queue like
any other, and `ClientConn.hold` holds it back there. It is run when it is first in the queue: all
earlier replies have been sent. No further request of the client is parsed before `resume`.

**Waits.** While a command waits in its server (`ClientConn.begin_wait`), nothing of the client is
read, but its end is noticed at once: if it closes the connection, or only its sending side, the
server must not give an element to nobody. So its link is dropped, in the same turn.

**Links of its own.** A command that blocks its connection, or changes it, is sent over a link that
is borrowed from the server (Server.borrow). It is given back when it is clean, or dropped. If the
client leaves, its links are dropped at once, so that servers carry out nothing more for it.
"""

import cython
from cython.cimports.nutproxy.back.link import Link


@cython.final
@cython.cclass
class Session:
    """The values are described in session.pxd."""

    def leave(self):
        """The client has gone, and its queue is empty."""
        link: Link
        self.held = cython.NULL
        self.multi = None
        self.postponed = None
        for link in self.borrowed():
            end(link)
        if self.watching is not None:
            end(self.watching)
        self.link = self.watching = self.links = None

    def borrowed(self):
        if self.links is not None:
            return self.links
        return [] if self.link is None else [self.link]


@cython.cfunc
@cython.exceptval(check=False)
def end(link: Link) -> cython.void:
    link.drop()
