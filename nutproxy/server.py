# nutproxy/server.py: the role of a server connection, and the server behind it
"""Connections to one server, and what is known of its health.

    conn_for ─> [slot 0] [slot 1] …      a client keeps to one slot, so its requests stay in order
                   │
                   RESOLVING ─> CONNECTING ─> HANDSHAKE ─> READY ─> CLOSED
                   names are      connect()     AUTH, HELLO 3, SELECT, PING; memcached: version.
                   looked up                    Until all are answered well, requests wait in imsg_q
                   off the loop

Slots exist once for each protocol version that clients speak (RESP2, RESP3).

**Health.** A server is up, down, or ejected.

    up ──── cannot be reached, fails a handshake, ──> down ──── failures reach ──> ejected
            or is silent for a whole timeout            │       server_failure_limit     │
    ^                                                   │       (auto_eject_hosts)       │
    └───────── a probe connects, shakes hands, PINGs ───┴────────────────────────────────┘

While it is down, requests for it fail at once with the cause; no client request is used to find out
whether it is back, a probe is: with a growing back-off, and every `server_retry_timeout` once it is
ejected. A reply on an old connection also ends "down", for a server that was stopped and continues.

A connection that is refused while others of the same server are in use (maxclients) concerns its
slot alone: requests of that slot fail for a second, then it is tried again.

A failure counts only when what failed had begun after the last counted failure, so that one event
is counted once, however many connections and requests it takes with it.

**What happens to requests when a connection ends.** What has been written, even in part, is
answered with the cause and never sent twice. What has not been written moves once to a new
connection, if this one had been ready: it may have died unnoticed.
"""

import logging
import os
import socket
import time

import cython
import hiredis
from cython.cimports.libc.errno import ECONNRESET, ENOMEM, EPIPE, ETIMEDOUT
from cython.cimports.nutproxy.conn import Conn, conn_recv, conn_send
from cython.cimports.nutproxy.csys import (
    MSG_NOSIGNAL,
    SO_ERROR,
    SOL_SOCKET,
    close,
    getsockopt,
    send,
    socklen_t,
)
from cython.cimports.nutproxy.msg.message import (
    MSG_ANSWERED,
    MSG_CANCELLED,
    MSG_DONE,
    MSG_NOREPLY,
    MSG_QUIET,
    MSG_RETRIED,
    MSG_SHUTDOWN,
    Msg,
    msg_awaited,
    msg_constant,
    msg_put,
)
from cython.cimports.nutproxy.msg.parse import Parser
from cython.cimports.nutproxy.msg.request import (
    req_dequeue_inq,
    req_dequeue_outq,
    req_enqueue_inq,
    req_enqueue_outq,
    req_send_done,
    req_send_next,
)
from cython.cimports.nutproxy.msg.response import (
    deadline_remove,
    msg_done,
    msg_fail,
    rsp_receive,
    rsp_recv_done,
)
from cython.cimports.nutproxy.proto.memcache import REPLY_ERROR, Command, memcache_parse_rsp
from cython.cimports.nutproxy.proto.redis import redis_parse_rsp
from cython.cimports.nutproxy.stats.slab import (
    GLOBAL_TOTAL_CONNECTIONS,
    SERVER_IN_QUEUE,
    SERVER_IN_QUEUE_BYTES,
    SERVER_OUT_QUEUE,
    SERVER_OUT_QUEUE_BYTES,
    SERVER_REQUESTS,
    SERVER_REQUESTS_LOST,
    SERVER_REQUESTS_RETRIED,
    SERVER_REQUESTS_TIMEDOUT,
    SERVER_REQUESTS_UNAVAILABLE,
    SERVER_RESPONSE_BYTES,
    SERVER_RESPONSES,
    SERVER_RESPONSES_DROPPED,
    SERVER_RESPONSES_ERROR,
    SERVER_SERVER_CONNECTIONS,
    SERVER_SERVER_DOWN,
    SERVER_SERVER_EJECTED,
    SERVER_SERVER_EJECTED_AT,
    SERVER_SERVER_EOF,
    SERVER_SERVER_ERR,
    SERVER_SERVER_PROBES,
    SERVER_SERVER_PROTOCOL_ERRORS,
    SERVER_SERVER_TIMEDOUT,
    latency_record,
)

