# tests/fuzz/strict.py: a second reader of requests, in plain Python
"""Finds the requests that a server would find, but shares no code with the parsers. It has no state
and no buffer.

The functions get all bytes at once. They return the messages like the Framer of the protocol, and
whether the bytes after the last message are malformed. They do not return the text of the error.
"""

import re
import struct

KB = 1024

# Redis ----------------------------------------------------------------------------------------

NUMBER = rb"(0|-?[1-9][0-9]{0,18})\r\n"
COUNT = re.compile(rb"\*" + NUMBER)
LENGTH = re.compile(rb"\$" + NUMBER)
# An incomplete length line that may still become valid.
PARTIAL = re.compile(rb"[*$](?:-?|(?:0|-?[1-9][0-9]{0,18})\r?)\Z")
ARGS_MAX = 1024 * 1024

SPACES = re.compile(rb"[ \t\n\v\f\r]*")
BARE = re.compile(rb"""[^ \t\n\r"']*""")
DOUBLE = re.compile(rb'"((?:\\.|[^"\\])*)"(?=[ \t\n\v\f\r]|\Z)', re.S)
# A backslash before a quote always escapes it.
SINGLE = re.compile(rb"'((?:\\'|(?!\\')[^'])*)'(?=[ \t\n\v\f\r]|\Z)", re.S)
ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.S)
NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def redis_requests(data: bytes, max_bulk: int) -> tuple[list, bool]:
    found, at = [], 0
    while at < len(data):
        if data[at] == 0x80 or data[at : at + 2] == b"\x16\x03":
            return found, True
        if data[at] != 42:
            end = data.find(b"\n", at) + 1
            if not end:
                return found, len(data) - at > 64 * KB
            line = data[at:end]
            if line not in (b"\n", b"\r\n"):
                found.append(inline_words(line.rstrip(b"\r\n")))
            at = end
            continue
        argv, at, broken = array(data, at, max_bulk)
        if at < 0:
            return found, broken
        if argv:
            found.append(argv)
    return found, False


def array(data: bytes, at: int, max_bulk: int) -> tuple[list, int, bool]:
    """The arguments, the offset of their end or -1 if there is none, and whether the request is
    malformed, so that it can never end."""
    count = COUNT.match(data, at)
    if count is None:
        return [], -1, not unfinished(data, at)
    if not -(2**63) <= int(count[1]) <= ARGS_MAX:
        return [], -1, True
    at = count.end()
    argv = []
    for _ in range(int(count[1])):
        length = LENGTH.match(data, at)
        if length is None:
            return [], -1, not unfinished(data, at, b"$")
        if not 0 <= int(length[1]) <= max_bulk:
            return [], -1, True
        start, at = length.end(), length.end() + int(length[1]) + 2
        if at > len(data):
            return [], -1, False
        if data[at - 2 : at] != b"\r\n":
            return [], -1, True
        argv.append(data[start : at - 2])
    return argv, at, False


def unfinished(data: bytes, at: int, sign: bytes = b"*") -> bool:
    """Whether the line may still become valid. Redis waits for a CR up to 64 KB."""
    rest = data[at:]
    if not rest or (rest[:1] == sign and PARTIAL.match(rest)):
        return True
    return b"\r" not in rest and len(rest) <= 64 * KB


def inline_words(line: bytes) -> list[bytes] | None:
    """None if quotes are unbalanced."""
    line = line.partition(b"\0")[0]
    words, at = [], 0
    while (at := match_end(SPACES, line, at)) < len(line):
        end = match_end(BARE, line, at)
        word = line[at:end]
        if line[end : end + 1] in (b'"', b"'"):
            quoted = (DOUBLE if line[end] == 34 else SINGLE).match(line, end)
            if quoted is None:
                return None
            if line[end] == 34:
                word += ESCAPE.sub(unescaped, quoted[1])
            else:
                word += quoted[1].replace(b"\\'", b"'")
            end = quoted.end()
        words.append(word)
        at = end
    return words


def match_end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None
    return match.end()


