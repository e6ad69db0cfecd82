"""The output of one command, between its arrival and its use.

Bytes lie in one array in the order of arrival, with a mark wherever the stream changes: a program that alternates
between its streams a byte at a time costs nine bytes a byte, not an object. Offsets survive a change of connection.
"""

from __future__ import annotations

from collections import deque

from sessiond_client.results import Gap, Output, Stream

_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
_GAP = 2


class OutputBuffer:
    """A queue of output pieces that merges neighbours of the same stream."""

    __slots__ = ("_data", "_gaps", "_last", "_marks", "consumed", "received")

    def __init__(self, offset: int = 0) -> None:
        self.received = offset
        """Offset of the next byte that is to arrive."""
        self.consumed = offset
        """Offset of the next byte that is to be used."""
        self._data = bytearray()
        self._marks: deque[int] = deque()
        """Offset * 4 + what begins there: an index of _STREAMS or _GAP."""
        self._gaps: deque[Gap] = deque()
        self._last = -1

    def __len__(self) -> int:
        """Bytes that wait here."""
        return len(self._data)

    def append(self, stream: Stream, data: bytes) -> None:
        """Take a piece that begins at `received`."""
        kind = 1 if stream == "stderr" else 0
        if kind != self._last:
            self._marks.append(self.received * 4 + kind)
            self._last = kind
        self._data += data
        self.received += len(data)

    def skip(self, end: int) -> None:
        """Take note that the bytes from `received` up to `end` will not come."""
        start = self.received
        if self._last == _GAP and self._gaps:
            self._gaps[-1] = Gap(self._gaps[-1].start, end)
        else:
            self._marks.append(start * 4 + _GAP)
            self._gaps.append(Gap(start, end))
            self._last = _GAP
        self.received = end

    def pop(self) -> Output | Gap | None:
        """The oldest piece, as long as its stream goes on; None when there is none."""
        if not self._marks:
            return None
        kind = self._marks[0] & 3
        if kind == _GAP:
            gap = self._gaps.popleft()
            self._marks.popleft()
            self.consumed = gap.end
            self._forget_last()
            return gap
        end = self._marks[1] >> 2 if len(self._marks) > 1 else self.received
        start = self.consumed
        data = self._take(end - start)
        self._marks.popleft()
        self.consumed = end
        self._forget_last()
        return Output(_STREAMS[kind], data, start)

    def _take(self, size: int) -> bytes:
        data = bytes(self._data[:size]) if size < len(self._data) else bytes(self._data)
        del self._data[:size]
        return data

    def _forget_last(self) -> None:
        if not self._marks:
            self._last = -1

    def drain(self) -> tuple[bytes, bytes, bytes, tuple[Gap, ...]]:
        """Everything at once: standard output, standard error, both in order, and the gaps between."""
        if len(self._marks) <= 1 and self._last != _GAP:
            both = self._take(len(self._data))
            out, err = (both, b"") if self._last != 1 else (b"", both)
            gaps: tuple[Gap, ...] = ()
        else:
            streams = (bytearray(), bytearray())
            both = bytes(self._data)
            gaps = tuple(self._gaps)
            position = 0
            while (piece := self.pop()) is not None:
                if isinstance(piece, Output):
                    streams[piece.stream == "stderr"].extend(piece.data)
                    position += len(piece.data)
            out, err = bytes(streams[0]), bytes(streams[1])
        self._marks.clear()
        self._last = -1
        self.consumed = self.received
        return out, err, both, gaps
