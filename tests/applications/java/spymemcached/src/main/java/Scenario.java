// spymemcached in its defaults, or with the protocol in PROTOCOL: storing, reading many, cas, counters, touching.
import java.util.HashMap;
import java.util.Map;
import net.spy.memcached.AddrUtil;
import net.spy.memcached.CASResponse;
import net.spy.memcached.ConnectionFactoryBuilder;
import net.spy.memcached.MemcachedClient;

public class Scenario {
    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError("not true: " + what);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var address = AddrUtil.getAddresses("127.0.0.1:" + System.getenv("MEMCACHED_PORT"));
        var protocol = System.getenv().getOrDefault("PROTOCOL", "TEXT");
        var factory = new ConnectionFactoryBuilder()
            .setProtocol(ConnectionFactoryBuilder.Protocol.valueOf(protocol))
            .build();
        var client = new MemcachedClient(factory, address);
        try {
            use(client);
        } finally {
            client.shutdown();
        }
    }

    static void use(MemcachedClient client) throws Exception {
        Map<String, Object> pairs = new HashMap<>();
        for (int number = 0; number < 100; number++) {
            pairs.put(number + ":m", "value " + number);
        }
        for (var pair : pairs.entrySet()) {
            check(client.set(pair.getKey(), 100, pair.getValue()).get(), "set");
        }
        check(client.getBulk(pairs.keySet()).equals(pairs), "getBulk");
        check(client.get("none") == null, "a miss");
        check(!client.add("1:m", 100, "other").get(), "add");
        check(client.replace("1:m", 100, "other").get(), "replace");
        var one = client.gets("1:m");
        check(one.getValue().equals("other"), "gets");
        check(client.cas("1:m", one.getCas(), "new") == CASResponse.OK, "cas");
        check(client.cas("1:m", one.getCas(), "lost") == CASResponse.EXISTS, "cas of a changed key");
        check(client.incr("n", 1, 5) == 5, "incr with a default");
        check(client.incr("n", 10) == 15, "incr");
        check(client.decr("n", 1) == 14, "decr");
        check(client.touch("n", 100).get(), "touch");
        check(client.append("1:m", "er").get(), "append");
        check(client.get("1:m").equals("newer"), "append");
        check(client.delete("1:m").get(), "delete");
        check(client.getVersions().size() == 1, "version");
        check(client.flush().get(), "flush");
        check(client.getBulk(pairs.keySet()).isEmpty(), "after flush");
    }
}
