# tests/soak/pubsub.py: clients of the soak that subscribe
"""They come and go, and pause between their pipelines, so that a subscription lasts for a while. In
RESP2 they do nothing else; in RESP3 messages come between replies of every other kind."""

import itertools
import time

import hiredis

from tests.soak.checks import Wrong, value
from tests.soak.messages import (
    BOARD,
    CHANNEL,
    LAST,
    PATTERN,
    PUBLISH,
    SHARD,
    Publication,
    Topic,
    channels,
    matches,
    patterns,
)
from tests.soak.redis import RedisTraffic

SUBSCRIBE = ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE")
UNSUBSCRIBE = ("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE")
MESSAGES = {b"message": CHANNEL, b"pmessage": PATTERN, b"smessage": SHARD}
# The number of the first one. So no other client has its keys.
FIRST = 1000
# Seconds between two pipelines, at most.
PAUSE = 0.1

ONLY = (
    (6, "subscribe"),
    (3, "unsubscribe"),
    (0.5, "unsubscribe_all"),
    (3, "ping_subscribed"),
    (0.3, "reset"),
)
# What RESP3 allows besides.
BESIDES = (
    (4, "get"),
    (4, "set"),
    (2, "mget"),
    (2, "increment"),
    (1, "transaction"),
    (1, "watched_transaction"),
    (1, "push_item"),
    (1, "take_item"),
    (4, "publish"),
    (1, "publish_in_transaction"),
    (0.1, "get_large"),
    (0.1, "set_large"),
)


