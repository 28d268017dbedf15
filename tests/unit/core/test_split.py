# tests/unit/core/test_split.py: requests with keys on several servers
"""Which parts are made of a request, byte by byte, and what they have in memory."""

import itertools
import random
import re

import hiredis
import pytest

from nutproxy.stepped import queued, state
from tests.unit.core.harness import array

# nutproxy sends no longer line of gat to memcached.
LINE_MAX = 2048
LONG_KEY = 250
MEGABYTE = 1 << 20


@pytest.fixture
def mc(make_rig):
    return make_rig(redis=False)


def link_memcached(rig):
    """A client, and connections to all servers."""
    client = rig.connect()
    for number, keys in enumerate(rig.keys):
        client.send_raw(b"get %b\r\n" % keys[0])
        rig.settle()
        rig.servers[number].session.reply(b"END\r\n")
        rig.settle()
    assert client.take() == b"END\r\n" * len(rig.keys)
    return client


def link(rig):
    client = rig.link_all() if rig.layout.redis else link_memcached(rig)
    received(rig)
    return client


def received(rig):
    """What each server has received since the last call."""
    return [server.session.take() for server in rig.servers]


def values(keys):
    """The reply of a memcached that has these keys."""
    return b"".join(b"VALUE %b 0 2\r\n%b\r\n" % (key, key[:2]) for key in keys) + b"END\r\n"


def reply_to_all(rig):
    """Every server sends the values of the keys in each request: `gat` has an exptime first."""
    for server in rig.servers:
        session = server.session
        while session.requests:
            command, *keys = session.requests[0]
            if rig.layout.redis:
                session.reply(array([key + b"!" for key in keys]))
            else:
                session.reply(values(keys[command.startswith(b"gat") :]))
    rig.settle()


def on_one_server(number, count):
    """Keys of 250 bytes that are all on this server, because of their hash tag."""
    return [b"{%b}%0*d" % (number, LONG_KEY - 2 - len(number), n) for n in range(count)]


# Redis
# --------------------------------------------------------------------------------


def test_part_has_the_keys_and_values_of_its_server_in_their_order(rig):
    client = link(rig)
    (a, c), (b, d) = rig.keys[0][:2], rig.keys[1][:2]
    client.send(b"mset", a, b"1", b, b"", c, b"x" * 12, d, b"\r\n", a, b"2")
    rig.settle()
    assert received(rig) == [
        hiredis.pack_command((b"mset", a, b"1", c, b"x" * 12, a, b"2")),
        hiredis.pack_command((b"mset", b, b"", d, b"\r\n")),
    ]
    assert rig.counter("fragments") == 2
    for server in rig.servers:
        server.session.reply(b"+OK\r\n")
    rig.settle()
    assert client.replies() == [b"OK"]


def test_number_of_arguments_may_have_more_digits_than_the_part_has(rig):
    client = link(rig)
    one, other = rig.keys[0], rig.keys[1][0]
    client.send(b"MGET", *one[:40], *one[:40], *one[:39], other)
    rig.settle()
    assert received(rig) == [
        hiredis.pack_command((b"MGET", *one[:40], *one[:40], *one[:39])),
        hiredis.pack_command((b"MGET", other)),
    ]
    reply_to_all(rig)
    assert [len(reply) for reply in client.replies()] == [120]


@pytest.mark.parametrize("servers", [2, 3, 20])
def test_replies_come_in_the_order_of_the_keys(make_rig, servers):
    rig = make_rig(servers=servers)
    draw = random.Random(servers)
    held = [(number, key) for number, keys in enumerate(rig.keys) for key in keys]
    client = link(rig)
    for count in (*range(2, 12), 500):
        asked = draw.choices(held, k=count)
        client.send(b"MGET", *(key for _, key in asked))
        rig.settle()
        for number, server in enumerate(rig.servers):
            keys = [key for place, key in asked if place == number]
            assert list(server.session.requests) == ([[b"MGET", *keys]] if keys else [])
        reply_to_all(rig)
        assert client.replies() == [[key + b"!" for _, key in asked]]


