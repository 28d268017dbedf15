"""Popular client libraries, with three memcached servers behind nutproxy.

Each client gets a single address, so nutproxy does the sharding.
"""

import itertools
import re
import shutil
import subprocess
import threading

import pylibmc
import pymemcache
import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.exceptions import MemcacheClientError

from nutproxy.builtin.memcache import SUFFIX
from tests.integration.conftest import mc_pool
from tests.servers import HOST, MemcachedServer, NutproxyServer

KEYS = [f"key:{number}" for number in range(300)]


@pytest.fixture(scope="module")
def port():
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as three,
        NutproxyServer(mc_pool("alpha", [one, two, three])) as proxy,
    ):
        yield proxy.port


@pytest.fixture
def pymc(port):
    client = Client((HOST, port), timeout=20, no_delay=True)
    client.flush_all(noreply=False)
    yield client
    client.close()


@pytest.fixture(params=[False, True], ids=["text", "binary"])
def libmc(port, request):
    client = libmc_client(port, request.param)
    yield client
    client.disconnect_all()


def libmc_client(port, binary, **behaviors):
    client = pylibmc.Client(
        [f"{HOST}:{port}"], binary=binary, behaviors={"tcp_nodelay": True, **behaviors}
    )
    client.flush_all()
    return client


# pymemcache


def test_pymemcache_one_key(pymc):
    assert pymc.get("k") is None
    assert pymc.set("k", b"v", noreply=False)
    assert pymc.get("k") == b"v"
    assert not pymc.add("k", b"w", noreply=False)
    assert pymc.replace("k", b"w", noreply=False)
    assert pymc.append("k", b">", noreply=False)
    assert pymc.prepend("k", b"<", noreply=False)
    assert pymc.get("k") == b"<w>"
    assert pymc.touch("k", 100, noreply=False)
    assert pymc.delete("k", noreply=False)
    assert not pymc.delete("k", noreply=False)


@pytest.mark.parametrize("noreply", [True, False])
def test_pymemcache_many_keys(pymc, noreply):
    values = {key: key.encode() * 3 for key in KEYS}
    assert pymc.set_many(values, noreply=noreply) == []
    assert pymc.get_many([*KEYS, "missing"]) == values
    assert {key: value for key, (value, _) in pymc.gets_many(KEYS).items()} == values
    assert pymc.delete_many(KEYS, noreply=noreply)
    assert pymc.get_many(KEYS) == {}


def test_pymemcache_cas(pymc):
    for key in KEYS[:30]:
        pymc.set(key, b"1", noreply=False)
        _, unique = pymc.gets(key)
        assert pymc.cas(key, b"2", unique) is True
        assert pymc.cas(key, b"3", unique) is False
        assert pymc.cas("missing", b"3", unique) is None


def test_pymemcache_counts(pymc):
    assert pymc.incr("n", 1) is None
    pymc.set("n", b"10")
    pymc.incr("n", 5, noreply=True)
    assert pymc.incr("n", 5) == 20
    assert pymc.decr("n", 21) == 0
    pymc.set("word", b"x")
    with pytest.raises(MemcacheClientError):
        pymc.incr("word", 1)
    assert pymc.get("word") == b"x"


def test_pymemcache_noreply_never_shifts_replies(pymc):
    for number in range(200):
        pymc.set("k", b"%d" % number, noreply=True)
        pymc.add("k", b"no", noreply=True)
        pymc.delete("missing", noreply=True)
        pymc.incr("missing", 1, noreply=True)
        pymc.touch("missing", 1, noreply=True)
        assert pymc.get("k") == b"%d" % number


def test_pymemcache_large_values(pymc):
    values = {key: key.encode() * 100_000 for key in KEYS[:10]}
    assert pymc.set_many(values, noreply=False) == []
    assert pymc.get_many(list(values)) == values
    with pytest.raises(pymemcache.exceptions.MemcacheServerError, match="too large"):
        pymc.set("large", b"x" * 5_000_000, noreply=False)
    assert pymc.get(KEYS[0]) == values[KEYS[0]]


def test_pymemcache_version_and_stats(pymc):
    assert pymc.version().endswith(SUFFIX.encode())
    assert pymc.stats()[b"nutproxy_pool"] == b"alpha"
    assert b"s3:state" in pymc.stats("servers")


def test_pymemcache_pool_in_threads(port):
    pooled = PooledClient((HOST, port), max_pool_size=8, default_noreply=False)
    in_threads(lambda name: work(pooled.set, pooled.get, pooled.get_many, name))
    pooled.close()


# pylibmc


def test_pylibmc_one_key(libmc):
    assert libmc.get("k") is None
    assert libmc.set("k", "v")
    assert libmc.get("k") == "v"
    assert not libmc.add("k", "w")
    assert libmc.replace("k", "w")
    assert libmc.append("k", ">")
    assert libmc.prepend("k", "<")
    assert libmc.get("k") == "<w>"
    assert libmc.touch("k", 100)
    assert libmc.delete("k")
    assert not libmc.delete("k")


def test_pylibmc_many_keys(libmc):
    values = {key: [key, number] for number, key in enumerate(KEYS)}
    assert libmc.set_multi(values) == []
    assert libmc.get_multi([*KEYS, "missing"]) == values
    assert libmc.delete_multi(KEYS)
    assert libmc.get_multi(KEYS) == {}


def test_pylibmc_cas(libmc):
    libmc.behaviors["cas"] = True
    for key in KEYS[:30]:
        libmc.set(key, 1)
        _, unique = libmc.gets(key)
        assert libmc.cas(key, 2, unique)
        assert not libmc.cas(key, 3, unique)
        assert libmc.get(key) == 2


