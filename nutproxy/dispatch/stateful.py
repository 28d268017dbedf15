# nutproxy/dispatch/stateful.py: commands that change what a client's next requests mean
"""A function for each Operation of a SESSION row."""

import cython
from cython.cimports.nutproxy.dispatch.transaction import discard, execute, multi, unwatch, watch
from cython.cimports.nutproxy.proto.table import OP_DISCARD, OP_EXEC, OP_MULTI, OP_WATCH


def session_command(client, row, data, parser, flags):
    operation: cython.int = row.operation
    if operation == OP_MULTI:
        return multi(client, flags)
    if operation == OP_EXEC:
        return execute(client, row, flags)
    if operation == OP_DISCARD:
        return discard(client, flags)
    if operation == OP_WATCH:
        return watch(client, row, data, parser, flags)
    return unwatch(client, flags)
