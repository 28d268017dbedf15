# nutproxy/config/model.py: the table of configuration keys
"""Every key of the file, once: type, default, range, unit, example and help text.

The three classes of keys are the sections of the file. The loader validates with them, the JSON
Schema and docs/configuration.md are generated from them, and the messages about values that are not
accepted quote them. A new key is a row here and nothing else, unless it depends on another key.

The result objects (Config, PoolConfig, GlobalConfig) hold values in the form that the worker needs:
milliseconds, bytes, None for "no limit", servers in ring order.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from nutproxy.config import custom, users, values
from nutproxy.config.values import MAX_PORT, Listen
from nutproxy.hashkit.order import Layout
from nutproxy.plain import MAX_INT, VERBOSE_MAX, Address, CustomCommand, ServerConfig

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30

MBUF_MIN_SIZE = 512
MBUF_MAX_SIZE = 16777216

# The keys that no pool can do without and that `defaults` cannot give.
REQUIRED = ("listen", "servers")

Flag = Annotated[bool, BeforeValidator(values.boolean)]
Integer = Annotated[int, BeforeValidator(values.integer)]
Size = Annotated[
    int,
    BeforeValidator(values.size),
    WithJsonSchema({"type": ["integer", "string"], "pattern": "^[0-9]+([kKmMgG]?[bB]?)$"}),
]
Milliseconds = Annotated[
    int | None,
    PlainValidator(values.milliseconds),
    WithJsonSchema({"type": "integer", "minimum": -1, "maximum": MAX_INT}),
]
Coalesce = Annotated[
    int,
    PlainValidator(values.coalesce),
    WithJsonSchema({"type": "string", "pattern": "^(auto|off|[0-9]+ *(us|\u00b5s|\u03bcs))$"}),
]
Workers = Annotated[
    int,
    PlainValidator(values.workers),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^(auto|[1-9][0-9]?)$"}),
]
File = Annotated[
    str | None, PlainValidator(values.path), WithJsonSchema({"type": "string", "minLength": 1})
]
Word = Annotated[
    str | None, PlainValidator(values.word), WithJsonSchema({"type": "string", "minLength": 1})
]
Secret = Annotated[
    bytes | None,
    PlainValidator(values.secret),
    WithJsonSchema({"type": ["string", "integer"]}),
]
HashTag = Annotated[
    bytes | None,
    PlainValidator(values.hash_tag),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 2}),
]
Hash = Annotated[
    Literal[
        "one_at_a_time",
        "md5",
        "crc16",
        "crc32",
        "crc32a",
        "fnv1_64",
        "fnv1a_64",
        "fnv1_32",
        "fnv1a_32",
        "hsieh",
        "murmur",
        "jenkins",
        "murmur3",
    ],
    BeforeValidator(values.scalar),
]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(values.scalar)]
Distribution = Annotated[Literal["ketama", "modula", "random"], BeforeValidator(values.scalar)]
ClientProtocol = Annotated[Literal["auto", "ascii", "binary"], BeforeValidator(values.scalar)]
OnDeadServer = Annotated[Literal["error", "miss"], BeforeValidator(values.scalar)]
Transactions = Annotated[Literal["one_server", "split"], BeforeValidator(values.scalar)]
SubscribeGap = Annotated[Literal["keep", "close"], BeforeValidator(values.scalar)]
Command = Annotated[
    str, PlainValidator(values.command_name), WithJsonSchema({"type": "string", "minLength": 1})
]
UserValue = Annotated[
    str,
    PlainValidator(users.user),
    WithJsonSchema({"type": "string", "pattern": "^\\S+([ \\t]+\\S+)+$"}),
]
CustomValue = Annotated[
    CustomCommand,
    PlainValidator(custom.custom_command),
    WithJsonSchema({"type": "string", "pattern": "^\\S+[ \\t]+-?[0-9]+[ \\t]+\\S"}),
]
ListenValue = Annotated[
    Listen | None,
    PlainValidator(values.listen),
    WithJsonSchema({"type": "string", "pattern": "^(/.*|.+:[0-9]+)$"}),
]
ServerValue = Annotated[
    ServerConfig,
    PlainValidator(values.server),
    WithJsonSchema({"type": "string", "pattern": "^.+:[0-9]+([ \\t]+\\S+)?$"}),
]


def key(
    default: Any,
    text: str,
    *,
    example: Any,
    unit: str | None = None,
    written: Any = None,
    accepts: str | None = None,
    minimum: int | None = None,
    maximum: int | None = None,
    secret: bool = False,
) -> Any:
    """A row of the table.

    `default` is the value in its working form; `written` is how it is written in a file where that
    differs. `accepts` is needed only where the type and the range do not say it. A `secret` does
    not show when its section is printed.
    """
    extra: dict[str, Any] = {}
    if written is not None:
        extra["default"] = written
    if unit is not None:
        extra["x-unit"] = unit
    if accepts is not None:
        extra["x-accepts"] = accepts
    return Field(
        default=default,
        description=text,
        examples=[example],
        json_schema_extra=extra,
        ge=minimum,
        le=maximum,
        repr=not secret,
    )


class Keys(BaseModel):
    """A section of the file. Unknown keys are refused, and nothing is changed once it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GlobalConfig(Keys):
    """Settings of the process, below `global`. Flags on the command line win over them."""

    verbose: Integer = key(
        5,
        "Log level, with twemproxy's numbers. 3 (error) logs faults of nutproxy itself. 4"
        " (warning) adds servers that go down and return, clients that are refused, requests that"
        " are cut off and warnings about this file. 5 (notice) adds the start and the shutdown, 6"
        " (info) each connection to a server and each probe, 7 (debug) clients that connect and"
        " leave. 1 and 2 log only a fault that ends nutproxy, 0 not even that. 8 to 11 are the"
        " same as 7: requests are not logged at any level. The effect of a signal is logged at"
        " every level. Below 7, lines of one kind about one server are logged at most ten times a"
        " minute. SIGTTIN and SIGTTOU change the level while nutproxy runs. Flag `-v`.",
        example=6,
        minimum=0,
        maximum=VERBOSE_MAX,
    )
    output: File = key(
        None,
        "File to which the log is appended; standard error if not set. If the file was moved or"
        " deleted, nutproxy opens a new one when it writes the next line. On SIGHUP it always"
        " reopens the file. A FIFO must have a reader. Flag `-o`.",
        example="/var/log/nutproxy/nutproxy.log",
        accepts="a path",
    )
    log_format: LogFormat = key(
        "text",
        "Format of the log lines: `text` for people, `json` for machines. With `json` every line"
        " is an object with `time`, `level` and `message`. A line about a connection, pool or"
        " server also has `conn` (`c 7` is a client, `s 8` a connection to a server, `p 6` a"
        " listener), `pool` or `server`.",
        example="json",
    )
    shutdown_timeout: Integer = key(
        10000,
        "How long the shutdown may take. On SIGTERM or SIGINT nutproxy accepts no more clients,"
        " finishes the requests that have arrived and closes each client after its last reply."
        " After this time it cuts off the remaining clients and requests, and logs how many there"
        " were. A second signal ends nutproxy at once.",
        example=30000,
        unit="milliseconds",
        minimum=0,
        maximum=MAX_INT,
    )
    workers: Workers = key(
        1,
        "How many worker processes handle the requests. `auto`: one for each core that nutproxy may"
        " use. One worker uses one core. Clients are shared out evenly. Each worker has its own"
        " connections to the servers.",
        example="auto",
        unit="processes",
        accepts=f"auto, or 1 to {values.WORKERS_MAX}",
    )
    worker_timeout: Integer = key(
        10000,
        "How long a worker process may hang before it is ended and another one is started. Its"
        " stacks are written to the log first. 0: it is never ended.",
        example=30000,
        unit="milliseconds",
        minimum=0,
        maximum=MAX_INT,
    )
    mbuf_size: Size = key(
        16384,
        "How many bytes nutproxy reads from a connection at once. A larger size suits long"
        " pipelines. A value that is larger than this is received into a buffer of its own. Flag"
        " `-m`.",
        example="64kb",
        unit="bytes",
        minimum=MBUF_MIN_SIZE,
        maximum=MBUF_MAX_SIZE,
    )
    coalesce: Coalesce = key(
        values.COALESCE_AUTO,
        "How long nutproxy may wait for more requests and replies, so that it handles several at"
        " once. With `auto`, while it is busy and the servers have eight or more requests, it waits"
        " until up to two thirds of the servers' recent reply time have passed since its last poll,"
        " but at most 100 microseconds. Fewer and larger writes then cost less processor time and"
        " let more requests through. With little in flight it never waits. A number of microseconds"
        " replaces the limit of 100. With `off` nutproxy never waits. docs/performance.md has"
        " measurements.",
        example="50 us",
        unit="microseconds",
        written="auto",
        accepts=f"auto, off, or a limit from {values.COALESCE_MIN} us to {values.COALESCE_MAX} us",
    )


