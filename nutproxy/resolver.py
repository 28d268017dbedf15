# nutproxy/resolver.py: names, looked up off the loop
"""`Resolver.resolve(host, port, callback)` calls back with the addresses of a name, as
(family, address) pairs for a socket in the order of preference, or with an OSError.

Literal addresses are answered at once. A name is looked up by a thread of its own, since
getaddrinfo blocks for as long as a name server likes, and one name must not wait for another. Who
asks for a name that is being looked up shares the answer, so there are never more threads than
names. The answer is put into a queue and the loop is woken, which calls back in the loop.
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


class Resolver:
    """`wake` is called from another thread when `deliver` has something to do."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.answers: deque[tuple[tuple[str, int], Answer]] = deque()
        self.asked: dict[tuple[str, int], list[Callback]] = {}

    def resolve(self, host: str, port: int, callback: Callback) -> None:
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            callbacks = self.asked.setdefault((host, port), [])
            callbacks.append(callback)
            if len(callbacks) == 1:
                self._begin(host, port)
            return
        callback([(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))])

    def _begin(self, host: str, port: int) -> None:
        try:
            threading.Thread(
                target=self._look_up, args=(host, port), daemon=True, name=f"dns {host}"
            ).start()
        except (RuntimeError, MemoryError) as error:
            # The system's limit of threads (a container's, say). It concerns this lookup alone.
            for callback in self.asked.pop((host, port)):
                callback(OSError(str(error) or "out of memory"))

    def _look_up(self, host: str, port: int) -> None:
        answer: Answer
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer = [(family, address) for family, _, _, _, address in found]
        except OSError as error:
            # Its traceback holds this frame, which holds the answer: a cycle.
            answer = error.with_traceback(None)
        except UnicodeError:
            answer = OSError(f"{host!r} is not a host name")
        except MemoryError:
            answer = OSError("out of memory")
        self.answers.append(((host, port), answer))
        with contextlib.suppress(OSError):
            self.wake()

    def deliver(self) -> None:
        """In the loop: hand the answers to those who asked."""
        while self.answers:
            name, answer = self.answers.popleft()
            for callback in self.asked.pop(name):
                callback(answer)
