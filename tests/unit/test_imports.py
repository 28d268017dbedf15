"""No import points upward, and no module imports itself through others.

Every .py and .pxd of the package is read. `import` and `cimport` count alike, also inside
functions, and a module imports what its .pxd imports.
"""

import ast
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# The order of the house. A module may import those of the rows below its own. A folder is a row;
# the modules in it may import each other. The picture in docs/architecture.md has the same rows.
HOUSE = [
    "__main__",
    "cli",
    "placement",
    "arguments, daemon, demo, examples, manual, report, spread",
    "master/",
    "entry, stepped",
    "worker",
    "core",
    "janitor",
    "dispatch/",
    "front/",
    "pool",
    "route",
    "back/",
    "builtin/",
    "conn",
    "io/",
    "pidfile",
    "descriptors, log, members, notify, resolver",
    "config/",
    "control, plain",
    "stats/",
    "proto/",
    "msg/",
    "hashkit/",
    "csys",
    "nutproxy",
]

# (module, row that it imports from though it is above): why.
UPWARD = {
    ("config.docs", "descriptors"): "a program, imported by nothing: its page gives the numbers",
    ("stats.docs", "config/"): "a program, imported by nothing: its page gives the defaults",
}

# (module, module that a function of it imports): why the import waits until it is needed.
LATE = {
    ("__main__", "cli"): "Ctrl-C during the import must end the command without a traceback",
    ("cli", "demo"): "has a command line of its own",
    (
        "cli",
        "master.main",
    ): "`check` and `--help` need none of the compiled modules, and work without",
    ("cli", "daemon"): "only with -d",
    ("entry", "worker"): "the path that it is found on is set first",
    ("cli", "placement"): "imports compiled modules: only `route`, `ring` and `diff` need it",
    ("cli", "spread"): "imports a compiled module: only `check` needs it",
}


class Import(NamedTuple):
    module: str  # without `nutproxy.`
    target: str
    where: str  # file:line
    late: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.where}: {self.module} imports {self.target}"


def sources() -> dict[str, str]:
    """The text of every module, by its path."""
    paths = [*ROOT.glob("nutproxy/**/*.py"), *ROOT.glob("nutproxy/**/*.pxd")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(paths)}


def module_of(path: str) -> str:
    """The module of a file: `proto.redis`, `proto` for its __init__.py, `nutproxy` for the root."""
    parts = Path(path).with_suffix("").parts[1:]
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "nutproxy"


def names_in_python(text: str) -> Iterator[tuple[int, str, bool]]:
    """The line and the whole name of all that is imported, and whether a function imports it."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        late = id(node) in inside
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name, late) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{start}.{each.name}", late) for each in node.names)


def names_in_header(text: str) -> Iterator[tuple[int, str, bool]]:
    """The same for a .pxd."""
    text = re.sub(r"#.*", "", text)
    statement = r"^\s*(?:from\s+([\w.]+)\s+)?c?import\s+(\([^)]*\)|.+)$"
    for match in re.finditer(statement, text, re.M):
        start, names = match.groups()
        line = text.count("\n", 0, match.start(2)) + 1
        for name in re.findall(r"[\w.*]+", re.sub(r"\bas\s+\w+", "", names)):
            yield line, f"{start}.{name}" if start else name, False


def imports(files: dict[str, str]) -> list[Import]:
    """What the modules of the package import of each other, in the order of the files."""
    modules = {module_of(path) for path in files}
    found = []
    for path, text in files.items():
        module = module_of(path)
        names = names_in_python if path.endswith(".py") else names_in_header
        for line, name, late in names(text):
            where = f"{path}:{line}"
            assert not name.startswith("."), f"{where}: write the whole name of the module"
            target = name.removeprefix("cython.cimports.")
            if target.split(".")[0] != "nutproxy":
                continue
            target = target.removeprefix("nutproxy").removeprefix(".") or "nutproxy"
            while target not in modules:
                target = target.rpartition(".")[0] or "nutproxy"
            if target != module:
                found.append(Import(module, target, where, late))
            # Importing a module from outside its folder runs the folder's __init__.py as well.
            folder = target.rpartition(".")[0]
            if folder and folder != module.split(".")[0]:
                found.append(Import(module, folder, where, False))
    return found


def row_of(module: str) -> str:
    """The name that stands for this module in HOUSE."""
    folder = module.split(".")[0] + "/"
    return folder if folder in HOUSE else module


def height(module: str) -> int:
    """The number of the module's row, from the bottom."""
    name = row_of(module)
    for number, row in enumerate(reversed(HOUSE)):
        if name in row.split(", "):
            return number
    raise AssertionError(f"{module} has no row in HOUSE")


def upward(found: list[Import]) -> list[Import]:
    """The imports of a module that is not below, and not in the same folder either."""
    return [
        each
        for each in found
        if height(each.target) >= height(each.module)
        and not (row_of(each.target) == row_of(each.module) and row_of(each.module)[-1] == "/")
        and (each.module, row_of(each.target)) not in UPWARD
    ]


