"""Subscriptions. A client of a pool gets what a client of one Redis gets, whatever server a channel
is on, and however many clients share the connection to it."""

import contextlib
import hashlib
import itertools
import socket

import pytest

from tests.client import Client, request, words
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, wait_until


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as redis:
        yield redis


@pytest.fixture(scope="module")
def backends():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three, RedisServer() as four:
        yield [one, two, three, four]


@pytest.fixture(scope="module")
def proxy(backends):
    with NutproxyServer(pool("one", backends[:1]) + pool("three", backends[1:])) as proxy:
        yield proxy


@pytest.fixture(params=["one", "three"])
def port(proxy, request):
    return proxy.ports[request.param]


def spread(count, salt=""):
    """The names of channels, which are on all servers of a pool."""
    return [hashlib.md5(b"%d%b" % (n, salt.encode())).hexdigest()[:8] for n in range(count)]


# Byte for byte -----------------------------------------------------------------------------------

# Each line: a client, and what it sends. `s` and `t` subscribe, `p` publishes.
DIALOGUES = {
    "channels": """
        s SUBSCRIBE a b
        p PUBLISH a hi
        p PUBLISH c nobody
        t SUBSCRIBE b b c
        p PUBLISH b 1
        p PUBLISH c 2
        s SUBSCRIBE a
        s UNSUBSCRIBE b
        p PUBLISH b 3
        s UNSUBSCRIBE a x
        s GET k
        p PUBLISH a gone
        t UNSUBSCRIBE b c
        p PUBLISH b gone""",
    "patterns": """
        s PSUBSCRIBE a*
        t PSUBSCRIBE a?
        p PUBLISH a 1
        p PUBLISH ab 2
        s SUBSCRIBE ab
        p PUBLISH ab 3
        p PUBLISH b nobody
        s PUNSUBSCRIBE a*
        p PUBLISH abc nobody
        p PUBLISH ab 4
        s PUNSUBSCRIBE
        s PUNSUBSCRIBE x
        s UNSUBSCRIBE
        s UNSUBSCRIBE
        s GET k""",
    "shard channels": """
        s SSUBSCRIBE a b
        t SUBSCRIBE a
        p SPUBLISH a 1
        p PUBLISH a 2
        s SUBSCRIBE a
        s SUNSUBSCRIBE a
        p SPUBLISH a 3
        p SPUBLISH b 4
        s UNSUBSCRIBE a
        s GET k
        s SUNSUBSCRIBE
        s SUNSUBSCRIBE
        s GET k""",
    "the subscribed state": """
        s SUBSCRIBE a
        s PING
        s PING hi
        s PING a b
        s GET k
        s get
        s OBJECT ENCODING k
        s nosuch
        s HELLO 3
        s MULTI
        s EXEC
        s EXEC x
        s DISCARD
        s PUBLISH a x
        s SUBSCRIBE
        s CLIENT ID
        s AUTH x
        s RESET
        s GET k
        p PUBLISH a nobody
        s UNSUBSCRIBE""",
    "names": """
        s SUBSCRIBE {tag}.1 {tag}.2
        s SUBSCRIBE \x01\xff
        p PUBLISH {tag}.1 \x00\xfe
        p PUBLISH \x01\xff x
        s UNSUBSCRIBE {tag}.1 {tag}.2 \x01\xff""",
    "transactions": """
        t SUBSCRIBE a b x
        s MULTI | SUBSCRIBE a | EXEC
        p PUBLISH a 1
        s RESET
        s MULTI | SET {a}k v | SUBSCRIBE b | PSUBSCRIBE x* | UNSUBSCRIBE b | GET {a}k | EXEC
        p PUBLISH b 2
        p PUBLISH x 3
        s RESET
        s MULTI | PING | SUBSCRIBE a | PING | PING hi | GET {a}k | EXEC
        s RESET
        s MULTI | SUBSCRIBE a | PING | UNSUBSCRIBE a | PING | EXEC
        s MULTI | SUBSCRIBE | EXEC
        s MULTI | SUBSCRIBE a | DISCARD
        s WATCH {a}k
        s MULTI | SSUBSCRIBE a | PSUBSCRIBE a | GET {a}k | EXEC
        p SPUBLISH a 4
        s RESET
        s WATCH {a}k
        p SET {a}k other
        s MULTI | SUBSCRIBE a | EXEC
        p PUBLISH a 5
        p MULTI | PUBLISH nobody 1 | EXEC
        s MULTI | UNSUBSCRIBE | EXEC
        s GET {a}k
        p DEL {a}k""",
    "replies that are off": """
        s CLIENT REPLY SKIP | SUBSCRIBE a
        p PUBLISH a 1
        s CLIENT REPLY ON
        s RESET
        s CLIENT REPLY SKIP | SSUBSCRIBE b | SUNSUBSCRIBE b
        t CLIENT REPLY OFF | SUBSCRIBE a | UNSUBSCRIBE a | SUBSCRIBE b | GET k | RESET
        t CLIENT REPLY OFF | MULTI | SUBSCRIBE a | EXEC | RESET
        t CLIENT REPLY OFF | MULTI | GET a | PSUBSCRIBE a | UNSUBSCRIBE | EXEC | RESET
        t CLIENT REPLY OFF | MULTI | UNSUBSCRIBE x | PING | EXEC | CLIENT REPLY ON
        t CLIENT REPLY OFF | MULTI | PING | GET a | EXEC | CLIENT REPLY ON""",
    "PUBSUB": """
        s SUBSCRIBE a
        t PSUBSCRIBE x* y*
        p PSUBSCRIBE x*
        p PUNSUBSCRIBE x*
        p PUBSUB CHANNELS
        p PUBSUB CHANNELS b*
        p PUBSUB CHANNELS a b
        p PUBSUB NUMSUB
        p PUBSUB NUMSUB a b a
        p PUBSUB NUMPAT
        p PUBSUB SHARDCHANNELS
        p PUBSUB SHARDNUMSUB a
        t SSUBSCRIBE a
        p PUBSUB SHARDCHANNELS a*
        p PUBSUB SHARDNUMSUB a b
        p PUBSUB HELP
        p PUBSUB NUMPAT x
        p PUBSUB nosuch
        p PUBSUB
        s RESET
        p PUBSUB CHANNELS
        p PUBSUB NUMSUB a
        t RESET
        p PUBSUB NUMPAT""",
}


