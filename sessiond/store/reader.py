"""Reading the journal in order, at open as well as while it grows."""

from __future__ import annotations

import os

from sessiond.store import frames
from sessiond.store.errors import StoreError
from sessiond.store.journal import Journal, Piece
from sessiond.store.segments import damaged


class Reader:
    """Reads the records behind `seq`."""

    def __init__(self, journal: Journal, seq: int) -> None:
        self.seq = seq
        """Of the last record read."""
        self._journal = journal
        self._number = 0
        self._offset = frames.HEADER_BYTES
        self._descriptor = -1

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def take(self, records: int, size: int) -> list[bytes]:
        """The next bodies, at most `records` and about `size` bytes of them but at least one; none when all are read.

        Raises StoreError where a record is damaged or missing, and OSError.
        """
        bodies: list[bytes] = []
        while not bodies and (piece := self._journal.piece(self._number)) is not None:
            if piece.segment.number != self._number:
                self._move(piece.segment.number)
            if self.seq < piece.until:
                bodies = self._read(piece, records, size)
            elif piece.newest:
                break
            else:
                self._move(self._number + 1)
        return bodies

    def _move(self, number: int) -> None:
        self.close()
        self._number, self._offset = number, frames.HEADER_BYTES

    def _read(self, piece: Piece, records: int, size: int) -> list[bytes]:
        """Bodies behind `seq` from the next `size` bytes; none when only older records lie there."""
        segment = piece.segment
        if segment.first > self.seq + 1:
            raise StoreError(
                f"the database ends with record {self.seq} and the journal begins with {segment.first} in "
                f"{segment.path}: they do not belong together; restore both from the same copy, or move "
                f"{segment.path.parent} away, which loses what is not in the database"
            )
        if self._descriptor < 0:
            self._descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        left = piece.end - self._offset
        data = os.pread(self._descriptor, min(size, left), self._offset)
        if len(data) < (whole := frames.length(data, 0)) <= left:
            data = os.pread(self._descriptor, whole, self._offset)
        bodies: list[bytes] = []
        offset = 0
        while len(bodies) < records and self.seq < piece.until:
            record = frames.decode(data, offset, segment.salt)
            if record is None or record.seq > self.seq + 1:
                break
            offset = record.end
            if record.seq > self.seq:
                self.seq = record.seq
                bodies.append(record.body)
        if offset == 0:
            raise damaged(segment.path, self._offset)
        self._offset += offset
        return bodies
