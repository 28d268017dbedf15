# tests/unit/core/test_members.py: other members for a pool that works
"""A View is applied while clients send requests. Those in flight are answered by the servers that
have them; the next ones are routed as in a pool that was configured with these members."""

import dataclasses
import gc
import hashlib
import time

import hiredis
import pytest

from nutproxy.back.server import Server
from nutproxy.hashkit.router import Router
from nutproxy.members import Member, View
from tests.unit.core.harness import FakeServer, array, bulk, connections, shrink

LARGE = b"v" * 200_000
KEYS = [hashlib.md5(b"%d" % number).hexdigest().encode() for number in range(500)]
EJECTS = {"auto_eject_hosts": "true", "server_failure_limit": 1, "server_retry_timeout": 500}


def turns(rig, count):
    """So many turns of the loop, and the peers after each."""
    for _ in range(count):
        rig.worker.step()
        for peer in (*rig.servers, *rig.clients):
            peer.poll()


def fresh(rig, members, distribution="ketama"):
    return Router(
        "fnv1a_64", distribution, b"{}", [(each.name.encode(), each.weight) for each in members]
    )


def check_routes(rig, members, distribution="ketama", live=None):
    """The pool routes like one that begins with these members, of which those are `live`."""
    names = [server.name for server in rig.pool.servers]
    assert names == [each.name for each in members]
    assert [server.index for server in rig.pool.servers] == list(range(len(names)))
    assert [server.member for server in rig.pool.servers] == list(members)
    router = fresh(rig, members, distribution)
    if live is not None:
        router.set_live(live)
    for key in KEYS:
        assert rig.pool.router.explain(key) == router.explain(key)
    assert rig.pool.router.points_per_server() == router.points_per_server()


def owner(rig, key):
    """The number of the server that has this key now."""
    server = rig.pool.servers[rig.pool.router.explain(key).server]
    return next(number for number in range(len(rig.servers)) if rig.server(number) is server)


def sent(rig):
    """By number: the requests that servers have not replied to."""
    return {
        number: [list(request) for session in server.sessions for request in session.requests]
        for number, server in enumerate(rig.servers)
        if any(session.requests for session in server.sessions)
    }


def answer(rig):
    """The servers reply to all GET and SET with the number of the server."""
    for number, server in enumerate(rig.servers):
        for session in server.sessions:
            while session.requests:
                get = session.requests[0][0] == b"GET"
                session.reply(bulk(b"%d" % number) if get else b"+OK\r\n")
    rig.settle()


def reply_with_keys(rig):
    """The servers reply to all GET and MGET with the keys."""
    while sent(rig):
        for server in rig.servers:
            for session in server.sessions:
                while session.requests:
                    command, *keys = session.requests[0]
                    session.reply(bulk(keys[0]) if command == b"GET" else array(keys))
        rig.settle()


def eject(rig, client, number):
    """The server refuses connections and leaves the ring."""
    server = rig.server(number)
    rig.servers[number].refuse()
    for session in rig.servers[number].sessions:
        session.close()
    for key in KEYS:
        if owner(rig, key) == number:
            client.send(b"GET", key)
            break
    turns(rig, 8)
    assert server.ejected


# What stays, what comes, what goes
# ----------------------------------------------------------------------------


def test_member_that_stays_keeps_its_connections(make_rig):
    rig = make_rig(servers=4)
    client = rig.link_all()
    kept, link = rig.server(1), rig.link(1)
    rig.apply(1, 3)
    assert rig.server(1) is kept
    assert rig.link(1) is link
    del link
    assert [len(server.sessions) for server in rig.servers] == [1] * 4
    assert [server.session.eof for server in rig.servers] == [True, False, True, False]
    assert rig.pool.leaving == []
    check_routes(rig, rig.members(1, 3))
    for key in KEYS[:20]:
        client.send(b"GET", key)
    rig.settle()
    assert set(sent(rig)) == {1, 3}
    answer(rig)
    assert set(client.replies()) == {b"1", b"3"}
    assert "pool 'alpha' has other members: servers: 2, new: 0, removed: 2" in rig.log.lines


