# tests/unit/core/test_machine.py: clients and two servers, in any order of events
"""A hypothesis state machine. Clients send requests with keys that name the client and count its
keys. The servers reply with values that repeat the key: in pieces, late or never. Both close their
connections. The pool gets other members. After every step:

    a reply answers the oldest unanswered request of its client, or is an error of nobody else's
    no server gets a request twice, not even in part, nor those of a client out of order
    every queue, sum and reference count is right (`Rig.check`)

At the end every client that is still there gets all of its replies, and nothing is left in memory.
NUTPROXY_MACHINE=2000 runs that many examples.
"""

import contextlib
import dataclasses
import os
import re
import socket
import sys
from collections import deque

import hiredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nutproxy.members import View
from nutproxy.proto.framer import Framer
from nutproxy.proto.protocols import MEMCACHE
from tests.unit.core.harness import Rig, array, bulk, layout, shrink

PEEK = socket.MSG_PEEK
DEFAULT = 40
EXAMPLES = int(os.environ.get("NUTPROXY_MACHINE", DEFAULT))
TIMEOUT = 200
CLIENTS = 4
LARGE = 70_000
# Enough for a View to be applied.
TURNS_OF_VIEW = 20

OPTIONS = [
    {},
    {"timeout": TIMEOUT},
    {"timeout": TIMEOUT, "server_connections": 2},
    {"timeout": TIMEOUT, "client_max_requests": 4},
    {"timeout": TIMEOUT, "client_max_pending": 65536},
    {
        "timeout": TIMEOUT,
        "auto_eject_hosts": "true",
        "server_failure_limit": 2,
        "server_retry_timeout": 300,
    },
]

numbers = st.integers(min_value=0, max_value=7)
# A request: its command, and for each key its server and whether its value is large.
keys = st.tuples(st.integers(0, 1), st.booleans())
requests = st.one_of(
    st.tuples(st.just(b"GET"), st.lists(keys, min_size=1, max_size=1)),
    st.tuples(st.just(b"SET"), st.lists(keys, min_size=1, max_size=1)),
    st.tuples(st.sampled_from([b"MGET", b"MSET"]), st.lists(keys, min_size=1, max_size=5)),
    st.tuples(st.just(b"PING"), st.just([])),
)
wanted = st.lists(requests, min_size=1, max_size=6)
# Views: the weights of the two servers, 0 for one that is no member; and the turns after each.
views = st.lists(
    st.tuples(
        st.sampled_from([(1, 1), (1, 0), (0, 1), (1, 3)]),
        st.just(TURNS_OF_VIEW) | st.integers(0, 12),
    ),
    min_size=1,
    max_size=3,
)
# How many of its last bytes a client holds back: mostly none.
cuts = st.just(0) | st.integers(0, 60)


def chosen(values, number):
    return values[number % len(values)]


def value_of(key):
    value = b"value_of:" + key
    return value.ljust(LARGE, b".") if key.endswith(b":large") else value


class Redis:
    """How the requests and replies of the machine are written."""

    redis = True
    # A key as an argument, its client and its number.
    key = re.compile(rb"\r\n(\{\w+\}c(\d+):(\d+):(?:large|small))\r\n")
    malformed = b"$x\r\n"
    unasked = b"+OK for nobody\r\n"
    half = b"$9\r\nfor"

    @staticmethod
    def pack(request):
        command, *keys = request
        if command in (b"SET", b"MSET"):
            request = (command, *[word for key in keys for word in (key, value_of(key))])
        return hiredis.pack_command(request)

    @staticmethod
    def reply_to(request):
        command, *keys = request
        if command == b"GET":
            return bulk(value_of(keys[0]))
        if command == b"MGET":
            return array([value_of(key) for key in keys])
        return b"+OK " + keys[0] + b"\r\n" if keys else b"+PONG\r\n"

    @staticmethod
    def fits(request, reply):
        if request[0] == b"MSET":
            # The reply of one of the servers.
            return reply in [b"OK " + key for key in request[1:]]
        reader = hiredis.Reader()
        reader.feed(Redis.reply_to(request))
        return reply == reader.gets()

    @staticmethod
    def error(key):
        return b"-ERR of " + key + b" \r\n"

    @staticmethod
    def reader(client):
        return client.replies

    @staticmethod
    def error_of(reply):
        """The text of an error reply, None of another."""
        return str(reply) if isinstance(reply, hiredis.ReplyError) else None


