// memjs in its defaults, which are the binary protocol: storing, counters, touching, statistics.
import assert from "node:assert/strict";
import memjs from "memjs";

const client = memjs.Client.create(`127.0.0.1:${process.env.MEMCACHED_PORT}`, { timeout: 30 });
const names = Array.from({ length: 100 }, (_, number) => `${number}:m`);

for (const name of names) {
  assert.equal(await client.set(name, `value of ${name}`, { expires: 100 }), true);
}
const found = await Promise.all(names.map((name) => client.get(name)));
assert.deepEqual(found.map(({ value }) => value.toString()), names.map((name) => `value of ${name}`));
assert.equal((await client.get("none")).value, null);

assert.equal(await client.add("1:m", "other", {}), false);
assert.equal(await client.replace("1:m", "other", {}), true);
assert.equal(await client.replace("none", "other", {}), false);
assert.equal(await client.append("1:m", ">"), true);
assert.equal((await client.get("1:m")).value.toString(), "other>");
assert.equal((await client.increment("n", 5, { initial: 10 })).value, 10);
assert.equal((await client.increment("n", 5, {})).value, 15);
assert.equal((await client.decrement("n", 20, {})).value, 0);
assert.equal(await client.touch("1:m", 200), true);
assert.equal(await client.delete("1:m"), true);
assert.equal(await client.delete("1:m"), false);

const large = Buffer.alloc(900_000, "x");
assert.equal(await client.set("large", large, {}), true);
assert.deepEqual((await client.get("large")).value, large);
await assert.rejects(client.set("larger", Buffer.alloc(2_000_000, "x"), {}));
assert.equal((await client.get("n")).value.toString().trim(), "0");

const statistics = await new Promise((resolve, reject) => {
  client.stats((error, server, rows) => (error ? reject(error) : resolve(rows)));
});
assert.match(statistics.version, /^1\.6\./);
await new Promise((resolve, reject) => {
  client.flush((error, results) => (error ? reject(error) : resolve(results)));
});
assert.equal((await client.get("2:m")).value, null);
client.quit();
