"""Tasks, a pipeline, a delayed task, a retry and a lock, with each of Huey's storages in Redis."""

import os
import sys

from helpers import DEADLINE, background

if "HUEY_KIND" not in os.environ:
    import subprocess

    for kind in ("list", "priority", "expire"):
        subprocess.run(
            [sys.executable, __file__], env={**os.environ, "HUEY_KIND": kind}, check=True
        )
    sys.exit()

from app import KIND, add, fail_once, guarded, huey

consumer = "from huey.bin.huey_consumer import consumer_main; consumer_main()"
with background("-c", consumer, "app.huey", "-w", "2", "-q"):
    results = [add(number, number) for number in range(50)]
    assert [one.get(blocking=True, timeout=DEADLINE) for one in results] == [*range(0, 100, 2)]
    chain = add.s(1, 2).then(add, 3).then(add, 4)
    assert huey.enqueue(chain).get(blocking=True, timeout=DEADLINE) == [3, 6, 10]
    assert add.schedule((1, 2), delay=1).get(blocking=True, timeout=DEADLINE) == 3
    if hasattr(huey.storage, "incr"):
        assert fail_once("runs").get(blocking=True, timeout=DEADLINE) == "second run"
    assert guarded().get(blocking=True, timeout=DEADLINE) == "alone"
    if KIND == "priority":
        assert add(1, 1, priority=10).get(blocking=True, timeout=DEADLINE) == 2
huey.flush()
assert not huey.pending()
