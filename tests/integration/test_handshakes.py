"""What client libraries send when they connect, and the replies that they need to go on.

The requests are those of the libraries in their defaults, with the parts that an application may
add, such as a name or a database. `redis_auth` is set, so each library authenticates as it would
with a password in its settings.

Each handshake is replayed in one piece and byte by byte. What a library tolerates is in the table
too: MAINT_NOTIFICATIONS is a command of Redis Cloud, and its error means "no" to every library.
"""

import hiredis
import pytest

from tests.client import Client, request
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer

PASSWORD = "secret"


@pytest.fixture(scope="module")
def port(shards):
    for shard in shards:
        with Client(shard.port) as client:
            client("CONFIG", "SET", "requirepass", PASSWORD)
    with NutproxyServer(pool("alpha", shards, redis_auth=PASSWORD)) as proxy:
        yield proxy.ports["alpha"]


def ok(reply):
    assert reply == b"OK"


def nothing(reply):
    assert reply is None


def number(reply):
    assert isinstance(reply, int)


def same(text):
    def check(reply):
        assert reply == text

    return check


def error(start):
    def check(reply):
        assert isinstance(reply, hiredis.ReplyError), reply
        assert str(reply).startswith(start)

    return check


def hello(version):
    """A map with the fields that libraries read. In RESP2 it is a flat array."""

    def check(reply):
        if version == 2:
            reply = dict(zip(reply[::2], reply[1::2], strict=True))
        assert isinstance(reply, dict), reply
        assert (reply[b"server"], reply[b"proto"]) == (b"redis", version)
        assert (reply[b"mode"], reply[b"role"], reply[b"modules"]) == (b"standalone", b"master", [])
        # go-redis and redis-py compare it with versions of Redis.
        assert all(part.isdigit() for part in reply[b"version"].split(b"."))
        assert isinstance(reply[b"id"], int)

    return check


def fields(*lines):
    """INFO has these lines, and no replica, which valkey-glide would connect to."""

    def check(reply):
        text = reply.decode().removeprefix("txt:").split("\r\n")
        assert set(lines) <= set(text)
        assert not any(line.startswith("slave0:") for line in text)
        assert any(line.startswith("redis_version:") for line in text) or "# Server" not in text

    return check


def documents(reply):
    """COMMAND DOCS, with the help of redis-cli for each command."""
    names = reply if isinstance(reply, dict) else reply[::2]
    assert b"get" in names


NO_CLUSTER = error("ERR This instance has cluster support disabled")
NO_MAINT = error("ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.")
NO_ADMIN = error("NOPERM 'CONFIG GET' is an administration command")
LIB_NAME, LIB_VER = "CLIENT SETINFO LIB-NAME", "CLIENT SETINFO LIB-VER"
MAINT = "CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type"
AUTH = ("AUTH secret", ok)
SELECT = ("SELECT 0", ok)

