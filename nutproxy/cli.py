# nutproxy/cli.py: the command line
"""`nutproxy`: twemproxy's flags to run the proxy, and commands that inspect a configuration.

    nutproxy [flags]                        run, in the foreground without -d
    nutproxy check [FILE]                   every problem and warning of a file
    nutproxy route FILE POOL KEY...         the server of each key
    nutproxy ring [FILE [POOL]]             each server's share of the keys
    nutproxy diff OLD NEW [POOL]            what moves between two files
    nutproxy schema                         the JSON Schema of the file
    nutproxy examples [NAME]                example files
    nutproxy completion SHELL, man          shell completion and the man page
    nutproxy demo                           three Redis servers, a proxy and a tour

Exit codes are twemproxy's: 0 on success and 1 for every error, except that `diff` exits with 1 if
too much moves and with 2 for an error.

Results go to stdout, usage errors to stderr. The event loop and the compiled modules are imported
only by the commands that need them, so `check` works even if they are not built.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import NamedTuple, NoReturn

from nutproxy import __version__, descriptors
from nutproxy.arguments import (
    address,
    file_name,
    interval,
    mbuf_size,
    share,
    stats_port,
    verbosity,
)
from nutproxy.config import Config, GlobalConfig, Options, PoolConfig, Problem, load, schema
from nutproxy.config.load import STDIN, STDIN_NAME
from nutproxy.config.model import MBUF_MAX_SIZE, MBUF_MIN_SIZE
from nutproxy.config.values import did_you_mean
from nutproxy.examples import EXAMPLES
from nutproxy.examples import read as read_example
from nutproxy.io.sockets import check_congestion
from nutproxy.manual import SHELLS, command_line, man
from nutproxy.plain import VERBOSE_MAX, printable
from nutproxy.report import PROG, notice, number_of, print_problems, print_table, summary
from nutproxy.stats.table import describe

# Without -c the first of these that exists is used. conf/nutcracker.yml is twemproxy's default.
CONF_FILES = (
    "conf/nutcracker.yml",
    "conf/nutproxy.yml",
    "nutproxy.yml",
    "/etc/nutproxy/nutproxy.yml",
)
DEFAULTS = GlobalConfig()


class Command(NamedTuple):
    """A command: the words after its name, one string for each form of the call, its help, and its
    exit code for an error."""

    calls: tuple[str, ...]
    text: str
    error_code: int = 1


COMMANDS = {
    "check": Command(
        ("[FILE]",),
        "print every problem and warning of a configuration file, and a summary of its pools",
    ),
    "route": Command(
        (
            "FILE POOL KEY... [--without SERVER]...",
            "-c FILE POOL KEY... [--without SERVER]...",
        ),
        "print the server, hash value and ring point of each key, without connecting",
    ),
    "ring": Command(
        ("[FILE [POOL]] [--keys FILE] [--json]",),
        "print each server's ring points, its exact share of the keys, the share of the keys that"
        " would move to another server if it left, and traps of the ring",
    ),
    "diff": Command(
        ("OLD NEW [POOL] [--keys FILE] [--max SHARE] [--json]",),
        "print the exact share of the keys that move between two configuration files, from each"
        " server to each other one; exits with 1 if a pool moves more than --max, and with 2 for an"
        " error",
        error_code=2,
    ),
    "schema": Command(
        ("",),
        "print the JSON Schema of the configuration file, for checking and completion in editors",
    ),
    "examples": Command(("[NAME]",), "list the example files, or print one of them"),
    "completion": Command(
        ("SHELL",), "print a script that completes nutproxy's command line in a shell"
    ),
    "man": Command(("",), "print the man page; read it with: nutproxy man | man -l -"),
    "demo": Command(
        ("[--once]",), "start three Redis servers and nutproxy, and show what nutproxy does"
    ),
}
USAGES = {
    name: [f"{name} {call}".rstrip() for call in command.calls]
    for name, command in COMMANDS.items()
}
USAGE = "\n       ".join(
    [
        "nutproxy [-hVtdD] [-v N] [-o FILE] [-c FILE] [-s N] [-a ADDRESS] [-i N] [-p FILE] [-m N]",
        *(f"nutproxy {usage}" for usages in USAGES.values() for usage in usages),
    ]
)
DESCRIPTION = (
    "A sharding proxy for Redis and Memcached. Without a command it runs the proxy: in the"
    " foreground, or as a daemon with -d. FILE is the configuration file, or '-' for standard"
    " input; -c FILE does the same. Without either, the first of these that exists is used:"
    f" {', '.join(CONF_FILES)}."
)


class UsageError(Exception):
    """The call is wrong; `usage` is the usage text of the command, `code` the exit code."""

    def __init__(self, message: str, usage: str, code: int = 1) -> None:
        super().__init__(message)
        self.usage = usage
        self.code = code


class Parser(argparse.ArgumentParser):
    """argparse, but a bad option raises: twemproxy exits with 1, argparse with 2."""

    def error(self, message: str) -> NoReturn:
        command = COMMANDS.get(self.prog.removeprefix(f"{PROG} "))
        raise UsageError(message, self.format_usage(), command.error_code if command else 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line in `argv` (without the program's name); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        # It parses its own flags.
        from nutproxy.demo import main as demo

        return int(demo(arguments[1:]))
    parser = _parser()
    try:
        flags = _parse(parser, arguments)
    except UsageError as error:
        return _explain(error)
    except SystemExit as stop:  # --help of a command
        return int(stop.code or 0)
    if flags.help:
        print(parser.format_help(), end="")
        return 0
    if flags.version:
        print(f"This is {PROG}-{__version__}")
        return 0
    commands = {
        "check": _check,
        "route": _route,
        "ring": _ring,
        "diff": _diff,
        "schema": _schema,
        "examples": _examples,
        "completion": _completion,
        "man": _man,
    }
    try:
        code = commands.get(flags.command, _main_command)(flags)
        sys.stdout.flush()
    except UsageError as error:
        return _explain(error)
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Python would report that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COMMANDS[flags.command].error_code if flags.command else 1
    return code


def _explain(error: UsageError) -> int:
    print(f"{PROG}: {error}\n{error.usage}", end="", file=sys.stderr)
    return error.code


# Parsing.


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """The flags. argparse takes the words of a command only up to its first option, and leaves the
    others over."""
    flags, rest = parser.parse_known_args(arguments)
    words = rest[: rest.index("--")] if "--" in rest else rest
    unknown = any(word.startswith("-") and word != "-" for word in words)
    if rest and (unknown or not hasattr(flags, "words")):
        message = f"unrecognized arguments: {' '.join(rest)}"
        if flags.command is None:
            parser.error(message)
        raise _misused(flags, message)
    if rest:
        flags.words += [*words, *rest[len(words) + 1 :]]
    return flags


def _parser() -> Parser:
    # Longer than a screen, but flat: one option after the other.
    parser = Parser(
        prog=PROG,
        usage=USAGE,
        add_help=False,
        description=DESCRIPTION,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this help and exit")
    add("-V", "--version", action="store_true", help="show the version and exit")
    add("-t", "--test-conf", action="store_true", help="check the configuration file and exit")
    add("-d", "--daemonize", action="store_true", help="run as a daemon; return once it listens")
    add(
        "-D",
        "--describe-stats",
        action="store_true",
        help="describe the statistics and exit",
    )
    add(
        "-v",
        "--verbose",
        metavar="N",
        type=verbosity,
        help=f"log level (default: {DEFAULTS.verbose}, min: 0, max: {VERBOSE_MAX})",
    )
    add("-o", "--output", metavar="FILE", type=file_name, help="log file (default: stderr)")
    add(
        "-c",
        "--conf-file",
        metavar="FILE",
        type=file_name,
        help="configuration file, '-' for standard input (default: the first that exists of"
        f" {', '.join(CONF_FILES)})",
    )
    add(
        "-s",
        "--stats-port",
        metavar="N",
        type=stats_port,
        help=f"statistics port, 0 for none (default: {Options.stats_port})",
    )
    add(
        "-a",
        "--stats-addr",
        metavar="ADDRESS",
        type=address,
        help=f"address of the statistics port (default: {Options.stats_addr}, this machine only)",
    )
    add(
        "-i",
        "--stats-interval",
        metavar="N",
        type=interval,
        help="accepted and ignored: the statistics are always current",
    )
    add(
        "-p",
        "--pid-file",
        metavar="FILE",
        type=file_name,
        help="pid file, locked while the process runs (default: none)",
    )
    add(
        "-m",
        "--mbuf-size",
        metavar="N",
        type=mbuf_size,
        help=f"bytes to read from a connection at once (default: {DEFAULTS.mbuf_size},"
        f" min: {MBUF_MIN_SIZE}, max: {MBUF_MAX_SIZE})",
    )
    commands = parser.add_subparsers(dest="command", prog=PROG, metavar="COMMAND", title="commands")
    subparsers = {
        name: commands.add_parser(
            name,
            help=command.text,
            description=f"{command.text[0].upper()}{command.text[1:]}.",
            usage="\n       ".join(f"{PROG} {usage}" for usage in USAGES[name]),
        )
        for name, command in COMMANDS.items()
    }
    for name in ("check", "route", "ring"):
        # -c can be given before or after the command; SUPPRESS keeps a value given before.
        subparsers[name].add_argument(
            "-c",
            "--conf-file",
            metavar="FILE",
            type=file_name,
            default=argparse.SUPPRESS,
            help="configuration file, '-' for standard input",
        )
        subparsers[name].add_argument("words", metavar="WORD", nargs="*", help=argparse.SUPPRESS)
    subparsers["diff"].add_argument("words", metavar="WORD", nargs="*", help=argparse.SUPPRESS)
    _add_placement_flags(subparsers)
    subparsers["examples"].add_argument("name", metavar="NAME", nargs="?", choices=[*EXAMPLES])
    subparsers["completion"].add_argument("shell", metavar="SHELL", choices=[*SHELLS])
    subparsers["demo"].add_argument("--once", action="store_true", help="end after the tour")
    return parser


def _add_placement_flags(subparsers: Mapping[str, argparse.ArgumentParser]) -> None:
    subparsers["route"].add_argument(
        "--without",
        metavar="SERVER",
        action="append",
        default=[],
        help="route as if this server, by name or address, were ejected; can be repeated",
    )
    for name in ("ring", "diff"):
        subparsers[name].add_argument(
            "--keys",
            metavar="FILE",
            type=file_name,
            help="also count the keys in this file, one in each line, '-' for standard input",
        )
        subparsers[name].add_argument("--json", action="store_true", help="print JSON")
    subparsers["diff"].add_argument(
        "--max",
        metavar="SHARE",
        type=share,
        help="the share of a pool's keys that may move, in percent; with --keys, of those keys",
    )


def _find_conf_file() -> str | None:
    return next((path for path in CONF_FILES if os.path.exists(path)), None)


def _take_words(flags: argparse.Namespace, names: Sequence[str], required: int = 0) -> list[str]:
    """Returns the words after a command, without FILE, which becomes conf_file. The words are FILE,
    unless -c has given it, and then `names`. With `required` all of them must be given, and the
    last may be repeated; without it they are optional."""
    words = list(flags.words)
    takes = ["FILE", *names] if flags.conf_file is None else list(names)
    least = len(takes) if required else 0
    if len(words) < least:
        missing = ", ".join(takes[len(words) :])
        raise _misused(flags, f"the following arguments are required: {missing}")
    if len(words) > len(takes) and not required:
        extra = " ".join(words[len(takes) :])
        raise _misused(flags, f"unrecognized arguments: {extra}")
    if flags.conf_file is None and words:
        if not words[0]:
            raise _misused(flags, "argument FILE: requires a file name")
        flags.conf_file = words.pop(0)
    return words


def _misused(flags: argparse.Namespace, message: str) -> UsageError:
    usages = "\n       ".join(f"{PROG} {usage}" for usage in USAGES[flags.command])
    return UsageError(message, f"usage: {usages}\n", COMMANDS[flags.command].error_code)


# Commands.


def _report(path: str) -> tuple[Config | None, list[Problem]]:
    """Print every problem and warning of a file, including those about this machine."""
    config, problems = load(path)
    if config is not None:
        problems += _unavailable(config)
        if _is_built():
            from nutproxy.spread import warnings

            problems += warnings(config)
        problems.sort(key=lambda problem: problem.line or 0)
    print_problems(problems, sys.stdout)
    sys.stdout.flush()
    return config, problems


def _unavailable(config: Config) -> Iterator[Problem]:
    """Warnings about what the file needs and this machine does not have. They are not errors of the
    file, which may be meant for another machine."""
    shortage = descriptors.shortage(config, descriptors.hard_limit())
    if shortage:
        yield Problem("warning", config.path, None, None, None, shortage)
    for pool in config.pools:
        if pool.tcp_congestion:
            try:
                check_congestion(pool.tcp_congestion)
            except OSError as error:
                line = pool.line_of("tcp_congestion")
                yield Problem("warning", config.path, line, pool.name, None, str(error.strerror))


def _check(flags: argparse.Namespace) -> int:
    _take_words(flags, ())
    path = _conf_file(flags)
    if path is None:
        return 1
    config, warnings = _report(path)
    if config is None:
        return 1
    counts = [
        number_of(len(config.pools), "pool"),
        number_of(sum(len(pool.servers) for pool in config.pools), "server"),
        *([number_of(len(warnings), "warning")] if warnings else []),
    ]
    print(printable(f"{config.path}: ok, {', '.join(counts)}"))
    for pool in config.pools:
        print(printable(f"  {summary(pool)}"))
    return 0


def _schema(flags: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2))
    return 0


def _main_command(flags: argparse.Namespace) -> int:
    """A call without a command; the flags have twemproxy's precedence."""
    if flags.describe_stats:
        print(f"This is {PROG}-{__version__}\n\n{describe()}", end="")
        return 0
    if flags.test_conf:
        path = _conf_file(flags)
        usable = path is not None and _report(path)[0] is not None
        if path is not None:
            notice(f"configuration file '{path}' syntax is {'ok' if usable else 'invalid'}")
        return 0 if usable else 1
    return _run(flags)


