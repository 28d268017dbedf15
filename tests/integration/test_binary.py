"""Memcached's binary protocol: quiet requests over several servers, servers that fail, two
protocols on one port, and limits. test_binary_differential.py compares conversations with those of
memcached."""

import contextlib
import random
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from nutproxy.builtin.memcache import SUFFIX
from tests.binary import (
    BARRIER,
    BinaryClient,
    Op,
    Status,
    counting,
    expiring,
    request,
    storage,
)
from tests.client import read_all, send_all
from tests.integration.conftest import mc_pool
from tests.memcache import MemcacheClient
from tests.scripted import RequestCount, ScriptedMemcached, keys_of, value_of
from tests.servers import (
    MemcachedServer,
    NutproxyServer,
    connect,
    wait_until,
)

SERVERS = (1, 2, 3)
ABSENT = {Op.GETQ: Op.GET, Op.GETKQ: Op.GETK, Op.GATQ: Op.GAT, Op.GATKQ: Op.GATK}


@pytest.fixture(scope="module")
def shards():
    """Three memcached."""
    with MemcachedServer() as one, MemcachedServer() as two, MemcachedServer() as three:
        yield [one, two, three]


@pytest.fixture(scope="module")
def proxy(shards):
    """A proxy with the pool `alpha` of all three servers, and `one` of the first server only."""
    with NutproxyServer(mc_pool("alpha", shards) + mc_pool("one", shards[:1])) as proxy:
        yield proxy
        assert "Traceback" not in proxy.log()


@pytest.fixture
def client(proxy, shards):
    """A client of `alpha`, whose servers are empty."""
    with BinaryClient(proxy.ports["alpha"]) as client:
        assert client(Op.FLUSH).status == Status.OK
        yield client


def mixed_keys(count):
    """So many keys of each server, in random order."""
    keys = [key for number in SERVERS for key in keys_of(number, SERVERS, count)]
    random.Random(1).shuffle(keys)
    return keys


def fill(client, keys):
    """Store `value of <key>` under each key, in one go. Returns the unique values."""
    client.send_bytes(
        b"".join(
            request(Op.SET, key, value_of(key), extras=storage(5), opaque=at)
            for at, key in enumerate(keys)
        )
    )
    found = client.barrier()
    assert [each.opaque for each in found] == list(range(len(keys)))
    assert {each.status for each in found} <= {Status.OK}
    return {key: each.cas for key, each in zip(keys, found, strict=True)}


def get_extras(opcode):
    return expiring(1000) if opcode in (Op.GAT, Op.GATQ, Op.GATK, Op.GATKQ) else b""


# Several servers


@pytest.mark.parametrize("opcodes", [[Op.GETKQ], [Op.GETQ], list(ABSENT), [*ABSENT, Op.NOOP]])
def test_quiet_gets_have_only_hits_in_the_order_of_the_requests(client, opcodes):
    keys = mixed_keys(60)
    unique = fill(client, keys[::2])
    rows = random.Random(2)
    sent = []
    for key in keys + keys[::-3] + keys[:1] * 3:
        opcode = rows.choice(opcodes)
        plain = opcode == Op.NOOP
        sent.append((opcode, b"" if plain else key, rows.getrandbits(32)))
    client.send_bytes(
        b"".join(
            request(opcode, key, extras=get_extras(opcode), opaque=opaque)
            for opcode, key, opaque in sent
        )
    )
    found = client.barrier()
    wanted = [row for row in sent if row[1] in unique or row[0] == Op.NOOP]
    assert len(found) == len(wanted)
    for each, (opcode, key, opaque) in zip(found, wanted, strict=True):
        assert (each.opcode, each.opaque, each.status) == (opcode, opaque, Status.OK)
        if opcode != Op.NOOP:
            assert each.key == (key if opcode in (Op.GETKQ, Op.GATKQ) else b"")
            assert (each.flags, each.value, each.cas) == (5, value_of(key), unique[key])


LOUD = [
    (Op.NOOP, b"", b"", b"", Status.OK),
    (Op.GET, b"missing", b"", b"", Status.NOT_FOUND),
    (Op.GETK, b"missing", b"", b"", Status.NOT_FOUND),
    (Op.SET, b"new", b"v", storage(), Status.OK),
    (Op.ADD, b"k", b"v", storage(), Status.EXISTS),
    (Op.REPLACE, b"missing", b"v", storage(), Status.NOT_FOUND),
    (Op.APPEND, b"missing", b"v", b"", Status.NOT_STORED),
    (Op.DELETE, b"missing", b"", b"", Status.NOT_FOUND),
    (Op.INCREMENT, b"k", b"", counting(), Status.NON_NUMERIC),
    (Op.TOUCH, b"k", b"", expiring(), Status.OK),
    (Op.GAT, b"missing", b"", expiring(), Status.NOT_FOUND),
    (Op.VERSION, b"", b"", b"", Status.OK),
    (Op.STAT, b"bogus", b"", b"", Status.NOT_FOUND),
    (Op.STAT, b"slabs\0flush_all", b"", b"", Status.NOT_FOUND),
    (Op.VERBOSITY, b"", b"", expiring(), Status.UNKNOWN_COMMAND),
    (Op.SASL_LIST_MECHS, b"", b"", b"", Status.UNKNOWN_COMMAND),
    (Op.FLUSH, b"", b"", b"", Status.OK),
    (0x60, b"k", b"v", b"e", Status.UNKNOWN_COMMAND),
]


