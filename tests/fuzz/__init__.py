# tests/fuzz: inputs that nobody has thought of
"""Mutation of a corpus, guided by what becomes of each input.

    python -m tests.fuzz --seconds 600              all targets, each in a process of its own
    python -m tests.fuzz --target config --seed 7
    python -m tests.fuzz --replay build/fuzz/redis_request-6f1ed002

    run.py       a process for each target
    engine.py    mutates, runs, keeps what has had a new outcome
    targets.py   a target: its seeds, its dictionary, and the check of one input
    strict.py    the requests of both protocols once more, as plain Python
    merging.py   replies of several servers, merged by a running proxy

A check returns the outcome's shape: which messages, which error. An input with a new shape joins
the inputs that are mutated, as coverage would choose it in a fuzzer that sees the code. What one
run has found that way is kept by `--keep` in corpus/<target>/, where the next one begins; seeds of
the unit tests' tables come in addition. An input that fails a check, or ends the process, is
written to build/fuzz/ and shown; with a fix it becomes a file of the corpus.
"""
