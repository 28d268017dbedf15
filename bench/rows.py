# bench/rows.py: what is measured
"""Every row of the benchmark: a load, what it is sent to, and how many requests make a measurement.

An id says what differs from the ordinary case, which is 50 clients that wait for each reply and
values of 3 bytes: `-c800` clients, `-p16` a pipeline of 16, `-1k` and `-1m` the size of a value,
`-s8` servers behind the pool (a multi-key request has 2 otherwise), `-open` open loop, `-connect` a
connection for each request. `calls-` and `instructions-` count instead of measuring time.

GET of 3 bytes is measured with 1, 50 and 800 clients and pipelines of 1, 16 and 100 in all nine
combinations. Left out is what repeats another row: SET and values of 1 KB with a single client's
pipeline or with 800 clients and none, where only the number of bytes or their direction differs
from that GET, and pipelines of MGET and of large values, which fill a turn of the loop anyway.
"""

from __future__ import annotations

import dataclasses
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
    "redis": Pool("redis", 1),
    "redis-2": Pool("redis", 2),
    "redis-8": Pool("redis", 8),
    "memcache": Pool("memcache", 1),
    "memcache-2": Pool("memcache", 2),
}


@dataclass(frozen=True)
class Row:
    """A kind of load. `requests` make a measurement: about a second of the slowest proxy's time."""

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
    main: bool = False  # shown in the charts

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
            f"over {servers} servers" if servers > 1 else "",
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


SINGLE, MANY, LARGE = "Redis, GET and SET", "Redis, many keys", "Redis, values of 1 MB"
MEMCACHED, OTHER = "Memcached", "Connections, and a fixed rate"


def single_key_rows() -> Iterator[Row]:
    # By clients and pipeline: as many as the slowest proxy answers in a second or two, and at least
    # six of the largest batches.
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
    main = {(50, 1), (50, 16), (800, 100)}
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
                main=size == 3 and (clients, pipeline) in main,
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
                    f"redis-{servers}",
                    is_set,
                    requests,
                    keys=keys,
                    # What 50 clients have in flight of the largest would be 15 MB.
                    clients=50 if keys < 10_000 else 4,
                    main=servers == 2,
                )


ROWS = [
    *single_key_rows(),
    *many_key_rows(),
    Row("redis-get-1m", LARGE, "redis", False, 600, MEGA, clients=8, tool=LOAD, main=True),
    Row("redis-set-1m", LARGE, "redis", True, 600, MEGA, clients=8, tool=LOAD, main=True),
    Row("memcache-get", MEMCACHED, "memcache", False, 60_000, tool=LOAD, main=True),
    Row("memcache-set", MEMCACHED, "memcache", True, 60_000, tool=LOAD, main=True),
    Row("memcache-get-p16", MEMCACHED, "memcache", False, 300_000, pipeline=16, tool=LOAD),
    Row("memcache-set-p16", MEMCACHED, "memcache", True, 300_000, pipeline=16, tool=LOAD),
    Row("memcache-get-100", MEMCACHED, "memcache-2", False, 8_000, keys=100, tool=LOAD, main=True),
    Row("redis-connect", OTHER, "redis", False, 10_000, tool=LOAD, reconnect=True, main=True),
    Row("memcache-connect", OTHER, "memcache", False, 10_000, tool=LOAD, reconnect=True, main=True),
    Row("redis-open", OTHER, "redis", False, 20_000, pipeline=100, tool=LOAD, rate=20_000),
    Row("memcache-open", OTHER, "memcache", False, 20_000, pipeline=100, tool=LOAD, rate=20_000),
]


def count(kind: str, id: str, requests: int, **changes: object) -> Count:
    """A row of ROWS as it is counted: with its own load, under an id of its own."""
    [row] = [row for row in ROWS if row.id == id]
    name = f"{kind}-{id}"
    changed = dataclasses.replace(row, id=name, requests=requests, tool=LOAD, **changes)  # type: ignore[arg-type]
    return Count(name, kind, changed)


COUNTS = [
    count("calls", "redis-get-c1", 2_000),
    count("calls", "redis-get", 10_000),
    count("calls", "redis-get-p16", 50_000),
    count("calls", "memcache-get", 10_000),
    count("calls", "redis-connect", 2_000),
    # One client: nothing is left to chance, such as how many requests one turn of the loop finds.
    count("instructions", "redis-get", 1_000, clients=1),
    count("instructions", "redis-set", 1_000, clients=1),
    count("instructions", "redis-get-p16", 16_000, clients=1),
    count("instructions", "redis-mget-100", 200, clients=1),
    count("instructions", "memcache-get", 1_000, clients=1),
    count("instructions", "memcache-set", 1_000, clients=1),
    count("instructions", "memcache-get-100", 200, clients=1),
]


def request(row: Row) -> bytes:
    """One request of the row, for its first keys."""
    keys = [b"v%d:%012d" % (row.size, number) for number in range(row.keys)]
    value = b"x" * row.size
    if row.protocol == "redis":
        many = b"M" if row.keys > 1 else b""
        words = [many + (b"SET" if row.is_set else b"GET")]
        for key in keys:
            words += [key, value] if row.is_set else [key]
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
    form = b"VALUE v%d:%012d 0 %d\r\n%s\r\n"
    return b"".join(form % (row.size, n, row.size, value) for n in range(row.keys)) + b"END\r\n"
