"""Hash functions, rings and routes, compared with values of twemproxy and with models."""

import hashlib
import json
import math
import struct
import time
import zlib
from bisect import bisect_left
from pathlib import Path

import mmh3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutproxy.hashkit.hashes import HASHES, hash_value
from nutproxy.hashkit.order import server_order_key
from nutproxy.hashkit.ring import DISTRIBUTIONS, Ketama, Modula, make_ring
from nutproxy.hashkit.router import Route, Router

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "twemproxy_vectors.json").read_text())
TWEMPROXY_HASHES = [name for name in VECTORS["hashes"][0] if name != "key_hex"]
POOLS = {pool["name"]: pool for pool in VECTORS["pools"]}
THREE = [(b"s1", 1), (b"s2", 1), (b"s3", 1)]
KEYS = [b"key:%d" % i for i in range(300)]

servers_strategy = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=30).filter(lambda name: 0 not in name), st.integers(1, 1000)
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda server: server[0],
).map(lambda servers: sorted(servers, key=lambda server: server_order_key(server[0])))


def servers_of(pool):
    """(hashed name, weight) in twemproxy's index order, from the lines of its configuration."""
    weights = {}
    for line in pool["servers_config_order"]:
        address, _, name = line.partition(" ")
        address, _, weight = address.rpartition(":")
        if not name:
            name = address + ":" if address.startswith("/") else address.removesuffix(":11211")
        weights[name.encode()] = int(weight)
    return [(name, weights[name]) for name in sorted(weights, key=server_order_key)]


def router_of(pool):
    return Router(pool["hash"], pool["distribution"], pool["hash_tag"].encode(), servers_of(pool))


def routes(router, keys=KEYS):
    return [router.explain(key).server for key in keys]


def live_set(live):
    return {index for index, alive in enumerate(live) if alive}


# ---- hash functions -------------------------------------------------------------------------


@pytest.mark.parametrize("name", TWEMPROXY_HASHES)
def test_hash_equals_twemproxy_on_every_vector(name):
    for vector in VECTORS["hashes"]:
        assert hash_value(name, bytes.fromhex(vector["key_hex"])) == vector[name], vector


def test_accepted_hashes_are_twemproxy_s_and_murmur3():
    assert set(HASHES) == {*TWEMPROXY_HASHES, "murmur3"}
    assert all(HASHES.values())


def test_unknown_hash_is_refused_with_the_accepted_names():
    with pytest.raises(ValueError, match=r"unknown hash 'sha1', accepted are: .*fnv1a_64.*murmur3"):
        hash_value("sha1", b"key")


@pytest.mark.parametrize(
    ("key", "fnv1a_64", "murmur", "one_at_a_time", "hsieh"),
    [
        (b"\xff", 2046707310, 3679652508, 2925896852, 44489640),
        (b"k\x80\xfe", 913230592, 1537468328, 150506206, 2728730717),
        (b"user:1000", 2927313545, 2384768711, 3043211087, 3723237737),
    ],
)
def test_bytes_above_127_are_signed_as_on_x86_64(key, fnv1a_64, murmur, one_at_a_time, hsieh):
    assert hash_value("fnv1a_64", key) == fnv1a_64
    assert hash_value("murmur", key) == murmur
    assert hash_value("one_at_a_time", key) == one_at_a_time
    assert hash_value("hsieh", key) == hsieh


def fnv(data, basis, prime, xor_first, signed):
    value = basis
    for byte in data:
        extended = byte | 0xFFFFFF00 if signed and byte > 127 else byte
        value = (value ^ extended) * prime if xor_first else (value * prime) ^ extended
        value &= 0xFFFFFFFF
    return value