class Talk:
    """A dialogue with a server. After each step every client is asked to say where it is."""

    def __init__(self, address, resp):
        self.clients = {name: Client(address) for name in "stp"}
        self.marks = itertools.count()
        self.before = {}
        for client in self.clients.values():
            if resp == 3:
                client("HELLO", 3)

    def close(self):
        for client in self.clients.values():
            client.socket.close()

    def send(self, line):
        """`client command`, or several commands at once: `client command | command`."""
        name, _, commands = line.partition(" ")
        self.clients[name].send_bytes(
            b"".join(
                request(*[word.encode("latin-1") for word in command.split()])
                for command in commands.split(" | ")
            )
        )

    def received(self, expected=None):
        """What each client has received: as many bytes as `expected`, and all before a mark."""
        found = {}
        for name, client in self.clients.items():
            data = b""
            while expected is not None and len(data) < len(expected[name]):
                part = client.socket.recv(len(expected[name]) - len(data))
                assert part
                data += part
            mark = b"mark%d" % next(self.marks)
            client.send("PING", mark)
            while not data.endswith(mark + b"\r\n"):
                part = client.socket.recv(65536)
                assert part
                data += part
            for before in (b"*2\r\n$4\r\npong\r\n", b""):
                tail = b"%b$%d\r\n%b\r\n" % (before, len(mark), mark)
                if data.endswith(tail):
                    found[name] = data[: -len(tail)]
                    break
        return found


