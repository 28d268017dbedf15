"""The command line: flags, commands, output, exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import nutproxy
from nutproxy import __version__
from nutproxy.cli import main
from nutproxy.config import Options, load, schema

GOOD = "p:\n  listen: 127.0.0.1:1\n  redis: true\n  servers:\n  - 127.0.0.1:6379:1 alpha\n"
WARNED = GOOD.replace("redis: true", "redis: true\n  server_connections: 17")
BAD = GOOD.replace("redis: true", "redis: maybe\n  lisen: x")

BAD_FINDINGS = (
    "f.yml:3: pool 'p': redis: 'maybe' is not a boolean, accepted: true, false\n"
    "f.yml:4: pool 'p': lisen: unknown key, did you mean 'listen'?\n"
)
WARNED_FINDINGS = (
    "f.yml:4: pool 'p': server_connections: warning: 17 is far above need, requests are pipelined:"
    " 1 is enough for most pools, 16 for any\n"
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes `f.yml` into the current directory, an empty one."""
    monkeypatch.chdir(tmp_path)
    return Path("f.yml").write_text


@pytest.fixture
def runs(monkeypatch):
    """Takes the worker's place: what the proxy would have been started with."""
    calls = []
    worker = ModuleType("nutproxy.worker")

    def run(config, options, warnings, ready):
        calls.append((config, options))
        worker.warnings = warnings
        return 7

    worker.run = run
    monkeypatch.setitem(sys.modules, "nutproxy.worker", worker)
    return calls


# Running.


def test_flags_without_a_command_run_the_proxy_and_return_its_exit_code(write, runs, capsys):
    write(GOOD)
    assert main(["-c", "f.yml"]) == 7
    config = replace(load("f.yml")[0], path=str(Path("f.yml").resolve()))
    assert runs == [(config, Options(22222, "127.0.0.1", 30000, None))]
    assert capsys.readouterr() == ("", "")


def test_flags_win_over_the_global_section(write, runs):
    write("global:\n  verbose: 1\n  output: a.log\n  mbuf_size: 1kb\n" + GOOD)
    assert main(["-c", "f.yml", "-v", "8", "-o", "b.log", "-m", "512"]) == 7
    assert main(["--conf-file=f.yml"]) == 7
    assert [
        (keys.verbose, keys.output, keys.mbuf_size)
        for keys in (config.globals for config, _ in runs)
    ] == [
        (8, str(Path("b.log").resolve()), 512),
        (1, str(Path("a.log").resolve()), 1024),
    ]


@pytest.mark.parametrize(("given", "used"), [("0", 0), ("11", 11), ("12", 11), ("999999999", 11)])
def test_log_level_is_clamped(write, runs, given, used):
    write(GOOD)
    assert main(["-c", "f.yml", "--verbose", given]) == 7
    assert runs[0][0].globals.verbose == used


def test_statistics_flags_reach_the_worker(write, runs, capsys):
    write(GOOD)
    flags = ["-s", "22223", "-a", "::1", "-i", "10000"]
    assert main(["-c", "f.yml", *flags]) == 7
    assert main(["-c", "f.yml", "--stats-port=0"]) == 7
    assert [options for _, options in runs] == [
        Options(22223, "::1", 10000, None),
        Options(stats_port=0),
    ]
    assert capsys.readouterr() == ("", "")


def test_statistics_are_described_in_twemproxys_layout_and_ours_after_its_own(capsys):
    theirs = subprocess.run(["nutcracker", "-D"], capture_output=True, text=True, check=True)
    assert main(["-D"]) == 0
    ours = capsys.readouterr().out
    row = re.compile(r'^  (\w+) +("[^"]+")$', re.M)
    for title in "pool stats:\n", "server stats:\n":
        known = row.findall((theirs.stdout + theirs.stderr).split(title)[1].split("\n\n")[0])
        assert known
        assert row.findall(ours.split(title)[1])[: len(known)] == known


def test_paths_are_absolute_because_a_daemon_leaves_the_directory(write, runs):
    write("global:\n  output: here/a.log\n" + GOOD)
    assert main(["-c", "f.yml", "-p", "n.pid"]) == 7
    config, options = runs[0]
    assert (config.path, config.globals.output, options.pid_file) == tuple(
        str(Path.cwd() / name) for name in ("f.yml", "here/a.log", "n.pid")
    )


def test_problems_stop_the_start_and_go_to_stderr(write, runs, capsys):
    write(BAD)
    assert main(["-c", "f.yml"]) == 1
    assert runs == []
    assert capsys.readouterr() == ("", BAD_FINDINGS)


