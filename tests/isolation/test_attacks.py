# tests/isolation/test_attacks.py: every attack, with innocent clients
"""Innocent clients see no error and no wrong reply. See innocents.py and attacks.py."""

import pytest

from tests.isolation.attacks import ATTACKS
from tests.isolation.innocents import Arena


@pytest.fixture(scope="module")
def arena():
    with Arena() as arena:
        yield arena


@pytest.mark.parametrize("name", ATTACKS)
def test_innocent_clients_notice_nothing(arena, name):
    before = len(arena.proxy.log())
    arena.innocents.beside(ATTACKS[name], arena)
    # A traceback fails only the attack that has caused it.
    assert "Traceback" not in arena.proxy.log()[before:]