@pytest.mark.parametrize(
    ("dialogue", "resp"),
    [
        (dialogue, resp)
        for dialogue in DIALOGUES
        for resp in (2, 3)
        # In RESP3 there is no such state.
        if (dialogue, resp) != ("the subscribed state", 3)
    ],
)
def test_a_dialogue_is_byte_for_byte_that_of_redis(redis, port, dialogue, resp):
    theirs, ours = Talk(redis.port, resp), Talk(port, resp)
    try:
        for line in DIALOGUES[dialogue].strip().splitlines():
            theirs.send(line.strip())
            expected = theirs.received()
            ours.send(line.strip())
            assert (line, ours.received(expected)) == (line, expected)
    finally:
        theirs.close()
        ours.close()


SPLIT = (
    b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*2\r\n$4\r\nPING\r\n$1\r\nx\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\na*\r\n",
    b"*2\r\n$11\r\nUNSUBSCRIBE\r\n$1\r\na\r\n",
    b"*2\r\n$10\r\nSSUBSCRIBE\r\n$1\r\na\r\n",
    b"*1\r\n$5\r\nRESET\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nQUIT\r\n",
)


def test_a_conversation_at_every_split(redis, port):
    data = b"".join(SPLIT)

    def replies(address, at):
        with Client(address) as client:
            client.send_bytes(data[:at])
            client.send_bytes(data[at:])
            found = b""
            while part := client.socket.recv(65536):
                found += part
            return found

    expected = replies(redis.port, 0)
    for at in range(0, len(data), 3):
        assert replies(port, at) == expected, at


# Redis' patterns ---------------------------------------------------------------------------------

PATTERNS = (
    *("", "*", "**", "?", "a", "a*", "*a", "a?", "?*", "*?", "a**b", "a*b*c", "*a*", "[a]", "[^a]"),
    *("[a-c]", "[c-a]", "[^a-c]x", "[a", "[", "[^", "[]", "[]a]", "[a-", "[a-]", "[-a]", "[\\]]"),
    *("[\\", "\\", "a\\", "\\*", "\\a", "[a\\-c]", "*[ab]*c", "a[bc]*[de]", "[\xff-a]", "[a-\xff]"),
    *("a*****b", "*.*.*", "?[^x]?", "x*[^", "*\\", "[*]", "[?]*"),
)
TEXTS = (
    *("", "a", "b", "ab", "abc", "aXb", "aXbYc", "a*b", "*", "?", "[", "]", "\\", "-", "^", "a-c"),
    *("ac", "xa", "bx", "cx", "acd", "abXe", "\xff", "\x80", "z", "a.b.c", "x", "x^", "a\\", "]a"),
)


def test_patterns_match_what_they_match_in_redis(redis, proxy):
    """PUBLISH counts the clients whose patterns match, and only nutproxy knows them."""
    port = proxy.ports["one"]

    def counts(address):
        with Client(address) as client, Client(address) as other, Client(address) as publisher:
            found = {}
            for pattern in PATTERNS:
                for one in (client, other):
                    one.send("PSUBSCRIBE", pattern.encode("latin-1"))
                    one.reply()
                publisher.pipeline(*[("PUBLISH", text.encode("latin-1"), "x") for text in TEXTS])
                replies = publisher.replies(len(TEXTS))
                found |= {(pattern, text): n for text, n in zip(TEXTS, replies, strict=True)}
                for one in (client, other):
                    one.send("PUNSUBSCRIBE")
                    while one.reply()[0] != b"punsubscribe":
                        pass
            return found

    assert counts(port) == counts(redis.port)


# Order, and other replies ------------------------------------------------------------------------


def test_publishers_and_subscribers_meet_on_whatever_server(proxy):
    port = proxy.ports["three"]
    channels = spread(100)
    with Client(port) as client, Client(port) as other:
        client.send("SUBSCRIBE", *channels)
        assert [reply[2] for reply in client.replies(100)] == [*range(1, 101)]
        for name in channels:
            assert other("PUBLISH", name, name) == 1
        found = [client.reply() for _ in channels]
        assert sorted(found) == sorted([b"message", *[name.encode()] * 2] for name in channels)


