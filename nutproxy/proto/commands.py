# nutproxy/proto/commands.py: what nutproxy does with each Redis command
"""The command table: one row for each command and subcommand of Redis.

    redis_commands.json ──> rules, in order ──> COMMANDS["config get"] ──> routing, docs/commands.md
    (Redis' own facts)      + overrides         (behaviour, keys, policies)

The facts (arity, flags, key specifications, request and response policy) come from Redis and are
never edited here. `behaviour` is what nutproxy does with a command. RULES derive it from the facts.
OVERRIDES correct the few rows where the facts do not suit a proxy, each with its reason. A row that
neither covers is an error at import, so a new version of the file cannot add a command unnoticed.

Most refusals have one reason: clients share the connections to servers. A command that changes the
state of its connection or turns it into a stream is never forwarded, not even with admin_commands.
A command that blocks its connection gets one of its own.

The name of a subcommand is that of its container, a space and its own name, in lower case. A
container ("config") has a row too; except for COMMAND, a request without a subcommand fails the
arity check.

`python -m nutproxy.proto.commands` prints docs/commands.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, Literal, NamedTuple


class Behaviour(IntEnum):
    """What nutproxy does with a request. The numbers are those of the compiled router's enum."""

    help: str

    def __new__(cls, value: int, help: str) -> Behaviour:
        member = int.__new__(cls, value)
        member._value_ = value
        member.help = help
        return member

    FORWARD = (
        0,
        "forwarded unchanged to the server of its keys. It is refused if the keys are on"
        " different servers; a hash tag keeps them together. Without a key (`EVAL script 0`) it"
        " goes to any live server.",
    )
    SPLIT = (
        1,
        "split by the servers of its keys; the replies are merged. If one part fails, the reply is"
        " an error; the other parts may have been carried out.",
    )
    ALL = (2, "sent to all live servers; their replies are merged.")
    ANY = (3, "sent to one live server. It has no key, and every server gives the same reply.")
    LOCAL = (4, "handled by nutproxy itself.")
    ADMIN = (
        5,
        "refused by default. If the pool sets `admin_commands: true`, it is sent to the server of"
        " its keys, or, without keys, to all live servers; their replies are merged.",
    )
    UNSUPPORTED = (
        6,
        "refused with `-ERR 'X' is not supported by nutproxy`; the connection stays open.",
    )
    SESSION = (
        7,
        "a transaction, whose commands are queued and sent to their server at EXEC; or a command"
        " that waits, which is sent over a server connection of its own, and the client's next"
        " request waits for its reply; or it subscribes or publishes.",
    )
    CURSOR = (
        8,
        "sent to one server after another, a request at a time. The cursor says which server is"
        " next. In a pool of one server the request and its reply are passed on unchanged.",
    )
    ONE = (
        9,
        "forwarded in a pool of one server. It has no key, and the replies of several servers"
        " cannot be merged, so a pool of several servers refuses it.",
    )


class Operation(IntEnum):
    """What a SESSION command does, PUBSUB, or one that runs or loads scripts. The numbers must
    match the enum in table.pxd."""

    NONE = 0
    MULTI = 1
    EXEC = 2
    DISCARD = 3
    WATCH = 4
    UNWATCH = 5
    BLOCK = 6
    WAIT = 7
    SUBSCRIBE = 20
    PSUBSCRIBE = 21
    SSUBSCRIBE = 22
    UNSUBSCRIBE = 23
    PUNSUBSCRIBE = 24
    SUNSUBSCRIBE = 25
    PUBLISH = 26
    SPUBLISH = 27
    PUBSUB = 28
    RUN_TEXT = 40
    RUN_SCRIPT = 41
    RUN_FUNCTION = 42
    LOAD_SCRIPT = 43
    LOAD_FUNCTION = 44
    FORGET_SCRIPTS = 45
    FORGET_FUNCTIONS = 46


_SCRIPTING: Mapping[str, Operation] = {
    "eval": Operation.RUN_TEXT,
    "eval_ro": Operation.RUN_TEXT,
    "evalsha": Operation.RUN_SCRIPT,
    "evalsha_ro": Operation.RUN_SCRIPT,
    "fcall": Operation.RUN_FUNCTION,
    "fcall_ro": Operation.RUN_FUNCTION,
    "script load": Operation.LOAD_SCRIPT,
    "script flush": Operation.FORGET_SCRIPTS,
    "function load": Operation.LOAD_FUNCTION,
    "function flush": Operation.FORGET_FUNCTIONS,
    "function delete": Operation.FORGET_FUNCTIONS,
}


class State(IntFlag):
    """A state of a client in which commands are refused. The numbers must match the enum in
    table.pxd.

    When a command is refused that would have changed the meaning of the next requests, such as
    MULTI, it opens one of these states instead. The requests that depend on it are then refused
    too.
    """

    help: str

    def __new__(cls, value: int, help: str = "") -> State:
        member = int.__new__(cls, value)
        member._value_ = value
        member.help = help
        return member

    AUTH = (1, "the client has to authenticate")
    TRANSACTION = (2, "all commands until EXEC, DISCARD or RESET")
    DATABASE = (
        4,
        "all commands that use data on the servers, until a SELECT succeeds or the client sends"
        " RESET",
    )
    SUBSCRIPTION = (
        8,
        "all commands but PING, QUIT and RESET, until RESET. Only in RESP2, where Redis refuses"
        " them too",
    )
    STREAM = (16, "all commands but PING, QUIT and RESET, until RESET")
    MULTI = (64, "none: a transaction, whose commands are queued")
    PAUSE = (128, "none: CLIENT PAUSE delays them")
    SUBSCRIBED = (256, "none: the client has subscriptions")
    DEBUGGING = (32, "`EVAL`, `EVALSHA` and their `_RO` forms, until SCRIPT DEBUG NO or RESET")