def test_request_whose_keys_are_all_on_one_server_is_forwarded_whole(rig):
    client = link(rig)
    request = hiredis.pack_command((b"MGET", *rig.keys[1][:9]))
    client.send_raw(request)
    rig.settle()
    assert received(rig) == [b"", request]
    [], [msg] = queued(rig.conn(client))
    assert msg["parts"] == []
    assert rig.counter("fragments") == 0
    reply_to_all(rig)
    assert [len(reply) for reply in client.replies()] == [9]


def test_only_a_large_request_is_shared(rig):
    """Its values may be copied if they are few, but not all of them."""
    client = link(rig)
    one, other = rig.keys[0], rig.keys[1]
    for size, shared in ((100_000, False), (MEGABYTE, True)):
        for server in rig.servers:
            server.session.reads = False
        client.send(b"MSET", one[0], b"v" * size, other[0], b"s", one[1], b"t")
        rig.settle()
        [], [parent] = queued(rig.conn(client))
        flags = [part["flags"] & {"request in pieces"} for part in parent["parts"]]
        assert flags == [{"request in pieces"} if shared else set(), set()]
        # It is not kept a second time.
        assert parent["req"]["length"] == 0
        for server in rig.servers:
            server.session.reads = True
        rig.settle()
        expected = (b"MSET", one[0], b"v" * size, one[1], b"t"), (b"MSET", other[0], b"s")
        assert received(rig) == [hiredis.pack_command(part) for part in expected]
        for server in rig.servers:
            server.session.reply(b"+OK\r\n")
        rig.settle()
        assert client.replies() == [b"OK"]


# Memcached
# --------------------------------------------------------------------------------


def test_part_of_a_get_has_the_keys_of_its_server_in_their_order(mc):
    client = link(mc)
    (a, c), (b, d) = mc.keys[0][:2], mc.keys[1][:2]
    client.send_raw(b"gets %b %b %b %b %b\r\n" % (a, b, c, d, a))
    mc.settle()
    assert received(mc) == [b"gets %b %b %b\r\n" % (a, c, a), b"gets %b %b\r\n" % (b, d)]
    reply_to_all(mc)
    assert client.take() == values([a, b, c, d, a])
    assert state(mc.conn(client))["pending"] == 0


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"  \r\n"])
@pytest.mark.parametrize("head", [b"get", b"  get", b"gat 100", b" gats   100"])
def test_runs_of_spaces_are_sent_as_one(mc, head, end):
    client = link(mc)
    a, b, c = mc.keys[0][0], mc.keys[1][0], mc.keys[0][1]
    client.send_raw(head + b"   %b %b  %b" % (a, b, c) + end)
    mc.settle()
    word = b" ".join(head.split())
    assert received(mc) == [b"%b %b %b\r\n" % (word, a, c), b"%b %b\r\n" % (word, b)]
    reply_to_all(mc)
    assert client.take() == values([a, b, c])


@pytest.mark.parametrize("head", [b"gat 0", b"gats 100", b"gat " + b"0" * 250])
def test_server_gets_several_parts_of_a_gat_that_would_be_too_long(mc, head):
    client = link(mc)
    # The length of a key that fills the line together with long ones.
    first = (LINE_MAX - len(head) - 2) % (LONG_KEY + 1) - 1
    for size in (first - 1, first, first + 1):
        keys = on_one_server(mc.keys[0][0], 30)
        keys[0] = b"{%b}" % mc.keys[0][0] + b"k" * (size - 2 - len(mc.keys[0][0]))
        keys.insert(20, mc.keys[1][0])
        client.send_raw(head + b" " + b" ".join(keys) + b"\r\n")
        mc.settle()
        lines, other = received(mc)
        assert other == head + b" %b\r\n" % mc.keys[1][0]
        lines = re.findall(rb".*\r\n", lines)
        assert [key for line in lines for key in line[len(head) :].split()] == [
            key for key in keys if key != mc.keys[1][0]
        ]
        assert all(line.startswith(head + b" ") and len(line) <= LINE_MAX for line in lines)
        if size == first:
            assert len(lines[0]) == LINE_MAX
        # No line has room for the first key of the next one.
        for line, after in itertools.pairwise(lines):
            assert len(line) + 1 + len(after[len(head) :].split()[0]) > LINE_MAX
        reply_to_all(mc)
        assert client.take() == values(keys)


