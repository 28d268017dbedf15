# tests/integration/test_members.py: other members under load
"""Clients count keys up while the pool gets other members again and again. The servers have carried
out every command exactly once, wherever it went, and no reply was an error."""

import dataclasses
import threading

import hiredis

from nutproxy.members import View
from tests.client import Client
from tests.integration.inside import Calls, running_worker
from tests.servers import wait_until

CLIENTS = 4
CHANGES = 150
BATCH = 25


class Load(threading.Thread):
    """A client that sends commands in batches until it is stopped."""

    def __init__(self, number, port):
        super().__init__(daemon=True)
        self.keys = [f"client:{number}:{place}" for place in range(BATCH)]
        self.port = port
        self.stopped = False
        self.batches = 0
        self.wrong = []

    def run(self):
        try:
            with Client(self.port) as client:
                while not self.stopped and not self.wrong:
                    self.batch(client)
        except Exception as error:
            self.wrong.append(error)

    def batch(self, client):
        """INCR of every key, and two commands whose keys are on several servers."""
        client.pipeline(
            *[("INCR", key) for key in self.keys], ("MGET", *self.keys), ("EXISTS", *self.keys)
        )
        for _ in self.keys:
            self.expect(client.reply(), lambda reply: isinstance(reply, int) and reply > 0)
        self.expect(client.reply(), lambda reply: len(reply) == BATCH)
        self.expect(client.reply(), lambda reply: 0 <= reply <= BATCH)
        self.batches += 1

    def expect(self, reply, fits):
        if isinstance(reply, hiredis.ReplyError) or not fits(reply):
            self.wrong.append(reply)


def served(clients, since):
    """Has a client had another batch, or a wrong reply?"""
    return any(each.wrong for each in clients) or sum(each.batches for each in clients) > since


def test_members_change_under_load_and_nothing_is_lost(shards, tmp_path):
    for shard in shards:
        with Client(shard.port) as client:
            client("FLUSHALL")
    calls = Calls()
    with running_worker(shards, tmp_path, calls=calls, timeout=10000) as (worker, port):
        [pool] = worker.pools
        one, two, three = [server.member for server in pool.servers]
        heavy = dataclasses.replace(two, weight=5)
        moved = dataclasses.replace(
            three, address=dataclasses.replace(three.address, host="localhost")
        )
        views = [(one, two), (three,), (one, heavy, three), (moved, two), (one, two, three)]
        clients = [Load(number, port) for number in range(CLIENTS)]
        for each in clients:
            each.start()
        for change in range(CHANGES):
            view = View(views[change % len(views)])
            batches = sum(each.batches for each in clients)
            calls(lambda view=view: pool.apply(view))
            # Sometimes the next one comes while this one is applied.
            if change % 3:
                wait_until(lambda since=batches: served(clients, since), "the clients go on")
        for each in clients:
            each.stopped = True
        for each in clients:
            each.join()

        def at_rest():
            return not pool.leaving and [server.member for server in pool.servers] == list(
                views[-1]
            )

        wait_until(lambda: calls(at_rest), "the last members are in force")
        assert [each.wrong for each in clients] == [[]] * CLIENTS
    counted = 0
    for shard in shards:
        with Client(shard.port) as client:
            for each in clients:
                counted += sum(int(value or 0) for value in client("MGET", *each.keys))
    assert all(each.batches for each in clients)
    assert counted == sum(each.batches * BATCH for each in clients)
