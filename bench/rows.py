# bench/rows.py: the rows of the benchmark
"""A row is a load, the pool that it is sent to, and the number of requests of a measurement.

By default there are 50 clients that wait for each reply, values of 3 bytes, and a pool of two
servers. The id of a row says what is different: `-c800` clients, `-p16` a pipeline of 16, `-1k` and
`-1m` the size of a value, `-s1` and `-s8` the number of servers, `-open` 20,000 requests a second
in open loop, `-connect` a connection for each request, `-at-50` half of nutcracker's capacity in
open loop, `-changing` one client, then 200, then 8, each for a second. `-binary` is memcached's
binary protocol, which nutcracker does not speak. `calls-` and `instructions-` count instead of
measuring time.

The core rows are measured in all three placements (bench/placement.py), the others in one.

GET of 3 bytes is measured in all nine combinations of 1, 50 and 800 clients with pipelines of 1, 16
and 100. Rows that would repeat others are left out: SET and values of 1 KB with one client and a
pipeline, or with 800 clients and no pipeline, differ from that GET only in the number of bytes or
their direction. MGET and large values have no pipelines, because they fill a turn of the loop
anyway.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

KILO, MEGA = 1024, 1024 * 1024
SPACE = {3: 10_000, KILO: 10_000, MEGA: 100}  # different keys, by the size of their values

REDIS_BENCHMARK, LOAD = "redis-benchmark", "load"


@dataclass(frozen=True)
class Pool:
    protocol: str
    servers: int


POOLS = {
    "redis": Pool("redis", 2),
    "redis-1": Pool("redis", 1),
    "redis-8": Pool("redis", 8),
    "memcache": Pool("memcache", 2),
    "memcache-1": Pool("memcache", 1),
}


@dataclass(frozen=True)
class Row:
    """A kind of load. `requests` is the number in a round, about one second for the slowest
    proxy."""

    id: str
    group: str
    pool: str
    is_set: bool
    requests: int
    size: int = 3
    keys: int = 1
    clients: int = 50
    pipeline: int = 1
    tool: str = REDIS_BENCHMARK
    rate: int = 0  # requests a second; 0 is closed loop
    reconnect: bool = False
    changing: str = ""  # clients by second; `requests` is then the number of seconds
    binary: bool = False  # the binary protocol of memcached
    core: bool = False  # measured in all placements
    main: bool = False  # shown in the chart of the rows outside of the core

    @property
    def protocol(self) -> str:
        return POOLS[self.pool].protocol

    @property
    def title(self) -> str:
        many = self.keys > 1
        if self.protocol == "redis":
            product = "Redis"
            name = ("M" if many else "") + ("SET" if self.is_set else "GET")
        else:
            product = "Memcached, binary:" if self.binary else "Memcached"
            name = "set" if self.is_set else "get"
        size = {3: "3 bytes", KILO: "1 KB", MEGA: "1 MB"}[self.size]
        servers = POOLS[self.pool].servers
        parts = [
            f"{product} {name} of {f'{self.keys:,} keys' if many else size}",
            {1: "1 server", 2: ""}.get(servers, f"{servers} servers"),
            "1 client" if self.clients == 1 else f"{self.clients} clients" * (not self.changing),
            f"pipeline {self.pipeline}" if self.pipeline > 1 and not self.rate else "",
            f"{self.rate:,} requests a second, open loop" if self.rate else "",
            "a connection each" if self.reconnect else "",
            f"{self.changing} clients by second" if self.changing else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Count:
    """A row during which a tracer counts, for nutproxy and nutcracker."""

    id: str
    kind: str  # "calls" or "instructions"
    row: Row

    @property
    def title(self) -> str:
        what = {"calls": "system calls", "instructions": "instructions"}[self.kind]
        return f"{what}: {self.row.title}"


@dataclass(frozen=True)
class Partial:
    """A row in open loop, for nutproxy and nutcracker. Its rate is a percentage of nutcracker's
    rate in closed loop, so it is known only when that has been measured."""

    id: str
    of: str  # the row's id
    percent: int
    row: Row

    @property
    def title(self) -> str:
        return f"{self.row.title}, open loop at {self.percent} % of nutcracker's capacity"

    def at(self, capacity: float, seconds: float) -> Row:
        """The row with its rate, and with the requests of this many seconds."""
        rate = max(1, round(capacity * self.percent / 100))
        requests = max(1, round(rate * seconds))
        # In open loop the pipeline is only a limit, and this one is never reached.
        return dataclasses.replace(self.row, rate=rate, requests=requests, pipeline=1000)


SINGLE, MANY, LARGE = "Redis, GET and SET", "Redis, many keys", "Redis, values of 1 MB"
MEMCACHED, OTHER = "Memcached", "Connections, and a fixed rate"


def single_key_rows() -> Iterator[Row]:
    # By clients and pipeline: the requests of the slowest proxy in a second or two, and at least
    # three batches of all clients in each of the two runs of a round.
    requests = {
        (1, 1): 12_000,
        (1, 16): 200_000,
        (1, 100): 400_000,
        (50, 1): 60_000,
        (50, 16): 500_000,
        (50, 100): 400_000,
        (800, 1): 50_000,
        (800, 16): 300_000,
        (800, 100): 480_000,
    }
    ends = [(1, 1), (50, 1), (50, 16), (50, 100), (800, 100)]
    core = {(50, 1), (50, 16)}
    for size, is_set, shapes in (
        (3, False, list(requests)),
        (3, True, ends),
        (KILO, False, ends),
        (KILO, True, ends),
    ):
        for clients, pipeline in shapes:
            name = f"redis-{'set' if is_set else 'get'}{'-1k' if size == KILO else ''}"
            name += f"-c{clients}" if clients != 50 else ""
            name += f"-p{pipeline}" if pipeline != 1 else ""
            count = requests[clients, pipeline]
            yield Row(
                name,
                SINGLE,
                "redis",
                is_set,
                # The cost of long pipelines of 1 KB values is that of their bytes.
                count // 2 if size == KILO and pipeline > 1 else count,
                size=size,
                clients=clients,
                pipeline=pipeline,
                core=size == 3 and (clients, pipeline) in core,
                main=size == 3 and clients == 800 and pipeline in (1, 100),
            )


def many_key_rows() -> Iterator[Row]:
    for is_set in (False, True):
        # 1,000 and 10,000 show how the cost grows with ten times the keys.
        for keys, requests in ((10, 25_000), (100, 10_000), (1_000, 2_000), (10_000, 200)):
            for servers in (2, 8):
                name = f"redis-{'mset' if is_set else 'mget'}-{keys}"
                yield Row(
                    name + ("-s8" if servers == 8 else ""),
                    MANY,
                    "redis" if servers == 2 else "redis-8",
                    is_set,
                    requests,
                    keys=keys,
                    # With 50 clients the largest requests in flight would be 15 MB.
                    clients=50 if keys < 10_000 else 4,
                    core=(keys, servers, is_set) == (100, 2, False),
                    main=servers == 2,
                )


def row(id: str) -> Row:
    [found] = [row for row in ROWS if row.id == id]
    return found


def one_server_rows() -> Iterator[Row]:
    """With one server no key is hashed."""
    for id in ("redis-get", "redis-get-p16", "memcache-get"):
        several = row(id)
        pool = f"{several.pool}-1"
        yield dataclasses.replace(several, id=f"{id}-s1", pool=pool, core=False, main=False)


MEMCACHE = functools.partial(Row, group=MEMCACHED, pool="memcache", tool=LOAD)
CONNECT = functools.partial(Row, group=OTHER, requests=10_000, tool=LOAD, reconnect=True)
OPEN = functools.partial(
    Row, group=OTHER, is_set=False, requests=20_000, pipeline=100, tool=LOAD, rate=20_000
)

ROWS = [
    *single_key_rows(),
    *many_key_rows(),
    Row("redis-get-1m", LARGE, "redis", False, 600, MEGA, clients=8, tool=LOAD, core=True),
    Row("redis-set-1m", LARGE, "redis", True, 600, MEGA, clients=8, tool=LOAD, main=True),
    MEMCACHE("memcache-get", is_set=False, requests=60_000, core=True),
    MEMCACHE("memcache-set", is_set=True, requests=60_000, core=True),
    MEMCACHE("memcache-get-p16", is_set=False, requests=300_000, pipeline=16, core=True),
    MEMCACHE("memcache-set-p16", is_set=True, requests=300_000, pipeline=16, main=True),
    MEMCACHE("memcache-get-100", is_set=False, requests=8_000, keys=100, main=True),
    MEMCACHE("memcache-binary-get", is_set=False, requests=60_000, binary=True),
    MEMCACHE("memcache-binary-set", is_set=True, requests=60_000, binary=True),
    MEMCACHE("memcache-binary-get-p16", is_set=False, requests=300_000, pipeline=16, binary=True),
    MEMCACHE("memcache-binary-get-100", is_set=False, requests=8_000, keys=100, binary=True),
    CONNECT("redis-connect", pool="redis", is_set=False, core=True),
    CONNECT("memcache-connect", pool="memcache", is_set=False, main=True),
    OPEN("redis-open", pool="redis"),
    OPEN("memcache-open", pool="memcache"),
]
ROWS += one_server_rows()
ROWS += [
    dataclasses.replace(row("redis-get"), id=id, core=False, main=False, **shape)
    for id, shape in (
        ("redis-get-c8", {"clients": 8, "requests": 50_000}),
        ("redis-get-c200", {"clients": 200}),
        ("redis-get-p4", {"pipeline": 4, "requests": 200_000}),
        ("redis-get-changing", {"changing": "1,200,8", "requests": 6, "tool": LOAD}),
    )
]

# The rows with and without `coalesce`, and those in open loop (PARTIALS).
COALESCE = [
    row(id)
    for id in (
        "redis-get-c1",
        "redis-get-c8",
        "redis-get",
        "redis-get-c200",
        "redis-get-p4",
        "redis-get-p16",
        "redis-get-1k",
        "redis-set",
        "redis-mget-100",
        "redis-mset-100",
        "memcache-get",
        "memcache-set",
        "redis-get-changing",
    )
]

# Without pipelines: in open loop, requests are sent one by one.
PARTIALS = [
    Partial(
        id=f"{id}-at-{percent}",
        of=id,
        percent=percent,
        row=dataclasses.replace(row(id), id=f"{id}-at-{percent}", tool=LOAD),
    )
    for id in ("redis-get", "memcache-get")
    for percent in (20, 50, 80)
]


def count(kind: str, id: str, requests: int, **changes: object) -> Count:
    """A row of ROWS for a tracer, with its own id and number of requests."""
    name = f"{kind}-{id}"
    changed = dataclasses.replace(row(id), id=name, requests=requests, tool=LOAD, **changes)  # type: ignore[arg-type]
    return Count(name, kind, changed)


COUNTS = [
    count("calls", "redis-get-c1", 2_000),
    count("calls", "redis-get", 10_000),
    count("calls", "redis-get-p16", 50_000),
    count("calls", "memcache-get", 10_000),
    count("calls", "redis-connect", 2_000),
    # With one client the counts do not depend on chance, such as how many requests a turn finds.
    count("instructions", "redis-get", 1_000, clients=1),
    count("instructions", "redis-get-s1", 1_000, clients=1),
    count("instructions", "redis-set", 1_000, clients=1),
    count("instructions", "redis-get-p16", 16_000, clients=1),
    count("instructions", "redis-get-p16-s1", 16_000, clients=1),
    count("instructions", "redis-mget-100", 200, clients=1),
    count("instructions", "memcache-get", 1_000, clients=1),
    count("instructions", "memcache-get-s1", 1_000, clients=1),
    count("instructions", "memcache-set", 1_000, clients=1),
    count("instructions", "memcache-get-100", 200, clients=1),
    count("instructions", "memcache-binary-get", 1_000, clients=1),
    count("instructions", "memcache-binary-set", 1_000, clients=1),
    count("instructions", "memcache-binary-get-100", 200, clients=1),
]


def key(size: int, number: int) -> bytes:
    """The digits come first, because fnv1a_64 and ketama put keys that differ only in their last
    bytes on one server. This matters most for the hundred keys of 1 MB."""
    return b"%012d:v%d" % (number, size)


def request(row: Row) -> bytes:
    """One request of the row, for its first keys."""
    keys = [key(row.size, number) for number in range(row.keys)]
    value = b"x" * row.size
    if row.binary:
        if row.is_set:
            return packet(0x80, SET, bytes(8), keys[0], value)
        if row.keys == 1:
            return packet(0x80, GET, key=keys[0])
        quiet = (packet(0x80, GETKQ, key=each) for each in keys)
        return b"".join(quiet) + packet(0x80, NOOP)
    if row.protocol == "redis":
        many = b"M" if row.keys > 1 else b""
        words = [many + (b"SET" if row.is_set else b"GET")]
        for each in keys:
            words += [each, value] if row.is_set else [each]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
    if row.is_set:
        return b"set %s 0 0 %d\r\n%s\r\n" % (keys[0], row.size, value)
    return b"get %s\r\n" % b" ".join(keys)


GET, SET, NOOP, GETKQ = 0x00, 0x01, 0x0A, 0x0D
HEADER = struct.Struct(">BBHBBHIIQ")


def packet(
    magic: int, opcode: int, extras: bytes = b"", key: bytes = b"", value: bytes = b""
) -> bytes:
    """A request or a response of memcached's binary protocol, with the unique value 0."""
    body = extras + key + value
    return HEADER.pack(magic, opcode, len(key), len(extras), 0, 0, len(body), 0, 0) + body