class Limits(NamedTuple):
    """The longest request that is accepted. While nutproxy scans a request, or copies it for every
    server, all other clients wait."""

    args: int
    bytes: int | None


# Commands with numbers of databases in their arguments: builtin/databases.py checks them first.
NAMES_DATABASE = frozenset({"copy", "move", "swapdb"})


# A request for one server is forwarded unchanged, so it has no limits here.
LIMITS: Mapping[Behaviour, Limits] = {
    Behaviour.SPLIT: Limits(262144, None),
    Behaviour.LOCAL: Limits(1024, 1 << 20),
    Behaviour.ALL: Limits(16384, 4 << 20),
    Behaviour.ADMIN: Limits(16384, 4 << 20),
    Behaviour.CURSOR: Limits(1024, 1 << 20),
}


# How the replies of several servers are merged into one. The result has the form of a single
# server's reply. None is for arrays, which are joined.
RESPONSE_POLICIES: Mapping[str | None, str] = {
    "all_succeeded": "the first server's reply, or the error of one that failed",
    "one_succeeded": "the first reply that is not an error",
    "agg_sum": "the sum of the integers",
    "agg_min": "the smallest of the integers",
    "agg_logical_and": "1 if all servers reply 1, element by element",
    "by_size": "the key of one server, chosen by the sizes of the servers, which are asked for"
    " DBSIZE as well; null if all are empty",
    "newest_first": "the entries of all servers, the newest first; a count applies to each server",
    "latest": "for each event the newest entry, and the greatest maximum",
    "history": "the entries in order of time; within one second the greatest value",
    "histograms": "for each command the sum of the calls, and of the counts up to each bound",
    "figures": "sums of numbers, means of ratios",
    "running": "the first reply with a running script, or else the first server's reply",
    "texts": "the texts of all servers, each under its server's name",
    "one_server": "not merged: a pool of several servers refuses the command",
    None: "the arrays joined; for a command with keys in the order of the keys",
}


# INFO: how the values of a field from several servers are merged.
INFO_MERGES: Mapping[str, str] = {
    "own": "nutproxy's own figure",
    "sum": "the sum over the servers",
    "greatest": "the greatest value of the servers",
    "least": "the least value of the servers",
    "worst": "`ok` if all servers report it; otherwise another server's value",
    "limit": "the sum over the servers; 0 if one has no limit",
    "distinct": "the servers' value; if they differ, all values separated by commas",
}
# The sections of INFO that contain values from servers, with their fields in the order of Redis.
INFO_FIELDS: Mapping[str, Mapping[str, str]] = {
    "Memory": {
        "used_memory": "own",
        "used_memory_human": "own",
        "used_memory_rss": "own",
        "used_memory_rss_human": "own",
        "used_memory_peak": "own",
        "used_memory_peak_human": "own",
        "number_of_cached_scripts": "greatest",
        "number_of_functions": "greatest",
        "number_of_libraries": "greatest",
        "maxmemory": "limit",
        "maxmemory_policy": "distinct",
        "lazyfree_pending_objects": "sum",
        "lazyfreed_objects": "sum",
    },
    "Persistence": {
        "loading": "own",
        "async_loading": "own",
        "rdb_changes_since_last_save": "sum",
        "rdb_bgsave_in_progress": "greatest",
        "rdb_last_save_time": "least",
        "rdb_last_bgsave_status": "worst",
        "rdb_last_bgsave_time_sec": "greatest",
        "rdb_current_bgsave_time_sec": "greatest",
        "aof_enabled": "least",
        "aof_rewrite_in_progress": "greatest",
        "aof_rewrite_scheduled": "greatest",
        "aof_last_rewrite_time_sec": "greatest",
        "aof_current_rewrite_time_sec": "greatest",
        "aof_last_bgrewrite_status": "worst",
        "aof_last_write_status": "worst",
    },
    "Stats": {
        "total_connections_received": "own",
        "total_commands_processed": "own",
        "instantaneous_ops_per_sec": "sum",
        "total_net_input_bytes": "own",
        "total_net_output_bytes": "own",
        "instantaneous_input_kbps": "sum",
        "instantaneous_output_kbps": "sum",
        "rejected_connections": "own",
        "expired_keys": "sum",
        "expired_time_cap_reached_count": "sum",
        "expire_cycle_cpu_milliseconds": "sum",
        "evicted_keys": "sum",
        "total_eviction_exceeded_time": "sum",
        "current_eviction_exceeded_time": "greatest",
        "keyspace_hits": "sum",
        "keyspace_misses": "sum",
        "pubsub_channels": "sum",
        "pubsub_patterns": "greatest",
        "pubsubshard_channels": "sum",
        "latest_fork_usec": "greatest",
        "total_forks": "sum",
        "migrate_cached_sockets": "sum",
        "unexpected_error_replies": "sum",
        "total_error_replies": "sum",
        "dump_payload_sanitizations": "sum",
    },
}
# All sections in the order of Redis. The text is the source of the values not in INFO_FIELDS.
INFO_SECTIONS: Mapping[str, str] = {
    "Server": "nutproxy's own figures, except `redis_version`, which is a server's; `tcp_port` is"
    " the pool's",
    "Clients": "nutproxy's own figures: the clients of the pool",
    "Memory": "",
    "Persistence": "",
    "Stats": "",
    "Replication": "a primary without replicas",
    "CPU": "nutproxy's own figure",
    "Modules": "empty: the modules of the servers are not listed",
    "Commandstats": "the sums over the servers; only in INFO `all` and `everything`",
    "Errorstats": "the sums over the servers",
    "Latencystats": "the greatest value of each percentile; only in INFO `all` and `everything`",
    "Cluster": "`cluster_enabled:0`",
    "Keyspace": "for each database the sums over the servers; `db0` is their `redis_db`; `avg_ttl`"
    " is the mean",
}


