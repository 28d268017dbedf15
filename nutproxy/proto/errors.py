# nutproxy/proto/errors.py: nutproxy's own error replies about Redis commands
"""Every error text about a command, with a help text for operators.

A builder returns the complete reply, `-CODE text\\r\\n`, ready for a client's queue. If Redis has a
text for the situation, it is used exactly, because client libraries recognise it: some fall back to
an older command after "unknown command". Bytes of the request are echoed as Redis does: cut at 128
bytes and at the first NUL, with line ends replaced by spaces, so an error is always one line.

Errors about servers (refused, timed out, reset) name a server and a pool. They are made where the
server is known, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ECHOED = 128  # an error repeats at most this many bytes of the request
WORDS = 2 + ECHOED // 3  # words that can fit: each is quoted and followed by a space


class ErrorText(NamedTuple):
    text: bytes  # with a %b for each word to insert
    help: str


ERRORS = {
    "unknown_command": ErrorText(
        b"ERR unknown command '%b', with args beginning with: %b",
        "nutproxy does not know the command, or it belongs to a module. Also the reply to HELLO 3"
        " if the pool's servers do not know HELLO.",
    ),
    "unknown_subcommand": ErrorText(
        b"ERR unknown subcommand '%b'. Try %b HELP.",
        "The command exists, the subcommand does not.",
    ),
    "wrong_arity": ErrorText(
        b"ERR wrong number of arguments for '%b' command",
        "Too few or too many arguments; nothing was sent to a server.",
    ),
    "too_many": ErrorText(
        b"ERR '%b' has %b arguments, at most %b are allowed",
        "All other clients would wait while nutproxy processes the arguments. Send several"
        " requests.",
    ),
    "too_long": ErrorText(
        b"ERR '%b' has %b bytes, at most %b are allowed",
        "nutproxy handles the command itself, or copies it for every server. Send a shorter"
        " request.",
    ),
    "key_too_long": ErrorText(
        b"ERR a key of %b bytes is too long for a pool of several servers, at most %b are allowed",
        "nutproxy hashes every byte of a key to find its server, and all other clients would wait."
        " Use shorter keys.",
    ),
    "keys_too_long": ErrorText(
        b"ERR keys of %b bytes in one request are too long for a pool of several servers, at most"
        b" %b are allowed",
        "nutproxy hashes every byte of the keys, and all other clients would wait. Send several"
        " requests.",
    ),
    "syntax": ErrorText(
        b"ERR syntax error",
        "An option of a command that nutproxy handles itself is misspelt or incomplete.",
    ),
    "not_integer": ErrorText(
        b"ERR value is not an integer or out of range",
        "An argument of a command that nutproxy handles itself must be an integer.",
    ),
    "not_supported": ErrorText(
        b"ERR '%b' is not supported by nutproxy",
        "Redis has the command, but nutproxy does not support it; docs/commands.md says why.",
    ),
    "denied": ErrorText(
        b"NOPERM '%b' is denied by deny_commands of pool '%b'",
        "The pool's deny_commands names the command.",
    ),
    "needs_admin": ErrorText(
        b"NOPERM '%b' is an administration command, pool '%b' does not set admin_commands: true",
        "Administration commands go to every server, so the pool must allow them.",
    ),
    "sort_pattern": ErrorText(
        b"ERR %b option of SORT denied when keys formed by the pattern may be on different servers "
        b"of pool '%b'; %b",
        "SORT or SORT_RO with a pattern that contains a `*`, on a pool of several servers. Keys on"
        " other servers would seem to be missing.",
    ),
    "noauth": ErrorText(
        b"NOAUTH Authentication required.",
        "The pool has a redis_auth, and the client has not sent AUTH or HELLO … AUTH.",
    ),
    "noauth_hello": ErrorText(
        b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
        b"AUTH <user> <pass> option can be used to authenticate the client and select the RESP "
        b"protocol version at the same time",
        "HELLO without AUTH on a pool that has a redis_auth.",
    ),
    "no_password_set": ErrorText(
        b"ERR Client sent AUTH, but no password is set",
        "AUTH with a password on a pool without redis_auth.",
    ),
    "invalid_password": ErrorText(
        b"ERR invalid password",
        "AUTH with a password that is not the pool's redis_auth.",
    ),
    "wrongpass": ErrorText(
        b"WRONGPASS invalid username-password pair or user is disabled.",
        "AUTH or HELLO with a user and a password: the user is not 'default' or the password is "
        "not the pool's redis_auth.",
    ),
    "noproto": ErrorText(
        b"NOPROTO unsupported protocol version",
        "HELLO asked for a protocol other than 2 or 3.",
    ),
    "proto_not_integer": ErrorText(
        b"ERR Protocol version is not an integer or out of range",
        "The first argument of HELLO must be 2 or 3.",
    ),
    "hello_option": ErrorText(
        b"ERR Syntax error in HELLO option '%b'",
        "HELLO takes AUTH user password and SETNAME name.",
    ),
    "client_name": ErrorText(
        b"ERR Client names cannot contain spaces, newlines or special characters.",
        "A client name is printable ASCII without spaces.",
    ),
    "client_name_length": ErrorText(
        b"ERR Client names and attributes cannot be longer than %b bytes.",
        "CLIENT LIST shows the names of all clients, so nutproxy limits their length.",
    ),
    "client_attribute": ErrorText(
        b"ERR %b cannot contain spaces, newlines or special characters.",
        "A library name or version is printable ASCII without spaces.",
    ),
    "unrecognized_option": ErrorText(
        b"ERR Unrecognized option '%b'",
        "CLIENT SETINFO takes LIB-NAME and LIB-VER.",
    ),
    "client_type": ErrorText(
        b"ERR Unknown client type '%b'",
        "CLIENT LIST TYPE takes normal, master, replica and pubsub.",
    ),
    "client_id": ErrorText(
        b"ERR Invalid client ID",
        "CLIENT LIST ID takes positive integers.",
    ),
    "no_cluster": ErrorText(
        b"ERR This instance has cluster support disabled",
        "CLUSTER, ASKING, READONLY or READWRITE: a pool looks like one Redis without cluster mode.",
    ),
    "not_tracking": ErrorText(
        b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or "
        b"OPTOUT mode enabled",
        "CLIENT CACHING: nutproxy tracks no keys.",
    ),
    "script_debug": ErrorText(
        b"ERR Use SCRIPT DEBUG YES/SYNC/NO",
        "SCRIPT DEBUG takes NO; YES and SYNC are not supported.",
    ),
    "unblock_reason": ErrorText(
        b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
        "CLIENT UNBLOCK takes a client's ID, and TIMEOUT or ERROR.",
    ),
    "databases": ErrorText(
        b"ERR databases are not supported by nutproxy: after SELECT %b nothing is carried out "
        b"until SELECT 0 or RESET; the pool's redis_db chooses the database on its servers",
        "SELECT with a number other than 0 and the pool's redis_db.",
    ),
    "in_database": ErrorText(
        b"ERR '%b' was not carried out because '%b' was refused: send SELECT 0 or RESET; the "
        b"pool's redis_db chooses the database on its servers",
        "The client has tried to select, or swap, a database that the pool does not have.",
    ),
    "in_transaction": ErrorText(
        b"ERR '%b' was not carried out: %b; EXEC, DISCARD or RESET ends the transaction",
        "Commands after a refused MULTI are refused too. The text repeats MULTI's own error.",
    ),
    "in_state": ErrorText(
        b"ERR '%b' was not carried out because '%b' was refused: send RESET",
        "An earlier, refused command would have changed the meaning of this one.",
    ),
    "execabort": ErrorText(
        b"EXECABORT Transaction discarded because of: %b",
        "EXEC after a refused MULTI. No command of the transaction was carried out.",
    ),
    "exec_without_multi": ErrorText(
        b"ERR EXEC without MULTI",
        "EXEC without a MULTI before it.",
    ),
    "discard_without_multi": ErrorText(
        b"ERR DISCARD without MULTI",
        "DISCARD without a MULTI before it.",
    ),
}

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def error(key: str, *words: bytes) -> bytes:
    """The reply for row `key` of ERRORS, with `words` inserted, as one line."""
    return b"-%b\r\n" % (ERRORS[key].text % words).translate(_ONE_LINE)


def unknown_command(argv: Sequence[bytes]) -> bytes:
    """The text of Redis 7: the name, then the quoted arguments that begin within 128 bytes."""
    args = b""
    for word in argv[1:]:
        if len(args) >= ECHOED:
            break
        args += b"'%b' " % echo(word, ECHOED - len(args))
    return error("unknown_command", echo(argv[0]), args)


def unknown_subcommand(argv: Sequence[bytes]) -> bytes:
    return error("unknown_subcommand", echo(argv[1]), echo(argv[0].upper()))


def wrong_arity(name: str) -> bytes:
    """`name` is the name of a row. Redis writes a subcommand as config|get."""
    return error("wrong_arity", name.replace(" ", "|").encode())


def too_many(name: str, count: int, most: int) -> bytes:
    """`count` and `most` count the arguments including the command's name."""
    return error("too_many", name.upper().encode(), b"%d" % count, b"%d" % most)


