# redis-rb: commands, pipelines, transactions, scripts, pub/sub, blocking commands, scans.
require "redis"

PORT = Integer(ENV.fetch("REDIS_PORT"))

def check(condition, what)
  abort "not true: #{what}" unless condition
end

def connect
  Redis.new(host: "127.0.0.1", port: PORT, timeout: 30)
end

redis = connect
other = connect
redis.set("k", "v", ex: 100)
check redis.get("k") == "v", "get"
names = (0...100).map { |number| "#{number}:m" }
redis.mset(*names.flat_map { |name| [name, name] })
check redis.mget(*names) == names, "mget"
check redis.mapped_mget("1:m", "2:m") == { "1:m" => "1:m", "2:m" => "2:m" }, "mapped_mget"
redis.mapped_hmset("h", "a" => 1, "b" => 2)
check redis.hgetall("h") == { "a" => "1", "b" => "2" }, "hgetall"
check redis.pipelined { |batch| names.each { |name| batch.get(name) } } == names, "pipelined"

replies = redis.multi { |transaction| transaction.set("{t}a", 1); transaction.incr("{t}a") }
check replies == ["OK", 2], "multi"
lost = redis.watch("{t}w") do
  other.set("{t}w", "changed")
  redis.multi { |transaction| transaction.set("{t}w", "lost") }
end
check lost.nil? && redis.get("{t}w") == "changed", "watch"
check redis.eval("return redis.call('incrby', KEYS[1], ARGV[1])", keys: ["n"], argv: [5]) == 5, "eval"

check redis.scan_each(match: "*:m", count: 10).to_a.uniq.sort == names.sort, "scan_each"

pusher = Thread.new { sleep 0.1; other.rpush("list", "item") }
check redis.blpop("list", timeout: 30) == ["list", "item"], "blpop"
pusher.join

received = {}
listener = connect
listener.subscribe("channel:1", "channel:2") do |on|
  on.subscribe do |_, count|
    if count == 2
      check redis.publish("channel:1", "hello") == 1, "publish"
      check redis.publish("channel:2", "end") == 1, "publish"
    end
  end
  on.message do |channel, message|
    received[channel] = message
    # With no channel left, subscribe returns.
    listener.unsubscribe if received.size == 2
  end
end
check received == { "channel:1" => "hello", "channel:2" => "end" }, "messages"