def test_new_member_gets_requests_and_counts_in_its_row(make_rig):
    rig = make_rig(servers=3)
    client = rig.connect()
    rig.apply(0)
    rig.apply(0, 2)
    check_routes(rig, rig.members(0, 2))
    key = next(key for key in KEYS if owner(rig, key) == 2)
    client.send(b"GET", key)
    rig.settle()
    assert sent(rig) == {2: [[b"GET", key]]}
    answer(rig)
    assert client.replies() == [b"2"]
    assert [rig.counter("requests", row) for row in range(3)] == [0, 0, 1]


def test_requests_in_flight_are_answered_by_the_servers_that_have_them(make_rig):
    rig = make_rig(servers=3)
    client = rig.link_all()
    for number in (0, 1, 2, 0):
        client.send(b"GET", rig.keys[number][0])
    rig.settle()
    rig.apply(2)
    assert [server.name for server in rig.pool.leaving] == ["s1", "s2"]
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    for number in (1, 0, 2):
        rig.check()
        for session in rig.servers[number].sessions:
            while session.requests:
                session.reply(bulk(b"%d" % number))
        rig.settle()
    assert client.replies() == [b"0", b"1", b"2", b"0", b"2"]
    assert rig.pool.leaving == []
    assert rig.counter("requests_lost", 0) == 0


def test_half_written_request_goes_to_the_server_that_leaves(rig):
    client = rig.link_all()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    key = rig.keys[0][0]
    client.send(b"SET", key, LARGE)
    rig.settle()
    rig.apply(1)
    client.send(b"GET", key)
    rig.settle()
    session.reads = True
    rig.settle()
    assert sent(rig) == {0: [[b"SET", key, LARGE]], 1: [[b"GET", key]]}
    answer(rig)
    assert client.replies() == [b"OK", b"1"]
    assert rig.pool.leaving == []


def test_request_that_is_half_received_goes_to_the_new_server(rig):
    client = rig.link_all()
    key = rig.keys[0][0]
    data = hiredis.pack_command((b"SET", key, LARGE))
    client.send_raw(data[:100_000])
    rig.settle()
    rig.apply(1)
    client.send_raw(data[100_000:])
    rig.settle()
    assert sent(rig) == {1: [[b"SET", key, LARGE]]}
    answer(rig)
    assert client.replies() == [b"OK"]


def test_split_request_is_merged_from_old_and_kept_servers(make_rig):
    rig = make_rig(servers=3)
    client = rig.link_all()
    keys = [rig.keys[number][place] for place in range(2) for number in range(3)]
    client.send(b"MGET", *keys)
    rig.settle()
    rig.apply(1)
    client.send(b"MGET", *keys)
    rig.settle()
    assert sent(rig)[1][1] == [b"MGET", *keys]
    for server in rig.servers:
        for session in server.sessions:
            while session.requests:
                session.reply(array(session.requests[0][1:]))
    rig.settle()
    assert client.replies() == [keys, keys]
    assert rig.pool.leaving == []


def test_member_with_another_address_is_another_server(make_rig):
    rig = make_rig(servers=2)
    client = rig.link_all()
    key = rig.keys[0][0]
    client.send(b"GET", key)
    rig.settle()
    old = rig.server(0)
    moved, other = rig.members(0, 1)
    path = f"{rig.layout.directory}/moved"
    moved = dataclasses.replace(moved, address=dataclasses.replace(moved.address, path=path))
    rig.servers.append(FakeServer(path, True))
    rig.pool.apply(View((moved, other)))
    rig.settle()
    assert rig.server(0) is not old
    assert rig.server(0).address == path
    check_routes(rig, (moved, other))
    client.send(b"GET", key)
    rig.settle()
    assert sent(rig) == {0: [[b"GET", key]], 2: [[b"GET", key]]}
    answer(rig)
    assert client.replies() == [b"0", b"2"]
    assert rig.pool.leaving == []
    # Both have counted in the row of the name.
    assert rig.counter("responses", 0) == 3
    assert rig.counter("server_connections", 0) == 1


def test_member_that_comes_back_with_requests_in_flight_keeps_their_order(rig):
    client = rig.link_all()
    shrink(rig.link(0))
    session = rig.servers[0].session
    session.reads = False
    server, key = rig.server(0), rig.keys[0][0]
    client.send(b"SET", key, LARGE)
    rig.settle()
    rig.apply(1)
    assert server.retired
    rig.apply(0, 1)
    assert rig.server(0) is server
    assert not server.retired
    assert rig.pool.leaving == []
    client.send(b"GET", key)
    rig.settle()
    session.reads = True
    rig.settle()
    assert sent(rig) == {0: [[b"SET", key, LARGE], [b"GET", key]]}
    answer(rig)
    assert client.replies() == [b"OK", b"0"]
    # Its connection does not close any more when it is idle.
    assert [len(one.sessions) for one in rig.servers] == [1, 1]
    assert not session.eof


