# nutproxy/plain.py: the values of a configuration, without the means to read a file
"""What a worker gets: plain objects with the attributes of Config, PoolConfig and GlobalConfig.

    master   Config ──pack──> JSON text      (pydantic, YAML)
    worker   JSON text ──unpack──> Plain     (neither of them)

A worker imports this module, and nothing of config/.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from nutproxy.hashkit.order import server_order_key

MAX_INT = 2**31 - 1
VERBOSE_MAX = 11


@dataclass(frozen=True)
class Address:
    """Where to listen or to connect: host and port for 'tcp', path for 'unix'.

    `host` is a name or an address; an IPv6 address has no brackets. It is not resolved here: a
    configuration is valid even if the name of a server does not resolve.
    """

    family: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.family == "unix":
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ServerConfig:
    """One entry of `servers`.

    `name` is hashed onto the ring. `named` is True if the file gives the name, False if it was made
    from the address. `weight` is at least 1. `line` is the line number of the entry.
    """

    name: str
    named: bool
    address: Address
    weight: int
    line: int


@dataclass(frozen=True)
class CustomCommand:
    """`name` is in lower case, `row` has the form of a row of proto/redis_commands.json."""

    name: str
    row: dict[str, Any]
    line: int


def index_order(name: str) -> tuple[int, bytes]:
    """The sort key for pools and servers: their names, in the order of the ring."""
    return server_order_key(name.encode())


def printable(text: str) -> str:
    """The text on one line, with line ends and control characters escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class Plain(NamedTuple):
    """A Config that has been unpacked. Its pools and `globals` have the attributes of PoolConfig
    and GlobalConfig."""

    pools: tuple[Any, ...]
    globals: Any
    path: str


# Attributes that JSON has no form for. Bytes are written as Latin-1 text.
BYTES = ("redis_auth", "hash_tag")
LEFT_OUT = ("line", "lines")


def pack(config: Any) -> str:
    """The text of a Config."""
    return json.dumps(
        {
            "pools": [pack_pool(pool) for pool in config.pools],
            "globals": dict(config.globals),
            "path": config.path,
        }
    )


def pack_pool(pool: Any) -> dict[str, Any]:
    values = {name: value for name, value in pool if name not in LEFT_OUT}
    for name in BYTES:
        values[name] = None if values[name] is None else values[name].decode("latin-1")
    values["listen"] = astuple(pool.listen)
    values["servers"] = [astuple(server) for server in pool.servers]
    values["custom_commands"] = [astuple(command) for command in pool.custom_commands]
    values["deny_commands"] = sorted(pool.deny_commands)
    return values


def unpack(text: str) -> Plain:
    """Raises ValueError, KeyError or TypeError if `pack` has not written the text."""
    found = json.loads(text)
    pools = tuple(map(unpack_pool, found["pools"]))
    return Plain(pools, SimpleNamespace(**found["globals"]), found["path"])


def unpack_pool(values: dict[str, Any]) -> Any:
    for name in BYTES:
        values[name] = None if values[name] is None else values[name].encode("latin-1")
    values["listen"] = Address(*values["listen"])
    values["servers"] = tuple(map(unpack_server, values["servers"]))
    values["custom_commands"] = tuple(CustomCommand(*each) for each in values["custom_commands"])
    values["deny_commands"] = frozenset(values["deny_commands"])
    return SimpleNamespace(**values)


def unpack_server(values: Iterable[Any]) -> ServerConfig:
    name, named, address, weight, line = values
    return ServerConfig(name, named, Address(*address), weight, line)