@given(st.binary(max_size=40))
def test_32_bit_fnv_is_standard_except_for_signed_bytes(key):
    basis, prime = 2166136261, 16777619
    assert hash_value("fnv1_32", key) == fnv(key, basis, prime, xor_first=False, signed=True)
    assert hash_value("fnv1a_32", key) == fnv(key, basis, prime, xor_first=True, signed=True)
    if key.isascii():
        assert hash_value("fnv1a_32", key) == fnv(key, basis, prime, xor_first=True, signed=False)


@given(st.binary(max_size=40))
def test_fnv1_64_is_the_low_half_of_the_64_bit_hash(key):
    value = 0xCBF29CE484222325
    for byte in key:
        value = value * 0x100000001B3 % 2**64 ^ (byte | 0xFFFFFFFFFFFFFF00 if byte > 127 else byte)
    assert hash_value("fnv1_64", key) == value & 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_md5_is_the_first_word_of_hashlib_s_digest(key):
    assert hash_value("md5", key) == int.from_bytes(hashlib.md5(key).digest()[:4], "little")


@pytest.mark.parametrize("length", [*range(54, 66), *range(118, 130)])
def test_md5_pads_right_around_its_block_size(length):
    expected = hashlib.md5(bytes(length)).digest()[:4]
    assert hash_value("md5", bytes(length)) == int.from_bytes(expected, "little")


@given(st.binary(max_size=300))
def test_crc32a_is_zlib_s_and_crc32_is_fifteen_bits_of_it(key):
    assert hash_value("crc32a", key) == zlib.crc32(key)
    assert hash_value("crc32", key) == zlib.crc32(key) >> 16 & 0x7FFF


@given(st.binary(max_size=300))
def test_low_half_of_crc16_is_xmodem_s(key):
    value = 0
    for byte in key:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ (0x1021 if value & 0x8000 else 0)) & 0xFFFF
    assert hash_value("crc16", key) & 0xFFFF == value


@given(st.binary(max_size=300))
def test_murmur3_is_mmh3_s(key):
    assert hash_value("murmur3", key) == mmh3.hash(key, 0, signed=False)


@given(
    st.sampled_from(sorted(HASHES)),
    st.binary(min_size=1, max_size=80).filter(lambda key: b"}" not in key),
    st.binary(max_size=8),
)
def test_hash_reads_nothing_before_or_beyond_its_key(name, key, behind):
    router = Router(name, "modula", b"{}", THREE)
    assert router.explain(b"{" + key + b"}" + behind).hash == hash_value(name, key)


# ---- server order ---------------------------------------------------------------------------


def test_shorter_server_names_come_first_then_byte_order():
    names = [b"server10", b"server2", b"zz", b"server1", b"server\xff"]
    assert sorted(names, key=server_order_key) == [
        b"zz",
        b"server1",
        b"server2",
        b"server\xff",
        b"server10",
    ]


# ---- rings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POOLS)
def test_pool_has_twemproxy_s_order_points_and_routes(name):
    pool = POOLS[name]
    order = pool["server_index_order"]
    router = router_of(pool)
    assert [server.decode() for server, _ in servers_of(pool)] == order
    assert router.points_per_server() == pool["points_per_server"]
    assert sum(router.points_per_server()) == pool["ncontinuum"]
    for key, server in pool["routes"].items():
        assert order[router.explain(key.encode()).server] == server, key


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def model_continuum(servers, live):
    """twemproxy's continuum by its description: sorted pairs (value, index)."""
    alive = [index for index, _ in enumerate(servers) if live[index]]
    total = float32(sum(servers[index][1] for index in alive))
    points = []
    for index in alive:
        name, weight = servers[index]
        share = float32(float32(weight) / total)
        share = float32(float32(float32(share * 160) / 4) * len(alive))
        for number in range(math.floor(float32(share + 0.0000000001))):
            label = (name + b"-%d" % number)[:272]
            points += [(word, index) for word in struct.unpack("<4I", hashlib.md5(label).digest())]
    return sorted(points)


