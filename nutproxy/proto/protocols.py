# nutproxy/proto/protocols.py: the two protocols
"""REDIS and MEMCACHED: their texts, and the functions of proto/. core.py adds those of the roles,
which are above this folder.
"""

import cython
from cython.cimports.nutproxy.msg.protocol import Protocol
from cython.cimports.nutproxy.proto.memcache import (
    commands_belong_to,
    memcache_parse_req,
    memcache_parse_rsp,
)
from cython.cimports.nutproxy.proto.memcache_merge import memcache_miss
from cython.cimports.nutproxy.proto.memcache_pairing import memcache_fits
from cython.cimports.nutproxy.proto.redis import redis_parse_req, redis_parse_rsp
from cython.cimports.nutproxy.proto.table import rows_belong_to

from nutproxy.proto.commands import COMMANDS as REDIS_COMMANDS
from nutproxy.proto.memcache_commands import COMMANDS as MEMCACHED_COMMANDS

redis_protocol = Protocol(
    "Redis",
    "if this is a Memcached server, the pool needs 'redis: false'",
    "-ERR",
    out_of_memory=b"-ERR out of memory\r\n",
    internal_error=b"-ERR internal error of nutproxy, see its log\r\n",
    full=b"-ERR max number of clients reached\r\n",
    stalled=b"Protocol error: an unfinished request, see client_request_timeout",
    too_much=b"Protocol error: unfinished requests, see client_query_buffer_limit",
)
redis_protocol.commands = tuple(REDIS_COMMANDS)
redis_protocol.parse_request = redis_parse_req
redis_protocol.parse_reply = redis_parse_rsp
redis_protocol.kind_byte = True
rows_belong_to(cython.cast(cython.p_void, redis_protocol))

memcached_protocol = Protocol(
    "Memcached",
    "if this is a Redis server, the pool needs 'redis: true'",
    "SERVER_ERROR",
    out_of_memory=b"SERVER_ERROR out of memory\r\n",
    internal_error=b"SERVER_ERROR internal error of nutproxy, see its log\r\n",
    full=b"ERROR Too many open connections\r\n",
    stalled=b"CLIENT_ERROR an unfinished request, see client_request_timeout\r\n",
    too_much=b"SERVER_ERROR unfinished requests, see client_query_buffer_limit\r\n",
)
memcached_protocol.commands = tuple(MEMCACHED_COMMANDS)
memcached_protocol.parse_request = memcache_parse_req
memcached_protocol.parse_reply = memcache_parse_rsp
memcached_protocol.fits = memcache_fits
memcached_protocol.miss = memcache_miss
memcached_protocol.reads_on = True
commands_belong_to(cython.cast(cython.p_void, memcached_protocol))

# For Python.
REDIS = redis_protocol
MEMCACHED = memcached_protocol
PROTOCOLS = {True: REDIS, False: MEMCACHED}
