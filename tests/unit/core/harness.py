# tests/unit/core/harness.py: the core, turn by turn, between sockets that the test holds
"""One pool in a SteppedWorker, in the test's own thread. No process, no thread, no waiting:

    rig.settle()         turns until nothing is left to do; the peers read and greet meanwhile
    rig.advance(500)     half a second passes
    client.send(b"GET", b"a"); client.replies()
    session = rig.servers[0].session; session.requests; session.reply(b"$1\\r\\nx\\r\\n")

Clients and servers are non-blocking unix sockets, so what one side sends is there when the other
side reads. After every settle, `check` compares all queues, sums and references, and the number of
messages in use must be that of the queues. When the rig is closed, no message and no connection
object may be left, although the cyclic collector does not run.
"""

import atexit
import contextlib
import functools
import gc
import hashlib
import logging
import os
import shutil
import socket
import struct
import tempfile
from collections import deque
from pathlib import Path

import hiredis

from nutproxy.back.link import Link
from nutproxy.config import load
from nutproxy.front.client import LINGER, ClientConn
from nutproxy.hashkit.router import Router
from nutproxy.io.sockets import listen
from nutproxy.members import View, configured
from nutproxy.msg.message import live_messages
from nutproxy.proto.framer import Framer
from nutproxy.proto.protocols import MEMCACHE
from nutproxy.stats.rows import Rows
from nutproxy.stats.slab import Slab, slab_memory
from nutproxy.stats.table import TABLE
from nutproxy.stepped import SteppedWorker, check, running
from tests.scripted import HELLO3

VERSION = b"VERSION 1.6.0\r\n"

logger = logging.getLogger("nutproxy")

MBUF = 16384
# Far more turns than any test needs.
TURNS = 20000
# Milliseconds of one step of `advance`. A turn that takes longer than 100 is a pause.
STEP = 20

CONFIG = """\
alpha:
  listen: {directory}/proxy
  hash: fnv1a_64
  hash_tag: "{{}}"
  distribution: {distribution}
  redis: {redis}
{options}  servers:
{servers}"""


def bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


def array(values):
    return b"*%d\r\n" % len(values) + b"".join(map(bulk, values))


