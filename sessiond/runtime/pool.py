"""The warm pool of one profile: carries out `core.pool.plan` and hands each sandbox to exactly one session."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sessiond_protocol.messages import ErrorCode

from sessiond.core.errors import RequestError
from sessiond.core.pool import PoolPolicy, PoolView, Warm, backoff, may_wait, plan
from sessiond.engine.port import EngineError
from sessiond.runtime.link import LinkError
from sessiond.runtime.sandbox import Sandbox

log = structlog.get_logger()


REFILL_SECONDS = 0.02
"""From an opening to the creation of what takes the sandbox's place.

The engine's calls would take the processor from the client that has just been answered: measured on two processors, an
opening took 1.4 ms instead of 0.9 on docker, 2.5 instead of 1.1 on bubblewrap.
"""

Reserved = tuple[Sandbox, asyncio.Future[None]]
"""A sandbox, and its guest's answer to come."""


@dataclass(slots=True)
class PoolCounts:
    """What happened since the start."""

    hits: int = 0
    """Opens served by a warm sandbox."""
    misses: int = 0
    """Opens that waited for a creation."""
    refused: int = 0
    """Opens refused as busy or unavailable."""
    created: int = 0
    failed: int = 0
    died: int = 0
    """Warm sandboxes found dead, hence never handed out."""
    waited_seconds: float = 0.0


