"""Profiles: one object for each state, found by all of its values."""

from nutproxy.back.profile import Profiles


def test_a_state_has_one_profile():
    profiles = Profiles()
    new = profiles.of(3)
    assert profiles.of(3) is new
    assert profiles.of(2) is profiles.default
    assert profiles.default is not new


def test_the_index_of_a_profile_is_its_place_in_the_table():
    profiles = Profiles()
    assert [profiles.of(version).index for version in (2, 3, 2, 3)] == [0, 1, 0, 1]
    assert profiles.rows == [profiles.of(2), profiles.of(3)]


def test_a_profile_has_the_values_of_its_state():
    profile = Profiles().of(3)
    assert (profile.key, profile.protover, str(profile)) == ((3,), 3, "RESP3")


def test_pools_have_tables_of_their_own():
    assert Profiles().default is not Profiles().default