def test_a_script_publishes_on_the_server_of_its_keys(proxy):
    """So its channels need the hash tag of the keys. Patterns are on all servers."""
    script = "return redis.call('PUBLISH', ARGV[1], 'x')"
    with Client(proxy.ports["three"]) as client, Client(proxy.ports["three"]) as other:
        tags = spread(20)
        tagged = [f"{{{tag}}}:news" for tag in tags]
        client.send("SUBSCRIBE", *tagged)
        client.replies(20)
        client.send("PSUBSCRIBE", "scripts:*")
        client.reply()
        for tag, channel in zip(tags, tagged, strict=True):
            assert other("EVAL", script, 1, f"{{{tag}}}:key", channel) == 1
            assert client.reply() == [b"message", channel.encode(), b"x"]
            assert other("EVAL", script, 1, f"{{{tag}}}:key", "scripts:y") == 1
            assert client.reply() == [b"pmessage", b"scripts:*", b"scripts:y", b"x"]


def test_many_clients_get_every_message_in_order(port):
    clients = [Client(port) for _ in range(50)]
    try:
        for client in clients:
            client.send("SUBSCRIBE", "busy")
        for client in clients:
            assert client.reply() == [b"subscribe", b"busy", 1]
        with Client(port) as publisher:
            publisher.pipeline(*[("PUBLISH", "busy", number) for number in range(2000)])
            assert publisher.replies(2000) == [50] * 2000
        for client in clients:
            for number in range(2000):
                assert client.reply() == [b"message", b"busy", b"%d" % number]
    finally:
        for client in clients:
            client.socket.close()


def test_one_connection_to_a_server_carries_all_subscriptions(proxy, backends):
    port = proxy.ports["one"]
    clients = [Client(port) for _ in range(20)]
    with Client(backends[0].port) as control:
        try:
            for number, client in enumerate(clients):
                client.send("SUBSCRIBE", "shared", f"own:{number}")
                assert len(client.replies(2)) == 2
            lines = control("CLIENT", "LIST", "TYPE", "pubsub").splitlines()
            assert [b" sub=21 " in line for line in lines] == [True]
            assert control("PUBSUB", "NUMSUB", "shared") == [b"shared", 1]
            # A client that subscribes at the server itself counts, too.
            with Client(backends[0].port) as direct, Client(port) as publisher:
                assert publisher("PUBLISH", "shared", "x") == 20
                direct("SUBSCRIBE", "shared")
                assert publisher("PUBLISH", "shared", "x") == 21
                assert publisher("PUBSUB", "NUMSUB", "shared") == [b"shared", 21]
        finally:
            for client in clients:
                client.socket.close()
        wait_until(lambda: control("PUBSUB", "CHANNELS") == [], "the end of all subscriptions")


def test_a_client_that_waits_gets_messages_before_its_reply(port):
    with Client(port) as client, Client(port) as publisher:
        client("HELLO", 3)
        client.send("SUBSCRIBE", "a")
        client.reply()
        client.pipeline(("SET", "other", "v"), ("BLPOP", "waits", 0), ("GET", "other"))
        assert client.reply() == b"OK"
        for number in range(10):
            assert publisher("PUBLISH", "a", number) == 1
            assert client.reply() == [b"message", b"a", b"%d" % number]
        publisher("RPUSH", "waits", "v")
        assert client.replies(2) == [[b"waits", b"v"], b"v"]
        publisher("PUBLISH", "a", "after")
        assert client.reply() == [b"message", b"a", b"after"]


def test_messages_stand_between_whole_replies(port):
    """However the writes fall: large replies, and messages that come all the time."""
    with Client(port) as client, Client(port) as publisher:
        value = b"v" * 300_000
        publisher("SET", "large", value)
        client("HELLO", 3)
        client.send("SUBSCRIBE", "a")
        client.reply()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        for _ in range(20):
            client.pipeline(*[("GET", "large")] * 3)
            publisher.pipeline(*[("PUBLISH", "a", "x" * 3000)] * 20)
        publisher.replies(400)
        found = client.replies(460)
        assert found.count(value) == 60
        assert found.count([b"message", b"a", b"x" * 3000]) == 400