def test_get_has_no_such_limit(mc):
    client = link(mc)
    keys = on_one_server(mc.keys[0][0], 30)
    for asked, expected in ((keys, [1, 0]), ([*keys, mc.keys[1][0]], [1, 1])):
        client.send_raw(b"get " + b" ".join(asked) + b"\r\n")
        mc.settle()
        assert [len(server.session.requests) for server in mc.servers] == expected
        reply_to_all(mc)
        assert client.take() == values(asked)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("spaces", [1000, 3000])
def test_gat_of_one_key_and_many_spaces(make_rig, servers, spaces):
    rig = make_rig(servers=servers, redis=False)
    client = link(rig)
    key = rig.keys[0][0]
    line = b"gat 0" + b" " * spaces + key + b"\r\n"
    client.send_raw(line)
    rig.settle()
    assert received(rig)[0] == (line if spaces == 1000 else b"gat 0 %b\r\n" % key)
    reply_to_all(rig)
    assert client.take() == values([key])


def test_single_server_gets_a_get_whole_and_a_gat_in_lines(make_rig):
    rig = make_rig(servers=1, redis=False)
    client = link(rig)
    keys = on_one_server(b"x", 20)
    for head, count in ((b"get", 1), (b"gat 0", 3)):
        client.send_raw(head + b" " + b" ".join(keys) + b"\r\n")
        rig.settle()
        assert len(rig.servers[0].session.requests) == count
        reply_to_all(rig)
        assert client.take() == values(keys)


def test_large_get_keeps_the_block_that_it_came_in(mc):
    client = link(mc)
    keys = [key for pair in zip(*map(on_two, mc.keys), strict=True) for key in pair]
    for server in mc.servers:
        server.session.reads = False
    client.send_raw(b"get " + b" ".join(keys) + b"\r\n")
    mc.settle()
    [], [parent] = queued(mc.conn(client))
    assert parent["req"]["owner"] == "own"
    assert parent["req"]["length"] > MEGABYTE
    assert [part["pieces"] for part in parent["parts"]] == [[], []]
    for server in mc.servers:
        server.session.reads = True
    mc.settle()
    reply_to_all(mc)
    assert client.take() == values(keys)


def on_two(keys):
    return on_one_server(keys[0], 2500)


# No live server
# --------------------------------------------------------------------------------


def eject_all(rig, request):
    """Every server refuses connections, until it has left the ring."""
    client = link(rig)
    for server in rig.servers:
        server.refuse()
        server.session.close()
    for _ in range(8):
        for keys in rig.keys:
            client.send_raw(request(keys[0]))
        rig.advance(60)
    assert [rig.counter("server_ejected", number) for number in (0, 1)] == [1, 1]
    client.take()
    return client


EJECTING = {
    "timeout": 400,
    "auto_eject_hosts": "true",
    "server_failure_limit": 2,
    "server_retry_timeout": 500,
}


def test_redis_request_without_a_live_server_is_one_error(make_rig):
    rig = make_rig(**EJECTING)
    client = eject_all(rig, lambda key: hiredis.pack_command((b"GET", key)))
    client.replies()
    before = [rig.counter(name) for name in ("no_live_server", "forward_error", "fragments")]
    client.send(b"MSET", rig.keys[0][0], b"1", rig.keys[1][0], b"2")
    rig.settle()
    [error] = client.replies()
    assert isinstance(error, hiredis.ReplyError)
    after = [rig.counter(name) for name in ("no_live_server", "forward_error", "fragments")]
    assert after == [before[0] + 1, before[1] + 1, before[2]]


@pytest.mark.parametrize("line", [b"get %b %b", b"gat 0 %b %b"])
@pytest.mark.parametrize("miss", [False, True])
def test_memcached_request_without_a_live_server_is_one_error_or_a_miss(make_rig, line, miss):
    options = {"on_dead_server": "miss"} if miss else {}
    rig = make_rig(redis=False, **EJECTING, **options)
    client = eject_all(rig, lambda key: b"set %b 0 0 1\r\nv\r\n" % key)
    before = rig.counter("no_live_server")
    client.send_raw(line % (rig.keys[0][0], rig.keys[1][0]) + b"\r\n")
    rig.settle()
    reply = client.take()
    assert reply == b"END\r\n" if miss else re.fullmatch(rb"SERVER_ERROR .*\r\n", reply)
    assert rig.counter("no_live_server") == before + 1
