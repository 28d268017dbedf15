# tests/stateful/run.py: holds conversations, and shortens those that differ

from tests.stateful.conversation import POOLS, draw
from tests.stateful.shrink import shrunk
from tests.stateful.stage import PATIENCE, SHORT_PATIENCE, Stage, staged


def hold(stage: Stage, seed: int) -> str:
    """Hold the conversation of this seed. Returns "", or a report of what differs."""
    pool = POOLS[seed % len(POOLS)]
    turns = draw(seed, pool)
    first = stage.hold(turns, pool)
    if first is None:
        return ""
    stage.patience = SHORT_PATIENCE
    short = shrunk(turns, pool, lambda turns: stage.hold(turns, pool) is not None)
    report = f"seed {seed}, pool '{pool}':\n{stage.hold(short, pool) or f'not again: {first}'}"
    stage.patience = PATIENCE
    return report


def portion(work: tuple[range, tuple[str, ...], int]) -> tuple[int, int, list[str]]:
    """Hold the conversations of these seeds: their number, their turns, and the reports."""
    seeds, arguments, most = work
    reports: list[str] = []
    held = turns = 0
    with staged(*arguments) as stage:
        for seed in seeds:
            report = hold(stage, seed)
            held += 1
            turns += len(draw(seed, POOLS[seed % len(POOLS)]))
            if report:
                print(report, flush=True)
                reports.append(report)
                if len(reports) >= most:
                    break
        log = stage.proxy.log()
    if "Traceback" in log:
        reports.append(log[-5000:])
        print(reports[-1], flush=True)
    return held, turns, reports
