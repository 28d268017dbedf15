# tests/unit/test_commands.py: the command table compared with Redis
"""The table is compared with a real redis-server wherever that server has the same information."""

import json
from pathlib import Path

import hiredis
import pytest

from nutproxy.builtin import HANDLERS
from nutproxy.proto import commands, errors, memcache_commands
from nutproxy.proto.commands import (
    COMMANDS,
    CONTAINERS,
    OPEN,
    OPEN_WITH_KEYS,
    OVERRIDES,
    RESPONSE_POLICIES,
    Behaviour,
    KeySpec,
)

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "nutproxy/proto/redis_commands.json").read_text(encoding="utf-8"))

# Every command that is not simply forwarded. The list makes sure that a person reviews a new row of
# the JSON file, and a rule that catches too much.
NOT_FORWARDED = {
    Behaviour.SPLIT: """
        json.mget, msetex, ts.madd,
        del, exists, mget, mset, touch, unlink
    """,
    Behaviour.ALL: """
        script show,
        dbsize, flushall, flushdb, function delete, function flush, function kill,
        function load, function restore, function stats, keys, memory doctor,
        memory malloc-stats, memory purge, memory stats, randomkey, script exists, script flush,
        script kill, script load, swapdb
    """,
    Behaviour.ANY: """
        himport,
        command, command count, command docs, command getkeys, command getkeysandflags,
        command help, command info, command list, function, function dump, function help,
        function list, memory, memory help, object, object help, script, script help, xgroup,
        xgroup help, xinfo, xinfo help
    """,
    Behaviour.LOCAL: """
        client capa, client import-source, client kill, client pause,
        cluster cancelslotmigrations, cluster flushslot, cluster
        getslotmigrations, cluster migrateslots, cluster migration, cluster slot-stats, cluster
        syncslots, clusterscan,
        asking, auth, client, client caching, client getname, client getredir, client help, client
        id, client info, client list, client no-evict, client no-touch, client reply, client
        setinfo, client setname, client tracking, client trackinginfo, client unblock, client
        unpause, cluster, cluster addslots, cluster addslotsrange, cluster bumpepoch, cluster
        count-failure-reports, cluster countkeysinslot, cluster delslots, cluster delslotsrange,
        cluster failover, cluster flushslot, cluster flushslots, cluster forget, cluster
        getkeysinslot, cluster getslotmigrations, cluster help, cluster info, cluster keyslot,
        cluster links, cluster meet, cluster migrateslots, cluster migration, cluster myid, cluster
        myshardid, cluster nodes, cluster replicas, cluster replicate, cluster reset, cluster
        saveconfig, cluster set-config-epoch, cluster setslot, cluster shards, cluster slaves,
        cluster slot-stats, cluster slots, cluster syncslots, clusterscan, echo, hello, info,
        lolwut, ping, pubsub, pubsub channels, pubsub help, pubsub numpat, pubsub numsub, pubsub
        shardchannels, pubsub shardnumsub, quit, readonly, readwrite, reset, role, script debug,
        select, time
    """,
    Behaviour.ADMIN: """
        backup, backup abort, backup cleanup, backup help, backup list, backup seal, backup start,
        backup status, commandlog, commandlog get, commandlog help, commandlog len, commandlog
        reset, ft.config, ft.config get, ft.config help, ft.config set, hotkeys, hotkeys get,
        hotkeys help, hotkeys reset, hotkeys start, hotkeys stop,
        acl, acl cat, acl deluser, acl dryrun, acl genpass, acl getuser, acl help, acl list, acl
        load, acl log, acl save, acl setuser, acl users, acl whoami, bgrewriteaof, bgsave, config,
        config get, config help, config resetstat, config rewrite, config set, debug, debug
        digest-value, debug htstats-key, debug listpack, debug object, debug quicklist, debug
        sdslen, debug ziplist, failover, lastsave, latency, latency doctor, latency graph, latency
        help, latency histogram, latency history, latency latest, latency reset, module, module
        help, module list, module load, module loadex, module unload, pfdebug, pfselftest,
        replicaof, save, shutdown, slaveof, slowlog, slowlog get, slowlog help, slowlog len,
        slowlog reset
    """,
    Behaviour.CURSOR: "scan",
    Behaviour.UNSUPPORTED: """
        himport discard, himport discardall, himport prepare, himport set, search.clusterinfo,
        search.clusterrefresh, search.clusterset, timeseries.clusterset, timeseries.refreshcluster,
        trimslots, monitor, psync, replconf, sentinel, sentinel
        ckquorum, sentinel config, sentinel debug, sentinel failover, sentinel flushconfig,
        sentinel get-master-addr-by-name, sentinel help, sentinel info-cache, sentinel
        is-master-down-by-addr, sentinel master, sentinel masters, sentinel monitor, sentinel myid,
        sentinel pending-scripts, sentinel remove, sentinel replicas, sentinel reset, sentinel
        sentinels, sentinel set, sentinel simulate-failure, sentinel slaves, sflush, sync
    """,
    Behaviour.SESSION: """
        blmove, blmovem, blmpop, blpop, brpop, brpoplpush, bzmpop, bzpopmax, bzpopmin, discard,
        exec, multi, psubscribe, publish, punsubscribe, spublish, ssubscribe, subscribe,
        sunsubscribe, unsubscribe, unwatch, wait, waitaof, watch
    """,
    Behaviour.ONE: """
        ft._aliasaddifnx, ft._aliasdelifx, ft._alterifnx, ft._createifnx, ft._dropifx,
        ft._dropindexifx, ft._list, ft.aggregate, ft.aliasadd, ft.aliasdel, ft.aliaslist,
        ft.aliasupdate, ft.alter, ft.create, ft.cursor, ft.cursor del, ft.cursor gc, ft.cursor read,
        ft.dictadd, ft.dictdel, ft.dictdump, ft.drop, ft.dropindex, ft.explain, ft.explaincli,
        ft.hybrid, ft.info, ft.mget, ft.profile, ft.search, ft.spellcheck, ft.synadd, ft.syndump,
        ft.synupdate, ft.tagvals, json.debug, ts.mget, ts.mrange, ts.mrevrange, ts.queryindex,
        ts.querylabels
    """,
}

