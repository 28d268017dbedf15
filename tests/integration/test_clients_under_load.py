"""Many clients, clients that leave and clients that flood, while servers stop and return.

Every client gets its own replies, and all memory and descriptors are released."""

import random
import signal
import threading

import hiredis
import pytest

from tests.client import Client, request
from tests.integration.conftest import mc_pool, pool
from tests.memcache import MemcacheClient
from tests.scripted import (
    RequestCount,
    ScriptedMemcached,
    ScriptedServer,
    answering_when,
    bulk,
    info,
    keys_of,
    memcache_reply,
    reading_when,
    reply_to,
    reset,
    value_of,
)
from tests.servers import (
    DEADLINE,
    NutproxyServer,
    RedisServer,
    connect,
    pipeline,
    wait_until,
)

SERVERS = (1, 2, 3)


def connected(proxy):
    return info(proxy.port, "clients")["connected_clients"]


def answered_bytes(proxy):
    return sum(proxy.stats()["alpha"][server]["response_bytes"] for server in ("s1", "s2"))


def memory(proxy):
    return info(proxy.port, "memory")["used_memory_rss"]


# Clients that leave


def test_clients_that_leave_with_requests_in_flight_leave_nothing_behind():
    go = threading.Event()
    with (
        ScriptedServer(answering_when(go)) as one,
        ScriptedServer(answering_when(go)) as two,
        NutproxyServer(pool("alpha", [one, two])) as proxy,
    ):
        keys = [*keys_of(1, (1, 2), 2), *keys_of(2, (1, 2), 2)]
        clients = [connect(proxy.port) for _ in range(300)]
        for number, client in enumerate(clients):
            commands = [("GET", f"of {number}"), ("MGET", *keys), ("GET", keys[number % 4])]
            client.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        wait_until(lambda: connected(proxy) == 301, "all clients")
        # close() only tells the proxy that the client sends no more. It may still read its replies.
        for client in clients[::2]:
            reset(client)
        for client in clients[1::2]:
            client.close()
        wait_until(lambda: connected(proxy) == 151, "the end of the reset clients")
        with Client(proxy.port) as clean:
            clean.pipeline(("MGET", *keys), *[("GET", key) for key in keys])
            go.set()
            values = [value_of(key) for key in keys]
            assert clean.replies(5) == [values, *values]
            for number in range(100):
                assert clean("GET", f"clean {number}") == value_of(b"clean %d" % number)
        wait_until(lambda: connected(proxy) == 1, "the clients' end")
        assert (one.accepted, two.accepted) == (1, 1)


@pytest.mark.measures
def test_memory_comes_back_when_clients_with_large_replies_have_left():
    with RedisServer() as redis, NutproxyServer(pool("alpha", [redis])) as proxy:
        assert pipeline(proxy.port, [("SET", "large", b"x" * 1_000_000)]) == [b"OK"]
        before = memory(proxy)
        clients = [connect(proxy.port) for _ in range(10)]
        for client in clients:
            client.sendall(hiredis.pack_command(("GET", "large")) * 20)
        wait_until(lambda: memory(proxy) > before + 50_000_000, "unread replies")
        for client in clients:
            client.close()
        wait_until(lambda: connected(proxy) == 1, "the clients' end")
        wait_until(lambda: memory(proxy) < before + 20_000_000, "memory to be released")


