# tests/memcache_corpus.py: conversations with memcached, and its replies
"""Requests of clients as data, and a record of the replies of a real memcached.

    CORPUS["cas: the value has changed"].steps     the requests
    record()["cas: the value has changed"]         memcached's replies, and whether it closed

The record is `memcache_corpus.json` in this directory. To make it anew with the installed
memcached, run

    python -m tests.memcache_corpus

memcached is started with ARGUMENTS. A test compares it with the record, so the record is never
stale.

A step is sent after all replies to the one before have arrived. `<cas>` in a step stands for the
unique value of the latest reply that had one. Each step is followed by the request END. Its reply,
END_REPLY, shows that all other replies have arrived; if the server closes the connection instead,
there is no END_REPLY. The segments in which a conversation is sent make no difference, except for
the conversations of CUT: there the server reads everything before a `|` before the rest is sent.

Values that differ between runs are replaced: unique values by <cas>, times by <time>, and all lines
of statistics by one. The conversations are independent. Each begins with a server without items.
"""

import contextlib
import itertools
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.servers import MemcachedServer, connect

RECORD = Path(__file__).with_suffix(".json")
# A small item limit, so that items above it are short enough to be cut at every position.
ARGUMENTS = ("-I", "8k", "-o", "slab_chunk_max=4096")
# The longest value of a key of one byte, without client flags, that fits an item of 8 KB.
LARGEST = 8132

# The unique value in a reply to gets or gats, or after the `c` in a reply to a meta command.
UNIQUE = re.compile(rb"(?m)(?:^VALUE \S+ \d+ \d+ |^(?:HD|VA|EN) .*\bc)(\d+)")

END = b"md end-of-the-step O31337\r\n"
END_REPLY = b"NF O31337\r\n"


@dataclass(frozen=True)
class Conversation:
    name: str
    steps: tuple[bytes, ...]


@dataclass(frozen=True)
class Answer:
    """The bytes received, made comparable, and whether the server has closed the connection."""

    received: bytes
    closed: bool


def comparable(received, sent):
    """`received` without the values that differ between runs. Unique values that the client has
    chosen stay."""
    chosen = set(re.findall(rb" E(\d+)", sent))

    def unique(match):
        return match[0] if match[2] in chosen else match[1] + b"<cas>"

    text = re.sub(rb"(?m)^(VALUE \S+ \d+ \d+ )(\d+)(?=\r$)", unique, received)
    lines = []
    for line in text.split(b"\r\n"):
        if line.startswith((b"HD ", b"VA ", b"EN ", b"NS ", b"EX ", b"NF ")):
            line = re.sub(rb"( c)(\d+)", unique, line)
            line = re.sub(rb"( [tl])\d+", rb"\1<time>", line)
        if line.startswith(b"ME "):
            line = re.sub(rb"( cas=)(\d+)", unique, line)
            line = re.sub(rb" (exp|la)=(\d+|-\d\d+)", rb" \1=<time>", line)
        lines.append(line)
    return re.sub(rb"(?m)(^(STAT|ITEM) .*\r\n)+", rb"\2 ...\r\n", b"\r\n".join(lines))


# fmt: off
# ruff: noqa: E501
v = b"set k 5 0 1\r\nv\r\n"


