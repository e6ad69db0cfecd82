"""The thread that puts the journal on the disk, one fsync for all that wait (`durability = "power"` only)."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import structlog

from sessiond.store.errors import StoreError
from sessiond.store.journal import UNSYNCED_BYTES, Journal

UNASKED_BYTES = UNSYNCED_BYTES // 16
"""So much is synced without anybody's asking."""
RETRY_SECONDS = (0.1, 5.0)
"""First and longest wait before the next attempt to write what a failed fsync has left in doubt."""

log = structlog.get_logger()

Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]


class Syncer:
    """Completes futures when what was appended before them is on the disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._waiting: list[Waiter] = []
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-syncer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do: much to sync, or a failure to recover from."""
        self._wake.set()

    def appended(self) -> None:
        """A record is in the journal."""
        if self._journal.unsynced_bytes > UNASKED_BYTES:
            self._wake.set()

    def durable(self) -> asyncio.Future[None]:
        """A future of the running loop, done when everything appended so far is on the disk, or failed (StoreError)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._closing.is_set():
            future.set_exception(StoreError("the store is closed"))
        elif self._journal.failure is not None:
            future.set_exception(StoreError(self._journal.failure))
        elif self._journal.synced == self._journal.last:
            future.set_result(None)
        else:
            with self._lock:
                self._waiting.append((loop, future))
            self._wake.set()
        return future

    def stop(self, seconds: float) -> bool:
        """Sync what is left and end the thread; whether it ended."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()
            self._sync()
            if self._journal.failure is not None:
                self._recover()
            if closing:
                return

    def _sync(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        error: StoreError | None = None
        try:
            if self._journal.synced < self._journal.last:
                self._journal.sync()
        except StoreError as failed:
            error = failed
        except OSError as failed:
            error = StoreError(f"the journal in {self._journal.folder} cannot be synced: {failed.strerror}")
        for loop in {loop for loop, _ in waiting}:
            futures = [future for other, future in waiting if other is loop]
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_complete, futures, error)

    def _recover(self) -> None:
        """Try until it succeeds, or once when the store is closing."""
        log.error("the journal does not reach the disk; nothing is accepted", error=self._journal.failure)
        delay = RETRY_SECONDS[0]
        while True:
            try:
                self._journal.recover()
            except OSError as error:
                log.warning("the journal still does not reach the disk", error=str(error))
            else:
                log.warning("the journal reaches the disk again, in a new file")
                return
            if self._closing.wait(delay):
                return
            delay = min(2 * delay, RETRY_SECONDS[1])


def _complete(futures: list[asyncio.Future[None]], error: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(StoreError(str(error)))
