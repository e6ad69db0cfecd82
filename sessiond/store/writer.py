"""The thread that carries the journal into the database, many records a commit.

It reads the journal's files and nothing else, so that what waits for the database costs disk and no memory, and a start
after a crash takes the same way as every day.
"""

from __future__ import annotations

import sqlite3
import threading

import structlog

from sessiond.store import changes, schema
from sessiond.store.errors import StoreError
from sessiond.store.journal import Journal
from sessiond.store.reader import Reader

COMMIT_SECONDS = 0.25
"""A record waits no longer for others to share its commit."""
COMMIT_RECORDS = 1000
"""As many share a commit at most."""
COMMIT_BYTES = 1024 * 1024
"""About as many bytes of records are held at a time."""
RETRY_SECONDS = (0.1, 5.0)
"""First and longest wait after an error of the database."""

log = structlog.get_logger()


class Writer:
    """Applies the journal's records to the database of `connection`."""

    def __init__(self, journal: Journal, connection: sqlite3.Connection) -> None:
        self.applied = schema.applied(connection)
        """Seq of the last record that the database contains."""
        self._journal = journal
        self._connection = connection
        self._reader: Reader | None = None
        self._awake_at = 0
        """A record with this seq wakes the thread."""
        self._hurried = 0
        """Up to here somebody waits."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._progress = threading.Condition()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def replay(self) -> None:
        """Apply all there is, before `start`. Raises StoreError, OSError and sqlite3.Error."""
        while self._step():
            pass

    def start(self) -> None:
        """Go on in a thread of its own."""
        self._thread.start()

    def appended(self, seq: int) -> None:
        """The record `seq` is in the journal."""
        if seq >= self._awake_at:
            self._awake_at = seq + COMMIT_RECORDS
            self._wake.set()

    def wait(self, seq: int, seconds: float) -> None:
        """Return when the database contains `seq`. Raises StoreError after `seconds`."""
        if self.applied >= seq:
            return
        with self._progress:
            self._hurried = max(self._hurried, seq)
            self._wake.set()
            if not self._progress.wait_for(lambda: self.applied >= seq, seconds):
                raise StoreError(f"the database is {seconds:g} s behind: {self._error or 'the disk is slow'}")

    def stop(self, seconds: float) -> bool:
        """Apply what is left, as far as the database takes it, and end the thread; whether it ended."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if not self._thread.is_alive():
            self._forget_reader()
        return not self._thread.is_alive()

    def _run(self) -> None:
        delay = RETRY_SECONDS[0]
        while True:
            self._gather()
            try:
                more = self._step()
            except Exception as error:  # the thread must go on, whatever it is
                if self._error is None:
                    log.error("the database cannot be written; the journal keeps its records", error=str(error))
                self._error = str(error)
                if self._closing.wait(delay):
                    return
                delay = min(2 * delay, RETRY_SECONDS[1])
                continue
            if self._error is not None:
                log.warning("the database is written again")
                self._error, delay = None, RETRY_SECONDS[0]
            if not more and self._closing.is_set():
                return

    def _gather(self) -> None:
        """Wait for a record, then for others to share its commit."""
        self._awake_at = 0
        if self._journal.last == self.applied and not self._closing.is_set():
            self._wake.wait()
        self._wake.clear()
        self._awake_at = self.applied + COMMIT_RECORDS
        if self._journal.last < self._awake_at and self._hurried <= self.applied and not self._closing.is_set():
            self._wake.wait(COMMIT_SECONDS)

    def _step(self) -> bool:
        """Apply the next records; whether there were any. After an error the database says where to go on."""
        try:
            if self._reader is None:
                self._advance(schema.applied(self._connection))
                self._reader = Reader(self._journal, self.applied)
            bodies = self._reader.take(COMMIT_RECORDS, COMMIT_BYTES)
            if not bodies:
                return False
            changes.apply(self._connection, bodies, self._reader.seq)
            self._advance(self._reader.seq)
            self._journal.release(self.applied)
        except BaseException:
            self._forget_reader()
            raise
        return True

    def _advance(self, seq: int) -> None:
        with self._progress:
            self.applied = seq
            self._progress.notify_all()

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
