# tests/garbage.py: nutproxy, with a socket that reports unreachable cycles
"""The event loop runs without Python's cyclic collector, so an unreachable cycle is a leak.

    python -m tests.garbage SOCKET ARGUMENTS       runs nutproxy with these arguments

Each connection to the unix socket SOCKET gets one line, a JSON object. It says how many objects of
each type have become unreachable since the last report, and shows some of them.
"""

import gc
import json
import socket
import sys
import threading
from collections import Counter

from nutproxy.cli import main

SHOWN = 20  # objects that are described


def found():
    """The objects that are unreachable and not freed, counted by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.garbage.clear()
    gc.collect()
    counts = Counter(type(each).__qualname__ for each in gc.garbage)
    objects = [repr(each)[:200] for each in gc.garbage[:SHOWN]]
    gc.set_debug(0)
    gc.garbage.clear()
    # Free them. Otherwise the next report would count them again.
    gc.collect()
    return {"counts": counts, "objects": objects}


def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(found()).encode() + b"\n")


if __name__ == "__main__":
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    sys.exit(main(sys.argv[2:]))