@settings(max_examples=60, deadline=None)
@given(servers_strategy, st.data())
def test_ketama_is_the_documented_circle_for_any_weights_and_any_live_servers(servers, data):
    live = data.draw(st.lists(st.booleans(), min_size=len(servers), max_size=len(servers)))
    router = Router("md5", "ketama", None, servers)
    router.set_live(live)
    continuum = model_continuum(servers, live)
    owners = [index for _, index in continuum]
    assert router.points_per_server() == [owners.count(i) for i in range(len(servers))]
    if len(servers) == 1 or not continuum:
        return
    for key in KEYS[:40]:
        value = hash_value("md5", key)
        place = bisect_left(continuum, (value, -1)) % len(continuum)
        point, server = continuum[place]
        assert router.explain(key) == Route(server, value, point)


@settings(max_examples=60, deadline=None)
@given(servers_strategy, st.data())
def test_modula_is_the_documented_slot_table(servers, data):
    live = data.draw(st.lists(st.booleans(), min_size=len(servers), max_size=len(servers)))
    router = Router("fnv1a_32", "modula", None, servers)
    router.set_live(live)
    slots = [i for i, (_, weight) in enumerate(servers) if live[i] for _ in range(weight)]
    assert router.points_per_server() == [slots.count(i) for i in range(len(servers))]
    if len(servers) == 1 or not slots:
        return
    for key in KEYS[:40]:
        value = hash_value("fnv1a_32", key)
        slot = value % len(slots)
        assert router.explain(key) == Route(slots[slot], value, slot)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["ketama", "modula"]), servers_strategy, st.integers(1, 1000), st.data())
def test_ring_made_in_portions_is_the_one_made_at_once(distribution, servers, portion, data):
    lists = st.lists(st.booleans(), min_size=len(servers), max_size=len(servers))
    router = Router("md5", distribution, None, servers)
    for _ in range(2):
        live = data.draw(lists)
        before = routes(router)
        router.begin(live)
        while router.build(portion):
            # A single server has no ring; it is live or not.
            assert len(servers) == 1 or routes(router) == before
        whole = Router("md5", distribution, None, servers)
        whole.set_live(live)
        assert routes(router) == routes(whole)
        assert router.points_per_server() == whole.points_per_server()


def test_no_portion_of_a_large_ring_takes_long():
    router = Router("murmur", "ketama", None, [(b"server%d" % n, 1) for n in range(1000)])
    router.begin([n % 3 > 0 for n in range(1000)])
    longest = 0.0
    more = True
    while more:
        began = time.thread_time()
        more = router.build(6400)
        longest = max(longest, time.thread_time() - began)
    # A whole ring takes 15 to 30 ms.
    assert longest < 0.01


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["ketama", "modula"]), servers_strategy, st.data())
def test_ring_after_ejections_equals_the_ring_of_the_live_servers(distribution, servers, data):
    router = Router("fnv1a_64", distribution, None, servers)
    for _ in range(3):
        live = data.draw(st.lists(st.booleans(), min_size=len(servers), max_size=len(servers)))
        router.set_live(live)
        left = sorted(live_set(live))
        if not left:
            assert set(routes(router)) == {-1}
            continue
        smaller = Router("fnv1a_64", distribution, None, [servers[index] for index in left])
        assert routes(router) == [left[index] for index in routes(smaller)]
        assert [router.points_per_server()[i] for i in left] == smaller.points_per_server()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(HASHES)),
    st.sampled_from(sorted(DISTRIBUTIONS)),
    servers_strategy,
    st.lists(st.binary(max_size=50), min_size=1, max_size=30),
    st.data(),
)
def test_every_key_goes_to_a_live_server(hash_name, distribution, servers, keys, data):
    live = data.draw(st.lists(st.booleans(), min_size=len(servers), max_size=len(servers)))
    router = Router(hash_name, distribution, b"{}", servers)
    router.set_live(live)
    assert set(routes(router, keys)) <= (live_set(live) or {-1})


