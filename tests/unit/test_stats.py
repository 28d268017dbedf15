"""Counters: the table, the shared memory, the JSON and its use by collectors."""

import contextlib
import json
import mmap
import os
import selectors
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nutproxy.stats import port
from nutproxy.stats.docs import page
from nutproxy.stats.report import Report
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab, bucket_of, latency_bounds, slab_memory
from nutproxy.stats.table import BESIDE, GLOBAL, POOL, SERVER, TABLE

ROOT = Path(__file__).parents[2]
NAMES = {section: [row.name for row in rows] for section, rows in TABLE.items()}


def pools(**servers):
    """PoolConfigs with the parts that statistics use: the names of pools and of their servers."""
    return [
        SimpleNamespace(name=name, servers=[SimpleNamespace(name=server) for server in names])
        for name, names in servers.items()
    ]


@pytest.fixture
def two_pools():
    return pools(alpha=["s1", "s2"], beta=["s1"])


@pytest.fixture
def memory(two_pools):
    fd = slab_memory(Rows.of(two_pools))
    yield fd
    os.close(fd)


def write(fd, cell, value):
    """Write a cell as another process that has mapped the memory would."""
    with mmap.mmap(fd, 0) as cells:
        struct.pack_into("=Q", cells, 8 * cell, value)


def report(fd, configs):
    return json.loads(Report([Slab(Rows.of(configs), fd)], configs).make())


# The table.


def test_names_are_unique_over_pools_and_servers():
    names = NAMES["pool"] + NAMES["server"]
    assert len(set(names)) == len(names)


def test_twemproxys_counters_come_first_and_ours_after_them():
    for rows in TABLE.values():
        order = [row.twemproxy for row in rows]
        assert order == sorted(order, reverse=True)


def test_cells_that_do_not_fit_the_table_fail_at_import():
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            "from nutproxy.stats import table; table.TABLE['pool'] = table.POOL[1:];"
            "import nutproxy.stats.report",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert answer.returncode == 1
    assert "the pool rows of slab.pxd and table.py differ" in answer.stderr


def test_page_in_the_repository_is_made_from_the_table():
    committed = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert committed == page(), "run: python -m nutproxy.stats.docs > docs/statistics.md"


# The memory.