def conversations():
    """Yields (name, steps...) or (name, step) of each conversation."""
    n = b"set k 0 0 2\r\n10\r\n"

    # get, gets ---------------------------------------------------------------------------------
    yield "get: miss", b"get k\r\n"
    yield "get: hit", v + b"get k\r\n"
    yield "gets: miss", b"gets k\r\n"
    yield "gets: hit", v + b"gets k\r\n"
    yield "get: several keys, some missing", v + b"set j 0 0 1\r\nw\r\nget a k b j c\r\n"
    yield "gets: several keys, some missing", v + b"set j 0 0 1\r\nw\r\ngets a k b j c\r\n"
    yield "get: a key twice", v + b"get k k\r\n"
    yield "get: a key twice with others between", v + b"set j 0 0 1\r\nw\r\nget j k x j k x k\r\n"
    yield "get: no key", b"get\r\nget \r\nget  \r\ngets\r\ngets \r\n"
    yield "get: key of 250 bytes", b"set " + b"a" * 250 + b" 0 0 1\r\nv\r\nget " + b"a" * 250 + b"\r\n"
    yield "get: key of 251 bytes", b"get " + b"a" * 251 + b"\r\nget k\r\n"
    yield "gets: key of 251 bytes", b"gets " + b"a" * 251 + b"\r\n"
    yield "get: key of 251 bytes after a hit", v, b"get k " + b"a" * 251 + b"\r\nget k\r\n"
    yield "get: key of 251 bytes before a hit", v, b"get " + b"a" * 251 + b" k\r\nget k\r\n"
    yield "get: key of 251 bytes after 30 hits", v, b"get" + b" k" * 30 + b" " + b"a" * 251 + b"\r\nget k\r\n"
    yield "get: noreply is a key", b"set noreply 0 0 1\r\nv\r\nget noreply\r\n"
    yield "get: 22 keys", v + b"get" + b" k" * 22 + b"\r\n"
    yield "get: 23 keys", v + b"get" + b" k" * 23 + b"\r\n"
    yield "get: 24 keys", v + b"get" + b" k" * 24 + b"\r\n"
    yield "get: 25 keys", v + b"get" + b" k" * 25 + b"\r\n"
    yield "get: 100 keys and trailing spaces", v + b"get" + b" k" * 100 + b"   \r\n"
    yield "get: 23 keys and a trailing space", v + b"get" + b" k" * 23 + b" \r\n"
    yield "get: 1000 missing keys", b"get " + b" ".join(b"missing%d" % i for i in range(1000)) + b"\r\n"
    yield "get: 100,000 keys, the first and the last there", (
        v + b"set last 0 0 1\r\nl\r\nget k " + b" ".join(b"m%d" % i for i in range(99_998)) + b" last\r\nget k\r\n"
    )
    yield "gets: 20,000 keys", v + b"gets " + b" ".join(b"m%d" % i for i in range(19_999)) + b" k\r\n"
    yield "get: binary value", b"set k 0 0 12\r\nEND\r\n\0\r\n\xff\r\n\x80\r\nget k\r\n"
    yield "get: key of high bytes", b"set \xff\x80\xfe 0 0 1\r\nv\r\nget \xff\x80\xfe\r\n"
    yield "get: tab in the key", b"set a\tb 0 0 1\r\nv\r\nget a\tb\r\n"
    yield "get: NUL in the key", b"set a 0 0 1\r\nv\r\nget a\0b\r\nget a \0b\r\nget k\r\n"
    yield "set: NUL in the key", b"set a\0b 0 0 1\r\nv\r\nget a\r\n"
    yield "set: NUL behind the length", b"set k 0 0 1\0 noreply\r\nv\r\nget k\r\n"
    yield "spelling: NUL", b"\0\r\nversion\0x\r\n"
    yield "mg: NUL in the key", b"mg a\0b k v\r\n"
    yield "mg: control bytes in the opaque", b"mg k O\x01\r\nmg k O\t\r\nmg k Oa\rb\r\n"
    yield "mg: control byte in the key", b"mg a\x01b k\r\n"
    yield "get: CR in the key", b"set a\rb 0 0 1\r\nv\r\nget a\rb\r\nget k\r\n"
    yield "get: DEL in the key", b"set a\x7f 0 0 1\r\nv\r\nget a\x7f\r\n"
    yield "get: key that ends with CR", b"get a\r\r\nget k\r\n"

    # spelling ----------------------------------------------------------------------------------
    yield "spelling: ends of LF", b"set k 0 0 1\nv\r\nget k\n"
    yield "spelling: ends of LF, data too", b"set k 0 0 1\nv\nget k\nversion\n"
    yield "spelling: leading space", b" get k\r\n"
    yield "spelling: leading spaces before set", b"   set k 0 0 1\r\nv\r\nget k\r\n"
    yield "spelling: trailing spaces", v + b"get k   \r\n"
    yield "spelling: trailing space after set", b"set k 0 0 1 \r\nv\r\nget k\r\n"
    yield "spelling: double spaces", b"set  k  0  0  1\r\nv\r\nget   k\r\n"
    yield "spelling: trailing space after noreply", b"set k 0 0 1 noreply  \r\nv\r\nget k\r\n"
    yield "spelling: tabs are no spaces", b"get\tk\r\nset\tk 0 0 1\r\n"
    yield "spelling: upper case", b"GET k\r\nSET k 0 0 1\r\nv\r\nVERSION\r\n"
    yield "spelling: mixed case", b"Get k\r\ngeT k\r\n"
    yield "spelling: upper case of meta", b"MG k v\r\nMN\r\nmG k\r\n"
    yield "spelling: empty line", b"\r\n"
    yield "spelling: empty lines", b"\r\n\n\r\n"
    yield "spelling: only spaces", b"   \r\n"
    yield "spelling: one letter", b"g\r\ng k\r\nm\r\n"
    yield "spelling: unknown word", b"bogus\r\nbogus k\r\n"
    yield "spelling: unknown word with a known beginning", b"gett k\r\nsetx k 0 0 1\r\ndeleted k\r\nmgg k\r\n"
    yield "spelling: beginning of a known word", b"ge k\r\nse k 0 0 1\r\nma\r\nmz k\r\n"
    yield "spelling: CR CR LF", b"get k\r\r\nversion\r\r\n"
    yield "spelling: two commands on a line", b"get k\rget k\r\n"
    yield "spelling: NOREPLY in upper case", b"set k 0 0 1 NOREPLY\r\nv\r\nget k\r\n"
    yield "spelling: noreply misspelled", b"set k 0 0 1 noreplyy\r\nv\r\nget k\r\nset k 0 0 1 norepl\r\nw\r\nget k\r\n"
    yield "spelling: HTTP is closed", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "spelling: HTTP POST", b"POST / HTTP/1.0\r\n\r\n"

    # set and the like --------------------------------------------------------------------------
    for word in (b"set", b"add", b"replace", b"append", b"prepend"):
        name = word.decode()
        line = word + b" k 7 0 1"
        yield f"{name}: of a missing key", line + b"\r\nx\r\nget k\r\n"
        yield f"{name}: of a key that is there", v + line + b"\r\nx\r\nget k\r\n"
        yield f"{name}: noreply", line + b" noreply\r\nx\r\nget k\r\n" + v + line + b" noreply\r\nx\r\nget k\r\n"
        yield f"{name}: too few words", word + b"\r\n" + word + b" k\r\n" + word + b" k 0\r\n" + word + b" k 0 0\r\nget k\r\n"
        yield f"{name}: too many words", line + b" noreply x\r\nx\r\nget k\r\n"
        yield f"{name}: another word than noreply", line + b" bogus\r\nx\r\nget k\r\n"
        yield f"{name}: key of 251 bytes", word + b" " + b"a" * 251 + b" 0 0 1\r\nv\r\nget k\r\n"
        yield f"{name}: data too long", word + b" k 0 0 1\r\nvw\r\nget k\r\n"
        yield f"{name}: no data", word + b" k 0 0 0\r\n\r\nget k\r\n"
        yield f"{name}: above the limit", word + b" k 0 0 9000\r\n" + b"x" * 9000 + b"\r\nget k\r\n"
    yield "set: flags as large as they may be", b"set k 4294967295 0 1\r\nv\r\nget k\r\n"
    yield "set: flags of 2^32", b"set k 4294967296 0 1\r\nv\r\nget k\r\n"
    yield "set: flags of 2^64", b"set k 18446744073709551616 0 1\r\nv\r\nget k\r\n"
    yield "set: negative flags", b"set k -1 0 1\r\nv\r\nget k\r\n"
    yield "set: flags with a plus", b"set k +1 0 1\r\nv\r\nget k\r\n"
    yield "set: flags with leading zeros", b"set k 0007 0 1\r\nv\r\nget k\r\n"
    yield "set: flags with letters", b"set k 7x 0 1\r\nv\r\nget k\r\n"
    yield "set: flags in hexadecimal", b"set k 0x7 0 1\r\nv\r\nget k\r\n"
    yield "set: flags with a letter, noreply", b"set k x 0 1 noreply\r\nv\r\nget k\r\n"
    yield "set: exptime -1", b"set k 0 -1 1\r\nv\r\nget k\r\n"
    yield "set: exptime of 2^31-1", b"set k 0 2147483647 1\r\nv\r\nget k\r\n"
    yield "set: exptime of 2^31", b"set k 0 2147483648 1\r\nv\r\nget k\r\n"
    yield "set: exptime -2^31", b"set k 0 -2147483648 1\r\nv\r\nget k\r\n"
    yield "set: exptime below -2^31", b"set k 0 -2147483649 1\r\nv\r\nget k\r\n"
    yield "set: exptime of 2^32", b"set k 0 4294967296 1\r\nv\r\nget k\r\n"
    yield "set: exptime of 2^64", b"set k 0 18446744073709551616 1\r\nv\r\nget k\r\n"
    yield "set: exptime with a plus", b"set k 0 +100 1\r\nv\r\nmg k t\r\n"
    yield "set: exptime with leading zeros", b"set k 0 00100 1\r\nv\r\nmg k t\r\n"
    yield "set: exptime with a letter", b"set k 0 1x 1\r\nv\r\nget k\r\n"
    yield "set: exptime of a word", b"set k 0 x 1\r\nv\r\nget k\r\n"
    yield "set: exptime with a fraction", b"set k 0 1.5 1\r\nv\r\nget k\r\n"
    yield "set: exptime of 30 days", b"set k 0 2592000 1\r\nv\r\nmg k t v\r\n"
    yield "set: exptime in the past", b"set k 0 2592001 1\r\nv\r\nget k\r\n"
    yield "set: length with a plus", b"set k 0 0 +1\r\nv\r\nget k\r\n"
    yield "set: length with leading zeros", b"set k 0 0 0001\r\nv\r\nget k\r\n"
    yield "set: length with a letter", b"set k 0 0 1x\r\nv\r\nget k\r\n"
    yield "set: length of a word", b"set k 0 0 x\r\nget k\r\n"
    yield "set: negative length", b"set k 0 0 -1\r\nget k\r\n"
    yield "set: negative length with data", b"set k 0 0 -1\r\nversion\r\nget k\r\n"
    yield "set: negative length, noreply", b"set k 0 0 -1 noreply\r\nget k\r\n"
    yield "set: length -2", b"set k 0 0 -2\r\nget k\r\n"
    yield "set: length of -2^31", b"set k 0 0 -2147483648\r\nget k\r\n"
    yield "set: length of 2^31-1", b"set k 0 0 2147483647\r\nget k\r\n"
    yield "set: length of 2^31-2", b"set k 0 0 2147483646\r\nget k\r\n"
    yield "set: length of 2^31", b"set k 0 0 2147483648\r\nget k\r\n"
    yield "set: length of 2^32", b"set k 0 0 4294967296\r\nget k\r\n"
    yield "set: length of 2^32+1", b"set k 0 0 4294967297\r\na\r\nget k\r\n"
    yield "set: length of 2^64+1", b"set k 0 0 18446744073709551617\r\na\r\nget k\r\n"
    yield "set: length wrong, noreply", b"set k 0 0 x noreply\r\nv\r\nget k\r\n"
    yield "set: data too short", v + b"set k 0 0 9\r\nshort\r\nget k\r\n"
    yield "set: data too short by one", v + b"set k 0 0 3\r\nvw\r\nget k\r\n"
    yield "set: data too long by many", v + b"set k 0 0 1\r\nversion\r\nget k\r\n"
    yield "set: data too long, noreply", v + b"set k 0 0 1 noreply\r\nvwxyz\r\nget k\r\n"
    yield "set: data with commands after its length", v + b"set k 0 0 1\r\nvX\r\nversion\r\nget k\r\n"
    yield "set: data ends with LF alone", v + b"set k 0 0 1\r\nv\nget k\r\n"
    yield "set: data ends with CR alone", v + b"set k 0 0 1\r\nv\rget k\r\n"
    yield "set: data ends with LF CR", v + b"set k 0 0 1\r\nv\n\rget k\r\n"
    yield "set: data without an end", v + b"set k 0 0 1\r\nvget k\r\nget k\r\n"
    yield "set: data of one byte with an empty line", v + b"set k 0 0 1\r\n\r\n\r\nget k\r\n"
    yield "set: no data, noreply", b"set k 0 0 0 noreply\r\n\r\nget k\r\n"
    yield "set: no data but some come", b"set k 0 0 0\r\nabc\r\nget k\r\n"
    yield "set: the largest value", b"set k 0 0 %d\r\n" % LARGEST + b"x" * LARGEST + b"\r\nmg k s\r\n"
    yield "set: one byte more than the largest", v + b"set k 0 0 %d\r\n" % (LARGEST + 1) + b"x" * (LARGEST + 1) + b"\r\nmg k s\r\n"
    yield "set: above the limit, the old value is gone", v + b"set k 0 0 9000\r\n" + b"x" * 9000 + b"\r\nget k\r\n"
    yield "set: above the limit, noreply", v + b"set k 0 0 9000 noreply\r\n" + b"x" * 9000 + b"\r\nget k\r\n"
    yield "set: above the limit, with commands in the data", b"set k 0 0 9000\r\n" + b"version\r\n" * 1000 + b"\r\nget k\r\n"
    yield "set: above the limit, not ended by CR LF", b"set k 0 0 9000\r\n" + b"x" * 9002 + b"get k\r\nget k\r\n"
    yield "set: far above the limit", b"set k 0 0 300000\r\n" + b"x" * 300_000 + b"\r\nget k\r\n"
    yield "add: above the limit, the old value stays", v + b"add k 0 0 9000\r\n" + b"x" * 9000 + b"\r\nget k\r\n"
    yield "append: grows above the limit", b"set k 0 0 5000\r\n" + b"x" * 5000 + b"\r\nappend k 0 0 5000\r\n" + b"x" * 5000 + b"\r\nmg k s\r\n"
    yield "append: grows above the limit, noreply", b"set k 0 0 5000\r\n" + b"x" * 5000 + b"\r\nappend k 0 0 5000 noreply\r\n" + b"x" * 5000 + b"\r\nmg k s\r\n"
    yield "append: keeps flags", v + b"append k 9 0 1\r\nw\r\nget k\r\n"

    # cas ---------------------------------------------------------------------------------------
    yield "cas: the value has not changed", v + b"gets k\r\n", b"cas k 0 0 1 <cas>\r\nw\r\nget k\r\n"
    yield "cas: the value has changed", v + b"gets k\r\n", v + b"cas k 0 0 1 <cas>\r\nw\r\nget k\r\n"
    yield "cas: the value is gone", v + b"gets k\r\n", b"delete k\r\ncas k 0 0 1 <cas>\r\nw\r\nget k\r\n"
    yield "cas: twice with the same", v + b"gets k\r\n", b"cas k 0 0 1 <cas>\r\nw\r\ncas k 0 0 1 <cas>\r\nx\r\nget k\r\n"
    yield "cas: of a missing key", b"cas k 0 0 1 1\r\nw\r\n"
    yield "cas: noreply", v + b"gets k\r\n", b"cas k 0 0 1 <cas> noreply\r\nw\r\ncas k 0 0 1 <cas> noreply\r\nx\r\nget k\r\n"
    yield "cas: noreply of a missing key", b"cas k 0 0 1 1 noreply\r\nw\r\nget k\r\n"
    yield "cas: zero", v + b"cas k 0 0 1 0\r\nw\r\nget k\r\n"
    yield "cas: no unique value", v + b"cas k 0 0 1\r\nget k\r\n"
    yield "cas: unique value of a word", v + b"cas k 0 0 1 x\r\nw\r\nget k\r\n"
    yield "cas: negative unique value", v + b"cas k 0 0 1 -1\r\nw\r\nget k\r\n"
    yield "cas: unique value of 2^64", v + b"cas k 0 0 1 18446744073709551616\r\nw\r\nget k\r\n"
    yield "cas: unique value of 2^64-1", v + b"cas k 0 0 1 18446744073709551615\r\nw\r\nget k\r\n"
    yield "cas: unique value with a letter", v + b"cas k 0 0 1 1x\r\nw\r\nget k\r\n"
    yield "cas: too many words", v + b"cas k 0 0 1 1 noreply x\r\nw\r\nget k\r\n"
    yield "cas: another word than noreply", v + b"gets k\r\n", b"cas k 0 0 1 <cas> bogus\r\nw\r\nget k\r\n"
    yield "cas: above the limit", v + b"gets k\r\n", b"cas k 0 0 9000 <cas>\r\n" + b"x" * 9000 + b"\r\nget k\r\n"
    yield "cas: data too long", v + b"gets k\r\n", b"cas k 0 0 1 <cas>\r\nww\r\nget k\r\n"
    yield "cas: negative length", v + b"cas k 0 0 -1 1\r\nget k\r\n"
    yield "cas: key of 251 bytes", b"cas " + b"a" * 251 + b" 0 0 1 1\r\nv\r\nget k\r\n"
    yield "cas: the value of gats", v + b"gats 0 k\r\n", b"cas k 0 0 1 <cas>\r\nw\r\nget k\r\n"
    yield "cas: the value of mg", v + b"mg k c\r\n", b"cas k 0 0 1 <cas>\r\nw\r\nget k\r\n"

    # delete ------------------------------------------------------------------------------------
    yield "delete: hit and miss", v + b"delete k\r\ndelete k\r\n"
    yield "delete: noreply", v + b"delete k noreply\r\ndelete k noreply\r\nget k\r\n"
    yield "delete: 0", v + b"delete k 0\r\nget k\r\n"
    yield "delete: 0 noreply", v + b"delete k 0 noreply\r\nget k\r\n"
    yield "delete: 00", v + b"delete k 00\r\nget k\r\n"
    yield "delete: 1", v + b"delete k 1\r\nget k\r\n"
    yield "delete: 1 noreply", v + b"delete k 1 noreply\r\nget k\r\n"
    yield "delete: -0", v + b"delete k -0\r\nget k\r\n"
    yield "delete: another word than noreply", v + b"delete k bogus\r\nget k\r\n"
    yield "delete: 0 and another word than noreply", v + b"delete k 0 bogus\r\nget k\r\n"
    yield "delete: noreply 0", v + b"delete k noreply 0\r\nget k\r\n"
    yield "delete: noreply noreply", v + b"delete k noreply noreply\r\nget k\r\n"
    yield "delete: no key", b"delete\r\n"
    yield "delete: of a key called noreply", b"set noreply 0 0 1\r\nv\r\ndelete noreply\r\nget noreply\r\n"
    yield "delete: of a key called 0", b"delete 0\r\n"
    yield "delete: too many words", v + b"delete k 0 noreply x\r\nget k\r\n"
    yield "delete: key of 250 bytes", b"delete " + b"a" * 250 + b"\r\n"
    yield "delete: key of 251 bytes", b"delete " + b"a" * 251 + b"\r\n"
    yield "delete: key of 251 bytes, noreply", b"delete " + b"a" * 251 + b" noreply\r\nget k\r\n"

    # incr, decr --------------------------------------------------------------------------------
    for word in (b"incr", b"decr"):
        name = word.decode()
        yield f"{name}: hit", n + word + b" k 3\r\nget k\r\n"
        yield f"{name}: miss", word + b" k 1\r\n"
        yield f"{name}: noreply", n + word + b" k 3 noreply\r\n" + word + b" missing 3 noreply\r\nget k\r\n"
        yield f"{name}: another word than noreply", n + word + b" k 3 bogus\r\nget k\r\n"
        yield f"{name}: too few words", word + b"\r\n" + word + b" k\r\n"
        yield f"{name}: too many words", n + word + b" k 3 noreply x\r\nget k\r\n"
        yield f"{name}: of a word", n + word + b" k x\r\nget k\r\n"
        yield f"{name}: of a word, noreply", n + word + b" k x noreply\r\nget k\r\n"
        yield f"{name}: by a negative number", n + word + b" k -1\r\nget k\r\n"
        yield f"{name}: by a number with a plus", n + word + b" k +1\r\nget k\r\n"
        yield f"{name}: by a number with leading zeros", n + word + b" k 0001\r\nget k\r\n"
        yield f"{name}: by a number with a letter", n + word + b" k 1x\r\nget k\r\n"
        yield f"{name}: by 2^64-1", n + word + b" k 18446744073709551615\r\nget k\r\n"
        yield f"{name}: by 2^64", n + word + b" k 18446744073709551616\r\nget k\r\n"
        yield f"{name}: by 2^63", n + word + b" k 9223372036854775808\r\nget k\r\n"
        yield f"{name}: by zero", n + word + b" k 0\r\nget k\r\n"
        yield f"{name}: value is not numeric", v + word + b" k 1\r\nget k\r\n"
        yield f"{name}: value is not numeric, noreply", v + word + b" k 1 noreply\r\nget k\r\n"
        yield f"{name}: value is empty", b"set k 0 0 0\r\n\r\n" + word + b" k 1\r\nget k\r\n"
        yield f"{name}: value is negative", b"set k 0 0 2\r\n-5\r\n" + word + b" k 1\r\nget k\r\n"
        yield f"{name}: value is too long", b"set k 0 0 21\r\n" + b"1" * 21 + b"\r\n" + word + b" k 1\r\n"
        yield f"{name}: key of 251 bytes", word + b" " + b"a" * 251 + b" 1\r\n"
        yield f"{name}: key of 251 bytes, noreply", word + b" " + b"a" * 251 + b" 1 noreply\r\nget k\r\n"
    yield "incr: wraps at 2^64", b"set k 0 0 20\r\n18446744073709551615\r\nincr k 1\r\nincr k 5\r\nget k\r\n"
    yield "incr: value of 2^64", b"set k 0 0 20\r\n18446744073709551616\r\nincr k 1\r\nget k\r\n"
    yield "incr: becomes longer", b"set k 0 0 2\r\n99\r\nincr k 1\r\nget k\r\n"
    yield "decr: stops at zero", n + b"decr k 11\r\nget k\r\n"
    yield "decr: keeps its length", b"set k 0 0 3\r\n100\r\ndecr k 1\r\nget k\r\nincr k 1\r\nget k\r\n"

    # touch, gat, gats --------------------------------------------------------------------------
    yield "touch: hit", v + b"touch k 100\r\nmg k t\r\n"
    yield "touch: miss", b"touch k 100\r\n"
    yield "touch: noreply", v + b"touch k 100 noreply\r\ntouch missing 100 noreply\r\nmg k t\r\n"
    yield "touch: negative", v + b"touch k -1\r\nget k\r\n"
    yield "touch: 0", v + b"touch k 100\r\ntouch k 0\r\nmg k t\r\n"
    yield "touch: exptime of a word", v + b"touch k x\r\nget k\r\n"
    yield "touch: exptime of a word, noreply", v + b"touch k x noreply\r\nget k\r\n"
    yield "touch: exptime with a letter", v + b"touch k 1x\r\nget k\r\n"
    yield "touch: exptime of 2^31", v + b"touch k 2147483648\r\nget k\r\n"
    yield "touch: exptime of 2^64", v + b"touch k 18446744073709551616\r\nget k\r\n"
    yield "touch: no exptime", b"touch k\r\ntouch\r\n"
    yield "touch: too many words", v + b"touch k 0 noreply x\r\n"
    yield "touch: another word than noreply", v + b"touch k 0 bogus\r\n"
    yield "touch: key of 251 bytes", b"touch " + b"a" * 251 + b" 0\r\n"
    yield "touch: key of 251 bytes, noreply", b"touch " + b"a" * 251 + b" 0 noreply\r\nget k\r\n"
    for word in (b"gat", b"gats"):
        name = word.decode()
        yield f"{name}: hit", v + word + b" 100 k\r\nmg k t\r\n"
        yield f"{name}: miss", word + b" 100 k\r\n"
        yield f"{name}: several keys", v + b"set j 0 0 1\r\nw\r\n" + word + b" 100 k a j k\r\nmg k t\r\nmg j t\r\n"
        yield f"{name}: negative", v + word + b" -1 k\r\nget k\r\n"
        yield f"{name}: exptime of a word", v + word + b" x k\r\nget k\r\n"
        yield f"{name}: exptime with a letter", v + word + b" 1x k\r\nget k\r\n"
        yield f"{name}: exptime of 2^31", v + word + b" 2147483648 k\r\nget k\r\n"
        yield f"{name}: no key", word + b" 100\r\n" + word + b" 100 \r\n" + word + b" k\r\n"
        yield f"{name}: no word", word + b"\r\n"
        yield f"{name}: key of 251 bytes", word + b" 0 " + b"a" * 251 + b"\r\nget k\r\n"
        yield f"{name}: key of 251 bytes after a hit", v, word + b" 0 k " + b"a" * 251 + b"\r\nget k\r\n"
        yield f"{name}: 22 keys", v + word + b" 0" + b" k" * 22 + b"\r\n"
        yield f"{name}: 23 keys", v + word + b" 0" + b" k" * 23 + b"\r\n"
        yield f"{name}: 50 keys", v + word + b" 0" + b" k" * 50 + b"\r\n"

    # commands to all servers, and of the connection --------------------------------------------
    yield "flush_all", v + b"flush_all\r\nget k\r\n"
    yield "flush_all: noreply", v + b"flush_all noreply\r\nget k\r\n"
    yield "flush_all: 0", v + b"flush_all 0\r\nget k\r\n"
    yield "flush_all: 0 noreply", v + b"flush_all 0 noreply\r\nget k\r\n"
    yield "flush_all: later", v + b"flush_all 1000\r\nget k\r\n"
    yield "flush_all: later, noreply", v + b"flush_all 1000 noreply\r\nget k\r\n"
    yield "flush_all: -1", v + b"flush_all -1\r\nget k\r\n"
    yield "flush_all: of a word", v + b"flush_all x\r\nget k\r\n"
    yield "flush_all: of a word, noreply", v + b"flush_all x noreply\r\nget k\r\n"
    yield "flush_all: with a letter", v + b"flush_all 1x\r\nget k\r\n"
    yield "flush_all: of 2^31", v + b"flush_all 2147483648\r\nget k\r\n"
    yield "flush_all: of 2^64", v + b"flush_all 18446744073709551616\r\nget k\r\n"
    yield "flush_all: noreply 0", v + b"flush_all noreply 0\r\nget k\r\n"
    yield "flush_all: 0 and another word", v + b"flush_all 0 bogus\r\nget k\r\n"
    yield "flush_all: too many words", v + b"flush_all 0 noreply x\r\nget k\r\n"
    yield "verbosity: 1", b"verbosity 1\r\nverbosity 0\r\n"
    yield "verbosity: noreply", b"verbosity 0 noreply\r\nget k\r\n"
    yield "verbosity: no level", b"verbosity\r\n"
    yield "verbosity: noreply alone", b"verbosity noreply\r\nget k\r\n"
    yield "verbosity: of a word", b"verbosity x\r\n"
    yield "verbosity: of a word, noreply", b"verbosity x noreply\r\nget k\r\n"
    yield "verbosity: negative", b"verbosity -1\r\nverbosity 0\r\n"
    yield "verbosity: with a letter", b"verbosity 0x\r\n"
    yield "verbosity: of 2^32", b"verbosity 4294967296\r\n"
    yield "verbosity: two words", b"verbosity 0 bogus\r\n"
    yield "verbosity: three words", b"verbosity 0 0 0\r\n"
    yield "verbosity: four words", b"verbosity 0 0 0 0\r\n"
    yield "version", b"version\r\n"
    yield "version: with words", b"version x\r\nversion noreply\r\n"
    yield "quit", b"quit\r\n"
    yield "quit: with words", b"quit x\r\n"
    yield "quit: noreply", b"quit noreply\r\n"
    yield "quit: in the middle of a pipeline", v + b"get k\r\nquit\r\nget k\r\nset k 0 0 1\r\nw\r\n"
    yield "quit: upper case", b"QUIT\r\n"
    yield "stats", b"stats\r\n"
    yield "stats: items", v + b"stats items\r\n"
    yield "stats: items of nothing", b"stats bogus-items\r\n"
    yield "stats: slabs", b"stats slabs\r\n"
    yield "stats: settings", b"stats settings\r\n"
    yield "stats: sizes", b"stats sizes\r\n"
    yield "stats: conns", b"stats conns\r\n"
    yield "stats: reset", b"stats reset\r\n"
    yield "stats: detail", b"stats detail\r\n"
    yield "stats: detail dump", b"stats detail dump\r\n"
    yield "stats: detail on and off", b"stats detail on\r\nstats detail off\r\n"
    yield "stats: detail of a word", b"stats detail bogus\r\n"
    # A class without items. When items appear in the output depends on memcached's threads.
    yield "stats: cachedump", v + b"stats cachedump 10 0\r\n"
    yield "stats: cachedump without words", b"stats cachedump\r\n"
    yield "stats: cachedump of words", b"stats cachedump x y\r\n"
    yield "stats: unknown", b"stats bogus\r\n"
    yield "stats: noreply", b"stats noreply\r\n"
    yield "stats: too many words", b"stats" + b" x" * 25 + b"\r\n"

    # mg ----------------------------------------------------------------------------------------
    yield "mg: miss", b"mg k\r\n"
    yield "mg: hit", v + b"mg k\r\n"
    yield "mg: v, miss", b"mg k v\r\n"
    yield "mg: v, hit", v + b"mg k v\r\n"
    yield "mg: v of an empty value", b"set k 0 0 0\r\n\r\nmg k v\r\nmg k s v\r\n"
    yield "mg: no key", b"mg\r\nmg \r\n"
    yield "mg: key of 250 bytes", b"mg " + b"a" * 250 + b" k\r\n"
    yield "mg: key of 251 bytes", b"mg " + b"a" * 251 + b" v\r\nmn\r\n"
    yield "mg: f", v + b"mg k f\r\n"
    yield "mg: s", v + b"mg k s\r\n"
    yield "mg: s v", v + b"mg k s v\r\n"
    yield "mg: k, hit and miss", v + b"mg k k\r\nmg missing k\r\n"
    yield "mg: c", v + b"mg k c\r\n"
    yield "mg: t without exptime", v + b"mg k t\r\n"
    yield "mg: t with exptime", b"set k 0 100 1\r\nv\r\nmg k t\r\n"
    yield "mg: h", v + b"mg k h\r\nmg k h\r\nmg k h v\r\n"
    yield "mg: l", v + b"mg k l\r\nget k\r\nmg k l\r\n"
    yield "mg: h l t together", v + b"mg k h l t\r\nmg k h l t\r\n"
    yield "mg: O, hit and miss", v + b"mg k O123\r\nmg missing O123\r\nmg k Oabc v\r\n"
    yield "mg: O without a token", v + b"mg k O\r\n"
    yield "mg: O of 32 bytes", v + b"mg k O" + b"o" * 32 + b"\r\n"
    yield "mg: O of 33 bytes", v + b"mg k O" + b"o" * 33 + b"\r\n"
    yield "mg: O of 31 bytes", v + b"mg k O" + b"o" * 31 + b"\r\n"
    yield "mg: O twice", v + b"mg k O1 O2\r\n"
    yield "mg: q, hit and miss", v + b"mg k q v\r\nmg missing q v\r\nmn\r\n"
    yield "mg: q, misses alone", b"mg a q v\r\nmg b q v\r\nmn\r\n"
    yield "mg: q with k and O", v + b"mg k q k O1 v\r\nmg missing q k O2 v\r\nmn\r\n"
    yield "mg: q without v", v + b"mg k q\r\nmg missing q\r\nmn\r\n"
    yield "mg: q and an error", b"mg k q !\r\nmg k q T\r\nmg " + b"a" * 251 + b" q\r\nmn\r\n"
    yield "mg: all flags that return", v + b"mg k c f h k l O1 s t v\r\n"
    yield "mg: the order of flags is kept", v + b"mg k v t s O1 k f\r\n"
    yield "mg: a flag twice", v + b"mg k s s v v\r\n"
    yield "mg: v twice", v + b"mg k v v\r\n"
    yield "mg: unknown flag", v + b"mg k !\r\nmg k v ! s\r\n"
    yield "mg: flags of a letter that nothing has", v + b"mg k Z\r\nmg k w\r\nmg k z\r\n"
    yield "mg: flags that are other commands'", v + b"mg k C1\r\nmg k x\r\nmg k I\r\nmg k M\r\nmg k F1\r\nmg k D1\r\n"
    yield "mg: flag with a token that takes none", v + b"mg k v1 s2 f3\r\n"
    yield "mg: words glued to flags", v + b"mg k vs\r\nmg k fst\r\n"
    yield "mg: E of a hit", v + b"mg k E987654321 c\r\n"
    yield "mg: E with N", b"mg k N30 E987654321 c\r\nmg k c\r\n"
    yield "mg: E of a word", b"mg k N30 Ex c\r\n"
    yield "mg: T", v + b"mg k T100 t\r\nmg k t\r\n"
    yield "mg: T negative", v + b"mg k T-1 v\r\nmg k v\r\n"
    yield "mg: T of a word", v + b"mg k Tx\r\n"
    yield "mg: T without a token", v + b"mg k T\r\n"
    yield "mg: T of 2^32", v + b"mg k T4294967296 t\r\n"
    yield "mg: T of a missing key", b"mg k T30 v\r\n"
    yield "mg: N creates", b"mg k N30 v\r\nmg k N30 v\r\nmg k v s t\r\n"
    yield "mg: N on a hit", v + b"mg k N30 v t\r\n"
    yield "mg: N with all flags", b"mg k N30 c f h k l O1 s t v\r\nmg k N30 c f h k l O1 s t v\r\n"
    yield "mg: N of a word", b"mg k Nx v\r\n"
    yield "mg: N without a token", b"mg k N v\r\n"
    yield "mg: N with q", b"mg k N30 q v\r\nmg k N30 q v\r\nmn\r\n"
    yield "mg: R", b"set k 0 20 1\r\nv\r\nmg k R30 t\r\nmg k R30 t\r\n"
    yield "mg: R that is not due", b"set k 0 100 1\r\nv\r\nmg k R30 t\r\n"
    yield "mg: R without exptime", v + b"mg k R30 t v\r\n"
    yield "mg: R of a word", v + b"mg k Rx\r\n"
    yield "mg: noreply is a flag", v + b"mg k noreply\r\n"
    yield "mg: LF", v + b"mg k s v\n"
    yield "mg: spaces", v + b"  mg   k   s   v   \r\n"
    yield "mg: value with CR LF", b"set k 0 0 6\r\nEN\r\n\r\n\r\nmg k v\r\n"

    # base64 ------------------------------------------------------------------------------------
    yield "b: mg of the same item as the plain key", b"set foo 0 0 1\r\nv\r\nmg Zm9v b v\r\n"
    yield "b: mg, k is encoded", b"set foo 0 0 1\r\nv\r\nmg Zm9v b k v\r\nmg foo k\r\n"
    yield "b: mg miss", b"mg Zm9v b\r\nmg Zm9v b k\r\nmg Zm9v k b O1\r\n"
    yield "b: of a binary key", b"ms AAEC//4= 1 b\r\nv\r\nmg AAEC//4= b k v\r\nmg AAEC//4= b v\r\n"
    yield "b: set, and k shows it is binary", b"ms AAEC//4= 1 b k\r\nv\r\nma AAEC//4= b k\r\nmd AAEC//4= b k\r\n"
    yield "b: not base64", b"mg !!!! b v\r\nmg a b v\r\nmn\r\n"
    yield "b: without padding", b"mg Zm8 b v\r\nmg Zm8= b v\r\nmg Zg b v\r\nmg Zg== b v\r\n"
    yield "b: padding in the middle", b"mg Zg==Zg== b v\r\nmg Zm=v b v\r\n"
    yield "b: only padding", b"mg ==== b v\r\nmg = b v\r\n"
    yield "b: excess bits", b"mg Zh== b k\r\nset f 0 0 1\r\nv\r\nmg Zh== b k v\r\n"
    yield "b: URL alphabet", b"mg __-_ b v\r\nmg //+/ b v\r\n"
    yield "b: encoded key of 248 bytes", b"mg " + b"QUFB" * 62 + b" b k\r\n"
    yield "b: encoded key of 252 bytes", b"mg " + b"QUFB" * 63 + b" b k\r\nmn\r\n"
    yield "b: not base64 with q", b"mg !!!! b q v\r\nmn\r\n"
    yield "b: a plain key of the same text", b"ms Zm9v 1\r\nv\r\nmg Zm9v v\r\nmg Zm9v b v\r\n"
    yield "b: decoded key with spaces", b"ms YSBi 1 b\r\nv\r\nmg YSBi b k v\r\n"
    yield "b: decoded key with CR LF", b"ms YQ0KYg== 1 b\r\nv\r\nmg YQ0KYg== b k v\r\n"
    yield "b: get of a binary key does not find it by its text", b"ms Zm9v 1 b\r\nv\r\nget Zm9v\r\nget foo\r\n"
    yield "b: what was stored with b is shown with b", b"ms Zm9v 1 b\r\nv\r\nmg Zm9v b k\r\nmg foo k\r\nme foo\r\n"
    yield "b: excess bits are not shown", b"ms Zh== 1 b k\r\nv\r\nmd Zh== b k\r\nma Zh== b k\r\n"
    yield "b: ms not base64", b"ms !!!! 1 b\r\nv\r\nmn\r\n"
    yield "b: ms not base64 with q", b"ms !!!! 1 b q\r\nv\r\nmn\r\n"
    yield "b: md and ma not base64", b"md !!!! b\r\nma !!!! b\r\nmn\r\n"

    # ms ----------------------------------------------------------------------------------------
    yield "ms: set", b"ms k 1\r\nv\r\nmg k v\r\n"
    yield "ms: empty", b"ms k 0\r\n\r\nmg k v\r\n"
    yield "ms: no key, no length", b"ms\r\nms k\r\nmn\r\n"
    yield "ms: no length but flags", b"ms k T0\r\nmn\r\n"
    yield "ms: length of a word", b"ms k x\r\nv\r\nmn\r\n"
    yield "ms: length with a letter", b"ms k 1x\r\nv\r\nmn\r\n"
    yield "ms: S1, the form of before", b"ms k S1\r\nv\r\nmn\r\n"
    yield "ms: negative length", b"ms k -1\r\nmn\r\n"
    yield "ms: length with a plus", b"ms k +1\r\nv\r\nmg k v\r\n"
    yield "ms: length with leading zeros", b"ms k 0001\r\nv\r\nmg k v\r\n"
    yield "ms: length of 2^31", b"ms k 2147483648\r\nmn\r\n"
    yield "ms: length of 2^32+1", b"ms k 4294967297\r\nv\r\nmn\r\n"
    yield "ms: length of 2^31-1", b"ms k 2147483647\r\nmn\r\n"
    yield "ms: above the limit", b"ms k 9000\r\n" + b"x" * 9000 + b"\r\nmn\r\n"
    yield "ms: above the limit, with flags that return", b"ms k 9000 k O1 c\r\n" + b"x" * 9000 + b"\r\nmn\r\n"
    yield "ms: above the limit with q", b"ms k 9000 q\r\n" + b"x" * 9000 + b"\r\nmn\r\n"
    yield "ms: the largest value", b"ms k %d\r\n" % LARGEST + b"x" * LARGEST + b"\r\nmg k s\r\n"
    yield "ms: data too long", b"ms k 1\r\nvw\r\nmn\r\n"
    yield "ms: data too long with q", b"ms k 1 q\r\nvw\r\nmn\r\n"
    yield "ms: data too short", b"ms k 3\r\nv\r\nmn\r\n"
    yield "ms: data ends with LF", b"ms k 1\r\nv\nmn\r\n"
    yield "ms: line ends with LF", b"ms k 1\nv\r\nmg k v\n"
    yield "ms: key of 251 bytes", b"ms " + b"a" * 251 + b" 1\r\nv\r\nmn\r\n"
    yield "ms: key of 251 bytes with q", b"ms " + b"a" * 251 + b" 1 q\r\nv\r\nmn\r\n"
    yield "ms: k", b"ms k 1 k\r\nv\r\n"
    yield "ms: O", b"ms k 1 O123\r\nv\r\n"
    yield "ms: O of 33 bytes", b"ms k 1 O" + b"o" * 33 + b"\r\nv\r\nmn\r\n"
    yield "ms: c", b"ms k 1 c\r\nv\r\nmg k c\r\n"
    yield "ms: s", b"ms k 1 s\r\nv\r\n"
    yield "ms: t", b"ms k 1 T100 t\r\nv\r\n"
    yield "ms: f", b"ms k 1 f\r\nv\r\n"
    yield "ms: v", b"ms k 1 v\r\nv\r\nmn\r\n"
    yield "ms: F", b"ms k 1 F42\r\nv\r\nmg k f\r\nget k\r\n"
    yield "ms: F of 2^32", b"ms k 1 F4294967296\r\nv\r\nmn\r\n"
    yield "ms: F of a word", b"ms k 1 Fx\r\nv\r\nmn\r\n"
    yield "ms: F without a token", b"ms k 1 F\r\nv\r\nmn\r\n"
    yield "ms: F negative", b"ms k 1 F-1\r\nv\r\nmn\r\n"
    yield "ms: T", b"ms k 1 T100\r\nv\r\nmg k t v\r\n"
    yield "ms: T-1", b"ms k 1 T-1\r\nv\r\nmg k t v\r\n"
    yield "ms: T of a word", b"ms k 1 Tx\r\nv\r\nmn\r\n"
    yield "ms: T of a word with q", b"ms k 1 Tx q\r\nv\r\nmn\r\n"
    yield "ms: q", b"ms k 1 q\r\nv\r\nmg k v\r\n"
    yield "ms: q with k and O", b"ms k 1 q k O1\r\nv\r\nmn\r\n"
    yield "ms: q, not stored", v + b"ms k 1 q MA\r\nw\r\nms k 1 q ME O1 k\r\nw\r\nms missing 1 q MR\r\nw\r\nmn\r\n"
    for mode in b"E A P R S e a p r s".split():
        name = mode.decode()
        yield f"ms: M{name} of a missing key", b"ms k 1 M" + mode + b"\r\nw\r\nmg k v\r\n"
        yield f"ms: M{name} of a key that is there", v + b"ms k 1 M" + mode + b"\r\nw\r\nmg k f v\r\n"
    yield "ms: M of words", v + b"ms k 1 Madd\r\nw\r\nms k 1 Mset\r\nx\r\nmg k v\r\n"
    yield "ms: M of nothing known", b"ms k 1 MX\r\nv\r\nmn\r\n"
    yield "ms: M without a token", b"ms k 1 M\r\nv\r\nmn\r\n"
    yield "ms: append with N creates", b"ms k 1 MA N30\r\nw\r\nmg k t v\r\nms k 1 MA N30\r\nx\r\nmg k v\r\n"
    yield "ms: N", b"ms k 1 N30\r\nv\r\nmg k t v\r\n"
    yield "ms: C, has not changed", v + b"mg k c\r\n", b"ms k 1 C<cas>\r\nw\r\nmg k v\r\n"
    yield "ms: C, has changed", v + b"mg k c\r\n", v + b"ms k 1 C<cas> k O1\r\nw\r\nmg k v\r\n"
    yield "ms: C, has changed, with q", v + b"mg k c\r\n", v + b"ms k 1 C<cas> q\r\nw\r\nmn\r\n"
    yield "ms: C of a missing key", b"ms k 1 C1 O1\r\nw\r\nmn\r\n"
    yield "ms: C of a missing key, with q", b"ms k 1 C1 q\r\nw\r\nmn\r\n"
    yield "ms: C of a word", b"ms k 1 Cx\r\nw\r\nmn\r\n"
    yield "ms: C0", v + b"ms k 1 C0\r\nw\r\nmg k v\r\n"
    yield "ms: E", b"ms k 1 E987654321 c\r\nv\r\nmg k c\r\ngets k\r\n"
    yield "ms: E of a word", b"ms k 1 Ex\r\nv\r\nmn\r\n"
    yield "ms: I of a lower unique value", b"ms k 1 E987654321\r\nv\r\nms k 1 I C987654320 c\r\nw\r\nmg k v c t\r\nmg k v\r\n"
    yield "ms: I of a higher unique value", b"ms k 1 E987654321\r\nv\r\nms k 1 I C987654322\r\nw\r\nmg k v\r\n"
    yield "ms: I alone", v + b"ms k 1 I\r\nw\r\nmg k v\r\n"
    yield "ms: unknown flag", b"ms k 1 !\r\nv\r\nmn\r\n"
    yield "ms: flags of other commands", b"ms k 1 x\r\nv\r\nms k 1 D1\r\nv\r\nms k 1 J1\r\nv\r\nmn\r\n"
    yield "ms: a flag twice", b"ms k 1 T0 T0\r\nv\r\nms k 1 c c\r\nw\r\nmn\r\n"
    yield "ms: noreply is a flag", b"ms k 1 noreply\r\nv\r\nmn\r\n"
    yield "ms: all flags", b"ms k 1 c E987654321 F3 I k O1 s T90 MS\r\nv\r\nmg k f t v\r\n"

    # md ----------------------------------------------------------------------------------------
    yield "md: hit and miss", v + b"md k\r\nmd k\r\n"
    yield "md: no key", b"md\r\nmd \r\n"
    yield "md: q", v + b"md k q\r\nmd k q\r\nmn\r\n"
    yield "md: q with k and O", v + b"md k q k O1\r\nmd k q k O2\r\nmn\r\n"
    yield "md: k and O", v + b"md k k O1\r\nmd k k O1\r\n"
    yield "md: b", b"set foo 0 0 1\r\nv\r\nmd Zm9v b k\r\nget foo\r\n"
    yield "md: x", v + b"md k x\r\nmg k f v\r\n"
    yield "md: C, has not changed", v + b"mg k c\r\n", b"md k C<cas>\r\nget k\r\n"
    yield "md: C, has changed", v + b"mg k c\r\n", v + b"md k C<cas>\r\nmd k C<cas> q\r\nmd k C<cas> k O1\r\nget k\r\n"
    yield "md: C of a word", v + b"md k Cx\r\nget k\r\n"
    yield "md: E", v + b"md k I E987654321\r\nmg k c v\r\n"
    yield "md: I marks as stale", v + b"md k I T30\r\nmg k v t\r\nmg k v\r\nmg k v\r\n"
    yield "md: I with C", v + b"mg k c\r\n", b"md k I C<cas>\r\nmg k v\r\n"
    yield "md: I, and ms with I mends it", v + b"md k I\r\nmg k v c\r\n", b"ms k 1 C<cas>\r\nw\r\nmg k v\r\n"
    yield "md: T", v + b"md k I T-1\r\nmg k v\r\n"
    yield "md: T of a word", v + b"md k I Tx\r\nget k\r\n"
    yield "md: T without I", v + b"md k T30\r\nget k\r\n"
    yield "md: unknown flag", v + b"md k !\r\nmd k v\r\nmd k s\r\nget k\r\n"
    yield "md: noreply is a flag", v + b"md k noreply\r\nget k\r\n"
    yield "md: key of 251 bytes", b"md " + b"a" * 251 + b"\r\nmd " + b"a" * 251 + b" q\r\nmn\r\n"
    yield "md: O of 33 bytes", v + b"md k O" + b"o" * 33 + b"\r\nget k\r\n"

    # ma ----------------------------------------------------------------------------------------
    yield "ma: hit and miss", n + b"ma k\r\nma missing\r\nget k\r\n"
    yield "ma: no key", b"ma\r\nma \r\n"
    yield "ma: v", n + b"ma k v\r\n"
    yield "ma: D", n + b"ma k D5 v\r\n"
    yield "ma: D of a word", n + b"ma k Dx v\r\nma k D-1 v\r\nma k D v\r\n"
    yield "ma: D of 2^64", n + b"ma k D18446744073709551616 v\r\nma k D18446744073709551615 v\r\n"
    yield "ma: N creates", b"ma k N0 v\r\nma k N0 v\r\n"
    yield "ma: N and J create", b"ma k N90 J13 v t\r\nma k N90 J13 v t\r\n"
    yield "ma: J without N", b"ma k J13 v\r\n"
    yield "ma: J of a word", b"ma k N0 Jx v\r\n"
    yield "ma: N of a word", b"ma k Nx v\r\n"
    yield "ma: N with q", b"ma k N0 q\r\nma k N0 q\r\nmn\r\n"
    for mode in b"I + incr D - decr i d".split():
        yield f"ma: M{mode.decode()}", n + b"ma k M" + mode + b" D3 v\r\n"
    yield "ma: M of nothing known", n + b"ma k MX\r\nma k M\r\nget k\r\n"
    yield "ma: decrement stops at zero", n + b"ma k MD D11 v\r\n"
    yield "ma: increment wraps", b"set k 0 0 20\r\n18446744073709551615\r\nma k D2 v\r\n"
    yield "ma: T", n + b"ma k T100 t v\r\nmg k t\r\n"
    yield "ma: T of a word", n + b"ma k Tx\r\n"
    yield "ma: t without exptime", n + b"ma k t v\r\n"
    yield "ma: c", n + b"ma k c\r\n"
    yield "ma: C, has not changed", n + b"mg k c\r\n", b"ma k C<cas> v\r\n"
    yield "ma: C, has changed", n + b"mg k c\r\n", n + b"ma k C<cas> v\r\nma k C<cas> q\r\nma k C<cas> k O1\r\nmn\r\n"
    yield "ma: E", n + b"ma k E987654321 c v\r\nmg k c\r\n"
    yield "ma: k and O, hit and miss", n + b"ma k k O1 v\r\nma missing k O1 v\r\n"
    yield "ma: b", b"set foo 0 0 1\r\n7\r\nma Zm9v b k v\r\nget foo\r\n"
    yield "ma: q", n + b"ma k q\r\nma k q v\r\nma missing q\r\nmn\r\nget k\r\n"
    yield "ma: value is not numeric", v + b"ma k v\r\nmn\r\n"
    yield "ma: value is not numeric, with q and O", v + b"ma k q O1\r\nmn\r\n"
    yield "ma: unknown flag", n + b"ma k !\r\nma k s\r\nma k f\r\nget k\r\n"
    yield "ma: noreply is a flag", n + b"ma k noreply\r\nget k\r\n"
    yield "ma: key of 251 bytes", b"ma " + b"a" * 251 + b"\r\nma " + b"a" * 251 + b" q\r\nmn\r\n"
    yield "ma: O of 33 bytes", n + b"ma k O" + b"o" * 33 + b"\r\nget k\r\n"

    # mn, me ------------------------------------------------------------------------------------
    yield "mn", b"mn\r\n"
    yield "mn: LF", b"mn\n"
    yield "mn: with words", b"mn k\r\nmn q\r\nmn O1\r\n"
    yield "mn: a barrier", v + b"mg k v q\r\nmg a v q\r\nmg b v q\r\nmn\r\nmg k v q\r\nmn\r\n"
    yield "me: miss", b"me k\r\n"
    yield "me: hit", v + b"me k\r\n"
    yield "me: hit after get", v + b"get k\r\nme k\r\n"
    yield "me: no key", b"me\r\nme \r\n"
    yield "me: with flags", v + b"me k v\r\nme k O1 q\r\nmn\r\n"
    yield "me: b", b"ms foo 1\r\nv\r\nme Zm9v b\r\n"
    yield "me: b of a binary key", b"ms AAEC//4= 1 b\r\nv\r\nme AAEC//4= b\r\n"
    yield "me: b of what is not base64", b"me !!!! b\r\nmn\r\n"
    yield "me: key of 251 bytes", b"me " + b"a" * 251 + b"\r\nmn\r\n"

    # quiet pipelines ---------------------------------------------------------------------------
    yield "quiet: all commands", v + b"set n 0 0 1\r\n1\r\n" + (
        b"mg k v q\r\nmg a v q\r\nms b 1 q\r\nx\r\nmd missing q\r\nmd k q\r\nma n q\r\nma missing q\r\nmg b v k q\r\nmn\r\n"
    )
    yield "quiet: failures are told", v + b"ms k 1 ME q k\r\nx\r\nmd k C1 q k\r\nma k q O1\r\nmg k Tx q\r\nmn\r\n"
    yield "quiet: mixed with classic", v + b"mg a v q\r\nget k\r\nmg b v q\r\nset j 0 0 1 noreply\r\nw\r\nmg j v q\r\nmn\r\n"
    yield "quiet: 100 misses and a hit", v + b"".join(b"mg m%d v q\r\n" % i for i in range(100)) + b"mg k v q\r\nmn\r\n"
    yield "quiet: 100 sets", b"".join(b"ms m%d 1 q\r\nx\r\n" % i for i in range(100)) + b"mn\r\nmg m99 v\r\n"

    # numbers of words --------------------------------------------------------------------------
    # Flags that mg uses or ignores.
    flags = b"c f h k l s t v q O1 T0 N0 R0 C1 F0 I D1 J1".split()
    yield "words: mg of 17 flags", v + b"mg k " + b" ".join(flags[:17]) + b"\r\nmn\r\n"
    yield "words: mg of 18 flags", v + b"mg k " + b" ".join(flags[:18]) + b"\r\nmn\r\n"
    yield "words: mg of 17 flags, one twice", v + b"mg k" + b" s" * 17 + b"\r\nmn\r\n"
    yield "words: mg of 18 flags, one twice", v + b"mg k" + b" s" * 18 + b"\r\nmn\r\n"
    yield "words: mg of 18 flags with q", v + b"mg k" + b" q" * 18 + b"\r\nmn\r\n"
    yield "words: mg of 60 flags", v + b"mg k" + b" s" * 60 + b"\r\nmn\r\n"
    flags = b"c f h k l s t v q O1 T0 N0 R0 F0 I D1 J1".split()
    yield "words: ms of 16 flags", b"ms k 1 " + b" ".join(flags[:16]) + b"\r\nv\r\nmn\r\n"
    yield "words: ms of 17 flags, data are commands", b"ms k 1 " + b" ".join(flags[:17]) + b"\r\nmn\r\nmn\r\n"
    yield "words: ms of 16 flags, one twice", b"ms k 1" + b" k" * 16 + b"\r\nv\r\nmn\r\n"
    yield "words: ms of 30 flags", b"ms k 1" + b" k" * 30 + b"\r\nv\r\nmn\r\n"
    for word in (b"md", b"ma"):
        name = word.decode()
        yield f"words: {name} of 17 flags, one twice", word + b" k" + b" k" * 17 + b"\r\nmn\r\n"
        yield f"words: {name} of 18 flags, one twice", word + b" k" + b" k" * 18 + b"\r\nmn\r\n"
    yield "words: me of 30 words", b"me k" + b" k" * 30 + b"\r\nmn\r\n"
    yield "words: set of 30 words", b"set k 0 0 1" + b" x" * 30 + b"\r\nv\r\nget k\r\n"
    yield "words: delete of 30 words", b"delete k" + b" x" * 30 + b"\r\n"
    yield "words: unknown of 30 words", b"bogus" + b" x" * 30 + b"\r\nmn\r\n"
    yield "words: version of 30 words", b"version" + b" x" * 30 + b"\r\nmn\r\n"

    # long lines --------------------------------------------------------------------------------
    yield "long line: word of 2000 bytes", b"x" * 2000 + b"\r\nmn\r\n"
    yield "long line: key of 2000 bytes", b"get " + b"x" * 2000 + b"\r\nmn\r\n"
    yield "long line: key of 2000 bytes in set", b"set " + b"x" * 2000 + b" 0 0 1\r\nv\r\nmn\r\n"
    yield "long line: 20,000 bytes without LF", b"x" * 20_000 + b"\r\nmn\r\n"
    yield "long line: set of 20,000 bytes", b"set " + b"x" * 20_000 + b" 0 0 1\r\nv\r\nmn\r\n"
    yield "long line: mg of 20,000 bytes", b"mg " + b"x" * 20_000 + b"\r\nmn\r\n"
    yield "long line: gat of 20,000 bytes", b"gat 0 " + b"x " * 10_000 + b"\r\nmn\r\n"
    yield "long line: gats of 20,000 bytes", b"gats 0 " + b"x " * 10_000 + b"\r\nmn\r\n"
    yield "long line: get of one key of 20,000 bytes", b"get " + b"x" * 20_000 + b"\r\nmn\r\n"
    yield "long line: get of 20,000 bytes", b"get " + b"x " * 10_000 + b"\r\nmn\r\n"
    yield "long line: get of 20,000 bytes behind spaces", b"  get " + b"x " * 10_000 + b"\r\nmn\r\n"
    yield "long line: get of 20,000 bytes behind 100 spaces", b" " * 100 + b"get " + b"x " * 10_000 + b"\r\nmn\r\n"
    yield "long line: get of 20,000 bytes behind 101 spaces", b" " * 101 + b"get " + b"x " * 10_000 + b"\r\nmn\r\n"
    yield "long line: get of 20,000 spaces", b"get " + b" " * 20_000 + b"\r\nmn\r\n"

    # pipelines ---------------------------------------------------------------------------------
    yield "pipeline: errors between", v + b"get k\r\nbogus\r\nget k\r\nincr k 1\r\nget k\r\nset k 0 0 x\r\nget k\r\n\r\nget k\r\n"
    yield "pipeline: noreply errors between", v + (
        b"get k\r\nincr k 1 noreply\r\nget k\r\nadd k 0 0 1 noreply\r\nx\r\nget k\r\ndelete missing noreply\r\nget k\r\n"
        b"incr k x noreply\r\nget k\r\ntouch k x noreply\r\nget k\r\nset k 0 0 9000 noreply\r\n" + b"x" * 9000 + b"\r\nget k\r\n"
    )
    yield "pipeline: 1000 gets", v + b"get k\r\n" * 1000
    yield "pipeline: 1000 sets", b"".join(b"set k%d 0 0 3\r\nabc\r\n" % i for i in range(1000))
    yield "pipeline: 1000 noreply sets", b"".join(b"set k%d 0 0 3 noreply\r\nabc\r\n" % i for i in range(1000)) + b"get k0 k500 k999\r\n"
    yield "pipeline: every classic command", v + n + (
        b"gets missing\r\ngat 0 k\r\ngats 0 missing\r\nadd a 0 0 1\r\na\r\nreplace a 0 0 1\r\nb\r\nappend a 0 0 1\r\nc\r\n"
        b"prepend a 0 0 1\r\nd\r\ncas a 0 0 1 1\r\nx\r\nincr k 1\r\ndecr k 1\r\ntouch k 0\r\nget a k\r\ndelete a\r\nflush_all\r\n"
        b"verbosity 0\r\nget k\r\n"
    )

    # what a proxy cannot offer -----------------------------------------------------------------
    yield "others: watch of a word", b"watch bogus\r\n"
    yield "others: lru", b"lru\r\nlru bogus\r\n"
    yield "others: slabs", b"slabs\r\nslabs automove 0\r\n"
    yield "others: lru_crawler", b"lru_crawler\r\nlru_crawler bogus\r\n"
    yield "others: cache_memlimit", b"cache_memlimit\r\ncache_memlimit x\r\n"
    yield "others: shutdown", b"shutdown\r\n"
    yield "others: refresh_certs", b"refresh_certs\r\n"
    yield "others: misbehave", b"misbehave\r\n"
    yield "others: bget", v + b"bget k\r\n"
    yield "others: extstore", b"extstore\r\n"
    yield "others: debugtime", b"debugtime\r\n"


