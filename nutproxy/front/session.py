# nutproxy/front/session.py: what a client has that uses more than single requests
"""The state of a client with transactions, blocking commands or subscriptions. Other clients have
no Session, so they pay nothing for it.

**Held commands.** Some commands must not overtake the client's earlier ones, which go over shared
server connections: a blocking command, or WATCH. Such a command is put into the client's queue like
any other, and `ClientConn.hold` holds it back there. It is run when it is first in the queue: all
earlier replies have been sent. No further request of the client is parsed before `resume`.

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
        for link in (self.link, self.watching):
            if link is not None:
                end(link)
        self.link = self.watching = None


@cython.cfunc
@cython.exceptval(check=False)
def end(link: Link) -> cython.void:
    link.drop()
