"""`nutproxy ring`, `diff` and `route --without`: what they print, and their exit codes."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nutproxy import spread
from nutproxy.cli import main
from nutproxy.config import load
from nutproxy.hashkit.arcs import moves
from nutproxy.spread import router, traps

THREE = ("10.0.0.1:6379:1 alpha", "10.0.0.2:6379:1 beta", "10.0.0.3:6379:1 gamma")
FOUR = (*THREE, "10.0.0.4:6379:1 delta")
KEYS = [f"user:{number}" for number in range(1000)]


def pool(servers=THREE, name="p", port=1, hash="murmur", **settings):
    keys = {"listen": f"127.0.0.1:{port}", "redis": "true", "hash": hash, **settings}
    lines = [f"{name}:", *(f"  {key}: {value}" for key, value in keys.items()), "  servers:"]
    return "\n".join([*lines, *(f"  - {server}" for server in servers), ""])


def unnamed(count):
    return [f"10.0.0.{number}:6379:1" for number in range(count)]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the files into the current directory, which is empty."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            Path(f"{name}.yml" if name in ("old", "new", "f") else name).write_text(text)

    return write


@pytest.fixture
def diff(write, capsys):
    """Compares two texts: the exit code, stdout and stderr."""

    def diff(old, new, *arguments):
        write(old=old, new=new)
        code = main(["diff", "old.yml", "new.yml", *arguments])
        return (code, *capsys.readouterr())

    return diff


def only_pool(text):
    Path("f.yml").write_text(text)
    [found] = load("f.yml")[0].pools
    return found


def table(out, first):
    """The rows of the table whose header begins with `first`, by their first column."""
    lines = iter(out.splitlines())
    header = next(line.split() for line in lines if line.startswith(first))
    rows = []
    for line in lines:
        if line.startswith(("pool ", "...", "SERVER")) or not line:
            break
        rows.append(dict(zip(header, line.split(), strict=True)))
    return rows


# ---- ring -----------------------------------------------------------------------------------


def test_ring_prints_exact_shares_and_the_imbalance(write, capsys):
    write(f=pool())
    assert main(["ring", "f.yml"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [(row["SERVER"], row["SHARE"], row["MOVES"]) for row in table(out, "SERVER")] == [
        ("beta", "34.12%", "34.12%"),
        ("alpha", "29.94%", "29.94%"),
        ("gamma", "35.93%", "35.93%"),
    ]
    assert out.splitlines()[-1] == (
        "pool 'p': imbalance 1.08: 'gamma' has 1.08 times the keys that its weight says,"
        " 'alpha' 0.90 times"
    )


def test_ring_moves_is_what_diff_says_of_a_file_without_the_server(write, capsys, diff):
    weighted = ["a:1:1 a", "b:1:3 b", "c:1:7 c", "d:1:2 d"]
    for distribution in ("ketama", "modula"):
        write(f=pool(weighted, distribution=distribution))
        assert main(["ring", "f.yml", "--json"]) == 0
        [found] = json.loads(capsys.readouterr().out)["pools"]
        for number, server in enumerate(found["servers"]):
            rest = weighted[:number] + weighted[number + 1 :]
            _, out, _ = diff(
                pool(weighted, distribution=distribution),
                pool(rest, distribution=distribution),
                "--json",
            )
            assert json.loads(out)["pools"][0]["moved"] == server["moves"]


def test_ring_leaves_out_what_would_take_too_long(write, capsys, monkeypatch):
    monkeypatch.setattr(spread, "WORK_MAX", 0)
    write(f=pool(["a:1:1 a", "b:1:3 b", "c:1:7 c"]))
    assert main(["ring", "f.yml"]) == 0
    assert [row["MOVES"] for row in table(capsys.readouterr().out, "SERVER")] == ["-"] * 3
    # Equal servers are known without a comparison.
    write(f=pool())
    assert main(["ring", "f.yml"]) == 0
    rows = table(capsys.readouterr().out, "SERVER")
    assert [row["MOVES"] for row in rows] == [row["SHARE"] for row in rows]


def test_ring_counts_the_given_keys(write, capsys):
    write(f=pool(), keys="\n".join([*KEYS, "", ""]))
    assert main(["ring", "f.yml", "--keys", "keys"]) == 0
    rows = table(capsys.readouterr().out, "SERVER")
    routes = router(only_pool(pool()))
    counts = Counter(routes.explain(key.encode()).server for key in KEYS)
    assert [row["KEYS"] for row in rows] == [f"{counts[index] / 1000:.2%}" for index in range(3)]


def test_ring_as_json(write, capsys):
    warned = pool(name="q", port=2, hash="crc32", hash_tag='"{}"')
    write(f=pool(["a:1:1", "b:1:2 b"]) + warned, keys="k\n")
    assert main(["ring", "f.yml", "--json", "--keys", "keys"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["file"] == "f.yml"
    first, second = found["pools"]
    servers = first.pop("servers")
    assert first == {
        "pool": "p",
        "hash": "murmur",
        "distribution": "ketama",
        "hash_tag": None,
        "exact": True,
        "hashes": 1 << 32,
        "keys": 1,
        "imbalance": max(
            each["share"] / fair for each, fair in zip(servers, [2 / 3, 1 / 3], strict=True)
        ),
        "traps": [*traps(only_pool(pool(["a:1:1", "b:1:2 b"])))],
        "warnings": [],
    }
    assert servers[0] == {
        "server": "b",
        "named": True,
        "address": "b:1",
        "weight": 2,
        "points": 212,
        "hashes": servers[0]["hashes"],
        "share": servers[0]["hashes"] / (1 << 32),
        "moves": servers[0]["share"],
        "keys": 1 - servers[1]["keys"],
    }
    assert sum(each["hashes"] for each in servers) == 1 << 32
    assert (second["hashes"], second["hash_tag"]) == (1 << 15, "{}")
    [warning] = second["warnings"]
    assert warning in err


def test_with_random_there_are_no_keys_to_count(write, capsys):
    write(f=pool(distribution="random"), keys="k\n")
    assert main(["ring", "f.yml", "--keys", "keys"]) == 0
    out = capsys.readouterr().out
    assert [row["SHARE"] for row in table(out, "SERVER")] == ["33.33%"] * 3
    assert "KEYS" not in out
    assert "imbalance" not in out


# Traps.


@pytest.mark.parametrize(
    ("text", "trap"),
    [
        (pool(distribution="random"), None),
        (pool([THREE[0]]), None),
        (pool(), None),
        (pool([*THREE[:2], "10.0.0.3:6379:2 gamma"], distribution="random"), "ignores weights"),
        (pool(hash="fnv1a_64"), "fnv1a_64 keeps keys with consecutive numbers together"),
        (pool(hash="hsieh", distribution="modula"), "hsieh rarely returns every 65th value"),
        (pool(unnamed(3)), "3 of 3 servers have no name"),
        (
            pool(unnamed(3), distribution="modula"),
            "another address for '10.0.0.0:6379' can change the order",
        ),
        (
            pool([f"{server} s{n}" for n, server in enumerate(unnamed(50))]),
            "50 of 50 servers have the wrong number of points, such as 156 instead of 160",
        ),
        (
            pool(["a:1:1 " + "x" * 272, "b:1:1 b"]),
            f"server '{'x' * 40}...' is too long: only 272 bytes",
        ),
    ],
)
def test_traps(write, text, trap):
    write()
    found = [*traps(only_pool(text))]
    if trap is None:
        assert found == []
    else:
        [line] = found
        assert trap in line


def test_points_of_two_servers_are_counted(write):
    """Of 160,000 points in 2^32 about three share their value with another."""
    write()
    servers = [f"h{number}:1:1 s{number}" for number in range(1000)]
    [line] = traps(only_pool(pool(servers)))
    points = spread.make_ring("ketama", [(b"s%d" % n, 1) for n in range(1000)]).points()
    values = Counter(point >> 32 for point in points)
    contested = sum(count > 1 for count in values.values())
    assert contested
    assert line.startswith(f"{contested} points of the ring belong to two servers")


@pytest.mark.parametrize(
    "address", ["10.0.0.1:6379", "10.0.0.1:11211", "/run/a.sock", '"[::1]:6379', "host:06379"]
)
@pytest.mark.parametrize("distribution", ["ketama", "modula"])
def test_the_name_that_a_trap_suggests_moves_nothing(write, diff, address, distribution):
    quote = '"' if address.startswith('"') else ""
    write()
    others = THREE[1:]
    old = pool([f"{address}:3{quote}", *others], distribution=distribution)
    [line] = traps(only_pool(old))
    named = re.search("write '(.*)'$", line)[1]
    code, out, _ = diff(old, pool([f'"{named}"', *others], distribution=distribution))
    assert (code, out) == (0, "pool 'p': nothing moves\n")


def test_the_trap_of_an_unnamed_server_gives_the_expected_share(write):
    """The mean over 200 other addresses; a single one of them moves 28 to 41 %."""
    write()
    old = only_pool(pool(unnamed(3)))
    [line] = traps(old)
    assert "moves about 33% of the keys to or from other servers" in line
    each = old.layout
    moved = []
    for number in range(100, 300):
        other = f"10.0.{number}.7:6379"
        new = each._replace(servers=((other, 1), *each.servers[1:]))
        moved.append(moves(each, new, {each.names[0]: other}).moved)
    assert float(sum(moved) / len(moved)) == pytest.approx(1 / 3, abs=0.02)


# ---- diff -----------------------------------------------------------------------------------


def test_diff_prints_what_moves_from_where_to_where(diff):
    code, out, err = diff(pool(), pool(FOUR))
    assert (code, err) == (0, "")
    assert out == (
        "pool 'p': 25.75% of the keys move; by the weights alone, 25.00% would have to\n"
        "FROM   TO     SHARE\n"
        "beta   delta  10.07%\n"
        "gamma  delta  8.91%\n"
        "alpha  delta  6.78%\n"
        "SERVER  BEFORE  LEAVES  ARRIVES  AFTER   ADDRESS\n"
        "beta    34.12%  10.07%  0.00%    24.05%  10.0.0.2:6379\n"
        "alpha   29.94%  6.78%   0.00%    23.17%  10.0.0.1:6379\n"
        "gamma   35.93%  8.91%   0.00%    27.03%  10.0.0.3:6379\n"
        "delta   -       0.00%   25.75%   25.75%  10.0.0.4:6379\n"
    )


@pytest.mark.parametrize("distribution", ["ketama", "modula", "random"])
@pytest.mark.parametrize("hash", ["murmur", "crc32", "hsieh"])
def test_nothing_moves_between_a_file_and_itself(diff, distribution, hash):
    text = pool(distribution=distribution, hash=hash)
    code, out, _ = diff(text, text, "--max", "0%", "--json")
    [found] = json.loads(out)["pools"]
    assert (code, found["status"], found["moved"], found["moves"]) == (0, "same", 0, [])


def test_diff_says_what_moves_between_servers_that_stay(diff):
    servers = [f"{server} s{n}" for n, server in enumerate(unnamed(51))]
    code, out, _ = diff(pool(servers[:50]), pool(servers))
    first, second, *_ = out.splitlines()
    assert code == 0
    assert first == "pool 'p': 4.57% of the keys move; by the weights alone, 1.96% would have to"
    assert second == "pool 'p': 2.57% move between servers that are in both files"
    assert re.search(
        r"^\.\.\. and \d+ more, \d\.\d\d% together; --json has all of them$", out, re.M
    )
    assert len(table(out, "FROM")) == 20


def test_modula_moves_three_quarters(diff):
    _, out, _ = diff(pool(distribution="modula"), pool(FOUR, distribution="modula"))
    assert out.startswith("pool 'p': 75.00% of the keys move; by the weights alone, 25.00% would")


def test_pools_of_one_file_are_named(diff):
    old = pool() + pool(name="gone", port=2)
    new = pool(FOUR) + pool(name="fresh", port=2)
    code, out, _ = diff(old, new, "--max", "30")
    assert code == 0
    assert "pool 'gone': removed, only the old file has it: beta, alpha, gamma\n" in out
    assert "pool 'fresh': added, only the new file has it: beta, alpha, gamma\n" in out
    _, out, _ = diff(old, new, "gone")
    assert out == "pool 'gone': removed, only the old file has it: beta, alpha, gamma\n"


def test_a_server_that_gets_a_name_is_the_same_server(diff):
    """What its new name gets of its old keys stays where it is."""
    _, out, _ = diff(pool(unnamed(3)), pool([f"{each} s{n}" for n, each in enumerate(unnamed(3))]))
    assert "pool 'p': 63.52% of the keys move;" in out
    assert "server 's1' was '10.0.0.1:6379': it has the same address, so its keys stay there" in out
    assert {row["SERVER"] for row in table(out, "SERVER")} == {"s0", "s1", "s2"}


def test_a_server_with_a_new_address_has_to_have_its_keys(diff):
    code, out, _ = diff(pool(), pool([*THREE[:2], "10.0.9.9:6379:1 gamma"]), "--max", "0")
    assert code == 0
    assert out == (
        "pool 'p': nothing moves\n"
        "pool 'p': server 'gamma' moves from 10.0.0.3:6379 to 10.0.9.9:6379: its keys must be"
        " there\n"
    )


def test_another_hash_is_expected_not_counted(diff, write):
    code, out, _ = diff(pool(), pool(hash="md5"))
    assert code == 0
    assert "pool 'p': hash changes from murmur to md5, which can move every key\n" in out
    assert "pool 'p': the shares are expected, not counted" in out
    # Keys tell the truth.
    write(keys="\n".join(KEYS))
    _, out, _ = diff(pool(), pool(hash="md5"), "--keys", "keys", "--json")
    [found] = json.loads(out)["pools"]
    old, new = (router(only_pool(pool(hash=name))) for name in ("murmur", "md5"))
    moved = sum(old.explain(key.encode())[0] != new.explain(key.encode())[0] for key in KEYS)
    assert found["keys"]["moved"] == moved / 1000
    assert found["basis"] == "independent"
    assert found["moved"] == pytest.approx(moved / 1000, abs=0.05)


def test_another_hash_tag_moves_keys_with_a_tag_only(diff, write):
    write(keys="\n".join([*KEYS, "{user:1}:name", "x{user:1}"]))
    new = pool(hash_tag='"{}"')
    _, out, _ = diff(pool(), new, "--keys", "keys")
    assert "hash_tag changes from none to {}, which can move every key\n" in out
    assert "that is for keys with a tag; of the keys without one, 0.00% move\n" in out
    given = re.search(r"of the 1002 given keys (.*)% move", out)[1]
    old_route, new_route = (router(only_pool(text)) for text in (pool(), new))
    tagged = [b"{user:1}:name", b"x{user:1}"]
    moved = sum(old_route.explain(key).server != new_route.explain(key).server for key in tagged)
    assert given == f"{100 * moved / 1002:.2f}"


def test_another_distribution_is_counted(diff):
    _, out, _ = diff(pool(), pool(distribution="modula"), "--json")
    [found] = json.loads(out)["pools"]
    assert found["basis"] == "exact"
    assert found["notes"] == [
        "distribution changes from ketama to modula, which can move every key"
    ]


def test_random_has_nothing_to_move(diff):
    random = pool(distribution="random")
    _, out, _ = diff(random, pool(FOUR, distribution="random"), "--max", "0")
    assert out.splitlines()[-1] == "pool 'p': with random a key has no server, so none moves"
    code, out, _ = diff(random, pool(), "--max", "50")
    assert code == 1
    assert "pool 'p': 66.67% of the keys move;" in out


def test_diff_as_json(diff, write):
    write(keys="\n".join(KEYS))
    old, new = pool() + pool(name="q", port=2), pool(FOUR)
    code, out, err = diff(old, new, "--json", "--keys", "keys", "--max", "20%")
    found = json.loads(out)
    assert (code, found["old"], found["new"], found["max"]) == (1, "old.yml", "new.yml", 0.2)
    first, second = found["pools"]
    assert second["pool"] == "q"
    assert (second["status"], second["moved"], second["keys"]) == ("removed", None, None)
    assert first.keys() == second.keys()
    moved = first.pop("moved")
    keys = first["keys"]
    assert (
        err == f"nutproxy: pool 'p' moves {keys['moved']:.2%} of its keys, more than --max 20.00%\n"
    )
    assert keys["total"] == 1000
    assert sum(each["share"] for each in keys["moves"]) == pytest.approx(keys["moved"])
    assert moved == pytest.approx(sum(each["share"] for each in first["moves"]))
    assert {each["to"] for each in first["moves"]} == {"delta"}
    assert [(each["old"], each["new"]) for each in first["servers"]] == [
        ("beta", "beta"),
        ("alpha", "alpha"),
        ("gamma", "gamma"),
        (None, "delta"),
    ]
    for each in first["servers"]:
        rest = each["before"] - each["leaves"] + each["arrives"]
        assert each["after"] == pytest.approx(rest)
    assert (first["status"], first["basis"]) == ("changed", "exact")
    assert (first["needed"], first["between_kept"]) == (0.25, 0)
    assert (first["notes"], first["over_max"]) == ([], True)


@pytest.mark.parametrize(
    ("bound", "code"), [("30%", 0), ("26", 0), ("25.8%", 0), ("25.7%", 1), ("0", 1), ("100%", 0)]
)
def test_max_decides_on_the_exit_code(diff, bound, code):
    found, _, err = diff(pool(), pool(FOUR), "--max", bound)
    shown = f"{float(bound.rstrip('%')):.2f}%"
    message = f"nutproxy: pool 'p' moves 25.75% of its keys, more than --max {shown}\n"
    assert (found, err) == (code, message if code else "")


def test_max_is_not_exceeded_by_its_own_value(diff):
    modula = [pool(servers, distribution="modula") for servers in (THREE[:2], [THREE[0]])]
    assert diff(*modula, "--max", "50%")[0] == 0
    assert diff(*modula, "--max", "49.9%")[0] == 1


def test_with_keys_their_share_decides(diff, write):
    write(keys="\n".join(KEYS))
    code, out, _ = diff(pool(), pool(FOUR), "--keys", "keys", "--max", "25.8%")
    given = re.search(r"of the 1000 given keys (.*)% move", out)[1]
    assert code == (float(given) > 25.8)
    write(keys="only\n")
    code, out, _ = diff(pool(), pool(FOUR), "--keys", "keys", "--max", "23%")
    assert "of the 1 given keys 0.00% move" in out
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: OLD, NEW"),
        (["old.yml"], "the following arguments are required: NEW"),
        (["old.yml", "new.yml", "p", "q"], "unrecognized arguments: q"),
        (["old.yml", "new.yml", "--foo"], "unrecognized arguments: --foo"),
        (["-", "-"], "only one of the files can be standard input"),
        (["-", "new.yml", "--keys", "-"], "only one of the files can be standard input"),
        (["", "new.yml"], "argument FILE: requires a file name"),
        (
            ["old.yml", "new.yml", "--max", "x"],
            "argument --max: 'x' is not a share, accepted: 0% to",
        ),
        (["old.yml", "new.yml", "--max", "101%"], "argument --max: '101%' is not a share"),
        (["old.yml", "new.yml", "--max"], "argument --max: expected one argument"),
        (
            ["old.yml", "new.yml", "--keys", "nil"],
            "argument --keys: nil: No such file or directory",
        ),
        (["old.yml", "new.yml", "--keys", "none"], "argument --keys: none has no keys"),
        (["-c", "old.yml", "new.yml"], "unrecognized arguments: -c"),
    ],
)
def test_a_wrong_call_of_diff_exits_with_2(write, capsys, arguments, message):
    write(old=pool(), new=pool(), none="\n\n")
    assert main(["diff", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nutproxy: {message}")
    assert "\nusage: nutproxy diff OLD NEW" in err


def test_diff_takes_no_file_of_the_flags(write, capsys):
    write(old=pool(), new=pool())
    assert main(["-c", "old.yml", "diff", "old.yml", "new.yml"]) == 2
    assert "diff takes its files as OLD and NEW" in capsys.readouterr().err


def test_problems_of_either_file_are_printed_with_their_lines(diff):
    bad = pool().replace("redis: true", "redis: maybe")
    problem = ":3: pool 'p': redis: 'maybe' is not a boolean, accepted: true, false\n"
    assert diff(bad, pool()) == (2, "", f"old.yml{problem}")
    assert diff(pool(), bad) == (2, "", f"new.yml{problem}")
    assert diff(bad, bad) == (2, "", f"old.yml{problem}new.yml{problem}")
    code, out, err = diff(pool(), "")
    assert (code, out) == (2, "")
    assert err == "new.yml: is empty, at least one pool is needed\n"


def test_only_the_new_file_is_warned_of(diff):
    warned = pool(server_connections=17)
    assert diff(warned, pool())[2] == ""
    assert diff(pool(), warned)[2].startswith("new.yml:5: pool 'p': server_connections: warning:")


def test_diff_of_an_unknown_pool(diff):
    code, out, err = diff(pool(), pool(), "q")
    assert (code, out) == (2, "")
    assert err.startswith("nutproxy: new.yml has no pool 'q'")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-", "new.yml"], pool()),
        (["old.yml", "-"], pool(FOUR)),
        (["old.yml", "new.yml", "--keys", "-"], "a\nb\n"),
    ],
)
def test_one_file_can_be_standard_input(write, arguments, text):
    write(old=pool(), new=pool(FOUR))
    command = [sys.executable, "-m", "nutproxy", "diff", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pool 'p': 25.75% of the keys move;")
    assert ("of the 2 given keys" in done.stdout) == ("--keys" in arguments)


def test_words_may_follow_options(diff):
    assert diff(pool(), pool(FOUR), "--max", "30%", "p")[0] == 0
    assert main(["diff", "--json", "old.yml", "--max", "1%", "new.yml", "p"]) == 1


def test_words_after_two_dashes_are_keys(write, capsys):
    write(f=pool())
    assert main(["route", "f.yml", "p", "a", "--without", "beta", "--", "-x", "--without"]) == 0
    keys = [row["KEY"] for row in table(capsys.readouterr().out, "SERVER")]
    assert keys == ["a", "-x", "--without"]
    assert main(["route", "f.yml", "p", "a", "--without", "beta", "-x"]) == 1
    assert "unrecognized arguments: -x" in capsys.readouterr().err


# ---- route --without ------------------------------------------------------------------------


def test_route_without_a_server_shows_where_its_keys_go(write, capsys):
    write(f=pool(auto_eject_hosts="true", timeout=100))
    names = KEYS[:50]
    assert main(["route", "f.yml", "p", *names]) == 0
    usual = [row["SERVER"] for row in table(capsys.readouterr().out, "SERVER")]
    for without in ("beta", "10.0.0.2:6379"):
        assert main(["route", "f.yml", "p", *names, "--without", without]) == 0
        out, err = capsys.readouterr()
        rows = table(out, "SERVER")
        assert err == ""
        assert [row["BEFORE"] for row in rows] == usual
        assert [row["KEY"] for row in rows] == names
        assert "beta" not in {row["SERVER"] for row in rows}
        assert {row["SERVER"] == row["BEFORE"] for row in rows} == {True, False}
        for row in rows:
            assert (row["SERVER"] == row["BEFORE"]) == (row["BEFORE"] != "beta")


def test_route_without_several_or_all_servers(write, capsys):
    write(f=pool(auto_eject_hosts="true", timeout=100))
    options = ["--without", "beta", "--without", "alpha"]
    assert main(["route", *options, "f.yml", "p", "a", "b", "c"]) == 0
    assert {row["SERVER"] for row in table(capsys.readouterr().out, "SERVER")} == {"gamma"}
    assert main(["route", "f.yml", "p", *options, "--without", "gamma", "a", "b"]) == 0
    for row in table(capsys.readouterr().out, "SERVER"):
        assert (row["SERVER"], row["ADDRESS"], row["POINT"]) == ("-", "-", "-")


def test_route_without_a_server_that_is_not_there(write, capsys):
    write(f=pool())
    assert main(["route", "f.yml", "p", "k", "--without", "betta"]) == 1
    assert capsys.readouterr().err == (
        "nutproxy: pool 'p' has no server 'betta', did you mean 'beta'?;"
        " servers: beta, alpha, gamma\n"
    )


def test_route_says_if_the_pool_ejects_nothing(write, capsys):
    write(f=pool())
    assert main(["route", "f.yml", "p", "k", "--without", "beta"]) == 0
    assert "because 'auto_eject_hosts' is not set" in capsys.readouterr().err


# ---- documents ------------------------------------------------------------------------------


def test_the_documents_show_what_the_commands_print(write, capsys):
    servers = "".join(f"   - {server}\n" for server in THREE)
    text = (
        "sessions:\n  listen: 127.0.0.1:22121\n  redis: true\n  hash: murmur\n"
        f"  auto_eject_hosts: true\n  timeout: 400\n  servers:\n{servers}"
    )
    write(new=f"{text}   - {FOUR[-1]}\n")
    Path("nutproxy.yml").write_text(text)
    document = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    shown = re.findall(r"^\$ nutproxy ((?:ring|diff|route) .*)\n((?:.+\n)+?)```", document, re.M)
    assert [call.split()[0] for call, _ in shown] == ["diff", "ring", "route"]
    for call, output in shown:
        assert main(call.split()) == 0
        assert capsys.readouterr() == (output, "")
