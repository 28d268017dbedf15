# nutproxy/config/load.py: reads a configuration file and reports what is wrong with it
"""Reads a configuration file.

YAML is composed into nodes but not constructed into Python objects. A node knows its line, and
values such as `timeout: 0400` or `redis_auth: 0123` reach the value parsers as written, as in
twemproxy. Only `${NAME}` is replaced by the environment variable of that name (see values.Text).

    text ──read──> Sections ──check──> values ──> Config
             each key and value with      every finding is a Problem,
             its line                     and checking continues

One problem does not hide another. A wrong value is reported and replaced by its default, and the
rest of the pool is checked as if the key had not been set. Only for a file that is not YAML is a
single problem reported.
"""

import os
import re
import select
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from nutproxy.config.custom import ENTRIES_MAX
from nutproxy.config.model import (
    REQUIRED,
    Config,
    GlobalConfig,
    Keys,
    PoolConfig,
    PoolKeys,
    PoolSettings,
    accepted,
)
from nutproxy.config.users import name_of
from nutproxy.config.values import (
    MEMCACHE_COMMANDS,
    Fields,
    Items,
    Text,
    Unfit,
    command_name,
    did_you_mean,
    redis_commands,
)
from nutproxy.plain import Address, CustomCommand, ServerConfig, index_order, printable
from nutproxy.stats.table import shown_names

GLOBAL, DEFAULTS = "global", "defaults"
RESERVED = (GLOBAL, DEFAULTS)

# Requests are pipelined, so a few connections keep a single-threaded Redis busy. More than this
# only cost descriptors and buffers on both sides.
MANY_SERVER_CONNECTIONS = 16

# Enough for 100,000 servers. The limit is for devices and for large files named by mistake.
MAX_FILE = 4 << 20
# Seconds to wait for data from a pipe.
PIPE_PATIENCE = 10.0
STDIN, STDIN_NAME = "-", "<stdin>"

# Keys of redis.conf, other proxies and client libraries, with the key of nutproxy to suggest. They
# are compared in lower case, with dashes replaced by underscores.
SYNONYMS = {
    "address": "listen",
    "addr": "listen",
    "bind": "listen",
    "bind_address": "listen",
    "frontend": "listen",
    "host": "listen",
    "listen_addr": "listen",
    "listen_address": "listen",
    "listen_on": "listen",
    "listen_port": "listen",
    "listener": "listen",
    "port": "listen",
    "socket": "listen",
    "unixsocket": "listen",
    "backend": "servers",
    "backends": "servers",
    "endpoints": "servers",
    "hosts": "servers",
    "members": "servers",
    "nodes": "servers",
    "server": "servers",
    "shards": "servers",
    "upstream": "servers",
    "upstreams": "servers",
    "auth": "redis_auth",
    "auth_pass": "redis_auth",
    "masterauth": "redis_auth",
    "pass": "redis_auth",
    "passwd": "redis_auth",
    "password": "redis_auth",
    "redis_pass": "redis_auth",
    "redis_password": "redis_auth",
    "requirepass": "redis_auth",
    "database": "redis_db",
    "db": "redis_db",
    "redis_database": "redis_db",
    "select": "redis_db",
    "mode": "redis",
    "type": "redis",
    "hash_function": "hash",
    "hashing": "hash",
    "hashtag": "hash_tag",
    "algorithm": "distribution",
    "balance": "distribution",
    "ketama": "distribution",
    "lb_policy": "distribution",
    "connect_timeout": "timeout",
    "read_timeout": "timeout",
    "request_timeout": "timeout",
    "server_timeout": "timeout",
    "socket_timeout": "timeout",
    "timeout_ms": "timeout",
    "connections": "server_connections",
    "pool_size": "server_connections",
    "max_clients": "client_connections",
    "max_connections": "client_connections",
    "maxclients": "client_connections",
    "maxconn": "client_connections",
    "auto_eject": "auto_eject_hosts",
    "eject_hosts": "auto_eject_hosts",
    "failure_limit": "server_failure_limit",
    "max_failures": "server_failure_limit",
    "retries": "server_failure_limit",
    "retry_interval": "server_retry_timeout",
    "retry_timeout": "server_retry_timeout",
    "keepalive": "tcpkeepalive",
    "so_keepalive": "tcpkeepalive",
    "tcp_keepalive": "tcpkeepalive",
    "so_reuseport": "reuseport",
    "tcp_backlog": "backlog",
    "rename_command": "deny_commands",
    "log": "output",
    "log_file": "output",
    "logfile": "output",
    "log_level": "verbose",
    "loglevel": "verbose",
    "verbosity": "verbose",
}

