# nutproxy/cli.py: the command line
"""`nutproxy`: twemproxy's flags to run the proxy, and commands that inspect a configuration.

    nutproxy [flags]                        run, in the foreground without -d
    nutproxy check [FILE]                   every problem and warning of a file
    nutproxy route FILE POOL KEY...         the server of each key
    nutproxy ring [FILE [POOL]]             each server's share of the keys
    nutproxy schema                         the JSON Schema of the file
    nutproxy examples [NAME]                example files
    nutproxy completion SHELL, man          shell completion and the man page
    nutproxy demo                           three Redis servers, a proxy and a tour

Exit codes are twemproxy's: 0 on success and 1 for every error. Results go to stdout, usage errors
to stderr. The event loop and the compiled modules are imported only by the commands that need them,
so `check` works even if they are not built.
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import NamedTuple, NoReturn, TextIO

from nutproxy import __version__, descriptors
from nutproxy.config import Config, GlobalConfig, Options, PoolConfig, Problem, load, schema
from nutproxy.config.load import STDIN_NAME, is_crc32_on_ketama
from nutproxy.config.model import MBUF_MAX_SIZE, MBUF_MIN_SIZE, VERBOSE_MAX
from nutproxy.config.values import MAX_INT, MAX_PORT, did_you_mean, host, printable
from nutproxy.examples import EXAMPLES
from nutproxy.examples import read as read_example
from nutproxy.io.sockets import check_congestion
from nutproxy.manual import SHELLS, command_line, man
from nutproxy.stats.table import describe

PROG = "nutproxy"
# Without -c the first of these that exists is used. conf/nutcracker.yml is twemproxy's default.
CONF_FILES = (
    "conf/nutcracker.yml",
    "conf/nutproxy.yml",
    "nutproxy.yml",
    "/etc/nutproxy/nutproxy.yml",
)
DEFAULTS = GlobalConfig()


class Command(NamedTuple):
    """A command: the words after its name, one string for each form of the call, and its help."""

    calls: tuple[str, ...]
    text: str


COMMANDS = {
    "check": Command(
        ("[FILE]",),
        "print every problem and warning of a configuration file, and a summary of its pools",
    ),
    "route": Command(
        ("FILE POOL KEY...", "-c FILE POOL KEY..."),
        "print the server, hash value and ring point of each key, without connecting",
    ),
    "ring": Command(
        ("[FILE [POOL]]",),
        "print each server's ring points, its share of the keys, and the share of the keys that"
        " would move to another server if it left",
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
    """The call is wrong; `usage` is the usage text of the command."""

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
        # It parses its own flags.
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
    commands = {
        "check": _check,
        "route": _route,
        "ring": _ring,
        "schema": _schema,
        "examples": _examples,
        "completion": _completion,
        "man": _man,
    }
    try:
        code = commands.get(flags.command, _main_command)(flags)
        sys.stdout.flush()
    except UsageError as error:
        print(f"{PROG}: {error}\n{error.usage}", end="", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Python would report that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


# Parsing.


def _digits(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 40:
        raise argparse.ArgumentTypeError(f"requires a number, not '{text}'")
    return int(text)


def _verbosity(text: str) -> int:
    """Values above the maximum are lowered to it, as in twemproxy."""
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
        type=_verbosity,
        help=f"log level (default: {DEFAULTS.verbose}, min: 0, max: {VERBOSE_MAX})",
    )
    add("-o", "--output", metavar="FILE", type=_file_name, help="log file (default: stderr)")
    add(
        "-c",
        "--conf-file",
        metavar="FILE",
        type=_file_name,
        help="configuration file, '-' for standard input (default: the first that exists of"
        f" {', '.join(CONF_FILES)})",
    )
    add(
        "-s",
        "--stats-port",
        metavar="N",
        type=_stats_port,
        help=f"statistics port, 0 for none (default: {Options.stats_port})",
    )
    add(
        "-a",
        "--stats-addr",
        metavar="ADDRESS",
        type=_address,
        help=f"address of the statistics port (default: {Options.stats_addr}, this machine only)",
    )
    add(
        "-i",
        "--stats-interval",
        metavar="N",
        type=_interval,
        help="accepted and ignored: the statistics are always current",
    )
    add(
        "-p",
        "--pid-file",
        metavar="FILE",
        type=_file_name,
        help="pid file, locked while the process runs (default: none)",
    )
    add(
        "-m",
        "--mbuf-size",
        metavar="N",
        type=_mbuf_size,
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
            type=_file_name,
            default=argparse.SUPPRESS,
            help="configuration file, '-' for standard input",
        )
        subparsers[name].add_argument("words", metavar="WORD", nargs="*", help=argparse.SUPPRESS)
    subparsers["examples"].add_argument("name", metavar="NAME", nargs="?", choices=[*EXAMPLES])
    subparsers["completion"].add_argument("shell", metavar="SHELL", choices=[*SHELLS])
    subparsers["demo"].add_argument("--once", action="store_true", help="end after the tour")
    return parser


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
        raise UsageError(f"the following arguments are required: {missing}", _usage(flags))
    if len(words) > len(takes) and not required:
        extra = " ".join(words[len(takes) :])
        raise UsageError(f"unrecognized arguments: {extra}", _usage(flags))
    if flags.conf_file is None and words:
        if not words[0]:
            raise UsageError("argument FILE: requires a file name", _usage(flags))
        flags.conf_file = words.pop(0)
    return words


def _usage(flags: argparse.Namespace) -> str:
    return "usage: " + "\n       ".join(f"{PROG} {usage}" for usage in USAGES[flags.command]) + "\n"


# Commands.


def _notice(message: str) -> None:
    print(printable(f"{PROG}: {message}"), file=sys.stderr)


def _print_problems(problems: Iterable[Problem], file: TextIO) -> None:
    for problem in problems:
        print(problem, file=file)


def _report(path: str) -> tuple[Config | None, list[Problem]]:
    """Print every problem and warning of a file, including those about this machine."""
    config, problems = load(path)
    if config is not None:
        problems += [*_unavailable(config), *_uneven(config)]
        problems.sort(key=lambda problem: problem.line or 0)
    _print_problems(problems, sys.stdout)
    sys.stdout.flush()
    return config, problems


def _uneven(config: Config) -> Iterator[Problem]:
    """Warnings about pools that keep keys with consecutive numbers together. The proxy does not log
    them at the start: the file is correct, and a pool with data cannot change its hash."""
    if not _is_built():
        return
    from nutproxy.spread import RUN, uneven

    for pool in config.pools:
        run = None if is_crc32_on_ketama(pool) else uneven(pool)
        if run is None:
            continue
        message = (
            f"with {pool.distribution}, {pool.hash} keeps keys with consecutive numbers together:"
            f" of the {RUN} keys '{run.first}' to '{run.last}', {run.found} belong to server"
            f" '{run.server}', whose share is {run.share:.0%}; set 'hash: murmur' for a new pool,"
            " but not for one that holds data, because nearly every key would be looked up on"
            " another server"
        )
        yield Problem("warning", config.path, pool.line_of("hash"), pool.name, "hash", message)


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
        _count(len(config.pools), "pool"),
        _count(sum(len(pool.servers) for pool in config.pools), "server"),
        *([_count(len(warnings), "warning")] if warnings else []),
    ]
    print(printable(f"{config.path}: ok, {', '.join(counts)}"))
    for pool in config.pools:
        print(printable(f"  {_summary(pool)}"))
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _summary(pool: PoolConfig) -> str:
    protocol = "Redis" if pool.redis else "Memcached"
    servers = _count(len(pool.servers), "server")
    return (
        f"pool '{pool.name}' listens on {pool.listen}: {protocol}, {servers}, {pool.distribution},"
        f" {pool.hash}"
    )


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
            _notice(f"configuration file '{path}' syntax is {'ok' if usable else 'invalid'}")
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
    _notice(
        f"{os.path.dirname(os.path.abspath(__file__))} is not compiled: run `make build` there, or"
        " `pip install .` and start nutproxy from another directory"
    )
    return False


def _run(flags: argparse.Namespace) -> int:
    config, warnings = _load_or_explain(flags)
    if config is None or not _is_compiled():
        return 1
    if flags.daemonize and flags.output is None and config.globals.output is None:
        _notice("warning: a daemon without a log file has no log; set one with -o FILE")
        flags.output = os.devnull
    # Both make paths absolute, because a daemon changes its directory.
    config, options = _with_flags(config, flags), _options(flags)
    if flags.daemonize or config.globals.output is not None:
        # The log gets them as well, but it is not on this terminal.
        _print_problems(warnings, sys.stderr)
    from nutproxy.worker import run

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
        _notice(f"no configuration file: name one with -c FILE; looked for {', '.join(CONF_FILES)}")
    return path


def _load_or_explain(flags: argparse.Namespace) -> tuple[Config | None, list[Problem]]:
    """The configuration and its warnings. If it is invalid: None, and the problems go to stderr."""
    path = _conf_file(flags)
    if path is None:
        return None, []
    config, problems = load(path)
    if config is None:
        _print_problems(problems, sys.stderr)
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
        _notice(
            f"{config.path} has no pool '{name}'{did_you_mean(name, pools)};"
            f" pools: {', '.join(pools)}"
        )
    return pools.get(name)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; the last one is not padded and may contain blanks."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*cells, row[-1]]))


def _route(flags: argparse.Namespace) -> int:
    """Print one line per key. The key is last, because it may contain blanks; '-' means that
    nothing was hashed."""
    name, *keys = _take_words(flags, ("POOL", "KEY"), required=2)
    config, warnings = _load_or_explain(flags)
    if config is None:
        return 1
    _print_problems(warnings, sys.stderr)
    pool = _find_pool(config, name)
    if pool is None:
        return 1
    if not _is_compiled():
        return 1
    from nutproxy.hashkit.router import Router

    router = Router(
        pool.hash,
        pool.distribution,
        pool.hash_tag,
        [(server.name.encode(), server.weight) for server in pool.servers],
    )
    rows = [("SERVER", "ADDRESS", "HASH", "POINT", "KEY")]
    for text in keys:
        key = os.fsencode(text)
        index, hashed, point = router.explain(key)
        server = pool.servers[index]
        shown = printable(key.decode(errors="backslashreplace"))
        rows.append((server.name, str(server.address), _number(hashed), _number(point), shown))
    _print_table(rows)
    return 0


def _ring(flags: argparse.Namespace) -> int:
    """Print a table for each pool."""
    words = _take_words(flags, ("POOL",))
    config, warnings = _load_or_explain(flags)
    if config is None:
        return 1
    _print_problems(warnings, sys.stderr)
    pools = [_find_pool(config, name) for name in words] if words else config.pools
    if None in pools or not _is_compiled():
        return 1
    from nutproxy.spread import parts

    for pool in filter(None, pools):
        if pool is not pools[0]:
            print()
        print(printable(_summary(pool)))
        rows = [("SERVER", "WEIGHT", "POINTS", "SHARE", "MOVES", "ADDRESS")]
        for server, part in zip(pool.servers, parts(pool), strict=True):
            share, moves = f"{part.share:.1%}", f"{part.moves:.1%}"
            weight, points = str(server.weight), str(part.points)
            rows.append((server.name, weight, points, share, moves, str(server.address)))
        _print_table(rows)
    return 0


def _examples(flags: argparse.Namespace) -> int:
    if flags.name is None:
        _print_table([*EXAMPLES.items()])
        return 0
    try:
        print(read_example(flags.name), end="")
    except OSError as error:
        _notice(f"nutproxy was installed without its examples: {error.filename}: {error.strerror}")
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


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
