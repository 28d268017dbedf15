# nutproxy/changes.py: what another configuration changes
"""Compares two configurations, both checked. A running nutproxy carries the difference out; what it
cannot change while it runs is refused by name, with what to do instead.

    compare(old, new) ──> Changes ─┬─ refused     nothing is changed
                                   └─ else        the master opens sockets, the workers get `new`

A pool is known by its name, and a server by its name within its pool. A server that is not named in
the file has the name of its address: another address is another server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nutproxy.config import Config, PoolConfig, Problem
from nutproxy.config.effects import Effect
from nutproxy.config.model import GlobalConfig, Keys, PoolKeys, extra, table

# Keys of which the objects say more than their values.
VALUES: dict[str, Callable[[Any], Any]] = {
    "listen": lambda pool: (pool.listen, pool.listen_permissions),
    "servers": lambda pool: sorted(
        (server.name, str(server.address), server.weight) for server in pool.servers
    ),
    "custom_commands": lambda pool: [
        (command.name, command.row) for command in pool.custom_commands
    ],
}


@dataclass(frozen=True)
class PoolChanges:
    """What changes in a pool that stays. `keys` has the names of all keys that change; if `servers`
    is one of them, the names of these servers follow."""

    name: str
    keys: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]
    """To another address."""
    weighted: tuple[str, ...]
    """With another weight."""

    def has(self, effect: Effect) -> bool:
        return any(effect_of(PoolKeys, key) is effect for key in self.keys)

    def __str__(self) -> str:
        parts = [key for key in self.keys if key != "servers"]
        for what in ("added", "removed", "moved", "weighted"):
            names = getattr(self, what)
            if names:
                words = {"moved": "with another address", "weighted": "with another weight"}
                parts.append(f"servers {words.get(what, what)}: {short(names)}")
        return f"pool '{self.name}' changes: {', '.join(parts)}"


@dataclass(frozen=True)
class Changes:
    """`keys` are those of `global`. If something is `refused`, nothing may be changed."""

    keys: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    pools: tuple[PoolChanges, ...]
    refused: tuple[Problem, ...]

    def __bool__(self) -> bool:
        return bool(self.keys or self.added or self.removed or self.pools)

    def lines(self) -> Iterator[str]:
        """For the log."""
        if self.keys:
            yield f"changed under 'global': {', '.join(self.keys)}"
        for name in self.removed:
            yield f"pool '{name}' is removed"
        for name in self.added:
            yield f"pool '{name}' is added"
        yield from map(str, self.pools)


def short(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    some = list(names)
    more = f" and {len(some) - limit} more" if len(some) > limit else ""
    return ", ".join(some[:limit]) + more


def effect_of(section: type[Keys], key: str) -> Effect:
    return Effect(extra(table(section)[key])["x-effect"])


def changed(section: type[Keys], old: Any, new: Any) -> tuple[str, ...]:
    """The names of the keys with other values, in the order of the documentation."""

    def value(key: str, values: Any) -> Any:
        return VALUES[key](values) if key in VALUES else getattr(values, key)

    return tuple(key for key in table(section) if value(key, old) != value(key, new))


def compare(old: Config, new: Config) -> Changes:
    before = {pool.name: pool for pool in old.pools}
    after = {pool.name: pool for pool in new.pools}
    keys = changed(GlobalConfig, old.globals, new.globals)
    found = [compare_pools(before[name], pool) for name, pool in after.items() if name in before]
    return Changes(
        keys,
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        tuple(each for each in found if each.keys),
        (
            *(refusal(new, GlobalConfig, key) for key in keys if is_fixed(GlobalConfig, key)),
            *(problem for each in found for problem in refusals(new, each, after[each.name])),
        ),
    )


def compare_pools(old: PoolConfig, new: PoolConfig) -> PoolChanges:
    before = {server.name: server for server in old.servers}
    after = {server.name: server for server in new.servers}
    both = [(before[name], server) for name, server in after.items() if name in before]
    return PoolChanges(
        new.name,
        changed(PoolKeys, old, new),
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        tuple(server.name for was, server in both if was.address != server.address),
        tuple(server.name for was, server in both if was.weight != server.weight),
    )


def is_fixed(section: type[Keys], key: str) -> bool:
    return effect_of(section, key) is Effect.RESTART


def refusals(new: Config, changes: PoolChanges, pool: PoolConfig) -> Iterator[Problem]:
    """What cannot change in this pool while nutproxy runs."""
    for key in changes.keys:
        if is_fixed(PoolKeys, key) and not (key == "reuseport" and "listen" in changes.keys):
            yield refusal(new, PoolKeys, key, pool)


def refusal(new: Config, section: type[Keys], key: str, pool: PoolConfig | None = None) -> Problem:
    text = f"cannot change while nutproxy runs: {extra(table(section)[key])['x-instead']}"
    if pool is None:
        return Problem("problem", new.path, None, None, f"global.{key}", text)
    return Problem("problem", new.path, pool.line_of(key), pool.name, key, text)
