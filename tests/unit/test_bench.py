# tests/unit/test_bench.py: the calculations and the output of the benchmark
"""The parts of bench/ that need no proxy: the histogram, the statistics, the parsing of other
programs' output, tables, charts and the command line."""

import collections
import ctypes
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import pytest

import bench
from bench import chart, figures, measure, memory, peers, placement, ratios, report, tracers
from bench.__main__ import arguments, main, selections
from bench.measure import Load, Sample
from bench.memory import Measured
from bench.progress import Progress
from bench.ratios import Range, Ratio, Results
from bench.rows import COUNTS, PARTIALS, POOLS, ROWS, SPACE, key, reply, request
from nutproxy.hashkit.router import Router
from tests.client import request as redis_request

BENCH = Path(bench.__file__).parent
RESULTS = BENCH / "results"
ROOT = BENCH.parent


def row(id):
    [found] = [row for row in [*ROWS, *(count.row for count in COUNTS)] if row.id == id]
    return found


def measured(place, row="redis-get", turns=1, **costs):
    """Results of one row in one placement, by the costs of each peer's runs."""
    found = Results({}, list(costs), {place: "somewhere"}, turns)
    found.samples = {place: {row: {peer: [*map(sample, each)] for peer, each in costs.items()}}}
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


def test_port_of_a_peer_is_kept_for_it():
    """A test beside it once got such a port between the choice and the peer's bind."""
    port = peers.free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((peers.HOST, port))
    with socket.create_server((peers.HOST, port)):
        assert peers.accepts(port)


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


def test_spread_is_highest_minus_lowest_divided_by_the_median():
    assert ratios.spread([10.0, 8.0, 13.0]) == pytest.approx(0.5)
    assert ratios.spread([7.0]) == 0


def test_ratio_and_spread_are_those_of_the_rounds():
    """A round compares a pair, so a machine that is slower in the second round has no effect."""
    found = measured("free", nutproxy=[2, 6, 2.2], nutcracker=[4, 12, 4])
    ratio = found.ratio("free", "redis-get", "nutproxy", "nutcracker")
    assert (ratio.value, ratio.rounds) == (0.5, 3)
    assert ratio.spread == pytest.approx(0.1)
    assert found.ratio("free", "redis-get", "nutproxy", "echo") is None
    assert found.ratio("own", "redis-get", "nutproxy", "nutcracker") is None


def test_cost_of_a_round_is_the_mean_of_its_two_runs():
    found = measured("free", turns=2, nutproxy=[1, 3, 5, 7], nutcracker=[4, 4, 4, 4])
    assert found.rounds == 2
    assert found.by_round(found.row("free", "redis-get")["nutproxy"]) == [2, 6]
    ratio = found.ratio("free", "redis-get", "nutproxy", "nutcracker")
    assert (ratio.value, ratio.spread) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("rounds", "text", "fault"),
    [
        ([0.9, 1.0, 1.15], "1.00 (25%)", ""),
        ([0.9, 1.0, 1.154], "1.00 (25%)", ""),
        ([0.9, 1.0, 1.156], "1.00 (26%) †", "26%"),
        ([0.5, 0.5], "0.50 (0%) †", "2 rounds"),
        ([0.5], "0.50 (0%) †", "1 round"),
    ],
)
def test_ratio_that_did_not_repeat_has_a_mark_and_the_reason(rounds, text, fault):
    ratio = Ratio.of(rounds)
    assert (str(ratio), ratio.fault) == (text, fault)


def test_range_spans_the_placements_and_shows_their_marks():
    found = Range({"shared": Ratio(0.44, 0.1, 5), "free": Ratio(0.5, 0.41, 5)})
    assert (str(found), found.fault) == ("0.44 - 0.50 †", "free 41%")
    assert str(Range({"shared": Ratio(0.44, 0.1, 5), "own": Ratio(0.85, 0.2, 5)})) == "0.44 - 0.85"
    assert str(Range({"shared": Ratio(0.444, 0, 5), "own": Ratio(0.441, 0, 5)})) == "0.44"


