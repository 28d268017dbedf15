# bench/rows.py: what is measured
"""Every row of the benchmark: a load, what it is sent to, and how many requests make a measurement.

An id says what differs from the ordinary case, which is 50 clients that wait for each reply and
values of 3 bytes in a pool of two servers: `-c800` clients, `-p16` a pipeline of 16, `-1k` and
`-1m` the size of a value, `-s1` and `-s8` the number of servers, `-open` 20,000 requests a second
in open loop, `-connect` a connection for each request, `-at-50` half of nutcracker's capacity in
open loop. `calls-` and `instructions-` count instead of measuring time.

The core rows are measured in all three placements (bench/placement.py), the others in one.

GET of 3 bytes is measured with 1, 50 and 800 clients and pipelines of 1, 16 and 100 in all nine
combinations. Left out is what repeats another row: SET and values of 1 KB with a single client's
pipeline or with 800 clients and none, where only the number of bytes or their direction differs
from that GET, and pipelines of MGET and of large values, which fill a turn of the loop anyway.
"""

from __future__ import annotations

import dataclasses
import functools
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
    """A kind of load. `requests` are those of a round: about a second of the slowest proxy's
    time."""

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
    core: bool = False  # measured in all placements
    main: bool = False  # of the others: shown in their chart

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
            product = "Memcached"
            name = "set" if self.is_set else "get"
        size = {3: "3 bytes", KILO: "1 KB", MEGA: "1 MB"}[self.size]
        servers = POOLS[self.pool].servers
        parts = [
            f"{product} {name} of {f'{self.keys:,} keys' if many else size}",
            {1: "1 server", 2: ""}.get(servers, f"{servers} servers"),
            "1 client" if self.clients == 1 else f"{self.clients} clients",
            f"pipeline {self.pipeline}" if self.pipeline > 1 and not self.rate else "",
            f"{self.rate:,} requests a second, open loop" if self.rate else "",
            "a connection each" if self.reconnect else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Count:
    """Something that is counted by a tracer while a row runs, for nutproxy and nutcracker."""

    id: str
    kind: str  # "calls" or "instructions"
    row: Row

    @property
    def title(self) -> str:
        what = {"calls": "system calls", "instructions": "instructions"}[self.kind]
        return f"{what}: {self.row.title}"


@dataclass(frozen=True)
class Partial:
    """A row in open loop, at a share of what nutcracker does of it in closed loop; for nutproxy and
    nutcracker. The rate is known only when that has been measured."""

    id: str
    of: str  # the row's id
    percent: int
    row: Row

    @property
    def title(self) -> str:
        return f"{self.row.title}, open loop at {self.percent} % of nutcracker's capacity"

    def at(self, capacity: float, seconds: float) -> Row:
        """The row with its rate, for so long."""
        rate = max(1, round(capacity * self.percent / 100))
        requests = max(1, round(rate * seconds))
        # In open loop the pipeline is a bound, and this one is far away.
        return dataclasses.replace(self.row, rate=rate, requests=requests, pipeline=1000)


SINGLE, MANY, LARGE = "Redis, GET and SET", "Redis, many keys", "Redis, values of 1 MB"
MEMCACHED, OTHER = "Memcached", "Connections, and a fixed rate"


def single_key_rows() -> Iterator[Row]:
    # By clients and pipeline: as many as the slowest proxy answers in a second or two, and in each
    # of the two runs of a round three of the largest batches.
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
                # Long pipelines of 1 KB are bound by the bytes.
                count // 2 if size == KILO and pipeline > 1 else count,
                size=size,
                clients=clients,
                pipeline=pipeline,
                core=size == 3 and (clients, pipeline) in core,
                main=size == 3 and clients == 800 and pipeline in (1, 100),
            )


def many_key_rows() -> Iterator[Row]:
    for is_set in (False, True):
        # 1,000 is for the step to 10,000: ten times the keys, how many times the CPU?
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
                    # What 50 clients have in flight of the largest would be 15 MB.
                    clients=50 if keys < 10_000 else 4,
                    core=(keys, servers, is_set) == (100, 2, False),
                    main=servers == 2,
                )


def row(id: str) -> Row:
    [found] = [row for row in ROWS if row.id == id]
    return found


def one_server_rows() -> Iterator[Row]:
    """With one server nothing is hashed."""
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
    CONNECT("redis-connect", pool="redis", is_set=False, core=True),
    CONNECT("memcache-connect", pool="memcache", is_set=False, main=True),
    OPEN("redis-open", pool="redis"),
    OPEN("memcache-open", pool="memcache"),
]
ROWS += one_server_rows()

# Pipelines are left out: requests that are due one by one do not come in pipelines.
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
    """A row of ROWS as it is counted: with its own load, under an id of its own."""
    name = f"{kind}-{id}"
    changed = dataclasses.replace(row(id), id=name, requests=requests, tool=LOAD, **changes)  # type: ignore[arg-type]
    return Count(name, kind, changed)


COUNTS = [
    count("calls", "redis-get-c1", 2_000),
    count("calls", "redis-get", 10_000),
    count("calls", "redis-get-p16", 50_000),
    count("calls", "memcache-get", 10_000),
    count("calls", "redis-connect", 2_000),
    # One client: nothing is left to chance, such as how many requests one turn of the loop finds.
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
]


def key(size: int, number: int) -> bytes:
    """The digits come first: fnv1a_64 and ketama put keys that differ in their last bytes only on
    one server, most of all the hundred keys of 1 MB."""
    return b"%012d:v%d" % (number, size)


def request(row: Row) -> bytes:
    """One request of the row, for its first keys."""
    keys = [key(row.size, number) for number in range(row.keys)]
    value = b"x" * row.size
    if row.protocol == "redis":
        many = b"M" if row.keys > 1 else b""
        words = [many + (b"SET" if row.is_set else b"GET")]
        for each in keys:
            words += [each, value] if row.is_set else [each]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
    if row.is_set:
        return b"set %s 0 0 %d\r\n%s\r\n" % (keys[0], row.size, value)
    return b"get %s\r\n" % b" ".join(keys)


def reply(row: Row) -> bytes:
    """What it has to be answered with."""
    value = b"x" * row.size
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