def cut_conversations():
    """Conversations in which memcached's replies depend on what it reads at once."""
    # The error replaces the replies that have not been sent yet.
    yield "cut: get with a key of 251 bytes after other commands", v + b"get k " + b"a" * 251 + b"\r\nget k\r\n"
    yield "cut: get with a key of 251 bytes, later than other commands", v + b"|get k " + b"a" * 251 + b"\r\nget k\r\n"
    # memcached does not wait for the end of a line above 2048 bytes, except for get and gets.
    yield "cut: line of 2048 bytes, then its end", b"x" * 2048 + b"|\r\nmn\r\n"
    yield "cut: line of 2049 bytes, then its end", b"x" * 2049 + b"|\r\nmn\r\n"
    yield "cut: set line of 2049 bytes, then its end", b"set k 0 0 1" + b" " * 2038 + b"|\r\nv\r\nmn\r\n"
    yield "cut: get line of 2049 bytes, then its end", b"get k" + b" " * 2044 + b"|\r\nmn\r\n"
    yield "cut: gets line of 2049 bytes, then its end", b"gets k" + b" " * 2043 + b"|\r\nmn\r\n"
    yield "cut: gat line of 2049 bytes, then its end", b"gat 0 k" + b" " * 2042 + b"|\r\nmn\r\n"
    yield "cut: mg line of 2049 bytes, then its end", b"mg k" + b" " * 2045 + b"|\r\nmn\r\n"
    yield "cut: get line of 2049 bytes after 101 spaces", b" " * 101 + b"get k" + b" " * 1943 + b"|\r\nmn\r\n"
    yield "cut: line of 3000 bytes in one piece", b"x" * 3000 + b"\r\nmn\r\n"
    yield "cut: line of 3000 bytes in one piece, in the second segment", b"mn\r\n|" + b"x" * 3000 + b"\r\nmn\r\n"
    yield "cut: data with LF after CR later", b"set k 0 0 1\r\nv\r|\nget k\r\n"
    yield "cut: data too long, the end later", b"set k 0 0 1\r\nvw|\r\nget k\r\n"
    yield "cut: early error, before the data come", b"set k 0 0 9000\r\n|" + b"x" * 9000 + b"\r\nget k\r\n"
    yield "cut: CR, then LF", b"get k\r|\nmn\r\n"
