"""One sandbox as the daemon holds it: the engine's object, the guest's link, and the news of its death."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from sessiond.engine.port import Engine, EngineError, SandboxSpec
from sessiond.policy.kernel import KernelLayer
from sessiond.runtime.link import GuestLink, LinkError
from sessiond.runtime.outbox import Outbox
from sessiond.runtime.volume import Volume

T = TypeVar("T")
log = structlog.get_logger()

READY_SECONDS = 20.0
"""From the sandbox's start to its guest's first word. A loaded machine takes seconds, not milliseconds."""
PING_SECONDS = 2.0
"""A healthy guest answers in under a millisecond."""


class Sandbox:
    """A started sandbox whose guest has answered."""

    def __init__(self, engine: Engine, spec: SandboxSpec, outbox: Outbox, volume: Volume | None = None) -> None:
        self.engine = engine
        self.spec = spec
        self.volume = volume
        """Its workspace, when that is on disk."""
        self.id = spec.id
        self.link = GuestLink(spec.id, self._died, outbox)
        self.cause: str | None = None
        """Why it is dead, once it is."""
        self.layer: KernelLayer | None = None
        """What its kernel enforces of a session's rules; None when nothing was asked of it."""
        self._on_death: list[Callable[[str], None]] = []
        self._watch: asyncio.Task[None] | None = None

    async def launch(self) -> None:
        """Create and start it, and wait for its guest. On any failure nothing is left behind.

        Raises EngineError or LinkError.
        """
        try:
            if self.volume is not None:
                self.spec = replace(self.spec, volume=await _to_its_end(self.volume.ready()))
            await _to_its_end(self.engine.create(self.spec, self.link.connection))
            await _to_its_end(self.engine.start(self.id))
            self._watch = asyncio.create_task(self._watch_death(), name=f"watch {self.id}")
            await self._first_word()
            await self.link.ping(PING_SECONDS)
        except BaseException:
            await asyncio.shield(self.remove())
            raise

    async def adopt(self) -> None:
        """Take hold of one that an earlier life of the daemon started: its guest dials again. Raises EngineError."""
        if self.volume is not None:
            await self.volume.ready()
        await self.engine.channel(self.id, self.link.connection)
        self._watch = asyncio.create_task(self._watch_death(), name=f"watch {self.id}")

    def leave(self) -> None:
        """Let go of it and let it live, for the next start of the daemon."""
        self._on_death.clear()
        self.link.close()
        if self._watch is not None:
            self._watch.cancel()

    def fail(self, cause: str) -> None:
        """It is of no use any more."""
        self._died(cause)

    async def check(self, answer: asyncio.Future[None] | None = None) -> bool:
        """Whether it is alive and its guest answers; `answer` if the guest has been asked before."""
        if self.cause is not None:
            return False
        try:
            await self.link.answered(answer or self.link.ask(), PING_SECONDS)
        except LinkError as error:
            self._died(str(error))
        return self.cause is None

    def on_death(self, call: Callable[[str], None]) -> None:
        """Call when it dies, with the cause; at once if it is dead."""
        if self.cause is not None:
            call(self.cause)
        else:
            self._on_death.append(call)

    async def remove(self) -> None:
        """Kill and erase it. A failure is logged: the engine's listing finds what is left."""
        self._on_death.clear()
        self.link.close()
        if self._watch is not None:
            self._watch.cancel()
        try:
            await self.engine.remove(self.id)
            if self.volume is not None:
                await self.volume.erase()
        except EngineError as error:
            log.warning("sandbox not removed", sandbox=self.id, error=str(error))

    async def _first_word(self) -> None:
        """Wait for the guest, but not for one that is dead."""
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.on_death(lambda cause: None if died.done() else died.set_result(cause))
        ready = asyncio.ensure_future(self.link.ready(READY_SECONDS))
        try:
            both: set[asyncio.Future[Any]] = {ready, died}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                raise LinkError(f"sandbox {self.id} died before its guest was ready: {died.result()}")
            await ready
        finally:
            ready.cancel()
            died.cancel()

    async def _watch_death(self) -> None:
        try:
            self._died(await self.engine.wait(self.id))
        except EngineError as error:
            log.warning("sandbox is not watched", sandbox=self.id, error=str(error))

    def _died(self, cause: str) -> None:
        if self.cause is not None:
            return
        self.cause = cause
        self.link.close()
        calls, self._on_death = self._on_death, []
        for call in calls:
            call(cause)


async def _to_its_end(call: Coroutine[None, None, T]) -> T:
    """Await an engine's call; when cancelled, only after it has ended.

    The call would go on in its thread all the same, and make what was removed by then. Its own deadline bounds it.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