def test_a_server_that_is_down_refuses_the_whole_command():
    with contextlib.ExitStack() as stack:
        one, two = stack.enter_context(RedisServer()), stack.enter_context(RedisServer())
        p = stack.enter_context(NutproxyServer(pool("alpha", [one, two])))
        with Client(p.port) as client, Client(p.port) as other:
            client.send("SUBSCRIBE", *spread(20))
            client.replies(20)
            two.kill()
            error = words(other("SUBSCRIBE", *spread(20, "other")))
            assert "server 's2' of pool 'alpha'" in error
            # Nothing of it is subscribed.
            assert other("PING") == b"PONG"
            with Client(one.port) as control:
                wait_until(
                    lambda: not set(control("PUBSUB", "CHANNELS")) & set(spread(20, "other"))
                )
            # Patterns are subscribed on the servers that are up.
            other.send("PSUBSCRIBE", "*")
            assert other.reply() == [b"psubscribe", b"*", 1]
            two.restart()
            with Client(two.port) as control:
                wait_until(lambda: control("PUBSUB", "NUMPAT") == 1)
                wait_until(lambda: control("PUBSUB", "CHANNELS"))
            assert client("PING") == [b"pong", b""]
            for name in spread(20):
                with Client(p.port) as publisher:
                    assert publisher("PUBLISH", name, "x") == 2
                assert client.reply() == [b"message", name.encode(), b"x"]


# Slow clients, and memory ------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_closed_and_the_others_notice_nothing():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        text = pool("alpha", [server], client_max_pending="1mb")
        proxy = stack.enter_context(NutproxyServer(text))
        slow, fast, publisher = (stack.enter_context(Client(proxy.port)) for _ in range(3))
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for client in (slow, fast):
            client.send("SUBSCRIBE", "a")
            client.reply()
        value = b"x" * 50000
        count = 0
        while publisher("PUBLISH", "a", value) == 2:
            assert fast.reply() == [b"message", b"a", value]
            count += 1
            assert count < 1000
        assert fast.reply() == [b"message", b"a", value]
        shown = proxy.stats()["alpha"]
        assert (shown["slow_subscribers"], shown["subscriptions"]) == (1, 1)
        assert publisher("PUBSUB", "NUMSUB", "a") == [b"a", 1]
        assert fast("PING") == [b"pong", b""]


def test_subscriptions_of_clients_that_have_gone_are_given_back(proxy, backends):
    port = proxy.ports["three"]
    for _ in range(3):
        with Client(port) as client, Client(port) as other:
            for one in (client, other):
                one.send("SUBSCRIBE", *spread(3000))
                assert one.replies(3000)[-1][2] == 3000
            other.send("UNSUBSCRIBE")
            assert other.replies(3000)[-1][2] == 0
            client("RESET")
            client.send("PSUBSCRIBE", "*")
            assert client.reply() == [b"psubscribe", b"*", 1]
    wait_until(lambda: proxy.stats()["three"]["subscriptions"] == 0)
    for server in backends[1:]:
        with Client(server.port) as control:
            wait_until(lambda control=control: control("PUBSUB", "CHANNELS") == [])
            wait_until(lambda control=control: control("PUBSUB", "NUMPAT") == 0)


@pytest.mark.parametrize("resp", [2, 3])
def test_a_client_that_has_quit_is_no_receiver_even_if_it_does_not_close(port, resp):
    with Client(port) as client, Client(port) as other:
        client("HELLO", resp)
        client.pipeline(("SUBSCRIBE", "a"), ("PSUBSCRIBE", "x*"), ("QUIT",))
        assert len(client.replies(3)) == 3
        assert client.closed()
        assert other("PUBLISH", "a", "m") == 0
        assert other("PUBSUB", "NUMSUB", "a") == [b"a", 0]
        assert other("PUBSUB", "NUMPAT") == 0