from nutproxy.conn import tcp_options

log = logging.getLogger("nutproxy")

# What a client of RESP3 is told by a server that is too old for HELLO.
NOPROTO = b"-NOPROTO unsupported protocol version\r\n"
# Why a connection ends whose end says nothing about its server.
NOT_NEEDED = "not needed"
# Milliseconds until a server that is down is probed: at first, and at most.
BACKOFF_MIN = 100
BACKOFF_MAX = 1000
# The least that is meant by a server_retry_timeout: 0 must not keep the processor busy.
RETRY_MIN = 10
# Milliseconds for connect and handshake where the pool has no timeout.
HANDSHAKE_LIMIT = 10000


@cython.cfunc
def line_of(data: cython.p_char, parser: cython.pointer(Parser)) -> str:
    """The text of an error reply, the first line of any other: it becomes a part of one."""
    text: str = data[: parser.pos].decode(errors="replace")
    return text.partition("\r\n")[0].removeprefix("-").rstrip()


@cython.cfunc
@cython.exceptval(check=False)
def server_recv_next(conn: Conn) -> cython.bint:
    return True


@cython.cfunc
@cython.exceptval(check=False)
def server_active(conn: Conn) -> cython.bint:
    """A server that has closed its side will answer nothing more."""
    return False


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_recv_done(conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """A reply. Nobody waits for a push: no connection has subscribed to anything."""
    self: ServerConn = cython.cast(ServerConn, conn)
    server: Server = self.server
    if parser.kind == b">":
        return 0
    if conn.omsg_q.head is cython.NULL:
        # An error while a request is being written is about that request. memcached reads on and
        # drops the rest of it, Redis does not.
        if conn.sent > 0 and parser.kind == b"-":
            if server.memcache and not conn.imsg_q.head.flags & MSG_ANSWERED:
                conn.imsg_q.head.flags |= MSG_ANSWERED
                conn.imsg_q.head.refs += 1
                server.failures = 0
                count_reply(self, conn.imsg_q.head, parser)
                return rsp_receive(conn, conn.imsg_q.head, data, parser)
            self.cause = f"refused the request: {line_of(data, parser)}"
        else:
            server.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
            self.cause = "the server sent a reply that nobody had asked for"
        return conn.close(conn)
    if server.memcache and not suits(conn.omsg_q.head, parser):
        server.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
        self.cause = f"a reply that does not suit its request: {line_of(data, parser)[:100]}"
        return conn.close(conn)
    server.failures = 0
    count_reply(self, conn.omsg_q.head, parser)
    rsp_recv_done(conn, data, parser)
    # Behind the pairing: what it opens may fail at once, and that may close this connection.
    if server.down and not server.ejected:
        server.set_up("has replied again")
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def count_reply(
    self: ServerConn, msg: cython.pointer(Msg), parser: cython.pointer(Parser)
) -> cython.void:
    """A reply to this request has come."""
    stats: cython.pointer(uint64_t) = self.stats
    self.timed_out = False
    if not msg_awaited(msg):
        stats[SERVER_RESPONSES_DROPPED] += 1
        return
    stats[SERVER_RESPONSES] += 1
    stats[SERVER_RESPONSE_BYTES] += parser.pos
    if parser.kind == b"-" or parser.kind == b"!":
        stats[SERVER_RESPONSES_ERROR] += 1
    latency_record(stats, self.loop.now_usec - msg.start)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def suits(msg: cython.pointer(Msg), parser: cython.pointer(Parser)) -> cython.bint:
    """Has memcached's reply a form that this request may get? Marks those that quiet mode leaves
    out."""
    command: cython.pointer(Command) = cython.cast(cython.pointer(Command), msg.row)
    form: cython.uint
    if parser.kind == REPLY_ERROR:
        return True
    form = cython.cast(cython.uint, 1) << parser.kind
    if msg.flags & MSG_QUIET and command.quiet & form:
        msg.flags |= MSG_NOREPLY
    return (command.replies & form) != 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_recv_error(conn: Conn, parser: cython.pointer(Parser)) -> cython.int:
    self: ServerConn = cython.cast(ServerConn, conn)
    text: bytes = parser.error
    conn.stats[SERVER_SERVER_PROTOCOL_ERRORS] += 1
    self.cause = f"malformed reply ({text.decode()})"
    if self.state != SERVER_READY:
        # Memcached is the default, and `redis: true` is easily forgotten.
        other, key = ("Redis", "true") if self.server.memcache else ("Memcached", "false")
        self.cause += f"; if this is a {other} server, the pool needs 'redis: {key}'"
    return conn.close(conn)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_handshake(conn: Conn, data: cython.p_char, parser: cython.pointer(Parser)) -> cython.int:
    """A reply to the next step of the handshake, or an error that came before it was asked for
    (maxclients, protected mode), maybe before the connect has been seen to end."""
    self: ServerConn = cython.cast(ServerConn, conn)
    server: Server = self.server
    if parser.kind == b">":
        return 0
    step = self.steps.pop(0) if self.steps else ""
    if server.memcache:
        refusal = server.judge_version(step, line_of(data, parser))
    else:
        self.reader.feed(data[: parser.pos])
        refusal = server.judge(step, self.reader.gets())
    if refusal is not None:
        self.cause = refusal
        return conn.close(conn)
    if not self.steps:
        server.ready(self)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_no_send(conn: Conn) -> cython.int:
    """Requests wait while the handshake goes on."""
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_connected(conn: Conn) -> cython.int:
    """The socket has become writable: the connect has ended, well or not."""
    self: ServerConn = cython.cast(ServerConn, conn)
    err: cython.int = 0
    length: socklen_t = cython.sizeof(cython.int)
    payload: bytes
    getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, cython.address(err), cython.address(length))
    if err:
        conn.err = err
        return conn.close(conn)
    self.state = SERVER_HANDSHAKE
    conn.stats[SERVER_SERVER_CONNECTIONS] += 1
    self.waiting_since = conn.loop.now
    conn.send = server_no_send
    self.steps, payload = self.server.handshake(self.resp)
    # A new socket takes these few bytes at once; one that does not is as good as dead.
    if send(conn.fd, cython.cast(cython.p_char, payload), len(payload), MSG_NOSIGNAL) != len(
        payload
    ):
        conn.err = ECONNRESET
        return conn.close(conn)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_send_done(conn: Conn) -> cython.int:
    if conn.omsg_q.head is cython.NULL:
        cython.cast(ServerConn, conn).waiting_since = conn.loop.now
    return req_send_done(conn)


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_send(conn: Conn) -> cython.int:
    """While no reply is due, a server that takes bytes is a sign of life."""
    before: cython.ulonglong = conn.send_bytes
    result: cython.int = conn_send(conn)
    if conn.omsg_q.head is cython.NULL and conn.send_bytes != before:
        cython.cast(ServerConn, conn).waiting_since = conn.loop.now
    return result


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def idle(conn: Conn) -> cython.bint:
    """Nothing to write, nothing due."""
    return conn.imsg_q.head is cython.NULL and conn.omsg_q.head is cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def server_enqueue_inq(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    self: ServerConn = cython.cast(ServerConn, conn)
    if self.state == SERVER_READY and idle(conn):
        self.waiting_since = conn.loop.now
    msg.queued = msg.req.length
    conn.stats[SERVER_IN_QUEUE] += 1
    conn.stats[SERVER_IN_QUEUE_BYTES] += msg.queued
    req_enqueue_inq(conn, msg)


@cython.cfunc
@cython.exceptval(check=False)
def server_dequeue_inq(conn: Conn) -> cython.pointer(Msg):
    msg: cython.pointer(Msg) = req_dequeue_inq(conn)
    conn.stats[SERVER_IN_QUEUE] -= 1
    conn.stats[SERVER_IN_QUEUE_BYTES] -= msg.queued
    return msg


@cython.cfunc
@cython.exceptval(check=False)
def server_enqueue_outq(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    conn.stats[SERVER_OUT_QUEUE] += 1
    conn.stats[SERVER_OUT_QUEUE_BYTES] += msg.queued
    req_enqueue_outq(conn, msg)


@cython.cfunc
@cython.exceptval(check=False)
def server_dequeue_outq(conn: Conn) -> cython.pointer(Msg):
    msg: cython.pointer(Msg) = req_dequeue_outq(conn)
    conn.stats[SERVER_OUT_QUEUE] -= 1
    conn.stats[SERVER_OUT_QUEUE_BYTES] -= msg.queued
    return msg


@cython.cfunc
@cython.exceptval(-1, check=False)
def server_close(conn: Conn) -> cython.int:
    """The connection ends: settle its requests, and what it says about the server."""
    self: ServerConn = cython.cast(ServerConn, conn)
    server: Server = self.server
    was_ready: cython.bint = self.state == SERVER_READY
    waited: cython.bint = conn.omsg_q.head is not cython.NULL or conn.sent > 0
    msg: cython.pointer(Msg)
    other: ServerConn
    text: bytes

    if self.state == SERVER_CLOSED:
        return 0
    if self.state == SERVER_CONNECTING and self.cause is None and self.addresses:
        close(conn.fd)
        conn.fd = -1
        conn.err = 0
        self.start(self.addresses)
        return 0
    if self.state == SERVER_HANDSHAKE or was_ready:
        conn.stats[SERVER_SERVER_CONNECTIONS] -= 1
    self.state = SERVER_CLOSED
    if self.limit is not None:
        self.limit.cancel()
    conn.shut()
    if self.cause is None:
        # EPIPE is a reset that was seen while writing.
        self.cause = os.strerror(ECONNRESET if conn.err in (0, EPIPE) else conn.err)
    count_end(self)
    text = server.error_reply(self.cause)
    if self.resp == 3 and server.no_resp3 and not was_ready:
        text = NOPROTO
    server.closed(self, was_ready, waited)

    while conn.omsg_q.head is not cython.NULL:
        msg = conn.dequeue_outq(conn)
        if msg.flags & MSG_SHUTDOWN and not msg.flags & MSG_DONE:
            msg_constant(msg, cython.address(msg.rsp), b"+OK\r\n", 5)
            msg_done(msg)
        settle(server, msg, text, SERVER_REQUESTS_LOST)
    while conn.imsg_q.head is not cython.NULL:
        msg = conn.dequeue_inq(conn)
        if conn.sent > 0:
            # The head was written in part.
            conn.sent = 0
            settle(server, msg, text, SERVER_REQUESTS_LOST)
            continue
        if msg.flags & (MSG_CANCELLED | MSG_DONE):
            msg_put(msg)
            continue
        other = None
        if was_ready and not msg.flags & MSG_RETRIED and not server.ejected:
            other = server.conn_for(self.slot, self.resp)
        if other is None:
            settle(server, msg, server.error if server.down else text, SERVER_REQUESTS_UNAVAILABLE)
        else:
            msg.flags |= MSG_RETRIED
            server.stats[SERVER_REQUESTS_RETRIED] += 1
            other.enqueue_inq(other, msg)
            other.mark_flush()
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def count_end(self: ServerConn) -> cython.void:
    """Why a connection has ended. Of a timeout, its requests have told already."""
    if self.cause == NOT_NEEDED:
        return
    if self.eof:
        self.stats[SERVER_SERVER_EOF] += 1
    elif self.cause != os.strerror(ETIMEDOUT):
        self.stats[SERVER_SERVER_ERR] += 1
    elif not self.timed_out:
        self.stats[SERVER_SERVER_TIMEDOUT] += 1


@cython.cfunc
@cython.exceptval(-1, check=False)
def settle(
    server: Server, msg: cython.pointer(Msg), text: bytes, counter: cython.int
) -> cython.int:
    """Answer a request that its server will not answer, unless it has been, and let go of it."""
    if msg.flags & MSG_DONE:
        deadline_remove(msg)
    else:
        server.stats[counter] += 1
        msg_fail(msg, text)
    msg_put(msg)
    return 0


@cython.cclass
class ServerConn(Conn):
    """One connection to a server, of protocol version `resp`, in its slot of that version."""

    letter = "s"

    def __init__(self, server: Server, resp: cython.int, slot: cython.int):
        self.loop = server.loop
        self.server = server
        self.stats = server.stats
        self.resp = resp
        self.slot = slot
        self.begun = self.loop.now
        self.waiting_since = self.loop.now
        self.state = SERVER_RESOLVING
        self.reader = None if server.memcache else hiredis.Reader()
        self.flush_list = cython.address(self.loop.flush_servers)
        self.recv = conn_recv
        self.recv_next = server_recv_next
        self.parse = memcache_parse_rsp if server.memcache else redis_parse_rsp
        self.recv_done = server_handshake
        self.recv_error = server_recv_error
        self.send = server_connected
        self.send_next = req_send_next
        self.send_done = server_send_done
        self.close = server_close
        self.active = server_active
        self.enqueue_inq = server_enqueue_inq
        self.dequeue_inq = server_dequeue_inq
        self.enqueue_outq = server_enqueue_outq
        self.dequeue_outq = server_dequeue_outq

    @property
    def about(self) -> dict:
        return {"conn": str(self), **self.server.about}

    def silence(self):
        """For how long the server has owed a sign of life, in milliseconds: a byte of a reply, or,
        while no reply is due, room for more of a request."""
        if self.state == SERVER_READY and idle(self):
            return 0
        return self.loop.now - max(self.waiting_since, self.heard)

    def resolved(self, answer):
        """The name has been looked up: (family, address) pairs, or an OSError."""
        if self.state != SERVER_RESOLVING:
            return
        if isinstance(answer, OSError):
            self.fail(f"cannot resolve host: {answer.strerror or answer}")
            return
        self.start(answer)

    def start(self, addresses: list) -> None:
        """Begin to connect to the first address that the system does not refuse at once. The others
        are for when it cannot be reached: `localhost` is two, and a server may listen on one."""
        cause = ""
        self.addresses = list(addresses)
        while self.addresses:
            family, address = self.addresses.pop(0)
            try:
                self.open(family, address)
            except OSError as error:
                cause = error.strerror or str(error)
            else:
                return
        self.fail(cause)

    def open(self, family: int, address: object) -> None:
        sock = socket.socket(
            family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        if family != socket.AF_UNIX:
            tcp_options(sock, self.server.pool.config)
        try:
            sock.connect(address)
        except BlockingIOError:
            # EAGAIN of a unix socket, whose backlog is full, will not connect later.
            if family == socket.AF_UNIX:
                sock.close()
                raise
        except OSError:
            sock.close()
            raise
        self.state = SERVER_CONNECTING
        self.blocked = True
        self.loop.open(self, sock.detach())
        self.loop.poller.add_out(self.fd, cython.cast(cython.p_void, self))

    def fail(self, cause: str) -> None:
        """End it for a reason of our own."""
        self.cause = cause
        server_close(self)

    def drop(self) -> None:
        """End it because it is not needed: that says nothing about the server."""
        self.cause = NOT_NEEDED
        server_close(self)

    def expire(self) -> None:
        self.fail(os.strerror(ETIMEDOUT))


@cython.cclass
class Server:
    """One server of a pool. `config` is a ServerConfig, `index` its place in the ring's order."""

    def __init__(self, loop: Loop, pool, config, index: cython.int):
        self.loop = loop
        self.pool = pool
        self.config = config
        self.name = config.name
        self.memcache = not pool.config.redis
        self.index = index
        self.stats = loop.slab.row(loop.slab.servers[pool.index][index])
        self.connections = pool.config.server_connections
        self.conns2 = [None] * self.connections
        self.conns3 = [None] * self.connections
        self.refusals = {}
        self.backoff = BACKOFF_MIN
        self.last_failure = -1

    @property
    def address(self) -> str:
        return str(self.config.address)

    @property
    def requests(self) -> int:
        return self.stats[SERVER_REQUESTS]

    @property
    def responses(self) -> int:
        return self.stats[SERVER_RESPONSES]

    def __str__(self) -> str:
        return f"server '{self.name}' of pool '{self.pool.name}'"

    @property
    def about(self) -> dict:
        """What a line of the log about it is about (see log.py)."""
        return {**self.pool.about, "server": self.name}

    def error_reply(self, cause: str) -> bytes:
        """The error that a client is told. A server that is loading keeps Redis' own error code,
        which clients know how to wait for."""
        code = "-ERR"
        if self.memcache:
            code = "SERVER_ERROR"
        elif cause.startswith("LOADING "):
            code, cause = f"-{cause}".split(" ", 1)
        return f"{code} {self}: {cause}\r\n".encode()

    def conn_for(self, client, resp):
        """The connection for requests of this client, opened if need be. None when there can be
        none now: `refusal` is then what the client is told."""
        slot: cython.int = client % self.connections
        conns: list = self.conns3 if resp == 3 else self.conns2
        if self.down:
            self.refusal = self.error
            return None
        if resp == 3 and self.no_resp3:
            self.refusal = NOPROTO
            return None
        conn = cython.cast(ServerConn, conns[slot])
        if conn is None:
            return self.open_slot(resp, slot)
        return conn

    def open_slot(self, resp: int, slot: int):
        """Connect for this slot, unless it was refused a moment ago."""
        until, refusal = self.refusals.get((resp, slot), (0, b""))
        if self.loop.now < until:
            self.refusal = refusal
            return None
        return self.connect(resp, slot, False)

    def connect(self, resp: int, slot: int, probe: bool):
        """Open a connection. None if that failed at once."""
        conn = ServerConn(self, resp, slot)
        address = self.config.address
        self.loop.stats[GLOBAL_TOTAL_CONNECTIONS] += 1
        if probe:
            self.stats[SERVER_SERVER_PROBES] += 1
            self.probing = conn
        else:
            (self.conns3 if resp == 3 else self.conns2)[slot] = conn
        conn.limit = self.loop.timers.schedule(
            self.loop.now + (self.pool.config.timeout or HANDSHAKE_LIMIT), conn.expire
        )
        if address.family == "unix":
            conn.start([(socket.AF_UNIX, address.path)])
        else:
            self.pool.resolve(address.host, address.port, conn.resolved)
        return None if conn.state == SERVER_CLOSED else conn

    def handshake(self, resp: int) -> tuple[list[str], bytes]:
        """The steps on a new connection, in order, and their bytes. The PING finds out whether the
        server is ready: one that loads its data, or wants a password, is not."""
        if self.memcache:
            return ["version"], b"version\r\n"
        commands = []
        if self.pool.config.redis_auth:
            commands.append((b"AUTH", self.pool.config.redis_auth))
        if resp == 3:
            commands.append((b"HELLO", b"3"))
        if self.pool.config.redis_db:
            commands.append((b"SELECT", str(self.pool.config.redis_db).encode()))
        commands.append((b"PING",))
        steps = [command[0].decode() for command in commands]
        return steps, b"".join([hiredis.pack_command(command) for command in commands])

    def judge(self, step: str, reply: object) -> str | None:
        """What a handshake's reply means: None is well, else why the connection is of no use."""
        refused = isinstance(reply, hiredis.ReplyError)
        text = str(reply)
        if not step:
            return text if refused else "the server sent a reply that nobody had asked for"
        if not refused:
            if step == "HELLO" and isinstance(reply, dict):
                self.pool.server_version = reply.get(b"version", b"").decode() or None
            return None
        if text.startswith(("ERR max number of clients", "DENIED")):
            return text
        if step == "HELLO":
            self.no_resp3 = text.startswith(("ERR unknown command", "NOPROTO"))
            return f"HELLO 3 failed: {text}"
        if step == "AUTH":
            return f"redis_auth failed: {text}"
        if step == "SELECT":
            return f"redis_db {self.pool.config.redis_db} failed: {text}"
        if text.startswith("LOADING "):
            return text
        if text.startswith("NOAUTH"):
            return f"redis_auth is not set, but the server wants it: {text}"
        # MISCONF, BUSY, NOPERM and their like: it is there and answers.
        return None

    @staticmethod
    def judge_version(step: str, reply: str) -> str | None:
        """The same for memcached's: one that has too many clients, or wants to be authenticated,
        says so in the place of its version."""
        if step and reply.startswith("VERSION"):
            return None
        if reply.startswith(("ERROR", "CLIENT_ERROR", "SERVER_ERROR")):
            return reply
        return "the server sent a reply that nobody had asked for"

    def ready(self, conn: ServerConn) -> None:
        """The handshake has gone well: requests may flow."""
        old: ServerConn
        conn.state = SERVER_READY
        conn.recv_done = server_recv_done
        conn.send = server_send
        conn.waiting_since = self.loop.now
        conn.reader = None
        conn.limit.cancel()
        # It may have been upgraded since its last connection.
        self.no_resp3 = False
        if conn is self.probing:
            self.probing = None
            stuck = self.silent_conns(self.grace())
            for old in self.open_conns():
                # Nothing proves that one without requests has outlived what happened.
                if old.state == SERVER_READY and idle(old):
                    old.drop()
            if self.conns2[conn.slot] is not None and self.conns2[conn.slot] not in stuck:
                # It has begun to answer meanwhile: two are one too many.
                conn.drop()
            else:
                self.conns2[conn.slot] = conn
            self.set_up("has returned")
            for old in stuck:
                old.fail(os.strerror(ETIMEDOUT))
            return
        log.info("%s %s: connected, RESP%d", conn, self, conn.resp)
        if self.down and not self.ejected:
            self.set_up("has returned")
        conn.mark_flush()

    def open_conns(self) -> list:
        return [conn for conn in self.conns2 + self.conns3 if conn is not None]

    def silent_conns(self, limit: int) -> list:
        """The connections on which a reply has been due for `limit` ms without a byte."""
        conn: ServerConn
        silent = []
        for conn in self.open_conns():
            if conn.silence() >= limit:
                silent.append(conn)
        return silent

    def grace(self) -> int:
        """Milliseconds of silence that make a connection suspect: the pool's timeout."""
        return self.pool.config.timeout or HANDSHAKE_LIMIT

    def closed(self, conn: ServerConn, was_ready: bool, waited: bool) -> None:
        """A connection has ended. What it tells about the server depends on what it was doing."""
        conns = self.conns3 if conn.resp == 3 else self.conns2
        if conns[conn.slot] is conn:
            conns[conn.slot] = None
        probe = conn is self.probing
        if probe:
            self.probing = None
        if conn.cause == NOT_NEEDED:
            return
        if conn.resp == 3 and self.no_resp3 and not was_ready:
            # It is up, only too old for this protocol version.
            log.warning("%s %s: %s", conn, self, conn.cause)
            return
        if was_ready:
            # An idle connection that ends is nothing to tell of, unless something was wrong.
            log.log(
                logging.WARNING if waited or conn.cause != self.ended() else logging.INFO,
                "%s %s at %s: connection closed: %s",
                conn,
                self,
                self.address,
                conn.cause if conn.err or conn.cause != self.ended() else "by the server",
            )
            # Memory that runs out here says nothing about the server.
            if waited and conn.err != ENOMEM:
                self.failed(self.loop.now - conn.silence(), conn.cause)
            if self.pool.config.preconnect and not self.down:
                # A server that closes what it has just accepted would do so again at once.
                young = self.loop.now - conn.begun < BACKOFF_MAX
                self.loop.timers.schedule(
                    self.loop.now + (BACKOFF_MIN if young else 0), self.preconnect
                )
            return
        if not probe and self.serves():
            # It takes no more connections (maxclients), but those that it has are in use.
            log.warning(
                "%s %s at %s: no further connection: %s", conn, self, self.address, conn.cause
            )
            self.refusal = self.error_reply(conn.cause)
            self.refusals[conn.resp, conn.slot] = (self.loop.now + BACKOFF_MAX, self.refusal)
            return
        if probe:
            log.info("%s at %s: probe failed: %s", self, self.address, conn.cause)
        self.failed(conn.begun, conn.cause)
        self.set_down(conn.cause)

    def serves(self) -> bool:
        """Is there a connection that requests flow over?"""
        conn: ServerConn
        for conn in self.open_conns():
            if conn.state == SERVER_READY and conn.silence() < self.grace():
                return True
        return False

    @staticmethod
    def ended() -> str:
        """The cause of a connection that the server has closed without a word."""
        return os.strerror(ECONNRESET)

    def preconnect(self) -> None:
        """Open every connection that is missing."""
        for slot in range(self.connections):
            if not self.down and self.conns2[slot] is None:
                self.open_slot(2, slot)

    def failed(self, begun: int, cause: str) -> None:
        """Count a failure of what had begun at `begun` (milliseconds of the loop's clock), unless
        it belongs to a failure that has been counted."""
        if begun <= self.last_failure:
            return
        self.last_failure = self.loop.now
        self.failures += 1
        if (
            self.pool.config.auto_eject_hosts
            and not self.ejected
            and self.failures >= self.pool.config.server_failure_limit
        ):
            self.eject(cause)

    def eject(self, cause: str) -> None:
        self.ejected = True
        self.stats[SERVER_SERVER_EJECTED] = 1
        self.stats[SERVER_SERVER_EJECTED_AT] = time.time_ns() // 1000
        self.failures = 0
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        log.warning(
            "%s ejected for at least %d ms: %s", self, self.pool.config.server_retry_timeout, cause
        )
        self.set_down(cause)
        self.pool.ejected(self)
        for conn in self.open_conns():
            conn.fail(cause)

    def set_down(self, cause: str) -> None:
        """Requests fail at once from now on; arm the next probe."""
        self.error = self.refusal = self.error_reply(cause)
        if not self.down:
            self.down = True
            self.stats[SERVER_SERVER_DOWN] = 1
            self.backoff = BACKOFF_MIN
            log.warning("%s is down: %s (%s)", self, cause, self.address)
        elif self.retry is not None or self.probing is not None:
            # The next probe is on its way: what fails beside it does not put it off.
            return
        delay = self.backoff
        if self.ejected:
            delay = max(self.pool.config.server_retry_timeout, RETRY_MIN)
        self.backoff = min(self.backoff * 2, BACKOFF_MAX)
        self.probe_in(delay)

    def probe_in(self, delay: int) -> None:
        if self.retry is not None:
            self.retry.cancel()
        self.retry = self.loop.timers.schedule(self.loop.now + delay, self.probe)

    def probe(self) -> None:
        """Ask whether it is back, on a connection of its own."""
        self.retry = None
        if self.down and self.probing is None:
            self.connect(2, 0, True)

    def set_up(self, how: str) -> None:
        self.down = False
        self.stats[SERVER_SERVER_DOWN] = 0
        self.failures = 0
        self.refusals.clear()
        self.error = None
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.probing is not None:
            # An older connection was faster.
            self.probing.drop()
        log.warning("%s %s", self, how)
        if self.ejected:
            self.ejected = False
            self.stats[SERVER_SERVER_EJECTED] = 0
            self.pool.returned(self)
        if self.pool.config.preconnect:
            self.preconnect()

    def request_timed_out(self, conn, start):
        """A request has waited for its whole timeout. If its connection has been silent for as
        long, the server is suspect: others need not wait to find out, a probe does."""
        self.stats[SERVER_REQUESTS_TIMEDOUT] += 1
        if not conn.timed_out:
            conn.timed_out = True
            self.stats[SERVER_SERVER_TIMEDOUT] += 1
        if conn.silence() < self.grace():
            return 0
        self.failed(start, os.strerror(ETIMEDOUT))
        if not self.down:
            self.set_down(os.strerror(ETIMEDOUT))
            self.probe_in(0)
        return 0

    def close_silent(self) -> None:
        """A connection that has been silent for two timeouts is dead, whatever TCP says."""
        conn: ServerConn
        for conn in self.silent_conns(2 * self.grace()):
            conn.err = ETIMEDOUT
            server_close(conn)

    def orphans(self) -> int:
        """Requests whose clients have gone and that are still to be written or answered."""
        conn: ServerConn
        msg: cython.pointer(Msg)
        count: cython.int = 0
        for conn in self.open_conns():
            for head in (True, False):
                msg = conn.imsg_q.head if head else conn.omsg_q.head
                while msg is not cython.NULL:
                    if (
                        msg.client is cython.NULL
                        and msg.parent is cython.NULL
                        and not msg.flags & MSG_DONE
                    ):
                        count += 1
                    msg = msg.server_next
        return count

    def close(self) -> None:
        """The proxy ends: nothing is connected again."""
        conn: ServerConn
        self.down = True
        self.error = self.error_reply("nutproxy stops")
        if self.retry is not None:
            self.retry.cancel()
        conns = self.open_conns()
        if self.probing is not None:
            conns.append(self.probing)
        for conn in conns:
            conn.drop()
