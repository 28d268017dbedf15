# nutproxy/config/values.py: the forms of a value
"""Parses the text of a value.

Every parser takes the text as written in the file and returns the value. For bad text it raises
ValueError with a message that quotes the value and says what is accepted, or Unfit if what is
accepted depends on the key. The loader adds the key, the pool and the file to the message.

    listen    host:port | IPv6:port | [IPv6]:port | /path [octal permissions]
    servers   host:port:weight [name] | [IPv6]:port:weight [name] | /path:weight [name]
    size      digits with an optional k, kb, m, mb, g or gb, as in redis.conf
    coalesce  auto | off | digits us

Text is split from its end, as in twemproxy, so an IPv6 address needs no brackets. The name under
which a server is hashed decides where existing data is found. It must be exactly the name that
twemproxy uses.
"""

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nutproxy.plain import MAX_INT, Address, ServerConfig
from nutproxy.proto import memcache_commands

MAX_PORT = 65535
MAX_UNIX_PATH = 107  # bytes; sockaddr_un holds 108 with the terminator
KETAMA_DEFAULT_PORT = 11211
# The limits of Linux (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT).
MAX_KEEPALIVE_SECONDS = 32767
MAX_KEEPALIVE_COUNT = 127

LISTEN_FORMS = "host:port, [IPv6]:port or /path [permissions]"
SERVER_FORMS = "host:port:weight [name], [IPv6]:port:weight [name] or /path:weight [name]"

# memcached's commands, classic and meta.
MEMCACHE_COMMANDS = frozenset(memcache_commands.COMMANDS)

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1 << 10,
    "m": 1000**2,
    "mb": 1 << 20,
    "g": 1000**3,
    "gb": 1 << 30,
}
# Microseconds. More than a millisecond would be longer than most servers take for a reply.
COALESCE_AUTO, COALESCE_MIN, COALESCE_MAX = 100, 20, 1000
COALESCE_WORDS = {"auto": COALESCE_AUTO, "off": 0}
# A worker gets the inboxes of all in one message.
WORKERS_MAX = 64
_MICROSECONDS = re.compile(r"([0-9]+) *(?:us|\u00b5s|\u03bcs)", re.ASCII)

