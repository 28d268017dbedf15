# nutproxy/dispatch/stateful.py: commands that change what a client's next requests mean
"""A function for each Operation of a SESSION row."""

import cython
from cython.cimports.nutproxy.dispatch.blocking import block, wait_for_replicas
from cython.cimports.nutproxy.dispatch.execute import execute
from cython.cimports.nutproxy.dispatch.pubsub import publish, subscribe, unsubscribe
from cython.cimports.nutproxy.dispatch.transaction import discard, multi
from cython.cimports.nutproxy.dispatch.watch import unwatch, watch
from cython.cimports.nutproxy.proto.table import (
    OP_BLOCK,
    OP_DISCARD,
    OP_EXEC,
    OP_MULTI,
    OP_PUBLISH,
    OP_SPUBLISH,
    OP_SSUBSCRIBE,
    OP_SUBSCRIBE,
    OP_SUNSUBSCRIBE,
    OP_UNSUBSCRIBE,
    OP_WAIT,
    OP_WATCH,
)


def session_command(client, row, data, parser, flags):
    operation: cython.int = row.operation
    if operation == OP_BLOCK:
        return block(client, row, data, parser, 0, flags)
    if operation == OP_WAIT:
        return wait_for_replicas(client, row, data, parser, flags)
    if operation == OP_MULTI:
        return multi(client, flags)
    if operation == OP_EXEC:
        return execute(client, row, flags)
    if operation == OP_DISCARD:
        return discard(client, flags)
    if operation == OP_WATCH:
        return watch(client, row, data, parser, flags)
    if operation in (OP_PUBLISH, OP_SPUBLISH):
        return publish(client, row, data, parser, flags)
    if OP_SUBSCRIBE <= operation <= OP_SSUBSCRIBE:
        return subscribe(client, row, data, parser, flags)
    if OP_UNSUBSCRIBE <= operation <= OP_SUNSUBSCRIBE:
        return unsubscribe(client, row, data, parser, flags)
    return unwatch(client, flags)