def test_warnings_do_not_stop_the_start_and_go_to_the_log(write, runs, capsys):
    write(WARNED)
    assert main(["-c", "f.yml"]) == 7
    assert capsys.readouterr() == ("", "")
    assert "".join(f"{warning}\n" for warning in worker_warnings()) == WARNED_FINDINGS


def test_warnings_are_shown_too_where_the_log_is_elsewhere(write, runs, capsys):
    write(WARNED)
    assert main(["-c", "f.yml", "-o", "a.log"]) == 7
    assert capsys.readouterr() == ("", WARNED_FINDINGS)
    assert len(worker_warnings()) == 1


def worker_warnings():
    """What the last run would have logged."""
    return sys.modules["nutproxy.worker"].warnings


def test_default_file_is_twemproxys_and_its_absence_names_the_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("conf/nutproxy.yml").write_text(GOOD)
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "conf/nutcracker.yml: cannot be read: No such file or directory\n"
        "nutproxy: conf/nutcracker.yml is the default, name another configuration file with"
        " -c FILE\n"
    )


def test_default_file_is_used(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("conf/nutcracker.yml").write_text(GOOD)
    assert main([]) == 7
    assert runs[0][0].path == str(tmp_path / "conf" / "nutcracker.yml")


# Options.


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(capsys, flag):
    assert main([flag]) == 0
    assert capsys.readouterr() == (f"This is nutproxy-{__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_flag_and_command(capsys, flag):
    assert main([flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in (
        "-h, --help",
        "-V, --version",
        "-t, --test-conf",
        "-d, --daemonize",
        "-D, --describe-stats",
        "-v, --verbose N",
        "-o, --output FILE",
        "-c, --conf-file FILE",
        "-s, --stats-port N",
        "-a, --stats-addr ADDRESS",
        "-i, --stats-interval N",
        "-p, --pid-file FILE",
        "-m, --mbuf-size N",
        "\n  check",
        "\n  route",
        "\n  schema",
        "\n  demo",
    ):
        # Before Python 3.13 argparse shows the argument behind the short form too.
        assert name in re.sub(r"(-\w) \w+,", r"\1,", out.replace("\n    ", "\n  "))


def test_help_of_a_command(capsys):
    assert main(["check", "--help"]) == 0
    assert "FILE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo"], "unrecognized arguments: --foo"),
        (["-v"], "argument -v/--verbose: expected one argument"),
        (["-v", "x"], "argument -v/--verbose: requires a number, not 'x'"),
        (["-v", "-1"], "argument -v/--verbose: requires a number, not '-1'"),
        (
            ["-m", "511"],
            "argument -m/--mbuf-size: mbuf chunk size must be between 512 and 16777216",
        ),
        (["-m", "16777217"], "argument -m/--mbuf-size: mbuf chunk size must be between 512 and"),
        (
            ["-s", "65536"],
            "argument -s/--stats-port: 65536 is not a valid port, accepted: 1 to 65535, 0 for no",
        ),
        (["-i", "x"], "argument -i/--stats-interval: requires a number, not 'x'"),
        (
            ["-i", "2147483648"],
            "argument -i/--stats-interval: 2147483648 is out of range, accepted: 0 to 2147483647",
        ),
        (["-a", "a/b"], "argument -a/--stats-addr: 'a/b' is not a host name, an IPv4 or an IPv6"),
        (["-o", ""], "argument -o/--output: requires a file name"),
        (["-c", ""], "argument -c/--conf-file: requires a file name"),
        (["-p", ""], "argument -p/--pid-file: requires a file name"),
        (["chek"], "argument COMMAND: invalid choice: 'chek'"),
        (["check"], "the following arguments are required: FILE"),
        (["route", "p"], "the following arguments are required: KEY"),
    ],
)
def test_bad_option_prints_what_is_wrong_and_the_usage(capsys, arguments, message):
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nutproxy: {message}")
    assert "\nusage: nutproxy " in err


# check, -t, schema.