def test_rows_are_consecutive_and_share_no_cache_line(two_pools, memory):
    slab = Slab(Rows.of(two_pools), memory)
    starts = [0, *slab.rows.used.values()]
    ends = [*starts[1:], slab.size // 8]
    sizes = [end - start for start, end in zip(starts, ends, strict=True)]
    server = len(SERVER) + len(latency_bounds())
    # Three cells of the global row are not shown.
    least = [len(GLOBAL) + 3, len(POOL), server, server, len(POOL), server]
    assert all(0 <= size - need < 8 for size, need in zip(sizes, least, strict=True))
    assert all(start % 8 == 0 for start in starts)
    assert slab.size == os.fstat(memory).st_size


def test_memory_is_shared_by_all_that_map_it(two_pools, memory):
    one, two = Slab(Rows.of(two_pools), memory), Slab(Rows.of(two_pools), memory)
    cell = one.rows.server("beta", "s1") + 3
    assert one.read(cell) == two.read(cell) == 0
    write(memory, cell, 2**64 - 1)
    assert one.read(cell) == two.read(cell) == 2**64 - 1


def test_there_is_no_cell_after_the_last(two_pools, memory):
    slab = Slab(Rows.of(two_pools), memory)
    with pytest.raises(IndexError):
        slab.read(slab.size // 8)


def test_memory_grows_and_nothing_moves(two_pools, memory):
    owner, worker = Slab(Rows.of(two_pools), memory), Slab(Rows.of(two_pools), memory)
    cell = owner.rows.server("beta", "s1")
    write(memory, cell, 7)
    more = pools(alpha=["s1"], beta=["s1"], gamma=[f"s{number}" for number in range(1000)])
    rows = owner.rows.after(more)
    with pytest.raises(OSError, match="bytes of shared memory"):
        worker.use(rows)
    owner.grow(rows)
    worker.use(rows)
    assert rows.server("beta", "s1") == cell
    assert worker.read(cell) == 7
    last = rows.server("gamma", "s999")
    write(memory, last, 9)
    assert owner.read(last) == worker.read(last) == 9
    assert owner.size == worker.size == os.fstat(memory).st_size == 8 * rows.end


# Whose the rows are.


def test_names_keep_their_rows_and_others_get_those_that_are_free(two_pools):
    first = Rows.of(two_pools)
    second = first.after(pools(alpha=["s2", "s3"], gamma=["s1"]))
    assert second.server("alpha", "s2") == first.server("alpha", "s2")
    # A worker may still use the rows that were left.
    assert not set(second.used.values()) & set(second.left.values())
    assert set(second.left) == {("alpha", "s1"), ("beta", ""), ("beta", "s1")}
    assert second.after(two_pools).used.items() >= first.used.items()
    third = second.released().after(pools(alpha=["s2", "s3", "s4", "s5", "s6"], gamma=["s1"]))
    assert third.server("alpha", "s4") == first.server("alpha", "s1")
    assert third.server("alpha", "s5") == first.server("beta", "s1")
    assert third.server("alpha", "s6") == second.end
    assert list(third.free) == [("beta", "")]
    assert len(set(third.used.values())) == len(third.used)


def test_counters_stay_until_the_row_has_another_owner(two_pools, memory):
    slab = Slab(Rows.of(two_pools), memory)
    cell = slab.rows.server("alpha", "s1")
    write(memory, cell, 5)
    slab.grow(slab.rows.after(pools(alpha=["s2"], beta=["s1"])))
    slab.grow(slab.rows.released())
    slab.grow(slab.rows.after(two_pools))
    assert (slab.rows.server("alpha", "s1"), slab.read(cell)) == (cell, 5)
    slab.grow(slab.rows.after(pools(alpha=["s2"], beta=["s1"])).released())
    slab.grow(slab.rows.after(pools(alpha=["s2"], beta=["s1", "s9"])))
    assert (slab.rows.server("beta", "s9"), slab.read(cell)) == (cell, 0)


def test_rows_travel_as_json(two_pools):
    rows = Rows.of(two_pools)
    assert Rows.unpack(json.loads(json.dumps(rows.pack()))) == rows


# Latency.


def test_buckets_hold_every_microsecond_once_and_are_an_eighth_wide_at_most():
    *bounds, last = latency_bounds()
    assert last == -1
    assert bounds == sorted(set(bounds))
    assert bounds[:16] == list(range(16))
    low = 0
    for number, bound in enumerate(bounds):
        assert bucket_of(low) == bucket_of(bound) == number
        assert bound - low <= low / 8
        low = bound + 1
    assert bounds[-1] > 100_000_000
    assert bucket_of(low) == bucket_of(2**63) == len(bounds)


# The JSON.


def test_figures_are_those_of_their_cells(two_pools, memory):
    slab = Slab(Rows.of(two_pools), memory)
    expected = {}
    for start, section, path in [
        (0, "global", ()),
        (slab.rows.pool("alpha"), "pool", ("alpha",)),
        (slab.rows.server("alpha", "s1"), "server", ("alpha", "s1")),
        (slab.rows.server("alpha", "s2"), "server", ("alpha", "s2")),
        (slab.rows.pool("beta"), "pool", ("beta",)),
        (slab.rows.server("beta", "s1"), "server", ("beta", "s1")),
    ]:
        for number, name in enumerate(NAMES[section]):
            if name != "latency":
                value = (start + number) * 10**15
                write(memory, start + number, value)
                expected[(*path, name)] = value
    found = report(memory, two_pools)
    for (*path, name), value in expected.items():
        part = found
        for step in path:
            part = part[step]
        assert part[name] == value


def test_latency_shows_the_buckets_that_are_not_empty(two_pools, memory):
    cell = Rows.of(two_pools).server("alpha", "s2") + NAMES["server"].index("latency")
    bounds = latency_bounds()
    write(memory, cell, 123)
    for bucket, count in [(3, 7), (40, 1), (len(bounds) - 1, 2)]:
        write(memory, cell + 1 + bucket, count)
    found = report(memory, two_pools)["alpha"]
    assert found["s1"]["latency"] == {"count": 0, "sum": 0, "buckets": {}}
    assert found["s2"]["latency"] == {
        "count": 10,
        "sum": 123,
        "buckets": {"3": 7, str(bounds[40]): 1, "inf": 2},
    }


def test_longest_report_fits_its_buffer(two_pools, memory):
    size = os.fstat(memory).st_size
    with mmap.mmap(memory, 0) as cells:
        cells[:] = b"\xff" * size
    found = report(memory, two_pools)
    assert found["beta"]["s1"]["out_queue_bytes"] == 2**64 - 1
    assert len(found["beta"]["s1"]["latency"]["buckets"]) == len(latency_bounds())


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "tab\there", "übel", "latency", "requests"])
def test_names_are_escaped_where_json_needs_it(name):
    configs = pools(**{name: [name, "other"]})
    fd = slab_memory(Rows.of(configs))
    text = Report([Slab(Rows.of(configs), fd)], configs).make()
    os.close(fd)
    found = json.loads(text)
    assert list(found)[-1] == name
    assert list(found[name])[-2:] == [name, "other"]
    assert name.isascii() or name.encode() in text