# Rows that describe a later Redis than the server of the tests.
NEWER_ARITY = {
    "command getkeys": "7.2 takes a command without arguments",
    "command getkeysandflags": "7.2 takes a command without arguments",
    "zrank": "7.2 added WITHSCORE",
    "zrevrank": "7.2 added WITHSCORE",
}
# Flags that COMMAND INFO of 7.0 leaves out or adds.
UNTOLD_FLAGS = {"sentinel", "protected", "may_replicate", "touches_arbitrary_keys", "movablekeys"}
NEWER_FLAGS = {
    "cluster count-failure-reports": {"loading"},
    "cluster info": {"loading"},
    "cluster keyslot": {"loading"},
    "cluster links": {"loading"},
    "cluster myid": {"loading"},
    "cluster nodes": {"loading"},
    "cluster replicas": {"loading"},
    "cluster shards": {"loading"},
    "cluster slaves": {"loading"},
    "cluster slots": {"loading"},
    "psubscribe": {"denyoom"},
    "ssubscribe": {"denyoom"},
    "subscribe": {"denyoom"},
    "wait": {"blocking", "noscript"},
    "blmove": {"noscript"},
    "blpop": {"noscript"},
    "brpop": {"noscript"},
    "brpoplpush": {"noscript"},
    "bzpopmax": {"noscript"},
    "bzpopmin": {"noscript"},
}

