"""Shares and moves from arcs: against the real router, against counting every hash value, and facts
about twemproxy's ring."""

import random
from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutproxy.hashkit import arcs
from nutproxy.hashkit.arcs import HASH_VALUES, SPANS, Basis, moves, shares
from nutproxy.hashkit.hashes import HASHES, hash_value
from nutproxy.hashkit.order import Layout, server_order_key
from nutproxy.hashkit.router import Router

SMALL = 1 << 16


def layout(servers, distribution="ketama", hash="murmur", hash_tag=None):
    """`servers` are names, or a dict of names and weights."""
    weights = servers if isinstance(servers, dict) else dict.fromkeys(servers, 1)
    names = sorted(weights, key=lambda name: server_order_key(name.encode()))
    return Layout(hash, distribution, hash_tag, tuple((name, weights[name]) for name in names))


def equal(count, name="10.0.0.{}:6379", **more):
    return layout([name.format(number) for number in range(count)], **more)


def router_of(each):
    servers = [(name.encode(), weight) for name, weight in each.servers]
    return Router(each.hash, each.distribution, each.hash_tag, servers)


def server_names(each, keys):
    router = router_of(each)
    return [each.names[router.explain(key).server] for key in keys]


def assert_close(share, count, total):
    """`count` of `total` random keys agree with an exact share: within five standard deviations."""
    deviation = sqrt(max(share * (1 - share), 1 / total) / total)
    assert abs(count / total - share) < 5 * deviation, (float(share), count / total)


def percent(share):
    return round(100 * float(share), 2)


# ---- against the router ---------------------------------------------------------------------

WEIGHTED = {"alpha": 1, "beta": 3, "10.0.0.3:6379": 7}
GROWN = {**WEIGHTED, "delta": 2}


@pytest.mark.parametrize("before", ["ketama", "modula"])
@pytest.mark.parametrize("after", ["ketama", "modula"])
def test_flow_agrees_with_the_routes_of_a_million_keys(before, after):
    old, new = layout(WEIGHTED, before), layout(GROWN, after)
    found = moves(old, new)
    assert found.basis is Basis.EXACT
    rnd = random.Random(1)
    keys = [rnd.randbytes(8) for _ in range(1_000_000)]
    counts = Counter(zip(server_names(old, keys), server_names(new, keys), strict=True))
    assert counts.keys() == found.flow.keys()
    for pair, count in counts.items():
        assert_close(found.flow[pair] / found.total, count, len(keys))


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_shares_agree_with_the_routes_of_random_keys_for_every_hash(name, distribution):
    each = equal(5, distribution=distribution, hash=name)
    counts, total = shares(each)
    rnd = random.Random(2)
    keys = [rnd.randbytes(12) for _ in range(100_000)]
    routes = Counter(server_names(each, keys))
    for server, count in zip(each.names, counts, strict=True):
        assert_close(count / total, routes[server], len(keys))


@pytest.mark.parametrize("name", HASHES)
def test_every_hash_fills_its_values(name):
    """A million random keys: no hash value beyond the span, and each 64th of it as likely as
    assumed."""
    span, parts = SPANS.get(name, HASH_VALUES), 64
    likely = arcs._before_hsieh if name == "hsieh" else int
    rnd = random.Random(3)
    values = [hash_value(name, rnd.randbytes(16)) for _ in range(1_000_000)]
    assert max(values) < span
    counts = Counter(likely(value) * parts // span for value in values)
    assert counts.keys() == set(range(parts))
    for count in counts.values():
        assert_close(1 / parts, count, len(values))


def test_hsieh_is_uneven_modulo_five_and_its_shares_say_so():
    """Every 65th value is rare, so a slot of five lacks one value in thirteen."""
    each = equal(5, distribution="modula", hash="hsieh")
    counts, total = shares(each)
    found = sorted(round(count / total, 3) for count in counts)
    assert found == [0.188, 0.203, 0.203, 0.203, 0.203]
    assert moves(each, each).basis is Basis.ESTIMATE
    assert moves(each, each).moved == 0


# ---- against counting -----------------------------------------------------------------------

SERVERS = st.dictionaries(
    st.text("ab1", min_size=1, max_size=3), st.integers(1, 40), min_size=1, max_size=7
)
DISTRIBUTIONS = st.sampled_from(["ketama", "modula"])


@contextmanager
def small_hashes():
    """Hash values of 16 bits, so that each can be tried: points are cut to their upper half."""
    real = arcs._points
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPANS, "murmur", SMALL)
        patch.setattr(
            arcs,
            "_points",
            lambda each: sorted(point >> 48 << 32 | point & 0xFFFFFFFF for point in real(each)),
        )
        yield