@pytest.mark.parametrize("row", LOUD, ids=lambda row: f"{int(row[0]):02x}")
def test_every_loud_request_is_a_barrier(client, row):
    """Its response comes after those to all quiet requests before it, and none is sent later."""
    opcode, key, value, extras, status = row
    keys = mixed_keys(10)
    fill(client, [b"k", *keys[::2]])
    for _ in range(10):
        quiet = [request(Op.GETKQ, key, opaque=at) for at, key in enumerate(keys)]
        quiet.append(request(Op.DELETEQ, b"missing", opaque=100))
        quiet.append(request(Op.SETQ, b"a", b"v", extras=storage(), opaque=101))
        loud = request(opcode, key, value, extras=extras, opaque=102)
        client.send_bytes(b"".join(quiet) + loud)
        opaques = [*range(0, len(keys), 2), 100]
        assert [each.opaque for each in client.until(102)] == opaques
        client.send_bytes(loud)
        last = client.response()
        assert (last.opcode, last.opaque, last.status) == (opcode, 102, status)
        if opcode == Op.FLUSH:
            fill(client, [b"k", *keys[::2]])


def test_quiet_changes_are_silent_unless_they_fail(client):
    keys = mixed_keys(5)
    for at, key in enumerate(keys):
        for opcode, value, extras in (
            (Op.SETQ, b"10", storage(7)),
            (Op.REPLACEQ, b"20", storage(8)),
            (Op.APPENDQ, b"0", b""),
            (Op.PREPENDQ, b"1", b""),
            (Op.INCREMENTQ, b"", counting(5)),
            (Op.DECREMENTQ, b"", counting(1)),
            # These fail.
            (Op.ADDQ, b"1", storage()),
            (Op.DELETEQ, b"", b""),
        ):
            name = b"missing" if opcode == Op.DELETEQ else key
            client.send(opcode, name, value, extras=extras, opaque=at)
    failures = client.barrier()
    assert [(each.opaque, each.opcode, each.status) for each in failures] == [
        row
        for at in range(len(keys))
        for row in ((at, Op.ADDQ, Status.EXISTS), (at, Op.DELETEQ, Status.NOT_FOUND))
    ]
    for key in keys:
        found = client(Op.GET, key)
        assert (found.value, found.flags) == (b"1204", 8)
        client.send(Op.DELETEQ, key)
    assert client.barrier() == []
    assert {client(Op.GET, key).status for key in keys} == {Status.NOT_FOUND}
    client.send(Op.FLUSHQ)
    assert client.barrier() == []


def test_unique_values_are_those_of_the_servers(client, proxy):
    with MemcacheClient(proxy.ports["alpha"]) as text:
        for key in mixed_keys(5):
            stored = client(Op.SET, key, b"1", extras=storage())
            found = client(Op.GETK, key)
            assert text(b"gets " + key) == b"VALUE %b 0 1 %d\r\n1\r\nEND\r\n" % (key, stored.cas)
            assert found.cas == stored.cas != 0
            for opcode, extras, value in (
                (Op.SET, storage(), b"2"),
                (Op.REPLACE, storage(), b"3"),
                (Op.ADD, storage(), b"4"),
                (Op.APPEND, b"", b"5"),
                (Op.PREPEND, b"", b"6"),
                (Op.INCREMENT, counting(), b""),
                (Op.DECREMENT, counting(), b""),
            ):
                wrong = client(opcode, key, value, extras=extras, cas=found.cas + 1000)
                assert (wrong.status, wrong.cas) == (Status.EXISTS, 0)
                right = client(opcode, key, value, extras=extras, cas=found.cas)
                assert right.status == Status.OK
                stale = client(opcode, key, value, extras=extras, cas=found.cas)
                assert stale.status == Status.EXISTS
                found = client(Op.GET, key)
                assert found.cas == right.cas
            assert found.value == b"645"
            assert client(Op.DELETE, key, cas=found.cas + 1000).status == Status.EXISTS
            assert client(Op.DELETE, key, cas=found.cas).status == Status.OK


def test_text_and_binary_clients_see_the_same_items(client, proxy):
    with MemcacheClient(proxy.ports["alpha"]) as text:
        for key in (*mixed_keys(3), b"\xff\xfe", b"a\tb"):
            assert text(b"set %b 9 0 1" % key, b"t") == b"STORED\r\n"
            found = client(Op.GETK, key)
            assert (found.key, found.value, found.flags) == (key, b"t", 9)
            assert client(Op.SET, key, b"b", extras=storage(3)).status == Status.OK
            assert text(b"get " + key) == b"VALUE %b 3 1\r\nb\r\nEND\r\n" % key
        for key, coded in ((b"a b", b"YSBi"), (b"\0", b"AA=="), (b"\r\n", b"DQo=")):
            assert text(b"ms %b 1 b F9" % coded, b"t") == b"HD\r\n"
            found = client(Op.GETK, key)
            assert (found.key, found.value, found.flags) == (key, b"t", 9)
            assert client(Op.SET, key, b"b", extras=storage(3)).status == Status.OK
            assert text(b"mg %b b f v" % coded) == b"VA 1 f3 b\r\nb\r\n".replace(b" b\r", b"\r")