# What a client does about its subscriptions, and the numbers afterwards, in the order of NUMBERS.
CHANGES = {
    "unsubscribe": (lambda client: client("UNSUBSCRIBE", "a"), (3, 2, 1, 2, 2)),
    "punsubscribe": (lambda client: client("PUNSUBSCRIBE", "[a]"), (3, 2, 2, 2, 1)),
    "sunsubscribe": (lambda client: client("SUNSUBSCRIBE", "a"), (4, 1, 2, 1, 2)),
    "reset": (lambda client: client("RESET"), (2, 1, 1, 1, 1)),
    "close": (lambda client: client.socket.close(), (2, 1, 1, 1, 1)),
    "others": (lambda client: client.send("SUBSCRIBE", "b", "c"), (4, 2, 2, 2, 2)),
}
NUMBERS = (
    (("PUBLISH", "a", "m"), "publish"),
    (("SPUBLISH", "a", "m"), "spublish"),
    (("PUBSUB", "NUMSUB", "a"), "pubsub|numsub"),
    (("PUBSUB", "SHARDNUMSUB", "a"), "pubsub|shardnumsub"),
    (("PUBSUB", "NUMPAT"), "pubsub|numpat"),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", range(len(NUMBERS)))
def test_receivers_are_counted_exactly_while_subscriptions_change(backends, proxy, change, place):
    """The server stands still meanwhile, so that it gets the change and the question together."""
    server, port = backends[0], proxy.ports["one"]
    question, name = NUMBERS[place]
    make, numbers = CHANGES[change]
    with contextlib.ExitStack() as stack:
        direct, client, stays, asking, looking = (
            stack.enter_context(Client(each)) for each in (server.port, *[port] * 4)
        )
        for each, patterns in ((direct, ()), (client, ["[a]"]), (stays, ["a*"])):
            for pattern in patterns:
                each("PSUBSCRIBE", pattern)
        for each in (direct, client):
            each("SUBSCRIBE", "a")
            each("SSUBSCRIBE", "a")
        asking("PING")
        server.stop()
        stack.callback(server.cont)
        make(client)
        if change == "close":
            wait_until(lambda: looking("CLIENT", "LIST").count(b"\n") == 3)
        asking.send(*question)
        wait_until(lambda: f"cmd={name} " in looking("CLIENT", "LIST").decode())
        server.cont()
        reply = asking.reply()
        assert (reply if isinstance(reply, int) else reply[1]) == numbers[place]


def test_a_publisher_need_not_stay_for_its_reply(backends, proxy):
    """Its message is sent, although it waits for an UNSUBSCRIBE of somebody else."""
    server, port = backends[0], proxy.ports["one"]
    with Client(port) as client, Client(port) as stays, Client(port) as looking:
        client("SUBSCRIBE", "a")
        stays("PSUBSCRIBE", "a*")
        server.stop()
        try:
            client("UNSUBSCRIBE", "a")
            with Client(port) as publisher:
                publisher.send("PUBLISH", "a", "m")
                wait_until(lambda: "cmd=publish " in looking("CLIENT", "LIST").decode())
        finally:
            server.cont()
        assert stays.reply() == [b"pmessage", b"a*", b"a", b"m"]


def test_a_publisher_waits_no_longer_than_for_a_reply():
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server], timeout=200)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as publisher,
    ):
        client("SUBSCRIBE", "a")
        server.stop()
        client("UNSUBSCRIBE", "a")
        words(publisher("PUBLISH", "a", "m"))
        server.cont()
        wait_until(lambda: publisher("PUBLISH", "a", "m") == 0)


def test_more_subscriptions_than_a_pool_allows_are_refused():
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        text = pool("alpha", [server], max_subscriptions=10) + pool(
            "beta", [server], client_max_pending="64kb"
        )
        proxy = stack.enter_context(NutproxyServer(text))
        client, other = (stack.enter_context(Client(proxy.ports["alpha"])) for _ in range(2))
        client.send("SUBSCRIBE", *spread(8))
        client.replies(8)
        assert (
            words(other("SUBSCRIBE", *spread(3)))
            == "ERR the clients of this pool may have 10 subscriptions together"
        )
        other.send("SUBSCRIBE", *spread(2))
        assert other.replies(2)[1][2] == 2
        client = stack.enter_context(Client(proxy.ports["beta"]))
        assert (
            words(client("SUBSCRIBE", *spread(300)))
            == "ERR the subscriptions of a client may have 65536 bytes"
        )
        assert words(client("SUBSCRIBE", *["x"] * 8192)).startswith("ERR 'SUBSCRIBE' has 8193")
        assert client("PING") == b"PONG"


