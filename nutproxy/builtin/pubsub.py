# nutproxy/builtin/pubsub.py: PUBSUB and its subcommands
"""What the servers say about subscriptions, with those of nutproxy's clients. A server counts
nutproxy itself as one client; here the clients behind it count instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from nutproxy.builtin.interface import Client, Query
from nutproxy.builtin.resp import array, bulk, integer
from nutproxy.proto import errors

# The kinds of subscriptions, by the numbers of back/subscriber.pxd.
CHANNEL, PATTERN, SHARD = range(3)


def _kind(argv: list[bytes]) -> int:
    return SHARD if argv[1].lower().startswith(b"shard") else CHANNEL


def _ask(client: Client, argv: list[bytes], finish: Callable[[list[Any]], bytes]) -> Query:
    """Ask all servers. `finish` gets a (server, reply) for each one that has replied."""
    members = client.pool.members()

    def merge(replies: list[object]) -> bytes:
        pairs = list(zip(members, replies, strict=True))
        failed = [reply for _, reply in pairs if isinstance(reply, hiredis.ReplyError)]
        if len(failed) == len(pairs) > 0:
            return errors.passed_on(failed[0])
        return finish([pair for pair in pairs if not isinstance(pair[1], hiredis.ReplyError)])

    return Query("all", argv, merge)


def channels(client: Client, argv: list[bytes]) -> bytes | Query:
    """PUBSUB CHANNELS and SHARDCHANNELS [pattern]."""
    subscriptions = client.frontend.subscriptions
    kind = _kind(argv)
    if len(argv) > 3:
        return errors.error("unknown_subcommand_or_arity", errors.echo(argv[1]))

    def finish(pairs: list[Any]) -> bytes:
        names = {
            name: None
            for server, reply in pairs
            for name in reply
            if subscriptions.receivers(kind, name) or not subscriptions.counted(kind, name, server)
        }
        return array([bulk(name) for name in names])

    return _ask(client, argv, finish)


def numsub(client: Client, argv: list[bytes]) -> bytes | Query:
    """PUBSUB NUMSUB and SHARDNUMSUB [channel …]."""
    subscriptions = client.frontend.subscriptions
    kind = _kind(argv)

    def finish(pairs: list[Any]) -> bytes:
        found = []
        for place, name in enumerate(argv[2:]):
            count = subscriptions.receivers(kind, name)
            for server, reply in pairs:
                others = reply[2 * place + 1] - subscriptions.counted(kind, name, server)
                count += max(others, 0)
            found += [bulk(name), integer(count)]
        return array(found)

    return _ask(client, argv, finish)


def numpat(client: Client, argv: list[bytes]) -> Query:
    subscriptions = client.frontend.subscriptions

    def finish(pairs: list[Any]) -> bytes:
        names = subscriptions.names(PATTERN)
        count = sum(subscriptions.receivers(PATTERN, name) > 0 for name in names)
        for server, reply in pairs:
            count += max(reply - subscriptions.patterns_of(server), 0)
        return integer(count)

    return _ask(client, argv, finish)


HELP = """\
PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
CHANNELS [<pattern>]
    Return the currently active channels matching a <pattern> (default: '*').
NUMPAT
    Return number of subscriptions to patterns.
NUMSUB [<channel> ...]
    Return the number of subscribers for the specified channels, excluding
    pattern subscriptions(default: no channels).
SHARDCHANNELS [<pattern>]
    Return the currently active shard level channels matching a <pattern> (default: '*').
SHARDNUMSUB [<shardchannel> ...]
    Return the number of subscribers for the specified shard level channel(s)
HELP
    Prints this help."""


def help_(client: Client, argv: list[bytes]) -> bytes:
    return array([b"+%b\r\n" % line.encode() for line in HELP.splitlines()])
