# tests/unit/test_bench.py: what the benchmark computes, and how it shows it
"""The parts of bench/ that need no proxy: the histogram, the statistics, what is read from the
programs it starts, tables, charts and the command line."""

import ctypes
import io
import random
import re
import subprocess
import xml.dom.minidom
from pathlib import Path

import pytest

import bench
from bench import chart, measure, memory, report, tracers
from bench.__main__ import arguments, main
from bench.measure import Load, Sample
from bench.memory import Measured
from bench.progress import Progress
from bench.report import Results
from bench.rows import COUNTS, ROWS, reply, request
from tests.client import request as redis_request

BENCH = Path(bench.__file__).parent


def row(id):
    [found] = [row for row in [*ROWS, *(count.row for count in COUNTS)] if row.id == id]
    return found


def sample(cpu, rps=1000.0):
    return Sample(Load(rps, p50=0.5, p99=1.5, p99_9=2.5, max=3.5), cpu, user=cpu / 10)


# The histogram.


@pytest.fixture(scope="module")
def histogram(tmp_path_factory):
    """bench/histogram.h as a library."""
    library = tmp_path_factory.mktemp("histogram") / "histogram.so"
    source = BENCH / "histogram.h"
    subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-o", library, source], check=True)
    found = ctypes.CDLL(str(library))
    found.histogram_add.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    found.histogram_upper.restype = ctypes.c_uint64
    found.histogram_bucket.argtypes = [ctypes.c_uint64]
    found.histogram_percentile.argtypes = [ctypes.c_void_p, ctypes.c_double]
    found.histogram_percentile.restype = ctypes.c_uint64
    return found


def filled(histogram, values):
    memory = ctypes.create_string_buffer(8 * (64 * 59 + 2))
    for value in values:
        histogram.histogram_add(memory, value)
    return lambda percent: histogram.histogram_percentile(memory, percent)


def test_bucket_holds_its_value_and_is_at_most_a_64th_wide(histogram):
    edges = [base + offset for base in (1 << n for n in range(1, 64)) for offset in (-1, 0, 1)]
    for value in [0, *edges, (1 << 64) - 1]:
        bucket = histogram.histogram_bucket(value)
        assert bucket < 64 * 59
        assert value <= histogram.histogram_upper(bucket) <= value + value // 64
        assert bucket == 0 or histogram.histogram_upper(bucket - 1) < value


def test_percentiles_are_those_of_the_sorted_values(histogram):
    chance = random.Random(1)
    values = sorted(int(chance.lognormvariate(12, 2)) for _ in range(10_000))
    percentile = filled(histogram, values)
    for percent in (0.01, 50, 99, 99.9):
        exact = values[max(round(len(values) * percent / 100), 1) - 1]
        assert exact <= percentile(percent) <= exact * 65 / 64
    assert percentile(100) == values[-1]


def test_empty_histogram_has_zero_at_every_percentile(histogram):
    assert filled(histogram, [])(50) == 0


# Statistics.


def test_spread_is_from_the_least_to_the_greatest_in_parts_of_the_median():
    assert report.spread([10.0, 8.0, 13.0]) == pytest.approx(0.5)
    assert report.spread([7.0]) == 0


def test_ratio_is_that_of_the_medians_and_none_without_a_partner():
    by_peer = {"nutproxy": [sample(1), sample(2), sample(90)], "nutcracker": [sample(4)] * 3}
    assert report.ratio(by_peer, "nutproxy", "nutcracker") == 0.5
    assert report.ratio(by_peer, "nutproxy", "echo") is None


def test_count_per_request_is_the_difference_of_two_runs():
    runs = {
        100: {"recvfrom": 250, "accept4": 50},
        300: {"recvfrom": 650, "accept4": 50, "brk": 100},
    }
    assert tracers.per_request(lambda n: runs[n], 100) == {"recvfrom": 2.0, "brk": 0.5}


# What other programs print.


def test_redis_benchmark_is_read_also_behind_the_name_of_a_long_command():
    name = "MGET " + "v3:__rand_int__ " * 10_000
    head = '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms"\n'
    output = f'{head}"{name}","1937.98","12.0","1.0","12.793","20.5","24.383","30.255"\n'
    assert measure.parse_redis_benchmark(output) == Load(1937.98, 12.793, 24.383, None, 30.255)