def test_names_at_the_level_of_pools_and_servers_are_known(two_pools, memory):
    found = report(memory, two_pools)
    assert list(found) == [*BESIDE["pool"], "alpha", "beta"]
    assert list(found["alpha"]) == [*BESIDE["server"], "s1", "s2"]


def test_a_name_that_means_something_else_there_gets_an_underscore():
    configs = pools(version=["fragments", "fragments_", "version"], uptime=["client_accepted"])
    fd = slab_memory(Rows.of(configs))
    pairs = json.loads(Report([Slab(Rows.of(configs), fd)], configs).make(), object_pairs_hook=list)
    os.close(fd)

    def names(pairs):
        return [name for name, _ in pairs]

    assert names(pairs) == [*BESIDE["pool"], "version_", "uptime_"]
    (_, one), (_, two) = pairs[-2:]
    assert names(one) == [*BESIDE["server"], "fragments__", "fragments_", "version"]
    assert names(two) == [*BESIDE["server"], "client_accepted_"]


def test_order_and_spacing_are_twemproxys():
    configs = pools(alpha=["s1", "s2"], beta=["s1"])
    fd = slab_memory(Rows.of(configs))
    text = Report([Slab(Rows.of(configs), fd)], configs).make().decode()
    os.close(fd)
    server = ", ".join(f'"{name}":0' for name in NAMES["server"][:-1])
    server = f'{{{server}, "latency": {{"count":0, "sum":0, "buckets": {{}}}}}}'
    pool = ", ".join(f'"{name}":0' for name in NAMES["pool"])
    head, _, tail = text.partition('"total_connections"')
    assert head.startswith('{"service":"nutcracker", "source":"')
    ours = ", ".join(f'"{row.name}":0' for row in GLOBAL if not row.twemproxy)
    assert tail == (
        f':0, "curr_connections":0, {ours}, "alpha": {{{pool}, "s1": {server},"s2": {server}}},'
        f'"beta": {{{pool}, "s1": {server}}}}}\n'
    )


def test_collectors_find_pools_servers_and_numbers_and_nothing_else(two_pools, memory):
    """Collectors take an object at the top level for a pool and an object in a pool for a server.
    Everything else at the top level is a number, except three names."""
    texts = {"service", "source", "version"}
    found = report(memory, two_pools)
    tops = {name for name, value in found.items() if isinstance(value, dict)}
    assert tops == {"alpha", "beta"}
    assert all(isinstance(found[name], int) for name in found.keys() - tops - texts)
    servers = {
        pool: {name for name, value in found[pool].items() if isinstance(value, dict)}
        for pool in tops
    }
    assert servers == {"alpha": {"s1", "s2"}, "beta": {"s1"}}
    for pool in tops:
        numbers = {name: value for name, value in found[pool].items() if name not in servers[pool]}
        assert list(numbers) == NAMES["pool"]
        assert all(isinstance(value, int) for value in numbers.values())
        for server in servers[pool]:
            shown = found[pool][server]
            assert [name for name, value in shown.items() if isinstance(value, int)] == NAMES[
                "server"
            ][:-1]
            assert [name for name, value in shown.items() if isinstance(value, dict)] == ["latency"]


# The port.


def test_a_reader_closed_for_a_new_one_is_not_served_any_more():
    """The selector may report a new reader and an event of the oldest one in the same turn."""
    listener = port.listen("127.0.0.1", 0)
    stats = port.StatsPort(listener, lambda: bytes(32 << 20))
    with contextlib.ExitStack() as stack:
        for _ in range(port.CLIENTS):
            stack.enter_context(socket.create_connection(listener.getsockname(), 10))
            stats.accept(selectors.EVENT_READ)
        oldest, *others = stats.readers.values()
        told = stats.selector.get_key(oldest.sock).data
        stack.enter_context(socket.create_connection(listener.getsockname(), 10))
        stats.accept(selectors.EVENT_READ)
        told(selectors.EVENT_READ)
        assert list(stats.readers.values())[:-1] == others
        stats.clear()
    stats.end.close()