# Requests whose keys are not just argument 1. The others are generated from their rows.
CORPUS = """
bitop and dest a b c
bitop not dest a
blmove a b left right 0
blmovem a b left right 0 count 2 bulk
blmpop 0 2 a b left
blpop a b c 0
brpop a 0
brpoplpush a b 0
bzmpop 0 2 a b min
bzpopmax a b 0
bzpopmin a 0
copy a b
copy a b db 1 replace
debug digest-value a b c
debug htstats-key a
debug listpack a
debug object a fast
debug quicklist a 0
debug sdslen a
debug ziplist a
del a b c
eval script 2 a b arg
eval script 0 arg
eval_ro script 1 a
evalsha sha 2 a b
evalsha_ro sha 1 a arg arg
exists a b a
fcall fn 2 a b c
fcall_ro fn 1 a
georadius a 1 2 3 km
georadius a 1 2 3 km store dest
georadius a 1 2 3 km count 5 STOREDIST dest
georadiusbymember a m 3 km
georadiusbymember a m 3 km desc store dest
georadius a 1 2 3 km store x storedist y store dest
georadius a 1 2 3 km store store
georadiusbymember a m 3 km store x count 1 any store dest
georadiusbymember store store 3 km store dest
geosearchstore dest a frommember m byradius 1 km
lcs a b
lcs a b idx
lmove a b left right
lmpop 2 a b left
memory usage a
memory usage a samples 5
mget a
mget a b c d
migrate host 6379 a 0 1000
migrate host 6379 a 0 1000 copy replace
migrate host 6379 @empty 0 1000 keys a b c
migrate host 6379 @empty 0 1000 replace auth secret keys a b
migrate host 6379 @empty 0 1000 auth2 user secret KEYS a
migrate host 6379 @empty 0 1000 auth keys keys a b
migrate host 6379 @empty 0 1000 auth2 keys keys copy keys a b
mset a 1 b 2
mset a 1
msetnx a 1 b 2 c 3
object encoding a
object freq a
object idletime a
object refcount a
pfcount a b c
pfdebug encoding a
pfmerge dest a b
rename a b
renamenx a b
rpoplpush a b
sdiff a b c
sdiffstore dest a b
sinter a b
sintercard 2 a b limit 1
sinterstore dest a b
smove a b member
sort a
sort a by w_* limit 0 10 get # desc alpha
sort a by w_* Store dest
sort a store dest desc
sort a by store store dest
sort a get store by STORE limit 0 store store dest desc
sort a store x store dest
sort a by get get by store dest
sort_ro a by w_* get #
sunion a b
sunionstore dest a
touch a b
unlink a b
watch a b
xgroup create a g $
xgroup createconsumer a g c
xgroup delconsumer a g c
xgroup destroy a g
xgroup setid a g $
xinfo consumers a g
xinfo groups a
xinfo stream a full
xread streams a b 0 0
xread count 2 block 0 STREAMS a 0
xreadgroup group g c streams a b > >
xreadgroup group streams c count 1 noack streams a >
xreadgroup count 1 group streams streams streams a b > >
xreadgroup noack group g streams streams a >
zdiff 2 a b withscores
zdiffstore dest 2 a b
zinter 3 a b c weights 1 2 3
zintercard 1 a
zinterstore dest 2 a b aggregate max
zmpop 1 a min
zrangestore dest a 0 1
zunion 2 a b
zunionstore dest 1 a
cms.merge dest 2 a b weights 1 2
ft.add idx a 1 fields title hello
ft.del idx a
ft.get idx a
ft.safeadd idx a 1 fields title hello
himport set a fieldset value
json.debug depth a
json.debug fields a $
json.debug memory a $.path
json.mget a $
json.mget a b c $.path
json.mset a $ 1 b $.x 2
lmovem a b left right count 2 obo
msetex 1 a 1
msetex 2 a 1 b 2 ex 10
msetex 2 a 1 b 2 nx keepttl
sdiffcard 2 a b limit 1
sunioncard 3 a b c
tdigest.merge dest 2 a b compression 100 override
ts.createrule a dest aggregation avg 60
ts.deleterule a dest
ts.madd a 1 1.0
ts.madd a 1 1.0 b 2 2.0 a 3 3.0
ts.nrange 2 a b - +
ts.nrevrange 1 a - +
ts.read a 0
ts.read block 0 max_count 2
xread maxcount streams maxsize 3 streams a b 0 0
xreadgroup group g c maxcount 2 maxsize 3 claim 1 streams a b > >
"""


