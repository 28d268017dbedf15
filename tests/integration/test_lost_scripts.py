"""Scripts and functions that a server has lost: nutproxy loads them again."""

import pytest
import redis as redis_py

from tests.client import Client, words
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, pipeline, wait_until

SCRIPT = "return redis.call('incr', KEYS[1])"
LIBRARY = (
    "#!lua name=mine\nredis.register_function('twice', function(keys, args) return 2 * args[1] end)"
)
KEYS = [f"{number}:k" for number in range(30)]


@pytest.fixture
def servers():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        yield [one, two, three]


@pytest.fixture(params=[1, 3], ids=["one server", "three servers"])
def proxied(request, servers):
    """The servers of a pool, and a client of it."""
    chosen = servers[: request.param]
    with NutproxyServer(pool("alpha", chosen)) as proxy, Client(proxy.ports["alpha"]) as client:
        yield chosen, client


def forget(servers):
    for server in servers:
        pipeline(server.port, [("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")])


def test_a_script_that_was_loaded_runs_on_a_server_that_has_lost_it(proxied):
    servers, client = proxied
    sha = client("SCRIPT", "LOAD", SCRIPT)
    for _ in range(2):
        forget(servers)
        for key in KEYS:
            client.send("EVALSHA", sha.decode().upper(), 1, key)
        assert len(set(client.replies(len(KEYS)))) == 1
    assert client("GET", KEYS[0]) == b"2"


def test_so_does_one_that_was_sent_with_eval(proxied):
    servers, client = proxied
    assert client("EVAL", SCRIPT, 1, "k") == 1
    forget(servers)
    sha = redis_py.commands.core.Script(redis_py.Redis(), SCRIPT).sha
    assert client("EVALSHA", sha, 1, "k") == 2
    assert client("EVALSHA_RO", sha, 1, "k")


def test_a_server_that_was_down_at_script_load_gets_it_when_it_is_back(servers):
    with NutproxyServer(pool("alpha", servers)) as proxy, Client(proxy.ports["alpha"]) as client:
        client("MGET", *KEYS)
        servers[1].kill()
        words(client("SCRIPT", "LOAD", SCRIPT))
        servers[1].restart()
        wait_until(lambda: None not in [client("SET", key, 0) for key in KEYS], "it is back")
        sha = pipeline(servers[0].port, [("SCRIPT", "LOAD", SCRIPT)])[0]
        wait_until(lambda: all(client("EVALSHA", sha, 1, key) for key in KEYS), "all have it")


def test_functions_are_loaded_again(proxied):
    servers, client = proxied
    assert client("FUNCTION", "LOAD", LIBRARY) == b"mine"
    forget(servers)
    for number, key in enumerate(KEYS):
        assert client("FCALL", "twice", 1, key, number) == 2 * number
    assert client.error("FCALL", "nosuch", 0) == "ERR Function not found"
    # A library that the servers have refused is not kept.
    other = LIBRARY.replace("2 *", "3 *")
    assert "already exists" in client.error("FUNCTION", "LOAD", other)
    forget(servers)
    assert client("FCALL", "twice", 1, "k", 7) == 14
    assert client("FUNCTION", "LOAD", "REPLACE", other) == b"mine"
    forget(servers)
    assert client("FCALL", "twice", 1, "k", 7) == 21
    # Some servers may not have it any more.
    client("FUNCTION", "DELETE", "mine")
    assert client.error("FCALL", "twice", 1, "k", 7) == "ERR Function not found"


def test_what_was_flushed_or_never_loaded_is_not_found(proxied):
    _, client = proxied
    missing = "NOSCRIPT No matching script. Please use EVAL."
    client("EVAL", "return 1", 0)
    assert client.error("EVALSHA", "0" * 40, 0) == missing
    assert client.error("EVALSHA", "x", 0) == missing
    sha = client("SCRIPT", "LOAD", SCRIPT)
    assert client("SCRIPT", "FLUSH") == b"OK"
    assert client.error("EVALSHA", sha, 1, "k") == missing
    client("FUNCTION", "LOAD", LIBRARY)
    assert client("FUNCTION", "FLUSH") == b"OK"
    assert client.error("FCALL", "twice", 1, "k", 7) == "ERR Function not found"


def test_the_order_of_a_pipeline_is_kept(proxied):
    servers, client = proxied
    sha = client("SCRIPT", "LOAD", "return redis.call('get', KEYS[1])")
    for _ in range(20):
        forget(servers)
        client.pipeline(("SET", "k", 1), ("EVALSHA", sha, 1, "k"), ("GET", "k"), ("PING",))
        assert client.replies(4) == [b"OK", b"1", b"1", b"PONG"]


def test_in_a_transaction_the_error_stays(proxied):
    servers, client = proxied
    sha = client("SCRIPT", "LOAD", SCRIPT)
    forget(servers)
    client.pipeline(("MULTI",), ("EVALSHA", sha, 1, "k"), ("SET", "k", 5), ("EXEC",))
    missing, ok = client.replies(4)[3]
    assert (words(missing)[:8], ok) == ("NOSCRIPT", b"OK")
