"""The offset-addressed record of one command's output: what is recent in memory, the rest in files.

Offsets run over stdout and stderr together in the order they came, so one number says where a reader is. Small output
never touches a file: it goes into the journal with the command's end. Beyond `INLINE_BYTES` it is written to segment
files, named by the offset at which they begin, and a file `streams` says where the output changes between stdout and
stderr. The guest may forget what is below `stored`; what a full disk refuses stays in memory until it is taken, while
the guest's bounded ring blocks the producer.
"""

from __future__ import annotations

import os
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
from sessiond_protocol.messages import StreamName

INLINE_BYTES = 16 * 1024
"""Output up to this size stays in memory, and goes into the journal whole."""
LEAST_SEGMENT_BYTES = 64 * 1024
SEGMENTS = 8
"""A command's cap is cut into so many files: what is forgotten is forgotten a file at a time."""
CHANGE_BYTES = 64
"""What a change between stdout and stderr counts for: output that alternates bytewise must not cost eight times its
size."""
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
STREAMS_FILE = "streams"
_CHANGE = 8
"""Bytes of one entry of the file `streams`: the offset, shifted left by one, with the stream in the lowest bit."""


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


class SpoolHome:
    """Where a session's spools lie, and how much they hold together."""

    def __init__(self, directory: Path, *, command_bytes: int, session_bytes: int, ring: bool) -> None:
        self.directory = directory
        self.command_bytes = command_bytes
        self.session_bytes = session_bytes
        self.ring = ring
        """Whether output beyond the cap pushes the oldest out, instead of blocking who writes it."""
        self.used = 0
        """Bytes in files now."""
        self._ended: dict[int, int] = {}
        """Bytes in files of commands that have ended, oldest first."""

    def spool(self, number: int) -> Spool:
        """The empty spool of the session's command `number`."""
        return Spool(self, number)

    def recall(self, number: int, inline: bytes, end: int) -> Spool:
        """The spool of a command that has ended: from what the journal has of it, or from its files.

        What is in neither was forgotten: readers are told the gap.
        """
        spool = Spool(self, number)
        if inline:
            for stream, data in msgpack.unpackb(inline):
                spool.append(STREAMS[stream], data)
            spool.recorded()
        else:
            spool.load()
        if spool.end < end:
            spool.start = spool.end = spool.stored = end
        return spool

    def adopt(self, number: int) -> Spool:
        """The spool of a command that an earlier life of the daemon has not seen to its end."""
        spool = Spool(self, number)
        spool.load()
        self.used += spool.end - spool.start
        return spool

    def ended(self, number: int, kept: int) -> None:
        """The command `number` writes no more and has `kept` bytes in files: room for others if it must be.

        The outputs of commands that have ended go first, the oldest first, when the session's share is used up.
        """
        if kept:
            self._ended[number] = kept
        while self.used > self.session_bytes and self._ended:
            oldest = next(iter(self._ended))
            self.used -= self._ended.pop(oldest)
            shutil.rmtree(self.directory / str(oldest), ignore_errors=True)

    def count(self, running: frozenset[int]) -> None:
        """Take stock of the files that an earlier life left; `running` are the commands that still write."""
        try:
            numbers = sorted(int(path.name) for path in self.directory.iterdir())
        except FileNotFoundError:
            return
        for number in numbers:
            if number not in running:
                files = (self.directory / str(number)).iterdir()
                kept = sum(file.stat().st_size for file in files if file.name != STREAMS_FILE)
                self.used += kept
                self.ended(number, kept)


