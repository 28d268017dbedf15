# nutproxy/proto/memcache.py: memcached's text protocol, incrementally
"""Finds where a message ends and checks that it is well formed.

Both parsers take the bytes of a message received so far. They return the same codes as the Redis
parsers (proto/redis.py): PARSE_OK, PARSE_AGAIN or PARSE_ERROR; and PARSE_SWALLOW for a
refused storage line, whose data block must be dropped.

    get k1 k2\\r\\n                    argv = the words; kind = the command's number + 1
    set k 0 0 3\\r\\nabc\\r\\n            the same; a data block of `length` bytes follows the line

A request that memcached answers with an error is also a complete message; `error` is then the
reply. PARSE_ERROR, which closes the connection, is returned only for a line that is too long, an
HTTP or Redis request, the binary protocol, TLS, and when memory has run out.

**Numbers and keys are read as memcached reads them** (safe_strtol and related functions). Any
`long` is accepted and truncated to the type of the field, so an exptime of 4294967295 is -1. A key
may contain any byte except space, line feed and NUL. NUL is refused because versions differ: up to
1.6.39 it ends the line, in later versions it does not.

**memcached up to 1.6.39 and later versions read some lines differently.** A server must read the
same requests as the proxy, so these lines are not forwarded unchanged:

  - A storage line with an error in a word other than its length. Later versions skip its data
    block, earlier ones run it as commands. The proxy always skips it.
  - A length that is not written in plain digits (`+5`, `0000000000005`, `4294967301`). Later
    versions refuse it and run the block as commands. MSG_REWORD tells the dispatcher to rewrite it
    in plain digits.
  - `delete noreply`. Later versions send no reply. MSG_REWORD is set for it too.

When every version of memcached refuses a length (`-1`, `x`), there is no data block: the bytes
after the line are the next line.

A reply is recognised by its first word. `kind` is its form (Reply); the caller uses it to check
that the reply can belong to the waiting request. A reply may contain several values and then ends
with END. An error line instead of a value or END also ends the reply.
"""

import cython
from cython.cimports.libc.stdint import int32_t
from cython.cimports.libc.stdlib import calloc
from cython.cimports.libc.string import memchr, memcmp, memcpy
from cython.cimports.nutproxy.msg.message import MSG_NOREPLY, MSG_REWORD
from cython.cimports.nutproxy.msg.parse import (
    PARSE_AGAIN,
    PARSE_ERROR,
    PARSE_OK,
    PARSE_SWALLOW,
    Arg,
)
from cython.cimports.nutproxy.proto.redis import parser_arg

from nutproxy.proto.errors import MEMCACHE_REPLIES
from nutproxy.proto.memcache_commands import COMMANDS, KEY_MAX

KEY_LENGTH = cython.declare(cython.size_t, KEY_MAX)
# Only get, gets, gat and gats may have a longer line.
LINE_MAX = cython.declare(cython.size_t, 2048)
# Maximum length of such a line: room for 100,000 keys of maximum length. It also bounds the
# argument table.
LONG_LINE_MAX = cython.declare(cython.size_t, 32 << 20)
# Maximum words in such a line. There is a separate limit because a word costs more than a byte.
WORDS_MAX = cython.declare(cython.uint, 262144)
# Leading spaces allowed before such a get, as in memcached.
INDENT_MAX = cython.declare(cython.size_t, 100)
# Maximum words of a meta command: memcached has 20 tokens and uses one as the terminator.
META_WORDS = cython.declare(cython.uint, 19)
# Maximum length of a line in a reply: a key, numbers, meta flags, an error text or a statistic.
REPLY_LINE_MAX = cython.declare(cython.size_t, 65536)
# memcached stores the length of a value and its CR LF in an int.
VALUE_MAX = cython.declare(cython.longlong, 2147483647 - 2)
# The first byte of a request in the binary protocol, and the first two bytes of a TLS handshake.
BINARY = cython.declare(cython.uchar, 0x80)
TLS = cython.declare(cython.p_const_char, b"\x16\x03")

