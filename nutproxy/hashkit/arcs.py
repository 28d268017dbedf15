# nutproxy/hashkit/arcs.py: who owns which share of the keys, and what moves
"""Exact shares of the keys, from the arcs of the ring and not from a sample of keys.

          0 ────────•s1────────────────•s0──────────•s1──────── 2^32
    old     ── s1 ──┬─────── s0 ───────┬──── s1 ────┬── s1 ──     an arc ends at its point
    new     ─────── s1 ───────┬── s2 ──┴──── s1 ────┴── s1 ──
              stays   s0 > s1   s0 > s2    stays       stays

A server's share is the part of all hash values that lie in its arcs. To compare two rings, both are
walked at once, and each piece between two ends is counted for a pair of servers: the one before and
the one after. `modula` has arcs too, one for each server in every turn of its slots. Where both
pools are modula, the turns repeat after the least common multiple of their slots, so that pattern
is counted once.

All counts are integers, so they add up exactly: the pairs of a server add up to its share. Keys are
taken to be spread as evenly as the hash function spreads random keys:

- crc32 returns 15 bits. The arcs beyond 2^15 get nothing.
- hsieh ends with `h += h >> 6`, which wraps around. Values below 2^26 are therefore twice as
  likely, and of the others every 65th never occurs. Arcs are measured in the values of h before
  that step.
- All others fill 32 bits, crc16 included.

What cannot be compared by arcs: two hash functions or two hash tags place a key independently, so a
pair of servers gets the product of their shares. `random` has no place for a key at all.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import NamedTuple

from nutproxy.hashkit.order import Layout
from nutproxy.hashkit.ring import make_ring

HASH_VALUES = 1 << 32
SPANS = {"crc32": 1 << 15}
"""Hash functions with fewer values."""

# Two modula pools are compared exactly if their common pattern has at most so many arcs: 1.5 s.
# Equal weights need n (n + 1) arcs to grow from n to n + 1 servers.
ARCS_MAX = 1 << 20
# Hash values that are looked at otherwise. They are multiples of 2^32 / golden ratio, which spread
# evenly and repeat in no pattern.
SAMPLE = 1 << 19
GOLDEN = 2654435769

Arc = tuple[int, int, int]
"""The first hash value, the one after the last, and the server's index."""
Matrix = list[list[int]]
"""Counted hash values, by the index of the server before and of the one after."""


class Basis(Enum):
    """How the figures of `Moves` were found, and what that means."""

    EXACT = "counted over all hash values"
    ESTIMATE = f"estimated from {SAMPLE} evenly spread hash values"
    INDEPENDENT = "expected, not counted: a key's server before says nothing about its server after"
    NONE = "with random a key has no server, so none moves"
    KEYS = "counted over the given keys"


