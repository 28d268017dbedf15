"""Messages with results, a pipeline, a group with a callback, a delay, a retry, a rate limit."""

from app import add, broker, fail_once, limited, limits
from dramatiq import group
from dramatiq.rate_limits import WindowRateLimiter
from helpers import background

PATIENT = {"block": True, "timeout": 40_000}

with background("-m", "dramatiq", "app", "--processes", "1", "--threads", "4"):
    messages = [add.send(number, number) for number in range(50)]
    assert [one.get_result(**PATIENT) for one in messages] == [*range(0, 100, 2)]
    assert (add.message(1, 2) | add.message(3)).run().get_result(**PATIENT) == 6
    together = group(add.message(number, 1) for number in range(5)).run()
    assert [*together.get_results(**PATIENT)] == [1, 2, 3, 4, 5]
    assert add.send_with_options(args=(1, 2), delay=500).get_result(**PATIENT) == 3
    assert fail_once.send("runs").get_result(**PATIENT) == "second run"
    assert limited.send().get_result(**PATIENT) == "alone"
    broker.join("default", timeout=40_000)

# A window is several keys, which are watched together.
window = WindowRateLimiter(limits, "{window}", limit=2, window=60)
taken = []
for _ in range(3):
    with window.acquire(raise_on_failure=False) as acquired:
        taken.append(acquired)
assert taken == [True, True, False]
