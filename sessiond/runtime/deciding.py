"""Verdicts that take a second parser, a process of some milliseconds, worked out beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from sessiond.policy.decide import CommandRequest, Policy, Verdict

THREADS = 4
"""Second parsers that run at once. Requests beyond wait in line: each is a command of a session, which are bounded."""


class Deciders:
    """A few threads that judge."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="policy")
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def decide(self, policy: Policy, request: CommandRequest, then: Callable[[Verdict], None]) -> None:
        """Call `then` with the verdict, on the loop, unless the daemon stops before; the policy remembers it."""

        def judged(verdict: Verdict) -> None:
            if not self._closed:
                policy.remember(request, verdict)
                then(verdict)

        def done(future: Future[Verdict]) -> None:
            if not future.cancelled():
                self._loop.call_soon_threadsafe(judged, future.result())

        self._threads.submit(policy.judge, request).add_done_callback(done)

    def close(self) -> None:
        """Decide nothing more; what is being decided takes its milliseconds to end."""
        self._closed = True
        self._threads.shutdown(cancel_futures=True)
