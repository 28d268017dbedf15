# tests/unit/core/conftest.py: the rig of a test
"""`make_rig(servers=2, redis=True, mbuf=…, **options)` makes a rig with a pool of these options.
`rig` is one with two Redis servers. A rig is closed, and checked, before the next one is made and
after the test."""

import pytest

from tests.unit.core.harness import MBUF, Rig, layout


@pytest.fixture
def make_rig():
    rigs = []

    def make(mbuf=MBUF, **options):
        close()
        rigs.append(Rig(layout(**options), mbuf))
        return rigs[-1]

    def close():
        while rigs:
            rigs.pop().close()

    yield make
    close()


@pytest.fixture
def rig(make_rig):
    return make_rig()