KETAMA_POINTS_PER_SERVER = 160
KETAMA_POINTS_PER_HASH = 4

# Common mistakes that are not valid YAML, each with a hint.
_YAML_HINTS = (
    (
        re.compile(r"[\s:]\[[0-9A-Fa-f:.%a-z]*:[0-9A-Fa-f:.%a-z]*\]:"),
        "quote an address in brackets",
    ),
    (re.compile(r"\blisten:\s*\*:"), "write 0.0.0.0 for all addresses"),
    (re.compile(r"^ *\t"), "indent with spaces, not with tabs"),
)
_MAPPING_HINT = "check the indentation here and above, and look for a missing space after a colon"
# PyYAML's messages for a line that is neither a key nor a value. They do not help a reader who does
# not know that YAML takes `timeout:400` for a text.
_NO_KEY = ("mapping values are not allowed here", "could not find expected ':'")
_NO_BLANK = re.compile(r"^\s*(?:- +)?([A-Za-z_][A-Za-z0-9_-]*):(?=[^\s:/])")
_NO_BLANK_ITEM = re.compile(r"^\s*-(?=[^\s-])")

Section = TypeVar("Section", bound=Keys)


@dataclass(frozen=True)
class Problem:
    """One finding. `severity` is 'problem', which makes the file unusable, or 'warning'.

    `line`, `pool` and `key` are None if the finding is not about a single one. Outside pools, `key`
    has its section as a prefix, as in `global.verbose`.
    """

    severity: str
    file: str
    line: int | None
    pool: str | None
    key: str | None
    message: str

    def __str__(self) -> str:
        parts = [self.file if self.line is None else f"{self.file}:{self.line}"]
        if self.pool is not None:
            parts.append(f"pool '{self.pool}'")
        if self.key is not None:
            parts.append(self.key)
        if self.severity == "warning":
            parts.append("warning")
        return printable(": ".join([*parts, self.message]))