# Servers that go and come ------------------------------------------------------------------------


@pytest.fixture
def three():
    with RedisServer() as one, RedisServer() as two, RedisServer() as three:
        yield [one, two, three]


def test_notifications_of_keys_come_from_all_servers(proxy, backends):
    port = proxy.ports["three"]
    for server in backends[1:]:
        with Client(server.port) as control:
            control("CONFIG", "SET", "notify-keyspace-events", "KEA")
    keys = spread(30)
    with Client(port) as client, Client(port) as other, Client(port) as writer:
        client.send("SUBSCRIBE", "__keyevent@0__:set")
        client.reply()
        other.send("PSUBSCRIBE", "__keyspace@0__:*")
        other.reply()
        for key in keys:
            writer("SET", key, "v")
        found = [client.reply() for _ in keys]
        assert sorted(each[2].decode() for each in found) == sorted(keys)
        found = [other.reply() for _ in keys]
        assert sorted(each[2].decode()[15:] for each in found) == sorted(keys)
    for server in backends[1:]:
        with Client(server.port) as control:
            control("CONFIG", "SET", "notify-keyspace-events", "")


def test_clients_of_a_server_that_returns_get_its_messages_again(three):
    with (
        NutproxyServer(pool("alpha", three)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as publisher,
    ):
        names = spread(20)
        client.send("SUBSCRIBE", *names)
        client.replies(20)
        three[1].kill()
        wait_until(
            lambda: proxy.stats()["alpha"]["s2"]["subscription_gaps"] == 1, "a gap is counted"
        )
        assert client("PING") == [b"pong", b""]
        three[1].restart()
        with Client(three[1].port) as control:
            wait_until(lambda: control("PUBSUB", "CHANNELS"))
        for name in names:
            assert publisher("PUBLISH", name, "x") == 1
            assert client.reply() == [b"message", name.encode(), b"x"]


def test_subscribe_gap_close_ends_the_clients_of_that_server_alone(three):
    with (
        NutproxyServer(pool("alpha", three, subscribe_gap="close")) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = {}
        for name in spread(20):
            clients[name] = client = stack.enter_context(Client(proxy.port))
            client.send("SUBSCRIBE", name)
            client.reply()
        with Client(three[1].port) as control:
            on_it = {name.decode() for name in control("PUBSUB", "CHANNELS")}
        assert 0 < len(on_it) < 20
        three[1].kill()
        for name, client in clients.items():
            if name in on_it:
                assert client.closed()
            else:
                assert client("PING") == [b"pong", b""]


def places(servers):
    """The channels of each server."""
    found = []
    for server in servers:
        with Client(server.port) as control:
            found.append(set(control("PUBSUB", "CHANNELS")))
    return found


def test_channels_move_with_the_ring(three):
    options = {"auto_eject_hosts": "true", "server_failure_limit": 1, "server_retry_timeout": 100}
    with (
        NutproxyServer(pool("alpha", three, **options)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as publisher,
    ):
        names = spread(20)
        client.send("SUBSCRIBE", *names)
        client.replies(20)
        channels = places(three)
        assert all(channels)
        three[1].kill()
        for name in names:
            # Requests find out that it is down.
            publisher("PUBLISH", name, "lost")
        wait_until(lambda: proxy.stats()["alpha"]["server_ejects"] == 1)

        wait_until(lambda: len(set.union(*places([three[0], three[2]]))) == 20)
        for name in names:
            assert publisher("PUBLISH", name, "x") == 1
        three[1].restart()
        wait_until(lambda: places(three) == channels, "all are back")
