# tests/scripted.py: a server and a client that do exactly what a test says
"""For behaviour that real servers do not show on demand.

    def script(session):
        request = session.receive()          [b"GET", b"a"], or None if the proxy has closed
        session.send(b"$3\\r\\nab")
        session.reset()

    with ScriptedServer(script) as server, NutproxyServer(pool("alpha", [server])) as proxy: ...

Each connection runs the script in its own thread. The script does not see PING, HELLO, AUTH and
SELECT. Their replies come from the table `server.handshake`, which a test may change at any time.
The default script has a value for every key (`value_of`). When the script returns, the connection
is closed.

`server.requests` has the requests of all connections in their order, and `session.requests` those
of one connection. `server.accepted` counts connections. `refuse()` closes the port: connects are
refused, but no other process gets the port. `listen()` opens it again.
"""

import contextlib
import hashlib
import itertools
import socket
import struct
import threading

import hiredis

from nutproxy.hashkit.router import Router
from tests.servers import DEADLINE, HOST, hold_port, pipeline

PONG = b"+PONG\r\n"
OK = b"+OK\r\n"
MAXCLIENTS = b"-ERR max number of clients reached\r\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
DENIED = b"-DENIED Redis is running in protected mode.\r\n"
NOAUTH = b"-NOAUTH Authentication required.\r\n"
UNKNOWN = b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"
HELLO3 = b"%2\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"
HELLO2 = b"*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n"


def bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


def value_of(key):
    """The value that the default script has for a key."""
    return b"value of " + key


def answer(session):
    """The default script: GET and MGET find every key, everything else is +OK."""
    while request := session.receive():
        session.send(reply_to(request))


def answering_when(event):
    """The script of a server that reads requests, but sends no reply before this event is set."""

    def script(session):
        while request := session.receive():
            session.wait(event)
            session.send(reply_to(request))

    return script


def reading_when(event):
    """The script of a server that reads nothing after the handshake before this event is set."""

    def script(session):
        session.shake()
        session.wait(event)
        answer(session)

    return script


def reply_to(request):
    if request[0] == b"GET":
        return bulk(value_of(request[1]))
    if request[0] == b"MGET":
        return b"*%d\r\n" % len(request[1:]) + b"".join(bulk(value_of(key)) for key in request[1:])
    return OK


def never(session):
    """The script of a server that reads requests and never sends a reply."""
    while session.receive():
        pass


