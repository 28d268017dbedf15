# nutproxy/cli.py: the command line
"""`nutproxy`: twemproxy's flags to run the proxy, and commands to look at a configuration.

    nutproxy [flags]                        run, in the foreground without -d
    nutproxy check FILE                     print every problem and warning of a file
    nutproxy route -c FILE POOL KEY...      print which server each key belongs to
    nutproxy schema                         print the JSON Schema of the file
    nutproxy demo                           three Redis servers, a proxy and a tour

Exit codes are twemproxy's: 0, and 1 for whatever is wrong. What was asked for goes to stdout, what
is wrong with the call to stderr. The event loop and the compiled modules are imported only by the
commands that need them, so `check` works where they are not built.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import NoReturn, TextIO

from nutproxy import __version__, descriptors
from nutproxy.config import Config, GlobalConfig, Options, Problem, load, schema
from nutproxy.config.model import MBUF_MAX_SIZE, MBUF_MIN_SIZE, VERBOSE_MAX
from nutproxy.config.values import MAX_INT, MAX_PORT, did_you_mean, host, printable
from nutproxy.sockets import check_congestion
from nutproxy.stats.table import describe

PROG = "nutproxy"
DEFAULT_CONF_FILE = "conf/nutcracker.yml"
DEFAULTS = GlobalConfig()

COMMANDS = {
    "check": "print every problem and warning of a configuration file",
    "route": "print the server, hash value and ring point of keys, without connecting",
    "schema": "print the JSON Schema of the configuration file, for editors",
    "demo": "start three Redis servers and a proxy, and show what it does",
}


USAGE = """\
nutproxy [-hVtdD] [-v N] [-o FILE] [-c FILE] [-s N] [-a ADDRESS] [-i N] [-p FILE] [-m N]
       nutproxy check FILE
       nutproxy route -c FILE POOL KEY...
       nutproxy schema
       nutproxy demo [--once]"""


class UsageError(Exception):
    """A call that cannot be understood; the usage text of its parser goes with it."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """argparse, but a bad option raises: twemproxy exits with 1, argparse with 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line in `argv` (without the program's name); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["demo"]:
        # Its flags are its own.
        from nutproxy.demo import main as demo

        return int(demo(arguments[1:]))
    parser = _parser()
    try:
        flags = parser.parse_args(arguments)
    except UsageError as error:
        print(f"{PROG}: {error}\n{error.usage}", end="", file=sys.stderr)
        return 1
    except SystemExit as stop:  # --help of a command
        return int(stop.code or 0)
    if flags.help:
        print(parser.format_help(), end="")
        return 0
    if flags.version:
        print(f"This is {PROG}-{__version__}")
        return 0
    commands = {"check": _check, "route": _route, "schema": _schema}
    try:
        code = commands.get(flags.command, _main_command)(flags)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads this has seen enough, as `head` has. Python would complain at exit, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


# Parsing.


def _digits(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 40:
        raise argparse.ArgumentTypeError(f"requires a number, not '{text}'")
    return int(text)


def _verbosity(text: str) -> int:
    """Clamped, as in twemproxy."""
    return min(_digits(text), VERBOSE_MAX)


def _stats_port(text: str) -> int:
    port = _digits(text)
    if port > MAX_PORT:
        raise argparse.ArgumentTypeError(
            f"{text} is not a valid port, accepted: 1 to {MAX_PORT}, 0 for no statistics port"
        )
    return port


def _address(text: str) -> str:
    try:
        return host(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _interval(text: str) -> int:
    interval = _digits(text)
    if interval > MAX_INT:
        raise argparse.ArgumentTypeError(
            f"{text} is out of range, accepted: 0 to {MAX_INT} milliseconds"
        )
    return interval


def _mbuf_size(text: str) -> int:
    size = _digits(text)
    if not MBUF_MIN_SIZE <= size <= MBUF_MAX_SIZE:
        raise argparse.ArgumentTypeError(
            f"mbuf chunk size must be between {MBUF_MIN_SIZE} and {MBUF_MAX_SIZE} bytes"
        )
    return size


def _file_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("requires a file name")
    return text


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=USAGE,
        add_help=False,
        description="A sharding proxy for Redis and Memcached. Without a command it runs, in the"
        " foreground unless -d is given.",
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this help and exit")
    add("-V", "--version", action="store_true", help="show the version and exit")
    add("-t", "--test-conf", action="store_true", help="check the configuration file and exit")
    add("-d", "--daemonize", action="store_true", help="run as a daemon; returns once it listens")
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
        type=_verbosity,
        help=f"log level (default: {DEFAULTS.verbose}, min: 0, max: {VERBOSE_MAX})",
    )
    add("-o", "--output", metavar="FILE", type=_file_name, help="log file (default: stderr)")
    add(
        "-c",
        "--conf-file",
        metavar="FILE",
        type=_file_name,
        help=f"configuration file (default: {DEFAULT_CONF_FILE})",
    )
    add(
        "-s",
        "--stats-port",
        metavar="N",
        type=_stats_port,
        help=f"statistics port (default: {Options.stats_port}), 0: none",
    )
    add(
        "-a",
        "--stats-addr",
        metavar="ADDRESS",
        type=_address,
        help=f"statistics address (default: {Options.stats_addr}, not the world)",
    )
    add(
        "-i",
        "--stats-interval",
        metavar="N",
        type=_interval,
        help="accepted and without function, since the statistics are always current",
    )
    add(
        "-p",
        "--pid-file",
        metavar="FILE",
        type=_file_name,
        help="pid file, locked while the process runs (default: off)",
    )
    add(
        "-m",
        "--mbuf-size",
        metavar="N",
        type=_mbuf_size,
        help=f"receive chunk in bytes (default: {DEFAULTS.mbuf_size},"
        f" min: {MBUF_MIN_SIZE}, max: {MBUF_MAX_SIZE})",
    )
    commands = parser.add_subparsers(dest="command", prog=PROG, metavar="COMMAND", title="commands")
    subparsers = {
        name: commands.add_parser(name, help=text, description=text)
        for name, text in COMMANDS.items()
    }
    subparsers["check"].add_argument("file", metavar="FILE")
    # -c may stand before or behind the command; SUPPRESS keeps the one before.
    subparsers["route"].add_argument(
        "-c", "--conf-file", metavar="FILE", type=_file_name, default=argparse.SUPPRESS
    )
    subparsers["route"].add_argument("pool", metavar="POOL")
    subparsers["route"].add_argument("keys", metavar="KEY", nargs="+")
    return parser


# Commands.


def _notice(message: str) -> None:
    print(printable(f"{PROG}: {message}"), file=sys.stderr)


def _print_problems(problems: Iterable[Problem], file: TextIO) -> None:
    for problem in problems:
        print(problem, file=file)


def _report(path: str) -> bool:
    """Print what `check` prints; true if the file can be used."""
    config, problems = load(path)
    if config is not None:
        problems += _unavailable(path, config)
    _print_problems(problems, sys.stdout)
    sys.stdout.flush()
    return config is not None


def _unavailable(path: str, config: Config) -> Iterator[Problem]:
    """What the file needs and this machine has not got: it may be for another one."""
    shortage = descriptors.shortage(config, descriptors.hard_limit())
    if shortage:
        yield Problem("warning", path, None, None, None, shortage)
    for pool in config.pools:
        if pool.tcp_congestion:
            try:
                check_congestion(pool.tcp_congestion)
            except OSError as error:
                yield Problem("warning", path, None, pool.name, None, str(error.strerror))


def _check(flags: argparse.Namespace) -> int:
    return 0 if _report(flags.file) else 1


def _schema(flags: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2))
    return 0


def _main_command(flags: argparse.Namespace) -> int:
    """The flags without a command, in twemproxy's order of precedence."""
    if flags.describe_stats:
        print(f"This is {PROG}-{__version__}\n\n{describe()}", end="")
        return 0
    path = flags.conf_file or DEFAULT_CONF_FILE
    if flags.test_conf:
        usable = _report(path)
        _notice(f"configuration file '{path}' syntax is {'ok' if usable else 'invalid'}")
        return 0 if usable else 1
    return _run(flags)


def _is_compiled() -> bool:
    """Whether the event core can be imported; says what to do if it cannot."""
    spec = importlib.util.find_spec("nutproxy.core")
    if spec is not None and str(spec.origin).endswith(".py"):
        _notice(
            f"{os.path.dirname(str(spec.origin))} is not compiled: run `make build` there, or"
            " `pip install .` and not from its directory"
        )
        return False
    return True


def _run(flags: argparse.Namespace) -> int:
    config, warnings = _load_or_explain(flags)
    if config is None or not _is_compiled():
        return 1
    if flags.daemonize and flags.output is None and config.globals.output is None:
        _notice("warning: a daemon without a log file (-o FILE) logs nowhere")
        flags.output = os.devnull
    # Here, as both make paths absolute: a daemon leaves this directory.
    config, options = _with_flags(config, flags), _options(flags)
    if flags.daemonize or config.globals.output is not None:
        # The log takes them as well, but it does not go to this terminal.
        _print_problems(warnings, sys.stderr)
    from nutproxy.worker import run

    def serve(ready: Callable[[], None] = lambda: None) -> int:
        return int(run(config, options, warnings, ready))

    if flags.daemonize:
        from nutproxy.daemon import daemonize

        return daemonize(serve)
    return serve()


def _load_or_explain(flags: argparse.Namespace) -> tuple[Config | None, list[Problem]]:
    """The configuration to work with, and warnings about it; problems go to stderr."""
    path = flags.conf_file or DEFAULT_CONF_FILE
    config, problems = load(path)
    if config is not None:
        return config, problems
    _print_problems(problems, sys.stderr)
    if flags.conf_file is None and not os.path.exists(path):
        _notice(f"{path} is the default, name another configuration file with -c FILE")
    return None, problems


def _with_flags(config: Config, flags: argparse.Namespace) -> Config:
    """The configuration with what the command line says instead of its `global` section, and
    with absolute paths."""
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
        path=os.path.abspath(config.path),
    )


