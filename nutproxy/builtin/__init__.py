# nutproxy/builtin: the commands that the proxy handles itself
"""One handler for each LOCAL row of the command table, called with a client and its request.

    request ──> handler(client, argv) ──> bytes                 the complete reply, or b"" for none
                                     └──> Query ──> servers ──> finish(replies) ──> bytes
                                     └──> Steps ──> a step in each turn ──> bytes
                                     └──> Track ──> the servers note what the client reads ──> bytes
                                     └──> Unblock ──> the server in which a client waits ──> bytes

A handler never waits, and never takes more than a millisecond or two of the event loop. If a reply
takes longer to make, the handler returns Steps, and one step runs in each turn of the loop. A step
may be a Question to the other workers. If it
needs data from the servers, it returns a Query. The core sends it, and `finish` makes the reply
from those of the servers. The client's next request is not parsed before the reply has been made,
because a command such as HELLO changes the protocol and the rights of all requests after it.

The core has already checked the arity and, except for commands flagged no_auth, that the client is
authenticated. A handler that returns an error has changed nothing, with one exception: after a
refused SELECT in a pool of one database, commands that need the data of servers are refused until a
SELECT is accepted.

Replies are in the client's protocol version and have the same fields as in Redis 7, so client
libraries and monitoring tools work unchanged. Values that have no meaning in a proxy are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nutproxy.builtin import client, connection, databases, info, pubsub, server, tracking
from nutproxy.builtin.interface import (
    Client,
    Frontend,
    Query,
    Question,
    Steps,
    Track,
    Unblock,
)

__all__ = [
    "ANSWERS",
    "HANDLERS",
    "Client",
    "Handler",
    "Query",
    "Question",
    "Steps",
    "Track",
    "Unblock",
]

Handler = Callable[[Client, list[bytes]], bytes | Query | Steps | Track | Unblock]

# What a worker does for a client of another one, by the name of a Question.
ANSWERS: Mapping[str, Callable[[Frontend, list[bytes]], client.Answering]] = {
    "kill": client.answer_kill,
    "list": client.answer_list,
    "pause": client.answer_pause,
    "unpause": client.answer_unpause,
}

# The handlers by their name in the command table.
HANDLERS: Mapping[str, Handler] = {
    "auth": connection.auth,
    "client": client.container,
    "client_caching": tracking.caching,
    "client_capa": client.capa,
    "client_getredir": tracking.getredir,
    "client_getname": client.getname,
    "client_help": client.help_,
    "client_id": client.id_,
    "client_import_source": client.import_source,
    "client_info": client.info,
    "client_kill": client.kill,
    "client_list": client.list_,
    "client_no_evict": client.no_evict,
    "client_no_touch": client.no_touch,
    "client_pause": client.pause,
    "client_reply": client.reply,
    "client_setinfo": client.setinfo,
    "client_setname": client.setname,
    "client_tracking": tracking.tracking,
    "client_trackinginfo": tracking.trackinginfo,
    "client_unblock": client.unblock,
    "client_unpause": client.unpause,
    "echo": connection.echo,
    "hello": connection.hello,
    "info": info.info,
    "lolwut": server.lolwut,
    "no_cluster": server.no_cluster,
    "ping": connection.ping,
    "pubsub": client.container,
    "pubsub_channels": pubsub.channels,
    "pubsub_help": pubsub.help_,
    "pubsub_numpat": pubsub.numpat,
    "pubsub_numsub": pubsub.numsub,
    "pubsub_shardchannels": pubsub.channels,
    "pubsub_shardnumsub": pubsub.numsub,
    "quit": connection.quit,
    "reset": connection.reset,
    "role": server.role,
    "script_debug": server.script_debug,
    "select": databases.select,
    "time": server.time,
}
