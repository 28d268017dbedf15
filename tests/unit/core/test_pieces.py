# tests/unit/core/test_pieces.py: commands in parts, shared buffers, replies in pieces
"""Elements of 64 KB and more are sent from the buffers that they were received into."""

import hiredis
import pytest

from nutproxy.stepped import queued, state
from tests.unit.core.harness import array, bulk, shrink

SMALL = b"s" * 100
LARGE = bytes(range(256)) * 400


def split_mget(rig, client):
    """An MGET of four keys of both servers in turn, which has been written to the servers."""
    one, other = rig.keys
    client.send(b"MGET", one[0], other[0], one[1], other[1])
    rig.settle()
    assert list(rig.servers[0].session.requests) == [[b"MGET", one[0], one[1]]]
    assert list(rig.servers[1].session.requests) == [[b"MGET", other[0], other[1]]]


def test_parts_are_held_by_their_parent_and_their_servers(rig):
    client = rig.link_all()
    split_mget(rig, client)
    [], [parent] = queued(rig.conn(client))
    assert parent["refs"] == 1
    assert [part["refs"] for part in parent["parts"]] == [2, 2]
    on_servers = [queued(rig.link(number))[1][0]["address"] for number in (0, 1)]
    assert sorted(part["address"] for part in parent["parts"]) == sorted(on_servers)

    rig.servers[0].session.reply(array([b"a", b"c"]))
    rig.settle()
    assert client.replies() == []
    [], [parent] = queued(rig.conn(client))
    assert sorted(part["refs"] for part in parent["parts"]) == [1, 2]
    assert "done" not in parent["flags"]

    rig.servers[1].session.reply(array([b"b", b"d"]))
    rig.settle()
    assert client.replies() == [[b"a", b"b", b"c", b"d"]]


def test_small_elements_are_copied_and_large_ones_shared(rig):
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    split_mget(rig, client)
    rig.servers[0].session.reply(array([LARGE, SMALL]))
    rig.servers[1].session.reply(array([SMALL, LARGE]))
    rig.settle()
    assert state(rig.conn(client))["blocked"]
    [], [reply] = queued(rig.conn(client))
    assert {"done", "pieces"} <= reply["flags"]
    # The head, in the first bytes of the merged buffer, has left already or not.
    lengths = [piece["length"] for piece in reply["pieces"]]
    assert lengths[-3:] == [len(bulk(LARGE)), 2 * len(bulk(SMALL)), len(bulk(LARGE))]
    first, between, last = [piece["owner"] for piece in reply["pieces"][-3:]]
    # Only the pieces hold the blocks: the parts have let go of them.
    assert [part["rsp"]["length"] for part in reply["parts"]] == [0, 0]
    assert first[0] == last[0] == 1
    assert len({first[1], between[1], last[1]}) == 3
    # The pieces count in full until they have left.
    assert reply["rsp"]["length"] >= sum(lengths)

    rig.settle()
    client.reads = True
    rig.settle()
    assert client.replies() == [[LARGE, SMALL, SMALL, LARGE]]
    assert state(rig.conn(client))["unsent"] == 0


def test_several_large_elements_of_one_part_share_its_block(rig):
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    split_mget(rig, client)
    rig.servers[0].session.reply(array([LARGE, LARGE]))
    rig.servers[1].session.reply(array([SMALL, SMALL]))
    rig.settle()
    [], [reply] = queued(rig.conn(client))
    large = [piece for piece in reply["pieces"] if piece["length"] == len(bulk(LARGE))]
    assert [piece["owner"][0] for piece in large] == [2, 2]
    assert large[0]["owner"][1] == large[1]["owner"][1]
    client.reads = True
    rig.settle()
    assert client.replies() == [[LARGE, SMALL, LARGE, SMALL]]


@pytest.mark.parametrize("step", [999, 65_536])
def test_client_reads_the_pieces_slowly(rig, step):
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    for _ in range(2):
        split_mget(rig, client)
        rig.servers[0].session.reply(array([LARGE, LARGE]))
        rig.servers[1].session.reply(array([SMALL, LARGE]))
        client.send(b"PING")
        rig.settle()
        before = state(rig.conn(client))["unsent"]
        replies = []
        while len(replies) < 2:
            assert client.read(step)
            rig.settle()
            now = state(rig.conn(client))
            # What has left is not counted any more, and never more than that.
            assert now["unsent"] <= before
            before = now["unsent"]
            replies += client.replies()
        assert replies == [[LARGE, SMALL, LARGE, LARGE], b"PONG"]
        assert (now["unsent"], now["pending"]) == (0, 0)


