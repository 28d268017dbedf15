# tests/unit/core/test_scan.py: SCAN from server to server
"""The cursor, byte by byte: what a server is sent for a client's cursor, and what the client gets
for a server's."""

import hiredis
import pytest

from nutproxy.members import PLACES, places_of
from nutproxy.stepped import queued, state
from tests.unit.core.harness import array, bulk, shrink

LARGE = bytes(range(256)) * 400
PLACE_BITS = 16
# The handshake of a new connection.
PING = hiredis.pack_command((b"PING",))


def order(rig):
    """The (place, number) of the members, in the order in which a scan visits them."""
    names = [server.name for server in rig.pool.servers]
    numbers = {
        rig.server(number).name: number for number in range(len(rig.servers)) if rig.server(number)
    }
    return [(place, numbers[names[index]]) for place, index in places_of(names).items()]


def page(cursor, *keys):
    return b"*2\r\n" + bulk(b"%d" % cursor) + array(keys)


def scan(rig, client, *words):
    """Send a SCAN. Returns the number of the server that gets it, and the bytes that it gets."""
    for server in rig.servers:
        for session in server.sessions:
            session.take()
    client.send(b"SCAN", *words)
    rig.settle()
    [(number, taken)] = [
        (number, taken)
        for number, server in enumerate(rig.servers)
        if (taken := b"".join(session.take() for session in server.sessions).removeprefix(PING))
    ]
    return number, taken


def reply(rig, client, number, data):
    rig.servers[number].session.reply(data)
    rig.settle()
    [found] = client.replies()
    return found


@pytest.mark.parametrize("servers", [2, 5])
def test_visits_each_server_once_and_ends_with_zero(make_rig, servers):
    rig = make_rig(servers=servers)
    client = rig.link_all()
    cursor = b"0"
    visited = []
    for place, number in order(rig):
        for theirs, following in ((0, 24576), (24576, 7), (7, 0)):
            sent = (b"SCAN", cursor, b"MATCH", b"*", b"count", b"10")
            expected = (b"SCAN", b"%d" % theirs, *sent[2:])
            assert scan(rig, client, *sent[1:]) == (number, hiredis.pack_command(expected))
            cursor, keys = reply(rig, client, number, page(following, b"a", b"b"))
            assert keys == [b"a", b"b"]
            if following:
                assert int(cursor) == following << PLACE_BITS | place
        visited.append(number)
        if len(visited) < servers:
            assert int(cursor) == order(rig)[len(visited)][0]
    assert cursor == b"0"
    assert sorted(visited) == list(range(servers))
    assert rig.counter("fragments") == 0


def test_pool_of_one_server_passes_everything_on(make_rig):
    rig = make_rig(servers=1)
    client = rig.link_all()
    for cursor in (b"0", b"5", b"00", b"x", b"-1", b"18446744073709551615"):
        request = hiredis.pack_command((b"SCAN", cursor, b"COUNT", b"x"))
        assert scan(rig, client, cursor, b"COUNT", b"x") == (0, request)
        client.take()
        rig.servers[0].session.reply(page(1 << 63, b"k"))
        rig.settle()
        assert client.take() == page(1 << 63, b"k")


@pytest.mark.parametrize(
    "cursor", [b"0", b"000", b"+0", b"-0", b"", b"x", b" 1", b"1 ", b"9" * 20, b"-1"]
)
def test_what_is_no_cursor_is_judged_by_the_first_server(rig, cursor):
    client = rig.link_all()
    number, request = scan(rig, client, cursor, b"COUNT", b"1")
    assert (number, request) == (
        order(rig)[0][1],
        hiredis.pack_command((b"SCAN", cursor, b"COUNT", b"1")),
    )
    rig.servers[number].session.reply(b"-ERR invalid cursor\r\n")
    rig.settle()
    assert client.take() == b"-ERR invalid cursor\r\n"


def test_leading_zeros_of_a_cursor_do_not_count(rig):
    client = rig.link_all()
    place, number = order(rig)[1]
    words = (b"0" * 40 + b"%d" % (9 << PLACE_BITS | place),)
    assert scan(rig, client, *words) == (number, hiredis.pack_command((b"SCAN", b"9")))
    assert reply(rig, client, number, page(0)) == [b"0", []]


