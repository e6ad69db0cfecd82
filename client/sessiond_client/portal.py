"""A thread with an event loop, and calls into it from threads that have none or another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from sessiond_client.errors import UsageError

T = TypeVar("T")
_END_SECONDS = 5.0


class _Call:
    """One coroutine on its way through the loop, and the lock that its caller waits for."""

    __slots__ = ("_coroutine", "_done", "_task")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._done = threading.Lock()
        self._done.acquire()
        self._task: asyncio.Task[Any]

    def start(self) -> None:
        """Begin, in the loop's thread."""
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(lambda _: self._done.release())

    def cancel(self) -> None:
        """Cancel, in the loop's thread."""
        self._task.cancel()

    def wait(self, loop: asyncio.AbstractEventLoop) -> Any:
        """Wait in the caller's thread. An interrupt cancels it, waits until it has cleaned up, and goes on."""
        try:
            self._done.acquire()
        except BaseException:
            loop.call_soon_threadsafe(self.cancel)
            self._done.acquire()
            with contextlib.suppress(BaseException):
                self._task.result()
            raise
        return self._task.result()


class Portal:
    """The thread. It is a daemon thread: a program that forgets to close its client can still end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sessiond-client", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for its result."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise UsageError("the synchronous client cannot be called from its own thread")
        call = _Call(coroutine)
        try:
            self._loop.call_soon_threadsafe(call.start)
        except RuntimeError:
            coroutine.close()
            raise UsageError("the client was closed") from None
        result: T = call.wait(self._loop)
        return result

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._loop.is_closed()

    def close(self) -> None:
        """End what still runs, and stop the loop and the thread."""
        if self.closed:
            return
        self.call(_end_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_END_SECONDS)