class PoolSettings(Keys):
    """Keys that a pool may set itself or take from `defaults`."""

    hash: Hash = key(
        "fnv1a_64",
        "Hash function for keys. All but `murmur3` are twemproxy's, bit for bit. Use `murmur` for"
        " a new pool. With `ketama`, the default `fnv1a_64` sends consecutively numbered keys to"
        " one server, such as `item:1000` to `item:1099` (in nutcracker, too). Do not change the"
        " hash of a pool that holds data: nearly every key would be looked up on another server."
        " `crc32` keeps only 15 bits, so with `ketama` all keys go to one server: use `crc32a`.",
        example="murmur",
    )
    hash_tag: HashTag = key(
        None,
        "Two characters, an opening and a closing one. If a key has text between them, only that"
        " text is hashed, so `user:{42}:name` and `user:{42}:mail` share a server. Quote the"
        " value.",
        example="{}",
        accepts="exactly two bytes",
    )
    distribution: Distribution = key(
        "ketama",
        "How a hash chooses a server. `ketama`: by a ring of 160 points per server, so few keys"
        " move when a server is added. `modula`: by the remainder. `random`: at random, for"
        " servers that hold the same data. `nutproxy ring` shows the shares.",
        example="modula",
    )
    timeout: Milliseconds = key(
        None,
        "How long a request may wait for its reply, including the time to connect, before its"
        " client gets an error. -1 or 0: no limit.",
        example=400,
        unit="milliseconds",
        written=-1,
        accepts=f"-1 to {MAX_INT} milliseconds",
    )
    backlog: Integer = key(
        512,
        "How many new connections the kernel queues until nutproxy accepts them (`listen(2)`).",
        example=1024,
        unit="connections",
        minimum=0,
        maximum=MAX_INT,
    )
    client_connections: Integer = key(
        0,
        "How many clients may be connected at once; 0: as many as fit in the limit on open files."
        " The next client gets an error in its protocol and is disconnected.",
        example=10000,
        unit="connections",
        minimum=0,
        maximum=MAX_INT,
    )
    tcpkeepalive: Flag = key(
        False,
        "Let the kernel probe idle connections to clients and servers (`SO_KEEPALIVE`) and close"
        " those whose other side has vanished.",
        example=True,
    )
    tcpkeepalive_idle: Integer = key(
        0,
        "How long a connection is idle before it is probed (`TCP_KEEPIDLE`); 0: the system's"
        " value, two hours on Linux.",
        example=60,
        unit="seconds",
        minimum=0,
        maximum=values.MAX_KEEPALIVE_SECONDS,
    )
    tcpkeepalive_interval: Integer = key(
        0,
        "How long the kernel waits for a reply to a probe before it sends the next one"
        " (`TCP_KEEPINTVL`); 0: the system's value, 75 seconds on Linux.",
        example=10,
        unit="seconds",
        minimum=0,
        maximum=values.MAX_KEEPALIVE_SECONDS,
    )
    tcpkeepalive_count: Integer = key(
        0,
        "How many probes without a reply end a connection (`TCP_KEEPCNT`); 0: the system's value,"
        " 9 on Linux.",
        example=3,
        unit="probes",
        minimum=0,
        maximum=values.MAX_KEEPALIVE_COUNT,
    )
    tcp_congestion: Word = key(
        None,
        "Congestion control of the TCP connections to servers and clients (`TCP_CONGESTION`); not"
        " set: the system's default. With `bbr`, which paces its segments, values of 1 MB cost"
        " about 50 % more processor time than with `cubic`.",
        example="cubic",
        accepts="a name that `/proc/sys/net/ipv4/tcp_allowed_congestion_control` lists",
    )
    reuseport: Flag = key(
        False,
        "Let other processes listen on the same address (`SO_REUSEPORT`).",
        example=True,
    )
    preconnect: Flag = key(
        False,
        "Open all `server_connections` of every server at the start, not at the first request, and"
        " open them again when they have ended. To Redis servers nutproxy opens as many for clients"
        " that speak RESP3 (redis-py 8 does by default), once the server has accepted `HELLO 3`.",
        example=True,
    )
    redis: Flag = key(
        False,
        "Protocol of the pool: Redis with `true`, Memcached with `false`.",
        example=True,
    )
    redis_auth: Secret = key(
        None,
        "Password. nutproxy sends it to every server on each new connection, and requires it from"
        " every client. Only for Redis pools; under `defaults` it applies only to Redis pools. It"
        " may come from the [environment](#environment-variables).",
        example="s3cret",
        accepts="text that is not empty",
        secret=True,
    )
    redis_db: Integer = key(
        0,
        "Database that nutproxy selects on each server connection, after it has sent `redis_auth`."
        " Only for Redis pools.",
        example=2,
        minimum=0,
        maximum=MAX_INT,
    )
    databases: Integer = key(
        16,
        "How many databases clients may SELECT, as in redis.conf. 0 and `redis_db` both name the"
        " pool's own database. Without this key, a pool with a `redis_db` has only that one. The"
        " servers must have as many. Only for Redis pools.",
        example=4,
        unit="databases",
        minimum=1,
        maximum=MAX_INT,
    )
    max_profiles: Integer = key(
        64,
        "How many combinations of protocol version, database and tracking (CLIENT TRACKING, without"
        " BCAST) clients may use at once. Clients with the same combination share"
        " `server_connections` connections to each server; those are opened when they are first"
        " needed. SELECT, HELLO and CLIENT TRACKING get an error if they would need one more.",
        example=8,
        unit="combinations",
        minimum=2,
        maximum=65536,
    )
    max_blocked: Integer = key(
        10000,
        "How many clients may wait in blocking commands (BLPOP, XREAD with BLOCK, WAIT, …) at once."
        " Each of them has a server connection of its own while it waits: the limit on open files,"
        " and `maxclients` of the servers, must allow as many. A further one gets an error. Only"
        " for Redis pools.",
        example=500,
        unit="clients",
        minimum=0,
        maximum=MAX_INT,
    )
    protocol: ClientProtocol = key(
        "auto",
        "What clients of a Memcached pool speak: `ascii` (the text protocol, classic and meta),"
        " `binary`, or `auto`: the first byte of each connection decides. Servers get the text"
        " protocol in any case. Only for Memcached pools.",
        example="ascii",
    )
    users: tuple[UserValue, ...] = key(
        (),
        "Who may use the pool, each written like a line of Redis' ACL file: name, `on` or `off`,"
        " and `>password`, `#` with its SHA-256, or `nopass`. Clients of the binary protocol"
        " authenticate with SASL PLAIN, as with `memcached -S`; clients of the text protocol with"
        " `set` and `name password` as its data, as with `memcached -Y`. Without users everybody"
        " may use the pool. Only for Memcached pools.",
        example=["app on >secret", "old off >secret"],
        written=[],
        accepts=f"a list of users, each as {users.FORM}",
    )
    on_dead_server: OnDeadServer = key(
        "error",
        "The reply to a read if a server is down or does not reply in time. `error`: the whole"
        " request gets `SERVER_ERROR`. `miss`: the keys of that server count as not found. Only"
        " for Memcached pools; under `defaults` it applies only to Memcached pools.",
        example="miss",
    )
    auto_eject_hosts: Flag = key(
        False,
        "Eject a server from the ring after `server_failure_limit` failures. Its keys go to the"
        " other servers until it is back. That suits a cache. Do not use it with servers that"
        " store data: while a server is ejected, reads miss the data on it, and writes go to other"
        " servers. Set `timeout` as well.",
        example=True,
    )
    server_connections: Integer = key(
        1,
        "How many connections nutproxy opens to each server, for each protocol version in use."
        " Requests are pipelined, so 1 is enough for most pools; more than 16 only cost memory and"
        " descriptors.",
        example=2,
        unit="connections",
        minimum=1,
        maximum=MAX_PORT,
    )
    server_retry_timeout: Integer = key(
        30000,
        "Time between two probes of an ejected server. The server returns to the ring when a probe"
        " succeeds.",
        example=2000,
        unit="milliseconds",
        minimum=0,
        maximum=MAX_INT,
    )
    server_failure_limit: Integer = key(
        2,
        "How many failures in a row eject a server if `auto_eject_hosts` is set; 0 means 1.",
        example=3,
        unit="failures",
        minimum=0,
        maximum=MAX_INT,
    )
    transactions: Transactions = key(
        "one_server",
        "What a transaction (MULTI … EXEC) may contain. `one_server`: all its keys must be on one"
        " server; others are refused, and EXEC carries out nothing. `split`: every server gets a"
        " transaction of its own with its part, which is atomic there and only there. That suits"
        " applications that use MULTI to send many commands at once. WATCH needs one server in any"
        " case. Only for Redis pools.",
        example="split",
    )
    subscribe_gap: SubscribeGap = key(
        "keep",
        "What happens to clients with subscriptions when the connection to a server that sends"
        " their messages ends. nutproxy subscribes again when the server is back; messages that"
        " were published meanwhile are lost. `keep`: the clients stay connected. `close`: nutproxy"
        " closes those with a subscription on that server, so that they notice. Only for Redis"
        " pools.",
        example="close",
    )
    max_subscriptions: Integer = key(
        1000000,
        "How many subscriptions the clients of the pool may have together. SUBSCRIBE gets an error"
        " if it would need more. Only for Redis pools.",
        example=10000,
        unit="subscriptions",
        minimum=1,
        maximum=100000000,
    )
    max_tracked_keys: Integer = key(
        1000000,
        "How many keys that clients with CLIENT TRACKING have read nutproxy remembers; a key that"
        " two clients have read counts twice. If it is full, it forgets some, and tells the clients"
        " that they have changed. One takes 150 to 700 bytes, depending on its length. Only for"
        " Redis pools.",
        example=100000,
        unit="keys",
        minimum=1,
        maximum=100000000,
    )
    admin_commands: Flag = key(
        False,
        "Forward administration commands (CONFIG, DEBUG, SHUTDOWN, ACL, …) to the servers. By"
        " default they are refused. Only for Redis pools.",
        example=True,
    )
    deny_commands: tuple[Command, ...] = key(
        (),
        "Names of commands that nutproxy refuses. Write a single subcommand as `config set`. Under"
        " `defaults` a name applies to the pools whose protocol has that command.",
        example=["flushall", "keys", "config set"],
        written=[],
        accepts="a list of commands",
    )
    custom_commands: tuple[CustomValue, ...] = key(
        (),
        "Commands that nutproxy does not know, such as those of your own modules. Each is written"
        " in the order of Redis' `COMMAND INFO`: name, arity, flags separated by commas (may be"
        " left out), first key, last key, step. The name is argument 0. A negative last key counts"
        " from the end. `0 0 0` means no keys, and such a command works in a pool of one server."
        " `numkeys 1` instead of the three numbers means that argument 1 is the number of keys,"
        " which follow it. Up to three of these may follow each other. With"
        " `request_policy:multi_shard` the request is split by its keys, and with"
        " `request_policy:all_shards` a request without keys goes to all servers. Without a"
        " `response_policy` a split request gets the arrays of all servers, joined in the order of"
        " the keys, and a request for all servers the first reply. A pool has at most 256. Only"
        " for Redis pools.",
        example=[
            "MYMOD.GET 2 readonly 1 1 1",
            "MYMOD.UNION -3 readonly numkeys 1",
            "MYMOD.MSET -3 write 1 -1 2 request_policy:multi_shard response_policy:all_succeeded",
        ],
        written=[],
        accepts=f"a list of commands, each as {custom.FORM}",
    )
    client_max_requests: Integer = key(
        1024,
        "How many requests of one client may wait for their replies at once. At this limit"
        " nutproxy stops reading from the client until replies have been sent.",
        example=4096,
        unit="requests",
        minimum=1,
        maximum=1000000,
    )
    client_max_pending: Size = key(
        32 * MB,
        "How many bytes one client may have in requests that wait for their replies and in replies"
        " that are not sent yet. At this limit nutproxy stops reading from the client until"
        " replies have been sent. A request in flight also counts with the expected size of its"
        " reply: that of the client's latest replies, or 1/32 of this limit before the first"
        " reply. If replies are larger than expected and the client does not read them, nutproxy"
        " keeps up to four times this limit. Above that it drops further replies of more than 512"
        " bytes and sends an error instead. The reply that is sent next is never dropped.",
        example="64mb",
        unit="bytes",
        written="32mb",
        minimum=64 * KB,
        maximum=1024 * GB,
    )
    client_query_buffer_limit: Size = key(
        2 * GB,
        "How many bytes of incomplete requests all clients of the pool may have together. Above"
        " this limit the client with the largest one gets an error and is disconnected, as with"
        " Redis' `maxmemory-clients`. No request can be longer than this.",
        example="512mb",
        unit="bytes",
        written="2gb",
        minimum=1 * MB,
        maximum=1024 * GB,
    )
    client_request_timeout: Milliseconds = key(
        60000,
        "How long a client may stay silent in the middle of a request before it gets an error and"
        " is disconnected. Every byte restarts the time, so a slow upload may take as long as it"
        " needs. A client between two requests may be idle forever. -1 or 0: no limit.",
        example=30000,
        unit="milliseconds",
        accepts=f"-1 to {MAX_INT} milliseconds",
    )
    server_max_queue: Size = key(
        1 * GB,
        "How many bytes of requests may be queued for one server. Above this limit nutproxy"
        " refuses further requests for that server with an error.",
        example="256mb",
        unit="bytes",
        written="1gb",
        minimum=1 * MB,
        maximum=1024 * GB,
    )
    max_merged_reply: Size = key(
        256 * MB,
        "How many bytes the replies of all servers to one command may have together, if the command"
        " goes to all servers and their replies are merged, as those to `KEYS`. Above this limit"
        " nutproxy drops the replies, and the client gets an error. The limit does not apply to a"
        " pool of one server, nor to commands with keys, such as `MGET`.",
        example="64mb",
        unit="bytes",
        written="256mb",
        minimum=64 * KB,
        maximum=1024 * GB,
    )
    proto_max_bulk_len: Size = key(
        512 * MB,
        "Longest single argument of a request, as in redis.conf. A client that announces a longer"
        " one gets Redis' error and is disconnected. The servers' own `proto-max-bulk-len` must"
        " not be smaller, because a server closes the shared connection when it gets a longer"
        " value. In a Memcached pool: the longest value. A longer one is read and dropped, and"
        " the reply is memcached's `SERVER_ERROR object too large for cache`.",
        example="64mb",
        unit="bytes",
        written="512mb",
        minimum=1 * MB,
        maximum=4 * GB,
    )


