"""What a record says, as a piece of JSON. Pure: `chain` makes lines of it, `log` writes them.

The text is put together here and not by `json.dumps`, which takes three times as long: every command waits for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Literal

from sessiond.audit.redact import Redactor

if TYPE_CHECKING:
    from sessiond.policy.decide import CommandRequest, Verdict

SHOWN_CHARACTERS = 4096
"""Characters of a command that a record shows; the digest covers all of it."""
SHOWN_ARGUMENTS = 256
REPEATED_CHARACTERS = 1024
"""Commands up to this size are kept as text, for when they come again."""
REASON_CHARACTERS = 1024
"""Characters shown of a reason, or of a text among an event's details."""
DEFAULT_TENANT = "default"
DAEMON = "daemon"
"""Who does what nobody asked for."""

EventName = Literal[
    "approval_asked",
    "approval_answered",
    "approval_expired",
    "session_opened",
    "session_closed",
    "session_lost",
    "session_generation",
    "session_bound",
    "session_paused",
    "session_resumed",
    "session_adopted",
    "daemon_started",
    "daemon_stopped",
    "policy_reloaded",
    "policy_refused",
]
"""Events that are no command. docs/audit.md says when each is written and what its details hold."""
Detail = str | int | float | bool | None


def _quoted(string: str) -> str:
    """A string as JSON, in printable ASCII only: no control, bidi or line character reaches a reader of the file."""
    return encode_basestring_ascii(string).replace("\x7f", "\\u007f")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended, as its record says."""

    exit_code: int | None
    """None when it never ran or a signal ended it."""
    signal: int | None
    cause: Literal["exit", "signal", "timeout", "oom", "killed", "quota", "failed", "lost"]
    """The wire's causes, and `failed` (never started) and `lost`."""
    seconds: float
    output_bytes: int
    timed_out: bool
    oom: bool
    truncated: bool = False
    """Whether the beginning of its output was forgotten, because more came than is kept."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a record is about, and who caused it. What does not apply is empty."""

    session: str = ""
    command: str = ""
    profile: str = ""
    policy: str = ""
    """The policy's digest."""
    who: str = ""
    """The peer: `uid:1000` on a unix socket, `token` on TCP, `daemon` for the daemon itself; empty if unknown."""
    tenant: str = DEFAULT_TENANT


def decision_fields(
    subject: Subject, request: CommandRequest, verdict: Verdict, redactor: Redactor | None = None
) -> tuple[str, str]:
    """The digest of `request`, and the fields of the record of what was decided about it."""
    size = len(request.text or "") + sum(map(len, request.argv or ()))
    if request.env or redactor or size > REPEATED_CHARACTERS:
        digest, what = _what(request, verdict, redactor)
    else:
        why = verdict.outcome, verdict.rule, verdict.reason
        digest, what = _what_again(request.argv, request.text, request.cwd, *why)
    return digest, f"{_about(subject)},{what}"


@lru_cache(maxsize=256)
def _what_again(
    argv: tuple[str, ...] | None,
    text: str | None,
    cwd: str,
    outcome: Literal["allow", "deny", "ask"],
    rule: str,
    reason: str,
) -> tuple[str, str]:
    """The same, kept: what an agent runs once it runs again."""
    from sessiond.policy.decide import CommandRequest, Verdict  # noqa: PLC0415 - readers of the log need no policy

    return _what(CommandRequest(argv, text, {}, cwd), Verdict(outcome, rule, reason, ()), None)


def _what(request: CommandRequest, verdict: Verdict, redactor: Redactor | None) -> tuple[str, str]:
    """The digest of `request`, and the fields of its record that say what was asked and decided."""
    argv = _quoted_all(request.argv) if request.argv is not None else None
    digest = _digest(request, argv)
    reason = verdict.reason
    if redactor:
        request, reason = _redacted(request, redactor), redactor(reason)
        argv = _quoted_all(request.argv) if request.argv is not None else None
    return digest, (
        f'"sha256":"{digest}",'
        f'"env":{_quoted_all(sorted(request.env)[:SHOWN_ARGUMENTS])},"cwd":{_quoted(request.cwd[:SHOWN_CHARACTERS])},'
        f'{_shown(request, argv)},"verdict":"{verdict.outcome}","rule":{_quoted(verdict.rule)},'
        f'"reason":{_quoted(reason[:REASON_CHARACTERS])}'
    )


def end_fields(subject: Subject, digest: str, ending: Ending) -> str:
    """The fields of the record of how a command ended; `digest` is its request's."""
    return (
        f'{_about(subject)},"sha256":"{digest}",'
        f'"exit_code":{_number(ending.exit_code)},"signal":{_number(ending.signal)},"cause":"{ending.cause}",'
        f'"seconds":{ending.seconds:.6f},"output_bytes":{ending.output_bytes},'
        f'"truncated":{_boolean(ending.truncated)},"timed_out":{_boolean(ending.timed_out)},"oom":{_boolean(ending.oom)}'
    )


def event_fields(
    subject: Subject, digest: str | None, details: Mapping[str, Detail], redactor: Redactor | None = None
) -> str:
    """The fields of the record of an event that is no command. `digest` is that of a request that it is about."""
    shown = {name: _detail(value, redactor) for name, value in details.items()}
    sha256 = f'"sha256":"{digest}",' if digest is not None else ""
    text = json.dumps(shown, separators=(",", ":"), allow_nan=False).replace("\x7f", "\\u007f")
    return f'{_about(subject)},{sha256}"details":{text}'


def request_digest(request: CommandRequest) -> str:
    """SHA-256 (hex) of the canonical JSON of exactly what was asked: argv or text, env and cwd."""
    return _digest(request, _quoted_all(request.argv) if request.argv is not None else None)


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(now: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, with microseconds."""
    seconds = int(now)
    return f"{_second(seconds)}.{int((now - seconds) * 1e6):06d}Z"


def _about(subject: Subject) -> str:
    before, after = _around(subject.who, subject.tenant, subject.session, subject.profile, subject.policy)
    return f'{before},"command":{_quoted(subject.command)},{after}'


@lru_cache(maxsize=256)
def _around(who: str, tenant: str, session: str, profile: str, policy: str) -> tuple[str, str]:
    """What all records of a session have, before and after the command's id."""
    return (
        f'"who":{_quoted(who)},"tenant":{_quoted(tenant)},"session":{_quoted(session)}',
        f'"profile":{_quoted(profile)},"policy":{_quoted(policy)}',
    )


def _digest(request: CommandRequest, argv: str | None) -> str:
    env = ",".join([f"{_quoted(name)}:{_quoted(value)}" for name, value in sorted(request.env.items())])
    text = "null" if request.text is None else _quoted(request.text)
    canonical = f'{{"argv":{argv or "null"},"cwd":{_quoted(request.cwd)},"env":{{{env}}},"text":{text}}}'
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _redacted(request: CommandRequest, redactor: Redactor) -> CommandRequest:
    """The request as it may be shown. Of the environment only names are."""
    return replace(
        request,
        argv=tuple(map(redactor, request.argv)) if request.argv is not None else None,
        text=redactor(request.text) if request.text is not None else None,
        env={redactor(name): "" for name in request.env},
        cwd=redactor(request.cwd),
    )


def _detail(value: Detail, redactor: Redactor | None) -> Detail:
    if not isinstance(value, str):
        return value
    return (redactor(value) if redactor else value)[:REASON_CHARACTERS]


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