class KeySpec(NamedTuple):
    """Where the keys are, in the terms of Redis' key specifications. Argument 0 is the command.

    The keys begin at argument `pos`, or after `keyword`. The search for the keyword starts at
    `startfrom` and ignores case; a keyword that is the last argument does not count.

    A range ends at `lastkey`, which is relative to the beginning or, when negative, to the end of
    the arguments. A `limit` above 1 takes only the first half, third, … of the arguments.

    With keynum, an argument gives the number of keys. It is `keynumidx` arguments after the
    beginning, and the first key is `firstkey` arguments after the beginning.

    `step` is the distance between two keys.
    """

    begin: Literal["index", "keyword"] = "index"
    pos: int = 0
    keyword: str = ""
    startfrom: int = 0
    find: Literal["range", "keynum"] = "range"
    lastkey: int = 0
    step: int = 1
    limit: int = 0
    keynumidx: int = 0
    firstkey: int = 0
    skip_empty: bool = False  # an empty argument is not a key; the keys are elsewhere
    last: bool = False  # if the keyword is repeated, the last one counts


class Timeout(NamedTuple):
    """Where a command that waits has its timeout: an argument, from the end if negative."""

    at: int
    milliseconds: bool = False  # else seconds, with a fraction


# New commands that wait have their timeout last, like most of these.
TIMEOUTS: Mapping[str, Timeout] = {
    "blmovem": Timeout(5),
    "blmpop": Timeout(1),
    "bzmpop": Timeout(1),
    "wait": Timeout(2, True),
    "waitaof": Timeout(3, True),
}
_LAST = Timeout(-1)


@dataclass(frozen=True, slots=True)
class Command:
    name: str  # lower case; a subcommand is "config get"
    arity: int  # words of the request including the command; a minimum when negative
    flags: frozenset[str]  # the flags of Redis
    group: str
    since: str
    origin: tuple[str, ...]  # "redis 8.4.0", "valkey 9.1.0"; "redis 8 module bf" of a module
    behaviour: Behaviour
    keys: tuple[KeySpec, ...]
    request_policy: str | None  # for SPLIT, ALL and ADMIN
    response_policy: str | None  # for SPLIT, ALL and ADMIN: a key of RESPONSE_POLICIES
    handler: str | None  # for LOCAL: a key of nutproxy.builtin.HANDLERS
    operation: Operation  # for SESSION, PUBSUB, and what runs or loads scripts
    opens: State  # the state that a refusal of this command opens
    refused_in: State  # the states in which this command is refused
    # Upper case; an option before the keyword of `keys`, or after the only key. It makes the
    # command wait, and its value is the timeout.
    blocking_option: str | None
    timeout: Timeout | None  # for a command that waits
    # Upper case; options and their number of values, to be skipped. SPLIT with a number of keys:
    # only with these options is the request split.
    options: Mapping[str, int]
    patterns: tuple[str, ...]  # the options whose value is a pattern that forms names of keys
    note: str


# Commands whose refusal changes the meaning of the next requests. Other commands that set a state
# are not listed, because Redis would run the next requests in the same way without them:
#   WATCH            Redis executes the transaction after it, too
#   BLPOP, WAIT, CLIENT PAUSE, …    only delay the next requests
#   ASKING, READONLY, READWRITE, REPLCONF, CLIENT TRACKING, CLIENT CACHING, CLIENT NO-TOUCH, …
#                    the next requests are executed with or without them
#   AUTH, HELLO      Redis changes nothing either when it refuses them
#   CLIENT REPLY     decides which replies are sent, not which commands are executed
OPENS: Mapping[str, State] = {
    "multi": State.TRANSACTION,
    "select": State.DATABASE,
    "swapdb": State.DATABASE,
    "subscribe": State.SUBSCRIPTION,
    "psubscribe": State.SUBSCRIPTION,
    "ssubscribe": State.SUBSCRIPTION,
    "monitor": State.STREAM,
    "psync": State.STREAM,
    "sync": State.STREAM,
    "script debug": State.DEBUGGING,
}

_SUBSCRIBING = frozenset(
    {"subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"}
)
_SCRIPTS = frozenset({"eval", "eval_ro", "evalsha", "evalsha_ro"})


Row = Mapping[str, Any]  # a row of redis_commands.json


_ROWS: Mapping[str, Row] = json.loads(
    Path(__file__).with_name("redis_commands.json").read_text(encoding="utf-8")
)

CONTAINERS = frozenset(name.split()[0] for name in _ROWS if " " in name)


