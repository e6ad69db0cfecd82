"""What the guest says of files, read: entries, matches, events, and why something could not be done. Pure."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Literal, cast, get_args

from sessiond_client.errors import FileError, ProtocolViolationError, TunnelError
from sessiond_client.results import Result

FileKind = Literal["file", "directory", "link", "socket", "fifo", "other"]
ChangeKind = Literal[
    "created", "removed", "modified", "written", "attributes", "moved_from", "moved_to", "overflow", "ready"
]

_KINDS: dict[str, FileKind] = {
    "f": "file",
    "d": "directory",
    "l": "link",
    "s": "socket",
    "p": "fifo",
    "x": "other",
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
_CHANGES = frozenset(get_args(ChangeKind))


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
    """The entries of a listing."""
    found = []
    fields = _strings(output)
    for head, target in zip(fields[::2], fields[1::2], strict=True):
        kind, mode, size, modified, path = _split(head, 5)
        link = os.fsdecode(target) if kind == b"l" else None
        found.append(
            FileEntry(
                os.fsdecode(path), _KINDS.get(kind.decode(), "other"), int(mode, 8), int(size), float(modified), link
            )
        )
    return found


def matches(output: bytes) -> list[Match]:
    """The matches of a search."""
    fields = _strings(output)
    found = []
    for path, place, text in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        line, column = _split(place, 2)
        found.append(Match(os.fsdecode(path), int(line), int(column), text.decode("utf-8", "replace")))
    return found


def change(record: bytes) -> FileChange:
    """One event of a watch."""
    kind, path = _split(record, 2)
    if kind.decode("ascii", "replace") not in _CHANGES:
        raise ProtocolViolationError(f"an unknown change {kind[:20]!r}")
    return FileChange(cast("ChangeKind", kind.decode()), os.fsdecode(path))


def written(output: bytes) -> Written:
    """The report of a write."""
    size, digest = _split(output.strip(), 2)
    return Written(int(size), digest.decode("ascii", "replace"))


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


def _strings(output: bytes) -> list[bytes]:
    if output and not output.endswith(b"\0"):
        raise ProtocolViolationError("a record ends too early")
    return output.split(b"\0")[:-1]


def _split(record: bytes, count: int) -> list[bytes]:
    fields = record.split(b" ", count - 1)
    if len(fields) != count:
        raise ProtocolViolationError(f"a record has not {count} fields: {record[:80]!r}")
    return fields
