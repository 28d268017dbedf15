# nutproxy/proto/redis.py: the Redis protocol, incrementally
"""Finds where a message ends and checks that it is well formed.

Both parsers take the bytes of a message received so far. They return PARSE_OK (the message ends at
`parser.pos`), PARSE_AGAIN (more bytes are needed; the bytes seen so far are not scanned again),
PARSE_SKIP (an empty line or an empty array: drop it) or PARSE_ERROR. They copy nothing and own only
the argument table.

Requests are arrays of bulk strings, or inline commands:

    *2\\r\\n $3\\r\\nGET\\r\\n $1\\r\\nk\\r\\n           argv = [(8, 3), (17, 1)]
    GET k\\r\\n                                  parser.line: `split_inline` takes its words

A request is checked as strictly as a Redis server checks it, with one addition: the two bytes after
a line and after a bulk must be CR LF. Redis skips them without looking. A request that passes these
checks cannot be read differently by a server. Error texts are those of Redis 7 (networking.c),
where Redis has one.

Replies are not built, only counted. `rest` is the number of elements still expected. An aggregate
adds its elements, and the reply is complete when `rest` is zero, so nesting costs nothing. An
attribute (`|`) adds its elements but does not count as one itself. A push (`>`) is accepted only at
the top level. All types that Redis 7 sends are supported; streamed types (`$?`) are not.

Only types, lengths and the CR LF after them are checked, because only these decide where a reply
ends. Scripts and modules put arbitrary text into numbers, doubles, big numbers and verbatim
strings. The client may reject such a reply, but a correctly framed reply never closes a server
connection that other clients share.
"""

import cython
from cython.cimports.libc.stdlib import realloc
from cython.cimports.libc.string import memchr
from cython.cimports.nutproxy.msg.parse import (
    PARSE_AGAIN,
    PARSE_ERROR,
    PARSE_OK,
    PARSE_SKIP,
    Arg,
)

from nutproxy.proto.errors import PROTOCOL_ERRORS

# PROTO_INLINE_MAX_SIZE of Redis: the longest inline command, and the longest line of a length.
LINE_MAX = cython.declare(cython.size_t, 64 * 1024)
# A full argument table grows by a factor of four below this size, and by two above it, because
# clients choose the number of arguments.
TABLE_LARGE = cython.declare(cython.uint, 16384)
# The longest bulk that `short_bulk` accepts.
SHORT_MAX = cython.declare(cython.longlong, 99)
INT_MAX = cython.declare(cython.longlong, 2147483647)
# Maximum elements in one aggregate of a reply, the same limit as in hiredis.
ELEMENTS_MAX = cython.declare(cython.longlong, 4294967295)
# Larger than any bulk that a server sends. A longer one means that the reply is malformed.
REPLY_BULK_MAX = cython.declare(cython.longlong, 1 << 40)

