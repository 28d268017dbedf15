# nutproxy/dispatch/keys.py: where the keys of a Redis request are
"""Finds the keys of a request by the specification in its command's row, and what else decides on
its servers: patterns that form keys. And the option that makes a command wait.
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memchr
from cython.cimports.nutproxy.msg.parse import Arg
from cython.cimports.nutproxy.proto.row import Option, Row
from cython.cimports.nutproxy.proto.table import (
    option_at,
    row_find,
    row_find_sub,
    row_keys,
    same_word,
)

# Positions of keys. A command with more arguments than this needs a table of its own.
KEYS = cython.declare(cython.uint, 256)
key_table = cython.declare(cython.uint[256])


def row_of(custom, data, parser):
    name: cython.pointer(Arg) = cython.address(parser.argv[0])
    row: cython.pointer(Row) = row_find(data + name.offset, name.length)
    if row is cython.NULL and custom is not None:
        row = custom.find(data + name.offset, name.length)
    if row is not cython.NULL and row.container and parser.argc > 1:
        name = cython.address(parser.argv[1])
        row = row_find_sub(row, data + name.offset, name.length)
    return row


def find_keys(row, data, parser, count):
    """The positions of all keys, to be released by `release_keys`; NULL when memory has run out.
    Sets `count` to their number, or to -1 if the arguments do not match the specification."""
    keys: cython.pointer(cython.uint) = cython.address(key_table[0])
    if parser.argc > KEYS:
        keys = cython.cast(
            cython.pointer(cython.uint), malloc(parser.argc * cython.sizeof(cython.uint))
        )
        if keys is cython.NULL:
            return cython.NULL
    count[0] = row_keys(row, parser, data, keys, max(parser.argc, KEYS))
    return keys


def release_keys(keys):
    if keys != cython.address(key_table[0]):
        free(keys)


def measure_keys(custom, data, parser, longest, total):
    """Set the length of the longest key, and the sum of all. They stay 0 if no argument is longer
    than KEY_MAX and all together are not longer than KEYS_MAX."""
    row: cython.pointer(Row)
    keys: cython.pointer(cython.uint)
    length: cython.size_t = 0
    count: cython.int = 0
    index: cython.uint
    for index in range(parser.argc):
        length = max(length, parser.argv[index].length)
    if length <= KEY_MAX and parser.pos <= KEYS_MAX:
        return
    row = row_of(custom, data, parser)
    if row is cython.NULL or row.specs < 0:
        return
    keys = find_keys(row, data, parser, cython.address(count))
    if keys is cython.NULL:
        longest[0] = length
        return
    for index in range(max(count, 0)):
        length = parser.argv[keys[index]].length
        longest[0] = max(longest[0], length)
        total[0] += length
    release_keys(keys)


def stray_pattern(route, row, data, parser, group):
    """The option of SORT whose pattern forms keys that may be on another server, or None.

    The keys can be on any server unless there is a complete hash tag before the `*`. A pattern
    without a `*` forms no keys."""
    index: cython.uint = 2
    option: cython.pointer(Option)
    arg: cython.pointer(Arg)
    start: cython.p_char
    star: cython.p_char
    tagged: cython.size_t
    hash: uint32_t = 0
    while index + 1 < parser.argc:
        option = option_at(row, parser, data, index)
        if option is not cython.NULL and option.pattern:
            arg = cython.address(parser.argv[index + 1])
            start = data + arg.offset
            star = cython.cast(cython.p_char, memchr(start, 42, arg.length))
            if star is not cython.NULL:
                tagged = star - start
                if not route.is_tagged(start, tagged):
                    return option.word
                if route.group_of(start, tagged, cython.address(hash)) != group:
                    return option.word
        index += 1
        if option is not cython.NULL:
            index += option.values
    return None


def find_option(row, data, parser):
    """The position of the row's blocking option, or 0. It is before STREAMS, or after the only key.
    The values of other options are skipped, because a group may have the same name as the
    option."""
    index: cython.uint = row.spec[0].pos if row.spec[0].keyword else row.spec[0].pos + 1
    arg: cython.pointer(Arg)
    option: cython.pointer(Option)
    while index < parser.argc:
        arg = cython.address(parser.argv[index])
        if same_word(data + arg.offset, arg.length, row.option):
            return index
        if same_word(data + arg.offset, arg.length, b"streams"):
            return 0
        option = option_at(row, parser, data, index)
        if option is not cython.NULL:
            index += option.values
        index += 1
    return 0
