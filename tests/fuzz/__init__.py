# tests/fuzz: mutated inputs
"""Mutates the inputs of a corpus. The outcome of each input decides whether it is mutated further.

    python -m tests.fuzz --seconds 600              all targets, each in its own process
    python -m tests.fuzz --target config --seed 7
    python -m tests.fuzz --replay build/fuzz/redis_request-6f1ed002

    run.py       a process for each target
    engine.py    mutates inputs, runs them, and keeps those with a new outcome
    targets.py   the targets: seeds, dictionary, and the check of one input
    strict.py    a second reader of requests, in plain Python
    merging.py   replies of several servers, merged by a running proxy

A check returns the shape of the outcome: which messages, which error. An input with a new shape is
added to the inputs that are mutated. Other fuzzers use code coverage for this choice. With `--keep`
a run stores some of these inputs in corpus/<target>/, and the next run begins with them and with
the tables of the unit tests. An input that fails a check or ends the process is printed and written
to build/fuzz/. Add it to the corpus when the defect is fixed.
"""
