# nutproxy/dispatch/pubsub.py: SUBSCRIBE, UNSUBSCRIBE, PUBLISH and their kin
"""Commands about subscriptions, which front/subscriptions.py keeps.

SUBSCRIBE is held until the replies to the client's earlier requests have been sent, and gets its
reply when the servers have confirmed. Then the client's next request is parsed. UNSUBSCRIBE needs
no server. PUBLISH is a request like any other, but for the number in its reply.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.nutproxy.conn import Conn
from cython.cimports.nutproxy.dispatch.forward import (
    answer,
    forward_one,
    later,
    queue_held,
)
from cython.cimports.nutproxy.front.client import ClientConn, client_owner
from cython.cimports.nutproxy.front.subscriptions import Asking, Subscriptions
from cython.cimports.nutproxy.msg.message import MSG_NOREPLY, Msg, Owner, msg_reserve
from cython.cimports.nutproxy.msg.parse import Arg, Parser
from cython.cimports.nutproxy.proto.redis import put_length, read_length
from cython.cimports.nutproxy.proto.row import Row
from cython.cimports.nutproxy.proto.table import (
    CHANNEL,
    OP_PUBLISH,
    OP_SSUBSCRIBE,
    OP_SUBSCRIBE,
    OP_UNSUBSCRIBE,
    SHARD,
)
from cython.cimports.nutproxy.route import Route

from nutproxy.proto import errors

# The words and the bytes of one SUBSCRIBE or UNSUBSCRIBE.
NAMES_MAX = 8192
BYTES_MAX = 1 << 20
INTERNAL_ERROR = errors.REDIS_REPLIES["internal"]


@cython.cfunc
def names_of(data: cython.p_const_char, parser: cython.pointer(Parser)) -> list:
    """The arguments as bytes objects."""
    index: cython.uint
    names: list = []
    for index in range(1, parser.argc):
        names.append(argument(data, parser, index))
    return names


@cython.cfunc
def argument(data: cython.p_const_char, parser: cython.pointer(Parser), index: uint32_t) -> bytes:
    arg: cython.pointer(Arg) = cython.address(parser.argv[index])
    return PyBytes_FromStringAndSize(data + arg.offset, cython.cast(cython.Py_ssize_t, arg.length))


@cython.cfunc
def too_many(row: cython.pointer(Row), parser: cython.pointer(Parser)) -> bytes:
    """The error for a command with more names than one turn can handle, or None."""
    name: bytes = row.name
    if parser.argc > NAMES_MAX:
        return errors.too_many(name.decode(), parser.argc, NAMES_MAX)
    if parser.pos > BYTES_MAX:
        return errors.too_long(name.decode(), parser.pos, BYTES_MAX)
    return None


def subscribe(client, row, data, parser, flags):
    subscriptions: Subscriptions = client.frontend.subscriptions
    kind: cython.int = row.operation - OP_SUBSCRIBE
    msg: cython.pointer(Msg)
    text: bytes = too_many(row, parser)
    if text is not None:
        return answer(client, text, flags, True)
    pairs = [(kind, name) for name in names_of(data, parser)]
    asking: Asking = Asking(subscriptions, client, pairs)
    # As in Redis, CLIENT REPLY OFF does not suppress it.
    msg = queue_held(client, row, data, parser.pos, flags & ~MSG_NOREPLY)
    asking.msg = msg
    client.need_session().asking = asking
    return client.hold(msg, run_subscribe, done_subscribe)


@cython.cfunc
@cython.exceptval(-1, check=False)
def run_subscribe(conn: Conn, msg: cython.pointer(Msg)) -> cython.int:
    client: ClientConn = cython.cast(ClientConn, conn)
    subscriptions: Subscriptions = client.frontend.subscriptions
    return subscriptions.ask(client.session.asking)


@cython.cfunc
@cython.exceptval(check=False)
def done_subscribe(conn: Conn, msg: cython.pointer(Msg)) -> cython.void:
    cython.cast(ClientConn, conn).resume()


def unsubscribe(client, row, data, parser, flags):
    subscriptions: Subscriptions = client.frontend.subscriptions
    kind: cython.int = row.operation - OP_UNSUBSCRIBE
    text: bytes = too_many(row, parser)
    if text is not None:
        return answer(client, text, flags, True)
    names: list = names_of(data, parser) if parser.argc > 1 else None
    if names is None and len(subscriptions.own(client, kind)) > NAMES_MAX:
        steps = subscriptions.unsubscribe_steps(client, kind)
        return later(client, steps, flags & ~MSG_NOREPLY, INTERNAL_ERROR)
    text = subscriptions.unsubscribe(client, kind, names)
    return answer(client, text, flags & ~MSG_NOREPLY, False)


def publish(client, row, data, parser, flags):
    subscriptions: Subscriptions = client.frontend.subscriptions
    route: Route = client.frontend.route
    arg: cython.pointer(Arg) = cython.address(parser.argv[1])
    msg: cython.pointer(Msg)
    hash: uint32_t = 0
    error: cython.int = 0
    group: cython.int = route.group_of(data + arg.offset, arg.length, cython.address(hash))
    if group >= 0 and not subscriptions.is_empty():
        kind: cython.int = CHANNEL if row.operation == OP_PUBLISH else SHARD
        name: bytes = argument(data, parser, 1)
        if subscriptions.is_unsettled(client, kind, name, group):
            return client.postpone(data, parser.pos, flags)
        error = subscriptions.error_of(kind, name, group)
    if error == 0:
        return forward_one(client, row, data, parser.pos, group, flags)
    msg = queue_held(client, row, data, parser.pos, flags)
    msg.owner = cython.address(publish_owner)
    msg.replies = cython.cast(uint32_t, error)
    return route.submit(msg, group, client.id, client.profile)


@cython.cfunc
@cython.exceptval(check=False)
def publish_answered(msg: cython.pointer(Msg), size: cython.size_t) -> cython.void:
    """Correct the number of receivers: `replies` is what is missing."""
    number: cython.longlong
    pos: cython.size_t = 0
    target: cython.p_char
    if msg.rsp.length > 1 and msg.rsp.data[0] == b":":
        number = read_length(msg.rsp.data, cython.address(pos)) + cython.cast(
            cython.int, msg.replies
        )
        target = msg_reserve(msg, cython.address(msg.rsp), 24)
        if target is not cython.NULL:
            msg.rsp.length = put_length(target, b":", max(number, 0))
    client_owner.answered(msg, size)


publish_owner = cython.declare(Owner)
publish_owner.answered = publish_answered
publish_owner.arrived = client_owner.arrived
publish_owner.refuses = client_owner.refuses
publish_owner.refusal = client_owner.refusal


# In a transaction
# -------------------------------------------------------------------------------------------------


def asking_of(client, queued):
    """What EXEC has to ask servers for, before the commands are carried out."""
    pairs: list = []
    for operation, argv in queued:
        if OP_SUBSCRIBE <= operation < OP_SSUBSCRIBE:
            pairs += [(operation - OP_SUBSCRIBE, name) for name in argv[1:]]
    if not pairs:
        return None
    return Asking(client.frontend.subscriptions, client, pairs)


def carry_out(asking, client, operation, argv):
    """A command that was queued. `asking` has the topics of all of them, in their order."""
    subscriptions: Subscriptions = client.frontend.subscriptions
    stop: cython.Py_ssize_t
    if operation >= OP_UNSUBSCRIBE:
        return subscriptions.unsubscribe(client, operation - OP_UNSUBSCRIBE, argv[1:] or None)
    if operation == OP_SSUBSCRIBE:
        return errors.error("ssubscribe_in_multi")
    if asking.error is not None:
        return asking.error
    stop = asking.carried_out + len(argv) - 1
    text: bytes = subscriptions.admit(asking, asking.carried_out, stop)
    asking.carried_out = stop
    return text
