# tests/unit/core/test_harness.py: does the rig notice what it is there to notice?
import pytest

from tests.unit.core.harness import STEP, Rig, layout


def test_connection_that_is_still_held_is_noticed():
    rig = Rig(layout())
    held = rig.conn(rig.connect())
    with pytest.raises(AssertionError):
        rig.close()
    assert held.fd == -1


def test_clock_stands_still_between_steps(rig):
    before = rig.worker.reactor.now
    rig.settle()
    assert rig.worker.reactor.now == before
    rig.advance(5 * STEP + 1)
    assert rig.worker.reactor.now == before + 5 * STEP + 1
