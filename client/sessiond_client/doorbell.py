"""How one reader at a time waits for news."""

from __future__ import annotations

import asyncio

from sessiond_client.errors import UsageError


class Doorbell:
    """Rung when something has come; whoever waits looks for itself what it is."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, what: str) -> None:
        """Return when it rings. Raises UsageError when another one waits: `what` cannot be read by two."""
        if self._waiting is not None:
            raise UsageError(f"{what} being read already")
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def ring(self) -> None:
        """Wake who waits, if anybody does."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