def test_a_client_that_has_closed_its_side_gets_its_replies():
    go = threading.Event()
    with (
        ScriptedServer(answering_when(go)) as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(("GET", "a"), ("PING",), ("GET", "b"))
        client.socket.shutdown(1)
        wait_until(lambda: server.requests, "a request")
        go.set()
        assert client.replies(3) == [value_of(b"a"), b"PONG", value_of(b"b")]
        with pytest.raises(ConnectionError):
            client.reply()


# Bounds


def send_in_background(client, *commands):
    thread = threading.Thread(target=client.pipeline, args=commands, daemon=True)
    thread.start()
    return thread


def permitted(permits):
    """A script that sends one reply for each permit of this threading.Semaphore."""

    def script(session):
        while request := session.receive():
            if not permits.acquire(timeout=DEADLINE):
                raise TimeoutError("the test gave no permit")
            session.send(reply_to(request))

    return script


def test_a_client_with_more_requests_than_its_limit_gets_everything_in_order():
    with (
        ScriptedServer() as server,
        NutproxyServer(pool("alpha", [server], client_max_requests=16)) as proxy,
        Client(proxy.port) as client,
    ):
        names = [b"%d" % number for number in range(20000)]
        sending = send_in_background(
            client, *[("ECHO" if int(name) % 3 else "GET", name) for name in names]
        )
        for name in names:
            assert client.reply() == (name if int(name) % 3 else value_of(name))
        sending.join(DEADLINE)


def test_a_client_is_not_read_above_its_limit_of_requests():
    go = threading.Event()
    with (
        ScriptedServer(reading_when(go)) as server,
        NutproxyServer(pool("alpha", [server], client_max_requests=16)) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(*[("GET", number) for number in range(1000)])
        taken = RequestCount(proxy)
        wait_until(lambda: taken() >= 16, "requests")
        for _ in range(50):
            assert taken() == 16
        go.set()
        assert client.replies(1000) == [value_of(b"%d" % number) for number in range(1000)]


def test_a_reply_in_pieces_is_one_request():
    options = {"client_max_requests": 4, "client_max_pending": 1 << 30}
    with (
        RedisServer() as one,
        RedisServer() as two,
        NutproxyServer(pool("alpha", [one, two], **options)) as proxy,
        Client(proxy.port) as client,
        Client(proxy.port) as other,
    ):
        # More than the sockets between client and proxy can buffer.
        keys = [key for number in (1, 2) for key in keys_of(number, (1, 2), 16)]
        values = [b"%d" % number + b"x" * 1000000 for number in range(32)]
        for key, value in zip(keys, values, strict=True):
            assert other("SET", key, value) == b"OK"
        taken = RequestCount(proxy)
        before = taken()
        client.send("MGET", *keys)
        wait_until(lambda: answered_bytes(proxy) > sum(map(len, values)), "the whole reply")
        client.pipeline(*[("ECHO", number) for number in range(10)])
        wait_until(lambda: taken() == before + 4, "requests up to the limit")
        for _ in range(50):
            assert taken() == before + 4
        assert client.reply() == values
        assert client.replies(10) == [b"%d" % number for number in range(10)]


def test_a_client_is_read_on_when_half_of_its_requests_are_answered():
    permits = threading.Semaphore(0)
    with (
        ScriptedServer(permitted(permits)) as server,
        NutproxyServer(pool("alpha", [server], client_max_requests=16)) as proxy,
        Client(proxy.port) as client,
    ):
        client.pipeline(*[("GET", number) for number in range(100)])
        taken = RequestCount(proxy)
        wait_until(lambda: taken() == 16, "requests")
        permits.release(7)
        replies = client.replies(7)
        for _ in range(50):
            assert taken() == 16
        permits.release()
        replies.append(client.reply())
        wait_until(lambda: taken() == 24, "requests that replace the answered ones")
        permits.release(92)
        replies += client.replies(92)
        assert replies == [value_of(b"%d" % number) for number in range(100)]


def test_a_client_with_more_bytes_than_its_limit_gets_everything_in_order():
    value = b"v" * 100_000
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis], client_max_pending="64kb")) as proxy,
        Client(proxy.port) as client,
    ):
        names = [b"%d" % number for number in range(200)]
        commands = [
            command for name in names for command in [("SET", name, name + value), ("GET", name)]
        ]
        sending = send_in_background(client, *commands)
        for name in names:
            assert client.replies(2) == [b"OK", name + value]
        sending.join(DEADLINE)


def padded(size, *words):
    """A command of `size` bytes, made by padding its last argument."""
    rest = len(request(*words, b"x" * 1000)) - 1000
    return request(*words, b"x" * (size - rest))


def get_of_size(size):
    """Memcached's `get` in `size` bytes, with keys of both of two servers."""
    keys = [*keys_of(1, (1, 2), 46), *keys_of(2, (1, 2), 46)]
    line = b"get " + b" ".join(keys)
    return line + b"x" * (size - 2 - len(line)) + b"\r\n"


ONE, TWO = (keys_of(number, (1, 2), 1)[0] for number in (1, 2))


@pytest.mark.parametrize(
    ("command", "memcached"),
    [
        (padded(6144, "SET", ONE), False),
        (padded(6144, "MSET", ONE, "v", TWO), False),
        # The servers share its bytes.
        (padded(6144, "SCRIPT", "LOAD"), False),
        # It is counted twice: the merge reads the keys from a copy of the line.
        (get_of_size(3072), True),
    ],
    ids=["one server", "parts", "all servers", "get"],
)
def test_a_client_is_not_read_above_its_limit_of_bytes(command, memcached):
    """A request counts its own size and 2 KB for its reply."""
    go = threading.Event()

    def script(session):
        while request := session.receive():
            session.wait(go)
            session.send(memcache_reply(request) if memcached else reply_to(request))

    scripted, config, opened = (
        (ScriptedMemcached, mc_pool, MemcacheClient)
        if memcached
        else (ScriptedServer, pool, Client)
    )
    with (
        scripted(script) as one,
        scripted(script) as two,
        NutproxyServer(config("alpha", [one, two], client_max_pending="64kb")) as proxy,
        opened(proxy.port) as client,
    ):
        client.send_bytes(command * 40)

        def taken():
            return proxy.stats()["alpha"]["client_requests"]

        wait_until(lambda: taken() >= 8, "requests")
        for _ in range(50):
            assert taken() == 8
        go.set()
        [reply] = set(client.replies(40))
        assert reply.endswith(b"END\r\n" if memcached else b"OK")


