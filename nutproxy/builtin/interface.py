# nutproxy/builtin/interface.py: the interface between handlers and the core
"""The attributes that handlers read and set, as protocols, so that no compiled module is needed.

Handlers set attributes of a client (`authenticated`, `closing`, `name`, `reply_mode`, …), and call
its methods, and the core acts on them. Of a pool they set only `server_version` and `knows_hello`.
Everything else is read-only for them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol


class Server(Protocol):
    name: str
    address: str
    ejected: bool
    down: bool
    requests: int
    responses: int
    version: str  # of memcached: "1.6.18"; empty until the server has been asked


class Profiles(Protocol):
    limit: int


class Pool(Protocol):
    name: str
    redis_db: int
    databases: int  # how many clients may select, besides redis_db
    profiles: Profiles
    server_version: str | None  # "7.0.15"; None until a server has been asked
    knows_hello: bool  # a server has accepted HELLO
    servers: Sequence[Server]
    server_ejects: int

    def members(self) -> Sequence[Server]: ...  # those that are not ejected


class Process(Protocol):
    started: float  # monotonic seconds
    config_file: str
    version: str
    pid: int


class Subscriptions(Protocol):
    """The subscriptions of a frontend's clients. The kinds are those of back/subscriber.pxd."""

    def names(self, kind: int) -> list[bytes]: ...

    def receivers(self, kind: int, name: bytes) -> int: ...  # clients

    def counted(self, kind: int, name: bytes, server: Server) -> bool: ...  # as one, by the server

    def patterns_of(self, server: Server) -> int: ...  # that the server counts because of nutproxy


class Tracked(Protocol):
    """What CLIENT TRACKING has set for a client."""

    bcast: bool
    optin: bool
    optout: bool
    noloop: bool
    caching: bool  # CLIENT CACHING: for the next command, or transaction
    redirect: int  # the id of the client that gets its invalidations; 0: itself
    broken: bool  # that one has gone
    prefixes: list[bytes]


class Tracking(Protocol):
    """What the clients of a frontend have read."""

    count: int  # clients with tracking

    def stop(self, client: Client) -> None: ...  # CLIENT TRACKING OFF


class Frontend(Protocol):
    alone: bool  # nutproxy has no other worker
    tracking_clients: int
    tracking: Tracking
    subscriptions: Subscriptions
    redis_auth: bytes | None
    port: int  # the listening port; 0 for a unix socket
    clients: Mapping[int | None, Client]  # by id, oldest first
    process: Process
    pids: Sequence[int]  # of nutproxy's processes: first the one of `process`
    total_connections: int
    curr_connections: int
    blocked_clients: int
    rejected_connections: int
    total_requests: int
    total_net_in: int  # bytes
    total_net_out: int  # bytes
    forward_errors: int

    def pause(self, milliseconds: int, every: bool) -> None: ...

    def unpause(self) -> None: ...


class ReplyMode(IntEnum):
    """What CLIENT REPLY has asked for."""

    ON = 0
    OFF = 1
    SKIP = 2  # no reply to the next request, then ON


class Client(Protocol):
    """A client connection. Times are monotonic seconds."""

    id: int
    fd: int
    peer: str  # "127.0.0.1:53124", or "/path:0" for a unix socket
    local_addr: str
    name: str
    lib_name: str
    lib_ver: str
    created: float
    last_interaction: float
    protover: int  # 2 or 3
    database: int  # the servers' number
    authenticated: bool
    states: int  # bit mask of proto.commands.State, in which commands are refused
    refusals: dict[int, tuple[bytes, bytes]] | None  # by State: the refused command and its error
    no_evict: bool
    no_touch: bool
    reply_mode: int  # ReplyMode
    last_command: str
    tot_net_in: int  # bytes
    tot_net_out: int  # bytes
    omem: int  # bytes
    subscribed: tuple[int, int, int]  # its channels, patterns and shard channels
    closing: bool  # close after the outstanding replies
    tracked: Tracked | None  # None: tracking is off
    waits: bool  # it waits in a blocking command
    delayed: bool  # CLIENT PAUSE delays its request
    queued_commands: int  # of its transaction; -1 outside of one
    frontend: Frontend
    pool: Pool

    def adopt(self, protover: int, database: int) -> bool: ...  # False: too many profiles

    def end_session(self) -> None: ...  # nothing that it has begun goes on

    def kill(self) -> None: ...  # close it at once

    def enter(self, state: int, command: bytes, error: bytes) -> None: ...

    def leave(self, states: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Query:
    """A request to the servers, sent on connections of the client's protocol version.

    `finish` gets the replies as hiredis decodes them, with text as bytes: one from each live
    server, or a single one for "any". An error reply, a failed server and a reply that cannot be
    decoded are passed as a hiredis.ReplyError whose text is one line. In a Memcached pool `argv`
    holds the words of the line, and the replies are raw bytes.
    """

    scope: Literal["any", "all"]
    argv: list[bytes]
    finish: Callable[[list[object]], bytes]


@dataclass(frozen=True, slots=True)
class Track:
    """CLIENT TRACKING ON, with options that have been checked."""

    redirect: int
    bcast: bool
    optin: bool
    optout: bool
    noloop: bool
    prefixes: list[bytes]


@dataclass(frozen=True, slots=True)
class Unblock:
    """CLIENT UNBLOCK of a client that waits in a server."""

    client: Client
    with_error: bool


@dataclass(frozen=True, slots=True)
class Question:
    """What a command asks the other workers: the name of an answer (builtin.ANSWERS), and its
    words."""

    name: str
    words: list[bytes]


@dataclass(frozen=True, slots=True)
class Steps:
    """A reply that would block the event loop for too long if it were made in one turn.

    One item is taken from `steps` in each turn. Every item is b"" except the last, which is the
    reply. The client's next request waits for it. An item may be a Question instead: `steps` goes
    on when the other workers have replied, and gets their answers."""

    steps: Generator[bytes | Question, list[bytes] | None, None]