@pytest.mark.parametrize("read", [0, 50_000, 150_000])
def test_client_closes_in_the_middle_of_the_pieces(rig, read):
    client = rig.link_all()
    shrink(rig.conn(client))
    client.reads = False
    split_mget(rig, client)
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    rig.servers[0].session.reply(array([LARGE, LARGE]))
    rig.servers[1].session.reply(array([SMALL, LARGE]))
    rig.settle()
    while client.received < read:
        client.read(4096)
        rig.settle()
    [], [reply, _] = queued(rig.conn(client))
    assert "pieces" in reply["flags"]
    client.close()
    rig.settle()
    # Only the request that a server still owes a reply to is left.
    assert rig.worker.clients() == []
    assert len(queued(rig.link(0))[1]) == 1
    rig.servers[0].session.reply(bulk(b"late"))
    rig.settle()
    assert rig.counter("responses_dropped", 0) == 1


def test_large_reply_in_parts_may_be_cut_anywhere(rig):
    client = rig.link_all()
    data = array([LARGE, SMALL])
    for cut in (*range(1, 12), len(LARGE), len(LARGE) + 20, len(data) - 1):
        split_mget(rig, client)
        session = rig.servers[0].session
        session.send_raw(data[:cut])
        rig.settle()
        rig.servers[1].session.reply(array([SMALL, LARGE]))
        rig.settle()
        assert client.replies() == []
        session.reply(data[cut:])
        rig.settle()
        assert client.replies() == [[LARGE, SMALL, SMALL, LARGE]]


def test_request_to_all_servers_shares_one_buffer(make_rig):
    rig = make_rig(servers=3)
    for server in rig.servers:
        server.greets = False
    client = rig.connect()
    # Too long to be inside a message.
    script = b"return 1 -- " + b"x" * 1000
    client.send(b"SCRIPT", b"LOAD", script)
    rig.settle()
    requests = [queued(rig.link(number))[0][0]["req"] for number in range(3)]
    assert [request["owner"][0] for request in requests] == [3, 3, 3]
    assert len({request["at"] for request in requests}) == 1
    for server in rig.servers:
        server.session.greet()
    rig.settle()
    sha = b"$40\r\n" + b"a" * 40 + b"\r\n"
    for left in (2, 1):
        session = rig.servers[left].session
        assert session.reply(sha) == [b"SCRIPT", b"LOAD", script]
        rig.settle()
        [], [parent] = queued(rig.conn(client))
        owners = {part["req"]["owner"][0] for part in parent["parts"] if part["req"]["owner"]}
        # A part keeps its request until all have replied, or lets go of it before.
        assert owners <= {1, 2, 3}
        assert owners
    rig.servers[0].session.reply(sha)
    rig.settle()
    assert client.replies() == [b"a" * 40]


def test_small_request_to_all_servers_is_inside_their_messages(rig):
    client = rig.link_all()
    client.send(b"DBSIZE")
    rig.settle()
    [], [parent] = queued(rig.conn(client))
    assert {part["req"]["owner"] for part in parent["parts"]} == {None}
    for number, server in enumerate(rig.servers, start=1):
        assert server.session.reply(b":%d\r\n" % number) == [b"DBSIZE"]
    rig.settle()
    assert client.replies() == [3]


def test_one_part_fails(rig):
    client = rig.link_all()
    split_mget(rig, client)
    rig.servers[0].session.close()
    rig.settle()
    assert client.replies() == []
    rig.servers[1].session.reply(array([LARGE, LARGE]))
    rig.settle()
    [error] = client.replies()
    assert "'s1'" in str(error)
    assert rig.counter("requests_lost", 0) == 1


def test_all_parts_fail(rig):
    client = rig.link_all()
    split_mget(rig, client)
    client.send(b"PING")
    for server in rig.servers:
        server.session.close()
    rig.settle()
    error, pong = client.replies()
    assert isinstance(error, hiredis.ReplyError)
    assert pong == b"PONG"
    assert [rig.counter("requests_lost", number) for number in (0, 1)] == [1, 1]


def test_server_refuses_its_part(rig):
    client = rig.link_all()
    split_mget(rig, client)
    rig.servers[1].session.reply(b"-LOADING wait\r\n")
    rig.servers[0].session.reply(array([LARGE, SMALL]))
    rig.settle()
    [error] = client.replies()
    assert str(error).startswith("LOADING wait")


@pytest.mark.parametrize("replies_before", [0, 1])
def test_join_whose_client_has_gone(rig, replies_before):
    client = rig.link_all()
    # A client that closes with an unread reply resets the connection.
    client.reads = False
    client.send(b"PING")
    split_mget(rig, client)
    sessions = [server.session for server in rig.servers]
    if replies_before:
        sessions[0].reply(array([LARGE, SMALL]))
        rig.settle()
    client.close()
    rig.settle()
    assert rig.worker.clients() == []
    # The parts keep their places until their replies come.
    for number in range(replies_before, 2):
        assert [msg["awaited"] for msg in queued(rig.link(number))[1]] == [False]
    other = rig.connect()
    other.send(b"GET", rig.keys[0][0])
    rig.settle()
    for session in sessions[replies_before:]:
        session.reply(array([b"of the first", b"client"]))
    sessions[0].reply(bulk(b"mine"))
    rig.settle()
    assert other.replies() == [b"mine"]


