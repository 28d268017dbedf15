# tests/fuzz/run.py: a process for each target, and its results
"""An input that ends the process is reported like any other failure, because the current input is
also stored in a file."""

from __future__ import annotations

import hashlib
import mmap
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.engine import CORPUS, Failure, Fuzzer
from tests.fuzz.merging import MERGES
from tests.fuzz.targets import TARGETS

ALL = {target.name: target for target in (*TARGETS, *MERGES)}
FAILURES = Path("build/fuzz")
KEPT_SIZE = 1024  # bytes of an input that may be added to the corpus
KEPT = 40  # inputs that one run adds for a target


class LastInput:
    """The input that a process is running, in a file that is still there if the process ends."""

    def __init__(self, name: str) -> None:
        self.path = FAILURES / f"{name}.running"
        FAILURES.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(bytes(1 << 20))

    def write(self) -> mmap.mmap:
        with open(self.path, "r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def read(self) -> bytes:
        data = self.path.read_bytes()
        return data[4:][: int.from_bytes(data[:4], "big")]


def work(name: str, seconds: float, seed: int, last: LastInput, main: Connection) -> None:
    """The main function of a target's process."""
    shared = last.write()

    def running(data: bytes) -> None:
        shared[: 4 + len(data)] = len(data).to_bytes(4, "big") + data

    fuzzer = Fuzzer(ALL[name], seed, running)
    why = None
    try:
        fuzzer.run_corpus()
        fuzzer.run_until(time.monotonic() + seconds)
    except Failure as failure:
        why = failure
    finally:
        ALL[name].close()
    main.send((fuzzer.runs, len(fuzzer.shapes), fuzzer.found, why and (str(why), why.data)))


def fuzz(names: list[str], seconds: float, seed: int, keep: bool) -> bool:
    """Runs all targets at the same time, each in a process. Returns whether no input has failed."""
    context = multiprocessing.get_context("spawn")
    started = []
    for name in names:
        here, there = context.Pipe()
        last = LastInput(name)
        process = context.Process(target=work, args=(name, seconds, seed, last, there))
        process.start()
        there.close()
        started.append((name, last, process, here))
    good = True
    for name, last, process, here in started:
        try:
            runs, shapes, found, failure = here.recv()
            text = "ok"
        except EOFError:
            process.join()
            runs, shapes, found = 0, 0, []
            failure = (f"the process has ended with {process.exitcode}", last.read())
        if failure is not None:
            good = False
            text = f"FAILED, see {saved(name, failure[1])}"
            print(failure[0])
        process.join()
        last.path.unlink()
        if keep:
            keep_some(name, found)
        print(
            f"fuzz {name}: {seconds:.0f} s, {runs} inputs, {shapes} outcomes; seed {seed}: {text}"
        )
    return good


def saved(name: str, data: bytes, directory: Path = FAILURES) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{hashlib.sha1(data).hexdigest()[:8]}"
    path.write_bytes(data)
    return path


def keep_some(name: str, found: list[bytes]) -> None:
    short = [data for data in found if len(data) <= KEPT_SIZE]
    for data in random.Random(name).sample(short, min(KEPT, len(short))):
        saved(name, data, CORPUS / name)


def replay(path: Path) -> None:
    """Runs the input in this file again. Raises Failure if it fails. The file name begins with the
    name of the target."""
    target = ALL[path.name.rpartition("-")[0]]
    try:
        Fuzzer(target, 1).run(path.read_bytes())
    finally:
        target.close()
    print(f"{path}: ok")