class Rule(NamedTuple):
    applies: Callable[[str, Row], bool]
    behaviour: Behaviour
    note: str = ""


_BLOCKS = "while it waits, it has a server connection of its own"

# Containers whose subcommands are all administration commands, including those that Redis does not
# flag as such.
ADMIN_CONTAINERS = frozenset(
    {
        "acl",
        "backup",
        "commandlog",
        "config",
        "ft.config",
        "hotkeys",
        "latency",
        "module",
        "slowlog",
    }
)

# The first rule that applies decides.
RULES = (
    Rule(
        lambda name, row: row["group"] == "sentinel",
        Behaviour.UNSUPPORTED,
        "a command of Sentinel, not of a Redis server",
    ),
    Rule(lambda name, row: row["group"] == "transactions", Behaviour.SESSION),
    Rule(
        lambda name, row: row["group"] == "pubsub" and name.split()[0] == "pubsub",
        Behaviour.LOCAL,
        "what the servers say, with the subscriptions of nutproxy's clients",
    ),
    Rule(lambda name, row: row["group"] == "pubsub", Behaviour.SESSION),
    # Connection commands concern the client's connection, which ends at the proxy.
    Rule(lambda name, row: row["group"] == "connection", Behaviour.LOCAL),
    # A pool behaves like one Redis without cluster mode, even if its servers are in cluster mode.
    Rule(lambda name, row: row["group"] == "cluster", Behaviour.LOCAL, "cluster mode is off"),
    Rule(lambda name, row: row.get("request_policy") == "multi_shard", Behaviour.SPLIT),
    # Before the request policies, because the policy of an administration command only says where
    # to send it, not whether it is allowed.
    Rule(
        lambda name, row: "admin" in row["flags"] or name.split()[0] in ADMIN_CONTAINERS,
        Behaviour.ADMIN,
    ),
    # Also before the request policies, because waiting for all servers would block all of them.
    Rule(lambda name, row: "blocking" in row["flags"], Behaviour.SESSION, _BLOCKS),
    Rule(
        lambda name, row: row.get("request_policy") in ("all_shards", "all_nodes"),
        Behaviour.ALL,
    ),
    Rule(lambda name, row: bool(_key_specs(row)), Behaviour.FORWARD),
    # A module's command about all its data, such as an index of documents.
    Rule(lambda name, row: _of_module(row) or row["group"] == "custom", Behaviour.ONE),
    # The remaining rows: containers without a subcommand, their HELP, and all of COMMAND.
    Rule(
        lambda name, row: (
            name.split()[0] in CONTAINERS
            and (name in CONTAINERS or name.endswith(" help") or name.startswith("command "))
        ),
        Behaviour.ANY,
    ),
)


class Override(NamedTuple):
    """The exceptions of a row from the rules and from Redis' facts. None: no exception."""

    behaviour: Behaviour | None = None
    note: str = ""
    response_policy: str | None = None
    keys: tuple[KeySpec, ...] | None = None
    blocking_option: str | None = None
    options: Mapping[str, int] = {}
    patterns: tuple[str, ...] = ()


def _each(names: str, override: Override) -> dict[str, Override]:
    return dict.fromkeys(names.split(", "), override)


_FIRST = KeySpec(pos=1)
_SORT_OPTIONS = {"BY": 1, "GET": 1, "LIMIT": 2}
_PATTERNS = (
    "BY and GET with a `*` work in a pool of one server, or with the key's hash tag before the"
    " `*`, as in Redis Cluster"
)


def _stored_from(options: int) -> tuple[KeySpec, ...]:
    """The key, and the key after STORE or STOREDIST. The options begin at argument `options`."""
    return (
        _FIRST,
        KeySpec("keyword", keyword="STORE", startfrom=options, last=True),
        KeySpec("keyword", keyword="STOREDIST", startfrom=options, last=True),
    )


_DATABASES = "the numbers are those of the servers, and must be below the pool's `databases`"
_STREAMS = KeySpec("keyword", keyword="STREAMS", startfrom=1, lastkey=-1, limit=2)
_STREAM_LIMITS = {"COUNT": 1, "MAXCOUNT": 1, "MAXSIZE": 1}
_PASSES = "uses its own server connections, so that it does not wait for the running script"

