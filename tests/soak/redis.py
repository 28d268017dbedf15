# tests/soak/redis.py: the requests of a Redis client of the soak, and the allowed replies
"""Commands of every kind: for the server of one key, for several servers, for all servers, for the
proxy itself, and commands that the proxy or the server refuses. Every second client uses RESP3.

`EVAL` is used as an ECHO of the server: no two requests have the same reply.

**Transactions** increment two counters with one hash tag. Whatever happens, both are equal whenever
both are read at once. **SELECT**: the value of a key says in which database it was written.
**Blocking commands** take items that are all different: none may be taken twice. **PUBLISH**: see
messages.py.
"""

import re

import hiredis

from tests.soak.checks import Traffic, Wrong, check_value
from tests.soak.messages import BOARD, CHANNEL, PUBLISH, SHARD, WAITING, Publication, channels

ECHO = b"return {KEYS[1], ARGV[1]}"
# How many keys each client has for strings, counters, lists and hashes.
STRINGS, COUNTERS, LISTS, HASHES, PAIRS, QUEUES = 300, 40, 8, 8, 6, 4
DATABASES = 3
# Seconds that a blocking command waits.
WAIT = "0.02"

SERVER_ERROR = re.compile(r"ERR server '(s\d)' of pool '(\S+)': (.*)$")
POOL_ERROR = re.compile(r"ERR pool '(\S+)' has no live server: (.*)$")


