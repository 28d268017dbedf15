# nutproxy/builtin/server.py: TIME, LOLWUT, ROLE, CLUSTER, SCRIPT DEBUG
"""Commands about the server. The proxy replies as if it were a single Redis server."""

from __future__ import annotations

from time import time_ns

from nutproxy.builtin.interface import Client
from nutproxy.builtin.resp import OK, array, bulk, integer, verbatim
from nutproxy.proto import errors
from nutproxy.proto.commands import State


def time(client: Client, argv: list[bytes]) -> bytes:
    seconds, nanoseconds = divmod(time_ns(), 1_000_000_000)
    return array([bulk(b"%d" % seconds), bulk(b"%d" % (nanoseconds // 1000))])


LOLWUT = """\
         .-''''''-.
      .o'          'o.
     /     one ring,   \\
    o    many servers   o
     \\                 /
      'o.           .o'
         '-......o-'

"""


def lolwut(client: Client, argv: list[bytes]) -> bytes:
    return verbatim(f"{LOLWUT}nutproxy ver. {client.frontend.process.version}\n", client.protover)


def role(client: Client, argv: list[bytes]) -> bytes:
    """A primary without replicas. Replicas of the servers are not visible to clients."""
    return array([bulk(b"master"), integer(0), array([])])


def no_cluster(client: Client, argv: list[bytes]) -> bytes:
    return errors.error("no_cluster")


def script_debug(client: Client, argv: list[bytes]) -> bytes:
    mode = argv[2].lower()
    if mode in (b"yes", b"sync"):
        error = errors.not_supported("script debug", mode.decode())
        client.enter(State.DEBUGGING, b"SCRIPT DEBUG " + mode.upper(), error)
        return error
    if mode != b"no":
        return errors.error("script_debug")
    client.leave(State.DEBUGGING)
    return OK
