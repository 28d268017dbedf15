# tests/soak/binary.py: the requests of a client of the soak that speaks Memcached's binary protocol
"""Every request has an opaque of its own, which also names the client, so a response says which
request it belongs to. Quiet requests are sent in groups, and a NoOp ends the group: a response with
the opaque of a later request shows that those before it were silent.
"""

import re

from tests.binary import Op, Response, ResponseReader, Status, counting, expiring, request, storage
from tests.soak.checks import Traffic, Wrong, check_value
from tests.soak.memcache import flags_of

ITEMS, COUNTERS, ENCODED = 300, 40, 40

SERVER_ERROR = re.compile(rb"server '(s\d)' of pool '(\S+)': (.*)$")
POOL_ERROR = re.compile(rb"pool '(\S+)' has no live server: (.*)$")


class BinaryTraffic(Traffic):
    PROTOCOL = "memcached"
    COMMANDS = (
        (25, "get"),
        (20, "set"),
        (3, "add"),
        (2, "replace"),
        (3, "cas"),
        (1, "append"),
        (3, "delete"),
        (6, "increment"),
        (2, "touch"),
        (3, "get_and_touch"),
        (8, "get_many"),
        (4, "set_many"),
        (4, "quiet"),
        (2, "no_operation"),
        (1, "version"),
        (0.2, "statistics"),
        (1, "unknown"),
        (0.02, "flush"),
        (0.1, "set_large"),
        (0.2, "get_large"),
    )

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(number, seed)
        self.opaque = 0
        self.uniques: dict[bytes, int] = {}

    def reader(self) -> ResponseReader:
        return ResponseReader()

    def part(self) -> bytes:
        whole = request(Op.SET, self.key("s", ITEMS), b"x" * 20_000, extras=storage())
        return whole[: self.random.choice((1, 5, 23, 24, 40, 1000, 19_000))]

    def say(self, check, opcode, key=b"", value=b"", extras=b"", cas=0, detail=None, quiet=False):  # type: ignore[no-untyped-def]
        self.opaque = (self.opaque + 1) % (1 << 24)
        opaque = self.number << 24 | self.opaque
        self.out.append(request(opcode, key, value, extras=extras, opaque=opaque, cas=cas))
        self.entries.append((check, (opcode, key), self.sequence, opaque, detail, quiet))

    def any_key(self) -> bytes:
        """Some keys cannot be written in a line of text."""
        if self.random.random() < 0.2:
            return self.key("\n\t", ENCODED)
        return self.key("s", ITEMS)

    def extras(self, key: bytes) -> bytes:
        return storage(flags_of(key))

    # Requests

    def get(self) -> None:
        self.say(self.is_value, self.random.choice((Op.GET, Op.GETK)), self.any_key())

    def set(self) -> None:
        key = self.any_key()
        self.say(self.is_status, Op.SET, key, self.value(key), self.extras(key), detail=())

    def add(self) -> None:
        key = self.any_key()
        detail = (Status.EXISTS,)
        self.say(self.is_status, Op.ADD, key, self.value(key), self.extras(key), detail=detail)

    def replace(self) -> None:
        key = self.any_key()
        detail = (Status.NOT_FOUND,)
        self.say(self.is_status, Op.REPLACE, key, self.value(key), self.extras(key), detail=detail)

    def cas(self) -> None:
        if not self.uniques:
            return self.get()
        key, unique = self.uniques.popitem()
        value, extras = self.value(key), self.extras(key)
        detail = (Status.EXISTS, Status.NOT_FOUND)
        opcode = self.random.choice((Op.SET, Op.REPLACE))
        return self.say(self.is_status, opcode, key, value, extras, unique, detail)

    def append(self) -> None:
        """Nothing, so that the value stays one that can be checked."""
        opcode = self.random.choice((Op.APPEND, Op.PREPEND))
        self.say(self.is_status, opcode, self.key("s", ITEMS), detail=(Status.NOT_STORED,))

    def delete(self) -> None:
        self.say(self.is_status, Op.DELETE, self.any_key(), detail=(Status.NOT_FOUND,))

    def increment(self) -> None:
        key = self.key("c", COUNTERS)
        step = self.step(key)
        self.say(self.is_sum, Op.INCREMENT, key, extras=counting(step, step, 0))

    def touch(self) -> None:
        detail = (Status.NOT_FOUND,)
        self.say(self.is_status, Op.TOUCH, self.any_key(), extras=expiring(), detail=detail)

    def get_and_touch(self) -> None:
        opcode = self.random.choice((Op.GAT, Op.GATK))
        self.say(self.is_value, opcode, self.any_key(), extras=expiring())

    def get_many(self) -> None:
        """As clients read many keys."""
        opcode = self.random.choice((Op.GETQ, Op.GETKQ))
        for _ in range(self.random.choice((2, 5, 20, 100))):
            self.say(self.is_value, opcode, self.key("s", ITEMS), quiet=True)
        self.no_operation()

    def set_many(self) -> None:
        for _ in range(self.random.choice((2, 5, 20))):
            self.sequence += 1
            self.quiet_set()
        self.no_operation()

    def quiet_set(self) -> None:
        key = self.any_key()
        self.say(
            self.is_status, Op.SETQ, key, self.value(key), self.extras(key), detail=(), quiet=True
        )

    def quiet(self) -> None:
        """Many kinds, each silent if it succeeds; a get if it does not."""
        for _ in range(self.random.randint(1, 12)):
            self.sequence += 1
            key = self.any_key()
            kind = self.random.randrange(5)
            if kind == 0:
                opcode = self.random.choice((Op.GATQ, Op.GATKQ))
                self.say(self.is_value, opcode, key, extras=expiring(), quiet=True)
            elif kind == 1:
                self.say(self.is_status, Op.DELETEQ, key, detail=(Status.NOT_FOUND,), quiet=True)
            elif kind == 2:
                counter = self.key("c", COUNTERS)
                step = self.step(counter)
                extras = counting(step, step, 0)
                self.say(self.is_status, Op.INCREMENTQ, counter, b"", extras, detail=(), quiet=True)
            elif kind == 3:
                self.say(self.is_value, Op.GETKQ, key, quiet=True)
            else:
                self.quiet_set()
        self.no_operation()

    def no_operation(self) -> None:
        self.say(self.is_local, Op.NOOP, detail=b"")

    def version(self) -> None:
        self.say(self.is_local, Op.VERSION, detail=b"1.")

    def statistics(self) -> None:
        self.say(self.is_statistic, Op.STAT)

    def unknown(self) -> None:
        opcode = self.random.choice((0x30, Op.VERBOSITY))
        self.say(
            self.is_status, opcode, b"key", b"value", b"extras", detail=(Status.UNKNOWN_COMMAND,)
        )

    def flush(self) -> None:
        self.say(self.is_status, Op.FLUSH, detail=())

    def set_large(self) -> None:
        key = self.key("large", 1)
        value = self.value(key, self.large())
        self.say(self.is_status, Op.SET, key, value, self.extras(key), detail=())

    def get_large(self) -> None:
        self.say(self.is_value, Op.GETK, self.key("large", 1))

    # Responses

    def check(self, entry, reply: Response) -> None:  # type: ignore[no-untyped-def]
        if (reply.opcode, reply.opaque) != (entry[1][0], entry[3]):
            raise Wrong("another's opcode or opaque")

    def is_value(self, entry, reply):  # type: ignore[no-untyped-def]
        self.check(entry, reply)
        opcode, key = entry[1]
        shown = key if opcode in (Op.GETK, Op.GETKQ, Op.GATK, Op.GATKQ) else b""
        if reply.status not in (Status.OK, Status.NOT_FOUND):
            return self.failure(entry, reply)
        if reply.key != shown:
            raise Wrong("another key")
        if reply.status == Status.NOT_FOUND:
            if entry[5] or reply.value != (b"" if shown else b"Not found"):
                raise Wrong("not a miss")
            return None
        if reply.flags != flags_of(key):
            raise Wrong("other flags")
        check_value(reply.value, self.number, key, entry[2])
        self.uniques[key] = reply.cas
        return None

    def is_status(self, entry, reply):  # type: ignore[no-untyped-def]
        self.check(entry, reply)
        if reply.status == Status.OK and not entry[5]:
            if reply.value or reply.key:
                raise Wrong("a success with a value")
            return None
        return None if reply.status in entry[4] else self.failure(entry, reply)

    def is_sum(self, entry, reply):  # type: ignore[no-untyped-def]
        self.check(entry, reply)
        if reply.status:
            return self.failure(entry, reply)
        self.check_sum(reply.number, entry[1][1])
        return None

    def is_local(self, entry, reply):  # type: ignore[no-untyped-def]
        self.check(entry, reply)
        if reply.status or not reply.value.startswith(entry[4]):
            raise Wrong(f"not {entry[4]!r}")

    def is_statistic(self, entry, reply):  # type: ignore[no-untyped-def]
        self.check(entry, reply)
        if reply.status:
            raise Wrong("an error instead of a statistic")
        return self.MORE if reply.key else None

    def failure(self, entry, reply):  # type: ignore[no-untyped-def]
        """The kind of an error that the server or the proxy may send. Otherwise raises Wrong."""
        if reply.status in (Status.OK, Status.NOT_FOUND, Status.EXISTS):
            raise Wrong("not a response that this request can have")
        if match := SERVER_ERROR.match(reply.value):
            key = entry[1][1]
            self.check_server(match[1].decode(), (key,) if key else ())
        else:
            match = POOL_ERROR.match(reply.value)
        if match:
            if match[match.lastindex - 1].decode() != self.pool:
                raise Wrong("an error of another pool")
            return match[match.lastindex].decode()
        if reply.status == Status.OUT_OF_MEMORY:
            return "out of memory"
        raise Wrong("not a response that this request can have")

    def passes_over(self, entry, reply: Response) -> bool:  # type: ignore[no-untyped-def]
        """Only quiet requests may have no response."""
        return entry[5] and reply.opaque != entry[3]