# The keys that a command uses, for requests where COMMAND GETKEYS is wrong, or whose command the
# server does not have. GETKEYS uses the first
# keyword that it finds, which may be the value of an option or a wrong one. It does not know DEBUG.
USED = {
    "debug digest-value a b c": "a b c",
    "debug htstats-key a": "a",
    "debug listpack a": "a",
    "debug object a fast": "a",
    "debug quicklist a 0": "a",
    "debug sdslen a": "a",
    "debug ziplist a": "a",
    "georadius a 1 2 3 km store x storedist y store dest": "a y dest",
    "georadiusbymember a m 3 km store x count 1 any store dest": "a dest",
    "blmovem a b left right 0 count 2 bulk": "a b",
    "cms.merge dest 2 a b weights 1 2": "dest a b",
    "ft.add idx a 1 fields title hello": "a",
    "ft.del idx a": "a",
    "ft.get idx a": "a",
    "ft.safeadd idx a 1 fields title hello": "a",
    "himport set a fieldset value": "a",
    "json.debug depth a": "a",
    "json.debug fields a $": "a",
    "json.debug memory a $.path": "a",
    "json.mget a $": "a",
    "json.mget a b c $.path": "a b c",
    "json.mset a $ 1 b $.x 2": "a b",
    "lmovem a b left right count 2 obo": "a b",
    "msetex 1 a 1": "a",
    "msetex 2 a 1 b 2 ex 10": "a b",
    "msetex 2 a 1 b 2 nx keepttl": "a b",
    "sdiffcard 2 a b limit 1": "a b",
    "sunioncard 3 a b c": "a b c",
    "tdigest.merge dest 2 a b compression 100 override": "dest a b",
    "ts.createrule a dest aggregation avg 60": "a dest",
    "ts.deleterule a dest": "a dest",
    "ts.madd a 1 1.0": "a",
    "ts.madd a 1 1.0 b 2 2.0 a 3 3.0": "a b a",
    "ts.nrange 2 a b - +": "a b",
    "ts.nrevrange 1 a - +": "a",
    "ts.read a 0": "a",
    "ts.read block 0 max_count 2": "block",
    "xread maxcount streams maxsize 3 streams a b 0 0": "a b",
    "publish key:1 2": "key:1",  # a channel, which nutproxy routes like a key
    "spublish key:1 2": "key:1",
    "xreadgroup count 1 group streams streams streams a b > >": "a b",
    "xreadgroup noack group g streams streams a >": "a",
}


def keys_of(command, argv):
    """The positions of the keys by the definition of Redis' key specifications."""
    positions = []
    for spec in command.keys:
        first = begin_of(command, spec, argv)
        if first is None:
            continue
        if spec.find == "range":
            last = first + spec.lastkey
            if spec.lastkey < 0:
                rest = (len(argv) - first) // spec.limit if spec.limit > 1 else len(argv) - first
                last = first + rest + spec.lastkey
        else:
            count = int(argv[first + spec.keynumidx])
            first += spec.firstkey
            last = first + (count - 1) * spec.step
        found = range(first, min(last, len(argv) - 1) + 1, spec.step)
        positions += [at for at in found if argv[at] or not spec.skip_empty]
    return positions


def begin_of(command, spec, argv):
    if spec.begin == "index":
        return spec.pos
    at, found = spec.startfrom, None
    while at < len(argv) - 1:
        word = argv[at].upper().decode()
        if word == spec.keyword:
            found = at + 1
            if not spec.last:
                break
            at += 1
        at += 1 + command.options.get(word, 0)
    return found


def row_of(argv):
    name = argv[0].decode()
    return f"{name} {argv[1].decode()}" if name in CONTAINERS | OPEN else name