# The replies to malformed requests.
BAD_FORMAT = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_format"])
BAD_CHUNK = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_data"])
BAD_EXPTIME = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_exptime"])
TOO_LARGE = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_value_length"])
UNKNOWN = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_unknown"])
MANY_FLAGS = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_many_flags"])
MANY_KEYS = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_many_keys"])
LONG_LINE = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_line_length"])
NO_MEMORY = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["out_of_memory"])
IS_BINARY = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_binary"])
IS_TLS = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_tls"])
IS_REDIS = cython.declare(cython.p_const_char, MEMCACHE_REPLIES["memcache_redis"])

# The bytes at which split_line stops to check for the end of a word. A CR may be part of a word; a
# NUL may not.
ends_word = cython.declare(cython.bint[256])
for _byte in (0, 10, 13, 32):
    ends_word[_byte] = True

count = cython.declare(cython.int)
count = len(COMMANDS)
commands = cython.cast(cython.pointer(Command), calloc(count, cython.sizeof(Command)))
if commands is cython.NULL:
    raise MemoryError


def bits(replies) -> int:
    return sum(1 << reply for reply in replies)


@cython.cfunc
def fill(number: cython.int, name: bytes, row: object):
    command: cython.pointer(Command) = cython.address(commands[number])
    command.number = number
    command.kind = row.kind
    command.min_words = row.min_words
    command.max_words = row.max_words
    command.noreply = row.noreply
    command.replies = bits(row.replies)
    command.quiet = bits(row.quiet)
    command.length = len(name)
    memcpy(command.name, cython.cast(cython.p_const_char, name), len(name))


for _number, (_name, _row) in enumerate(COMMANDS.items()):
    fill(_number, _name.encode(), _row)


def commands_belong_to(protocol):
    """Set the protocol of all commands."""
    number: cython.int
    for number in range(count):
        commands[number].protocol = protocol


# Requests
# ----------------------------------------------------------------------------------------


def is_word(data, arg, word, length):
    return arg.length == length and memcmp(data + arg.offset, word, length) == 0


def command_find(name, length):
    """The number of a command, or -1 if it is unknown. Case-sensitive, as in memcached."""
    number: cython.int
    for number in range(count):
        if commands[number].length == length and memcmp(commands[number].name, name, length) == 0:
            return number
    return -1


def command_of(parser):
    """The table row of a parsed request, or NULL if its command is unknown."""
    if parser.kind == 0:
        return cython.NULL
    return cython.address(commands[parser.kind - 1])


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def is_space(byte: cython.char) -> cython.bint:
    """C's isspace without the space character, which no word contains."""
    return 9 <= byte <= 13


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def number_of(
    data: cython.p_const_char,
    arg: cython.pointer(Arg),
    signed: cython.bint,
    value: cython.pointer(cython.longlong),
) -> cython.bint:
    """Whether memcached's safe_strtoll (with `signed` False: safe_strtoull) accepts this word.

    Fast path for a few digits, which nearly all numbers are."""
    pos: cython.size_t = arg.offset
    end: cython.size_t = pos + arg.length
    number: cython.longlong = 0
    digit: cython.uint
    if arg.length > 18:
        return odd_number_of(data, arg, signed, value)
    while pos < end:
        digit = cython.cast(cython.uchar, data[pos]) - 48
        if digit > 9:
            return odd_number_of(data, arg, signed, value)
        number = number * 10 + digit
        pos += 1
    value[0] = number
    return True


@cython.cfunc
@cython.exceptval(check=False)
def odd_number_of(
    data: cython.p_const_char,
    arg: cython.pointer(Arg),
    signed: cython.bint,
    value: cython.pointer(cython.longlong),
) -> cython.bint:
    """number_of for any word, by the rules of strtoll and strtoull: white space, a sign, and digits
    that fit in 64 bits. White space after the digits ends the number. If `signed` is False, a minus
    sign is accepted only when the result, read as a signed number, is not negative."""
    pos: cython.size_t = arg.offset
    end: cython.size_t = pos + arg.length
    bound: cython.ulonglong = 18446744073709551615
    number: cython.ulonglong = 0
    negative: cython.bint = False
    digit: cython.uint
    start: cython.size_t
    while pos < end and is_space(data[pos]):
        pos += 1
    if pos < end and (data[pos] == b"-" or data[pos] == b"+"):
        negative = data[pos] == b"-"
        pos += 1
    if signed:
        bound = 9223372036854775807
        bound += negative
    start = pos
    while pos < end:
        digit = cython.cast(cython.uchar, data[pos]) - 48
        if digit > 9:
            break
        if number > (bound - digit) // 10:
            return False
        number = number * 10 + digit
        pos += 1
    # memcached up to 1.6.39 stops at a NUL and reads the data block. The line is refused here, and
    # its data block is skipped.
    if pos == start or (pos < end and not is_space(data[pos]) and data[pos] != 0):
        return False
    if negative:
        number = 0 - number
    value[0] = cython.cast(cython.longlong, number)
    return signed or value[0] >= 0 or memchr(data + arg.offset, b"-", arg.length) is cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def keys_fit(parser: cython.pointer(Parser), first: cython.uint, end: cython.uint) -> cython.bint:
    while first < end and parser.argv[first].length <= KEY_LENGTH:
        first += 1
    return first >= end