OVERRIDES: Mapping[str, Override] = {
    # Clients share server connections, so no client may change the state or mode of one.
    **_each(
        "monitor, psync, replconf, sync",
        Override(
            Behaviour.UNSUPPORTED, "turns a server connection, which clients share, into a stream"
        ),
    ),
    "script debug": Override(
        Behaviour.LOCAL, "only NO; YES and SYNC would change a connection that clients share"
    ),
    **_each(
        "client caching, client tracking",
        Override(note="not in a transaction; see [below](#client-tracking)"),
    ),
    "client capa": Override(note="accepted; nutproxy uses none of a client's capabilities"),
    "client import-source": Override(note="only OFF; the pool is never in import mode"),
    **_each(
        "client kill, client unblock, client unpause",
        Override(note="concerns the clients of this pool"),
    ),
    "client pause": Override(
        note="concerns the clients of this pool; keys on the servers expire meanwhile. With WRITE,"
        " FCALL is delayed, too, whatever its function does"
    ),
    # Handled by nutproxy, although Redis groups them as server commands.
    "info": Override(
        Behaviour.LOCAL,
        "see [below](#info)",
    ),
    "lolwut": Override(Behaviour.LOCAL),
    "time": Override(Behaviour.LOCAL, "nutproxy's clock"),
    "auth": Override(note="checked against the pool's redis_auth; the only user is `default`"),
    "hello": Override(note="reports the Redis version of the pool's servers"),
    "quit": Override(note="`+OK`; the connection closes after all earlier replies"),
    "select": Override(
        note="0 and the pool's redis_db name the pool's own database. In a pool with `databases: 1`"
        " commands on the data are refused after any other SELECT, until a SELECT succeeds or the"
        " client sends RESET"
    ),
    "reset": Override(note="resets the client's connection to nutproxy; no server is involved"),
    **_each("client info, client list", Override(note="shows the clients of this pool")),
    **_each(
        "client no-evict, client no-touch",
        Override(note="accepted and shown by CLIENT LIST; no effect on the servers"),
    ),
    **_each("move, copy", Override(note=_DATABASES)),
    "swapdb": Override(
        Behaviour.ALL, f"on every server; one that fails has not swapped; {_DATABASES}"
    ),
    "scan": Override(
        Behaviour.CURSOR,
        "visits all servers; see [below](#scan)",
    ),
    **_each(
        "sflush, trimslots",
        Override(Behaviour.UNSUPPORTED, "names slots of a cluster; a pool has none"),
    ),
    **_each(
        "search.clusterinfo, search.clusterrefresh, search.clusterset, timeseries.clusterset,"
        " timeseries.refreshcluster",
        Override(Behaviour.UNSUPPORTED, "a module's command for the nodes of its own cluster"),
    ),
    **_each(
        "himport prepare, himport set, himport discard, himport discardall",
        Override(
            Behaviour.UNSUPPORTED, "a fieldset belongs to a server connection, which clients share"
        ),
    ),
    # Keys where Redis' specifications leave them unknown or incomplete, or where a keyword search
    # would take an option's value for the keyword: SORT k BY store STORE dest.
    "sort": Override(
        note=_PATTERNS,
        keys=(_FIRST, KeySpec("keyword", keyword="STORE", startfrom=2, last=True)),
        options=_SORT_OPTIONS,
        patterns=("BY", "GET"),
    ),
    "sort_ro": Override(
        note=_PATTERNS, keys=(_FIRST,), options=_SORT_OPTIONS, patterns=("BY", "GET")
    ),
    "georadius": Override(keys=_stored_from(6), options={"COUNT": 1}),
    "georadiusbymember": Override(keys=_stored_from(5), options={"COUNT": 1}),
    "migrate": Override(
        note="the reply comes after the transfer of the keys: check that `timeout` is long enough",
        keys=(
            KeySpec(pos=3, skip_empty=True),
            KeySpec("keyword", keyword="KEYS", startfrom=6, lastkey=-1),
        ),
        options={"AUTH": 1, "AUTH2": 2},
    ),
    **_each(
        "subscribe, ssubscribe",
        Override(
            note="on the server that the channel's name hashes to; channels of keyspace"
            " notifications (`__keyspace@…`, `__keyevent@…`) on all servers"
        ),
    ),
    "psubscribe": Override(note="on all servers"),
    **_each(
        "publish, spublish",
        Override(
            note="to the server that the channel's name hashes to. The reply counts the clients of"
            " this nutproxy, and those of the server itself",
            keys=(_FIRST,),
        ),
    ),
    "msetnx": Override(note="never split, because it sets all keys or none"),
    "xread": Override(
        Behaviour.FORWARD,
        f"with BLOCK: {_BLOCKS}",
        keys=(_STREAMS,),
        blocking_option="BLOCK",
        options=_STREAM_LIMITS,
    ),
    "xreadgroup": Override(
        Behaviour.FORWARD,
        f"with BLOCK: {_BLOCKS}",
        keys=(_STREAMS,),
        blocking_option="BLOCK",
        options={**_STREAM_LIMITS, "GROUP": 2, "CLAIM": 1},
    ),
    # The facts name no blocking flag for it.
    "ts.read": Override(note=f"with BLOCK: {_BLOCKS}", blocking_option="BLOCK"),
    # MSETEX sets all keys, or with NX or XX possibly none. Another option may be a condition, too.
    "msetex": Override(
        note="split without NX and XX. With them it sets all keys or none, so all must be on one"
        " server",
        options={"EX": 1, "PX": 1, "EXAT": 1, "PXAT": 1, "KEEPTTL": 0},
    ),
    "json.mget": Override(Behaviour.SPLIT, "not split if the path is longer than 4 KB"),
    "json.mset": Override(note="never split, because one invalid value prevents all changes"),
    # Each sample has its own element in the reply, which may be an error.
    "ts.madd": Override(Behaviour.SPLIT),
    "json.debug": Override(
        Behaviour.ONE, "MEMORY, FIELDS and DEPTH are sent to the server of the key", keys=()
    ),
    "script show": Override(
        Behaviour.ALL, "EVAL may have loaded the script into one server only", "one_succeeded"
    ),
    **_each(
        "eval, eval_ro, evalsha, evalsha_ro, fcall, fcall_ro",
        Override(
            note="sent to the server of the keys in its arguments. Keys that only the script"
            " knows are looked up on that server, too"
        ),
    ),
    "restore-asking": Override(note="the same as RESTORE outside a cluster"),
    # The policy of Redis is "special" or missing, but a proxy needs one.
    **_each(
        "function dump, function list",
        Override(Behaviour.ANY, "functions are loaded into every server, so each has all of them"),
    ),
    "function stats": Override(note=_PASSES, response_policy="running"),
    **_each("function kill, script kill", Override(note=_PASSES)),
    "randomkey": Override(response_policy="by_size"),
    "memory stats": Override(response_policy="figures"),
    "latency histogram": Override(response_policy="histograms"),
    "latency history": Override(response_policy="history"),
    "latency latest": Override(response_policy="latest"),
    **_each(
        "memory doctor, memory malloc-stats, latency doctor, latency graph",
        Override(response_policy="texts"),
    ),
    **_each("slowlog get, commandlog get", Override(response_policy="newest_first")),
    **_each("backup list, backup status, hotkeys get", Override(response_policy="one_server")),
    "pfdebug": Override(note="sent to the server of the key"),
    "lastsave": Override(
        Behaviour.ADMIN, "the oldest time of the servers", response_policy="agg_min"
    ),
    "role": Override(Behaviour.LOCAL, "a primary without replicas"),
    "shutdown": Override(
        note="a server that shuts down closes its connection. NOSAVE does not"
        " wait for a running script"
    ),
    **_each(
        "replicaof, slaveof",
        Override(note="makes all servers replicas of one master; only NO ONE is useful"),
    ),
}

