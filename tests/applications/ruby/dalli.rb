# Dalli before 3.2: its only protocol is the binary one. multi sends quiet requests.
require "dalli"

def check(condition, what)
  abort "not true: #{what}" unless condition
end

client = Dalli::Client.new("127.0.0.1:#{ENV.fetch("MEMCACHED_PORT")}", socket_timeout: 30)
pairs = (0...300).to_h { |number| ["#{number}:m", { "number" => number }] }

pairs.each { |name, value| check client.set(name, value, 100), "set" }
check client.get("7:m") == { "number" => 7 }, "get"
check client.get("none").nil?, "a miss"
check client.get_multi(*pairs.keys, "none") == pairs, "get_multi"
client.multi do
  pairs.each_key { |name| client.set(name, "quiet #{name}") }
  client.delete("7:m")
end
check client.get_multi("1:m", "7:m", "8:m") == { "1:m" => "quiet 1:m", "8:m" => "quiet 8:m" }, "multi"

check !client.add("1:m", "other"), "add"
check client.replace("1:m", "other"), "replace"
check client.replace("none", "other") == 0, "replace of a key that is missing"
check client.cas("1:m") { |value| value + " value" }, "cas"
check client.get("1:m") == "other value", "cas"
value, unique = client.get_cas("1:m")
check client.set_cas("1:m", value + "!", unique), "set_cas"
check client.set_cas("1:m", "lost", unique) == false, "set_cas of a changed key"
check client.fetch("fetched", 100) { 42 } == 42 && client.get("fetched") == 42, "fetch"

client.set("text", "b", 100, raw: true)
check client.append("text", "c"), "append"
check client.prepend("text", "a"), "prepend"
check client.get("text", raw: true) == "abc", "append"
check client.incr("n", 5, 100, 10) == 10, "incr with a default"
check client.incr("n", 5) == 15, "incr"
check client.decr("n", 20) == 0, "decr"
check client.incr("missing").nil?, "incr of a key that is missing"
check client.touch("text", 200), "touch"
check client.gat("7:m", 100).nil? && client.gat("8:m", 100) == "quiet 8:m", "gat"
check client.delete("1:m"), "delete"
check !client.delete("1:m"), "delete of a key that is missing"
check client.set("a key with spaces", 1) && client.get("a key with spaces") == 1, "spaces"

large = "x" * 900_000
check client.set("large", large, 100, raw: true) && client.get("large", raw: true) == large, "large"
begin
  client.set("larger", Random.bytes(2_000_000), 100, raw: true)
rescue Dalli::ValueOverMaxSize
  # Dalli knows the default limit of memcached.
end
check client.stats.values.first["version"].start_with?("1.6."), "stats"
check client.version.values.first.start_with?("1.6."), "version"
client.flush_all
check client.get_multi(*pairs.keys) == {}, "flush_all"
client.close