@pytest.mark.parametrize(
    "theirs", [1, 9, 10, 32767, (1 << 33) - 1, (1 << 37) - 1, 1 << 37, (1 << 47) - 1]
)
def test_cursors_are_below_2_53_for_a_table_of_2_37_and_always_below_2_63(rig, theirs):
    client = rig.link_all()
    for place, number in order(rig):
        assert scan(rig, client, b"%d" % place) == (number, hiredis.pack_command((b"SCAN", b"0")))
        cursor, _ = reply(rig, client, number, page(theirs))
        assert cursor == b"%d" % int(cursor)
        assert int(cursor) < (1 << 53 if theirs < 1 << 37 else 1 << 63)
        assert scan(rig, client, cursor) == (
            number,
            hiredis.pack_command((b"SCAN", b"%d" % theirs)),
        )
        assert reply(rig, client, number, page(0))[0] != cursor


@pytest.mark.parametrize("theirs", [b"%d" % (1 << 47), b"18446744073709551615", b"9" * 19, b"x"])
def test_server_s_cursor_that_does_not_fit_is_an_error(rig, theirs):
    client = rig.link_all()
    number, _ = scan(rig, client, b"0")
    found = reply(rig, client, number, b"*2\r\n" + bulk(theirs) + array([b"k"]))
    assert str(found) == (
        f"ERR cursor '{theirs.decode()}' of server '{rig.server(number).name}' is not a number"
        " below 2^47, scan that server directly"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"$-1\r\n",
        b"*1\r\n$1\r\n0\r\n",
        b"*2\r\n:0\r\n*0\r\n",
        b"*2\r\n$-1\r\n*0\r\n",
        b"*2\r\n$0\r\n\r\n*0\r\n",
        b"*2\r\n" + bulk(b"0" * 100) + b"*0\r\n",
        b"*3\r\n$1\r\n0\r\n*0\r\n*0\r\n",
    ],
)
def test_reply_of_another_form_is_an_error_that_names_the_server(rig, data):
    client = rig.link_all()
    number, _ = scan(rig, client, b"0")
    found = reply(rig, client, number, data)
    assert isinstance(found, hiredis.ReplyError)
    assert rig.server(number).name in str(found)


def test_error_of_a_server_is_passed_on(rig):
    client = rig.link_all()
    number, _ = scan(rig, client, b"0")
    rig.servers[number].session.reply(b"-LOADING Redis is loading the dataset in memory\r\n")
    rig.settle()
    assert client.take() == b"-LOADING Redis is loading the dataset in memory\r\n"


def test_large_page_is_sent_from_where_it_was_received(rig):
    client = rig.link_all()
    shrink(rig.conn(client))
    number, _ = scan(rig, client, b"0")
    client.reads = False
    keys = [LARGE] * 4
    rig.servers[number].session.reply(page(5, *keys))
    rig.settle()
    assert state(rig.conn(client))["blocked"]
    [], [reply] = queued(rig.conn(client))
    assert {"done", "pieces"} <= reply["flags"]
    # The head may have left already. The rest is one piece, of which nothing else holds the block.
    assert reply["pieces"][-1]["length"] == len(array(keys))
    assert reply["pieces"][-1]["owner"][0] == 1
    assert [part["rsp"]["length"] for part in reply["parts"]] == [0]
    client.reads = True
    rig.settle()
    place = order(rig)[0][0]
    assert client.replies() == [[b"%d" % (5 << PLACE_BITS | place), keys]]
    assert state(rig.conn(client))["unsent"] == 0


def test_reply_keeps_its_place_in_a_pipeline(rig):
    client = rig.link_all()
    (first, one), (second, other) = order(rig)
    client.send(b"SCAN", b"%d" % second)
    client.send(b"PING")
    client.send(b"SCAN", b"%d" % first)
    rig.settle()
    rig.servers[one].session.reply(page(0, b"a"))
    rig.settle()
    assert client.replies() == []
    rig.servers[other].session.reply(page(0, b"b"))
    rig.settle()
    assert client.replies() == [[b"0", [b"b"]], b"PONG", [b"%d" % second, [b"a"]]]


def test_client_reply_off_and_a_client_that_has_gone(rig):
    client = rig.link_all()
    client.send(b"CLIENT", b"REPLY", b"SKIP")
    number, _ = scan(rig, client, b"0")
    rig.servers[number].session.reply(page(5, LARGE))
    rig.settle()
    assert client.take() == b""
    number, _ = scan(rig, client, b"0")
    client.close()
    rig.settle()
    rig.servers[number].session.reply(page(5, LARGE))
    rig.settle()


