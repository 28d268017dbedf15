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

from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS as REDIS_COMMANDS
from nutproxy.proto.errors import MEMCACHED_REPLIES, PROTOCOL_ERRORS, REDIS_REPLIES
from nutproxy.proto.memcache_commands import COMMANDS as MEMCACHED_COMMANDS

redis_protocol = Protocol(
    "Redis",
    ("Memcached", "false"),
    errors.error,
    out_of_memory=REDIS_REPLIES["out_of_memory"],
    internal_error=REDIS_REPLIES["internal"],
    full=REDIS_REPLIES["max_clients"],
    stalled=PROTOCOL_ERRORS["stalled"],
    too_much=PROTOCOL_ERRORS["unfinished"],
)
redis_protocol.commands = tuple(REDIS_COMMANDS)
redis_protocol.parse_request = redis_parse_req
redis_protocol.parse_reply = redis_parse_rsp
redis_protocol.kind_byte = True
rows_belong_to(cython.cast(cython.p_void, redis_protocol))

memcached_protocol = Protocol(
    "Memcached",
    ("Redis", "true"),
    errors.memcached_error,
    out_of_memory=MEMCACHED_REPLIES["out_of_memory"],
    internal_error=MEMCACHED_REPLIES["internal"],
    full=MEMCACHED_REPLIES["memcached_max_clients"],
    stalled=MEMCACHED_REPLIES["memcached_stalled"],
    too_much=MEMCACHED_REPLIES["memcached_unfinished"],
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
