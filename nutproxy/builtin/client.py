# nutproxy/builtin/client.py: CLIENT and its subcommands
"""The attributes of a client, and the list of the pool's clients."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from nutproxy.builtin.databases import visible
from nutproxy.builtin.interface import Client, Frontend, Question, ReplyMode, Steps, Unblock
from nutproxy.builtin.resp import (
    OK,
    array,
    bulk,
    integer,
    null,
    parse_integer,
    printable,
    switch,
    verbatim,
)
from nutproxy.proto import errors

Stepwise = Generator[bytes | Question, list[bytes] | None, None]
# An answer to another worker, made in steps.
Answering = Generator[None, None, bytes]


def container(client: Client, argv: list[bytes]) -> bytes:
    """CLIENT without a subcommand, or with one that is not in the table."""
    return errors.unknown_subcommand(argv) if len(argv) > 1 else errors.wrong_arity("client")


# Maximum length of a name. CLIENT LIST contains the names of all clients.
NAME_MAX = 512


def name_error(name: bytes) -> bytes:
    """The error for an invalid client name, or b"" for a valid one."""
    if len(name) > NAME_MAX:
        return errors.error("client_name_length", b"%d" % NAME_MAX)
    return b"" if printable(name) else errors.error("client_name")


def setname(client: Client, argv: list[bytes]) -> bytes:
    refusal = name_error(argv[2])
    if not refusal:
        client.name = argv[2].decode()
    return refusal or OK


def getname(client: Client, argv: list[bytes]) -> bytes:
    return bulk(client.name.encode()) if client.name else null(client.protover)


def setinfo(client: Client, argv: list[bytes]) -> bytes:
    attribute = argv[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        return errors.error("unrecognized_option", errors.echo(argv[2]))
    if len(argv[3]) > NAME_MAX:
        return errors.error("client_name_length", b"%d" % NAME_MAX)
    if not printable(argv[3]):
        return errors.error("client_attribute", attribute)
    if attribute == b"lib-name":
        client.lib_name = argv[3].decode()
    else:
        client.lib_ver = argv[3].decode()
    return OK


def id_(client: Client, argv: list[bytes]) -> bytes:
    return integer(client.id)


def info(client: Client, argv: list[bytes]) -> bytes:
    return verbatim(_info_line(client, monotonic()), client.protover)


# Lines of CLIENT LIST that are made in one step: 1 to 2 ms.
LINES_PER_STEP = 100
CLIENT_TYPES = frozenset({b"normal", b"master", b"replica", b"slave", b"pubsub"})


def list_(client: Client, argv: list[bytes]) -> bytes | Steps:
    """CLIENT LIST [TYPE type | ID id …]. A client has the type pubsub if it has subscriptions, else
    normal."""
    found = _listed(client.frontend, argv)
    if isinstance(found, bytes):
        return found
    if client.frontend.alone and len(found) <= LINES_PER_STEP:
        return verbatim("".join(_texts(found)), client.protover)
    return Steps(_list(client, found, argv))


def _listed(frontend: Frontend, argv: list[bytes]) -> Sequence[Client] | bytes:
    """The clients of this worker that CLIENT LIST shows, or an error."""
    clients = frontend.clients
    found: Sequence[Client] = ()
    option = argv[2].lower() if len(argv) > 2 else b""
    if option == b"type" and len(argv) == 4:
        kind = argv[3].lower()
        if kind not in CLIENT_TYPES:
            return errors.error("client_type", errors.echo(argv[3]))
        if kind in (b"normal", b"pubsub"):
            found = [
                each for each in clients.values() if any(each.subscribed) == (kind == b"pubsub")
            ]
    elif option == b"id" and len(argv) > 3:
        ids = [parse_integer(word) for word in argv[3:]]
        if None in ids:
            return errors.error("client_id")
        found = [each for each in map(clients.get, ids) if each is not None]
    elif len(argv) > 2:
        return errors.error("syntax")
    else:
        found = [*clients.values()]
    return found


def _texts(found: Sequence[Client]) -> Iterator[str]:
    """The lines of these clients in portions. Clients that have disconnected in the meantime are
    left out."""
    now = monotonic()
    for start in range(0, len(found), LINES_PER_STEP):
        portion = found[start : start + LINES_PER_STEP]
        yield "".join([_info_line(each, now) for each in portion if each.fd >= 0])


def _list(client: Client, found: Sequence[Client], argv: list[bytes]) -> Stepwise:
    texts: list[str] = []
    for text in _texts(found):
        if texts:
            yield b""
        texts.append(text)
    if not client.frontend.alone:
        for answer in (yield Question("list", argv)) or ():
            texts.append(answer.decode())
    yield verbatim("".join(texts), client.protover)


def answer_list(frontend: Frontend, argv: list[bytes]) -> Answering:
    """For a client of another worker."""
    found = _listed(frontend, argv)
    texts = []
    for text in () if isinstance(found, bytes) else _texts(found):
        texts.append(text)
        yield
    return "".join(texts).encode()


def _info_line(client: Client, now: float) -> str:
    queued = client.queued_commands
    sub, psub, ssub = client.subscribed
    flags = (
        ("P" if sub or psub or ssub else "")
        + ("x" if queued >= 0 else "")
        + ("b" if client.waits or client.delayed else "")
        + _tracking_flags(client)
        + ("U" if client.peer.startswith("/") else "")
        + ("c" if client.closing else "")
        + ("e" if client.no_evict else "")
        + ("T" if client.no_touch else "")
    )
    fields = {
        "id": client.id,
        "addr": client.peer,
        "laddr": client.local_addr,
        "fd": client.fd,
        "name": client.name,
        "age": int(now - client.created),
        "idle": int(now - client.last_interaction),
        "flags": flags or "N",
        "db": visible(client),
        "sub": sub,
        "psub": psub,
        "ssub": ssub,
        "multi": queued,
        "qbuf": 0,
        "qbuf-free": 0,
        "argv-mem": 0,
        "multi-mem": 0,
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": 0,
        "omem": client.omem,
        "tot-mem": client.omem,
        "events": "r",
        "cmd": client.last_command.replace(" ", "|") or "NULL",
        "user": "default",
        "redir": -1 if client.tracked is None else client.tracked.redirect,
        "resp": client.protover,
        "lib-name": client.lib_name,
        "lib-ver": client.lib_ver,
        "tot-net-in": client.tot_net_in,
        "tot-net-out": client.tot_net_out,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()) + "\n"


def _tracking_flags(client: Client) -> str:
    tracked = client.tracked
    if tracked is None:
        return ""
    return "t" + ("R" if tracked.broken else "") + ("B" if tracked.bcast else "")


def no_evict(client: Client, argv: list[bytes]) -> bytes:
    on = switch(argv[2])
    if on is None:
        return errors.error("syntax")
    client.no_evict = on
    return OK


def no_touch(client: Client, argv: list[bytes]) -> bytes:
    on = switch(argv[2])
    if on is None:
        return errors.error("syntax")
    client.no_touch = on
    return OK


REPLY_MODES = {b"on": ReplyMode.ON, b"off": ReplyMode.OFF, b"skip": ReplyMode.SKIP}


def reply(client: Client, argv: list[bytes]) -> bytes:
    mode = REPLY_MODES.get(argv[2].lower())
    if mode is None:
        return errors.error("syntax")
    if mode == ReplyMode.ON:
        client.reply_mode = mode
        return OK
    if client.reply_mode != ReplyMode.OFF:
        client.reply_mode = mode
    return b""


def capa(client: Client, argv: list[bytes]) -> bytes:
    """Always OK. Servers send REDIRECT to a client with the capability; nutproxy never does."""
    return OK


def import_source(client: Client, argv: list[bytes]) -> bytes:
    """The text of a Valkey that is not in import mode."""
    on = switch(argv[2])
    if on is None:
        return errors.error("syntax")
    return errors.error("import_mode") if on else OK


def pause(client: Client, argv: list[bytes]) -> bytes | Steps:
    """CLIENT PAUSE milliseconds [WRITE|ALL]"""
    if len(argv) > 4:
        return errors.error("client_arguments", argv[1].upper())
    mode = argv[3].lower() if len(argv) == 4 else b"all"
    if mode not in (b"write", b"all"):
        return errors.error("pause_mode")
    timeout = parse_integer(argv[2])
    if timeout is None:
        return errors.error("timeout_integer")
    if timeout < 0:
        return errors.error("timeout_negative")
    client.frontend.pause(timeout, mode == b"all")
    return _everywhere(client, Question("pause", [b"%d" % timeout, mode]))


def unpause(client: Client, argv: list[bytes]) -> bytes | Steps:
    client.frontend.unpause()
    return _everywhere(client, Question("unpause", []))


def _everywhere(client: Client, question: Question) -> bytes | Steps:
    """OK, when the other workers have done the same."""

    def steps() -> Stepwise:
        yield question
        yield OK

    return OK if client.frontend.alone else Steps(steps())


def answer_pause(frontend: Frontend, words: list[bytes]) -> Answering:
    frontend.pause(int(words[0]), words[1] == b"all")
    return b""
    yield


def answer_unpause(frontend: Frontend, words: list[bytes]) -> Answering:
    frontend.unpause()
    return b""
    yield


def unblock(client: Client, argv: list[bytes]) -> bytes | Unblock:
    """CLIENT UNBLOCK id [TIMEOUT|ERROR]"""
    if len(argv) > 4:
        return errors.error("client_arguments", argv[1].upper())
    reason = argv[3].lower() if len(argv) == 4 else b"timeout"
    if reason not in (b"timeout", b"error"):
        return errors.error("unblock_reason")
    number = parse_integer(argv[2])
    if number is None:
        return errors.error("not_integer")
    target = client.frontend.clients.get(number)
    if target is None or not target.waits:
        return integer(0)
    return Unblock(target, reason == b"error")


# Clients that CLIENT KILL looks at in one step: two milliseconds if all of them are closed.
KILLED_PER_STEP = 64
USERS = frozenset({b"default"})


@dataclass
class Victims:
    """Whom CLIENT KILL closes: the clients that meet all conditions that are set."""

    number: int | None = None
    addr: str | None = None
    laddr: str | None = None
    kind: bytes | None = None
    age: int | None = None
    skip_me: bool = True

    def has(self, client: Client, now: float) -> bool:
        return (
            self.number in (None, client.id)
            and self.addr in (None, client.peer)
            and self.laddr in (None, client.local_addr)
            and self.kind in (None, _kind(client))
            and (self.age is None or int(now - client.created) >= self.age)
        )


def _kind(client: Client) -> bytes:
    return b"pubsub" if any(client.subscribed) else b"normal"


def kill(client: Client, argv: list[bytes]) -> bytes | Steps:
    """CLIENT KILL address, or with options and their values."""
    victims = _victims(argv)
    if isinstance(victims, bytes):
        return victims
    old = len(argv) == 3
    if client.frontend.alone and len(client.frontend.clients) <= KILLED_PER_STEP:
        return _killed(sum(_kill(client.frontend, victims, client)), old)
    return Steps(_kill_all(client, victims, argv))


def _victims(argv: list[bytes]) -> Victims | bytes:
    """Whom CLIENT KILL with these words closes, or an error."""
    if len(argv) == 3:
        return Victims(addr=argv[2].decode(errors="replace"), skip_me=False)
    victims = Victims()
    for at in range(2, len(argv), 2):
        if refusal := _condition(victims, argv[at : at + 2]):
            return refusal
    return victims


def _condition(victims: Victims, words: list[bytes]) -> bytes:
    """Set a condition: an option and its value. Returns an error, or b""."""
    option, value = words[0].lower(), words[-1]
    if len(words) == 1:
        return errors.error("syntax")
    if option == b"id":
        victims.number = parse_integer(value)
        if victims.number is None or victims.number < 1:
            return errors.error("kill_id")
    elif option == b"maxage":
        victims.age = parse_integer(value)
        if victims.age is None:
            return errors.error("kill_age_integer")
        if victims.age < 1:
            return errors.error("kill_age")
    elif option == b"type":
        victims.kind = {b"slave": b"replica"}.get(value.lower(), value.lower())
        if victims.kind not in CLIENT_TYPES:
            return errors.error("client_type", errors.echo(value))
    elif option == b"addr":
        victims.addr = value.decode(errors="replace")
    elif option == b"laddr":
        victims.laddr = value.decode(errors="replace")
    elif option == b"user":
        if value not in USERS:
            return errors.error("no_such_user", errors.echo(value))
    elif option == b"skipme" and value.lower() in (b"yes", b"no"):
        victims.skip_me = value.lower() == b"yes"
    else:
        return errors.error("syntax")
    return b""


def _kill(frontend: Frontend, victims: Victims, client: Client | None) -> Iterator[int]:
    """Close clients of this worker in portions. Yields how many it were. `client` has sent the
    command."""
    now = monotonic()
    every = [*frontend.clients.values()]
    for start in range(0, len(every), KILLED_PER_STEP):
        killed = 0
        for each in every[start : start + KILLED_PER_STEP]:
            if each.fd < 0 or not victims.has(each, now) or (each is client and victims.skip_me):
                continue
            killed += 1
            if each is client:
                # After the reply.
                client.closing = True
            else:
                each.kill()
        yield killed


def _killed(count: int, old: bool) -> bytes:
    """The reply. `old`: the form with an address alone."""
    if old:
        return OK if count else errors.error("no_such_client")
    return integer(count)


def _kill_all(client: Client, victims: Victims, argv: list[bytes]) -> Stepwise:
    killed = 0
    for count in _kill(client.frontend, victims, client):
        killed += count
        yield b""
    if not client.frontend.alone:
        killed += sum(map(int, (yield Question("kill", argv)) or ()))
    yield _killed(killed, len(argv) == 3)


def answer_kill(frontend: Frontend, argv: list[bytes]) -> Answering:
    victims = _victims(argv)
    killed = 0
    for count in () if isinstance(victims, bytes) else _kill(frontend, victims, None):
        killed += count
        yield
    return b"%d" % killed


CLIENT_HELP = """\
CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:
CACHING (YES|NO)
    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.