def owners(each):
    """The server of every hash value of 16 bits."""
    if len(each.servers) == 1:
        return [each.names[0]] * SMALL
    if each.distribution == "modula":
        slots = [name for name, weight in each.servers for _ in range(weight)]
        return [slots[value % len(slots)] for value in range(SMALL)]
    points = arcs._points(each)
    values = [point >> 32 for point in points]
    return [
        each.names[points[bisect_left(values, value) % len(points)] & 0xFFFFFFFF]
        for value in range(SMALL)
    ]


@settings(max_examples=60, deadline=None)
@given(SERVERS, SERVERS, DISTRIBUTIONS, DISTRIBUTIONS)
def test_flow_is_what_counting_every_hash_value_gives(first, second, before, after):
    old, new = layout(first, before), layout(second, after)
    with small_hashes():
        found = moves(old, new)
        owned = owners(old)
        counted = Counter(zip(owned, owners(new), strict=True))
        counts, _ = shares(old)
    assert found.basis is Basis.EXACT
    scale = found.total // SMALL  # with a single server there is one more factor
    assert found.flow == {pair: count * scale for pair, count in counted.items()}
    changed = sum(count for (a, b), count in counted.items() if a != b)
    assert found.moved == Fraction(changed, SMALL)
    assert [owned.count(name) for name in old.names] == counts


@settings(max_examples=60, deadline=None)
@given(SERVERS, SERVERS, DISTRIBUTIONS, DISTRIBUTIONS)
def test_rows_and_columns_add_up_to_the_shares(first, second, before, after):
    old, new = layout(first, before), layout(second, after)
    found = moves(old, new)
    for each, side in ((old, 0), (new, 1)):
        counts, total = shares(each)
        sums = Counter()
        for pair, count in found.flow.items():
            sums[pair[side]] += Fraction(count, found.total)
        assert [sums[name] for name in each.names] == [Fraction(n, total) for n in counts]
    assert sum(change.leave for change in found.servers) == found.moved
    assert sum(change.arrive for change in found.servers) == found.moved
    assert sum(count for _, _, count in found.moving) == found.moved * found.total
    for change in found.servers:
        if change.old and change.new:
            assert change.before - change.leave + change.arrive == change.after


def test_too_many_arcs_are_estimated(monkeypatch):
    old, new = equal(20, distribution="modula"), equal(21, distribution="modula")
    exact = moves(old, new)
    monkeypatch.setattr(arcs, "ARCS_MAX", 100)
    estimate = moves(old, new)
    assert (exact.basis, estimate.basis) == (Basis.EXACT, Basis.ESTIMATE)
    assert estimate.total == arcs.SAMPLE
    assert float(estimate.moved) == pytest.approx(float(exact.moved), abs=0.001)


# ---- facts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["ketama", "modula", "random"])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_nothing_moves_between_equal_layouts(distribution, count):
    each = equal(count, distribution=distribution)
    found = moves(each, each)
    assert (found.moved, found.between_kept, found.needed, found.moving) == (0, 0, 0, [])