@pytest.mark.parametrize("key", [b"a b" * 62, b"\0" * 186])
def test_long_keys_that_text_cannot_carry(client, key):
    """As base64, a key has at most 250 bytes. Without it, 186."""
    assert client(Op.SET, key, b"v", extras=storage()).status == Status.OK
    assert client(Op.GETK, key).value == b"v"
    for opcode, extras, value in (
        (Op.SET, storage(), b"v"),
        (Op.GET, b"", b""),
        (Op.GETKQ, b"", b""),
        (Op.DELETEQ, b"", b""),
        (Op.TOUCH, expiring(), b""),
        (Op.INCREMENT, counting(), b""),
    ):
        refused = client(opcode, key + b"x", value, extras=extras, opaque=7)
        assert (refused.status, refused.opaque) == (Status.INVALID, 7)
        assert refused.value == b"a key with spaces or control bytes may have 186 bytes at most"
    assert client.barrier() == []


def test_a_line_feed_in_a_key_forges_no_replies(client, proxy):
    """memcached forgets that the key of an item it creates for Increment or Append is binary, and
    would send it to text clients as it is."""
    key = b"a\r\nEND\r\nVALUE k 0 3\r\nbad\r\nEND\r\n"
    with MemcacheClient(proxy.ports["alpha"]) as text:
        assert text(b"set k 0 0 4", b"good") == b"STORED\r\n"
        assert client(Op.SET, key, b"9", extras=storage()).status == Status.OK
        for opcode, extras, value in (
            (Op.INCREMENT, counting(1, 1, 0), b""),
            (Op.INCREMENTQ, counting(1, 1, 0), b""),
            (Op.APPEND, b"", b"1"),
            (Op.PREPENDQ, b"", b"1"),
        ):
            client.send(opcode, key, value, extras=extras)
        client.barrier()
        for opcode in (Op.GETK, Op.GETKQ, Op.GAT):
            client.send(opcode, key, extras=get_extras(opcode))
        for found in client.barrier():
            assert found.key in (key, b"")
        assert text(b"get k") == b"VALUE k 0 4\r\ngood\r\nEND\r\n"


def test_items_expire(client):
    """In seconds, or at a time if it is more than 30 days."""
    now = int(time.time())
    for at, exptime in enumerate((1, now + 2, 30 * 86400, now + 1000, 0, 0xFFFFFFFF)):
        key = b"key:%d" % at
        assert client(Op.SET, key, b"v", extras=storage(exptime=exptime)).status == Status.OK
        assert client(Op.INCREMENT, b"n" + key, extras=counting(1, 5, exptime)).status == (
            Status.NOT_FOUND if exptime == 0xFFFFFFFF else Status.OK
        )
        assert client(Op.GAT, key, extras=expiring(exptime)).value == b"v"
    for key in (b"key:0", b"key:1", b"nkey:0", b"nkey:1"):
        wait_until(lambda key=key: client(Op.GET, key).status == Status.NOT_FOUND, "the expiry")
    for key in (b"key:2", b"key:3", b"key:4", b"key:5", b"nkey:2", b"nkey:3", b"nkey:4"):
        assert client(Op.TOUCH, key, extras=expiring(1)).status == Status.OK
    for key in (b"key:2", b"nkey:4"):
        wait_until(lambda key=key: client(Op.GET, key).status == Status.NOT_FOUND, "the expiry")


def test_a_flush_may_have_a_delay(client):
    keys = mixed_keys(2)
    fill(client, keys)
    assert client(Op.FLUSH, extras=expiring(2)).status == Status.OK
    assert client(Op.GET, keys[0]).status == Status.OK
    for key in keys:
        wait_until(lambda key=key: client(Op.GET, key).status == Status.NOT_FOUND, "the flush")


# Many requests


def cpu_time(proxy):
    return int(Path(f"/proc/{proxy.worker_pid}/schedstat").read_text().split()[0]) / 1e9


def converse(client, data):
    """Send it all, and a NoOp, while the responses are read. The NoOp's is left out."""
    sent = data + request(Op.NOOP, opaque=BARRIER)
    sender = threading.Thread(target=send_all, args=(client.socket, sent))
    sender.start()
    try:
        return client.until(BARRIER)
    finally:
        sender.join()


def test_ten_thousand_quiet_gets(client):
    keys = [b"key:%d" % number for number in range(10_000)]
    fill(client, keys[::10])
    sent = b"".join(request(Op.GETKQ, key, opaque=at) for at, key in enumerate(keys))
    found = converse(client, sent)
    assert [(each.opaque, each.key, each.value) for each in found] == [
        (at, key, value_of(key)) for at, key in list(enumerate(keys))[::10]
    ]


def test_ten_thousand_quiet_sets(client):
    keys = [b"key:%d" % number for number in range(10_000)]
    sent = b"".join(request(Op.SETQ, key, value_of(key), extras=storage()) for key in keys)
    assert converse(client, sent) == []
    sent = b"".join(request(Op.GETQ, key, opaque=at) for at, key in enumerate(keys))
    found = converse(client, sent)
    assert [each.value for each in found] == [value_of(key) for key in keys]


