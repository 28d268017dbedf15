# nutproxy/proto/protocols.py: the protocols
"""REDIS, MEMCACHE, and the binary form of the latter: their texts, and the functions of proto/.
core.py adds those of the roles, which are above this folder.
"""

import cython
from cython.cimports.nutproxy.msg.protocol import Protocol
from cython.cimports.nutproxy.proto.binary import binary_parse_req, binary_rows_belong_to
from cython.cimports.nutproxy.proto.memcache import (
    commands_belong_to,
    memcache_parse_req,
    memcache_parse_rsp,
)
from cython.cimports.nutproxy.proto.memcache_merge import memcache_miss
from cython.cimports.nutproxy.proto.memcache_pairing import is_meta, memcache_fits
from cython.cimports.nutproxy.proto.redis import redis_parse_req, redis_parse_rsp
from cython.cimports.nutproxy.proto.table import rows_belong_to

from nutproxy.proto import errors
from nutproxy.proto.commands import COMMANDS as REDIS_COMMANDS
from nutproxy.proto.errors import MEMCACHE_REPLIES, PROTOCOL_ERRORS, REDIS_REPLIES
from nutproxy.proto.memcache_commands import COMMANDS as MEMCACHE_COMMANDS

redis_protocol = Protocol(
    "Redis",
    ("Memcached", "false"),
    errors.error,
    out_of_memory=REDIS_REPLIES["out_of_memory"],
    internal_error=REDIS_REPLIES["internal"],
    too_many_clients=REDIS_REPLIES["max_clients"],
    stalled=PROTOCOL_ERRORS["stalled"],
    too_much=PROTOCOL_ERRORS["unfinished"],
)
redis_protocol.commands = tuple(REDIS_COMMANDS)
redis_protocol.parse_request = redis_parse_req
redis_protocol.parse_reply = redis_parse_rsp
redis_protocol.kind_byte = True
rows_belong_to(cython.cast(cython.p_void, redis_protocol))


@cython.cfunc
def memcached() -> Protocol:
    """A protocol with the texts and the commands that both forms of Memcached's have."""
    protocol = Protocol(
        "Memcached",
        ("Redis", "true"),
        errors.memcache_error,
        out_of_memory=MEMCACHE_REPLIES["out_of_memory"],
        internal_error=MEMCACHE_REPLIES["internal"],
        too_many_clients=MEMCACHE_REPLIES["memcache_max_clients"],
        stalled=MEMCACHE_REPLIES["memcache_stalled"],
        too_much=MEMCACHE_REPLIES["memcache_unfinished"],
    )
    protocol.commands = tuple(MEMCACHE_COMMANDS)
    return protocol


memcache_protocol = memcached()
memcache_protocol.parse_request = memcache_parse_req
memcache_protocol.parse_reply = memcache_parse_rsp
memcache_protocol.fits = memcache_fits
memcache_protocol.miss = memcache_miss
memcache_protocol.too_new = is_meta
memcache_protocol.reads_on = True
commands_belong_to(cython.cast(cython.p_void, memcache_protocol))

# Front/binary.py gives it to clients. Their requests have rows of memcache_protocol.
binary_protocol = memcached()
binary_protocol.parse_request = binary_parse_req
binary_rows_belong_to(cython.cast(cython.p_void, memcache_protocol))

# For Python.
REDIS = redis_protocol
MEMCACHE = memcache_protocol
BINARY = binary_protocol
PROTOCOLS = {True: REDIS, False: MEMCACHE}
