# nutproxy/io/wheel.py: many deadlines that hardly ever pass
"""Deadlines of waits, which all differ and nearly all end early.

    slots  { 1204: {c 7, c 12}, 1231: {c 9}, … }        a slot is STEP milliseconds
             ^ one timer, for the first slot

A Timer for each would stay in the heap of the loop until its time, although its wait is over: with
timeouts of an hour that is a lot of memory. Here an item that is removed leaves nothing behind. An
item whose deadline is far away is looked at again after HORIZON, so there are never more slots than
that has.

A deadline is noticed up to two STEPs late, and many that pass together in several turns.
"""

import cython
from cython.cimports.nutproxy.io.timer import WaitQueue

STEP = cython.declare(cython.longlong, 50)
HORIZON = cython.declare(cython.longlong, 60000)
# Items that expire in one turn. The end of a server connection takes 20 us.
EXPIRED_PER_TURN = 64


@cython.cclass
class Wheel:
    def __init__(self, timers: WaitQueue):
        self.timers = timers
        self.slots = {}

    def add(self, now, deadline, item):
        slot: cython.longlong = min(deadline, now + HORIZON) // STEP + 1
        items = self.slots.get(slot)
        if items is None:
            self.turn_to(slot)
            items = self.slots[slot] = {}
        items[item] = deadline
        return slot

    def remove(self, slot, item):
        items = self.slots.get(slot)
        if items is not None:
            items.pop(item, None)

    def turn_to(self, slot):
        """See that the timer expires at this slot, or before."""
        due: cython.longlong = slot * STEP
        if self.timer is not None:
            if self.timer.expires <= due:
                return 0
            self.timer.cancel()
        self.timer = self.timers.schedule(due, self.run)
        return 0

    def run(self) -> None:
        """The time of the first slot has come."""
        due: cython.longlong = self.timer.expires
        slot = min(self.slots)
        items: dict = self.slots[slot]
        self.timer = None
        late = list(items.items())[:EXPIRED_PER_TURN]
        if len(late) == len(items):
            del self.slots[slot]
        for item, _ in late:
            items.pop(item, None)
        if self.slots:
            self.turn_to(min(self.slots))
        for item, deadline in late:
            if deadline > due:
                item.wait_moved(self.add(due, deadline, item))
            else:
                item.expire_wait()