# Commands whose arrays are joined. Any other command without a response policy gets all_succeeded.
_JOINED = frozenset({"keys", "acl log"})


def _key_specs(row: Row) -> tuple[KeySpec, ...]:
    """The key specifications of Redis, without those for channels and unknown positions. A row with
    keys at unknown positions has an override."""
    return tuple(
        _key_spec(spec)
        for spec in row.get("key_specs", ())
        if "not_key" not in spec["flags"] and "unknown" not in spec["begin_search"]
    )


def _of_module(row: Row) -> bool:
    return any(" module " in origin for origin in row.get("origin", ()))


def _key_spec(spec: Row) -> KeySpec:
    [(begin, search)] = spec["begin_search"].items()
    [(find, found)] = spec["find_keys"].items()
    return KeySpec(begin=begin, find=find, **search, **found)


def _command(name: str, row: Row) -> Command:
    override = OVERRIDES.get(name, Override())
    rule = next((rule for rule in RULES if rule.applies(name, row)), None)
    if override.behaviour is not None:
        behaviour, note = override.behaviour, override.note
    elif rule is not None:
        behaviour, note = rule.behaviour, override.note or rule.note
    else:
        raise ValueError(f"redis_commands.json: no rule covers {name!r}")
    if name in CONTAINERS and row["arity"] < -1 and not note:
        note = "takes a subcommand"
    request_policy, response_policy = _policies(name, row, behaviour, override)
    local = behaviour is Behaviour.LOCAL
    return Command(
        name=name,
        arity=row["arity"],
        flags=frozenset(row["flags"]),
        group=row["group"],
        since=row["since"],
        origin=tuple(row.get("origin", ())),
        behaviour=behaviour,
        keys=_key_specs(row) if override.keys is None else override.keys,
        request_policy=request_policy,
        response_policy=response_policy,
        handler=_handler(name, row) if local else None,
        operation=_operation(name, row, behaviour),
        opens=OPENS.get(name, State(0)),
        refused_in=_refused_in(name, row, behaviour),
        blocking_option=override.blocking_option,
        timeout=_timeout(name, row, override),
        options=override.options,
        patterns=override.patterns,
        note=note,
    )


def _operation(name: str, row: Row, behaviour: Behaviour) -> Operation:
    if name.startswith("pubsub "):
        return Operation.PUBSUB
    if behaviour is not Behaviour.SESSION:
        return _SCRIPTING.get(name, Operation.NONE)
    if "blocking" not in row["flags"] or name == "wait":
        return Operation[name.upper()]
    return Operation.WAIT if name == "waitaof" else Operation.BLOCK


def _timeout(name: str, row: Row, override: Override) -> Timeout | None:
    if override.blocking_option:
        return Timeout(0, True)
    return TIMEOUTS.get(name, _LAST) if "blocking" in row["flags"] else None


def _handler(name: str, row: Row) -> str:
    if row["group"] == "cluster":
        return "no_cluster"
    return name.replace(" ", "_").replace("-", "_")


def _refused_in(name: str, row: Row, behaviour: Behaviour) -> State:
    """The states in which a command is refused."""
    states = State(0)
    if "no_auth" not in row["flags"]:
        states |= State.AUTH
    if name not in ("exec", "discard", "reset", "quit"):
        states |= State.TRANSACTION
    if (
        behaviour not in (Behaviour.LOCAL, Behaviour.ANY, Behaviour.UNSUPPORTED)
        and name not in ("multi", "exec", "discard", "unwatch")
        and row["group"] != "pubsub"
    ):
        states |= State.DATABASE
    if name not in ("ping", "reset", "quit") and name not in _SUBSCRIBING:
        states |= State.SUBSCRIPTION | State.STREAM | State.SUBSCRIBED
    if name in _SCRIPTS:
        states |= State.DEBUGGING
    return states