def test_longer_request_than_the_row_allows_is_refused(rig):
    client = rig.link_all()
    client.send(b"SCAN", b"0", b"MATCH", b"x" * (1 << 20))
    client.send(b"SCAN", b"0", *[b"x"] * 1023)
    rig.settle()
    assert [str(reply)[:18] for reply in client.replies()] == [
        "ERR 'SCAN' has 104",
        "ERR 'SCAN' has 102",
    ]


# Members that come and go
# ----------------------------------------------------------------------------


def test_cursor_means_the_same_server_whatever_other_members_there_are(make_rig):
    rig = make_rig(servers=5)
    client = rig.link_all()
    cursors = {number: b"%d" % (77 << PLACE_BITS | place) for place, number in order(rig)}
    for members in ((0, 1, 2, 3, 4), (0, 2, 4), (2, 3), (1, 2), (0, 1, 2, 3, 4)):
        rig.apply(*members)
        places = [number for _, number in order(rig)]
        for number in members:
            sent = scan(rig, client, cursors[number])
            assert sent == (number, hiredis.pack_command((b"SCAN", b"77")))
            after = places[places.index(number) + 1 :]
            cursor, _ = reply(rig, client, number, page(0))
            assert int(cursor) == (
                dict(zip(places, order(rig), strict=True))[after[0]][0] if after else 0
            )
        for number in {0, 1, 2, 3, 4}.difference(members):
            client.send(b"SCAN", cursors[number])
            rig.settle()
            [error] = client.replies()
            assert str(error) == (
                f"ERR invalid cursor: {cursors[number].decode()} belongs to no server of pool"
                " 'alpha', start again with SCAN 0"
            )


def test_server_that_is_down_gives_an_error_and_is_not_skipped(make_rig):
    rig = make_rig(servers=3)
    client = rig.link_all()
    _, (place, number), _ = order(rig)
    rig.servers[number].refuse()
    for session in rig.servers[number].sessions:
        session.close()
    rig.settle()
    for _ in range(3):
        client.send(b"SCAN", b"%d" % (40 << PLACE_BITS | place))
        rig.advance(200)
        [error] = client.replies()
        assert isinstance(error, hiredis.ReplyError)
        assert rig.server(number).name in str(error)
    rig.servers[number].listen()
    rig.advance(2000)
    cursor = b"%d" % (40 << PLACE_BITS | place)
    assert scan(rig, client, cursor) == (number, hiredis.pack_command((b"SCAN", b"40")))
    reply(rig, client, number, page(0))


def test_ejected_server_gives_an_error_and_is_not_skipped(make_rig):
    rig = make_rig(
        servers=3, auto_eject_hosts="true", server_failure_limit=1, server_retry_timeout=500
    )
    client = rig.link_all()
    (_, one), (place, number), _ = order(rig)
    rig.servers[number].refuse()
    for session in rig.servers[number].sessions:
        session.close()
    rig.advance(20)
    client.send(b"GET", rig.keys[number][0])
    rig.advance(200)
    client.replies()
    assert rig.server(number).ejected
    # The server before it names it as the next.
    scan(rig, client, b"0")
    assert reply(rig, client, one, page(0))[0] == b"%d" % place
    client.send(b"SCAN", b"%d" % place)
    rig.settle()
    [error] = client.replies()
    assert rig.server(number).name in str(error)
    rig.servers[number].listen()
    rig.advance(2000)
    assert scan(rig, client, b"%d" % place)[0] == number
    reply(rig, client, number, page(0))


def test_scan_starts_at_the_first_server_even_if_that_is_ejected(make_rig):
    rig = make_rig(
        servers=2, auto_eject_hosts="true", server_failure_limit=1, server_retry_timeout=500
    )
    client = rig.link_all()
    number = order(rig)[0][1]
    rig.servers[number].refuse()
    for session in rig.servers[number].sessions:
        session.close()
    rig.advance(20)
    client.send(b"GET", rig.keys[number][0])
    rig.advance(200)
    client.replies()
    assert rig.server(number).ejected
    client.send(b"SCAN", b"0")
    rig.settle()
    assert rig.server(number).name in str(client.replies()[0])


