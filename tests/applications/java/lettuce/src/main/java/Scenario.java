// Lettuce in its defaults: commands, transactions, scripts, pub/sub, blocking commands, scans.
import io.lettuce.core.KeyScanCursor;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.ScanArgs;
import io.lettuce.core.ScanCursor;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public class Scenario {
    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError("not true: " + what);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String url = "redis://127.0.0.1:" + System.getenv("REDIS_PORT");
        RedisClient client = RedisClient.create(url);
        try {
            use(client);
        } finally {
            client.shutdown();
        }
    }

    static void use(RedisClient client) throws Exception {
        var connection = client.connect();
        var redis = connection.sync();
        check(redis.ping().equals("PONG"), "ping");
        check(redis.setex("k", 100, "v").equals("OK"), "setex");
        check(redis.get("k").equals("v"), "get");
        check(redis.get("none") == null, "get of nothing");
        Map<String, String> pairs = new HashMap<>();
        for (int number = 0; number < 100; number++) {
            pairs.put(number + ":m", number + ":m");
        }
        String[] names = pairs.keySet().toArray(String[]::new);
        redis.mset(pairs);
        check(redis.mget(names).stream().allMatch(one -> one.getKey().equals(one.getValue())), "mget");
        redis.hset("h", Map.of("a", "1", "b", "2"));
        check(redis.hgetall("h").equals(Map.of("a", "1", "b", "2")), "hgetall");
        List<RedisFuture<String>> replies = new ArrayList<>();
        for (String name : names) {
            replies.add(connection.async().get(name));
        }
        for (int number = 0; number < names.length; number++) {
            check(replies.get(number).get(30, TimeUnit.SECONDS).equals(names[number]), "pipeline");
        }

        redis.multi();
        redis.set("{t}a", "1");
        redis.incr("{t}a");
        var done = redis.exec();
        check(done.get(0).equals("OK") && done.get(1).equals(2L), "transaction");
        var other = client.connect().sync();
        redis.watch("{t}w");
        other.set("{t}w", "changed");
        redis.multi();
        redis.set("{t}w", "lost");
        check(redis.exec().wasDiscarded(), "watch");
        check(redis.get("{t}w").equals("changed"), "the transaction is not carried out");
        for (String name : names) {
            Long sum = redis.eval(
                "return redis.call('incrby', KEYS[1], ARGV[1])", ScriptOutputType.INTEGER, new String[] {"s" + name}, "5");
            check(sum == 5, "eval");
        }

        var heard = new LinkedBlockingQueue<String>();
        var listener = client.connectPubSub();
        listener.addListener(new RedisPubSubAdapter<>() {
            @Override
            public void message(String channel, String message) {
                heard.add(channel);
            }

            @Override
            public void message(String pattern, String channel, String message) {
                heard.add(channel);
            }
        });
        listener.sync().subscribe("one", "two");
        listener.sync().psubscribe("pattern:*");
        for (String channel : List.of("one", "two", "pattern:x")) {
            check(redis.publish(channel, "hello") == 1, "publish");
            check(channel.equals(heard.poll(30, TimeUnit.SECONDS)), "message");
        }
        listener.sync().unsubscribe("one", "two");
        listener.close();

        var popped = client.connect().async().blpop(30, "list");
        redis.rpush("list", "item");
        check(popped.get(30, TimeUnit.SECONDS).getValue().equals("item"), "blpop");

        Set<String> found = new HashSet<>();
        ScanCursor cursor = ScanCursor.INITIAL;
        while (!cursor.isFinished()) {
            KeyScanCursor<String> page = redis.scan(cursor, ScanArgs.Builder.matches("*:m").limit(10));
            found.addAll(page.getKeys());
            cursor = page;
        }
        check(found.size() == 200, "scan");

        redis.select(1);
        check(redis.get("k") == null, "another database");
        redis.set("k", "other");
        redis.select(0);
        check(redis.get("k").equals("v"), "database 0");
    }
}
