# nutproxy/dispatch/words.py: the arguments of a request as Python objects
"""For errors, which repeat a part of the request, and for commands that nutproxy handles itself."""

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.nutproxy.dispatch.forward import answer

from nutproxy.proto import errors
from nutproxy.proto.table import names

# The part of a request that an error repeats: the number of words, and the bytes of each.
WORDS = cython.declare(cython.uint, errors.WORDS)
ECHOED = cython.declare(cython.size_t, errors.ECHOED)


def words_of(data, parser, count, length):
    """The first `count` arguments as bytes objects, each cut to `length` bytes."""
    index: cython.uint
    found: list = []
    for index in range(min(parser.argc, count)):
        found.append(
            PyBytes_FromStringAndSize(
                data + parser.argv[index].offset,
                cython.cast(cython.Py_ssize_t, min(parser.argv[index].length, length)),
            )
        )
    return found


def first_words(data, parser):
    """The part of a request that an error repeats."""
    return words_of(data, parser, WORDS, ECHOED)


def too_long(client, row, parser, flags):
    """Refuse a request with more arguments or bytes than the row of its command allows."""
    if parser.argc > row.max_args:
        text = errors.too_many(names[row.number], parser.argc, row.max_args)
    else:
        text = errors.too_long(names[row.number], parser.pos, row.max_bytes)
    return answer(client, text, flags, True)
