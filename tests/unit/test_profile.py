"""Profiles: one object for each state, found by all of its values."""

from nutproxy.back.profile import Profiles


def profiles(database=0, limit=8, vacate=lambda profile: True):
    return Profiles(database, limit, vacate)


def test_a_state_has_one_profile():
    table = profiles()
    new = table.of(3, 0)
    assert table.of(3, 0) is new is table.of(3, 0, False)
    assert table.of(2, 0) is table.default
    assert len({table.of(2, 0), new, table.of(2, 5), table.of(3, 5)}) == 4
    assert table.of(3, 0, True) is not new


def test_a_new_client_has_the_database_of_the_pool():
    default = profiles(database=5).default
    assert (default.protover, default.database) == (2, 5)


def test_the_index_of_a_profile_is_its_place_in_the_table():
    table = profiles()
    assert [table.of(version, 0).index for version in (2, 3, 2, 3)] == [0, 1, 0, 1]
    assert table.rows == [table.of(2, 0), table.of(3, 0)]


def test_a_profile_has_the_values_of_its_state():
    table = profiles()
    profile = table.of(3, 7)
    assert (profile.key, profile.protover, profile.database) == ((3, 7, False), 3, 7)
    assert [str(profile), str(table.of(3, 0))] == ["RESP3, database 7", "RESP3"]
    assert not profile.tracked
    tracked = table.of(3, 7, True)
    assert (tracked.tracked, str(tracked)) == (True, "RESP3, database 7, tracked")


def test_pools_have_tables_of_their_own():
    assert profiles().default is not profiles().default


def test_a_full_table_gives_the_place_of_a_profile_without_clients_to_a_new_one():
    table = profiles(limit=3)
    one, other = table.of(2, 1), table.of(2, 2)
    one.clients = other.clients = 1
    assert table.of(2, 3) is None
    other.clients = 0
    new = table.of(2, 3)
    assert (new.index, new.database) == (other.index, 3)
    assert table.rows == [table.default, one, new]
    new.clients = 1
    # The old state has no profile any more.
    assert table.of(2, 2) is None


def test_a_profile_keeps_its_place_while_its_links_are_in_use():
    asked = []
    table = profiles(limit=2, vacate=asked.append)
    busy = table.of(2, 1)
    assert table.of(2, 2) is None
    assert asked == [busy]


def test_the_default_keeps_its_place():
    table = profiles(limit=1)
    assert table.of(3, 0) is None
