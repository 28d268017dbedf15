# tests/sanitize/__main__.py: python -m tests.sanitize
"""See the package. Arguments are passed to pytest, and only these tests are run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PLACE = ROOT / "build" / "asan"
TREE = PLACE / "tree"
REPORTS = PLACE / "reports"
PYTHON = PLACE / "bin" / "python"
LEFT_OUT = shutil.ignore_patterns(
    *("build", "*.so", "__pycache__", ".git", ".venv", ".*_cache", ".hypothesis", "*.egg-info"),
    ".applications",
)

# The steps by the name that the last line of the output has for them.
STEPS = {
    "fuzz": ["-m", "tests.fuzz", "--seconds", "20"],
    "soak": ["-m", "tests.soak", "--seconds", "20"],
    "soak -m 512": ["-m", "tests.soak", "--seconds", "20", "-m", "512"],
}
# Without tests that measure memory, because sanitizers multiply it, and without slow tests: soaks
# are separate steps.
SUITE = ["-m", "pytest", "-n", "2", "-m", "not measures and not slow"]
# gets of pylibmc reads a key that pylibmc has freed.
SUITE += ["--deselect", "tests/integration/test_memcache_clients.py::test_pylibmc_cas"]


def environment() -> dict[str, str]:
    return {**os.environ, "NUTPROXY_SANITIZE": "1", "PYTHONPATH": str(TREE)}


def prepare() -> None:
    """Build the interpreter, copy the tree, and compile its modules."""
    packages = Path("lib", f"python{sysconfig.get_python_version()}", "site-packages")
    for directory in (PYTHON.parent, REPORTS, (PLACE / packages).parent):
        directory.mkdir(parents=True, exist_ok=True)
    for report in REPORTS.iterdir():
        report.unlink()
    (PLACE / "pyvenv.cfg").write_text(
        f"home = {Path(sys.base_prefix, 'bin')}\ninclude-system-site-packages = false\n"
    )
    (PLACE / packages).unlink(missing_ok=True)
    (PLACE / packages).symlink_to(sysconfig.get_path("purelib"))
    library = sysconfig.get_config_var("LIBDIR")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    run(
        *(*compiler, "-g", "-fsanitize=address,undefined", HERE / "launcher.c", "-o", PYTHON),
        *(f"-I{sysconfig.get_path('include')}", f"-L{library}", f"-Wl,-rpath,{library}"),
        f'-DREPORT="{REPORTS / "report"}"',
        f"-lpython{sysconfig.get_config_var('LDVERSION')}",
    )
    for entry in TREE.iterdir() if TREE.exists() else ():
        # Keep the compiled objects.
        if entry.name != "build":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(ROOT, TREE, ignore=LEFT_OUT, dirs_exist_ok=True)
    run(
        *(sys.executable, "setup.py", "-q", "build_ext", "--inplace"),
        cwd=TREE,
        env=environment(),
    )


def run(*command: object, **options: object) -> None:
    subprocess.run([str(word) for word in command], check=True, **options)  # type: ignore[call-overload]


def main() -> int:
    print("compiling with AddressSanitizer and UndefinedBehaviorSanitizer")
    prepare()
    suite = {"tests": [*SUITE, *sys.argv[1:]]}
    results = {}
    for name, step in (suite if sys.argv[1:] else suite | STEPS).items():
        command = [PYTHON, *step]
        results[name] = subprocess.run(command, cwd=TREE, env=environment()).returncode == 0
    reports = sorted(REPORTS.iterdir())
    for report in reports:
        print(f"{report}:\n{report.read_text(errors='replace')}")
    outcome = ", ".join(f"{name} {'ok' if good else 'FAILED'}" for name, good in results.items())
    print(f"asan: {outcome}; {len(reports)} reports of the sanitizers")
    return 0 if all(results.values()) and not reports else 1


if __name__ == "__main__":
    sys.exit(main())
