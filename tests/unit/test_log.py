"""The lines of the log: their form, their subject, and how often they are written."""

import json
import logging
import re
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from nutproxy.log import (
    ALWAYS,
    BURST,
    BURST_SECONDS,
    NOTICE,
    QUEUE_LINES,
    Repeats,
    find_subject,
    log_level,
)
from nutproxy.master.logwriter import (
    Handover,
    JsonFormatter,
    LogHandler,
    TextFormatter,
    Writer,
)

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


class Subject(SimpleNamespace):
    """The subject of a line."""

    def __str__(self):
        return self.text


SERVER = Subject(text="server 's1' of pool 'alpha'", about={"pool": "alpha", "server": "s1"})


def connection(number):
    return Subject(
        text=f"s {number}", about={"conn": f"s {number}", "pool": "alpha", "server": "s1"}
    )


def record(text, *args, level=logging.WARNING, exc_info=None, **attributes):
    """A record as it leaves the event loop."""
    made = logging.LogRecord("nutproxy", level, "", 0, text, args, exc_info)
    made.__dict__.update(attributes)
    find_subject(made)
    return made


def handed_over(made):
    return Handover(None).prepare(made)


@pytest.mark.parametrize(
    ("verbose", "least"),
    [
        (1, logging.CRITICAL),
        (3, logging.ERROR),
        (4, logging.WARNING),
        (5, NOTICE),
        (6, logging.INFO),
        (7, logging.DEBUG),
        (11, logging.DEBUG),
    ],
)
def test_levels_are_twemproxys(verbose, least):
    assert log_level(verbose) == least


def test_lines_that_are_always_written_are_above_every_level():
    assert max(map(log_level, range(12))) < ALWAYS
    assert logging.getLevelName(ALWAYS) == "NOTICE"


def test_line_of_text_has_iso_time_level_and_subject():
    made = handed_over(record("%s %s: %s", connection(8), SERVER, "connection closed"))
    line = TextFormatter().format(made)
    assert re.fullmatch(
        TIME + r" WARNING s 8 server 's1' of pool 'alpha': connection closed", line
    ), line


def test_line_of_json_has_its_subject_in_fields_of_their_own():
    made = handed_over(record("%s %s: %s", connection(8), SERVER, "connection closed"))
    line = json.loads(JsonFormatter().format(made))
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {
        "level": "WARNING",
        "message": "s 8 server 's1' of pool 'alpha': connection closed",
        "conn": "s 8",
        "pool": "alpha",
        "server": "s1",
    }


def test_line_of_json_without_a_subject_has_no_empty_fields():
    line = json.loads(JsonFormatter().format(handed_over(record("started"))))
    assert line.keys() == {"time", "level", "message"}


def test_subject_can_be_given_by_name():
    made = handed_over(record("listens", about={"pool": "alpha"}))
    assert json.loads(JsonFormatter().format(made))["pool"] == "alpha"


def test_text_of_a_server_cannot_break_a_line_or_reach_a_terminal():
    hostile = "a\n2026-01-01 ERROR forged \x1b[2J"
    text = TextFormatter().format(handed_over(record("%s", hostile)))
    assert "\n" not in text
    assert "\x1b" not in text
    line = JsonFormatter().format(handed_over(record("%s", hostile)))
    assert "\n" not in line
    assert json.loads(line)["message"] == hostile


@pytest.fixture
def fault():
    try:
        raise ValueError("this one")
    except ValueError as error:
        return (ValueError, error, error.__traceback__)


def test_traceback_follows_a_line_of_text(fault):
    first, second, *_, last = (
        TextFormatter().format(handed_over(record("failed", exc_info=fault))).splitlines()
    )
    assert first.endswith("WARNING failed")
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: this one"


def test_traceback_is_a_field_of_a_line_of_json(fault):
    line = JsonFormatter().format(handed_over(record("failed", exc_info=fault)))
    assert "\n" not in line
    assert json.loads(line)["message"] == "failed"
    assert json.loads(line)["traceback"].endswith("ValueError: this one")


# Repeated lines.


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("nutproxy.log.time.monotonic", lambda: now[0])
    return now


def lines(repeats, count, *args, **attributes):
    """The lines that pass the filter, of `count` equal ones."""
    records = [record(*args, **attributes) for _ in range(count)]
    return [made.getMessage() for made in records if repeats.filter(made)]