# The texts of malformed requests.
ARRAY_LENGTH = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["array_length"])
ARRAY_LENGTH_LINE = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["array_length_line"])
ARRAY_LENGTH_UNAUTHENTICATED = cython.declare(
    cython.p_const_char, PROTOCOL_ERRORS["array_length_unauthenticated"]
)
NO_DOLLAR = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["no_dollar"])
BULK_LENGTH = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["bulk_length"])
BULK_LENGTH_LINE = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["bulk_length_line"])
BULK_LENGTH_UNAUTHENTICATED = cython.declare(
    cython.p_const_char, PROTOCOL_ERRORS["bulk_length_unauthenticated"]
)
BULK_END = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["bulk_end"])
REQUEST_LENGTH = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["request_length"])
REQUEST_MEMORY = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["request_memory"])
INLINE_LENGTH = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["inline_length"])
BINARY = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["binary"])
TLS = cython.declare(cython.p_const_char, PROTOCOL_ERRORS["tls"])


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def number_line(
    data: cython.p_const_char,
    pos: cython.size_t,
    length: cython.size_t,
    value: cython.pointer(cython.longlong),
    end: cython.pointer(cython.size_t),
) -> cython.int:
    """Parse the integer from `pos` to its CR LF and set `end` to the position after it.

    As strict as Redis' string2ll: no plus sign, no space, no leading zero, no overflow. A line that
    arrives in pieces is scanned again from `pos`; it has at most 23 bytes."""
    negative: cython.bint = False
    digits: cython.int = 0
    number: cython.ulonglong = 0
    char: cython.uchar
    if pos < length and data[pos] == b"-":
        negative = True
        pos += 1
    while pos < length:
        char = data[pos]
        if char < 48 or char > 57:
            break
        # 19 digits cannot overflow 64 bits without a sign.
        if digits == 19 or (number == 0 and (digits == 1 or (negative and char == 48))):
            return PARSE_ERROR
        number = number * 10 + (char - 48)
        digits += 1
        pos += 1
    if pos == length:
        return PARSE_AGAIN
    if data[pos] != b"\r" or digits == 0:
        return PARSE_ERROR
    if pos + 1 == length:
        return PARSE_AGAIN
    if data[pos + 1] != b"\n":
        return PARSE_ERROR
    if number > cython.cast(cython.ulonglong, 9223372036854775807) + negative:
        return PARSE_ERROR
    value[0] = -cython.cast(cython.longlong, number) if negative else number
    end[0] = pos + 2
    return PARSE_OK


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def short_length(
    data: cython.p_const_char,
    pos: cython.size_t,
    length: cython.size_t,
    value: cython.pointer(cython.longlong),
    end: cython.pointer(cython.size_t),
) -> cython.bint:
    """number_line for a length below 100, which nearly all are: 20 instructions instead of 60.
    Returns False for any other line and for an incomplete one."""
    tens: cython.uint
    ones: cython.uint
    if pos + 4 > length:
        return False
    ones = cython.cast(cython.uchar, data[pos]) - 48
    if ones > 9:
        return False
    if data[pos + 1] == b"\r":
        if data[pos + 2] != b"\n":
            return False
        value[0] = ones
        end[0] = pos + 3
        return True
    tens = ones
    ones = cython.cast(cython.uchar, data[pos + 1]) - 48
    if tens == 0 or ones > 9 or data[pos + 2] != b"\r" or data[pos + 3] != b"\n":
        return False
    value[0] = tens * 10 + ones
    end[0] = pos + 4
    return True


@cython.cfunc
@cython.exceptval(check=False)
def bad_line(
    parser: cython.pointer(Parser),
    data: cython.p_const_char,
    length: cython.size_t,
    wrong: cython.p_const_char,
    long_line: cython.p_const_char,
) -> cython.int:
    """The result for a malformed length line. Like Redis, wait until the line is complete, or too
    long, before reporting it."""
    if parser.scan < parser.pos:
        parser.scan = parser.pos
    if memchr(data + parser.scan, b"\r", length - parser.scan) is cython.NULL:
        parser.scan = length
        if length - parser.pos <= LINE_MAX:
            return PARSE_AGAIN
        parser.error = long_line
        return PARSE_ERROR
    parser.error = wrong
    return PARSE_ERROR


def parser_arg(parser, offset, length):
    """Add an argument to the table. Returns -1 if memory has run out."""
    room: cython.uint
    grown: cython.pointer(Arg)
    if parser.argc == parser.argv_room:
        room = max(16, parser.argv_room * (4 if parser.argv_room < TABLE_LARGE else 2))
        grown = cython.cast(cython.pointer(Arg), realloc(parser.argv, room * cython.sizeof(Arg)))
        if grown is cython.NULL:
            return -1
        parser.argv = grown
        parser.argv_room = room
    parser.argv[parser.argc].offset = offset
    parser.argv[parser.argc].length = length
    parser.argc += 1
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def short_args(
    parser: cython.pointer(Parser), data: cython.p_const_char, length: cython.size_t
) -> cython.void:
    """Starting at a length line, take arguments that `short_bulk` accepts while the table has room
    for them."""
    pos: cython.size_t = parser.pos
    count: cython.uint = parser.argc
    room: cython.uint = parser.argv_room
    rest: cython.longlong = parser.rest
    size: cython.size_t
    header: cython.size_t
    if rest < room - count:
        room = cython.cast(cython.uint, count + rest)
    while count < room:
        size = short_bulk(data + pos, length - pos)
        # Size 5 is a null, which is not a valid argument.
        if size < 6:
            break
        header = 4 if data[pos + 2] == b"\r" else 5
        parser.argv[count].offset = pos + header
        parser.argv[count].length = size - header - 2
        count += 1
        pos += size
    parser.rest -= count - parser.argc
    parser.argc = count
    parser.pos = pos