def _policies(
    name: str, row: Row, behaviour: Behaviour, override: Override
) -> tuple[str | None, str | None]:
    """The request and response policy. Only commands that can go to several servers have them."""
    if behaviour not in (Behaviour.SPLIT, Behaviour.ALL, Behaviour.ADMIN):
        return None, None
    if behaviour is Behaviour.ADMIN and _key_specs(row):
        return None, None
    request = row.get("request_policy") or "all_nodes"
    response = override.response_policy or row.get("response_policy")
    if response is None and behaviour is not Behaviour.SPLIT and name not in _JOINED:
        response = "all_succeeded"
    if response not in RESPONSE_POLICIES:
        raise ValueError(f"redis_commands.json: no way to merge {response!r} of {name!r}")
    return request, response


# Containers whose subcommands are not described by Redis or the module. These subcommands have
# keys; all others use the row of the container.
OPEN_WITH_KEYS: Mapping[str, int] = {  # lastkey of their KeySpec
    "debug digest-value": -1,
    "debug htstats-key": 0,
    "debug listpack": 0,
    "debug object": 0,
    "debug quicklist": 0,
    "debug sdslen": 0,
    "debug ziplist": 0,
    "json.debug depth": 0,
    "json.debug fields": 0,
    "json.debug memory": 0,
}
OPEN = frozenset(name.split()[0] for name in OPEN_WITH_KEYS)


def _open(name: str, lastkey: int, container: Command) -> Command:
    return replace(
        container,
        name=name,
        arity=-3,
        keys=(KeySpec(pos=2, lastkey=lastkey),),
        behaviour=Behaviour.ADMIN if container.behaviour is Behaviour.ADMIN else Behaviour.FORWARD,
        note="sent to the server of the key",
        request_policy=None,
        response_policy=None,
    )


_WITH_ROWS = {name: _command(name, row) for name, row in _ROWS.items()}
# A worker needs no more of it.
del _ROWS
COMMANDS: Mapping[str, Command] = {
    **_WITH_ROWS,
    **{
        name: _open(name, lastkey, _WITH_ROWS[name.split()[0]])
        for name, lastkey in OPEN_WITH_KEYS.items()
    },
}


def custom(name: str, row: Row) -> Command:
    """A command that has no row here. It is described in the same form by the configuration, which
    has checked it (config/custom.py)."""
    return _command(name, row)


# docs/commands.md ------------------------------------------------------------------------------

_GROUPS = {
    "string": "Strings",
    "generic": "Keys",
    "hash": "Hashes",
    "list": "Lists",
    "set": "Sets",
    "sorted_set": "Sorted sets",
    "stream": "Streams",
    "array": "Arrays",
    "vector_set": "Vector sets",
    "geo": "Geo",
    "bitmap": "Bitmaps",
    "hyperloglog": "HyperLogLog",
    "scripting": "Scripts and functions",
    "connection": "Connection",
    "server": "Server",
    "pubsub": "Pub/sub",
    "transactions": "Transactions",
    "cluster": "Cluster",
    "sentinel": "Sentinel",
    "json": "JSON (a module)",
    "search": "Search (a module)",
    "timeseries": "Time series (a module)",
    "bf": "Bloom filters (a module)",
    "cf": "Cuckoo filters (a module)",
    "cms": "Count-min sketches (a module)",
    "topk": "Top-k (a module)",
    "tdigest": "t-digests (a module)",
}

_INTRODUCTION = f"""\
# Commands

Generated from the command table, `nutproxy/proto/commands.py`, which takes its facts from
`nutproxy/proto/redis_commands.json`, by `python -m nutproxy.proto.commands`. Do not edit.

nutproxy knows {len(COMMANDS)} commands and subcommands of Redis, Valkey and their modules. If a
server does not have a command, its own error is passed on. Clients share the connections to
servers. Therefore nutproxy does not support commands that change the state of a connection, or
turn it into a stream, not even with `admin_commands`. The behaviour of a command decides what
happens to a request:
"""

_LIMITS = """
A request above these limits is refused with an error, and the connection stays open. In a pool of
one server, which gets these requests as they are, the limits of SPLIT and CURSOR do not apply:
"""

_POLICIES = """
A single server's reply is passed on unchanged. Replies of several servers are merged by the
command's response policy, which has Redis' name where Redis has one. The merged reply has the form
of one server's reply:
"""

_INFO = """\
A pool replies to INFO as a single Redis server would. The sections are in Redis' order. Fields have
Redis' names or begin with `nutproxy_`; Stats also has `forward_error` and `server_ejects`. nutproxy
asks each server once, and only if a section with the servers' figures is wanted. Servers that do
not reply are missing from the sums: `nutproxy_servers_unanswered` in Stats and Keyspace counts
them.
"""

_SCAN = """\
A pool of several servers is scanned one server after another. The guarantees are those of Redis: a
key that exists from the beginning to the end is returned at least once, and every scan ends. The
last page of a server has the cursor at which the next server begins, so an empty page with a cursor
other than 0 is normal.

- **Cursors** are decimal numbers, below 2^53 as long as the server's table has at most 2^37
  buckets, and always below 2^63. They name the server that is being scanned by a number made from
  its name, so every nutproxy whose pool has servers with these names continues the scan of another.
- **A server that is down or ejected** is not skipped. Its pages are an error, and the client may
  send the same cursor again when the server is back. If a Redis restarts in between, a scan that
  goes on may miss keys, as it does without nutproxy: the new process has another order of keys.
- **Members.** Other servers may be added to the pool or removed during a scan. A new one is visited
  if its number is higher than that of the server that is being scanned. If that server itself is
  removed, its cursor is refused, and the scan has to start again.
- **A pool of one server** passes cursors on unchanged. If servers are added to it, or all others
  are removed, scans have to start again.
- **COUNT, MATCH and TYPE** are checked by the server. COUNT applies to each page, so to one server.
"""

