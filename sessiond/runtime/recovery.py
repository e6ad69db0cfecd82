"""After a start: sessions of an earlier life go on in their sandboxes, and what belongs to nobody is erased."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from sessiond.engine.port import Engine, EngineError, SandboxState
from sessiond.runtime.manager import SessionManager
from sessiond.runtime.sandbox import Sandbox
from sessiond.store.records import SessionRow

log = structlog.get_logger()

ADOPTIONS = 16
"""Sandboxes adopted at once; the engine bounds its own calls further."""


@dataclass(frozen=True, slots=True)
class Found:
    """A sandbox that an engine has."""

    engine: Engine
    id: str
    state: SandboxState


async def recover(
    manager: SessionManager,
    rows: Iterable[SessionRow],
    engines: Iterable[Engine],
    make: Callable[[SessionRow], Sandbox | None],
) -> list[Found]:
    """Take over the sessions on record; returns the sandboxes that belong to none of them.

    `make` gives the daemon's hold on a session's sandbox, or None when its profile is gone. Raises EngineError when an
    engine cannot say what it has: starting without knowing would erase or abandon what lives.
    """
    found = {sandbox.id: sandbox for engine in engines for sandbox in await _list(engine)}
    living: list[SessionRow] = []
    ended: list[SessionRow] = []
    for row in rows:
        (living if row.ended is None else ended).append(row)
    for row in sorted(ended, key=lambda row: row.ended or 0.0):
        manager.remember(row)
    turns = asyncio.Semaphore(ADOPTIONS)

    async def adopt(row: SessionRow) -> None:
        sandbox = make(row)
        there = found.pop(row.sandbox, None) if sandbox is not None else None
        if sandbox is None or there is None:
            manager.restore(row, None, "it was gone when the daemon came back")
            return
        async with turns:
            cause = await _adopt(sandbox, there)
        if cause is not None:
            await erase([there])  # before another sandbox has its volume
        manager.restore(row, sandbox if cause is None else None, cause or "")

    await asyncio.gather(*(adopt(row) for row in living))
    if living:
        log.info("sessions adopted", sessions=len(living), lost=sum(s.state == "lost" for s in manager.sessions))
    return list(found.values())


async def erase(orphans: Iterable[Found]) -> None:
    """Remove sandboxes that belong to nobody. One that was made ready for a session goes, too: it is cheap, and nobody
    can be sure any more that nobody used it."""
    orphans = list(orphans)
    if orphans:
        log.warning("erasing sandboxes", sandboxes=[orphan.id for orphan in orphans])
    for orphan in orphans:
        try:
            await orphan.engine.remove(orphan.id)
        except EngineError as error:
            log.warning("sandbox not removed", sandbox=orphan.id, error=str(error))


async def _list(engine: Engine) -> list[Found]:
    return [Found(engine, status.id, status.state) for status in await engine.list()]


async def _adopt(sandbox: Sandbox, there: Found) -> str | None:
    """Take hold of a sandbox; returns why it is dead when it is."""
    try:
        if there.state is SandboxState.PAUSED:
            await there.engine.resume(sandbox.id)
        elif there.state is not SandboxState.RUNNING:
            return "it had died when the daemon came back"
        await sandbox.adopt()
    except EngineError as error:
        return f"it could not be adopted: {error}"
    return None
