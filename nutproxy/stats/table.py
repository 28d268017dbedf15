# nutproxy/stats/table.py: the table of counters
"""Name, kind and help text of all statistics, in the order in which they are shown.

The cells of the shared memory (slab.pxd), the JSON of the statistics port, `--describe-stats` and
docs/statistics.md are made from these rows. Rows with `twemproxy` set are twemproxy's: collectors
rely on their names, order, help texts and meaning. Our own rows come after them.

A pool's counter never has the name of a server's, because collectors add figures up by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

# Figures of several workers are added up. Of a state or a timestamp, the greatest one is shown.
Kind = Literal["counter", "gauge", "state", "timestamp", "histogram"]

SECTIONS = ("global", "pool", "server")


class Row(NamedTuple):
    """`text` is shown by `--describe-stats`; the page in docs/ adds `more`."""

    name: str
    kind: Kind
    text: str
    more: str = ""
    twemproxy: bool = False


GLOBAL: Sequence[Row] = (
    Row(
        "total_connections",
        "counter",
        "# connections since the start",
        "Listeners, clients and connections to servers.",
        True,
    ),
    Row("curr_connections", "gauge", "# connections now", "Those that are open now.", True),
    Row(
        "turns",
        "counter",
        "# turns of the loop",
        "`events` and the requests of all pools, divided by this, say how full a turn is.",
    ),
    Row(
        "events",
        "counter",
        "# events that the loop has handled",
        "Something to read, room to write, or the end of a connection.",
    ),
    Row(
        "waits",
        "counter",
        "# turns that waited for more events",
        "See `coalesce` in the configuration.",
    ),
    Row("waited_usec", "counter", "total microseconds of these waits"),
)

POOL: Sequence[Row] = (
    Row(
        "client_eof",
        "counter",
        "# eof on client connections",
        "Clients that closed the connection, or sent QUIT.",
        True,
    ),
    Row(
        "client_err",
        "counter",
        "# errors on client connections",
        "Client connections that ended in any other way: a reset, broken framing.",
        True,
    ),
    Row(
        "client_connections",
        "gauge",
        "# active client connections",
        twemproxy=True,
    ),
    Row(
        "server_ejects",
        "counter",
        "# times backend server was ejected",
        "Only with `auto_eject_hosts`.",
        True,
    ),
    Row(
        "forward_error",
        "counter",
        "# times we encountered a forwarding error",
        "Requests that got no reply from a server. The client got an error from nutproxy, or a"
        " miss with `on_dead_server: miss`. The `requests_…` counters of the servers and"
        " `no_live_server` show which server it was and why. A request that was split counts once"
        " here; there, each of its parts counts.",
        True,
    ),
    Row(
        "fragments",
        "counter",
        "# fragments created from a multi-vector request",
        "Parts of requests that were split over several servers. twemproxy always shows 0.",
        True,
    ),
    Row(
        "client_accepted",
        "counter",
        "# client connections accepted",
    ),
    Row(
        "client_rejected",
        "counter",
        "# client connections refused because there were too many",
        "The client gets an error and is disconnected; see `client_connections` in the"
        " configuration.",
    ),
    Row(
        "client_requests",
        "counter",
        "# requests received from clients",
        "Includes requests that nutproxy handles itself or refuses.",
    ),
    Row("client_request_bytes", "counter", "total bytes received from clients"),
    Row("client_response_bytes", "counter", "total bytes sent to clients"),
    Row(
        "client_protocol_errors",
        "counter",
        "# clients disconnected because of malformed requests",
    ),
    Row(
        "refused_requests",
        "counter",
        "# requests refused by nutproxy without sending anything to a server",
        "Unknown, unsupported or denied commands, wrong numbers of arguments, keys on several"
        " servers, missing AUTH. twemproxy closes the connection instead (`client_err`).",
    ),
    Row(
        "no_live_server",
        "counter",
        "# requests failed because every server was ejected",
    ),
    Row(
        "unread_replies_dropped",
        "counter",
        "# replies dropped because their client had too many unread replies",
        "The client gets an error instead of the reply. Its unread replies had more than four"
        " times `client_max_pending` bytes.",
    ),
    Row(
        "client_blocked",
        "gauge",
        "# clients that wait in a blocking command",
        "BLPOP and the like, XREAD with BLOCK, WAIT. Each has a server connection of its own; see"
        " `max_blocked` in the configuration.",
    ),
    Row(
        "subscriptions",
        "gauge",
        "# subscriptions of clients now",
        "Channels, patterns and shard channels of all clients; one that two clients have subscribed"
        " to counts twice.",
    ),
    Row(
        "messages_delivered",
        "counter",
        "# messages queued for clients with subscriptions",
        "Each message counts once for each client that gets it; `messages` of the servers count it"
        " once.",
    ),
    Row(
        "slow_subscribers",
        "counter",
        "# clients closed because of unread messages",
        "A client with subscriptions or tracking is closed when its unread messages have more than"
        " `client_max_pending` bytes.",
    ),
    Row(
        "tracking_clients",
        "gauge",
        "# clients that have tracking on now",
        "Clients with a cache of their own: they have sent CLIENT TRACKING ON.",
    ),
    Row(
        "tracked_keys",
        "gauge",
        "# keys that such clients have read, and are told about",
        "A key that two clients have read counts twice. At most `max_tracked_keys`.",
    ),
    Row(
        "invalidations",
        "counter",
        "# messages to clients about changed keys",
        "Each message counts once for each client that gets it.",
    ),
    Row(
        "tracking_overflows",
        "counter",
        "# keys forgotten because of max_tracked_keys",
        "Clients were told that such a key has changed although it has not. If this grows fast,"
        " raise `max_tracked_keys`.",
    ),
)

SERVER: Sequence[Row] = (
    Row(
        "server_eof",
        "counter",
        "# eof on server connections",
        "Connections that the server closed.",
        True,
    ),
    Row(
        "server_err",
        "counter",
        "# errors on server connections",
        "Connections that were refused, were reset, or failed in the handshake, including probes.",
        True,
    ),
    Row(
        "server_timedout",
        "counter",
        "# timeouts on server connections",
        "A connection counts when its requests get no reply for `timeout`, but only once however"
        " many requests wait on it. A connect that takes that long counts as well.",
        True,
    ),
    Row(
        "server_connections",
        "gauge",
        "# active server connections",
        twemproxy=True,
    ),
    Row(
        "server_ejected_at",
        "timestamp",
        "timestamp when server was ejected in usec since epoch",
        "The last ejection, kept after the server returns; 0 if there was none.",
        True,
    ),
    Row(
        "requests",
        "counter",
        "# requests",
        "Requests of clients, or parts of them, queued for the server.",
        True,
    ),
    Row("request_bytes", "counter", "total request bytes", "The bytes of `requests`.", True),
    Row(
        "responses",
        "counter",
        "# responses",
        "Replies that arrived before the timeout, and before their client disconnected.",
        True,
    ),
    Row("response_bytes", "counter", "total response bytes", "The bytes of `responses`.", True),
    Row(
        "in_queue",
        "gauge",
        "# requests in incoming queue",
        "Requests that wait to be written to the server.",
        True,
    ),
    Row(
        "in_queue_bytes",
        "gauge",
        "current request bytes in incoming queue",
        twemproxy=True,
    ),
    Row(
        "out_queue",
        "gauge",
        "# requests in outgoing queue",
        "Requests that have been written and wait for their replies.",
        True,
    ),
    Row(
        "out_queue_bytes",
        "gauge",
        "current request bytes in outgoing queue",
        twemproxy=True,
    ),
    Row(
        "requests_timedout",
        "counter",
        "# requests that got no reply within the timeout",
    ),
    Row(
        "requests_lost",
        "counter",
        "# requests whose connection ended before the reply",
        "They had been written at least in part, so they are not sent again.",
    ),
    Row(
        "requests_retried",
        "counter",
        "# unwritten requests moved to a new connection",
    ),
    Row(
        "requests_unavailable",
        "counter",
        "# requests that failed unwritten because the server was down",
        "While the server is down they fail within milliseconds, otherwise when their connection"
        " is refused.",
    ),
    Row(
        "requests_overflowed",
        "counter",
        "# requests refused because of server_max_queue",
    ),
    Row(
        "responses_error",
        "counter",
        "# responses that are errors of the server",
        "They count in `responses` too and were passed on.",
    ),
    Row(
        "responses_dropped",
        "counter",
        "# replies that came after their client had disconnected or the timeout had passed",
        "nutproxy drops them. They do not count in `responses`.",
    ),
    Row(
        "server_protocol_errors",
        "counter",
        "# connections closed because of malformed or unexpected replies",
    ),
    Row(
        "server_probes",
        "counter",
        "# probes: connects that check whether the server replies",
    ),
    Row(
        "server_down",
        "state",
        "1 while the server is down, 0 otherwise",
    ),
    Row(
        "server_ejected",
        "state",
        "1 while the server is out of the ring, 0 otherwise",
    ),
    Row(
        "server_refusals",
        "counter",
        "# connections that the server closed because it refused a request",
        "The server's error was `Protocol error: invalid bulk length`: a value was longer than"
        " its proto-max-bulk-len.",
    ),
    Row(
        "messages",
        "counter",
        "# messages received for clients with subscriptions",
        "A message for a channel and a matching pattern counts twice.",
    ),
    Row(
        "subscription_gaps",
        "counter",
        "# times the connection with subscriptions ended",
        "Clients have lost messages that were published before nutproxy subscribed again; see"
        " `subscribe_gap` in the configuration.",
    ),
    Row(
        "latency",
        "histogram",
        "usec from queueing a request to receiving its response",
        "Of all `responses`. See [Latency](#latency).",
    ),
)

TABLE = dict(zip(SECTIONS, (GLOBAL, POOL, SERVER), strict=True))

# Names of counters that share a JSON object with the names of pools, or of servers.
BESIDE = {
    "pool": (
        *("service", "source", "version", "uptime", "timestamp"),
        *(row.name for row in GLOBAL),
    ),
    "server": tuple(row.name for row in POOL),
}


def shown_names(section: Literal["pool", "server"], names: Sequence[str]) -> list[str]:
    """The names that the statistics use for all pools, or for all servers of one pool. A name that
    is also the name of a counter there gets underscores appended: if it were twice in the JSON
    object, readers would lose one of the two."""
    used = {*BESIDE[section], *names}
    shown = []
    for name in names:
        other = name
        if name in BESIDE[section]:
            while other in used:
                other += "_"
            used.add(other)
        shown.append(other)
    return shown


def describe() -> str:
    """The text of `--describe-stats`, in twemproxy's layout."""
    parts = []
    for section in ("pool", "server"):
        rows = TABLE[section]
        width = max(len(row.name) for row in rows)
        lines = "".join(f'  {row.name:{width}}  "{row.text}"\n' for row in rows)
        parts.append(f"{section} stats:\n{lines}")
    return "\n".join(parts)
