# nutproxy/io/jobs.py: work that would take too long for one turn
"""A Job is done in portions, with turns of the loop between them: letting go of a million requests,
building a large ring, making the reply to CLIENT LIST.

    jobs.add ──> [ job 1 | job 2 | job 3 ] ──> one portion of job 1 ──> to the end, if more is left

janitor.py runs them, for about a millisecond in each turn. A worker has two queues (reactor.pxd).
"""

from collections import deque

import cython


@cython.cclass
class Job:
    def portion(self):
        """Do a portion. Returns whether there is more to do. It takes a millisecond at most, unless
        its comment says otherwise."""
        raise NotImplementedError


@cython.cclass
class Steps(Job):
    """Each item of the generator `steps` is a portion. `done` is called with what it returns."""

    def __init__(self, steps, done):
        self.steps = steps
        self.done = done

    def portion(self):
        try:
            next(self.steps)
        except StopIteration as end:
            self.done(end.value)
            return False
        return True


@cython.cclass
class Jobs:
    """A queue of jobs. The first one gets the next portion."""

    def __init__(self):
        self.waiting = deque()

    def add(self, job):
        """Begin or go on with a job in a later turn. Raises MemoryError."""
        self.waiting.append(job)
        self.count += 1
        return 0

    def first(self):
        return self.waiting[0]

    def next(self, more):
        """The first job has had a portion. If there is more to do, it becomes the last. This
        allocates no memory."""
        if more:
            self.waiting.rotate(-1)
        else:
            self.waiting.popleft()
            self.count -= 1
        return 0
