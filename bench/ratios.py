# bench/ratios.py: measurements, and ratios computed from them
"""Samples, ratios of processor time, their spread, and ranges over the placements.

    run      one load on one peer
    round    each row on all peers in both orders: A B C, C B A. A peer's cost is the mean of its
             two runs.
    ratio    cost of one peer / cost of another, for each round. The median is reported.
    spread   (highest - lowest) / median of the ratios of all rounds
    range    from the lowest to the highest of the placements' medians

Both peers of a ratio are measured in the same round, within a second or two. If the machine is
slower for a longer time, both are affected, and the ratio does not change.

If the spread of a ratio is over 25 %, it did not repeat. It is shown with a mark and the reason, or
not at all. A ratio of fewer than three rounds is marked too, because its spread says nothing.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Load, Sample

LIMIT = 0.25  # a ratio with a larger spread gets a mark
LEAST_ROUNDS = 3
MARK = "†"
BASE, FLOOR = "nutcracker", "echo"  # the peers that others are compared with


Value = Callable[[Sample], float]


def processor_time(sample: Sample) -> float:
    return sample.cpu


def spread(values: Sequence[float]) -> float:
    """The difference between the highest and the lowest value, divided by the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


@dataclass(frozen=True)
class Ratio:
    """The processor time of one peer divided by that of another, in one placement."""

    value: float
    spread: float
    rounds: int

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Ratio:
        return cls(statistics.median(rounds), spread(rounds), len(rounds))

    @property
    def fault(self) -> str:
        """Why the ratio has a mark, or an empty text."""
        if self.rounds < LEAST_ROUNDS:
            return f"{self.rounds} round{'s' if self.rounds > 1 else ''}"
        # Compare the rounded value: 25.4 % is shown as 25 % and gets no mark.
        return f"{self.spread:.0%}" if round(self.spread, 2) > LIMIT else ""

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.spread:.0%}){' ' + MARK if self.fault else ''}"


@dataclass(frozen=True)
class Range:
    """The same ratio in several placements, by the names of the placements."""

    ratios: dict[str, Ratio]

    @property
    def low(self) -> float:
        return min(ratio.value for ratio in self.ratios.values())

    @property
    def high(self) -> float:
        return max(ratio.value for ratio in self.ratios.values())

    @property
    def fault(self) -> str:
        """The placements in which the ratio did not repeat: `shared 41%, own 28%`."""
        named = ((name, ratio.fault) for name, ratio in self.ratios.items())
        return ", ".join(f"{name} {fault}" for name, fault in named if fault)

    def __str__(self) -> str:
        return between(self.low, self.high, "{:.2f}") + (f" {MARK}" if self.fault else "")


def between(low: float, high: float, form: str) -> str:
    """`0.44 - 0.85`, or a single figure if both are printed alike."""
    ends = form.format(low), form.format(high)
    return ends[0] if ends[0] == ends[1] else " - ".join(ends)


Rows = dict[str, dict[str, list[Sample]]]  # by row and peer, in the order of the runs


@dataclass
class Results:
    """Everything measured so far."""

    machine: dict[str, str]
    peers: list[str]
    placements: dict[str, str] = field(default_factory=dict)  # descriptions by name
    turns: int = 2  # runs of a peer in each round
    samples: dict[str, Rows] = field(default_factory=dict)  # by placement
    rates: dict[str, dict[str, int]] = field(default_factory=dict)  # by placement and partial row
    counts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # by row and peer

    @property
    def rounds(self) -> int:
        every = (s for rows in self.samples.values() for row in rows.values() for s in row.values())
        return max(map(len, every), default=0) // self.turns

    @property
    def measured(self) -> list[str]:
        """The ids of the rows that were measured in any placement."""
        return list(dict.fromkeys(row for rows in self.samples.values() for row in rows))

    def row(self, placement: str, row: str) -> dict[str, list[Sample]]:
        return self.samples.get(placement, {}).get(row, {})

    def by_round(self, samples: Sequence[Sample], value: Value = processor_time) -> list[float]:
        """The processor time per request in each round, or the mean of another value."""
        return [
            statistics.fmean(value(sample) for sample in samples[start : start + self.turns])
            for start in range(0, len(samples), self.turns)
        ]

    def ratio(
        self, placement: str, row: str, one: str, other: str, value: Value = processor_time
    ) -> Ratio | None:
        """None if one of the peers was not measured."""
        by_peer = self.row(placement, row)
        if one not in by_peer or other not in by_peer:
            return None
        pairs = zip(
            self.by_round(by_peer[one], value), self.by_round(by_peer[other], value), strict=True
        )
        rounds = [cost / base for cost, base in pairs if base]
        return Ratio.of(rounds) if rounds else None

    def range(self, row: str, one: str, other: str = BASE) -> Range | None:
        found = {name: self.ratio(name, row, one, other) for name in self.placements}
        ratios = {name: ratio for name, ratio in found.items() if ratio is not None}
        return Range(ratios) if ratios else None

    def medians(self, row: str, peer: str, value: Callable[[Sample], float]) -> dict[str, float]:
        """The median of `value` in each placement."""
        return {
            name: statistics.median(map(value, samples))
            for name in self.placements
            if (samples := self.row(name, row).get(peer))
        }

    def total(self, count: str, peer: str) -> float | None:
        """The sum of everything counted per request."""
        counts = self.counts.get(count, {}).get(peer)
        return sum(counts.values()) if counts else None

    # The file.

    def to_json(self) -> str:
        content = {**dataclasses.asdict(self), "summary": self.summary()}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Results:
        content = json.loads(file.read_text())
        del content["summary"]
        results = cls(**content)
        for rows in results.samples.values():
            for by_peer in rows.values():
                for peer, samples in by_peer.items():
                    by_peer[peer] = [sample(each) for each in samples]  # type: ignore[arg-type]
        return results

    def summary(self) -> dict[str, Any]:
        """Ranges and ratios, for readers of the JSON file."""

        def told(row: str, peer: str, other: str) -> dict[str, Any] | None:
            found = self.range(row, peer, other) if peer != other else None
            if found is None:
                return None
            return {
                "low": found.low,
                "high": found.high,
                "mark": found.fault,
                **dataclasses.asdict(found),
            }

        return {
            row: {
                peer: {
                    "cpu": self.medians(row, peer, lambda sample: sample.cpu),
                    "to_nutcracker": told(row, peer, BASE),
                    "to_floor": told(row, peer, FLOOR),
                }
                for peer in self.peers
                if self.medians(row, peer, lambda sample: sample.cpu)
            }
            for row in self.measured
        }


def sample(content: dict[str, Any]) -> Sample:
    return Sample(Load(**content.pop("load")), **content)


def faults(ranges: Iterable[tuple[str, Range | None]]) -> str:
    """A note on the marks of a table, or an empty text if there are none."""
    marked = [(name, found) for name, found in ranges if found and found.fault]
    if not marked:
        return ""
    rounds = min(ratio.rounds for _, found in marked for ratio in found.ratios.values())
    if rounds < LEAST_ROUNDS:
        return f"{MARK} Rounds: {rounds}. At least {LEAST_ROUNDS} show whether a figure repeats."
    named = ", ".join(f"{name} ({found.fault})" for name, found in marked)
    return f"{MARK} Did not repeat: the spread of the rounds is over {LIMIT:.0%}: {named}."
