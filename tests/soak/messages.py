# tests/soak/messages.py: what was published, and what a subscription must get
"""Every client of Redis publishes (redis.py), some subscribe as well (pubsub.py).

    PUBLISH ──> BOARD, before it is sent; its reply ──> BOARD: carried out, or failed
    a message ──> Topic.message compares it with the BOARD

A channel belongs to one pool and to the clients of one process, so this process knows everything
that is published to it. Checked of each message: it was published to this channel, it is complete,
and it comes once to each subscription. Two messages of one publisher come in order, unless the
first one's PUBLISH has failed, so that nobody knows when the server has carried it out.

**Gaps.** A message is missing if it was published after the subscription began, and one that was
published after the reply to it has come. The connection to the server must have ended since
SUBSCRIBE was sent, or since the last message was published that did come. The main process gets
these times, and looks whether nutproxy has counted a gap of that server then.

**At the end of a round** all servers work. Each subscription must get one more message from each
of its channels. So a subscription that was lost for good is found, too.
"""

import fnmatch
import os
import time
from dataclasses import dataclass, field

from tests.soak.checks import Wrong, check_value

CHANNELS = 12  # of each pool and process
# By kind: as in nutproxy/proto/table.py.
CHANNEL, PATTERN, SHARD = range(3)
PUBLISH = {CHANNEL: "PUBLISH", SHARD: "SPUBLISH"}
# What has become of a PUBLISH.
WAITING, DONE, FAILED = range(3)
# The number of the client that publishes at the end of a round.
LAST = 9999


def channels(pool: str) -> list[bytes]:
    """Those of the clients of this process."""
    return [b"news:%b:%d:%d" % (pool.encode(), os.getpid(), number) for number in range(CHANNELS)]


def patterns(pool: str) -> list[bytes]:
    prefix = b"%b:%d" % (pool.encode(), os.getpid())
    endings = (b":*", b":?", b":1?", b":[0-4]", b":[^0-4]", b":\\7")
    return [b"news:" + prefix + ending for ending in endings] + [b"*:" + prefix + b":*"]


def matches(pattern: bytes, channel: bytes) -> bool:
    pattern = pattern.replace(b"[^", b"[!").replace(b"\\", b"")
    return fnmatch.fnmatchcase(channel.decode(), pattern.decode())


@dataclass(slots=True)
class Publication:
    channel: bytes
    kind: int
    publisher: int
    connection: int
    sequence: int
    sent: float
    replied: float = 0.0
    state: int = WAITING

    def end(self, done: bool) -> None:
        self.state = DONE if done else FAILED
        self.replied = time.monotonic()


class Board:
    """What the clients of this process have published."""

    def __init__(self) -> None:
        # By kind and channel: in the order in which they were sent, and by publisher and sequence.
        self.sent: dict[tuple[int, bytes], list[Publication]] = {}
        self.found: dict[tuple[int, bytes], dict[tuple[int, int], Publication]] = {}
        # Messages that came after a later one of their publisher.
        self.late: list[Publication] = []

    def publish(
        self, kind: int, channel: bytes, publisher: int, connection: int, sequence: int
    ) -> Publication:
        one = Publication(channel, kind, publisher, connection, sequence, time.monotonic())
        self.of(kind, channel).append(one)
        self.found.setdefault((kind, channel), {})[publisher, sequence] = one
        return one

    def of(self, kind: int, channel: bytes) -> list[Publication]:
        return self.sent.setdefault((kind, channel), [])

    def check_late(self) -> str:
        """When all replies have come."""
        late, self.late = self.late, []
        for one in late:
            if one.state == DONE:
                return f"out of order: message {one.sequence} of client {one.publisher}"
        return ""


BOARD = Board()


@dataclass
class Topic:
    """A subscription of a client, which has been confirmed. `began` is when it was asked for."""

    kind: int
    name: bytes
    began: float
    # Whether messages of one channel come from one server only.
    steady: bool
    seen: set[tuple[bytes, int, int]] = field(default_factory=set)
    # By publisher and its connection: the last sequence number.
    last: dict[tuple[bytes, int, int], int] = field(default_factory=dict)
    # By channel: the first publication that was not looked for yet.
    places: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind != PATTERN:
            self.places[self.name] = len(BOARD.of(self.kind, self.name))

    def message(self, channel: bytes, payload: object) -> list[tuple[float, float]]:
        """Raises Wrong if this may not come. Returns between which times messages were lost."""
        kind = SHARD if self.kind == SHARD else CHANNEL
        if not (matches(self.name, channel) if self.kind == PATTERN else channel == self.name):
            raise Wrong(f"a message of {channel.decode()}, to which it is not subscribed")
        words = payload.split(b" ", 2) if isinstance(payload, bytes) else []
        if len(words) != 3 or not (words[0] + words[1]).isdigit():
            raise Wrong("a message that no client has published")
        publisher, sequence = int(words[0]), int(words[1])
        check_value(payload, publisher, channel, sequence + 1)
        one = BOARD.found.get((kind, channel), {}).get((publisher, sequence))
        if one is None:
            raise Wrong("a message that was not published to this channel")
        if (channel, publisher, sequence) in self.seen:
            raise Wrong("a message that has come already")
        self.seen.add((channel, publisher, sequence))
        source = (channel, publisher, one.connection)
        if sequence < self.last.get(source, 0):
            if self.steady:
                BOARD.late.append(one)
        else:
            self.last[source] = sequence
        return self.missing(kind, channel, one) if self.steady else []

    def missing(self, kind: int, channel: bytes, one: Publication) -> list[tuple[float, float]]:
        """Look for messages that should have come before this one."""
        sent = BOARD.of(kind, channel)
        # A pattern is subscribed later on a server that was down.
        place = self.places.get(channel, len(sent))
        spans = {}
        while place < len(sent):
            earlier = sent[place]
            if earlier.state == WAITING or not earlier.replied < one.sent:
                break
            if earlier.state == DONE and not self.has(earlier):
                spans[self.heard_before(sent, place), time.monotonic()] = None
            place += 1
        self.places[channel] = place
        return list(spans)

    def has(self, one: Publication) -> bool:
        return (one.channel, one.publisher, one.sequence) in self.seen

    def heard_before(self, sent: list[Publication], place: int) -> float:
        """Since when messages may have been lost, if this one is: when the last one was sent that
        was certainly carried out before it, and has come."""
        for other in reversed(sent[:place]):
            if other.state == DONE and other.replied < sent[place].sent and self.has(other):
                return other.sent
        return self.began