@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_a_server_that_returns_has_its_keys_again(distribution):
    router = Router("fnv1a_64", distribution, None, THREE)
    before = routes(router)
    router.set_live([True, False, True])
    assert routes(router) != before
    router.set_live([True, True, True])
    assert routes(router) == before


def test_ketama_moves_only_the_keys_of_the_ejected_server():
    router = Router("md5", "ketama", None, THREE)
    before = routes(router)
    router.set_live([True, False, True])
    for old, new in zip(before, routes(router), strict=True):
        assert new != 1
        assert old in (1, new)


def test_a_weight_too_small_gets_no_point_and_no_key():
    router = Router("md5", "ketama", None, [(b"heavy", 100000), (b"light", 1)])
    assert router.points_per_server() == [316, 0]
    assert set(routes(router)) == {0}
    router.set_live([False, True])
    assert router.points_per_server() == [0, 160]
    assert set(routes(router)) == {1}


def test_crc32_with_ketama_sends_every_key_to_one_server():
    router = Router("crc32", "ketama", None, THREE)
    assert len(set(routes(router))) == 1


def test_after_the_last_point_the_circle_begins_again():
    ring = Ketama(THREE)
    first = ring.point(0)
    assert ring.point(0xFFFFFFFF) == first
    assert ring.point(first) == first
    assert ring.point(first + 1) > first


def test_of_equal_points_the_lowest_index_owns_the_value():
    router = Router("md5", "ketama", None, [(b"same", 1), (b"same", 1), (b"same", 1)])
    assert set(routes(router)) == {0}
    router.set_live([False, True, True])
    assert set(routes(router)) == {1}


def test_names_beyond_272_bytes_repeat_their_points():
    servers = [(b"a" * 269, 1), (b"b" * 271, 1), (b"c" * 300, 1)]
    router = Router("md5", "ketama", None, servers)
    continuum = model_continuum(servers, [True] * 3)
    assert router.points_per_server() == [160, 160, 160]
    assert len({value for value, index in continuum if index == 2}) == 4
    for key in KEYS:
        place = bisect_left(continuum, (hash_value("md5", key), -1)) % len(continuum)
        assert router.explain(key).server == continuum[place][1]


def test_a_large_ring_is_rebuilt_for_the_largest_weights():
    servers = [(b"s%03d" % i, 0x7FFFFFFF if i % 3 else 1 + i) for i in range(300)]
    router = Router("md5", "ketama", None, servers)
    live = [i % 7 != 0 for i in range(300)]
    router.set_live(live)
    owners = [index for _, index in model_continuum(servers, live)]
    assert router.points_per_server() == [owners.count(i) for i in range(300)]


def test_modula_takes_weights_in_the_billions():
    ring = Modula([(b"a", 0x7FFFFFFF), (b"b", 0x7FFFFFFF), (b"c", 0x7FFFFFFF)])
    assert ring.point(0xFFFFFFFF) == 0xFFFFFFFF
    router = Router("md5", "modula", None, [(b"a", 0x7FFFFFFF), (b"b", 0x7FFFFFFF)])
    for key in KEYS:
        value = hash_value("md5", key) % (2 * 0x7FFFFFFF)
        assert router.explain(key) == Route(int(value >= 0x7FFFFFFF), hash_value("md5", key), value)


def test_random_draws_every_live_server_and_ignores_key_and_weight():
    router = Router("md5", "random", None, [(b"a", 1), (b"b", 1000000), (b"c", 1), (b"d", 1)])
    router.set_live([True, True, False, True])
    drawn = routes(router, [b"one key"] * 3000)
    assert set(drawn) == {0, 1, 3}
    assert min(drawn.count(index) for index in (0, 1, 3)) > 700
    assert router.points_per_server() == [1, 1, 0, 1]
    assert router.explain(b"one key").point is None


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_without_a_live_server_there_is_no_route(distribution):
    router = Router("md5", distribution, b"{}", THREE)
    router.set_live([False, False, False])
    assert router.explain(b"key") == Route(-1, hash_value("md5", b"key"), None)
    assert router.explain(b"") == Route(-1, 0, None)
    assert router.points_per_server() == [0, 0, 0]