def test_reply_with_too_few_elements_is_an_error(rig):
    client = rig.link_all()
    split_mget(rig, client)
    rig.servers[0].session.reply(array([LARGE]))
    rig.servers[1].session.reply(array([SMALL, LARGE, SMALL]))
    rig.settle()
    [error] = client.replies()
    assert isinstance(error, hiredis.ReplyError)


# Requests in pieces
# --------------------------------------------------------------------------------


# A request is written in pieces if it has 1 MB or more.
HUGE = b"h" * 1_100_000


def split_mset(rig, client, value=LARGE):
    """An MSET of a large value for each server, which nobody reads."""
    for server in rig.servers:
        server.session.reads = False
    client.send(b"MSET", rig.keys[0][0], value, rig.keys[1][0], HUGE, rig.keys[0][1], SMALL)
    rig.settle()


def test_large_values_of_a_request_share_the_block_that_it_came_in(rig):
    client = rig.link_all()
    for number in range(2):
        shrink(rig.link(number))
    split_mset(rig, client)
    blocks = set()
    for number in range(2):
        [part], [] = queued(rig.link(number))
        assert "request in pieces" in part["flags"]
        assert part["req"]["owner"] is None
        blocks |= {one["owner"][1] for one in part["pieces"] if one["length"] >= len(LARGE)}
    assert len(blocks) == 1
    for server in rig.servers:
        server.session.reads = True
    rig.settle()
    one, other = rig.keys
    assert list(rig.servers[0].session.requests) == [[b"MSET", one[0], LARGE, one[1], SMALL]]
    assert list(rig.servers[1].session.requests) == [[b"MSET", other[0], HUGE]]
    # The server of the first part is done with the block, the other one's part holds it still.
    rig.servers[0].session.reply(b"+OK\r\n")
    rig.settle()
    assert client.replies() == []
    rig.servers[1].session.reply(b"+OK\r\n")
    rig.settle()
    assert client.replies() == [b"OK"]


def test_client_goes_while_its_request_in_pieces_is_written(rig):
    client = rig.link_all()
    client.reads = False
    client.send(b"PING")
    split_mset(rig, client)
    client.close()
    rig.settle()
    assert rig.worker.clients() == []
    for server in rig.servers:
        server.session.reads = True
    rig.settle()
    assert [request[0] for request in rig.servers[1].session.requests] == [b"MSET"]
    for server in rig.servers:
        server.session.reply(b"+OK\r\n")
    rig.settle()


def at_a_boundary(make_rig, **options):
    """A request in pieces, of which server 0 has been written all bytes up to the end of the large
    piece, and not one of the small piece after it. Returns the rig and its client."""
    taken = 0
    for value in (HUGE, None):
        rig = make_rig(**options)
        client = rig.link_all()
        # What the socket takes of the first request is what it takes of the second.
        head = b"*5\r\n$4\r\nMSET\r\n" + bulk(rig.keys[0][0]) + b"$%d\r\n" % (taken or 10**6)
        split_mset(rig, client, value or b"v" * (taken - len(head) - 2))
        [part], [] = queued(rig.link(0))
        total = part["req"]["length"]
        left = sum(piece["length"] for piece in part["pieces"]) - state(rig.link(0))["sent"]
        taken = total - left
    assert state(rig.link(0))["sent"] == 0
    assert [piece["length"] for piece in part["pieces"]] == [
        len(bulk(rig.keys[0][1]) + bulk(SMALL))
    ]
    return rig, client


def test_request_that_stops_at_the_end_of_a_piece_is_lost_with_its_connection(make_rig):
    rig, client = at_a_boundary(make_rig)
    rig.servers[0].session.close()
    rig.servers[1].session.reads = True
    rig.settle()
    rig.servers[1].session.reply(b"+OK\r\n")
    rig.settle()
    [error] = client.replies()
    assert isinstance(error, hiredis.ReplyError)
    assert rig.counter("requests_lost", 0) == 1
    assert rig.counter("requests_retried", 0) == 0


def test_request_that_stops_at_the_end_of_a_piece_and_expires_is_written_to_its_end(make_rig):
    rig, client = at_a_boundary(make_rig, timeout=400)
    rig.servers[1].session.reads = True
    rig.settle()
    rig.servers[1].session.reply(b"+OK\r\n")
    rig.advance(420)
    [error] = client.replies()
    assert isinstance(error, hiredis.ReplyError)
    session = rig.servers[0].sessions[0]
    session.reads = True
    rig.settle()
    [[command, _, _, last, value]] = session.requests
    assert (command, last, value) == (b"MSET", rig.keys[0][1], SMALL)
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    session.reply(b"+OK\r\n")
    session.reply(bulk(b"mine"))
    rig.settle()
    assert client.replies() == [b"mine"]