@pytest.mark.measures
@pytest.mark.parametrize("opcode", [Op.GETKQ, Op.GETQ, Op.SETQ, Op.GATKQ, Op.DELETEQ])
def test_the_time_for_a_pipeline_grows_with_its_length(client, proxy, opcode):
    keys = [b"key:%d" % number for number in range(20_000)]
    value = b"v" if opcode == Op.SETQ else b""
    extras = storage() if opcode == Op.SETQ else get_extras(opcode)
    fill(client, keys[:2_000])
    seconds = {}
    for count in (2_000, 20_000) * 3:
        sent = b"".join(request(opcode, key, value, extras=extras) for key in keys[:count])
        before = cpu_time(proxy)
        converse(client, sent)
        # The counters of the process are up to date after a turn.
        client.barrier()
        each = (cpu_time(proxy) - before) / count
        seconds[count] = min(each, seconds.get(count, each))
    assert seconds[20_000] < 2 * seconds[2_000], seconds


def test_values_of_a_megabyte_pass_whole(client):
    data = random.Random(1).randbytes(1_000_000)
    keys = mixed_keys(1)
    for key in keys:
        assert client(Op.SET, key, data, extras=storage(1)).status == Status.OK
        assert client(Op.GET, key).value == data
    sent = b"".join(request(Op.GETKQ, key) for key in keys * 2)
    found = converse(client, sent)
    assert [(each.key, each.value) for each in found] == [(key, data) for key in keys * 2]
    assert client(Op.APPEND, keys[0], b"x").status == Status.OK
    assert client(Op.GETK, keys[0]).value == data + b"x"


