"""Jobs with results, a delayed job, a retry, a job that is enqueued once, and the health check."""

import asyncio

from app import SETTINGS
from arq import create_pool
from helpers import DEADLINE, background


async def run_jobs():
    pool = await create_pool(SETTINGS)
    jobs = [await pool.enqueue_job("double", number) for number in range(50)]
    results = [await job.result(timeout=DEADLINE, poll_delay=0.02) for job in jobs]
    assert results == [2 * number for number in range(50)]
    assert (await jobs[0].info()).result == 0
    later = await pool.enqueue_job("double", 4, _defer_by=0.5)
    assert await later.result(timeout=DEADLINE, poll_delay=0.02) == 8
    again = await pool.enqueue_job("fail_once", _job_id="once")
    assert await pool.enqueue_job("fail_once", _job_id="once") is None
    assert await again.result(timeout=DEADLINE, poll_delay=0.02) == "second run"
    assert len(await pool.all_job_results()) == 52
    await pool.aclose()


with background("-m", "arq", "app.Worker"):
    asyncio.run(run_jobs())
    with background("-m", "arq", "app.Worker", "--check") as check:
        assert check.wait(DEADLINE) == 0
