# tests/compat/scripts.py: what nutcracker and nutproxy reply to the same bytes
"""Conversations with both proxies, which have the same configuration file. The replies are the
same, or there is a reason for the difference.

    SAME          (pool, name, bytes to send): both reply with the same bytes
    DIFFERENCES   what twemproxy does, what nutproxy does, why; and the conversations that show it,
                  each with the replies of both
    ELSEWHERE     differences that no single conversation shows, each with the tests that show it

docs/differences.md is generated from the two tables by `python -m tests.compat.scripts`.

A conversation is one write on a new connection to an empty pool of three servers. The pools are
`redis`, `auth` (Redis with a redis_auth) and `memcached`.
"""

from __future__ import annotations

from typing import NamedTuple

from nutproxy.builtin.memcache import SUFFIX
from tests.client import requests

CLOSED = b"<closed>"  # at the end of a reply: the proxy has closed the connection


class Script(NamedTuple):
    pool: str
    sent: bytes
    theirs: bytes
    ours: bytes


class Difference(NamedTuple):
    what: str
    theirs: str
    ours: str
    why: str
    scripts: tuple[Script, ...]


def redis(*commands: str) -> bytes:
    return requests(*commands)


def lines(*texts: bytes) -> bytes:
    return b"".join(text + b"\r\n" for text in texts)


# Words, because fnv1a_64 spreads keys that differ only in their last byte over few servers.
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
KEYS = " ".join(WORDS)
PAIRS = " ".join(f"{word} {number}" for number, word in enumerate(WORDS))

SAME_REDIS = {
    "strings": [
        "SET a 1",
        "GET a",
        "INCR a",
        "INCRBY a 5",
        "DECR a",
        "APPEND a x",
        "STRLEN a",
        "GETSET a y",
        "SETNX a z",
        "SETNX b z",
        "SETEX c 100 v",
        "PSETEX d 100000 v",
        "SETRANGE a 0 q",
        "GETRANGE a 0 1",
        "INCRBYFLOAT f 1.5",
        "GETDEL a",
        "GET a",
    ],
    "keys": [
        "SET a 1",
        "EXISTS a",
        "EXISTS b",
        "TYPE a",
        "TTL a",
        "PTTL a",
        "EXPIRE a 100",
        "PERSIST a",
        "DEL a",
        "DEL a",
        "UNLINK a",
        "TOUCH a",
    ],
    "several keys": [
        f"MSET {PAIRS}",
        f"MGET {KEYS}",
        f"MGET {KEYS} missing beta beta",
        f"TOUCH {KEYS}",
        f"DEL {KEYS}",
        f"MGET {KEYS}",
        f"UNLINK {KEYS}",
        "MSET a 1 a 2",
        "MGET a a",
        "MGET a",
    ],
    "hashes": [
        "HSET h a 1 b 2",
        "HGET h a",
        "HMGET h a c",
        "HLEN h",
        "HEXISTS h a",
        "HDEL h a",
        "HINCRBY h n 4",
        "HGETALL h",
    ],
    "lists": [
        "RPUSH l a b c",
        "LRANGE l 0 -1",
        "LLEN l",
        "LINDEX l 1",
        "LPOP l",
        "RPOP l",
        "LINSERT l BEFORE b x",
        "LSET l 0 y",
        "LTRIM l 0 0",
        "LRANGE l 0 -1",
    ],
    "sets": [
        "SADD s a",
        "SADD s a",
        "SCARD s",
        "SISMEMBER s a",
        "SMEMBERS s",
        "SREM s a",
        "SPOP s",
    ],
    "sorted sets": [
        "ZADD z 1 a 2 b",
        "ZRANGE z 0 -1 WITHSCORES",
        "ZSCORE z a",
        "ZINCRBY z 5 a",
        "ZRANK z a",
        "ZCARD z",
        "ZCOUNT z 0 9",
        "ZREM z a",
        "ZREVRANGE z 0 -1",
    ],
    "one tag": [
        "SADD {t}a 1 2",
        "SADD {t}b 2 3",
        "SINTERSTORE {t}c {t}a {t}b",
        "SMEMBERS {t}c",
        "RPUSH {t}l x",
        "RPOPLPUSH {t}l {t}m",
        "LRANGE {t}m 0 -1",
    ],
    "errors of the server": ["SET a x", "INCR a", "LPUSH a x", "GET a", "SETEX a 0 v", "HGET a f"],
    "arguments that are missing": ["SET a"],
    "hyperloglog, geo, bits": [
        "PFADD p a b",
        "PFCOUNT p",
        "GEOADD g 13.3 38.1 x",
        "GEODIST g x x",
        "SETBIT b 7 1",
        "GETBIT b 7",
        "BITCOUNT b",
    ],
    "scripts": ["EVAL return{KEYS[1],ARGV[1]} 1 a b", "EVALSHA 0000 1 a"],
    "ping": ["PING", "SET a 1", "PING", "GET a"],
    "AUTH without a password": ["AUTH x"],
}

