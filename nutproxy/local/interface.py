# nutproxy/local/interface.py: what a handler sees of the proxy, and what it may ask for
"""The attributes that handlers read and set, as protocols, so that they need no compiled module.

A client's `authenticated`, `closing`, `name`, `resp`, `reply_mode`, … are set by handlers and
obeyed by the core; nothing else of what is here do they change but what a pool knows of its
servers: `server_version` and `knows_hello`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


class Server(Protocol):
    name: str
    address: str
    ejected: bool
    down: bool
    requests: int
    responses: int
    version: str  # of a memcached: "1.6.18"; empty until it has been asked


class Pool(Protocol):
    name: str
    redis_auth: bytes | None
    redis_db: int
    port: int  # where it listens; 0 for a unix socket
    server_version: str | None  # "7.0.15"; None until a server has been asked
    knows_hello: bool  # a server has answered HELLO
    servers: Sequence[Server]
    total_connections: int
    curr_connections: int
    rejected_connections: int
    total_requests: int
    total_net_in: int  # bytes
    total_net_out: int  # bytes
    forward_errors: int
    server_ejects: int

    def clients(self) -> list[Client]: ...

    def client_of(self, id: int | None) -> Client | None: ...

    def live_servers(self) -> Sequence[Server]: ...


class Context(Protocol):
    started: float  # monotonic seconds
    config_file: str
    version: str
    pid: int


class Client(Protocol):
    """What handlers see of a client connection. Times are monotonic seconds."""

    id: int
    fd: int
    peer: str  # "127.0.0.1:53124", or "/path:0" for a unix socket
    local_addr: str
    name: str
    lib_name: str
    lib_ver: str
    created: float
    last_interaction: float
    resp: int  # 2 or 3
    authenticated: bool
    states: int  # proto.commands.State: what keeps its commands from being carried out
    refusals: dict[int, tuple[bytes, bytes]] | None  # by State: the refused command, and its error
    no_evict: bool
    no_touch: bool
    reply_mode: str  # "on", "off", or "skip": the next request goes unanswered, then "on"
    last_command: str
    tot_net_in: int  # bytes
    tot_net_out: int  # bytes
    omem: int  # bytes
    closing: bool  # close after the replies that are owed
    pool: Pool
    context: Context

    def enter(self, state: int, command: bytes, error: bytes) -> None: ...

    def leave(self, states: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Query:
    """A question to the servers, on their connections of the client's protocol version.

    `finish` gets the replies as hiredis decodes them (text as bytes), one per live server or, for
    "any", a single one. A server's error, the failure of a server and a reply that cannot be
    decoded are a hiredis.ReplyError, whose text is one line. In a Memcached pool `argv` is the
    line's words, and the replies are the bytes that came.
    """

    scope: Literal["any", "all"]
    argv: list[bytes]
    finish: Callable[[list[object]], bytes]


@dataclass(frozen=True, slots=True)
class Steps:
    """A reply that takes longer to make than others should wait. Each part is made in a turn of its
    own and gives b"", the last one the reply. The client's next request waits for it."""

    parts: Iterator[bytes]
