"""Pauses between attempts: longer each time, and drawn by lot, so that many clients do not come back all at once."""

from __future__ import annotations

import random as randomness
from collections.abc import Callable

FIRST = 0.1
"""Longest pause before the first attempt, in seconds."""
LONGEST = 5.0


class Backoff:
    """Draws each pause evenly between nothing and a bound that doubles."""

    def __init__(self, random: Callable[[], float] = randomness.random) -> None:
        self._random = random
        self._bound = FIRST

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        pause = self._random() * self._bound
        self._bound = min(self._bound * 2, LONGEST)
        return pause

    def reset(self) -> None:
        """Begin anew."""
        self._bound = FIRST
