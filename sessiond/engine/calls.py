"""Blocking calls with deadlines, in a bounded number of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from sessiond.engine.port import EngineError, EngineTimeoutError

P = ParamSpec("P")
R = TypeVar("R")


class Calls:
    """Runs an engine's blocking calls. When the engine hangs, at most `threads` threads hang with it, each until its
    own socket's timeout; every caller is told at its deadline, queued calls included, and the event loop never waits.
    """

    def __init__(self, name: str, threads: int, translate: Callable[[str, Exception], EngineError | None]) -> None:
        """`translate` turns a library's exception into the port's, given what was being done; None leaves it as it
        is."""
        self._name = name
        self._translate = translate
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"sessiond-{name}")

    async def run(self, what: str, seconds: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(*args, **kwargs)`, or EngineTimeoutError after `seconds`; the call may still have its effect then.

        `what` completes the sentence "docker: cannot ...".
        """
        call = asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args, **kwargs))
        try:
            done, _ = await asyncio.wait({call}, timeout=seconds)
        except asyncio.CancelledError:
            call.cancel()
            raise
        if not done:
            # Drops the call if it still waits in the queue. One that runs goes on, and its result is nobody's.
            call.cancel()
            raise EngineTimeoutError(f"{self._name}: cannot {what}: no answer within {seconds:g} s")
        try:
            return call.result()
        except Exception as error:
            translated = self._translate(what, error)
            if translated is None:
                raise
            raise translated from error

    def close(self) -> None:
        """Drop queued calls. Threads end with the calls they run."""
        self._pool.shutdown(wait=False, cancel_futures=True)
