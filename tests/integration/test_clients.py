"""Popular client libraries in typical use, many clients at once, and large values."""

import asyncio
import fcntl
import os
import pty
import random
import resource
import select
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
import redis
import redis.asyncio

from tests.client import Client, request
from tests.integration.conftest import pool
from tests.servers import DEADLINE, HOST, NutproxyServer, RedisServer, wait_until

# The default of redis-py is 5 s, and a loaded machine may need more.
PATIENT = {"socket_timeout": DEADLINE}
PROTOCOLS = [PATIENT, {**PATIENT, "protocol": 2}, {**PATIENT, "protocol": 3}]
NAMES = ["defaults", "RESP2", "RESP3"]


@pytest.fixture(scope="module")
def port(proxy):
    return proxy.ports["alpha"]


@pytest.fixture(autouse=True)
def empty(port):
    with Client(port) as client:
        assert client("FLUSHALL") == b"OK"


# redis-py ---------------------------------------------------------------------------------------


@pytest.fixture(params=PROTOCOLS, ids=NAMES)
def client(request, port):
    with redis.Redis(HOST, port, **request.param) as client:
        yield client


def test_redis_py_in_normal_use(client):
    assert client.ping()
    assert client.set("k", "v", ex=100)
    assert client.get("k") == b"v"
    assert client.ttl("k") in (99, 100)
    assert client.get("none") is None
    assert client.mset({f"{n}:m": n for n in range(30)})
    assert client.mget([f"{n}:m" for n in range(30)]) == [b"%d" % n for n in range(30)]
    assert client.hset("h", mapping={"f": 1, "g": 2}) == 2
    assert client.hgetall("h") == {b"f": b"1", b"g": b"2"}
    assert client.sadd("s", "a", "b") == 2
    assert client.smembers("s") == {b"a", b"b"}
    assert client.zadd("z", {"a": 1.5, "b": 2}) == 2
    assert client.zscore("z", "a") == 1.5
    assert [member for member, _ in client.zrange("z", 0, -1, withscores=True)] == [b"a", b"b"]
    assert client.rpush("l", *range(5)) == 5
    assert client.lrange("l", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    assert client.xadd("x", {"f": "v"}, id="1-1") == b"1-1"
    assert client.xrange("x") == [(b"1-1", {b"f": b"v"})]
    assert client.incr("n") == 1
    assert client.dbsize() == 37
    assert len(client.keys()) == 37
    assert client.delete(*client.keys()) == 37
    assert client.randomkey() is None
    assert client.info("server")["nutproxy_servers"] == 3
    assert client.client_list()[0]["lib-name"].startswith("redis-py")
    assert client.time()[0] > 0


def test_redis_py_runs_scripts(client):
    script = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    assert [script(keys=["n"], args=[5]) for _ in range(3)] == [5, 10, 15]
    client.script_flush()
    assert [script(keys=[f"{n}:n"], args=[n]) for n in range(20)] == list(range(20))


def test_redis_py_raises_the_exceptions_of_errors(client):
    client.set("k", "v")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.lpush("k", 1)
    with pytest.raises(redis.ResponseError, match="on different servers of pool"):
        client.sinter([f"{n}:s" for n in range(20)])
    with pytest.raises(redis.ResponseError, match="on different servers of pool"):
        client.blpop([f"{n}:l" for n in range(20)])
    with pytest.raises(redis.ResponseError, match="not supported by nutproxy"):
        client.execute_command("REPLCONF", "ACK", "0")
    with pytest.raises(redis.exceptions.NoPermissionError, match="admin_commands: true"):
        client.config_get()
    assert client.get("k") == b"v"


def test_redis_py_pipelines(client):
    with client.pipeline(transaction=False) as batch:
        for number in range(10_000):
            batch.set(f"key:{number}", number)
        assert batch.execute() == [True] * 10_000
        for number in range(10_000):
            batch.get(f"key:{number}")
        assert batch.execute() == [b"%d" % number for number in range(10_000)]
    with client.pipeline(transaction=False) as batch:
        batch.get("key:1").mget("key:2", "key:3", "none").execute_command("NOSUCH").get("key:4")
        first, second, third, fourth = batch.execute(raise_on_error=False)
    assert (first, second, fourth) == (b"1", [b"2", b"3", None], b"4")
    assert isinstance(third, redis.ResponseError)


def test_redis_py_keeps_its_connections(port):
    connections = redis.ConnectionPool(host=HOST, port=port, max_connections=1, **PATIENT)
    with redis.Redis(connection_pool=connections) as client:
        ids = {client.client_id() for _ in range(50)}
        with pytest.raises(redis.ResponseError):
            client.execute_command("NOSUCH")
        ids.add(client.client_id())
        assert len(ids) == 1
    connections.disconnect()


BINARY = [
    b"",
    b"\r\n",
    b"\0",
    b"$-1\r\n",
    b"*1\r\n$4\r\nQUIT\r\n",
    b"\xff\xfe\xfd",
    b"{}",
    b"{\r\n}x",
    bytes(range(256)),
    b"k" * 5_000,
    b"long" * 20_000,
    random.Random(1).randbytes(100_000),
]


def test_redis_py_keys_and_values_may_be_any_bytes(client):
    pairs = dict(zip(BINARY, BINARY[::-1], strict=True))
    for key, value in pairs.items():
        assert client.set(key, value)
        assert client.get(key) == value
        assert client.strlen(key) == len(value)
    for byte in range(256):
        assert client.set(bytes([byte]), bytes([byte]) * 3)
    assert client.mget([bytes([byte]) for byte in range(256)]) == [
        bytes([byte]) * 3 for byte in range(256)
    ]
    client.mset({b"m" + key: value for key, value in pairs.items()})
    assert client.mget([b"m" + key for key in pairs]) == list(pairs.values())
    assert client.delete(*(b"m" + key for key in pairs)) == len(pairs)


@pytest.mark.parametrize("options", PROTOCOLS, ids=NAMES)
def test_redis_py_asyncio(port, options):
    async def use():
        async with redis.asyncio.Redis(host=HOST, port=port, **options) as client:
            assert await client.ping()
            values = await asyncio.gather(*(client.incrby(f"{n}:n", n) for n in range(50)))
            assert values == list(range(50))
            assert await client.mget([f"{n}:n" for n in range(50)]) == [
                b"%d" % n for n in range(50)
            ]
            await client.hset("h", mapping={"f": "v"})
            assert await client.hgetall("h") == {b"f": b"v"}
            async with client.pipeline(transaction=False) as batch:
                for number in range(10_000):
                    batch.set(f"key:{number}", number)
                    batch.get(f"key:{number}")
                replies = await batch.execute()
            assert replies[::2] == [True] * 10_000
            assert replies[1::2] == [b"%d" % number for number in range(10_000)]
            with pytest.raises(redis.ResponseError, match="not supported by nutproxy"):
                await client.execute_command("REPLCONF", "ACK", "0")
            assert await client.get("key:7") == b"7"

    asyncio.run(use())


# redis-py's subscriptions. Channels are spread over the servers.

CHANNELS = [f"{n}:channel" for n in range(20)]


def test_redis_py_listens_in_a_thread(client):
    received = []

    def handler(message):
        received.append((message["type"], message["channel"].decode(), message["data"].decode()))

    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(**dict.fromkeys(CHANNELS, handler))
        listener.psubscribe(**{"pattern:*": handler})
        thread = listener.run_in_thread(sleep_time=0.01, daemon=True)
        try:
            wait_until(lambda: client.pubsub_numpat() == 1, "the subscriptions")
            for number in range(100):
                for channel in CHANNELS:
                    assert client.publish(channel, number) == 1
            assert client.publish("pattern:x", "by pattern") == 1
            wait_until(lambda: len(received) == 2001, "all messages")
        finally:
            thread.stop()
            thread.join(DEADLINE)
        assert not thread.is_alive()
    for channel in CHANNELS:
        assert [data for _, name, data in received if name == channel] == [
            str(number) for number in range(100)
        ]
    assert ("pmessage", "pattern:x", "by pattern") in received
    wait_until(lambda: client.pubsub_channels() == [], "the end of the subscriptions")


def test_redis_py_gets_messages_one_by_one(client):
    def get():
        message = listener.get_message(timeout=DEADLINE)
        return message["type"], message["channel"], message["data"]

    with client.pubsub() as listener:
        listener.subscribe("a", "b")
        listener.psubscribe("a*")
        listener.ssubscribe("shard")
        assert sorted(get() for _ in range(2)) == [
            ("subscribe", b"a", 1),
            ("subscribe", b"b", 2),
        ]
        assert [get(), get()] == [("psubscribe", b"a*", 3), ("ssubscribe", b"shard", 1)]
        assert client.publish("a", "m") == 2
        assert sorted([get(), get()]) == [("message", b"a", b"m"), ("pmessage", b"a", b"m")]
        assert client.spublish("shard", "s") == 1
        assert get() == ("smessage", b"shard", b"s")
        listener.ping("alive")
        assert get()[2] == b"alive"
        assert dict(client.pubsub_numsub("a", "none")) == {b"a": 1, b"none": 0}
        assert client.pubsub_shardchannels() == [b"shard"]
        listener.unsubscribe("a")
        assert get() == ("unsubscribe", b"a", 2)
        assert client.publish("a", "m") == 1
        assert get() == ("pmessage", b"a", b"m")
        listener.unsubscribe()
        listener.punsubscribe()
        listener.sunsubscribe()
        found = [get() for _ in range(3)]
        assert [kind for kind, *_ in found] == ["unsubscribe", "punsubscribe", "sunsubscribe"]
        assert not listener.subscribed
        assert client.publish("a", "nobody") == 0


@pytest.mark.parametrize("options", PROTOCOLS, ids=NAMES)
def test_redis_py_asyncio_listens(port, options):
    async def use():
        async with redis.asyncio.Redis(host=HOST, port=port, **options) as client:
            async with client.pubsub(ignore_subscribe_messages=True) as listener:
                await listener.subscribe(*CHANNELS)
                await listener.psubscribe("*:nobody")
                received = {channel: [] for channel in CHANNELS}
                # The subscriptions are confirmed when a message comes.
                while await client.pubsub_numpat() == 0:
                    assert await listener.get_message(timeout=0.01) is None
                for number in range(50):
                    await asyncio.gather(*(client.publish(one, number) for one in CHANNELS))
                async for message in listener.listen():
                    received[message["channel"].decode()].append(int(message["data"]))
                    if sum(map(len, received.values())) == 50 * len(CHANNELS):
                        break
                assert received == {channel: [*range(50)] for channel in CHANNELS}
            while await client.pubsub_channels():
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(use(), DEADLINE))