HANDSHAKES = {
    "redis-py 8.1, RESP3": [
        ("HELLO 3 AUTH default secret", hello(3)),
        (f"{MAINT} internal-fqdn", NO_MAINT),
        ("CLIENT SETNAME app", ok),
        (f"{LIB_NAME} redis-py", ok),
        (f"{LIB_VER} 8.1.0", ok),
        SELECT,
    ],
    "redis-py 8.1, RESP2": [
        AUTH,
        ("CLIENT SETNAME app", ok),
        (f"{LIB_NAME} redis-py", ok),
        (f"{LIB_VER} 8.1.0", ok),
        SELECT,
    ],
    "valkey-py 6.2": [AUTH, (f"{LIB_NAME} valkey-py", ok), (f"{LIB_VER} 6.2.0", ok)],
    "coredis 6.9": [("HELLO 3 AUTH default secret", hello(3))],
    "node-redis 6": [
        ("HELLO 3 AUTH default secret SETNAME app", hello(3)),
        SELECT,
        (f"{LIB_VER} 6.3.1", ok),
        (f"{LIB_NAME} node-redis", ok),
        (f"{MAINT} external-ip", NO_MAINT),
    ],
    "node-redis 5": [
        AUTH,
        ("CLIENT SETNAME app", ok),
        SELECT,
        (f"{LIB_VER} 5.8.0", ok),
        (f"{LIB_NAME} node-redis", ok),
    ],
    # The ready check needs INFO without an error, and loading:0.
    "ioredis 6": [
        ("hello 3 AUTH default secret", hello(3)),
        ("select 0", ok),
        ("client setname app", ok),
        ("client SETINFO LIB-VER 6.0.0", ok),
        ("client SETINFO LIB-NAME ioredis", ok),
        ("info", fields("loading:0", "role:master", "redis_mode:standalone")),
    ],
    "ioredis 5": [
        ("auth secret", ok),
        ("select 0", ok),
        ("client setname app", ok),
        ("client SETINFO LIB-VER 5.7.0", ok),
        ("client SETINFO LIB-NAME ioredis", ok),
        ("info", fields("loading:0", "role:master")),
    ],
    "iovalkey 0.4": [("auth secret", ok), ("info", fields("loading:0", "role:master"))],
    "ioredis, Cluster": [
        ("auth secret", ok),
        ("client setname ioredis-cluster(refresher)", ok),
        ("cluster SLOTS", NO_CLUSTER),
    ],
    "jedis 7": [
        ("HELLO 3 AUTH default secret", hello(3)),
        ("CLIENT SETNAME app", ok),
        ("CLIENT SETINFO LIB-NAME jedis", ok),
        ("CLIENT SETINFO LIB-VER 7.0.0", ok),
        SELECT,
    ],
    "jedis, legacy": [
        AUTH,
        ("CLIENT SETINFO LIB-NAME jedis", ok),
        ("CLIENT SETINFO LIB-VER 5.2.0", ok),
        SELECT,
    ],
    "lettuce 7, RESP3": [
        ("HELLO 3 AUTH default secret SETNAME app", hello(3)),
        SELECT,
        ("CLIENT SETINFO lib-name Lettuce", ok),
        ("CLIENT SETINFO lib-ver 7.0.0", ok),
        ("CLIENT MAINT_NOTIFICATIONS on", NO_MAINT),
    ],
    "lettuce 7, RESP2": [
        AUTH,
        SELECT,
        ("CLIENT SETNAME app", ok),
        ("CLIENT SETINFO lib-name Lettuce", ok),
        ("CLIENT SETINFO lib-ver 7.0.0", ok),
        ("PING", same(b"PONG")),
    ],
    "go-redis 9": [
        ("hello 3 auth default secret setname app", hello(3)),
        ("select 0", ok),
        ("client setname app", ok),
        ("client maint_notifications on moving-endpoint-type external-ip", error("ERR unknown")),
        ("client setinfo LIB-NAME go-redis(,go1.25)", ok),
        ("client setinfo LIB-VER 9.14.0", ok),
    ],
    # Only the last request must have a reply that is not an error. Its subscription to
    # __Booksleeve_MasterChanged is in a test of its own below.
    **{
        f"StackExchange.Redis, RESP{version}": [
            AUTH,
            (f"HELLO {version}", hello(version)),
            ("CLIENT SETNAME app", ok),
            ("CLIENT SETINFO lib-name SE.Redis", ok),
            ("CLIENT SETINFO lib-ver 2.9.0", ok),
            ("CLIENT ID", number),
            ("CONFIG GET timeout", NO_ADMIN),
            ("CONFIG GET replica-read-only", NO_ADMIN),
            ("CONFIG GET databases", NO_ADMIN),
            ("INFO replication", fields("role:master")),
            ("INFO server", fields("redis_mode:standalone")),
            ("CLUSTER NODES", NO_CLUSTER),
            ("GET __Booksleeve_TieBreak", nothing),
            ("ECHO tracer", same(b"tracer")),
        ]
        for version in (2, 3)
    },
    "redis-rs, RESP3": [
        ("HELLO 3 AUTH default secret", hello(3)),
        SELECT,
        (f"{LIB_NAME} redis-rs", ok),
        (f"{LIB_VER} 1.0.0", ok),
    ],
    "redis-rs, RESP2": [AUTH, SELECT, (f"{LIB_NAME} redis-rs", ok), (f"{LIB_VER} 1.0.0", ok)],
    "valkey-glide 2": [
        ("HELLO 3 AUTH default secret SETNAME app", hello(3)),
        (f"{LIB_NAME} GlidePy", ok),
        (f"{LIB_VER} 2.6.0", ok),
        ("INFO REPLICATION", fields("role:master", "connected_slaves:0")),
    ],
    "valkey-glide 2, cluster": [
        ("HELLO 3 AUTH default secret", hello(3)),
        ("PING", same(b"PONG")),
        ("CLIENT SETNAME glide_management_connection", ok),
        ("CLUSTER SLOTS", NO_CLUSTER),
    ],
    "phpredis 6": [AUTH, SELECT],
    "phpredis 6, pooled": [AUTH, ("ECHO 5f1c", same(b"5f1c"))],
    **{
        f"predis 3, RESP{version}": [
            (f"HELLO {version} AUTH default secret SETNAME predis", hello(version)),
            (f"{LIB_NAME} predis", ok),
            (f"{LIB_VER} 3.0.0", ok),
            SELECT,
        ]
        for version in (2, 3)
    },
    "redis-cli": [AUTH, SELECT, ("HELLO 3", hello(3)), ("COMMAND DOCS", documents)],
    "Valkey's redirects": [AUTH, ("CLIENT CAPA redirect", ok)],
}