# Places
# ----------------------------------------------------------------------------


def test_places_are_those_of_the_names():
    """They may not change: a cursor may outlive the version that made it, and meet others."""
    assert places_of(["s1", "s2", "s3"]) == {19718: 0, 21497: 2, 63079: 1}


def test_places_are_distinct_ascending_and_never_zero():
    names = [f"10.0.{number // 250}.{number % 250}:6379:1" for number in range(5000)]
    places = places_of(names)
    assert list(places) == sorted(places)
    assert sorted(places.values()) == list(range(5000))
    assert min(places) > 0
    assert max(places) <= PLACES


def test_a_name_keeps_its_place_unless_it_collides():
    names = [f"server-{number}" for number in range(40)]
    place_of = {names[index]: place for place, index in places_of(names).items()}
    for left_out in names:
        rest = [name for name in names if name != left_out]
        for place, index in places_of(rest).items():
            assert place == place_of[rest[index]]


def test_name_whose_place_is_taken_gets_the_next():
    names = [str(number) for number in range(2000)]
    place_of = {names[index]: place for place, index in places_of(names).items()}
    alone = {name: next(iter(places_of([name]))) for name in names}
    moved = [name for name in names if place_of[name] != alone[name]]
    assert 10 < len(moved) < 60
    for name in moved:
        assert alone[name] in (place_of[other] for other in names[: names.index(name)])
        assert alone[name] < place_of[name] < alone[name] + 4


# RANDOMKEY
# ----------------------------------------------------------------------------


def random_keys(rig, client, sizes, keys, count=1):
    """The replies to `count` RANDOMKEY, if the servers have these sizes and keys."""
    for _ in range(count):
        client.send(b"RANDOMKEY")
    rig.settle()
    for server, size, key in zip(rig.servers, sizes, keys, strict=True):
        assert list(server.session.requests) == [[b"DBSIZE"], [b"RANDOMKEY"]] * count
        while server.session.requests:
            server.session.reply(size)
            server.session.reply(key)
    rig.settle()
    return client.replies()


def test_random_key_is_drawn_by_the_sizes_of_the_servers(make_rig):
    rig = make_rig(servers=4)
    client = rig.link_all()
    sizes = [1, 0, 10, 5]
    texts = [b":%d\r\n" % size for size in sizes]
    keys = [bulk(b"%d" % size) if size else b"$-1\r\n" for size in sizes]
    replies = []
    while len(replies) < 4000:
        replies += random_keys(rig, client, texts, keys, count=20)
    counts = [replies.count(b"%d" % size) for size in sizes]
    assert sum(counts) == 4000
    # Six standard deviations.
    for size, count in zip(sizes, counts, strict=True):
        share = size / sum(sizes)
        assert abs(count - 4000 * share) <= 6 * (4000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("sizes", "keys", "expected"),
    [
        ((b":0\r\n", b":0\r\n"), (b"$-1\r\n", b"$-1\r\n"), None),
        ((b":0\r\n", b":0\r\n"), (b"_\r\n", b"_\r\n"), None),
        ((b":9\r\n", b":1\r\n"), (b"$-1\r\n", b"$1\r\nk\r\n"), b"k"),
        ((b":9\r\n", b":0\r\n"), (b"$-1\r\n", b"$1\r\nk\r\n"), b"k"),
        ((b":0\r\n", b":9\r\n"), (b"$1\r\nk\r\n", b"$-1\r\n"), b"k"),
        ((b":1\r\n", b":0\r\n"), (b"$0\r\n\r\n", b"$-1\r\n"), b""),
        ((b":1\r\n", b":0\r\n"), (bulk(LARGE), b"$-1\r\n"), LARGE),
    ],
)
def test_random_key_is_null_only_if_no_server_has_one(rig, sizes, keys, expected):
    client = rig.link_all()
    for _ in range(20):
        assert random_keys(rig, client, sizes, keys) == [expected]


def test_random_key_is_the_error_of_a_server(rig):
    client = rig.link_all()
    keys = (b"$1\r\nk\r\n", b"$1\r\nk\r\n")
    [reply] = random_keys(rig, client, (b":1\r\n", b"-LOADING x\r\n"), keys)
    assert str(reply) == "LOADING x"
    [reply] = random_keys(rig, client, (b":1\r\n", b"+x\r\n"), keys)
    assert rig.server(1).name in str(reply)


