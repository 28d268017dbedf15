# tests/stateful/conversation.py: random conversations of several clients
"""`draw(seed, pool)` makes a conversation: a list of turns. In a turn, one client sends a few units
in one write, or in several that cut them anywhere. A unit is a list of commands that belong
together. `MAKERS` is the table of units: who adds a command to it adds a row.

A `Model` knows as much of a client's state as is needed to leave out what nutproxy documents as
different. Everything else may come at any time, most of all where it is wrong.
"""

import copy
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import hiredis

POOLS = ("one", "three")
# The hash tag that all keys have in a pool of several servers.
TAG = b"{t}"
KEYS = 5
DATABASES = 3  # of 16: so few that clients meet in them

SCRIPTS = [
    b"return redis.call('INCR', KEYS[1])",
    b"redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], 1, {false, 'x'}, 3.9}",
    b"return redis.pcall('LPUSH', KEYS[1], ARGV[1])",
    b"return {err = 'MINE of the script'}",
    b"redis.setresp(3) return redis.call('HGETALL', KEYS[1])",
]

# For all servers of a pool: refused in a transaction if there are several.
FOR_ALL = {b"KEYS", b"DBSIZE", b"FLUSHALL", b"FLUSHDB", b"SWAPDB", b"SCRIPT"}
# Refused in a transaction.
NOT_QUEUED = {b"HELLO", b"PUBSUB"}

# They may wait for what others do.
BLOCKING = {
    *(b"BLPOP", b"BRPOP", b"BLMOVE", b"BRPOPLPUSH", b"BLMPOP", b"BZPOPMIN", b"BZPOPMAX", b"BZMPOP"),
    *(b"XREAD", b"XREADGROUP"),
}

# Subscribed to by all clients; several servers have some of them each. No pattern matches a channel
# of one client alone.
CHANNELS = (b"c0", b"c1", b"c2", b"c3")
PATTERNS = (b"c*", b"c?", b"?1", b"[c]2", b"c[^23]", b"nothing*")
# The part of the conversations in which clients subscribe.
LISTENING = 0.4

