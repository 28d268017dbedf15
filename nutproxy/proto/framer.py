# nutproxy/proto/framer.py: the parsers without a socket
"""For tests and tools: bytes in, messages out."""

import cython
from cython.cimports.libc.stdlib import free
from cython.cimports.nutproxy.msg.message import MSG_NOREPLY
from cython.cimports.nutproxy.msg.parse import (
    PARSE_AGAIN,
    PARSE_ERROR,
    PARSE_SKIP,
    PARSE_SWALLOW,
    Arg,
    parser_reset,
)
from cython.cimports.nutproxy.proto.memcache import REPLY_ERROR
from cython.cimports.nutproxy.proto.redis import ARGS_MAX

from nutproxy.proto.memcache_commands import Reply
from nutproxy.proto.protocols import BINARY, REDIS
from nutproxy.proto.redis import split_inline


@cython.cclass
class Framer:
    """Parses requests of `protocol`, or its replies. `max_bulk` and `max_request` are in bytes."""

    def __init__(
        self,
        protocol: Protocol,
        requests: bool,
        max_bulk: int = 512 * 1024 * 1024,
        max_request: int = 1 << 40,
    ):
        self.protocol = protocol
        self.requests = requests
        self.limits.args = ARGS_MAX
        self.limits.bulk = max_bulk
        self.limits.bulk_later = max_bulk
        self.limits.request = max_request
        self.buffer = b""

    def __dealloc__(self):
        free(self.parser.argv)

    def feed(self, data: bytes) -> list:
        """Add bytes and return the messages that they complete.

        A Redis request is a list of its arguments. An inline command is a list of its words, or
        None if its quotes are unbalanced. A Redis reply is returned as its bytes.

        A Memcached request is a tuple (words, block, noreply, error): a list of bytes; the data
        block or None; whether the client wants no reply; the error reply or None. A reply is a pair
        (form, bytes), where the form is a Reply, or None for an error. A request of the binary
        protocol, or a run of quiet gets, is a pair of its bytes, or of its header if the body is
        dropped, and the error text or None.

        Raises ValueError with the parser's text for malformed framing. Messages before the
        malformed one are returned first, and the next call raises.
        """
        found: list = []
        result: cython.int
        whole: bytes = self.buffer + data
        text: cython.p_const_char = whole
        length: cython.size_t = len(whole)
        start: cython.size_t = 0
        parser: cython.pointer(Parser) = cython.address(self.parser)
        parse: parse_t = self.protocol.parse_request if self.requests else self.protocol.parse_reply
        while start < length:
            if self.swallow:
                start += self.drop(length - start)
                continue
            result = parse(parser, cython.address(self.limits), text + start, length - start)
            if result == PARSE_AGAIN:
                break
            if result == PARSE_ERROR:
                error: bytes = parser.error
                parser_reset(parser)
                if not found:
                    raise ValueError(error.decode().rstrip())
                break
            if result == PARSE_SWALLOW:
                self.swallow = parser.rest
            if result != PARSE_SKIP:
                found.append(self.message(text + start))
            start += parser.pos
            parser_reset(parser)
        self.buffer = whole[start:]
        return found

    def drop(self, length):
        """How many of the next `length` bytes belong to a request that was refused."""
        count: cython.size_t = min(self.swallow, length)
        self.swallow -= count
        return count

    def message(self, data):
        """The message that the parser has found at `data`."""
        parser: cython.pointer(Parser) = cython.address(self.parser)
        index: cython.uint
        arg: cython.pointer(Arg)
        words: list = []
        if not self.requests:
            if self.protocol is REDIS:
                return data[: parser.pos]
            kind = None if parser.kind == REPLY_ERROR else Reply(parser.kind)
            return kind, data[: parser.pos]
        if self.protocol is BINARY:
            error = None if parser.error is cython.NULL else cython.cast(bytes, parser.error)
            return data[: parser.pos], error
        if parser.line:
            return split_inline(data[: parser.pos].rstrip(b"\r\n"))
        for index in range(parser.argc):
            arg = cython.address(parser.argv[index])
            words.append(data[arg.offset : arg.offset + arg.length])
        if self.protocol is REDIS:
            return words
        block = data[parser.pos - parser.length - 2 : parser.pos - 2] if parser.need else None
        error = None if parser.error is cython.NULL else cython.cast(bytes, parser.error)
        return words, block, bool(parser.flags & MSG_NOREPLY), error
