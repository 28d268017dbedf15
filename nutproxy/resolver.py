# nutproxy/resolver.py: names, looked up off the loop
"""`Resolver.resolve(host, port, callback)` calls back with the addresses of a name, as
(family, address) pairs for a socket in the order of preference, or with an OSError.

For a literal address the callback is called at once. Each name is looked up in a thread of its own,
because getaddrinfo can block for a long time and one name must not wait for another. Requests for a
name that is being looked up share the result, so there are never more threads than names. The
thread puts the result into a queue and wakes the loop, and the loop calls the callbacks.
"""

import contextlib
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Answer = list[tuple[int, Any]] | OSError
Callback = Callable[[Answer], None]


def literal(host: str, port: int) -> Answer | None:
    """The answer for a host that is an address and not a name."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return [(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))]


class Resolver:
    """`wake` is called from another thread when `deliver` has something to do."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.answers: deque[tuple[tuple[str, int], Answer]] = deque()
        self.asked: dict[tuple[str, int], list[Callback]] = {}

    def resolve(self, host: str, port: int, callback: Callback) -> None:
        if known := literal(host, port):
            callback(known)
            return
        callbacks = self.asked.setdefault((host, port), [])
        callbacks.append(callback)
        if len(callbacks) == 1:
            self._begin(host, port)

    def _begin(self, host: str, port: int) -> None:
        try:
            threading.Thread(
                target=self._look_up, args=(host, port), daemon=True, name=f"dns {host}"
            ).start()
        except (RuntimeError, MemoryError) as error:
            # The limit on threads, for example of a container. Only this lookup fails.
            for callback in self.asked.pop((host, port)):
                callback(OSError(str(error) or "out of memory"))

    def _look_up(self, host: str, port: int) -> None:
        answer: Answer
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer = [(family, address) for family, _, _, _, address in found]
        except OSError as error:
            # The traceback refers to this frame, which refers to the answer: a reference cycle.
            answer = error.with_traceback(None)
        except UnicodeError:
            answer = OSError(f"{host!r} is not a host name")
        except MemoryError:
            answer = OSError("out of memory")
        self.answers.append(((host, port), answer))
        with contextlib.suppress(OSError):
            self.wake()

    def deliver(self) -> None:
        """Call the callbacks of all finished lookups. Called in the loop."""
        while self.answers:
            name, answer = self.answers.popleft()
            for callback in self.asked.pop(name):
                callback(answer)