SUBSCRIBING = {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"}
UNSUBSCRIBING = {b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"}
PUBLISHING = {b"PUBLISH", b"SPUBLISH"}
# In one turn, a client changes no subscriptions after PUBLISH: nutproxy does not wait for a message
# on its way from the server. In a transaction, it ends none before it asks for a number of
# receivers: there nutproxy passes on the server's number.
ENDING = UNSUBSCRIBING | {b"RESET", b"QUIT", b"HELLO"}
COUNTING = PUBLISHING | {b"PUBSUB"}

# A command: its words, or an inline command as it is sent.
Command = tuple[bytes, ...] | bytes
Unit = list[Command]


@dataclass
class Turn:
    actor: int
    units: list[Unit]
    cuts: tuple[float, ...] = ()  # where its bytes are cut: parts of the whole

    @property
    def commands(self) -> list[Command]:
        return [command for unit in self.units for command in unit]

    def writes(self) -> list[bytes]:
        """Its bytes, cut."""
        data = b"".join(
            command if isinstance(command, bytes) else hiredis.pack_command(command)
            for command in self.commands
        )
        ends = sorted({int(cut * len(data)) for cut in self.cuts} | {len(data)})
        pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return [piece for piece in pieces if piece]


class Model:
    """What is known of a client."""

    def __init__(self, pool: str, actor: int) -> None:
        self.pool = pool
        self.actor = actor
        self.multi = False
        # In this turn: it has published, or has ended subscriptions.
        self.published = False
        self.ended = False
        self.closed = False
        self.waits = False  # for another client, perhaps: it has said enough in this turn

    def permits(self, command: Command) -> bool:
        """Whether the client may send this now."""
        words = words_of(command)
        if self.closed or self.waits:
            return False
        if self.published and words[0] in SUBSCRIBING | ENDING:
            return False
        if self.multi and self.ended and words[0] in COUNTING:
            return False
        if self.pool != "one" and (words[0] == b"SCAN" or words[:2] == [b"SCRIPT", b"EXISTS"]):
            return False
        if self.multi:
            if words[0] in NOT_QUEUED or words[:2] == [b"CLIENT", b"REPLY"]:
                return False
            if self.pool != "one" and words[0] in FOR_ALL:
                return False
        return True

    def say(self, command: Command) -> None:
        """The client has sent this."""
        words = words_of(command)
        if words == [b"MULTI"]:
            self.multi = True
        elif words[0] == b"EXEC" or words in ([b"DISCARD"], [b"RESET"]):
            self.multi = False
        elif words[0] == b"QUIT":
            self.closed = True
        self.waits = words[0] in BLOCKING and not self.multi
        self.ended = self.ended or words[0] in ENDING
        self.published = self.published or words[0] in PUBLISHING

    def end_turn(self) -> None:
        self.waits = False
        if not self.multi:
            self.published = self.ended = False


def words_of(command: Command) -> list[bytes]:
    words = command.split() if isinstance(command, bytes) else list(command)
    return [words[0].upper(), *words[1:]]


class Draw:
    """Draws units for one client after the other."""

    def __init__(self, seed: int, pool: str) -> None:
        self.random = random.Random(f"{seed} {pool}")
        self.pool = pool
        self.tag = b"" if pool == "one" else TAG
        self.model = Model(pool, 0)
        self.actors = 0
        self.listening = self.random.random() < LISTENING
        self.messages = 0

    def key(self) -> bytes:
        return b"%bk%d" % (self.tag, self.random.randrange(KEYS))

    def value(self) -> bytes:
        if self.random.random() < 0.03:
            return b"%d " % self.random.randrange(10) * self.random.choice([100, 400, 2000])
        return self.short()

    def short(self) -> bytes:
        return self.random.choice([b"", b"1", b"-7", b"2.5", b"a", b"b c", b"\r\n", b"+OK\r\n"])

    def number(self) -> bytes:
        return b"%d" % self.random.randrange(-2, 5)

    def id(self) -> bytes:
        return b"%d-1" % self.random.randrange(9)

    def database(self) -> bytes:
        if self.random.random() < 0.04:
            return self.random.choice([b"16", b"-1", b"x", b""])
        return b"%d" % self.random.randrange(DATABASES)

    def channel(self) -> bytes:
        return self.random.choice(CHANNELS)

    def pattern(self) -> bytes:
        return self.random.choice(PATTERNS)

    def own(self) -> bytes:
        """A channel to which no other client subscribes."""
        return b"%bown%d" % (self.tag, self.model.actor)

    def others(self) -> bytes:
        """The same of another client, or of nobody."""
        actor = self.random.choice([n for n in range(self.actors + 1) if n != self.model.actor])
        return b"%bown%d" % (self.tag, actor)

    def message(self) -> bytes:
        self.messages += 1
        return b"m%d" % self.messages

    def unit(self) -> Unit:
        """The next unit of this client, which its model permits."""
        table = IN_MULTI if self.model.multi else MAKERS
        if self.listening:
            table = table + (LISTENING_IN_MULTI if self.model.multi else LISTENING_MAKERS)
        while True:
            [(_, maker)] = self.random.choices(table, [weight for weight, _ in table])
            unit = maker(self)
            after = copy.copy(self.model)
            if len(permitted(after, unit)) == len(unit):
                self.model.__dict__.update(after.__dict__)
                return unit


def draw(seed: int, pool: str) -> list[Turn]:
    drawn = Draw(seed, pool)
    rng = drawn.random
    models = [Model(pool, actor) for actor in range(rng.choice([2, 2, 3, 4]))]
    drawn.actors = len(models)
    turns = []
    for actor, model in enumerate(models):
        drawn.model = model
        if rng.random() < 0.7:
            turns.append(Turn(actor, [[(b"HELLO", rng.choice([b"2", b"3"]))]]))
    for _ in range(rng.randrange(4, 24)):
        living = [actor for actor, model in enumerate(models) if not model.closed]
        if not living:
            break
        actor = rng.choice(living)
        drawn.model = models[actor]
        units: list[Unit] = []
        for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
            if not drawn.model.closed and not drawn.model.waits:
                units.append(drawn.unit())
        drawn.model.end_turn()
        cuts = tuple(rng.random() for _ in range(rng.randrange(1, 4))) if rng.random() < 0.3 else ()
        turns.append(Turn(actor, units, cuts))
    return turns


def permitted(model: Model, commands: Unit) -> Unit:
    """Those that the client may send, one after the other. It has sent them then."""
    found: Unit = []
    for command in commands:
        if model.permits(command):
            model.say(command)
            found.append(command)
    return found


def acceptable(turns: list[Turn], pool: str) -> bool:
    """Whether all of it may be said. Something that came before may have been left out."""
    models: dict[int, Model] = {}
    for turn in turns:
        model = models.setdefault(turn.actor, Model(pool, turn.actor))
        if len(permitted(model, turn.commands)) < len(turn.commands):
            return False
        model.end_turn()
    return True


def blocks(turns: list[Turn]) -> bool:
    """Whether a client may wait for another one in it."""
    return any(words_of(command)[0] in BLOCKING for turn in turns for command in turn.commands)


def listens(turns: list[Turn]) -> bool:
    """Whether a client subscribes in it."""
    return any(words_of(command)[0] in SUBSCRIBING for turn in turns for command in turn.commands)


# What clients say
# ----------------------------------------------------------------------------------------------

Maker = Callable[[Draw], Unit]


def said(*templates: str) -> Maker:
    """Commands in which <key>, <value>, <number>, <database> and <script> are drawn."""
    split = [template.split() for template in templates]

    def maker(draw: Draw) -> Unit:
        return [tuple(word_of(draw, word) for word in words) for words in split]

    return maker


def word_of(draw: Draw, word: str) -> bytes:
    if not word.startswith("<"):
        return word.encode()
    if word == "<script>":
        return draw.random.choice(SCRIPTS)
    if word == "<sha>":
        return hashlib.sha1(draw.random.choice(SCRIPTS)).hexdigest().encode()
    found: bytes = getattr(draw, word[1:-1])()
    return found


DATA = tuple(
    said(template)
    for template in """
SET <key> <value>
SET <key> <value>
SET <key> <number>
SET <key> <value> NX GET
GET <key>
GET <key>
GETDEL <key>
INCR <key>
INCR <key>
INCRBYFLOAT <key> 0.5
APPEND <key> <value>
MGET <key> <key> <key>
MSET <key> <value> <key> <value>
MSETNX <key> <value> <key> <value>
DEL <key>
DEL <key> <key>
UNLINK <key>
EXISTS <key> <key>
TYPE <key>
RENAME <key> <key>
LPUSH <key> <value> <number>
RPUSH <key> <value>
LPOP <key>
LPOP <key> 2
LRANGE <key> 0 -1
RPOPLPUSH <key> <key>
HSET <key> f <short> g <number>
HINCRBY <key> g 2
HGETALL <key>
SADD <key> 1 2 3
SREM <key> 2
SMEMBERS <key>
ZADD <key> 1.5 m <number> n
ZRANGE <key> 0 -1 WITHSCORES
ZSCORE <key> m
XADD <key> <id> f <value>
XRANGE <key> - +
XGROUP CREATE <key> g 0 MKSTREAM
XACK <key> g <id>
XREAD COUNT 2 STREAMS <key> 0
EXPIREAT <key> 4102444800
EXPIRETIME <key>
PERSIST <key>
COPY <key> <key>
SORT <key> ALPHA
EVAL <script> 1 <key> <value>
EVAL <script> 1 <key> <value>
EVALSHA 0123456789012345678901234567890123456789 1 <key>
OBJECT ENCODING <key>
DUMP <key>
""".strip().splitlines()
)
WAITING = tuple(
    said(template)
    for template in """
BLPOP <key> 0
BLPOP <key> <key> 0
BRPOP <key> <key> <key> 0
BLMOVE <key> <key> LEFT RIGHT 0
BRPOPLPUSH <key> <key> 0
BLMPOP 0 2 <key> <key> RIGHT COUNT 2
BZPOPMIN <key> 0
BZPOPMAX <key> <key> 0
BZMPOP 0 1 <key> MIN
XREAD BLOCK 0 STREAMS <key> $
XREAD COUNT 1 BLOCK 0 STREAMS <key> <key> 3-1 $
XREADGROUP GROUP g c BLOCK 0 STREAMS <key> >
XREADGROUP GROUP g c BLOCK 0 STREAMS <key> 0
BLPOP <key> -1
BLPOP <key> x
BLPOP <key>
BLMOVE <key> <key> LEFT UP 0
BLMPOP 0 0 <key> LEFT
XREAD BLOCK -1 STREAMS <key> $
""".strip().splitlines()
)
WHOLE = tuple(
    said(template)
    for template in """
DBSIZE
KEYS *
KEYS *0
FLUSHDB
FLUSHALL
SCRIPT EXISTS <sha> <sha>
SCRIPT LOAD <script>
""".strip().splitlines()
)
DATABASE = tuple(
    said(template)
    for template in """
SELECT <database>
SELECT <database>
SELECT <database>
MOVE <key> <database>
COPY <key> <key> DB <database>
COPY <key> <key> DB <database> REPLACE
SWAPDB <database> <database>
SELECT
SELECT 1 2
""".strip().splitlines()
)
OWN = tuple(
    said(template)
    for template in """
PING
PING <value>
ECHO <value>
CLIENT SETNAME <number>
CLIENT GETNAME
CLIENT NOSUCH
OBJECT HELP
""".strip().splitlines()
)
WRONG = tuple(
    said(template)
    for template in """
NOSUCH <value>
GET
SET <key>
MULTI x
EXEC x
DISCARD x
WATCH
UNWATCH x
INCR <key> <key>
EVAL
OBJECT
PING a b
EVAL return 2 <key>
SORT <key> STORE
""".strip().splitlines()
)


def any_of(makers: tuple[Maker, ...]) -> Maker:
    return lambda draw: draw.random.choice(makers)(draw)


def scan(draw: Draw) -> Unit:
    """All of it at once: cursors differ between servers."""
    return [(b"SCAN", b"0", b"COUNT", b"1000"), (b"SCAN", b"0", b"MATCH", b"*1", b"COUNT", b"999")]


def script(draw: Draw) -> Unit:
    """Loaded before it is named: nutproxy gives a server that has lost a script the script again,
    even if the client has named it before."""
    chosen = draw.random.choice(SCRIPTS)
    sha = hashlib.sha1(chosen).hexdigest().encode()
    return [
        (b"EVAL", chosen, b"1", draw.key(), draw.value()),
        (b"EVALSHA", sha, b"1", draw.key(), draw.value()),
    ]


def watch_and_transaction(draw: Draw) -> Unit:
    """In one write, so the proxy gets EXEC before WATCH has been answered."""
    return [(b"WATCH", draw.key(), draw.key()), *transaction(draw)]


def transaction(draw: Draw) -> Unit:
    return [(b"MULTI",), *queued(draw), (draw.random.choice([b"EXEC", b"EXEC", b"DISCARD"]),)]


def subscribe(draw: Draw) -> Unit:
    names = [draw.own() if draw.random.random() < 0.2 else draw.channel() for _ in range(4)]
    word = draw.random.choice([b"SUBSCRIBE", b"SUBSCRIBE", b"SSUBSCRIBE"])
    return [(word, *names[: draw.random.choice([1, 1, 2, 4])])]


def unsubscribe(draw: Draw) -> Unit:
    word = draw.random.choice([b"UNSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"])
    one = draw.pattern if word == b"PUNSUBSCRIBE" else draw.channel
    names = [one(), one(), draw.own()][: draw.random.choice([0, 1, 1, 2, 3])]
    return [(word, *names)]


def leave(draw: Draw) -> Unit:
    """All that a client in RESP2 needs to be able to send other commands again."""
    return [(b"UNSUBSCRIBE",), (b"PUNSUBSCRIBE",), (b"SUNSUBSCRIBE",)]


def queued_listening(draw: Draw) -> Unit:
    """PUBLISH goes to channels of other clients: Redis 7.0 sends the message of a client's own
    PUBLISH within the reply to EXEC. And to those of one client only: nutproxy passes on a server's
    number of receivers."""
    [(_, maker)] = draw.random.choices(LISTENING_IN_MULTI, [each for each, _ in LISTENING_IN_MULTI])
    return maker(draw)


def queued(draw: Draw) -> Unit:
    """What comes between MULTI and EXEC. It is drawn as in a transaction."""
    model, draw.model = draw.model, Model(draw.pool, draw.model.actor)
    draw.model.multi = True
    unit: Unit = []
    while len(unit) < draw.random.choice([0, 1, 2, 4, 9]):
        makers = [any_of(DATA), any_of(DATA), any_of(OWN), any_of(DATABASE), any_of(WAITING)]
        if draw.listening:
            makers.append(queued_listening)
        unit += any_of(tuple(makers))(draw)
    unit = permitted(draw.model, unit)
    draw.model = model
    return unit


def unanswered(draw: Draw) -> Unit:
    """The last reply comes when all has been done."""
    inner = draw.random.choice([any_of(DATA), transaction, any_of(WRONG), watch_and_transaction])
    unit = inner(draw)
    if draw.random.random() < 0.3:
        return [(b"CLIENT", b"REPLY", b"SKIP"), any_of(DATA)(draw)[0], (b"PING",)]
    return [(b"CLIENT", b"REPLY", b"OFF"), *unit, (b"CLIENT", b"REPLY", b"ON")]


def inline(draw: Draw) -> Unit:
    key = draw.key()
    return [
        draw.random.choice(
            [
                b"PING\r\n",
                b"GET %b\r\n" % key,
                b'  set %b "a\\x00 b"\r\n' % key,
                b"multi\n",
                b"EXEC\r\n",
                b"incr %b\r\n" % key,
                b"nosuch 'x y'\r\n",
                b"\r\nPING\r\n",
            ]
        )
    ]


# Weights: outside of a transaction, and in one.
MAKERS: list[tuple[float, Maker]] = [
    (30, any_of(DATA)),
    (4, any_of(WHOLE)),
    (6, any_of(DATABASE)),
    (3, any_of(OWN)),
    (3, any_of(WRONG)),
    (2, scan),
    (6, any_of(WAITING)),
    (2, script),
    (10, said("MULTI")),
    (8, said("WATCH <key>")),
    (2, said("WATCH <key> <key>")),
    (2, said("UNWATCH")),
    (3, transaction),
    (3, watch_and_transaction),
    (0.7, said("EXEC")),
    (0.7, said("DISCARD")),
    (2, unanswered),
    (2, inline),
    (2, said("HELLO 2")),
    (2, said("HELLO 3")),
    (0.3, said("HELLO 4")),
    (0.3, said("HELLO x")),
    (0.3, said("HELLO 3 SETNAME <number>")),
    (0.3, said("HELLO 3 SETNAME")),
    (1, said("RESET")),
    (0.3, said("QUIT")),
]
IN_MULTI: list[tuple[float, Maker]] = [
    (30, any_of(DATA)),
    (3, any_of(WHOLE)),
    (5, any_of(DATABASE)),
    (5, any_of(OWN)),
    (1.5, any_of(WRONG)),
    (1, scan),
    (2, any_of(WAITING)),
    (1, said("MULTI")),
    (1, said("WATCH <key>")),
    (1, said("UNWATCH")),
    (20, said("EXEC")),
    (3, said("DISCARD")),
    (1, inline),
    (0.7, said("RESET")),
    (0.3, said("QUIT")),
]
# The same in conversations in which clients subscribe.
LISTENING_MAKERS: list[tuple[float, Maker]] = [
    (14, subscribe),
    (6, said("PSUBSCRIBE <pattern>")),
    (2, said("PSUBSCRIBE <pattern> <pattern>")),
    (8, unsubscribe),
    (6, leave),
    (25, said("PUBLISH <channel> <message>")),
    (3, said("PUBLISH <own> <message>")),
    (3, said("PUBLISH <others> <message>")),
    (6, said("SPUBLISH <channel> <message>")),
    (1, said("SPUBLISH <others> <message>")),
    (1, said("PUBSUB CHANNELS")),
    (1, said("PUBSUB CHANNELS *[12]")),
    (1, said("PUBSUB SHARDCHANNELS")),
    (2, said("PUBSUB NUMSUB <channel> <own> <channel>")),
    (1, said("PUBSUB SHARDNUMSUB <channel>")),
    (2, said("PUBSUB NUMPAT")),
    (0.5, said("PUBSUB CHANNELS a b")),
    (0.5, said("PUBSUB nosuch")),
    (0.5, said("SUBSCRIBE")),
    (0.5, said("PUBLISH <channel>")),
    (0.5, said("PSUBSCRIBE")),
    (2, said("PING")),
    (2, said("PING <message>")),
    (2, said("RESET")),
    (2, said("RESET", "HELLO 3")),
]
LISTENING_IN_MULTI: list[tuple[float, Maker]] = [
    (3, subscribe),
    (2, said("PSUBSCRIBE <pattern>")),
    (3, unsubscribe),
    (4, said("PUBLISH <others> <message>")),
    (1, said("SPUBLISH <others> <message>")),
    (0.5, said("PUBLISH <channel>")),
    (0.5, said("SUBSCRIBE")),
]
