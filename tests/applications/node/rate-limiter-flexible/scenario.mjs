// rate-limiter-flexible with ioredis and with node-redis: points, blocks, penalties, rewards.
import assert from "node:assert/strict";
import { Redis } from "ioredis";
import { BurstyRateLimiter, RateLimiterRedis } from "rate-limiter-flexible";
import { createClient } from "redis";

const port = Number(process.env.REDIS_PORT);
const ioredis = new Redis({ port, host: "127.0.0.1", enableOfflineQueue: false });
await new Promise((resolve) => ioredis.once("ready", resolve));
const nodeRedis = createClient({ url: `redis://127.0.0.1:${port}` });
await nodeRedis.connect();

async function use(name, options) {
  const limiter = new RateLimiterRedis({
    ...options, keyPrefix: name, points: 3, duration: 60, blockDuration: 60,
  });
  for (let user = 0; user < 20; user++) {
    for (let left = 2; left >= 0; left--) {
      assert.equal((await limiter.consume(`user${user}`)).remainingPoints, left);
    }
    await assert.rejects(limiter.consume(`user${user}`), (error) => error.msBeforeNext > 50_000);
  }
  assert.equal((await limiter.get("user1")).consumedPoints, 4);
  assert.equal(await limiter.delete("user1"), true);
  await limiter.penalty("user1", 2);
  assert.equal((await limiter.reward("user1", 1)).consumedPoints, 1);
  await limiter.block("user1", 60);
  await assert.rejects(limiter.consume("user1"));
  await limiter.set("user1", 1, 60);
  assert.equal((await limiter.consume("user1")).remainingPoints, 1);

  const bursty = new BurstyRateLimiter(
    new RateLimiterRedis({ ...options, keyPrefix: `${name}:slow`, points: 1, duration: 60 }),
    new RateLimiterRedis({ ...options, keyPrefix: `${name}:burst`, points: 2, duration: 60 }),
  );
  for (let number = 0; number < 3; number++) await bursty.consume("user");
  await assert.rejects(bursty.consume("user"));
}

await use("ioredis", { storeClient: ioredis });
await use("node-redis", { storeClient: nodeRedis, useRedisPackage: true });
ioredis.disconnect();
nodeRedis.destroy();
