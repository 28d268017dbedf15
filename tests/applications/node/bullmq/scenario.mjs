// BullMQ: jobs, priorities, a delay, retries, a repeated job, a flow of dependent jobs, events.
import assert from "node:assert/strict";
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";

const port = Number(process.env.REDIS_PORT);
const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
// All keys of a queue have to be on one server: BullMQ's scripts use many of them.
const options = { connection, prefix: process.env.BULL_PREFIX ?? "bull" };

const queue = new Queue("jobs", options);
const events = new QueueEvents("jobs", options);
await events.waitUntilReady();

async function work(job) {
  if (job.name === "flaky" && job.attemptsMade === 0) throw new Error("as planned");
  if (job.name === "parent") {
    return Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0);
  }
  await job.updateProgress(50);
  return 2 * (job.data.number ?? 0);
}
const worker = new Worker("jobs", work, { ...options, concurrency: 4 });

const jobs = await queue.addBulk(
  Array.from({ length: 50 }, (_, number) => ({ name: "double", data: { number } })),
);
const results = await Promise.all(jobs.map((job) => job.waitUntilFinished(events)));
assert.deepEqual(results, jobs.map((_, number) => 2 * number));

const done = async (name, data, settings) =>
  (await queue.add(name, data, settings)).waitUntilFinished(events);
assert.equal(await done("double", { number: 4 }, { priority: 1 }), 8);
assert.equal(await done("double", { number: 5 }, { delay: 300 }), 10);
assert.equal(await done("flaky", { number: 6 }, { attempts: 3, backoff: 10 }), 12);

const flows = new FlowProducer(options);
const children = [1, 2, 3].map((number) => ({ name: "double", data: { number }, queueName: "jobs" }));
const flow = await flows.add({ name: "parent", queueName: "jobs", children });
assert.equal(await flow.job.waitUntilFinished(events), 12);

let repeated = 0;
const twice = new Promise((resolve) => {
  worker.on("completed", (job) => job.name === "again" && ++repeated === 2 && resolve());
});
await queue.upsertJobScheduler("often", { every: 200 }, { name: "again", data: { number: 1 } });
await twice;
await queue.removeJobScheduler("often");

assert.ok((await queue.getJobCounts("completed")).completed >= 55);
await worker.close();
await queue.pause();
await queue.obliterate({ force: true });
assert.equal(await queue.count(), 0);
await Promise.all([queue.close(), events.close(), flows.close()]);
