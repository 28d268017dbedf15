# nutproxy/proto/table.py: the command table, as the data path reads it
"""proto.commands.COMMANDS as C structs, with a hash table to find them by name.

The rows are copied without change. Names are compared case-insensitively, as in Redis. `row_keys`
finds the keys of a request by Redis' key specifications:
https://redis.io/docs/latest/develop/reference/key-specs/
"""

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy, strlen
from cython.cimports.nutproxy.msg.parse import Arg
from cython.cimports.nutproxy.proto.merge import (
    merge_all,
    merge_and,
    merge_by_size,
    merge_concat,
    merge_keys,
    merge_min,
    merge_one,
    merge_report,
    merge_sum,
)
from cython.cimports.nutproxy.proto.row import ROW_NAME, ROW_OPTIONS, ROW_SPECS, Option, Row, Spec

from nutproxy.proto.commands import COMMANDS, LIMITS, OPEN, Limits
from nutproxy.proto.reports import REPORTS

SLOTS = cython.declare(cython.uint, 4096)
rows = cython.declare(cython.pointer(Row))
# Commands and subcommands apart: `CLIENT REPLY` in one argument is no command.
slots = cython.declare(cython.pointer(cython.pointer(Row)))
sub_slots = cython.declare(cython.pointer(cython.pointer(Row)))
lower = cython.declare(cython.uchar[256])

# By row number, those of all pools' custom commands included.
names: list = list(COMMANDS)
# For behaviours that have only the limits of the parser.
NO_LIMITS = Limits(0xFFFFFFFF, None)
# Commands that are sent in parts and change data. If one part fails, others may have been applied.
PARTIAL = ("mset", "msetex", "ts.madd", "del", "unlink", "flushall", "flushdb")

# Commands that are carried out at once in a transaction.
IMMEDIATE = ("multi", "exec", "discard", "watch", "quit", "reset")


@cython.cfunc
@cython.exceptval(-1)
def set_finish(row: cython.pointer(Row), policy: str | None) -> cython.int:
    """Set how the replies to the parts of a command with this response policy are merged."""
    if policy in REPORTS:
        row.finish = merge_report
    elif policy == "all_succeeded":
        row.finish = merge_all
    elif policy == "one_succeeded":
        row.finish = merge_one
    elif policy == "agg_sum":
        row.finish = merge_sum
    elif policy == "agg_min":
        row.finish = merge_min
    elif policy == "agg_logical_and":
        row.finish = merge_and
    elif policy == "by_size":
        row.finish = merge_by_size
        row.sized = True
    elif policy == "one_server":
        row.finish = cython.NULL
    elif policy is None:
        row.finish = merge_concat
    else:
        raise ValueError(policy)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def slot_of(name: cython.p_const_char, length: cython.size_t, seed: cython.uint) -> cython.uint:
    """FNV-1a of the name in lower case. `seed` is the basis, or the hash of what comes before."""
    index: cython.size_t
    for index in range(length):
        seed = (seed ^ lower[cython.cast(cython.uchar, name[index])]) * 16777619
    return seed


@cython.cfunc
@cython.exceptval(check=False)
def same(
    data: cython.p_const_char, word: cython.p_const_char, length: cython.size_t
) -> cython.bint:
    """Whether `data` equals `word`, ignoring case. `word` must be lower case."""
    index: cython.size_t
    for index in range(length):
        if lower[cython.cast(cython.uchar, data[index])] != cython.cast(cython.uchar, word[index]):
            return False
    return True


def same_word(data, length, word):
    """Whether this argument equals `word`, ignoring case. `word` must be lower case, and begin with
    a letter. Of a million arguments that are searched for one, nearly all differ in that."""
    if length == 0 or (data[0] | 0x20) != word[0]:
        return False
    return strlen(word) == length and same(data, word, length)


def rows_belong_to(protocol):
    """Set the protocol of all rows."""
    number: cython.int
    for number in range(cython.cast(cython.int, len(COMMANDS))):
        rows[number].protocol = protocol


def row_find(name, length):
    """The row of a command, or NULL if it is unknown."""
    slot: cython.uint
    row: cython.pointer(Row)
    if length >= ROW_NAME:
        return cython.NULL
    slot = slot_of(name, length, 2166136261) & (SLOTS - 1)
    while True:
        row = slots[slot]
        if row is cython.NULL or (row.length == length and same(name, row.name, length)):
            return row
        slot = (slot + 1) & (SLOTS - 1)


def row_find_sub(row, name, length):
    """The row of a container's subcommand, or NULL if it is unknown."""
    slot: cython.uint
    full: cython.size_t = row.length + 1 + length
    found: cython.pointer(Row)
    if full >= ROW_NAME:
        return cython.NULL
    slot = slot_of(row.name, row.length, 2166136261)
    slot = slot_of(name, length, slot_of(b" ", 1, slot)) & (SLOTS - 1)
    while True:
        found = sub_slots[slot]
        if found is cython.NULL or (
            found.length == full
            and memcmp(found.name, row.name, row.length) == 0
            and found.name[row.length] == b" "
            and same(name, cython.address(found.name[0]) + row.length + 1, length)
        ):
            return found
        slot = (slot + 1) & (SLOTS - 1)