class Peer:
    """The test's end of a connection. It reads whatever comes, unless `reads` is False; what the
    socket does not take is sent later."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock = sock
        self.outgoing = b""
        self.incoming = b""
        self.received = 0
        self.reads = True
        self.eof = False

    def send_raw(self, data):
        self.outgoing += data
        self.flush()

    def flush(self):
        """Send what the socket takes. Returns whether that was anything."""
        if not self.outgoing or self.closed:
            return False
        try:
            count = self.sock.send(self.outgoing)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            self.outgoing = b""
            self.eof = True
            return True
        self.outgoing = self.outgoing[count:]
        return count > 0

    def read(self, limit=1 << 20):
        """Receive up to `limit` bytes. Returns whether anything came, or the end."""
        if self.eof or self.closed:
            return False
        try:
            data = self.sock.recv(limit)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self.eof = not data
        self.incoming += data
        self.received += len(data)
        self.came(data)
        return True

    def came(self, data):
        pass

    def poll(self):
        sent = self.flush()
        return (self.reads and self.read()) or sent

    def take(self):
        """The bytes that were received since the last call."""
        data, self.incoming = self.incoming, b""
        return data

    @property
    def closed(self):
        return self.sock.fileno() < 0

    def close(self):
        self.sock.close()

    def half_close(self):
        """Send no more, but read on."""
        self.sock.shutdown(socket.SHUT_WR)


class Client(Peer):
    def __init__(self, path):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        super().__init__(sock)
        self.reader = hiredis.Reader()

    def send(self, *words):
        self.send_raw(hiredis.pack_command(words))

    def came(self, data):
        self.reader.feed(data)

    def replies(self):
        """The complete replies since the last call. Errors are hiredis.ReplyError objects."""
        self.incoming = b""
        found = []
        while (reply := self.reader.gets()) is not False:
            found.append(reply)
        return found


class Session(Peer):
    """One connection to a server. `requests` are those that it has received and not replied to,
    without the handshake."""

    def __init__(self, server, sock):
        super().__init__(sock)
        self.server = server
        self.requests = deque()
        self.greeted = False
        self.reader = hiredis.Reader() if server.redis else Framer(MEMCACHE, True)

    def came(self, data):
        for request in self.parse(data):
            self.requests.append(request)
        if self.server.greets:
            self.greet()

    def greet(self):
        """Reply to the handshake, if it has come."""
        while self.requests and not self.greeted:
            if self.requests[0][0] == b"HELLO":
                self.reply(HELLO3)
                continue
            if self.requests[0][0] == b"SELECT":
                self.reply(b"+OK\r\n")
                continue
            self.greeted = True
            self.reply(b"+PONG\r\n" if self.server.redis else VERSION)
        if self.requests and self.requests[0] == [b"CLIENT", b"ID"]:
            # The last step on a link that is borrowed.
            self.reply(b":7\r\n")

    def parse(self, data):
        if not self.server.redis:
            return [words for words, *_ in self.reader.feed(data)]
        self.reader.feed(data)
        found = []
        while (request := self.reader.gets()) is not False:
            found.append(request)
        return found

    def reply(self, data):
        """Reply to the oldest request, which is returned."""
        request = self.requests.popleft()
        self.send_raw(data)
        return request

    def reset(self):
        """End the connection with an error: the proxy finds unread input gone."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class FakeServer:
    """A listening socket. `greets`: reply to the handshake; `accepts`: accept at all."""

    def __init__(self, path, redis):
        self.path = path
        self.redis = redis
        self.greets = self.accepts = True
        self.sessions = []
        self.listener = None
        self.listen()

    def listen(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)

    def refuse(self):
        """Connects are refused from now on."""
        self.listener.close()

    @property
    def session(self):
        """The newest connection."""
        return self.sessions[-1]

    def poll(self):
        worked = self.accepts and self.accept()
        for session in self.sessions:
            worked |= session.poll()
        return worked

    def accept(self):
        if self.listener.fileno() < 0:
            return False
        try:
            sock, _ = self.listener.accept()
        except BlockingIOError:
            return False
        self.sessions.append(Session(self, sock))
        return True

    def close(self):
        self.listener.close()
        for session in self.sessions:
            session.close()


class Layout:
    """A directory with a configuration of one pool. It is read once and serves many rigs."""

    def __init__(self, servers=2, redis=True, distribution="ketama", **options):
        self.redis = redis
        # Not pytest's tmp_path, which may be too long for the path of a unix socket.
        self.directory = tempfile.mkdtemp(prefix="nutproxy-")
        self.paths = [f"{self.directory}/s{number}" for number in range(1, servers + 1)]
        self.file = Path(self.directory, "proxy.yml")
        self.file.write_text(
            CONFIG.format(
                directory=self.directory,
                distribution=distribution,
                redis="true" if redis else "false",
                options="".join(f"  {key}: {value}\n" for key, value in options.items()),
                servers="".join(f"   - {path}:1 {Path(path).name}\n" for path in self.paths),
            )
        )
        self.config, problems = load(str(self.file))
        assert self.config is not None, problems
        names = [(server.name.encode(), 1) for server in self.config.pools[0].servers]
        router = Router("fnv1a_64", distribution, b"{}", names)
        # By server: keys that it has.
        self.keys = [[] for _ in range(servers)]
        for number in range(100):
            # FNV puts keys that differ only in their last digits close together on the ring.
            key = hashlib.md5(b"%d" % number).hexdigest()[:8].encode()
            self.keys[router.explain(key).server].append(key)


@functools.cache
def layout(**options):
    """The Layout with these options. Its directory is removed at the end of the process."""
    made = Layout(**options)
    atexit.register(shutil.rmtree, made.directory)
    return made


def connections():
    """The connection objects that exist, of those made since the cyclic collector was disabled:
    they all are in its first generation."""
    return [one for one in gc.get_objects(0) if isinstance(one, ClientConn | Link)]


class Lines(logging.Filter):
    """Keeps the text of the log lines, and lets no handler keep the connections in them."""

    def __init__(self, shown):
        super().__init__()
        self.shown = shown
        self.lines = []

    def filter(self, record):
        record.msg, record.args = record.getMessage(), ()
        self.lines.append(record.msg)
        return self.shown