# fmt: on


CORPUS = {name: Conversation(name, tuple(steps)) for name, *steps in conversations()}
CUT = {name: Conversation(name, (text,)) for name, text in cut_conversations()}


def pieces_at(data, places):
    """`data` cut at these places."""
    ends = [0, *places, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def converse(address, conversation, cut=lambda data: [data], pause=lambda: None):
    """Holds a conversation with the memcached or the proxy at `address`.

    `cut` returns the pieces of a step. Each is sent in its own segment, and `pause` is called
    between two of them.
    """
    received = b""
    sent = b""
    with connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for step in conversation.steps:
            unique = UNIQUE.findall(received)
            data = step.replace(b"<cas>", unique[-1] if unique else b"no unique value") + END
            sent += data
            first, *others = cut(data)
            if others:
                # The reply shows that the server reads this connection.
                connection.sendall(END)
                assert read_until(connection, END_REPLY) == END_REPLY
            connection.sendall(first)
            for piece in others:
                pause()
                # The other side may have closed already.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(piece)
            reply = read_until(connection, END_REPLY)
            received += reply.removesuffix(END_REPLY)
            if not reply.endswith(END_REPLY):
                return Answer(comparable(received, sent), True)
    return Answer(comparable(received, sent), False)


@contextlib.contextmanager
def pausing(address):
    """A `pause` for `converse`. The server has one thread. When it has replied on another
    connection, it has read everything that was sent before."""
    with connect(address) as other:

        def pause():
            for _ in range(2):
                other.sendall(b"mn\r\n")
                assert other.recv(100) == b"MN\r\n"

        yield pause


def read_until(connection, end):
    """Everything received up to `end`, or until the other side closes, possibly with a reset."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while not received.endswith(end) and (part := connection.recv(1 << 20)):
            received += part
    return bytes(received)


def forget(*servers):
    """Deletes all items of these MemcachedServers."""
    for server in servers:
        with connect(server.address) as connection:
            connection.sendall(b"flush_all\r\n")
            assert connection.recv(100) == b"OK\r\n"


def answers(server):
    """The replies of this MemcachedServer to every conversation."""
    found = {}
    for conversation in CORPUS.values():
        forget(server)
        found[conversation.name] = converse(server.address, conversation)
    with pausing(server.address) as pause:
        for conversation in CUT.values():
            forget(server)
            found[conversation.name] = converse(
                server.address, conversation, lambda data: data.split(b"|"), pause
            )
    return found


def version(server):
    with connect(server.address) as connection:
        connection.sendall(b"version\r\n")
        return connection.recv(100).decode().split()[1]


def record():
    """The record: an Answer by the name of its conversation."""
    rows = json.loads(RECORD.read_text())["answers"]
    return {
        name: Answer(row["received"].encode("latin-1"), row["closed"]) for name, row in rows.items()
    }


def recorded_version():
    """The version of memcached that gave the recorded replies."""
    return json.loads(RECORD.read_text())["memcached"]


def main():
    with MemcachedServer(*ARGUMENTS) as server:
        rows = {
            name: {"received": answer.received.decode("latin-1"), "closed": answer.closed}
            for name, answer in answers(server).items()
        }
        text = {"memcached": version(server), "answers": rows}
    RECORD.write_text(json.dumps(text, indent=1) + "\n")
    print(f"{len(rows)} conversations with memcached {text['memcached']} written to {RECORD}")


if __name__ == "__main__":
    main()