@cython.cfunc
@cython.exceptval(check=False)
def argument_number(
    parser: cython.pointer(Parser), data: cython.p_const_char, index: cython.longlong
) -> cython.longlong:
    """The value of an argument that is a number of at most nine digits, else -1."""
    value: cython.longlong = 0
    at: cython.size_t
    digit: cython.int
    arg: cython.pointer(Arg)
    if index < 1 or index >= parser.argc:
        return -1
    arg = cython.address(parser.argv[index])
    if arg.length == 0 or arg.length > 9:
        return -1
    for at in range(arg.length):
        digit = data[arg.offset + at] - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


def option_at(row, parser, data, index):
    """The option of this row that the argument names, or NULL. Only options with values have an
    entry."""
    arg: cython.pointer(Arg) = cython.address(parser.argv[index])
    at: cython.int
    for at in range(row.noptions):
        if same_word(data + arg.offset, arg.length, row.options[at].word):
            return cython.address(row.options[at])
    return cython.NULL


@cython.cfunc
@cython.exceptval(check=False)
def after_keyword(
    row: cython.pointer(Row),
    parser: cython.pointer(Parser),
    data: cython.p_const_char,
    spec: cython.pointer(Spec),
) -> cython.longlong:
    """The position of the argument after the keyword, or 0 if there is no keyword.

    A negative start position counts from the end and searches backwards. A forward search skips the
    values of options."""
    argc: cython.longlong = parser.argc
    at: cython.longlong = spec.pos if spec.pos > 0 else argc + spec.pos
    found: cython.longlong = 0
    option: cython.pointer(Option)
    while 0 < at < argc:
        if same_word(data + parser.argv[at].offset, parser.argv[at].length, spec.word):
            found = at + 1
            if not spec.last:
                break
            at += 1
        elif spec.pos > 0:
            option = option_at(row, parser, data, at)
            if option is not cython.NULL:
                at += option.values
        at += 1 if spec.pos > 0 else -1
    return found


def row_keys(row, parser, data, keys, room):
    """Write the positions of all keys into `keys`, which has space for `room` of them.

    Returns their number, or -1 if the arguments do not match the specification. In that case a
    server can report the error."""
    count: cython.uint = 0
    index: cython.int
    argc: cython.longlong = parser.argc
    first: cython.longlong
    last: cython.longlong
    at: cython.longlong
    number: cython.longlong
    spec: cython.pointer(Spec)
    for index in range(row.specs):
        spec = cython.address(row.spec[index])
        first = spec.pos
        if spec.keyword:
            first = after_keyword(row, parser, data, spec)
            if first == 0:
                continue
        if first >= argc:
            continue
        if spec.keynum:
            number = argument_number(parser, data, first + spec.keynumidx)
            if number < 0:
                return -1
            first += spec.firstkey
            last = first + (number - 1) * spec.step
        elif spec.lastkey >= 0:
            last = first + spec.lastkey
        elif spec.limit > 1:
            last = first + (argc - first) // spec.limit - 1
        else:
            last = argc + spec.lastkey
        if last >= argc:
            return -1
        at = first
        while at <= last:
            # MIGRATE has an empty key when the keys follow KEYS.
            if not (spec.skip_empty and parser.argv[at].length == 0):
                if count == room:
                    return -1
                keys[count] = at
                count += 1
            at += spec.step
    return count