VALUE = b"x" * 100000

SAME = [
    *(("redis", name, redis(*commands)) for name, commands in SAME_REDIS.items()),
    (
        "redis",
        "empty and binary values",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n"
        b"$1\r\na\r\n*3\r\n$3\r\nSET\r\n$3\r\n\r\n\xff\r\n$4\r\n\r\n\x00\x01\r\n*2\r\n$3\r\nget\r\n$3\r\n\r\n\xff\r\n",
    ),
    ("redis", "a large value", redis(f"SET a {VALUE.decode()}", "GET a", "STRLEN a")),
    (
        "auth",
        "authentication",
        redis("AUTH wrong", "AUTH secret", "SET a 1", "GET a"),
    ),
    (
        "memcached",
        "storage",
        lines(
            b"set a 0 0 3",
            b"abc",
            b"get a",
            b"add a 0 0 1",
            b"x",
            b"add b 5 0 1",
            b"x",
            b"replace c 0 0 1",
            b"x",
            b"append a 0 0 1",
            b"d",
            b"prepend a 0 0 1",
            b"_",
            b"get a",
            b"get b",
            b"get c",
            b"set e 4294967295 0 0",
            b"",
            b"get e",
        ),
    ),
    (
        "memcached",
        "counters and the rest",
        lines(
            b"set n 0 0 1",
            b"5",
            b"incr n 3",
            b"decr n 10",
            b"incr m 1",
            b"touch n 100",
            b"touch m 0",
            b"delete n",
            b"delete n",
            b"incr n 1",
        ),
    ),
    (
        "memcached",
        "cas of another",
        lines(
            b"set a 0 0 1",
            b"x",
            b"cas a 0 0 1 18446744073709551615",
            b"y",
            b"cas b 0 0 1 1",
            b"y",
            b"get a",
        ),
    ),
    (
        "memcached",
        "several keys",
        lines(),
    ),
    (
        "memcached",
        "noreply",
        lines(
            b"set a 0 0 1 noreply",
            b"1",
            b"incr a 4 noreply",
            b"append a 0 0 1 noreply",
            b"0",
            b"get a",
            b"touch a 9 noreply",
            b"delete a noreply",
            b"get a",
        ),
    ),
    ("memcached", "errors of the server", lines(b"set a 0 0 1", b"x", b"incr a 1", b"get a")),
    (
        "memcached",
        "a key of 250 bytes",
        lines(b"set %b 0 0 1" % (b"k" * 250), b"x", b"get " + b"k" * 250),
    ),
    ("memcached", "too large", lines(b"set a 0 0 1100000", b"x" * 1100000, b"get a")),
    (
        "memcached",
        "values of CR LF",
        lines(b"set a 0 0 4", b"\r\n\r\n", b"get a", b"set a 0 0 5", b"END\r\n", b"get a"),
    ),
]


