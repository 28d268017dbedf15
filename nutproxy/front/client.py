# nutproxy/front/client.py: the role of a client connection
"""Receives requests and sends replies.

    recv ─> parse ─> recv_done (dispatch/) ─> omsg_q ─> send

**Limits.** nutproxy stops reading from a client that has `client_max_requests` requests in flight,
or `client_max_pending` bytes of unanswered requests and unsent replies, until both have fallen to
half. The client's socket fills up, and the client waits. The message that crosses the limit is
still accepted, otherwise a very large value could never pass. A request counts with the expected
size of its reply, which follows the sizes of recent replies. A new client starts with few requests
in flight and may have more once its replies turn out to be small. If replies are far larger than
expected and the client does not read them, those above four times `client_max_pending` are dropped:
see client_refuses.

**The end.** A client that has closed its sending side still gets the replies that it is owed. When
a client has gone completely, its requests keep their places in the servers' queues. After broken
framing or QUIT nothing more is read; the connection closes after the last reply.

**The drain.** When nutproxy shuts down, a client still gets the replies to all requests that it has
sent by then, including those that are still in its socket. A request that has begun is received to
its end, and later ones are ignored. The boundary is exact even in the middle of a pipeline, because
it is a position in the stream: requests that begin at `read_end` bytes or later are ignored.
"""

import fcntl
import logging
import os
import socket
import sys
import termios
import time

import cython
from cython.cimports.libc.errno import EAGAIN, ECONNRESET, EINTR, EPIPE, errno
from cython.cimports.libc.stdlib import free
from cython.cimports.nutproxy.back.link import Link
from cython.cimports.nutproxy.back.profile import Profile
from cython.cimports.nutproxy.conn import (
    Conn,
    conn_recv,
    conn_send,
    recv_done_t,
    recv_error_t,
    recv_other_t,
)
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.io.jobs import Job
from cython.cimports.nutproxy.io.reactor import (
    Reactor,
    close_t,
    end_faulty,
    recv_next_t,
    recv_t,
    send_t,
)
from cython.cimports.nutproxy.io.transport import transport_end, transport_read
from cython.cimports.nutproxy.msg.deadline import deadline_remove
from cython.cimports.nutproxy.msg.message import (
    MSG_DONE,
    MSG_FAILED,
    MSG_NOREPLY,
    MSG_PIECES,
    MSG_PUSH,
    Body,
    Cursor,
    Msg,
    Owner,
    client_append,
    client_insert,
    client_pop,
    freed_enough,
    msg_drop,
    msg_get,
    msg_put,
    msg_view,
)
from cython.cimports.nutproxy.msg.parse import Parser, parser_reset
from cython.cimports.nutproxy.msg.pieces import piece_first, piece_next, pieces_written
from cython.cimports.nutproxy.proto.redis import ARGS_MAX
from cython.cimports.nutproxy.proto.table import STATE_AUTH, STATE_MULTI, STATE_PAUSE
from cython.cimports.nutproxy.stats.slab import (
    POOL_CLIENT_BLOCKED,
    POOL_CLIENT_PROTOCOL_ERRORS,
    POOL_CLIENT_REQUEST_BYTES,
    POOL_CLIENT_REQUESTS,
    POOL_CLIENT_RESPONSE_BYTES,
    POOL_FORWARD_ERROR,
    POOL_UNREAD_REPLIES_DROPPED,
)

from nutproxy.back.link import TIMED_OUT
from nutproxy.io.sockets import keep_alive

log = logging.getLogger("nutproxy")

# Redis' limits before AUTH: the arguments of a command, and the bytes of one argument.
UNAUTHENTICATED_ARGS = 10
UNAUTHENTICATED_BULK = 16384
# Bytes of a whole request: Redis' client-query-buffer-limit, or twice the largest value if more.
REQUEST_MAX = 1 << 30

# Requests of a client that has gone which are let go of in one turn: 3 ms.
LET_GO_PER_TURN = cython.declare(cython.int, 16384)
# Milliseconds that a closing connection waits for the client to close.
LINGER = 1000
# Requests that a client may have in flight before the size of its replies is known.
FIRST_REQUESTS = cython.declare(cython.size_t, 32)
# Limit on unread replies, in units of client_max_pending.
UNREAD_FACTOR = cython.declare(cython.size_t, 4)