def test_pylibmc_counts(libmc):
    libmc.set("n", 10)
    assert libmc.incr("n") == 11
    assert libmc.decr("n", 5) == 6
    with pytest.raises(pylibmc.NotFound):
        libmc.incr("missing")


def test_pylibmc_large_values(libmc):
    values = {key: key * 20_000 for key in KEYS[:20]}
    for key, value in values.items():
        assert libmc.set(key, value)
        assert libmc.get(key) == value
    assert libmc.get_multi(list(values)) == values
    with pytest.raises(pylibmc.TooBig):
        libmc.set("large", "x" * 5_000_000)
    assert libmc.get(KEYS[0]) == values[KEYS[0]]


# How libmemcached sends and waits. With `_noreply` it sends quiet requests.
BEHAVIORS = {
    "no_block": {"no_block": True},
    "noreply": {"_noreply": True},
    "ketama": {"ketama": True, "remove_failed": 1, "dead_timeout": 10},
    "prefetch": {"_io_key_prefetch": 10, "_io_msg_watermark": 5, "_io_bytes_watermark": 1000},
    "cas": {"cas": True},
}


@pytest.mark.parametrize("name", BEHAVIORS)
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_pylibmc_behaviors(port, binary, name):
    client = libmc_client(port, binary, **BEHAVIORS[name])
    values = {key: key * 100 for key in KEYS}
    for _ in range(3):
        client.set_multi(values)
        for key, value in itertools.islice(values.items(), 20):
            client.set(key, value)
            client.append(key, "+")
            if name != "noreply":
                # libmemcached does not read the errors of quiet requests.
                assert not client.add(key, "no")
                assert not client.delete("missing")
            assert client.get(key) == value + "+"
            client.set(key, value)
        assert client.get_multi([*KEYS, "missing"]) == values
        client.delete_multi(KEYS[::2])
        assert client.get_multi(KEYS) == {key: values[key] for key in KEYS[1::2]}
    client.disconnect_all()


@pytest.mark.parametrize("key", ["with space", "tab\t", "line\nend", "\xff", "x" * 250])
def test_pylibmc_binary_keys(port, key):
    client = libmc_client(port, True)
    assert client.set(key, "v")
    assert client.get(key) == "v"
    assert client.get_multi([key, "missing"]) == {key: "v"}
    assert client.delete(key)
    client.disconnect_all()


def test_pylibmc_binary_counts_from_an_initial_value(port):
    """Its text protocol has no such command. pylibmc does not call it, so this is the reply to an
    increment without one."""
    client = libmc_client(port, True)
    with pytest.raises(pylibmc.NotFound):
        client.incr("n")
    client.set("n", 41)
    assert client.incr("n") == 42
    assert client.incr_multi(["n"], delta=8) is None
    assert client.get("n") == 50
    client.disconnect_all()


def test_pylibmc_binary_statistics(port):
    client = libmc_client(port, True)
    [(_, rows)] = client.get_stats()
    assert rows["version"].endswith(SUFFIX.encode())
    client.disconnect_all()


def test_pylibmc_pool_in_threads(libmc):
    pool = pylibmc.ThreadMappedPool(libmc)

    def user(name):
        with pool.reserve() as client:
            work(client.set, client.get, client.get_multi, name)
        pool.relinquish()

    in_threads(user)


def work(set_one, get_one, get_many, name):
    """Write keys of this thread, and read them back."""
    keys = [f"{name}:{number}" for number in range(100)]
    for key in keys:
        assert set_one(key, key.encode())
        assert get_one(key) == key.encode()
    assert get_many(keys) == {key: key.encode() for key in keys}


def in_threads(user):
    """Run `user(name)` in eight threads. An exception in one of them is raised here."""
    faults = []

    def run(name):
        try:
            user(name)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


# libmemcached's tools


def program(*names):
    """The path of a program. Debian has its own names for some."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"{names[0]} of libmemcached-tools is not installed")


def output(*command, expect=0):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["direct", "proxied"])
def test_memcapable_passes(way, port):
    """Its 27 tests of each protocol."""
    memcapable = program("memcapable", "memccapable")
    with MemcachedServer() as direct:
        lines = output(memcapable, "-h", HOST, "-p", port if way == "proxied" else direct.port)
    passed = re.findall(r"^(ascii|binary) (.*?) +\[pass\]$", lines, re.M)
    assert len(passed) == len(set(passed))
    assert [[kind for kind, _ in passed].count(kind) for kind in ("ascii", "binary")] == [27, 27]


@pytest.mark.parametrize("protocol", ["ascii", "binary"])
def test_tools_of_libmemcached(port, tmp_path, protocol):
    def tool(name, *arguments, expect=0):
        options = [f"--servers={HOST}:{port}", *(["--binary"] if protocol == "binary" else [])]
        path = program(name, name.replace("mem", "memc", 1))
        return output(path, *options, *arguments, expect=expect)

    files = [tmp_path / f"file{number}" for number in range(30)]
    for file in files:
        file.write_text(f"the content of {file.name}" * 100)
    tool("memcp", "--flag=5", *files)
    for file in files:
        assert tool("memcat", file.name) == file.read_text() + "\n"
    assert tool("memcat", "--flag", files[0].name).startswith("5\n")
    tool("memexist", files[0].name)
    tool("memtouch", "--expire=1000", files[0].name)
    tool("memrm", files[0].name)
    tool("memexist", files[0].name, expect=1)
    output(program("memping", "memcping"), f"--servers={HOST}:{port}")
    assert "nutproxy_pool" in tool("memstat")
    tool("memflush")
    tool("memexist", files[1].name, expect=1)