@cython.cfunc
@cython.exceptval(check=False)
def check_line(
    command: cython.pointer(Command),
    parser: cython.pointer(Parser),
    data: cython.p_const_char,
    nul: cython.bint,
) -> cython.p_const_char:
    """The error that memcached returns for this line, or NULL.

    Only errors that affect how many bytes the server reads are found here; the server reports the
    others. Sets `length` if a data block follows, and MSG_NOREPLY."""
    words: cython.uint = parser.argc
    last: cython.uint = 2
    value: cython.longlong = 0
    kind: cython.int = command.kind
    if words < command.min_words or (command.max_words and words > command.max_words):
        if kind == STORE and words > 4:
            # Later versions of memcached store it, or refuse it and skip its data block.
            data_follows(parser, data, 4)
        return BAD_FORMAT if is_word(data, parser.argv, b"me", 2) else UNKNOWN
    # `delete noreply`: the second word is the key, and only later versions also take it for the
    # noreply option.
    if (
        command.noreply
        and words > 1
        and is_word(data, cython.address(parser.argv[words - 1]), b"noreply", 7)
    ):
        parser.flags |= MSG_NOREPLY if words > 2 or kind == ALL else MSG_REWORD
    if kind == STORE:
        return check_store(command, parser, data, nul)
    if kind == META_STORE:
        return check_meta_store(parser, data, nul)
    if nul:
        return BAD_FORMAT
    if kind in (ALL, LOCAL, UNSUPPORTED):
        return cython.NULL
    if kind in (GET, GAT):
        last = words
        # The key limit also bounds an exptime, because leading zeros could make it arbitrarily long
        # and every part repeats it.
        if kind == GAT and not (
            parser.argv[1].length <= KEY_LENGTH
            and number_of(data, cython.address(parser.argv[1]), True, cython.address(value))
        ):
            return BAD_EXPTIME
    if not keys_fit(parser, 2 if kind == GAT else 1, last):
        return BAD_FORMAT
    return cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def check_store(
    command: cython.pointer(Command),
    parser: cython.pointer(Parser),
    data: cython.p_const_char,
    nul: cython.bint,
) -> cython.p_const_char:
    """check_line for `<name> <key> <flags> <exptime> <bytes> [cas]`."""
    value: cython.longlong = 0
    good: cython.bint = data_follows(parser, data, 4)
    if (
        good
        and not nul
        and parser.argv[1].length <= KEY_LENGTH
        and number_of(data, cython.address(parser.argv[2]), False, cython.address(value))
        and number_of(data, cython.address(parser.argv[3]), True, cython.address(value))
        and (
            command.min_words < 6
            or number_of(data, cython.address(parser.argv[5]), False, cython.address(value))
        )
    ):
        return cython.NULL
    return BAD_FORMAT