def test_a_client_is_read_on_when_half_of_its_bytes_are_answered():
    permits = threading.Semaphore(0)
    with (
        ScriptedServer(permitted(permits)) as server,
        NutproxyServer(pool("alpha", [server], client_max_pending="64kb")) as proxy,
        Client(proxy.port) as client,
    ):
        client.send_bytes(padded(6144, "SET", "a") * 40)
        taken = RequestCount(proxy)
        wait_until(lambda: taken() == 8, "requests")
        permits.release(3)
        assert client.replies(3) == [b"OK"] * 3
        for _ in range(50):
            assert taken() == 8
        permits.release()
        assert client.reply() == b"OK"
        wait_until(lambda: taken() > 8, "requests that replace the answered ones")
        permits.release(36)
        assert client.replies(36) == [b"OK"] * 36


def test_parts_of_a_reply_count_against_the_limit_of_bytes():
    """The part that one server has sent counts while the other server has not replied."""
    go = threading.Event()
    value = b"v" * 20_000

    def large(session):
        while session.receive():
            session.send(b"*1\r\n" + bulk(value))

    with (
        ScriptedServer(large) as one,
        ScriptedServer(answering_when(go)) as two,
        NutproxyServer(pool("alpha", [one, two], client_max_pending="64kb")) as proxy,
        Client(proxy.port) as client,
    ):
        for count in (1, 2, 3):
            client.send("MGET", ONE, TWO)
            wait_until(
                lambda count=count: proxy.stats()["alpha"]["s1"]["responses"] == count, "a part"
            )
        client.send("PING")
        for _ in range(50):
            assert proxy.stats()["alpha"]["client_requests"] == 3
        go.set()
        assert client.replies(4) == [[value, value_of(TWO)]] * 3 + [b"PONG"]


def test_requests_beyond_the_queue_of_a_server_are_refused_until_it_has_drained():
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis], server_max_queue="1mb")) as proxy,
        Client(proxy.port) as first,
        Client(proxy.port) as second,
    ):
        value = b"x" * 600_000
        assert first("SET", "a", value) == b"OK"
        redis.stop()
        first.pipeline(("SET", "b", value))
        taken = RequestCount(proxy)
        wait_until(lambda: taken() == 2, "the request")
        full = "ERR server 's1' of pool 'alpha': its queue is full (server_max_queue)"
        second.pipeline(*[("SET", "c", value)] * 3)
        assert {str(reply) for reply in second.replies(3)} == {full}
        redis.cont()
        assert first.reply() == b"OK"
        assert second("SET", "c", value) == b"OK"
        # A request that is larger than the limit is accepted if the queue is empty.
        assert second("SET", "c", 2 * value) == b"OK"


def test_bytes_not_yet_written_count_in_the_queue_of_a_server():
    go = threading.Event()
    value = b"x" * 20_000_000
    with (
        ScriptedServer(reading_when(go)) as server,
        NutproxyServer(pool("alpha", [server], server_max_queue="32mb")) as proxy,
        Client(proxy.port) as first,
        Client(proxy.port) as second,
    ):
        first.send("SET", "a", value)
        wait_until(
            lambda: proxy.stats()["alpha"]["s1"]["in_queue_bytes"] > len(value), "the request"
        )
        assert proxy.stats()["alpha"]["s1"]["in_queue"] == 1
        assert "its queue is full" in second.error("SET", "b", value)
        go.set()
        assert first.reply() == b"OK"
        assert second("SET", "b", value) == b"OK"


# The end of the proxy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_proxy_with_clients_connected_and_servers_dead(number):
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
        NutproxyServer(pool("alpha", [one, two, three], timeout=10000)) as proxy,
        Client(proxy.port) as client,
    ):
        dead, stopped, live = (keys_of(number, SERVERS, 1)[0] for number in SERVERS)
        assert client("SET", stopped, "x") == b"OK"
        one.kill()
        two.stop()
        client.pipeline(("GET", dead), ("SET", live, "x"), ("GET", stopped))
        assert str(client.reply()) == "ERR server 's1' of pool 'alpha': Connection refused"
        assert client.reply() == b"OK"
        proxy.process.send_signal(number)
        assert proxy.process.wait(DEADLINE) == 0