class SubscriberTraffic(RedisTraffic):
    def __init__(self, number: int, seed: int) -> None:
        self.wants_resp3 = number % 2 == 1
        self.COMMANDS = ONLY + BESIDES if self.wants_resp3 else ONLY
        super().__init__(FIRST + number, seed)
        self.topics: dict[tuple[int, bytes], Topic] = {}
        # At the end of a round: the subscriptions and channels whose last message has not come.
        self.awaited: set[tuple[int, bytes, bytes]] | None = None

    def greeting(self) -> None:
        super().greeting()
        self.topics = {}
        self.awaited = None

    def pause(self) -> float:
        return self.random.random() * PAUSE

    # Requests

    def topic_names(self, kind: int) -> list[bytes]:
        return patterns(self.pool) if kind == PATTERN else channels(self.pool)

    def subscribe(self) -> None:
        kind = self.random.choice((CHANNEL, CHANNEL, PATTERN, SHARD))
        names = self.random.choices(self.topic_names(kind), k=self.random.choice((1, 1, 2, 5)))
        # When, and the names whose confirmation has not come.
        detail = (time.monotonic(), names[:])
        # A pattern is on all servers.
        keys = () if kind == PATTERN else tuple(names)
        self.say(self.is_subscribed, SUBSCRIBE[kind], *names, keys=keys, detail=detail)

    def unsubscribe(self) -> None:
        kind = self.random.choice((CHANNEL, CHANNEL, PATTERN, SHARD))
        names = self.random.choices(self.topic_names(kind), k=self.random.choice((1, 1, 2, 5)))
        self.say(self.is_unsubscribed, UNSUBSCRIBE[kind], *names, detail=names[:])

    def unsubscribe_all(self) -> None:
        kind = self.random.choice((CHANNEL, PATTERN, SHARD))
        self.say(self.is_unsubscribed, UNSUBSCRIBE[kind])

    def ping_subscribed(self) -> None:
        self.say(self.is_pong, "PING", self.token(), detail=self.token())

    def reset(self) -> None:
        self.say(self.is_reset, "RESET")
        if self.wants_resp3:
            self.say(self.is_hello, "HELLO", "3")

    # Replies

    def count_of(self, kind: int) -> int:
        """What a confirmation says."""
        return sum((topic.kind == SHARD) == (kind == SHARD) for topic in self.topics.values())

    def frame_of(self, reply: object, word: str) -> list[object]:
        """A confirmation or a message, which is a push in RESP3."""
        if type(reply) is not (hiredis.PushNotification if self.resp3 else list):
            raise Wrong("no push" if self.resp3 else "no array")
        assert isinstance(reply, list)
        if len(reply) != 3 or reply[0] != word.lower().encode():
            raise Wrong(f"not the reply to {word}")
        return reply

    def is_subscribed(self, entry, reply):  # type: ignore[no-untyped-def]
        word, (began, names) = entry[1][0], entry[4]
        if isinstance(reply, hiredis.ReplyError) and len(names) == len(entry[1]) - 1:
            return self.failure(entry, reply)
        _, name, count = self.frame_of(reply, word)
        kind = SUBSCRIBE.index(word)
        if name != names.pop(0):
            raise Wrong("the confirmation of another name")
        if (kind, name) not in self.topics:
            steady = not self.pool.endswith("-hasty")
            self.topics[kind, name] = Topic(kind, name, began, steady)
        if count != self.count_of(kind):
            raise Wrong(f"not the number of its subscriptions, {self.count_of(kind)}")
        return self.MORE if names else None

    def is_unsubscribed(self, entry, reply):  # type: ignore[no-untyped-def]
        word, names = entry[1][0], entry[4]
        _, name, count = self.frame_of(reply, word)
        kind = UNSUBSCRIBE.index(word)
        mine = [each for each in self.topics if each[0] == kind]
        if names is None:
            # All of them, in any order.
            if (kind, name) not in self.topics and (mine or name is not None):
                raise Wrong("the end of another subscription")
        elif name != names.pop(0):
            raise Wrong("the end of another subscription")
        self.topics.pop((kind, name), None)
        if count != self.count_of(kind):
            raise Wrong(f"not the number of its subscriptions, {self.count_of(kind)}")
        return self.MORE if (len(mine) > 1 if names is None else names) else None

    def is_pong(self, entry, reply):  # type: ignore[no-untyped-def]
        subscribed = self.topics and not self.resp3
        if reply != ([b"pong", entry[4]] if subscribed else entry[4]):
            raise Wrong("not the reply to PING")

    def is_reset(self, entry, reply):  # type: ignore[no-untyped-def]
        if reply != b"RESET":
            raise Wrong("not the reply to RESET")
        self.topics = {}
        self.resp3 = False

    def is_hello(self, entry, reply):  # type: ignore[no-untyped-def]
        self.resp3 = True
        return super().is_hello(entry, reply)

    # Messages

    def takes(self, reply: object) -> bool:
        """Whether this is a message, which nobody has asked for. Raises Wrong if it may not come.
        In RESP2 a subscriber gets no other arrays that begin like one."""
        if not isinstance(reply, list) or not reply or type(reply[0]) is not bytes:
            return False
        kind = MESSAGES.get(reply[0])
        if kind is None or len(reply) != (4 if kind == PATTERN else 3):
            return False
        if self.resp3 != isinstance(reply, hiredis.PushNotification):
            raise Wrong("a message in another protocol")
        topic = self.topics.get((kind, reply[1]))
        if topic is None:
            raise Wrong("a message without a subscription")
        channel = reply[-2]
        for span in topic.message(channel, reply[-1]):
            self.holes.append((self.pool, self.router.explain(channel).server + 1, *span))
        if self.awaited is not None and reply[-1].startswith(b"%d " % LAST):
            self.awaited.discard((kind, topic.name, channel))
        self.messages += 1
        return True

    def is_finished(self) -> bool:
        """Asked at the end, when no reply is due: has each subscription got another message?"""
        if self.awaited is None:
            self.awaited = {
                (kind, name, channel)
                for kind, name in self.topics
                for channel in channels(self.pool)
                if (matches(name, channel) if kind == PATTERN else name == channel)
            }
        return not self.awaited


NUMBERS = itertools.count(1)


def last_messages(pool: str, connection: int) -> list[tuple[Publication, bytes]]:
    """A message to each channel of a pool, and its PUBLISH."""
    made = []
    for kind, word in PUBLISH.items():
        for channel in channels(pool):
            sequence = next(NUMBERS)
            one = BOARD.publish(kind, channel, LAST, connection, sequence)
            text = value(LAST, sequence, channel, 10)
            made.append((one, hiredis.pack_command((word, channel, text))))
    return made
