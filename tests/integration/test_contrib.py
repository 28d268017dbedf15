"""contrib/: files for other programs. Each is checked by its program if that is installed, and
always by a small parser that accepts only the syntax in use."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nutproxy.config import GlobalConfig
from nutproxy.master.main import END_SIGNALS
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, wait_until

CHECKOUT = Path(__file__).parents[2]
CONTRIB = CHECKOUT / "contrib"


def content(name):
    """The lines of a file that are neither comments nor empty."""
    lines = (CONTRIB / name).read_text().splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_every_file_is_tested_here_and_in_the_source_distribution():
    assert {file.name for file in CONTRIB.iterdir()} == {
        "Dockerfile",
        "Dockerfile.dockerignore",
        "nutproxy.logrotate",
        "nutproxy.service",
    }
    assert "graft contrib\n" in (CHECKOUT / "MANIFEST.in").read_text()


# systemd.


@pytest.fixture(scope="module")
def unit():
    """The unit's keys by section. A key that occurs more than once has a list of values."""
    sections = {}
    for line in content("nutproxy.service"):
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
            continue
        name, equals, value = line.partition("=")
        assert equals, line
        assert re.fullmatch("[A-Z][A-Za-z]+", name), line
        section.setdefault(name, []).append(value)
    assert sections.keys() == {"Unit", "Service", "Install"}
    repeated = {name for section in sections.values() for name in section if len(section[name]) > 1}
    assert repeated == {"SystemCallFilter"}
    return {
        section: {name: values[0] if len(values) == 1 else values for name, values in keys.items()}
        for section, keys in sections.items()
    }


def test_unit_matches_the_start_drain_and_end_of_nutproxy(unit):
    service = unit["Service"]
    assert service["Type"] == "notify"
    program, *flags = shlex.split(service["ExecStart"])
    assert Path(program).name == "nutproxy"
    # No -d and no pid file, because systemd manages the process.
    assert flags == ["-c", "/etc/nutproxy/nutproxy.yml"]
    assert signal.Signals[service["KillSignal"]] in END_SIGNALS
    assert int(service["TimeoutStopSec"]) * 1000 > GlobalConfig().shutdown_timeout
    # nutproxy cannot reload its configuration; SIGHUP reopens the log.
    assert "ExecReload" not in service


def test_unit_is_hardened(unit):
    service = unit["Service"]
    assert service["User"] == "nutproxy"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome"):
        assert service[name] == "yes"
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} <= set(service["RestrictAddressFamilies"].split())
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert int(service["LimitNOFILE"]) > 1024