class Pool:
    """Keeps sandboxes of one profile warm."""

    def __init__(
        self,
        profile: str,
        policy: PoolPolicy,
        make: Callable[[str, str], Sandbox],
        prepare: Callable[[], Awaitable[Mapping[str, str]]],
        erase_volume: Callable[[str], Awaitable[None]],
        *,
        wait_seconds: float,
        health_interval: float,
    ) -> None:
        self.profile = profile
        self.counts = PoolCounts()
        self.image_env: Mapping[str, str] = {}
        """The environment that the profile's image itself declares, once it is there."""
        self.error: str | None = None
        """Why the last creation failed; None when it did not."""
        self._policy = policy
        self._make = make
        self._prepare = prepare
        self._erase_volume = erase_volume
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._wait_seconds = wait_seconds
        self._health_interval = health_interval
        self._warm: OrderedDict[str, tuple[Sandbox, float]] = OrderedDict()
        self._creating = 0
        self._claimed: set[str] = set()
        self._removing = 0
        self._waiters: deque[asyncio.Future[Sandbox]] = deque()
        self._failures = 0
        self._blocked_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._fillers: set[asyncio.Task[None]] = set()
        """Those of the tasks that make more: cancelled at the close, while removals are waited for."""
        self._closed = False

    def start(self) -> None:
        """Begin to fill, and to check what is warm."""
        self._fillers.add(self._spawn(self._check_health()))
        self._act()

    @property
    def view(self) -> PoolView:
        """What it holds now."""
        return PoolView(
            warm=tuple(Warm(sandbox.id, born) for sandbox, born in self._warm.values()),
            creating=self._creating,
            claimed=len(self._claimed),
            removing=self._removing,
            waiting=len(self._waiters),
            blocked_until=self._blocked_until,
        )

    def reserve(self) -> Reserved | None:
        """A warm sandbox whose guest has just been asked whether it is there, to be claimed at once; None without one.

        What else an opening needs can be made while the guest answers.
        """
        return self._take_warm() if self._warm else None

    async def claim(self, reserved: Reserved | None) -> tuple[Sandbox, bool]:
        """A sandbox for one session whose guest has answered, and whether it was warm.

        Raises RequestError: `busy` when too many wait already or none came free in time, `unavailable` when none
        can be made.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while reserved is not None or self._warm:
            sandbox, answer = reserved or self._take_warm()
            reserved = None
            if await self._check(sandbox, answer):
                self.counts.hits += 1
                self._act_by(loop.time() + REFILL_SECONDS)
                return sandbox, True
        if not may_wait(self._policy, len(self._waiters)):
            self.counts.refused += 1
            raise RequestError(
                "busy", f"{len(self._waiters)} opens of profile {self.profile} wait already", "try again in a moment"
            )
        self._refuse_if_blocked(loop.time())
        waiter: asyncio.Future[Sandbox] = loop.create_future()
        self._waiters.append(waiter)
        self._act()
        try:
            async with asyncio.timeout(self._wait_seconds):
                sandbox = await waiter
        except TimeoutError:
            self._abandon(waiter)
            self.counts.refused += 1
            raise RequestError(
                "busy",
                f"no sandbox of profile {self.profile} came free within {self._wait_seconds:g} s",
                "close sessions, raise the pool's max, or try again",
            ) from None
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        self.counts.misses += 1
        self.counts.waited_seconds += loop.time() - began
        return sandbox, False

    async def remake(self, volume: str) -> Sandbox:
        """A new sandbox on a session's volume, for that session. Raises EngineError or LinkError."""
        self._creating += 1
        try:
            sandbox = self._make(self._new_id(), volume)
            await self._prepare_once()
            await sandbox.launch()
        finally:
            self._creating -= 1
        self.counts.created += 1
        self._claimed.add(sandbox.id)
        return sandbox

    def erase_volume(self, volume: str) -> None:
        """A session has ended that had a volume, but no sandbox."""
        self._spawn(self._forget_volume(volume))

    async def _forget_volume(self, volume: str) -> None:
        try:
            await self._erase_volume(volume)
        except EngineError as error:
            log.warning("volume not removed", volume=volume, error=str(error))

    async def erase(self, sandbox: Sandbox) -> None:
        """Erase a session's sandbox, and return when it is gone."""
        self._claimed.discard(sandbox.id)
        self._removing += 1
        await self._remove(sandbox)

    def count(self, sandbox: Sandbox) -> None:
        """A session of an earlier life of the daemon has this one."""
        self._claimed.add(sandbox.id)

    def release(self, sandbox: Sandbox) -> None:
        """A session has done with its sandbox: it is erased, never used again."""
        if sandbox.id in self._claimed:
            self._claimed.discard(sandbox.id)
            self._discard(sandbox)

    async def close(self) -> None:
        """Refuse those who wait and erase everything."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._reject_waiters("unavailable", "the daemon stops")
        for task in self._fillers:
            task.cancel()
        for sandbox, _ in self._warm.values():
            self._discard(sandbox)
        self._warm.clear()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        if self._closed:
            return
        now = asyncio.get_running_loop().time()
        todo = plan(self._policy, self.view, now)
        for sandbox_id in todo.retire:
            sandbox, _ = self._warm.pop(sandbox_id)
            self._discard(sandbox)
        for _ in range(todo.create):
            self._creating += 1
            self._fillers.add(self._spawn(self._create()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if todo.again_at is not None:
            self._act_by(todo.again_at)

    def _act_by(self, when: float) -> None:
        if self._timer is not None:
            when = min(when, self._timer.when())
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._act)

    async def _create(self) -> None:
        sandbox = self._make(self._new_id(), "")
        try:
            await self._prepare_once()
            await sandbox.launch()
        except (EngineError, LinkError) as error:
            self._creating -= 1
            self._failed(str(error))
        except BaseException:
            self._creating -= 1
            raise
        else:
            self._creating -= 1
            self._created(sandbox)
        self._act()

    def _new_id(self) -> str:
        return f"{self.profile[:20]}-{secrets.token_hex(6)}"

    async def _prepare_once(self) -> None:
        async with self._preparing:
            if not self._prepared:
                self.image_env = await self._prepare()
                self._prepared = True

    def _created(self, sandbox: Sandbox) -> None:
        self.counts.created += 1
        self._failures = 0
        self.error = None
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._claimed.add(sandbox.id)
                waiter.set_result(sandbox)
                return
        self._warm[sandbox.id] = (sandbox, asyncio.get_running_loop().time())
        sandbox.on_death(lambda cause: self._warm_died(sandbox, cause))

    def _failed(self, error: str) -> None:
        self.counts.failed += 1
        self._failures += 1
        self.error = error
        delay = backoff(self._failures, random.random())  # noqa: S311 - spreads retries, guards nothing
        self._blocked_until = asyncio.get_running_loop().time() + delay
        log.warning("sandbox not created", profile=self.profile, error=error, retry_seconds=round(delay, 1))
        if self._creating == 0:
            self._reject_waiters("unavailable", f"no sandbox of profile {self.profile} can be created: {error}")

    def _warm_died(self, sandbox: Sandbox, cause: str) -> None:
        if self._warm.pop(sandbox.id, None) is not None:
            self.counts.died += 1
            log.warning("warm sandbox died", profile=self.profile, sandbox=sandbox.id, cause=cause)
            self._discard(sandbox)

    def _take_warm(self) -> Reserved:
        _, (sandbox, _) = self._warm.popitem(last=False)
        self._claimed.add(sandbox.id)
        return sandbox, sandbox.link.ask()

    async def _check(self, sandbox: Sandbox, answer: asyncio.Future[None]) -> bool:
        try:
            alive = await sandbox.check(answer)
        except asyncio.CancelledError:
            self.release(sandbox)
            raise
        if not alive:
            self.counts.died += 1
            self.release(sandbox)
        return alive

    def _abandon(self, waiter: asyncio.Future[Sandbox]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result())

    def _refuse_if_blocked(self, now: float) -> None:
        if self.error is not None and self._creating == 0 and now < self._blocked_until:
            self.counts.refused += 1
            raise RequestError(
                "unavailable",
                f"no sandbox of profile {self.profile} can be created: {self.error}",
                f"the next attempt is in {self._blocked_until - now:.1f} s",
            )

    def _reject_waiters(self, code: ErrorCode, message: str) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                self.counts.refused += 1
                waiter.set_exception(RequestError(code, message))

    def _discard(self, sandbox: Sandbox) -> None:
        self._removing += 1
        self._spawn(self._remove(sandbox))

    async def _remove(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.remove()
        finally:
            self._removing -= 1
            self._act()

    async def _check_health(self) -> None:
        while True:
            await asyncio.sleep(self._health_interval)
            for sandbox, _ in tuple(self._warm.values()):
                await sandbox.check()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._fillers.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("pool task failed", profile=self.profile, exc_info=task.exception())
