# nutproxy/placement.py: which server has which keys, on paper
"""`nutproxy route`, `ring` and `diff`. They connect to nothing.

    route    the server of each key, also with some servers ejected
    ring     each server's share of the keys
    diff     what moves between two files

A server of `diff` is the same in both files if its name is. A server with a new name is the same if
its address is in the old file under a name that is gone. What is at a server with the same name and
another address is for the user to know; `diff` says that it has moved.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

from nutproxy.config import Config, PoolConfig, Problem
from nutproxy.config.values import did_you_mean
from nutproxy.hashkit.arcs import Basis, Change, Moves, moves
from nutproxy.hashkit.order import Layout
from nutproxy.hashkit.router import Router
from nutproxy.plain import Address, printable
from nutproxy.report import notice, print_table, summary
from nutproxy.spread import Parts, parts, router, traps

# Pairs of servers that `diff` prints for a pool; --json prints all.
PAIRS_MAX = 20


# ---- route ----------------------------------------------------------------------------------


def route(pool: PoolConfig, keys: Sequence[bytes], without: Sequence[str]) -> int:
    """Print one line per key. The key is last, because it may contain blanks; '-' means that
    nothing was hashed, or that no server is left. Returns the exit code."""
    ejected = set()
    for word in without:
        found = [n for n, each in enumerate(pool.servers) if word in (each.name, str(each.address))]
        if not found:
            names = [server.name for server in pool.servers]
            notice(
                f"pool '{pool.name}' has no server '{word}'{did_you_mean(word, names)};"
                f" servers: {', '.join(names)}"
            )
            return 1
        ejected.update(found)
    if ejected and not pool.auto_eject_hosts:
        notice(
            f"pool '{pool.name}' ejects no server, because 'auto_eject_hosts' is not set: a server"
            " that is down keeps its keys"
        )
    all_live, left = router(pool), router(pool)
    left.set_live([index not in ejected for index in range(len(pool.servers))])
    rows = [("SERVER", "ADDRESS", "HASH", "POINT", *(("BEFORE",) if ejected else ()), "KEY")]
    for key in keys:
        index, hashed, point = left.explain(key)
        server = None if index < 0 else pool.servers[index]
        where = ("-", "-") if server is None else (server.name, str(server.address))
        before = (pool.servers[all_live.explain(key).server].name,) if ejected else ()
        shown = printable(key.decode(errors="backslashreplace"))
        rows.append((*where, _number(hashed), _number(point), *before, shown))
    print_table(rows)
    return 0


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


# ---- ring -----------------------------------------------------------------------------------


def ring(
    config: Config,
    pools: Sequence[PoolConfig],
    warnings: Sequence[Problem],
    keys: Iterable[bytes] | None,
    as_json: bool,
) -> int:
    """Print a table for each pool, or one JSON object. Returns the exit code."""
    counts = [
        counted if pool.layout.has_places else None
        for pool, counted in zip(
            pools, _count_keys(keys, [(router(pool), None) for pool in pools]), strict=True
        )
    ]
    if as_json:
        found = []
        for pool, counted in zip(pools, counts, strict=True):
            texts = [problem.message for problem in warnings if problem.pool == pool.name]
            found.append(_ring_object(pool, parts(pool), counted) | {"warnings": texts})
        print(json.dumps({"file": config.path, "pools": found}, indent=2))
        return 0
    for pool, counted in zip(pools, counts, strict=True):
        if pool is not pools[0]:
            print()
        _print_ring(pool, counted)
    return 0


def _print_ring(pool: PoolConfig, counted: Counter[tuple[int, int]] | None) -> None:
    print(printable(summary(pool)))
    found = parts(pool)
    keys = ("KEYS",) if counted is not None else ()
    rows = [("SERVER", "WEIGHT", "POINTS", "SHARE", *keys, "MOVES", "ADDRESS")]
    for index, (server, part) in enumerate(zip(pool.servers, found.servers, strict=True)):
        share = [_percent(part.share)]
        if counted is not None:
            share.append(_percent(Fraction(counted[index, index], counted.total())))
        leaves = "-" if part.moves is None else _percent(part.moves)
        weight, points = str(server.weight), str(part.points)
        rows.append((server.name, weight, points, *share, leaves, str(server.address)))
    print_table(rows)
    lines = []
    if len(pool.servers) > 1 and pool.layout.has_places:
        ratios = [part.share / part.fair for part in found.servers]
        least, most = ratios.index(min(ratios)), ratios.index(found.imbalance)
        text = f"imbalance {float(found.imbalance):.2f}"
        if not text.endswith("1.00"):
            text += (
                f": '{pool.servers[most].name}' has {float(ratios[most]):.2f} times the keys that"
                f" its weight says, '{pool.servers[least].name}' {float(ratios[least]):.2f} times"
            )
        lines.append(text)
    if not found.exact:
        lines.append(f"the shares are {Basis.ESTIMATE.value}")
    lines += [f"trap: {trap}" for trap in traps(pool)]
    _print_lines(pool.name, lines)


def _print_lines(name: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(f"pool '{name}': {line}"))


def _ring_object(
    pool: PoolConfig, found: Parts, counted: Counter[tuple[int, int]] | None
) -> dict[str, Any]:
    tag = pool.hash_tag
    return {
        "pool": pool.name,
        "hash": pool.hash,
        "distribution": pool.distribution,
        "hash_tag": None if tag is None else tag.decode(errors="backslashreplace"),
        "exact": found.exact,
        "hashes": found.hashes,
        "keys": None if counted is None else counted.total(),
        "imbalance": float(found.imbalance),
        "traps": [*traps(pool)],
        "servers": [
            {
                "server": server.name,
                "named": server.named,
                "address": str(server.address),
                "weight": server.weight,
                "points": part.points,
                "hashes": part.hashes,
                "share": float(part.share),
                "moves": None if part.moves is None else float(part.moves),
                "keys": None if counted is None else counted[index, index],
            }
            for index, (server, part) in enumerate(zip(pool.servers, found.servers, strict=True))
        ],
    }


# ---- diff -----------------------------------------------------------------------------------


class Difference(NamedTuple):
    """What happens to one pool. `moves` is None if only one file has it, `keys` if none are
    counted."""

    name: str
    old: PoolConfig | None
    new: PoolConfig | None
    moves: Moves | None
    keys: Moves | None
    notes: list[str]

    @property
    def status(self) -> str:
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        return "same" if _servers_of(self.old) == _servers_of(self.new) else "changed"

    @property
    def moved(self) -> Fraction:
        """What --max is compared with: of the keys, if they are counted."""
        decides = self.keys or self.moves
        return Fraction(0) if decides is None else decides.moved


def diff(
    old: Config,
    new: Config,
    name: str | None,
    keys: Iterable[bytes] | None,
    bound: Fraction | None,
    as_json: bool,
) -> int:
    """Print what moves in each pool, or in the one of that name. Returns the exit code: 1 if a pool
    moves more than `bound`."""
    before = {pool.name: pool for pool in old.pools if name in (None, pool.name)}
    after = {pool.name: pool for pool in new.pools if name in (None, pool.name)}
    both = [each for each in before if each in after]
    counts = _count_keys(keys, [(router(before[each]), router(after[each])) for each in both])
    counted = dict(zip(both, counts, strict=True))
    found = [
        _difference(each, before.get(each), after.get(each), counted.get(each))
        for each in [*before, *(each for each in after if each not in before)]
    ]
    over = [each for each in found if bound is not None and each.moved > bound]
    if as_json:
        pools = [_diff_object(each) | {"over_max": each in over} for each in found]
        limit = None if bound is None else float(bound)
        result = {"old": old.path, "new": new.path, "max": limit, "pools": pools}
        print(json.dumps(result, indent=2))
    else:
        for each in found:
            if each is not found[0]:
                print()
            _print_difference(each)
    sys.stdout.flush()
    for each in over:
        notice(
            f"pool '{each.name}' moves {_percent(each.moved)} of its keys,"
            f" more than --max {_percent(bound or Fraction(0))}"
        )
    return 1 if over else 0


def _servers_of(pool: PoolConfig) -> tuple[Layout, list[Address]]:
    """All that `diff` compares."""
    return pool.layout, [server.address for server in pool.servers]


def _difference(
    name: str,
    old: PoolConfig | None,
    new: PoolConfig | None,
    counted: Counter[tuple[int, int]] | None,
) -> Difference:
    if old is None or new is None:
        return Difference(name, old, new, None, None, [])
    renamed = _renamed(old, new)
    layouts = old.layout, new.layout
    found = moves(*layouts, renamed)
    keys = None
    if counted is not None and all(each.has_places for each in layouts):
        flow = {
            (old.servers[before].name, new.servers[after].name): count
            for (before, after), count in counted.items()
        }
        keys = replace(found, flow=flow, total=counted.total(), basis=Basis.KEYS)
    return Difference(name, old, new, found, keys, [*_notes(old, new, found, renamed)])


def _renamed(old: PoolConfig, new: PoolConfig) -> dict[str, str]:
    """New names of servers by their old ones."""
    names = {server.name for server in new.servers}
    gone = {server.address: server.name for server in old.servers if server.name not in names}
    known = {server.name for server in old.servers}
    return {
        gone[server.address]: server.name
        for server in reversed(new.servers)
        if server.name not in known and server.address in gone
    }


def _notes(
    old: PoolConfig, new: PoolConfig, found: Moves, renamed: dict[str, str]
) -> Iterable[str]:
    """What the figures do not say, or assume."""
    if len(old.servers) > 1 or len(new.servers) > 1:
        for key in ("hash", "distribution", "hash_tag"):
            value, other = _setting(old, key), _setting(new, key)
            if value != other:
                yield f"{key} changes from {value} to {other}, which can move every key"
    if found.basis is Basis.INDEPENDENT:
        yield f"the shares are {found.basis.value}; --keys FILE counts your own keys"
        if old.hash == new.hash and old.hash_tag != new.hash_tag:
            before, after = (pool.layout._replace(hash_tag=None) for pool in (old, new))
            untagged = _percent(moves(before, after, renamed).moved)
            yield f"that is for keys with a tag; of the keys without one, {untagged} move"
    elif found.basis is Basis.ESTIMATE:
        yield f"the shares are {found.basis.value}"
    elif found.basis is Basis.NONE:
        yield found.basis.value
    for gone, name in renamed.items():
        yield f"server '{name}' was '{gone}': it has the same address, so its keys stay there"
    places = {server.name: server for server in new.servers}
    for server in old.servers:
        same = places.get(server.name)
        if same is not None and same.address != server.address:
            yield (
                f"server '{server.name}' moves from {server.address} to {same.address}: its keys"
                " must be there"
            )


def _setting(pool: PoolConfig, key: str) -> str:
    value = getattr(pool, key)
    if value is None:
        return "none"
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _print_difference(each: Difference) -> None:
    if each.moves is None or each.new is None:
        pool, file = (each.old, "the old") if each.new is None else (each.new, "the new")
        servers = "" if pool is None else f": {', '.join(server.name for server in pool.servers)}"
        _print_lines(each.name, [f"{each.status}, only {file} file has it{servers}"])
        return
    _print_lines(each.name, [*_headlines(each), *each.notes])
    if not each.moves.moved and not (each.keys and each.keys.moved):
        return
    counted = {} if each.keys is None else {(a, b): count for a, b, count in each.keys.moving}
    known = {(a, b) for a, b, _ in each.moves.moving}
    pairs = [*each.moves.moving, *((a, b, 0) for a, b in counted if (a, b) not in known)]
    rows = [("FROM", "TO", "SHARE", *(("KEYS",) if each.keys else ()))]
    for a, b, count in pairs[:PAIRS_MAX]:
        keys = (_part(counted.get((a, b), 0), each.keys),) if each.keys else ()
        rows.append((a, b, _part(count, each.moves), *keys))
    print_table(rows)
    if others := pairs[PAIRS_MAX:]:
        rest = _part(sum(count for _, _, count in others), each.moves)
        print(f"... and {len(others)} more, {rest} together; --json has all of them")
    places = {server.name: server.address for server in each.new.servers}
    table = [("SERVER", "BEFORE", "LEAVES", "ARRIVES", "AFTER", "ADDRESS")]
    for change in each.moves.servers:
        where = "removed" if change.new is None else str(places[change.new])
        table.append((change.new or change.old or "", *_shares_of(change), where))
    print_table(table)


def _headlines(each: Difference) -> Iterable[str]:
    assert each.moves is not None
    found = each.moves
    if not found.moved and not (each.keys and each.keys.moved):
        yield "nothing moves"
    else:
        yield (
            f"{_percent(found.moved)} of the keys move; by the weights alone,"
            f" {_percent(found.needed)} would have to"
        )
    if found.between_kept:
        yield f"{_percent(found.between_kept)} move between servers that are in both files"
    if each.keys:
        yield f"of the {each.keys.total} given keys {_percent(each.keys.moved)} move"


def _shares_of(change: Change) -> tuple[str, str, str, str]:
    return (
        "-" if change.old is None else _percent(change.before),
        _percent(change.leave),
        _percent(change.arrive),
        "-" if change.new is None else _percent(change.after),
    )


def _diff_object(each: Difference) -> dict[str, Any]:
    found = each.moves
    result: dict[str, Any] = {
        "pool": each.name,
        "status": each.status,
        "notes": each.notes,
        "basis": None,
        "moved": None,
        "needed": None,
        "between_kept": None,
        "moves": [],
        "servers": [],
        "keys": None,
    }
    if found is None:
        return result
    result |= {
        "basis": found.basis.name.lower(),
        "moved": float(found.moved),
        "needed": float(found.needed),
        "between_kept": float(found.between_kept),
        "moves": _pairs(found),
        "servers": [
            {
                "old": change.old,
                "new": change.new,
                "before": float(change.before),
                "leaves": float(change.leave),
                "arrives": float(change.arrive),
                "after": float(change.after),
            }
            for change in found.servers
        ],
    }
    if each.keys is not None:
        result["keys"] = {
            "total": each.keys.total,
            "moved": float(each.keys.moved),
            "moves": _pairs(each.keys),
        }
    return result


def _pairs(found: Moves) -> list[dict[str, Any]]:
    return [{"from": a, "to": b, "share": count / found.total} for a, b, count in found.moving]


# ---- common ---------------------------------------------------------------------------------


def _part(count: int, found: Moves) -> str:
    return _percent(Fraction(count, found.total))


def _percent(share: Fraction) -> str:
    return f"{float(share):.2%}"


def _count_keys(
    keys: Iterable[bytes] | None, routers: Sequence[tuple[Router, Router | None]]
) -> list[Counter[tuple[int, int]] | None]:
    """For each pair of routers the number of keys by their server before and after. A pair without
    a second router counts that of the first for both."""
    if keys is None:
        return [None] * len(routers)
    counts: list[Counter[tuple[int, int]]] = [Counter() for _ in routers]
    for key in keys:
        for (old, new), count in zip(routers, counts, strict=True):
            before = old.explain(key).server
            count[before, before if new is None else new.explain(key).server] += 1
    return [*counts]