def test_unit_is_understood_by_systemd(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        # Only the parser above checks the file.
        return
    text = (CONTRIB / "nutproxy.service").read_text()
    # The program and the user exist only where nutproxy is installed.
    text = text.replace("/opt/nutproxy/bin/nutproxy", sys.executable)
    text = re.sub("^(User|Group)=nutproxy$", r"\1=root", text, flags=re.M)
    file = tmp_path / "nutproxy-test.service"
    file.write_text(text)
    answer = subprocess.run([analyze, "verify", file], capture_output=True, text=True)
    findings = [line for line in answer.stderr.splitlines() if file.name in line]
    assert (answer.returncode, findings) == (0, [])


# logrotate.

DIRECTIVES = {
    "daily": 0,
    "rotate": 1,
    "missingok": 0,
    "notifempty": 0,
    "compress": 0,
    "delaycompress": 0,
    "nocreate": 0,
    "su": 2,
    "sharedscripts": 0,
}


def rotation():
    """The pattern, the directives and the script of the logrotate file."""
    pattern, *lines, end = content("nutproxy.logrotate")
    assert end == "}"
    start, stop = lines.index("    postrotate"), lines.index("    endscript")
    assert stop == len(lines) - 1
    directives = [line.split() for line in lines[:start]]
    script = "\n".join(lines[start + 1 : stop])
    return pattern.removesuffix(" {"), directives, script


def test_logrotate_file_has_only_directives_that_logrotate_knows(tmp_path):
    pattern, directives, _ = rotation()
    assert pattern == "/var/log/nutproxy/*.log"
    for name, *arguments in directives:
        assert len(arguments) == DIRECTIVES[name]
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is not None:
        file = tmp_path / "nutproxy"
        text = (CONTRIB / "nutproxy.logrotate").read_text()
        # The user may not exist on this machine.
        file.write_text(text.replace("    su nutproxy nutproxy\n", ""))
        state = tmp_path / "state"
        answer = subprocess.run([program, "-d", "-s", state, file], capture_output=True, text=True)
        assert answer.returncode == 0
        assert "error" not in answer.stderr


def test_a_rotation_opens_a_new_log(tmp_path):
    _, _, script = rotation()
    pid_file, log = tmp_path / "nutproxy.pid", tmp_path / "nutproxy.log"
    assert "/run/nutproxy/nutproxy.pid" in script
    script = script.replace("/run/nutproxy/nutproxy.pid", str(pid_file))
    # nutproxy does not run yet: the script sends no signal, and succeeds.
    subprocess.run(["sh", "-ec", script], check=True)
    with (
        RedisServer() as redis,
        NutproxyServer(pool("alpha", [redis]), "-o", str(log), "-p", str(pid_file)),
    ):
        wait_until(lambda: log.exists() and "listens on" in log.read_text(), "the log")
        wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the pid file")
        log.rename(tmp_path / "nutproxy.log.1")
        subprocess.run(["sh", "-ec", script], check=True)
        wait_until(lambda: log.exists() and "reopening log file" in log.read_text(), "a new log")


# The container file.


@pytest.fixture(scope="module")
def stages():
    """The stages of the container file, each a list of (instruction, arguments)."""
    text = "\n".join(content("Dockerfile")).replace("\\\n", " ")
    stages = []
    for line in text.splitlines():
        name, arguments = line.split(None, 1)
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, arguments))
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {name for stage in stages for name, _ in stage} <= known
    return stages


def copied(stage):
    """The paths of the checkout that a stage copies."""
    return [
        source
        for name, arguments in stage
        if name == "COPY" and "--from=" not in arguments
        for source in arguments.split()[:-1]
    ]


def test_image_is_built_from_files_that_exist_and_are_not_ignored(stages):
    ignored = content("Dockerfile.dockerignore")
    assert ignored[0] == "*"
    for source in [source for stage in stages for source in copied(stage)]:
        assert (CHECKOUT / source).exists(), source
        assert f"!{source}" in ignored


def test_copied_files_are_enough_to_build_the_package(stages, tmp_path):
    for source in copied(stages[0]):
        if (CHECKOUT / source).is_dir():
            ignore = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(CHECKOUT / source, tmp_path / source, ignore=ignore)
        else:
            shutil.copy(CHECKOUT / source, tmp_path)
    commands = ["egg_info", "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run([sys.executable, "setup.py", "-q", *commands], cwd=tmp_path, check=True)
    assert (tmp_path / "lib" / "nutproxy" / "core.pxd").exists()


def test_image_has_no_compiler_no_root_and_no_shell_before_nutproxy(stages):
    build, final = stages
    assert build[0] == ("FROM", final[0][1] + " AS build")
    instructions = dict(final)
    assert "RUN" not in instructions
    user, group = instructions["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert signal.Signals[instructions["STOPSIGNAL"]] in END_SIGNALS
    # The exec form, without a shell, so that signals reach nutproxy.
    [program] = json.loads(instructions["ENTRYPOINT"])
    assert Path(program).name == "nutproxy"
    [(_, environment)] = [
        (name, arguments) for name, arguments in final if "--from=build" in arguments
    ]
    assert Path(program).is_relative_to(environment.split()[-1])
    # In the foreground, logging to standard error, without a pid file.
    flag, configuration = json.loads(instructions["CMD"])
    assert flag == "-c"
    assert ("COPY", f"conf/nutproxy.yml {configuration}") in final