def cycle(found: list[Import]) -> list[Import]:
    """The imports by which some module imports itself, the fewest possible; empty if none does."""
    graph: dict[str, list[Import]] = {}
    for each in found:
        graph.setdefault(each.module, []).append(each)
    shortest: list[Import] = []
    for start in graph:
        ways = {start: []}
        waiting = deque([start])
        while waiting:
            module = waiting.popleft()
            for each in graph.get(module, []):
                way = [*ways[module], each]
                if each.target == start and (not shortest or len(way) < len(shortest)):
                    shortest = way
                if each.target not in ways:
                    ways[each.target] = way
                    waiting.append(each.target)
    return shortest


FILES = sources()
IMPORTS = imports(FILES)


def test_every_module_has_a_row_and_every_row_a_module():
    rows = [name for row in HOUSE for name in row.split(", ")]
    assert sorted({row_of(module_of(path)) for path in FILES}) == sorted(rows)


def test_the_picture_in_the_documents_has_the_same_rows():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    picture = text.split("## The house\n")[1].split("```")[1]
    assert re.findall(r"^(\S.*?)(?: {2,}.*)?$", picture, re.M) == HOUSE


def test_no_import_points_upward():
    for each in upward(IMPORTS):
        pytest.fail(f"{each}, which is not below it")


def test_no_module_imports_itself_through_others():
    way = cycle(IMPORTS)
    assert not way, "\n".join(map(str, way))


def test_exceptions_are_still_needed():
    assert {(each.module, row_of(each.target)) for each in IMPORTS} >= UPWARD.keys()
    assert not {each.target for each in IMPORTS} & {module for module, _ in UPWARD}


def test_functions_import_only_what_may_wait():
    assert {(each.module, each.target) for each in IMPORTS if each.late} == LATE.keys()


def test_dispatch_reaches_servers_through_a_route_only():
    targets = {each.target for each in IMPORTS if row_of(each.module) == "dispatch/"}
    assert "route" in targets
    assert not {name for name in targets if row_of(name) in ("pool", "back/")} - {
        "back",
        "back.profile",  # the client's state, which is passed on
        "back.link",  # which a client has borrowed from its route
    }


def test_servers_know_no_client():
    above = {"dispatch/", "front/", "janitor", "core"}
    for each in IMPORTS:
        if row_of(each.module) in ("back/", "route", "pool"):
            assert row_of(each.target) not in above, each


@pytest.mark.parametrize("folder", ["msg", "proto"])
def test_messages_and_protocols_know_no_connection(folder):
    below = {"msg": {"csys", "msg/"}, "proto": {"proto/", "msg/"}}[folder]
    assert {row_of(each.target) for each in IMPORTS if row_of(each.module) == f"{folder}/"} <= below


def test_only_the_transport_reads_and_writes_sockets():
    found = set()
    for path, text in FILES.items():
        names = names_in_python if path.endswith(".py") else names_in_header
        found |= {
            (module_of(path), call)
            for _, name, _ in names(text)
            for call in ("recv", "send", "sendmsg", "*")
            if name.removeprefix("cython.cimports.") == f"nutproxy.csys.{call}"
        }
    assert found == {("io.transport", call) for call in ("recv", "send", "sendmsg")}


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        (
            "nutproxy/msg/message.py",
            "from nutproxy.core import Worker",
            "msg.message imports core",
        ),
        ("nutproxy/msg/parse.pxd", "from nutproxy.conn cimport Conn", "msg.parse imports conn"),
        ("nutproxy/io/timer.pxd", "cimport nutproxy.pool as p", "timer imports pool"),
        (
            "nutproxy/proto/redis.pxd",
            "from nutproxy.back.server cimport (\n    Server,  # of a pool\n)",
            "proto.redis imports back.server",
        ),
        (
            "nutproxy/conn.py",
            "from cython.cimports.nutproxy.front.client import ClientConn",
            "conn imports front.client",
        ),
        (
            "nutproxy/config/values.py",
            "def late():\n    from nutproxy import __version__, cli",
            "config.values imports cli",
        ),
        ("nutproxy/io/event.py", "import nutproxy.conn", "io.event imports conn"),
        ("nutproxy/builtin/resp.py", "import nutproxy.dispatch", "builtin.resp imports dispatch"),
    ],
)
def test_an_upward_import_is_found(path, text, found):
    planted, *_ = upward(imports({**FILES, path: f"{FILES[path]}\n{text}\n"}))
    assert str(planted).startswith(f"{path}:")
    assert str(planted).endswith(found)


def test_a_cycle_in_a_folder_is_found():
    path = "nutproxy/hashkit/hashes.pxd"
    way = cycle(imports({**FILES, path: f"{FILES[path]}\nfrom nutproxy.hashkit cimport ring\n"}))
    assert [each.module for each in way] == ["hashkit.hashes", "hashkit.ring"]


def test_a_module_without_a_row_is_found():
    with pytest.raises(AssertionError, match="cluster has no row"):
        upward(imports({**FILES, "nutproxy/cluster.py": "import nutproxy.conn\n"}))