def redis_parse_req(parser, limits, data, length):
    """Parse one request.

    Longer than a screen, because the loop over the arguments is the hottest of all: its position
    and its state stay in local variables."""
    value: cython.longlong = 0
    end: cython.size_t = 0
    result: cython.int

    if parser.state == REQ_START:
        if data[0] != b"*":
            parser.state = REQ_LINE
            return redis_parse_line(parser, data, length)
        if not short_length(data, 1, length, cython.address(value), cython.address(end)):
            result = number_line(data, 1, length, cython.address(value), cython.address(end))
            if result != PARSE_OK:
                if result == PARSE_AGAIN:
                    return PARSE_AGAIN
                return bad_line(
                    parser,
                    data,
                    length,
                    ARRAY_LENGTH,
                    ARRAY_LENGTH_LINE,
                )
        if value > limits.args:
            # The lower limit before AUTH has its own error text.
            if value <= INT_MAX and limits.args < ARGS_MAX:
                parser.error = ARRAY_LENGTH_UNAUTHENTICATED
            else:
                parser.error = ARRAY_LENGTH
            return PARSE_ERROR
        parser.pos = end
        if value <= 0:
            return PARSE_SKIP
        parser.rest = value
        parser.state = REQ_LENGTH
    elif parser.state == REQ_LINE:
        return redis_parse_line(parser, data, length)

    while True:
        if parser.state == REQ_LENGTH:
            if limits.bulk >= SHORT_MAX and length <= limits.request:
                short_args(parser, data, length)
                if parser.rest == 0:
                    return PARSE_OK
            if parser.pos >= length:
                return PARSE_AGAIN
            if data[parser.pos] != b"$":
                parser.error_char = data[parser.pos]
                return bad_line(
                    parser,
                    data,
                    length,
                    NO_DOLLAR,
                    BULK_LENGTH_LINE,
                )
            if not short_length(
                data, parser.pos + 1, length, cython.address(value), cython.address(end)
            ):
                result = number_line(
                    data, parser.pos + 1, length, cython.address(value), cython.address(end)
                )
                if result != PARSE_OK:
                    if result == PARSE_AGAIN:
                        return PARSE_AGAIN
                    return bad_line(
                        parser,
                        data,
                        length,
                        BULK_LENGTH,
                        BULK_LENGTH_LINE,
                    )
            if value < 0 or value > limits.bulk:
                # The lower limit before AUTH has its own error text.
                if 0 <= value <= limits.bulk_later:
                    parser.error = BULK_LENGTH_UNAUTHENTICATED
                else:
                    parser.error = BULK_LENGTH
                return PARSE_ERROR
            parser.pos = end
            parser.length = value
            parser.need = end + value + 2
            if parser.need > limits.request:
                parser.error = REQUEST_LENGTH
                return PARSE_ERROR
            parser.state = REQ_BULK
        if parser.need > length:
            return PARSE_AGAIN
        if data[parser.need - 2] != b"\r" or data[parser.need - 1] != b"\n":
            parser.error = BULK_END
            return PARSE_ERROR
        if parser_arg(parser, parser.pos, parser.length) < 0:
            parser.error = REQUEST_MEMORY
            return PARSE_ERROR
        parser.pos = parser.need
        parser.rest -= 1
        if parser.rest == 0:
            return PARSE_OK
        parser.state = REQ_LENGTH


