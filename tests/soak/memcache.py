# tests/soak/memcache.py: the requests of a Memcached client of the soak, and the allowed replies
"""Classic and meta commands, with and without replies.

A quiet meta command may have no reply, so the next reply may belong to a later command. Quiet
commands are sent in groups, each with its own opaque, and `mn` ends the group. A reply with the
opaque of a later command shows that the commands before it were silent. An error has no opaque and
is taken for the reply to the first. The reply to `mn` shows that all remaining ones were silent.
"""

import base64
import re
import zlib

from tests.memcache import MemcacheReader
from tests.soak.checks import Traffic, Wrong, check_value

ITEMS, COUNTERS, BINARY = 300, 40, 40

SERVER_ERROR = re.compile(rb"SERVER_ERROR server '(s\d)' of pool '(\S+)': (.*)\r\n$")
POOL_ERROR = re.compile(rb"SERVER_ERROR pool '(\S+)' has no live server: (.*)\r\n$")
FULL = b"SERVER_ERROR out of memory storing object\r\n"


def flags_of(key: bytes) -> int:
    """The client flags of every value of this key."""
    return zlib.crc32(key) & 0xFFFF


class MemcacheTraffic(Traffic):
    PROTOCOL = "memcached"
    COMMANDS = (
        (30, "get"),
        (3, "gets"),
        (20, "set"),
        (3, "add"),
        (2, "cas"),
        (6, "get_several"),
        (2, "gat_several"),
        (3, "set_noreply"),
        (3, "delete"),
        (1, "delete_noreply"),
        (6, "increment"),
        (2, "touch"),
        (6, "meta_get"),
        (4, "meta_set"),
        (2, "meta_delete"),
        (2, "meta_increment"),
        (1, "meta_debug"),
        (4, "quiet"),
        (2, "no_operation"),
        (1, "version"),
        (1, "unknown"),
        (1, "bad_key"),
        (0.02, "flush"),
        (0.1, "set_large"),
        (0.2, "get_large"),
    )

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(number, seed)
        self.uniques: dict[bytes, bytes] = {}

    def reader(self) -> MemcacheReader:
        return MemcacheReader()

    def part(self) -> bytes:
        whole = b"set %s 0 0 20000\r\n" % self.key("s", ITEMS) + b"x" * 20_000
        return whole[: self.random.choice((1, 5, 20, 1000, 19_000))]

    def say(self, check, line, data=None, keys=(), detail=None, quiet=False):  # type: ignore[no-untyped-def]
        self.out.append(line + b"\r\n" if data is None else b"%s\r\n%s\r\n" % (line, data))
        self.entries.append((check, line, self.sequence, keys, detail, quiet))

    def silently(self, line: bytes, data: bytes | None = None) -> None:
        self.out.append(line + b"\r\n" if data is None else b"%s\r\n%s\r\n" % (line, data))

    def storage(self, name: bytes, key: bytes, data: bytes, more: bytes = b"") -> bytes:
        return b"%s %s %d 0 %d%s" % (name, key, flags_of(key), len(data), more)

    # Requests

    def get(self) -> None:
        key = self.key("s", ITEMS)
        self.say(self.is_values, b"get " + key, keys=(key,))

    def gets(self) -> None:
        key = self.key("s", ITEMS)
        self.say(self.is_values, b"gets " + key, keys=(key,))

    def set(self) -> None:
        key = self.key("s", ITEMS)
        data = self.value(key)
        self.say(self.is_one_of, self.storage(b"set", key, data), data, (key,), (b"STORED\r\n",))

    def add(self) -> None:
        key = self.key("s", ITEMS)
        data = self.value(key)
        replies = b"STORED\r\n", b"NOT_STORED\r\n"
        self.say(self.is_one_of, self.storage(b"add", key, data), data, (key,), replies)

    def cas(self) -> None:
        if not self.uniques:
            return self.gets()
        key, unique = self.uniques.popitem()
        data = self.value(key)
        replies = b"STORED\r\n", b"EXISTS\r\n", b"NOT_FOUND\r\n"
        line = self.storage(b"cas", key, data, b" " + unique)
        return self.say(self.is_one_of, line, data, (key,), replies)

    def get_several(self) -> None:
        keys = self.keys("s", ITEMS, 20)
        if self.random.random() < 0.3:
            keys.append(keys[0])
        name = self.random.choice((b"get ", b"gets "))
        self.say(self.is_values, name + b" ".join(keys), keys=tuple(keys))

    def gat_several(self) -> None:
        keys = self.keys("s", ITEMS, 5)
        self.say(self.is_values, b"gat 0 " + b" ".join(keys), keys=tuple(keys))

    def set_noreply(self) -> None:
        key = self.key("s", ITEMS)
        data = self.value(key)
        self.silently(self.storage(b"set", key, data, b" noreply"), data)

    def delete(self) -> None:
        key = self.key("s", ITEMS)
        replies = b"DELETED\r\n", b"NOT_FOUND\r\n"
        self.say(self.is_one_of, b"delete " + key, keys=(key,), detail=replies)

    def delete_noreply(self) -> None:
        self.silently(b"delete %s noreply" % self.key("s", ITEMS))

    def increment(self) -> None:
        key = self.key("c", COUNTERS)
        if self.random.random() < 0.3:
            self.silently(b"add %s 0 0 1 noreply" % key, b"0")
        self.say(self.is_sum, b"incr %s %d" % (key, self.step(key)), keys=(key,))

    def touch(self) -> None:
        key = self.key("s", ITEMS)
        replies = b"TOUCHED\r\n", b"NOT_FOUND\r\n"
        self.say(self.is_one_of, b"touch %s 0" % key, keys=(key,), detail=replies)

    def meta_get(self) -> None:
        if self.random.random() < 0.3:
            key = self.key("b", BINARY)
            words = b"mg %s b v k f s O%s" % (base64.b64encode(key), self.token())
        else:
            key = self.key("s", ITEMS)
            words = b"mg %s v k f s O%s" % (key, self.token())
        self.say(self.is_meta_value, words, keys=(key,), detail=self.token())

    def meta_set(self) -> None:
        key, written, flag = self.meta_key()
        data = self.value(key)
        line = b"ms %s %d%s k F%d O%s" % (written, len(data), flag, flags_of(key), self.token())
        self.say(self.is_meta, line, data, (key,), (self.token(), (b"HD",)))

    def meta_delete(self) -> None:
        key, written, flag = self.meta_key()
        line = b"md %s%s k O%s" % (written, flag, self.token())
        self.say(self.is_meta, line, None, (key,), (self.token(), (b"HD", b"NF")))

    def meta_key(self) -> tuple[bytes, bytes, bytes]:
        """A key, as it is written, and the flag that says so."""
        if self.random.random() < 0.3:
            key = self.key("b", BINARY)
            return key, base64.b64encode(key), b" b"
        key = self.key("s", ITEMS)
        return key, key, b""

    def meta_increment(self) -> None:
        key = self.key("c", COUNTERS)
        step = self.step(key)
        line = b"ma %s v N0 J%d D%d O%s" % (key, step, step, self.token())
        self.say(self.is_meta_sum, line, keys=(key,), detail=self.token())

    def meta_debug(self) -> None:
        key = self.key("s", ITEMS)
        self.say(self.is_debug, b"me " + key, keys=(key,))

    def quiet(self) -> None:
        for _ in range(self.random.randint(1, 12)):
            self.sequence += 1
            token = self.token()
            key, written, flag = self.meta_key()
            kind = self.random.randrange(3)
            if kind == 0:
                line = b"mg %s%s v k f s q O%s" % (written, flag, token)
                self.say(self.is_meta_value, line, None, (key,), token, True)
            elif kind == 1:
                data = self.value(key)
                line = b"ms %s %d%s k q F%d O%s" % (
                    *(written, len(data), flag, flags_of(key), token),
                )
                self.say(self.is_meta, line, data, (key,), (token, ()), True)
            else:
                line = b"md %s%s k q O%s" % (written, flag, token)
                self.say(self.is_meta, line, None, (key,), (token, (b"NF",)), True)
        self.no_operation()

    def no_operation(self) -> None:
        self.say(self.is_local, b"mn", detail=b"MN\r\n")

    def version(self) -> None:
        self.say(self.is_local, b"version", detail=b"VERSION ")

    def unknown(self) -> None:
        self.say(self.is_local, b"nope", detail=b"ERROR\r\n")

    def bad_key(self) -> None:
        line = b"get " + b"k" * 251
        self.say(self.is_local, line, detail=b"CLIENT_ERROR bad command line format\r\n")

    def flush(self) -> None:
        self.say(self.is_one_of, b"flush_all", detail=(b"OK\r\n",))

    def set_large(self) -> None:
        key = self.key("large", 1)
        data = self.value(key, self.large())
        self.say(self.is_one_of, self.storage(b"set", key, data), data, (key,), (b"STORED\r\n",))

    def get_large(self) -> None:
        key = self.key("large", 1)
        self.say(self.is_values, b"get " + key, keys=(key,))

    def token(self) -> bytes:
        return b"%d-%d" % (self.number, self.sequence)

    # Replies

    def is_values(self, entry, reply):  # type: ignore[no-untyped-def]
        if not reply.startswith((b"VALUE ", b"END\r\n")):
            return self.failure(entry, reply)
        at = 0
        keys = iter(entry[3])
        while (end := reply.index(b"\n", at) + 1) != len(reply):
            words = reply[at:end].split()
            # Values come in the order of the keys. `in` skips the keys that have no value.
            if words[0] != b"VALUE" or words[1] not in keys or int(words[2]) != flags_of(words[1]):
                raise Wrong("a value of another key, in another place, or with other flags")
            at = end + int(words[3]) + 2
            check_value(reply[end : at - 2], self.number, words[1], entry[2])
            if len(words) == 5:
                self.uniques[words[1]] = words[4]
        return None

    def is_one_of(self, entry, reply):  # type: ignore[no-untyped-def]
        return None if reply in entry[4] else self.failure(entry, reply)

    def is_local(self, entry, reply):  # type: ignore[no-untyped-def]
        if not reply.startswith(entry[4]):
            raise Wrong(f"not {entry[4]!r}")
        return

    def is_sum(self, entry, reply):  # type: ignore[no-untyped-def]
        if reply[:1].isdigit():
            self.check_sum(int(reply), entry[3][0])
            return None
        return None if reply == b"NOT_FOUND\r\n" else self.failure(entry, reply)

    def is_meta_sum(self, entry, reply):  # type: ignore[no-untyped-def]
        if not reply.startswith(b"VA "):
            return self.failure(entry, reply)
        head, data, _ = reply.split(b"\r\n")
        if head.split()[2:] != [b"O" + entry[4]]:
            raise Wrong("another's opaque")
        self.check_sum(int(data), entry[3][0])
        return None

    def is_meta_value(self, entry, reply):  # type: ignore[no-untyped-def]
        [key] = entry[3]
        if reply.startswith(b"EN"):
            return self.is_meta((*entry[:4], (entry[4], (b"EN",)), entry[5]), reply)
        if not reply.startswith(b"VA "):
            return self.failure(entry, reply)
        end = reply.index(b"\n") + 1
        words = reply[:end].split()[2:]
        data = reply[end:-2]
        shown = [b"k" + key]
        if b"b" in words:
            shown = [b"k" + base64.b64encode(key), b"b"]
        expected = [*shown, b"f%d" % flags_of(key), b"s%d" % len(data), b"O" + entry[4]]
        if words != expected:
            raise Wrong(f"not the flags {b' '.join(expected)!r}")
        check_value(data, self.number, key, entry[2])
        return None

    def is_meta(self, entry, reply):  # type: ignore[no-untyped-def]
        token, codes = entry[4]
        words = reply.split()
        if words[0] not in codes:
            return self.failure(entry, reply)
        if b"O" + token not in words:
            raise Wrong("another's opaque")
        return None

    def is_debug(self, entry, reply):  # type: ignore[no-untyped-def]
        if reply == b"EN\r\n" or reply.startswith(b"ME %s exp=" % entry[3][0]):
            return None
        return self.failure(entry, reply)

    def failure(self, entry, reply):  # type: ignore[no-untyped-def]
        """The kind of an error that the server or the proxy may send. Otherwise raises Wrong."""
        if match := SERVER_ERROR.match(reply):
            if not entry[5]:
                self.check_server(match[1].decode(), entry[3])
        else:
            match = POOL_ERROR.match(reply)
        if match:
            if match[match.lastindex - 1].decode() != self.pool:
                raise Wrong("an error of another pool")
            return match[match.lastindex].decode()
        if reply == FULL:
            return "out of memory"
        raise Wrong("not a reply that this request can have")

    def passes_over(self, entry, reply: bytes) -> bool:  # type: ignore[no-untyped-def]
        """Only quiet commands may have no reply."""
        if not entry[5] or reply.startswith(b"SERVER_ERROR "):
            return False
        token = entry[4] if isinstance(entry[4], bytes) else entry[4][0]
        return b"O" + token not in reply[: reply.index(b"\n")].split()