def test_redis_benchmark_without_a_result_is_an_error():
    with pytest.raises(SystemExit, match="redis-benchmark printed no result"):
        measure.parse_redis_benchmark("WARNING: Could not fetch server CONFIG\n")


def test_latencies_of_the_load_generator_become_milliseconds():
    output = (
        '{"requests": 10, "seconds": 0.1, "requests_per_second": 100.0,'
        ' "latency_us": {"p50": 421.0, "p99": 1000.0, "p99_9": 2000.0, "max": 2500.0}}'
    )
    assert measure.parse_load(output) == Load(100.0, 0.421, 1.0, 2.0, 2.5)


def test_calls_of_strace_are_read_with_and_without_errors():
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 51.02    0.012345           2      5003         3 recvfrom
 48.98    0.011852           2      5000           sendto
------ ----------- ----------- --------- --------- ----------------
100.00    0.024197           2     10003         3 total
"""
    assert tracers.parse_strace(table) == {"recvfrom": 5003, "sendto": 5000}


def test_instructions_of_callgrind_are_its_totals():
    assert tracers.parse_callgrind("events: Ir\nsummary: 7\n\nfn=(1)\n\ntotals: 12345\n") == 12345
    with pytest.raises(SystemExit, match="no totals"):
        tracers.parse_callgrind("events: Ir\n")


# Rows.


def test_ids_are_unique_and_every_row_has_a_title_of_its_own():
    every = [*ROWS, *COUNTS]
    assert len({one.id for one in every}) == len(every)
    assert len({one.title for one in every}) == len(every)
    assert row("redis-get-c800-p100").title == ("Redis GET of 3 bytes, 800 clients, pipeline 100")
    assert row("memcache-get-100").title == (
        "Memcached get of 100 keys, over 2 servers, 50 clients"
    )


def test_request_and_reply_of_a_row_are_the_protocols():
    first, second = b"v3:000000000000", b"v3:000000000001"
    assert request(row("redis-get")) == redis_request("GET", first)
    assert request(row("redis-set")) == redis_request("SET", first, "xxx")
    assert request(row("redis-mset-10")).startswith(b"*21\r\n$4\r\nMSET\r\n")
    assert request(row("redis-mget-10")).startswith(
        redis_request("MGET", first, second).replace(b"*3", b"*11")
    )
    assert reply(row("redis-mget-10")) == b"*10\r\n" + b"$3\r\nxxx\r\n" * 10
    assert request(row("memcache-set")) == b"set v3:000000000000 0 0 3\r\nxxx\r\n"
    assert reply(row("memcache-get")) == b"VALUE v3:000000000000 0 3\r\nxxx\r\nEND\r\n"
    assert len(reply(row("redis-get-1m"))) == len("$1048576\r\n\r\n") + (1 << 20)


# Tables and charts.


@pytest.fixture
def results():
    peers = ["nutproxy", "nutcracker", "echo"]
    found = Results({"processor": "one"}, peers)
    found.samples = {
        "redis-get": {
            "nutproxy": [sample(6), sample(5), sample(7)],
            "nutcracker": [sample(12)] * 3,
            "echo": [sample(4)] * 3,
        },
        "redis-mget-100": {"nutproxy": [sample(1)] * 3, "nutcracker": [sample(50)] * 3},
    }
    found.counts = {
        "calls-redis-get": {
            "nutproxy": {"recvfrom": 1.0, "sendto": 1.5},
            "nutcracker": {"epoll_ctl": 5.0},
        }
    }
    return found


def test_table_has_median_spread_and_both_ratios(results):
    text = report.markdown(results)
    assert "median of 3" in text
    assert "| `redis-get` | 6.00 (33%) | 12.00 (0%) | 4.00 (0%) | **0.50** | **1.50** |" in text
    assert "| `redis-get` | 1,000 / 0.50 / 1.50 |" in text
    assert "| `redis-mget-100` | 1.00 (0%) | 50.00 (0%) | **0.02** |" in text
    assert "| `calls-redis-get` | nutproxy | 2.50 | 0.50 | sendto 1.50, recvfrom 1.00 |" in text


def test_charts_are_relative_to_nutcracker(results):
    charts = report.charts(results)
    assert charts.keys() == {"cpu.svg", "counts.svg"}
    for image in charts.values():
        xml.dom.minidom.parseString(image)
    figures = re.findall(r'class="figure">([\d.]+)<', charts["cpu.svg"])
    assert figures == ["0.50", "0.33", "0.02"]
    assert re.findall(r'class="figure">([\d.]+)<', charts["counts.svg"]) == ["0.50"]


def test_without_nutcracker_there_is_no_chart(results):
    for by_peer in (*results.samples.values(), *results.counts.values()):
        by_peer.pop("nutcracker", None)
    results.peers.remove("nutcracker")
    assert report.charts(results) == {}
    assert "nutproxy / nutcracker" not in report.markdown(results)


def test_bars_are_to_scale_and_a_very_long_one_is_cut():
    image = chart.bars("<title>", "peer", ["a", "b"], [("one", [1.0, 2.0]), ("two", [30.0, None])])
    document = xml.dom.minidom.parseString(image)
    widths = [float(r.getAttribute("width")) for r in document.getElementsByTagName("rect")][2:]
    assert widths == pytest.approx([chart.WIDTH / 3, chart.WIDTH * 2 / 3, chart.WIDTH], abs=0.1)
    assert "30.00" in image


def test_files_hold_the_samples_and_what_was_computed_from_them(results, tmp_path):
    report.write(results, tmp_path / "new")
    names = {file.name for file in (tmp_path / "new").iterdir()}
    assert names == {"latest.md", "latest.json", "cpu.svg", "counts.svg"}
    assert '"to_nutcracker": 0.5' in (tmp_path / "new" / "latest.json").read_text()


def test_memory_is_told_as_differences_to_idle(tmp_path):
    mega = 1 << 20
    measured = {"nutproxy": Measured(37 * mega, 49 * mega, 38 * mega, "a note")}
    results = memory.Results({}, {"memory-pipelined": measured})
    memory.write(results, tmp_path)
    text = (tmp_path / "memory.md").read_text()
    assert "| nutproxy | 37.0 | 12.0 | 1.0 | peak ≤ 16 MB |" in text
    assert "nutproxy: a note." in text


# The command line.


def test_rows_are_listed_with_what_they_are(capsys):
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS) + len(COUNTS) + len(memory.CASES)
    [line] = [line for line in lines if line.startswith("redis-get-p16 ")]
    assert line.endswith("Redis GET of 3 bytes, 50 clients, pipeline 16")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "redis-gte"], "no row 'redis-gte'; there are redis-get-c1,"),
        (["--memory", "--only", "redis-gte"], "no row 'redis-gte'; there are memory-pipelined,"),
        (["--memory", "--only", "redis-get"], "'redis-get' is measured without --memory"),
        (["--only", "memory-idle"], "'memory-idle' is measured with --memory"),
        (["--peers", "nutproxy,envoy"], "unknown peer: envoy; there are nutproxy, nutcracker,"),
        (["--memory", "--peers", "haproxy"], "unknown peer: haproxy; there are nutproxy,"),
        (["--rounds", "0"], "'0' is not a positive whole number"),
        (["--scale", "-1"], "--scale must be above 0"),
    ],
)
def test_mistake_on_the_command_line_is_told_with_what_is_accepted(words, message, capsys):
    with pytest.raises(SystemExit):
        arguments(words)
    assert message in " ".join(capsys.readouterr().err.split())


def test_missing_program_is_told_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="strace is not on PATH; make bench installs it"):
        main(["--only", "memcache-get,calls-redis-get"])


def test_progress_is_a_line_for_each_step_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(2, stream)
    progress.step("one")
    progress.step("two")
    progress.close()
    assert stream.getvalue() == "one\ntwo\n"


def test_progress_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    progress = Progress(4, Terminal())
    progress.step("redis-get")
    assert progress.stream.getvalue().startswith(
        "\r\x1b[K[######..................]  25% 0:00 left"
    )
    assert progress.bar("redis-get").endswith("redis-get")
