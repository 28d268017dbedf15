# nutproxy/arguments.py: the values of options
"""What the options of the command line accept. Each function takes the text of an argument, and
raises argparse's ArgumentTypeError with what would be accepted."""

import argparse
import re
from fractions import Fraction

from nutproxy.config.model import MBUF_MAX_SIZE, MBUF_MIN_SIZE
from nutproxy.config.values import MAX_PORT, host
from nutproxy.plain import MAX_INT, VERBOSE_MAX


def digits(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 40:
        raise argparse.ArgumentTypeError(f"requires a number, not '{text}'")
    return int(text)


def verbosity(text: str) -> int:
    """Values above the maximum are lowered to it, as in twemproxy."""
    return min(digits(text), VERBOSE_MAX)


def stats_port(text: str) -> int:
    port = digits(text)
    if port > MAX_PORT:
        raise argparse.ArgumentTypeError(
            f"{text} is not a valid port, accepted: 1 to {MAX_PORT}, 0 for no statistics port"
        )
    return port


def address(text: str) -> str:
    try:
        return host(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def interval(text: str) -> int:
    milliseconds = digits(text)
    if milliseconds > MAX_INT:
        raise argparse.ArgumentTypeError(
            f"{text} is out of range, accepted: 0 to {MAX_INT} milliseconds"
        )
    return milliseconds


def mbuf_size(text: str) -> int:
    size = digits(text)
    if not MBUF_MIN_SIZE <= size <= MBUF_MAX_SIZE:
        raise argparse.ArgumentTypeError(
            f"mbuf chunk size must be between {MBUF_MIN_SIZE} and {MBUF_MAX_SIZE} bytes"
        )
    return size


def file_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("requires a file name")
    return text


def share(text: str) -> Fraction:
    """A part of a whole, in percent."""
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%?", text)
    part = Fraction(found[1]) / 100 if found else Fraction(2)
    if part > 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share, accepted: 0% to 100%")
    return part
