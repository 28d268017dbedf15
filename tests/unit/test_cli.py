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
from nutproxy.cli import CONF_FILES, _parser, main
from nutproxy.config import Options, load, schema
from nutproxy.examples import EXAMPLES
from nutproxy.spread import uneven

GOOD = "p:\n  listen: 127.0.0.1:1\n  redis: true\n  servers:\n  - 127.0.0.1:6379:1 alpha\n"
WARNED = GOOD.replace("redis: true", "redis: true\n  server_connections: 17")
BAD = GOOD.replace("redis: true", "redis: maybe\n  lisen: x")

# Hashes that spread numbered keys.
EVEN = ("murmur", "md5", "crc32a", "jenkins", "one_at_a_time", "fnv1a_32", "hsieh", "murmur3")

BAD_FINDINGS = (
    "f.yml:3: pool 'p': redis: 'maybe' is not a boolean, accepted: true, false\n"
    "f.yml:4: pool 'p': lisen: unknown key, did you mean 'listen'?\n"
)
WARNED_FINDINGS = (
    "f.yml:4: pool 'p': server_connections: warning: 17 is more than a pool needs, because"
    " requests are pipelined; 1 is enough for most pools, 16 for any\n"
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes `f.yml` into the current directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return Path("f.yml").write_text


@pytest.fixture
def runs(monkeypatch):
    """Replaces the worker, and collects the arguments with which it would have started."""
    calls = []
    worker = ModuleType("nutproxy.master.main")

    def run(config, options, warnings, ready):
        calls.append((config, options))
        worker.warnings = warnings
        return 7

    worker.run = run
    monkeypatch.setitem(sys.modules, "nutproxy.master.main", worker)
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


def test_own_statistics_are_described_after_twemproxys_in_its_layout(capsys):
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


def test_warnings_are_also_printed_if_the_log_is_a_file(write, runs, capsys):
    write(WARNED)
    assert main(["-c", "f.yml", "-o", "a.log"]) == 7
    assert capsys.readouterr() == ("", WARNED_FINDINGS)
    assert len(worker_warnings()) == 1


def worker_warnings():
    """The warnings that the last run would have logged."""
    return sys.modules["nutproxy.master.main"].warnings


@pytest.mark.parametrize("arguments", [[], ["check"], ["ring"], ["-t"], ["-c", "f.yml", "ring"]])
def test_without_a_file_the_searched_paths_are_named(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nutproxy.cli.CONF_FILES", (*CONF_FILES[:-1], "etc/nutproxy.yml"))
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err == (
        "f.yml: cannot be read: No such file or directory\n"
        if "-c" in arguments
        else "nutproxy: no configuration file: name one with -c FILE; looked for"
        " conf/nutcracker.yml, conf/nutproxy.yml, nutproxy.yml, etc/nutproxy.yml\n"
    )


def test_the_first_default_file_that_exists_is_used(tmp_path, monkeypatch, runs, capsys):
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    assert CONF_FILES[-1] == "/etc/nutproxy/nutproxy.yml"
    monkeypatch.setattr("nutproxy.cli.CONF_FILES", (*CONF_FILES[:-1], "etc.yml"))
    for path in ("etc.yml", *reversed(CONF_FILES[:-1])):
        Path(path).write_text(GOOD)
        assert main([]) == 7
        assert runs[-1][0].path == str(tmp_path / path)
        assert main(["check"]) == 0
        assert capsys.readouterr().out.startswith(f"{path}: ok, ")


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
        "\n  ring",
        "\n  diff",
        "\n  examples",
        "\n  completion",
        "\n  man",
        "\n  schema",
        "\n  demo",
    ):
        # Before Python 3.13 argparse shows the argument after the short form too.
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
        (["check", "a", "b"], "unrecognized arguments: b"),
        (["check", "-c", "a", "b"], "unrecognized arguments: b"),
        (["check", ""], "argument FILE: requires a file name"),
        (["route"], "the following arguments are required: FILE, POOL, KEY"),
        (["route", "f", "p"], "the following arguments are required: KEY"),
        (["route", "-c", "f", "p"], "the following arguments are required: KEY"),
        (["ring", "f", "p", "q"], "unrecognized arguments: q"),
        (["examples", "x"], "argument NAME: invalid choice: 'x'"),
        (["completion"], "the following arguments are required: SHELL"),
        (["completion", "tcsh"], "argument SHELL: invalid choice: 'tcsh'"),
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
    warned = ", 1 warning" if output else ""
    summary = (
        f"f.yml: ok, 1 pool, 1 server{warned}\n"
        "  pool 'p' listens on 127.0.0.1:1: Redis, 1 server, ketama, fnv1a_64\n"
    )
    for arguments in (["f.yml"], ["-c", "f.yml"], ["--conf-file=f.yml"]):
        assert main(["check", *arguments]) == code
        assert capsys.readouterr() == (output + ("" if code else summary), "")
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
def test_file_that_is_not_a_configuration_has_a_message_of_one_line(write, capsys, path, line):
    write("")
    assert main(["check", path]) == 1
    assert capsys.readouterr() == (line, "")


def test_schema_is_printed_as_json(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "-"],
        ["-c", "-", "check"],
        ["-t", "-c", "-"],
        ["ring", "-"],
        ["route", "-", "p", "k"],
    ],
)
def test_standard_input_is_a_file_too(arguments):
    command = [sys.executable, "-m", "nutproxy", *arguments]
    done = subprocess.run(command, input=WARNED, capture_output=True, text=True)
    assert done.returncode == 0
    assert WARNED_FINDINGS.replace("f.yml", "<stdin>") in done.stdout + done.stderr
    done = subprocess.run(command, input=BAD, capture_output=True, text=True)
    assert done.returncode == 1
    assert BAD_FINDINGS.replace("f.yml", "<stdin>") in done.stdout + done.stderr


