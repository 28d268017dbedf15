# nutproxy/proto/glob.py: Redis' patterns
"""Matches a text with a pattern, as `stringmatchlen` in Redis' util.c does.

    *  any bytes    ?  one byte    [ab-d]  one of these    [^ab]  none of these    \\?  literally

If something after a `*` does not match, the `*` takes one byte more. Only the last one has to be
tried again: what is before it has matched. So the work is bounded by the product of the lengths.
"""

import cython


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def class_end(
    pattern: cython.p_const_char,
    length: cython.Py_ssize_t,
    at: cython.Py_ssize_t,
    byte: cython.schar,
    match: cython.p_int,
) -> cython.Py_ssize_t:
    """The position of the `]` of the class whose `[` is at `at`, or the last byte without one. Sets
    whether it has `byte`."""
    negated: cython.bint = False
    found: cython.bint = False
    first: cython.schar
    last: cython.schar
    at += 1
    if at < length and pattern[at] == b"^":
        negated = True
        at += 1
    while True:
        if at >= length:
            at = length - 1
            break
        if pattern[at] == b"\\" and length - at >= 2:
            at += 1
            found = found or pattern[at] == byte
        elif pattern[at] == b"]":
            break
        elif length - at >= 3 and pattern[at + 1] == b"-":
            first = pattern[at]
            last = pattern[at + 2]
            at += 2
            if first > last:
                first, last = last, first
            found = found or first <= byte <= last
        else:
            found = found or pattern[at] == byte
        at += 1
    match[0] = found != negated
    return at


def glob_match(pattern, pattern_length, text, length, work):
    at: cython.Py_ssize_t = 0
    place: cython.Py_ssize_t = 0
    # After the last `*`, and what it was tried with last; -1 before one.
    star: cython.Py_ssize_t = -1
    tried: cython.Py_ssize_t = 0
    match: cython.int
    if length == 0:
        return pattern_length == 0
    while True:
        work[0] -= 1
        if work[0] < 0:
            return False
        if place == length:
            while at < pattern_length and pattern[at] == b"*":
                at += 1
            # What is left of the pattern would need more text, not less.
            return at == pattern_length
        if at < pattern_length and pattern[at] == b"*":
            at += 1
            star = at
            tried = place
            if at == pattern_length:
                return True
            continue
        match = at < pattern_length
        if match and pattern[at] == b"[":
            work[0] += at
            at = class_end(pattern, pattern_length, at, text[place], cython.address(match))
            work[0] -= at
        elif match and pattern[at] != b"?":
            if pattern[at] == b"\\" and pattern_length - at >= 2:
                at += 1
            match = pattern[at] == text[place]
        if match:
            at += 1
            place += 1
        elif star < 0:
            return False
        else:
            at = star
            tried += 1
            place = tried