@cython.cfunc
@cython.exceptval(check=False)
def redis_parse_line(
    parser: cython.pointer(Parser), data: cython.p_const_char, length: cython.size_t
) -> cython.int:
    """Parse an inline command: a line of at most LINE_MAX bytes. `split_inline` splits it later.
    Other protocols are recognised by their first bytes, because a line end may never arrive."""
    found: cython.p_const_char
    if data[0] == cython.cast(cython.char, 0x80):
        parser.error = BINARY
        return PARSE_ERROR
    if length > 1 and data[0] == 0x16 and data[1] == 3:
        parser.error = TLS
        return PARSE_ERROR
    found = cython.cast(
        cython.p_const_char, memchr(data + parser.scan, b"\n", length - parser.scan)
    )
    if found is cython.NULL:
        parser.scan = length
        if length <= LINE_MAX:
            return PARSE_AGAIN
        parser.error = INLINE_LENGTH
        return PARSE_ERROR
    parser.pos = found - data + 1
    if parser.pos == 1 or (parser.pos == 2 and data[0] == b"\r"):
        return PARSE_SKIP
    parser.line = True
    return PARSE_OK


SPACE = b" \t\n\v\f\r"
# Redis skips any of SPACE between words and accepts it after a quoted word, but an unquoted word
# does not end at \v or \f.
WORD_END = b" \t\n\r"
ESCAPES = {110: 10, 114: 13, 116: 9, 98: 8, 97: 7}


def split_inline(line: bytes) -> list[bytes] | None:
    """Split an inline command by the rules of Redis' sdssplitargs: double quotes with backslash
    escapes, single quotes, and a space or the end after a closing quote. Returns None if the quotes
    are unbalanced."""
    line = line.split(b"\0", 1)[0]
    words = []
    pos = 0
    end = len(line)
    while True:
        while pos < end and line[pos] in SPACE:
            pos += 1
        if pos == end:
            return words
        word = bytearray()
        quote = 0
        while True:
            if pos == end:
                if quote:
                    return None
                break
            char = line[pos]
            if quote == 34 and char == 92 and pos + 1 < end:
                pair = line[pos + 2 : pos + 4]
                if line[pos + 1] == 120 and len(pair) == 2 and is_hex(pair):
                    word.append(int(pair, 16))
                    pos += 4
                    continue
                pos += 1
                word.append(ESCAPES.get(line[pos], line[pos]))
            elif quote == 39 and char == 92 and line[pos + 1 : pos + 2] == b"'":
                pos += 1
                word.append(39)
            elif quote and char == quote:
                if pos + 1 < end and line[pos + 1] not in SPACE:
                    return None
                pos += 1
                break
            elif quote:
                word.append(char)
            elif char in WORD_END:
                break
            elif char in (34, 39):
                quote = char
            else:
                word.append(char)
            pos += 1
        words.append(bytes(word))


def is_hex(pair: bytes) -> bool:
    return all(char in b"0123456789abcdefABCDEF" for char in pair)


@cython.cfunc
@cython.exceptval(check=False)
def text_line(
    parser: cython.pointer(Parser), data: cython.p_const_char, length: cython.size_t
) -> cython.int:
    """Parse an element at `pos` that is a line of any text. It ends at the first CR LF."""
    found: cython.p_const_char
    if parser.scan <= parser.pos:
        parser.scan = parser.pos + 1
    while True:
        found = cython.cast(
            cython.p_const_char, memchr(data + parser.scan, b"\r", length - parser.scan)
        )
        if found is cython.NULL:
            parser.scan = length
            return PARSE_AGAIN
        parser.scan = found - data
        if parser.scan + 1 == length:
            return PARSE_AGAIN
        if found[1] == b"\n":
            break
        parser.scan += 1
    parser.pos = parser.scan + 2
    parser.rest -= 1
    return PARSE_OK


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def short_elements(
    parser: cython.pointer(Parser), data: cython.p_const_char, length: cython.size_t
) -> cython.void:
    """Take elements while `short_bulk` accepts them."""
    pos: cython.size_t = parser.pos
    rest: cython.longlong = parser.rest
    size: cython.size_t
    while rest > 0:
        size = short_bulk(data + pos, length - pos)
        if size == 0:
            break
        pos += size
        rest -= 1
    parser.pos = pos
    parser.rest = rest