def test_a_fourth_server_gets_all_that_moves():
    found = moves(equal(3), equal(4))
    assert {new for _, new, _ in found.moving} == {"10.0.0.3:6379"}
    assert (found.between_kept, found.needed) == (0, Fraction(1, 4))
    assert percent(found.moved) == 26.68


@pytest.mark.parametrize(
    ("count", "moved", "between", "needed"), [(50, 4.46, 2.37, 1.96), (100, 3.27, 2.31, 0.99)]
)
def test_leaving_a_bad_size_moves_keys_between_servers_that_stay(count, moved, between, needed):
    """float32 leaves 156 points instead of 160 for each of 50 servers. The 51st gives them back."""
    found = moves(equal(count), equal(count + 1))
    assert percent(found.moved) == moved
    assert percent(found.between_kept) == between
    assert percent(found.needed) == needed


def test_modula_moves_three_quarters_from_three_to_four():
    found = moves(equal(3, distribution="modula"), equal(4, distribution="modula"))
    assert percent(found.moved) == 75


def test_another_address_for_an_unnamed_server_moves_a_third_beside_its_own_keys():
    besides = []
    for count in range(3):
        old = equal(3)
        names = [
            name if index != count else "10.0.0.9:6379" for index, name in enumerate(old.names)
        ]
        found = moves(old, layout(names))
        own = found.flow[old.names[count], "10.0.0.9:6379"]
        besides.append(percent(found.moved - Fraction(own, found.total)))
    assert besides == [33.39, 32.36, 35.77]


def test_a_renamed_server_keeps_what_its_new_name_gets_again():
    old, new = layout(["a", "b", "c"]), layout(["a", "b", "x"])
    found = moves(old, new, {"c": "x"})
    stays = found.flow["c", "x"]
    assert found.moved == moves(old, new).moved - Fraction(stays, found.total)
    assert found.kept == {"a": "a", "b": "b", "c": "x"}


def test_crc32_with_ketama_is_all_on_one_server():
    counts, total = shares(equal(5, hash="crc32"))
    assert total == 1 << 15
    assert sorted(counts) == [0, 0, 0, 0, total]


def test_another_hash_or_tag_is_independent():
    old = equal(4)
    for new in (old._replace(hash="md5"), old._replace(hash_tag=b"{}")):
        found = moves(old, new)
        assert found.basis is Basis.INDEPENDENT
        counts, total = shares(old)
        assert found.moved == 1 - sum(Fraction(count, total) ** 2 for count in counts)


@pytest.mark.parametrize("distribution", ["ketama", "modula", "random"])
def test_from_or_to_a_single_server_nothing_is_assumed(distribution):
    one, three = layout(["a"]), layout(["a", "b", "c"], distribution, "crc32a")
    counts, total = shares(three)
    share = Fraction(counts[0], total)
    for found in (moves(one, three), moves(three, one)):
        assert found.basis is Basis.EXACT
        assert found.moved == 1 - share


def test_with_random_no_key_has_a_server():
    three = equal(3, distribution="random")
    assert shares(three) == ([1, 1, 1], 3)
    found = moves(three, equal(4, distribution="random"))
    assert (found.basis, found.moved, found.flow) == (Basis.NONE, 0, {})
    found = moves(three, equal(3))
    assert (found.basis, found.moved) == (Basis.INDEPENDENT, Fraction(2, 3))


def test_a_thousand_servers_are_merged_without_a_step_per_pair_of_points(monkeypatch):
    """Counts arcs, not time: both rings together, once."""
    made = []
    real = arcs._ketama_arcs

    def counted(each, span):
        found = list(real(each, span))
        made.append(len(found))
        return iter(found)

    monkeypatch.setattr(arcs, "_ketama_arcs", counted)
    found = moves(equal(1000), equal(1001))
    assert len(made) == 2
    assert sum(made) < 2 * 161 * 1001
    assert percent(found.moved) == 2.56
