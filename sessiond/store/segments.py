"""The journal's files: `STATE/journal/00000001.log` and so on, private to the daemon's user."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sessiond.store import frames
from sessiond.store.errors import StoreError, StoreVersionError

UNFINISHED = ".new"
"""Suffix of a segment that is not yet whole."""


@dataclass(slots=True)
class Segment:
    """One file of the journal. Its records end where those of a later one begin, whatever else lies in it."""

    number: int
    path: Path
    first: int
    """Seq of its first record."""
    salt: int
    size: int
    """Bytes of header and whole records."""


def create(folder: Path, number: int, first: int, bodies: Iterable[tuple[int, bytes]], *, sync: bool) -> Segment:
    """Write a new segment that begins with `bodies`; it appears whole or not at all. Raises OSError.

    With `sync` it is on the disk before this returns.
    """
    segment = Segment(number, folder / f"{number:08}.log", first, secrets.randbits(32), 0)
    unfinished = segment.path.with_suffix(UNFINISHED)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        segment.size += write(descriptor, frames.header(first, segment.salt))
        for seq, body in bodies:
            segment.size += write(descriptor, frames.encode(seq, body, segment.salt))
        if sync:
            os.fdatasync(descriptor)
        unfinished.rename(segment.path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise
    finally:
        os.close(descriptor)
    if sync:
        _sync_folder(folder)
    return segment


def write(descriptor: int, data: bytes) -> int:
    """Write all of `data` with one call. Raises OSError, also when only a part was taken."""
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(f"only {written} of {len(data)} bytes were taken; is the disk full?")
    return written


def _sync_folder(folder: Path) -> None:
    """Put the names of the segments on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def inspect(folder: Path) -> tuple[list[Segment], int]:
    """The segments, oldest first, and the seq of the last record (0 when there is none).

    What was torn off the end is cut off. Raises StoreError when a file is damaged elsewhere, and StoreVersionError.
    """
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        unfinished.unlink()
    paths = sorted(path for path in folder.glob("*.log") if path.stem.isdecimal())
    segments: list[Segment] = []
    for path in paths:
        with path.open("rb") as file:
            header = frames.read_header(file.read(frames.HEADER_BYTES))
        if header is not None and header.version != frames.FORMAT:
            raise StoreVersionError(
                f"{path} has version {header.version} of the journal's format; this sessiond knows {frames.FORMAT}: "
                + ("use a newer sessiond" if header.version > frames.FORMAT else "use the sessiond that wrote it")
            )
        if header is None:
            if path != paths[-1] or path.stat().st_size > frames.HEADER_BYTES:
                raise damaged(path, 0)
            path.unlink()
            continue
        segments.append(Segment(int(path.stem), path, header.first, header.salt, path.stat().st_size))
    return segments, _trim(segments[-1]) if segments else 0


def _trim(segment: Segment) -> int:
    """Cut off what is torn at the end of the newest segment; returns the seq of its last record."""
    data = segment.path.read_bytes()
    seq, offset = segment.first - 1, frames.HEADER_BYTES
    while (record := frames.decode(data, offset, segment.salt)) is not None:
        seq, offset = record.seq, record.end
    if frames.find(data, offset, seq, segment.salt) is not None:
        raise damaged(segment.path, offset)
    if offset < len(data):
        os.truncate(segment.path, offset)
        segment.size = offset
    return seq


def damaged(path: Path, offset: int) -> StoreError:
    """The error for a record that cannot be read though later ones can."""
    return StoreError(
        f"the journal {path} has no valid record at byte {offset}, though later ones exist: restore the state "
        f"directory from a copy, or move {path.parent} away, which loses what is not in the database"
    )
