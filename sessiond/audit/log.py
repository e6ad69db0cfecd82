"""The log that the daemon writes: one file that grows, sealed and followed by another when it is large enough.

A record is appended with a single write, so that lines never mix, and never waits for the disk: `fsync` happens when a
segment is sealed, beside the daemon's work, and when the log is closed. A crash of the daemon loses nothing; a crash of
the machine may lose the last seconds. What cannot be recorded raises AuditError, and the caller must then not do it.

There is one writer: the daemon that holds the state directory's lock.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sessiond.audit.chain import BEGAN, RECOVERED, SEALED, START, TORN_END, Record, line_digest, make_line
from sessiond.audit.files import first_record, last_record, sealed_segments, segment_path
from sessiond.audit.record import (
    Detail,
    Ending,
    EventName,
    Subject,
    decision_fields,
    end_fields,
    event_fields,
    timestamp,
)
from sessiond.audit.redact import Redactor

if TYPE_CHECKING:
    from sessiond.policy.decide import CommandRequest, Verdict

log = structlog.get_logger()

SEGMENT_BYTES = 64 * 1024**2
"""Size at which a segment is sealed, when nothing else is said."""
_CHUNK_BYTES = 1024 * 1024
_NOBODY = Subject()


class AuditError(Exception):
    """A record could not be written. The command that it is about must not run."""


class AuditLog:
    """A hash-chained log in append-only files of JSON lines, mode 0600. Not for use from several threads."""

    def __init__(
        self, path: Path, *, segment_bytes: int = SEGMENT_BYTES, keep: int = 0, redact: Sequence[str] = ()
    ) -> None:
        """Open the log whose current file is `path`, creating it if need be, and go on where it ends.

        A segment is sealed when it has `segment_bytes`; of sealed ones the last `keep` stay, or all for 0. The values
        in `redact` are not shown. Raises AuditError.
        """
        self._path = path
        self._segment_bytes = segment_bytes
        self._keep = keep
        self._redactor = Redactor(redact) or None
        self._descriptor = -1
        self._sequence = 0
        self._previous = START
        self._size = 0
        """Offset behind the last whole record of the current file."""
        self._torn = False
        """Whether more stands there: what a write that was cut short left."""
        self._segment = 0
        self._segment_first = 0
        """Sequence number of the segment's first record."""
        self._oldest = 1
        """Number of the oldest segment that must be there; older ones were erased on purpose."""
        self._sealed = False
        try:
            self._open()
        except OSError as error:
            raise AuditError(f"the audit log {path} cannot be opened: {error.strerror}") from error

    def decision(self, subject: Subject, request: CommandRequest, verdict: Verdict) -> str:
        """Record what was decided about `request`; returns the request's digest. Raises AuditError."""
        digest, fields = decision_fields(subject, request, verdict, self._redactor)
        self._append("decision", fields)
        return digest

    def end(self, subject: Subject, digest: str, ending: Ending) -> None:
        """Record how an allowed command ended; `digest` is what `decision` returned. Raises AuditError."""
        self._append("end", end_fields(subject, digest, ending))

    def event(
        self,
        event: EventName,
        subject: Subject = _NOBODY,
        *,
        digest: str | None = None,
        details: Mapping[str, Detail] | None = None,
    ) -> None:
        """Record what is no command; `digest` is that of the request that it is about, if any. Raises AuditError."""
        self._append(event, event_fields(subject, digest, details or {}, self._redactor))

    def reopen(self) -> None:
        """Seal the current segment and begin another. Raises AuditError, and then the old one goes on if it can."""
        self._prepare()
        self._roll()

    def close(self) -> None:
        """Put everything on the disk and let go of the file. The log can be opened again."""
        old, self._descriptor = self._descriptor, -1
        if old >= 0:
            _finish(old)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _append(self, event: str, fields: str) -> None:
        self._prepare()
        if self._size >= self._segment_bytes:
            self._roll()
        self._write(event, fields)

    def _write(self, event: str, fields: str) -> None:
        """Append one record; the chain goes on from it only when all of it was written."""
        try:
            line = make_line(self._sequence + 1, self._previous, timestamp(time.time()), event, fields)
            written = os.write(self._descriptor, line)
        except (OSError, ValueError) as error:
            raise AuditError(f"the audit log {self._path} cannot be written: {error}") from error
        if written != len(line):
            self._torn = True
            raise AuditError(f"the audit log {self._path} took only a part of a record: is the disk full?")
        self._sequence += 1
        self._previous = line_digest(line)
        self._size += written

    def _prepare(self) -> None:
        """Put right what an earlier write left behind, here or in an earlier life."""
        if self._torn:
            self._recover()
        if self._sealed:
            self._begin_next()

    def _recover(self) -> None:
        """Leave what is left of a torn record where it is, and put it on record."""
        try:
            written = os.write(self._descriptor, TORN_END)
            if written != len(TORN_END):
                raise AuditError(f"the audit log {self._path} takes no more: is the disk full?")
            digest, offset = hashlib.sha256(), self._size
            while chunk := os.pread(self._descriptor, _CHUNK_BYTES, offset):
                digest.update(chunk)
                offset += len(chunk)
        except OSError as error:
            raise AuditError(f"the audit log {self._path} cannot be written: {error}") from error
        good, self._size = self._size, offset
        try:
            self._write(RECOVERED, f'"torn_bytes":{offset - good},"torn_sha256":"{digest.hexdigest()}"')
        except AuditError:
            self._size = good
            raise
        self._torn = False

    # --- segments ---------------------------------------------------------------------------------------------------

    def _roll(self) -> None:
        """Seal this segment and begin the next. Whatever fails is tried again before the next record."""
        self._check_way()
        records = self._sequence - self._segment_first + 1
        self._write(SEALED, f'"segment":{self._segment},"records":{records},"bytes":{self._size}')
        self._sealed = True
        self._begin_next()

    def _check_way(self) -> None:
        """Refuse to seal what could then not be put aside: a sealed segment takes no records."""
        self._check_free(segment_path(self._path, self._segment))
        if not self._is_ours():
            self._check_free(self._path)

    def _check_free(self, path: Path) -> None:
        if path.exists():
            raise AuditError(f"the audit log {self._path} cannot be sealed: {path} is in the way; move it away")

    def _is_ours(self) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            return False

    def _begin_next(self) -> None:
        """Put the sealed segment aside under its own name, unless somebody moved it, and begin the next."""
        old, target = self._descriptor, segment_path(self._path, self._segment)
        try:
            if self._is_ours():
                self._check_free(target)
                self._path.rename(target)
            self._begin_segment(self._segment + 1, after=target.name)
        except OSError as error:
            raise AuditError(f"the audit log {self._path} cannot be followed by a new one: {error}") from error
        self._sealed = False
        _finish_aside(old)
        self._remove_old()

    def _begin_segment(self, number: int, after: str | None) -> None:
        """Begin the file at the path, which is not there, with its first record in it. Raises OSError, AuditError."""
        oldest = max(self._oldest, number - self._keep) if self._keep else self._oldest
        name = "null" if after is None else f'"{after}"'
        fields = f'"segment":{number},"after":{name},"oldest":{oldest}'
        line = make_line(self._sequence + 1, self._previous, timestamp(time.time()), BEGAN, fields)
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(draft, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            if os.write(descriptor, line) != len(line):
                raise AuditError(f"the audit log {self._path} took only a part of its first record: is the disk full?")
            os.link(draft, self._path)  # a rename would replace what is there
            draft.unlink()
        except BaseException:
            os.close(descriptor)
            draft.unlink(missing_ok=True)
            raise
        self._descriptor = descriptor
        self._sequence += 1
        self._previous = line_digest(line)
        self._size = len(line)
        self._segment, self._segment_first, self._oldest = number, self._sequence, oldest

    def _remove_old(self) -> None:
        """Erase segments beyond those that are kept; the record that began this one says which those are."""
        for number in sealed_segments(self._path):
            if number < self._oldest:
                try:
                    segment_path(self._path, number).unlink()
                except OSError as error:
                    log.warning("an old segment of the audit log is still there", segment=number, error=str(error))

    # --- opening ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Go on in the current file, or begin one after the last that was sealed."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags)
        except FileNotFoundError:
            self._open_new()
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise AuditError(f"the audit log {self._path} is not a regular file")
            if status.st_size > 0:
                self._go_on(descriptor, status.st_size)
                self._descriptor, descriptor = descriptor, -1
                return
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        self._path.unlink()
        self._open_new()

    def _go_on(self, descriptor: int, size: int) -> None:
        os.fchmod(descriptor, 0o600)
        record, self._size = self._take_ends(descriptor, self._path)
        self._torn = self._size < size
        self._sealed = record.event == SEALED and not self._torn

    def _open_new(self) -> None:
        numbers = sealed_segments(self._path)
        if not numbers:
            self._begin_segment(1, after=None)
            return
        after = segment_path(self._path, numbers[-1])
        descriptor = os.open(after, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._take_ends(descriptor, after)
        finally:
            os.close(descriptor)
        self._begin_segment(self._segment + 1, after.name)

    def _take_ends(self, descriptor: int, path: Path) -> tuple[Record, int]:
        """Go on from the last record of a segment; returns it and the offset behind it. Raises AuditError."""
        first, last = first_record(descriptor), last_record(descriptor)
        number, oldest = (
            (first.fields.get("segment"), first.fields.get("oldest")) if first is not None else (None, None)
        )
        if first is None or last is None or not isinstance(number, int) or not isinstance(oldest, int):
            raise AuditError(f"{path} does not begin and end with records of an audit log; look at it and move it away")
        self._sequence, self._previous = last[0].sequence, last[0].digest
        self._segment, self._segment_first, self._oldest = number, first.sequence, oldest
        return last


def _finish_aside(descriptor: int) -> None:
    """Put a sealed segment on the disk while the daemon goes on: a disk may take seconds for it."""
    try:
        threading.Thread(target=_finish, args=(descriptor,), name="audit-fsync").start()
    except RuntimeError:  # no thread is to be had
        _finish(descriptor)


def _finish(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        log.error("the audit log may not be on the disk", error=str(error))
    finally:
        os.close(descriptor)