@cython.cfunc
@cython.exceptval(check=False)
def client_recv_next(conn: Conn) -> cython.bint:
    client: ClientConn = cython.cast(ClientConn, conn)
    if conn.closing or client.waiting:
        return False
    if client.barrier:
        # Later requests use other server connections, so the earlier ones must finish first.
        if conn.omsg_q.head is not cython.NULL:
            return False
        client.barrier = False
    client.check_bounds()
    return not client.paused


@cython.cfunc
@cython.exceptval(check=False)
def client_active(conn: Conn) -> cython.bint:
    """Is a reply owed, or being made?"""
    return conn.omsg_q.head is not cython.NULL or cython.cast(ClientConn, conn).waiting


def client_enqueue(conn, msg):
    """Append a request to the client's queue, which keeps the replies in order. Until its reply has
    come, it counts with the size that replies to this client have had recently."""
    msg.client = cython.cast(cython.p_void, conn)
    msg.owner = cython.address(client_owner)
    msg.charge += conn.expected
    conn.pending += msg.charge
    client_append(cython.address(conn.omsg_q), msg)


@cython.cfunc
@cython.exceptval(check=False)
def client_dequeue(conn: Conn) -> cython.pointer(Msg):
    msg: cython.pointer(Msg) = client_pop(cython.address(conn.omsg_q))
    conn.pending -= msg.charge
    if msg.flags & MSG_DONE:
        conn.unsent -= msg.charge
    msg.client = cython.NULL
    return msg


