# nutproxy/daemon.py: running in the background
"""`-d`: the command returns when the daemon listens, or prints why it does not.

    the command ── fork ──> session leader ── fork ──> the daemon: not a session leader, so that no
         │                  setsid, ends               terminal can become its controlling one
         │                                                 │
         │ waits at a pipe <────────── exit code ──────────┤ starts; its errors go to the terminal
       ends with that code                                 │
                                                           │ ready: standard descriptors become
                                                           │ /dev/null, and only then it reports
                                                           serves

The forks come before any thread, socket or lock, so the daemon has opened everything that it holds
itself. The umask is kept. The working directory becomes /, so that no file system is kept busy.
Every path that is passed to the daemon must therefore be absolute.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

LOST = "nutproxy: the daemon ended before it was listening"


def daemonize(serve: Callable[[Callable[[], None]], int]) -> int:
    """Run `serve(ready)` in a daemon; it calls `ready` once it listens. Returns the exit code: in
    the command 0 if the daemon is ready, else the daemon's; in the daemon that of `serve`."""
    for stream in (sys.stdout, sys.stderr):
        # Otherwise both processes would write the buffered text.
        stream.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.waitpid(child, 0)
        return outcome(reading)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    reported = False

    def report(code: int) -> None:
        nonlocal reported
        if not reported:
            reported = True
            # The command may have been killed meanwhile.
            with contextlib.suppress(BrokenPipeError):
                os.write(writing, bytes([code]))
            os.close(writing)

    def ready() -> None:
        detach()
        report(0)

    code = serve(ready)
    report(code)
    return code


def outcome(reading: int) -> int:
    """The exit code that the daemon has reported, 1 if it has ended without a report."""
    with os.fdopen(reading, "rb") as pipe:
        code = pipe.read(1)
    if not code:
        print(LOST, file=sys.stderr)
        return 1
    return code[0]


def detach() -> None:
    """Detach from the terminal: the standard descriptors become /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