SPREAD = """\
p:
  listen: 127.0.0.1:1
  redis: true
  hash: {hash}
  distribution: {distribution}
  servers: [a:1:1 alpha, a:2:1 beta, a:3:1 gamma]
"""


@pytest.mark.parametrize(
    ("hash", "distribution", "warned"),
    [
        ("fnv1a_64", "ketama", True),
        ("fnv1_64", "ketama", True),
        ("crc16", "ketama", True),
        ("fnv1a_64", "random", False),
        *((name, "ketama", False) for name in EVEN),
        *((name, "modula", False) for name in EVEN),
    ],
)
def test_warning_for_a_hash_that_keeps_numbered_keys_together(
    write, capsys, hash, distribution, warned
):
    write(SPREAD.format(hash=hash, distribution=distribution))
    assert main(["check", "f.yml"]) == 0
    out = capsys.readouterr().out
    assert ("f.yml:4: pool 'p': hash: warning: with ketama" in out) == warned
    if hash == "fnv1a_64" and warned:
        assert "of the 100 keys 'item:1000' to 'item:1099', 100 belong to server 'alpha'" in out
        assert "set 'hash: murmur' for a new pool, but not for one that holds data" in out
    # The start does not warn: this is not a mistake, and must not be changed in a pool with data.
    assert load("f.yml")[1] == []


def test_one_warning_for_crc32_with_ketama(write, capsys):
    write(SPREAD.format(hash="crc32", distribution="ketama"))
    assert main(["check", "f.yml"]) == 0
    assert capsys.readouterr().out.count("warning:") == 1


def test_no_warning_for_an_even_hash_with_any_servers(tmp_path):
    """Many rings, with few and many servers, equal and different weights."""
    file = tmp_path / "f.yml"
    for number in range(10):
        for count in (2, 3, 10, 40):
            servers = "".join(
                f"  - 10.{number}.{index}.7:6379:{1 + index * number % 4}\n"
                for index in range(count)
            )
            file.write_text(
                f"p:\n  listen: h:1\n  hash: {EVEN[number % len(EVEN)]}\n  servers:\n{servers}"
            )
            config, _ = load(str(file))
            assert uneven(config.pools[0]) is None, file.read_text()


# ring.


def columns(out):
    return [line.split() for line in out.splitlines() if line and not line.startswith("pool ")]


def test_ring_shows_each_servers_share_and_what_moves_when_it_leaves(write, capsys):
    write(SHARDS.format(distribution="ketama").replace("6379:1", "6379:3"))
    for arguments in (["f.yml"], ["-c", "f.yml"], ["f.yml", "shards"], ["-c", "f.yml", "shards"]):
        assert main(["ring", *arguments]) == 0
        out = capsys.readouterr().out
        assert out.startswith("pool 'shards' listens on 127.0.0.1:1: Redis, 2 servers, ketama,")
        header, *rows = columns(out)
        assert header == ["SERVER", "WEIGHT", "POINTS", "SHARE", "MOVES", "ADDRESS"]
        found = {row[0]: row[1:] for row in rows}
        assert found["alpha"][:2] == ["3", "240"]
        assert found["/run/redis.sock:"][:2] == ["1", "80"]
        shares = [float(row[3].rstrip("%")) for row in rows]
        assert sum(shares) == pytest.approx(100, abs=0.2)
        assert float(found["alpha"][2].rstrip("%")) == pytest.approx(75, abs=8)
        # With two servers, the keys that move are those of the server that leaves.
        assert [row[4] for row in rows] == pytest.approx([row[3] for row in rows])


