# nutproxy/local: the commands that the proxy answers itself
"""One handler for each LOCAL row of the command table, called with a client and its request.

    request ──> handler(client, argv) ──> bytes                 the complete reply, or b"" for none
                                     └──> Query ──> servers ──> finish(replies) ──> bytes
                                     └──> Steps ──> a part in each turn ──> bytes

A handler never waits, nor does it let others wait for more than a millisecond or two: a reply that
takes longer is made in Steps, one in each turn. What only the servers know it asks for by a Query,
which the core sends; the reply is then what `finish` makes of theirs. Until the reply is there, the
client's next request must not be looked at: HELLO changes the protocol and the rights of everything
behind it.

The core has checked the arity and, but for commands flagged no_auth, that the client is
authenticated. A handler that answers with an error has changed nothing, except that a refused
SELECT holds back what follows it.

Replies are in the client's protocol version, field for field as Redis 7 has them, so that client
libraries and monitoring that read them work unchanged. What has no meaning in a proxy is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nutproxy.local import client, connection, info, server, transaction
from nutproxy.local.interface import Client, Context, Pool, Query, Server, Steps

__all__ = ["HANDLERS", "Client", "Context", "Handler", "Pool", "Query", "Server", "Steps"]

Handler = Callable[[Client, list[bytes]], bytes | Query | Steps]

# By the handler's name in the command table.
HANDLERS: Mapping[str, Handler] = {
    "auth": connection.auth,
    "client": client.container,
    "client_caching": client.caching,
    "client_getredir": client.getredir,
    "client_getname": client.getname,
    "client_help": client.help_,
    "client_id": client.id_,
    "client_info": client.info,
    "client_list": client.list_,
    "client_no_evict": client.no_evict,
    "client_no_touch": client.no_touch,
    "client_reply": client.reply,
    "client_setinfo": client.setinfo,
    "client_setname": client.setname,
    "client_tracking": client.tracking,
    "client_trackinginfo": client.trackinginfo,
    "client_unblock": client.unblock,
    "client_unpause": client.unpause,
    "discard": transaction.discard,
    "echo": connection.echo,
    "exec": transaction.exec_,
    "hello": connection.hello,
    "info": info.info,
    "lolwut": server.lolwut,
    "no_cluster": server.no_cluster,
    "ping": connection.ping,
    "quit": connection.quit,
    "reset": connection.reset,
    "role": server.role,
    "script_debug": server.script_debug,
    "select": connection.select,
    "time": server.time,
    "unwatch": transaction.unwatch,
}
