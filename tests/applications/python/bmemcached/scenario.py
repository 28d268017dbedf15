# python-binary-memcached: a client without a C library. Its get_multi is GetKQ for all keys.
import os

import bmemcached

client = bmemcached.Client([f"127.0.0.1:{os.environ['MEMCACHED_PORT']}"], socket_timeout=30)
names = [f"{number}:m" for number in range(300)]
values = {name: f"value of {name}" for name in names}

assert client.set_multi(values) == []
assert client.get_multi([*names, "none"]) == values
assert client.get("none") is None
assert client.set("1:m", [1, {"a": 2}], time=100)
assert client.get("1:m") == [1, {"a": 2}]
assert not client.add("1:m", "other")
assert client.replace("1:m", "other")
assert not client.replace("none", "other")

value, unique = client.gets("1:m")
assert value == "other"
assert client.cas("1:m", "new", unique)
assert not client.cas("1:m", "lost", unique)
assert client.get("1:m") == "new"

assert client.incr("n", 5, default=10) == 10
assert client.incr("n", 5) == 15
assert client.decr("n", 20) == 0
assert client.delete("1:m")
assert client.get("1:m") is None
client.delete_multi(names)
assert client.get_multi(names) == {}
assert client.set("large", "x" * 900_000)
assert client.get("large") == "x" * 900_000
[rows] = client.stats().values()
assert rows["version"].startswith(b"1.6.")
client.flush_all()
assert client.get("large") is None
client.disconnect_all()
