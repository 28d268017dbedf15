# tests/integration/test_lua_replies.py: replies that scripts make
"""A script chooses the type and the text of its reply, so a client can make a real server send
almost anything. Every reply reaches the client unchanged, and the shared server connection stays
open.
"""

import random

import pytest

from tests.client import Client, request
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, connect

SCRIPTS = 400
# Parts of texts, which may be valid or invalid for a type.
PIECES = [
    *("abc", "txt:", "-", "+", ":", "1", "007", "1e400", "inf", "nan", "$3", "*2", " ", "ü", "t"),
    *(r"\r", r"\n", r"\r\n", r"\0", r"\255", r"\"", "OK", "ERR "),
]
NUMBERS = [
    "0",
    "-1",
    "1.5",
    "1e400",
    "-1e400",
    "0/0",
    "2^53",
    "2^63",
    "-2^63",
    "1e-400",
    "123456789",
]
LEAVES = ["nil", "false", "true", "{}", "redis.call('PING')", "redis.call('GET', KEYS[1])"]


def text(rng):
    body = "".join(rng.choices(PIECES, k=rng.randrange(4)))
    # A few are longer than a receive chunk.
    return (
        f'string.rep("{body}x", {rng.choice([1, 1, 1, 1, 9000])})'
        if rng.random() < 0.3
        else f'"{body}"'
    )


def leaf(rng):
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice(LEAVES)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return f"{{double={rng.choice([*NUMBERS, text(rng)])}}}"
    if kind == 3:
        return f"{{big_number={text(rng)}}}"
    if kind == 4:
        return f"{{verbatim_string={{string={text(rng)}, format={text(rng)}}}}}"
    if kind == 5:
        return f"redis.status_reply({text(rng)})"
    if kind == 6:
        return f"redis.error_reply({text(rng)})"
    if kind == 7:
        return f"{{{rng.choice(['ok', 'err'])}={text(rng)}}}"
    return text(rng)


def value(rng, depth=0):
    """A Lua expression. Maps and sets have one element, because Lua does not define an order."""
    kind = rng.randrange(8) if depth < 12 else 7
    if kind == 0:
        return f"{{map={{[{text(rng)}]={value(rng, depth + 1)}}}}}"
    if kind == 1:
        return f"{{set={{[{leaf(rng)} or 1]=true}}}}"
    if kind in (2, 3):
        return "{" + ", ".join(value(rng, depth + 1) for _ in range(rng.randrange(4))) + "}"
    return leaf(rng)


def script(rng):
    protocol = rng.choice(["", "", "redis.setresp(2) ", "redis.setresp(3) "])
    if rng.random() < 0.05:
        return f"{protocol}error({text(rng)})"
    return f"{protocol}return {value(rng)}"


def answers(port, protocol, scripts):
    """The bytes of each reply, up to the reply to an ECHO that follows."""
    replies = []
    with connect(port) as connection:
        connection.sendall(request("HELLO", protocol) + request("ECHO", "begin"))
        until(connection, b"$5\r\nbegin\r\n")
        for number, each in enumerate(scripts):
            mark = b"end of %d" % number
            connection.sendall(request("EVAL", each, 1, "k") + request("ECHO", mark))
            replies.append(until(connection, b"$%d\r\n%b\r\n" % (len(mark), mark)))
    return replies


def until(connection, end):
    received = bytearray()
    while not received.endswith(end):
        part = connection.recv(1 << 16)
        assert part, f"closed after {bytes(received[-200:])!r}"
        received += part
    return bytes(received.removesuffix(end))


@pytest.mark.parametrize("protocol", [2, 3])
def test_any_reply_of_a_script_is_passed_on_and_ends_no_connection(protocol):
    rng = random.Random(protocol)
    scripts = [
        *("return {big_number='abc'}", "return {double='x'}", "return {big_number=''}"),
        "return {verbatim_string={string='a', format=''}}",
        "return " + "{" * 90 + "}" * 90,
        *(script(rng) for _ in range(SCRIPTS)),
    ]
    with (
        RedisServer() as server,
        NutproxyServer(pool("alpha", [server])) as proxy,
        Client(proxy.port) as neighbour,
    ):
        neighbour("HELLO", protocol)
        assert neighbour("SET", "k", "v") == b"OK"
        # An error names the script by the hash of its text, so both sides must get the same texts.
        direct = answers(server.port, protocol, scripts)
        for each, expected, found in zip(
            scripts, direct, answers(proxy.port, protocol, scripts), strict=True
        ):
            assert found == expected, each
        assert neighbour("GET", "k") == b"v"
        stats = proxy.stats()["alpha"]["s1"]
        for name in ("server_eof", "server_err", "server_protocol_errors", "server_timedout"):
            assert stats[name] == 0, name
        assert "malformed" not in proxy.log()
