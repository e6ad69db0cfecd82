"""The files of a log: their names, their order, their lines; reading while a daemon writes and rotates."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sessiond.audit.chain import LONGEST_LINE_BYTES, Record, read_line

NAME = "audit.jsonl"
"""The file that is written to, in the daemon's state directory."""
TAIL_BYTES = 4 * LONGEST_LINE_BYTES
"""How far from the end of a file its last record is looked for."""
POLL_SECONDS = 0.25
"""Between two looks at a file that is followed."""
_MOMENT_SECONDS = 0.05
_MOMENTS = 4
"""What is missing for less than the two together is a daemon at work: a write under way, or a rotation."""


class Segment(NamedTuple):
    """One file of a log, open for reading."""

    name: str
    number: int | None
    """None for the one that is written to."""
    file: BinaryIO


def segment_path(path: Path, number: int) -> Path:
    """Where segment `number` of the log at `path` is once it is sealed."""
    return path.with_name(f"{path.stem}-{number:06d}{path.suffix}")


def segment_number(path: Path, name: str) -> int | None:
    """The number of the segment that has this name, or None."""
    match = re.fullmatch(re.escape(path.stem) + r"-(\d{6,12})" + re.escape(path.suffix), name)
    return int(match[1]) if match is not None else None


def sealed_segments(path: Path) -> list[int]:
    """Numbers of the sealed segments of the log at `path`, oldest first."""
    return sorted(n for entry in path.parent.iterdir() if (n := segment_number(path, entry.name)) is not None)


def open_log(path: Path) -> Iterator[Segment]:
    """Each file of the log at `path`, oldest first, as it was at one moment; valid until the next is asked for.

    The file that is written to is opened first: what it is renamed to meanwhile comes once.
    """
    current = _open_soon(path)
    inode = os.fstat(current.fileno()).st_ino if current is not None else None
    for number in sealed_segments(path):
        with segment_path(path, number).open("rb") as file:
            if os.fstat(file.fileno()).st_ino == inode:
                break
            yield Segment(segment_path(path, number).name, number, file)
    if current is not None:
        with current:
            yield Segment(path.name, None, current)


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Its lines with their newlines; one that is too long in pieces, one that is still being written when it is."""
    while line := file.readline(LONGEST_LINE_BYTES + 1):
        for _ in range(_MOMENTS):
            if line.endswith(b"\n") or len(line) > LONGEST_LINE_BYTES:
                break
            time.sleep(_MOMENT_SECONDS)
            line += file.readline(LONGEST_LINE_BYTES + 1 - len(line))
        yield line


def first_record(descriptor: int) -> Record | None:
    """The record in the first line of a file, or None when that is none."""
    line, newline, _ = os.pread(descriptor, LONGEST_LINE_BYTES, 0).partition(b"\n")
    return read_line(line + newline)


def last_record(descriptor: int) -> tuple[Record, int] | None:
    """The last record of a file and the offset behind it, or None when there is none near its end."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - TAIL_BYTES)
    tail = os.pread(descriptor, size - start, start)
    end = tail.rfind(b"\n") + 1
    while end > 0:
        begin = tail.rfind(b"\n", 0, end - 1) + 1
        record = read_line(tail[begin:end])
        if record is not None:
            return record, start + end
        end = begin
    return None


class Position(NamedTuple):
    """A place in a log: a file, by its inode, and an offset."""

    inode: int
    offset: int


def last_lines(path: Path, count: int, until: Position | None = None) -> list[bytes]:
    """Up to `count` lines at the end of the log at `path`, or before `until`; reads no more files than it must."""
    found: deque[bytes] = deque()
    waiting = until is not None
    for one in [path, *(segment_path(path, number) for number in reversed(sealed_segments(path)))]:
        if len(found) >= count:
            break
        try:
            file = one.open("rb")
        except FileNotFoundError:
            continue
        with file:
            end = None
            if waiting and until is not None:
                if os.fstat(file.fileno()).st_ino != until.inode:
                    continue
                waiting, end = False, until.offset
            found.extendleft(reversed(deque(_lines_to(file, end), maxlen=count - len(found))))
    return list(found)


def _lines_to(file: BinaryIO, end: int | None) -> Iterator[bytes]:
    offset = 0
    for line in lines(file):
        offset += len(line)
        if end is not None and offset > end:
            return
        yield line


class Follower:
    """Reads what is written to a log after it was made, in whatever segment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open_soon(path)
        self._begun = b""
        self.position: Position | None = None
        """Where it began: behind the last whole line."""
        if self._file is not None:
            end = _whole_size(self._file.fileno())
            self._file.seek(end)
            self.position = Position(os.fstat(self._file.fileno()).st_ino, end)

    def lines(self) -> Iterator[bytes]:
        """Each line when it is whole; never ends."""
        while True:
            rotated = self._rotated()  # before reading: then nothing more can come to what is read
            yield from self._whole_lines()
            if not (rotated and self._next_segment()):
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _whole_lines(self) -> Iterator[bytes]:
        """What is there by now; the beginning of a line waits for its end."""
        while self._file is not None and (piece := self._file.readline(LONGEST_LINE_BYTES)):
            self._begun += piece
            if piece.endswith(b"\n") or len(self._begun) >= LONGEST_LINE_BYTES:
                line, self._begun = self._begun, b""
                yield line

    def _rotated(self) -> bool:
        try:
            return self._file is None or self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False  # in the middle of a rotation

    def _next_segment(self) -> bool:
        """Go on in the segment after this one; False when it is not there yet."""
        try:
            newest = self._path.open("rb")
        except FileNotFoundError:
            return False
        old, self._begun = self._file, b""
        following = self._sealed_after(os.fstat(old.fileno()).st_ino) if old is not None else None
        self._file = following or newest
        if following is not None:
            newest.close()
        if old is not None:
            old.close()
        return True

    def _sealed_after(self, inode: int) -> BinaryIO | None:
        """The segment that follows the one with this inode, if it is sealed too."""
        numbers = sealed_segments(self._path)
        for number, following in pairwise(numbers):
            if segment_path(self._path, number).stat().st_ino == inode:
                return segment_path(self._path, following).open("rb")
        return None


def _open_soon(path: Path) -> BinaryIO | None:
    """The file, or None when it is still missing after a moment."""
    for _ in range(_MOMENTS):
        try:
            return path.open("rb")
        except FileNotFoundError:
            time.sleep(_MOMENT_SECONDS)
    return None


def _whole_size(descriptor: int) -> int:
    """Offset behind the last newline near the end of a file."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - TAIL_BYTES)
    return start + os.pread(descriptor, size - start, start).rfind(b"\n") + 1