@pytest.mark.parametrize("ejects", [{}, EJECTS], ids=["down", "ejected"])
def test_member_that_was_removed_while_it_was_down_comes_back_afresh(make_rig, ejects):
    rig = make_rig(servers=2, server_connections=2, **ejects)
    clients = [rig.connect(), rig.connect()]
    one, key = rig.servers[0], rig.keys[0][0]
    clients[0].send(b"GET", key)
    rig.settle()
    # So long without a reply that this connection does not show that the server is up.
    rig.advance(11_000)
    one.refuse()
    clients[1].send(b"GET", key)
    rig.settle()
    server = rig.server(0)
    assert server.down
    rig.apply(1)
    in_flight = not ejects
    assert (server in rig.pool.leaving) == in_flight
    one.listen()
    rig.apply(0, 1)
    assert (rig.server(0) is server) == in_flight
    assert not rig.server(0).down
    check_routes(rig, rig.members(0, 1))
    clients[1].send(b"GET", key)
    rig.settle()
    answer(rig)
    assert clients[1].replies()[-1] == b"0"
    assert len(clients[0].replies()) == 1
    assert [rig.counter(name, 0) for name in ("server_down", "server_ejected")] == [0, 0]


def test_preconnect_opens_the_connections_of_new_members(make_rig):
    rig = make_rig(servers=3, preconnect="true")
    rig.apply(1)
    rig.pool.preconnect()
    rig.settle()
    rig.apply(1, 2)
    assert [bool(server.sessions) for server in rig.servers] == [False, True, True]


def test_back_and_forth_leaves_nothing(make_rig):
    rig = make_rig(servers=3, timeout=400)
    client = rig.link_all()
    before = len(connections())
    for number in range(100):
        for key in KEYS[:5]:
            client.send(b"GET", key)
        client.send(b"MGET", *KEYS[5:10])
        rig.settle()
        rig.apply(*[(0, 1), (2,)][number % 2])
        # A pool opens only so many connections at once.
        rig.advance(20)
        reply_with_keys(rig)
        assert client.replies() == [*KEYS[:5], KEYS[5:10]]
        assert rig.pool.leaving == []
    assert len(connections()) <= before
    assert sum(isinstance(one, Server) for one in gc.get_objects()) == len(rig.pool.servers)
    gauges = ["server_connections", "in_queue", "out_queue", "in_queue_bytes", "out_queue_bytes"]
    for row in (0, 1):
        assert [rig.counter(name, row) for name in gauges] == [0] * 5


# Routing
# ----------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_weights_route_as_in_a_pool_that_begins_with_them(make_rig, distribution):
    rig = make_rig(servers=3, distribution=distribution)
    client = rig.link_all()
    servers = list(rig.pool.servers)
    members = rig.members(0, 1, 2)
    for weights in ((1, 5, 1), (3, 1, 1), (1, 1, 1)):
        changed = tuple(
            dataclasses.replace(member, weight=weight)
            for member, weight in zip(members, weights, strict=True)
        )
        rig.pool.apply(View(changed))
        rig.settle()
        assert rig.pool.servers == servers
        check_routes(rig, changed, distribution)
        router = fresh(rig, changed, distribution)
        for key in KEYS[:30]:
            client.send(b"GET", key)
        rig.settle()
        answer(rig)
        assert client.replies() == [b"%d" % router.explain(key).server for key in KEYS[:30]]
    assert [len(server.sessions) for server in rig.servers] == [1] * 3


@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_order_in_which_members_are_given_does_not_matter(make_rig, distribution):
    rig = make_rig(servers=4, distribution=distribution)
    rig.apply(3, 0, 2)
    check_routes(rig, rig.members(0, 2, 3), distribution)


def test_random_draws_from_the_members(make_rig):
    rig = make_rig(servers=4, distribution="random")
    rig.apply(1, 2)
    assert {owner(rig, key) for key in KEYS} == {1, 2}
    rig.apply(0, 1, 2, 3)
    assert {owner(rig, key) for key in KEYS} == {0, 1, 2, 3}