def _is_built() -> bool:
    """Whether the compiled modules can be imported."""
    spec = importlib.util.find_spec("nutproxy.core")
    return spec is not None and not str(spec.origin).endswith(".py")


def _is_compiled() -> bool:
    """The same, and prints what to do if they cannot."""
    if _is_built():
        return True
    notice(
        f"{os.path.dirname(os.path.abspath(__file__))} is not compiled: run `make build` there, or"
        " `pip install .` and start nutproxy from another directory"
    )
    return False


def _run(flags: argparse.Namespace) -> int:
    config, warnings = _load_or_explain(flags)
    if config is None or not _is_compiled():
        return 1
    if flags.daemonize and flags.output is None and config.globals.output is None:
        notice("warning: a daemon without a log file has no log; set one with -o FILE")
        flags.output = os.devnull
    # Both make paths absolute, because a daemon changes its directory.
    config, options = _with_flags(config, flags), _options(flags)
    if flags.daemonize or config.globals.output is not None:
        # The log gets them as well, but it is not on this terminal.
        print_problems(warnings, sys.stderr)
    from nutproxy.master.main import run

    def serve(ready: Callable[[], None] = lambda: None) -> int:
        return int(run(config, options, warnings, ready))

    if flags.daemonize:
        from nutproxy.daemon import daemonize

        return daemonize(serve)
    return serve()


