"""The audit log: one JSON line when a command was judged, before it runs, and one when it has ended.

Records are appended with a single write each, so that lines never mix, and never wait for the disk: `fsync`
happens when the log is closed or reopened. A crash of the daemon loses nothing; a crash of the machine may
lose its last seconds. What cannot be recorded raises AuditError, and the caller must then not run it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Literal

from sessiond.policy.decide import CommandRequest, Verdict

SHOWN_CHARACTERS = 4096
"""Characters of a command that a record shows; the digest covers all of it."""
SHOWN_ARGUMENTS = 256
REASON_CHARACTERS = 1024


def _quoted(string: str) -> str:
    """A string as JSON, in printable ASCII only: no control, bidi or line character reaches a reader of the file."""
    return encode_basestring_ascii(string).replace("\x7f", "\\u007f")


class AuditError(Exception):
    """A record could not be written. The command that it is about must not run."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended, as its record says."""

    exit_code: int | None
    """None when it never ran or a signal ended it."""
    signal: int | None
    cause: Literal["exit", "signal", "timeout", "oom", "killed", "failed", "lost"]
    """The wire's causes, and `failed` (never started) and `lost`."""
    seconds: float
    output_bytes: int
    timed_out: bool
    oom: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """What a record is about."""

    session: str
    command: str
    profile: str
    policy: str
    """The policy's digest."""


class AuditLog:
    """An append-only file of JSON lines, mode 0600. To rotate, rename the file and call `reopen`."""

    def __init__(self, path: Path) -> None:
        """Open the log at `path`, creating it if need be. Raises AuditError."""
        self._path = path
        self._descriptor = self._open()
        self._torn = _ends_torn(self._descriptor)

    def reopen(self) -> None:
        """Continue in the file that is now at the path. Raises AuditError, and then keeps the old file."""
        fresh = self._open()
        old, self._descriptor = self._descriptor, fresh
        self._torn = _ends_torn(fresh)
        _finish(old)

    def close(self) -> None:
        """Put everything on the disk and let go of the file."""
        old, self._descriptor = self._descriptor, -1
        if old >= 0:
            _finish(old)

    def decision(self, subject: Subject, request: CommandRequest, verdict: Verdict) -> str:
        """Record what was decided about `request`; returns the request's digest. Raises AuditError."""
        argv = _quoted_all(request.argv) if request.argv is not None else None
        digest = _digest(request, argv)
        self._append(
            "decision",
            subject,
            digest,
            f'"env":{_quoted_all(sorted(request.env)[:SHOWN_ARGUMENTS])},"cwd":{_quoted(request.cwd[:SHOWN_CHARACTERS])},'
            f'{_shown(request, argv)},"verdict":"{verdict.outcome}","rule":{_quoted(verdict.rule)},'
            f'"reason":{_quoted(verdict.reason[:REASON_CHARACTERS])}',
        )
        return digest

    def end(self, subject: Subject, digest: str, ending: Ending) -> None:
        """Record how an allowed command ended; `digest` is what `decision` returned. Raises AuditError."""
        self._append(
            "end",
            subject,
            digest,
            f'"exit_code":{_number(ending.exit_code)},"signal":{_number(ending.signal)},"cause":"{ending.cause}",'
            f'"seconds":{ending.seconds:.6f},"output_bytes":{ending.output_bytes},'
            f'"timed_out":{_boolean(ending.timed_out)},"oom":{_boolean(ending.oom)}',
        )

    def _append(self, event: str, subject: Subject, digest: str, details: str) -> None:
        """Write a record. Its text is put together here and not by `json.dumps`, which takes three times as long."""
        try:
            line = (
                f'{"" if not self._torn else chr(10)}{{"time":"{timestamp(time.time())}","event":"{event}",'
                f'"session":{_quoted(subject.session)},"command":{_quoted(subject.command)},'
                f'"profile":{_quoted(subject.profile)},"policy":"{subject.policy}","sha256":"{digest}",{details}}}\n'
            ).encode("ascii")
            written = os.write(self._descriptor, line)
        except (OSError, ValueError) as error:
            raise AuditError(f"the audit log {self._path} cannot be written: {error}") from error
        self._torn = written != len(line)
        if self._torn:
            raise AuditError(f"the audit log {self._path} took only a part of a record: is the disk full?")

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise AuditError(f"the audit log {self._path} cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise AuditError(f"the audit log {self._path} is not a regular file")
        os.fchmod(descriptor, 0o600)
        return descriptor


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(now: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, with microseconds."""
    seconds = int(now)
    return f"{_second(seconds)}.{int((now - seconds) * 1e6):06d}Z"


def _ends_torn(descriptor: int) -> bool:
    """Whether the file ends in a record cut short, so that the next one must begin a line of its own."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def request_digest(request: CommandRequest) -> str:
    """SHA-256 (hex) of the canonical JSON of exactly what was asked: argv or text, env and cwd."""
    return _digest(request, _quoted_all(request.argv) if request.argv is not None else None)


def _digest(request: CommandRequest, argv: str | None) -> str:
    env = ",".join([f"{_quoted(name)}:{_quoted(value)}" for name, value in sorted(request.env.items())])
    text = "null" if request.text is None else _quoted(request.text)
    canonical = f'{{"argv":{argv or "null"},"cwd":{_quoted(request.cwd)},"env":{{{env}}},"text":{text}}}'
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _shown(request: CommandRequest, argv: str | None) -> str:
    """The command for a reader, bounded; `argv` is all of it, quoted."""
    if request.argv is None or argv is None:
        text = request.text or ""
        return f'"text":{_quoted(text[:SHOWN_CHARACTERS])},"truncated":{_boolean(len(text) > SHOWN_CHARACTERS)}'
    if len(argv) <= SHOWN_CHARACTERS and len(request.argv) <= SHOWN_ARGUMENTS:
        return f'"argv":{argv},"truncated":false'
    arguments: list[str] = []
    left = SHOWN_CHARACTERS
    for argument in request.argv[:SHOWN_ARGUMENTS]:
        if left <= 0:
            break
        arguments.append(argument[:left])
        left -= len(argument) + 1
    truncated = len(arguments) < len(request.argv) or arguments[-1:] != list(request.argv[-1:])
    return f'"argv":{_quoted_all(arguments)},"truncated":{_boolean(truncated)}'


def _quoted_all(strings: Iterable[str]) -> str:
    return f"[{','.join(map(_quoted, strings))}]"


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _finish(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
