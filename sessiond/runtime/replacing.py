"""Another sandbox for a session whose own died: its processes are lost, its commands' records and workspace are not."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from sessiond.core.errors import RequestError
from sessiond.core.pool import backoff
from sessiond.engine.port import EngineError
from sessiond.runtime.fitting import fit
from sessiond.runtime.link import LinkError

if TYPE_CHECKING:
    from sessiond.runtime.manager import SessionManager
    from sessiond.runtime.sandbox import Sandbox
    from sessiond.runtime.session import Session

log = structlog.get_logger()


class Replacing:
    """Finds new sandboxes, and goes on trying for as long as the session is there."""

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, session: Session) -> None:
        """The session's sandbox died: give it another."""
        dead, session.sandbox = session.sandbox, None
        task = asyncio.create_task(self._replace(session, dead), name=f"replace {session.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Replace nothing any more: the next start will."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _replace(self, session: Session, dead: Sandbox | None) -> None:
        pool = self._manager.profiles[session.rules.profile].pool
        if dead is not None and dead.volume is not None:
            dead.volume.hand_on()
            await pool.erase(dead)
        elif dead is not None:
            pool.release(dead)
        attempts = 0
        while session.state == "lost":
            try:
                await self._try(session)
            except (RequestError, EngineError, LinkError) as error:
                attempts += 1
                pause = backoff(attempts, random.random())  # noqa: S311 - spreads retries, guards nothing
                log.warning("no new sandbox yet", session=session.id, error=str(error), retry_seconds=round(pause, 1))
                await asyncio.sleep(pause)

    async def _try(self, session: Session) -> None:
        profile = self._manager.profiles[session.rules.profile]
        volume = session.row.workspace
        if volume:
            sandbox = await profile.pool.remake(volume)
        else:
            sandbox, _ = await profile.pool.claim(profile.pool.reserve())
        given = False
        try:
            await fit(sandbox, session.request, replace(profile, rules=session.rules))
            if session.state == "lost":
                session.replaced(sandbox)
                given = True
        finally:
            if not given:
                if session.state == "lost" and sandbox.volume is not None:
                    sandbox.volume.hand_on()  # to the next attempt
                profile.pool.release(sandbox)