def test_results_are_read_as_they_were_written(results, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(results.to_json())
    assert Results.read(file) == results


# Placements.


def test_proxy_shares_a_processor_with_its_servers_or_has_its_own():
    shared, own = (placement.placement(name, [0, 1]) for name in ("shared", "own"))
    assert (shared.proxy, shared.servers, shared.load) == ({1}, {1}, {0})
    assert (own.proxy, own.servers, own.load) == ({1}, {0}, {0})
    assert str(shared) == "proxy and servers on processor 1, load on processor 0"
    assert str(own) == "proxy on processor 1, servers and load on processor 0"


def test_free_placement_is_on_all_processors():
    free = placement.placement("free", [0, 4, 1, 2, 3, 8])
    assert free.proxy == free.servers == free.load == {0, 1, 2, 3, 4, 8}
    assert str(free) == "left to the scheduler, on processors 0-4, 8"


def test_with_three_processors_the_servers_have_their_own():
    own = placement.placement("own", [0, 2, 4, 1])
    assert str(own) == "proxy on processor 2, servers on processor 4, load on processor 0"


def test_with_one_processor_all_placements_are_the_same():
    for name in placement.NAMES:
        found = placement.placement(name, [3])
        assert found.proxy == found.servers == found.load == {3}


def test_started_processes_inherit_the_processors():
    [*_, last] = sorted(before := os.sched_getaffinity(0))
    with placement.on(frozenset({last})):
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"],
            capture_output=True,
            check=True,
        )
    assert child.stdout.split() == [b"%d" % last]
    assert os.sched_getaffinity(0) == before


def test_count_per_request_is_the_difference_of_two_runs():
    runs = {
        100: {"recvfrom": 250, "accept4": 50},
        300: {"recvfrom": 650, "accept4": 50, "brk": 100},
    }
    assert tracers.per_request(lambda n: runs[n], 100) == {"recvfrom": 2.0, "brk": 0.5}


# The output of other programs.


def test_redis_benchmark_is_read_after_the_name_of_a_long_command():
    name = "MGET " + "__rand_int__:v3 " * 10_000
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
    assert measure.parse_load(output) == Load(100.0, 0.421, 1.0, 2.0, 2.5, 10)


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


def test_ids_and_titles_of_rows_are_unique():
    every = [*ROWS, *PARTIALS, *COUNTS]
    assert len({one.id for one in every}) == len(every)
    assert len({one.title for one in every}) == len(every)
    assert row("redis-get-c800-p100").title == ("Redis GET of 3 bytes, 800 clients, pipeline 100")
    assert row("memcache-get-100").title == "Memcached get of 100 keys, 50 clients"
    assert row("redis-get-s1").title == "Redis GET of 3 bytes, 1 server, 50 clients"
    assert PARTIALS[1].title == (
        "Redis GET of 3 bytes, 50 clients, open loop at 50 % of nutcracker's capacity"
    )


def test_rows_have_two_servers_unless_their_names_say_otherwise():
    for one in [*ROWS, *(count.row for count in COUNTS), *(part.row for part in PARTIALS)]:
        found = re.search(r"-s(\d)$", one.id)
        assert POOLS[one.pool].servers == (int(found[1]) if found else 2), one.id


@pytest.mark.parametrize("servers", sorted({pool.servers for pool in POOLS.values()} - {1}))
def test_keys_of_every_size_are_spread_over_the_servers(servers):
    router = Router("fnv1a_64", "ketama", None, [(b"s%d" % n, 1) for n in range(1, servers + 1)])
    for size, space in SPACE.items():
        found = collections.Counter(
            router.explain(key(size, number)).server for number in range(space)
        )
        assert len(found) == servers
        # A hundred keys are too few for eight servers, and no row uses them.
        if space > 100 or servers == 2:
            assert max(found.values()) < 1.25 * space / servers