def known(name, reference):
    """Whether the reference server, which is older than the file, has the command."""
    return reference.connect()("COMMAND", "INFO", name.replace(" ", "|"))[0] is not None


def newer(command):
    """Whether the reference server is too old for the command, or lacks its module."""
    module = any("module" in origin for origin in command.origin)
    return module or tuple(map(int, command.since.split("."))) > (7, 0, 15)


def requests():
    """A request for each line of the corpus and for each command whose only key is argument 1."""
    for line in CORPUS.split("\n"):
        if line:
            yield [b"" if word == "@empty" else word.encode() for word in line.split()]
    for command in COMMANDS.values():
        if command.keys == (KeySpec(pos=1),) and " " not in command.name:
            filler = [b"%d" % at for at in range(2, abs(command.arity))]
            yield [command.name.encode(), b"key:1", *filler]


def test_every_command_of_redis_has_a_row_with_its_facts():
    assert COMMANDS.keys() == ROWS.keys() | OPEN_WITH_KEYS.keys()
    for name, command in COMMANDS.items():
        if name in OPEN_WITH_KEYS:
            continue
        row = ROWS[name]
        assert command.name == name
        assert (command.arity, command.group, command.since) == (
            row["arity"],
            row["group"],
            row["since"],
        )
        assert command.flags == set(row["flags"])


@pytest.mark.parametrize("behaviour", list(NOT_FORWARDED), ids=lambda behaviour: behaviour.name)
def test_every_command_that_is_not_forwarded_is_listed(behaviour):
    pinned = {" ".join(name.split()) for name in NOT_FORWARDED[behaviour].split(",")}
    assert {name for name, row in COMMANDS.items() if row.behaviour is behaviour} == pinned


def test_forwarded_commands_have_keys_and_commands_for_any_server_have_none():
    for command in COMMANDS.values():
        if command.behaviour in (Behaviour.FORWARD, Behaviour.SPLIT):
            assert command.keys, command.name
        if command.behaviour in (Behaviour.ANY, Behaviour.ALL, Behaviour.LOCAL, Behaviour.ONE):
            assert not command.keys, command.name


def test_nothing_that_blocks_or_subscribes_uses_a_shared_server_connection():
    for command in COMMANDS.values():
        if {"blocking", "pubsub"} & command.flags or command.group == "transactions":
            apart = command.behaviour in (Behaviour.UNSUPPORTED, Behaviour.SESSION)
            asks = command.name.startswith("pubsub")
            assert apart or asks or command.blocking_option == "BLOCK", command.name


def test_every_command_that_waits_has_its_timeout_where_redis_looks_for_it():
    last = ["blmove", "blpop", "brpop", "brpoplpush", "bzpopmax", "bzpopmin"]
    expected = dict.fromkeys(last, (-1, False)) | {
        "blmovem": (5, False),
        "blmpop": (1, False),
        "bzmpop": (1, False),
        "wait": (2, True),
        "waitaof": (3, True),
        # The value of BLOCK.
        "xread": (0, True),
        "xreadgroup": (0, True),
        "ts.read": (0, True),
    }
    found = {name: row.timeout for name, row in COMMANDS.items() if row.timeout}
    assert found == expected


def test_administration_includes_all_that_redis_flags_admin():
    for command in COMMANDS.values():
        if "admin" in command.flags and command.group not in ("connection", "cluster"):
            assert command.behaviour in (Behaviour.ADMIN, Behaviour.UNSUPPORTED), command.name


def test_policies_are_known_and_only_where_several_servers_reply():
    several = (Behaviour.SPLIT, Behaviour.ALL, Behaviour.ADMIN)
    for command in COMMANDS.values():
        merged = command.behaviour in several and (
            command.behaviour is Behaviour.SPLIT or not command.keys
        )
        assert (command.request_policy is not None) == merged, command.name
        assert command.response_policy in RESPONSE_POLICIES, command.name
    used = {row.response_policy for row in COMMANDS.values() if row.behaviour in several}
    assert used == set(RESPONSE_POLICIES)


