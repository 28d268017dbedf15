# bench/blocked.py: clients that wait in BLPOP
"""Memory, processor time and stalls with many clients that wait.

    python -m bench.blocked [clients]

Prints the resident memory above that of as many idle clients, the processor time of ten idle
seconds, and the longest time that another client waits for its reply while the server of all of
them is killed. Needs a limit on open files of two a client in nutproxy, and one here.
"""

import resource
import sys
import threading
import time
from pathlib import Path

from tests.client import Client, request
from tests.integration.conftest import pool
from tests.servers import NutproxyServer, RedisServer, connect, wait_until

IDLE = 10.0  # seconds
# Seconds after which the memory of the burst has been given back.
SETTLED = 4.0


def resident(pid: int) -> float:
    """Megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def used(pid: int) -> float:
    """Seconds of processor time."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def longest_wait(port: int, end: threading.Event) -> float:
    """Of a client that asks all the time, in milliseconds."""
    longest = 0.0
    with Client(port) as client:
        while not end.is_set():
            start = time.monotonic()
            client("PING")
            longest = max(longest, time.monotonic() - start)
    return longest * 1000


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        RedisServer("--maxclients", str(count + 100)) as redis,
        NutproxyServer(pool("one", [redis], timeout=400)) as proxy,  # type: ignore[no-untyped-call]
    ):
        clients = [connect(proxy.port) for _ in range(count)]
        with Client(proxy.port) as asking:
            asking("PING")
            idle = resident(proxy.worker_pid)
            for client in clients:
                client.sendall(request("BLPOP", "queue", 0))
            blocked = b"blocked_clients:%d" % count
            with Client(redis.port) as direct:
                wait_until(lambda: blocked in direct("INFO", "clients"), f"{count} waits")
            waiting = resident(proxy.worker_pid)
            time.sleep(SETTLED)
            before = used(proxy.worker_pid)
            time.sleep(IDLE)
            spent = used(proxy.worker_pid) - before
            end = threading.Event()
            found: list[float] = []
            watcher = threading.Thread(target=lambda: found.append(longest_wait(proxy.port, end)))
            watcher.start()
            redis.kill()
            for client in clients:
                assert client.recv(200).startswith(b"-ERR server 's1' of pool 'one'")
            end.set()
            watcher.join()
    print(
        f"{count} clients: idle {idle:.0f} MB, waiting {waiting:.0f} MB, {waiting - idle:+.1f} MB"
    )
    print(f"processor time of {IDLE:.0f} idle seconds: {spent * 1000:.2f} ms")
    print(f"longest wait of another client while the server died: {found[0]:.1f} ms")


main()