@pytest.mark.parametrize("pieces", ["one piece", "single bytes", "one by one"])
@pytest.mark.parametrize("library", HANDSHAKES)
def test_handshake_gets_the_replies_that_the_library_needs(port, library, pieces):
    steps = HANDSHAKES[library]
    packed = [request(*words.split()) for words, _ in steps]
    with Client(port) as client:
        if pieces == "one piece":
            client.send_bytes(b"".join(packed))
        elif pieces == "single bytes":
            for byte in b"".join(packed):
                client.send_bytes(bytes([byte]))
        for data, (_, check) in zip(packed, steps, strict=True):
            if pieces == "one by one":
                client.send_bytes(data)
            check(client.reply())
        # The connection is usable, and no reply is left over.
        client("SET", "key", library)
        assert client("GET", "key") == library.encode()


MASTER_CHANGED = b"__Booksleeve_MasterChanged"


@pytest.mark.parametrize("pieces", ["one piece", "single bytes"])
@pytest.mark.parametrize("version", [2, 3])
def test_stackexchange_redis_is_told_of_another_master(port, version, pieces):
    """In RESP2 it subscribes on a second connection, in RESP3 on the one for its commands. It keeps
    the connection alive with PING, whose reply in RESP2 looks like a message."""
    steps = HANDSHAKES[f"StackExchange.Redis, RESP{version}"]
    if version == 2:
        steps = [*steps[:6], steps[-1]]
    packed = [request(*words.split()) for words, _ in steps]
    packed += [request("SUBSCRIBE", MASTER_CHANGED), request("PING")]
    with Client(port) as client, Client(port) as other:
        for data in packed if pieces == "one piece" else b"".join(packed):
            client.send_bytes(data if isinstance(data, bytes) else bytes([data]))
        for _, check in steps:
            check(client.reply())
        assert pushed(client.reply(), version) == [b"subscribe", MASTER_CHANGED, 1]
        same([b"pong", b""] if version == 2 else b"PONG")(client.reply())
        assert other("AUTH", PASSWORD) == b"OK"
        assert other("PUBLISH", MASTER_CHANGED, "127.0.0.1:6379") == 1
        message = [b"message", MASTER_CHANGED, b"127.0.0.1:6379"]
        assert pushed(client.reply(), version) == message
        if version == 3:
            client("SET", "key", "value")
            client.send("GET", "key")
            assert other("PUBLISH", MASTER_CHANGED, "127.0.0.1:6379") == 1
            replies = client.replies(2)
            assert b"value" in replies
            assert message in replies
        client.send("UNSUBSCRIBE", MASTER_CHANGED)
        assert pushed(client.reply(), version) == [b"unsubscribe", MASTER_CHANGED, 0]
        assert client("GET", "none") is None


def pushed(reply, version):
    assert isinstance(reply, hiredis.PushNotification) == (version == 3)
    return reply


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("HELLO 4", "NOPROTO unsupported protocol version"),
        ("HELLO 3 AUTH default wrong", "WRONGPASS invalid username-password pair or user is"),
        ("HELLO 3", "NOAUTH HELLO must be called with the client already authenticated"),
        ("AUTH wrong", "ERR invalid password"),
        ("AUTH default wrong", "WRONGPASS invalid username-password pair or user is disabled."),
        ("PING", "NOAUTH Authentication required."),
    ],
)
def test_refused_handshake_can_be_tried_again(port, words, refusal):
    """Libraries fall back to RESP2 after NOPROTO, and try AUTH after NOAUTH."""
    with Client(port) as client:
        assert client.error(*words.split()).startswith(refusal)
        assert client("AUTH", PASSWORD) == b"OK"
        assert client("PING") == b"PONG"


def test_hello_without_a_password_is_enough_for_a_pool_without_one():
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        hello(3)(client("HELLO", "3"))
        assert client.error("AUTH", "x").startswith("ERR Client sent AUTH, but no password is set")