def _conf_file(flags: argparse.Namespace) -> str | None:
    """The given file, or the first of CONF_FILES that exists. If there is none, None, and a message
    on stderr."""
    path: str | None = flags.conf_file or _find_conf_file()
    if path is None:
        notice(f"no configuration file: name one with -c FILE; looked for {', '.join(CONF_FILES)}")
    return path


def _load_or_explain(flags: argparse.Namespace) -> tuple[Config | None, list[Problem]]:
    """The configuration and its warnings. If it is invalid: None, and the problems go to stderr."""
    path = _conf_file(flags)
    if path is None:
        return None, []
    config, problems = load(path)
    if config is None:
        print_problems(problems, sys.stderr)
    return config, problems


def _with_flags(config: Config, flags: argparse.Namespace) -> Config:
    """The configuration with the values of the command line in its `global` section and with
    absolute paths."""
    given = {
        name: getattr(flags, name)
        for name in ("verbose", "output", "mbuf_size")
        if getattr(flags, name) is not None
    }
    output = given.get("output", config.globals.output)
    given["output"] = None if output is None else os.path.abspath(output)
    return replace(
        config,
        globals=config.globals.model_copy(update=given),
        path=config.path if config.path == STDIN_NAME else os.path.abspath(config.path),
    )


def _options(flags: argparse.Namespace) -> Options:
    given = {field.name: getattr(flags, field.name) for field in fields(Options)}
    if flags.pid_file is not None:
        given["pid_file"] = os.path.abspath(flags.pid_file)
    return Options(**{name: value for name, value in given.items() if value is not None})