class Rig:
    def __init__(self, layout, mbuf=MBUF, show_log=True):
        gc.disable()
        self.log = Lines(show_log)
        logger.addFilter(self.log)
        logger.setLevel(logging.INFO)
        self.before = live_messages()
        self.objects = len(connections())
        self.layout = layout
        self.keys = layout.keys
        config = layout.config
        memory = slab_memory(Rows.of(config.pools))
        slab = Slab(Rows.of(config.pools), memory)
        os.close(memory)
        self.slab = slab
        self.worker = SteppedWorker(mbuf, str(layout.file), slab)
        self.worker.add_pool(config.pools[0], listen(config.pools[0]), None)
        self.pool = self.worker.pools[0]
        self.servers = [FakeServer(path, layout.redis) for path in layout.paths]
        self.clients = []

    def connect(self):
        client = Client(f"{self.layout.directory}/proxy")
        self.clients.append(client)
        self.settle()
        client.id = self.worker.clients()[-1].id
        return client

    def settle(self):
        """Run turns until neither the proxy nor a peer has anything to do."""
        for _ in range(TURNS):
            worked = self.worker.step()
            for peer in (*self.servers, *self.clients):
                worked |= peer.poll()
            if not worked:
                self.check()
                return
        raise AssertionError("the core does not come to rest")

    def check(self):
        assert live_messages() - self.before == check(self.worker)

    def advance(self, milliseconds):
        """Let time pass in small steps, with everything that happens in it."""
        while milliseconds > 0:
            self.worker.reactor.clock += min(milliseconds, STEP)
            milliseconds -= STEP
            self.settle()

    def link_all(self, client=None):
        """Open the connections to all servers, with a request that is answered to each."""
        client = client or self.connect()
        for number in range(len(self.servers)):
            client.send(b"GET", self.keys[number][0])
        self.settle()
        for server in self.servers:
            server.session.reply(b"$-1\r\n")
        self.settle()
        assert client.replies() == [None] * len(self.servers)
        return client

    def members(self, *numbers):
        """The members of the configuration with these numbers."""
        view = configured(self.layout.config.pools[0], self.slab.rows)
        return tuple(view.members[number] for number in numbers)

    def apply(self, *numbers):
        """Let these members be the servers of the pool."""
        self.pool.apply(View(self.members(*numbers)))
        self.settle()

    def server(self, number):
        """The proxy's Server of this number, None if it is no member."""
        [name] = [member.name for member in self.members(number)]
        return next((server for server in self.pool.servers if server.name == name), None)

    def link(self, number=0, protover=2, slot=0):
        """The proxy's connection to a server: a Link, or None."""
        return self.server(number).lane(self.pool.profiles.of(protover, 0))[slot]

    def conn(self, client):
        """The proxy's connection object of a client."""
        return self.worker.frontends[0].clients.get(client.id)

    def counter(self, name, server=None):
        section = "pool" if server is None else "server"
        index = [row.name for row in TABLE[section]].index(name)
        if server is None:
            return self.slab.read(self.slab.rows.pool("alpha") + index)
        return self.slab.read(self.members(server)[0].row + index)

    def close(self):
        """Close both ends of everything. Nothing may be left of it."""
        try:
            for peer in (*self.clients, *self.servers):
                peer.close()
            self.settle()
            if running(self.worker):
                # Requests may wait for a probe. The timer of a client that has lingered holds it
                # until it runs.
                self.advance(LINGER + STEP)
                assert self.worker.clients() == []
        finally:
            self.free()
            left = live_messages(), len(connections())
            gc.enable()
        assert left == (self.before, self.objects)

    def discard(self):
        """Close everything after a failure, without a check."""
        for peer in (*self.clients, *self.servers):
            peer.close()
        self.worker.stop()
        self.free()
        gc.enable()

    def free(self):
        self.worker.close()
        self.worker.free()
        self.pool = self.worker = None
        logger.removeFilter(self.log)
        logger.setLevel(logging.NOTSET)


def shrink(conn, size=4096):
    """Give the proxy's end of a connection a send buffer of this size."""
    with socket.socket(fileno=os.dup(conn.fd)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