def test_ring_by_modula_moves_most_keys(write, capsys):
    write(SPREAD.format(hash="murmur", distribution="modula"))
    assert main(["ring", "f.yml"]) == 0
    _, *rows = columns(capsys.readouterr().out)
    for row in rows:
        assert float(row[3].rstrip("%")) == pytest.approx(33.3, abs=1)
        assert float(row[4].rstrip("%")) > 60


def test_ring_of_every_pool_and_of_an_unknown_one(write, capsys):
    write(GOOD + GOOD.replace("p:", "pool:", 1).replace("0.1:1\n", "0.1:2\n"))
    assert main(["ring", "f.yml"]) == 0
    assert capsys.readouterr().out.count("SERVER") == 2
    assert main(["ring", "f.yml", "pol"]) == 1
    assert "f.yml has no pool 'pol', did you mean 'pool'?" in capsys.readouterr().err


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
    assert main(["route", "f.yml", "shards", "user:1000", "x{user:1000}y"]) == 0
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


# Completions, manual pages and examples.


def spoken():
    """Every word that the parser accepts."""
    parser = _parser()
    [commands] = [action for action in parser._actions if action.dest == "command"]
    flags = [name for action in parser._actions for name in action.option_strings]
    flags += [
        name
        for command in commands.choices.values()
        for action in command._actions
        for name in (*action.option_strings, *(action.choices or ()))
    ]
    return {*flags, *commands.choices}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_word(capsys, tmp_path, shell):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in spoken():
        name = word.lstrip("-") if shell == "fish" else word
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), word
    if program := shutil.which(shell):
        file = tmp_path / "completion"
        file.write_text(text)
        subprocess.run([program, "-n", file], check=True)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ch"], {"check"}),
        (["--stats"], {"--stats-port", "--stats-addr", "--stats-interval"}),
        (["completion", "z"], {"zsh"}),
        (["examples", "nut"], {"nutproxy.yml", "nutproxy.service", "nutproxy.logrotate"}),
        (["-c", "f.y"], {"f.yml"}),
        (["check", "f.y"], {"f.yml"}),
        (["diff", "f.y"], {"f.yml"}),
        (["diff", "--k"], {"--keys"}),
        (["ring", "--keys", "f.y"], {"f.yml"}),
        (["diff", "--max", ""], set()),
        (["-v", ""], set()),
    ],
)
def test_bash_completes(write, tmp_path, capsys, words, offered):
    write(GOOD)
    assert main(["completion", "bash"]) == 0
    script = (
        f"{capsys.readouterr().out}\n"
        f"COMP_WORDS=(nutproxy {' '.join(map(repr, words))}); COMP_CWORD={len(words)}\n"
        "_nutproxy; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = set(done.stdout.split())
    assert found - {"f.yml"} == offered - {"f.yml"}
    assert ("f.yml" in found) >= ("f.yml" in offered)


def test_man_page_knows_every_word(capsys, tmp_path):
    assert main(["man"]) == 0
    text = capsys.readouterr().out
    plain = text.replace("\\-", "-")
    for word in spoken() - {"-h"}:
        assert word in plain, word
    for path in CONF_FILES:
        assert path in plain
    if program := shutil.which("groff"):
        done = subprocess.run(
            [program, "-man", "-Tutf8", "-ww", "-z"], input=text, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_examples_are_listed_and_printed(capsys):
    assert main(["examples"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*EXAMPLES]
    root = Path(__file__).parents[2]
    for name in EXAMPLES:
        assert main(["examples", name]) == 0
        [file] = [*root.glob(f"conf/{name}"), *root.glob(f"contrib/{name}")]
        assert capsys.readouterr().out == file.read_text()


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


def test_a_reader_that_closes_early_is_not_an_error():
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
        " `pip install .` and start nutproxy from another directory\n"
    )
