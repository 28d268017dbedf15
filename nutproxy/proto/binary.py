# nutproxy/proto/binary.py: requests of memcached's binary protocol
"""Finds where a request ends, and checks that it is well formed.

    header  24 bytes: magic, opcode, lengths of key, extras and body, opaque, cas
    body    extras, key, value

The parser returns the same codes as those of the text protocols. The dispatcher reads the fields
from the header. Only a run of quiet gets has arguments: several GetQ and GetKQ that have arrived
together, whose keys a text command can carry, are one message. argv[0] is empty, the others are the
keys.

**Errors.** `error` is the text, and `kind` the status. Lengths that do not belong to the opcode,
and another magic byte, end the connection, as in memcached. An unknown opcode is a complete
request. So is a value that is too large: it is dropped as it comes.

memcached forgets that it has already read the key and the extras of a request with an unknown
opcode, and drops as many bytes of the next request. Here a request ends where its header says.
"""

import cython
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.nutproxy.msg.parse import (
    PARSE_AGAIN,
    PARSE_ERROR,
    PARSE_OK,
    PARSE_OTHER,
    PARSE_SWALLOW,
)
from cython.cimports.nutproxy.proto.memcache import command_find, commands
from cython.cimports.nutproxy.proto.redis import parser_arg

from nutproxy.proto.binary_commands import OPCODES as TABLE
from nutproxy.proto.binary_commands import TEXTS, Form, Status
from nutproxy.proto.memcache_commands import KEY_MAX

KEY_LENGTH = cython.declare(cython.size_t, KEY_MAX)
# memcached ends the connection if a body is larger than its largest item can ever be.
BODY_MAX = cython.declare(cython.size_t, 1 << 30)
# Keys of one run. It bounds the argument table, as in the text protocol.
RUN_MAX = cython.declare(cython.uint, 262144)

MODES = {"set": b"S", "add": b"E", "replace": b"R", "append": b"A", "prepend": b"P"} | {
    "incr": b"I",
    "decr": b"D",
}
TEXT_COMMANDS = {Form.GET: b"gets", Form.GAT: b"gats"}
META_COMMANDS = {
    Form.GET: b"mg",
    Form.GAT: b"mg",
    Form.TOUCH: b"mg",
    Form.STORE: b"ms",
    Form.DELETE: b"md",
    Form.COUNT: b"ma",
}

UNKNOWN = cython.declare(cython.p_const_char, TEXTS[Status.UNKNOWN])
INVALID = cython.declare(cython.p_const_char, TEXTS[Status.INVALID])
TOO_LARGE = cython.declare(cython.p_const_char, TEXTS[Status.TOO_LARGE])
NO_MEMORY = cython.declare(cython.p_const_char, TEXTS[Status.NO_MEMORY])
# Empty: memcached closes the connection without a reply.
NOT_BINARY = cython.declare(cython.p_const_char, b"")

# The bytes of a key that goes into a line of text as it is: no blank, and no control byte.
in_text_key = cython.declare(cython.bint[256])


@cython.cfunc
def set_up():
    byte: cython.int
    opcode: cython.int
    shape: cython.pointer(Shape)
    memset(cython.address(shapes[0]), 0, cython.sizeof(shapes))
    for byte in range(33, 256):
        in_text_key[byte] = byte != 127
    codes = {row.name: row.code for row in TABLE}
    for row in TABLE:
        opcode = row.code
        shape = cython.address(shapes[opcode])
        shape.known = True
        shape.form = row.form
        shape.extras = min(row.extras)
        shape.other_extras = max(row.extras)
        shape.needs_key = row.key is True
        shape.no_key = row.key is False
        shape.value = row.value
        shape.quiet = row.quiet
        shape.keyed = row.keyed
        shape.loud = codes[row.name.removesuffix("Q")] if row.quiet else opcode
        shape.mode = MODES.get(row.command, b"S")[0]
        name: bytes = row.command.encode()
        shape.denied = command_find(name, len(name)) if name else -1
        set_row(cython.address(as_text[opcode]), opcode, TEXT_COMMANDS.get(row.form, name))
        set_row(cython.address(as_meta[opcode]), opcode, META_COMMANDS.get(row.form, name))


@cython.cfunc
def set_row(row: cython.pointer(BinaryRow), opcode: cython.int, name: bytes):
    number: cython.int = command_find(name, len(name))
    if number >= 0:
        row.command = commands[number]
    row.opcode = opcode


set_up()


def binary_rows_belong_to(protocol):
    """Set the protocol of all rows: that of the servers, which speak text."""
    opcode: cython.int
    for opcode in range(OPCODES):
        as_text[opcode].command.protocol = protocol
        as_meta[opcode].command.protocol = protocol


def is_text_key(key, length):
    """Can a line of the text protocol carry this key as it is?"""
    index: cython.size_t = 0
    while index < length and in_text_key[cython.cast(cython.uchar, key[index])]:
        index += 1
    return index == length


@cython.cfunc
@cython.exceptval(check=False)
def fail(
    parser: cython.pointer(Parser), status: cython.int, text: cython.p_const_char
) -> cython.int:
    parser.error = text
    parser.kind = cython.cast(cython.char, status)
    return PARSE_ERROR


