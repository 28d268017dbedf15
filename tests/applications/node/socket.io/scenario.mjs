// socket.io's Redis adapter: two servers, clients on both, rooms, and questions to all servers.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { io } from "socket.io-client";

const url = `redis://127.0.0.1:${process.env.REDIS_PORT}`;
const redisClients = [];
async function connectRedis() {
  const client = createClient({ url });
  redisClients.push(client);
  await client.connect();
  return client;
}

async function startServer(adapter) {
  const http = createServer();
  const server = new Server(http, {
    adapter: adapter(await connectRedis(), await connectRedis(), { requestsTimeout: 30000 }),
  });
  server.on("connection", (socket) => {
    socket.on("join", async (room, done) => {
      await socket.join(room);
      done();
    });
  });
  server.on("sum", (one, two, reply) => reply(one + two));
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return { server, port: http.address().port };
}

async function condition(check) {
  while (!(await check())) await new Promise((resolve) => setTimeout(resolve, 10));
}

async function use(adapter) {
  const one = await startServer(adapter);
  const two = await startServer(adapter);
  // The adapter does not say when its subscriptions are in force.
  await condition(async () => (await one.server.of("/").adapter.serverCount()) === 2);
  await condition(async () => (await two.server.of("/").adapter.serverCount()) === 2);

  const clients = [one, two, one, two].map(({ port }) => io(`http://127.0.0.1:${port}`));
  await Promise.all(clients.map((client) => once(client, "connect")));
  await Promise.all(
    clients.map((client, number) => client.emitWithAck("join", number < 2 ? "low" : "high")),
  );
  await condition(async () => (await one.server.fetchSockets()).length === 4);

  const received = Promise.all(clients.map((client) => once(client, "all")));
  one.server.emit("all", "hello");
  assert.deepEqual(await received, [["hello"], ["hello"], ["hello"], ["hello"]]);

  clients[2].on("room", () => assert.fail("a message for another room"));
  const low = Promise.all([once(clients[0], "room"), once(clients[1], "room")]);
  two.server.to("low").emit("room", Buffer.from([1, 2, 3]));
  assert.deepEqual((await low).map(([data]) => [...data]), [[1, 2, 3], [1, 2, 3]]);

  assert.deepEqual(await one.server.serverSideEmitWithAck("sum", 1, 2), [3]);
  assert.equal((await two.server.in("high").fetchSockets()).length, 2);
  const gone = Promise.all([once(clients[2], "disconnect"), once(clients[3], "disconnect")]);
  one.server.in("high").disconnectSockets();
  await gone;
  for (const client of clients) client.disconnect();
  await one.server.close();
  await two.server.close();
}

await use(createAdapter);
await use(createShardedAdapter);
await Promise.all(redisClients.map((client) => client.close()));