class Spool:
    """Output of one command from `start` to `end`."""

    __slots__ = (
        "_chunks",
        "_home",
        "_number",
        "_offsets",
        "_segments",
        "_streams",
        "_unsaved",
        "end",
        "error",
        "start",
        "stored",
    )

    def __init__(self, home: SpoolHome, number: int) -> None:
        self._home = home
        self._number = number
        self.start = 0
        self.end = 0
        self.stored = 0
        """Offset below which everything is in files, or in the journal."""
        self.error: str | None = None
        """Why the files do not take what is in memory; None when they do."""
        self._chunks: list[Chunk] = []
        self._offsets: list[int] = []
        self._segments: list[int] = []
        """Where each file begins."""
        self._streams = array("Q")
        """Changes of stream of what is in files."""
        self._unsaved = 0
        """Changes that `streams` does not have yet, counted from the end."""

    @property
    def _directory(self) -> Path:
        return self._home.directory / str(self._number)

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, stream: StreamName, data: bytes | memoryview) -> None:
        """Record bytes at `end`. They are kept in memory, at least until `store` is called."""
        if self._chunks:
            last = self._chunks[-1]
            if last.stream == stream and len(last.data) + len(data) <= INLINE_BYTES:
                self._chunks[-1] = Chunk(last.offset, stream, bytes(last.data) + bytes(data))
                self.end += len(data)
                return
        self._chunks.append(Chunk(self.end, stream, data))
        self._offsets.append(self.end)
        self.end += len(data)

    def store(self, *, all: bool = False) -> None:
        """Move what is in memory to files if it is much, or `all` of it. A failure is in `error` afterwards."""
        if self.stored == self.end or (not all and self.end - self._chunks[0].offset <= INLINE_BYTES):
            return
        try:
            self._write()
            self.error = None
        except OSError as error:
            self.error = f"{self._directory}: {error.strerror or error}"
            return
        self._chunks.clear()
        self._offsets.clear()

    def inline(self) -> bytes | None:
        """All of the output for the journal; None when it lies in files."""
        if self._segments or self.stored:
            return None
        if not self._chunks:
            return b""
        packed: bytes = msgpack.packb([(STREAMS.index(chunk.stream), bytes(chunk.data)) for chunk in self._chunks])
        return packed

    def recorded(self) -> None:
        """What `inline` gave is in the journal."""
        self.stored, self.error = self.end, None

    @property
    def full(self) -> bool:
        """Whether no more of it may be acknowledged: the command's share or the session's is used up."""
        size = self.end - self.start + CHANGE_BYTES * len(self._streams)
        return size > self._home.command_bytes or (bool(self._segments) and self._home.used > self._home.session_bytes)

    @property
    def in_memory(self) -> int:
        """Bytes that it holds in memory."""
        return self.end - self._chunks[0].offset if self._chunks else 0

    @property
    def in_files(self) -> int:
        """Bytes that it holds in files."""
        return self.stored - self._segments[0] if self._segments else 0

    def make_room(self, consumed: int) -> None:
        """While it is full forget whole segments below `consumed`, or as a ring the oldest ones whatever was read."""
        while self.full and len(self._segments) > 1 and (self._home.ring or self._segments[1] <= consumed):
            self._drop(self._segments[1])

    def forget(self) -> None:
        """Forget everything kept; offsets go on."""
        self._chunks.clear()
        self._offsets.clear()
        self._drop(self.end)
        self.stored = self.end

    def files(self) -> list[Path]:
        """What holds its output, to be put on the disk with `synchronise`."""
        segments = [self._segment(start) for start in self._segments]
        return [*segments, self._directory / STREAMS_FILE, self._directory] if segments else []

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, offset: int, most: int) -> Chunk | None:
        """The bytes at `offset`, at most `most` of them and of one stream; None at the end.

        The caller has checked that `offset` is not below `start`. When the files are gone, because the session's share
        was used up or the disk fails, `start` moves behind them and the reader is told a gap.
        """
        if offset >= self.end or most <= 0:
            return None
        if self._chunks and offset >= self._chunks[0].offset:
            chunk = self._chunks[bisect_right(self._offsets, offset) - 1]
            skip = offset - chunk.offset
            if skip == 0 and len(chunk.data) <= most:
                return chunk
            return Chunk(offset, chunk.stream, memoryview(chunk.data)[skip : skip + most])
        change = bisect_right(self._streams, offset << 1 | 1) - 1
        behind = self._streams[change + 1] >> 1 if change + 1 < len(self._streams) else self.stored
        segment = self._segments[bisect_right(self._segments, offset) - 1]
        try:
            with self._segment(segment).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), min(most, behind - offset), offset - segment)
        except OSError:
            data = b""
        if not data:
            self.start = self._chunks[0].offset if self._chunks else self.end
            return None
        return Chunk(offset, STREAMS[self._streams[change] & 1], data)

    # --- files -----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take over the files of an earlier life: whatever they hold is stored."""
        try:
            names = [path.name for path in self._directory.iterdir()]
        except FileNotFoundError:
            return
        self._segments = sorted(int(name, 16) for name in names if name != STREAMS_FILE)
        if not self._segments:
            return
        last = self._segments[-1]
        self.start = self._segments[0]
        self.end = self.stored = last + self._segment(last).stat().st_size
        saved = (self._directory / STREAMS_FILE).read_bytes()
        self._streams = array("Q", saved[: len(saved) // _CHANGE * _CHANGE])
        while self._streams and self._streams[-1] >> 1 >= self.end:
            self._streams.pop()

    def _write(self) -> None:
        """Append all chunks to the files. What a failure leaves half written is written over by the next attempt."""
        if not self._segments:
            self._directory.mkdir(parents=True, exist_ok=True)
        self._note_streams()
        segment_bytes = max(LEAST_SEGMENT_BYTES, self._home.command_bytes // SEGMENTS)
        for piece in self._pieces():
            if not self._segments or self.stored - self._segments[-1] >= segment_bytes:
                self._segments.append(self.stored)
            segment = self._segments[-1]
            with self._segment(segment).open("ab", buffering=0) as file:
                at = self.stored - segment
                if file.tell() != at:
                    os.ftruncate(file.fileno(), at)
                taken = file.write(piece)
            self.stored += taken
            self._home.used += taken
            if taken != len(piece):
                raise OSError(0, "the disk took only a part")

    def _pieces(self) -> Iterator[bytes | memoryview]:
        for chunk in self._chunks:
            if chunk.end > self.stored:
                yield memoryview(chunk.data)[max(0, self.stored - chunk.offset) :]

    def _note_streams(self) -> None:
        """Say in `streams` which chunk is of which stream, before the bytes themselves are there."""
        for chunk in self._chunks:
            stream = STREAMS.index(chunk.stream)
            if not self._streams or (self._streams[-1] & 1 != stream and chunk.offset > self._streams[-1] >> 1):
                self._streams.append(chunk.offset << 1 | stream)
                self._unsaved += 1
        if self._unsaved:
            with (self._directory / STREAMS_FILE).open("ab", buffering=0) as file:
                at = (len(self._streams) - self._unsaved) * _CHANGE
                if file.tell() != at:
                    os.ftruncate(file.fileno(), at)
                entries = self._streams[-self._unsaved :].tobytes()
                if file.write(entries) != len(entries):
                    raise OSError(0, "the disk took only a part")
            self._unsaved = 0

    def _drop(self, start: int) -> None:
        """Remove the files below `start`, which is where another begins, or the end."""
        while self._segments and self._segments[0] < start:
            first = self._segments.pop(0)
            following = self._segments[0] if self._segments else self.stored
            self._segment(first).unlink(missing_ok=True)
            self._home.used -= following - first
            self.start = following
        self.start = max(self.start, start)

    def _segment(self, start: int) -> Path:
        return self._directory / f"{start:016x}"


def synchronise(paths: list[Path]) -> None:
    """Put files on the disk, for any thread. One that is gone was forgotten meanwhile. Raises OSError."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
