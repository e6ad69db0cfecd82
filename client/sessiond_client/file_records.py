"""What the guest says of files, read: entries, matches, events, and why something could not be done. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from sessiond_client.errors import FileError, ProtocolViolationError, TunnelError
from sessiond_client.results import Result

FileKind = Literal["file", "directory", "link", "socket", "fifo", "other"]
ChangeKind = Literal[
    "created", "removed", "modified", "written", "attributes", "moved_from", "moved_to", "overflow", "ready"
]

_KINDS: dict[bytes, FileKind] = {
    b"f": "file",
    b"d": "directory",
    b"l": "link",
    b"s": "socket",
    b"p": "fifo",
    b"x": "other",
}
_NAMES = {
    errno.ENOENT: "not_found",
    errno.EEXIST: "exists",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EISDIR: "is_directory",
    errno.ENOTDIR: "not_directory",
    errno.ENOTEMPTY: "not_empty",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EFBIG: "too_large",
    errno.EROFS: "read_only",
    errno.EOPNOTSUPP: "not_a_file",
    errno.ENAMETOOLONG: "name_too_long",
    errno.ELOOP: "loop",
    errno.EXDEV: "other_filesystem",
    errno.EBUSY: "busy",
    errno.ECONNREFUSED: "refused",
}
_ESCAPES = 3
_CHANGES: dict[bytes, ChangeKind] = {kind.encode(): kind for kind in get_args(ChangeKind)}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file, directory or link. Bytes of a name that are not UTF-8 are surrogates, as `os.fsdecode` makes them."""

    path: str
    """As it was asked for, or relative to the directory that was listed."""
    kind: FileKind
    mode: int
    """Its twelve bits of permissions."""
    size: int
    """In bytes."""
    modified: float
    """Seconds since the epoch."""
    target: str | None
    """Where a link leads, as it is written there."""


@dataclass(frozen=True, slots=True)
class Match:
    """A line that holds what was searched for."""

    path: str
    """Relative to the directory that was searched."""
    line: int
    """From 1 on."""
    column: int
    """Of its first byte in the line, from 1 on."""
    text: str
    """The line, at most 1000 bytes of it."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """Something happened to a path. After `overflow` some changes were not told: list again what matters."""

    kind: ChangeKind
    path: str
    """Relative to the directory that is watched; empty with `overflow`."""


@dataclass(frozen=True, slots=True)
class Written:
    """What reached a file."""

    size: int
    """Bytes that were written."""
    sha256: str
    """Of these bytes, as the sandbox computed it."""


def entries(output: bytes) -> list[FileEntry]:
    """The entries of a listing. Raises ProtocolViolationError for what is none."""
    fields = _strings(output, 2)
    return [_read(_entry, *pair) for pair in zip(fields[::2], fields[1::2], strict=True)]


def matches(output: bytes) -> list[Match]:
    """The matches of a search. Raises ProtocolViolationError."""
    fields = _strings(output, 3)
    return [_read(_match, *three) for three in zip(fields[::3], fields[1::3], fields[2::3], strict=True)]


def change(record: bytes) -> FileChange:
    """One event of a watch. Raises ProtocolViolationError."""
    return _read(_change, record)


def written(output: bytes) -> Written:
    """The report of a write. Raises ProtocolViolationError."""
    return _read(_written, output)


def file_error(ended: Result, path: str) -> FileError:
    """The error for a command that did not end well."""
    return FileError(*_why(ended.exit_code, ended.stderr, ended.describe()), path)


def tunnel_error(exit_code: int | None, stderr: bytes, otherwise: str) -> TunnelError:
    """The same for a tunnel."""
    return TunnelError(*_why(exit_code, stderr, otherwise))


def _why(exit_code: int | None, stderr: bytes, otherwise: str) -> tuple[str, str]:
    number, _, words = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2].partition(" ")
    if not (words and number.isascii() and number.isdigit()):
        return "broken", f"the guest {otherwise}"
    return "escapes" if exit_code == _ESCAPES else _NAMES.get(int(number), "system"), words


def _strings(output: bytes, count: int) -> list[bytes]:
    fields = output.split(b"\0")
    if fields.pop() or len(fields) % count != 0:
        raise ProtocolViolationError("a listing of files ends too early")
    return fields


def _read(parse: Callable[..., T], *fields: bytes) -> T:
    try:
        return parse(*fields)
    except (ValueError, KeyError):
        raise ProtocolViolationError(f"no record of files: {fields[0][:80]!r}") from None


def _entry(head: bytes, target: bytes) -> FileEntry:
    kind, mode, size, modified, path = head.split(b" ", 4)
    where = os.fsdecode(target) if kind == b"l" else None
    return FileEntry(os.fsdecode(path), _KINDS[kind], int(mode, 8), int(size), float(modified), where)


def _match(path: bytes, place: bytes, text: bytes) -> Match:
    line, column = place.split(b" ")
    return Match(os.fsdecode(path), int(line), int(column), text.decode("utf-8", "replace"))


def _change(record: bytes) -> FileChange:
    kind, path = record.split(b" ", 1)
    return FileChange(_CHANGES[kind], os.fsdecode(path))


def _written(report: bytes) -> Written:
    size, digest = report.split()
    return Written(int(size), digest.decode("ascii"))