def redis_parse_rsp(parser, limits, data, length):
    """Parse one reply, RESP2 or RESP3. `parser.kind` is its type byte; attributes before it are
    skipped. Longer than a screen for the same reason as redis_parse_req."""
    value: cython.longlong = 0
    end: cython.size_t = 0
    result: cython.int
    kind: cython.char

    if parser.state == RSP_START:
        parser.rest = 1
        parser.state = RSP_ELEMENT
    while True:
        if parser.state == RSP_BULK:
            if parser.need > length:
                return PARSE_AGAIN
            if data[parser.need - 2] != b"\r" or data[parser.need - 1] != b"\n":
                parser.error = b"bulk without CR LF"
                return PARSE_ERROR
            parser.pos = parser.need
            parser.rest -= 1
            parser.state = RSP_ELEMENT
        if parser.rest == 0:
            return PARSE_OK
        if parser.pos >= length:
            return PARSE_AGAIN

        kind = data[parser.pos]
        if parser.kind == 0 and parser.rest == 1:
            # An attribute before the reply is not the reply itself.
            if kind != b"|":
                parser.kind = kind
        elif kind == b">":
            parser.error = b"push inside a reply"
            return PARSE_ERROR

        if kind == b"$":
            end = parser.pos
            short_elements(parser, data, length)
            if parser.pos != end:
                continue
        if kind == b"$" or kind == b"*" or kind == b":" or kind == b"%" or kind == b"~":
            pass
        elif (
            kind == b"+"
            or kind == b"-"
            or kind == b"_"
            or kind == b","
            or kind == b"#"
            or kind == b"("
        ):
            result = text_line(parser, data, length)
            if result != PARSE_OK:
                return result
            continue
        elif not (kind == b"=" or kind == b"!" or kind == b"|" or kind == b">"):
            parser.error = b"unknown type"
            return PARSE_ERROR

        result = number_line(
            data, parser.pos + 1, length, cython.address(value), cython.address(end)
        )
        if result != PARSE_OK:
            if kind == b">":
                # So that it is seen as the first element again when its line is complete.
                parser.kind = 0
            if kind == b":" and result == PARSE_ERROR:
                # The number does not affect where the reply ends, so any text is accepted.
                result = text_line(parser, data, length)
                if result == PARSE_OK:
                    continue
                return result
            parser.error = b"malformed length"
            return result
        if kind == b":":
            parser.pos = end
            parser.rest -= 1
        elif kind == b"$" or kind == b"=" or kind == b"!":
            if value == -1 and kind == b"$":
                parser.pos = end
                parser.rest -= 1
                continue
            if value < 0 or value > REPLY_BULK_MAX:
                parser.error = b"invalid bulk length"
                return PARSE_ERROR
            parser.pos = end
            parser.need = end + value + 2
            parser.state = RSP_BULK
        else:
            if value == -1 and kind == b"*":
                value = 0
            if value < 0 or value > ELEMENTS_MAX or parser.rest > (1 << 60):
                parser.error = b"invalid aggregate length"
                return PARSE_ERROR
            if kind == b"%" or kind == b"|":
                value *= 2
            parser.pos = end
            parser.rest += value
            if kind != b"|":
                parser.rest -= 1


def put_length(target, kind, value):
    """Write `<kind><value>CRLF` and return its size, at most 23 bytes. `value` is not negative."""
    digits: cython.char[20]
    count: cython.int = 0
    size: cython.size_t = 1
    target[0] = kind
    while True:
        digits[count] = 48 + value % 10
        count += 1
        value //= 10
        if value == 0:
            break
    while count > 0:
        count -= 1
        target[size] = digits[count]
        size += 1
    target[size] = b"\r"
    target[size + 1] = b"\n"
    return size + 2


def read_integer(data, value):
    """Read the number of an integer reply, `:<number>`. Returns False for another type of reply and
    for text that is not a number."""
    end: cython.size_t = 0
    # The parser has seen the line end, so number_line does not read past the reply.
    return data[0] == b":" and number_line(data, 1, 23, value, cython.address(end)) == PARSE_OK


def read_length(data, pos):
    """The number of a line that a parser has already checked. `pos` is at its type byte, and moves
    to the start of the next line."""
    value: cython.longlong = 0
    negative: cython.bint = False
    at: cython.size_t = pos[0] + 1
    if data[at] == b"-":
        negative = True
        at += 1
    while data[at] != b"\r":
        value = value * 10 + (data[at] - 48)
        at += 1
    pos[0] = at + 2
    return -value if negative else value