@cython.cfunc
@cython.exceptval(check=False)
def check_meta_store(
    parser: cython.pointer(Parser), data: cython.p_const_char, nul: cython.bint
) -> cython.p_const_char:
    """check_line for `ms <key> <bytes> <flag>*`."""
    good: cython.bint = parser.argc > 2 and data_follows(parser, data, 2)
    if parser.argc > META_WORDS and parser.argv[1].length <= KEY_LENGTH:
        return MANY_FLAGS
    if nul or not good or not keys_fit(parser, 1, 2):
        return BAD_FORMAT
    return cython.NULL


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def data_follows(
    parser: cython.pointer(Parser), data: cython.p_const_char, index: cython.uint
) -> cython.bint:
    """Whether a data block follows this line, by its length in word `index`. Sets `length` and
    state MC_DATA.

    Fast path for a few digits, which every version of memcached reads in the same way."""
    arg: cython.pointer(Arg) = cython.address(parser.argv[index])
    pos: cython.size_t = arg.offset
    end: cython.size_t = pos + arg.length
    number: cython.longlong = 0
    digit: cython.uint
    if arg.length > 9 or data[pos] == b"0":
        return odd_data_follows(parser, data, arg)
    while pos < end:
        digit = cython.cast(cython.uchar, data[pos]) - 48
        if digit > 9:
            return odd_data_follows(parser, data, arg)
        number = number * 10 + digit
        pos += 1
    parser.length = number
    parser.state = MC_DATA
    return True


@cython.cfunc
@cython.exceptval(check=False)
def odd_data_follows(
    parser: cython.pointer(Parser), data: cython.p_const_char, arg: cython.pointer(Arg)
) -> cython.bint:
    """data_follows for any word. memcached truncates the `long` to 32 bits."""
    value: cython.longlong = 0
    if not number_of(data, arg, True, cython.address(value)):
        return False
    parser.length = cython.cast(int32_t, value)
    if parser.length < 0 or parser.length > VALUE_MAX:
        return False
    parser.state = MC_DATA
    if arg.length > 1:
        parser.flags |= MSG_REWORD
    return True


@cython.cfunc
@cython.exceptval(check=False)
def split_line(
    parser: cython.pointer(Parser), data: cython.p_const_char, end: cython.size_t
) -> cython.int:
    """Split the line into the argument table, up to WORDS_MAX words.

    Returns 0, 1 if the line contains a NUL, -1 if memory has run out, -2 if there are too many
    words. The CR or LF at `end` also stops the inner loop, so it never reads past the line."""
    pos: cython.size_t = 0
    start: cython.size_t = 0
    nul: cython.int = 0
    while True:
        while not ends_word[cython.cast(cython.uchar, data[pos])]:
            pos += 1
        if pos < end and data[pos] != b" ":
            nul |= data[pos] == 0
            pos += 1
            continue
        if pos > start:
            if parser.argc == WORDS_MAX:
                return -2
            if parser_arg(parser, start, pos - start) < 0:
                return -1
        if pos == end:
            return nul
        pos += 1
        start = pos


@cython.cfunc
@cython.exceptval(check=False)
def may_be_long(data: cython.p_const_char, length: cython.size_t) -> cython.bint:
    """Whether this is the start of a command that takes any number of keys."""
    pos: cython.size_t = 0
    while pos < length and pos < INDENT_MAX and data[pos] == b" ":
        pos += 1
    return length - pos > 5 and (
        memcmp(data + pos, b"get ", 4) == 0
        or memcmp(data + pos, b"gets ", 5) == 0
        or memcmp(data + pos, b"gat ", 4) == 0
        or memcmp(data + pos, b"gats ", 5) == 0
    )


@cython.cfunc
@cython.exceptval(check=False)
def is_foreign(
    parser: cython.pointer(Parser), data: cython.p_const_char, length: cython.size_t
) -> cython.bint:
    """Whether this is the start of another protocol, whose messages may contain no line feed."""
    if data[0] == cython.cast(cython.char, BINARY):
        parser.error = IS_BINARY
        return True
    if length > 1 and memcmp(data, TLS, 2) == 0:
        parser.error = IS_TLS
        return True
    return False


@cython.cfunc
@cython.exceptval(check=False)
def is_redis(parser: cython.pointer(Parser), data: cython.p_const_char) -> cython.bint:
    """Whether an unknown command is the first line of a Redis request, such as `*3`. Its arguments
    would follow, and would be run as commands."""
    pos: cython.size_t
    arg: cython.pointer(Arg)
    if parser.argc != 1:
        return False
    arg = cython.address(parser.argv[0])
    if data[arg.offset] != b"*" or arg.length < 2:
        return False
    pos = digits_end(data, arg.offset + 1, arg.offset + arg.length)
    return pos == arg.offset + arg.length


