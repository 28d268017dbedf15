"""redis-py's locks, scripts, transactions with WATCH, pub/sub and scans, in RESP2 and RESP3."""

import asyncio
import threading

import redis
import redis.asyncio
from helpers import DEADLINE, PORT, wait_until


def locks(client):
    with client.lock("guard", timeout=30) as guard:
        assert guard.owned()
        assert guard.extend(30)
        assert not client.lock("guard", timeout=30).acquire(blocking_timeout=0.05)
    counted = []

    def count():
        for _ in range(20):
            with client.lock("counter", timeout=30, sleep=0.001):
                value = int(client.get("n") or 0)
                client.set("n", value + 1)
                counted.append(value)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert counted == [*range(80)]


def scripts(client):
    add = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    assert [add(keys=[f"{n}:script"], args=[n]) for n in range(20)] == [*range(20)]
    client.script_flush()
    with client.pipeline(transaction=False) as batch:
        for number in range(20):
            add(keys=[f"{number}:script"], args=[1], client=batch)
        assert batch.execute() == [*range(1, 21)]


def transactions(client):
    with client.pipeline() as batch:
        replies = batch.set("{t}a", 1).incr("{t}a").lpush("{t}l", "x", "y").lrange("{t}l", 0, -1)
        assert replies.execute() == [True, 2, 2, [b"y", b"x"]]
    with client.pipeline() as batch:
        batch.set("{t}a", "text").incr("{t}a").get("{t}a")
        ok, failed, value = batch.execute(raise_on_error=False)
        assert (ok, value) == (True, b"text")
        assert isinstance(failed, redis.ResponseError)

    with client.pipeline() as batch:
        batch.watch("{t}w")
        client.set("{t}w", 1)
        batch.multi()
        batch.set("{t}w", 2)
        try:
            batch.execute()
            raise AssertionError("WATCH did not notice the change")
        except redis.WatchError:
            assert client.get("{t}w") == b"1"

    def double(batch):
        value = int(batch.get("{t}w"))
        batch.multi()
        batch.set("{t}w", 2 * value)

    assert client.transaction(double, "{t}w") == [True]
    assert client.get("{t}w") == b"2"

    def add_one(batch):
        value = int(batch.get("{t}sum") or 0)
        batch.multi()
        batch.set("{t}sum", value + 1)

    def add_many():
        for _ in range(20):
            client.transaction(add_one, "{t}sum")

    threads = [threading.Thread(target=add_many) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert client.get("{t}sum") == b"80"


def pubsub(client):
    with client.pubsub() as listener:
        channels = [f"channel:{number}" for number in range(10)]
        listener.subscribe(*channels)
        listener.psubscribe("pattern:*")
        events = []

        def listen():
            if event := listener.get_message(timeout=0.1):
                events.append(event)
            return sum(event["type"].endswith("message") for event in events)

        wait_until(lambda: listen() or len(events) == 11, "subscriptions")
        for channel in [*channels, "pattern:x"]:
            assert client.publish(channel, channel.upper()) == 1
        wait_until(lambda: listen() == 11, "messages")
        told = {event["channel"]: event["data"] for event in events[11:]}
        assert told == {name.encode(): name.upper().encode() for name in [*channels, "pattern:x"]}
        assert set(client.pubsub_channels("channel:*")) == {name.encode() for name in channels}
        assert dict(client.pubsub_numsub("channel:1")) == {b"channel:1": 1}
        listener.unsubscribe()
        listener.punsubscribe()
        wait_until(lambda: listen() and not listener.subscribed, "the end of the subscriptions")
        assert client.publish("channel:1", "nobody") == 0


def blocking(client):
    client.rpush("list", 1)
    assert [*client.blpop("list", 1)] == [b"list", b"1"]
    pusher = threading.Timer(0.1, client.rpush, ["list", 2])
    pusher.start()
    assert [*client.brpop(["list"], DEADLINE)] == [b"list", b"2"]
    pusher.join()
    client.xgroup_create("stream", "group", mkstream=True)
    adder = threading.Timer(0.1, client.xadd, ["stream", {"f": "v"}])
    adder.start()
    read = client.xreadgroup("group", "me", {"stream": ">"}, block=DEADLINE * 1000)
    adder.join()
    assert b"stream" in dict(read)


def scans(client):
    keys = {f"scan:{number}" for number in range(1000)}
    with client.pipeline(transaction=False) as batch:
        for key in keys:
            batch.set(key, 1)
        batch.execute()
    assert {key.decode() for key in client.scan_iter("scan:*", count=50)} == keys
    assert client.delete(*keys) == 1000


async def with_asyncio():
    async with redis.asyncio.Redis(port=PORT) as client:
        async with client.pipeline() as batch:
            assert await batch.set("{t}x", 1).incr("{t}x").execute() == [True, 2]
        async with client.lock("asyncio", timeout=30):
            assert await client.get("asyncio")
        async with client.pubsub() as listener:
            await listener.subscribe("asyncio")
            assert (await listener.get_message(timeout=DEADLINE))["type"] == "subscribe"
            assert await client.publish("asyncio", "hello") == 1
            assert (await listener.get_message(timeout=DEADLINE))["data"] == b"hello"
        await client.rpush("asyncio:list", 1)
        assert await client.blpop("asyncio:list", 1)


PARTS = (locks, scripts, transactions, pubsub, blocking, scans)
for protocol in (2, 3):
    with redis.Redis(port=PORT, protocol=protocol) as client:
        for part in PARTS:
            client.flushall()
            part(client)
asyncio.run(with_asyncio())