@dataclass
class Table:
    """A section as written: the value and the line of each key, and the keys with a problem."""

    name: str
    line: int
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    faulty: set[str] = field(default_factory=set)

    @property
    def pool(self) -> str | None:
        return None if self.name in RESERVED else self.name

    def label(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name in RESERVED else key


class Unreadable(Exception):
    """The file cannot be read or is not YAML. `line` is None if no line is the cause."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def load(path: str) -> tuple[Config | None, list[Problem]]:
    """Read the file at `path`, or standard input if `path` is "-".

    Returns the Config, or None if there is a problem, and all problems and warnings in the order of
    their lines. Raises no exception for any content of the file.
    """
    return _Loader(path).load()


class _Loader:
    """Reads one file and collects the findings."""

    def __init__(self, path: str) -> None:
        self.source = path
        self.path = STDIN_NAME if path == STDIN else path
        self.problems: list[Problem] = []

    def load(self) -> tuple[Config | None, list[Problem]]:
        try:
            root = _parse(self.source)
            tables = list(self._tables(root))
        except Unreadable as error:
            return None, [Problem("problem", self.path, error.line, None, None, str(error))]
        process, pools = self._check(tables)
        self.problems.sort(key=lambda problem: problem.line or 0)
        if any(problem.severity == "problem" for problem in self.problems):
            return None, self.problems
        pools.sort(key=lambda pool: index_order(pool.name))
        return Config(pools=tuple(pools), globals=process, path=self.path), self.problems

    # Findings.

    def _file_problem(self, line: int | None, message: str) -> None:
        self.problems.append(Problem("problem", self.path, line, None, None, message))

    def _problem(
        self, table: Table, key: str | None, message: str, line: int | None = None
    ) -> None:
        label = table.name if table.pool is None else None
        if key is not None:
            label = table.label(key)
            table.faulty.add(key)
        line = line or table.lines.get(key or "", table.line)
        self.problems.append(Problem("problem", self.path, line, table.pool, label, message))

    def _warning(self, table: Table, key: str | None, message: str, line: int) -> None:
        self.problems.append(Problem("warning", self.path, line, table.pool, key, message))

    # Reading: the contents of the sections.

    def _tables(self, root: yaml.Node) -> Iterator[Table]:
        if not isinstance(root, yaml.MappingNode):
            raise Unreadable("is not a mapping of pools by name", _line(root))
        first_lines: dict[str, int] = {}
        for name_node, node in root.value:
            line = _line(name_node)
            if not isinstance(name_node, yaml.ScalarNode) or not name_node.value:
                self._file_problem(line, "the name of a pool must be plain text")
                continue
            if not name_node.value.isprintable():
                # The name is part of error replies, which a line feed would break in two.
                self._file_problem(
                    line,
                    f"the name of pool '{name_node.value}' must not contain control characters",
                )
                continue
            table = Table(name_node.value, line)
            if table.name in first_lines:
                what = "section" if table.pool is None else "pool"
                self._problem(
                    table,
                    None,
                    f"duplicate {what}, first defined on line {first_lines[table.name]}",
                )
            first_lines.setdefault(table.name, line)
            if isinstance(node, yaml.MappingNode):
                self._fill(table, node)
                if _holds_pools(table):
                    self._problem(
                        table,
                        None,
                        "contains pools where keys are expected: write pools at the top level,"
                        f" remove '{table.name}:' and the indentation below it",
                    )
                    continue
            elif table.pool is None and _is_empty(node):
                pass
            else:
                self._problem(
                    table, None, f"is not a mapping of keys and values{_hint_of(table, node)}"
                )
                continue
            yield table
        if first_lines.keys() <= set(RESERVED):
            self._file_problem(None, "defines no pool")

    def _fill(self, table: Table, node: yaml.MappingNode) -> None:
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or not _is_name(key_node.value):
                self._problem(table, None, "has a key that is not plain text", line)
                continue
            key = key_node.value
            if key in table.lines:
                self._problem(
                    table, key, f"duplicate key, first set on line {table.lines[key]}", line
                )
                continue
            table.lines[key] = line
            table.values[key] = _value(value_node)

    # Checking: the meaning of the values.

    def _check(self, tables: list[Table]) -> tuple[GlobalConfig, list[PoolConfig]]:
        by_name = {table.name: table for table in reversed(tables)}
        defaults = by_name.get(DEFAULTS, Table(DEFAULTS, 0))
        process = self._validate(GlobalConfig, by_name.get(GLOBAL, Table(GLOBAL, 0)))
        keys = self._validate(PoolSettings, defaults)
        self._custom_commands(defaults, keys.custom_commands)
        known = _known_commands(keys) | MEMCACHE_COMMANDS
        self._unknown_commands(defaults, known, "Redis or Memcached")
        listens: dict[Address, Table] = {}
        named = [table for table in tables if table.pool is not None]
        pools = [self._pool(table, defaults, listens) for table in named]
        for table, shown in zip(
            named, shown_names("pool", [table.name for table in named]), strict=True
        ):
            if shown != table.name:
                message = f"the statistics already use this name and show the pool as '{shown}'"
                self._warning(table, None, message, table.line)
        return process, pools

    def _pool(self, table: Table, defaults: Table, listens: dict[Address, Table]) -> PoolConfig:
        keys = self._validate(PoolKeys, table, defaults)
        for key in REQUIRED:
            if key not in table.lines:
                accepts = accepted(PoolKeys.model_fields[key])
                self._problem(table, key, f"is missing, every pool needs it; accepted: {accepts}")
        if "servers" in table.values and table.values["servers"] == []:
            self._problem(table, "servers", NO_SERVERS)
        self._duplicate_listen(table, keys, listens)
        self._duplicate_servers(table, keys.servers)
        self._shared_addresses(table, keys.servers)
        self._custom_commands(table, keys.custom_commands)
        if "redis" not in table.faulty | (defaults.faulty - table.values.keys()):
            self._other_protocol(table, keys)
        pool = _pool_config(table, defaults, keys)
        self._warn(table, defaults, pool)
        return pool

    def _validate(
        self, section: type[Section], table: Table, defaults: Table | None = None
    ) -> Section:
        """The values of a section. A value that is not accepted is reported and replaced by its
        default."""
        inherited = {
            key: value
            for key, value in (defaults.values.items() if defaults is not None else ())
            if key in PoolSettings.model_fields
        }
        try:
            return section.model_validate(inherited | table.values)
        except ValidationError as error:
            details = error.errors(include_url=False)
        good = inherited | table.values
        bad_items: dict[str, set[int]] = {}
        for detail in details:
            key = str(detail["loc"][0])
            if key in table.values:
                line = detail["input"].line if len(detail["loc"]) > 1 else table.lines[key]
                message = _message(section, key, detail, table.values[key])
                self._problem(table, key, message, line)
            if len(detail["loc"]) > 1:
                bad_items.setdefault(key, set()).add(int(detail["loc"][1]))
            else:
                del good[key]
        for key, bad in bad_items.items():
            good[key] = [item for index, item in enumerate(good[key]) if index not in bad]
        return section.model_validate(good)

    def _other_protocol(self, table: Table, keys: PoolKeys) -> None:
        """Report keys of the pool itself that only the other protocol has."""
        if keys.redis_auth is not None and "redis_auth" in table.values and not keys.redis:
            self._problem(table, "redis_auth", "is only valid for a Redis pool, set 'redis: true'")
        if keys.on_dead_server == "miss" and "on_dead_server" in table.values and keys.redis:
            self._problem(
                table,
                "on_dead_server",
                "'miss' is only valid for a Memcached pool, set 'redis: false'",
            )
        if keys.users and "users" in table.values and keys.redis:
            self._problem(table, "users", "is only valid for a Memcached pool; use 'redis_auth'")
        if keys.protocol != "auto" and "protocol" in table.values and keys.redis:
            message = f"'{keys.protocol}' is only valid for a Memcached pool, set 'redis: false'"
            self._problem(table, "protocol", message)
        if keys.redis:
            self._unknown_commands(table, _known_commands(keys), "Redis")
        else:
            self._unknown_commands(table, MEMCACHE_COMMANDS, "Memcached")
            self._users(table, keys.users)
            # twemproxy ignores redis_db in such a pool, so this is only a warning.
            for key in ("redis_db", "databases", "admin_commands", "custom_commands"):
                if key in table.values and getattr(keys, key):
                    message = "has no effect in a Memcached pool"
                    self._warning(table, key, message, table.lines[key])

    def _unknown_commands(self, table: Table, known: frozenset[str], protocol: str) -> None:
        """Report entries of `deny_commands` that are not commands."""
        entries = table.values.get("deny_commands")
        for entry in entries if isinstance(entries, Items) else ():
            if not isinstance(entry, Text) or not entry or entry.fault:
                continue
            name = command_name(entry)
            if name not in known:
                hint = did_you_mean(name, sorted(known))
                message = f"'{entry}' is not a {protocol} command{hint}"
                self._problem(table, "deny_commands", message, entry.line)

    def _users(self, table: Table, entries: tuple[str, ...]) -> None:
        """Report a user who is named twice."""
        names = [name_of(entry) for entry in entries]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._problem(table, "users", f"user '{name}' is named twice")

    def _custom_commands(self, table: Table, commands: tuple[CustomCommand, ...]) -> None:
        """Report what is only wrong about them together."""
        first_lines: dict[str, int] = {}
        for command in commands if "custom_commands" in table.values else ():
            if command.name in first_lines:
                message = (
                    f"duplicate command '{command.name}', first on line {first_lines[command.name]}"
                )
                self._problem(table, "custom_commands", message, command.line)
            first_lines.setdefault(command.name, command.line)
        if len(first_lines) > ENTRIES_MAX:
            message = f"has {len(first_lines)} commands, accepted: at most {ENTRIES_MAX}"
            self._problem(table, "custom_commands", message)

    def _duplicate_listen(
        self, table: Table, keys: PoolKeys, listens: dict[Address, Table]
    ) -> None:
        if keys.listen is None:
            return
        first = listens.setdefault(keys.listen.address, table)
        if first is not table:
            self._problem(
                table,
                "listen",
                f"{keys.listen.address} is already used by pool '{first.name}'"
                f" on line {first.lines['listen']}",
            )

    def _duplicate_servers(self, table: Table, servers: tuple[ServerConfig, ...]) -> None:
        first_lines: dict[str, int] = {}
        for server in servers:
            if server.name in first_lines:
                self._problem(
                    table,
                    "servers",
                    f"duplicate server name '{server.name}',"
                    f" first used on line {first_lines[server.name]}",
                    server.line,
                )
            first_lines.setdefault(server.name, server.line)

    def _shared_addresses(self, table: Table, servers: tuple[ServerConfig, ...]) -> None:
        """Warn of one server under two names, which gets the keys of both. That is harmless, but
        rarely intended."""
        first: dict[Address, ServerConfig] = {}
        for server in servers:
            other = first.setdefault(server.address, server)
            if other.name != server.name:
                self._warning(
                    table,
                    "servers",
                    f"server '{server.name}' has the same address as '{other.name}' on line"
                    f" {other.line}, {server.address}: it gets the keys of both",
                    server.line,
                )

    def _warn(self, table: Table, defaults: Table, pool: PoolConfig) -> None:
        faulty = table.faulty | (defaults.faulty - table.values.keys())
        for key, message, causes, server in _warnings(pool):
            # A key with a problem has its default here, so a warning would not be about the file.
            if not faulty.isdisjoint({key, *causes}):
                continue
            line = table.lines.get(key) or defaults.lines.get(key) or table.line
            if server is not None:
                line = server.line
            self._warning(table, key, message, line)


NO_SERVERS = (
    "is empty, a pool needs at least one server;"
    f" accepted: {accepted(PoolKeys.model_fields['servers'])}"
)


def _holds_pools(table: Table) -> bool:
    """Whether every value of the section is a mapping, and no key is one of a pool."""
    return bool(table.values) and all(
        isinstance(value, Fields) and key not in PoolKeys.model_fields
        for key, value in table.values.items()
    )


def _hint_of(table: Table, node: yaml.Node) -> str:
    """A hint for a section that is not a mapping, or an empty string."""
    if table.name in PoolKeys.model_fields:
        return "; it is a key of a pool, indent it under its pool"
    if table.pool is not None and isinstance(node, yaml.SequenceNode):
        return " but a list; write each pool as 'NAME:' with its keys indented below"
    if isinstance(node, yaml.ScalarNode) and (found := _NO_BLANK.match(node.value)):
        return f"; a space is missing after '{found[1]}:'"
    return ""


class _Warning(NamedTuple):
    """A warning about `key`. It also depends on the values of `causes`."""

    key: str
    message: str
    causes: tuple[str, ...] = ()
    server: ServerConfig | None = None


def is_crc32_on_ketama(pool: PoolConfig) -> bool:
    """Whether crc32 with ketama sends all keys to one server. This has a warning of its own."""
    return len(pool.servers) > 1 and pool.hash == "crc32" and pool.distribution == "ketama"


def _warnings(pool: PoolConfig) -> Iterator[_Warning]:
    """Warnings about settings that are valid but harmful."""
    several = len(pool.servers) > 1
    if is_crc32_on_ketama(pool):
        yield _Warning(
            "hash",
            "crc32 has only 15 bits, so with ketama all keys go to one server; crc32a spreads them",
            causes=("distribution", "servers"),
        )
    if pool.auto_eject_hosts and pool.timeout is None:
        yield _Warning(
            "auto_eject_hosts",
            "without a timeout, a server that hangs is never ejected; set 'timeout'",
            causes=("timeout",),
        )
    for key in ("tcpkeepalive_idle", "tcpkeepalive_interval", "tcpkeepalive_count"):
        if getattr(pool, key) and not pool.tcpkeepalive:
            yield _Warning(key, "has no effect without 'tcpkeepalive: true'", ("tcpkeepalive",))
    if pool.server_connections > MANY_SERVER_CONNECTIONS:
        yield _Warning(
            "server_connections",
            f"{pool.server_connections} is more than a pool needs, because requests are pipelined;"
            f" 1 is enough for most pools, {MANY_SERVER_CONNECTIONS} for any",
        )
    if several and pool.distribution == "ketama":
        total = sum(server.weight for server in pool.servers)
        for server in pool.servers:
            if ketama_points(server.weight, total, len(pool.servers)) == 0:
                yield _Warning(
                    "servers",
                    f"server '{server.name}' gets no points in the ring and no keys:"
                    f" weight {server.weight} of {total} is too small",
                    causes=("distribution",),
                    server=server,
                )
    names = shown_names("server", [server.name for server in pool.servers])
    for server, shown in zip(pool.servers, names, strict=True):
        if shown != server.name:
            yield _Warning(
                "servers",
                f"the statistics already have a counter named '{server.name}' and show the server"
                f" as '{shown}'",
                server=server,
            )


def ketama_points(weight: int, total_weight: int, servers: int) -> int:
    """The points of one server in twemproxy's ring of `servers` servers, all of them live.

    Each step is rounded to a 32-bit float, as in C on x86-64. The result is rounded down, so an
    error in the last bit can change it by four points.
    """
    share = _float32(_float32(weight) / _float32(total_weight))
    points = _float32(share * KETAMA_POINTS_PER_SERVER)
    points = _float32(_float32(points / KETAMA_POINTS_PER_HASH) * servers)
    return int(_float32(points + 0.0000000001)) * KETAMA_POINTS_PER_HASH


def _float32(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


def _pool_config(table: Table, defaults: Table, keys: PoolKeys) -> PoolConfig:
    settings = {key: getattr(keys, key) for key in PoolSettings.model_fields}
    if keys.redis:
        settings |= {"on_dead_server": "error", "protocol": "auto", "users": ()}
    else:
        settings |= {"redis_auth": None, "redis_db": 0, "admin_commands": False}
        settings |= {"custom_commands": ()}
    if keys.redis_db and "databases" not in table.values | defaults.values:
        settings["databases"] = 1
    known = _known_commands(keys) if keys.redis else MEMCACHE_COMMANDS
    settings["deny_commands"] = known.intersection(keys.deny_commands)
    return PoolConfig.model_construct(
        **settings,
        name=table.name,
        line=table.line,
        lines=defaults.lines | table.lines,
        listen=keys.listen.address if keys.listen else None,
        listen_permissions=keys.listen.permissions if keys.listen else None,
        servers=tuple(sorted(keys.servers, key=lambda server: index_order(server.name))),
    )


def _known_commands(keys: PoolSettings) -> frozenset[str]:
    """The commands of a Redis pool."""
    return frozenset(redis_commands()).union(command.name for command in keys.custom_commands)


def _message(section: type[Keys], key: str, detail: Any, value: Any) -> str:
    """The message about the value of a key, made from pydantic's error."""
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(section, key)
    row = section.model_fields[key]
    if kind == "value_error":
        error = detail["ctx"]["error"]
        if not isinstance(error, Unfit):
            return str(error)
        entry = f"entry {detail['loc'][1] + 1} " if len(detail["loc"]) > 1 else ""
        return f"{entry}{error}, accepted: {accepted(row)}"
    if kind == "tuple_type" and value == "" and key == "servers":
        return NO_SERVERS
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"{value} is out of range, accepted: {accepted(row)}"
    if kind == "literal_error":
        hint = did_you_mean(value, accepted(row).split(", "))
        return f"'{value}' is not a valid {key}, accepted: {accepted(row)}{hint}"
    hint = ""
    if isinstance(value, Text) and _NO_BLANK_ITEM.match(value):
        hint = "; a space is missing after '-'"
    return f"is not a list, accepted: {accepted(row)}{hint}"


def _unknown_key(section: type[Keys], key: str) -> str:
    if key == "<<":
        return "merge keys are not supported, put common values under 'defaults'"
    if section is GlobalConfig and key in PoolKeys.model_fields:
        return "is a key of a pool; 'global' is for process settings and cannot be a pool's name"
    if section is PoolSettings and key in REQUIRED:
        return "cannot be a default, every pool needs its own"
    if section is not GlobalConfig and key in GlobalConfig.model_fields:
        return "is a process setting, it belongs under 'global'"
    plain = key.lower().replace("-", "_")
    meant = SYNONYMS.get(plain)
    if meant is None or (section is GlobalConfig and meant not in GlobalConfig.model_fields):
        return f"unknown key{did_you_mean(plain, section.model_fields)}"
    if meant in section.model_fields:
        return f"unknown key, did you mean '{meant}'?"
    if meant in REQUIRED:
        return f"unknown key, did you mean '{meant}' of a pool?"
    return f"unknown key, did you mean '{meant}' under 'global'?"


class _YamlLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML, but with tabs between tokens allowed as in libyaml.

    twemproxy uses libyaml, so existing files contain such tabs. PyYAML's binding of libyaml cannot
    be used instead, because it crashes on deep nesting.
    """

    def scan_to_next_token(self) -> None:
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self.allow_simple_key):
            self.forward()
            super().scan_to_next_token()


def _read(path: str) -> bytes:
    """The content of a file, a pipe, or standard input for "-". Reads at most MAX_FILE + 1 bytes.
    Raises OSError."""
    if path == STDIN:
        return sys.stdin.buffer.read(MAX_FILE + 1)
    # Without O_NONBLOCK, opening a FIFO blocks until it has a writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        ready = select.poll()
        ready.register(fd, select.POLLIN)
        raw = bytearray()
        while len(raw) <= MAX_FILE:
            if not regular and not ready.poll(PIPE_PATIENCE * 1000):
                raise TimeoutError(0, f"nothing was written to it for {PIPE_PATIENCE:g} s")
            part = file.read(MAX_FILE + 1 - len(raw))
            if part == b"":
                break
            raw += part or b""
    return bytes(raw)


def _parse(path: str) -> yaml.Node:
    """The root node of a YAML file; raises Unreadable."""
    try:
        raw = _read(path)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Unreadable(f"cannot be read: {error}") from None
    if len(raw) > MAX_FILE:
        raise Unreadable(f"is not a configuration: larger than {MAX_FILE >> 20} MB")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"is not UTF-8 text: byte 0x{raw[error.start]:02x}", line) from None
    try:
        root = yaml.compose(text, Loader=_YamlLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(text, error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(f"is not YAML: control character 0x{error.character:02x}", line) from None
    except RecursionError:
        raise Unreadable("is not a configuration: nested too deeply") from None
    if root is None:
        raise Unreadable("is empty, at least one pool is needed")
    return root


def _syntax_error(text: str, error: yaml.MarkedYAMLError) -> Unreadable:
    mark = error.problem_mark or error.context_mark
    if mark is not None and error.context_mark is not None and mark.index >= len(text.rstrip()):
        # Something is not closed. Report the line where it begins.
        mark = error.context_mark
    message = ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return Unreadable(f"YAML syntax: {message}")
    lines = text.splitlines()
    if error.problem in _NO_KEY and (missing := _missing_blank(lines, mark.line)):
        return missing
    source = lines[mark.line] if mark.line < len(lines) else ""
    for pattern, hint in _YAML_HINTS:
        if pattern.search(source):
            message = f"{message}; {hint}"
    if message == "mapping values are not allowed here":
        message = f"{message}; {_MAPPING_HINT}"
    # The error may be after the last line. Report the last line instead.
    line = min(mark.line + 1, max(1, len(text.rstrip().splitlines())))
    return Unreadable(f"YAML syntax: {message}", line)


def _missing_blank(lines: list[str], number: int) -> Unreadable | None:
    """The error for a missing space after a colon or a dash, or None.

    Starts at line `number`, counted from 0, and goes up over lines that lack the space. Reports the
    topmost of them."""
    first = None
    for index in range(min(number, len(lines) - 1), -1, -1):
        found = _NO_BLANK.match(lines[index]) or _NO_BLANK_ITEM.match(lines[index])
        if found:
            first = index, found[0].split()[-1]
        elif index < number and lines[index].strip() and not lines[index].lstrip().startswith("#"):
            break
    if first is None:
        return None
    return Unreadable(f"YAML syntax: a space is missing after '{first[1]}'", first[0] + 1)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_name(text: str) -> bool:
    return bool(text) and text.isprintable()


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


def _value(node: yaml.Node) -> Any:
    """A value as Text, Items or Fields.

    Nested lists become empty lists, because no key accepts a list of lists. This also ends a list
    that contains itself through an alias. No key accepts a mapping either; only whether it is empty
    matters.
    """
    line = _line(node)
    if isinstance(node, yaml.ScalarNode):
        return Text(node.value, line)
    if isinstance(node, yaml.MappingNode):
        return Fields({"": ""} if node.value else {}, line)
    items = (
        Items([], _line(item)) if isinstance(item, yaml.SequenceNode) else _value(item)
        for item in node.value
    )
    return Items(items, line)