class RedisTraffic(Traffic):
    PROTOCOL = "redis"
    NOTHING = object()
    COMMANDS = (
        (30, "get"),
        (20, "set"),
        (2, "set_get"),
        (8, "mget"),
        (4, "mset"),
        (3, "delete"),
        (2, "delete_several"),
        (2, "exists"),
        (6, "increment"),
        (3, "echo"),
        (2, "ping"),
        (2, "inline"),
        (1, "unknown"),
        (1, "arity"),
        (1, "wrong_type"),
        (2, "push"),
        (2, "range"),
        (2, "hash_set"),
        (2, "hash_get"),
        (4, "echo_of_server"),
        (1, "skip"),
        (0.3, "all_servers"),
        (0.1, "set_large"),
        (0.2, "get_large"),
        (2, "pair"),
        (2, "transaction"),
        (1, "watched_transaction"),
        (0.5, "refused_transaction"),
        (0.5, "select"),
        (2, "set_in_database"),
        (2, "get_in_database"),
        (1, "push_item"),
        (0.4, "take_item"),
        (0.2, "move_item"),
        (2, "publish"),
        (0.2, "publish_in_transaction"),
    )

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(number, seed)
        self.resp3 = False
        self.database = 0
        self.items: set[bytes] = set()
        # What its present connection has published.
        self.published: list[Publication] = []

    def reader(self) -> hiredis.Reader:
        return hiredis.Reader(notEnoughData=self.NOTHING)

    def waits(self, entry: tuple) -> bool:
        return entry[1][0] in ("BLPOP", "BLMOVE")

    def greeting(self) -> None:
        super().greeting()
        for one in self.published:
            if one.state == WAITING:
                # The connection has ended before the reply.
                one.end(False)
        self.published = []
        self.database = 0
        self.resp3 = self.number % 2 == 1
        if self.resp3:
            self.say(self.is_hello, "HELLO", "3")

    def part(self) -> bytes:
        whole: bytes = hiredis.pack_command(("SET", self.key("s", STRINGS), b"x" * 20_000))
        return whole[: self.random.choice((1, 5, 20, 1000, 19_000))]

    def say(self, check, *words, keys=(), detail=None):  # type: ignore[no-untyped-def]
        self.out.append(hiredis.pack_command(words))
        self.entries.append((check, words, self.sequence, keys, detail))

    # Requests

    def get(self) -> None:
        key = self.key("s", STRINGS)
        self.say(self.is_value, "GET", key, keys=(key,))

    def set(self) -> None:
        key = self.key("s", STRINGS)
        self.say(self.is_ok, "SET", key, self.value(key), keys=(key,))

    def set_get(self) -> None:
        key = self.key("s", STRINGS)
        self.say(self.is_value, "SET", key, self.value(key), "GET", keys=(key,))

    def mget(self) -> None:
        keys = self.keys("s", STRINGS, 12)
        self.say(self.is_values, "MGET", *keys, keys=tuple(keys))

    def mset(self) -> None:
        # If a key occurs twice, the last value is stored. Both have the same sequence number.
        keys = self.keys("s", STRINGS, 6)
        pairs = [word for key in keys for word in (key, self.value(key))]
        self.say(self.is_ok, "MSET", *pairs, keys=tuple(keys))

    def delete(self) -> None:
        key = self.key("s", STRINGS)
        self.say(self.is_count, "DEL", key, keys=(key,), detail=1)

    def delete_several(self) -> None:
        keys = self.keys("s", STRINGS, 5)
        self.say(self.is_count, "DEL", *keys, keys=tuple(keys), detail=len(keys))

    def exists(self) -> None:
        keys = self.keys("s", STRINGS, 8)
        self.say(self.is_count, "EXISTS", *keys, keys=tuple(keys), detail=len(keys))

    def increment(self) -> None:
        key = self.key("c", COUNTERS)
        self.say(self.is_sum, "INCRBY", key, self.step(key), keys=(key,))

    def echo(self) -> None:
        self.say(self.is_exactly, "ECHO", self.token(), detail=self.token())

    def ping(self) -> None:
        if self.random.random() < 0.5:
            self.say(self.is_exactly, "PING", detail=b"PONG")
        else:
            self.say(self.is_exactly, "PING", self.token(), detail=self.token())

    def inline(self) -> None:
        words = b"ECHO", self.token()
        self.out.append(b"%s %s\r\n" % words)
        self.entries.append((self.is_exactly, words, self.sequence, (), self.token()))

    def unknown(self) -> None:
        name = "nope-" + self.token().decode()
        self.say(self.is_error, name, detail=f"ERR unknown command '{name}', with args ")

    def arity(self) -> None:
        self.say(self.is_error, "GET", detail="ERR wrong number of arguments for 'get' command")

    def wrong_type(self) -> None:
        key = self.key("l", LISTS)
        self.say(self.is_wrong_type, "GET", key, keys=(key,))

    def push(self) -> None:
        key = self.key("l", LISTS)
        self.say(self.is_count, "LPUSH", key, self.value(key), keys=(key,), detail=1 << 60)
        self.say(self.is_ok, "LTRIM", key, "0", "5", keys=(key,))

    def range(self) -> None:
        key = self.key("l", LISTS)
        self.say(self.is_list, "LRANGE", key, "0", "-1", keys=(key,))

    def hash_set(self) -> None:
        key = self.key("h", HASHES)
        field = b"f%d" % self.random.randrange(5)
        words = key, field, self.value(key + b"." + field)
        self.say(self.is_count, "HSET", *words, keys=(key,), detail=1)

    def hash_get(self) -> None:
        key = self.key("h", HASHES)
        self.say(self.is_hash, "HGETALL", key, keys=(key,))

    def echo_of_server(self) -> None:
        key = self.key("e", STRINGS)
        words = "EVAL", ECHO, "1", key, self.token()
        self.say(self.is_exactly, *words, keys=(key,), detail=[key, self.token()])

    def skip(self) -> None:
        """Neither request has a reply."""
        key = self.key("s", STRINGS)
        self.out.append(hiredis.pack_command(("CLIENT", "REPLY", "SKIP")))
        self.out.append(hiredis.pack_command(("SET", key, self.value(key))))

    def all_servers(self) -> None:
        self.say(self.is_count, "DBSIZE", detail=1 << 60)

    def set_large(self) -> None:
        key = self.key("large", 1)
        self.say(self.is_ok, "SET", key, self.value(key, self.large()), keys=(key,))

    def get_large(self) -> None:
        key = self.key("large", 1)
        self.say(self.is_value, "GET", key, keys=(key,))

    def pair_of_keys(self) -> tuple[bytes, bytes]:
        tag = self.key("p", PAIRS)
        return b"{%b}a" % tag, b"{%b}b" % tag

    def pair(self) -> None:
        keys = self.pair_of_keys()
        self.say(self.is_pair, "MGET", *keys, keys=keys)

    def transaction(self) -> None:
        keys = self.pair_of_keys()
        self.say(self.is_exactly, "MULTI", detail=b"OK")
        for key in keys:
            self.say(self.is_queued, "INCR", key, keys=keys)
        if self.random.random() < 0.3:
            self.say(self.is_queued, "MGET", *keys, keys=keys)
        if self.random.random() < 0.2:
            self.say(self.is_queued, "PING", keys=keys)
        if self.random.random() < 0.1:
            self.say(self.is_exactly, "DISCARD", detail=b"OK")
        else:
            self.say(self.is_exec, "EXEC", keys=keys)

    def watched_transaction(self) -> None:
        keys = self.pair_of_keys()
        self.say(self.is_watch, "WATCH", *keys, keys=keys)
        choice = self.random.random()
        if choice < 0.2:
            self.say(self.is_exactly, "UNWATCH", detail=b"OK")
        elif choice < 0.4:
            self.say(self.is_pair, "MGET", *keys, keys=keys)
        self.transaction()

    def refused_transaction(self) -> None:
        keys = self.pair_of_keys()
        self.say(self.is_exactly, "MULTI", detail=b"OK")
        self.say(self.is_queued, "INCR", keys[0], keys=keys)
        self.arity()
        self.say(self.is_error, "EXEC", detail="EXECABORT ")

    def select(self) -> None:
        self.database = self.random.randrange(DATABASES)
        self.say(self.is_exactly, "SELECT", self.database, detail=b"OK")

    def name_in_database(self, key: bytes) -> bytes:
        """What a value says that was written to this key in the client's database."""
        return b"%b@%d" % (key, self.database)

    def set_in_database(self) -> None:
        key = self.key("d", STRINGS)
        self.say(self.is_ok, "SET", key, self.value(self.name_in_database(key)), keys=(key,))

    def get_in_database(self) -> None:
        key = self.key("d", STRINGS)
        self.say(self.is_of_database, "GET", key, keys=(key,), detail=self.name_in_database(key))

    def push_item(self) -> None:
        key = self.key("{q}", QUEUES)
        self.items.add(self.token())
        self.say(self.is_count, "RPUSH", key, self.token(), keys=(key,), detail=1 << 60)

    def take_item(self) -> None:
        key, other = self.key("{q}", QUEUES), self.key("{q}", QUEUES)
        self.say(self.is_item, "BLPOP", key, other, WAIT, keys=(key, other))

    def move_item(self) -> None:
        key, other = self.key("{q}", QUEUES), self.key("{q}", QUEUES)
        words = "BLMOVE", key, other, "LEFT", "RIGHT", WAIT
        self.say(self.is_moved, *words, keys=(key, other))

    def publication(self) -> tuple[Publication, tuple[str, bytes, bytes]]:
        """And its command."""
        kind = self.random.choice((CHANNEL, CHANNEL, CHANNEL, SHARD))
        channel = self.random.choice(channels(self.pool))
        text = self.value(channel)
        one = BOARD.publish(kind, channel, self.number, self.connection, self.sequence)
        self.published.append(one)
        return one, (PUBLISH[kind], channel, text)

    def publish(self) -> None:
        one, words = self.publication()
        self.say(self.is_receivers, *words, keys=(one.channel,), detail=one)

    def publish_in_transaction(self) -> None:
        one, words = self.publication()
        keys = (one.channel,)
        self.say(self.is_exactly, "MULTI", detail=b"OK")
        self.say(self.is_queued, *words, keys=keys)
        self.say(self.is_published, "EXEC", keys=keys, detail=one)

    def token(self) -> bytes:
        return b"%d-%d" % (self.number, self.sequence)

    # Replies

    def is_value(self, entry, reply):  # type: ignore[no-untyped-def]
        if reply is not None:
            if isinstance(reply, hiredis.ReplyError):
                return self.failure(entry, reply)
            check_value(reply, self.number, entry[1][1], entry[2])
        return None

    def is_values(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if not isinstance(reply, list) or len(reply) != len(entry[3]):
            raise Wrong("not as many values as keys")
        for key, found in zip(entry[3], reply, strict=True):
            if found is not None:
                check_value(found, self.number, key, entry[2])
        return None

    def is_list(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if not isinstance(reply, list):
            raise Wrong("no list")
        for found in reply:
            check_value(found, self.number, entry[1][1], entry[2])
        return None

    def is_hash(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if not isinstance(reply, dict if self.resp3 else list):
            raise Wrong("no hash")
        pairs = reply.items() if self.resp3 else zip(reply[::2], reply[1::2], strict=True)
        for field, found in pairs:
            check_value(found, self.number, entry[1][1] + b"." + field, entry[2])
        return None

    def is_count(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if type(reply) is not int or not 0 <= reply <= entry[4]:
            raise Wrong(f"not a number up to {entry[4]}")
        return None

    def is_sum(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if type(reply) is not int:
            raise Wrong("no number")
        self.check_sum(reply, entry[1][1])
        return None

    def is_ok(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if reply != b"OK":
            raise Wrong("not OK")
        return None

    def is_pair(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if not isinstance(reply, list) or len(reply) != 2 or reply[0] != reply[1]:
            raise Wrong("half of a transaction")
        return None

    def is_queued(self, entry, reply):  # type: ignore[no-untyped-def]
        if str(reply).startswith("EXECABORT ") and self.pool.endswith("-hasty"):
            # The ring has changed since MULTI or WATCH.
            return "EXECABORT"
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if reply != b"QUEUED":
            raise Wrong("not queued")
        return None

    def is_exec(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return (
                "EXECABORT" if str(reply).startswith("EXECABORT ") else self.failure(entry, reply)
            )
        if reply is None:
            return "null"
        if not isinstance(reply, list) or not 2 <= len(reply) <= 4 or reply[0] != reply[1]:
            raise Wrong("half of a transaction")
        if any(found not in (b"PONG", [b"%d" % reply[0]] * 2) for found in reply[2:]):
            raise Wrong("another value than that of the transaction")
        return None

    def is_watch(self, entry, reply):  # type: ignore[no-untyped-def]
        # The connection of an earlier WATCH has ended, or the servers have changed.
        if str(reply).startswith("EXECABORT "):
            return "EXECABORT"
        return self.is_ok(entry, reply)

    def is_of_database(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if reply is not None:
            check_value(reply, self.number, entry[4], entry[2])
        return None

    def is_item(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if reply is None:
            return None
        if not isinstance(reply, list) or len(reply) != 2 or reply[0] not in entry[3]:
            raise Wrong("no item of one of the lists")
        if reply[1] not in self.items:
            raise Wrong("an item that nobody has pushed, or that was taken already")
        self.items.remove(reply[1])
        return None

    def is_moved(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            return self.failure(entry, reply)
        if reply is not None and reply not in self.items:
            raise Wrong("an item that nobody has pushed, or that was taken already")
        return None

    def is_exactly(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError) and entry[3]:
            return self.failure(entry, reply)
        if reply != entry[4]:
            raise Wrong(f"not {entry[4]!r}")
        return None

    def is_error(self, entry, reply):  # type: ignore[no-untyped-def]
        if not isinstance(reply, hiredis.ReplyError) or not str(reply).startswith(entry[4]):
            raise Wrong(f"not the error {entry[4]!r}")
        return "refused"

    def is_wrong_type(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("WRONGTYPE "):
            return "WRONGTYPE"
        if reply is None:
            return None
        return self.failure(entry, reply)

    def is_hello(self, entry, reply):  # type: ignore[no-untyped-def]
        if isinstance(reply, hiredis.ReplyError):
            # Nutproxy asks a server for its version, as long as none has told it.
            self.resp3 = False
            return self.failure(entry, reply)
        if not isinstance(reply, dict) or reply[b"proto"] != 3:
            raise Wrong("not the reply to HELLO")
        return None

    def is_receivers(self, entry, reply):  # type: ignore[no-untyped-def]
        """The reply to PUBLISH."""
        done = type(reply) is int
        entry[4].end(done)
        return None if done and reply >= 0 else self.failure(entry, reply)

    def is_published(self, entry, reply):  # type: ignore[no-untyped-def]
        done = isinstance(reply, list) and len(reply) == 1 and type(reply[0]) is int
        entry[4].end(done)
        if str(reply).startswith("EXECABORT "):
            return "EXECABORT"
        return None if done else self.failure(entry, reply)

    def failure(self, entry, reply):  # type: ignore[no-untyped-def]
        """The kind of an error that the server or the proxy may send. Otherwise raises Wrong."""
        text = str(reply)
        if match := SERVER_ERROR.match(text):
            self.check_server(match[1], entry[3])
        else:
            match = POOL_ERROR.match(text)
        if match:
            if match[match.lastindex - 1] != self.pool:
                raise Wrong("an error of another pool")
            return match[match.lastindex].partition(";")[0]
        if text.startswith(f"ERR the servers of pool '{self.pool}' have changed, send "):
            return "moved"
        if text.startswith(("OOM ", "LOADING ")):
            return text.partition(" ")[0]
        raise Wrong("not an error that this request can have")