class Memcached:
    redis = False
    key = re.compile(rb"(?<= )(\{\w+\}c(\d+):(\d+):(?:large|small))(?=[ \r])")
    malformed = b"VALUE x\r\n"
    unasked = b"STORED\r\n"
    half = b"VALUE a 0 9\r\nfor"

    @staticmethod
    def pack(request):
        command, *keys = request
        if command == b"SET":
            value = value_of(keys[0])
            return b"ms %b %d k\r\n%b\r\n" % (keys[0], len(value), value)
        if command == b"GET":
            return b"mg %b v k\r\n" % keys[0]
        return b"get %b\r\n" % b" ".join(keys) if keys else b"ping\r\n"

    @staticmethod
    def reply_to(request):
        """`request` is one of a client, or the words that a server has received."""
        command, *keys = request
        if command in (b"SET", b"ms"):
            return b"HD k%b\r\n" % keys[0]
        if command in (b"GET", b"mg"):
            return b"VA %d k%b\r\n%b\r\n" % (len(value_of(keys[0])), keys[0], value_of(keys[0]))
        values = [b"VALUE %b 0 %d\r\n%b\r\n" % (k, len(value_of(k)), value_of(k)) for k in keys]
        return b"".join(values) + b"END\r\n" if keys else b"ERROR\r\n"

    @staticmethod
    def fits(request, reply):
        return reply == Memcached.reply_to(request)

    @staticmethod
    def error(key):
        return b"SERVER_ERROR of " + key + b" \r\n"

    @staticmethod
    def reader(client):
        framer = Framer(MEMCACHE, False)
        return lambda: [reply for _, reply in framer.feed(client.take())]

    @staticmethod
    def error_of(reply):
        return reply.decode() if reply.startswith(b"SERVER_ERROR") else None


class Asking:
    """A client, the requests that it waits for, and the part of its output that is held back."""

    def __init__(self, rig, number, protocol):
        self.client = rig.connect()
        self.protocol = protocol
        self.replies = protocol.reader(self.client)
        self.number = number
        self.asked = deque()
        self.count = 0
        self.rest = b""
        # The requests that the rest completes.
        self.incomplete = 0
        self.done = False

    def request(self, rig, command, wanted):
        """A request with keys of its own."""
        words = [command]
        for server, large in wanted:
            tag = rig.keys[server][0]
            self.count += 1
            size = b"large" if large else b"small"
            words.append(b"{%s}c%d:%d:%s" % (tag, self.number, self.count, size))
        return words

    def send(self, requests, cut):
        """Send these requests without their last `cut` bytes, which go first next time."""
        self.finish()
        packed = [self.protocol.pack(tuple(request)) for request in requests]
        data = b"".join(packed)
        cut = max(len(data) - cut, 0)
        self.client.send_raw(data[:cut])
        self.rest = data[cut:]
        self.asked.extend(requests)
        left = len(self.rest)
        while left > 0:
            left -= len(packed.pop())
            self.incomplete += 1

    def finish(self):
        """Send what was held back."""
        self.client.send_raw(self.rest)
        self.rest = b""
        self.incomplete = 0

    def stop(self):
        """Send no more. An incomplete request gets no reply."""
        self.done = True
        for _ in range(self.incomplete):
            self.asked.pop()
        self.client.half_close()

    def take_replies(self):
        for reply in self.replies():
            assert self.asked, ("nothing was asked", reply)
            self.check(self.asked.popleft(), reply)

    def check(self, request, reply):
        error = self.protocol.error_of(reply)
        if error is None:
            assert self.protocol.fits(request, reply), (request, reply)
        elif "{" in error:
            # The error of a server, which repeats the key.
            assert any(f"of {key.decode()} " in f"{error} " for key in request[1:]), error