_TRACKING = """
CLIENT TRACKING works as in Redis: a key that the client has read is reported once when it changes.
FLUSHALL is reported as null, which means that everything may have changed. It works in RESP3, and
in RESP2 with REDIRECT to another client of the same pool of the same process.

- **More than in Redis may be reported**, but never less. The client gets null when a server is
  lost, ejected or returns, when the members of the pool change, when a server connection ends, and
  once from each server after FLUSHALL. A key is reported at once if it was read in a command that
  waits, in a transaction with WATCH or with commands that nutproxy handles itself, while its server
  cannot report changes, or if it is longer than 512 bytes. After a request with more than 8,192
  keys, null is sent. If `max_tracked_keys` is reached, some keys are reported that have not
  changed.
- **An invalidation comes after the replies** to all requests that the client has sent before it
  arrives. So among pipelined requests it may come later than in Redis.
- **NOLOOP** suppresses the reports of the client's own SET without a condition, SETEX, PSETEX,
  GETSET, and DEL and UNLINK of one key, outside of transactions. Other writes of its own, and with
  BCAST all, are reported.
- **Scripts.** The keys in `KEYS` are tracked. A key that a script reads without naming it there is
  not.
- **BCAST** has at most 64 prefixes of 512 bytes each.
- CLIENT TRACKING and CLIENT CACHING are refused in a transaction. CLIENT TRACKING ON waits until
  the servers can report changes, and gets an error if none of them can.
"""

_STATES = """
## Refused commands and the commands after them

Some commands change the meaning of the commands after them. If nutproxy refuses such a command,
for example because of `deny_commands`, it also refuses the commands after it. So a transaction is
refused as a whole, and no data meant for database 1 is written to another database. RESET, or a new
connection, always ends this state.
"""

_ERRORS = """
## Errors

[errors.md](errors.md) lists nutproxy's own errors, with what to do about each. After an error about
a command the connection stays open. A pool's `deny_commands` refuses further commands by name, and
its `custom_commands` describes commands that are not in this list. A server's error reply is passed
on unchanged.
"""


def document() -> str:
    """The text of docs/commands.md."""
    parts = [
        _INTRODUCTION,
        *_table(
            ("Behaviour", "Commands", "The request is"),
            ((each.name, str(_count(each)), each.help) for each in Behaviour),
        ),
        _LIMITS,
        *_table(
            ("Behaviour", "Arguments, with the name", "Bytes"),
            ((each.name, str(row.args), str(row.bytes or "")) for each, row in LIMITS.items()),
        ),
        _POLICIES,
        *_table(
            ("Response policy", "The reply is"),
            ((_policy(policy), meaning) for policy, meaning in RESPONSE_POLICIES.items()),
        ),
        "\n## Not supported\n",
        *_unsupported(),
        _STATES,
        *_table(
            ("After a refused", "Refused as well"),
            (
                (
                    ", ".join(f"`{name.upper()}`" for name in OPENS if OPENS[name] is state),
                    state.help,
                )
                for state in State
                if state in OPENS.values()
            ),
        ),
        _ERRORS,
    ]
    parts += ["## INFO\n", _INFO, *_table(("Section", "Fields", "Value"), _info_rows())]
    parts += ["\n## SCAN\n", _SCAN.removesuffix("\n")]
    parts += ["\n## CLIENT TRACKING\n", _TRACKING.removesuffix("\n")]
    for group, title in _GROUPS.items():
        rows = (row for row in COMMANDS.values() if row.group == group)
        parts.append(f"\n## {title}\n")
        parts += _table(
            ("Command", "Since", "Behaviour", "Merged by", "Note"),
            (
                (
                    row.name.upper(),
                    _since(row),
                    row.behaviour.name,
                    _policy(row.response_policy) if row.request_policy else "",
                    row.note,
                )
                for row in rows
            ),
        )
    return "\n".join(parts) + "\n"


def _since(row: Command) -> str:
    """The versions with the command. A module's commands have the version of the module."""
    versions = [origin.removeprefix("redis ").capitalize() for origin in row.origin]
    return row.since if not versions or "module" in versions[0] else ", ".join(versions)


def _info_rows() -> Iterator[tuple[str, str, str]]:
    for section, about in INFO_SECTIONS.items():
        fields = INFO_FIELDS.get(section, {})
        if not fields:
            yield section, "", about
        for merge, meaning in INFO_MERGES.items():
            names = [f"`{name}`" for name, how in fields.items() if how == merge]
            if names:
                yield section, ", ".join(names), meaning


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _count(behaviour: Behaviour) -> int:
    return sum(row.behaviour is behaviour for row in COMMANDS.values())


def _unsupported() -> list[str]:
    """The unsupported commands, grouped by reason, with "not yet" first."""
    by_reason: dict[str, list[str]] = {}
    for row in COMMANDS.values():
        if row.behaviour is Behaviour.UNSUPPORTED:
            by_reason.setdefault(row.note, []).append(row.name.upper())
    reasons = sorted(by_reason, key=lambda reason: (not reason.startswith("not yet"), reason))
    return [f"- {reason}:\n  {', '.join(by_reason[reason])}" for reason in reasons]


def _policy(policy: str | None) -> str:
    return f"`{policy}`" if policy else "none"


if __name__ == "__main__":
    print(document(), end="")