def test_accepted_distributions_are_twemproxy_s():
    assert set(DISTRIBUTIONS) == {"ketama", "modula", "random"}
    with pytest.raises(ValueError, match="unknown distribution 'even', accepted are: ketama, mod"):
        make_ring("even", THREE)


@pytest.mark.parametrize("weight", [0, -1, 0x80000000])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match=r"server b's1': weight .* is not in 1\.\.2147483647"):
        Ketama([(b"s1", weight)])


def test_a_ring_needs_servers_and_their_names_as_bytes():
    with pytest.raises(ValueError, match="at least one server"):
        Router("md5", "ketama", None, [])
    with pytest.raises(TypeError, match="hashed name is bytes, not 's1'"):
        Router("md5", "ketama", None, [("s1", 1)])


@pytest.mark.parametrize("live", [[], [True], [True] * 4])
def test_set_live_of_the_wrong_length_is_refused_and_changes_nothing(live):
    router = Router("md5", "ketama", None, THREE)
    before = routes(router)
    with pytest.raises(ValueError, match="entries for 3 servers"):
        router.set_live(live)
    assert routes(router) == before


# ---- from key to hash -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "key", "hashed"),
    [
        (b"{}", b"user:{42}:name", b"42"),
        (b"{}", b"{42}", b"42"),
        (b"{}", b"a{b}c{d}", b"b"),
        (b"{}", b"{{a}}", b"{a"),
        (b"{}", b"}{a}", b"a"),
        (b"{}", b"{}x", b"{}x"),
        (b"{}", b"a{}b{c}", b"a{}b{c}"),
        (b"{}", b"a{b", b"a{b"),
        (b"{}", b"a}b", b"a}b"),
        (b"{}", b"}a{", b"}a{"),
        (b"{}", b"{", b"{"),
        (b"{}", b"a{", b"a{"),
        (b"{}", b"a{\x00\xff}b", b"\x00\xff"),
        (b"$$", b"a$b$c", b"b"),
        (b"$$", b"a$b", b"a$b"),
        (b"$$", b"$$a$", b"$$a$"),
        (b"\xab\xbb", b"x\xaby\xbbz", b"y"),
        (None, b"user:{42}:name", b"user:{42}:name"),
    ],
)
def test_hash_tag(tag, key, hashed):
    router = Router("fnv1a_64", "ketama", tag, THREE)
    untagged = Router("fnv1a_64", "ketama", None, THREE)
    assert router.explain(key).hash == hash_value("fnv1a_64", hashed)
    assert router.explain(key) == untagged.explain(hashed)


@pytest.mark.parametrize("tag", [b"", b"{", b"{}}"])
def test_a_hash_tag_is_two_bytes(tag):
    with pytest.raises(ValueError, match="is not two bytes"):
        Router("md5", "ketama", tag, THREE)


@pytest.mark.parametrize("name", sorted(HASHES))
def test_an_empty_key_has_hash_0_whatever_the_function(name):
    router = Router(name, "ketama", b"{}", THREE)
    assert router.explain(b"").hash == 0
    assert router.explain(b"").point == Ketama(THREE).point(0)
    assert Router(name, "modula", None, THREE).explain(b"") == Route(0, 0, 0)


@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_a_pool_of_one_server_hashes_nothing(distribution):
    router = Router("md5", distribution, b"{}", [(b"only", 1)])
    assert router.explain(b"{tag}key") == Route(0, None, None)
    assert router.explain(b"") == Route(0, None, None)
    router.set_live([False])
    assert router.explain(b"key") == Route(-1, None, None)
    router.set_live([True])
    assert router.explain(b"key") == Route(0, None, None)
