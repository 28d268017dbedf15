"""A short soak of each kind, and tests that its checks detect wrong replies. `make soak` runs a
longer one.

NUTPROXY_SOAK_SECONDS changes the duration of each soak."""

import os

import hiredis
import pytest

from tests import sanitize
from tests.binary import Op, Response
from tests.memcache import MemcacheReader
from tests.soak.binary import BinaryTraffic
from tests.soak.checks import Wrong, check_value, value
from tests.soak.memcache import MemcacheTraffic, flags_of
from tests.soak.messages import BOARD, CHANNEL, PATTERN, Topic, channels, matches, patterns
from tests.soak.pubsub import SubscriberTraffic
from tests.soak.redis import RedisTraffic
from tests.soak.run import Failed, Gaps, Soak

SECONDS = float(os.environ.get("NUTPROXY_SOAK_SECONDS", "30"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("arguments", [(), ("-m", "512")], ids=["default", "m512"])
@pytest.mark.parametrize("protocol", ["redis", "memcached"])
def test_no_client_gets_another_clients_reply(protocol, arguments):
    soak = Soak(SECONDS, (protocol,), arguments, seed=1, measures=not sanitize.ACTIVE)
    try:
        soak.run()
    except Failed as why:
        pytest.fail(f"{why}\n{soak.closing_line('FAILED')}")
    assert soak.report.checked > 0


GOOD = value(7, 100, b"k", 50)


@pytest.mark.parametrize(
    "found",
    [
        value(8, 100, b"k", 50),
        value(7, 100, b"other", 50),
        value(7, 101, b"k", 50),
        GOOD[:-1],
        GOOD + b"x",
        GOOD[:-5] + b"#####",
        b"",
        b"OK",
        7,
        None,
    ],
)
def test_a_value_of_another_request_is_detected(found):
    check_value(GOOD, 7, b"k", 101)
    with pytest.raises(Wrong):
        check_value(found, 7, b"k", 101)


def answers(traffic):
    """The entries of some requests of this client. A reply to one of them is wrong for another."""
    _, _, entries = traffic.pipeline(2000)
    return entries


def test_a_redis_reply_to_another_request_is_detected():
    traffic = RedisTraffic(3, 1)
    echoes = [entry for entry in answers(traffic) if entry[0] == traffic.is_exactly]
    sums = [entry for entry in answers(traffic) if entry[0] == traffic.is_sum]
    tokens = {str(entry[4]): entry for entry in echoes if entry[4] != b"PONG"}
    first, second, *_ = tokens.values()
    assert first[0](first, first[4]) is None
    for reply in second[4], None, b"OK", hiredis.ReplyError("ERR server 's9' of pool 'x': y"):
        with pytest.raises(Wrong):
            first[0](first, reply)
    one, other = {entry[1][1]: entry for entry in sums}.popitem()[1], echoes[0]
    assert one[0](one, int(one[1][2])) is None
    for reply in int(one[1][2]) + 1, other[4], None:
        with pytest.raises(Wrong):
            one[0](one, reply)


def publication(channel, sequence, publisher=3, connection=1, done=True):
    """And its message."""
    one = BOARD.publish(CHANNEL, channel, publisher, connection, sequence)
    if done is not None:
        one.end(done)
    return value(publisher, sequence, channel, 10)


@pytest.fixture
def channel():
    BOARD.__init__()
    return channels("redis-plain")[7]


def test_a_message_that_was_not_published_or_comes_twice_is_detected(channel):
    topic = Topic(CHANNEL, channel, 0.0, True)
    other = channels("redis-plain")[8]
    message, others = publication(channel, 1), publication(other, 2)
    assert topic.message(channel, message) == []
    for name, found in (
        (channel, message),
        (channel, others),
        (other, others),
        (channel, value(3, 3, channel, 10)),
        (channel, message[:-1]),
        (channel, 7),
    ):
        with pytest.raises(Wrong):
            topic.message(name, found)


def test_a_message_out_of_order_is_detected(channel):
    topic = Topic(CHANNEL, channel, 0.0, True)
    for done, connection, expected in (
        (True, 1, "out of order"),
        (False, 2, ""),  # nobody knows when it was carried out
    ):
        first = publication(channel, 10 * connection, connection=connection, done=done)
        topic.message(channel, publication(channel, 10 * connection + 1, connection=connection))
        topic.message(channel, first)
        assert BOARD.check_late().startswith(expected)
        assert BOARD.check_late() == ""


def test_messages_that_are_missing_are_reported(channel):
    for topic in (
        Topic(CHANNEL, channel, 0.0, True),
        Topic(PATTERN, patterns("redis-plain")[0], 0.0, True),
    ):
        number = 100 * (topic.kind + 1)
        assert topic.message(channel, publication(channel, number)) == []
        publication(channel, number + 1, done=False)
        assert topic.message(channel, publication(channel, number + 2)) == []
        publication(channel, number + 3)
        [(start, end)] = topic.message(channel, publication(channel, number + 4))
        assert start < end
        assert topic.message(channel, publication(channel, number + 5)) == []


def test_a_loss_that_was_not_counted_is_detected():
    def looked(*counts):
        gaps = Gaps.__new__(Gaps)
        gaps.look = lambda: None
        gaps.read = [
            (10.0 * at, 10.0 * at + 1, {("redis-plain", 2): n}) for at, n in enumerate(counts)
        ]
        return gaps

    hole = ("redis-plain", 2, 15.0, 25.0)
    for counts in (0, 0, 1, 1), (0, 0, 0, 1), (3, 3, 4, 4):
        looked(*counts).check([hole])
    for counts in (0, 0, 0, 0), (0, 1, 1, 1), (0, 0, 0, 0, 1):
        with pytest.raises(Failed):
            looked(*counts).check([hole])


def test_the_patterns_of_the_soak_match_as_in_redis():
    names = channels("redis-plain")
    counts = [sum(matches(one, name) for name in names) for one in patterns("redis-plain")]
    assert counts == [12, 10, 2, 5, 5, 1, 12]


def test_a_confirmation_of_another_subscription_is_detected():
    traffic = SubscriberTraffic(0, 1)
    traffic.subscribe()
    [entry] = traffic.pipeline(0)[2]
    word, name = entry[1][0].lower().encode(), entry[1][1]
    for reply in (
        [word, name, 2],
        [word, b"other", 1],
        [b"un" + word, name, 1],
        [word, name],
        hiredis.PushNotification([word, name, 1]),
        b"OK",
    ):
        with pytest.raises(Wrong):
            entry[0]((*entry[:4], (0.0, [*entry[4][1]])), reply)
        traffic.topics = {}
    assert entry[0](entry, [word, name, 1]) in (None, traffic.MORE)
    assert not traffic.takes([b"pong", b"x", b"y"])
    with pytest.raises(Wrong):
        traffic.takes([b"message", b"another channel", b"x"])


def test_a_memcached_reply_to_another_request_is_detected():
    traffic = MemcacheTraffic(3, 1)
    entries = answers(traffic)
    metas = [entry for entry in entries if entry[0] == traffic.is_meta and not entry[5]]
    first, second = metas[:2]
    mine, others = (b"HD k%b O%b\r\n" % (entry[3][0], entry[4][0]) for entry in (first, second))
    assert first[0](first, mine) is None
    for reply in others, b"STORED\r\n", b"END\r\n", b"MN\r\n":
        with pytest.raises(Wrong):
            first[0](first, reply)


def test_quiet_requests_without_a_reply_are_skipped():
    traffic = MemcacheTraffic(3, 1)
    one, two = [entry for entry in answers(traffic) if entry[5]][:2]
    token = two[4] if isinstance(two[4], bytes) else two[4][0]
    assert traffic.passes_over(one, b"HD O%b\r\n" % token)
    assert not traffic.passes_over(two, b"HD O%b\r\n" % token)
    assert not traffic.passes_over(one, b"SERVER_ERROR x\r\n")
    assert traffic.passes_over(one, b"MN\r\n")


def binary_response(entry, status=0, value=b"", opaque=None, extras=b""):
    (opcode, _), token = entry[1], entry[3]
    return Response(opcode, status, token if opaque is None else opaque, 1, extras, b"", value, b"")


def test_a_binary_response_to_another_request_is_detected():
    traffic = BinaryTraffic(3, 1)
    entries = answers(traffic)
    gets = [entry for entry in entries if entry[1][0] == Op.GET]
    sets = [entry for entry in entries if entry[1][0] == Op.SET]
    first, second = gets[:2]
    key = first[1][1]
    flags = flags_of(key).to_bytes(4, "big")
    mine = value(3, 0, key, 10)
    assert first[0](first, binary_response(first, value=mine, extras=flags)) is None
    assert first[0](first, binary_response(first, 1, b"Not found")) is None
    assert sets[0][0](sets[0], binary_response(sets[0])) is None
    for entry, wrong in (
        (first, binary_response(first, value=mine, extras=flags, opaque=second[3])),
        (first, binary_response(second, 1, b"Not found")),
        (first, binary_response(first, value=value(4, 0, key, 10), extras=flags)),
        (first, binary_response(first, value=mine, extras=b"\1\1\1\1")),
        (first, binary_response(first, 2, b"Data exists for key.")),
        (first, binary_response(first, 0x86, b"server 's9' of pool 'x': y")),
        (sets[0], binary_response(sets[1])),
        (sets[0], binary_response(sets[0], 1, b"Not found")),
    ):
        with pytest.raises(Wrong):
            entry[0](entry, wrong)


def test_quiet_binary_requests_without_a_response_are_skipped():
    traffic = BinaryTraffic(3, 1)
    one, two = [entry for entry in answers(traffic) if entry[5]][:2]
    assert traffic.passes_over(one, binary_response(two))
    assert not traffic.passes_over(two, binary_response(two))
    [loud, *_] = [entry for entry in answers(traffic) if not entry[5]]
    assert not traffic.passes_over(loud, binary_response(two))


def test_memcached_replies_are_read_from_pieces_of_any_size():
    replies = [
        b"END\r\n",
        b"VALUE k 0 8\r\nEND\r\nab\n\r\nVALUE j 0 0\r\n\r\nEND\r\n",
        b"VA 5 k O1\r\nEN\r\n\n\r\n",
        b"STAT a b\r\nSTAT c d\r\nEND\r\n",
        b"SERVER_ERROR x\r\n",
        b"12\r\n",
    ]
    data = b"".join(replies)
    for size in (1, 2, 3, 7, len(data)):
        reader = MemcacheReader()
        found = []
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            while (reply := reader.gets()) is not None:
                found.append(reply)
        assert found == replies
