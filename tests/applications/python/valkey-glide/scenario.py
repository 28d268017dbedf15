"""valkey-glide: strings, batches, transactions, scripts, pub/sub, blocking commands, scans."""

import asyncio

from glide import (
    Batch,
    GlideClient,
    GlideClientConfiguration,
    NodeAddress,
    Script,
    ServerCredentials,
)
from helpers import DEADLINE, PORT

assert ServerCredentials


async def connect(**options):
    return await GlideClient.create(
        GlideClientConfiguration(
            [NodeAddress("127.0.0.1", PORT)], request_timeout=DEADLINE * 1000, **options
        )
    )


async def use():
    client = await connect()
    assert await client.ping() == b"PONG"
    assert await client.set("k", "v") == "OK"
    assert await client.get("k") == b"v"
    names = [f"{number}:m" for number in range(30)]
    assert await client.mset({name: name for name in names}) == "OK"
    assert await client.mget(names) == [name.encode() for name in names]
    assert await client.hset("h", {"a": "1", "b": "2"}) == 2
    assert await client.hgetall("h") == {b"a": b"1", b"b": b"2"}

    batch = Batch(is_atomic=False)
    for name in names:
        batch.get(name)
    assert await client.exec(batch, raise_on_error=True) == [name.encode() for name in names]
    atomic = Batch(is_atomic=True)
    atomic.set("{t}a", "1")
    atomic.incr("{t}a")
    assert await client.exec(atomic, raise_on_error=True) == ["OK", 2]
    await client.watch(["{t}a"])
    assert await client.exec(atomic, raise_on_error=True) == ["OK", 2]

    script = Script("return redis.call('incrby', KEYS[1], ARGV[1])")
    assert await client.invoke_script(script, keys=["n"], args=["5"]) == 5

    assert await client.rpush("l", ["1"]) == 1
    assert await client.blpop(["l"], 1) == [b"l", b"1"]

    found = set()
    cursor = b"0"
    while True:
        cursor, keys = await client.scan(cursor, match="*:m", count=10)
        found.update(keys)
        if cursor == b"0":
            break
    assert found == {name.encode() for name in names}

    modes = GlideClientConfiguration.PubSubChannelModes
    listener = await connect(
        pubsub_subscriptions=GlideClientConfiguration.PubSubSubscriptions(
            channels_and_patterns={modes.Exact: {"channel"}, modes.Pattern: {"pattern:*"}},
            callback=None,
            context=None,
        )
    )
    for channel in ("channel", "pattern:x"):
        assert await client.publish("hello", channel) == 1
        message = await asyncio.wait_for(listener.get_pubsub_message(), DEADLINE)
        assert (message.channel, message.message) == (channel.encode(), b"hello")
    await listener.close()
    await client.close()


asyncio.run(use())