def test_policies_are_those_of_redis_unless_it_has_none_or_special():
    for command in COMMANDS.values():
        policy = ROWS.get(command.name, {}).get("response_policy", "special")
        if policy != "special" and command.request_policy:
            assert command.response_policy == policy, command.name


def test_every_locally_answered_command_has_a_handler_and_every_handler_a_command():
    handlers = {row.name: row.handler for row in COMMANDS.values() if row.handler}
    assert handlers.keys() == {
        row.name for row in COMMANDS.values() if row.behaviour is Behaviour.LOCAL
    }
    assert set(handlers.values()) == set(HANDLERS)


def test_every_override_is_of_a_command():
    assert OVERRIDES.keys() <= COMMANDS.keys()


def test_keys_that_redis_leaves_unknown_or_incomplete_are_overridden():
    for name, row in ROWS.items():
        for spec in row.get("key_specs", ()):
            if "unknown" in spec["begin_search"] or "incomplete" in spec["flags"]:
                assert OVERRIDES[name].keys is not None, name


# Arguments that Redis documents as a name or a pattern of names, but without a key specification.
# Each has the reason why this is correct, or how the proxy handles it.
NAMES_WITHOUT_SPECIFICATION = {
    "command list pattern": "of commands",
    "hscan pattern": "of fields",
    "keys pattern": "all servers are asked",
    "psubscribe pattern": "of channels",
    "pubsub channels pattern": "of channels",
    "pubsub shardchannels pattern": "of channels",
    "punsubscribe pattern": "of channels",
    "scan pattern": "goes to every server, one after the other",
    "sort pattern": "refused where it may form keys of another server",
    "sort_ro pattern": "refused where it may form keys of another server",
    "sscan pattern": "of members",
    "zscan pattern": "of members",
}


def documented(name, arguments):
    for argument in arguments:
        described = dict(zip(argument[::2], argument[1::2], strict=True))
        if "arguments" in {key.decode() for key in described}:
            yield from documented(name, described[b"arguments"])
        kind = described[b"type"]
        if kind == b"pattern" or (kind == b"key" and b"key_spec_index" not in described):
            yield f"{name} {described[b'name'].decode()}"


def test_names_without_a_key_specification_are_reviewed(reference):
    found = set()
    for name, facts in pairs(reference.connect()("COMMAND", "DOCS")):
        described = dict(pairs(facts))
        found |= set(documented(name.decode(), described.get(b"arguments", ())))
        for sub, inner in pairs(described.get(b"subcommands", ())):
            of = dict(pairs(inner)).get(b"arguments", ())
            found |= set(documented(sub.decode().replace("|", " "), of))
    assert found == set(NAMES_WITHOUT_SPECIFICATION)


def pairs(flat):
    return zip(flat[::2], flat[1::2], strict=True)


def test_a_row_that_no_rule_covers_is_an_error():
    row = {"arity": 1, "since": "9.0.0", "group": "server", "flags": []}
    with pytest.raises(ValueError, match="no rule covers 'novelty'"):
        commands._command("novelty", row)


def test_the_corpus_has_every_command_with_keys():
    examples = {row_of(argv) for argv in requests()}
    assert {row.name for row in COMMANDS.values() if row.keys} == examples


@pytest.mark.parametrize("argv", list(requests()), ids=lambda argv: b" ".join(argv).decode())
def test_keys_are_where_redis_finds_them(argv, reference):
    name = row_of(argv)
    ours = [argv[at] for at in keys_of(COMMANDS[name], argv)]
    if name not in OPEN_WITH_KEYS and not known(name, reference):
        assert newer(COMMANDS[name])
        assert ours == USED.get(b" ".join(argv).decode(), "key:1").encode().split()
        return
    theirs = USED.get(b" ".join(argv).decode(), "").encode().split()
    if not theirs:
        theirs = reference.connect()("COMMAND", "GETKEYS", *argv)
    if isinstance(theirs, hiredis.ReplyError):
        assert "no key arguments" in str(theirs)
        theirs = []
    assert sorted(ours) == sorted(theirs)


