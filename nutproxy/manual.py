# nutproxy/manual.py: shell completion and the man page
"""Shell completion and the man page, generated from the parser that prints `nutproxy --help`. A new
flag or command appears in all of them as soon as the parser has it.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple

from nutproxy import __version__


class Flag(NamedTuple):
    """An option: its spellings, the name of its value ("" if it has none) and its help text."""

    names: tuple[str, ...]
    takes: str
    help: str


class Verb(NamedTuple):
    """A command: its calls, its help text, its own flags, and the words that may follow it."""

    name: str
    usages: tuple[str, ...]
    help: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...]


class CommandLine(NamedTuple):
    """All flags and commands of nutproxy."""

    flags: tuple[Flag, ...]
    verbs: tuple[Verb, ...]


def command_line(
    parser: argparse.ArgumentParser, usages: Mapping[str, Sequence[str]]
) -> CommandLine:
    """The flags and commands of `parser`; `usages` has the calls of each command."""
    flags, verbs = _flags(parser), []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, own in action.choices.items():
                words = tuple(str(word) for place in own._actions for word in (place.choices or ()))
                verbs.append(Verb(name, tuple(usages[name]), texts[name], _flags(own), words))
    return CommandLine(flags, tuple(verbs))


def _flags(parser: argparse.ArgumentParser) -> tuple[Flag, ...]:
    return tuple(
        Flag(
            tuple(action.option_strings),
            "" if action.nargs == 0 else str(action.metavar),
            (action.help or "").replace("%(default)s", str(action.default)),
        )
        for action in parser._actions
        if action.option_strings
    )


# Completion.


def bash(line: CommandLine) -> str:
    cases = "".join(
        f"        {verb.name}) words={_quoted(' '.join([*_names(verb.flags), *verb.words]))} ;;\n"
        for verb in line.verbs
    )
    flags = [*line.flags, *(flag for verb in line.verbs for flag in verb.flags)]
    taking = "|".join(dict.fromkeys(_names(flag for flag in flags if flag.takes == "FILE")))
    valued = "|".join(
        dict.fromkeys(_names(flag for flag in flags if flag.takes not in ("", "FILE")))
    )
    first = " ".join([*_names(line.flags), *(verb.name for verb in line.verbs)])
    return f"""\
# bash completion for nutproxy; load it with: source <(nutproxy completion bash)
_nutproxy() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local word words={_quoted(first)}
    COMPREPLY=()
    case $previous in
        {taking}) COMPREPLY=($(compgen -f -- "$current")); return ;;
        {valued}) return ;;
    esac
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in
{_indented(cases)}        esac
    done
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ $current == -* ]] || COMPREPLY+=($(compgen -f -- "$current"))
}}
complete -o filenames -F _nutproxy nutproxy
"""


def zsh(line: CommandLine) -> str:
    flags = "".join(f"    {_zsh_flag(flag)} \\\n" for flag in line.flags)
    verbs = "".join(f"            {_quoted(f'{verb.name}:{verb.help}')}\n" for verb in line.verbs)
    cases = "".join(
        f"        {verb.name}) _arguments {_zsh_arguments(verb)} ;;\n" for verb in line.verbs
    )
    return f"""\
#compdef nutproxy
# zsh completion for nutproxy; load it with: source <(nutproxy completion zsh)
_nutproxy() {{
    local state line verbs
    _arguments -C \\
{flags}    '1: :->verb' '*:: :->rest'
    case $state in
        verb)
            verbs=(
{verbs}            )
            _describe command verbs ;;
        rest)
            case $line[1] in
{_indented(cases)}            esac ;;
    esac
}}
compdef _nutproxy nutproxy
"""


def _zsh_arguments(verb: Verb) -> str:
    words = f"({' '.join(verb.words)})" if verb.words else "_files"
    return " ".join([*map(_zsh_flag, verb.flags), _quoted(f"*:word:{words}")])


def _zsh_flag(flag: Flag) -> str:
    text = flag.help.replace("[", "(").replace("]", ")").replace(":", " -")
    takes = f":{flag.takes}:{'_files' if flag.takes == 'FILE' else ' '}" if flag.takes else ""
    group = f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
    return " ".join(_quoted(f"{group}{name}[{text}]{takes}") for name in flag.names)


def fish(line: CommandLine) -> str:
    lines = ["# fish completion for nutproxy; load it with: nutproxy completion fish | source"]
    lines += [f"complete -c nutproxy {_fish_flag(flag)}" for flag in line.flags]
    for verb in line.verbs:
        lines.append(
            f"complete -c nutproxy -n __fish_use_subcommand -a {verb.name} -d {_quoted(verb.help)}"
        )
        seen = f"-n '__fish_seen_subcommand_from {verb.name}'"
        lines += [f"complete -c nutproxy {seen} {_fish_flag(flag)}" for flag in verb.flags]
        if verb.words:
            lines.append(f"complete -c nutproxy {seen} -f -a {_quoted(' '.join(verb.words))}")
    return "\n".join([*lines, ""])


def _fish_flag(flag: Flag) -> str:
    names = " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names
    )
    takes = " -r" + (" -F" if flag.takes == "FILE" else " -f") if flag.takes else ""
    return f"{names}{takes} -d {_quoted(flag.help)}"


SHELLS: dict[str, Callable[[CommandLine], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _names(flags: Iterable[Flag]) -> Iterator[str]:
    for flag in flags:
        yield from flag.names


def _quoted(text: str) -> str:
    """Quoted so that every shell takes it as one word."""
    return "'" + text.replace("'", "'\\''") + "'"


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


# The man page.


def man(line: CommandLine, description: str, files: Sequence[tuple[str, str]]) -> str:
    """nutproxy(1) in man's macros. `files` are pairs of a name and a description."""
    synopsis = [f"nutproxy {usage}" for verb in line.verbs for usage in verb.usages]
    parts = [
        f'.TH NUTPROXY 1 "{date.today():%B %Y}" "nutproxy {__version__}" "User Commands"',
        ".SH NAME",
        r"nutproxy \- sharding proxy for Redis and Memcached",
        ".SH SYNOPSIS",
        ".nf",
        _roff("nutproxy [OPTION]..."),
        *map(_roff, synopsis),
        ".fi",
        ".SH DESCRIPTION",
        _roff(description),
        ".SH OPTIONS",
        *(_roff_flag(flag) for flag in line.flags),
        ".SH COMMANDS",
    ]
    for verb in line.verbs:
        parts += [".TP", rf"\fB{_roff(verb.name)}\fR", _roff(verb.help)]
        if verb.words:
            parts += [".br", _roff(f"Accepted: {', '.join(verb.words)}.")]
        own = [flag for flag in verb.flags if "--help" not in flag.names]
        parts += [".RS", *map(_roff_flag, own), ".RE"] if own else []
    parts += [".SH FILES"]
    for name, text in files:
        parts += [".TP", rf"\fI{_roff(name)}\fR", _roff(text)]
    parts += [
        ".SH EXIT STATUS",
        _roff(
            "0 on success, 1 on any error. diff: 1 if a pool moves more than --max, 2 on any error."
        ),
    ]
    return "\n".join([*parts, ""])


def _roff_flag(flag: Flag) -> str:
    names = ", ".join(rf"\fB{_roff(name)}\fR" for name in flag.names)
    takes = rf" \fI{_roff(flag.takes)}\fR" if flag.takes else ""
    return f".TP\n{names}{takes}\n{_roff(flag.help)}"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text
