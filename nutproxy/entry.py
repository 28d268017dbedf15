# nutproxy/entry.py: what a worker process executes
"""python -S -s …/nutproxy/entry.py FD, with the master's sys.path in the environment.

Without `site` (-S) a worker starts faster and needs less memory. It finds the same modules as the
master, however those were installed.
"""

import os
import sys

PATH = "NUTPROXY_WORKER_PATH"


def run() -> int:
    sys.path[:] = os.environ.pop(PATH).split(os.pathsep)
    from nutproxy.worker import main

    return main(int(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(run())
