"""The corpus, and a short run that uses the same inputs each time. `make fuzz` runs longer."""

import pytest

from tests.fuzz import strict
from tests.fuzz.engine import Failure, Fuzzer, Target
from tests.fuzz.merging import MERGES
from tests.fuzz.targets import TARGETS

# The inputs that a target runs in about two seconds.
COUNTS = {"config": 400, "redis_merge": 3000, "memcache_merge": 3000, "binary_merge": 3000}


@pytest.mark.parametrize("target", [*TARGETS, *MERGES], ids=lambda target: target.name)
def test_every_input_has_a_correct_outcome(target):
    fuzzer = Fuzzer(target, 1)
    try:
        fuzzer.run_corpus()
        fuzzer.run_some(COUNTS.get(target.name, 8000))
    finally:
        target.close()


def test_an_input_that_fails_is_found_and_shown():
    def check(data, draw):
        assert b"\x80" not in data
        return len(data)

    fuzzer = Fuzzer(Target("example", [b"seed"], [b"word"], check), 1)
    fuzzer.run_corpus()
    with pytest.raises(Failure, match=r"example: .*\n  input: .*\\x80"):
        fuzzer.run_some(10_000)


@pytest.mark.parametrize(
    "data", [b"*1\r\n$03\r\nGET\r\n", b"*02\r\n", b"*1\r\n$4294967299\r\nGET\r\n"]
)
def test_the_strict_reader_refuses_malformed_lengths(data):
    assert strict.redis_requests(data, 1 << 30) == ([], True)