def too_long(name: str, length: int, most: int) -> bytes:
    return error("too_long", name.upper().encode(), b"%d" % length, b"%d" % most)


def key_too_long(length: int, most: int) -> bytes:
    return error("key_too_long", b"%d" % length, b"%d" % most)


def keys_too_long(length: int, most: int) -> bytes:
    return error("keys_too_long", b"%d" % length, b"%d" % most)


def not_supported(name: str, option: str = "") -> bytes:
    """`option` makes a supported command unsupported, as BLOCK does with XREAD."""
    return error("not_supported", f"{name} {option}".strip().upper().encode())


def denied(name: str, pool: str) -> bytes:
    return error("denied", name.upper().encode(), pool.encode())


def needs_admin(name: str, pool: str) -> bytes:
    return error("needs_admin", name.upper().encode(), pool.encode())


def sort_pattern(option: bytes, pool: str, hash_tag: bytes | None) -> bytes:
    """Redis Cluster's text for BY and GET, with servers instead of slots."""
    way = b"with hash_tag: '{}' a pattern may have the key's tag before the *"
    if hash_tag:
        way = b"put the key's tag, which is between '%b', before the *" % hash_tag
    return error("sort_pattern", option.upper(), pool.encode(), way)


def noauth() -> bytes:
    return error("noauth")


def echo(word: bytes, limit: int = ECHOED) -> bytes:
    """As C's %.*s prints a word, which Redis uses: at most `limit` bytes, and none after a NUL."""
    return word[:limit].partition(b"\0")[0]