# Everything at once


class Chaos(threading.Thread):
    """A client that sends random pipelines until `end` is set, and checks every reply.

    Every value names its owner: `client:key:number`. The reply for a key is one of the client's own
    values, nil (its server has been restarted), or an error of the proxy.
    """

    def __init__(self, number, port, end, errors):
        super().__init__(daemon=True)
        self.number = number
        self.port = port
        self.end = end
        self.errors = errors
        self.random = random.Random(number)
        self.written = 0
        self.answered = 0
        self.wrong = []

    def command(self):
        """A command, and a function that tells whether a reply is valid for it."""
        kind = self.random.choice(["SET", "GET", "GET", "MGET", "ECHO", "DEL"])
        keys = [f"{self.number}:{self.random.randrange(30)}" for _ in range(3)]
        if kind == "SET":
            self.written += 1
            return (kind, keys[0], f"{keys[0]}:{self.written}"), lambda reply: reply == b"OK"
        if kind == "GET":
            return (kind, keys[0]), lambda reply: self.is_value(reply, keys[0])
        if kind == "MGET":
            return (
                (kind, *keys),
                lambda reply: (
                    isinstance(reply, list)
                    and len(reply) == 3
                    and all(self.is_value(one, key) for one, key in zip(reply, keys, strict=True))
                ),
            )
        if kind == "ECHO":
            return (kind, keys[0]), lambda reply: reply == keys[0].encode()
        return (kind, *keys[:2]), lambda reply: reply in (0, 1, 2)

    def is_value(self, reply, key):
        if reply is None:
            return True
        head, _, number = reply.rpartition(b":") if isinstance(reply, bytes) else (b"", b"", b"")
        return head == key.encode() and 0 < int(number) <= self.written

    def run(self):
        try:
            with Client(self.port) as client:
                while not self.end.is_set():
                    asked = [self.command() for _ in range(self.random.randrange(1, 20))]
                    client.pipeline(*[command for command, _ in asked])
                    for command, is_answer in asked:
                        self.judge(command, is_answer, client.reply())
        except Exception as error:
            self.wrong.append(error)

    def judge(self, command, is_answer, reply):
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            # On a loaded machine, any of them may time out.
            if not text.startswith(("ERR server 's", "ERR pool 'alpha' has no live server")):
                self.wrong.append((command, text))
            self.errors[text.partition("': ")[2].partition(";")[0]] = True
        elif not is_answer(reply):
            self.wrong.append((command, reply))
        self.answered += 1


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, []),
        (
            {"auto_eject_hosts": "true", "server_failure_limit": 1, "server_retry_timeout": 50},
            ["-m", "512"],
        ),
    ],
    ids=["kept", "ejected"],
)
def test_every_reply_is_the_answer_to_its_request_while_a_server_comes_and_goes(options, arguments):
    with (
        RedisServer() as one,
        RedisServer() as two,
        RedisServer() as three,
        NutproxyServer(
            pool("alpha", [one, two, three], timeout=400, server_connections=2, **options),
            *arguments,
        ) as proxy,
    ):
        end = threading.Event()
        errors = {}
        clients = [Chaos(number, proxy.port, end, errors) for number in range(32)]
        [key] = keys_of(2, SERVERS, 1)

        def await_error(text, cause):
            errors.clear()
            cause()
            # If a timeout has just ejected the server, it gets no requests, and clients see no
            # error.
            wait_until(
                lambda: (
                    any(text in error for error in list(errors))
                    or info(proxy.port, "server")["nutproxy_servers_ejected"] > 0
                ),
                f"the error {text}",
            )

        def back():
            down = "nutproxy_servers_down"
            wait_until(lambda: info(proxy.port, "server")[down] == 0, "the server's return")
            wait_until(lambda: pipeline(proxy.port, [("SET", key, "x")]) == [b"OK"], "its reply")

        for client in clients:
            client.start()
        try:
            for _ in range(5):
                await_error("Connection timed out", two.stop)
                two.cont()
                back()
                await_error("Connection re", two.kill)
                two.restart()
                back()
        finally:
            end.set()
            for client in clients:
                client.join(DEADLINE)
        assert [client.wrong for client in clients] == [[]] * 32
        assert min(client.answered for client in clients) > 0
        wait_until(lambda: connected(proxy) == 1, "the clients' end")
