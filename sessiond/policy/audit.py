"""The audit log: one JSON line when a command was judged, before it runs, and one when it has ended.

Records are appended with a single write each, so that lines never mix, and never wait for the disk: `fsync`
happens when the log is closed or reopened. A crash of the daemon loses nothing; a crash of the machine may
lose its last seconds. What cannot be recorded raises AuditError, and the caller must then not run it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from sessiond.policy.decide import CommandRequest, Verdict

SHOWN_CHARACTERS = 4096
"""Characters of a command that a record shows; the digest covers all of it."""
SHOWN_ARGUMENTS = 256
REASON_CHARACTERS = 1024


_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
"""ASCII only, so that no control, bidi or line character reaches a reader of the file."""


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
        digest = request_digest(request)
        self._append(
            "decision",
            subject,
            digest,
            {
                **_shown(request),
                "verdict": verdict.outcome,
                "rule": verdict.rule,
                "reason": verdict.reason[:REASON_CHARACTERS],
            },
        )
        return digest

    def end(self, subject: Subject, digest: str, ending: Ending) -> None:
        """Record how an allowed command ended; `digest` is what `decision` returned. Raises AuditError."""
        self._append(
            "end",
            subject,
            digest,
            {
                "exit_code": ending.exit_code,
                "signal": ending.signal,
                "cause": ending.cause,
                "seconds": round(ending.seconds, 6),
                "output_bytes": ending.output_bytes,
                "timed_out": ending.timed_out,
                "oom": ending.oom,
            },
        )

    def _append(self, event: str, subject: Subject, digest: str, details: dict[str, object]) -> None:
        record = {
            "time": timestamp(time.time()),
            "event": event,
            "session": subject.session,
            "command": subject.command,
            "profile": subject.profile,
            "policy": subject.policy,
            "sha256": digest,
            **details,
        }
        try:
            text = _encode(record).replace("\x7f", "\\u007f")
            line = (b"\n" if self._torn else b"") + text.encode() + b"\n"
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
    value = {
        "argv": request.argv,
        "cwd": request.cwd,
        "env": dict(sorted(request.env.items())),
        "text": request.text,
    }
    return hashlib.sha256(_encode(value).encode()).hexdigest()


def _shown(request: CommandRequest) -> dict[str, object]:
    """The command for a reader, bounded; variables by name only, because values may be secrets."""
    shown: dict[str, object] = {
        "env": sorted(request.env)[:SHOWN_ARGUMENTS],
        "cwd": request.cwd[:SHOWN_CHARACTERS],
    }
    if request.argv is None:
        text = request.text or ""
        shown["text"] = text[:SHOWN_CHARACTERS]
        shown["truncated"] = len(text) > SHOWN_CHARACTERS
        return shown
    arguments: list[str] = []
    left = SHOWN_CHARACTERS
    for argument in request.argv[:SHOWN_ARGUMENTS]:
        if left <= 0:
            break
        arguments.append(argument[:left])
        left -= len(argument) + 1
    shown["argv"] = arguments
    shown["truncated"] = len(arguments) < len(request.argv) or arguments[-1:] != list(request.argv[-1:])
    return shown


def _finish(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