@cython.cfunc
@cython.exceptval(check=False)
def client_answered(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """A request in a client's queue has its reply, which took `size` bytes from servers."""
    client: Conn
    if msg.client is cython.NULL:
        return
    client = cython.cast(Conn, msg.client)
    if msg.flags & MSG_FAILED:
        client.stats[POOL_FORWARD_ERROR] += 1
    if msg.row is not cython.NULL:
        # Grows at once and shrinks by an eighth, so that one large reply among small ones counts.
        if size > client.expected:
            client.expected = size
        else:
            client.expected -= (client.expected - size + 7) >> 3
        if msg.join is not cython.NULL:
            # They have been counted as they arrived.
            client.unsent -= size
    if msg.flags & MSG_NOREPLY:
        msg_drop(cython.address(msg.rsp))
    client.unsent += msg.rsp.length
    client.pending += msg.rsp.length - msg.charge
    msg.charge = msg.rsp.length
    if client.omsg_q.head == msg:
        client.mark_flush()


@cython.cfunc
@cython.exceptval(check=False)
def client_arrived(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """So many bytes of the reply to a request in parts have come."""
    client: Conn
    if msg.client is cython.NULL:
        return
    client = cython.cast(Conn, msg.client)
    msg.charge += size
    client.pending += size
    client.unsent += size


@cython.cfunc
@cython.exceptval(check=False)
def client_refuses(msg: cython.pointer(Msg), size: cython.size_t) -> cython.bint:
    """A server connection is shared by clients, so it must be read even if one of them does not
    read its replies. Has the client so much unread that a reply of this size is dropped? The
    request whose turn is next always gets its reply: however large it is, it is only one."""
    client: Conn
    if msg.client is cython.NULL:
        return False
    client = cython.cast(Conn, msg.client)
    return client.unsent > client.unsent_max and client.omsg_q.head != msg


@cython.cfunc
def client_refusal(msg: cython.pointer(Msg), size: cython.size_t) -> bytes:
    """The error reply instead, in the same place; None when memory has run out."""
    client: ClientConn = cython.cast(ClientConn, msg.client)
    client.stats[POOL_UNREAD_REPLIES_DROPPED] += 1
    try:
        return client.protocol.error("dropped", b"%d" % size, b"%d" % client.unsent)
    except MemoryError:
        return None


client_owner = cython.declare(Owner)
client_owner.answered = client_answered
client_owner.arrived = client_arrived
client_owner.refuses = client_refuses
client_owner.refusal = client_refusal


@cython.cfunc
@cython.exceptval(check=False)
def held_answered(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """A message that was held back has its reply."""
    client: ClientConn
    if msg.client is cython.NULL:
        return
    client = cython.cast(ClientConn, msg.client)
    client_answered(msg, size)
    client.session.done(client, msg)


held_owner = cython.declare(Owner)
held_owner.answered = held_answered
held_owner.arrived = client_arrived
held_owner.refuses = client_refuses
held_owner.refusal = client_refusal


@cython.cfunc
@cython.exceptval(check=False)
def awaited_answered(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """A message of `send_with` has its reply."""
    client: ClientConn
    if msg.client is cython.NULL:
        return
    client = cython.cast(ClientConn, msg.client)
    if client.session.awaited == msg:
        client.session.awaited = cython.NULL
    client_answered(msg, size)
    client.mark_flush()


awaited_owner = cython.declare(Owner)
awaited_owner.answered = awaited_answered
awaited_owner.arrived = client_arrived
awaited_owner.refuses = client_refuses
awaited_owner.refusal = client_refusal


@cython.cfunc
@cython.exceptval(check=False)
def client_send_next(conn: Conn, cursor: cython.pointer(Cursor)) -> cython.pointer(Body):
    """Replies leave in the order of the requests: the first one that is not done ends the write."""
    msg: cython.pointer(Msg) = cursor.msg
    body: cython.pointer(Body)
    if msg is cython.NULL:
        msg = conn.omsg_q.head
    else:
        if msg.flags & MSG_PIECES:
            body = piece_next(msg, cursor)
            if body is not cython.NULL:
                return body
        msg = msg.client_next
    if msg is cython.NULL or not msg.flags & MSG_DONE:
        return cython.NULL
    cursor.msg = msg
    if msg.flags & MSG_PIECES:
        return piece_first(msg, cursor)
    return cython.address(msg.rsp)


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_send_done(conn: Conn) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    if client.paused | client.barrier or conn.omsg_q.head.flags & MSG_PIECES:
        return client_send_done_rare(client)
    msg_put(client_dequeue(conn))
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_send_done_rare(client: ClientConn) -> cython.int:
    """The same for a client that waits for replies to leave, or whose reply is in pieces."""
    conn: Conn = client
    if conn.omsg_q.head.flags & MSG_PIECES and not last_piece(conn, conn.omsg_q.head):
        return 0
    msg_put(client_dequeue(conn))
    if client.session is not None and client.session.held is not cython.NULL:
        if conn.omsg_q.head == client.session.held:
            client.run_held()
    elif client.barrier and conn.omsg_q.head is cython.NULL:
        conn.mark_ready()
    if client.paused:
        client.check_bounds()
        if not client.paused:
            conn.mark_ready()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def pushed_send_done(conn: Conn) -> cython.int:
    """The same for a client that gets messages of subscriptions."""
    client: ClientConn = cython.cast(ClientConn, conn)
    msg: cython.pointer(Msg) = conn.omsg_q.head
    session: Session = client.session
    if not msg.flags & MSG_PUSH:
        return client_send_done(conn)
    session.pushed -= msg.charge
    if session.last_push == msg:
        session.last_push = cython.NULL
    if msg.rsp.length == 0 and session.due is not None:
        client.frontend.tracking.turn_has_come(client, cython.cast(cython.size_t, msg))
    return client_send_done(conn)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def held_back(session: Session) -> cython.pointer(Msg):
    """Its command that is held back, or waits in its server; or NULL."""
    return session.held if session.held is not cython.NULL else session.waiting


@cython.cfunc
@cython.exceptval(check=False)
def last_piece(conn: Conn, msg: cython.pointer(Msg)) -> cython.bint:
    """A piece of this reply has been written. Was it the last? If not, its bytes are freed and do
    not count any more."""
    length: cython.size_t = pieces_written(msg)
    conn.pending -= length
    conn.unsent -= length
    msg.charge -= length
    return length == 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_close(conn: Conn) -> cython.int:
    """The client has gone. Its requests in flight keep their places in the servers' queues. They
    point to the client, so its own queue must be emptied whatever else fails."""
    client: ClientConn = cython.cast(ClientConn, conn)
    if conn.fd < 0:
        return 0
    if conn.closing and not (conn.eof or conn.err or client.lingering):
        try:
            return client.linger()
        except MemoryError:
            # Without a timer nothing would end the wait.
            pass
    try:
        if log.isEnabledFor(logging.DEBUG):
            client.log_close()
    finally:
        # A client that has sent QUIT need not read the +OK.
        asked = conn.closing and conn.err in (0, EPIPE, ECONNRESET)
        client.profile.clients -= 1
        client.frontend.client_left(client, (conn.eof or asked) and not client.broken)
        conn.shut()
        if client.session is not None:
            leave(client)
        if let_go(conn):
            let_go_later(client)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def leave(client: ClientConn) -> cython.void:
    """Ends what a client with a session has begun: first it lets go of the command that is being
    carried out, the last one in its queue."""
    session: Session = client.session
    msg: cython.pointer(Msg)
    index: cython.uint
    if session.waiting is not cython.NULL:
        client.end_wait()
    # It refers to the client.
    session.settling = None
    if session.postponed is not None:
        client.frontend.postponed -= 1
    if session.link is not None or session.links is not None:
        while client.omsg_q.head is not cython.NULL:
            msg = client.dequeue_outq(client)
            # Its end is no failure of the server.
            deadline_remove(msg)
            msg.flags |= MSG_DONE
            if msg.join is not cython.NULL:
                for index in range(msg.join.count):
                    deadline_remove(msg.join.parts[index])
                    msg.join.parts[index].flags |= MSG_DONE
            msg_put(msg)
    end_subscriptions(client)
    end_tracking(client)
    session.leave()


@cython.cfunc
@cython.exceptval(check=False)
def end_tracking(client: ClientConn) -> cython.void:
    session: Session = client.session
    if session.tracked is not None or session.starting is not None or session.due is not None:
        client.frontend.tracking.left(client)


@cython.cfunc
@cython.exceptval(check=False)
def end_subscriptions(client: ClientConn) -> cython.void:
    if client.session.topics is not None or client.session.asking is not None:
        client.frontend.subscriptions.left(client)


@cython.cfunc
@cython.exceptval(check=False)
def let_go_later(client: ClientConn) -> cython.void:
    try:
        client.reactor.jobs.add(LetGo(client))
    except MemoryError:
        while client.omsg_q.head is not cython.NULL:
            msg_put(client.dequeue_outq(client))


@cython.cclass
class LetGo(Job):
    """Releases the requests of a client that has gone. Replies to the others that come meanwhile
    are kept in its queue, and nothing is sent any more."""

    def __init__(self, client: ClientConn):
        self.client = client

    def portion(self):
        return let_go(self.client)


@cython.cfunc
@cython.exceptval(check=False)
def let_go(conn: Conn) -> cython.bint:
    """Release LET_GO_PER_TURN requests, or fewer if they are large. Returns whether there are
    more."""
    for _ in range(LET_GO_PER_TURN):
        if conn.omsg_q.head is cython.NULL or freed_enough():
            break
        msg_put(conn.dequeue_outq(conn))
    return conn.omsg_q.head is not cython.NULL


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_recv(conn: Conn) -> cython.int:
    before: cython.ulonglong = conn.recv_bytes
    try:
        return conn_recv(conn)
    finally:
        conn.stats[POOL_CLIENT_REQUEST_BYTES] += conn.recv_bytes - before


@cython.cfunc
@cython.exceptval(0)
def client_recv_part(
    conn: Conn, data: cython.p_char, length: cython.size_t, parser: cython.pointer(Parser)
) -> cython.size_t:
    """Part of a large request was received. If the incomplete requests of all clients are too large
    together, the client with the largest one is ended, as with Redis' maxmemory-clients."""
    client: ClientConn = cython.cast(ClientConn, conn)
    frontend: Frontend = client.frontend
    conn.count(length)
    if frontend.unfinished.bytes > frontend.max_unfinished:
        cython.cast(ClientConn, frontend.largest_unfinished()).give_up(client.protocol.too_much)
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_send(conn: Conn) -> cython.int:
    before: cython.ulonglong = conn.send_bytes
    try:
        return conn_send(conn)
    finally:
        conn.stats[POOL_CLIENT_RESPONSE_BYTES] += conn.send_bytes - before


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_send_later(conn: Conn) -> cython.int:
    """The send of a client in the turn of `send_with`."""
    client: ClientConn = cython.cast(ClientConn, conn)
    conn.send = cython.cast(send_t, client_send)
    return 0 if client.session.awaited is not cython.NULL else client_send(conn)


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_discard(conn: Conn) -> cython.int:
    """Drop what a client still sends after its last reply."""
    reactor: Reactor = conn.reactor
    count: cython.Py_ssize_t = transport_read(conn, reactor.scratch, reactor.mbuf_size)
    if count < 0 and errno in (EAGAIN, EINTR):
        return 0
    if count <= 0:
        conn.eof = True
        return client_close(conn)
    conn.mark_ready()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_drain_recv(conn: Conn) -> cython.int:
    client_recv(conn)
    if conn.fd >= 0:
        cython.cast(ClientConn, conn).close_if_drained()
    return 0


@cython.cfunc
@cython.exceptval(-1, check=False)
def client_waiting_recv(conn: Conn) -> cython.int:
    """The recv of a client that waits in a server, or until a request is dispatched again: only
    its end matters, even if it has sent more. The server is told of it, and may reply first."""
    client: ClientConn = cython.cast(ClientConn, conn)
    if not conn.hup and conn.fd >= 0:
        return 0
    if client.session.waiting is not cython.NULL:
        return client.finish_wait()
    if client.session.postponed is not None and client.session.settling is not None:
        # It takes no longer than a reply, and the request is carried out.
        return 0
    conn.eof = True
    return client_close(conn)


@cython.cfunc
@cython.exceptval(check=False)
def client_no_dequeue(conn: Conn) -> cython.pointer(Msg):
    """A client's imsg_q stays empty: its requests go straight to the servers' queues."""
    return cython.NULL


def end_unfinished(frontend):
    client: ClientConn
    late: list = None
    if not frontend.request_timeout or not frontend.unfinished.some:
        return 0
    frontend.unfinished.some = False
    for client in frontend.clients.values():
        if client.tail is cython.NULL:
            continue
        frontend.unfinished.some = True
        if client.reactor.now - client.last_recv >= frontend.request_timeout and not client.closing:
            late = late or []
            late.append(client)
    for client in late or ():
        if client.recv_next(client) and not client.unparsed and not client.unread():
            client.give_up(client.protocol.stalled)
    return 0


@cython.cclass
class ClientConn(Conn):
    """A client of `frontend`."""

    letter = "c"

    def __init__(self, frontend: Frontend):
        self.id = frontend.board.client_id()
        self.reactor = frontend.reactor
        self.frontend = frontend
        self.protocol = frontend.protocol
        self.profile = frontend.pool.profiles.default
        self.profile.clients += 1
        self.name = ""
        self.lib_name = ""
        self.lib_ver = ""
        self.created = time.monotonic()
        self.last_request = self.reactor.now
        self.authenticated = not (frontend.redis_auth or frontend.users)
        self.expected = frontend.max_pending // FIRST_REQUESTS
        self.unsent_max = UNREAD_FACTOR * frontend.max_pending
        self.stats = frontend.stats
        self.flush_list = cython.address(self.reactor.flush_clients)
        self.recv = cython.cast(recv_t, client_recv)
        self.recv_next = cython.cast(recv_next_t, client_recv_next)
        self.parse = frontend.parse_first
        self.recv_done = cython.cast(recv_done_t, self.protocol.dispatch)
        self.recv_large = cython.cast(recv_done_t, self.protocol.dispatch_large)
        self.recv_part = client_recv_part
        self.recv_error = cython.cast(recv_error_t, self.protocol.refuse)
        self.recv_other = cython.cast(recv_other_t, self.protocol.choose)
        self.unfinished = cython.address(frontend.unfinished)
        self.send = cython.cast(send_t, client_send)
        self.send_next = client_send_next
        self.send_done = client_send_done
        self.close = cython.cast(close_t, client_close)
        self.active = client_active
        self.enqueue_inq = client_enqueue
        self.dequeue_inq = client_no_dequeue
        self.enqueue_outq = client_enqueue
        self.dequeue_outq = client_dequeue
        frontend.client_came(self)

    def breaks(self):
        """The input is not a request: read nothing more."""
        self.closing = True
        self.broken = True
        self.stats[POOL_CLIENT_PROTOCOL_ERRORS] += 1

    @property
    def protover(self) -> int:
        """Its protocol version: 2 or 3."""
        return self.profile.protover

    @property
    def database(self) -> int:
        """Its database by the servers' number."""
        return self.profile.database

    def adopt(self, protover, database):
        """Change its profile. False, and no change, if the pool has no room for one more."""
        return self.enter_profile(protover, database, self.is_tracked)

    def track(self, tracked):
        return self.enter_profile(self.profile.protover, self.profile.database, tracked)

    @property
    def is_tracked(self) -> bool:
        """Do the servers note what it reads?"""
        return self.tracked is not None and not self.tracked.bcast

    def enter_profile(self, protover: int, database: int, tracked: bool) -> bool:
        profile: Profile = self.frontend.pool.profiles.of(protover, database, tracked)
        if profile is None:
            return False
        self.profile.clients -= 1
        profile.clients += 1
        self.profile = profile
        return True

    @property
    def unfinished_bytes(self) -> int:
        return self.counted

    def give_up(self, text):
        """Stop waiting for the rest of its request: send the error `text` and close."""
        parser: Parser
        parser_reset(cython.address(parser))
        parser.error = text
        self.recv_error(self, cython.address(parser))
        self.drop_tail()
        return 0

    def need_session(self):
        if self.session is None:
            self.session = Session()
        return self.session

    def hold(self, msg, run, done):
        session: Session = self.need_session()
        msg.owner = cython.address(held_owner)
        session.held = msg
        session.run = run
        session.done = done
        # With a barrier, client_send_done looks whether it is the turn of the held message.
        self.waiting = self.barrier = True
        if self.omsg_q.head == msg:
            return self.run_held()
        return 0

    def send_with(self, msg):
        if not msg.flags & MSG_DONE:
            msg.owner = cython.address(awaited_owner)
            self.session.awaited = msg
            self.send = cython.cast(send_t, client_send_later)

    def begin_pushes(self):
        self.send_done = pushed_send_done

    def push(self, body, charge, where):
        session: Session = self.session
        msg: cython.pointer(Msg) = msg_get()
        after: cython.pointer(Msg) = session.last_push
        if msg is cython.NULL:
            return cython.NULL
        if body is not cython.NULL:
            msg_view(cython.address(msg.rsp), body, body.data, body.length)
        msg.flags = MSG_DONE | MSG_PUSH
        msg.client = cython.cast(cython.p_void, self)
        msg.charge = charge
        self.pending += charge
        self.unsent += charge
        session.pushed += charge
        if where == PUSH_AFTER and held_back(session) is not cython.NULL:
            after = cython.NULL
            if self.omsg_q.head != held_back(session):
                after = self.omsg_q.head
                while after.client_next not in (held_back(session), cython.NULL):
                    after = after.client_next
            client_insert(cython.address(self.omsg_q), after, msg)
        elif where != PUSH_NOW or (self.barrier and not self.waiting):
            # With a barrier alone, the protocol has been switched: the message is in the new one,
            # so it comes after that reply.
            client_append(cython.address(self.omsg_q), msg)
        else:
            head: cython.pointer(Msg) = self.omsg_q.head
            if after is cython.NULL and head is not cython.NULL and head.flags & MSG_DONE:
                after = head
            if after is not cython.NULL:
                while after.client_next is not cython.NULL and after.client_next.flags & MSG_DONE:
                    after = after.client_next
            client_insert(cython.address(self.omsg_q), after, msg)
            session.last_push = msg
        self.mark_flush()
        return msg

    def doom(self):
        session: Session = self.session
        session.doomed = True
        session.multi = None
        self.pending -= session.queued
        session.queued = 0

    def end_multi(self):
        self.doom()
        self.session.doomed = False
        self.states &= ~STATE_MULTI

    def begin_wait(self, msg, deadline):
        session: Session = self.session
        session.waiting = msg
        session.waits += 1
        session.slot = -1
        self.stats[POOL_CLIENT_BLOCKED] += 1
        self.recv = cython.cast(recv_t, client_waiting_recv)
        if not session.watched:
            session.watched = True
            keep_alive(self.fd, self.frontend.config)
        if deadline >= 0:
            session.slot = self.frontend.waits.add(self.reactor.now, deadline, self)
        return 0

    def end_wait(self):
        session: Session = self.session
        session.waiting = cython.NULL
        self.stats[POOL_CLIENT_BLOCKED] -= 1
        self.recv = cython.cast(recv_t, client_recv)
        if session.slot >= 0:
            self.frontend.waits.remove(session.slot, self)

    def finish_wait(self):
        session: Session = self.session
        link: Link
        if session.ended:
            return 0
        session.ended = True
        # Its server need not live to notice the end.
        if session.slot >= 0:
            self.frontend.waits.remove(session.slot, self)
        session.slot = self.frontend.waits.add(
            self.reactor.now,
            self.reactor.now + (self.frontend.pool.timeout or LINGER),
            self,
        )
        for link in session.borrowed():
            link.finish()
        return 0

    def postpone(self, data, length, flags):
        if flags and self.reply_mode == REPLY_ON:
            # It had no reply because of CLIENT REPLY SKIP.
            self.reply_mode = REPLY_SKIP
        self.need_session().postponed = data[:length]
        self.frontend.postponed += 1
        self.pending += length
        self.waiting = True
        self.recv = cython.cast(recv_t, client_waiting_recv)
        # It is counted again when it is dispatched.
        self.stats[POOL_CLIENT_REQUESTS] -= 1
        return 0

    def pause(self, on: bool) -> None:
        """A pause of the frontend begins or ends."""
        if on:
            self.states |= STATE_PAUSE
            return
        self.states &= ~STATE_PAUSE
        if self.session is not None and self.session.postponed is not None:
            self.go_on()

    def go_on(self) -> None:
        """Dispatch the request that was postponed."""
        session: Session = self.session
        data: bytes = session.postponed
        parser: Parser
        session.postponed = None
        self.frontend.postponed -= 1
        self.pending -= len(data)
        parser.argv = cython.NULL
        parser.argv_room = 0
        parser_reset(cython.address(parser))
        self.recv = cython.cast(recv_t, client_recv)
        self.resume()
        try:
            self.parse(cython.address(parser), cython.address(self.limits), data, len(data))
            self.recv_done(self, data, cython.address(parser))
        except Exception:
            end_faulty(self)
        finally:
            free(parser.argv)

    def kill(self) -> None:
        """CLIENT KILL: close it at once, whatever it is owed."""
        self.closing = False
        client_close(self)

    def wait_moved(self, slot: cython.longlong) -> None:
        self.session.slot = slot

    def expire_wait(self) -> None:
        """The server has not replied in time, so its connection is of no use any more."""
        link: Link
        for link in self.session.borrowed():
            if link.omsg_q.head is not cython.NULL or self.session.ended:
                link.abort(TIMED_OUT)

    @property
    def queued_commands(self) -> int:
        """Those of its transaction; -1 outside of one."""
        if not self.states & STATE_MULTI:
            return -1
        return 0 if self.session.multi is None else self.session.multi.size

    @property
    def waits(self) -> bool:
        return self.session is not None and self.session.waiting is not cython.NULL

    @property
    def delayed(self) -> bool:
        return self.session is not None and self.session.postponed is not None

    def end_session(self):
        if self.session is None:
            return
        if self.states & STATE_MULTI:
            self.end_multi()
        end_subscriptions(self)
        end_tracking(self)
        self.session.leave()

    def run_held(self):
        session: Session = self.session
        msg: cython.pointer(Msg) = session.held
        session.held = cython.NULL
        return session.run(self, msg)

    def linger(self):
        """All replies are sent. Closing with unread input would reset the connection, and the
        client could lose the last reply. So wait until the client closes, at most for LINGER."""
        self.lingering = True
        # It gets no more messages, and does not count as a receiver.
        self.end_session()
        transport_end(self)
        self.recv = cython.cast(recv_t, client_discard)
        self.mark_ready()
        self.reactor.timers.schedule(self.reactor.now + LINGER, self.end)
        return 0

    def end(self) -> None:
        client_close(self)

    def drain(self) -> None:
        """Answer the requests that it has sent, then close it. If it waits in a server, perhaps for
        ever, it is closed now."""
        self.draining = True
        self.pause(False)
        if self.closing:
            return
        if self.waits:
            client_close(self)
            return
        self.read_end = self.recv_bytes + self.unread()
        self.bounded = True
        self.recv = cython.cast(recv_t, client_drain_recv)
        self.mark_ready()

    def unread(self) -> int:
        """The number of bytes that wait in its socket to be read."""
        return int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), sys.byteorder)

    def close_if_drained(self):
        """Called after each read in a drain: close the client after its last request."""
        if not self.closing:
            if self.recv_bytes < self.read_end or self.tail is not cython.NULL or self.swallow > 0:
                return 0
            self.closing = True
        if client_active(self):
            return 0
        if self.reactor.now - max(self.last_request, self.last_recv, self.last_send) >= LINGER:
            # Its last reply was sent at least LINGER ago, and it has sent nothing since.
            self.lingering = True
        return client_close(self)

    @property
    def subscribed(self) -> tuple:
        """The numbers of its channels, patterns and shard channels."""
        if self.session is None or self.session.topics is None:
            return 0, 0, 0
        return tuple([len(topics) for topics in self.session.topics])

    @property
    def tracked(self):
        """What CLIENT TRACKING has set, a Tracked; None: it is off."""
        return None if self.session is None else self.session.tracked

    @property
    def owed(self) -> int:
        """The number of its requests in flight."""
        return self.omsg_q.count

    def log_close(self) -> None:
        how = "by nutproxy"
        if self.err:
            how = os.strerror(self.err)
        elif self.eof:
            how = "by the client"
        log.debug(
            "%s %s: closed: %s; received %d bytes, sent %d, requests in flight %d",
            self,
            self.frontend,
            how,
            self.recv_bytes,
            self.send_bytes,
            self.owed,
        )

    @property
    def about(self) -> dict:
        return {"conn": str(self), **self.frontend.about}

    def check_bounds(self):
        """Pause at a limit, resume at half of it."""
        frontend: Frontend = self.frontend
        if self.paused:
            self.paused = (
                self.omsg_q.count > frontend.max_requests // 2
                or self.pending > frontend.max_pending // 2
            )
        else:
            self.paused = (
                self.pending >= frontend.max_pending or self.omsg_q.count >= frontend.max_requests
            )

    @property
    def authenticated(self) -> bool:
        return not self.states & STATE_AUTH

    @authenticated.setter
    def authenticated(self, value: bool):
        if value:
            self.states &= ~STATE_AUTH
        else:
            self.states |= STATE_AUTH
        bulk: cython.longlong = self.frontend.config.proto_max_bulk_len
        self.limits.bulk_later = bulk
        self.limits.args = ARGS_MAX if value else UNAUTHENTICATED_ARGS
        self.limits.bulk = bulk if value else min(UNAUTHENTICATED_BULK, bulk)
        self.limits.request = max(REQUEST_MAX, 2 * bulk)

    def enter(self, state: int, command: bytes, error: bytes) -> None:
        """This command was refused, so commands that depend on it are too: see
        proto.commands.State."""
        self.states |= state
        if self.refusals is None:
            self.refusals = {}
        self.refusals[state] = command, error

    def leave(self, states: int) -> None:
        self.states &= ~states

    @property
    def pool(self):
        return self.frontend.pool

    @property
    def peer(self) -> str:
        # Cached: CLIENT LIST needs the address of every client while all of them wait.
        if self.peer_text is None:
            self.peer_text = self._address("getpeername")
        return self.peer_text

    @property
    def local_addr(self) -> str:
        if self.local_text is None:
            self.local_text = self._address("getsockname")
        return self.local_text

    def _address(self, call: str) -> str:
        if self.fd < 0:
            return "?:0"
        sock = socket.socket(fileno=self.fd)
        try:
            name = getattr(sock, call)()
        except OSError:
            return "?:0"
        finally:
            sock.detach()
        if sock.family == socket.AF_UNIX:
            return f"{name or self.frontend.config.listen.path}:0"
        if sock.family == socket.AF_INET6:
            return f"[{name[0]}]:{name[1]}"
        return f"{name[0]}:{name[1]}"

    @property
    def last_interaction(self) -> float:
        return self.last_request / 1000

    @property
    def last_command(self) -> str:
        if self.row is cython.NULL:
            return "NULL"
        name: bytes = self.row.name
        return name.decode().replace(" ", "|")

    @property
    def tot_net_in(self) -> int:
        return self.recv_bytes

    @property
    def tot_net_out(self) -> int:
        return self.send_bytes

    @property
    def omem(self) -> int:
        return self.pending

    def resume(self):
        """The command that delayed the following ones has been answered."""
        self.waiting = False
        self.mark_ready()
        if self.closing:
            # It may have been kept open only because it waited.
            self.mark_flush()
