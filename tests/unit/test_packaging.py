"""The contents of an installed nutproxy."""

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import nutproxy
from nutproxy.examples import EXAMPLES

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "nutproxy"
COMPILED = [
    pxd.with_suffix(".py")
    for pxd in sorted(PACKAGE.rglob("*.pxd"))
    if pxd.with_suffix(".py").exists()
]


def module_name(source: Path) -> str:
    return ".".join(source.relative_to(CHECKOUT).with_suffix("").parts)


@pytest.mark.parametrize("source", COMPILED, ids=module_name)
def test_module_with_a_pxd_is_imported_compiled(source):
    spec = importlib.util.find_spec(module_name(source))
    assert isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


def test_every_file_of_the_package_is_installed(tmp_path):
    # build_py copies what the package declares and compiles nothing.
    commands = ["egg_info", "-e", tmp_path, "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=CHECKOUT, check=True)
    kinds = (".py", ".pxd", ".json")
    declared = {file for file in PACKAGE.rglob("*") if file.suffix in kinds}
    installed = {
        CHECKOUT / file.relative_to(tmp_path / "lib")
        for file in (tmp_path / "lib").rglob("*")
        if file.suffix in kinds
    }
    assert installed == declared


def test_examples_are_installed(tmp_path):
    commands = ["egg_info", "-e", tmp_path, "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=CHECKOUT, check=True)
    share = tmp_path / "lib" / "nutproxy" / "share"
    assert {file.name for file in share.iterdir()} == EXAMPLES.keys()
    # In a directory without a checkout.
    for name in EXAMPLES:
        printed = subprocess.run(
            [sys.executable, "-m", "nutproxy", "examples", name],
            cwd=tmp_path / "lib",
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout == (share / name).read_text()


def test_version_is_that_of_the_distribution():
    answer = subprocess.run(
        [sys.executable, "setup.py", "-q", "--version"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == nutproxy.__version__


def test_missing_tools_are_named_with_the_packages_that_have_them(tmp_path):
    answer = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path],
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "'no-such-compiler' is not on PATH" in answer.stderr
    assert "apt-get install gcc libc6-dev python3-dev" in answer.stderr


def test_configuration_in_the_readme_has_no_problem_and_no_warning(tmp_path):
    example = (CHECKOUT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "nutproxy.yml"
    file.write_text(example)
    answer = subprocess.run(
        [sys.executable, "-m", "nutproxy", "check", file], capture_output=True, text=True
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "warning" not in answer.stdout
    assert answer.stdout.startswith(f"{file}: ok, 2 pools, 5 servers\n")