@pytest.mark.parametrize("distribution", ["ketama", "modula", "random"])
def test_single_member_gets_every_key_unhashed(make_rig, distribution):
    rig = make_rig(servers=2, distribution=distribution)
    client = rig.connect()
    rig.apply(1)
    assert rig.pool.router.explain(b"a").hash is None
    client.send(b"MGET", *KEYS[:5])
    # A pool of several servers refuses this, since it would need keys on one server.
    client.send(b"SORT", b"a", b"BY", b"weight:*")
    rig.settle()
    assert sent(rig) == {1: [[b"MGET", *KEYS[:5]], [b"SORT", b"a", b"BY", b"weight:*"]]}
    rig.servers[1].session.reply(array(KEYS[:5]))
    rig.servers[1].session.reply(array([]))
    rig.settle()
    assert client.replies() == [KEYS[:5], []]
    rig.apply(0, 1)
    assert rig.pool.router.explain(b"a").hash is not None
    client.send(b"SORT", b"a", b"BY", b"weight:*")
    rig.settle()
    if distribution != "random":
        [error] = client.replies()
        assert isinstance(error, hiredis.ReplyError)


# While it is built
# ----------------------------------------------------------------------------


def test_old_members_are_in_use_until_the_ring_is_ready(make_rig):
    rig = make_rig(servers=3)
    rig.apply(0, 1)
    servers = rig.pool.servers
    rig.pool.apply(View(rig.members(1, 2)))
    seen = []
    while rig.pool.servers is servers:
        check_routes(rig, rig.members(0, 1))
        assert rig.pool.leaving == []
        seen.append(rig.worker.step())
    assert len(seen) >= 3
    check_routes(rig, rig.members(1, 2))
    assert [server.name for server in rig.pool.leaving] == ["s1"]
    assert not rig.pool.leaving[0].retired
    rig.settle()
    assert rig.pool.leaving == []


def test_no_turn_of_a_large_change_takes_long(make_rig):
    rig = make_rig(servers=400)
    rig.apply(*range(200))
    servers = list(rig.pool.servers)
    rig.pool.apply(View(rig.members(*range(200, 400))))
    longest = 0.0
    used = 0
    while rig.pool.servers == servers or rig.pool.leaving:
        began = time.thread_time()
        rig.worker.step()
        longest = max(longest, time.thread_time() - began)
        used += 1
    check_routes(rig, rig.members(*range(200, 400)))
    assert used > 10
    # A View of 1,000 servers takes about 30 ms.
    assert longest < 0.01


def test_requests_in_every_turn_of_many_changes(make_rig):
    rig = make_rig(servers=5)
    client = rig.link_all()
    count = 0
    for numbers in ((0, 1), (1, 2, 3), (4,), (0, 1, 2, 3, 4), (2,), (0, 4)):
        rig.pool.apply(View(rig.members(*numbers)))
        for _ in range(14):
            client.send(b"GET", KEYS[count])
            client.send(b"MGET", *KEYS[:6])
            count += 1
            turns(rig, 1)
    rig.settle()
    reply_with_keys(rig)
    replies = client.replies()
    for number in range(count):
        assert replies[2 * number : 2 * number + 2] == [KEYS[number], KEYS[:6]]
    assert len(replies) == 2 * count
    check_routes(rig, rig.members(0, 4))
    assert rig.pool.leaving == []


@pytest.mark.parametrize("begun", range(12))
def test_last_of_several_views_wins(make_rig, begun):
    rig = make_rig(servers=4)
    client = rig.link_all()
    client.send(b"GET", rig.keys[2][0])
    rig.settle()
    rig.pool.apply(View(rig.members(0)))
    turns(rig, begun)
    rig.pool.apply(View(rig.members(1)))
    rig.pool.apply(View(rig.members(1, 2, 3)))
    turns(rig, begun)
    rig.pool.apply(View(rig.members(0, 3)))
    rig.settle()
    check_routes(rig, rig.members(0, 3))
    answer(rig)
    assert client.replies() == [b"2"]
    assert rig.pool.leaving == []


# Servers that are ejected
# ----------------------------------------------------------------------------