@cython.cfunc
@cython.exceptval(-1, check=False)
def fill(row: cython.pointer(Row), number: cython.int, command: object) -> cython.int:
    spec: cython.pointer(Spec)
    name: bytes = command.name.encode()
    option: bytes = (command.blocking_option or "").lower().encode()
    policy = command.response_policy
    if (
        len(name) >= ROW_NAME
        or len(command.keys) > ROW_SPECS
        or len(command.options) > ROW_OPTIONS
        or max(map(len, [option, *command.options])) >= 16
    ):
        raise ValueError(f"command {command.name!r} does not fit a row")
    row.number = number
    row.arity = command.arity
    row.behaviour = command.behaviour
    row.operation = command.operation
    row.immediate = command.name in IMMEDIATE
    row.no_multi = "no_multi" in command.flags
    row.refused_in = command.refused_in
    row.opens = command.opens
    row.partial = command.name in PARTIAL or (
        command.group == "custom" and "write" in command.flags
    )
    row.shutdown = command.name == "shutdown"
    limits = LIMITS.get(command.behaviour, NO_LIMITS)
    row.max_args = limits.args
    row.max_bytes = limits.bytes or 1 << 62
    row.open = command.name in OPEN
    row.patterns = bool(command.patterns)
    row.noptions = len(command.options)
    for index, (each, values) in enumerate(command.options.items()):
        option_word: bytes = each.lower().encode()
        row.options[index].values = values
        row.options[index].pattern = each in command.patterns
        memcpy(
            row.options[index].word, cython.cast(cython.p_const_char, option_word), len(option_word)
        )
    row.writes = bool({"write", "may_replicate"} & command.flags)
    # Scripts as well: a server tracks what they read.
    row.reads = bool(command.keys) and not (
        "write" in command.flags or command.behaviour.name == "SESSION"
    )
    if command.timeout is not None:
        row.timeout_at = command.timeout.at
        row.timeout_msec = command.timeout.milliseconds
    row.aside = "allow_busy" in command.flags
    row.length = len(name)
    memcpy(row.name, cython.cast(cython.p_const_char, name), len(name))
    memcpy(row.option, cython.cast(cython.p_const_char, option), len(option))
    row.by_key = command.behaviour.name == "SPLIT" and policy is None
    if row.by_key:
        row.finish = merge_keys
    elif command.behaviour.name == "SPLIT" or command.request_policy:
        set_finish(row, policy)
    row.specs = len(command.keys) if command.keys else -1
    for index, key in enumerate(command.keys):
        word: bytes = (key.keyword or "").lower().encode()
        spec = cython.address(row.spec[index])
        spec.keyword = key.begin == "keyword"
        spec.pos = key.startfrom if spec.keyword else key.pos
        spec.keynum = key.find == "keynum"
        spec.lastkey = key.lastkey
        spec.step = key.step
        spec.limit = key.limit
        spec.keynumidx = key.keynumidx
        spec.firstkey = key.firstkey
        spec.skip_empty = key.skip_empty
        spec.last = key.last
        memcpy(spec.word, cython.cast(cython.p_const_char, word), min(len(word), 15))
    first = command.keys[0] if len(command.keys) == 1 else None
    fixed = first is not None and (first.begin, first.find, first.lastkey) == ("index", "range", 0)
    # The slow path checks patterns and options, and whether a request has a key at all.
    if fixed and not command.patterns and not option and abs(command.arity) > first.pos:
        row.key = first.pos
    if command.behaviour.name == "SPLIT":
        counted = first.find == "keynum"
        form = (first.begin, first.pos, first.limit, first.keynumidx, first.firstkey)
        if form != ("index", 1, 0, 0, int(counted)):
            raise ValueError(f"command {command.name!r} cannot be split")
        row.repeats = counted or first.lastkey != -1
    return 0


@cython.cclass
class CustomRows:
    """`commands` are Commands whose names no row of the table has.

    They are looked up after the table, one by one, so they cost known commands nothing."""

    def __init__(self, commands):
        number: cython.int
        self.first = len(names)
        self.rows = cython.cast(
            cython.pointer(Row), calloc(max(1, len(commands)), cython.sizeof(Row))
        )
        if self.rows is cython.NULL:
            raise MemoryError
        for number, command in enumerate(commands):
            fill(cython.address(self.rows[number]), self.first + number, command)
            self.rows[number].protocol = rows[0].protocol
        self.count = len(commands)
        names.extend(command.name for command in commands)

    def __dealloc__(self):
        free(self.rows)

    def find(self, name, length):
        index: cython.int
        row: cython.pointer(Row)
        for index in range(self.count):
            row = cython.address(self.rows[index])
            if row.length == length and same(name, row.name, length):
                return row
        return cython.NULL


def age(numbered: tuple) -> tuple:
    command = numbered[1]
    return bool(command.origin), tuple(map(int, command.since.split(".")))


@cython.cfunc
@cython.exceptval(-1, check=False)
def build() -> cython.int:
    global rows, slots, sub_slots
    number: cython.int
    slot: cython.uint
    row: cython.pointer(Row)
    table: cython.pointer(cython.pointer(Row))
    index: cython.int
    for index in range(256):
        lower[index] = index + 32 if 65 <= index <= 90 else index
    rows = cython.cast(cython.pointer(Row), calloc(len(COMMANDS), cython.sizeof(Row)))
    slots = cython.cast(
        cython.pointer(cython.pointer(Row)), calloc(SLOTS, cython.sizeof(cython.pointer(Row)))
    )
    sub_slots = cython.cast(
        cython.pointer(cython.pointer(Row)), calloc(SLOTS, cython.sizeof(cython.pointer(Row)))
    )
    if rows is cython.NULL or slots is cython.NULL or sub_slots is cython.NULL:
        raise MemoryError
    for number, command in enumerate(COMMANDS.values()):
        fill(cython.address(rows[number]), number, command)
    # The oldest commands first: they are the most frequent, and keep the slots of their hashes.
    for number, command in sorted(enumerate(COMMANDS.values()), key=age):
        row = cython.address(rows[number])
        table = sub_slots if " " in command.name else slots
        slot = slot_of(row.name, row.length, 2166136261) & (SLOTS - 1)
        while table[slot] is not cython.NULL:
            slot = (slot + 1) & (SLOTS - 1)
        table[slot] = row
    for command in COMMANDS.values():
        if " " in command.name:
            container: bytes = command.name.split()[0].encode()
            row = row_find(container, len(container))
            row.container = True
    return 0


build()