CAPA <option> [options...]
    Do nothing: nutproxy uses none of a client's capabilities.
GETREDIR
    Return the client ID we are redirecting to when tracking is enabled.
GETNAME
    Return the name of the current connection.
ID
    Return the ID of the current connection.
IMPORT-SOURCE (ON|OFF)
    Return an error for ON: the pool is never in import mode.
INFO
    Return information about the current connection.
KILL <ip:port> | <option> <value> [<option> <value> ...]
    Close clients of this pool. Options: ID, TYPE, USER, ADDR, LADDR, SKIPME, MAXAGE.
LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB) | ID <id> [<id> ...]]
    Return information about the clients of this pool.
NO-EVICT (ON|OFF)
    Set a flag that CLIENT LIST shows. nutproxy never evicts clients.
NO-TOUCH (ON|OFF)
    Set a flag that CLIENT LIST shows. It is not sent to the servers.
PAUSE <timeout> [WRITE|ALL]
    Delay the requests of all clients of this pool for <timeout> milliseconds.
REPLY (ON|OFF|SKIP)
    Control the replies sent to the current connection.
SETINFO (LIB-NAME|LIB-VER) <value>
    Set the name or the version of the client library.
SETNAME <name>
    Assign a name to the current connection.
TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]
         [OPTIN] [OPTOUT] [NOLOOP]
    Control server assisted client side caching.
TRACKINGINFO
    Report tracking status for the current connection.
UNBLOCK <id> [TIMEOUT|ERROR]
    Unblock a client of this pool that waits in a blocking command.
UNPAUSE
    End CLIENT PAUSE.
HELP
    Print this help."""


def help_(client: Client, argv: list[bytes]) -> bytes:
    return array([b"+%b\r\n" % line.encode() for line in CLIENT_HELP.splitlines()])