class Machine(RuleBasedStateMachine):
    protocol = Redis

    def __init__(self):
        super().__init__()
        self.rig = None
        self.askers = []
        self.number = 0
        self.partial = {}

    @initialize(options=st.sampled_from(OPTIONS), mbuf=st.sampled_from([512, 16384]))
    def begin(self, options, mbuf):
        self.rig = Rig(layout(redis=self.protocol.redis, **options), mbuf, show_log=False)
        # Keys that servers have seen, the last number of each client by connection, and the bytes
        # at its end that may be the start of a key.
        self.seen = set()
        self.last_request = {}
        self.carried = {}
        self.connect()
        self.connect()

    def settle(self, milliseconds=0):
        if milliseconds:
            self.rig.advance(milliseconds)
        else:
            self.rig.settle()
        for asking in self.askers:
            asking.take_replies()
        self.check_requests()

    def check_requests(self):
        for server in self.rig.servers:
            for session in server.sessions:
                self.check_session(session, session.take())

    def check_session(self, session, data):
        """No key comes twice, not even in a request that was cut off, and those of a client come in
        order."""
        data = self.carried.get(session, b"") + data
        end = 0
        for found in self.protocol.key.finditer(data):
            end = found.end()
            key, owner, number = found.groups()
            assert key not in self.seen, ("sent twice", key)
            self.seen.add(key)
            last = self.last_request.get((session, owner), 0)
            assert int(number) > last, ("out of order", key)
            self.last_request[session, owner] = int(number)
        self.carried[session] = data[max(end, len(data) - 100) :]

    def senders(self):
        return [one for one in self.askers if not one.done]

    def greeted(self):
        """The connections to servers, after their handshake."""
        return [
            session
            for server in self.rig.servers
            for session in server.sessions
            if session.greeted and not session.closed
        ]

    def waiting(self):
        """Those that have a request to reply to."""
        return [one for one in self.greeted() if one.requests]

    @staticmethod
    def greet(server):
        for session in server.sessions:
            if not session.closed:
                session.greet()

    # Clients
    # ----------------------------------------------------------------------------

    @precondition(lambda self: len(self.askers) < CLIENTS)
    @rule()
    def connect(self):
        self.number += 1
        self.askers.append(Asking(self.rig, self.number, self.protocol))
        self.settle()

    @precondition(lambda self: self.senders())
    @rule(number=numbers, wanted=wanted, cut=cuts)
    def send(self, number, wanted, cut):
        asking = chosen(self.senders(), number)
        asking.send([asking.request(self.rig, *one) for one in wanted], cut)
        self.settle()

    @precondition(lambda self: self.senders())
    @rule(wanted=wanted)
    def all_send(self, wanted):
        """Before the proxy has a turn."""
        for asking in self.senders():
            asking.send([asking.request(self.rig, *one) for one in wanted], 0)
        self.settle()

    @precondition(lambda self: self.askers)
    @rule(number=numbers, fault=st.sampled_from(["close", "stop sending", "stop reading"]))
    def client_fault(self, number, fault):
        asking = chosen(self.askers, number)
        if fault == "close":
            self.askers.remove(asking)
            asking.client.close()
        elif fault == "stop reading":
            conn = self.rig.conn(asking.client)
            if conn is not None:
                shrink(conn)
                asking.client.reads = False
        elif not asking.done and not asking.client.outgoing:
            asking.stop()
        self.settle()

    @precondition(lambda self: any(not one.client.reads for one in self.askers))
    @rule(number=numbers, whole=st.booleans())
    def client_reads(self, number, whole):
        client = chosen([one.client for one in self.askers if not one.client.reads], number)
        client.reads = whole
        client.read(3000)
        self.settle()

    # Servers
    # ----------------------------------------------------------------------------

    def respond(self, session, data):
        """Send what is left of the reply before, and this one."""
        session.send_raw(self.partial.pop(session, b""))
        session.reply(data)

    @precondition(lambda self: self.waiting())
    @rule(number=numbers, count=st.integers(1, 10))
    def reply(self, number, count):
        session = chosen(self.waiting(), number)
        for _ in range(min(count, len(session.requests))):
            self.respond(session, self.protocol.reply_to(session.requests[0]))
        self.settle()

    @precondition(lambda self: self.waiting())
    @rule()
    def all_reply(self):
        for session in self.waiting():
            while session.requests:
                self.respond(session, self.protocol.reply_to(session.requests[0]))
        self.settle()

    @precondition(lambda self: self.waiting())
    @rule(number=numbers, cut=st.integers(1, 40) | st.integers(1, LARGE))
    def reply_partly(self, number, cut):
        session = chosen(self.waiting(), number)
        data = self.protocol.reply_to(session.requests[0])
        cut = min(cut, len(data) - 1)
        self.respond(session, data[:cut])
        self.partial[session] = data[cut:]
        self.settle()

    @precondition(lambda self: self.waiting())
    @rule(number=numbers)
    def reply_with_error(self, number):
        session = chosen(self.waiting(), number)
        self.respond(session, self.protocol.error(session.requests[0][1]))
        self.settle()

    @precondition(lambda self: self.greeted())
    @rule(
        number=numbers,
        fault=st.sampled_from(["close", "reset", "malformed", "unasked", "half", "stop reading"]),
    )
    def server_fault(self, number, fault):
        session = chosen(self.greeted(), number)
        if fault == "malformed" and session.requests:
            self.respond(session, self.protocol.malformed)
        elif fault in ("unasked", "half") and not session.requests and session.reads:
            lie = getattr(self.protocol, fault)
            session.send_raw(self.partial.pop(session, b"") + lie)
        elif fault == "stop reading":
            self.stop_reading(session)
        elif fault in ("close", "reset"):
            self.end(session, fault)
        self.settle()

    def end(self, session, how):
        """Close it, with what it has not read."""
        with contextlib.suppress(BlockingIOError):
            self.check_session(session, session.take() + session.sock.recv(1 << 20, PEEK))
        getattr(session, how)()
        self.partial.pop(session, None)

    def stop_reading(self, session):
        session.reads = False
        for server in self.rig.pool.servers + self.rig.pool.leaving:
            if server.address == session.server.path:
                for link in server.shared_links():
                    if link.fd >= 0:
                        shrink(link)

    @precondition(lambda self: self.greeted())
    @rule(number=numbers, then=st.sampled_from(["nothing", "close", "time out", "read"]))
    def server_stalls(self, number, then):
        """It reads no more, and then large requests and small ones come."""
        session = chosen(self.greeted(), number)
        self.stop_reading(session)
        server = self.rig.servers.index(session.server)
        wanted = [(b"SET", [(server, True)]), (b"GET", [(server, False)])]
        for asking in self.senders():
            asking.send([asking.request(self.rig, *one) for one in wanted], 0)
        self.settle()
        if then == "close":
            self.end(session, then)
        if then in ("time out", "read"):
            # A sign of life meanwhile: it is slow and not silent.
            self.settle(TIMEOUT // 2)
            session.read(1000)
        if then == "time out":
            self.settle(TIMEOUT // 2 + 30)
        if then in ("time out", "read"):
            session.reads = True
        self.settle()

    @precondition(lambda self: any(not one.reads for one in self.greeted()))
    @rule(number=numbers, whole=st.booleans())
    def server_reads(self, number, whole):
        session = chosen([one for one in self.greeted() if not one.reads], number)
        session.reads = whole
        session.read(3000)
        self.settle()

    @rule(number=st.integers(0, 1), change=st.sampled_from(["mute", "greet", "refuse", "listen"]))
    def server_changes(self, number, change):
        server = self.rig.servers[number]
        if change in ("mute", "greet"):
            server.greets = change == "greet"
        else:
            server.refuse()
            if change == "listen":
                server.listen()
        if server.greets:
            self.greet(server)
        self.settle()

    # The pool
    # ----------------------------------------------------------------------------

    @rule(views=views)
    def members_change(self, views):
        for weights, turns in views:
            members = [
                dataclasses.replace(member, weight=weight)
                for member, weight in zip(self.rig.members(0, 1), weights, strict=True)
                if weight
            ]
            self.rig.pool.apply(View(tuple(members)))
            for _ in range(turns):
                self.rig.worker.step()
        self.settle()
        assert [server.member for server in self.rig.pool.servers] == members

    @rule(milliseconds=st.sampled_from([TIMEOUT + 30, 1, TIMEOUT // 2, 3 * TIMEOUT]))
    def time_passes(self, milliseconds):
        self.settle(milliseconds)

    @rule()
    def process_pauses(self):
        self.rig.worker.reactor.clock += 2 * TIMEOUT
        self.settle()

    # The end
    # ----------------------------------------------------------------------------

    def teardown(self):
        if self.rig is None:
            return
        if sys.exc_info()[0] is not None:
            # A step has failed, or was given up.
            self.rig.discard()
            return
        try:
            self.heal()
        except BaseException:
            self.rig.discard()
            raise
        self.rig.close()

    def heal(self):
        """From now on servers reply and clients read: every request gets its reply."""
        for server in self.rig.servers:
            if server.listener.fileno() < 0:
                server.listen()
            server.greets = True
            self.greet(server)
            for session in server.sessions:
                session.reads = True
        for asking in self.askers:
            asking.client.reads = True
            if not asking.done:
                asking.finish()
        for _ in range(200):
            self.settle()
            for session in self.waiting():
                while session.requests:
                    self.respond(session, self.protocol.reply_to(session.requests[0]))
            for session in list(self.partial):
                session.send_raw(self.partial.pop(session))
            self.settle(20)
            if not any(asking.asked for asking in self.askers) and not self.waiting():
                break
        assert self.rig.pool.leaving == []
        for asking in self.askers:
            assert not asking.asked, ("no reply", asking.number, asking.asked[0][:2])


class MemcachedMachine(Machine):
    protocol = Memcached


SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    derandomize=EXAMPLES == DEFAULT,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# hypothesis needs minutes to make a failing example short.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Machine, MemcachedMachine])
def test_any_order_of_events(machine):
    run_state_machine_as_test(machine, settings=SETTINGS)
