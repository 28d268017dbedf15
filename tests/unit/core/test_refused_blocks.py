# tests/unit/core/test_refused_blocks.py: the data block of a refused line is never a command
"""The block of this Memcached line is itself a command. It may be cut anywhere, and the proxy may
begin to shut down anywhere in it."""

import hiredis
import pytest

from nutproxy.stepped import running, state

LINE = b"set " + b"k" * 251 + b" 0 0 9\r\n"
BLOCK = b"flush_all\r\n"
# The tail of the line, the block, and what follows.
CUTS = range(len(LINE) - 12, len(LINE) + len(BLOCK) + 1)


@pytest.fixture
def mc(make_rig):
    return make_rig(redis=False)


def link(rig):
    client = rig.connect()
    for number, keys in enumerate(rig.keys):
        client.send_raw(b"get %b\r\n" % keys[0])
        rig.settle()
        rig.servers[number].session.reply(b"END\r\n")
        rig.settle()
    assert client.take() == b"END\r\n" * 2
    return client


def following(rig):
    return b"get %b\r\n" % rig.keys[0][0]


def test_block_of_a_refused_line_is_dropped_across_any_cut(mc):
    client = link(mc)
    for cut in CUTS:
        data = LINE + BLOCK + following(mc)
        client.send_raw(data[:cut])
        mc.settle()
        client.send_raw(data[cut:])
        mc.settle()
        assert [list(server.session.requests) for server in mc.servers] == [
            [[b"get", mc.keys[0][0]]],
            [],
        ]
        mc.servers[0].session.reply(b"END\r\n")
        mc.settle()
        reply = client.take()
        assert reply.startswith(b"CLIENT_ERROR")
        assert reply.endswith(b"\r\nEND\r\n")
        assert reply.count(b"\r\n") == 2
        assert state(mc.conn(client))["swallow"] == 0


def test_block_that_comes_byte_by_byte(mc):
    client = link(mc)
    for byte in LINE + BLOCK + following(mc):
        client.send_raw(bytes([byte]))
        mc.settle()
    assert list(mc.servers[0].session.requests) == [[b"get", mc.keys[0][0]]]
    assert not mc.servers[1].session.requests


@pytest.mark.parametrize("cut", CUTS)
def test_drain_that_begins_in_the_block(mc, cut):
    client = link(mc)
    data = LINE + BLOCK + following(mc)
    client.send_raw(data[:cut])
    mc.settle()
    mc.worker.drain(5000)
    mc.settle()
    assert running(mc.worker)
    client.send_raw(data[cut:])
    mc.settle()
    assert client.take().startswith(b"CLIENT_ERROR")
    # What began after the drain is not read, and the block is no request.
    assert not any(server.session.requests for server in mc.servers)
    assert client.eof
    client.close()
    mc.settle()
    assert not running(mc.worker)
    assert "nothing was cut off" in mc.log.lines[-1]


def test_drain_that_ends_in_the_middle_of_the_block(mc):
    client = link(mc)
    client.send_raw(LINE + BLOCK[:4])
    mc.settle()
    mc.worker.drain(500)
    mc.settle()
    assert state(mc.conn(client))["swallow"] == len(BLOCK) - 4
    mc.advance(600)
    assert not running(mc.worker)
    assert "clients cut off: 1, requests cut off: 0" in mc.log.lines[-1]
    assert client.take().startswith(b"CLIENT_ERROR")


def test_client_that_closes_in_the_middle_of_the_block(mc):
    client = link(mc)
    client.send_raw(LINE + BLOCK[:4])
    client.close()
    mc.settle()
    assert mc.worker.clients() == []


def test_drain_answers_what_has_arrived_and_nothing_later(make_rig):
    rig = make_rig()
    client = rig.link_all()
    client.send(b"SET", rig.keys[0][0], b"1")
    client.send_raw(b"*2\r\n$3\r\nGET\r\n$8\r\n")
    rig.settle()
    rig.worker.drain(5000)
    rig.settle()
    rig.servers[0].session.reply(b"+OK\r\n")
    # The rest of the request that had begun, and another.
    client.send_raw(rig.keys[0][0] + b"\r\n*1\r\n$4\r\nPING\r\n")
    rig.settle()
    assert client.replies() == [b"OK"]
    assert running(rig.worker)
    rig.servers[0].session.reply(b"$1\r\n1\r\n")
    rig.settle()
    assert client.replies() == [b"1"]
    assert client.eof
    client.close()
    rig.settle()
    assert not running(rig.worker)


def test_drain_ignores_what_follows_a_long_request_that_had_begun(make_rig):
    """Its start has a buffer of its own, and the rest comes in one read with the next request."""
    rig = make_rig()
    client = rig.link_all()
    request = hiredis.pack_command((b"EXISTS", *rig.keys[0][:1] * 1000))
    client.send_raw(request[:6000])
    rig.settle()
    rig.worker.drain(5000)
    rig.settle()
    client.send_raw(request[6000:] + b"*1\r\n$4\r\nPING\r\n")
    rig.settle()
    rig.servers[0].session.reply(b":1000\r\n")
    rig.settle()
    assert client.replies() == [1000]
    assert client.eof
    client.close()
    rig.settle()
    assert not running(rig.worker)