def test_partial_load_is_a_share_of_the_capacity():
    [half] = [one for one in PARTIALS if one.id == "redis-get-at-50"]
    offered = half.at(capacity=60_000.4, seconds=0.5)
    assert (offered.id, offered.rate, offered.requests) == ("redis-get-at-50", 30_000, 15_000)
    assert half.of in {row.id for row in ROWS}
    assert half.at(capacity=0.1, seconds=0.1).rate == 1


def test_request_and_reply_of_a_row_use_its_protocol():
    first, second = b"000000000000:v3", b"000000000001:v3"
    assert request(row("redis-get")) == redis_request("GET", first)
    assert request(row("redis-set")) == redis_request("SET", first, "xxx")
    assert request(row("redis-mset-10")).startswith(b"*21\r\n$4\r\nMSET\r\n")
    assert request(row("redis-mget-10")).startswith(
        redis_request("MGET", first, second).replace(b"*3", b"*11")
    )
    assert reply(row("redis-mget-10")) == b"*10\r\n" + b"$3\r\nxxx\r\n" * 10
    assert request(row("memcache-set")) == b"set 000000000000:v3 0 0 3\r\nxxx\r\n"
    assert reply(row("memcache-get")) == b"VALUE 000000000000:v3 0 3\r\nxxx\r\nEND\r\n"
    assert len(reply(row("redis-get-1m"))) == len("$1048576\r\n\r\n") + (1 << 20)


# Tables and charts.


@pytest.fixture
def results():
    """Three rounds in two placements. The MGET in one placement did not repeat."""
    peers = ["nutproxy", "nutcracker", "echo"]
    found = Results({"processor": "one"}, peers, {"shared": "here", "own": "there"}, turns=1)
    costs = {"shared": ([6, 5, 5.5], 1), "own": ([8, 8, 9], 2)}
    for place, (ours, mget) in costs.items():
        found.samples[place] = {
            "redis-get": {
                "nutproxy": [*map(sample, ours)],
                "nutcracker": [sample(10)] * 3,
                "echo": [sample(4)] * 3,
            },
            "redis-mget-100": {
                "nutproxy": [sample(mget), sample(1), sample(1)],
                "nutcracker": [sample(50)] * 3,
            },
            "redis-get-at-50": {
                "nutproxy": [sample(250, 500.0)] * 3,
                "nutcracker": [sample(500, 500.0), sample(500, 300.0), sample(500, 300.0)],
            },
        }
        found.rates[place] = {"redis-get-at-50": 500}
    found.counts = {
        "calls-redis-get": {
            "nutproxy": {"recvfrom": 1.0, "sendto": 1.5},
            "nutcracker": {"epoll_ctl": 5.0},
        }
    }
    return found


def test_report_begins_with_the_placements_and_the_ranges_over_them(results):
    text = report.markdown(results)
    assert "- placement `shared`: here" in text
    assert "| row | shared | own | range |" in text
    assert "| `redis-get` | 0.55 (18%) | 0.80 (12%) | **0.55 - 0.80** |" in text
    assert "| `redis-mget-100` | 0.02 (0%) | 0.02 (100%) † | **0.02 †** |" in text
    assert (
        "† Did not repeat: the spread of the rounds is over 25%: `redis-mget-100` (own 100%)."
        in (text)
    )


def test_table_of_a_placement_has_median_spread_and_both_ratios(results):
    text = report.markdown(results)
    assert "median of 3" in text
    line = "| `redis-get` | 5.50 (18%) | 10.00 (0%) | 4.00 (0%) | 0.55 (18%) | 1.38 (18%) |"
    assert f"Placement `shared`:\n\n{line}" in re.sub(r"\n\| row.*\n\| ---.*", "", text)
    assert "| `redis-get` | 1,000 / 0.50 / 1.50 |" in text
    assert "| `calls-redis-get` | nutproxy | 2.50 | 0.50 | sendto 1.50, recvfrom 1.00 |" in text