@cython.cfunc
@cython.exceptval(check=False)
def is_http(parser: cython.pointer(Parser), data: cython.p_const_char) -> cython.bint:
    """Whether an unknown command is the request line of HTTP, which ends in HTTP/…"""
    last: cython.pointer(Arg)
    if parser.argc < 2:
        return False
    last = cython.address(parser.argv[parser.argc - 1])
    return last.length >= 5 and memcmp(data + last.offset, b"HTTP/", 5) == 0


@cython.cfunc
@cython.exceptval(check=False)
def parse_line(
    parser: cython.pointer(Parser),
    limits: cython.pointer(cython.const[Limits]),
    data: cython.p_const_char,
    length: cython.size_t,
) -> cython.int:
    """Parse the command line. Also returns PARSE_AGAIN, with state MC_DATA, if a data block
    follows."""
    found: cython.p_const_char
    end: cython.size_t
    nul: cython.int
    number: cython.int = -1
    if data[0] < 32 and is_foreign(parser, data, length):
        return PARSE_ERROR
    found = cython.cast(
        cython.p_const_char, memchr(data + parser.scan, b"\n", length - parser.scan)
    )
    end = length if found is cython.NULL else found - data
    if end > LINE_MAX and (end > LONG_LINE_MAX or not may_be_long(data, end)):
        parser.error = LONG_LINE
        return PARSE_ERROR
    if found is cython.NULL:
        parser.scan = length
        return PARSE_AGAIN
    parser.pos = end + 1
    if end > 1 and data[end - 1] == b"\r":
        end -= 1
    nul = split_line(parser, data, end)
    if nul == -2:
        parser.error = MANY_KEYS
        return PARSE_OK
    if nul < 0:
        parser.error = NO_MEMORY
        return PARSE_ERROR
    if parser.argc > 0:
        number = command_find(data + parser.argv[0].offset, parser.argv[0].length)
    if number < 0:
        parser.error = UNKNOWN
        if is_redis(parser, data):
            # A Redis error, which the client understands.
            parser.error = IS_REDIS
            return PARSE_ERROR
        # A browser may have been tricked into sending this, so the lines that follow must not be
        # run as commands.
        return PARSE_ERROR if is_http(parser, data) else PARSE_OK
    parser.kind = number + 1
    parser.error = check_line(cython.address(commands[number]), parser, data, nul == 1)
    if parser.state != MC_DATA:
        return PARSE_OK
    if parser.error is cython.NULL and parser.length > limits.bulk:
        parser.error = TOO_LARGE
    if parser.error is not cython.NULL:
        # Skip the data block of a refused request, so that it is not read as commands.
        parser.rest = parser.length + 2
        return PARSE_SWALLOW
    parser.need = parser.pos + parser.length + 2
    return PARSE_AGAIN


def memcache_parse_req(parser, limits, data, length):
    """Parse one request. `limits.bulk` is the maximum size of a value in bytes."""
    result: cython.int
    if parser.state == MC_LINE:
        result = parse_line(parser, limits, data, length)
        if result != PARSE_AGAIN or parser.state == MC_LINE:
            return result
    if length < parser.need:
        return PARSE_AGAIN
    if data[parser.need - 2] != b"\r" or data[parser.need - 1] != b"\n":
        parser.error = BAD_CHUNK
    parser.pos = parser.need
    return PARSE_OK


def base64_decode(data, length, target):
    """Decode the key of a meta command (RFC 4648, padded) into `target`, which needs room for
    `length` bytes. Returns the decoded length, or 0 if the key is not valid base64."""
    pos: cython.size_t
    size: cython.size_t = 0
    word: cython.uint = 0
    padding: cython.size_t = 0
    char: cython.uchar
    value: cython.uint
    if length == 0 or length % 4:
        return 0
    for pos in range(length):
        char = data[pos]
        if char == 61 and pos + 2 >= length:
            padding += 1
            value = 0
        elif padding:
            return 0
        elif 65 <= char <= 90:
            value = char - 65
        elif 97 <= char <= 122:
            value = char - 71
        elif 48 <= char <= 57:
            value = char + 4
        elif char == 43:
            value = 62
        elif char == 47:
            value = 63
        else:
            return 0
        word = word << 6 | value
        if pos % 4 == 3:
            target[size] = cython.cast(cython.char, word >> 16 & 255)
            target[size + 1] = cython.cast(cython.char, word >> 8 & 255)
            target[size + 2] = cython.cast(cython.char, word & 255)
            size += 3
            word = 0
    return size - padding


