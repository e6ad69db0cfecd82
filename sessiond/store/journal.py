"""The journal: every change is appended here, with one write, before anything is done about it.

A record survives the daemon's death as soon as `append` returns. With `power` it survives the machine's once `sync`
has returned. The event loop's thread appends, one thread applies records to SQLite (with a Reader, then `release`), and
with `power` one thread syncs.

After a failed fsync the kernel may call pages clean that never reached the disk, so that a later fsync of the same file
proves nothing: all records not known to be on the disk are then written to a new file (`recover`).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from sessiond.failpoint import hit
from sessiond.store import frames, segments
from sessiond.store.errors import StoreError
from sessiond.store.segments import Segment

SEGMENT_BYTES = 16 * 1024 * 1024
"""A segment that has grown beyond this is followed by a new one."""
JOURNAL_BYTES = 1024 * 1024 * 1024
"""Most that may wait for SQLite."""
UNSYNCED_BYTES = 64 * 1024 * 1024
"""Most that may wait for the disk, with `power`; as much memory is held."""


class Piece(NamedTuple):
    """What there is to read in a segment at one moment."""

    segment: Segment
    end: int
    """Offset behind its last record."""
    until: int
    """Seq of the last record that counts."""
    newest: bool


class Journal:
    """Numbered records in the files of `folder`, which nobody else may use meanwhile."""

    def __init__(self, folder: Path, *, power: bool) -> None:
        self.folder = folder
        self.power = power
        self.failure: str | None = None
        """Why nothing can be appended: an fsync failed and `recover` has not yet succeeded."""
        self.last = 0
        """Seq of the last record."""
        self.synced = 0
        """With `power`: everything up to here is on the disk."""
        self.unsynced_bytes = 0
        self._lock = threading.Lock()
        self._segments: list[Segment] = []
        self._bytes = 0
        self._descriptor = -1
        self._torn = False
        self._unsynced: deque[tuple[int, bytes]] = deque()

    def open(self) -> None:
        """Find what earlier runs have left. Raises StoreError and OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._segments, self.last = segments.inspect(self.folder)
        self._bytes = sum(segment.size for segment in self._segments)

    def begin(self, after: int) -> None:
        """Begin a new segment behind `after` and all that was found. Raises OSError."""
        self.last = self.synced = max(self.last, after)
        self._rotate()

    def close(self) -> None:
        """Let go of the file. Whoever reads or syncs has stopped."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1

    def append(self, body: bytes) -> int:
        """Record `body`; returns its seq. Raises StoreError, and then nothing is recorded."""
        with self._lock:
            segment = self._ready(len(body))
            seq = self.last + 1
            record = frames.encode(seq, body, segment.salt)
            try:
                hit("journal.write")
                written = os.write(self._descriptor, record)
                hit("journal.written")
            except OSError as error:
                self._cut(segment)
                raise StoreError(f"the journal {segment.path} cannot be written: {error.strerror}") from error
            if written != len(record):
                self._cut(segment)
                raise StoreError(f"the journal {segment.path} took only a part of a record: is the disk full?")
            segment.size += written
            self._bytes += written
            if self.power:
                self._unsynced.append((seq, body))
                self.unsynced_bytes += written
            self.last = seq
        return seq

    def _ready(self, size: int) -> Segment:
        """The segment to append to, when there is room for a body of `size`. Raises StoreError."""
        if self._descriptor < 0:
            raise StoreError("the store is closed")
        if self.failure is not None:
            raise StoreError(self.failure)
        if size > frames.RECORD_BYTES - frames.OVERHEAD_BYTES:
            raise StoreError(f"a record of {size} bytes is too large for the journal; {frames.RECORD_BYTES} fit")
        if self._bytes + size > JOURNAL_BYTES:
            raise StoreError(f"{self._bytes} bytes in {self.folder} wait for the database: see the log for its error")
        if self.unsynced_bytes + size > UNSYNCED_BYTES:
            raise StoreError(f"{self.unsynced_bytes} bytes in {self.folder} wait for the disk: it is too slow")
        if self._torn or self._segments[-1].size >= SEGMENT_BYTES:
            try:
                self._rotate()
            except OSError as error:
                raise StoreError(f"a new file in {self.folder} cannot be written: {error.strerror or error}") from error
        return self._segments[-1]

    def _cut(self, segment: Segment) -> None:
        """Remove what was written of a record that failed. Where that fails too, a new segment takes its place."""
        try:
            os.ftruncate(self._descriptor, segment.size)
        except OSError:
            self._torn = True

    def _rotate(self) -> None:
        """Go on in a new segment. With `power` the old one is on the disk before the new one may be."""
        if self.power and self._descriptor >= 0:
            try:
                self._fsync(self._descriptor)
            except OSError as error:
                self.failure = self._unreached(error)
                raise
        number = self._segments[-1].number + 1 if self._segments else 1
        segment = segments.create(self.folder, number, self.last + 1, (), sync=self.power)
        self._adopt(segment)

    def _adopt(self, segment: Segment) -> None:
        descriptor = os.open(segment.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._segments.append(segment)
        self._bytes += segment.size
        self._torn = False

    def sync(self) -> None:
        """Put everything appended so far on the disk. Raises StoreError, and then `failure` is set, and OSError."""
        with self._lock:
            if self.failure is not None:
                raise StoreError(self.failure)
            last, descriptor = self.last, os.dup(self._descriptor)
        try:
            self._fsync(descriptor)
        except OSError as error:
            with self._lock:
                self.failure = self._unreached(error)
            raise StoreError(self.failure) from error
        finally:
            os.close(descriptor)
        with self._lock:
            if self.failure is not None:
                raise StoreError(self.failure)
            self._reached(last)

    def recover(self) -> None:
        """After a failed fsync: write what is not known to be on the disk to a new file. Raises OSError.

        Nothing is appended meanwhile, since `failure` is set until this succeeds.
        """
        number = self._segments[-1].number + 1
        hit("journal.fsync")
        segment = segments.create(self.folder, number, self.synced + 1, self._unsynced, sync=True)
        with self._lock:
            self._adopt(segment)
            self._reached(self.last)
            self.failure = None

    def _fsync(self, descriptor: int) -> None:
        hit("journal.fsync")
        os.fdatasync(descriptor)

    def _unreached(self, error: OSError) -> str:
        return f"the journal in {self.folder} does not reach the disk: {error.strerror}; check the disk"

    def _reached(self, seq: int) -> None:
        self.synced = seq
        while self._unsynced and self._unsynced[0][0] <= seq:
            self.unsynced_bytes -= len(self._unsynced.popleft()[1]) + frames.OVERHEAD_BYTES

    def release(self, applied: int) -> None:
        """Delete the segments of which everything is in the database. Raises OSError."""
        with self._lock:
            done = [segment for segment in self._segments[:-1] if self._until(segment) <= applied]
        for segment in done:
            segment.path.unlink(missing_ok=True)
            with self._lock:
                self._segments.remove(segment)
                self._bytes -= segment.size

    def _until(self, segment: Segment) -> int:
        """Seq of the last record that counts in `segment`."""
        later = [other.first for other in self._segments if other.number > segment.number]
        return min(later) - 1 if later else self.last

    def piece(self, number: int) -> Piece | None:
        """The first segment from `number` on."""
        with self._lock:
            for segment in self._segments:
                if segment.number >= number:
                    return Piece(segment, segment.size, self._until(segment), segment is self._segments[-1])
        return None