@dataclass(frozen=True)
class Moves:
    """What moves between two layouts. All shares are parts of all keys."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    kept: Mapping[str, str]
    """Servers in both layouts: the name before and the name after."""
    flow: Mapping[tuple[str, str], int]
    """Hash values (or keys) by the server before and the server after; pairs that have none are
    left out. Those that stay are counted too."""
    total: int
    """All of them."""
    basis: Basis
    needed: Fraction
    """The least that moves between any two distributions that follow these weights."""

    @cached_property
    def moving(self) -> list[tuple[str, str, int]]:
        """The pairs between which keys move and how many of `total` do, the most first."""
        kept = self.kept
        found = [
            (old, new, count) for (old, new), count in self.flow.items() if kept.get(old) != new
        ]
        found.sort(key=lambda each: (-each[2], each[0], each[1]))
        return found

    @cached_property
    def moved(self) -> Fraction:
        """The share of the keys that move."""
        return Fraction(sum(count for _, _, count in self.moving), self.total)

    @cached_property
    def between_kept(self) -> Fraction:
        """The share that moves from a server in both layouts to another one in both."""
        after = set(self.kept.values())
        counts = (count for old, new, count in self.moving if old in self.kept and new in after)
        return Fraction(sum(counts), self.total)

    @cached_property
    def servers(self) -> list["Change"]:
        """One for each server: those of the old layout, then the added ones."""
        before: Counter[str | None] = Counter()
        leave: Counter[str | None] = Counter()
        arrive: Counter[str | None] = Counter()
        after: Counter[str | None] = Counter()
        for (old, new), count in self.flow.items():
            before[old] += count
            after[new] += count
            if self.kept.get(old) != new:
                leave[old] += count
                arrive[new] += count
        known = set(self.kept.values())
        pairs: list[tuple[str | None, str | None]] = [(old, self.kept.get(old)) for old in self.old]
        pairs += [(None, new) for new in self.new if new not in known]
        return [
            Change(
                old,
                new,
                *(
                    Fraction(count, self.total)
                    for count in (before[old], leave[old], arrive[new], after[new])
                ),
            )
            for old, new in pairs
        ]


class Change(NamedTuple):
    """What happens to the keys of one server; the shares are parts of all keys."""

    old: str | None
    """The name before; None if the server is added."""
    new: str | None
    """The name after; None if it is removed."""
    before: Fraction
    leave: Fraction
    arrive: Fraction
    after: Fraction


# ---- what callers use -----------------------------------------------------------------------


def shares(layout: Layout) -> tuple[list[int], int]:
    """The hash values of each server, in index order, and their number."""
    span = SPANS.get(layout.hash, HASH_VALUES)
    size = len(layout.servers)
    if size == 1:
        return [span], span
    if not layout.has_places:
        return [1] * size, size
    if is_uneven_modula(layout):
        counts = [0] * size
        find = _finder(layout)
        for value in _sample(layout.hash):
            counts[find(value)] += 1
        return counts, SAMPLE
    if layout.distribution == "modula":
        ends = _ends(layout)
        cycles, rest = divmod(span, ends[-1])
        starts = [0, *ends]
        return [
            cycles * weight + max(0, min(rest, end) - start)
            for (_, weight), start, end in zip(layout.servers, starts, ends, strict=False)
        ], span
    counts = [0] * size
    for start, end, index in _ketama_arcs(layout, span):
        counts[index] += end - start
    return counts, span


def moves(old: Layout, new: Layout, renamed: Mapping[str, str] | None = None) -> Moves:
    """The keys that move from `old` to `new`. A server is in both if its name is, or if `renamed`
    has its new name by its old one. A thousand ketama servers take about 0.3 s."""
    kept = kept_servers(old.names, new.names, renamed)
    single = min(len(old.servers), len(new.servers)) == 1
    together = (old.hash, old.hash_tag) == (new.hash, new.hash_tag)
    if not old.has_places and not new.has_places:
        matrix, total, basis = [[0] * len(new.servers) for _ in old.servers], 1, Basis.NONE
    elif single or not together or not (old.has_places and new.has_places):
        matrix, total = _product(old, new)
        basis = Basis.EXACT if single else Basis.INDEPENDENT
        if Basis.EXACT is basis and any(map(is_uneven_modula, (old, new))):
            basis = Basis.ESTIMATE
    else:
        matrix, total, basis = _compared(old, new)
    flow = {
        (before, after): count
        for before, row in zip(old.names, matrix, strict=True)
        for after, count in zip(new.names, row, strict=True)
        if count
    }
    return Moves(old.names, new.names, kept, flow, total, basis, needed(old, new, kept))


def work(old: Layout, new: Layout) -> int:
    """About how many arcs `moves` walks: what its time is proportional to."""
    both = (old, new)
    if any(map(is_uneven_modula, both)):
        return SAMPLE
    if all(each.distribution == "modula" for each in both):
        pattern = min(lcm(_ends(old)[-1], _ends(new)[-1]), HASH_VALUES)
        return min(ARCS_MAX, *(_arc_count(each, pattern) for each in both))
    return sum(160 * len(each.servers) for each in both if each.distribution == "ketama")


def kept_servers(
    old: Iterable[str], new: Iterable[str], renamed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The names after by the names before, of servers in both layouts."""
    names = set(new)
    kept = {name: name for name in old if name in names}
    return {**kept, **(renamed or {})}


