# nutproxy/report.py: what the commands print
"""The forms in which commands print: messages, findings, tables."""

import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from nutproxy.config import PoolConfig, Problem
from nutproxy.plain import printable

PROG = "nutproxy"


def notice(message: str) -> None:
    """A message of the program itself, on stderr."""
    print(printable(f"{PROG}: {message}"), file=sys.stderr)


def print_problems(problems: Iterable[Problem], file: TextIO) -> None:
    for problem in problems:
        print(problem, file=file)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; the last one is not padded and may contain blanks."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*cells, row[-1]]))


def number_of(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def summary(pool: PoolConfig) -> str:
    """A pool in one line."""
    protocol = "Redis" if pool.redis else "Memcached"
    servers = number_of(len(pool.servers), "server")
    return (
        f"pool '{pool.name}' listens on {pool.listen}: {protocol}, {servers}, {pool.distribution},"
        f" {pool.hash}"
    )
