"""Sandboxes' deaths: in words, and waited for through an engine's stream of events, in one thread for all of them."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0
"""Pause before asking a lost engine for its events again: doubles from the first to the last."""


SIGNAL_BASE = 128
"""A process that a signal killed has this plus the signal's number as its exit code."""


def describe(code: int, *, oom: bool) -> str:
    """Why a sandbox whose PID 1 had this exit code is dead; `oom` when its cgroup has seen OOM kills, of whichever
    process."""
    if code <= SIGNAL_BASE:
        return f"its PID 1 exited with {code}"
    number = code - SIGNAL_BASE
    # Only SIGKILL can have been the OOM killer's.
    return "out of memory" if oom and number == signal.SIGKILL else f"its PID 1 was killed by signal {number}"


class EventStream(Protocol):
    """One connection to the engine's events."""

    def deaths(self) -> Iterable[tuple[str, str]]:
        """Sandbox and cause, as they happen, until the stream ends. Blocks."""

    def close(self) -> None:
        """End `deaths`, from another thread."""


class DeathWatch:
    """Tells those who wait for a sandbox when it dies, whether by an event or because a reconnected engine says so."""

    def __init__(
        self,
        connect: Callable[[float], EventStream],
        dead: Callable[[], Mapping[str, str]],
        errors: tuple[type[Exception], ...],
    ) -> None:
        """`connect(since)` opens a stream that begins with the events after that Unix time; `dead` lists the sandboxes
        that are dead now and why, of those that still exist; both run in the watch's thread and may raise `errors`.
        """
        self._connect = connect
        self._dead = dead
        self._errors = errors
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._told: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._stream: EventStream | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="sessiond-deaths", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread soon; it may sit in a call to a hung engine, so nobody waits for it. Those who wait are
        cancelled."""
        self._stopping.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()

    def future(self, sandbox: str) -> asyncio.Future[str]:
        """Done when the sandbox has died, with the cause. Shared by all who ask: do not cancel it."""
        future = self._waiting.get(sandbox)
        if future is None:
            future = self._loop.create_future()
            if sandbox in self._told:
                future.set_result(self._told[sandbox])
            else:
                self._waiting[sandbox] = future
        return future

    def is_dead(self, sandbox: str) -> bool:
        """Whether its death was told. An engine's list may still call it running: Docker's does for a moment."""
        return sandbox in self._told

    def tell(self, sandbox: str, cause: str) -> None:
        """The sandbox is dead. To be called in the loop's thread."""
        self._told.setdefault(sandbox, cause)
        future = self._waiting.pop(sandbox, None)
        if future is not None and not future.done():
            future.set_result(cause)

    def forget(self, sandbox: str) -> None:
        """It is gone for good, and its id free."""
        self.tell(sandbox, "removed")
        del self._told[sandbox]

    def _run(self) -> None:
        pause = FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            try:
                self._follow()
                pause = FIRST_RETRY_SECONDS
            except self._errors as error:
                if not self._stopping.is_set():
                    log.warning("the engine's events are lost, asking again in %g s: %s", pause, error)
            except Exception:
                # Unexpected, but without this thread no death would ever be told again.
                log.exception("the engine's events could not be followed, asking again in %g s", pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, LAST_RETRY_SECONDS)

    def _follow(self) -> None:
        """One stream from its beginning to its end."""
        # First the stream, then the list, and the stream from a moment before the list: no death can fall between the
        # two.
        stream = self._connect(time.time() - 1)
        with self._lock:
            self._stream = stream
        try:
            if self._stopping.is_set():
                return
            for sandbox, cause in self._dead().items():
                self._tell_soon(sandbox, cause)
            for sandbox, cause in stream.deaths():
                self._tell_soon(sandbox, cause)
        finally:
            with self._lock:
                self._stream = None
            stream.close()

    def _tell_soon(self, sandbox: str, cause: str) -> None:
        if not self._stopping.is_set():
            self._loop.call_soon_threadsafe(self.tell, sandbox, cause)