def needed(old: Layout, new: Layout, kept: Mapping[str, str]) -> Fraction:
    """What must leave its server, if each has the share of its weight before and after."""
    if not old.has_places and not new.has_places:
        return Fraction(0)
    before, after = _fair(old), _fair(new)
    zero = Fraction(0)
    return sum(
        (
            max(zero, share - (after[kept[name]] if name in kept else zero))
            for name, share in before.items()
        ),
        zero,
    )


def _fair(layout: Layout) -> dict[str, Fraction]:
    """Each server's share by its weight alone."""
    weights = {name: weight if layout.has_places else 1 for name, weight in layout.servers}
    total = sum(weights.values())
    return {name: Fraction(weight, total) for name, weight in weights.items()}


# ---- arcs -----------------------------------------------------------------------------------


def _ketama_arcs(layout: Layout, span: int) -> Iterator[Arc]:
    """The arcs of a ring from 0 to `span`. A point ends its arc; what follows the last one belongs
    to the first. Of equal points the first owns the value."""
    points = _points(layout)
    likely = _before_hsieh if layout.hash == "hsieh" else int
    start = 0
    for point in points:
        end = min(likely((point >> 32) + 1), span)
        if end > start:
            yield start, end, point & 0xFFFFFFFF
            start = end
    if start < span:
        yield start, span, points[0] & 0xFFFFFFFF


def _points(layout: Layout) -> list[int]:
    servers = [(name.encode(), weight) for name, weight in layout.servers]
    points: list[int] = make_ring(layout.distribution, servers).points()
    return points


def _before_hsieh(value: int) -> int:
    """How many h of 32 bits have (h + (h >> 6)) mod 2^32 below `value`."""

    def below(value: int) -> int:  # without the modulus
        blocks, rest = divmod(value, 65)
        return blocks * 64 + min(rest, 64)

    wrapped = min(below(HASH_VALUES + value), HASH_VALUES) - below(HASH_VALUES)
    return below(value) + wrapped


def _ends(layout: Layout) -> list[int]:
    """modula: the slot after the last one of each server."""
    total = 0
    return [total := total + weight for _, weight in layout.servers]


def _modula_arcs(layout: Layout, first: int, last: int) -> Iterator[Arc]:
    """The arcs from `first` to `last`: one for each server, in every turn of the slots."""
    ends = _ends(layout)
    slots = list(zip([0, *ends], ends, range(len(ends)), strict=False))
    for turn in range(first - first % ends[-1], last, ends[-1]):
        for start, end, index in slots:
            start, end = max(turn + start, first), min(turn + end, last)
            if start < end:
                yield start, end, index