def test_partial_load_is_in_percent_of_a_processor(results):
    text = report.markdown(results)
    ours, theirs = "12.5 % (0%), 0.50 / 1.50", "15.0 % (0%), 0.50 / 1.50 (only 300/s)"
    assert f"| `redis-get-at-50` | own | 500 | {ours} | {theirs} | 0.50 (0%) |" in text


def test_two_rounds_do_not_show_whether_a_figure_repeats(results):
    for by_peer in results.samples["own"].values():
        for samples in by_peer.values():
            samples.pop()
    text = report.markdown(results)
    assert "| `redis-get` | 0.55 (18%) | 0.80 (0%) † | **0.55 - 0.80 †** |" in text
    assert "† Rounds: 2. At least 3 show whether a figure repeats." in text


def test_charts_are_relative_to_nutcracker_and_show_ranges(results):
    charts = report.charts(results, "cpu.svg")
    assert charts.keys() == {"cpu.svg", "counts.svg"}
    for image in charts.values():
        xml.dom.minidom.parseString(image)
    figures = re.findall(r'class="figure">([\d. †-]+)<', charts["cpu.svg"])
    assert figures == ["0.55 - 0.80", "0.40", "0.02 †"]
    assert "† did not repeat" in charts["cpu.svg"]
    assert re.findall(r'class="figure">([\d.]+)<', charts["counts.svg"]) == ["0.50"]


def test_without_nutcracker_there_is_no_chart(results):
    for rows in results.samples.values():
        del rows["redis-get-at-50"]
    for by_peer in (*(r for rows in results.samples.values() for r in rows.values()),):
        by_peer.pop("nutcracker", None)
    results.counts["calls-redis-get"].pop("nutcracker")
    results.peers.remove("nutcracker")
    assert report.charts(results, "cpu.svg") == {}
    assert "nutproxy / nutcracker" not in report.markdown(results)


def test_bars_are_to_scale_and_a_very_long_one_is_cut():
    def bar(value):
        return chart.Bar(value, value, f"{value:.2f}")

    groups = [("one", [bar(1.0), bar(2.0)]), ("two", [bar(30.0), None])]
    image = chart.bars("<title>", "peer", ["a", "b"], groups)
    assert widths(image) == pytest.approx(
        [chart.WIDTH / 3, chart.WIDTH * 2 / 3, chart.WIDTH], abs=0.1
    )
    assert "30.00" in image


def test_bar_of_a_range_is_solid_to_its_lowest_and_pale_to_its_highest_value():
    image = chart.bars("title", "peer", ["a"], [("one", [chart.Bar(0.5, 0.75, "0.50 - 0.75")])])
    assert widths(image) == pytest.approx([chart.WIDTH * 0.75, chart.WIDTH * 0.5], abs=0.1)
    assert image.count("opacity") == 1
    assert "stroke=" not in image


def test_doubtful_bar_is_an_outline():
    image = chart.bars("title", "peer", ["a"], [("one", [chart.Bar(1, 1, "1.00 †", True)])])
    assert f'fill="none" stroke="{chart.COLOURS[0]}"' in image


def widths(image):
    """The widths of the bars, without the squares of the legend."""
    rects = xml.dom.minidom.parseString(image).getElementsByTagName("rect")
    return [float(r.getAttribute("width")) for r in rects if r.getAttribute("width") != "10"]


def test_files_have_the_samples_and_the_computed_values(results, tmp_path):
    report.write(results, tmp_path / "new", "latest", "cpu.svg")
    names = {file.name for file in (tmp_path / "new").iterdir()}
    assert names == {"latest.md", "latest.json", "cpu.svg", "counts.svg"}
    summary = json.loads((tmp_path / "new" / "latest.json").read_text())["summary"]
    told = summary["redis-get"]["nutproxy"]["to_nutcracker"]
    assert (told["low"], told["high"], told["mark"]) == (0.55, 0.8, "")
    assert summary["redis-mget-100"]["nutproxy"]["to_nutcracker"]["mark"] == "own 100%"


