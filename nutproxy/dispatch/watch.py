# nutproxy/dispatch/watch.py: WATCH and UNWATCH
"""WATCH borrows a link, which stays with the client until EXEC, DISCARD or UNWATCH. See
dispatch/transaction.py."""

import cython
from cython.cimports.libc.string import strlen
from cython.cimports.nutproxy.back.link import LINK_HANDSHAKE, LINK_READY, Link
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.dispatch.forward import answer, answer_constant, queue_held
from cython.cimports.nutproxy.dispatch.groups import common_group
from cython.cimports.nutproxy.front.client import ClientConn
from cython.cimports.nutproxy.front.frontend import Frontend
from cython.cimports.nutproxy.front.session import Session
from cython.cimports.nutproxy.msg.message import MSG_DONE, Msg, msg_constant, msg_get, msg_put
from cython.cimports.nutproxy.msg.response import msg_error
from cython.cimports.nutproxy.proto.table import STATE_MULTI
from cython.cimports.nutproxy.route import Route
from cython.cimports.nutproxy.stats.slab import POOL_REFUSED_REQUESTS

from nutproxy.proto import errors

UNWATCH = cython.declare(cython.p_const_char, b"*1\r\n$7\r\nUNWATCH\r\n")


def complain(client, text, flags):
    client.stats[POOL_REFUSED_REQUESTS] += 1
    return answer(client, text, flags, False)


def watch_moved(session, route):
    return session.since != route.version and route.ngroups > 1


def watch(client, row, data, parser, flags):
    session: Session = client.need_session()
    frontend: Frontend = client.frontend
    msg: cython.pointer(Msg)
    group: cython.int = 0
    if client.states & STATE_MULTI:
        return complain(client, errors.error("watch_in_multi"), flags)
    if common_group(client, row, data, parser, flags, cython.address(group)):
        return 0
    if session.watching is None:
        session.since = frontend.route.version
    elif watch_moved(session, frontend.route):
        return answer(client, errors.error("watch_lost"), flags, True)
    elif group != session.group:
        text: bytes = errors.transaction_servers(frontend.name, frontend.config.hash_tag)
        return answer(client, text, flags, True)
    msg = queue_held(client, row, data, parser.pos, flags)
    session.group = group
    return client.hold(msg, run_watch, done_watch)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_watch(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    session: Session = client.session
    route: Route = client.frontend.route
    group: cython.int
    if watch_moved(session, route):
        # While it was held back.
        msg_error(msg, errors.error("watch_lost"))
        return 0
    if session.watching is None:
        # With the only server, the group may be one of several before.
        group = 0 if route.ngroups == 1 and session.group > 0 else session.group
        session.watching = route.borrow(msg, group, client.profile)
        if session.watching is None:
            return 0
    elif not follow(client):
        msg_error(msg, errors.error("watch_lost"))
        return 0
    return route.submit_to(session.watching, msg, True)


def follow(client):
    link: Link = client.session.watching
    if link.state == LINK_READY and link.profile is not client.profile:
        link.server.change(link, client.profile)
    return link.state == LINK_READY or link.state == LINK_HANDSHAKE


@cython.cfunc
@cython.exceptval(check=False)
def done_watch(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    cython.cast(ClientConn, conn).resume()


def unwatch(client, flags):
    end_watch(client)
    return answer_constant(client, b"+OK\r\n", 5, flags)


def end_watch(client):
    session: Session = client.session
    link: Link
    msg: cython.pointer(Msg)
    if session is None or session.watching is None:
        return 0
    link = session.watching
    session.watching = None
    if link.state != LINK_READY:
        return link.drop()
    msg = msg_get()
    if msg is cython.NULL:
        return link.drop()
    # Nobody waits for its reply.
    msg.flags = MSG_DONE
    msg_constant(msg, cython.address(msg.req), UNWATCH, strlen(UNWATCH))
    client.frontend.route.submit_to(link, msg, False)
    msg_put(msg)
    return link.server.give_back(link)