def test_random_key_of_one_live_server_is_its_own(make_rig):
    rig = make_rig(servers=1)
    client = rig.link_all()
    client.send(b"RANDOMKEY")
    rig.settle()
    assert list(rig.servers[0].session.requests) == [[b"RANDOMKEY"]]
    rig.servers[0].session.reply(b"$1\r\nk\r\n")
    rig.settle()
    assert client.replies() == [b"k"]


# KEYS
# ----------------------------------------------------------------------------

LIMIT = 1 << 20
TOO_LONG = f"ERR the servers' replies have more than {LIMIT} bytes together (max_merged_reply)"


@pytest.fixture
def limited(make_rig):
    return make_rig(servers=3, max_merged_reply="1mb")


def keys_of(rig, client, *replies):
    """The reply to KEYS, if the servers reply so, in this order."""
    client.send(b"KEYS", b"*")
    rig.settle()
    for server, data in zip(rig.servers, replies, strict=True):
        server.session.reply(data)
        rig.settle()
    [reply] = client.replies()
    return reply


def test_keys_of_servers_are_joined_and_large_replies_are_shared(limited):
    client = limited.link_all()
    large = [LARGE] * 3
    assert keys_of(limited, client, array(large), array([b"a"]), array(large)) == [
        *large,
        b"a",
        *large,
    ]
    assert keys_of(limited, client, *[array([])] * 3) == []
    shrink(limited.conn(client))
    client.reads = False
    client.send(b"KEYS", b"*")
    limited.settle()
    for server in limited.servers:
        server.session.reply(array(large))
    limited.settle()
    [], [reply] = queued(limited.conn(client))
    assert {"done", "pieces"} <= reply["flags"]
    head = len(b"*3\r\n")
    assert [piece["length"] for piece in reply["pieces"][-2:]] == [len(array(large)) - head] * 2
    client.reads = True
    limited.settle()
    assert client.replies() == [large * 3]


def test_replies_up_to_max_merged_reply_are_merged_and_longer_ones_an_error(limited):
    client = limited.link_all()
    third = array([b"x" * (LIMIT // 3 - 20)])
    assert len(third) <= LIMIT // 3
    assert len(keys_of(limited, client, third, third, third)) == 3
    rest = LIMIT - 2 * len(third)
    last = array([b"x" * (rest - len(b"*1\r\n$349544\r\n\r\n"))])
    assert len(last) == rest
    assert len(keys_of(limited, client, third, third, last)) == 3
    over = array([b"x" * (rest + 1 - len(b"*1\r\n$349544\r\n\r\n"))])
    assert str(keys_of(limited, client, third, third, over)) == TOO_LONG
    # The limit is for each command.
    assert len(keys_of(limited, client, third, third, third)) == 3
    client.send(b"MGET", *(keys[0] for keys in limited.keys))
    limited.settle()
    for server in limited.servers:
        server.session.reply(array([b"v" * LIMIT]))
    limited.settle()
    assert client.replies() == [[b"v" * LIMIT] * 3]


def test_reply_above_the_limit_is_dropped_while_it_is_received(limited):
    """So three servers with long replies take no more memory than the limit."""
    client = limited.link_all()
    client.send(b"KEYS", b"*")
    client.send(b"GET", limited.keys[0][0])
    limited.settle()
    session = limited.servers[0].session
    # The length of an array says nothing about its bytes.
    session.send_raw(b"*8\r\n" + bulk(b"x" * LIMIT) * 4)
    limited.settle()
    # 4 MB have come.
    assert state(limited.link(0))["tail"] < LIMIT
    session.send_raw(bulk(b"x" * LIMIT) * 4)
    session.requests.popleft()
    limited.settle()
    session.reply(b"$1\r\nv\r\n")
    for server in limited.servers[1:]:
        server.session.reply(array([]))
    limited.settle()
    error, value = client.replies()
    assert (str(error), value) == (TOO_LONG, b"v")


def test_pool_of_one_server_has_no_limit_for_keys(make_rig):
    rig = make_rig(servers=1, max_merged_reply="1mb")
    client = rig.link_all()
    assert keys_of(rig, client, array([b"x" * 2 * LIMIT])) == [b"x" * 2 * LIMIT]