# Figures quoted in documents.


@pytest.mark.parametrize("name", figures.DOCUMENTS)
def test_figures_in_documents_are_those_of_the_results(name):
    """`python -m bench.figures` writes the blocks."""
    text = (ROOT / name).read_text()
    assert figures.BLOCK.search(text)
    assert figures.rewritten(text, RESULTS) == text


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *ROOT.glob("docs/*.md")], ids=lambda p: p.name
)
def test_no_ratio_to_nutcracker_is_typed_by_hand(document):
    text = figures.BLOCK.sub("", document.read_text())
    compared = re.findall(r"\d\.\d+ (?:of|to|times) (?:nutcracker|twemproxy|the floor).*", text)
    assert compared == []


def test_charts_and_tables_match_the_results():
    for stem, cpu_file in (("latest", "cpu.svg"), ("long", "long.svg"), ("coalesce", "")):
        if (RESULTS / f"{stem}.json").exists():
            found = Results.read(RESULTS / f"{stem}.json")
            assert (RESULTS / f"{stem}.md").read_text() == report.markdown(found)
            for name, image in report.charts(found, cpu_file).items():
                assert (RESULTS / name).read_text() == image


def test_blocks_are_filled_from_the_results(results, tmp_path):
    (tmp_path / "latest.json").write_text(results.to_json())
    text = "before\n<!-- figures: readme -->\nold\n<!-- end -->\nafter\n"
    written = figures.rewritten(text, tmp_path)
    assert "old" not in written
    assert "| Redis GET | 0.55 - 0.80 |" in written
    assert "| Redis MGET of 100 keys | 0.02 † |" in written
    assert "(own 100%)" in written
    assert "| Redis GET, 50 % | 12 %, 1.50 ms | 15 %, 1.50 ms ‡ |" in written
    assert figures.rewritten(written, tmp_path) == written
    assert written.startswith("before\n<!-- figures: readme -->\n\n| ")
    assert written.endswith("\n\n<!-- end -->\nafter\n")


def test_aim_is_met_or_missed_or_undecided(results, tmp_path):
    (tmp_path / "latest.json").write_text(results.to_json())
    text = figures.aims(tmp_path)
    assert "| Redis GET | 0.75 | 0.55 - 0.80 | 1.30 | 1.38 - 2.00 | missed |" in text
    assert "| Redis MGET of 100 keys | 0.40 | 0.02 † |  |  | undecided |" in text
    assert "Not measured in the last run: Redis SET," in text
    ranges = [Range({"shared": Ratio(low, 0, 5), "own": Ratio(0.8, 0, 5)}) for low in (0.6, 0.8)]
    judged = [figures.judged([(aim, ranges[0])]) for aim in (0.8, 0.7, 0.5)]
    assert judged == ["met", "met in part", "missed"]
    assert figures.judged([(None, ranges[1])]) == ""


def test_memory_is_the_difference_to_idle(tmp_path):
    mega = 1 << 20
    measured = {"nutproxy": Measured(37 * mega, 49 * mega, 38 * mega, "a note")}
    results = memory.Results({}, {"memory-pipelined": measured})
    memory.write(results, tmp_path)
    text = (tmp_path / "memory.md").read_text()
    assert "| nutproxy | 37.0 | 12.0 | 1.0 | peak ≤ 16 MB |" in text
    assert "nutproxy: a note." in text


# The command line.