def test_ejected_member_that_stays_is_left_out_until_it_is_back(make_rig):
    rig = make_rig(servers=3, **EJECTS)
    client = rig.link_all()
    eject(rig, client, 1)
    rig.settle()
    rig.apply(0, 1)
    assert rig.server(1).ejected
    check_routes(rig, rig.members(0, 1), live=[True, False])
    rig.apply(1)
    check_routes(rig, rig.members(1), live=[False])
    client.replies()
    client.send(b"GET", b"a")
    rig.settle()
    [error] = client.replies()
    assert isinstance(error, hiredis.ReplyError)
    rig.apply(0, 1, 2)
    check_routes(rig, rig.members(0, 1, 2), live=[True, False, True])
    rig.servers[1].listen()
    rig.advance(2000)
    check_routes(rig, rig.members(0, 1, 2))


@pytest.mark.parametrize("servers", [4, 40])
@pytest.mark.parametrize("begun", range(0, 12, 2))
def test_ejection_while_a_view_is_applied(make_rig, servers, begun):
    rig = make_rig(servers=servers, **EJECTS)
    client = rig.connect()
    numbers = range(servers - 1)
    rig.pool.apply(View(rig.members(*numbers)))
    turns(rig, begun)
    eject(rig, client, 1)
    rig.settle()
    members = rig.members(*numbers)
    check_routes(rig, members, live=[each.name != "s2" for each in members])
    # And its return.
    rig.servers[1].listen()
    for _ in range(200):
        rig.worker.reactor.clock += 20
        rig.pool.apply(View(rig.members(*range(1, servers))))
        turns(rig, 1 + begun)
        if not rig.server(1).ejected:
            break
    rig.settle()
    check_routes(rig, rig.members(*range(1, servers)))


def test_rebuild_of_the_old_ring_is_dropped_with_it(make_rig):
    rig = make_rig(servers=40, **EJECTS)
    client = rig.connect()
    rig.pool.apply(View(rig.members(*range(1, 40))))
    turns(rig, 1)
    eject(rig, client, 0)
    rig.settle()
    check_routes(rig, rig.members(*range(1, 40)))
    assert rig.counter("server_ejected", 0) == 0


# What is refused
# ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda one, two: (), "a pool needs at least one server"),
        (lambda one, two: (one, dataclasses.replace(two, name="s1")), "two servers have the name"),
        (lambda one, two: (one, dataclasses.replace(two, row=one.row)), "have the same row"),
        (lambda one, two: (one, dataclasses.replace(two, row=-1)), "row -1 is negative"),
        (lambda one, two: (one, dataclasses.replace(two, row=2)), "pool 'alpha' have no row 2"),
        (lambda one, two: (dataclasses.replace(one, weight=0), two), "weight 0 is not in 1..2147"),
        (lambda one, two: (dataclasses.replace(one, weight=1 << 31), two), "is not in 1..2147"),
    ],
)
def test_refused_view_changes_nothing(rig, change, text):
    client = rig.connect()
    servers = list(rig.pool.servers)
    with pytest.raises(ValueError, match=text):
        rig.pool.apply(View(change(*rig.members(0, 1))))
    rig.settle()
    assert rig.pool.servers == servers
    check_routes(rig, rig.members(0, 1))
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    answer(rig)
    assert client.replies() == [b"0"]


def test_view_and_member_never_change(rig):
    [member] = rig.members(0)
    view = View((member,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.members = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        member.weight = 2
    assert view == View((Member("s1", member.address, 1, member.row),))


# Without memory
# ----------------------------------------------------------------------------


class Scarce(Member):
    """A Member for which there is no memory when the pool compares it the first time."""

    asked = 0

    def __getattribute__(self, name):
        if name == "address":
            Scarce.asked += 1
            if Scarce.asked == 1:
                raise MemoryError
        return super().__getattribute__(name)


def test_view_that_failed_is_applied_a_second_later(make_rig):
    rig = make_rig(servers=3)
    client = rig.connect()
    rig.worker.janitor.tidy()
    [kept] = rig.members(1)
    Scarce.asked = 0
    [added] = rig.members(2)
    scarce = Scarce(kept.name, dataclasses.replace(kept.address), kept.weight, kept.row)
    rig.pool.apply(View((scarce, added)))
    rig.settle()
    assert Scarce.asked == 1
    check_routes(rig, rig.members(0, 1, 2))
    rig.advance(1100)
    assert [server.name for server in rig.pool.servers] == ["s2", "s3"]
    assert rig.pool.leaving == []
    client.send(b"GET", rig.keys[0][0])
    rig.settle()
    answer(rig)
    assert len(client.replies()) == 1
