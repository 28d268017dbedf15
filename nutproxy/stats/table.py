# nutproxy/stats/table.py: every counter, once
"""Name, kind and help text of all statistics, in the order in which they are shown.

The cells of the shared memory (slab.pxd), the JSON of the statistics port, `--describe-stats` and
docs/statistics.md are made from these rows. The ones with `twemproxy` are twemproxy's: names,
order, help texts and meaning are its own, and its collectors rely on them. Ours come after them.

No name of a pool's counter is that of a server's, since collectors add them up by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "timestamp", "histogram"]

SECTIONS = ("global", "pool", "server")


class Row(NamedTuple):
    """`text` is what `--describe-stats` says, `more` what the page in docs/ adds to it."""

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
    Row("curr_connections", "gauge", "# connections now", "The same, that are open.", True),
)

POOL: Sequence[Row] = (
    Row(
        "client_eof",
        "counter",
        "# eof on client connections",
        "Clients that have closed the connection, or sent QUIT.",
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
        "Requests that were answered with an error of nutproxy's own, or as a miss with"
        " `on_dead_server: miss`, because no server has answered them. Which server, and why, is"
        " in the `requests_…` counters of the servers and in `no_live_server`; a request in several"
        " parts counts once here, and each part there.",
        True,
    ),
    Row(
        "fragments",
        "counter",
        "# fragments created from a multi-vector request",
        "Parts of requests that concern several servers. twemproxy always shows 0.",
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
        "# client connections turned away, there were too many",
        "The client is told so and disconnected; see `client_connections` in the configuration.",
    ),
    Row(
        "client_requests",
        "counter",
        "# requests received from clients",
        "All of them: also those that nutproxy answers itself or refuses.",
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
        "# requests refused by nutproxy, nothing was sent to a server",
        "Commands that are unknown, not supported or denied, wrong numbers of arguments, keys on"
        " several servers, missing AUTH. twemproxy closes the connection on them (`client_err`).",
    ),
    Row(
        "no_live_server",
        "counter",
        "# requests failed because every server was ejected",
    ),
    Row(
        "unread_replies_dropped",
        "counter",
        "# replies dropped because their client had too much unread",
        "The client is told so in their place. It had more than four times `client_max_pending`"
        " bytes of replies waiting.",
    ),
)

SERVER: Sequence[Row] = (
    Row(
        "server_eof",
        "counter",
        "# eof on server connections",
        "Connections that the server has closed.",
        True,
    ),
    Row(
        "server_err",
        "counter",
        "# errors on server connections",
        "Connections that were refused, reset, or failed in their handshake; those of probes too.",
        True,
    ),
    Row(
        "server_timedout",
        "counter",
        "# timeouts on server connections",
        "Times that a connection left requests unanswered for `timeout`, however many there were,"
        " and connects that took as long.",
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
        "The last time, also after its return; 0 if there was none.",
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
        "Replies that somebody was waiting for.",
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
        "Requests that were written and wait for their replies.",
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
        "# requests that were not answered within the timeout",
    ),
    Row(
        "requests_lost",
        "counter",
        "# requests whose connection ended before the reply",
        "They had been written, at least in part, and are not sent a second time.",
    ),
    Row(
        "requests_retried",
        "counter",
        "# unwritten requests moved to a new connection",
    ),
    Row(
        "requests_unavailable",
        "counter",
        "# requests failed before they were written, the server being down",
        "At once while it is known to be down, else when the connection for them was refused.",
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
        "They are among `responses` and were passed on.",
    ),
    Row(
        "responses_dropped",
        "counter",
        "# replies that nobody was waiting for any more",
        "The client had gone, or the timeout had passed. They are not among `responses`.",
    ),
    Row(
        "server_protocol_errors",
        "counter",
        "# connections closed because of malformed or unasked replies",
    ),
    Row(
        "server_probes",
        "counter",
        "# connects to find out whether the server is back",
    ),
    Row(
        "server_down",
        "gauge",
        "1 while requests fail at once, 0 otherwise",
    ),
    Row(
        "server_ejected",
        "gauge",
        "1 while the server is out of the ring, 0 otherwise",
    ),
    Row(
        "latency",
        "histogram",
        "usec from the queueing of a request to its response",
        "Of all `responses`. See [Latency](#latency).",
    ),
)

TABLE = dict(zip(SECTIONS, (GLOBAL, POOL, SERVER), strict=True))

# What stands beside the names of pools, and of servers in their pool.
BESIDE = {
    "pool": (
        *("service", "source", "version", "uptime", "timestamp"),
        *(row.name for row in GLOBAL),
    ),
    "server": tuple(row.name for row in POOL),
}


def shown_names(section: Literal["pool", "server"], names: Sequence[str]) -> list[str]:
    """What all pools, or all servers of one pool, are called in the statistics: by their names, but
    for underscores behind one that has another meaning there. A name that stood twice in a JSON
    object would hide a figure, or the pool, from whoever reads it."""
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
