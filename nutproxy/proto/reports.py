# nutproxy/proto/reports.py: merges the servers' reports about themselves
"""Merges the replies of several servers into one, in the form of a single server's reply.

    LATENCY LATEST    [event, time, latest, max]  ┐
                      [event, time, latest, max]  ┴─> the newest one, with the greatest max
    MEMORY STATS      name, number                ──> sums; means of ratios

Clients parse these replies, so the form must be that of Redis, in RESP2 and in RESP3. The commands
are rare, so the replies are decoded, merged as Python objects and encoded again. Each function
raises TypeError, ValueError or LookupError if a reply has an unexpected form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# Arguments: the replies as hiredis decodes them, the names of their servers, and the protocol
# version (2 or 3).
Report = Callable[[Sequence[Any], Sequence[str], int], bytes]


def encode(value: object, protover: int) -> bytes:
    if value is None:
        return b"_\r\n" if protover == 3 else b"$-1\r\n"
    if isinstance(value, bool):
        return b"#%c\r\n" % (b"t" if value else b"f")
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, float) and protover == 3:
        return b",%.17g\r\n" % value
    if isinstance(value, float):
        value = b"%.17g" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, Mapping):
        parts = [encode(part, protover) for pair in value.items() for part in pair]
        return b"".join(
            [b"%%%d\r\n" % len(value) if protover == 3 else b"*%d\r\n" % len(parts), *parts]
        )
    if isinstance(value, list):
        return b"*%d\r\n%b" % (len(value), b"".join(encode(part, protover) for part in value))
    raise TypeError(f"no reply: {value!r}")


def pairs(reply: Any) -> dict[bytes, Any]:
    """A map as a dict. In RESP2 it is a flat array."""
    if isinstance(reply, Mapping):
        return dict(reply)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def texts(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    text = b"\n".join(
        b"%b:\n%b" % (name.encode(), reply) for name, reply in zip(names, replies, strict=True)
    )
    if protover == 3:
        return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)
    return encode(text, protover)


def newest_first(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    """SLOWLOG GET: entries are [id, time, …]. Entries of the same second keep their order."""
    entries = [entry for reply in replies for entry in reply]
    return encode(sorted(entries, key=lambda entry: -entry[1]), protover)


def latest(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    """LATENCY LATEST: [event, time, latest, max], followed by sums in later versions."""
    events: dict[bytes, list[Any]] = {}
    for event, *figures in (entry for reply in replies for entry in reply):
        time, last, greatest, *sums = figures
        known = events.get(event)
        if known is not None:
            greatest = max(greatest, known[3])
            sums = [one + other for one, other in zip(sums, known[4:], strict=True)]
            time, last = max((time, last), (known[1], known[2]))
        events[event] = [event, time, last, greatest, *sums]
    return encode([*events.values()], protover)


def history(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    """LATENCY HISTORY: [time, latency], the greatest latency of each second, as in one server."""
    seconds: dict[int, int] = {}
    for time, latency in (entry for reply in replies for entry in reply):
        seconds[time] = max(latency, seconds.get(time, 0))
    return encode([[time, seconds[time]] for time in sorted(seconds)], protover)


def histograms(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    """LATENCY HISTOGRAM: for each command its calls, and a cumulative histogram of their times."""
    found: dict[bytes, list[dict[bytes, Any]]] = {}
    for reply in replies:
        for command, figures in pairs(reply).items():
            found.setdefault(command, []).append(pairs(figures))
    merged = {
        command: {
            b"calls": sum(each[b"calls"] for each in figures),
            b"histogram_usec": _added([pairs(each[b"histogram_usec"]) for each in figures]),
        }
        for command, figures in found.items()
    }
    return encode(merged, protover)


def _added(histograms: Sequence[Mapping[Any, int]]) -> dict[Any, int]:
    """The sum of cumulative histograms. A server leaves out a bound that added no calls; its count
    there is that of the bound below."""
    bounds = sorted({bound for each in histograms for bound in each})
    return {bound: sum(_up_to(bound, each) for each in histograms) for bound in bounds}


def _up_to(bound: int, histogram: Mapping[Any, int]) -> int:
    return max((count for at, count in histogram.items() if at <= bound), default=0)


# Ratios that servers send as integers.
MEANS = frozenset({b"keys.bytes-per-key"})


def figures(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    """MEMORY STATS: a map of names to numbers, with a nested map for each database."""
    return encode(_figures([pairs(reply) for reply in replies]), protover)


def _figures(servers: Sequence[Mapping[bytes, Any]]) -> dict[bytes, Any]:
    names = dict.fromkeys(name for server in servers for name in server)
    return {
        name: _figure(name, [server[name] for server in servers if name in server])
        for name in names
    }


def _figure(name: bytes, values: Sequence[Any]) -> object:
    if all(isinstance(value, list | dict) for value in values):
        return _figures([pairs(value) for value in values])
    if all(isinstance(value, int) for value in values):
        return sum(values) // len(values) if name in MEANS else sum(values)
    return sum(map(float, values)) / len(values)


def running(replies: Sequence[Any], names: Sequence[str], protover: int) -> bytes:
    """FUNCTION STATS: all servers have the same functions; only the running script differs."""
    found: Iterable[Any] = (reply for reply in replies if pairs(reply)[b"running_script"])
    return encode(next(iter(found), replies[0]), protover)


# The function of each response policy.
REPORTS: Mapping[str, Report] = {
    "texts": texts,
    "newest_first": newest_first,
    "latest": latest,
    "history": history,
    "histograms": histograms,
    "figures": figures,
    "running": running,
}
