# tests/isolation/test_attacks.py: every attack, beside innocent clients
"""No attack causes an error or a wrong reply for an innocent client. See innocents.py and
attacks.py."""

import pytest

from tests.isolation.attacks import ATTACKS
from tests.isolation.innocents import Arena


@pytest.fixture(scope="module")
def arena():
    with Arena() as arena:
        yield arena


@pytest.mark.parametrize("name", ATTACKS)
def test_innocent_clients_notice_nothing(arena, name):
    arena.innocents.beside(ATTACKS[name], arena)
    assert "Traceback" not in arena.proxy.log()