# A value of 512 MB ------------------------------------------------------------------------------

LARGEST = 512 << 20
PIECE = 1 << 20


def memory(pid, field):
    """VmHWM (the peak) or VmRSS of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


@pytest.mark.measures
def test_value_of_512_megabytes_passes_without_a_second_copy():
    piece = random.Random(2).randbytes(PIECE)
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as client,
    ):
        head = request("SET", "k", "").removesuffix(b"$0\r\n\r\n")
        client.send_bytes(head + b"$%d\r\n" % LARGEST)
        for _ in range(LARGEST // PIECE):
            client.send_bytes(piece)
        client.send_bytes(b"\r\n")
        assert client.reply() == b"OK"
        assert client("STRLEN", "k") == LARGEST
        assert memory(proxy.worker_pid, "VmHWM") < LARGEST + (128 << 20)

        client.send("GET", "k")
        buffer = bytearray(PIECE)
        head = b"$%d\r\n" % LARGEST
        assert client.socket.recv(len(head), socket.MSG_WAITALL) == head
        for _ in range(LARGEST // PIECE):
            filled = 0
            while filled < PIECE:
                count = client.socket.recv_into(memoryview(buffer)[filled:])
                assert count
                filled += count
            assert buffer == piece
        assert client.socket.recv(2, socket.MSG_WAITALL) == b"\r\n"
        assert memory(proxy.worker_pid, "VmHWM") < LARGEST + (128 << 20)

        # One byte more is refused before any of its bytes arrive, as in Redis.
        client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (LARGEST + 1))
        assert str(client.reply()) == "ERR Protocol error: invalid bulk length"
        assert client.closed()
        wait_until(lambda: memory(proxy.worker_pid, "VmRSS") < 128 << 20, "memory to be released")


# redis-cli --------------------------------------------------------------------------------------


def redis_cli(port, *arguments, stdin=""):
    """The standard output of redis-cli. Output on standard error fails the test."""
    done = subprocess.run(
        ["redis-cli", "-p", str(port), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize("options", [[], ["-3"]], ids=["RESP2", "RESP3"])
def test_redis_cli_runs_commands(port, options):
    def cli(*words):
        return redis_cli(port, *options, *words)

    assert cli("PING") == "PONG\n"
    assert cli("SET", "k", "two words") == "OK\n"
    assert cli("GET", "k") == "two words\n"
    assert cli("MSET", "a", "1", "b", "2", "c", "3") == "OK\n"
    assert cli("MGET", "c", "none", "a", "b") == "3\n\n1\n2\n"
    assert cli("--no-raw", "MGET", "c", "none") == '1) "3"\n2) (nil)\n'
    assert cli("HSET", "h", "f", "v") == "1\n"
    shown = '1# "f" => "v"\n' if options else '1) "f"\n2) "v"\n'
    assert cli("--no-raw", "HGETALL", "h") == shown
    assert "nutproxy_servers:3" in cli("INFO")
    assert cli("NOSUCH").startswith("ERR unknown command 'NOSUCH'")
    assert cli("-n", "0", "DBSIZE") == "5\n"


@pytest.mark.parametrize("options", [[], ["-3"]], ids=["RESP2", "RESP3"])
def test_redis_cli_reads_commands_from_a_file(port, options):
    commands = "".join(f"SET key:{n} {n}\nGET key:{n}\n" for n in range(100))
    printed = redis_cli(port, *options, stdin=commands + "DBSIZE\n")
    assert printed == "".join(f"OK\n{n}\n" for n in range(100)) + "100\n"


def test_redis_cli_inserts_with_pipe(port):
    commands = b"".join(request("SET", f"key:{n}", n) for n in range(20_000))
    printed = redis_cli(port, "--pipe", stdin=commands.decode())
    assert "errors: 0, replies: 20000\n" in printed
    with Client(port) as client:
        assert client("DBSIZE") == 20_000
        assert client("GET", "key:19999") == b"19999"


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, command):
        self.master, slave = pty.openpty()
        # termios.tcsetwinsize needs Python 3.11.
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 200, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "HOME": "/nonexistent"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
        )
        os.close(slave)
        self.shown = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def wait_for(self, text):
        """Wait for `text`, and return and forget the output up to its end."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.shown
            self.shown += os.read(self.master, 65536)
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, line):
        os.write(self.master, line.encode() + b"\r")


