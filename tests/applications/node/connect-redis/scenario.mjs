// connect-redis: sessions of express in Redis, and the store's own methods.
import assert from "node:assert/strict";
import { once } from "node:events";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";

const client = createClient({ url: `redis://127.0.0.1:${process.env.REDIS_PORT}` });
await client.connect();
const store = new RedisStore({ client });
const app = express();
app.use(session({ store, secret: "s", resave: false, saveUninitialized: false }));
app.get("/:name", (request, response) => {
  request.session.name = request.params.name;
  request.session.count = (request.session.count ?? 0) + 1;
  response.json({ name: request.session.name, count: request.session.count });
});
app.delete("/", (request, response) => request.session.destroy(() => response.json({})));
const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
const url = `http://127.0.0.1:${server.address().port}`;

const cookies = [];
for (let number = 0; number < 20; number++) {
  const first = await fetch(`${url}/user${number}`);
  assert.deepEqual(await first.json(), { name: `user${number}`, count: 1 });
  cookies.push(first.headers.get("set-cookie").split(";")[0]);
}
for (const [number, cookie] of cookies.entries()) {
  const again = await fetch(`${url}/user${number}`, { headers: { cookie } });
  assert.deepEqual(await again.json(), { name: `user${number}`, count: 2 });
}
await fetch(url, { method: "DELETE", headers: { cookie: cookies[0] } });

const call = (method, ...values) =>
  new Promise((resolve, reject) => {
    store[method](...values, (error, result) => (error ? reject(error) : resolve(result)));
  });
assert.equal(await call("length"), 19);
assert.equal((await call("ids")).length, 19);
assert.equal((await call("all")).length, 19);
await call("clear");
assert.equal(await call("length"), 0);
server.close();
server.closeAllConnections();
await client.close();