def test_a_line_that_repeats_is_left_out_and_counted(clock):
    repeats = Repeats()
    assert lines(repeats, 1000, "%s a", "100%") == ["100% a"] * BURST
    assert lines(repeats, 1, "b") == ["b"]
    clock[0] += BURST_SECONDS
    assert lines(repeats, 1, "%s a", "100%") == [
        f"100% a ({1000 - BURST} more of these in {BURST_SECONDS:.0f} s)"
    ]
    assert lines(repeats, 1, "b") == ["b"]


def test_descriptors_and_causes_that_vary_do_not_make_a_line_new(clock):
    repeats = Repeats()
    passed = sum(
        len(lines(repeats, 1, "%s %s: %s", connection(number), SERVER, f"cause {number}"))
        for number in range(1000)
    )
    assert passed == BURST


def test_each_pool_and_server_has_its_own_share(clock):
    repeats = Repeats()
    for pool in ("alpha", "beta"):
        for server in ("s1", "s2"):
            about = {"pool": pool, "server": server}
            assert len(lines(repeats, 100, "is down", about=about)) == BURST


@pytest.mark.parametrize("level", [logging.DEBUG, ALWAYS])
def test_requested_lines_are_not_suppressed(clock, level):
    assert len(lines(Repeats(), 100, "closed", level=level)) == 100


def test_the_number_of_remembered_kinds_of_lines_is_limited(clock):
    repeats = Repeats()
    assert sum(len(lines(repeats, 1, str(number))) for number in range(10_000)) == 10_000
    assert len(repeats.said) <= 1000


# A disk that blocks.


class Written(logging.Handler):
    """The written lines as pairs of level and text."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


def hand_over(handover, count, text, level):
    for _ in range(count):
        handover.handle(record(text, level=level))


def written(handover):
    """The lines that the thread writes when the disk works again."""
    handler = Written()
    writer = Writer(handover, handler)
    writer.start()
    writer.stop()
    return handler.lines


def test_dropped_lines_are_counted_in_a_line_after_the_written_ones():
    handover = Handover(SimpleQueue())
    hand_over(handover, QUEUE_LINES + 123, "closed", logging.DEBUG)
    assert handover.queue.qsize() == QUEUE_LINES
    assert written(handover) == [
        *[("DEBUG", "closed")] * QUEUE_LINES,
        ("WARNING", "123 lines dropped: the log could not be written"),
    ]


def test_lines_that_were_dropped_are_counted_once():
    handover = Handover(SimpleQueue())
    hand_over(handover, QUEUE_LINES + 1, "closed", logging.DEBUG)
    assert len(written(handover)) == QUEUE_LINES + 1
    hand_over(handover, 1, "again", logging.DEBUG)
    assert written(handover) == [("DEBUG", "again")]


def test_debug_lines_do_not_displace_warnings():
    handover = Handover(SimpleQueue())
    hand_over(handover, QUEUE_LINES + 10, "closed", logging.DEBUG)
    hand_over(handover, QUEUE_LINES + 5, "is down", logging.WARNING)
    assert written(handover) == [
        *[("DEBUG", "closed")] * QUEUE_LINES,
        *[("WARNING", "is down")] * QUEUE_LINES,
        ("WARNING", "15 lines dropped: the log could not be written"),
    ]


def test_dropped_lines_are_consecutive():
    handover = Handover(SimpleQueue())
    hand_over(handover, QUEUE_LINES + 1, "closed", logging.DEBUG)
    handover.queue.get()
    hand_over(handover, 2, "came", logging.DEBUG)
    hand_over(handover, 1, "is down", logging.WARNING)
    assert written(handover)[-3:] == [
        ("DEBUG", "closed"),
        ("WARNING", "is down"),
        ("WARNING", "3 lines dropped: the log could not be written"),
    ]


# The file.


def test_file_is_reopened_on_request_even_if_it_was_not_moved(tmp_path):
    handler = LogHandler(str(tmp_path / "log"))
    handler.setFormatter(TextFormatter())
    handler.emit(record("one"))
    before = handler.writer.stream
    handler.emit(record("two"))
    assert handler.writer.stream is before
    handler.emit(record("three", reopen=True))
    assert before.closed
    assert handler.writer.stream is not before
    handler.writer.close()
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "one",
        "two",
        "three",
    ]