def unsupported(pool: str, before: bytes, sent: bytes, ours: bytes) -> Script:
    """A request on which twemproxy closes the connection. It loses the reply to the one before."""
    return Script(pool, before + sent, CLOSED, ours)


SET = redis("SET a 1")
MC_SET = b"set a 0 0 1\r\nx\r\n"

DIFFERENCES = [
    Difference(
        "An unknown or unsupported command",
        "closes the connection without an error and drops the replies to earlier requests",
        "an error reply in its turn; the connection stays open",
        "the request was well formed, so the next one can be parsed",
        (
            unsupported(
                "redis",
                SET,
                redis("FOO b"),
                b"+OK\r\n-ERR unknown command 'FOO', with args beginning with: 'b' \r\n",
            ),
            unsupported(
                "redis",
                SET,
                redis("REPLCONF a b"),
                b"+OK\r\n-ERR 'REPLCONF' is not supported by nutproxy\r\n",
            ),
            unsupported("memcached", MC_SET, b"foo\r\n", b"STORED\r\nERROR\r\n"),
            unsupported("memcached", MC_SET, b"GET a\r\n", b"STORED\r\nERROR\r\n"),
        ),
    ),
    Difference(
        "Commands that twemproxy does not know",
        "closes the connection",
        "supported",
        "clients and operators use them",
        (
            unsupported("redis", SET, redis("ECHO hi"), b"+OK\r\n$2\r\nhi\r\n"),
            unsupported("redis", SET, redis("DBSIZE"), b"+OK\r\n:1\r\n"),
            unsupported("redis", SET, redis("SELECT 0"), b"+OK\r\n+OK\r\n"),
            unsupported("redis", SET, redis("EXPIRE a 100 NX"), b"+OK\r\n:1\r\n"),
            unsupported("redis", SET, redis("PING hi"), b"+OK\r\n$2\r\nhi\r\n"),
            unsupported(
                "memcached", MC_SET, b"gat 100 a\r\n", b"STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"
            ),
            unsupported("memcached", MC_SET, b"flush_all\r\nget a\r\n", b"STORED\r\nOK\r\nEND\r\n"),
            unsupported("memcached", MC_SET, b"mg a v\r\nmn\r\n", b"STORED\r\nVA 1\r\nx\r\nMN\r\n"),
            unsupported("memcached", MC_SET, b"verbosity 0\r\n", b"STORED\r\nOK\r\n"),
        ),
    ),
    Difference(
        "Inline commands",
        "closes the connection",
        "parsed as Redis parses them",
        "operators use telnet and nc",
        (unsupported("redis", SET, b"GET a\r\n", b"+OK\r\n$1\r\n1\r\n"),),
    ),
    Difference(
        "Broken framing",
        "closes the connection without an error. It forwards lengths such as `$03`, and Redis"
        " then closes the connection that all clients share",
        "sends the replies to earlier requests and Redis' error text, then closes this client's"
        " connection only",
        "one client must not harm another",
        (
            unsupported(
                "redis",
                SET,
                b"*1\r\n:1\r\n",
                b"+OK\r\n-ERR Protocol error: expected '$', got ':'\r\n" + CLOSED,
            ),
        ),
    ),
    Difference(
        "QUIT",
        "closes without a reply",
        "`+OK`, then closes",
        "Redis does so, and clients may wait for the reply",
        (
            Script(
                "redis", redis("SET a 1", "QUIT"), b"+OK\r\n" + CLOSED, b"+OK\r\n+OK\r\n" + CLOSED
            ),
        ),
    ),
    Difference(
        "EXISTS with several keys",
        "counts the keys on the first key's server only",
        "counts all keys",
        "the reply must be correct",
        (
            Script(
                "redis",
                redis(f"MSET {PAIRS}", f"EXISTS {KEYS}"),
                b"+OK\r\n:3\r\n",
                b"+OK\r\n:10\r\n",
            ),
        ),
    ),
    Difference(
        "Commands whose keys do not come first (ZUNION, ZINTER, ZDIFF, EVAL without keys, ...)",
        "hashes the number of keys instead of a key: the request goes to the wrong server, or the"
        " connection closes",
        "finds the keys with Redis' own command table",
        "the reply must be correct",
        (
            Script(
                "redis",
                redis("ZADD beta 1 a", "ZUNION 1 beta"),
                b":1\r\n*0\r\n",
                b":1\r\n*1\r\n$1\r\na\r\n",
            ),
            unsupported("redis", SET, redis("EVAL return(1) 0"), b"+OK\r\n:1\r\n"),
        ),
    ),
    Difference(
        "A command with keys on several servers that cannot be split",
        "sends it to the first key's server, where the other keys seem to be missing",
        "refuses it with `-CROSSSLOT`; the error names the hash tag",
        "the reply must be correct",
        (
            Script(
                "redis",
                redis("SADD alpha x", "SADD beta x", "SINTER alpha beta"),
                b":1\r\n:1\r\n*0\r\n",
                b":1\r\n:1\r\n-CROSSSLOT Keys of 'SINTER' are on different servers of pool 'redis';"
                b" keys with the same text between '{}' share a server\r\n",
            ),
        ),
    ),
    Difference(
        "A client that has not authenticated",
        "`-NOAUTH Authentication required`",
        "the same with a full stop, as in Redis",
        "Redis' exact text",
        (
            Script(
                "auth",
                redis("GET a", "AUTH wrong", "AUTH secret", "PING"),
                b"-NOAUTH Authentication required\r\n-ERR invalid password\r\n+OK\r\n+PONG\r\n",
                b"-NOAUTH Authentication required.\r\n-ERR invalid password\r\n+OK\r\n+PONG\r\n",
            ),
        ),
    ),
    Difference(
        "A failed AUTH after a successful one",
        "the client is no longer authenticated",
        "the client stays authenticated",
        "as in Redis",
        (
            Script(
                "auth",
                redis("AUTH secret", "AUTH wrong", "GET a", "AUTH secret"),
                b"+OK\r\n-ERR invalid password\r\n-NOAUTH Authentication required\r\n+OK\r\n",
                b"+OK\r\n-ERR invalid password\r\n$-1\r\n+OK\r\n",
            ),
        ),
    ),
    Difference(
        "A transaction",
        "closes the connection",
        "carries it out on the server of its keys",
        "applications use it",
        (
            unsupported(
                "redis",
                SET,
                redis("MULTI", "INCR a", "EXEC", "GET a"),
                b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n$1\r\n2\r\n",
            ),
        ),
    ),
    Difference(
        "`SELECT`",
        "closes the connection",
        "changes the client's database",
        "applications use it",
        (
            unsupported(
                "redis",
                SET,
                redis("SELECT 1", "DEL a", "SELECT 0", "GET a"),
                b"+OK\r\n+OK\r\n:0\r\n+OK\r\n$1\r\n1\r\n",
            ),
        ),
    ),
    Difference(
        "memcached: a key that is too long",
        "closes the connection",
        "memcached's `CLIENT_ERROR`; the connection stays open",
        "memcached does so",
        (
            unsupported(
                "memcached",
                MC_SET,
                b"get %b\r\n" % (b"k" * 251),
                b"STORED\r\nCLIENT_ERROR bad command line format\r\n",
            ),
        ),
    ),
    Difference(
        "memcached: a negative exptime, `delete k 0`",
        "closes the connection",
        "as memcached",
        "memcached accepts them: the item expires at once, and 0 is the only delay that delete"
        " still accepts",
        (
            unsupported("memcached", b"", b"set a 0 -1 1\r\nx\r\nget a\r\n", b"STORED\r\nEND\r\n"),
            unsupported("memcached", MC_SET, b"delete a 0\r\n", b"STORED\r\nDELETED\r\n"),
        ),
    ),
    Difference(
        "memcached: a data block of another length than announced",
        "closes the connection",
        "`CLIENT_ERROR bad data chunk`; continues after the data block, as memcached does",
        "memcached does so",
        (
            unsupported(
                "memcached",
                MC_SET,
                b"set b 0 0 1\r\nxyz\r\n",
                b"STORED\r\nCLIENT_ERROR bad data chunk\r\nERROR\r\n",
            ),
        ),
    ),
    Difference(
        "memcached: a storage line that is refused",
        "closes the connection; memcached up to 1.6.39 runs its data block as commands",
        "memcached's `CLIENT_ERROR`; skips the data block, as memcached 1.6.40 does, for servers"
        " of any version",
        "a value must never be read as commands",
        (
            unsupported(
                "memcached",
                b"",
                b"set a x 0 9\r\nflush_all\r\n",
                b"CLIENT_ERROR bad command line format\r\n",
            ),
        ),
    ),
    Difference(
        "memcached: version",
        "the version of one of the servers",
        "the lowest version of the servers with nutproxy's own appended: `1.6.18-nutproxy-0.1.0`;"
        " `1.6.0` if none is known",
        "clients detect features by it, also when all servers are down",
        (
            Script(
                "memcached",
                b"version\r\n",
                b"VERSION 1.6.18\r\n",
                b"VERSION 1.6.18%b\r\n" % SUFFIX.encode(),
            ),
        ),
    ),
]