# Replies
# -----------------------------------------------------------------------------------------


@cython.cfunc
@cython.exceptval(check=False)
def digits_end(
    line: cython.p_const_char, pos: cython.size_t, length: cython.size_t
) -> cython.size_t:
    """The position after the digits at `pos`. Returns `pos` if there are no digits, or more than
    20 of them."""
    start: cython.size_t = pos
    while pos < length and b"0" <= line[pos] <= b"9":
        pos += 1
    return pos if pos - start <= 20 else start


@cython.cfunc
@cython.exceptval(check=False)
def size_word(
    line: cython.p_const_char,
    pos: cython.size_t,
    length: cython.size_t,
    size: cython.pointer(cython.size_t),
) -> cython.size_t:
    """Read the size at `pos` into `size`. Returns the position after it, or `pos` if there is no
    plausible size."""
    end: cython.size_t = digits_end(line, pos, length)
    index: cython.size_t
    size[0] = 0
    if end - pos > 12:
        return pos
    for index in range(pos, end):
        size[0] = size[0] * 10 + (line[index] - 48)
    return end


def value_line(line, length, key, size):
    """Whether this is `VALUE <key> <flags> <bytes> [cas]`.

    `length` excludes the line end. Sets `key` to the length of the key, which starts at offset 6,
    and `size` to the size of the value in bytes."""
    found: cython.p_const_char = cython.cast(
        cython.p_const_char, memchr(line + 6, b" ", length - 6)
    )
    if found is cython.NULL:
        return False
    key[0] = found - line - 6
    if key[0] == 0 or key[0] > KEY_LENGTH:
        return False
    return value_numbers(line, 6 + key[0] + 1, length, size)


def value_numbers(line, start, length, size):
    """Whether the VALUE line continues at `start` with `<flags> <bytes> [cas]`. Sets `size`."""
    end: cython.size_t = digits_end(line, start, length)
    if end == start or end >= length or line[end] != b" ":
        return False
    start = end + 1
    end = size_word(line, start, length, size)
    if end == start:
        return False
    if end == length:
        return True
    start = end + 1
    return line[end] == b" " and digits_end(line, start, length) == length and start < length


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def begins(
    line: cython.p_const_char,
    length: cython.size_t,
    word: cython.p_const_char,
    size: cython.size_t,
) -> cython.bint:
    """Whether `word` is the first word of the line."""
    return (
        length >= size and memcmp(line, word, size) == 0 and (length == size or line[size] == b" ")
    )


@cython.cfunc
@cython.exceptval(check=False)
def word_kind(line: cython.p_const_char, length: cython.size_t) -> cython.int:
    """The form of a single-line reply, or REPLY_NONE if it is not one."""
    end: cython.size_t
    char: cython.char = line[0] if length else 0
    if length == 2 or (length > 2 and line[2] == b" "):
        if char == b"H" and line[1] == b"D":
            return REPLY_HD
        if char == b"E":
            if line[1] == b"N":
                return REPLY_EN
            if line[1] == b"X":
                return REPLY_EX
        if char == b"N":
            if line[1] == b"F":
                return REPLY_NF
            if line[1] == b"S":
                return REPLY_NS
        if char == b"O" and line[1] == b"K":
            return REPLY_OK
        if char == b"M" and line[1] == b"E":
            return REPLY_ME
    if length == 6 and memcmp(line, b"STORED", 6) == 0:
        return REPLY_STORED
    if length == 6 and memcmp(line, b"EXISTS", 6) == 0:
        return REPLY_EXISTS
    if length == 7 and memcmp(line, b"DELETED", 7) == 0:
        return REPLY_DELETED
    if length == 7 and memcmp(line, b"TOUCHED", 7) == 0:
        return REPLY_TOUCHED
    if length == 9 and memcmp(line, b"NOT_FOUND", 9) == 0:
        return REPLY_NOT_FOUND
    if length == 10 and memcmp(line, b"NOT_STORED", 10) == 0:
        return REPLY_NOT_STORED
    if length == 5 and memcmp(line, b"RESET", 5) == 0:
        return REPLY_RESET
    # The remaining forms contain free text. Some clients would take a CR in it for the line end.
    if memchr(line, b"\r", length) is not cython.NULL:
        return REPLY_NONE
    if begins(line, length, b"VERSION", 7):
        return REPLY_VERSION
    if (
        begins(line, length, b"ERROR", 5)
        or begins(line, length, b"CLIENT_ERROR", 12)
        or begins(line, length, b"SERVER_ERROR", 12)
    ):
        return REPLY_ERROR
    # decr pads a number that has become shorter with spaces.
    end = digits_end(line, 0, length)
    if end > 0:
        while end < length and line[end] == b" ":
            end += 1
        if end == length:
            return REPLY_NUMBER
    return REPLY_NONE


