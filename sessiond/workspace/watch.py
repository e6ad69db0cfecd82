"""When to look at a measured volume again, and when to speak up. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WRITES_A_SECOND = 500_000_000
"""Bytes that a sandbox is assumed to write at most; a disk that is faster lets it exceed its size by more."""

SHORTEST_SECONDS = 0.25
LONGEST_SECONDS = 5.0
"""Between two looks."""

REST = 10
"""A look that took t is not repeated before REST times t: looking costs at most a tenth of a processor a volume."""


@dataclass(slots=True)
class Watch:
    """What was seen of one volume."""

    size: int
    told: int = 0
    """What it held when its excess was last told; sinks with what it holds, so that clearing up is left alone."""

    def exceeded(self, used: int) -> bool:
        """Take a measurement. Whether somebody must be stopped: it is too large, and has grown since that was told."""
        if used <= self.size:
            self.told = 0
            return False
        grown = used > self.told
        self.told = used
        return grown

    def pause(self, used: int, took: float) -> float:
        """Seconds until the next look, after one that took so long: the nearer to its size, the sooner."""
        until_full = max(0, self.size - used) / WRITES_A_SECOND
        return max(min(max(until_full, SHORTEST_SECONDS), LONGEST_SECONDS), REST * took)
