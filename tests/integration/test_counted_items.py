"""Elements that are taken by commands that wait, while clients end and servers are killed: each one
is accounted for. What is checked is described in tests/soak/items.py. `make soak` takes longer."""

import asyncio
import contextlib
import random
import socket

import pytest

from tests.client import Client
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, pipeline, wait_until
from tests.soak.chaos import Chaos, killed, killed_while_stopped, restarted, stopped
from tests.soak.items import Item, Lost, Works, durable, unexplained

SECONDS = 4


@pytest.fixture(scope="module")
def servers():
    with durable() as one, durable() as two, durable() as three:
        yield [one, two, three]


@pytest.fixture
def works(servers):
    for server in servers:
        pipeline(server.unix_path, [("FLUSHALL",)])
    with NutproxyServer(pool("alpha", servers, timeout=1000)) as proxy:
        yield Works(proxy.port, [server.unix_path for server in servers], "1")
        assert "Traceback" not in proxy.log()


def test_nothing_is_lost_when_clients_end(works):
    works.prepare()
    asyncio.run(works.run(SECONDS))
    works.account()
    assert not works.errors
    done = sum(item.done for item in works.items.values())
    popped = sum(item.taken and item.queue.endswith(b":pop") for item in works.items.values())
    assert done > 100 < popped
    assert works.ended > 100


@pytest.mark.parametrize("events", [(killed, restarted, killed_while_stopped), (stopped,)])
def test_nothing_is_lost_when_servers_fail(works, servers, events):
    works.prepare()
    chaos = Chaos(servers, "1", events)
    chaos.start()
    try:
        asyncio.run(works.run(SECONDS))
    finally:
        chaos.stop()
    works.account()
    assert sum(item.done for item in works.items.values()) > 50
    assert chaos.events


@pytest.mark.parametrize("seed", range(3))
def test_what_is_pushed_after_clients_have_left_is_popped_by_those_who_are_there(seed, shards):
    """Many clients wait, some of them leave, and at once as many items are pushed as clients are
    left: each of these gets one."""
    rng = random.Random(seed)
    with NutproxyServer(pool("alpha", shards)) as proxy, contextlib.ExitStack() as stack:
        pusher = stack.enter_context(Client(proxy.port))
        for turn in range(20):
            queue = f"q{turn}"
            clients = [stack.enter_context(Client(proxy.port)) for _ in range(12)]
            for client in clients:
                client.send("BLPOP", queue, 0)
            wait_until(lambda: waiting(shards) == len(clients), "all of them wait")  # noqa: B023
            rng.shuffle(clients)
            gone = rng.randrange(1, len(clients))
            for client in clients[:gone]:
                if rng.random() < 0.5:
                    linger = b"\1\0\0\0\0\0\0\0"
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.socket.close()
            left = clients[gone:]
            items = [b"%d" % number for number in range(len(left))]
            pusher.pipeline(*[("RPUSH", queue, item) for item in items])
            assert sorted(int(client.reply()[1]) for client in left) == [*range(len(left))]
            pusher.replies(len(items))
            for client in left:
                client.socket.close()


def waiting(servers):
    found = 0
    for server in servers:
        with Client(server.port) as client:
            info = client("INFO", "clients")
            found += int(info.partition(b"blocked_clients:")[2].split(b"\r")[0])
    return found


# The checks themselves ---------------------------------------------------------------------------


def accounted(server, *commands, **states):
    """The account of one item `i0`, if the server has got these commands."""
    works = Works(server.port, [server.unix_path], "1")
    queue = states.pop("queue")
    works.items[b"i0"] = Item(b"i0", queue, 5.0, **states)
    with Client(server.port) as client:
        client("FLUSHALL")
        for command in commands:
            client(*command.split())
    works.account()


POP, MOVE, READ = b"{q0}:pop", b"{q0}:move", b"{q0}:read"
GROUP = "XGROUP CREATE {q0}:read g 0 MKSTREAM"
ADD = "XADD {q0}:read * name i0"
TAKE = "XREADGROUP GROUP g c STREAMS {q0}:read >"


@pytest.mark.parametrize(
    ("states", "commands"),
    [
        ({"queue": POP, "pushed": True, "taken": 1}, []),
        ({"queue": POP, "pushed": True}, ["RPUSH {q0}:pop i0"]),
        ({"queue": MOVE, "pushed": True, "taken": 1}, ["RPUSH {q0}:own:0 i0"]),
        ({"queue": MOVE, "pushed": True, "taken": 1, "tried": True, "done": True}, []),
        ({"queue": MOVE, "pushed": True, "taken": 1, "tried": True}, []),
        ({"queue": MOVE}, []),
        ({"queue": READ, "pushed": True}, [GROUP, ADD]),
        ({"queue": READ, "pushed": True, "taken": 1}, [GROUP, ADD, TAKE]),
    ],
)
def test_an_item_that_is_somewhere_is_accounted_for(states, commands, shards):
    accounted(shards[0], *commands, **states)


@pytest.mark.parametrize(
    ("states", "commands"),
    [
        ({"queue": POP, "pushed": True}, []),
        ({"queue": POP, "pushed": True, "taken": 1}, ["RPUSH {q0}:pop i0"]),
        ({"queue": POP, "pushed": True}, ["RPUSH {q0}:pop i0 i0"]),
        ({"queue": MOVE, "pushed": True}, []),
        ({"queue": MOVE, "pushed": True, "taken": 1}, []),
        (
            {"queue": MOVE, "pushed": True, "taken": 1, "tried": True, "done": True},
            ["RPUSH {q0}:own:0 i0"],
        ),
        ({"queue": MOVE}, ["RPUSH {q0}:move i0", "RPUSH {q0}:own:0 i0"]),
        ({"queue": READ, "pushed": True}, [GROUP]),
        (
            {"queue": READ, "pushed": True, "taken": 1},
            [GROUP, ADD, TAKE.replace("g c", "g c NOACK")],
        ),
    ],
)
def test_an_item_that_is_nowhere_or_twice_is_found(states, commands, shards):
    with pytest.raises(Lost):
        accounted(shards[0], *commands, **states)


def test_each_lost_item_needs_an_end_of_its_own():
    unexplained(b"q", [1.0, 2.0], [3.0, 1.5])
    for ends in [3.0], [0.5, 3.0], []:
        with pytest.raises(Lost):
            unexplained(b"q", [1.0, 2.0], ends)