def _find_pool(config: Config, name: str) -> PoolConfig | None:
    """The pool of that name. If there is none, None, and a message on stderr."""
    pools = {pool.name: pool for pool in config.pools}
    if name not in pools:
        notice(
            f"{config.path} has no pool '{name}'{did_you_mean(name, pools)};"
            f" pools: {', '.join(pools)}"
        )
    return pools.get(name)


def _route(flags: argparse.Namespace) -> int:
    name, *keys = _take_words(flags, ("POOL", "KEY"), required=2)
    config, warnings = _load_or_explain(flags)
    if config is None:
        return 1
    print_problems(warnings, sys.stderr)
    pool = _find_pool(config, name)
    if pool is None or not _is_compiled():
        return 1
    from nutproxy.placement import route

    return route(pool, [os.fsencode(key) for key in keys], flags.without)


def _ring(flags: argparse.Namespace) -> int:
    words = _take_words(flags, ("POOL",))
    _check_inputs(flags, [flags.conf_file, flags.keys])
    config, warnings = _load_or_explain(flags)
    if config is None:
        return 1
    print_problems(warnings, sys.stderr)
    pools = [_find_pool(config, name) for name in words] if words else [*config.pools]
    if None in pools or not _is_compiled():
        return 1
    from nutproxy.placement import ring

    keys = _keys(flags)
    return ring(config, [*filter(None, pools)], warnings, keys, flags.json)