@pytest.mark.parametrize("options", [[], ["-3"]], ids=["RESP2", "RESP3"])
def test_redis_cli_at_a_terminal(port, options):
    """redis-cli sends COMMAND DOCS before its first prompt, and shows hints from the reply."""
    prompt = f"127.0.0.1:{port}> ".encode()
    dialogue = {
        "SET k v": b"\r\nOK\r\n",
        "MGET k none": b'\r\n1) "v"\r\n2) (nil)\r\n',
        "HELLO 3": b'"proto" => (integer) 3\r\n',
        "help getdel": b"and delete the key",
        "SCAN 0 COUNT 0": b"\r\n(error) ERR syntax error\r\n",
        "GET k": b'\r\n"v"\r\n',
    }
    with Terminal(["redis-cli", "-p", str(port), *options]) as terminal:
        assert b"ERR" not in terminal.wait_for(prompt)
        for line, expected in dialogue.items():
            terminal.type(line)
            terminal.wait_for(expected)
            # Input before the prompt is lost.
            terminal.wait_for(prompt)
        terminal.type("exit")
        assert terminal.process.wait(DEADLINE) == 0


def test_redis_benchmark_runs(port):
    done = subprocess.run(
        [
            "redis-benchmark",
            *("-p", str(port), "-q", "-n", "2000", "-c", "20", "-P", "4", "-r", "100"),
            *("-t", "ping,set,get,incr,lpush,rpop,sadd,hset,zadd,mset"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "rror" not in done.stdout.replace("ERROR: failed to fetch CONFIG", "")
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPOP", "SADD"):
        assert f"{name}: " in done.stdout
    assert "MSET (10 keys): " in done.stdout


# Many clients -----------------------------------------------------------------------------------

CLIENTS = 1000


@pytest.fixture
def descriptors():
    """Raises the limit on open files for this process and its children to fit all clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4 * CLIENTS), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
def test_1000_clients_at_once_each_get_their_own_replies_in_order(shards):
    """Every value names its client and its number, so a misplaced reply is noticed."""
    everyone_is_there = asyncio.Event()
    connected = 0

    def commands(number):
        for turn in range(5):
            key, value = f"{number}:{turn}", f"value {number} {turn}"
            yield request("SET", key, value), b"+OK\r\n"
            yield request("GET", key), b"$%d\r\n%b\r\n" % (len(value), value.encode())
            yield request("ECHO", value), b"$%d\r\n%b\r\n" % (len(value), value.encode())
            yield request("EXISTS", key, f"{number}:0", f"none {number}"), b":2\r\n"
            yield request("PING"), b"+PONG\r\n"

    async def one(port, number):
        nonlocal connected
        reader, writer = await asyncio.open_connection(HOST, port)
        connected += 1
        if connected == CLIENTS:
            everyone_is_there.set()
        await everyone_is_there.wait()
        sent, expected = map(b"".join, zip(*commands(number), strict=True))
        for _ in range(2):
            writer.write(sent)
            assert await reader.readexactly(len(expected)) == expected
        writer.close()

    async def everyone(port):
        await asyncio.gather(*(one(port, number) for number in range(CLIENTS)))

    with NutproxyServer(pool("alpha", shards)) as proxy:
        asyncio.run(asyncio.wait_for(everyone(proxy.port), 60))
        with Client(proxy.port) as client:
            wait_until(
                lambda: b"connected_clients:1\r\n" in client("INFO", "clients"), "clients gone"
            )
        assert "rror" not in proxy.log()
