"""What a test of engines stands on: an engine that can be made again, and sandboxes with their guests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sessiond.engine.port import Capabilities, Engine, Limits, SandboxSpec
from tests.integration.engine.guest_client import Guest


class Ground:
    """One engine of one instance. `engine` is the current object; `again` makes another, as a restarted daemon does."""

    def __init__(self, name: str, make: Callable[[], Engine], image: str = "") -> None:
        self.name = name
        self.image = image
        self.capabilities: Capabilities | None = None
        self._make = make
        self._engine: Engine | None = None

    async def open(self) -> Engine:
        """The engine, opened at the first call."""
        if self._engine is None:
            self._engine = self._make()
            self.capabilities = await self._engine.open()
            await self._engine.prepare(self.image)
        return self._engine

    async def again(self) -> Engine:
        """Drop the engine's object and make another."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None
        return await self.open()

    def spec(
        self, sandbox: str = "s-1", limits: Limits | None = None, volume: Path | None = None, **labels: str
    ) -> SandboxSpec:
        return SandboxSpec(sandbox, "test", self.image, limits or Limits(), labels, volume=volume)

    async def sandbox(
        self, sandbox: str = "s-1", limits: Limits | None = None, volume: Path | None = None, **labels: str
    ) -> Guest:
        """A running sandbox whose guest is there."""
        return await self.sandbox_of(self.spec(sandbox, limits, volume, **labels))

    async def sandbox_of(self, spec: SandboxSpec) -> Guest:
        """A running sandbox of a whole recipe."""
        engine = await self.open()
        guest = Guest()
        await engine.create(spec, guest.link)
        await engine.start(spec.id)
        await guest.meet()
        return guest

    async def adopt(self, sandbox: str = "s-1") -> Guest:
        """The guest of a sandbox that an earlier engine object made."""
        engine = await self.open()
        guest = Guest()
        await engine.channel(sandbox, guest.link)
        await guest.meet()
        return guest

    async def host_pid(self, sandbox: str = "s-1") -> int:
        """The sandbox's PID 1 on this host."""
        engine = await self.open()
        expected = engine._channels[sandbox]._guest  # type: ignore[attr-defined]
        pid: int = expected.pid
        return pid

    async def refused(self, sandbox: str = "s-1") -> int:
        """How many connections its channel has refused."""
        engine = await self.open()
        count: int = engine._channels[sandbox].refused  # type: ignore[attr-defined]
        return count

    async def clear(self) -> None:
        """Remove what is left and close."""
        engine = await self.open()
        for status in await engine.list():
            await engine.remove(status.id)
        left = await engine.list()
        await engine.close()
        assert left == []
