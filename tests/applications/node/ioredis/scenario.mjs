// ioredis in its defaults: commands, pipelines, transactions, scripts, pub/sub, streams, scans.
// Subscriptions in RESP2 and RESP3.
import assert from "node:assert/strict";
import { once } from "node:events";
import { Redis } from "ioredis";

const port = Number(process.env.REDIS_PORT);
const client = new Redis(port);
assert.equal(await client.ping(), "PONG");
assert.equal(await client.set("k", "v", "EX", 100), "OK");
assert.equal(await client.get("k"), "v");
const names = Array.from({ length: 100 }, (_, number) => `${number}:m`);
await client.mset(Object.fromEntries(names.map((name) => [name, name])));
assert.deepEqual(await client.mget(names), names);
await client.hset("h", { a: 1, b: 2 });
assert.deepEqual({ ...(await client.hgetall("h")) }, { a: "1", b: "2" });

const pipeline = client.pipeline();
for (const name of names) pipeline.get(name);
assert.deepEqual(await pipeline.exec(), names.map((name) => [null, name]));
assert.deepEqual(await client.multi().set("{t}a", 1).incr("{t}a").exec(), [[null, "OK"], [null, 2]]);
const step = client.multi({ pipeline: false });
await step;
assert.equal(await client.set("{t}b", 1), "QUEUED");
assert.equal(await client.incr("{t}b"), "QUEUED");
assert.deepEqual(await client.exec(), [[null, "OK"], [null, 2]]);
await client.watch("{t}w");
const other = client.duplicate();
await other.set("{t}w", "changed");
assert.equal(await client.multi().set("{t}w", "lost").exec(), null);
assert.equal(await client.get("{t}w"), "changed");

client.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" });
assert.deepEqual(await Promise.all(names.map((name) => client.add(`s${name}`, 5))), names.map(() => 5));

const channels = names.slice(0, 10);
for (const protocol of [2, 3]) {
  const listener = new Redis(port, { protocol });
  assert.equal(await listener.subscribe(...channels), 10);
  assert.equal(await listener.psubscribe("pattern:*"), 11);
  assert.equal(await listener.ssubscribe("shard"), 1);
  const messages = [];
  listener.on("message", (channel, message) => messages.push([channel, message]));
  for (let round = 0; round < 50; round++) {
    const counts = await Promise.all(channels.map((channel) => client.publish(channel, `${round}`)));
    assert.deepEqual(counts, channels.map(() => 1));
  }
  const byPattern = once(listener, "pmessage");
  assert.equal(await client.publish("pattern:x", "hello"), 1);
  assert.deepEqual(await byPattern, ["pattern:*", "pattern:x", "hello"]);
  const ofShard = once(listener, "smessage");
  assert.equal(await client.spublish("shard", "hello"), 1);
  assert.deepEqual(await ofShard, ["shard", "hello"]);
  while (messages.length < 500) await once(listener, "message");
  for (const channel of channels) {
    const own = messages.filter(([name]) => name === channel).map(([, message]) => message);
    assert.deepEqual(own, Array.from({ length: 50 }, (_, round) => `${round}`));
  }
  assert.equal(await listener.unsubscribe(...channels), 1);
  assert.equal(await listener.punsubscribe("pattern:*"), 0);
  assert.equal(await listener.sunsubscribe("shard"), 0);
  assert.equal(await listener.get("k"), "v");
  assert.equal(await client.publish(channels[0], "nobody"), 0);
  listener.disconnect();
}

const blocked = other.blpop("list", 30);
await client.rpush("list", "item");
assert.deepEqual(await blocked, ["list", "item"]);
await client.xgroup("CREATE", "stream", "group", "$", "MKSTREAM");
const reading = other.xreadgroup("GROUP", "group", "me", "BLOCK", 30000, "STREAMS", "stream", ">");
await client.xadd("stream", "*", "f", "v");
assert.ok(await reading);

const found = new Set();
for await (const keys of client.scanStream({ match: "*:m", count: 10 })) {
  for (const key of keys) found.add(key);
}
assert.deepEqual(found, new Set(names.flatMap((name) => [name, `s${name}`])));
for (const one of [client, other]) one.disconnect();
