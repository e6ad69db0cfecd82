"""Sessions in time: paused when nobody uses them, woken when somebody does, warned, closed, and at last forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from sessiond.engine.port import EngineError

if TYPE_CHECKING:
    from sessiond.runtime.manager import SessionManager
    from sessiond.runtime.session import Session

log = structlog.get_logger()

SWEEP_SECONDS = 1.0
"""Lifetimes are in seconds and longer.

One sweep a second over all sessions is exact enough and costs less than a timer each.
"""
WARNING_SECONDS = 30.0
"""How long before its end a session is told; a tenth of its time if that is less."""
LEAST_WARNING_SECONDS = 1.5 * SWEEP_SECONDS
"""No shorter, for that would fall between two sweeps."""


def warning(lifetime: float) -> float:
    """Seconds before the end of so long a life at which it is told."""
    return max(LEAST_WARNING_SECONDS, min(WARNING_SECONDS, lifetime / 10))


class Lifetimes:
    """Watches the sessions of one manager."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._sweeper: asyncio.Task[None] | None = None
        self._moving: dict[str, asyncio.Task[None]] = {}
        """Sessions that are being paused or woken."""

    def start(self) -> None:
        """Begin to watch."""
        self._sweeper = asyncio.create_task(self._sweep(), name="lifetimes")

    async def close(self) -> None:
        """Watch no more; a pause or a wake-up under way is seen to its end."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._moving:
            await asyncio.wait(set(self._moving.values()))

    def wake(self, session: Session) -> None:
        """A paused session is asked for something: let its processes go on."""
        if session.id not in self._moving:
            self._move(session)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for session in self._manager.sessions:
                self._look_at(session, loop.time())
            self._manager.forget_old()

    def _look_at(self, session: Session, now: float) -> None:
        ttl_left = None if session.deadline is None else session.deadline - now
        idle_left = None if session.idle_timeout is None else session.idle_timeout - session.idle_for
        if ttl_left is not None and ttl_left <= 0:
            session.close("its time to live is over")
            return
        if idle_left is not None and idle_left <= 0:
            session.close(f"idle for {session.idle_timeout:g} s")
            return
        if not session.warned:
            self._warn(session, ttl_left, idle_left)
        profile = self._manager.profiles[session.rules.profile]
        wanted = profile.idle_pause is not None and session.idle_for >= profile.idle_pause
        if wanted and session.state == "open" and session.id not in self._moving:
            self._move(session)

    def _warn(self, session: Session, ttl_left: float | None, idle_left: float | None) -> None:
        if ttl_left is not None and ttl_left <= warning(session.lifetime):
            session.warn(f"its time to live is over in {ttl_left:.0f} s")
        elif idle_left is not None and idle_left <= warning(session.idle_timeout or 0.0):
            session.warn(f"it is closed as idle in {idle_left:.0f} s")

    def _move(self, session: Session) -> None:
        task = asyncio.create_task(self._pause_or_wake(session), name=f"pause {session.id}")
        self._moving[session.id] = task
        task.add_done_callback(lambda _: self._moving.pop(session.id, None))

    async def _pause_or_wake(self, session: Session) -> None:
        """Pause an idle session, or wake a paused one; and wake it again if it was used while it was paused."""
        engine = self._manager.profiles[session.rules.profile].engine
        if session.state == "open":
            sandbox, since = session.sandbox, session.last_active
            if sandbox is None:
                return
            try:
                await engine.pause(sandbox.id)
            except EngineError as error:
                log.warning("session not paused", session=session.id, error=str(error))
                session.touch()
                return
            if session.state != "open":
                return
            session.paused(f"idle for {session.idle_for:.0f} s")
            if session.last_active == since:
                return
        if session.state == "paused" and session.sandbox is not None:
            try:
                await engine.resume(session.sandbox.id)
            except EngineError as error:
                session.sandbox.fail(f"it could not be woken: {error}")
                return
            if session.state == "paused":
                session.resumed()