class PoolKeys(PoolSettings):
    """A pool."""

    model_config = ConfigDict(json_schema_extra={"required": list(REQUIRED)})

    # Both are required, but the loader says so: with defaults here, the rest of a pool that lacks
    # them is still checked.

    listen: ListenValue = key(
        None,
        "Address that clients connect to: `host:port`, an IPv6 address with or without (quoted)"
        " brackets, or the path of a unix socket with its permissions in octal.",
        example="127.0.0.1:22121",
        accepts=values.LISTEN_FORMS,
    )
    servers: tuple[ServerValue, ...] = key(
        (),
        "Servers as `address:port:weight`, or `/path:weight` for a unix socket. Give each server a"
        " name, as in the example: a server that moves to another address and keeps its name also"
        " keeps its keys. The order of servers does not matter.",
        example=["10.0.0.1:6379:1 alpha", "10.0.0.2:6379:1 beta"],
        accepts=f"a list of {values.SERVER_FORMS}",
    )


class PoolConfig(PoolSettings):
    """A pool as the worker gets it: its settings and these.

    `listen_permissions` is None where the umask decides. `servers` are in index order, the one that
    the ring and modula count by. `deny_commands` are lower case, subcommands as "config set".
    `line` is where the pool begins in the file, `lines` where its keys are set.
    """

    name: str
    listen: Address
    listen_permissions: int | None
    servers: tuple[ServerConfig, ...]
    deny_commands: frozenset[str]  # type: ignore[assignment]
    line: int
    lines: dict[str, int]

    def line_of(self, key: str) -> int:
        """Where a key is set, or the pool begins if it is not."""
        return self.lines.get(key, self.line)

    @property
    def layout(self) -> Layout:
        """What decides on the server of a key."""
        servers = tuple((server.name, server.weight) for server in self.servers)
        return Layout(self.hash, self.distribution, self.hash_tag, servers)