class Elsewhere(NamedTuple):
    what: str
    theirs: str
    ours: str
    why: str
    tests: tuple[str, ...]  # file::test, below tests/


ELSEWHERE = [
    Elsewhere(
        "A malformed length (`$03`, `$4294967299`, `*02`)",
        "forwards it; Redis closes the connection that all clients share, and all of them get"
        " errors",
        "refuses it as Redis does; only the sender's connection closes",
        "one client must not harm another",
        ("integration/test_defects.py::test_malformed_length_hurts_only_who_sent_it",),
    ),
    Elsewhere(
        "`MGET`, or `get` of several keys, with a dead server",
        "an error, and the client's connection closes",
        "an error that names the server; the connection stays open. In a Memcached pool with"
        " `on_dead_server: miss` the dead server's keys are misses",
        "the client's other requests are not affected",
        ("integration/test_defects.py::test_dead_shard_fails_a_command_and_not_its_client",),
    ),
    Elsewhere(
        "A split command, if one server replies with an error",
        "`-ERR Invalid argument`",
        "the server's own error. It says so if other parts have changed data",
        "the client needs the cause",
        ("integration/test_defects.py::test_part_that_fails_gives_its_own_text",),
    ),
    Elsewhere(
        "`-OOM`, `-BUSY`, `-LOADING` from a server",
        "closes the shared connection; all clients on it get `-ERR Invalid argument`",
        "passes the error to the client that sent the request",
        "a full server can still serve reads",
        (
            "integration/test_defects.py::test_full_server_refuses_writes_and_nothing_else",
            "integration/test_defects.py::test_busy_server_says_so_itself",
        ),
    ),
    Elsewhere(
        "A request that times out",
        "every request on that connection fails",
        "that request fails; its late reply is dropped",
        "each request has its own deadline",
        (
            "integration/test_server_health.py::"
            "test_a_timed_out_request_does_not_fail_its_neighbours",
            "integration/test_defects.py::test_late_reply_reaches_nobody",
        ),
    ),
    Elsewhere(
        "The error for a server that is dead, silent or closes the connection",
        "`-ERR Connection refused`, `-ERR Connection timed out`, `-ERR unknown`",
        "the names of server and pool, then the same cause; never `unknown`",
        "an operator has to find the server",
        (
            "integration/test_server_health.py::"
            "test_a_refused_connect_is_answered_at_once_and_no_other_server_suffers",
        ),
    ),
    Elsewhere(
        "A server that is slow or stopped",
        "the first timeout closes the connection and fails all requests on it",
        "each request has its own timeout. The connection is closed after two timeouts of"
        " silence. After five seconds of silence, requests fail within milliseconds",
        "a slow server must cost as few requests as possible",
        (
            "integration/test_recovery.py::"
            "test_a_server_that_is_disturbed_costs_no_more_errors_than_with_nutcracker",
        ),
    ),
    Elsewhere(
        "`SCRIPT KILL`, `FUNCTION KILL`",
        "not supported",
        "sent to all servers, over connections of their own",
        "they must not wait for the script that they are to end",
        (
            "integration/test_busy_servers.py::"
            "test_script_kill_reaches_a_script_that_runs_on_the_clients_connection",
        ),
    ),
    Elsewhere(
        "A server that fails",
        "every request tries to connect again; an ejected server is tried with clients' requests",
        "nutproxy finds out with probes (connect, handshake, PING) when it is back. Requests make"
        " probes more frequent, up to one every 10 ms. They wait for the probe and fail if it"
        " fails",
        "no request should fail to test a server",
        (
            "integration/test_server_health.py::"
            "test_requests_for_a_dead_server_share_one_connect_in_ten_milliseconds",
            "integration/test_server_health.py::"
            "test_no_request_fails_between_the_ejection_and_the_return",
        ),
    ),
    Elsewhere(
        "Failures that eject a server",
        "each closed connection counts, so one event on several connections ejects the server",
        "one event counts once",
        "`server_failure_limit` counts events",
        ("integration/test_server_health.py::test_one_event_on_many_connections_is_one_failure",),
    ),
    Elsewhere(
        "`redis_auth` with `redis_db`",
        "sends SELECT before AUTH, so the data is in database 0; sends no SELECT to unix sockets",
        "AUTH, then SELECT, everywhere",
        "the data must be in the database that the file names. With both set, twemproxy's data is"
        " in database 0: set `redis_db: 0`, or move the data",
        ("integration/test_defects.py::test_data_is_in_the_database_of_the_pool",),
    ),
    Elsewhere(
        "`server_connections` above 1",
        "spreads the requests of one client over all of them, so a read can overtake a write",
        "a client uses one connection per server",
        "clients must read their own writes",
        (
            "integration/test_defects.py::"
            "test_client_reads_its_own_writes_over_several_server_connections",
        ),
    ),
    Elsewhere(
        "Memory",
        "every message takes an mbuf that is never returned to the system. A client that does not"
        " read its replies has no bound",
        "bounded by `client_max_requests`, `client_max_pending` and `server_max_queue`; returned"
        " after a burst",
        "one client must not take all the memory",
        (
            "integration/test_defects.py::test_memory_of_a_burst_is_given_back",
            "integration/test_defects.py::test_memory_of_a_slow_reader_is_bounded_and_given_back",
        ),
    ),
    Elsewhere(
        "A request or a reply that never ends",
        "kept forever",
        "requests are bounded by `client_query_buffer_limit` and `client_request_timeout`. A"
        " reply that is too long is dropped, and its request gets an error",
        "one client must not take all the memory",
        (
            "isolation/test_bounds.py::test_unfinished_requests_of_all_clients_are_bounded",
            "isolation/test_bounds.py::test_a_request_that_stands_still_ends_its_client_alone",
            "isolation/test_bounds.py::test_a_line_without_an_end_is_not_kept",
        ),
    ),
    Elsewhere(
        "MGET, MSET, DEL with more than 262,144 arguments, a key of more than 1 MB, keys of more"
        " than 16 MB together, a `get` of more"
        " than 262,144 keys",
        "all other clients wait until the keys are hashed and copied",
        "refused with an error, those of Redis only in a pool of several servers; the connection"
        " stays open",
        "one client must not delay the others",
        (
            "isolation/test_large_requests.py::"
            "test_a_redis_command_with_a_million_arguments_holds_up_no_other_pool",
            "isolation/test_large_requests.py::"
            "test_a_redis_command_with_an_argument_of_64_mb_holds_up_no_other_pool",
        ),
    ),
    Elsewhere(
        "`distribution: random`",
        "groups the keys of an MGET by one random draw and sends them by another",
        "one draw per key",
        "keys must be grouped and sent by the same draw",
        ("integration/test_defects.py::test_random_distribution_draws_once_for_each_key",),
    ),
    Elsewhere(
        "A host name whose lookup fails or is slow",
        "`Host is down`; the whole proxy waits for the name server",
        "looks it up in a thread; only that server's keys fail",
        "a lookup must not block the event loop",
        ("integration/test_defects.py::test_unresolvable_server_fails_only_its_own_keys",),
    ),
    Elsewhere(
        "memcached: a line feed or a NUL in a key",
        "forwards it: a client can inject commands, and other clients get their replies",
        "a line feed ends the line, as in memcached, and the rest is the next request of this"
        " client. The reply to a NUL is `CLIENT_ERROR bad command line format`",
        "a reply must never reach a client that did not ask for it",
        (
            "integration/test_memcache.py::test_injected_line_is_a_request_of_its_own",
            "integration/test_memcache_differential.py::"
            "test_conversations_are_those_with_memcached",
        ),
    ),
    Elsewhere(
        "`client_connections`",
        "read, but ignored",
        "the next client above it gets an error in its protocol and is disconnected",
        "a key that is accepted must have an effect",
        ("integration/test_conf.py::test_client_beyond_client_connections_is_told_so_and_closed",),
    ),
    Elsewhere(
        "`tcpkeepalive`",
        "set on client connections only, although its documentation says server connections",
        "set on both, with idle time, interval and count",
        "either side may disappear",
        ("integration/test_conf.py::test_tcpkeepalive_is_set_towards_servers_and_clients",),
    ),
    Elsewhere(
        "More connections than the limit on open files allows",
        "starts with a limit that has wrapped around",
        "raises the limit as far as allowed. If it is still too low for the file, refuses to start"
        " and prints the sum. Reserves the descriptors that servers need",
        "only the client above the limit should be refused",
        (
            "integration/test_descriptors.py::"
            "test_what_needs_more_server_connections_than_descriptors_is_refused",
            "integration/test_descriptors.py::"
            "test_clients_take_no_descriptor_that_a_server_may_need",
        ),
    ),
    Elsewhere(
        "A mistake in the file",
        "`syntax is invalid`; the reason is in the log or nowhere",
        "every problem with its line, its pool, its key and the accepted values",
        "the author has to find it",
        (
            "unit/test_cli.py::test_check_prints_findings_and_test_conf_twemproxys_verdict_too",
            "unit/test_config.py::test_everything_is_reported_in_the_order_of_lines",
        ),
    ),
    Elsewhere(
        "`-d` when it cannot start",
        "exit code 0; the reason is in the log",
        "exit code 1, and the reason on the terminal",
        "scripts check the exit code",
        ("integration/test_daemon.py::test_a_port_in_use_reaches_the_terminal_and_the_exit_code",),
    ),
    Elsewhere(
        "The pid file",
        "overwritten at the start, left in place at the end",
        "the start is refused while another process holds it; removed at the end",
        "a signal must not reach another process that has the same pid now",
        (
            "integration/test_daemon.py::"
            "test_pid_file_is_there_while_it_runs_and_removed_at_the_end",
            "integration/test_daemon.py::"
            "test_a_second_process_is_refused_with_the_pid_of_the_first",
        ),
    ),
    Elsewhere(
        "The file of a unix socket to listen on",
        "replaced at the start even if another process listens there; left in place at the end",
        "the start is refused while another process listens there; removed at the end",
        "a running process must keep its clients, and clients must not find a file without a"
        " process",
        (
            "integration/test_conf.py::test_a_unix_socket_that_somebody_listens_on_is_left_alone",
            "integration/test_conf.py::test_the_file_of_a_unix_socket_is_removed_at_the_end",
        ),
    ),
    Elsewhere(
        "SIGTERM, SIGINT",
        "exits at once; requests in flight are lost",
        "drains: finishes the requests that have arrived, within `shutdown_timeout`. A second"
        " signal ends it at once",
        "a restart should lose no request",
        (
            "integration/test_drain.py::test_no_request_is_lost_under_load",
            "integration/test_drain.py::test_a_second_signal_ends_at_once",
        ),
    ),
    Elsewhere(
        "A pool or a server with the name of a counter on the same level of the statistics"
        " (`version`, `fragments`)",
        "the name appears twice, and JSON readers lose one of them",
        "shows it with an underscore appended, and the configuration check warns. Routing and"
        " everything else use the name as it is",
        "a server's name decides its keys, so it must not change",
        (
            "unit/test_stats.py::test_a_name_that_means_something_else_there_gets_an_underscore",
            "unit/test_config.py::test_names_that_mean_something_else_in_the_statistics",
        ),
    ),
    Elsewhere(
        "Statistics",
        "show the state at the previous poll; `fragments` is always 0; the values of a split MSET"
        " count twice; gauges of unix sockets go negative; listen on all addresses by default",
        "current; all counters work; listen on 127.0.0.1 by default",
        "operators must be able to trust the figures",
        (
            "integration/test_stats.py::test_figures_are_of_the_moment",
            "integration/test_stats.py::test_gauges_are_zero_when_everybody_has_gone",
            "compat/test_stats_nutcracker.py::"
            "test_parts_of_an_mset_are_counted_and_its_values_once",
        ),
    ),
    Elsewhere(
        "memcached: `noreply`, quiet meta commands",
        "if the server replies anyway, for example with an error, that reply is taken for the"
        " next request's, or closes the connection that all clients share",
        "asks the server for a reply to each, and drops it",
        "a reply must never be paired with another request",
        (
            "integration/test_memcache.py::"
            "test_noreply_in_any_number_leaves_each_request_with_its_own_reply",
        ),
    ),
    Elsewhere(
        "The log",
        "Debian's build logs almost nothing",
        "logs servers that go down and return, and refused clients; as text or JSON, at a limited"
        " rate",
        "operators have to see what happens",
        (
            "integration/test_log.py::test_a_dead_server_is_reported_once",
            "integration/test_log.py::test_json_for_machines",
            "integration/test_log.py::test_a_refused_client_is_logged_ten_times_a_minute",
        ),
    ),
]

_INTRODUCTION = """\
# Where nutproxy differs from twemproxy

Generated from `tests/compat/scripts.py` by `python -m tests.compat.scripts`. Do not edit.

Routing does not differ: every key is on the same server (`tests/compat/`). Replies to commands that
both know are the same too, except for the differences below. Each row of the first table is shown
by conversations that the tests hold with the real nutcracker 0.5 and with nutproxy, with one
configuration for both.
"""


def document() -> str:
    """The text of docs/differences.md."""
    head = "| | twemproxy 0.5 | nutproxy | why |\n|---|---|---|---|"
    rows = [_cells(row.what, row.theirs, row.ours, row.why) for row in DIFFERENCES]
    more = [
        _cells(
            row.what, row.theirs, row.ours, row.why, ", ".join(f"`{test}`" for test in row.tests)
        )
        for row in ELSEWHERE
    ]
    return "\n".join(
        [
            _INTRODUCTION,
            head,
            *rows,
            "\n## When servers fail, under load, and in operation\n",
            "| | twemproxy 0.5 | nutproxy | why | shown by, below `tests/` |",
            "|---|---|---|---|---|",
            *more,
            "",
        ]
    )


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(document(), end="")
