"""Names are looked up outside the event loop. The tests simulate the loop and the name server."""

import socket
import threading

import pytest

from nutproxy.resolver import Resolver
from tests.servers import DEADLINE, wait_until


class Names:
    """A getaddrinfo that waits for a name until the test opens its gate."""

    def __init__(self):
        self.gates = {}
        self.addresses = {}
        self.asked = []

    def __call__(self, host, port, *, type):
        self.asked.append(host)
        if host in self.gates:
            assert self.gates[host].wait(DEADLINE)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, type, 0, "", (self.addresses[host], port))]


class Loop:
    """The resolver, and the results of its callbacks in their order."""

    def __init__(self):
        self.resolver = Resolver(lambda: None)
        self.answers = []

    def resolve(self, host, port=6379):
        self.resolver.resolve(host, port, lambda answer: self.answers.append((host, answer)))

    def deliver(self, count):
        def enough():
            self.resolver.deliver()
            return len(self.answers) >= count

        wait_until(enough, f"{count} answers")
        return self.answers


@pytest.fixture
def names(monkeypatch):
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    for gate in found.gates.values():
        gate.set()


@pytest.mark.parametrize(
    ("literal", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_a_literal_address_needs_no_lookup(names, literal, family):
    loop = Loop()
    loop.resolve(literal)
    assert loop.answers == [(literal, [(family, (literal, 6379))])]
    assert names.asked == []


def test_a_name_that_hangs_does_not_hold_up_another(names):
    names.gates["hangs"] = threading.Event()
    names.addresses = {"hangs": "10.0.0.1", "quick": "10.0.0.2"}
    loop = Loop()
    loop.resolve("hangs")
    loop.resolve("quick")
    assert loop.deliver(1) == [("quick", [(socket.AF_INET, ("10.0.0.2", 6379))])]
    names.gates["hangs"].set()
    assert loop.deliver(2)[1] == ("hangs", [(socket.AF_INET, ("10.0.0.1", 6379))])


def test_requests_for_the_same_name_share_a_lookup(names):
    names.gates["hangs"] = threading.Event()
    names.addresses = {"hangs": "10.0.0.1"}
    loop = Loop()
    for _ in range(50):
        loop.resolve("hangs")
    names.gates["hangs"].set()
    assert loop.deliver(50) == [("hangs", [(socket.AF_INET, ("10.0.0.1", 6379))])] * 50
    assert names.asked == ["hangs"]


def test_a_lookup_without_memory_fails_and_the_next_one_is_made(monkeypatch, names):
    def failing(*_, **__):
        raise MemoryError

    names.addresses = {"name": "10.0.0.1"}
    loop = Loop()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", failing)
        loop.resolve("name")
        assert str(loop.deliver(1)[0][1]) == "out of memory"
    loop.resolve("name")
    assert loop.deliver(2)[1] == ("name", [(socket.AF_INET, ("10.0.0.1", 6379))])


def test_a_name_is_looked_up_again_when_it_is_asked_for_again(names):
    names.addresses = {"moves": "10.0.0.1"}
    loop = Loop()
    loop.resolve("moves")
    loop.deliver(1)
    names.addresses = {"moves": "10.0.0.2"}
    loop.resolve("moves")
    assert [answer[0][1][0] for _, answer in loop.deliver(2)] == ["10.0.0.1", "10.0.0.2"]


def test_an_unknown_name_fails_with_the_cause(names):
    loop = Loop()
    loop.resolve("nowhere")
    [(_, answer)] = loop.deliver(1)
    assert isinstance(answer, OSError)
    assert answer.strerror == "Name or service not known"


def test_an_invalid_name_fails_like_an_unknown_one():
    loop = Loop()
    loop.resolve("x" * 64 + ".example")
    [(_, answer)] = loop.deliver(1)
    assert isinstance(answer, OSError)


def test_results_are_delivered_by_the_loop_which_is_woken_for_each(names):
    names.addresses = {"quick": "10.0.0.2"}
    woken = threading.Event()
    answers = []
    resolver = Resolver(woken.set)
    resolver.resolve("quick", 6379, answers.append)
    assert woken.wait(DEADLINE)
    assert answers == []
    resolver.deliver()
    assert len(answers) == 1


def test_a_lookup_that_gets_no_thread_fails_and_the_next_one_is_tried(names, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    loop = Loop()
    names.addresses["a.test"] = "10.0.0.1"
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", refuse)
        loop.resolve("a.test")
    [(_, refusal)] = loop.deliver(1)
    assert str(refusal) == "can't start new thread"
    loop.resolve("a.test")
    assert loop.deliver(2)[1] == ("a.test", [(socket.AF_INET, ("10.0.0.1", 6379))])