_SIZE = re.compile(r"([0-9]+)([a-z]*)", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_-]{1,15}", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_.])?", re.ASCII)
_DOTTED_QUAD = re.compile(r"[0-9]+(\.[0-9]+){3}", re.ASCII)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.ASCII | re.DOTALL)
_WITH_LONG_NAME = re.compile(r"\S+:[0-9]+\s+(\S+\s.*)")
_REFERENCE = re.compile(r"(\$?)\$\{([^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})


class Unfit(ValueError):
    """The value does not fit its key. The caller adds what the key accepts."""


class Text(str):
    """A value of the file with every `${NAME}` replaced, and its line number.

    `fault` says why no key can use the value, or is None.
    """

    line: int
    fault: str | None

    def __new__(cls, written: str, line: int) -> "Text":
        text, fault = expand(written)
        self = super().__new__(cls, text)
        self.line = line
        self.fault = fault or _not_text(text)
        return self


def expand(written: str) -> tuple[str, str | None]:
    """Replace every `${NAME}` by that environment variable and every `$${` by `${`. Returns the
    text and None, or the unchanged text and an error if a reference cannot be replaced."""
    faults = []

    def replacement(found: re.Match[str]) -> str:
        escaped, name = found.groups()
        if escaped:
            return found[0][1:]
        if not _VARIABLE.fullmatch(name):
            faults.append(
                f"'{found[0]}' does not name an environment variable, accepted: ${{NAME}};"
                f" write $${{{name}}} for the literal text"
            )
        elif name not in os.environ:
            faults.append(
                f"environment variable '{name}' is not set; set it, or write $${{{name}}} for the"
                " literal text"
            )
        return os.environ.get(name, "")

    text = _REFERENCE.sub(replacement, written)
    return (written, faults[0]) if faults else (text, None)


def _not_text(text: str) -> str | None:
    """Why `text` cannot be encoded as UTF-8, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return f"contains U+{code:04X}, half of a surrogate pair, accepted: UTF-8 text"
    return None


class Items(list[Any]):
    """A list of the file, and the number of its first line."""

    def __init__(self, items: Iterable[Any], line: int) -> None:
        super().__init__(items)
        self.line = line


class Fields(dict[str, Any]):
    """A mapping of the file where a value should be, and the number of its first line."""

    def __init__(self, fields: dict[str, Any], line: int) -> None:
        super().__init__(fields)
        self.line = line


class Listen(NamedTuple):
    """The value of `listen`: the address and the permissions of its unix socket, if any are set."""

    address: Address
    permissions: int | None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message about an unknown `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def scalar(value: Any) -> str:
    """The text of a single value; lists and mappings are refused."""
    if isinstance(value, Text) and value.fault:
        raise ValueError(value.fault)
    if isinstance(value, list):
        raise Unfit("is a list")
    if isinstance(value, dict):
        raise Unfit("is a mapping")
    if value == "":
        raise Unfit("has no value")
    return str(value)


def boolean(value: Any) -> bool:
    text = scalar(value)
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise Unfit(f"'{text}' is not a boolean")


def integer(value: Any) -> int:
    text = scalar(value)
    # int() refuses very long numbers with an error of its own. No key accepts this many digits.
    if not _INTEGER.fullmatch(text) or len(text) > 40:
        raise Unfit(f"'{text}' is not a whole number")
    return int(text)


def size(value: Any) -> int:
    """Bytes, with the suffixes of redis.conf, case-insensitive: 1k is 1000, 1kb is 1024."""
    text = scalar(value)
    match = _SIZE.fullmatch(text.lower())
    if match is None or match[2] not in _SIZE_UNITS or len(match[1]) > 40:
        raise ValueError(
            f"'{text}' is not a size, accepted: bytes with an optional k, kb, m, mb, g or gb"
        )
    return int(match[1]) * _SIZE_UNITS[match[2]]


def coalesce(value: Any) -> int:
    """Microseconds: 0 for `off`, COALESCE_AUTO for `auto`, or the number in front of `us`."""
    text = scalar(value).lower()
    if text in COALESCE_WORDS:
        return COALESCE_WORDS[text]
    match = _MICROSECONDS.fullmatch(text)
    if match is None:
        raise Unfit(f"'{text}' is not a time")
    number = int(match[1]) if len(match[1]) <= 10 else MAX_INT
    if not COALESCE_MIN <= number <= COALESCE_MAX:
        raise Unfit(f"{text} is out of range")
    return number


def workers(value: Any) -> int:
    """A number of workers: 0 for `auto`."""
    text = scalar(value)
    if text.lower() == "auto":
        return 0
    number = integer(value)
    if not 1 <= number <= WORKERS_MAX:
        raise Unfit(f"{number} is out of range")
    return number


def milliseconds(value: Any) -> int | None:
    """A time limit. -1 and 0 both mean no limit, as in twemproxy."""
    number = integer(value)
    if number < -1 or number > MAX_INT:
        raise Unfit(f"{number} is out of range")
    return number if number > 0 else None


def secret(value: Any) -> bytes:
    return scalar(value).encode()


def hash_tag(value: Any) -> bytes:
    if isinstance(value, dict) and not value:
        raise ValueError('braces must be quoted: "{}"')
    if isinstance(value, list) and not value:
        raise ValueError('brackets must be quoted: "[]"')
    tag = scalar(value).encode()
    if len(tag) != 2:
        raise Unfit(f"'{tag.decode()}' is not a pair of characters")
    return tag


@lru_cache(maxsize=1)
def redis_commands() -> dict[str, Any]:
    """The facts about all Redis commands, in lower case, with subcommands as "config set"."""
    table = Path(__file__).parent.parent / "proto" / "redis_commands.json"
    rows: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return rows


def word(value: Any) -> str:
    """A name of letters, digits, dashes and underscores. The system may know it or not."""
    text = scalar(value)
    if not _WORD.fullmatch(text):
        raise Unfit(f"'{text}' is not a name")
    return text


def command_name(value: Any) -> str:
    """The name of a command in lower case; `config|set` and `config set` are the same.

    Whether the command exists depends on the protocol of the pool, so it is not checked here.
    """
    return " ".join(scalar(value).lower().replace("|", " ").split())


def _port(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 40:
        raise ValueError(f"'{text}' is not a port, accepted: 1 to {MAX_PORT}")
    port = int(text)
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"port {port} is out of range, accepted: 1 to {MAX_PORT}")
    return port


def _host(text: str) -> str:
    """A host without brackets. A name is only checked for characters that no resolver accepts."""
    bracketed = text.startswith("[") and text.endswith("]")
    host = text[1:-1] if bracketed else text
    if bracketed or ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"'{host}' is not an IPv6 address") from None
        return host
    if _DOTTED_QUAD.fullmatch(host) and any(int(part[:40]) > 255 for part in host.split(".")):
        raise ValueError(f"'{host}' is not an IPv4 address")
    if not _HOST.fullmatch(host):
        raise ValueError(f"'{host}' is not a host name, an IPv4 or an IPv6 address")
    return host


def host(value: Any) -> str:
    """A host name or an address, of either family."""
    return _host(scalar(value))


def path(value: Any) -> str:
    """The name of a file."""
    text = scalar(value)
    if "\0" in text:
        raise Unfit(f"'{text}' contains a NUL byte")
    return text


def _unix_path(path: str) -> Address:
    if "\0" in path:
        raise ValueError(f"the path '{path}' contains a NUL byte")
    length = len(path.encode())
    if length > MAX_UNIX_PATH:
        raise ValueError(
            f"the path is {length} bytes long, the maximum for a unix socket is {MAX_UNIX_PATH}"
        )
    return Address("unix", path=path)


def _permissions(text: str) -> int | None:
    """Octal permissions. 0 means that the umask decides, as in twemproxy."""
    if not re.fullmatch(r"[0-7]{1,40}", text) or int(text, 8) > 0o777:
        raise ValueError(f"'{text}' is not a set of permissions, accepted: octal 0 to 0777")
    return int(text, 8) or None


def listen(value: Any) -> Listen:
    text = scalar(value)
    if text.startswith("/"):
        path, *permissions = text.rsplit(maxsplit=1)
        return Listen(_unix_path(path), _permissions(permissions[0]) if permissions else None)
    if url := _URL.fullmatch(text):
        raise ValueError(_of_url("listen", url, LISTEN_FORMS))
    host_text, colon, port = text.rpartition(":")
    if not colon or not host_text:
        hint = f"; the host is missing, write '0.0.0.0:{port}'" if port.isdecimal() else ""
        raise ValueError(f"'{text}' is not an address to listen on, accepted: {LISTEN_FORMS}{hint}")
    return Listen(Address("tcp", host=_host(host_text), port=_port(port)), None)


def _weight(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 40:
        raise ValueError(f"'{text}' is not a weight, accepted: 1 to {MAX_INT}")
    weight = int(text)
    if not 1 <= weight <= MAX_INT:
        raise ValueError(f"weight {weight} is out of range, accepted: 1 to {MAX_INT}")
    return weight


def _of_url(kind: str, url: re.Match[str], forms: str) -> str:
    """The message for a URL, with the text to write instead. A URL may contain a password, which
    must not be logged, so only its scheme and its address are quoted."""
    scheme, rest = url.groups()
    hints = []
    if scheme.startswith("unix") or rest.startswith("/"):
        path = f"/{rest.partition('?')[0].rpartition('@')[2].lstrip('/')}"
        plain = path if kind == "listen" else f"{path}:1"
        if "@" in rest:
            hints.append("put its password in redis_auth")
    else:
        authority, _, database = rest.partition("?")[0].partition("/")
        credentials, _, place = authority.rpartition("@")
        host, colon, port = place.rpartition(":")
        if not (colon and port.isdecimal()):
            host, port = place, "11211" if scheme.startswith("memcache") else "6379"
        plain = f"{host}:{port}" if kind == "listen" else f"{host}:{port}:1"
        if credentials:
            hints.append("put its password in redis_auth")
        if database.strip("/").isdecimal() and int(database.strip("/")[:9]):
            hints.append(f"put its database in redis_db: {database.strip('/')[:9]}")
    if scheme in ("rediss", "https", "tls", "ssl"):
        hints.append("nutproxy does not speak TLS")
    more = "".join(f"; {hint}" for hint in hints)
    return f"{scheme}://… is a URL, write '{plain}'; accepted: {forms}{more}"


def _not_a_server(text: str) -> ValueError:
    """The error for an entry that is not a server, with a hint on what is missing."""
    if url := _URL.fullmatch(text):
        return ValueError(_of_url("server", url, SERVER_FORMS))
    message = f"'{text}' is not a server, accepted: {SERVER_FORMS}"
    place, *names = text.split()
    name = f" {names[0]}" if len(names) == 1 else ""
    without_weight = re.fullmatch(r"/[^:]+|[^:/]+:[0-9]+", place)
    if without_weight and len(names) < 2:
        message += f"; the weight is missing, write '{place}:1{name}'"
    elif not names and _HOST.fullmatch(place):
        message += f"; the port and the weight are missing, write '{place}:6379:1'"
    return ValueError(message)


def server(value: Any) -> ServerConfig:
    """One entry of `servers`. An entry without a name is hashed as in twemproxy.

    The hashed text is host:port with the port as written; on port 11211 the host alone, as in
    libmemcached; for a unix socket the path followed by a colon. Brackets around an IPv6 address
    are not part of the name, so adding them moves no keys.
    """
    text = scalar(value)
    line = value.line if isinstance(value, Text) else 0
    if not text.startswith("/") and (named := _WITH_LONG_NAME.fullmatch(text.rstrip())):
        name = "-".join(named[1].split())
        raise ValueError(
            f"the name of a server must not contain spaces: '{named[1]}', write '{name}'"
        )
    target, *names = text.rsplit(maxsplit=1)
    address_text, colon, weight_text = target.rpartition(":")
    if not colon or not address_text or _URL.fullmatch(text):
        raise _not_a_server(text)
    if address_text.startswith("/"):
        address = _unix_path(address_text)
        hashed = f"{address_text}:"
    else:
        host_text, colon, port_text = address_text.rpartition(":")
        if not colon or not host_text:
            raise _not_a_server(text)
        address = Address("tcp", host=_host(host_text), port=_port(port_text))
        default_port = address.port == KETAMA_DEFAULT_PORT
        hashed = address.host if default_port else f"{address.host}:{port_text}"
    name = names[0] if names else hashed
    if not name.isprintable():
        # The name is part of error replies and statistics, in which a line feed would start a line.
        raise ValueError(f"the name of server '{name}' must not contain control characters")
    return ServerConfig(
        name=name,
        named=bool(names),
        address=address,
        weight=_weight(weight_text),
        line=line,
    )
