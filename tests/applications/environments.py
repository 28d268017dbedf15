# tests/applications/environments.py: where the applications are installed
"""An environment is a folder of .applications with the packages that one scenario needs, and only
these. It is installed when it is first used, and again when its list of packages changes."""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".applications"
MINUTES = 10


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Tests run in several processes. Only one installs an environment."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command: str | Path, cwd: Path) -> None:
    """Runs an installer. If it fails, its output is in the error."""
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=60 * MINUTES,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout}")


def installed(source: Path, lists: list[str], install: Callable[[Path], None]) -> Path:
    """The environment of the scenario in `source`. `lists` names the files with its packages;
    `install` is called with the environment's folder if they have changed."""
    folder = ENVIRONMENTS / source.relative_to(HERE)
    packages = b"".join((source / name).read_bytes() for name in lists)
    stamp = hashlib.sha256(packages + sys.version.encode()).hexdigest()
    done = folder / ".installed"
    with locked(folder):
        if not done.exists() or done.read_text() != stamp:
            for name in lists:
                shutil.copy(source / name, folder)
            install(folder)
            done.write_text(stamp)
    return folder


def python(source: Path) -> list[str | Path]:
    """The command of a scenario in Python."""

    def install(folder: Path) -> None:
        shutil.rmtree(folder / "venv", ignore_errors=True)
        run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
        # The pip of this environment: installing another one takes longer than the packages.
        pip = (sys.executable, "-m", "pip", "--python", "venv/bin/python", "install", "-q")
        run(*pip, "-r", "requirements.txt", cwd=folder)

    folder = installed(source, ["requirements.txt"], install)
    return [folder / "venv/bin/python", source / "scenario.py"]


def node(source: Path) -> list[str | Path]:
    """The command of a scenario in JavaScript. It runs beside its node_modules, where Node.js looks
    for them."""

    def install(folder: Path) -> None:
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        run("npm", "install", *quiet, cwd=folder)

    folder = installed(source, ["package.json"], install)
    with locked(folder):
        for file in source.glob("*.mjs"):
            shutil.copy(file, folder)
    return ["node", folder / "scenario.mjs"]


def debian(source: Path) -> list[str | Path]:
    """The command of a scenario in PHP or Ruby. Its libraries are Debian's (see the Makefile)."""
    return [source.parent.name, source]


def compiled(source: Path, lists: list[str], build: Callable[[Path], None]) -> Path:
    """The environment of a scenario that is compiled, after `build`."""
    folder = installed(source, lists, lambda _: None)
    with locked(folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)
        build(folder)
    return folder


def go(source: Path) -> list[str | Path]:
    """The command of a scenario in Go."""
    command = ("go", "build", "-mod=mod", "-o", "scenario", ".")
    return [compiled(source, ["go.mod"], lambda folder: run(*command, cwd=folder)) / "scenario"]


def java(source: Path) -> list[str | Path]:
    """The command of a scenario in Java."""
    command = (
        "mvn",
        "-q",
        "-B",
        "compile",
        "dependency:copy-dependencies",
        "-DoutputDirectory=lib",
    )
    folder = compiled(source, ["pom.xml"], lambda folder: run(*command, cwd=folder))
    return ["java", "-cp", f"{folder}/target/classes:{folder}/lib/*", "Scenario"]


def rust(source: Path) -> list[str | Path]:
    """The command of a scenario in Rust."""
    folder = compiled(
        source, ["Cargo.toml"], lambda folder: run("cargo", "build", "-q", cwd=folder)
    )
    return [folder / "target/debug/scenario"]


# The command of a scenario by the language, after its environment is installed.
COMMANDS: dict[str, Callable[[Path], list[str | Path]]] = {
    "python": python,
    "node": node,
    "php": debian,
    "ruby": debian,
    "go": go,
    "java": java,
    "rust": rust,
}