def test_rows_are_listed_with_their_titles(capsys):
    main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS) + len(PARTIALS) + len(COUNTS) + len(memory.CASES)
    [line] = [line for line in lines if line.startswith("redis-get-p16 ")]
    assert line.endswith("Redis GET of 3 bytes, 50 clients, pipeline 16")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "redis-gte"], "no row 'redis-gte'; there are redis-get-c1,"),
        (["--memory", "--only", "redis-gte"], "no row 'redis-gte'; there are memory-pipelined,"),
        (["--memory", "--only", "redis-get"], "'redis-get' is measured without --memory"),
        (["--only", "memory-idle"], "'memory-idle' is measured with --memory"),
        (["--peers", "nutproxy,envoy"], "unknown peer: envoy; there are nutproxy, nutproxy-off,"),
        (["--memory", "--peers", "haproxy"], "unknown peer: haproxy; there are nutproxy,"),
        (["--rounds", "0"], "'0' is not a positive whole number"),
        (["--scale", "-1"], "--scale must be above 0"),
        (["--placement", "alone"], "unknown placement: alone; there are shared, free, own, all"),
        (
            ["--peers", "nutproxy", "--only", "redis-get-at-50"],
            "'redis-get-at-50' is a share of nutcracker's capacity",
        ),
    ],
)
def test_error_on_the_command_line_lists_the_accepted_values(words, message, capsys):
    with pytest.raises(SystemExit):
        arguments(words)
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def processors(monkeypatch):
    found = [0, 1]
    monkeypatch.setattr("bench.placement.usable", lambda: found)
    return found


def chosen_placements(*words):
    return [
        [one.name for one in selection.placements] for selection in selections(arguments(words))
    ]


def test_placements_are_chosen_one_by_one_or_all(processors):
    assert chosen_placements() == [["shared", "free", "own"]]
    assert chosen_placements("--placement", "all") == [["shared", "free", "own"]]
    assert chosen_placements("--placement", "own", "--placement", "shared") == [["own", "shared"]]
    assert chosen_placements("--placement", "own,own") == [["own"]]


def test_rows_outside_of_the_core_are_measured_in_one_placement(processors):
    assert chosen_placements("--all") == [["shared", "free", "own"], ["free"]]
    assert chosen_placements("--all", "--placement", "own") == [["own"], ["own"]]
    core, others = selections(arguments(["--all"]))
    assert {row.id for row in core.rows} | {row.id for row in others.rows} == {r.id for r in ROWS}
    assert all(row.core for row in core.rows)
    assert not others.partials


def test_partial_load_also_measures_the_row_of_its_capacity(processors):
    [found] = selections(arguments(["--only", "memcache-get-at-20"]))
    assert [row.id for row in found.rows] == ["memcache-get"]
    assert [one.id for one in found.partials] == ["memcache-get-at-20"]


def test_one_processor_has_one_placement(processors, capsys):
    processors.remove(1)
    assert chosen_placements() == [["free"]]
    with pytest.raises(SystemExit):
        arguments(["--placement", "own"])
    assert "with one processor there is only the placement free" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "4"],
        ["--scale", "0.5"],
        ["--peers", "echo"],
        ["--only", "redis-get"],
        ["--placement", "own"],
        ["--output", "elsewhere"],
        ["--memory", "--churn", "7"],
    ],
    ids=" ".join,
)
def test_figures_of_an_incomplete_run_are_not_quoted(words, processors):
    assert not arguments(words).complete
    assert arguments([]).complete
    assert arguments(["--memory"]).complete


def test_predixy_is_measured_if_it_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert arguments([]).peers == ["nutproxy", "nutcracker", "haproxy", "echo"]
    (tmp_path / "predixy").touch(0o755)
    assert arguments([]).peers == ["nutproxy", "nutcracker", "haproxy", "predixy", "echo"]


def test_missing_program_ends_the_run_before_it_measures(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="strace is not on PATH; make bench installs it"):
        main(["--only", "memcache-get,calls-redis-get"])


def test_progress_is_a_line_for_each_step_without_a_terminal():
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