def unescaped(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    return NAMED.get(match[2], match[2])


# Memcached ------------------------------------------------------------------------------------

LINE_MAX = 2048
ANY_KEYS = re.compile(rb" {0,100}(?:get|gets|gat|gats) ")
STORAGE = {
    b"set": 5,
    b"add": 5,
    b"replace": 5,
    b"append": 5,
    b"prepend": 5,
    b"cas": 6,
}
REDIS = re.compile(rb"\*[0-9]+\Z")
# The end of a C string ends a number, too.
SIGNED = re.compile(rb"[\t-\r]*([+-]?[0-9]+)(?:[\t-\r\0].*)?\Z", re.S)


def memcache_requests(
    data: bytes, max_bulk: int, commands: frozenset[bytes]
) -> tuple[list[tuple[list[bytes], bytes | None]], bool]:
    """The words and the data block of each message."""
    found, at = [], 0
    while at < len(data):
        if data[at] == 0x80 or data[at : at + 2] == b"\x16\x03":
            return found, True
        end = data.find(b"\n", at)
        line = data[at : len(data) if end < 0 else end]
        if len(line) > LINE_MAX and (not ANY_KEYS.match(line) or len(line) > max_bulk):
            return found, True
        if end < 0:
            return found, False
        at = end + 1
        if len(line) > 1 and line.endswith(b"\r"):
            line = line[:-1]
        words = [word for word in line.split(b" ") if word]
        unknown = not words or words[0] not in commands
        if unknown and (is_http(words) or (len(words) == 1 and REDIS.match(words[0]))):
            return found, True
        size, good = block_size(words)
        if size is not None and (not good or size > max_bulk or b"\0" in line):
            # The block and the two bytes after it are skipped.
            found.append((words, None))
            at += size + 2
            continue
        block = None
        if size is not None:
            if at + size + 2 > len(data):
                return found, False
            block = data[at : at + size]
            at += size + 2
        found.append((words, block))
    return found, False


def is_http(words: list[bytes]) -> bool:
    return len(words) > 1 and words[-1].startswith(b"HTTP/")


def block_size(words: list[bytes]) -> tuple[int | None, bool]:
    """The size of the data block after this line, or None if it has no block, and whether the rest
    of the line is valid."""
    place = 2 if words and words[0] == b"ms" else 4
    if not words or words[0] not in {b"ms", *STORAGE} or len(words) <= place:
        return None, False
    value = number(words[place], -(2**63), 2**63 - 1)
    size = None if value is None else (value + 2**31) % 2**32 - 2**31
    if size is None or not 0 <= size <= 2147483645:
        return None, False
    good = len(words[1]) <= 250
    if words[0] == b"ms":
        # memcached accepts twenty words, and counts the end of the line as one.
        return size, good and len(words) <= 19
    least = STORAGE[words[0]]
    good = good and len(words) in (least, least + 1) and unsigned(words[2])
    good = good and number(words[3], -(2**63), 2**63 - 1) is not None
    return size, good and (least == 5 or unsigned(words[5]))


def unsigned(word: bytes) -> bool:
    value = number(word, -(2**64) + 1, 2**64 - 1)
    return value is not None and (b"-" not in word or value % 2**64 < 2**63)


def number(word: bytes, least: int, most: int) -> int | None:
    match = SIGNED.match(word)
    if match is None or not least <= int(match[1]) <= most:
        return None
    return int(match[1])


# Memcached, binary ----------------------------------------------------------------------------

HEADER = struct.Struct(">BBHBBHIIQ")
# The lengths of extras, whether there is a key, and whether there may be a value, by the opcodes.
# None: with or without. The body of TOUCH, GAT and STAT may have something after the key.
LAYOUTS: dict[tuple[int, ...], tuple[set[int], bool | None, bool]] = {
    (0x00, 0x04, 0x09, 0x0C, 0x0D, 0x14): ({0}, True, False),
    (0x01, 0x02, 0x03, 0x11, 0x12, 0x13): ({8}, True, True),
    (0x05, 0x06, 0x15, 0x16): ({20}, True, False),
    (0x07, 0x0A, 0x0B, 0x17, 0x20): ({0}, False, False),
    (0x08, 0x18): ({0, 4}, False, False),
    (0x0E, 0x0F, 0x19, 0x1A, 0x21, 0x22): ({0}, True, True),
    (0x10,): ({0}, None, True),
    (0x1C, 0x1D, 0x1E, 0x23, 0x24): ({4}, True, True),
}
LAYOUT_OF = {opcode: layout for opcodes, layout in LAYOUTS.items() for opcode in opcodes}


def binary_requests(data: bytes, max_bulk: int) -> tuple[list[tuple[bytes, bytes | None]], bool]:
    """The bytes of each message, or its header and an error."""
    found: list[tuple[bytes, bytes | None]] = []
    at = 0
    while at < len(data):
        if data[at] != 0x80:
            return found, True
        if len(data) - at < HEADER.size:
            break
        _, opcode, key, extras, _, _, body, _, _ = HEADER.unpack_from(data, at)
        value = body - key - extras
        if value < 0 or key > 250 or body > 1 << 30:
            return found, True
        end = at + HEADER.size + body
        error = b"Unknown command" if opcode not in LAYOUT_OF else None
        if opcode in LAYOUT_OF:
            lengths, keyed, valued = LAYOUT_OF[opcode]
            if extras not in lengths or keyed not in (None, key > 0) or (value and not valued):
                return found, True
            if error is None and value > max_bulk:
                error = b"Too large."
        if error is not None:
            found.append((data[at : at + HEADER.size], error))
        elif end > len(data):
            break
        else:
            found.append((data[at:end], None))
        at = end
    return found, False
