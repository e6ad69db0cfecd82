"""What a warm pool should do next: a pure function of its policy, what it holds, and the time.

The pool counts what it has asked for, not only what it has seen (a pool that counts only observed sandboxes
over-creates when
creation is slow), and a sandbox leaves it for good: what a session has used is never warm again.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MOST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """What the operator wants of one pool."""

    min: int
    """Sandboxes kept warm."""
    max: int
    """Sandboxes in all: warm, claimed, being created and being removed."""
    creations: int
    """Creations in flight. More than 4 only adds latency (measured: a machine of 2 cores saturates at 8-9 a second)."""
    max_age: float
    """Seconds after which a warm sandbox is replaced."""
    waiters: int
    """Opens that may wait; the next is refused as `busy`."""


@dataclass(frozen=True, slots=True)
class Warm:
    """A sandbox ready to be claimed."""

    sandbox: str
    born: float


@dataclass(frozen=True, slots=True)
class PoolView:
    """All that a pool holds now."""

    warm: tuple[Warm, ...] = ()
    creating: int = 0
    claimed: int = 0
    removing: int = 0
    waiting: int = 0
    blocked_until: float = 0.0
    """No creation before this time: the last one failed."""

    @property
    def total(self) -> int:
        """Sandboxes that exist or soon will."""
        return len(self.warm) + self.creating + self.claimed + self.removing


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What to do now, and when to ask again if nothing else happens first."""

    create: int
    retire: tuple[str, ...]
    again_at: float | None


def plan(policy: PoolPolicy, view: PoolView, now: float) -> PoolPlan:
    """Decide how many sandboxes to create and which warm ones to retire."""
    aged = [warm for warm in view.warm if now - warm.born >= policy.max_age]
    retire = tuple(warm.sandbox for warm in aged[: policy.creations])
    kept = len(view.warm) - len(retire)
    missing = policy.min + view.waiting - kept - view.creating
    room = min(policy.max - view.total, policy.creations - view.creating)
    blocked = now < view.blocked_until
    create = 0 if blocked else max(0, min(missing, room))
    times = [warm.born + policy.max_age for warm in view.warm if warm not in aged]
    if blocked and missing > 0:
        times.append(view.blocked_until)
    return PoolPlan(create=create, retire=retire, again_at=min(times, default=None))


def may_wait(policy: PoolPolicy, waiting: int) -> bool:
    """Whether one more open may join the queue."""
    return waiting < policy.waiters


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after the n-th failure in a row; `jitter` in [0, 1) spreads it over half the interval."""
    whole = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(max(0, failures - 1), 10))
    return whole * (0.5 + jitter / 2)
