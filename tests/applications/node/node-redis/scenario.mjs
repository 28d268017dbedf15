// node-redis in its defaults: commands, transactions, scripts, pub/sub, streams, scans, a pool.
// Subscriptions in RESP2 and RESP3, where other commands are sent on the same connection.
import assert from "node:assert/strict";
import { createClient, createClientPool, defineScript, WatchError } from "redis";

const add = defineScript({
  SCRIPT: "return redis.call('incrby', KEYS[1], ARGV[1])",
  NUMBER_OF_KEYS: 1,
  parseCommand(parser, key, amount) {
    parser.pushKey(key);
    parser.push(String(amount));
  },
  transformReply: (reply) => reply,
});
const url = `redis://127.0.0.1:${process.env.REDIS_PORT}`;
const client = createClient({ url, scripts: { add } });
await client.connect();
assert.equal(await client.ping(), "PONG");
assert.equal(await client.set("k", "v", { EX: 100 }), "OK");
assert.equal(await client.get("k"), "v");
const names = Array.from({ length: 100 }, (_, number) => `${number}:m`);
await client.mSet(names.map((name) => [name, name]));
assert.deepEqual(await client.mGet(names), names);
await client.hSet("h", { a: 1, b: 2 });
assert.deepEqual({ ...(await client.hGetAll("h")) }, { a: "1", b: "2" });
assert.deepEqual(await Promise.all(names.map((name) => client.get(name))), names);

assert.deepEqual(await client.multi().set("{t}a", 1).incr("{t}a").exec(), ["OK", 2]);
const batch = client.multi();
for (const name of names) batch.get(name);
assert.deepEqual(await batch.execAsPipeline(), names);
const other = await client.duplicate().connect();
await other.watch("{t}w");
await client.set("{t}w", "changed");
await assert.rejects(other.multi().set("{t}w", "lost").exec(), WatchError);
assert.equal(await client.get("{t}w"), "changed");
assert.deepEqual(await Promise.all(names.map((name) => client.add(`s${name}`, 5))), names.map(() => 5));

const channels = names.slice(0, 10);
for (const RESP of [2, 3]) {
  const listener = await createClient({ url, RESP }).connect();
  const messages = [];
  let arrived = () => {};
  const listen = (message, channel) => {
    messages.push([channel, message]);
    arrived();
  };
  await listener.subscribe(channels, listen);
  await listener.pSubscribe("pattern:*", listen);
  await listener.sSubscribe("shard", listen);
  for (let round = 0; round < 50; round++) {
    const sent = channels.map((channel) => client.publish(channel, `${round}`));
    if (RESP === 3) assert.equal(await listener.get("k"), "v");
    assert.deepEqual(await Promise.all(sent), channels.map(() => 1));
  }
  assert.equal(await client.publish("pattern:x", "hello"), 1);
  assert.equal(await client.sPublish("shard", "hello"), 1);
  while (messages.length < 502) await new Promise((resolve) => { arrived = resolve; });
  for (const channel of channels) {
    const own = messages.filter(([name]) => name === channel).map(([, message]) => message);
    assert.deepEqual(own, Array.from({ length: 50 }, (_, round) => `${round}`));
  }
  await listener.unsubscribe();
  await listener.pUnsubscribe();
  await listener.sUnsubscribe();
  // In RESP2 it is a Buffer now, with Redis as well.
  assert.equal(String(await listener.get("k")), "v");
  assert.equal(await client.publish(channels[0], "nobody"), 0);
  listener.destroy();
}

const blocked = other.blPop("list", 30);
await client.rPush("list", "item");
assert.deepEqual({ ...(await blocked) }, { key: "list", element: "item" });

const pool = await createClientPool({ url }).connect();
const popped = pool.blPop("pooled", 30);
await pool.rPush("pooled", "item");
assert.equal((await popped).element, "item");
await pool.close();

const found = new Set();
for await (const keys of client.scanIterator({ MATCH: "*:m", COUNT: 10 })) {
  for (const key of keys) found.add(key);
}
assert.deepEqual(found, new Set(names.flatMap((name) => [name, `s${name}`])));
for (const one of [client, other]) one.destroy();