@pytest.mark.parametrize("chunk", ["512", "16384", "1048576"])
def test_values_around_the_size_that_is_not_copied(shards, chunk):
    """From 64 KB on, a value stays where it was received. Requests and responses are sent and read
    in pieces."""
    sizes = [0, 1, 65_535 - 60, 65_535, 65_536, 65_537, 65_536 + 60, 200_000]
    with (
        NutproxyServer(mc_pool("alpha", shards), "-m", chunk) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        values = {b"key:%d" % size: random.Random(size).randbytes(size) for size in sizes}
        values |= {b"not text:%d" % size: values[b"key:%d" % size] for size in sizes}
        stored = b"".join(
            request(opcode, key, value, extras=storage(3), opaque=at)
            for opcode in (Op.SET, Op.SETQ, Op.REPLACE)
            for at, (key, value) in enumerate(values.items())
        )
        found = converse(client, stored)
        assert [each.status for each in found] == [Status.OK] * (2 * len(values))
        for key in values:
            client.send(Op.APPENDQ, key, b"+")
            client.send(Op.PREPENDQ, key, b"-" * 1000)
        assert client.barrier() == []
        asked = b"".join(
            request(opcode, key, extras=get_extras(opcode))
            for opcode in (Op.GETK, Op.GETKQ, Op.GETKQ, Op.GATK)
            for key in values
        )
        found = converse(client, asked)
        wanted = [(key, b"-" * 1000 + value + b"+") for key, value in values.items()] * 4
        assert [(each.key, each.value) for each in found] == wanted


# Lengths


def test_values_over_the_limit_are_swallowed(client, proxy):
    key = keys_of(1, SERVERS, 1)[0]
    with BinaryClient(proxy.ports["alpha"]) as other:
        for opcode in (Op.SET, Op.SETQ, Op.ADD, Op.REPLACEQ, Op.APPENDQ, Op.PREPEND):
            assert client(Op.SET, key, b"v", extras=storage()).status == Status.OK
            extras = b"" if opcode in (Op.APPENDQ, Op.PREPEND) else storage()
            # Its value is full of requests.
            value = request(Op.FLUSH) * 100_000
            refused = client(opcode, key, value, extras=extras, opaque=3)
            assert (refused.status, refused.value) == (Status.TOO_LARGE, b"Too large.")
            assert (refused.opcode, refused.opaque, refused.cas) == (opcode, 3, 0)
            assert client.barrier() == []
            # A set that fails deletes the old value, as in memcached. The others do so here, too:
            # memcached does not ask which mode its command ms has.
            assert other(Op.GET, key).status == Status.NOT_FOUND


def test_values_over_proto_max_bulk_len_never_reach_a_server(shards):
    with (
        NutproxyServer(mc_pool("alpha", shards, proto_max_bulk_len="1mb")) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        for opcode in (Op.SET, Op.ADDQ):
            client.send(opcode, b"k", b"x" * 3_000_000, extras=storage(), opaque=9)
            client.send(Op.NOOP, opaque=10)
            [refused] = client.until(10)
            assert (refused.status, refused.value) == (Status.TOO_LARGE, b"Too large.")
            assert (refused.opcode, refused.opaque) == (opcode, 9)


@pytest.mark.parametrize(
    "sent",
    [
        request(0x60, b"key", b"value", extras=b"extra"),
        request(Op.VERBOSITY, extras=expiring(1)),
        request(Op.SASL_AUTH, b"PLAIN", b"\0user\0secret"),
    ],
)
def test_the_body_of_an_unknown_request_is_skipped_once(client, sent):
    """memcached skips extras and key twice, and loses the next request."""
    client.send_bytes(sent + request(Op.NOOP, opaque=5))
    refused, noop = client.responses(2)
    assert (refused.status, refused.value) == (Status.UNKNOWN_COMMAND, b"Unknown command")
    assert (noop.opcode, noop.opaque) == (Op.NOOP, 5)


@pytest.mark.parametrize(
    ("opcode", "key", "extras"),
    [
        (Op.TOUCH, b"k", expiring()),
        (Op.GAT, b"k", expiring()),
        (Op.GATKQ, b"k", expiring()),
        (Op.STAT, b"settings", b""),
        (Op.STAT, b"", b""),
        (Op.GET, b"k", b""),
        (Op.DELETE, b"k", b""),
        (Op.INCREMENT, b"k", counting()),
        (Op.FLUSH, b"", b""),
        (Op.NOOP, b"", b""),
    ],
)
def test_what_follows_the_key_is_never_read_as_requests(client, proxy, opcode, key, extras):
    """memcached does so for the commands in the first rows."""
    assert client(Op.SET, b"other", b"good", extras=storage()).status == Status.OK
    with BinaryClient(proxy.ports["alpha"]) as other:
        other.send(opcode, key, request(Op.FLUSH, opaque=77), extras=extras, opaque=76)
        other.send(Op.QUIT, opaque=76)
        received = read_all(other.socket)
    # The opaque of the inner request.
    assert struct.pack(">I", 77) not in received
    assert client(Op.GET, b"other").value == b"good"


def test_a_connection_that_ends_within_a_request_has_no_effect(client, proxy):
    assert client(Op.SET, b"k", b"v", extras=storage()).status == Status.OK
    whole = request(Op.SET, b"k", b"w" * 100, extras=storage())
    for size in (1, 23, 24, 32, 33, 100, len(whole) - 1):
        with connect(proxy.ports["alpha"]) as other:
            other.sendall(request(Op.NOOP) + whole[:size])
            assert other.recv(24)[1] == Op.NOOP
    assert client(Op.GET, b"k").value == b"v"


# The end of a connection


def test_quit_closes_after_the_replies(client, proxy):
    keys = mixed_keys(20)
    fill(client, keys)
    for opcode in (Op.QUIT, Op.QUITQ):
        with BinaryClient(proxy.ports["alpha"]) as other:
            sent = b"".join(request(Op.GETKQ, key) for key in keys)
            other.send_bytes(sent + request(opcode, opaque=4) + request(Op.NOOP, opaque=5))
            assert [each.key for each in other.responses(len(keys))] == keys
            if opcode == Op.QUIT:
                last = other.response()
                assert (last.opcode, last.status, last.opaque) == (Op.QUIT, Status.OK, 4)
            assert other.closed()


@pytest.mark.parametrize("magic", [0x81, 0x00, 0x67, 0xFF])
def test_a_wrong_magic_ends_the_connection_after_the_replies_that_are_due(client, proxy, magic):
    keys = mixed_keys(20)
    fill(client, keys)
    with BinaryClient(proxy.ports["alpha"]) as other:
        sent = b"".join(request(Op.GETKQ, key) for key in keys)
        other.send_bytes(sent + request(Op.NOOP, magic=magic) + request(Op.NOOP))
        assert [each.key for each in other.responses(len(keys))] == keys
        assert other.closed()


def test_a_half_closed_client_gets_its_replies(client, proxy):
    keys = mixed_keys(20)
    fill(client, keys)
    with BinaryClient(proxy.ports["alpha"]) as other:
        other.send_bytes(b"".join(request(Op.GETKQ, key) for key in keys))
        other.socket.shutdown(1)
        assert [each.key for each in other.responses(len(keys))] == keys
        assert other.closed()


# Statistics, version


def test_version_and_statistics(client, proxy):
    with MemcacheClient(proxy.ports["alpha"]) as text:
        version = text(b"version").removeprefix(b"VERSION ").removesuffix(b"\r\n")
    found = client(Op.VERSION, opaque=5)
    assert found.value == version
    assert version.endswith(SUFFIX.encode())
    for key, name in ((b"", b"nutproxy_pool"), (b"servers", b"s2:state"), (b"settings", b"s3:")):
        client.send(Op.STAT, key, opaque=6)
        rows = client.barrier()
        assert {(each.opcode, each.status, each.opaque) for each in rows} == {(Op.STAT, 0, 6)}
        assert rows[-1].key == rows[-1].value == b""
        assert all(each.key for each in rows[:-1])
        assert any(each.key.startswith(name) for each in rows)
        rows = {each.key: each.value for each in rows}
    client.send(Op.STAT)
    assert {each.key: each.value for each in client.barrier()}[b"nutproxy_pool"] == b"alpha"


def test_every_request_is_counted(client, proxy):
    count = RequestCount(proxy)
    keys = mixed_keys(10)
    fill(client, keys)
    for sent, number in (
        ([request(Op.GETKQ, key) for key in keys], len(keys)),
        ([request(Op.SETQ, key, b"v", extras=storage()) for key in keys], len(keys)),
        ([request(Op.GET, keys[0])], 1),
        ([request(Op.VERSION), request(0x60, b"k")], 2),
    ):
        before = count()
        client.send_bytes(b"".join(sent))
        client.barrier()
        assert count() - before == number + 1


# Servers that fail


@contextlib.contextmanager
def three(**options):
    """Three memcached for this test only, with a proxy and a client."""
    with (
        MemcachedServer() as one,
        MemcachedServer() as two,
        MemcachedServer() as last,
        NutproxyServer(mc_pool("alpha", [one, two, last], **options)) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        yield [one, two, last], proxy, client


REFUSED = b"server 's2' of pool 'alpha': Connection refused"


def wait_for_refusal(client, key):
    wait_until(lambda: client(Op.SET, key, b"v", extras=storage()).value == REFUSED, "the refusal")


def test_a_dead_server_fails_only_requests_that_need_it():
    """Quiet requests report errors, too."""
    with three() as (servers, _, client):
        one, dead, last = (keys_of(number, SERVERS, 1)[0] for number in SERVERS)
        fill(client, [one, dead, last])
        servers[1].kill()
        wait_for_refusal(client, dead)
        sent = [
            (Op.GETKQ, one, b"", b""),
            (Op.GETKQ, dead, b"", b""),
            (Op.GETQ, last, b"", b""),
            (Op.GETQ, dead, b"", b""),
            (Op.GETQ, b"missing", b"", b""),
            (Op.SETQ, one, b"new", storage()),
            (Op.SETQ, dead, b"new", storage()),
            (Op.DELETEQ, dead, b"", b""),
            (Op.DELETEQ, last, b"", b""),
            (Op.GATKQ, dead, b"", expiring()),
            (Op.INCREMENTQ, dead, b"", counting()),
            (Op.TOUCH, dead, b"", expiring()),
            (Op.GETK, dead, b"", b""),
            (Op.FLUSHQ, b"", b"", b""),
        ]
        client.send_bytes(
            b"".join(
                request(opcode, key, value, extras=extras, opaque=at)
                for at, (opcode, key, value, extras) in enumerate(sent)
            )
        )
        found = client.barrier()
        fails = {at for at, row in enumerate(sent) if row[1] == dead or row[0] == Op.FLUSHQ}
        # The key `missing` may be one of the dead server.
        fails |= {4} & {each.opaque for each in found}
        assert [each.opaque for each in found] == sorted({0, 2} | fails)
        for each in found:
            assert each.opcode == sent[each.opaque][0]
            if each.opaque in fails:
                assert each.status not in (Status.OK, Status.NOT_FOUND)
                assert (each.value, each.key, each.extras) == (REFUSED, b"", b"")
            else:
                assert each.value == value_of(sent[each.opaque][1])


def test_keys_of_a_dead_server_are_misses_with_on_dead_server_miss():
    with three(on_dead_server="miss") as (servers, _, client):
        one, dead, last = (keys_of(number, SERVERS, 1)[0] for number in SERVERS)
        fill(client, [one, dead, last])
        servers[1].kill()
        wait_for_refusal(client, dead)
        client.send_bytes(
            b"".join(
                request(opcode, key, opaque=at, extras=get_extras(opcode))
                for at, (opcode, key) in enumerate(
                    (opcode, key) for opcode in ABSENT for key in (one, dead, last)
                )
            )
        )
        assert [each.opaque for each in client.barrier()] == [0, 2, 3, 5, 6, 8, 9, 11]
        for opcode in (Op.GET, Op.GAT):
            found = client(opcode, dead, extras=get_extras(opcode))
            assert (found.status, found.value, found.key) == (Status.NOT_FOUND, b"Not found", b"")
        for opcode in (Op.GETK, Op.GATK):
            found = client(opcode, dead, extras=get_extras(opcode))
            assert (found.status, found.value, found.key) == (Status.NOT_FOUND, b"", dead)
        # Only reads can be misses.
        assert client(Op.INCREMENT, dead, extras=counting()).value == REFUSED
        assert client(Op.DELETE, dead).value == REFUSED


def test_timed_out_requests_get_no_late_reply():
    with three(timeout=1000) as (servers, _, client):
        [key, *others] = keys_of(1, SERVERS, 20)
        [live] = keys_of(3, SERVERS, 1)
        fill(client, [key, live])
        servers[0].stop()
        client.send_bytes(
            b"".join(
                request(opcode, name, extras=get_extras(opcode), opaque=at)
                for at, (opcode, name) in enumerate(
                    (opcode, name)
                    for opcode in (Op.GETKQ, Op.GET, Op.GATQ, Op.DELETEQ)
                    for name in (key, live)
                )
            )
        )
        found = client.barrier()
        assert [each.opaque for each in found] == [0, 1, 2, 3, 4, 5, 6]
        late = [each for each in found if each.opaque % 2 == 0]
        assert {each.value for each in late} == {
            b"server 's1' of pool 'alpha': Connection timed out"
        }
        servers[0].cont()
        wait_until(
            lambda: client(Op.GET, key).status in (Status.OK, Status.NOT_FOUND), "the return"
        )
        for other in others:
            assert client(Op.SET, other, b"o", extras=storage()).status == Status.OK
            assert client(Op.GETK, other).value == b"o"


def test_a_server_that_dies_in_a_pipeline_shifts_no_response():
    with three() as (servers, _, client):
        keys = mixed_keys(100)
        fill(client, keys)
        quiet = b"".join(request(Op.GETKQ, key, opaque=at) for at, key in enumerate(keys))
        for round in range(10):
            client.send_bytes(quiet * 5)
            if round == 5:
                servers[1].kill()
            found = client.barrier()
            assert len(found) == 5 * len(keys) or round > 5
            for each in found:
                if each.status == Status.OK:
                    assert each.key == keys[each.opaque]
                    assert each.value == value_of(each.key)
                else:
                    assert b"'s2'" in each.value


def test_a_server_without_meta_commands_is_named():
    """memcached before 1.6 knows gets."""

    def script(session):
        while request := session.receive():
            words = {
                b"gets": b"VALUE k 5 1 77\r\nv\r\nEND\r\n",
                b"get": b"VALUE k 5 1\r\nv\r\nEND\r\n",
            }
            session.send(words.get(request[0], b"ERROR\r\n"))

    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        refused = client(Op.DELETE, b"k")
        assert b"1.6" in refused.value
        assert refused.status not in (Status.OK, Status.NOT_FOUND)
        found = client(Op.GETK, b"k")
        assert (found.value, found.flags, found.cas) == (b"v", 5, 77)
        assert b"1.6" in client(Op.DELETEQ, b"k").value


LIES = [
    b"VALUE other 0 6 1\r\nsecret\r\nEND\r\n",
    b"VALUE k 0 6 1\r\nsecret\r\nVALUE other 0 6 1\r\nsecret\r\nEND\r\n",
    b"VALUE k 0 6 x\r\nsecret\r\nEND\r\n",
    b"VALUE k 0 x 1\r\nsecret\r\nEND\r\n",
    b"VA 6 f0 c1\r\nsecret\r\n",
    b"HD\r\n",
    b"STORED\r\n",
    b"\r\n",
    b"MN\r\n",
]


@contextlib.contextmanager
def replying():
    """A client of a server that sends the only element of a list, whatever it is asked."""
    replies = [b""]

    def script(session):
        while session.receive():
            session.send(replies[0])

    with (
        ScriptedMemcached(script) as server,
        NutproxyServer(mc_pool("alpha", [server])) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        yield replies, client
        assert "Traceback" not in proxy.log()


def test_a_reply_of_the_wrong_kind_reaches_no_client():
    with replying() as (replies, client):
        for replies[0] in LIES:
            for opcode in (Op.GET, Op.GETKQ, Op.GAT):
                client.send(opcode, b"k", extras=get_extras(opcode), opaque=4)
                [found] = client.barrier()
                assert (found.opcode, found.opaque) == (opcode, 4)
                assert found.status not in (Status.OK, Status.NOT_FOUND), (replies, found)
                assert b"secret" not in found.value


ERRORS = [
    b"SERVER_ERROR out of memory storing object\r\n",
    b"SERVER_ERROR Out of memory allocating item\r\n",
    b"SERVER_ERROR\r\n",
    b"CLIENT_ERROR bad data chunk\r\n",
    b"VALUE k 0 6 1\r\nsecret\r\nSERVER_ERROR out of memory writing get response\r\n",
]


def test_an_error_of_the_server_is_passed_on():
    with replying() as (replies, client):
        for replies[0] in ERRORS:
            opcodes = [Op.GET, Op.GETK, Op.GETKQ]
            if not replies[0].startswith(b"VALUE"):
                opcodes += [Op.DELETE, Op.DELETEQ, Op.INCREMENTQ]
            for opcode in opcodes:
                extras = counting() if opcode == Op.INCREMENTQ else b""
                client.send(opcode, b"k", extras=extras, opaque=4)
                [found] = client.barrier()
                assert (found.opcode, found.opaque) == (opcode, 4)
                assert found.status not in (Status.OK, Status.NOT_FOUND)
                if b" " in replies[0]:
                    assert found.value == replies[0].rpartition(b"_ERROR ")[2].strip()


# Two protocols on a port


def test_the_first_byte_decides(proxy, shards):
    port = proxy.ports["alpha"]
    keys = mixed_keys(20)
    with BinaryClient(port) as binary, MemcacheClient(port) as text, BinaryClient(port) as silent:
        for key in keys:
            binary.send(Op.SET, key, b"1", extras=storage())
            text.send(b"get missing")
            assert text.reply() == b"END\r\n"
            assert binary.response().status == Status.OK
        binary.send_bytes(b"".join(request(Op.GETKQ, key) for key in keys * 10))
        text.send(b"get " + b" ".join(keys * 10))
        assert len(binary.barrier()) == len(keys) * 10
        assert text.reply().count(b"VALUE ") == len(keys) * 10
        silent.send_bytes(request(Op.NOOP)[:1])
        assert text(b"mn") == b"MN\r\n"
        silent.send_bytes(request(Op.NOOP)[1:])
        assert silent.response().opcode == Op.NOOP
        assert binary(Op.NOOP).status == Status.OK


def test_protocol_ascii_refuses_binary_clients(shards):
    with (
        NutproxyServer(mc_pool("alpha", shards, protocol="ascii")) as proxy,
        MemcacheClient(proxy.port) as text,
        BinaryClient(proxy.port) as client,
    ):
        assert text(b"mn") == b"MN\r\n"
        client.send(Op.NOOP)
        reply = read_all(client.socket)
        assert b"ascii" in reply or b"binary" in reply, reply
        wait_until(lambda: "binary" in proxy.log(), "the log line")
        assert text(b"mn") == b"MN\r\n"


def test_protocol_binary_refuses_text_clients(shards):
    with (
        NutproxyServer(mc_pool("alpha", shards, protocol="binary")) as proxy,
        MemcacheClient(proxy.port) as text,
        BinaryClient(proxy.port) as client,
    ):
        assert client(Op.NOOP).status == Status.OK
        text.send(b"get k")
        reply = read_all(text.socket)
        assert b"binary" in reply, reply
        assert reply.endswith(b"\r\n")
        wait_until(lambda: "binary" in proxy.log(), "the log line")
        assert client(Op.NOOP).status == Status.OK


# Limits, refusals


def test_denied_commands_are_refused_by_the_name_of_the_text_command(shards):
    denied = "[get, set, delete, incr, gat, touch, flush_all, append, stats, version]"
    with (
        NutproxyServer(mc_pool("alpha", shards, deny_commands=denied)) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        for name, opcodes, key, value, extras in (
            (b"get", (Op.GET, Op.GETQ, Op.GETK, Op.GETKQ), b"k", b"", b""),
            (b"set", (Op.SET, Op.SETQ), b"k", request(Op.NOOP), storage()),
            (b"delete", (Op.DELETE, Op.DELETEQ), b"k", b"", b""),
            (b"incr", (Op.INCREMENT, Op.INCREMENTQ), b"k", b"", counting()),
            (b"gat", (Op.GAT, Op.GATQ, Op.GATK, Op.GATKQ), b"k", b"", expiring()),
            (b"touch", (Op.TOUCH,), b"k", b"", expiring()),
            (b"flush_all", (Op.FLUSH, Op.FLUSHQ), b"", b"", b""),
            (b"append", (Op.APPEND, Op.APPENDQ), b"k", request(Op.NOOP), b""),
            (b"stats", (Op.STAT,), b"", b"", b""),
            (b"version", (Op.VERSION,), b"", b"", b""),
        ):
            for opcode in opcodes:
                client.send_bytes(
                    b"".join(
                        request(opcode, key, value, extras=extras, opaque=at) for at in range(5)
                    )
                )
                found = client.barrier()
                assert [each.opaque for each in found] == [0, 1, 2, 3, 4]
                text = b"'%b' is denied by deny_commands of pool 'alpha'" % name
                assert {each.value for each in found} == {text}
                assert Status.OK not in {each.status for each in found}
        assert client(Op.ADD, b"k", b"v", extras=storage()).status == Status.OK
        assert client(Op.DECREMENT, b"n", extras=counting(1, 5, 0)).number == 5
        assert client(Op.PREPEND, b"k", b"v").status == Status.OK


def test_client_beyond_client_connections_is_closed(shards):
    with NutproxyServer(mc_pool("alpha", shards, client_connections=2)) as proxy:
        with BinaryClient(proxy.port) as one, BinaryClient(proxy.port) as two:
            wait_until(lambda: one(Op.NOOP).status == Status.OK, "the first")
            assert two(Op.NOOP).status == Status.OK
            with connect(proxy.port) as third:
                # Nobody knows its protocol before its first byte, so it gets memcached's text.
                assert read_all(third) == b"ERROR Too many open connections\r\n"
        wait_until(lambda: "client_connections (2) are in use" in proxy.log(), "the log line")


def test_a_small_limit_on_requests_in_flight_delays_only(shards):
    keys = [b"key:%d" % number for number in range(3000)]
    with (
        NutproxyServer(mc_pool("alpha", shards, client_max_requests=1)) as proxy,
        BinaryClient(proxy.port) as client,
    ):
        sent = b"".join(
            request(Op.SETQ, key, value_of(key), extras=storage(), opaque=1) for key in keys
        )
        assert converse(client, sent) == []
        sent = b"".join(request(Op.GETKQ, key, opaque=at) for at, key in enumerate(keys))
        found = converse(client, sent)
        assert [each.value for each in found] == [value_of(key) for key in keys]


def test_an_unfinished_request_ends_the_connection_after_a_time(shards):
    with (
        NutproxyServer(mc_pool("alpha", shards, client_request_timeout=300)) as proxy,
        BinaryClient(proxy.port) as idle,
        BinaryClient(proxy.port) as client,
    ):
        assert idle(Op.NOOP).status == Status.OK
        began = time.monotonic()
        client.send(Op.NOOP, opaque=1)
        client.send_bytes(request(Op.SET, b"k", b"v" * 100, extras=storage())[:50])
        assert client.response().opaque == 1
        assert b"client_request_timeout" in read_all(client.socket)
        assert time.monotonic() - began > 0.3
        assert idle(Op.NOOP).status == Status.OK