def reset(sock):
    """Close a socket with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Session:
    """One connection of a ScriptedServer. `number` counts its accepted connections from 1."""

    def __init__(self, server, sock, number):
        self.server = server
        self.sock = sock
        self.number = number
        self.reader = hiredis.Reader()
        self.requests = []
        self.open = True

    def shake(self):
        """Only the handshake. Everything after it stays in the socket."""
        self.receive(until_ready=True)

    def receive(self, until_ready=False):
        """The next request that is not part of the handshake, or None if the proxy has closed."""
        while True:
            request = self.next_request()
            if request is None:
                return None
            if request[0] in self.server.handshake:
                self.send(self.handshake(request))
                if until_ready and request[0] == b"PING":
                    return None
                continue
            self.requests.append(request)
            self.server.requests.append(request)
            return request

    def handshake(self, request):
        if request[0] == b"HELLO" and self.server.handshake[b"HELLO"] is None:
            return HELLO3 if request[1] == b"3" else HELLO2
        return self.server.handshake[request[0]]

    def next_request(self):
        # A request is an array of bulk strings, so a reader of replies can read it.
        while (request := self.reader.gets()) is False:
            try:
                received = self.sock.recv(65536)
            except OSError:
                return None
            if not received:
                return None
            self.reader.feed(received)
        return request

    def send(self, data):
        with contextlib.suppress(OSError):
            self.sock.sendall(data)

    def send_bytes(self, data):
        """Send each byte in its own segment."""
        for index in range(len(data)):
            self.send(data[index : index + 1])

    def wait(self, event):
        """Wait until the test sets this threading.Event."""
        if not event.wait(DEADLINE):
            raise TimeoutError("the test has not set the event that the server waits for")

    def close(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self):
        """Close with RST instead of FIN."""
        reset(self.sock)


class ScriptedServer:
    """A server that runs `script` on each connection, after it has sent `greeting`."""

    session = Session

    def __init__(self, script=answer, greeting=b""):
        self.script = script
        self.greeting = greeting
        self.handshake = {b"PING": PONG, b"HELLO": None, b"AUTH": OK, b"SELECT": OK}
        self.requests = []
        self.sessions = []
        self.accepted = 0
        self.port = 0
        self.holder = None
        self.listener = None
        self.threads = []
        self.faults = []

    def __enter__(self):
        self.holder = hold_port()
        self.port = self.holder.getsockname()[1]
        self.listen()
        return self

    def __exit__(self, kind, *_):
        self.refuse()
        self.holder.close()
        self.close_all()
        for thread in self.threads:
            thread.join(DEADLINE)
        if self.faults and kind is None:
            raise self.faults[0]

    def listen(self):
        """Accept connections, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, self.port))
        listener.listen(128)
        self.listener = listener
        self.run(self.accept, listener)

    def refuse(self):
        """Close the port. Connections that are open stay."""
        if self.listener is not None:
            # Without a shutdown, a waiting accept() keeps the port open.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None

    def close_all(self):
        """Close every connection that is open now."""
        for session in list(self.sessions):
            session.close()

    def run(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            session = self.session(self, sock, self.accepted)
            self.sessions.append(session)
            self.run(self.converse, session)

    def converse(self, session):
        session.send(self.greeting)
        try:
            self.script(session)
        except Exception as fault:
            self.faults.append(fault)
        finally:
            session.close()
            session.open = False


STORAGE = (b"set", b"add", b"replace", b"append", b"prepend", b"cas")


class MemcacheSession(Session):
    """A connection of a ScriptedMemcached. A request is the words of its line and its data."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.lines = self.sock.makefile("rb")

    def next_request(self):
        try:
            words = self.lines.readline().split()
            if words and words[0] in STORAGE:
                words.append(self.lines.read(int(words[4]) + 2)[:-2])
        except OSError:
            return None
        return words or None


class ScriptedMemcached(ScriptedServer):
    """The same for Memcached pools. `version` is the handshake."""

    session = MemcacheSession

    def __init__(self, script):
        super().__init__(script)
        self.handshake = {b"version": b"VERSION 1.6.18\r\n"}


def answer_memcache(session):
    """Like `answer`: get finds every key, everything else is STORED."""
    while request := session.receive():
        session.send(memcache_reply(request))


def memcache_reply(request):
    if request[0] != b"get":
        return b"STORED\r\n"
    values = [(key, value_of(key)) for key in request[1:]]
    return b"".join(b"VALUE %b 0 %d\r\n%b\r\n" % (k, len(v), v) for k, v in values) + b"END\r\n"


def keys_of(server, servers, count):
    """`count` keys that a pool made by conftest.pool routes to its server number `server`, if the
    servers with the numbers `servers` are in its ring. Numbers begin at 1, as in s1."""
    total = max(3, *servers)
    names = [(b"s%d" % number, 1) for number in range(1, total + 1)]
    router = Router("fnv1a_64", "ketama", b"{}", names)
    router.set_live([number in servers for number in range(1, total + 1)])
    # FNV puts keys that differ only in their last digits close together on the ring.
    keys = (hashlib.md5(b"%d" % number).hexdigest().encode() for number in itertools.count())
    found = (key for key in keys if router.explain(key).server == server - 1)
    return list(itertools.islice(found, count))


def info(port, section):
    """The fields of a section of the proxy's INFO. The section `clients` needs no server."""
    [text] = pipeline(port, [("INFO", section)])
    lines = (line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    return {name: int(value) if value.isdigit() else value for name, value in lines}


class RequestCount:
    """How many requests a proxy has accepted since its start."""

    def __init__(self, proxy):
        self.proxy = proxy

    def __call__(self):
        pools = self.proxy.stats().values()
        return sum(pool["client_requests"] for pool in pools if isinstance(pool, dict))