@cython.cfunc
@cython.exceptval(check=False)
def reply_line(
    parser: cython.pointer(Parser), line: cython.p_const_char, length: cython.size_t
) -> cython.int:
    """Parse one line of a reply and move `pos` to `scan`, the start of the next line.

    Returns PARSE_OK if the line ends the reply, PARSE_AGAIN if more follows, and PARSE_ERROR if
    memcached sends no such line here."""
    key: cython.size_t = 0
    size: cython.size_t = 0
    end: cython.size_t
    kind: cython.int
    parser.pos = parser.scan
    if parser.kind != REPLY_STATS and length > 6 and memcmp(line, b"VALUE ", 6) == 0:
        if not value_line(line, length, cython.address(key), cython.address(size)):
            parser.error = b"malformed VALUE line"
            return PARSE_ERROR
        parser.kind = REPLY_VALUES
        parser.argc += 1
        parser.length = key
        parser.state = MC_VALUE
        parser.need = parser.pos + size + 2
        return PARSE_AGAIN
    if length == 3 and memcmp(line, b"END", 3) == 0:
        if parser.kind == 0:
            parser.kind = REPLY_VALUES
        return PARSE_OK
    if parser.kind != REPLY_VALUES and (
        begins(line, length, b"STAT", 4)
        or begins(line, length, b"ITEM", 4)
        or begins(line, length, b"PREFIX", 6)
    ):
        parser.kind = REPLY_STATS
        return PARSE_AGAIN
    if parser.kind == 0 and length > 3 and memcmp(line, b"VA ", 3) == 0:
        end = size_word(line, 3, length, cython.address(size))
        if end == 3 or (end < length and line[end] != b" "):
            parser.error = b"malformed VA line"
            return PARSE_ERROR
        parser.kind = REPLY_VA
        parser.state = MC_LAST_VALUE
        parser.need = parser.pos + size + 2
        return PARSE_AGAIN
    kind = word_kind(line, length)
    if kind == REPLY_ERROR or (kind != REPLY_NONE and parser.kind == 0):
        parser.kind = kind
        return PARSE_OK
    parser.error = b"unknown word"
    return PARSE_ERROR


def memcache_parse_rsp(parser, limits, data, length):
    """Parse one reply. `parser.kind` is its form. For a reply with values, `argc` is the number of
    values and `length` the length of the last key."""
    found: cython.p_const_char
    end: cython.size_t
    result: cython.int
    while True:
        if parser.state != MC_REPLY:
            if length < parser.need:
                return PARSE_AGAIN
            if data[parser.need - 2] != b"\r" or data[parser.need - 1] != b"\n":
                parser.error = b"value without CR LF"
                return PARSE_ERROR
            parser.pos = parser.need
            if parser.state == MC_LAST_VALUE:
                return PARSE_OK
            parser.state = MC_REPLY
        if parser.scan < parser.pos:
            parser.scan = parser.pos
        found = cython.cast(
            cython.p_const_char, memchr(data + parser.scan, b"\n", length - parser.scan)
        )
        end = length if found is cython.NULL else found - data
        if end - parser.pos > REPLY_LINE_MAX:
            parser.error = b"line too long"
            return PARSE_ERROR
        parser.scan = end
        if found is cython.NULL:
            return PARSE_AGAIN
        if end == parser.pos or data[end - 1] != b"\r":
            parser.error = b"line without CR LF"
            return PARSE_ERROR
        parser.scan = end + 1
        result = reply_line(parser, data + parser.pos, end - 1 - parser.pos)
        if result != PARSE_AGAIN:
            return result