def binary_parse_first(parser, limits, data, length):
    """The parser of a client whose protocol is not known yet: the first byte decides."""
    return PARSE_OTHER


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def run_key(data: cython.p_const_char, length: cython.size_t) -> cython.size_t:
    """The length of the key, if this is a complete quiet get whose key is text; else 0."""
    key: cython.size_t
    if (
        length < HEADER
        or cython.cast(cython.uchar, data[0]) != MAGIC_REQUEST
        or (data[1] != OP_GETQ and data[1] != OP_GETKQ)
        or data[4] != 0
    ):
        return 0
    key = load16(data + 2)
    if (
        key > KEY_LENGTH
        or load32(data + 8) != key
        or length < HEADER + key
        or not is_text_key(data + HEADER, key)
    ):
        return 0
    return key


@cython.cfunc
@cython.exceptval(check=False)
def parse_run(
    parser: cython.pointer(Parser), data: cython.p_const_char, length: cython.size_t
) -> cython.int:
    """Parse a quiet get, and those that have arrived after it."""
    key: cython.size_t = run_key(data, length)
    if key == 0:
        # Its key is not text.
        return PARSE_OK
    parser.pos = 0
    if parser_arg(parser, 0, 0) < 0:
        return fail(parser, STATUS_NO_MEMORY, NO_MEMORY)
    while key and parser.argc <= RUN_MAX:
        if parser_arg(parser, parser.pos + HEADER, key) < 0:
            return fail(parser, STATUS_NO_MEMORY, NO_MEMORY)
        parser.pos += HEADER + key
        key = run_key(data + parser.pos, length - parser.pos)
    return PARSE_OK


@cython.cfunc
@cython.exceptval(check=False)
def check_header(
    parser: cython.pointer(Parser),
    limits: cython.pointer(cython.const[Limits]),
    shape: cython.pointer(Shape),
    data: cython.p_const_char,
) -> cython.int:
    """Check the lengths in the header, before anything of the body is kept."""
    key: cython.size_t = load16(data + 2)
    extras: cython.int = cython.cast(cython.uchar, data[4])
    body: cython.size_t = load32(data + 8)
    # For the reply to a header that ends the connection.
    parser.state = cython.cast(cython.uchar, data[1])
    parser.length = load32(data + 12)
    if key + extras > body:
        return fail(parser, STATUS_UNKNOWN, UNKNOWN)
    if body > BODY_MAX or key > KEY_LENGTH:
        return fail(parser, STATUS_INVALID, INVALID)
    if shape.known and (
        (extras != shape.extras and extras != shape.other_extras)
        or (shape.needs_key and key == 0)
        or (shape.no_key and key != 0)
        or (not shape.value and body != key + extras)
    ):
        return fail(parser, STATUS_INVALID, INVALID)
    if not shape.known:
        fail(parser, STATUS_UNKNOWN, UNKNOWN)
    elif cython.cast(cython.longlong, body - key - extras) > limits.bulk:
        fail(parser, STATUS_TOO_LARGE, TOO_LARGE)
    if parser.error is not cython.NULL:
        parser.pos = HEADER
        parser.rest = body
        return PARSE_SWALLOW if body else PARSE_OK
    parser.need = HEADER + body
    return PARSE_AGAIN


def binary_parse_req(parser, limits, data, length):
    """Parse one request, or a run of quiet gets. `limits.bulk` is the maximum size of a value."""
    shape: cython.pointer(Shape)
    result: cython.int
    if cython.cast(cython.uchar, data[0]) != MAGIC_REQUEST:
        return fail(parser, STATUS_OK, NOT_BINARY)
    if length < HEADER:
        return PARSE_AGAIN
    shape = cython.address(shapes[cython.cast(cython.uchar, data[1])])
    if parser.need == 0:
        result = check_header(parser, limits, shape, data)
        if result != PARSE_AGAIN:
            return result
    if length < parser.need:
        return PARSE_AGAIN
    parser.pos = parser.need
    if shape.quiet and shape.form == BIN_GET:
        return parse_run(parser, data, length)
    return PARSE_OK


def put_number(target, number):
    """Write the digits of a number. Returns how many there are, at most 20."""
    digits: cython.char[20]
    at: cython.size_t = 20
    while True:
        at -= 1
        digits[at] = cython.cast(cython.char, 48 + number % 10)
        number //= 10
        if number == 0:
            break
    memcpy(target, cython.address(digits[at]), 20 - at)
    return 20 - at


ALPHABET = cython.declare(
    cython.p_const_char, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)


def base64_encode(data, length, target):
    """Write base64 (RFC 4648, padded). Returns its length: 4 bytes for each 3, rounded up."""
    index: cython.size_t = 0
    at: cython.size_t = 0
    left: cython.size_t
    word: cython.uint
    while index < length:
        left = length - index
        word = cython.cast(cython.uchar, data[index]) << 16
        if left > 1:
            word |= cython.cast(cython.uchar, data[index + 1]) << 8
        if left > 2:
            word |= cython.cast(cython.uchar, data[index + 2])
        target[at] = ALPHABET[word >> 18]
        target[at + 1] = ALPHABET[word >> 12 & 63]
        target[at + 2] = ALPHABET[word >> 6 & 63] if left > 1 else 61
        target[at + 3] = ALPHABET[word & 63] if left > 2 else 61
        index += 3
        at += 4
    return at
