# tests/unit/test_changes.py: what another configuration changes
import pytest
import yaml

from nutproxy.changes import VALUES, compare, effect_of
from nutproxy.config import load
from nutproxy.config.effects import Effect
from nutproxy.config.model import GlobalConfig, PoolConfig, PoolKeys, extra, table

POOL = {"listen": "127.0.0.1:22121", "servers": ["10.0.0.1:6379:1 a", "10.0.0.2:6379:1 b"]}
# Keys whose example cannot be used by itself, or is the default.
EXAMPLES = {
    "protocol": "ascii",
    "listen": "127.0.0.1:22122",
    "servers": ["10.0.0.1:6379:1 a", "10.0.0.3:6379:1 c"],
}
REDIS = {"redis": True}
MEMCACHED_ONLY = {"protocol", "users", "on_dead_server"}


@pytest.fixture
def read(tmp_path):
    def read(pools, **keys):
        file = tmp_path / "proxy.yml"
        file.write_text(yaml.safe_dump({"global": keys, **pools} if keys else pools))
        config, problems = load(str(file))
        assert config is not None, problems
        return config

    return read


def pools(**options):
    return {"alpha": {**POOL, **options}}


@pytest.mark.parametrize("key", table(PoolKeys))
def test_each_key_of_a_pool_is_compared_and_has_an_effect(read, key):
    base = {} if key in MEMCACHED_ONLY or key == "redis" else REDIS
    if key == "redis_db":
        # Without `databases`, such a pool has one.
        base = {**REDIS, "databases": 16}
    value = EXAMPLES.get(key, table(PoolKeys)[key].examples[0])
    changes = compare(read(pools(**base)), read(pools(**base, **{key: value})))
    [pool] = changes.pools
    assert pool.keys == (key,)
    assert (changes.added, changes.removed, changes.keys) == ((), (), ())
    fixed = effect_of(PoolKeys, key) is Effect.RESTART
    assert [problem.key for problem in changes.refused] == ([key] if fixed else [])
    assert fixed == ("x-instead" in extra(table(PoolKeys)[key]))


@pytest.mark.parametrize("key", table(GlobalConfig))
def test_each_key_of_the_process_is_compared_and_has_an_effect(read, key):
    value = table(GlobalConfig)[key].examples[0]
    changes = compare(read(pools()), read(pools(), **{key: value}))
    assert (changes.keys, changes.pools) == ((key,), ())
    assert bool(changes.refused) == (effect_of(GlobalConfig, key) is Effect.RESTART)


def test_the_same_file_with_other_lines_changes_nothing(read):
    before = pools(**REDIS, custom_commands=["MOD.A 2 1 1 1", "MOD.B 2 1 1 1"])
    one = read({"zeta": POOL | {"listen": "127.0.0.1:1"}, **before})
    other = {**POOL, "servers": POOL["servers"][::-1]}
    two = read({**before, "zeta": other | {"listen": "127.0.0.1:1"}}, verbose=5)
    assert not compare(one, two)
    assert list(compare(one, two).lines()) == []


def test_a_value_that_is_no_key_is_none_of_the_pools():
    # What a pool has besides its keys says where something is, or is compared with a key.
    beside = PoolConfig.model_fields.keys() - table(PoolKeys).keys()
    assert beside == {"name", "listen_permissions", "line", "lines"}
    assert VALUES.keys() <= table(PoolKeys).keys()


def test_servers_are_known_by_their_names(read):
    before = read(pools(servers=["h1:1:1 a", "h2:1:1 b", "h3:1:1 c", "h4:1:1", "h5:1:1 e"]))
    after = read(pools(servers=["h1:1:1 a", "h9:1:1 b", "h3:1:5 c", "h8:1:1", "h6:1:2 e"]))
    [pool] = compare(before, after).pools
    assert pool.keys == ("servers",)
    assert (pool.added, pool.removed) == (("h8:1",), ("h4:1",))
    assert (pool.moved, pool.weighted) == (("b", "e"), ("c", "e"))
    assert str(pool) == (
        "pool 'alpha' changes: servers added: h8:1, servers removed: h4:1,"
        " servers with another address: b, e, servers with another weight: c, e"
    )


def test_pools_are_known_by_their_names(read):
    one, two = {**POOL, "listen": "h:1"}, {**POOL, "listen": "h:2", "timeout": 50}
    changes = compare(
        read({"alpha": one, "beta": POOL}),
        read({"beta": {**POOL, "timeout": 100}, "gamma": two}, verbose=6),
    )
    assert (changes.added, changes.removed) == (("gamma",), ("alpha",))
    assert list(changes.lines()) == [
        "changed under 'global': verbose",
        "pool 'alpha' is removed",
        "pool 'gamma' is added",
        "pool 'beta' changes: timeout",
    ]


def test_what_cannot_change_is_refused_with_its_line_and_what_to_do(read):
    [problem] = compare(read(pools()), read(pools(redis=True))).refused
    assert "proxy.yml:" in str(problem)
    assert "pool 'alpha': redis: cannot change while nutproxy runs" in str(problem)
    assert "Give the pool another name" in str(problem)


def test_reuseport_can_change_with_the_address(read):
    after = read(pools(reuseport=True, listen="127.0.0.1:22122"))
    assert compare(read(pools()), after).refused == ()


def test_many_names_are_cut_short(read):
    many = [f"h{number}:1:1 s{number}" for number in range(9)]
    [pool] = compare(read(pools()), read(pools(servers=many))).pools
    assert "servers added: s0, s1, s2, s3, s4 and 4 more" in str(pool)