def without_unique_values(packets: bytes) -> bytes:
    """The same, with the unique value 0 in each."""
    found, at = bytearray(packets), 0
    while at + HEADER.size <= len(found):
        found[at + 16 : at + 24] = bytes(8)
        at += HEADER.size + int.from_bytes(found[at + 8 : at + 12], "big")
    return bytes(found)


def reply(row: Row) -> bytes:
    """The expected reply to `request`. In the binary protocol, see `without_unique_values`."""
    value = b"x" * row.size
    if row.binary:
        if row.is_set:
            return packet(0x81, SET)
        if row.keys == 1:
            return packet(0x81, GET, bytes(4), value=value)
        values = (packet(0x81, GETKQ, bytes(4), key(row.size, n), value) for n in range(row.keys))
        return b"".join(values) + packet(0x81, NOOP)
    if row.protocol == "redis":
        if row.is_set:
            return b"+OK\r\n"
        array = b"*%d\r\n" % row.keys if row.keys > 1 else b""
        return array + b"$%d\r\n%s\r\n" % (row.size, value) * row.keys
    if row.is_set:
        return b"STORED\r\n"
    form = b"VALUE %s 0 %d\r\n%s\r\n"
    values = (form % (key(row.size, n), row.size, value) for n in range(row.keys))
    return b"".join(values) + b"END\r\n"
