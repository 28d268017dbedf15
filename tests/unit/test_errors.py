"""The table of error texts: it is complete, used, and printed."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from nutproxy.proto import errors
from nutproxy.proto.error_table import ADDITIONS, CAUSES, ERRORS, MEMCACHE, SECTIONS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nutproxy"
TABLE = PACKAGE / "proto" / "error_table.py"
BUILDERS = PACKAGE / "proto" / "errors.py"
SOURCES = sorted(PACKAGE.rglob("*.py"))

CODES = (
    "ERR|ERROR|CLIENT_ERROR|SERVER_ERROR|CROSSSLOT|EXECABORT|LOADING|NOAUTH|NOPERM|NOPROTO"
    "|WRONGPASS"
)
# The start of an error reply, with or without the minus sign, or of the text of one.
ERROR = re.compile(rf"-?(?:{CODES})(?![\w|])|-[A-Z]{{2,}}\b|-%[bs]|Protocol error")

# Literals that look like an error and are never sent: they recognise the errors of servers, or pass
# one on.
OTHERS = {
    "dispatch/blocking.py": {"ERROR": "an option of CLIENT UNBLOCK"},
    "builtin/connection.py": {
        "ERR unknown command": "recognises a server without HELLO",
        "-%b\r\n": "passes on a server's error to HELLO",
    },
    "proto/memcache.py": {
        "ERROR": "recognises memcached's error",
        "CLIENT_ERROR": "recognises memcached's error",
        "SERVER_ERROR": "recognises memcached's error",
    },
    "proto/binary_reply.py": {
        "CLIENT_ERROR ": "recognises memcached's error",
        "SERVER_ERROR ": "recognises memcached's error",
        "SERVER_ERROR": "recognises memcached's error",
    },
    "proto/merge.py": {
        "-NOTBUSY ": "recognises the error of SCRIPT KILL",
        "-%b\r\n": "writes a server's blob error as a simple one, which hiredis can read",
    },
    "dispatch/scripts.py": {
        "-NOSCRIPT ": "recognises a server that lacks the script",
        "-ERR Function not found": "recognises a server that lacks the library",
    },
    "back/handshake.py": {
        "NOPERM ": "recognises a server that is up but refuses PING",
        "ERR unknown command": "recognises a server without PING or HELLO",
        "ERR AUTH <password> called without any password configured": "recognises no password",
        "ERR Client sent AUTH, but no password is set": "recognises no password",
        "ERR max number of clients": "recognises a server that has too many clients",
        "NOPROTO": "recognises a server without RESP3",
        "LOADING ": "recognises a server that is loading",
        "NOAUTH": "recognises a server with a password",
        "ERROR": "recognises memcached's error",
        "CLIENT_ERROR": "recognises memcached's error",
        "SERVER_ERROR": "recognises memcached's error",
    },
    "back/link.py": {"-ERR Protocol error:": "recognises the error before a server closes"},
}


def tree(source):
    return ast.parse(source.read_text(encoding="utf-8"))


def literals(source):
    """The (line, text) of each string and bytes literal that is not a docstring."""
    parsed = tree(source)
    docstrings = {id(node.value) for node in ast.walk(parsed) if isinstance(node, ast.Expr)}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, bytes):
                yield node.lineno, node.value.decode("latin-1")
            elif isinstance(node.value, str):
                yield node.lineno, node.value


def uses():
    """The (place, whether words are inserted, keys, arguments) of each use of a row."""
    for source in SOURCES:
        if source == TABLE:
            continue
        for node in ast.walk(tree(source)):
            if isinstance(node, ast.Call):
                name, arguments = node.func, node.args
            elif isinstance(node, ast.Subscript):
                name, arguments = node.value, [node.slice]
            else:
                continue
            if isinstance(name, ast.Attribute) and ast.unparse(name.value) == "errors":
                name = ast.Name(f"errors.{name.attr}")
            if ast.unparse(name).endswith("protocol.error"):
                name = ast.Name("errors.error")
            if not isinstance(name, ast.Name) or name.id not in NAMES:
                continue
            key = arguments[1 if name.id == "errors.add" else 0]
            keys = [key] if not isinstance(key, ast.IfExp) else [key.body, key.orelse]
            keys = [each.value for each in keys if isinstance(each, ast.Constant)]
            made = isinstance(node, ast.Call) and name.id != "errors.add"
            yield f"{source.relative_to(ROOT)}:{node.lineno}", made, keys, arguments


NAMES = {"error", "memcache_error", "make", "cause"}
NAMES |= {"ERRORS", "REDIS_REPLIES", "MEMCACHE_REPLIES", "PROTOCOL_ERRORS"}
NAMES |= {f"errors.{name}" for name in NAMES | {"add"}}


def test_no_error_text_outside_the_table():
    """It would be missing in docs/errors.md, and could differ from the same error elsewhere."""
    found = []
    for source in SOURCES:
        if source in (TABLE, BUILDERS):
            continue
        name = str(source.relative_to(PACKAGE))
        for line, text in literals(source):
            if ERROR.match(text) and text not in OTHERS.get(name, ()):
                found.append(f"nutproxy/{name}:{line}: {text!r}")
    assert not found, "move to nutproxy/proto/error_table.py: " + "; ".join(found)


def test_every_exception_to_the_table_is_still_in_its_file():
    for name, texts in OTHERS.items():
        present = {text for _, text in literals(PACKAGE / name)}
        assert texts.keys() <= present, name


@pytest.mark.parametrize(
    "name", ["back/server.py", "back/link.py", "dispatch/forward.py", "pool.py"]
)
def test_causes_come_from_the_table(name):
    """What `error_reply` and `abort` get, and what `cause` is set to, is part of an error reply."""
    for node in ast.walk(tree(PACKAGE / name)):
        values = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            values = node.args if node.func.attr in ("error_reply", "abort") else []
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Attribute) and each.attr == "cause" for each in targets):
                values = [node.value]
        for value in values:
            text = isinstance(value, ast.JoinedStr) or (
                isinstance(value, ast.Constant) and isinstance(value.value, str)
            )
            assert not text, f"nutproxy/{name}:{node.lineno}: {ast.unparse(value)}"


def test_every_row_is_used():
    used = {key for _, _, keys, _ in uses() for key in keys}
    unused = sorted(ERRORS.keys() - used)
    assert not unused


def test_every_use_has_a_row_and_all_its_words():
    for place, made, keys, arguments in uses():
        for key in keys:
            assert key in ERRORS, f"{place}: {key}"
            if made:
                assert ERRORS[key].text.count(b"%b") == len(arguments) - 1, f"{place}: {key}"


def test_keys_are_unique():
    keys = Counter(
        key.value
        for node in ast.walk(tree(TABLE))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    )
    assert keys == Counter(ERRORS.keys())


@pytest.mark.parametrize("key", ERRORS)
def test_help_is_a_sentence(key):
    text = ERRORS[key].help
    assert re.match(r"[A-Z]|nutproxy |memcached ", text), text
    assert text.endswith("."), text
    assert len(text.split()) > 4, text
    assert "  " not in text, text


@pytest.mark.parametrize("key", ERRORS)
def test_reply_is_one_line_that_begins_with_a_code(key):
    row = ERRORS[key]
    assert not re.search(rb"[\r\n]", row.text)
    if key in CAUSES or key in ADDITIONS:
        return
    assert key.startswith("memcache_") == (row.protocol == "memcached")
    words = [b"a\r\nb"] * row.text.count(b"%b")
    if row.protocol != "memcached" and b"%c" not in row.text:
        reply = errors.error(key, *words)
        assert re.fullmatch(rb"-[A-Z]+ [^\r\n]+\r\n", reply)
    if row.protocol != "redis":
        reply = errors.memcache_error(key, *words)
        assert re.fullmatch(rb"(?:ERROR|(?:CLIENT|SERVER)_ERROR |-ERR )[^\r\n]*\r\n", reply)


def test_replies_without_words_are_always_the_same_objects():
    """Compiled code keeps pointers to their bytes."""
    assert errors.REDIS_REPLIES["max_clients"] == b"-ERR max number of clients reached\r\n"
    assert errors.REDIS_REPLIES["internal"] == b"-ERR internal error of nutproxy, see its log\r\n"
    assert (
        errors.MEMCACHE_REPLIES["internal"]
        == b"SERVER_ERROR internal error of nutproxy, see its log\r\n"
    )
    assert errors.MEMCACHE_REPLIES["memcache_unknown"] == b"ERROR\r\n"
    assert errors.PROTOCOL_ERRORS["tls"] == b"Protocol error: TLS is not supported"
    assert not CAUSES.keys() & (errors.REDIS_REPLIES.keys() | errors.MEMCACHE_REPLIES.keys())


def test_error_about_a_server_names_it_its_pool_and_the_cause():
    cause = errors.cause("queue_full")
    assert (
        errors.server_error(errors.error, "s1", "alpha", cause)
        == b"-ERR server 's1' of pool 'alpha': its queue is full (server_max_queue)\r\n"
    )
    assert (
        errors.server_error(errors.memcache_error, "s1", "alpha", cause)
        == b"SERVER_ERROR server 's1' of pool 'alpha': its queue is full (server_max_queue)\r\n"
    )
    assert (
        errors.server_error(errors.error, "s1", "alpha", "LOADING Redis is loading")
        == b"-LOADING server 's1' of pool 'alpha': Redis is loading\r\n"
    )


def test_crossslot_says_which_hash_tag_helps():
    assert errors.crossslot("sinter", "alpha", None) == (
        b"-CROSSSLOT Keys of 'SINTER' are on different servers of pool 'alpha'; with hash_tag: '{}'"
        b" keys with the same text between the braces share a server\r\n"
    )
    assert errors.crossslot("sinter", "alpha", b"[]").endswith(
        b"; keys with the same text between '[]' share a server\r\n"
    )


def test_addition_follows_the_error_of_a_server():
    assert (
        errors.add(b"-OOM command not allowed\r\n", "other_keys", b"mset")
        == b"-OOM command not allowed; other keys of this 'mset' may have been changed\r\n"
    )


def test_documentation_is_generated_from_the_table():
    written = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert written == errors.document(), "run: python -m nutproxy.proto.errors > docs/errors.md"


def test_documentation_has_every_row():
    text = errors.document()
    for section in SECTIONS:
        assert f"\n## {section.title}\n" in text
    for row in ERRORS.values():
        assert f"| {row.protocol} | {row.help} |" in text
    for row in MEMCACHE.values():
        assert f"| `{row.text.replace(b'%b', b'X').decode()}` | memcached |" in text
