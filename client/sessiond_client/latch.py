"""A value that comes once, or an error in its place, and those who wait for it.

Unlike a future, waiting may be cancelled without harm to the others, and an error that nobody waits for is no scandal.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Latch(Generic[T]):
    """Set once; waited for any number of times."""

    __slots__ = ("_error", "_value", "_waiters", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def set(self, value: T) -> None:
        """Give the value, unless the latch is set already."""
        if not self.done:
            self._value = value
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Give an error instead, unless the latch is set already."""
        if not self.done:
            self._error = error
            self._wake()

    def peek(self) -> T:
        """The value, or the error raised, of a latch that is set."""
        if self._error is not None:
            raise self._error
        return self._value

    async def wait(self) -> T:
        """The value, once it is there; raises the error that came in its place."""
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if not self.done:
                    self._waiters.remove(waiter)
        return self.peek()

    def _wake(self) -> None:
        self.done = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
