// Jedis in its defaults: commands, pipelines, transactions, scripts, pub/sub, blocking, scans.
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.params.ScanParams;
import redis.clients.jedis.resps.ScanResult;

public class Scenario {
    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError("not true: " + what);
        }
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(System.getenv("REDIS_PORT"));
        try (RedisClient client = RedisClient.create("127.0.0.1", port)) {
            use(client);
        }
    }

    static void use(RedisClient client) throws Exception {
        check(client.ping().equals("PONG"), "ping");
        check(client.setex("k", 100, "v").equals("OK"), "setex");
        check(client.get("k").equals("v"), "get");
        check(client.get("none") == null, "get of nothing");
        List<String> names = new ArrayList<>();
        List<String> pairs = new ArrayList<>();
        for (int number = 0; number < 100; number++) {
            names.add(number + ":m");
            pairs.addAll(List.of(number + ":m", number + ":m"));
        }
        client.mset(pairs.toArray(String[]::new));
        check(client.mget(names.toArray(String[]::new)).equals(names), "mget");
        client.hset("h", Map.of("a", "1", "b", "2"));
        check(client.hgetAll("h").equals(Map.of("a", "1", "b", "2")), "hgetAll");

        try (var pipeline = client.pipelined()) {
            names.forEach(pipeline::get);
            check(pipeline.syncAndReturnAll().equals(names), "pipeline");
        }
        try (var transaction = client.multi()) {
            transaction.set("{t}a", "1");
            transaction.incr("{t}a");
            check(transaction.exec().equals(List.of("OK", 2L)), "transaction");
        }
        try (var transaction = client.transaction(false)) {
            transaction.watch("{t}w");
            client.set("{t}w", "changed");
            transaction.multi();
            transaction.set("{t}w", "lost");
            check(transaction.exec() == null, "watch");
        }
        check(client.get("{t}w").equals("changed"), "the transaction is not carried out");
        for (String name : names) {
            Object sum = client.eval("return redis.call('incrby', KEYS[1], ARGV[1])", List.of("s" + name), List.of("5"));
            check(sum.equals(5L), "eval");
        }

        var ready = new LinkedBlockingQueue<String>();
        Map<String, String> heard = new HashMap<>();
        var listener = new JedisPubSub() {
            @Override
            public void onSubscribe(String channel, int count) {
                ready.add(channel);
            }

            @Override
            public void onMessage(String channel, String message) {
                heard.put(channel, message);
                if (heard.size() == 2) {
                    unsubscribe();
                }
            }
        };
        var listening = CompletableFuture.runAsync(() -> client.subscribe(listener, "one", "two"));
        for (int number = 0; number < 2; number++) {
            check(ready.poll(30, TimeUnit.SECONDS) != null, "a subscription");
        }
        check(client.publish("one", "hello") == 1, "publish");
        check(client.publish("two", "hello") == 1, "publish");
        listening.get(30, TimeUnit.SECONDS);
        check(heard.equals(Map.of("one", "hello", "two", "hello")), "messages");

        var popped = CompletableFuture.supplyAsync(() -> client.blpop(30, "list"));
        client.rpush("list", "item");
        check(popped.get(30, TimeUnit.SECONDS).equals(List.of("list", "item")), "blpop");

        Set<String> found = new HashSet<>();
        String cursor = ScanParams.SCAN_POINTER_START;
        do {
            ScanResult<String> page = client.scan(cursor, new ScanParams().match("*:m").count(10));
            found.addAll(page.getResult());
            cursor = page.getCursor();
        } while (!cursor.equals(ScanParams.SCAN_POINTER_START));
        check(found.size() == 200, "scan");
    }
}