def _arc_count(layout: Layout, span: int) -> int:
    """How many arcs `_modula_arcs` makes, or a few more."""
    return (span // _ends(layout)[-1] + 1) * len(layout.servers)


# ---- two layouts with one hash --------------------------------------------------------------


def _compared(old: Layout, new: Layout) -> tuple[Matrix, int, Basis]:
    span = SPANS.get(old.hash, HASH_VALUES)
    modula = [layout.distribution == "modula" for layout in (old, new)]
    if not any(modula):
        matrix = [[0] * len(new.servers) for _ in old.servers]
        _merge(_ketama_arcs(old, span), _ketama_arcs(new, span), matrix)
        return matrix, span, Basis.EXACT
    if is_uneven_modula(old) or is_uneven_modula(new):
        return _estimated(old, new)
    if not all(modula):
        ring, slots = (new, old) if modula[0] else (old, new)
        matrix = _by_slots(_ketama_arcs(ring, span), len(ring.servers), slots)
        return _transposed(matrix) if modula[0] else matrix, span, Basis.EXACT
    pattern = lcm(_ends(old)[-1], _ends(new)[-1])
    cycles, rest = divmod(span, pattern)
    # The layout with fewer arcs is walked, the other one is looked up.
    swap = _arc_count(new, HASH_VALUES) < _arc_count(old, HASH_VALUES)
    walked, slots = (new, old) if swap else (old, new)
    if _arc_count(walked, min(pattern, span)) > ARCS_MAX:
        return _estimated(old, new)
    size = len(walked.servers)
    matrix = _by_slots(_modula_arcs(walked, 0, rest), size, slots)
    if cycles:
        others = _by_slots(_modula_arcs(walked, rest, pattern), size, slots)
        matrix = [
            [(cycles + 1) * count + cycles * other for count, other in zip(row, rows, strict=True)]
            for row, rows in zip(matrix, others, strict=True)
        ]
    return _transposed(matrix) if swap else matrix, span, Basis.EXACT


def _merge(old: Iterator[Arc], new: Iterator[Arc], matrix: Matrix) -> None:
    """Add what two rings have in common to `matrix`. Both end at the same value."""
    start = 0
    after_end, after = 0, 0
    for _, end, before in old:
        row = matrix[before]
        while after_end < end:
            row[after] += after_end - start
            start = after_end
            _, after_end, after = next(new)
        row[after] += end - start
        start = end


def _by_slots(arcs: Iterable[Arc], size: int, layout: Layout) -> Matrix:
    """The hash values of `arcs`, which have `size` owners, by their owner and their server in the
    modula `layout`.

    Whole turns of the slots are counted, and so is the number of times that a server's slots are
    all in an arc. Only the two servers at the ends of an arc are added to one by one."""
    ends = _ends(layout)
    starts = [0, *ends[:-1]]
    slots = ends[-1]
    matrix = [[0] * len(ends) for _ in range(size)]
    turns = [0] * size
    steps = [[0] * (len(ends) + 1) for _ in range(size)]  # how the number of times changes
    for start, end, owner in arcs:
        whole, rest = divmod(end - start, slots)
        turns[owner] += whole
        if not rest:
            continue
        first = start % slots
        last = first + rest
        left = bisect_right(ends, first)
        if last <= ends[left]:
            matrix[owner][left] += rest
            continue
        row, step = matrix[owner], steps[owner]
        row[left] += ends[left] - first
        if last > slots:
            last -= slots
            step[0] += 1
        right = bisect_left(ends, last)
        row[right] += last - starts[right]
        step[left + 1] += 1
        step[right] -= 1
    for row, step, times in zip(matrix, steps, turns, strict=True):
        for index, (_, weight) in enumerate(layout.servers):
            times += step[index]
            row[index] += times * weight
    return matrix


def _transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


# ---- what is not counted whole --------------------------------------------------------------


def _product(old: Layout, new: Layout) -> tuple[Matrix, int]:
    """Each pair of servers by the product of their shares."""
    before, old_total = shares(old)
    after, new_total = shares(new)
    return [[count * other for other in after] for count in before], old_total * new_total


def is_uneven_modula(layout: Layout) -> bool:
    """Whether neither arcs nor slots say what a server gets: hsieh returns every 65th value rarely,
    and the slots take values at such regular distances."""
    several = len(layout.servers) > 1
    return several and layout.distribution == "modula" and layout.hash == "hsieh"


def _estimated(old: Layout, new: Layout) -> tuple[Matrix, int, Basis]:
    before, after = _finder(old), _finder(new)
    matrix = [[0] * len(new.servers) for _ in old.servers]
    for value in _sample(old.hash):
        matrix[before(value)][after(value)] += 1
    return matrix, SAMPLE, Basis.ESTIMATE


def _sample(name: str) -> Iterator[int]:
    """Hash values as the hash function `name` spreads them, one of its 32 bits."""
    for number in range(SAMPLE):
        value = number * GOLDEN % HASH_VALUES
        yield (value + (value >> 6)) % HASH_VALUES if name == "hsieh" else value


def _finder(layout: Layout) -> Callable[[int], int]:
    """A function from a hash value to the index of its server."""
    if layout.distribution == "modula":
        ends = _ends(layout)
        return lambda value: bisect_right(ends, value % ends[-1])
    points = _points(layout)
    return lambda value: points[bisect_left(points, value << 32) % len(points)] & 0xFFFFFFFF