@dataclass(frozen=True)
class Config:
    """A file without problems. `pools` are in the order of `index_order`, twemproxy's."""

    pools: tuple[PoolConfig, ...]
    globals: GlobalConfig
    path: str


@dataclass(frozen=True)
class Options:
    """What only the command line says: where statistics are served, where the pid is written, and
    whether nutproxy becomes a daemon.

    `stats_port` is 0 for no statistics port. `stats_interval` is in milliseconds; it is accepted
    because twemproxy has it. `pid_file` is None for no pid file.
    """

    stats_port: int = 22222
    stats_addr: str = "127.0.0.1"
    stats_interval: int = 30000
    pid_file: str | None = None
    daemonize: bool = False


def table(section: type[Keys]) -> dict[str, FieldInfo]:
    """The rows of a section, in the order in which they are documented."""
    required = {
        name: section.model_fields[name] for name in REQUIRED if name in section.model_fields
    }
    return required | section.model_fields


def extra(row: FieldInfo) -> dict[str, Any]:
    """Unit, written default and accepted values of a row, where it has them."""
    return row.json_schema_extra if isinstance(row.json_schema_extra, dict) else {}


def size_text(size: int) -> str:
    """A size as it would be written in the file: 33554432 is 32mb."""
    for suffix, unit in (("gb", GB), ("mb", MB), ("kb", KB)):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def accepted(row: FieldInfo) -> str:
    """What a key accepts, in words."""
    unit = extra(row).get("x-unit")
    if "x-accepts" in extra(row):
        return str(extra(row)["x-accepts"])
    if row.annotation is bool:
        return "true, false"
    lower = next((bound.ge for bound in row.metadata if isinstance(bound, Ge)), None)
    upper = next((bound.le for bound in row.metadata if isinstance(bound, Le)), None)
    if isinstance(lower, int) and isinstance(upper, int):
        if unit == "bytes":
            return f"{size_text(lower)} to {size_text(upper)}"
        return f"{lower} to {upper} {unit}" if unit else f"{lower} to {upper}"
    return ", ".join(get_args(row.annotation))


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    sections: dict[str, type[Keys]] = {
        "global": GlobalConfig,
        "defaults": PoolSettings,
        "pool": PoolKeys,
    }
    _, generated = models_json_schema([(section, "validation") for section in sections.values()])
    definitions = {}
    for name, section in sections.items():
        # The result objects that values turn into have definitions too; no value is written so.
        definitions[name] = generated["$defs"][section.__name__] | {"title": name}
        for row in definitions[name]["properties"].values():
            row.pop("title", None)
            if row["default"] is None:
                del row["default"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nutproxy configuration",
        "description": "Pools by name, and two reserved names: global and defaults.",
        "type": "object",
        "properties": {
            "global": {"$ref": "#/$defs/global"},
            "defaults": {"$ref": "#/$defs/defaults"},
        },
        "additionalProperties": {"$ref": "#/$defs/pool"},
        "$defs": definitions,
    }
