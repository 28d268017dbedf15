# nutproxy/config/custom.py: commands that nutproxy does not know
"""Parses an entry of `custom_commands`, which has the order of Redis' COMMAND INFO:

    name arity [flag,flag…] keys [request_policy:… [response_policy:…]]

    MYMOD.GET 2 readonly 1 1 1            the first key, the last, and the step between two
    MYMOD.UNION -3 readonly numkeys 1     argument 1 is the number of keys, which follow it
    MYMOD.STORE -4 write 1 1 1 numkeys 2  both
    MYMOD.INFO 1 0 0 0                    no keys

The result has the form of a row of proto/redis_commands.json, so the rules for those decide what
happens to the command.
"""

import re
from functools import lru_cache
from typing import Any

from nutproxy.config.values import Text, Unfit, did_you_mean, redis_commands, scalar
from nutproxy.plain import CustomCommand

FORM = "name arity [flags] first-key last-key step [request_policy:… response_policy:…]"
NAME_MAX = 39
SPECS_MAX = 3
ARITY_MAX = 1 << 20
ENTRIES_MAX = 256

_NAME = re.compile(r"[!-{}~]+", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_REQUEST_POLICIES = ("multi_shard", "all_shards", "all_nodes")
_RESPONSE_POLICIES = (
    "all_succeeded",
    "one_succeeded",
    "agg_sum",
    "agg_min",
    "agg_logical_and",
    "first_non_null",
)
# Flags of commands that must not be forwarded on a connection which clients share, or to a client
# that has not authenticated.
_REFUSED_FLAGS = {
    "blocking": "it would block a server connection that clients share",
    "pubsub": "it would change a server connection that clients share",
    "no_auth": "clients must authenticate before a server gets their requests",
}


@lru_cache(maxsize=1)
def _flags() -> frozenset[str]:
    """All flags of Redis' commands."""
    return frozenset(flag for row in redis_commands().values() for flag in row["flags"])


def custom_command(value: Any) -> CustomCommand:
    words = scalar(value).split()
    if len(words) < 2:
        raise Unfit(f"'{value}' is not complete")
    name, arity = words[0].lower(), _number(words[1], "an arity", -ARITY_MAX)
    _check_name(words[0])
    if arity == 0:
        raise ValueError(f"'{words[0]}': the arity counts the name, so it is not 0")
    rest = words[2:]
    flags: list[str] = []
    if rest and not _NUMBER.fullmatch(rest[0]) and rest[0] != "numkeys" and ":" not in rest[0]:
        flags = _checked_flags(words[0], rest.pop(0))
    policies = {}
    while rest and ":" in rest[-1]:
        policy, _, word = rest.pop().partition(":")
        policies[policy] = word
    row: dict[str, Any] = {
        "arity": arity,
        "since": "0",
        "group": "custom",
        "flags": flags,
        "key_specs": _key_specs(words[0], rest),
    }
    _check_policies(words[0], row, policies)
    line = value.line if isinstance(value, Text) else 0
    return CustomCommand(name, row | policies, line)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is not a name, accepted: printable ASCII without '|'")
    if len(name) > NAME_MAX:
        raise ValueError(f"the name '{name}' is too long, accepted: at most {NAME_MAX} characters")
    if name.lower() in redis_commands():
        raise ValueError(f"nutproxy knows '{name}', and its behaviour cannot be changed")


def _number(word: str, what: str, least: int) -> int:
    if not _NUMBER.fullmatch(word) or not least <= int(word) <= ARITY_MAX:
        raise ValueError(f"'{word}' is not {what}, accepted: {least} to {ARITY_MAX}")
    return int(word)


def _checked_flags(name: str, text: str) -> list[str]:
    flags = text.split(",")
    for flag in flags:
        if flag in _REFUSED_FLAGS:
            raise ValueError(f"'{name}' cannot have the flag '{flag}': {_REFUSED_FLAGS[flag]}")
        if flag not in _flags():
            hint = did_you_mean(flag, sorted(_flags()))
            raise ValueError(f"'{flag}' is not a flag of Redis' commands{hint}")
    return flags


def _key_specs(name: str, words: list[str]) -> list[dict[str, Any]]:
    """The key specifications: of each three numbers, or of `numkeys` and where the number is."""
    if words == ["0", "0", "0"]:
        return []
    specs = []
    rest = list(words)
    while rest:
        if rest[0] == "numkeys" and len(rest) > 1:
            specs.append(_counted(_number(rest[1], "the position of an argument", 1)))
            rest = rest[2:]
        elif rest[0] != "numkeys" and len(rest) > 2:
            specs.append(_range(rest[:3]))
            rest = rest[3:]
        else:
            raise Unfit(f"'{name}' has incomplete keys '{' '.join(words)}'")
    if not specs:
        raise Unfit(f"'{name}' does not say where its keys are; write 0 0 0 if it has none")
    if len(specs) > SPECS_MAX:
        raise ValueError(f"'{name}' has keys in {len(specs)} places, accepted: at most {SPECS_MAX}")
    return specs


def _counted(at: int) -> dict[str, Any]:
    return {
        "flags": [],
        "begin_search": {"index": {"pos": at}},
        "find_keys": {"keynum": {"keynumidx": 0, "firstkey": 1, "step": 1}},
    }


def _range(words: list[str]) -> dict[str, Any]:
    first = _number(words[0], "the position of a key", 1)
    last = _number(words[1], "the position of a key", -ARITY_MAX)
    step = _number(words[2], "a step", 1)
    if 0 <= last < first:
        raise ValueError(f"the last key, {last}, comes before the first, {first}")
    lastkey = last - first if last > 0 else last
    return {
        "flags": [],
        "begin_search": {"index": {"pos": first}},
        "find_keys": {"range": {"lastkey": lastkey, "step": step, "limit": 0}},
    }


def _check_policies(name: str, row: dict[str, Any], policies: dict[str, str]) -> None:
    """Check them for themselves, and against the keys."""
    known = {"request_policy": _REQUEST_POLICIES, "response_policy": _RESPONSE_POLICIES}
    for policy, word in policies.items():
        if policy not in known:
            raise ValueError(f"'{policy}' is not a policy, accepted: {', '.join(known)}")
        if word not in known[policy]:
            accepts = ", ".join(known[policy])
            raise ValueError(f"'{word}' is not a {policy} of '{name}', accepted: {accepts}")
    request = policies.get("request_policy")
    if request is None and policies:
        raise ValueError(f"'{name}' has a response_policy, but no request_policy")
    if request == "multi_shard" and not _can_be_split(row["key_specs"]):
        raise ValueError(
            f"'{name}' cannot be split: request_policy:multi_shard needs keys from argument 1 to"
            " the end, as in '1 -1 2', or 'numkeys 1'"
        )
    if request in ("all_shards", "all_nodes") and row["key_specs"]:
        raise ValueError(f"'{name}' has keys, so they say its server, not request_policy:{request}")


def _can_be_split(specs: list[dict[str, Any]]) -> bool:
    if len(specs) != 1 or specs[0]["begin_search"]["index"]["pos"] != 1:
        return False
    found = specs[0]["find_keys"]
    return "keynum" in found or found["range"]["lastkey"] < 0