@pytest.mark.parametrize(
    ("text", "code", "output"),
    [(GOOD, 0, ""), (WARNED, 0, WARNED_FINDINGS), (BAD, 1, BAD_FINDINGS)],
)
def test_check_prints_findings_and_test_conf_twemproxys_verdict_too(
    write, capsys, text, code, output
):
    write(text)
    assert main(["check", "f.yml"]) == code
    assert capsys.readouterr() == (output, "")
    verdict = "invalid" if code else "ok"
    line = f"nutproxy: configuration file 'f.yml' syntax is {verdict}\n"
    for flags in (["-t", "-c", "f.yml"], ["--test-conf", "--conf-file=f.yml", "-d"]):
        assert main(flags) == code
        assert capsys.readouterr() == (output, line)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("absent.yml", "absent.yml: cannot be read: No such file or directory\n"),
        (".", ".: cannot be read: Is a directory\n"),
        ("f.yml", "f.yml: is empty, at least one pool is needed\n"),
    ],
)
def test_file_that_is_no_configuration_is_one_line(write, capsys, path, line):
    write("")
    assert main(["check", path]) == 1
    assert capsys.readouterr() == (line, "")


def test_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


# route.

SHARDS = """\
shards:
  listen: 127.0.0.1:1
  redis: true
  hash: murmur
  distribution: {distribution}
  hash_tag: "{{}}"
  servers:
  - 127.0.0.1:6379:1 alpha
  - /run/redis.sock:1
"""


def test_route_prints_server_hash_and_point_of_every_key(write, capsys):
    write(SHARDS.format(distribution="ketama"))
    assert main(["route", "-c", "f.yml", "shards", "user:1000", "x{user:1000}y"]) == 0
    out, err = capsys.readouterr()
    header, *rows = [line.split() for line in out.splitlines()]
    assert (header, err) == (["SERVER", "ADDRESS", "HASH", "POINT", "KEY"], "")
    assert [row[4] for row in rows] == ["user:1000", "x{user:1000}y"]
    assert rows[0][:4] == rows[1][:4]
    assert rows[0][2] == "2384768711"
    assert rows[0][:2] in (["alpha", "127.0.0.1:6379"], ["/run/redis.sock:", "/run/redis.sock"])


def test_route_by_modula_counts_servers_in_index_order(write, capsys):
    write(SHARDS.format(distribution="modula"))
    assert main(["-c", "f.yml", "route", "shards", "user:1000"]) == 0
    server = capsys.readouterr().out.splitlines()[1].split()[0]
    assert server == ("alpha", "/run/redis.sock:")[2384768711 % 2]


def test_route_to_a_single_server_hashes_nothing(write, capsys):
    write(GOOD)
    assert main(["route", "-c", "f.yml", "p", "k"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "alpha",
        "127.0.0.1:6379",
        "-",
        "-",
        "k",
    ]


def test_route_shows_a_key_on_one_line(write, capsys):
    write(GOOD)
    assert main(["route", "-c", "f.yml", "p", "a b", "a\nb", "\udcff", "--", "-x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=4)[4] for line in lines[1:]] == ["a b", r"a\nb", r"\xff", "-x"]


def test_route_of_an_unknown_pool(write, capsys):
    write(GOOD + GOOD.replace("p:", "pool:", 1).replace("0.1:1\n", "0.1:2\n"))
    assert main(["route", "-c", "f.yml", "pol", "k"]) == 1
    assert capsys.readouterr() == (
        "",
        "nutproxy: f.yml has no pool 'pol', did you mean 'pool'?; pools: p, pool\n",
    )


def test_route_with_a_bad_file_prints_its_problems(write, capsys):
    write(BAD)
    assert main(["route", "-c", "f.yml", "p", "k"]) == 1
    assert capsys.readouterr() == ("", BAD_FINDINGS)


# The program.


def test_demo_gets_its_own_arguments(monkeypatch):
    demo = ModuleType("nutproxy.demo")
    demo.main = lambda argv: len(argv) + 40
    monkeypatch.setitem(sys.modules, "nutproxy.demo", demo)
    assert main(["demo", "--once", "-x"]) == 42


def test_module_is_the_command(write):
    write(WARNED)
    done = subprocess.run(
        [sys.executable, "-m", "nutproxy", "-t", "-c", "f.yml"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )
    assert (done.returncode, done.stdout) == (0, WARNED_FINDINGS)
    assert done.stderr == "nutproxy: configuration file 'f.yml' syntax is ok\n"


# Surroundings.


def test_a_reader_that_leaves_early_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "nutproxy", "schema"], stdout=closed, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [["route", "p", "key"], []])
def test_a_package_that_is_not_compiled_says_so(tmp_path, arguments):
    package = Path(nutproxy.__file__).parent
    shutil.copytree(package, tmp_path / "nutproxy", ignore=shutil.ignore_patterns("*.so"))
    (tmp_path / "f.yml").write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "nutproxy", "-c", "f.yml", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"nutproxy: {tmp_path}/nutproxy is not compiled: run `make build` there, or"
        " `pip install .` and not from its directory\n"
    )