def _options(flags: argparse.Namespace) -> Options:
    given = {field.name: getattr(flags, field.name) for field in fields(Options)}
    if flags.pid_file is not None:
        given["pid_file"] = os.path.abspath(flags.pid_file)
    return Options(**{name: value for name, value in given.items() if value is not None})


def _route(flags: argparse.Namespace) -> int:
    """One line per key, the key last: it may contain spaces. '-' where nothing was hashed."""
    config, warnings = _load_or_explain(flags)
    if config is None:
        return 1
    _print_problems(warnings, sys.stderr)
    pools = {pool.name: pool for pool in config.pools}
    if flags.pool not in pools:
        _notice(
            f"{config.path} has no pool '{flags.pool}'{did_you_mean(flags.pool, pools)};"
            f" pools: {', '.join(pools)}"
        )
        return 1
    if not _is_compiled():
        return 1
    from nutproxy.hashkit.router import Router

    pool = pools[flags.pool]
    router = Router(
        pool.hash,
        pool.distribution,
        pool.hash_tag,
        [(server.name.encode(), server.weight) for server in pool.servers],
    )
    rows = [("SERVER", "ADDRESS", "HASH", "POINT", "KEY")]
    for text in flags.keys:
        key = os.fsencode(text)
        index, hashed, point = router.explain(key)
        server = pool.servers[index]
        shown = printable(key.decode(errors="backslashreplace"))
        rows.append((server.name, str(server.address), _number(hashed), _number(point), shown))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        print("  ".join([*cells, row[4]]))
    return 0


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
