# tests/unit/core/test_jobs.py: work that is done in portions
"""Others get their turns between the portions, and what ends meanwhile takes its job with it."""

import pytest

from nutproxy.builtin.client import LINES_PER_STEP
from nutproxy.members import View

CLIENTS = 2 * LINES_PER_STEP + 50


@pytest.fixture
def crowd(rig):
    """A rig with more clients than CLIENT LIST shows in two portions."""
    for _ in range(CLIENTS):
        rig.connect()
    return rig


def jobs(rig):
    return rig.worker.reactor.replies.count


def begin_list(rig, client):
    client.send(b"CLIENT", b"LIST")
    for _ in range(10):
        rig.worker.step()
        if jobs(rig):
            return
    raise AssertionError("CLIENT LIST has begun no job")


def test_other_clients_have_their_turns_between_the_portions(crowd):
    asking, other = crowd.clients[:2]
    begin_list(crowd, asking)
    other.send(b"PING")
    while jobs(crowd):
        asking.poll()
        assert asking.replies() == []
        crowd.worker.step()
        if jobs(crowd):
            other.poll()
    assert other.replies() == [b"PONG"]
    crowd.settle()
    [lines] = asking.replies()
    assert lines.count(b"\n") == CLIENTS


def test_a_client_that_leaves_takes_its_job_with_it(crowd):
    asking = crowd.clients[0]
    begin_list(crowd, asking)
    asking.close()
    crowd.settle()
    assert jobs(crowd) == 0
    assert len(crowd.worker.clients()) == CLIENTS - 1


def test_several_jobs_take_turns(crowd):
    first, second = crowd.clients[:2]
    begin_list(crowd, first)
    second.send(b"CLIENT", b"LIST")
    first.send(b"PING")
    crowd.settle()
    [lines, pong] = first.replies()
    assert (lines.count(b"\n"), pong) == (CLIENTS, b"PONG")
    [lines] = second.replies()
    assert lines.count(b"\n") == CLIENTS


def test_the_work_of_the_loop_does_not_wait_for_the_replies_to_clients(crowd):
    view = View(crowd.members(0))
    for client in crowd.clients[:60]:
        client.send(b"CLIENT", b"LIST")
    for _ in range(5):
        crowd.worker.step()
    assert jobs(crowd) > 40
    crowd.pool.apply(view)
    # A View of one server takes six portions.
    for _ in range(12):
        crowd.worker.step()
    assert [server.member for server in crowd.pool.servers] == list(view.members)
    assert crowd.worker.reactor.jobs.count == 0
    crowd.settle()
