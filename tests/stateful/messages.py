# tests/stateful/messages.py: messages of subscriptions, and what may differ about them
"""A client's frames are compared without its messages, and the messages by themselves: nutproxy
gets replies and messages on different connections, so a message may come before or after a reply
that the client was to get at the same time. The versions of Redis differ there, too: 7.0 sends the
message of a client's own PUBLISH before the reply, 7.2 after it. In two cases the order of messages
is not compared:

- those of different channels, in a pool of several servers, which have a connection each
- those of one PUBLISH for several patterns: Redis keeps patterns in a hash table

The same with the confirmations of one UNSUBSCRIBE without names. But a message must not come
before the confirmation of its subscription, nor after that of its end (`Subscriptions`).
"""

import re
from collections.abc import Iterator

import hiredis

MESSAGE = re.compile(rb"[*>](?:3\r\n\$7\r\n|4\r\n\$8\r\np|3\r\n\$8\r\ns)message\r\n")
# What ends the message frame: a channel and a payload, each of a known form.
CHANNEL = re.compile(rb"\$\d+\r\n((?:\{t\})?(?:c|own)\d)\r\n\$\d+\r\n(m\d+)\r\n$")
ENDED = re.compile(rb"(?:[*>]3\r\n\$\d+\r\n[ps]?unsubscribe\r\n\$\d+\r\n[^\r]*\r\n:\d+\r\n){2,}")
NAME = re.compile(rb"unsubscribe\r\n\$\d+\r\n([^\r]*)\r\n")
# In the reply to PUBSUB CHANNELS.
NAMES = re.compile(rb"(?:\$\d+\r\n(?:\{t\})?(?:c|own)\d\r\n)+")
ONE = re.compile(rb"\$\d+\r\n(?:\{t\})?(?:c|own)\d\r\n")


def parted(frames: list[bytes], several: bool) -> tuple[list[bytes], list[bytes]]:
    """The replies, and the messages in an order that does not depend on what may differ. `several`:
    they come from several servers."""
    replies = [frame for frame in frames if not MESSAGE.match(frame)]
    messages = []
    for place, frame in enumerate(frame for frame in frames if MESSAGE.match(frame)):
        found = CHANNEL.search(frame)
        assert found is not None, frame
        messages.append((found[1] if several else b"", place, found[2], frame))
    messages.sort()
    ordered: list[bytes] = []
    while messages:
        # All of one PUBLISH.
        same = [
            each for each in messages if each[0] == messages[0][0] and each[2] == messages[0][2]
        ]
        ordered += sorted(frame for *_, frame in same)
        messages = [each for each in messages if each not in same]
    return replies, ordered


def in_order(data: bytes) -> bytes:
    """Replies in which names stand in the order of their letters."""
    data = ENDED.sub(lambda ended: b" ".join([b"ended", *sorted(NAME.findall(ended[0]))]), data)
    return NAMES.sub(lambda names: b"".join(sorted(ONE.findall(names[0]))), data)


# What a subscription gets.
KINDS = {b"subscribe": b"message", b"psubscribe": b"pmessage", b"ssubscribe": b"smessage"}


class Subscriptions:
    """Those of one client, as its frames say."""

    def __init__(self) -> None:
        self.names: set[tuple[bytes, bytes]] = set()

    def wrong(self, frames: list[bytes]) -> bytes:
        """The first message that comes without a subscription, or b""."""
        for frame in frames:
            if frame == b"+RESET\r\n":
                self.names.clear()
            elif b"subscribe\r\n" in frame:
                for word, name in confirmations(decoded(frame)):
                    if word in KINDS:
                        self.names.add((KINDS[word], name))
                    else:
                        kind = KINDS[word.replace(b"un", b"", 1)]
                        self.names.discard((kind, name))
            elif MESSAGE.match(frame):
                word, name, *_ = decoded(frame)
                if (word, name) not in self.names:
                    return frame
        return b""


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole frames at the beginning, and the rest. In RESP3 the reply to EXEC can have a push
    as an element, if SUBSCRIBE was queued, so nutproxy's own parser of replies refuses it."""
    frames = []
    start = 0
    while (end := end_of(data, start)) > 0:
        frames.append(data[start:end])
        start = end
    return frames, data[start:]


def end_of(data: bytes, start: int) -> int:
    """Where the frame ends that begins here, or 0 if more bytes are needed."""
    values = 1
    while values:
        line = data.find(b"\r\n", start)
        if line < 0:
            return 0
        kind, values = data[start : start + 1], values - 1
        if kind in b"$=!*%~>|":
            number = max(int(data[start + 1 : line]), 0)
            if kind in b"$=!":
                line += number + 2 if data[start + 1 : start + 2] != b"-" else 0
            else:
                values += number * (2 if kind in b"%|" else 1) + (kind == b"|")
        start = line + 2
    return start if start <= len(data) else 0


def decoded(frame: bytes) -> list:  # type: ignore[type-arg]
    reader = hiredis.Reader()
    reader.feed(frame)
    found = reader.gets()
    return found if isinstance(found, list) else []


def confirmations(reply: list) -> Iterator[tuple[bytes, bytes]]:  # type: ignore[type-arg]
    """Those in a frame, which may be the reply to EXEC."""
    if len(reply) == 3 and isinstance(reply[0], bytes) and reply[0].endswith(b"subscribe"):
        yield reply[0], reply[1]
    for element in reply:
        if isinstance(element, list):
            yield from confirmations(element)
