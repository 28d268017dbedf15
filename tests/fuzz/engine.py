# tests/fuzz/engine.py: mutates inputs, runs them, and keeps those with a new outcome
"""The loop of one target. All choices depend on the seed, so the same number of inputs can be run
again."""

import random
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
LONGEST = 4096  # bytes of an input; seeds may be longer
BYTES = b"\r\n \0\t\x7f\x80\xff+-:$*%~_#,(=!>|0123456789aG"
NUMBERS = [
    *(b"-1", b"0", b"1", b"2", b"3", b"10", b"00", b"01", b"+1", b"-0", b"255", b"256", b"512"),
    *(b"1023", b"1024", b"16384", b"65535", b"65536", b"1048576", b"1048577", b"2147483647"),
    *(b"2147483648", b"4294967295", b"4294967296", b"4294967299", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551615", b"18446744073709551617", b"9" * 30),
]


@dataclass(frozen=True)
class Target:
    """`check` runs one input and returns the shape of the outcome. It raises an AssertionError if
    the outcome is wrong. Any other exception of the code under test is a failure too."""

    name: str
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    check: Callable[[bytes, random.Random], Hashable]
    close: Callable[[], None] = lambda: None  # ends the processes that the checks have started

    def corpus(self) -> list[bytes]:
        files = sorted((CORPUS / self.name).glob("*"))
        return [*self.seeds, *(file.read_bytes() for file in files)]


class Failure(Exception):
    """An input that has failed, and why."""

    def __init__(self, target: Target, data: bytes, why: BaseException) -> None:
        super().__init__(f"{target.name}: {why!r}\n  input: {data!r}")
        self.data = data


class Fuzzer:
    def __init__(
        self, target: Target, seed: int, running: Callable[[bytes], object] | None = None
    ) -> None:
        """`running` is called with each input before it is run, in case it ends the process."""
        self.target = target
        self.random = random.Random(f"{target.name} {seed}")
        self.running = running
        self.inputs: list[bytes] = []
        self.shapes: set[Hashable] = set()
        self.found: list[bytes] = []
        self.runs = 0

    def run_corpus(self) -> None:
        for data in self.target.corpus():
            self.run(data)
            self.inputs.append(data)

    def run_some(self, count: int) -> None:
        for _ in range(count):
            data = self.mutated()
            if self.run(data):
                self.inputs.append(data)
                self.found.append(data)

    def run_until(self, end: float) -> None:
        """`end` is a time of time.monotonic()."""
        while time.monotonic() < end:
            self.run_some(50)

    def run(self, data: bytes) -> bool:
        """Whether the input has a new outcome."""
        if self.running is not None:
            self.running(data)
        self.runs += 1
        try:
            shape = self.target.check(data, self.random)
        except Exception as why:
            raise Failure(self.target, data, why) from why
        if shape in self.shapes:
            return False
        self.shapes.add(shape)
        return True

    def mutated(self) -> bytes:
        draw = self.random
        # The inputs found last differ most from the inputs that have been run.
        recent = self.inputs[-50:] if draw.random() < 0.3 else self.inputs
        data = bytearray(draw.choice(recent))
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            self.mutate(data)
        return bytes(data[:LONGEST]) or b"\n"

    def mutate(self, data: bytearray) -> None:
        draw = self.random
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 64)))
        kind = draw.randrange(10)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + 1] = bytes([draw.choice(BYTES)])
        elif kind == 2:
            data[at:at] = bytes([draw.choice(BYTES)])
        elif kind == 3:
            del data[at:end]
        elif kind == 4:
            data[at:at] = data[at:end] * draw.choice((1, 1, 2, 30))
        elif kind == 5:
            data[at:at] = draw.choice(self.target.words)
        elif kind == 6:
            other = draw.choice(self.inputs)
            start = draw.randrange(len(other) + 1)
            data[at:end] = other[start : start + draw.choice((4, 16, 64, 4096))]
        elif kind == 7:
            del data[at:]
        else:
            self.renumber(data, at)

    def renumber(self, data: bytearray, at: int) -> None:
        """Replace the next number."""
        while at < len(data) and not 48 <= data[at] <= 57:
            at += 1
        end = at
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        if self.random.random() < 0.5 and 0 < end - at < 5:
            change = self.random.choice((-2, -1, 1, 2, 10))
            data[at:end] = b"%d" % max(0, int(data[at:end]) + change)
        else:
            data[at:end] = self.random.choice(NUMBERS)
