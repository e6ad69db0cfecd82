"""What the daemon has to say, collected while one thing that arrived is dealt with, then written: one write a peer.

A command costs its client two messages and its guest two frames. Written one by one, each is a system call that also
wakes the other side too early, on a machine whose processors the command itself wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Mouth(Protocol):
    """Something with bytes to write."""

    def flush(self) -> None:
        """Write them."""


CHORE_SECONDS = 0.002
"""How long a chore may wait for a better moment."""


class Outbox:
    """The event loop's one collection of peers to be written to, and of chores for when that is done.

    The best moment for chores is when a guest has just been given something to do. Right after an answer is the worst:
    on a busy machine the client it wakes shares our processor, and its next request would wait for them.
    """

    def __init__(self) -> None:
        self._waiting: list[Mouth] = []
        self._chores: list[Callable[[], None]] = []
        self._holding = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, mouth: Mouth) -> None:
        """Have the mouth flushed: when what is being dealt with is done, or else in the loop's next turn."""
        if not self._waiting and not self._holding:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(mouth)

    def afterwards(self, chore: Callable[[], None]) -> None:
        """Do what nobody waits for at the next good moment, at the latest in `CHORE_SECONDS`."""
        self._chores.append(chore)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHORE_SECONDS, self._overdue)

    def hold(self) -> None:
        """Something has arrived and is being dealt with."""
        self._holding = True

    def flush(self) -> None:
        """It has been dealt with: write what there is to write."""
        self._holding = False
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            for mouth in waiting:
                mouth.flush()

    def tidy(self) -> None:
        """This is a good moment for chores."""
        while self._chores:
            chores, self._chores = self._chores, []
            for chore in chores:
                chore()
        self.flush()

    def _overdue(self) -> None:
        self._timer = None
        self.tidy()
