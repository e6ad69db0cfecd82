"""The bounded, offset-addressed record of one command's output, in memory.

Offsets run over stdout and stderr together in the order they came, so one number says where a reader is. When the
record is
full it forgets only what every follower has consumed; when that is not enough it is `full`, and the daemon stops
acknowledging the guest's bytes, whose bounded ring then blocks the producer. Nothing is dropped silently: a reader
that comes too
late is told the gap.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from sessiond_protocol.messages import StreamName

COALESCE_BYTES = 16 * 1024
"""Small writes are joined up to this size: a record of many ten-byte lines must not cost twenty times its bytes."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive bytes of one stream."""

    offset: int
    stream: StreamName
    data: bytes | memoryview

    @property
    def end(self) -> int:
        """Offset just behind the chunk."""
        return self.offset + len(self.data)


class Spool:
    """Output of one command from `start` to `end`."""

    __slots__ = ("_chunks", "_offsets", "capacity", "end", "start")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.start = 0
        self.end = 0
        self._chunks: list[Chunk] = []
        self._offsets: list[int] = []

    @property
    def full(self) -> bool:
        """Whether more is kept than the capacity."""
        return self.end - self.start > self.capacity

    def append(self, stream: StreamName, data: bytes | memoryview) -> None:
        """Record bytes at `end`."""
        if self._chunks:
            last = self._chunks[-1]
            if last.stream == stream and len(last.data) + len(data) <= COALESCE_BYTES:
                self._chunks[-1] = Chunk(last.offset, stream, bytes(last.data) + bytes(data))
                self.end += len(data)
                return
        self._chunks.append(Chunk(self.end, stream, data))
        self._offsets.append(self.end)
        self.end += len(data)

    def read(self, offset: int, most: int) -> Chunk | None:
        """The bytes at `offset`, at most `most` of them and of one stream; None at the end.

        The caller has checked that `offset` is not below `start`.
        """
        if offset >= self.end or most <= 0:
            return None
        chunk = self._chunks[bisect_right(self._offsets, offset) - 1]
        skip = offset - chunk.offset
        if skip == 0 and len(chunk.data) <= most:
            return chunk
        return Chunk(offset, chunk.stream, memoryview(chunk.data)[skip : skip + most])

    def trim(self, consumed: int) -> None:
        """Forget whole chunks below `consumed` for as long as the record is over its capacity."""
        drop = 0
        while drop < len(self._chunks) and self.full and self._chunks[drop].end <= consumed:
            self.start = self._chunks[drop].end
            drop += 1
        if drop:
            del self._chunks[:drop]
            del self._offsets[:drop]

    def clear(self) -> None:
        """Forget everything kept; offsets go on."""
        self.start = self.end
        self._chunks.clear()
        self._offsets.clear()