def test_arity_and_flags_are_those_of_redis(reference):
    names = list(ROWS)
    rows = reference.connect()("COMMAND", "INFO", *(name.replace(" ", "|") for name in names))
    for name, row in zip(names, rows, strict=True):
        command = COMMANDS[name]
        if row is None:
            assert newer(command) or command.group == "sentinel", name
            continue
        if name not in NEWER_ARITY:
            assert command.arity == row[1], name
        unlike = command.flags ^ {flag.decode() for flag in row[2]}
        assert unlike <= UNTOLD_FLAGS | NEWER_FLAGS.get(name, set()), name


@pytest.mark.parametrize(
    "argv",
    [
        [b"foo"],
        [b"Foo", b"a", b"b c", b""],
        [b"foo\r\nbar", b"a\r\nb"],
        [b"f" * 200, b"x"],
        [b"foo", b"x" * 200, b"y"],
        [b"foo", b"x" * 125, b"y", b"z"],
        [b"foo", b"x" * 124, b"y", b"z"],
        [b"foo", *[b"%d" % word for word in range(100)]],
        [b"f\0oo", b"a\0b", b"c"],
        [b"\xff\xfe", b"\x80"],
    ],
)
def test_unknown_command_has_redis_text(argv, reference):
    assert errors.unknown_command(argv) == reference.connect().raw(*argv)


@pytest.mark.parametrize("word", [b"foo", b"FOO", b"a\r\nb", b"x" * 200, b"a\0b", b"\xff", b""])
@pytest.mark.parametrize("container", [b"config", b"Client"])
def test_unknown_subcommand_has_redis_text(container, word, reference):
    argv = [container, word]
    assert errors.unknown_subcommand(argv) == reference.connect().raw(*argv)


@pytest.mark.parametrize(
    "name", ["get", "config", "config get", "client no-evict", "xinfo stream", "object encoding"]
)
def test_wrong_arity_has_redis_text(name, reference):
    assert errors.wrong_arity(name) == reference.connect().raw(*name.split())


def test_wrong_arity_names_the_containers_as_redis_does(reference):
    connection = reference.connect()
    for name in CONTAINERS - {"command"}:
        if known(name, reference):
            assert errors.wrong_arity(name) == connection.raw(name)


def test_refusals_name_the_command_and_the_pool():
    assert errors.not_supported("scan") == b"-ERR 'SCAN' is not supported by nutproxy\r\n"
    assert (
        errors.not_supported("client tracking")
        == b"-ERR 'CLIENT TRACKING' is not supported by nutproxy\r\n"
    )
    assert (
        errors.not_supported("xread", "BLOCK")
        == b"-ERR 'XREAD BLOCK' is not supported by nutproxy\r\n"
    )
    assert b"'FLUSHALL' is denied by deny_commands of pool 'alpha'" in errors.denied(
        "flushall", "alpha"
    )
    assert b"'CONFIG SET' is an administration command, pool 'alpha'" in errors.needs_admin(
        "config set", "alpha"
    )


def test_noauth_has_redis_text(reference):
    connection = reference.connect()
    connection("CONFIG", "SET", "requirepass", "secret")
    try:
        assert errors.noauth() == reference.connect().raw("GET", "key")
    finally:
        connection("CONFIG", "SET", "requirepass", "")


def test_documentation_is_generated_from_the_table():
    written = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert written == commands.document(), "run: python -m nutproxy.proto.commands"


def test_memcached_documentation_is_generated_from_the_table():
    written = (ROOT / "docs/memcached.md").read_text(encoding="utf-8")
    expected = memcache_commands.document()
    assert written == expected, "run: python -m nutproxy.proto.memcache_commands"


def test_documentation_has_every_command_once():
    text = commands.document()
    for name in COMMANDS:
        assert text.count(f"\n| {name.upper()} |") == 1, name