def _diff(flags: argparse.Namespace) -> int:
    if flags.conf_file is not None:
        raise _misused(flags, "argument -c/--conf-file: diff takes its files as OLD and NEW")
    if missing := ("OLD", "NEW")[len(flags.words) :]:
        raise _misused(flags, f"the following arguments are required: {', '.join(missing)}")
    if extra := flags.words[3:]:
        raise _misused(flags, f"unrecognized arguments: {' '.join(extra)}")
    paths, names = flags.words[:2], flags.words[2:]
    _check_inputs(flags, [*paths, flags.keys])
    (old, problems), (new, warnings) = map(load, paths)
    if old is None:
        print_problems(problems, sys.stderr)
    # The old file's warnings are not news.
    print_problems(warnings, sys.stderr)
    if old is None or new is None or not _is_compiled():
        return 2
    if names and not any(pool.name == names[0] for pool in (*old.pools, *new.pools)):
        _find_pool(new, names[0])
        return 2
    from nutproxy.placement import diff

    keys = _keys(flags)
    return diff(old, new, names[0] if names else None, keys, flags.max, flags.json)


def _check_inputs(flags: argparse.Namespace, paths: Sequence[str | None]) -> None:
    if "" in paths:
        raise _misused(flags, "argument FILE: requires a file name")
    if paths.count(STDIN) > 1:
        raise _misused(flags, "only one of the files can be standard input")


def _keys(flags: argparse.Namespace) -> Iterator[bytes] | None:
    """The keys in the file of --keys: one in each line, empty lines are none. None if no file is
    given."""
    if flags.keys is None:
        return None
    try:
        lines = sys.stdin.buffer if flags.keys == STDIN else open(flags.keys, "rb")  # noqa: SIM115
    except OSError as error:
        raise _misused(flags, f"argument --keys: {flags.keys}: {error.strerror}") from None
    keys = (key for line in lines if (key := line.removesuffix(b"\n")))
    first = next(keys, None)
    if first is None:
        raise _misused(flags, f"argument --keys: {flags.keys} has no keys")
    return chain([first], keys)


def _examples(flags: argparse.Namespace) -> int:
    if flags.name is None:
        print_table([*EXAMPLES.items()])
        return 0
    try:
        print(read_example(flags.name), end="")
    except OSError as error:
        notice(f"nutproxy was installed without its examples: {error.filename}: {error.strerror}")
        return 1
    return 0


def _completion(flags: argparse.Namespace) -> int:
    print(SHELLS[flags.shell](command_line(_parser(), USAGES)), end="")
    return 0


def _man(flags: argparse.Namespace) -> int:
    files = [
        (", ".join(CONF_FILES), "the configuration file; without -c the first of these that exists")
    ]
    print(man(command_line(_parser(), USAGES), DESCRIPTION, files), end="")
    return 0
